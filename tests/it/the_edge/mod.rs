//! The control plane as a Cloudflare Worker, in workerd: what `tcoder api` promises it promises too, and it
//! sees to the rest when an event or the clock calls it.

mod beside;
mod clock;
mod events;
mod incomplete;

use serde_json::{Value, json};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::acceptance::{self, acceptance};
use crate::support::edge::{Edge, Setup, shared};
use crate::support::redis;

acceptance!(shared().await);

#[tokio::test]
async fn a_video_becomes_renditions_and_its_end_is_told() {
    acceptance::a_video_becomes_renditions_and_its_end_is_told(shared().await).await;
}

/// One whose machines somebody else looks after, so that nobody takes the jobs, and where nothing happens
/// by itself.
async fn quiet() -> &'static Edge {
    static EDGE: OnceCell<Edge> = OnceCell::const_new();
    EDGE.get_or_init(|| Setup::over(redis::shared()).set("FLEET", "elsewhere").start()).await
}

fn key(id: &str) -> String {
    format!("inputs/{id}/film.mp4")
}

/// A job that waits for its upload; answers its id.
async fn awaited(edge: &Edge) -> String {
    let id = Uuid::now_v7().to_string();
    let ticket = edge.post("/api/upload", &json!({"jobId": id, "fileName": "film.mp4"})).await;
    assert_eq!((ticket.status, &ticket.body["inputKey"]), (201, &json!(key(&id))), "{ticket:?}");
    id
}

/// The job waits for its upload, and the upload is there; answers its id and its event.
async fn arrived(edge: &Edge) -> (String, Value) {
    let id = awaited(edge).await;
    let event = edge.put(&key(&id), "film").await;
    (id, event)
}

async fn status(edge: &Edge, id: &str) -> String {
    edge.job(id).await["status"].as_str().unwrap().to_owned()
}
