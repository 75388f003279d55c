//! The Events for the difference between two statuses of a TranscodeJob. Pure.

use crate::controller::conditions::holds;
use crate::crd::{TranscodeJobStatus, condition, reason};

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

/// The Events of a status change: the end of a job, what users changed, and what they have to do. That a job
/// is queued or running is only in the status; thousands of jobs would report it thousands of times.
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
    // A failed job is also Stalled for kstatus, but one Event is enough.
    let stalled = if failed { None } else { told(condition::STALLED, true) };
    [
        told(condition::COMPLETE, false),
        told(condition::FAILED, true),
        told(condition::SUSPENDED, false),
        resumed,
        stalled,
    ]
    .into_iter()
    .flatten()
    .collect()
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
}
