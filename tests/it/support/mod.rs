//! What the tests share: servers, clips, and small helpers.

pub mod clips;
pub mod command_count;
pub mod edge;
pub mod fly;
pub mod kube;
pub mod objects;
pub mod page;
pub mod process;
pub mod redis;
pub mod small_disk;
pub mod system;
pub mod upstash;

use std::sync::Arc;

use self::redis::{PrivateRedis, private_redis};
use secrecy::ExposeSecret as _;
use tcoder::config::RedisConfig;

/// Starts Upstash's interface in front of this Redis; answers its address, and what comes in. Ends with the
/// test's runtime.
pub async fn upstash_of(config: &RedisConfig) -> (String, Arc<upstash::Count>) {
    let (router, count) = upstash::router(config.url.expose_secret()).await.unwrap();
    (system::serve(router).await, count)
}

/// The same in front of this server, with reads answered by a replica that lags behind it: that knows nothing of what
/// was written since, unless a request's sync token asks for it. The replica ends when dropped.
pub async fn upstash_with_lagging_reads(
    primary: &PrivateRedis,
) -> (String, Arc<upstash::Count>, PrivateRedis) {
    let stream = upstash::stream(primary.socket()).await;
    // A replica of a test waits for nobody else to join its first copy.
    let setting = ["CONFIG", "SET", "repl-diskless-sync-delay", "0"];
    ::redis::cmd(setting[0]).arg(&setting[1..]).exec(&mut primary.raw()).unwrap();
    let replica = private_redis(&["--replicaof", "127.0.0.1", &stream.port.to_string()]);
    let url = replica.config().url;
    let behind = upstash::Replica::new(url.expose_secret(), stream).await.unwrap();
    let at = primary.config().url;
    let (router, count) = upstash::router_with(at.expose_secret(), Some(behind)).await.unwrap();
    (system::serve(router).await, count, replica)
}
