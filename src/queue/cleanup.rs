//! Objects that are to be deleted. The scripts that end an attempt or a job write what becomes useless then; a sweep
//! hands out what is due, and the janitor deletes it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Command, Queue, QueueError};
use crate::job::{AttemptId, JobId, Millis};

/// How long a claimed cleanup belongs to a process.
pub(super) const HOLD: Duration = Duration::from_secs(600);

/// Objects that are to be deleted. Its text form, such as `attempt:<job>:<epoch>`, is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cleanup {
    /// The outputs of an attempt that ended without completing its job.
    Attempt(AttemptId),
    /// The same once more, for what the attempt has written since then: its worker may have been suspended.
    AttemptAgain(AttemptId),
    /// The uploaded input of a job.
    Input(JobId),
    /// The outputs of a job.
    Outputs(JobId),
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempt(attempt) => write!(f, "attempt:{attempt}"),
            Self::AttemptAgain(attempt) => write!(f, "attempt-again:{attempt}"),
            Self::Input(job) => write!(f, "input:{job}"),
            Self::Outputs(job) => write!(f, "outputs:{job}"),
        }
    }
}

/// The text is not that of a cleanup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no cleanup")]
pub struct InvalidCleanup;

impl FromStr for Cleanup {
    type Err = InvalidCleanup;

    fn from_str(text: &str) -> Result<Self, InvalidCleanup> {
        let (kind, of) = text.split_once(':').ok_or(InvalidCleanup)?;
        let attempt = || of.parse().map_err(|_| InvalidCleanup);
        let job = || of.parse().map_err(|_| InvalidCleanup);
        match kind {
            "attempt" => attempt().map(Self::Attempt),
            "attempt-again" => attempt().map(Self::AttemptAgain),
            "input" => job().map(Self::Input),
            "outputs" => job().map(Self::Outputs),
            _ => Err(InvalidCleanup),
        }
    }
}

impl Queue {
    /// Removes a cleanup that is done, and enters the one that follows it, due at that time.
    ///
    /// # Errors
    /// If Redis fails. The cleanup is then due again after a while.
    pub async fn finish_cleanup(
        &self,
        done: Cleanup,
        next: Option<(Cleanup, Millis)>,
    ) -> Result<(), QueueError> {
        let key = self.key("jobs:cleanup");
        let next = next
            .map(|(next, at)| Command::new("ZADD").arg(&*key).arg(at.0.to_string()).arg(next.to_string()));
        let remove = Command::new("ZREM").arg(&*key).arg(done.to_string());
        self.pipeline(next.into_iter().chain([remove]).collect()).await.map(drop)
    }

    /// Makes a claimed cleanup due at another time.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn postpone_cleanup(&self, cleanup: Cleanup, at: Millis) -> Result<(), QueueError> {
        let add = Command::new("ZADD").arg(self.key("jobs:cleanup")).arg("XX").arg(at.0.to_string());
        self.run(add.arg(cleanup.to_string())).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleanup_text_is_parsed_again_and_others_are_refused() {
        let job = JobId::new();
        let attempt = AttemptId { job, epoch: crate::job::Epoch(7) };
        for cleanup in [
            Cleanup::Attempt(attempt),
            Cleanup::AttemptAgain(attempt),
            Cleanup::Input(job),
            Cleanup::Outputs(job),
        ] {
            assert_eq!(cleanup.to_string().parse(), Ok(cleanup));
        }
        let other = format!("thumbnails:{job}");
        for text in ["", "attempt", "attempt:1", "input:x", &other] {
            assert_eq!(text.parse::<Cleanup>(), Err(InvalidCleanup), "{text}");
        }
    }
}
