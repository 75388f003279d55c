//! The life of a job, call by call: repeated calls, races, and the order of jobs.

use std::time::Duration;

use tcoder::job::{
    AttemptId, Epoch, Failure, FailureAction, FailureCode, FailurePolicy, FailureRule, IGNORED_FAILURES,
    JobId, JobSpec, SecretRef, State,
};
use tcoder::queue::{
    CancelOutcome, CancelReason, Claim, CompleteOutcome, FailOutcome, Outbox, Queue, RedriveOutcome,
    SubmitMode, SubmitOutcome, UploadedOutcome,
};

use super::*;
use crate::support::redis::raw;

#[tokio::test]
async fn fault_06_repeated_complete_changes_nothing() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(), CompleteOutcome::Done);
    let first = queue.get(id).await.unwrap();
    assert_eq!(
        queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(),
        CompleteOutcome::Already
    );
    assert_eq!(queue.get(id).await.unwrap(), first);
    assert_eq!(queue.stats().await.unwrap().completed, 1);
}

#[tokio::test]
async fn renew_is_idempotent() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let deadline = job.at.plus(7_200_000);
    let AttemptId { job: id, epoch } = job.attempt;
    let next = AttemptId { job: id, epoch: Epoch(epoch.0 + 1) };
    assert!(queue.renew(job.attempt, deadline).await.unwrap());
    assert!(queue.renew(job.attempt, deadline).await.unwrap());
    assert!(!queue.renew(next, deadline).await.unwrap());
    queue.cancel(id).await.unwrap();
    assert!(!queue.renew(job.attempt, deadline.plus(1)).await.unwrap());
}

#[tokio::test]
async fn fault_07_repeated_submit_makes_one_job() {
    let (queue, _) = queue().await;
    let id = submit(&queue, &spec()).await;
    assert_eq!(queue.submit(id, &spec(), SubmitMode::Now).await.unwrap(), SubmitOutcome::Same);
    let other = with_priority(7);
    let outcome = queue.submit(id, &other, SubmitMode::Now).await.unwrap();
    assert_eq!(outcome, SubmitOutcome::Different(Box::new(spec())));
    assert_eq!(queue.stats().await.unwrap().pending, 1);
}

#[tokio::test]
async fn release_keeps_place_and_attempts() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let first = submit(&queue, &spec()).await;
    let second = submit(&queue, &spec()).await;
    let mut last = Epoch(0);
    for _ in 0..10 {
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!((job.attempt.job, job.number), (first, 1));
        assert!(job.attempt.epoch > last, "{} after {last}", job.attempt.epoch);
        last = job.attempt.epoch;
        assert!(queue.release(job.attempt).await.unwrap());
        assert!(!queue.release(job.attempt).await.unwrap());
    }
    assert_eq!(queue.get(first).await.unwrap().unwrap().attempt, 0);
    claim(&queue, &w).await.unwrap();
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, second);
}

#[tokio::test]
async fn priority_overtakes_without_starving_old_jobs() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let plain = submit(&queue, &spec()).await;
    let low = submit(&queue, &with_priority(-1)).await;
    let high = submit(&queue, &with_priority(10)).await;
    // Ten points are worth ten minutes, so a plain job that arrived eleven minutes ago comes first.
    let old = submit(&queue, &spec()).await;
    let pending = format!("{}jobs:pending", config.prefix);
    redis::cmd("ZINCRBY")
        .arg(pending)
        .arg(-11 * 60_000)
        .arg(old.to_string())
        .exec(&mut raw(&config))
        .unwrap();
    for expected in [old, high, plain, low] {
        assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, expected);
    }
}

#[tokio::test]
async fn delayed_job_is_claimed_only_when_due() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let id = JobId::new();
    let before = now(&queue).await;
    queue.submit(id, &spec(), SubmitMode::After(Duration::from_secs(60))).await.unwrap();
    let after = now(&queue).await;
    // A clock that is an hour fast makes nothing due.
    for ahead in [0, 3_600_000] {
        let claim = queue.claim(&w, after.plus(ahead), true).await.unwrap();
        let Claim::Empty { next_due: Some(due), now: Some(told) } = claim else { panic!("{claim:?}") };
        assert!((before.plus(60_000)..=after.plus(60_000)).contains(&due), "due {due:?} at {after:?}");
        assert!((after..=now(&queue).await).contains(&told), "{told:?}");
    }
    all_due(&mut raw(&config), &config);
    // A clock that is an hour slow does not delay what is due.
    let claim = queue.claim(&w, after.plus(-3_600_000), true).await.unwrap();
    let Claim::Job(job) = claim else { panic!("it is due: {claim:?}") };
    assert_eq!(job.attempt.job, id);
}

#[tokio::test]
async fn claim_returns_when_the_retry_is_due() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let FailOutcome::Retry(at) = queue.fail(&job, &retryable()).await.unwrap() else { panic!("no retry") };
    assert_eq!(queue.fail(&job, &retryable()).await.unwrap(), FailOutcome::Already);
    // Later, so that it is not due yet, whatever delay was drawn.
    let later = at.plus(3_600_000);
    let key = format!("{}jobs:scheduled", config.prefix);
    redis::cmd("ZADD")
        .arg(key)
        .arg(later.0)
        .arg(job.attempt.job.to_string())
        .exec(&mut raw(&config))
        .unwrap();
    let claim = queue.claim(&w, at, true).await.unwrap();
    assert!(matches!(claim, Claim::Empty { next_due: Some(due), .. } if due == later), "{claim:?}");
    all_due(&mut raw(&config), &config);
    let Claim::Job(again) = queue.claim(&w, at, true).await.unwrap() else { panic!("the retry is due") };
    assert_eq!((again.attempt.job, again.number), (job.attempt.job, 2));
    assert!(again.attempt > job.attempt && again.earlier && !job.earlier, "{again:?} after {job:?}");
    assert_eq!(
        queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(),
        CompleteOutcome::Lost(Some(State::Running))
    );
}

#[tokio::test]
async fn fault_05_job_that_kills_its_workers_fails_after_max_attempts() {
    let config = shared();
    let queue = Queue::connect_with(&config, INSTANT).await.unwrap();
    let id = submit(&queue, &JobSpec { max_attempts: 4, ..hooked() }).await;
    for number in 1..=4 {
        // Each time another worker claims it and dies.
        let w = worker(&queue, &format!("w{number}")).await;
        assert_eq!(claim(&queue, &w).await.unwrap().number, number);
        queue.sweep(10, 0).await.unwrap();
    }
    // Only one that has looked for a manifest fails it; that is no attempt.
    assert_eq!(queue.get(id).await.unwrap().unwrap().status, State::Queued);
    let verifies = claim(&queue, &worker(&queue, "w5").await).await.unwrap();
    assert_eq!(verifies.number, 4);
    assert_eq!(queue.fail(&verifies, verifies.verify.as_ref().unwrap()).await.unwrap(), FailOutcome::Failed);
    let job = queue.get(id).await.unwrap().unwrap();
    assert_eq!((job.status, job.attempt), (State::Failed, 4));
    let error = job.error.unwrap();
    assert!(error.message.contains("died 4 times"), "{error}");
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.pending, stats.running, stats.failed, stats.pending_webhooks), (0, 0, 1, 1));
    // It is redriven: with all attempts again, while the epochs continue to grow.
    let last = job.epoch;
    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    let job = claim(&queue, &worker(&queue, "w6").await).await.unwrap();
    assert_eq!((job.number, &job.verify), (1, &None));
    assert!(job.attempt.epoch > last && job.earlier, "{job:?} after {last}");
}

#[tokio::test]
async fn deliveries_of_one_job_have_unique_names() {
    let queue = Queue::connect(&shared()).await.unwrap();
    let id = submit(&queue, &hooked()).await;
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    let pending = queue.deliveries().await.unwrap();
    assert_eq!(pending.len(), 2);
    assert_ne!(pending[0].to_string(), pending[1].to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_19_cancel_and_complete_race_has_one_winner() {
    let (queue, _) = queue().await;
    let other = queue.reconnect().await.unwrap();
    let w = worker(&queue, "w").await;
    let mut cancelled = 0;
    for _ in 0..200 {
        let id = submit(&queue, &spec()).await;
        let job = claim(&queue, &w).await.unwrap();
        let (completes, cancels) = (queue.clone(), other.clone());
        let complete =
            tokio::spawn(
                async move { completes.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap() },
            );
        let cancel = tokio::spawn(async move { cancels.cancel(id).await.unwrap() });
        let (complete, cancel) = (complete.await.unwrap(), cancel.await.unwrap());
        let state = queue.get(id).await.unwrap().unwrap().status;
        match (complete, cancel) {
            (CompleteOutcome::Done, CancelOutcome::Ended(State::Completed)) => {
                assert_eq!(state, State::Completed);
            }
            (CompleteOutcome::Lost(Some(State::Cancelled)), CancelOutcome::Cancelled) => {
                assert_eq!(state, State::Cancelled);
                cancelled += 1;
            }
            both => panic!("{both:?}"),
        }
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.completed, stats.cancelled, stats.running), (200 - cancelled, cancelled, 0));
}

#[tokio::test]
async fn claim_by_an_unregistered_worker_is_refused() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let later = now(&queue).await.plus(180_001);
    assert_eq!(queue.prune_dead_workers(later).await.unwrap(), std::slice::from_ref(&w));
    assert_eq!(queue.claim(&w, later, true).await.unwrap(), Claim::Unregistered);
    assert_eq!(queue.stats().await.unwrap().pending, 1);
}

#[tokio::test]
async fn epochs_of_a_reused_id_are_unique() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let first = claim(&queue, &w).await.unwrap();
    assert_eq!((first.attempt.epoch.0, first.earlier), (first.at.0.unsigned_abs(), false));
    queue.complete(&first, &result_of(1), first.attempt.epoch).await.unwrap();
    // Its record expires, and the id is used again.
    let key = format!("{}jobs:status:{id}", config.prefix);
    redis::cmd("DEL").arg(&key).exec(&mut raw(&config)).unwrap();
    while now(&queue).await <= first.at {}
    assert_eq!(queue.submit(id, &spec(), SubmitMode::Now).await.unwrap(), SubmitOutcome::Created);
    let second = claim(&queue, &w).await.unwrap();
    assert!(second.attempt > first.attempt && second.born > first.born, "{second:?} after {first:?}");
    assert_eq!((second.number, second.earlier), (1, false));
}

#[tokio::test]
async fn fault_10_epoch_of_a_claim_lost_in_a_failover_is_not_reused() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let mut redis = raw(&config);
    let key = |name: &str| format!("{}{name}", config.prefix);
    let status = key(&format!("jobs:status:{id}"));
    let before: std::collections::BTreeMap<String, String> =
        redis::cmd("HGETALL").arg(&status).query(&mut redis).unwrap();
    let forgotten = claim(&queue, &w).await.unwrap();
    // The replica that takes over has not received the claim.
    redis::pipe()
        .del(key("jobs:leases"))
        .del(&status)
        .hset_multiple(&status, &before.into_iter().collect::<Vec<_>>())
        .zadd(key("jobs:pending"), id.to_string(), 1)
        .exec(&mut redis)
        .unwrap();
    while now(&queue).await <= forgotten.at {}
    let heir = claim(&queue, &w).await.unwrap();
    assert_eq!((heir.attempt.job, heir.number, heir.born), (id, 1, forgotten.born));
    assert!(heir.attempt > forgotten.attempt, "{heir:?} after {forgotten:?}");
    assert!(!queue.renew(forgotten.attempt, forgotten.at.plus(7_200_000)).await.unwrap());
    let outcome = queue.complete(&forgotten, &result_of(1), forgotten.attempt.epoch).await.unwrap();
    assert_eq!(outcome, CompleteOutcome::Lost(Some(State::Running)));
    assert_eq!(
        queue.complete(&heir, &result_of(1), heir.attempt.epoch).await.unwrap(),
        CompleteOutcome::Done
    );
}

#[tokio::test]
async fn keep_corrects_a_slow_clock() {
    const HOUR: i64 = 3_600_000;
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    // The machine slept for an hour; the lease has the deadline of the claim.
    let clock = tcoder::queue::ServerClock::at(job.at.plus(-HOUR));
    while now(&queue).await <= job.at {}
    let before = now(&queue).await;
    assert!(queue.keep(job.attempt, &clock).await.unwrap());
    let corrected = clock.now();
    let after = now(&queue).await;
    assert!((before.0 - 1..=after.0 + 1).contains(&corrected.0), "{corrected} at {after}");
    let leases = zset(&mut raw(&config), &config, "jobs:leases");
    #[allow(clippy::cast_possible_truncation)]
    let deadline = leases[0].1 as i64;
    assert!(deadline >= before.plus(HOUR).0, "{deadline} is not renewed at {before}");
    queue.cancel(id).await.unwrap();
    assert!(!queue.keep(job.attempt, &clock).await.unwrap());
}

#[tokio::test]
async fn failure_policy_decides_which_failures_are_tried_again() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let rule = |action, code| FailureRule { action, error_codes: vec![code] };
    let policy = FailurePolicy(vec![
        rule(FailureAction::FailJob, FailureCode::Storage),
        rule(FailureAction::Count, FailureCode::InputNotFound),
    ]);
    for (code, attempts, outcome) in [
        (FailureCode::Storage, 2, "failed"),
        (FailureCode::InputNotFound, 2, "retry"),
        (FailureCode::InputNotFound, 1, "failed"),
        // No rule is about these.
        (FailureCode::InvalidMedia, 2, "failed"),
        (FailureCode::Worker, 2, "retry"),
    ] {
        let spec = JobSpec { failure_policy: policy.clone(), max_attempts: attempts, ..spec() };
        let id = submit(&queue, &spec).await;
        let job = claim(&queue, &w).await.unwrap();
        let ended = match queue.fail(&job, &Failure::new(code, "no luck")).await.unwrap() {
            FailOutcome::Retry(_) => "retry",
            FailOutcome::Failed => "failed",
            other => panic!("{other:?}"),
        };
        assert_eq!(ended, outcome, "{code:?} of {attempts} attempts");
        if ended == "retry" {
            queue.cancel(id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn ignored_failures_are_not_counted_up_to_their_limit() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let rule = FailureRule { action: FailureAction::Ignore, error_codes: vec![FailureCode::Storage] };
    let policy = FailurePolicy(vec![rule]);
    let spec = JobSpec { failure_policy: policy, max_attempts: 2, ..spec() };
    let id = submit(&queue, &spec).await;
    let mut redis = raw(&config);
    let mut next = async || {
        all_due(&mut redis, &config);
        queue.sweep(10, 0).await.unwrap();
        claim(&queue, &w).await.unwrap()
    };
    let storage = Failure::new(FailureCode::Storage, "the bucket is away");
    for ignored in 0..IGNORED_FAILURES {
        let job = next().await;
        assert_eq!((job.number, job.ignored, job.is_last(&storage)), (1, ignored, false));
        assert!(matches!(queue.fail(&job, &storage).await.unwrap(), FailOutcome::Retry(_)));
        let seen = queue.get(id).await.unwrap().unwrap();
        assert_eq!((seen.status, seen.attempt, seen.error.as_ref()), (State::Queued, 0, Some(&storage)));
    }
    // From now on they count.
    let job = next().await;
    assert_eq!((job.number, job.ignored, job.is_last(&storage)), (1, IGNORED_FAILURES, false));
    assert!(matches!(queue.fail(&job, &storage).await.unwrap(), FailOutcome::Retry(_)));
    let job = next().await;
    assert_eq!((job.number, job.is_last(&storage)), (2, true));
    assert_eq!(queue.fail(&job, &storage).await.unwrap(), FailOutcome::Failed);
    // A retry by a user begins anew.
    queue.redrive(id).await.unwrap();
    let job = next().await;
    assert_eq!((job.number, job.ignored), (1, 0));
    // Another failure counts at once, and one that is no failure of the input ends the job by its code.
    let other = Failure::new(FailureCode::Worker, "no luck");
    assert!(matches!(queue.fail(&job, &other).await.unwrap(), FailOutcome::Retry(_)));
    let job = next().await;
    assert_eq!((job.number, job.ignored), (2, 0));
    assert!(matches!(queue.fail(&job, &storage).await.unwrap(), FailOutcome::Retry(_)));
    assert_eq!(next().await.number, 2);
}

#[tokio::test]
async fn suspended_job_sends_a_webhook_only_when_cancelled() {
    let queue = Queue::connect(&shared()).await.unwrap();
    let id = submit(&queue, &hooked()).await;
    assert_eq!(queue.cancel_with(id, &CancelReason::Suspended).await.unwrap(), CancelOutcome::Cancelled);
    let job = queue.get(id).await.unwrap().unwrap();
    assert_eq!((job.status, job.suspended), (State::Cancelled, true));
    assert_eq!(queue.deliveries().await.unwrap(), []);
    assert_eq!(
        queue.cancel_with(id, &CancelReason::Suspended).await.unwrap(),
        CancelOutcome::Ended(State::Cancelled)
    );

    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    assert!(!queue.get(id).await.unwrap().unwrap().suspended);
    queue.cancel_with(id, &CancelReason::Suspended).await.unwrap();
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    assert!(!queue.get(id).await.unwrap().unwrap().suspended);
    assert_eq!(queue.deliveries().await.unwrap().len(), 1);
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Ended(State::Cancelled));
}

#[tokio::test]
async fn overdue_job_fails_from_every_state() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let late = Failure::new(FailureCode::DeadlineExceeded, "it took too long");
    let overdue = CancelReason::DeadlineExceeded(late.clone());
    let queued = submit(&queue, &spec()).await;
    assert_eq!(queue.cancel_with(queued, &overdue).await.unwrap(), CancelOutcome::Cancelled);
    let job = queue.get(queued).await.unwrap().unwrap();
    assert_eq!((job.status, job.error), (State::Failed, Some(late)));
    // It was never claimed, but its input exists: it can be redriven, and no upload revives it.
    assert_eq!(queue.uploaded(&arrived(queued)).await.unwrap(), UploadedOutcome::Already(State::Failed));
    assert_eq!(queue.redrive(queued).await.unwrap(), RedriveOutcome::Queued);

    let running = claim(&queue, &w).await.unwrap();
    assert_eq!(running.attempt.job, queued);
    queue.cancel_with(queued, &overdue).await.unwrap();
    assert!(!queue.renew(running.attempt, now(&queue).await.plus(30_000)).await.unwrap());

    let waits = JobId::new();
    queue.submit(waits, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    queue.cancel_with(waits, &overdue).await.unwrap();
    assert_eq!(queue.redrive(waits).await.unwrap(), RedriveOutcome::NeverUploaded);
    assert_eq!(queue.uploaded(&arrived(waits)).await.unwrap(), UploadedOutcome::Already(State::Failed));
}

#[tokio::test]
async fn webhook_signed_with_a_secret_has_its_own_outbox() {
    let (queue, _) = queue().await;
    let secret = SecretRef { namespace: "films".into(), name: "hook".into(), key: "secret".into() };
    let spec = JobSpec { webhook_key: Some(secret), ..hooked() };
    let id = submit(&queue, &spec).await;
    let other = submit(&queue, &hooked()).await;
    queue.cancel(id).await.unwrap();
    queue.cancel(other).await.unwrap();
    assert_eq!(queue.stats().await.unwrap().pending_webhooks, 2);
    let later = now(&queue).await.plus(1000);
    for (outbox, whose) in [(Outbox::Kubernetes, id), (Outbox::Installation, other)] {
        let (taken, _) = queue.claim_deliveries(outbox, later, 10, Duration::from_secs(60)).await.unwrap();
        let jobs: Vec<JobId> = taken.iter().map(|(delivery, _)| delivery.attempt.job).collect();
        assert_eq!(jobs, [whose]);
        queue.remove_delivery(&taken[0].0).await.unwrap();
    }
    assert_eq!(queue.deliveries().await.unwrap(), []);
}

#[tokio::test]
async fn record_without_a_number_of_attempts_is_dropped_by_a_claim() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let (broken, whole) = (submit(&queue, &spec()).await, submit(&queue, &spec()).await);
    let key = format!("{}jobs:status:{broken}", config.prefix);
    redis::cmd("HDEL").arg(key).arg("attempt").exec(&mut raw(&config)).unwrap();
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, whole);
    assert_eq!(claim(&queue, &w).await, None);
}

#[tokio::test]
async fn broken_record_of_a_running_job_stops_no_sweep() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let w = worker(&queue, "w").await;
    let (broken, whole) = (submit(&queue, &spec()).await, submit(&queue, &spec()).await);
    let delayed = JobId::new();
    queue.submit(delayed, &spec(), SubmitMode::After(Duration::from_secs(60))).await.unwrap();
    claim(&queue, &w).await.unwrap();
    claim(&queue, &w).await.unwrap();
    let key = |id: JobId| format!("{}jobs:status:{id}", config.prefix);
    redis::cmd("HDEL").arg(key(broken)).arg("max").exec(&mut redis).unwrap();
    redis::cmd("HDEL").arg(key(delayed)).arg("boost").exec(&mut redis).unwrap();
    all_due(&mut redis, &config);
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, whole);
    // Both are put off, not lost.
    let later = now(&queue).await.0 as f64;
    for set in ["jobs:leases", "jobs:scheduled"] {
        let id = if set == "jobs:leases" { broken } else { delayed };
        let entries = zset(&mut redis, &config, set);
        let entry = entries.iter().find(|(member, _)| member.starts_with(&id.to_string())).unwrap();
        assert!(entry.1 > later, "{set}: {entries:?}");
    }
}

#[tokio::test]
async fn suspended_job_is_kept_until_it_is_cancelled_for_good() {
    let config = shared();
    let day = Some(Duration::from_secs(24 * 3600));
    let retention = Retention { inputs: day, outputs: day, ..LONG.retention };
    let queue = Queue::connect_with(&config, Policy { retention, ..LONG }).await.unwrap();
    let mut redis = raw(&config);
    let id = submit(&queue, &spec()).await;
    let key = format!("{}jobs:status:{id}", config.prefix);
    let mut ttl = || -> i64 { redis::cmd("PTTL").arg(&key).query(&mut redis).unwrap() };
    queue.cancel_with(id, &CancelReason::Suspended).await.unwrap();
    assert_eq!(ttl(), -1);
    assert!(zset(&mut raw(&config), &config, "jobs:cleanup").is_empty());
    queue.cancel(id).await.unwrap();
    assert!(ttl() > 0);
    assert_eq!(zset(&mut raw(&config), &config, "jobs:cleanup").len(), 2);
}
