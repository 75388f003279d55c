//! Why an attempt failed, in words for the one who sent the video.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// What kind of failure it was; stable, for programs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
#[schemars(rename = "ErrorCode")]
pub enum FailureCode {
    /// The file is damaged, truncated, empty or no video at all.
    InvalidMedia,
    /// The file is a video, but not one this preset can take.
    UnsupportedMedia,
    /// The input is not where the job says.
    InputNotFound,
    /// The input is larger or longer than this installation takes.
    InputTooLarge,
    /// The input's URL is one that is not called, or its server says no.
    InputRefused,
    /// The input's URL did not answer, or not with the input.
    InputUnreachable,
    /// The input never arrived.
    UploadExpired,
    /// FFmpeg failed for a reason that does not lie in the file.
    EncodeFailed,
    /// FFmpeg made no headway.
    Stalled,
    /// The job took longer than it may.
    DeadlineExceeded,
    /// The worker died or lost its connection while it held the job.
    WorkerLost,
    /// Object storage refused or did not answer.
    Storage,
    /// The worker's disk has no room for the job's files; that of another worker may have.
    DiskFull,
    /// Something else on the worker: a missing program, a folder that cannot be written to.
    Worker,
}

impl FailureCode {
    /// Its name in Redis and JSON: `invalidMedia`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether another attempt may end differently.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::InvalidMedia
            | Self::UnsupportedMedia
            | Self::InputNotFound
            | Self::InputTooLarge
            | Self::InputRefused
            | Self::UploadExpired
            | Self::DeadlineExceeded => false,
            Self::InputUnreachable
            | Self::EncodeFailed
            | Self::Stalled
            | Self::WorkerLost
            | Self::Storage
            | Self::DiskFull
            | Self::Worker => true,
        }
    }
}

/// A failed attempt: what kind, and one plain sentence. In JSON `errorCode` and `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind, for programs.
    #[serde(rename = "errorCode")]
    pub code: FailureCode,
    /// One sentence for people; at most 500 characters.
    #[serde(rename = "error")]
    pub message: String,
}

impl Failure {
    /// A failure of this kind; the message is cut at 500 characters.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let message = match message.char_indices().nth(500) {
            Some((at, _)) => format!("{}…", &message[..at]),
            None => message,
        };
        Self { code, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_codes_agree_in_text_and_json() {
        for code in FailureCode::VARIANTS {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }
}
