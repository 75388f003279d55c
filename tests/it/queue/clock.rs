//! Redis's clock is set back by an hour: nothing waits for an hour. The clock is real Redis's own, which a preloaded
//! library shifts.

use std::time::Duration;

use tcoder::job::{JobId, State};
use tcoder::queue::{Outbox, Policy, Queue, SubmitMode};
use tokio::time::timeout;

use super::*;
use crate::support::redis::{PrivateRedis, private_redis_with_settable_clock};

const HOUR: i64 = 3600;
/// Far below an hour, far above what anything here takes.
const SOON: Duration = Duration::from_secs(120);
/// Short leases, which expire during a test.
const SHORT: Policy = Policy { lease: Duration::from_secs(2), ..LONG };

struct Stepping {
    server: PrivateRedis,
    queue: Queue,
}

impl Stepping {
    /// A server whose clock is an hour ahead.
    async fn new(policy: Policy) -> Self {
        let server = private_redis_with_settable_clock();
        server.set_clock(HOUR);
        let queue = Queue::connect_with(&server.config(), policy).await.unwrap();
        Self { server, queue }
    }

    async fn step_back(&self) {
        let before = now(&self.queue).await;
        self.server.set_clock(0);
        let after = now(&self.queue).await;
        assert!(before.0 - after.0 > 3_500_000, "the clock was not set back: {before} {after}");
    }

    /// Sweeps, as janitors do, until a job is ready.
    async fn until_ready(&self) {
        let ready = async { while self.queue.sweep(10, 0).await.unwrap().ready == 0 {} };
        timeout(SOON, ready).await.expect("the job waits for the former time");
    }
}

#[tokio::test]
async fn lease_of_a_dead_worker_expires_after_the_clock_was_set_back() {
    let redis = Stepping::new(SHORT).await;
    let w = worker(&redis.queue, "w").await;
    let id = submit(&redis.queue, &spec()).await;
    claim(&redis.queue, &w).await.unwrap();
    redis.step_back().await;
    redis.until_ready().await;
    assert_eq!(redis.queue.get(id).await.unwrap().unwrap().status, State::Queued);
    // The same again for a claim of the new time: the times of events stand still until the clock has caught up.
    claim(&redis.queue, &w).await.unwrap();
    redis.until_ready().await;
    assert_eq!(redis.queue.get(id).await.unwrap().unwrap().attempt, 2);
}

#[tokio::test]
async fn lease_of_a_living_worker_is_kept_while_the_clock_is_set_back() {
    let redis = Stepping::new(SHORT).await;
    let w = worker(&redis.queue, "w").await;
    submit(&redis.queue, &spec()).await;
    let job = claim(&redis.queue, &w).await.unwrap();
    // The worker's clock follows the one that Redis had.
    let clock = redis.queue.clock().await.unwrap();
    redis.step_back().await;
    for _ in 0..20 {
        assert_eq!(redis.queue.sweep(10, 0).await.unwrap().ready, 0);
        assert!(redis.queue.keep(job.attempt, &clock).await.unwrap(), "the lease was lost");
    }
    assert_eq!(
        redis.queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(),
        tcoder::queue::CompleteOutcome::Done
    );
}

#[tokio::test]
async fn retry_and_delayed_job_are_due_in_time_after_the_clock_was_set_back() {
    let redis = Stepping::new(LONG).await;
    let w = worker(&redis.queue, "w").await;
    let id = submit(&redis.queue, &spec()).await;
    let job = claim(&redis.queue, &w).await.unwrap();
    redis.queue.fail(&job, &retryable()).await.unwrap();
    redis.step_back().await;
    redis.until_ready().await;
    // What is scheduled afterwards is due by the new clock.
    let job = claim(&redis.queue, &w).await.unwrap();
    assert_eq!(job.attempt.job, id);
    redis.queue.fail(&job, &retryable()).await.unwrap();
    redis.until_ready().await;
    let delayed = JobId::new();
    redis.queue.submit(delayed, &spec(), SubmitMode::After(Duration::from_secs(1))).await.unwrap();
    redis.until_ready().await;
}

#[tokio::test]
async fn webhook_is_due_in_time_after_the_clock_was_set_back() {
    let redis = Stepping::new(LONG).await;
    let w = worker(&redis.queue, "w").await;
    submit(&redis.queue, &hooked()).await;
    submit(&redis.queue, &hooked()).await;
    let take = async |most| {
        let at = now(&redis.queue).await;
        let hold = Duration::from_secs(60);
        redis.queue.claim_deliveries(Outbox::Installation, at, most, hold).await.unwrap().0
    };
    let job = claim(&redis.queue, &w).await.unwrap();
    redis.queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    redis.step_back().await;
    // One from before, once a janitor has swept.
    assert_eq!(take(10).await, []);
    redis.queue.sweep(10, 0).await.unwrap();
    let first = take(10).await;
    assert_eq!(first.iter().map(|(due, _)| due.attempt.job).collect::<Vec<_>>(), [job.attempt.job]);
    // And one from afterwards.
    let job = claim(&redis.queue, &w).await.unwrap();
    redis.queue.complete(&job, &result_of(2), job.attempt.epoch).await.unwrap();
    let second = take(10).await;
    assert_eq!(second.iter().map(|(due, _)| due.attempt.job).collect::<Vec<_>>(), [job.attempt.job]);
}

#[tokio::test]
async fn times_ahead_are_moved_once_for_each_step_of_the_clock() {
    let redis = Stepping::new(LONG).await;
    let delayed = JobId::new();
    redis.queue.submit(delayed, &spec(), SubmitMode::After(Duration::from_secs(5000))).await.unwrap();
    redis.step_back().await;
    let mut raw = redis.server.raw();
    let config = redis.server.config();
    let due = |raw: &mut ::redis::Connection| zset(raw, &config, "jobs:scheduled")[0].1;
    redis.queue.sweep(10, 0).await.unwrap();
    let moved = due(&mut raw);
    let in_time = now(&redis.queue).await.0 as f64 + 5_000_000.0;
    assert!((moved - in_time).abs() < 60_000.0, "due at {moved}, not at {in_time}");
    redis.queue.sweep(10, 0).await.unwrap();
    assert!((due(&mut raw) - moved).abs() < 1.0, "it was moved a second time");
}
