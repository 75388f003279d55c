//! The parts of a job that is encoded on several workers: the split, the completion of parts, and the finish.

mod classes;
mod costs;
mod ends;
mod failures;
mod faults;
mod playing;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};

use tcoder::job::{AttemptId, Epoch, LeaseId, Part, State, WorkerClasses};
use tcoder::queue::{
    Claimable, CompleteOutcome, FailOutcome, NewPart, NextClaim, PartOutcome, PartsInfo, Queue, SplitOutcome,
};

use super::*;
use crate::support::redis::raw;

const PLAN: &str = r#"{"chunks":"of a minute"}"#;

/// The sound, and this many chunks. Each is a second behind the one before.
fn parts(chunks: u32) -> Vec<NewPart> {
    let new = |part, behind_ms, segments| NewPart { part, behind_ms, segments, is_held_back: false };
    let chunks = (0..chunks).map(|n| new(Part::Chunk(n), i64::from(n) * 1000, Some(2)));
    [new(Part::Audio, 0, None)].into_iter().chain(chunks).collect()
}

/// The same parts, with all chunks held back but the first `at_once`.
fn limited_parts(chunks: u32, at_once: u32) -> Vec<NewPart> {
    let held_back = |part| matches!(part, Part::Chunk(number) if number >= at_once);
    parts(chunks).into_iter().map(|new| NewPart { is_held_back: held_back(new.part), ..new }).collect()
}

/// Claims what is ready, which must be the job itself, and splits it.
async fn split(queue: &Queue, w: &WorkerId, chunks: u32) -> AttemptId {
    let job = claim(queue, w).await.unwrap();
    assert_eq!((job.part, job.split), (None, None), "{job:?}");
    let outcome = queue.split(job.attempt, PLAN, &parts(chunks)).await.unwrap();
    assert_eq!(outcome, SplitOutcome::Split);
    job.attempt
}

/// Submits a job and splits it.
async fn split_job(queue: &Queue, w: &WorkerId, spec: &JobSpec, chunks: u32) -> AttemptId {
    let id = submit(queue, spec).await;
    let by = split(queue, w, chunks).await;
    assert_eq!(by.job, id);
    by
}

/// Claims this many parts, each by a worker of its own.
async fn claim_parts(queue: &Queue, count: u32) -> Vec<Claimed> {
    let mut claimed = Vec::new();
    for n in 0..count {
        let w = worker(queue, &format!("part-{n}")).await;
        let job = claim(queue, &w).await.expect("no part is ready");
        assert!(job.part.is_some(), "{job:?}");
        claimed.push(job);
    }
    claimed
}

fn report(job: &Claimed) -> String {
    format!("report of {}", job.lease())
}

/// Completes a part of a job that was split into `total` parts.
async fn complete_part(queue: &Queue, job: &Claimed, total: usize) -> PartOutcome {
    let (outcome, claim) = queue
        .complete_part(job, &report(job), PartsInfo { count: total, can_play: false }, None)
        .await
        .unwrap();
    assert_eq!(claim, None);
    outcome
}

/// The same, and claims the worker's next task.
async fn complete_and_claim(
    queue: &Queue,
    job: &Claimed,
    total: usize,
    w: &WorkerId,
) -> (PartOutcome, Option<Claimed>) {
    let next =
        NextClaim { worker: w, now: job.at, sweep: false, claimable: Claimable::Any, is_known_alive: true };
    let (outcome, claim) = queue
        .complete_part(job, &report(job), PartsInfo { count: total, can_play: false }, Some(next))
        .await
        .unwrap();
    match claim {
        Some(Claim::Job(job)) => (outcome, Some(*job)),
        Some(Claim::Empty { .. }) => (outcome, None),
        other => panic!("{other:?}"),
    }
}

async fn finish(queue: &Queue, job: &Claimed) -> CompleteOutcome {
    queue.complete(job, &result_of(job.attempt.epoch.0), job.attempt.epoch).await.unwrap()
}

async fn state(queue: &Queue, id: JobId) -> State {
    queue.get(id).await.unwrap().unwrap().status
}

/// Whether a worker that holds this would learn that it has lost it.
async fn is_lost(queue: &Queue, job: &Claimed) -> bool {
    !queue.renew(job.lease(), job.at.plus(7_200_000)).await.unwrap()
}

/// The parts of a job that are not completed yet.
fn open_parts(config: &RedisConfig, id: JobId) -> Vec<Part> {
    let mut redis = raw(config);
    let mut read = |command: &str, key: &str| -> BTreeSet<String> {
        redis::cmd(command).arg(format!("{}jobs:{key}:{id}", config.prefix)).query(&mut redis).unwrap()
    };
    let (all, completed) = (read("SMEMBERS", "parts"), read("HKEYS", "reports"));
    let mut open: Vec<Part> = all.difference(&completed).map(|part| part.parse().unwrap()).collect();
    open.sort();
    open
}

/// All keys and entries of sets that belong to the parts of a job.
fn remains(config: &RedisConfig, id: JobId) -> Vec<String> {
    let mut redis = raw(config);
    let mut found: Vec<String> =
        redis::cmd("KEYS").arg(format!("{}*{id}*", config.prefix)).query(&mut redis).unwrap();
    found.retain(|key| *key != format!("{}jobs:status:{id}", config.prefix));
    for set in ["jobs:pending", "jobs:pending:large", "jobs:scheduled", "jobs:leases"] {
        let of_a_part = |(member, _): &(String, f64)| member.starts_with(&format!("{id}/"));
        found.extend(zset(&mut redis, config, set).into_iter().filter(of_a_part).map(|(member, _)| member));
    }
    let waits: bool = redis::cmd("SISMEMBER")
        .arg(format!("{}jobs:split", config.prefix))
        .arg(id.to_string())
        .query(&mut redis)
        .unwrap();
    found.extend(waits.then(|| "jobs:split".to_owned()));
    found
}

fn cleanups(config: &RedisConfig) -> BTreeSet<String> {
    zset(&mut raw(config), config, "jobs:cleanup").into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn split_job_is_planned_encoded_in_parts_and_finished_without_remains() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let spec = JobSpec { max_attempts: 2, ..hooked() };
    let by = split_job(&queue, &w, &spec, 3).await;
    let before = queue.get(by.job).await.unwrap().unwrap();
    assert_eq!((before.status, before.epoch, before.attempt), (State::Running, by.epoch, 0));
    let all: Vec<Part> = parts(3).into_iter().map(|new| new.part).collect();
    assert_eq!(open_parts(&config, by.job), all);

    let mut held = claim_parts(&queue, 4).await;
    for (job, part) in held.iter().zip(&all) {
        assert_eq!((job.part, job.split, job.number, job.earlier), (Some(*part), Some(by), 1, false));
        assert_eq!(
            (&job.spec, job.born, job.plan.as_deref()),
            (&spec, before.timestamps.created_at.unwrap(), Some(PLAN))
        );
        assert!(job.attempt.epoch > by.epoch, "{job:?}");
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.running, stats.pending, stats.completed), (4, 0, 0));
    assert_eq!(claim(&queue, &w).await, None);
    let last = held.pop().unwrap();
    for job in &held {
        assert_eq!(complete_part(&queue, job, 4).await, PartOutcome::Done);
        assert_eq!(state(&queue, by.job).await, State::Running);
    }
    assert_eq!(open_parts(&config, by.job), [Part::Chunk(2)]);
    assert_eq!(queue.stats().await.unwrap().completed, 0);
    assert_eq!(claim(&queue, &w).await, None);
    assert_eq!(complete_part(&queue, &last, 4).await, PartOutcome::Done);
    assert_eq!(state(&queue, by.job).await, State::Queued);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.running, stats.pending, stats.completed), (0, 1, 0));

    let job = claim(&queue, &w).await.unwrap();
    assert_eq!((job.part, job.split, job.number, job.earlier), (None, Some(by), 1, true));
    assert!(job.attempt > by && job.plan.as_deref() == Some(PLAN), "{job:?}");
    let found = queue.part_reports(by).await.unwrap().unwrap();
    held.push(last);
    let expected: Vec<_> = held.iter().map(|job| (job.part.unwrap(), report(job))).collect();
    assert_eq!((&*found.plan, found.reports), (PLAN, expected));
    assert_eq!(queue.part_reports(job.attempt).await.unwrap(), None, "it did not split the job");
    assert_eq!(finish(&queue, &job).await, CompleteOutcome::Done);
    assert_eq!(remains(&config, by.job), [""; 0]);
    assert_eq!(queue.part_reports(by).await.unwrap(), None);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.running, stats.pending, stats.completed, stats.pending_webhooks), (0, 0, 1, 1));
    // The outputs of the parts are made into the result, whose own were committed by the last attempt.
    assert_eq!(cleanups(&config), BTreeSet::from([format!("attempt:{by}")]));
}

#[tokio::test]
async fn outputs_of_parts_are_kept_if_they_are_the_result() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 1).await;
    for job in claim_parts(&queue, 2).await {
        complete_part(&queue, &job, 2).await;
    }
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(queue.complete(&job, &result_of(1), by.epoch).await.unwrap(), CompleteOutcome::Done);
    assert_eq!(cleanups(&config), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finish_is_queued_once_however_completions_interleave_and_are_repeated() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    for _ in 0..40 {
        let by = split_job(&queue, &w, &spec(), 3).await;
        let mut calls = tokio::task::JoinSet::new();
        for job in claim_parts(&queue, 4).await {
            for _ in 0..2 {
                let (queue, job) = (queue.reconnect().await.unwrap(), job.clone());
                calls.spawn(async move { (job.part, complete_part(&queue, &job, 4).await) });
            }
        }
        let outcomes = calls.join_all().await;
        for NewPart { part, .. } in parts(3) {
            let of_part: Vec<_> = outcomes.iter().filter(|(of, _)| *of == Some(part)).map(|o| o.1).collect();
            assert!(
                of_part.contains(&PartOutcome::Done) && of_part.contains(&PartOutcome::Already),
                "{outcomes:?}"
            );
        }
        let pending: Vec<String> =
            zset(&mut raw(&config), &config, "jobs:pending").into_iter().map(|(task, _)| task).collect();
        assert_eq!(pending, [by.job.to_string()]);
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!((job.part, job.split), (None, Some(by)));
        assert_eq!(claim(&queue, &w).await, None, "it was queued twice");
        assert_eq!(finish(&queue, &job).await, CompleteOutcome::Done);
    }
    assert_eq!(queue.stats().await.unwrap().completed, 40);
}

#[tokio::test]
async fn repeated_split_and_completion_change_nothing_more() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let split = async || queue.split(job.attempt, PLAN, &parts(2)).await.unwrap();
    let look = || {
        let mut redis = raw(&config);
        let sets = ["jobs:pending", "jobs:leases"].map(|set| zset(&mut redis, &config, set));
        // Redis lists keys in any order.
        let of_job: BTreeMap<String, String> = remains(&config, id)
            .into_iter()
            .filter(|key| key.contains("jobs:status:"))
            .map(|key| {
                let hash: BTreeMap<String, String> =
                    redis::cmd("HGETALL").arg(&key).query(&mut redis).unwrap();
                (key, format!("{hash:?}"))
            })
            .collect();
        (sets, of_job)
    };
    assert_eq!(split().await, SplitOutcome::Split);
    let once = look();
    assert_eq!(split().await, SplitOutcome::Already);
    assert_eq!(look(), once);
    let other = AttemptId { epoch: Epoch(job.attempt.epoch.0 + 1), ..job.attempt };
    assert_eq!(queue.split(other, PLAN, &parts(9)).await.unwrap(), SplitOutcome::Lost(Some(State::Running)));
    let stranger = AttemptId { job: JobId::new(), ..job.attempt };
    assert_eq!(queue.split(stranger, PLAN, &parts(9)).await.unwrap(), SplitOutcome::Lost(None));
    assert_eq!(look(), once);

    let held = claim_parts(&queue, 3).await;
    for job in &held {
        assert_eq!(complete_part(&queue, job, 3).await, PartOutcome::Done);
        let once = look();
        assert_eq!(complete_part(&queue, job, 3).await, PartOutcome::Already);
        assert_eq!(look(), once);
    }
    // The job is split, also after its finish has begun, and the parts are completed.
    let last = claim(&queue, &w).await.unwrap();
    assert_eq!(split().await, SplitOutcome::Already);
    assert_eq!(complete_part(&queue, &held[0], 3).await, PartOutcome::Already);
    assert_eq!(finish(&queue, &last).await, CompleteOutcome::Done);
    assert_eq!(complete_part(&queue, &held[0], 3).await, PartOutcome::Lost);
    assert_eq!(remains(&config, id), [""; 0]);
}

#[tokio::test]
async fn fleet_view_counts_parts_apart_from_jobs() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let counts = async || {
        let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
        let waiting = all_waiting(&view);
        (waiting.pending, waiting.due, waiting.parts)
    };
    assert_eq!(counts().await, (0, 0, 0));
    let by = split_job(&queue, &w, &spec(), 2).await;
    submit(&queue, &spec()).await;
    assert_eq!(counts().await, (4, 0, 3));
    let held = claim_parts(&queue, 2).await;
    assert_eq!(counts().await, (2, 0, 1));
    // One is encoded, and the lease of the other expires.
    assert_eq!(complete_part(&queue, &held[0], 3).await, PartOutcome::Done);
    let leases = format!("{}jobs:leases", config.prefix);
    redis::cmd("ZADD").arg(leases).arg(1).arg(held[1].lease().to_string()).exec(&mut raw(&config)).unwrap();
    assert_eq!(counts().await, (2, 1, 2));
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    assert_eq!(counts().await, (3, 0, 2));
    queue.cancel(by.job).await.unwrap();
    assert_eq!(counts().await, (1, 0, 0));
}

#[tokio::test]
async fn lost_part_alone_is_encoded_again() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 2).await;
    let held = claim_parts(&queue, 3).await;
    let lost = &held[1];
    let leases = format!("{}jobs:leases", config.prefix);
    redis::cmd("ZADD").arg(leases).arg(1).arg(lost.lease().to_string()).exec(&mut raw(&config)).unwrap();
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    assert_eq!(state(&queue, by.job).await, State::Running);
    assert_eq!(cleanups(&config), BTreeSet::new(), "the outputs of the parts are those of the job");
    assert!(
        is_lost(&queue, lost).await && !is_lost(&queue, &held[0]).await && !is_lost(&queue, &held[2]).await
    );
    let heir = claim(&queue, &w).await.unwrap();
    assert_eq!((heir.part, heir.number, heir.earlier), (lost.part, 2, true));
    assert!(heir.attempt > lost.attempt && heir.previous.is_some(), "{heir:?}");
    assert_eq!(complete_part(&queue, lost, 3).await, PartOutcome::Lost);
    assert_eq!(claim(&queue, &w).await, None);
    for job in [&held[0], &held[2], &heir] {
        assert_eq!(complete_part(&queue, job, 3).await, PartOutcome::Done);
    }
    // The one that was lost learns that the part is done all the same.
    assert_eq!(complete_part(&queue, lost, 3).await, PartOutcome::Already);
    assert_eq!(claim(&queue, &w).await.unwrap().split, Some(by));
}

#[tokio::test]
async fn failed_part_is_retried_after_a_pause_and_a_released_one_at_once_for_free() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &JobSpec { max_attempts: 2, ..spec() }, 1).await;
    let held = claim_parts(&queue, 2).await;
    assert!(queue.release(held[0].lease()).await.unwrap());
    assert!(!queue.release(held[0].lease()).await.unwrap());
    let again = claim(&queue, &w).await.unwrap();
    assert_eq!((again.part, again.number, again.earlier), (held[0].part, 1, true));
    let FailOutcome::Retry(at) = queue.fail(&again, &retryable()).await.unwrap() else { panic!("no retry") };
    assert_eq!(queue.fail(&again, &retryable()).await.unwrap(), FailOutcome::Already);
    let scheduled = zset(&mut raw(&config), &config, "jobs:scheduled");
    #[allow(clippy::cast_precision_loss)]
    let due = at.0 as f64;
    assert_eq!(scheduled, [(again.lease().task(), due)]);
    assert_eq!(queue.stats().await.unwrap().completed, 0);
    all_due(&mut raw(&config), &config);
    // That includes the lease of the other part, whose worker dies with this.
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 2);
    let both = [claim(&queue, &w).await.unwrap(), claim(&queue, &w).await.unwrap()];
    for job in &both {
        assert_eq!((job.split, job.number), (Some(by), 2));
        let failed = job.part == again.part;
        assert_eq!(job.previous.as_ref().map(|failure| failure == &retryable()), Some(failed));
        assert_eq!(complete_part(&queue, job, 2).await, PartOutcome::Done);
    }
    assert_eq!(claim(&queue, &w).await.unwrap().split, Some(by));
}

#[tokio::test]
async fn parts_stand_behind_a_small_job_that_came_in_between() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let large = split_job(&queue, &w, &spec(), 6).await;
    let small = submit(&queue, &spec()).await;
    // It came two and a half seconds after the large one.
    let place = |id: JobId| {
        let record = format!("{}jobs:status:{id}", config.prefix);
        redis::cmd("HGET").arg(record).arg("rank").query::<i64>(&mut raw(&config)).unwrap()
    };
    let pending = format!("{}jobs:pending", config.prefix);
    let behind = place(large.job) + 2500;
    redis::cmd("ZADD").arg(pending).arg(behind).arg(small.to_string()).exec(&mut raw(&config)).unwrap();
    let mut order = Vec::new();
    while let Some(job) = claim(&queue, &w).await {
        order.push(job.part.map(|part| part.to_string()));
    }
    let expected = ["audio", "chunk-0", "chunk-1", "chunk-2", "", "chunk-3", "chunk-4", "chunk-5"];
    assert_eq!(order.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn completion_claims_the_next_part_and_at_last_the_finish() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 3).await;
    let mut job = claim(&queue, &w).await.unwrap();
    for _ in 0..3 {
        let (outcome, next) = complete_and_claim(&queue, &job, 4, &w).await;
        assert_eq!(outcome, PartOutcome::Done);
        let next = next.unwrap();
        assert!(next.part > job.part && next.attempt.epoch > by.epoch, "{next:?} after {job:?}");
        job = next;
    }
    let (outcome, next) = complete_and_claim(&queue, &job, 4, &w).await;
    let last = next.unwrap();
    assert_eq!((outcome, last.part, last.split), (PartOutcome::Done, None, Some(by)));
    assert_eq!(finish(&queue, &last).await, CompleteOutcome::Done);
    assert_eq!(remains(&config, by.job), [""; 0]);
}
