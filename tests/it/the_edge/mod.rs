//! The control plane as a Cloudflare Worker, in workerd: what `tcoder api` promises it promises too, and it
//! sees to the rest when an event or the clock calls it.

use crate::acceptance::{self, acceptance};
use crate::support::edge::shared;

acceptance!(shared().await);

#[tokio::test]
async fn a_video_becomes_renditions_and_its_end_is_told() {
    acceptance::a_video_becomes_renditions_and_its_end_is_told(shared().await).await;
}
