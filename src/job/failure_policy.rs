//! Rules of a job about which failures of an attempt end it at once, and which are tried again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FailureCode;

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureAction {
    /// The job fails without another attempt.
    FailJob,
    /// Another attempt follows, unless all have been made, also after a failure that would otherwise end the job at once.
    Count,
}

/// A rule for failures with these codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureRule {
    /// What follows.
    pub action: FailureAction,
    /// The codes.
    pub error_codes: Vec<FailureCode>,
}

/// The rules of a job, of which the first for the code of a failure applies. Without one, the code decides
/// ([`FailureCode::is_retryable`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct FailurePolicy(pub Vec<FailureRule>);

impl FailurePolicy {
    /// Whether there is no rule.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What follows a failure with this code, if a rule says so.
    #[must_use]
    pub fn action(&self, code: FailureCode) -> Option<FailureAction> {
        self.0.iter().find(|rule| rule.error_codes.contains(&code)).map(|rule| rule.action)
    }

    /// The codes that rules can name: those that a worker reports about an attempt. The loss of a worker is noticed by
    /// others, and always counts.
    pub fn codes() -> impl Iterator<Item = FailureCode> {
        use FailureCode::{
            DeadlineExceeded, DiskFull, EncodeFailed, FfmpegCrashed, InputNotFound, InputRefused,
            InputTooLarge, InputUnreachable, InvalidMedia, Stalled, Storage, UnsupportedMedia, Worker,
        };
        [
            InvalidMedia,
            UnsupportedMedia,
            InputNotFound,
            InputTooLarge,
            InputRefused,
            InputUnreachable,
            EncodeFailed,
            FfmpegCrashed,
            Stalled,
            DeadlineExceeded,
            Storage,
            DiskFull,
            Worker,
        ]
        .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_rule_for_a_code_applies() {
        use FailureCode::{DiskFull, InputNotFound, Storage, Worker};
        let rule = |action, codes: &[FailureCode]| FailureRule { action, error_codes: codes.to_vec() };
        let policy = FailurePolicy(vec![
            rule(FailureAction::FailJob, &[Storage]),
            rule(FailureAction::Count, &[InputNotFound, Storage]),
        ]);
        for (code, action) in [
            (Storage, Some(FailureAction::FailJob)),
            (InputNotFound, Some(FailureAction::Count)),
            (DiskFull, None),
        ] {
            assert_eq!(policy.action(code), action, "{code:?}");
        }
        assert!(FailurePolicy::default().is_empty() && FailurePolicy::default().action(Worker).is_none());
    }

    #[test]
    fn codes_are_distinct_and_not_those_that_no_worker_reports() {
        let codes: Vec<_> = FailurePolicy::codes().collect();
        let distinct: std::collections::HashSet<_> = codes.iter().collect();
        assert_eq!(distinct.len(), codes.len());
        for code in [FailureCode::WorkerLost, FailureCode::UploadExpired, FailureCode::Other] {
            assert!(!codes.contains(&code), "{code:?}");
        }
    }
}
