//! The parts of a job that only workers of a class may run.

use tcoder::job::{CLASS_VERSION, StreamSegment};
use tcoder::queue::{RedriveOutcome, SegmentState};
use tokio::time::timeout;

use super::costs::HANG;
use super::upgrade::WholeJobs;
use super::*;
use crate::queue::classes::{lane, of_class, taking};
use crate::queue::wake::{NEVER, all_woken, blocked, waiters};
use crate::support::redis::private_redis;

/// The parts of a job, as they stand in a lane.
fn parts_in(config: &RedisConfig, class: &str) -> BTreeSet<String> {
    lane(config, class).into_iter().filter_map(|task| Some(task.split_once('/')?.1.to_owned())).collect()
}

fn names(parts: &[&str]) -> BTreeSet<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

#[tokio::test]
async fn split_job_and_its_parts_stay_in_their_lane() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let large = taking(&queue, "large");
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &of_class("large")).await;
    let job = claim(&large, &w).await.unwrap();
    queue.split(job.attempt, PLAN, &limited_parts(4, 1)).await.unwrap();
    let by = job.attempt;
    assert_eq!(parts_in(&config, "large"), names(&["audio", "chunk-0"]));
    for task in [id.to_string(), format!("{id}/audio")] {
        let key = format!("{}jobs:status:{task}", config.prefix);
        let fields: (String, u32) =
            redis::cmd("HMGET").arg(key).arg(&["class", "v"]).query(&mut redis).unwrap();
        assert_eq!(fields, ("large".to_owned(), CLASS_VERSION), "{task}");
    }
    let view = queue.fleet_view(&"default,large".parse::<WorkerClasses>().unwrap()).await.unwrap();
    let counts: Vec<_> =
        view.waiting.iter().map(|(class, of)| (class.as_str(), of.pending, of.parts)).collect();
    assert_eq!(counts, [("large", 2, 2)]);
    // A viewer waits for a part that was held back.
    assert_eq!(queue.await_segment(by, StreamSegment::Video(6)).await.unwrap(), SegmentState::Waiting);
    assert_eq!(parts_in(&config, "large"), names(&["audio", "chunk-0", "chunk-3"]));
    let awaited = large.claim_only(&w, now(&queue).await, Claimable::AwaitedPart).await.unwrap();
    let Claim::Job(awaited) = awaited else { panic!("{awaited:?}") };
    assert_eq!((awaited.part, awaited.is_awaited), (Some(Part::Chunk(3)), true));
    // The first chunk lets the next one in, after it was released, failed and lost.
    let held = claim_parts(&large, 2).await;
    assert!(queue.release(held[1].lease()).await.unwrap());
    assert_eq!(parts_in(&config, "large"), names(&["chunk-0"]));
    let chunk = claim(&large, &w).await.unwrap();
    assert!(matches!(queue.fail(&chunk, &retryable()).await.unwrap(), FailOutcome::Retry(_)));
    all_due(&mut redis, &config);
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 3);
    assert_eq!(parts_in(&config, "large"), names(&["audio", "chunk-0", "chunk-3"]));
    let held = claim_parts(&large, 3).await;
    let first = held.iter().find(|job| job.part == Some(Part::Chunk(0))).unwrap();
    assert_eq!(complete_part(&queue, first, 5).await, PartOutcome::Done);
    assert_eq!(parts_in(&config, "large"), names(&["chunk-1"]));
    for job in held.iter().filter(|job| job.part != first.part) {
        assert_eq!(complete_part(&queue, job, 5).await, PartOutcome::Done);
    }
    for _ in 0..2 {
        assert_eq!(claim(&queue, &w).await, None, "the worker takes other classes");
        let job = claim(&large, &w).await.unwrap();
        assert_eq!(complete_part(&queue, &job, 5).await, PartOutcome::Done);
    }
    assert_eq!((lane(&config, "large"), lane(&config, "default")), (vec![id.to_string()], vec![]));
    assert_eq!(finish(&queue, &claim(&large, &w).await.unwrap()).await, CompleteOutcome::Done);
    assert_eq!(lane(&config, "large"), [""; 0]);
    // That a sound was asked for is known for 5 s.
    let is_left = |name: &String| !name.contains("jobs:asked:");
    assert_eq!(remains(&config, id).into_iter().filter(is_left).collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test]
async fn parts_leave_their_lane_with_their_job() {
    let (queue, config) = queue().await;
    let large = taking(&queue, "large");
    let w = worker(&queue, "w").await;
    let by = split_job(&large, &w, &of_class("large"), 3).await;
    queue.cancel(by.job).await.unwrap();
    assert_eq!((lane(&config, "large"), remains(&config, by.job)), (vec![], vec![]));
    assert_eq!(queue.redrive(by.job).await.unwrap(), RedriveOutcome::Queued);
    split(&large, &w, 3).await;
    let held = claim_parts(&large, 1).await;
    // The whole is encoded instead.
    assert!(queue.give_up_part(&held[0], "report").await.unwrap());
    assert_eq!(lane(&config, "large"), [by.job.to_string()]);
    assert_eq!(lane(&config, "default"), [""; 0]);
    assert_eq!(finish(&queue, &claim(&large, &w).await.unwrap()).await, CompleteOutcome::Done);
    assert_eq!((lane(&config, "large"), remains(&config, by.job)), (vec![], vec![]));
}

#[tokio::test]
async fn wake_up_for_an_awaited_part_is_passed_on_to_the_workers_of_its_class() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let (both, large) = (taking(&queue, "default,large"), taking(&queue, "large"));
    let w = worker(&queue, "w").await;
    let urgent = JobSpec { priority: Priority::try_from(9).unwrap(), ..hooked() };
    let mut jobs = Vec::new();
    for (of_lane, spec) in [(&large, &of_class("large")), (&queue, &urgent)] {
        jobs.push(split_job(of_lane, &w, spec, 3).await);
    }
    let bell = |queue: &Queue| {
        let own = queue.clone();
        tokio::spawn(
            async move { own.reconnect().await.unwrap().wait_for_awaited_part(NEVER).await.unwrap() },
        )
    };
    let segment = StreamSegment::Video(4);
    let first = bell(&both);
    blocked(&server, 1).await;
    queue.await_segment(jobs[0], segment).await.unwrap();
    timeout(HANG, first).await.expect("nobody was woken").unwrap();
    let second = bell(&large);
    blocked(&server, 1).await;
    queue.await_segment(jobs[1], segment).await.unwrap();
    let at = now(&queue).await;
    let Claim::Job(job) = both.claim_only(&w, at, Claimable::AwaitedPart).await.unwrap() else {
        panic!("two parts are awaited")
    };
    assert_eq!(job.attempt.job, jobs[1].job);
    timeout(HANG, second).await.expect("the wake-up is lost").unwrap();
    let Claim::Job(job) = large.claim_only(&w, at, Claimable::AwaitedPart).await.unwrap() else {
        panic!("another part is awaited")
    };
    assert_eq!(job.attempt.job, jobs[0].job);
}

/// A version without classes sees such a job only where it puts it itself, and leaves it alone even there.
#[tokio::test]
async fn job_of_a_class_is_left_alone_by_a_version_without_classes() {
    let server = private_redis(&[]);
    let (queue, config) = (Queue::connect_with(&server.config(), LONG).await.unwrap(), server.config());
    let mut old = WholeJobs::new(&config);
    let large = taking(&queue, "large");
    let (w, o) = (worker(&queue, "new").await, worker(&queue, "old").await);
    let id = submit(&queue, &of_class("large")).await;
    assert_eq!(old.claim(&o, now(&queue).await), "EMPTY");
    // It cancels the job, which stays in its lane, and retries it.
    old.cancel(id);
    assert_eq!(claim(&large, &w).await, None, "it was cancelled");
    old.redrive(id);
    assert_eq!(lane(&config, "default"), [id.to_string()]);
    assert_eq!(old.claim(&o, now(&queue).await), "NEWER");
    all_due(&mut raw(&config), &config);
    assert_eq!(old.sweep(), 1);
    // The wake-up of the submit is taken.
    large.wait_for_wakeup(Duration::ZERO).await.unwrap();
    let waiting = waiters(&large, 1).await;
    blocked(&server, 1).await;
    assert_eq!(claim(&queue, &w).await, None);
    all_woken(waiting).await;
    let job = claim(&large, &w).await.unwrap();
    assert_eq!((job.attempt.job, job.number), (id, 1));
    // A lease that has expired is left to a sweep of this version.
    all_due(&mut raw(&config), &config);
    assert_eq!(old.sweep(), 0);
    assert!(!is_lost(&queue, &job).await);
    queue.split(job.attempt, PLAN, &parts(1)).await.unwrap();
    assert_eq!(old.claim(&o, now(&queue).await), "EMPTY");
    for job in claim_parts(&large, 2).await {
        assert_eq!(complete_part(&queue, &job, 2).await, PartOutcome::Done);
    }
    assert_eq!(finish(&queue, &claim(&large, &w).await.unwrap()).await, CompleteOutcome::Done);
    // It can read the record of a job that has succeeded.
    let key = format!("{}jobs:status:{id}", config.prefix);
    let version: u32 = redis::cmd("HGET").arg(key).arg("v").query(&mut raw(&config)).unwrap();
    assert_eq!((version, remains(&config, id)), (tcoder::job::FORMAT_VERSION, vec![]));
}
