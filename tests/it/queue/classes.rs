//! Jobs that only workers of a class may run: each class is a lane of the queue.

use std::collections::BTreeSet;

use tcoder::job::{FailureCode, State, WorkerClasses};
use tcoder::queue::{FailOutcome, LockOutcome, RedriveOutcome, RetireOutcome, SubmitMode};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wake::{NEVER, all_woken, blocked, waiters};
use super::*;
use crate::support::command_count::CommandCount;
use crate::support::redis::{private_redis, raw};

const HANG: Duration = Duration::from_secs(120);

pub(super) fn of_class(class: &str) -> JobSpec {
    JobSpec { worker_class: class.parse().unwrap(), ..hooked() }
}

/// The queue as a worker of these classes uses it.
pub(super) fn taking(queue: &Queue, classes: &str) -> Queue {
    queue.clone().for_classes(classes.parse().unwrap())
}

/// Registers a worker with its classes.
async fn registered(queue: &Queue, name: &str, machine: &str, classes: &str) -> WorkerId {
    let now = now(queue).await;
    let record = WorkerRecord {
        worker_id: WorkerId(name.into()),
        machine_id: machine.into(),
        version: "0".into(),
        pid: 1,
        started_at: now,
        worker_classes: classes.parse().unwrap(),
        sandbox: None,
    };
    assert!(queue.register(&record, now).await.unwrap());
    record.worker_id
}

/// The tasks that stand in a lane.
pub(super) fn lane(config: &RedisConfig, class: &str) -> Vec<String> {
    let name = if class == "default" { "jobs:pending".to_owned() } else { format!("jobs:pending:{class}") };
    zset(&mut raw(config), config, &name).into_iter().map(|(task, _)| task).collect()
}

/// Does what a version that knows no classes does with a job: puts it into the queue of the default class.
pub(super) fn misplace(config: &RedisConfig, task: &str, place: i64) {
    let key = |name: &str| format!("{}{name}", config.prefix);
    redis::pipe()
        .zrem(key("jobs:pending:large"), task)
        .zadd(key("jobs:pending"), task, place)
        .del(key("jobs:bell:class:large"))
        .exec(&mut raw(config))
        .unwrap();
}

async fn claimed_by(queue: &Queue, w: &WorkerId) -> Option<JobId> {
    claim(queue, w).await.map(|job| job.attempt.job)
}

#[tokio::test]
async fn worker_claims_only_jobs_of_its_classes() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let large = submit(&queue, &of_class("large")).await;
    let (default, small) = (taking(&queue, "default"), taking(&queue, "small,tiny"));
    assert_eq!((claimed_by(&default, &w).await, claimed_by(&small, &w).await), (None, None));
    let other = submit(&queue, &spec()).await;
    assert_eq!(claimed_by(&small, &w).await, None);
    assert_eq!(claimed_by(&taking(&queue, "large"), &w).await, Some(large));
    assert_eq!(claimed_by(&taking(&queue, "large"), &w).await, None);
    assert_eq!(claimed_by(&default, &w).await, Some(other));
}

#[tokio::test]
async fn priority_and_age_hold_across_the_classes_of_a_worker() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let all = taking(&queue, "default,large,small");
    let with = |class: &str, priority: i64| JobSpec {
        priority: Priority::try_from(priority).unwrap(),
        ..of_class(class)
    };
    let mut by_place = Vec::new();
    for (class, priority) in
        [("large", 0), ("default", 0), ("small", 0), ("large", 0), ("default", 7), ("small", 8), ("large", 9)]
    {
        by_place.push((-priority, submit(&queue, &with(class, priority)).await));
        // Each is a little younger than the one before.
        let at = now(&queue).await;
        while now(&queue).await <= at {}
    }
    // It is stable: of the same priority, the oldest comes first.
    by_place.sort_by_key(|(place, _)| *place);
    for (_, id) in by_place {
        assert_eq!(claimed_by(&all, &w).await, Some(id));
    }
    assert_eq!(claimed_by(&all, &w).await, None);
}

#[tokio::test]
async fn job_of_a_class_wakes_a_worker_of_that_class_though_others_sleep() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let others = waiters(&queue, 10).await;
    blocked(&server, 10).await;
    let both = waiters(&taking(&queue, "default,large"), 1).await;
    blocked(&server, 11).await;
    submit(&queue, &of_class("large")).await;
    all_woken(both).await;
    let only = waiters(&taking(&queue, "large"), 1).await;
    blocked(&server, 11).await;
    submit(&queue, &of_class("large")).await;
    all_woken(only).await;
    // The others were not woken in vain.
    blocked(&server, 10).await;
    for _ in 0..10 {
        submit(&queue, &spec()).await;
    }
    all_woken(others).await;
}

/// A worker of two classes that was woken for a job of one may claim a job of the other. A worker that sleeps and takes only
/// the first class is woken then.
#[tokio::test]
async fn wake_up_for_a_job_that_the_woken_worker_does_not_claim_is_passed_on() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let (both, large) = (taking(&queue, "default,large"), taking(&queue, "large"));
    let (a, b) = (worker(&queue, "a").await, worker(&queue, "b").await);
    let first = waiters(&both, 1).await;
    blocked(&server, 1).await;
    let waiting = submit(&queue, &of_class("large")).await;
    all_woken(first).await;
    let second = waiters(&large, 1).await;
    blocked(&server, 1).await;
    let urgent = submit(&queue, &with_priority(9)).await;
    assert_eq!(claimed_by(&both, &a).await, Some(urgent));
    all_woken(second).await;
    assert_eq!(claimed_by(&large, &b).await, Some(waiting));
}

/// No worker polls here: a wake-up that is lost leaves a job that nobody claims.
#[tokio::test]
async fn workers_of_several_classes_do_all_jobs_without_polling() {
    const JOBS: usize = 300;
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let mut workers = JoinSet::new();
    for (n, classes) in ["default", "large", "small", "default,large", "large,small"].into_iter().enumerate()
    {
        let (own, bell) = (taking(&queue, classes), taking(&queue.reconnect().await.unwrap(), classes));
        let w = worker(&queue, &format!("w{n}")).await;
        workers.spawn(async move {
            let classes: WorkerClasses = classes.parse().unwrap();
            loop {
                while let Some(job) = claim(&own, &w).await {
                    assert!(classes.contains(&job.spec.worker_class), "{classes}: {job:?}");
                    own.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
                }
                bell.wait_for_wakeup(NEVER).await.unwrap();
            }
        });
    }
    let mut submitting = JoinSet::new();
    for n in 0..3 {
        let own = queue.reconnect().await.unwrap();
        submitting.spawn(async move {
            for round in 0..JOBS / 3 {
                let class = ["default", "large", "small"][(round + n) % 3];
                let priority = Priority::try_from(i64::try_from(round * 7 % 5).unwrap()).unwrap();
                submit(&own, &JobSpec { priority, ..of_class(class) }).await;
                // Sometimes the workers fall asleep.
                if round % 10 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    submitting.join_all().await;
    let done = async {
        while queue.stats().await.unwrap().completed < JOBS as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANG, done).await.expect("a job waits, and no worker was woken");
    workers.abort_all();
}

#[tokio::test]
async fn job_stays_in_its_lane_until_it_ends_and_when_it_is_retried() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let large = taking(&queue, "large");
    let w = worker(&queue, "w").await;
    let in_lane = |id: JobId| {
        assert_eq!((lane(&config, "large"), lane(&config, "default")), (vec![id.to_string()], vec![]));
    };
    let uploaded = JobId::new();
    queue.submit(uploaded, &of_class("large"), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    queue.uploaded(&arrived(uploaded)).await.unwrap();
    in_lane(uploaded);
    queue.cancel(uploaded).await.unwrap();
    assert_eq!(lane(&config, "large"), [""; 0]);
    assert_eq!(queue.redrive(uploaded).await.unwrap(), RedriveOutcome::Queued);
    in_lane(uploaded);
    queue.cancel(uploaded).await.unwrap();
    // One whose upload came too late for its window.
    let late = JobId::new();
    queue.submit(late, &of_class("large"), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    queue.expire_upload(late, &Failure::new(FailureCode::UploadExpired, "it never came")).await.unwrap();
    queue.uploaded(&arrived(late)).await.unwrap();
    in_lane(late);
    queue.cancel(late).await.unwrap();

    let id = JobId::new();
    queue.submit(id, &of_class("large"), SubmitMode::After(Duration::from_secs(60))).await.unwrap();
    assert_eq!(lane(&config, "large"), [""; 0]);
    all_due(&mut redis, &config);
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    in_lane(id);
    let job = claim(&large, &w).await.unwrap();
    assert!(queue.release(job.attempt).await.unwrap());
    in_lane(id);
    let job = claim(&large, &w).await.unwrap();
    assert!(matches!(queue.fail(&job, &retryable()).await.unwrap(), FailOutcome::Retry(_)));
    all_due(&mut redis, &config);
    // The claim of a worker of another class finds what is due.
    let other = queue.claim(&w, now(&queue).await, true).await.unwrap();
    assert!(matches!(other, Claim::Empty { .. }), "{other:?}");
    in_lane(id);
    let lost = claim(&large, &w).await.unwrap();
    all_due(&mut redis, &config);
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    in_lane(id);
    let job = claim(&large, &w).await.unwrap();
    assert_eq!((job.number, job.attempt.epoch > lost.attempt.epoch), (3, true));
    assert_eq!(queue.fail(&job, &hopeless()).await.unwrap(), FailOutcome::Failed);
    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    in_lane(id);
    let job = claim(&large, &w).await.unwrap();
    queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    let ended = queue.get(id).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.spec), (State::Completed, of_class("large")));
}

#[tokio::test]
async fn task_in_the_wrong_lane_is_moved_to_a_worker_of_its_class() {
    let server = private_redis(&[]);
    let (queue, config) = (Queue::connect_with(&server.config(), LONG).await.unwrap(), server.config());
    let large = taking(&queue, "large");
    let (w, l) = (worker(&queue, "w").await, worker(&queue, "l").await);
    // More than one claim moves, in front of a job for the worker that comes across them.
    let mut misplaced = BTreeSet::new();
    for n in 0..40 {
        let id = submit(&queue, &of_class("large")).await;
        misplace(&config, &id.to_string(), n);
        misplaced.insert(id);
    }
    let own = submit(&queue, &spec()).await;
    let waiting = waiters(&large, 1).await;
    blocked(&server, 1).await;
    assert_eq!(claimed_by(&queue, &w).await, Some(own));
    all_woken(waiting).await;
    assert_eq!(lane(&config, "default"), [""; 0]);
    let mut claimed = BTreeSet::new();
    while let Some(id) = claimed_by(&large, &l).await {
        claimed.insert(id);
    }
    assert_eq!(claimed, misplaced);

    // A worker of both classes claims it itself.
    let id = submit(&queue, &of_class("large")).await;
    misplace(&config, &id.to_string(), 1);
    assert_eq!(claimed_by(&taking(&queue, "default,large"), &w).await, Some(id));

    // Where no worker takes jobs of the default class, the janitor finds it.
    let id = submit(&queue, &of_class("large")).await;
    misplace(&config, &id.to_string(), 1);
    let waiting = waiters(&large, 1).await;
    blocked(&server, 1).await;
    queue.sweep(10, 0).await.unwrap();
    all_woken(waiting).await;
    assert_eq!((claimed_by(&large, &l).await, lane(&config, "default")), (Some(id), vec![]));

    // One that stands in both lanes is claimed once.
    let id = submit(&queue, &of_class("large")).await;
    let key = format!("{}jobs:pending", config.prefix);
    redis::cmd("ZADD").arg(key).arg(1).arg(id.to_string()).exec(&mut raw(&config)).unwrap();
    assert_eq!(claimed_by(&large, &l).await, Some(id));
    assert_eq!((claimed_by(&queue, &w).await, claimed_by(&large, &l).await), (None, None));
    assert_eq!((lane(&config, "default"), lane(&config, "large")), (vec![], vec![]));
}

#[tokio::test]
async fn counts_are_those_of_all_classes_and_unused_ones_are_forgotten() {
    let (queue, config) = queue().await;
    let large = taking(&queue, "large");
    let w = worker(&queue, "w").await;
    let oldest = submit(&queue, &of_class("large")).await;
    submit(&queue, &with_priority(50)).await;
    submit(&queue, &of_class("small")).await;
    let key = format!("{}jobs:status:{oldest}", config.prefix);
    let long_ago = now(&queue).await.plus(-3_600_000).0;
    redis::cmd("HSET").arg(key).arg("queued").arg(long_ago).exec(&mut raw(&config)).unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.pending, stats.completed, stats.running), (3, 0, 0));
    assert!((3_590_000..3_660_000).contains(&stats.oldest_pending_ms.unwrap()), "{stats:?}");

    let classes = || -> BTreeSet<String> {
        redis::cmd("SMEMBERS").arg(format!("{}jobs:classes", config.prefix)).query(&mut raw(&config)).unwrap()
    };
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(classes(), named(&["large", "small"]));
    let job = claim(&large, &w).await.unwrap();
    queue.sweep(10, 0).await.unwrap();
    assert_eq!(classes(), named(&["small"]));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.pending, stats.running, stats.completed), (2, 1, 0));
    queue.release(job.attempt).await.unwrap();
    assert_eq!(classes(), named(&["large", "small"]));
    let bell = format!("{}jobs:bell:class:large", config.prefix);
    let ttl: i64 = redis::cmd("PTTL").arg(bell).query(&mut raw(&config)).unwrap();
    assert!((1..=600_000).contains(&ttl), "the wake-ups of a class that nobody takes do not expire: {ttl}");
}

#[tokio::test]
async fn sweep_looks_for_classes_only_where_a_job_had_one() {
    let server = private_redis(&[]);
    let (queue, config) = (Queue::connect_with(&server.config(), LONG).await.unwrap(), server.config());
    let mut redis = raw(&config);
    // Nothing in the field is the default class.
    let id = submit(&queue, &spec()).await;
    let key = format!("{}jobs:status:{id}", config.prefix);
    redis::cmd("HSET").arg(key).arg("class").arg("").exec(&mut redis).unwrap();
    let mut looks = async || {
        CommandCount::reset(&mut redis);
        queue.sweep(10, 0).await.unwrap();
        CommandCount::read(&mut redis).0.contains_key("srandmember")
    };
    assert!(!looks().await);
    submit(&queue, &of_class("large")).await;
    assert!(looks().await);
    assert_eq!(lane(&config, "default"), [id.to_string()]);
}

#[tokio::test]
async fn fleet_sees_what_waits_for_its_classes() {
    let (queue, config) = queue().await;
    let w = registered(&queue, "w", "m1", "large,default").await;
    let all = taking(&queue, "default,large");
    submit(&queue, &of_class("large")).await;
    submit(&queue, &of_class("large")).await;
    submit(&queue, &of_class("small")).await;
    submit(&queue, &spec()).await;
    let held = claim(&all, &w).await.unwrap();
    assert_eq!(held.spec.worker_class.as_str(), "large");
    let see = async |classes: &str| {
        let classes: WorkerClasses = classes.parse().unwrap();
        let view = queue.fleet_view(&classes).await.unwrap();
        let waiting =
            view.waiting.iter().map(|(class, of)| (class.to_string(), of.pending, of.parts, of.due));
        (waiting.collect::<Vec<_>>(), view)
    };
    let of = |class: &str, pending, due| (class.to_owned(), pending, 0_u64, due);
    assert_eq!(see("default").await.0, [of("default", 1, 0)]);
    assert_eq!(see("tiny").await.0, []);
    let (waiting, view) = see("default,large,tiny").await;
    assert_eq!(waiting, [of("default", 1, 0), of("large", 1, 0)]);
    assert_eq!(view.workers[0].classes.to_string(), "default,large");
    all_due(&mut raw(&config), &config);
    assert_eq!(see("large,small").await.0, [of("large", 1, 1), of("small", 1, 0)]);
    assert_eq!(see("default").await.0, [of("default", 1, 0)]);
}

#[tokio::test]
async fn idle_worker_of_a_class_is_woken_when_its_machine_is_retired() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    registered(&queue, "w", "m1", "large,small").await;
    let others = waiters(&queue, 1).await;
    blocked(&server, 1).await;
    let waiting = waiters(&taking(&queue, "large,small"), 1).await;
    blocked(&server, 2).await;
    let hold = Duration::from_secs(60);
    let LockOutcome::Mine(fence) = queue.acquire_fleet_lock("a", hold, true, false).await.unwrap() else {
        panic!("nobody else holds the lock")
    };
    assert_eq!(queue.retire(&fence, "m1", &[], hold).await.unwrap(), RetireOutcome::Retired);
    all_woken(waiting).await;
    // It takes no jobs of the default class, so those who do sleep on.
    blocked(&server, 1).await;
    drop(others);
}
