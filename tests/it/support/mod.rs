//! Shared parts of the tests: servers, clips, and small helpers.

pub mod certificates;
pub mod clips;
pub mod command_count;
pub mod edge;
pub mod fly;
pub mod installation;
pub mod kube;
pub mod objects;
pub mod page;
pub mod paused;
pub mod process;
pub mod redis;
pub mod redis_cluster;
pub mod redis_loading;
pub mod redis_tls;
pub mod small_disk;
pub mod system;
pub mod tcp_proxy;
pub mod upstash;

use std::sync::Arc;

use self::redis::{PrivateRedis, private_redis};
use secrecy::ExposeSecret as _;
use tcoder::config::RedisConfig;

/// Starts Upstash's interface in front of this Redis; returns its URL and its counter. It ends with the
/// test's runtime.
pub async fn upstash_of(config: &RedisConfig) -> (String, Arc<upstash::Count>) {
    let (router, count) = upstash::router(config.url.expose_secret()).await.unwrap();
    (system::serve(router).await, count)
}

/// Like [`upstash_of`], with a replica that answers reads and lags behind: it does not have later writes
/// unless a request's sync token requires them. The replica ends when dropped.
pub async fn upstash_with_lagging_reads(
    primary: &PrivateRedis,
) -> (String, Arc<upstash::Count>, PrivateRedis) {
    let stream = upstash::stream(primary.socket()).await;
    // There are no other replicas to wait for before the initial copy.
    let setting = ["CONFIG", "SET", "repl-diskless-sync-delay", "0"];
    ::redis::cmd(setting[0]).arg(&setting[1..]).exec(&mut primary.raw()).unwrap();
    let replica = private_redis(&["--replicaof", "127.0.0.1", &stream.port.to_string()]);
    let url = replica.config().url;
    let behind = upstash::Replica::new(url.expose_secret(), stream).await.unwrap();
    let at = primary.config().url;
    let (router, count) = upstash::router_with(at.expose_secret(), Some(behind)).await.unwrap();
    (system::serve(router).await, count, replica)
}
