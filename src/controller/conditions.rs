//! Conditions of custom resources, according to the API conventions: `lastTransitionTime` changes only with
//! the status. Pure.
//! <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#typical-status-properties>

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::job::Millis;

/// Maximum length of a condition's message, bytes. The API server accepts 32 KB, but nobody reads that much.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Converts a time to Kubernetes' format, which has whole seconds.
#[must_use]
pub(crate) fn time(at: Millis) -> Time {
    Time(Timestamp::from_second(at.0.div_euclid(1000)).unwrap_or_default())
}

/// Converts a time from Kubernetes' format.
#[must_use]
pub(crate) fn millis(time: &Time) -> Millis {
    Millis(time.0.as_millisecond())
}

/// The new value of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionUpdate {
    /// The condition's type.
    pub type_: &'static str,
    /// Whether the status is `True`.
    pub holds: bool,
    /// The reason in CamelCase, for programs.
    pub reason: String,
    /// A sentence for people. It must not be empty: an empty message is serialized as null, which the API
    /// server rejects.
    pub message: String,
}

impl ConditionUpdate {
    /// A condition with the status `True`.
    pub(crate) fn yes(type_: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_, holds: true, reason: reason.into(), message: message.into() }
    }

    /// A condition with the status `False`.
    pub(crate) fn no(type_: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_, holds: false, reason: reason.into(), message: message.into() }
    }
}

/// The conditions in `said`, one of each type, with the transition times of `before` where the status did not
/// change. Conditions in `before` of other types are dropped.
#[must_use]
pub(crate) fn conditions(
    before: &[Condition],
    said: Vec<ConditionUpdate>,
    generation: Option<i64>,
    now: Millis,
) -> Vec<Condition> {
    said.into_iter()
        .map(|said| {
            let status = if said.holds { "True" } else { "False" };
            let same = find(before, said.type_).filter(|c| c.status == status);
            Condition {
                type_: said.type_.to_owned(),
                status: status.to_owned(),
                reason: said.reason,
                message: cut(said.message),
                last_transition_time: same.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
                observed_generation: generation,
            }
        })
        .collect()
}

/// The message, shortened to what the API server accepts of an Event; `-` if it is empty.
pub(crate) fn cut(mut message: String) -> String {
    if message.is_empty() {
        return "-".to_owned();
    }
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES - 4));
        message.push('…');
    }
    message
}

/// The condition of this type.
#[must_use]
pub(crate) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// The condition of this type, if its status is `True`.
#[must_use]
pub(crate) fn holds<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    find(conditions, type_).filter(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_changes_with_the_status_only() {
        let first = conditions(&[], vec![ConditionUpdate::yes("A", "x", "one")], Some(1), Millis(1_500));
        assert_eq!(first[0].last_transition_time, time(Millis(1_000)));
        let same = conditions(&first, vec![ConditionUpdate::yes("A", "y", "two")], Some(2), Millis(9_000));
        assert_eq!(same[0].last_transition_time, time(Millis(1_000)));
        assert_eq!((same[0].reason.as_str(), same[0].observed_generation), ("y", Some(2)));
        let other = conditions(&same, vec![ConditionUpdate::no("A", "z", "three")], Some(2), Millis(9_000));
        assert_eq!(other[0].last_transition_time, time(Millis(9_000)));
        assert!(holds(&other, "A").is_none() && find(&other, "A").is_some());
        assert_eq!(conditions(&other, vec![], None, Millis(0)), []);
    }

    #[test]
    fn a_message_is_neither_empty_nor_endless() {
        let said = |m: &str| {
            conditions(&[], vec![ConditionUpdate::yes("A", "x", m)], None, Millis(0))[0].message.clone()
        };
        assert_eq!(said(""), "-");
        let long = said(&"ä".repeat(5000));
        assert!(long.len() <= MAX_MESSAGE_BYTES && long.ends_with('…'));
    }
}
