//! What the transitions of a job are told and answer. Values only.

use std::time::Duration;

use super::codec::{ScriptReply, to_json};
use super::{Cleanup, QueueError, Reply};
use crate::job::{Failure, FailureCode, JobId, JobSpec, Millis, ObjectKey, ReachedLimit, State, space};

/// How a job starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitMode {
    /// The job is ready for a worker at once.
    Now,
    /// The job is ready after this delay.
    After(Duration),
    /// The job is ready when its input is in storage. It fails if that takes longer than this.
    OnUpload(Duration),
}

/// The outcome of a submit.
#[derive(Clone, Debug, PartialEq)]
pub enum SubmitOutcome {
    /// The job is new.
    Created,
    /// A job with this id and the same spec exists already.
    Same,
    /// A job with this id but another spec exists already, or one of another token.
    Different(Box<JobSpec>),
    /// The token has reached one of its limits.
    LimitReached {
        /// The limit.
        limit: ReachedLimit,
        /// After how long another job may be submitted.
        retry_after: Duration,
    },
}

/// The input of a job, as it appeared in the input bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedInput {
    /// The job.
    pub job: JobId,
    /// The key of the object. A job that waits for another one does not notice it.
    pub key: ObjectKey,
    /// The size in bytes.
    pub size: u64,
    /// The entity tag without quotes, if storage names one. No attempt at the job reads another version of the input.
    pub etag: Option<String>,
}

impl UploadedInput {
    /// The arguments of `uploaded.lua`. `limit` is the largest input in bytes that workers take, if it is known.
    pub(super) fn args(&self, limit: Option<u64>) -> Result<Vec<String>, QueueError> {
        let Self { job, key, size, etag } = self;
        let too_large = limit.and_then(|limit| space::check_input(*size, limit).err());
        let other_size = format!(
            "the uploaded file has {size} bytes, and another fileSize was announced; ask for another upload, with the size \
             of the file"
        );
        Ok(vec![
            job.to_string(),
            size.to_string(),
            etag.clone().unwrap_or_default(),
            too_large.as_ref().map(to_json).transpose()?.unwrap_or_default(),
            to_json(&Failure::new(FailureCode::InvalidMedia, other_size))?,
            key.to_string(),
        ])
    }
}

/// The outcome of reporting an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadedOutcome {
    /// The job is now ready for a worker.
    Queued,
    /// The job has failed: its input is larger than workers take, or has another size than was announced.
    Refused,
    /// The job no longer waits for an upload: the report is a duplicate, or the job ended in the meantime.
    Already(State),
    /// The job has another input.
    OtherInput,
    /// The job does not exist.
    Unknown,
}

/// The outcome of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompleteOutcome {
    /// The job is completed by this attempt.
    Done,
    /// This attempt completed the job before; the call was repeated.
    Already,
    /// The attempt had lost its lease. Contains the job's state, if the job still exists.
    Lost(Option<State>),
}

/// The outcome of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailOutcome {
    /// The job is retried at this time.
    Retry(Millis),
    /// The job has failed; there is no further attempt.
    Failed,
    /// This attempt reported the failure before; the call was repeated.
    Already,
    /// The attempt had lost its lease.
    Lost(Option<State>),
}

/// Why a job is cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// A user cancelled it.
    Cancelled,
    /// A user suspended it: no webhook is sent, and a redrive resumes it.
    Suspended,
    /// All attempts together took longer than permitted: the job fails with this failure.
    DeadlineExceeded(Failure),
}

/// The outcome of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The job is cancelled.
    Cancelled,
    /// The job had already ended in this state.
    Ended(State),
    /// The job does not exist.
    Unknown,
}

/// The outcome of a redrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedriveOutcome {
    /// The job is ready for a worker again.
    Queued,
    /// Its upload never arrived, so there is nothing to retry. If the input arrives later, the job is queued
    /// nevertheless.
    NeverUploaded,
    /// Only failed and cancelled jobs can be retried. Contains the job's state.
    Wrong(State),
    /// The job does not exist.
    Unknown,
    /// The token that asks for it has reached one of its limits.
    LimitReached {
        /// The limit.
        limit: ReachedLimit,
        /// After how long another job may be retried.
        retry_after: Duration,
    },
}

/// The outcome of expiring an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireOutcome {
    /// The job failed.
    Failed,
    /// The job no longer waits for an upload.
    Already(State),
    /// The job does not exist.
    Unknown,
}

/// The outcome of a sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The number of jobs that became ready.
    pub ready: u32,
    /// When the next lease or delay expires.
    pub next_due: Option<Millis>,
    /// Redis's time.
    pub now: Millis,
    /// The claimed cleanups.
    pub cleanups: Vec<Cleanup>,
    /// When the next cleanup is due.
    pub next_cleanup: Option<Millis>,
}

impl Sweep {
    pub(super) fn parse(reply: &Reply) -> Result<Self, QueueError> {
        let unexpected = || QueueError::data(format!("sweep answered {reply:?}"));
        let list = reply.list().unwrap_or_default();
        let int = |at: usize| list.get(at).and_then(Reply::int).ok_or_else(unexpected);
        let due = |at: usize| Ok::<_, QueueError>(Some(int(at)?).filter(|ms| *ms >= 0).map(Millis));
        Ok(Self {
            ready: u32::try_from(int(0)?).unwrap_or(0),
            next_due: due(1)?,
            now: Millis(int(2)?),
            next_cleanup: due(3)?,
            // One of another version stays for a process of that version.
            cleanups: list.iter().skip(4).filter_map(|name| name.text()?.parse().ok()).collect(),
        })
    }
}

impl UploadedOutcome {
    pub(super) fn parse(reply: &Reply) -> Result<Self, QueueError> {
        let answer = ScriptReply::of(reply)?;
        match answer.word {
            "QUEUED" => Ok(Self::Queued),
            "REFUSED" => Ok(Self::Refused),
            "OTHER" => Ok(Self::OtherInput),
            "ALREADY" => Ok(Self::Already(answer.state()?)),
            "UNKNOWN" => Ok(Self::Unknown),
            _ => Err(answer.unexpected()),
        }
    }
}
