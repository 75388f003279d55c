//! What the tests share: servers, clips, and small helpers.

pub mod clips;
pub mod command_count;
pub mod edge;
pub mod fly;
pub mod kube;
pub mod objects;
pub mod page;
pub mod redis;
pub mod system;
pub mod upstash;

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use tcoder::config::RedisConfig;

/// Starts Upstash's interface in front of this Redis; answers its address, and what comes in. Ends with the
/// test's runtime.
pub async fn upstash_of(config: &RedisConfig) -> (String, Arc<upstash::Count>) {
    let (router, count) = upstash::router(config.url.expose_secret()).await.unwrap();
    (system::serve(router).await, count)
}
