//! What connecting finds out about a Redis that may lose jobs.

use tcoder::queue::{Queue, QueueError};

use super::*;
use crate::support::redis::private_redis;

#[tokio::test]
async fn redis_that_evicts_is_refused_even_if_it_forbids_config() {
    let server = private_redis(&["--maxmemory-policy", "allkeys-lru", "--rename-command", "CONFIG", ""]);
    let error = Queue::connect(&server.config()).await.err().expect("it was taken");
    assert!(matches!(&error, QueueError::Evicts(policy) if policy == "allkeys-lru"), "{error:?}");
}

#[tokio::test]
async fn redis_that_tells_nothing_about_itself_is_taken() {
    let server = private_redis(&[]);
    server.tell(&[
        "ACL",
        "SETUSER",
        "tcoder",
        "on",
        ">hush-hush",
        "~*",
        "+@all",
        "-info",
        "-config",
        "-role",
    ]);
    let url = format!("redis+unix://{}?user=tcoder&pass=hush-hush", server.socket().display());
    let queue = Queue::connect_with(&RedisConfig::new(url, "films:"), LONG).await.unwrap();
    queue.check_primary().await.unwrap();
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, id);
}
