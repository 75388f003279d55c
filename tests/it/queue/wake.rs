//! How workers and readers learn of changes: wake-ups and events.

use std::time::Duration;

use tcoder::job::{JobEvent, JobId, State};
use tcoder::queue::{Claim, EventFeed, FailOutcome, Queue, SubmitMode};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::support::command_count::CommandCount;
use crate::support::redis::{PrivateRedis, private_redis, raw};

/// Longer than anything here takes, and shorter than [`NEVER`]: a worker that waits this long was not woken.
const HANG: Duration = Duration::from_secs(120);
pub(super) const NEVER: Duration = Duration::from_secs(3600);

/// Waits until this many clients block at the server.
pub(super) async fn blocked(server: &PrivateRedis, count: usize) {
    let mut redis = server.raw();
    let wanted = format!("blocked_clients:{count}\r\n");
    let waits = async {
        while !redis::cmd("INFO").arg("clients").query::<String>(&mut redis).unwrap().contains(&wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(HANG, waits).await.expect("nobody blocks");
}

pub(super) async fn waiters(queue: &Queue, count: usize) -> JoinSet<()> {
    let mut waiters = JoinSet::new();
    for _ in 0..count {
        let own = queue.reconnect().await.unwrap();
        waiters.spawn(async move { own.wait_for_wakeup(NEVER).await.unwrap() });
    }
    waiters
}

pub(super) async fn all_woken(waiters: JoinSet<()>) {
    timeout(HANG, waiters.join_all()).await.expect("a worker was not woken");
}

#[tokio::test]
async fn submit_wakes_a_waiting_worker() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let waiter = waiters(&queue, 1).await;
    blocked(&server, 1).await;
    submit(&queue, &spec()).await;
    all_woken(waiter).await;
}

#[tokio::test]
async fn several_submits_wake_several_workers() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let waiting = waiters(&queue, 3).await;
    blocked(&server, 3).await;
    for _ in 0..3 {
        submit(&queue, &spec()).await;
    }
    all_woken(waiting).await;

    // The same if the jobs arrive between the workers' last claim and their wait.
    for tail in ["a1", "b2", "c3"] {
        let id: JobId = format!("01890a5d-ac96-774b-bcce-b302099a80{tail}").parse().unwrap();
        queue.submit(id, &spec(), SubmitMode::Now).await.unwrap();
    }
    all_woken(waiters(&queue, 3).await).await;
}

#[tokio::test]
async fn wakeups_are_sent_for_all_ready_jobs_and_stay_bounded() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let w = worker(&queue, "w").await;
    let mut rang = |what: &str| {
        let key = format!("{}jobs:bell", config.prefix);
        let bells: u32 = redis::cmd("ZCARD").arg(&key).query(&mut redis).unwrap();
        redis::cmd("DEL").arg(&key).exec(&mut redis).unwrap();
        assert!((1..=16).contains(&bells), "{what}: {bells}");
    };
    let id = submit(&queue, &spec()).await;
    rang("a submit");
    let job = claim(&queue, &w).await.unwrap();
    queue.release(job.attempt).await.unwrap();
    rang("a release");
    let job = claim(&queue, &w).await.unwrap();
    let FailOutcome::Retry(_) = queue.fail(&job, &retryable()).await.unwrap() else { panic!("no retry") };
    rang("a retry, so that somebody learns when it is due");
    all_due(&mut raw(&config), &config);
    let Claim::Job(job) = queue.claim(&w, job.at, true).await.unwrap() else { panic!("it is due") };
    rang("a promotion");
    queue.fail(&job, &hopeless()).await.unwrap();
    queue.redrive(id).await.unwrap();
    rang("a redrive");
    let upload = JobId::new();
    queue.submit(upload, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    queue.uploaded(&arrived(upload)).await.unwrap();
    rang("an upload");
    queue.submit(JobId::new(), &spec(), SubmitMode::After(Duration::from_secs(60))).await.unwrap();
    rang("a delayed job");
    for _ in 0..100 {
        submit(&queue, &spec()).await;
    }
    rang("a hundred jobs");
    // Many leases that expire at once wake many workers, but no more than sixteen.
    while let Some(job) = claim(&queue, &w).await {
        assert_eq!(job.number, 1);
    }
    all_due(&mut raw(&config), &config);
    queue.claim(&w, job.at, true).await.unwrap();
    rang("a reaped lease");
}

fn told(events: &[JobEvent], id: JobId) -> Vec<(State, Option<f64>)> {
    events.iter().filter(|e| e.job_id == id).map(|e| (e.status, e.progress)).collect()
}

/// Reads the feed until it has returned `count` events.
async fn read(feed: &mut EventFeed, count: usize) -> Vec<JobEvent> {
    let mut events = Vec::new();
    let reads = async {
        while events.len() < count {
            match feed.next(Duration::from_secs(1)).await {
                Ok(more) => events.extend(more),
                Err(error) => assert!(error.is_connection(), "{error}"),
            }
        }
    };
    timeout(HANG, reads).await.expect("the events do not come");
    events
}

#[tokio::test]
async fn event_feed_returns_every_change_in_order() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &with_priority(-100)).await;
    let mut feed = EventFeed::open(&queue).await.unwrap();
    let id = JobId::new();
    queue.submit(id, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    queue.uploaded(&arrived(id)).await.unwrap();
    let job = claim(&queue, &w).await.unwrap();
    queue.release(job.attempt).await.unwrap();
    let job = claim(&queue, &w).await.unwrap();
    queue.progress(&job, 12.5).await.unwrap();
    queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    let events = read(&mut feed, 7).await;
    let expected = [
        (State::Uploading, None),
        (State::Queued, None),
        (State::Running, None),
        (State::Queued, None),
        (State::Running, None),
        (State::Running, Some(12.5)),
        (State::Completed, None),
    ];
    assert_eq!(told(&events, id), expected);
    assert_eq!(events.len(), 7, "and nothing of before it was opened");
    assert_eq!(feed.next(Duration::from_millis(1)).await.unwrap(), []);
}

#[tokio::test]
async fn announced_progress_is_one_command_and_changes_no_record() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let before = queue.get(id).await.unwrap();
    let mut feed = EventFeed::open(&queue).await.unwrap();
    let mut redis = server.raw();
    CommandCount::reset(&mut redis);
    queue.announce_progress(job.attempt, 12.5).await.unwrap();
    let count = CommandCount::read(&mut redis);
    assert_eq!(count.total(), 1, "{count:?}");
    assert_eq!(queue.get(id).await.unwrap(), before);

    // Both ways of telling look the same to a reader, who learns which attempt it is.
    assert!(queue.progress(&job, 20.0).await.unwrap());
    for (event, percent) in read(&mut feed, 2).await.iter().zip([12.5, 20.0]) {
        assert_eq!((event.job_id, event.status), (id, State::Running));
        assert_eq!((event.progress, event.epoch), (Some(percent), Some(job.attempt.epoch)));
    }
}

#[tokio::test]
async fn event_feed_resumes_after_redis_restarts() {
    let mut server = private_redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let mut feed = EventFeed::open(&queue).await.unwrap();
    let first = submit(&queue, &spec()).await;
    assert_eq!(told(&read(&mut feed, 1).await, first).len(), 1);
    // Not read yet when Redis stops.
    let second = submit(&queue, &spec()).await;
    server.kill().await;
    assert!(feed.next(Duration::from_secs(1)).await.unwrap_err().is_connection());
    server.start();
    let third = timeout(HANG, async {
        loop {
            let id = JobId::new();
            if queue.submit(id, &spec(), SubmitMode::Now).await.is_ok() {
                return id;
            }
        }
    });
    let third = third.await.expect("Redis does not come back");
    let events = read(&mut feed, 2).await;
    assert_eq!(events.iter().map(|e| e.job_id).collect::<Vec<_>>(), [second, third]);
}

/// Hosted Redis is billed by commands, so their number is a promise. The documentation contains the numbers.
#[tokio::test]
async fn job_and_idle_worker_use_few_commands() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let own = queue.reconnect().await.unwrap();
    let mut redis = server.raw();
    let w = worker(&queue, "w").await;
    let at = now(&queue).await;

    // One unmeasured run, so that the scripts are cached and every key exists.
    let mut costs = Vec::new();
    for round in 0..2 {
        for by_upload in [false, true] {
            let id = JobId::new();
            CommandCount::reset(&mut redis);
            if by_upload {
                queue.submit(id, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
                queue.uploaded(&arrived(id)).await.unwrap();
            } else {
                queue.submit(id, &spec(), SubmitMode::Now).await.unwrap();
            }
            // A worker's estimate of Redis's time advances with each claim.
            let later = at.plus(1 + 2 * round + i64::from(by_upload));
            let Claim::Job(job) = queue.claim(&w, later, false).await.unwrap() else { panic!("no job") };
            assert!(queue.renew(job.attempt, job.at.plus(7_200_000)).await.unwrap());
            queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
            costs.push(CommandCount::read(&mut redis));
        }
    }
    let [_, _, direct, by_upload] = costs.as_slice() else { panic!("{costs:?}") };
    assert!(direct.total() <= 21, "{direct:?}");
    assert!(by_upload.total() <= 28, "{by_upload:?}");

    own.wait_for_wakeup(Duration::ZERO).await.unwrap();
    own.wait_for_wakeup(Duration::ZERO).await.unwrap();
    // Redis's clock has advanced since the last claim, as in an idle worker.
    while now(&queue).await <= at.plus(4) {}
    CommandCount::reset(&mut redis);
    own.wait_for_wakeup(Duration::ZERO).await.unwrap();
    let claim = queue.claim(&w, at, true).await.unwrap();
    assert!(matches!(claim, Claim::Empty { next_due: None, now: Some(_) }), "{claim:?}");
    let idle = CommandCount::read(&mut redis);
    assert!(idle.total() * 60 <= 6 * LONG.bell_wait.as_secs(), "{idle:?}");
    println!(
        "commands: {} a job, {} a job by upload, {} each {} s of an idle worker",
        direct.total(),
        by_upload.total(),
        idle.total(),
        LONG.bell_wait.as_secs()
    );
}
