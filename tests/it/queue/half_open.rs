//! Connections whose other side is silent without being closed: every use finds out within the limits, and heals.

use std::time::{Duration, Instant};

use tcoder::queue::{EventFeed, Queue, QueueError};
use tokio::time::timeout;

use super::*;
use crate::support::kube::free_port;
use crate::support::redis::private_redis;
use crate::support::tcp_proxy::TcpProxy;

/// How long a call waits for its answer (`ANSWER_TIMEOUT` of the transport), and for a new connection then.
const LIMIT: Duration = Duration::from_secs(10 + 5);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(15);
/// How long the blocking commands here block.
const BLOCK: Duration = Duration::from_secs(2);

/// Runs a call over a connection that has gone silent: it fails in time, and works when it is made again.
async fn fails_once<T>(
    what: &str,
    limit: Duration,
    mut call: impl AsyncFnMut() -> Result<T, QueueError>,
) -> T {
    let begin = Instant::now();
    let outcome = timeout(limit + SLACK, call()).await.unwrap_or_else(|_| panic!("{what} hangs"));
    let error = outcome.err().unwrap_or_else(|| panic!("{what} was answered"));
    assert!(matches!(error, QueueError::TimedOut) && error.is_transient(), "{what}: {error:?}");
    assert!(begin.elapsed() >= Duration::from_secs(10), "{what} gave up before its limit");
    let again = timeout(SLACK, call()).await.unwrap_or_else(|_| panic!("{what} hangs again"));
    again.unwrap_or_else(|error| panic!("{what} does not heal: {error:?}"))
}

#[tokio::test]
async fn every_use_of_a_half_open_connection_fails_in_time_and_heals() {
    let port = free_port();
    let _server = private_redis(&["--port", &port.to_string()]);
    let proxy = TcpProxy::to(port).await;
    let config = RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port), "{half-open}:");
    let command = Queue::connect_with(&config, LONG).await.unwrap();
    let pipeline = command.reconnect().await.unwrap();
    let heartbeat = command.reconnect().await.unwrap();
    let idle = command.reconnect().await.unwrap();
    let mut feed = EventFeed::open(&command).await.unwrap();
    let w = worker(&command, "w").await;
    let id = submit(&command, &spec()).await;
    let job = claim(&command, &w).await.unwrap();
    let clock = command.clock().await.unwrap();
    // What was heard before is out of the way, so that the next read blocks.
    idle.wait_for_wakeup(BLOCK).await.unwrap();
    assert!(!feed.next(BLOCK).await.unwrap().is_empty());

    proxy.silence();
    let (found, stats, kept, (), events) = tokio::join!(
        fails_once("a command", LIMIT, async || command.get(id).await),
        fails_once("a pipeline", LIMIT, async || pipeline.stats().await),
        fails_once("a heartbeat", LIMIT, async || heartbeat.keep(job.attempt, &clock).await),
        fails_once("an idle worker", LIMIT + BLOCK, async || idle.wait_for_wakeup(BLOCK).await),
        fails_once("the event feed", LIMIT + BLOCK, async || feed.next(BLOCK).await),
    );
    assert_eq!(found.unwrap().job_id, id);
    assert_eq!(stats.running, 1);
    assert!(kept);
    assert_eq!(events, []);
    // The feed has missed nothing.
    let late = submit(&command, &spec()).await;
    let events = timeout(SLACK, feed.next(LIMIT)).await.unwrap().unwrap();
    assert_eq!(events.iter().map(|event| event.job_id).collect::<Vec<_>>(), [late]);
}
