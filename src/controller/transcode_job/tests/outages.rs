//! What is told while Redis or storage is away.

use super::*;

/// What a status of the case is made from.
fn frame<'a>(case: &'a Case, links: &'a UrlSigner, now: Millis) -> StatusContext<'a> {
    StatusContext {
        object: &case.object,
        before: &case.before,
        id: id(),
        links,
        price: None,
        now,
        hold: None,
        refusal: None,
        is_queue_known: true,
    }
}

#[test]
fn unreachable_storage_at_the_deadline_is_told_until_it_answers() {
    let said = |case: &Case| {
        let status = case.status();
        let condition = holds(&status.conditions, condition::RECONCILING).unwrap().clone();
        (status.phase, condition.reason, condition.message)
    };
    for state in [State::Queued, State::Running, State::Playable] {
        let mut case = Case::in_state(json!({"activeDeadlineSeconds": 60}), state).written();
        case.storage_error = Some("the bucket does not answer".into());
        assert_eq!(said(&case).1, reason::IN_PROGRESS, "before the deadline");
        case.now = NOW.plus(50_000);
        let (phase, found, message) = said(&case);
        assert_eq!((phase, &*found), (case.before.phase, reason::STORAGE_UNAVAILABLE), "{state}");
        let words = "spec.activeDeadlineSeconds (60 s) have passed";
        assert!(message.starts_with(words) && message.contains("the bucket does not answer"), "{message}");
        assert_eq!(case.again(), Some(15));
        let mut case = case.written();
        case.storage_error = None;
        assert!(matches!(case.act(), Act::Cancel(CancelReason::DeadlineExceeded(_))), "{state}");
        // The deadline was raised meanwhile.
        case.object.spec.active_deadline_seconds = Some(600);
        assert_eq!(said(&case).1, reason::IN_PROGRESS);
    }
}

#[test]
fn without_redis_what_was_known_stands() {
    let case = Case::in_state(none(), State::Running).written();
    let links = links(Readable::Nowhere);
    let frame = frame(&case, &links, NOW);
    let status = frame.without_redis(None);
    assert_eq!((status.phase, status.progress_percent), (Some(JobPhase::Running), Some(42)));
    assert_eq!(holds(&status.conditions, condition::RECONCILING).unwrap().reason, reason::REDIS_UNAVAILABLE);
    // It is reported once, no matter how long it lasts.
    let later = StatusContext { before: &status, now: NOW.plus(60_000), ..frame };
    assert_eq!(later.without_redis(None), status);
}

#[test]
fn without_redis_a_video_stays_playable_and_what_is_to_be_done_stays_said() {
    let mut case = Case::in_state(none(), State::Playable);
    case.object.spec.qualities = Some(vec![crate::job::Quality::P144]);
    let case = case.written();
    let links = links(Readable::Nowhere);
    let frame = frame(&case, &links, NOW.plus(60_000));
    let status = frame.without_redis(None);
    for (type_, reason) in
        [(condition::PLAYABLE, reason::PLAYABLE), (condition::STALLED, reason::IMMUTABLE_FIELD)]
    {
        let kept = holds(&status.conditions, type_);
        assert_eq!(kept.map(|c| &*c.reason), Some(reason));
        assert_eq!(kept, holds(&case.before.conditions, type_));
    }
    // Neither the outage nor its end is an Event.
    assert_eq!(event_drafts(&case.before, &status), []);
    let mut again = Case { before: status, now: NOW.plus(90_000), ..case };
    assert_eq!(event_drafts(&again.before, &again.status()), []);
    // What has been mended meanwhile is not said any more.
    again.object.spec.qualities = None;
    assert!(holds(&again.status().conditions, condition::STALLED).is_none());
}

#[test]
fn a_used_up_quota_of_redis_is_a_condition_that_says_what_to_do_and_stays_as_it_is() {
    let case = Case::in_state(none(), State::Running).written();
    let links = links(Readable::Nowhere);
    let frame = frame(&case, &links, NOW);
    let refusal = |usage: u32| QueueError::Quota(format!("max requests limit exceeded. Usage: {usage}"));
    let status = frame.without_redis(refusal(500_001).remedy());
    let condition = holds(&status.conditions, condition::RECONCILING).unwrap();
    assert_eq!(condition.reason, reason::REDIS_UNAVAILABLE);
    assert!(condition.message.contains("quota is used up; raise the limit"), "{}", condition.message);
    let later = StatusContext { before: &status, now: NOW.plus(60_000), ..frame };
    assert_eq!(later.without_redis(refusal(500_002).remedy()), status);
}
