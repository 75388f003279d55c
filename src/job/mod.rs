//! The domain of tcoder, as plain values: what a job is, what it may ask for, what states it goes
//! through and what comes out of it.
//!
//! Nothing here reads a clock, a socket or the environment, and nothing here knows another room.
//! JSON names are camelCase and keep those of the original TCoder where it has them.

mod failure;
mod id;
mod key;
mod preset;
mod quality;
mod rendition;
mod result;
pub mod space;
mod spec;
mod state;
mod time;

pub use failure::{Failure, FailureCode};
pub use id::{AttemptId, Epoch, InvalidAttemptId, InvalidEpoch, InvalidJobId, JobId, WorkerId};
pub use key::{InvalidKey, ObjectKey, safe_file_name};
pub use preset::{Format, Preset, PresetRow, RateControl, UnknownPreset, VideoCodec};
pub use quality::{Dimensions, InvalidLadder, Ladder, Quality, UnknownQuality};
pub use rendition::{Container, Label, RenditionInfo};
pub use result::{
    AudioInfo, Entries, EntryDocument, EntryKind, JobResult, Output, Poster, Skipped, SourceInfo, Storyboard,
    Timings, VideoInfo,
};
pub use spec::{Input, JobSpec, Origin, Priority, SecretRef, SpecError, Still, Stills};
pub use state::{State, Transition, WrongTransition};
pub use time::Millis;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A job as its readers see it: one snapshot of what Redis holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The job's id.
    pub job_id: JobId,
    /// Where the job stands.
    pub status: State,
    /// What was asked for.
    #[serde(flatten)]
    pub spec: JobSpec,
    /// Attempts begun so far.
    pub attempt: u32,
    /// Fencing number of the newest attempt; 0 before the first.
    pub epoch: Epoch,
    /// The worker that holds, or last held, the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// The machine that worker is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The last part of the input's key or address: what the file was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Percent of the current attempt's encode, 0 to 100.
    pub progress: f64,
    /// When the job reached its stages.
    pub timestamps: Timestamps,
    /// Cancelled only for the time being: its TranscodeJob is suspended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Why the last attempt failed, while the job waits for its retry or after it failed for good: `error` and
    /// `errorCode`, beside the fields above.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// What came out, once completed: `outputs`, `source`, `timings` and more, beside the fields above.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
}

impl Job {
    /// The newest attempt.
    #[must_use]
    pub const fn newest_attempt(&self) -> AttemptId {
        AttemptId { job: self.job_id, epoch: self.epoch }
    }
}

/// When a job reached its stages, by Redis's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timestamps {
    /// Submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Millis>,
    /// The input's upload was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploaded_at: Option<Millis>,
    /// Last became ready for a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_at: Option<Millis>,
    /// The newest attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Millis>,
    /// A scheduled retry becomes due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Millis>,
    /// Reached a terminal state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Millis>,
}

/// One change of a job, as it stands in the stream `jobs:events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobEvent {
    /// Position in the stream, `<ms>-<n>`.
    pub event_id: String,
    /// Whose change it is.
    pub job_id: JobId,
    /// The state after the change.
    pub status: State,
    /// Percent, on progress events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
}
