//! The ends of a split job other than its completion: nothing of its parts is left, and nobody can go on with them.

use tcoder::job::{Failure, FailureAction, FailureCode, FailurePolicy, FailureRule, StreamSegment};
use tcoder::queue::{CancelOutcome, CancelReason, RedriveOutcome, SegmentState};

use super::*;

/// Where the parts of a job are when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    PartsQueued,
    PartsRunning,
    PartDelayed,
    PartCompleted,
    FinishQueued,
    FinishRunning,
    FinishDelayed,
}

const SITUATIONS: [Situation; 7] = [
    Situation::PartsQueued,
    Situation::PartsRunning,
    Situation::PartDelayed,
    Situation::PartCompleted,
    Situation::FinishQueued,
    Situation::FinishRunning,
    Situation::FinishDelayed,
];

/// Brings a job with three parts there. Also returns what workers hold, or held before.
async fn bring_to(queue: &Queue, by: AttemptId, situation: Situation) -> Vec<Claimed> {
    if situation == Situation::PartsQueued {
        return Vec::new();
    }
    let mut held = claim_parts(queue, 3).await;
    match situation {
        Situation::PartsQueued | Situation::PartsRunning => return held,
        Situation::PartDelayed => {
            assert!(matches!(queue.fail(&held[0], &retryable()).await.unwrap(), FailOutcome::Retry(_)));
            return held;
        }
        Situation::PartCompleted => {
            assert_eq!(complete_part(queue, &held[0], 3).await, PartOutcome::Done);
            return held;
        }
        Situation::FinishQueued | Situation::FinishRunning | Situation::FinishDelayed => {}
    }
    for job in &held {
        assert_eq!(complete_part(queue, job, 3).await, PartOutcome::Done);
    }
    if situation != Situation::FinishQueued {
        let last = claim(queue, &worker(queue, "last").await).await.unwrap();
        assert_eq!((last.part, last.split), (None, Some(by)));
        if situation == Situation::FinishDelayed {
            assert!(matches!(queue.fail(&last, &retryable()).await.unwrap(), FailOutcome::Retry(_)));
        }
        held.push(last);
    }
    held
}

/// Nobody who holds something of a job that has ended can go on with it.
async fn all_are_lost(queue: &Queue, held: &[Claimed]) {
    for job in held {
        assert!(is_lost(queue, job).await, "{job:?}");
        assert!(!queue.release(job.lease()).await.unwrap());
        if job.part.is_some() {
            assert_eq!(complete_part(queue, job, 3).await, PartOutcome::Lost, "{job:?}");
        } else {
            assert!(matches!(finish(queue, job).await, CompleteOutcome::Lost(Some(_))), "{job:?}");
        }
        let outcome = queue.fail(job, &Failure::new(FailureCode::EncodeFailed, "late")).await.unwrap();
        assert!(matches!(outcome, FailOutcome::Lost(Some(_))), "{outcome:?} of {job:?}");
    }
}

/// Without the rule, another attempt at the part would follow, or the job would be encoded as a whole.
#[tokio::test]
async fn rule_that_fails_a_job_ends_a_split_one_with_all_of_its_parts() {
    let rule = |action| FailureRule { action, error_codes: vec![FailureCode::EncodeFailed] };
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let policy = FailurePolicy(vec![rule(FailureAction::FailJob)]);
    let spec = JobSpec { failure_policy: policy, ..hooked() };
    let by = split_job(&queue, &w, &spec, 2).await;
    let held = claim_parts(&queue, 3).await;
    let failure = Failure::new(FailureCode::EncodeFailed, "no luck");
    assert!(held[0].ends_job(&failure) && held[0].is_last(&failure) && held[0].number == 1);
    assert_eq!(queue.fail(&held[0], &failure).await.unwrap(), FailOutcome::Failed);
    let job = queue.get(by.job).await.unwrap().unwrap();
    assert_eq!((job.status, job.error), (State::Failed, Some(failure)));
    assert_eq!(remains(&config, by.job), [""; 0]);
    assert_eq!(claim(&queue, &w).await, None);
    all_are_lost(&queue, &held[1..]).await;
    assert!(cleanups(&config).contains(&format!("attempt:{by}")));
    assert_eq!(queue.stats().await.unwrap().pending_webhooks, 1);

    // A failure of a part that is ignored counts neither for the part nor for the job.
    let policy = FailurePolicy(vec![rule(FailureAction::Ignore)]);
    let spec = JobSpec { failure_policy: policy, max_attempts: 1, ..hooked() };
    split_job(&queue, &w, &spec, 2).await;
    let held = claim_parts(&queue, 3).await;
    let failure = Failure::new(FailureCode::EncodeFailed, "no luck");
    assert!(matches!(queue.fail(&held[0], &failure).await.unwrap(), FailOutcome::Retry(_)));
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    // The leases of the others are over, too.
    let again = loop {
        let job = claim(&queue, &w).await.unwrap();
        if job.part == held[0].part {
            break job;
        }
    };
    assert_eq!((again.number, again.ignored), (1, 1));
}

#[tokio::test]
async fn ended_job_leaves_nothing_of_its_parts_and_is_planned_anew_when_it_is_retried() {
    let overdue = Failure::new(FailureCode::DeadlineExceeded, "it took too long");
    for how in [CancelReason::Cancelled, CancelReason::Suspended, CancelReason::DeadlineExceeded(overdue)] {
        for situation in SITUATIONS {
            let (queue, config) = queue().await;
            let w = worker(&queue, "w").await;
            let by = split_job(&queue, &w, &hooked(), 2).await;
            let held = bring_to(&queue, by, situation).await;
            assert_eq!(queue.cancel_with(by.job, &how).await.unwrap(), CancelOutcome::Cancelled);
            assert_eq!(remains(&config, by.job), [""; 0], "{how:?} {situation:?}");
            assert_eq!(claim(&queue, &w).await, None, "{how:?} {situation:?}");
            all_are_lost(&queue, &held).await;
            let due = cleanups(&config);
            assert!(due.contains(&format!("attempt:{by}")), "{how:?} {situation:?}: {due:?}");
            let stats = queue.stats().await.unwrap();
            let is_told = u64::from(how != CancelReason::Suspended);
            assert_eq!(
                (stats.pending, stats.scheduled, stats.running, stats.completed, stats.pending_webhooks),
                (0, 0, 0, 0, is_told),
                "{how:?} {situation:?}"
            );

            assert_eq!(queue.redrive(by.job).await.unwrap(), RedriveOutcome::Queued);
            let anew = split(&queue, &w, 2).await;
            assert!(anew > by, "{anew} after {by}");
            all_are_lost(&queue, &held).await;
            for job in claim_parts(&queue, 3).await {
                assert_eq!((job.split, job.number), (Some(anew), 1));
                assert_eq!(complete_part(&queue, &job, 3).await, PartOutcome::Done);
            }
            assert_eq!(finish(&queue, &claim(&queue, &w).await.unwrap()).await, CompleteOutcome::Done);
            assert_eq!(remains(&config, by.job), [""; 0], "{how:?} {situation:?}");
        }
    }
}

#[tokio::test]
async fn part_that_fails_for_good_fails_its_job_once() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &hooked(), 3).await;
    let held = claim_parts(&queue, 3).await;
    assert_eq!(complete_part(&queue, &held[2], 4).await, PartOutcome::Done);
    assert_eq!(queue.fail(&held[0], &hopeless()).await.unwrap(), FailOutcome::Failed);
    assert_eq!(queue.fail(&held[0], &hopeless()).await.unwrap(), FailOutcome::Already);
    let job = queue.get(by.job).await.unwrap().unwrap();
    assert_eq!((job.status, job.error, job.epoch), (State::Failed, Some(hopeless()), by.epoch));
    assert_eq!(remains(&config, by.job), [""; 0]);
    assert!(is_lost(&queue, &held[1]).await);
    // The part that was waiting is gone, too.
    assert_eq!(claim(&queue, &w).await, None);
    let told: Vec<String> = queue.deliveries().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(told, [format!("{by}:failed")]);
    assert_eq!(cleanups(&config), BTreeSet::from([format!("attempt:{by}")]));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.failed, stats.completed, stats.running), (1, 0, 0));
}

#[tokio::test]
async fn part_whose_workers_die_is_verified_before_its_job_fails() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &JobSpec { max_attempts: 2, ..hooked() }, 1).await;
    let other = claim_parts(&queue, 1).await.remove(0);
    for number in 1..=2 {
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!((job.part, job.number, &job.verify), (Some(Part::Chunk(0)), number, &None));
        let leases = format!("{}jobs:leases", config.prefix);
        redis::cmd("ZADD").arg(leases).arg(1).arg(job.lease().to_string()).exec(&mut raw(&config)).unwrap();
        assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    }
    assert_eq!(state(&queue, by.job).await, State::Running);
    let verifies = claim(&queue, &w).await.unwrap();
    assert_eq!((verifies.part, verifies.number), (Some(Part::Chunk(0)), 2));
    let why = verifies.verify.clone().unwrap();
    assert!(why.message.contains("died 2 times"), "{why}");
    // Such a claim that is lost costs nothing.
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    assert!(is_lost(&queue, &other).await);
    let both = [claim(&queue, &w).await.unwrap(), claim(&queue, &w).await.unwrap()];
    let verifies = both.iter().find(|job| job.verify.is_some()).unwrap();
    assert_eq!((verifies.part, verifies.number), (Some(Part::Chunk(0)), 2));
    assert_eq!(queue.fail(verifies, &why).await.unwrap(), FailOutcome::Failed);
    assert_eq!(queue.get(by.job).await.unwrap().unwrap().error, Some(why));
    assert_eq!(remains(&config, by.job), [""; 0]);
    for job in &both {
        assert!(is_lost(&queue, job).await, "{job:?}");
    }
    assert_eq!(queue.deliveries().await.unwrap().len(), 1);
}

#[tokio::test]
async fn verified_part_that_was_completed_after_all_counts() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &JobSpec { max_attempts: 1, ..spec() }, 0).await;
    claim(&queue, &w).await.unwrap();
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    let verifies = claim(&queue, &w).await.unwrap();
    assert!(verifies.verify.is_some() && verifies.number == 1, "{verifies:?}");
    assert_eq!(complete_part(&queue, &verifies, 1).await, PartOutcome::Done);
    let last = claim(&queue, &w).await.unwrap();
    assert_eq!((last.split, last.number, &last.verify), (Some(by), 1, &None));
}

#[tokio::test]
async fn finish_has_attempts_of_its_own_and_keeps_the_parts_until_the_last() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    // The plan takes both attempts; parts and finish have two each again.
    let id = submit(&queue, &JobSpec { max_attempts: 2, ..hooked() }).await;
    queue.fail(&claim(&queue, &w).await.unwrap(), &retryable()).await.unwrap();
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    let by = split(&queue, &w, 1).await;
    for job in claim_parts(&queue, 2).await {
        complete_part(&queue, &job, 2).await;
    }
    let first = claim(&queue, &w).await.unwrap();
    assert_eq!((first.number, first.split, &first.previous), (1, Some(by), &None));
    assert!(queue.release(first.attempt).await.unwrap());
    let first = claim(&queue, &w).await.unwrap();
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    let second = claim(&queue, &w).await.unwrap();
    assert_eq!((first.number, second.number, second.split), (1, 2, Some(by)));
    assert_eq!(queue.part_reports(by).await.unwrap().unwrap().reports.len(), 2);
    assert!(!cleanups(&config).contains(&format!("attempt:{by}")));
    let lasting = Failure::new(FailureCode::EncodeFailed, "the disk is full");
    assert_eq!(queue.fail(&second, &lasting).await.unwrap(), FailOutcome::Failed);
    assert_eq!(queue.fail(&second, &lasting).await.unwrap(), FailOutcome::Already);
    assert_eq!(remains(&config, id), [""; 0]);
    let due = cleanups(&config);
    for attempt in [by, first.attempt, second.attempt] {
        assert!(due.contains(&format!("attempt:{attempt}")), "{attempt}: {due:?}");
    }
    assert_eq!(queue.deliveries().await.unwrap().len(), 1);
}

#[tokio::test]
async fn finish_that_splits_the_job_anew_starts_over_with_other_parts() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 3).await;
    let old = claim_parts(&queue, 4).await;
    for job in &old {
        complete_part(&queue, job, 4).await;
    }
    let again = claim(&queue, &w).await.unwrap();
    assert_eq!(queue.split(again.attempt, "other", &parts(1)).await.unwrap(), SplitOutcome::Split);
    assert!(cleanups(&config).contains(&format!("attempt:{by}")));
    assert_eq!(open_parts(&config, by.job), [Part::Audio, Part::Chunk(0)]);
    assert_eq!(queue.part_reports(by).await.unwrap(), None);
    for job in claim_parts(&queue, 2).await {
        assert_eq!((job.split, job.plan.as_deref()), (Some(again.attempt), Some("other")));
        assert_eq!(complete_part(&queue, &job, 2).await, PartOutcome::Done);
    }
    let last = claim(&queue, &w).await.unwrap();
    assert_eq!(last.split, Some(again.attempt));
    assert_eq!(queue.part_reports(again.attempt).await.unwrap().unwrap().reports.len(), 2);
    assert_eq!(finish(&queue, &last).await, CompleteOutcome::Done);
    assert_eq!(remains(&config, by.job), [""; 0]);
}

#[tokio::test]
async fn part_that_gives_up_queues_the_job_at_once_and_drops_the_others() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &hooked(), 3).await;
    let held = claim_parts(&queue, 3).await;
    assert_eq!(complete_part(&queue, &held[0], 4).await, PartOutcome::Done);
    assert!(queue.give_up_part(&held[1], "it has no frames").await.unwrap());
    assert!(!queue.give_up_part(&held[1], "it has no frames").await.unwrap(), "it was told before");
    assert!(!queue.renew(held[2].lease(), now(&queue).await.plus(9000)).await.unwrap());
    assert_eq!(complete_part(&queue, &held[2], 4).await, PartOutcome::Lost);
    let job = queue.get(by.job).await.unwrap().unwrap();
    assert_eq!((job.status, job.ready.len()), (State::Queued, 0), "{job:?}");
    let reports = queue.part_reports(by).await.unwrap().unwrap().reports;
    assert_eq!(reports.iter().map(|(part, _)| *part).collect::<Vec<_>>(), [Part::Audio, Part::Chunk(0)]);
    let segment = StreamSegment::Video(0);
    assert_eq!(queue.await_segment(by, segment).await.unwrap(), SegmentState::Unknown);
    let finish = claim(&queue, &w).await.unwrap();
    assert_eq!((finish.part, finish.split), (None, Some(by)));
    assert_eq!(
        queue.complete(&finish, &result_of(1), finish.attempt.epoch).await.unwrap(),
        CompleteOutcome::Done
    );
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{}*{}*", config.prefix, by.job)).query(&mut raw(&config)).unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
}
