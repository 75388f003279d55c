//! A Redis that is there but cannot serve yet: it loads its data, or is a replica without its primary.

use std::time::Duration;

use tcoder::queue::{Queue, QueueError};
use tokio::time::{sleep, timeout};

use super::*;
use crate::support::kube::free_port;
use crate::support::redis::private_redis;
use crate::support::redis_loading::{SlowToLoad, is_loading};

/// Longer than anything here takes, so that a hang ends as a failure.
const HANG: Duration = Duration::from_secs(120);

/// Waits until a handle serves again.
async fn serves(queue: &Queue) {
    let waits = async {
        while let Err(error) = queue.check_primary().await {
            assert!(error.is_transient(), "{error:?}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, waits).await.expect("the handle does not heal");
}

#[tokio::test]
async fn redis_that_loads_its_data_is_not_ready_and_then_serves() {
    let mut server = SlowToLoad::new(&[]);
    let queue = Queue::connect_with(&server.redis.config(), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    server.restart().await;
    // The connection that was open is lost first.
    let mut error = queue.check_primary().await.unwrap_err();
    while matches!(error, QueueError::Connection(_)) {
        error = queue.check_primary().await.unwrap_err();
    }
    assert!(matches!(&error, QueueError::Unavailable(why) if why.starts_with("LOADING")), "{error:?}");
    assert!(error.is_transient() && error.is_not_ready(), "{error:?}");
    let error = Queue::connect(&server.redis.config()).await.err().expect("it was taken");
    assert!(error.is_not_ready(), "{error:?}");
    let completes = async {
        loop {
            match queue.complete(&job, &result_of(1), job.attempt.epoch).await {
                Err(error) => assert!(error.is_transient(), "{error:?}"),
                Ok(outcome) => return outcome,
            }
        }
    };
    let early = queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap_err();
    assert!(early.is_transient(), "{early:?}");
    assert!(is_loading(&server.redis), "it has loaded its data before the test could look");
    server.load();
    let outcome = timeout(HANG, completes).await.expect("the handle does not heal");
    assert_eq!(outcome, tcoder::queue::CompleteOutcome::Done);
    serves(&queue).await;
    assert_eq!(queue.get(id).await.unwrap().unwrap().status, tcoder::job::State::Completed);
}

#[tokio::test]
async fn replica_without_its_primary_is_not_ready_until_it_is_promoted() {
    let server = private_redis(&["--replica-serve-stale-data", "no"]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let id = submit(&queue, &spec()).await;
    server.tell(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    for error in [
        queue.get(id).await.err(),
        queue.check_primary().await.err(),
        Queue::connect(&server.config()).await.err(),
    ] {
        let error = error.expect("it was answered");
        assert!(matches!(&error, QueueError::NotPrimary(why) if why.contains("MASTERDOWN")), "{error:?}");
        assert!(error.is_not_ready() && error.is_transient(), "{error:?}");
    }
    server.tell(&["REPLICAOF", "NO", "ONE"]);
    serves(&queue).await;
    assert!(queue.get(id).await.unwrap().is_some());
}
