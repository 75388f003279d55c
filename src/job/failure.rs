//! Why an attempt failed, as a sentence for the user who sent the video.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::time::Millis;

/// The kind of failure. The names are stable, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
#[schemars(rename = "ErrorCode")]
pub enum FailureCode {
    /// The file is damaged, truncated, empty or not a video.
    InvalidMedia,
    /// The file is a video that this preset cannot process.
    UnsupportedMedia,
    /// The input does not exist.
    InputNotFound,
    /// The input is larger or longer than this installation accepts.
    InputTooLarge,
    /// The input's URL is not permitted, or its server refuses the request.
    InputRefused,
    /// The server of the input's URL did not answer, or did not send the input.
    InputUnreachable,
    /// The input was never uploaded.
    UploadExpired,
    /// FFmpeg failed for a reason other than the file.
    EncodeFailed,
    /// FFmpeg crashed, most likely on this file.
    FfmpegCrashed,
    /// FFmpeg made no progress.
    Stalled,
    /// The job took longer than permitted.
    DeadlineExceeded,
    /// The worker died or lost its connection to Redis while it held the job.
    WorkerLost,
    /// Storage contains the result of a job that was submitted later under the same id.
    IdTaken,
    /// Object storage refused a request or did not answer.
    Storage,
    /// The worker's disk has no space for the job's files; that of another worker may have.
    DiskFull,
    /// Another problem of the worker, such as a missing program or a folder that is not writable.
    Worker,
    /// A kind that only a newer version of tcoder knows.
    Other,
}

impl<'de> Deserialize<'de> for FailureCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        let known = Self::VARIANTS.iter().find(|code| code.name() == name);
        Ok(known.copied().unwrap_or(Self::Other))
    }
}

impl FailureCode {
    /// Its name in Redis and JSON: `invalidMedia`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::InvalidMedia
            | Self::UnsupportedMedia
            | Self::InputNotFound
            | Self::InputTooLarge
            | Self::InputRefused
            | Self::UploadExpired
            | Self::DeadlineExceeded
            | Self::IdTaken => false,
            Self::InputUnreachable
            | Self::EncodeFailed
            | Self::FfmpegCrashed
            | Self::Stalled
            | Self::WorkerLost
            | Self::Storage
            | Self::DiskFull
            | Self::Worker
            | Self::Other => true,
        }
    }
}

/// The last failed attempt at a part of a job that is encoded on several workers. Another attempt at the part follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartFailure {
    /// The part: `audio`, or `chunk-` and its number, from 0.
    pub part: String,
    /// Number of attempts at this part that have failed, this one included.
    pub failures: u32,
    /// When the next attempt at the part is due; absent if that is at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Millis>,
    /// Why the attempt failed: `error` and `errorCode`.
    #[serde(flatten)]
    pub failure: Failure,
}

/// The failure of an attempt: its kind and a sentence. In JSON these are `errorCode` and `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The kind of failure, for programs.
    #[serde(rename = "errorCode")]
    pub code: FailureCode,
    /// A sentence for people, at most 500 characters.
    #[serde(rename = "error")]
    pub message: String,
}

impl Failure {
    /// Whether this failure, after `previous` in the attempt before, will be that of every other attempt, too.
    #[must_use]
    pub fn recurs(&self, previous: Option<&Self>) -> bool {
        let crashed = |failure: &Self| failure.code == FailureCode::FfmpegCrashed;
        crashed(self) && previous.is_some_and(crashed)
    }

    /// A failure of this kind. The message is truncated to 500 characters.
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
    fn failure_recurs_when_ffmpeg_crashed_twice_in_a_row() {
        let crashed = Failure::new(FailureCode::FfmpegCrashed, "signal 11");
        let other = Failure::new(FailureCode::Storage, "no answer");
        assert!(crashed.recurs(Some(&crashed)));
        assert!(!crashed.recurs(Some(&other)) && !crashed.recurs(None) && !other.recurs(Some(&crashed)));
        assert!(crashed.code.is_retryable());
    }

    #[test]
    fn failure_codes_agree_in_text_and_json() {
        for code in FailureCode::VARIANTS {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            assert_eq!(serde_json::from_value::<FailureCode>(code.name().into()).unwrap(), *code);
        }
        assert_eq!(serde_json::from_value::<FailureCode>("outOfFilm".into()).unwrap(), FailureCode::Other);
    }
}
