//! Jobs that their user or Kueue holds back.

use super::*;

#[test]
fn a_suspended_job_starts_anew_when_it_is_resumed() {
    let mut case = Case::in_state(json!({"suspend": true}), State::Cancelled);
    if let Look::Job(job) = &mut case.look {
        job.suspended = true;
    }
    let case = case.written();
    assert_eq!((case.before.start_time.clone(), case.again()), (None, None));
    let mut resumed = Case::in_state(none(), State::Queued);
    resumed.before = case.before;
    let status = resumed.status();
    let suspended = find(&status.conditions, condition::SUSPENDED).unwrap();
    assert_eq!((&*suspended.status, &*suspended.reason), ("False", reason::RESUMED));
    assert!(status.start_time.is_some());
}

#[test]
fn queue_holds_a_job_back_as_its_user_does_and_a_missing_kueue_stops_none_that_was_started() {
    let hold = |stops| Hold {
        reason: reason::AWAITING_ADMISSION,
        message: "the job waits for quota".into(),
        stops,
        is_stalled: !stops,
    };
    for stops in [true, false] {
        let mut case = Case::of(none(), Look::Gone);
        case.queue = Some(hold(stops));
        let status = case.status();
        assert_eq!(status.phase, Some(JobPhase::Suspended));
        let suspended = holds(&status.conditions, condition::SUSPENDED).unwrap();
        assert_eq!(
            (&*suspended.reason, &*suspended.message),
            (reason::AWAITING_ADMISSION, "the job waits for quota")
        );
        assert_eq!(holds(&status.conditions, condition::STALLED).is_some(), !stops);
        for state in [State::Queued, State::Running, State::Playable] {
            let mut case = Case::in_state(none(), state);
            case.queue = Some(hold(stops));
            if stops {
                assert_eq!(case.act(), Act::Cancel(CancelReason::Suspended), "{state}");
            } else {
                let status = case.status();
                assert!(holds(&status.conditions, condition::SUSPENDED).is_none(), "{state}");
            }
        }
        // A job that waits for its upload was started, too.
        let mut case = Case::in_state(none(), State::Uploading);
        case.looked_for_upload = true;
        case.queue = Some(hold(stops));
        let status = case.status();
        let phase = if stops { JobPhase::Suspended } else { JobPhase::Uploading };
        assert_eq!(status.phase, Some(phase));
        assert_eq!(holds(&status.conditions, condition::SUSPENDED).is_some(), stops);
        assert!(holds(&status.conditions, condition::STALLED).is_none());
        // One that was stopped waits until nothing holds it back, and its user's word comes first.
        let mut case = Case::in_state(none(), State::Cancelled);
        let Look::Job(job) = &mut case.look else { panic!() };
        job.suspended = true;
        case.queue = Some(hold(stops));
        assert_eq!(case.status().phase, Some(JobPhase::Suspended));
        case.object.spec.suspend = true;
        let status = case.status();
        assert_eq!(holds(&status.conditions, condition::SUSPENDED).unwrap().reason, reason::SUSPENDED);
        (case.queue, case.object.spec.suspend) = (None, false);
        assert_eq!(case.act(), Act::Redrive);
    }
}

#[test]
fn job_in_a_queue_of_kueue_is_checked_before_it_waits_and_again_when_it_is_admitted() {
    let hold = Hold {
        reason: reason::AWAITING_ADMISSION,
        message: "the job waits for quota".into(),
        stops: true,
        is_stalled: false,
    };
    let stalled = |case: &Case| {
        let status = case.status();
        let reason = holds(&status.conditions, condition::STALLED).map(|c| c.reason.clone());
        (status.phase.unwrap(), reason.unwrap_or_default())
    };
    for queue in [Some(hold.clone()), None] {
        let mut invalid = Case::of(json!({"input": {"key": "../a"}}), Look::Gone);
        invalid.queue = queue.clone();
        assert_eq!(stalled(&invalid), (JobPhase::Pending, reason::INVALID_SPEC.into()));
        let hook = json!({"webhook": {"url": "https://example.com/hook", "secretRef": {"name": "hook"}}});
        let mut case = Case::of(hook, Look::Gone);
        case.queue = queue.clone();
        assert!(matches!(case.act(), Act::LookAtSecret(_)));
        case.secret = Some(Err("the Secret hook does not exist".into()));
        assert_eq!(stalled(&case), (JobPhase::Pending, reason::SECRET_NOT_USABLE.into()));
        assert_eq!(case.again(), Some(30));
        case.secret = Some(Ok(()));
        match queue {
            Some(_) => assert_eq!(stalled(&case), (JobPhase::Suspended, String::new())),
            None => assert!(matches!(case.act(), Act::Submit(_))),
        }
        // The Secret of a job that its user suspends may come later; nothing makes an invalid job valid.
        (case.secret, case.object.spec.suspend) = (None, true);
        assert_eq!(stalled(&case), (JobPhase::Suspended, String::new()));
        invalid.object.spec.suspend = true;
        assert_eq!(stalled(&invalid), (JobPhase::Pending, reason::INVALID_SPEC.into()));
    }
}

#[test]
fn controller_that_knows_nothing_of_kueue_yet_leaves_a_status_as_it_was() {
    let hold = |reason, message: &str, stops, is_stalled| Hold {
        reason,
        message: message.into(),
        stops,
        is_stalled,
    };
    let looks = hold(reason::AWAITING_ADMISSION, "the controller looks for Kueue", false, false);
    for (before, is_suspended_job) in [
        (hold(reason::AWAITING_ADMISSION, "the job waits for quota", true, false), false),
        (hold(reason::KUEUE_NOT_INSTALLED, "there is no Kueue", false, true), false),
        (hold(reason::WORKLOAD_EVICTED, "Kueue evicted the Workload", true, false), true),
    ] {
        let mut case = Case::of(none(), Look::Gone);
        if is_suspended_job {
            case = Case::in_state(none(), State::Cancelled);
            let Look::Job(job) = &mut case.look else { panic!() };
            job.suspended = true;
        }
        case.queue = Some(before.clone());
        let mut case = case.written();
        (case.queue, case.is_queue_known) = (Some(looks.clone()), false);
        assert_eq!(case.status(), case.before, "{before:?}");
        case.object.metadata.generation = Some(2);
        assert_eq!(case.status().observed_generation, Some(2));
        // What its user says now is told at once.
        case.object.spec.suspend = true;
        assert_eq!(holds(&case.status().conditions, condition::SUSPENDED).unwrap().reason, reason::SUSPENDED);
    }
    // A new job has nothing to keep, and one that is resumed is not said to be suspended any more.
    let mut case = Case::of(none(), Look::Gone);
    (case.queue, case.is_queue_known) = (Some(looks.clone()), false);
    let said = |case: &Case| holds(&case.status().conditions, condition::SUSPENDED).unwrap().message.clone();
    assert_eq!(said(&case), "the controller looks for Kueue");
    case.object.spec.suspend = true;
    let mut case = case.written();
    case.object.spec.suspend = false;
    assert_eq!(said(&case), "the controller looks for Kueue");
}

#[test]
fn refusal_that_does_not_hold_a_job_back_is_a_condition_of_its_own() {
    let refusal = Refusal { reason: reason::KUEUE_FORBIDDEN, message: "it may not be deleted".into() };
    let outdated = |status: &TranscodeJobStatus| {
        holds(&status.conditions, condition::WORKLOAD_OUTDATED).map(|c| (c.reason.clone(), c.message.clone()))
    };
    let expected = Some(("KueueForbidden".to_owned(), "it may not be deleted".to_owned()));
    for state in [State::Queued, State::Running, State::Completed, State::Failed] {
        let mut case = Case::in_state(none(), state).written();
        case.refusal = Some(refusal.clone());
        let status = case.status();
        assert_eq!(outdated(&status), expected, "{state}");
        let events: Vec<String> = event_drafts(&case.before, &status).into_iter().map(|e| e.reason).collect();
        assert_eq!(events, ["KueueForbidden"], "{state}");
        // Also without reading the job, which has ended.
        let mut case = case.written();
        if state.is_terminal() {
            case.look = Look::NotYet;
            assert_eq!(case.status(), case.before, "{state}");
        }
        // A controller that has just started does not know it yet.
        (case.refusal, case.is_queue_known) = (None, false);
        assert_eq!(case.status(), case.before, "{state}");
        case.is_queue_known = true;
        assert_eq!(outdated(&case.status()), None, "{state}");
    }
    // One that holds the job back is told as that.
    let mut case = Case::of(none(), Look::Gone);
    let Refusal { reason, message } = refusal.clone();
    (case.queue, case.refusal) =
        (Some(Hold { reason, message, stops: true, is_stalled: true }), Some(refusal));
    assert_eq!(outdated(&case.status()), None);
}
