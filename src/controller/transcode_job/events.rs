//! The Events for the difference between two statuses of a TranscodeJob. Pure.

use crate::controller::conditions::{holds, millis};
use crate::crd::{FailureStatus, TranscodeJobStatus, condition, reason};

/// An Event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventDraft {
    /// Whether it is a warning, which may require action.
    pub warning: bool,
    /// The reason in CamelCase, for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The Events of a status change: the end of a job, attempts that failed, what users changed, and what they have to do. That
/// a job is queued or running is only in the status; thousands of jobs would report it thousands of times.
#[must_use]
pub(crate) fn event_drafts(before: &TranscodeJobStatus, after: &TranscodeJobStatus) -> Vec<EventDraft> {
    let told = |type_: &str, warning: bool| {
        let now = holds(&after.conditions, type_)?;
        let same = holds(&before.conditions, type_).is_some_and(|c| c.reason == now.reason);
        (!same).then(|| EventDraft { warning, reason: now.reason.clone(), message: now.message.clone() })
    };
    let failed = holds(&after.conditions, condition::FAILED).is_some();
    let resumed = holds(&before.conditions, condition::SUSPENDED).is_some()
        && holds(&after.conditions, condition::SUSPENDED).is_none()
        && !failed;
    let resumed = resumed.then(|| EventDraft {
        warning: false,
        reason: reason::RESUMED.to_owned(),
        message: "the job may run again".to_owned(),
    });
    // The last attempt of a failed job has the Event of the job's end.
    let attempt_failed = new_failure(before.last_failure.as_ref(), after.last_failure.as_ref())
        .filter(|_| !failed)
        .map(|message| EventDraft { warning: true, reason: reason::ATTEMPT_FAILED.to_owned(), message });
    // A failed job is also Stalled for kstatus, but one Event is enough.
    let stalled = if failed { None } else { told(condition::STALLED, true) };
    [
        told(condition::COMPLETE, false),
        told(condition::FAILED, true),
        told(condition::SUSPENDED, false),
        told(condition::WORKLOAD_OUTDATED, true),
        resumed,
        attempt_failed,
        stalled,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A sentence about the failure of the last attempt, unless it is the one that was seen before.
#[must_use]
pub(crate) fn new_failure(seen: Option<&FailureStatus>, now: Option<&FailureStatus>) -> Option<String> {
    let now = now.filter(|failure| numbers(failure) != (0, 0) && !is_same(failure, seen))?;
    Some(attempt_failed(now, seen.map_or((0, 0), numbers)))
}

/// How many attempts had failed, and how many failures were not counted. Together they tell one failure from the next: an
/// attempt that is not counted gives its number back.
fn numbers(failure: &FailureStatus) -> (i32, i32) {
    (failure.attempt, failure.ignored.unwrap_or_default())
}

/// Whether a failure is that of the status before.
fn is_same(failure: &FailureStatus, seen: Option<&FailureStatus>) -> bool {
    seen.is_some_and(|seen| seen.part == failure.part && numbers(seen) == numbers(failure))
}

/// `seen` are the [`numbers`] of the failure before this one.
fn attempt_failed(failure: &FailureStatus, seen: (i32, i32)) -> String {
    let FailureStatus { code, message, attempt, part, retry_time, .. } = failure;
    let (_, ignored) = numbers(failure);
    let which = match (part, *attempt > seen.0, ignored > seen.1) {
        (Some(part), ..) => format!("attempt {attempt} at the part {part}"),
        (None, false, true) => "an attempt that is not counted".to_owned(),
        // Both kinds of failures since the last status: which was the last is not known.
        (None, true, true) => "an attempt".to_owned(),
        (None, _, false) => format!("attempt {attempt}"),
    };
    match retry_time {
        Some(at) => format!("{which} failed ({code}): {message}; the next is at {}", millis(at)),
        None => format!("{which} failed ({code}): {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::conditions::{ConditionUpdate, conditions};
    use crate::job::Millis;

    fn status(said: &[ConditionUpdate]) -> TranscodeJobStatus {
        let conditions = conditions(&[], said.to_vec(), None, Millis(0));
        TranscodeJobStatus { conditions, ..Default::default() }
    }

    fn reasons(before: &[ConditionUpdate], after: &[ConditionUpdate]) -> Vec<String> {
        event_drafts(&status(before), &status(after)).into_iter().map(|n| n.reason).collect()
    }

    #[test]
    fn each_turn_is_told_once() {
        let runs = [ConditionUpdate::yes(condition::RECONCILING, reason::IN_PROGRESS, "m")];
        let complete = [ConditionUpdate::yes(condition::COMPLETE, reason::COMPLETED, "m")];
        let failed = [
            ConditionUpdate::yes(condition::FAILED, "InvalidMedia", "m"),
            ConditionUpdate::yes(condition::STALLED, "InvalidMedia", "m"),
        ];
        let suspended = [ConditionUpdate::yes(condition::SUSPENDED, reason::SUSPENDED, "m")];
        let stalled = [ConditionUpdate::yes(condition::STALLED, reason::INVALID_SPEC, "m")];
        let none = Vec::<String>::new();
        assert_eq!(reasons(&[], &runs), none);
        assert_eq!(reasons(&runs, &complete), ["Completed"]);
        assert_eq!(reasons(&complete, &complete), none);
        assert_eq!(reasons(&runs, &failed), ["InvalidMedia"]);
        assert_eq!(reasons(&runs, &suspended), ["JobSuspended"]);
        assert_eq!(reasons(&suspended, &runs), ["JobResumed"]);
        assert_eq!(reasons(&[], &stalled), ["InvalidSpec"]);
        assert_eq!(reasons(&stalled, &stalled), none);
        assert!(event_drafts(&status(&runs), &status(&failed))[0].warning);
    }

    #[test]
    fn each_failed_attempt_is_told_once_and_the_last_one_by_the_end_of_the_job() {
        let after = |attempt: i32, said: &[ConditionUpdate]| {
            let failure = FailureStatus {
                code: "inputUnreachable".into(),
                message: "films.example does not answer".into(),
                attempt,
                part: None,
                ignored: None,
                retry_time: None,
            };
            TranscodeJobStatus { last_failure: Some(failure), ..status(said) }
        };
        let first = event_drafts(&status(&[]), &after(1, &[]));
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].warning, first[0].reason.as_str()), (true, "AttemptFailed"));
        assert_eq!(first[0].message, "attempt 1 failed (inputUnreachable): films.example does not answer");
        assert_eq!(event_drafts(&after(1, &[]), &after(1, &[])), []);
        assert_eq!(event_drafts(&after(1, &[]), &after(2, &[])).len(), 1);
        let failed = [ConditionUpdate::yes(condition::FAILED, "BackoffLimitExceeded", "m")];
        let last: Vec<String> =
            event_drafts(&after(2, &[]), &after(3, &failed)).into_iter().map(|event| event.reason).collect();
        assert_eq!(last, ["BackoffLimitExceeded"]);
    }

    #[test]
    fn failures_that_are_not_counted_are_told_as_such() {
        let after = |attempt: i32, ignored: i32| {
            let failure = FailureStatus {
                code: "inputUnreachable".into(),
                message: "m".into(),
                attempt,
                part: None,
                ignored: (ignored > 0).then_some(ignored),
                retry_time: None,
            };
            TranscodeJobStatus { last_failure: Some(failure), ..status(&[]) }
        };
        let told = |before: &TranscodeJobStatus, now: &TranscodeJobStatus| -> Vec<String> {
            event_drafts(before, now).into_iter().map(|event| event.message).collect()
        };
        let uncounted = ["an attempt that is not counted failed (inputUnreachable): m"];
        assert_eq!(told(&status(&[]), &after(0, 1)), uncounted);
        assert_eq!(told(&after(0, 1), &after(0, 2)), uncounted);
        assert_eq!(told(&after(1, 0), &after(1, 1)), uncounted);
        assert_eq!(told(&after(1, 1), &after(2, 1)), ["attempt 2 failed (inputUnreachable): m"]);
        assert_eq!(told(&after(1, 1), &after(1, 1)), Vec::<String>::new());
        assert_eq!(told(&after(0, 1), &after(1, 2)), ["an attempt failed (inputUnreachable): m"]);
    }

    #[test]
    fn failures_of_parts_are_told_by_part_and_number() {
        let after = |part: Option<&str>, attempt: i32| {
            let failure = FailureStatus {
                code: "storage".into(),
                message: "m".into(),
                attempt,
                part: part.map(str::to_owned),
                ignored: None,
                retry_time: None,
            };
            TranscodeJobStatus { last_failure: Some(failure), ..status(&[]) }
        };
        let told = |before: &TranscodeJobStatus, now: &TranscodeJobStatus| -> Vec<String> {
            event_drafts(before, now).into_iter().map(|event| event.message).collect()
        };
        let first = after(Some("chunk-3"), 1);
        assert_eq!(told(&status(&[]), &first), ["attempt 1 at the part chunk-3 failed (storage): m"]);
        assert_eq!(told(&first, &first), Vec::<String>::new());
        assert_eq!(told(&first, &after(Some("chunk-3"), 2)).len(), 1);
        assert_eq!(told(&first, &after(Some("audio"), 1)).len(), 1);
        // The attempts at finishing the job are counted anew.
        assert_eq!(told(&first, &after(None, 1)), ["attempt 1 failed (storage): m"]);
    }
}
