//! The states of a job, and the transitions between them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// The state of a job.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "JobStatus")]
#[strum(serialize_all = "lowercase")]
#[strum(parse_err_ty = UnknownState, parse_err_fn = UnknownState::new)]
pub enum State {
    /// It waits for its input to be uploaded.
    Uploading,
    /// It waits for a worker, or for the time of its next attempt.
    Queued,
    /// A worker holds its lease, or workers encode its parts.
    Running,
    /// The same, and players can play it from the beginning already.
    Playable,
    /// Its outputs are in storage.
    Completed,
    /// It is not retried, unless a client requests it.
    Failed,
    /// A client cancelled it.
    Cancelled,
}

/// A transition of a job from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, VariantArray)]
pub enum Transition {
    /// The input is in storage.
    Uploaded,
    /// The input was uploaded after the job had failed because of its absence. It does not apply to jobs that
    /// failed for another reason.
    UploadedLate,
    /// A worker claims it.
    Claim,
    /// Its beginning is in storage.
    Play,
    /// The attempt succeeded.
    Complete,
    /// The attempt failed, or its worker was lost, and another one is due.
    Retry,
    /// The worker returns it to the queue; the attempt does not count.
    Release,
    /// The last attempt failed, or the upload window passed.
    Fail,
    /// A client cancels it.
    Cancel,
    /// All its attempts together took longer than its deadline.
    DeadlineExceeded,
    /// A client queues it again after its end.
    Redrive,
}

impl Transition {
    /// All of them.
    pub const ALL: &'static [Self] = Self::VARIANTS;
}

/// The transition is not possible in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {from} cannot {how:?}")]
pub struct WrongTransition {
    /// The state it is in.
    pub from: State,
    /// The transition.
    pub how: Transition,
}

impl State {
    /// All of them.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in Redis and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether workers are at work on the job.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Playable)
    }

    /// Whether the job has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The state after a transition.
    ///
    /// # Errors
    /// If the transition is not possible in this state.
    pub const fn apply(self, how: Transition) -> Result<Self, WrongTransition> {
        use State::{Cancelled, Completed, Failed, Playable, Queued, Running, Uploading};
        use Transition as T;
        Ok(match (self, how) {
            (Uploading, T::Uploaded) => Queued,
            (Failed, T::UploadedLate) => Queued,
            (Queued, T::Claim) => Running,
            (Running, T::Play) => Playable,
            (Running | Playable, T::Complete) => Completed,
            (Running, T::Retry | T::Release) => Queued,
            // Its parts and its end are tried again without a change that clients see.
            (Playable, T::Claim | T::Retry | T::Release) => Playable,
            (Uploading | Running | Playable, T::Fail)
            | (Uploading | Queued | Running | Playable, T::DeadlineExceeded) => Failed,
            (Uploading | Queued | Running | Playable, T::Cancel) => Cancelled,
            (Failed | Cancelled, T::Redrive) => Queued,
            _ => return Err(WrongTransition { from: self, how }),
        })
    }
}

/// There is no state with this name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown state {0:?}; the states are {names}", names = names(State::ALL))]
pub struct UnknownState(String);

impl UnknownState {
    fn new(text: &str) -> Self {
        Self(text.chars().take(40).collect())
    }
}

fn names(states: &[State]) -> String {
    let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_agree_in_text_and_json() {
        for state in State::ALL {
            assert_eq!(state.to_string().parse::<State>().as_ref(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        assert_eq!(format!("{:<8}|", State::Failed), "failed  |");
        assert_eq!(
            "x".parse::<State>().unwrap_err().to_string(),
            "unknown state \"x\"; the states are uploading, queued, running, playable, completed, failed, cancelled"
        );
    }

    #[test]
    fn exactly_these_transitions_exist() {
        let mut allowed = Vec::new();
        for &from in State::ALL {
            for &how in Transition::ALL {
                if let Ok(to) = from.apply(how) {
                    allowed.push(format!("{from} {how:?} {to}"));
                }
            }
        }
        assert_eq!(
            allowed,
            [
                "uploading Uploaded queued",
                "uploading Fail failed",
                "uploading Cancel cancelled",
                "uploading DeadlineExceeded failed",
                "queued Claim running",
                "queued Cancel cancelled",
                "queued DeadlineExceeded failed",
                "running Play playable",
                "running Complete completed",
                "running Retry queued",
                "running Release queued",
                "running Fail failed",
                "running Cancel cancelled",
                "running DeadlineExceeded failed",
                "playable Claim playable",
                "playable Complete completed",
                "playable Retry playable",
                "playable Release playable",
                "playable Fail failed",
                "playable Cancel cancelled",
                "playable DeadlineExceeded failed",
                "failed UploadedLate queued",
                "failed Redrive queued",
                "cancelled Redrive queued",
            ]
        );
    }

    #[test]
    fn terminal_states_only_leave_by_a_redrive_or_a_late_upload() {
        for from in State::ALL.iter().copied().filter(|s| s.is_terminal()) {
            let stays = |h: &Transition| !matches!(h, Transition::Redrive | Transition::UploadedLate);
            for how in Transition::ALL.iter().copied().filter(stays) {
                assert_eq!(from.apply(how), Err(WrongTransition { from, how }));
            }
        }
        assert!(State::Completed.apply(Transition::Redrive).is_err());
    }
}
