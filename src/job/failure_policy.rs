//! Rules of a job about which failures of an attempt end it at once, and which are tried again.

use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use strum::VariantArray as _;

use super::FailureCode;

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureAction {
    /// The job fails without another attempt.
    FailJob,
    /// Another attempt follows, unless all have been made, also after a failure that would otherwise end the job at once, such as
    /// a second crash of FFmpeg.
    Count,
    /// Another attempt follows, and this one does not count, after a growing pause. So that no job is tried for ever, only
    /// [`IGNORED_FAILURES`] of a job, or of a part of a split one, are not counted; the ones after them are as with `Count`.
    Ignore,
}

/// How many failures of a job, or of a part of a split one, can be left uncounted.
pub const IGNORED_FAILURES: u32 = 20;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct FailurePolicy(pub Vec<FailureRule>);

/// A rule whose action only a newer version of tcoder knows is left out, so that the job can be read.
impl<'de> Deserialize<'de> for FailurePolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Rule {
            Known(FailureRule),
            Unknown(IgnoredAny),
        }
        let rules = Vec::<Rule>::deserialize(deserializer)?.into_iter();
        let known = rules.filter_map(|rule| match rule {
            Rule::Known(rule) => Some(rule),
            Rule::Unknown(_) => None,
        });
        Ok(Self(known.collect()))
    }
}

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

    /// The codes that rules can name.
    pub fn codes() -> impl Iterator<Item = FailureCode> {
        FailureCode::VARIANTS.iter().copied().filter(|code| can_be_named(*code))
    }
}

const fn can_be_named(code: FailureCode) -> bool {
    use FailureCode::{
        DeadlineExceeded, DiskFull, EncodeFailed, FfmpegCrashed, IdTaken, InputNotFound, InputRefused,
        InputTooLarge, InputUnreachable, InvalidMedia, Other, Stalled, Storage, UnsupportedMedia,
        UploadExpired, Worker, WorkerLost,
    };
    match code {
        InvalidMedia | UnsupportedMedia | InputNotFound | InputTooLarge | InputRefused | InputUnreachable
        | EncodeFailed | FfmpegCrashed | Stalled | DeadlineExceeded | Storage | DiskFull | Worker => true,
        // The loss of a worker is noticed by others, and always counts. The rest end no attempt, or cannot end otherwise.
        WorkerLost | UploadExpired | IdTaken | Other => false,
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
    fn codes_are_those_that_a_worker_reports_of_an_attempt() {
        let codes: Vec<_> = FailurePolicy::codes().collect();
        assert!(
            codes.contains(&FailureCode::InputNotFound) && codes.len() == FailureCode::VARIANTS.len() - 4
        );
        for code in
            [FailureCode::WorkerLost, FailureCode::UploadExpired, FailureCode::IdTaken, FailureCode::Other]
        {
            assert!(!codes.contains(&code), "{code:?}");
        }
    }

    #[test]
    fn rule_with_an_action_of_a_newer_version_is_left_out() {
        let rules =
            r#"[{"action":"Pause","errorCodes":["storage"]},{"action":"Count","errorCodes":["storage"]}]"#;
        let policy: FailurePolicy = serde_json::from_str(rules).unwrap();
        assert_eq!(policy.action(FailureCode::Storage), Some(FailureAction::Count));
        assert_eq!(policy.0.len(), 1);
    }
}
