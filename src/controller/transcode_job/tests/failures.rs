//! How failures, retries and the parts that failed are told.

use super::*;

#[test]
fn a_failure_has_the_words_of_batch_jobs_where_they_have_one() {
    let failed = |code, attempt, message: &str| {
        let mut case = Case::in_state(none(), State::Failed);
        let Look::Job(job) = &mut case.look else { panic!() };
        (job.attempt, job.error) = (attempt, Some(Failure::new(code, message)));
        let status = case.status();
        let said = holds(&status.conditions, condition::FAILED).unwrap().clone();
        assert_eq!(holds(&status.conditions, condition::STALLED).unwrap().reason, said.reason);
        (said.reason, said.message)
    };
    assert_eq!(failed(FailureCode::InvalidMedia, 1, "no video").0, "InvalidMedia");
    assert_eq!(failed(FailureCode::DeadlineExceeded, 1, "too long").0, reason::DEADLINE_EXCEEDED);
    assert_eq!(failed(FailureCode::EncodeFailed, 3, "it broke").0, reason::BACKOFF_LIMIT_EXCEEDED);
    assert_eq!(failed(FailureCode::UploadExpired, 0, "it never came").0, "UploadExpired");
    assert_eq!(failed(FailureCode::WorkerLost, 3, "it died").1, "it died");
}

#[test]
fn failure_that_a_rule_makes_the_last_is_named_by_its_code_at_any_attempt() {
    let reason = |action, attempt| {
        let mut case = Case::in_state(none(), State::Failed);
        let Look::Job(job) = &mut case.look else { panic!() };
        let rule = FailureRule { action, error_codes: vec![FailureCode::EncodeFailed] };
        job.spec.failure_policy = FailurePolicy(vec![rule]);
        (job.attempt, job.error) = (attempt, Some(Failure::new(FailureCode::EncodeFailed, "it broke")));
        let status = case.status();
        holds(&status.conditions, condition::FAILED).unwrap().reason.clone()
    };
    for attempt in [1, 3] {
        assert_eq!(reason(FailureAction::FailJob, attempt), "EncodeFailed", "{attempt}");
    }
    assert_eq!(reason(FailureAction::Count, 3), reason::BACKOFF_LIMIT_EXCEEDED);
}

#[test]
fn a_failed_job_that_lives_again_has_failed_no_longer() {
    let case = Case::in_state(none(), State::Failed).written();
    let mut again = Case::in_state(none(), State::Queued);
    again.before = case.before;
    let status = again.status();
    let failed = find(&status.conditions, condition::FAILED).unwrap();
    assert_eq!((&*failed.status, &*failed.reason), ("False", reason::RETRIED));
    assert!(find(&status.conditions, condition::STALLED).is_none());
}

#[test]
fn failure_that_is_not_counted_has_no_number_and_its_own_event() {
    let mut case = Case::in_state(none(), State::Queued);
    let fail = |case: &mut Case, attempt, ignored| {
        let Look::Job(job) = &mut case.look else { panic!() };
        (job.attempt, job.ignored, job.timestamps.retry_at) = (attempt, ignored, Some(NOW));
        job.error = Some(Failure::new(FailureCode::InputUnreachable, "films.example does not answer"));
        let status = case.status();
        let events = event_drafts(&case.before, &status);
        case.before = status.clone();
        (status, events.into_iter().map(|event| event.message).collect::<Vec<_>>())
    };
    let said = |status: &TranscodeJobStatus| {
        holds(&status.conditions, condition::RECONCILING).unwrap().message.clone()
    };
    let (first, events) = fail(&mut case, 1, 0);
    assert!(said(&first).starts_with("attempt 1 of 3 failed: "), "{}", said(&first));
    assert!(events.len() == 1 && events[0].starts_with("attempt 1 failed "), "{events:?}");
    for ignored in [1, 2] {
        let (status, events) = fail(&mut case, 1, ignored);
        assert!(said(&status).contains("1 of 3 attempts are counted"), "{}", said(&status));
        assert!(
            events.len() == 1 && events[0].starts_with("an attempt that is not counted failed"),
            "{events:?}"
        );
        let failure = status.last_failure.unwrap();
        assert_eq!((failure.attempt, failure.ignored), (1, i32::try_from(ignored).ok()));
    }
    // The next attempt runs: nothing new has failed.
    let Look::Job(job) = &mut case.look else { panic!() };
    (job.status, job.attempt, job.timestamps.retry_at) = (State::Running, 2, None);
    assert_eq!(event_drafts(&case.before, &case.status()), []);
}

#[test]
fn failed_part_is_told_while_the_job_runs() {
    for (state, words) in [
        (State::Running, "workers encode the parts of the job"),
        (State::Playable, "the video can be played already; its later parts are still encoded"),
    ] {
        let mut case = Case::in_state(none(), state).written();
        let Look::Job(job) = &mut case.look else { panic!() };
        let failure = Failure::new(FailureCode::Storage, "the bucket refuses");
        let retry_at = Some(NOW.plus(5000));
        job.part_failure = Some(PartFailure { part: "chunk-3".into(), failures: 2, retry_at, failure });
        let status = case.status();
        let said = holds(&status.conditions, condition::RECONCILING).unwrap();
        let told = "attempt 2 at the part chunk-3 failed: the bucket refuses; the next is at ";
        assert!(said.message.starts_with(&format!("{words}; {told}")), "{}", said.message);
        assert_eq!(holds(&status.conditions, condition::PLAYABLE).is_some(), state == State::Playable);
        let last = status.last_failure.clone().unwrap();
        assert_eq!((&*last.code, last.attempt, last.part.as_deref()), ("storage", 2, Some("chunk-3")));
        assert_eq!(last.retry_time, Some(time(NOW.plus(5000))));
        let events: Vec<String> =
            event_drafts(&case.before, &status).into_iter().map(|e| e.message).collect();
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].starts_with("attempt 2 at the part chunk-3 failed (storage): "), "{events:?}");
        // The attempt has begun: no time of it is told any more, and no further Event.
        let mut case = case.written();
        case.now = NOW.plus(6000);
        let later = case.status();
        assert_eq!((later.last_failure.unwrap().retry_time, events.len()), (None, 1));
        assert_eq!(event_drafts(&case.before, &case.status()), []);
    }
}
