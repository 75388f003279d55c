//! The domain of tcoder as plain values: jobs, what they may request, their states and their results.
//!
//! This module reads no clock, no socket and no environment, and imports no other module of the crate. JSON
//! names are camelCase, and the same as those of the original TCoder where it has them.

mod entry;
mod failure;
mod failure_policy;
mod id;
mod input_limits;
mod key;
mod preset;
mod quality;
mod rendition;
mod result;
pub mod space;
mod spec;
mod state;
mod task;
mod time;
mod token;
mod worker_class;

pub use entry::EntryKind;
pub use failure::{Failure, FailureCode, PartFailure};
pub use failure_policy::{FailureAction, FailurePolicy, FailureRule, IGNORED_FAILURES};
pub use id::{AttemptId, Epoch, InvalidAttemptId, InvalidEpoch, InvalidJobId, JobId, WorkerId};
pub use input_limits::InputLimits;
pub use key::{InvalidKey, ObjectKey, safe_file_name};
pub use preset::{Format, Preset, PresetRow, RateControl, UnknownPreset, VideoCodec};
pub use quality::{Dimensions, InvalidLadder, Ladder, Quality, UnknownQuality};
pub use rendition::{Container, Label, RenditionInfo};
pub use result::{
    AudioInfo, Entries, EntryDocument, JobResult, Output, Poster, Skipped, SourceInfo, Storyboard, Timings,
    VideoInfo,
};
pub use spec::{Input, JobLimits, JobSpec, Origin, Priority, SecretRef, SpecError, Still, Stills};
pub use state::{State, Transition, WrongTransition};
pub use task::{
    InvalidParallelism, InvalidPart, LeaseId, Parallelism, Part, ReadyRange, SEGMENT_SECONDS, SplitInfo,
    StreamSegment,
};
pub use time::Millis;
pub use token::{
    InvalidKeyPrefix, InvalidScope, InvalidTokenName, KeyPrefix, ReachedLimit, Scope, Token, TokenLimits,
    TokenName,
};
pub use worker_class::{InvalidWorkerClass, InvalidWorkerClasses, WorkerClass, WorkerClasses};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of the format of what is stored about jobs: records and events in Redis, manifests in storage, the state
/// of the fleet, the records of workers. It grows when an older version of tcoder would misunderstand what a newer
/// one writes; something that an older one may ignore is no reason. What has a higher number is left alone.
pub const FORMAT_VERSION: u32 = 1;

/// The version of the records of split jobs and their parts. Versions of tcoder that know only whole jobs leave them
/// alone, and do everything else.
pub const SPLIT_VERSION: u32 = 3;

/// The version of the records of jobs that not all workers may run, and of their parts. Versions of tcoder that know no
/// classes of workers leave them alone, and do everything else.
pub const CLASS_VERSION: u32 = 4;

/// A job as clients see it: a snapshot of its record in Redis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The job's id.
    pub job_id: JobId,
    /// The state of the job.
    pub status: State,
    /// The parameters of the job.
    #[serde(flatten)]
    pub spec: JobSpec,
    /// The token by which the job was submitted, if it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<TokenName>,
    /// Number of attempts that have started.
    pub attempt: u32,
    /// The epoch of the latest attempt; 0 before the first.
    pub epoch: Epoch,
    /// The worker that holds the job, or held it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// The machine of that worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The name of the input file: the last part of its key or URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Progress of the current attempt's encode in percent, 0 to 100.
    pub progress: f64,
    /// The times at which the job reached its states.
    pub timestamps: Timestamps,
    /// Whether the job is cancelled only because its TranscodeJob is suspended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Why the last attempt failed, while the job waits for its retry or after it has failed: `error` and
    /// `errorCode`, next to the fields above.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Why an attempt at one of its parts failed last, while the job is encoded in parts on several workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_failure: Option<PartFailure>,
    /// The result of a completed job: `outputs`, `source`, `timings` and more, next to the fields above.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// The master playlist of a video that is encoded on several workers, before the job has ended. It is complete from
    /// the first second; the server holds requests for segments that are not encoded yet, and has them encoded at once.
    /// It is created for each reader, so a stored job has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub play_url: Option<String>,
    /// What of such a video is encoded already, in the order of the video. Lists of jobs do not contain it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready: Vec<ReadyRange>,
    /// The attempt that split the job into parts, below whose folder they store their outputs.
    #[serde(skip)]
    pub split: Option<Epoch>,
    /// The attempt whose result this is; another one may have completed the job with it.
    #[serde(skip)]
    pub committed: Option<Epoch>,
    /// Number of failures that were not counted, by the job's failure policy.
    #[serde(skip)]
    pub ignored: u32,
    /// The epoch at which the job was submitted or last retried by a user, in the webhooks about its failure.
    #[serde(skip)]
    pub life: Option<Epoch>,
}

impl Job {
    /// The attempt by which the end of the job is known: that of the result, else the newest.
    #[must_use]
    pub fn ended_by(&self) -> AttemptId {
        AttemptId { job: self.job_id, epoch: self.committed.unwrap_or(self.epoch) }
    }

    /// The attempt that split the job.
    #[must_use]
    pub fn split_by(&self) -> Option<AttemptId> {
        self.split.map(|epoch| AttemptId { job: self.job_id, epoch })
    }

    /// Whether its video can be played, or will be, before the job has ended.
    #[must_use]
    pub fn plays_early(&self) -> bool {
        let is_streamed = self.spec.preset.format(&self.spec.output_qualities) == Format::Cmaf;
        self.split.is_some() && is_streamed && !self.status.is_terminal()
    }

    /// The epoch in the id of the webhook about the job's end. It is the same again if a failover of Redis forgot that
    /// end, and the job ends another time.
    #[must_use]
    pub fn webhook_epoch(&self) -> Epoch {
        self.committed.or(self.life).unwrap_or(self.epoch)
    }
}

/// The times at which a job reached its states, by Redis's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timestamps {
    /// When the job was submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Millis>,
    /// When the upload of the input was noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploaded_at: Option<Millis>,
    /// When the job last became ready for a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_at: Option<Millis>,
    /// When the latest attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Millis>,
    /// When players could play it, before it was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playable_at: Option<Millis>,
    /// When the scheduled retry is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Millis>,
    /// When the job reached a terminal state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Millis>,
}

/// A change of a job, as stored in the stream `jobs:events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobEvent {
    /// Position in the stream, `<ms>-<n>`.
    pub event_id: String,
    /// The job that changed.
    pub job_id: JobId,
    /// The state after the change.
    pub status: State,
    /// Progress in percent, in progress events only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// The attempt that made this progress, in progress events only. Without it the event tells that an attempt at a part of
    /// the job has failed, which does not change the progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}
