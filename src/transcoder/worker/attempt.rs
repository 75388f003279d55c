//! One attempt at a job or a part of one: its end, and how it is reported. What it makes is stored under a prefix of
//! the attempt, and made the job's result by a [manifest](crate::manifest).
//!
//! Redis alone cannot guarantee that only one attempt's outputs count, because a failover may lose the last
//! second of writes. The commit is therefore the manifest. For the same reason an attempt that
//! would fail a job for good looks at it first.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_semantic_conventions::attribute;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, info_span};

use super::input::OpenInputs;
use super::{ClaimNext, Worker, deadline};
use crate::config::WorkerConfig;
use crate::job::{AttemptId, Epoch, Failure, FailureCode, InvalidKey, JobResult, SplitInfo};
use crate::manifest::{Committed, ManifestError, ManifestStore, Verdict};
use crate::queue::{Claim, Claimed, CompleteOutcome, FailOutcome, Queue, QueueError, backoff};
use crate::storage::fetch::Fetcher;
use crate::storage::{Bucket, Storage, StorageError, layout};
use crate::transcoder::{self, TranscodeError};

/// Pause before a job is claimed again whose manifest this version does not understand.
const NEWER_PAUSE: Duration = Duration::from_secs(60);
/// How long an attempt past its deadline may take to stop, so that it leaves no partial upload.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// How long a finished attempt may clean up storage. It is shorter than the time the worker waits for it. The janitor
/// deletes what is left.
const CLEAR_UP: Duration = Duration::from_secs(5);
/// Maximum number of objects that a finished attempt deletes itself.
const FEW_OBJECTS: usize = 1000;

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// The job or the part is completed.
    Completed,
    /// The attempt failed with this code.
    Failed(FailureCode),
    /// The attempt lost its lease: the job belongs to another worker, or no longer runs.
    Lost,
    /// The job was returned to the queue.
    Released,
    /// The job was split; its parts are in the queue.
    Split,
}

/// What becomes of a job.
pub(super) enum Planned {
    /// It was split, and the attempt has ended.
    Split,
    /// This attempt encodes it as a whole.
    Whole(SplitInfo),
}

impl Planned {
    pub(super) const fn whole(because: Option<String>) -> Self {
        Self::Whole(SplitInfo { chunks: 1, whole_because: because })
    }
}

/// How the work of an attempt at a job ended.
pub(super) enum Ended {
    /// There is a result.
    Committed(Box<Committed>),
    /// The job was split, and the attempt has given it back.
    Split,
}

/// Why an attempt ended early.
pub(super) enum AttemptError {
    Failed(Failure),
    Cancelled,
    /// A newer version of tcoder has written the job's manifest.
    Newer(u32),
}

impl From<Failure> for AttemptError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ManifestError> for AttemptError {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Storage(error) => error.into(),
            ManifestError::Unusable(failure) => Self::Failed(failure),
            ManifestError::Newer(version) => Self::Newer(version),
        }
    }
}

impl From<StorageError> for AttemptError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Cancelled => Self::Cancelled,
            other => Self::Failed(other.into()),
        }
    }
}

impl From<TranscodeError> for AttemptError {
    fn from(error: TranscodeError) -> Self {
        match error {
            TranscodeError::Cancelled => Self::Cancelled,
            TranscodeError::Failed(failure) => Self::Failed(failure),
        }
    }
}

impl From<InvalidKey> for AttemptError {
    fn from(error: InvalidKey) -> Self {
        Self::Failed(Failure::new(FailureCode::Worker, error.to_string()))
    }
}

/// What to report for a failure after which no attempt follows.
enum LastWord {
    Fail,
    Complete(Box<Committed>),
    /// It is not known; somebody has to look at the manifest later.
    Verify,
    /// The job is another attempt's.
    Nothing,
}

/// An attempt, and what it needs.
pub(crate) struct Attempt<'a> {
    pub(super) config: &'a WorkerConfig,
    pub(super) queue: &'a Queue,
    pub(super) storage: &'a Storage,
    pub(super) fetcher: &'a Fetcher,
    pub(super) inputs: &'a OpenInputs,
    pub(super) job: Claimed,
    /// Ends the attempt: its lease is lost, or the worker has to leave.
    cancel: CancellationToken,
    /// Ends its work: for the same reasons, or because its deadline has passed.
    pub(super) stop_work: CancellationToken,
    /// Whether its manifest may stand, so that its outputs may count.
    pub(super) may_stand: AtomicBool,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(worker: &'a Worker, job: Claimed, cancel: CancellationToken) -> Self {
        let Worker { config, queue, storage, fetcher, inputs, .. } = worker;
        let stop_work = cancel.child_token();
        let may_stand = AtomicBool::new(false);
        Self { config, queue, storage, fetcher, inputs, job, cancel, stop_work, may_stand }
    }

    /// Runs the attempt and reports its outcome. A part of a job is reported together with the claim of the next one.
    pub(crate) async fn run(self, next: Option<ClaimNext<'_>>) -> (AttemptOutcome, Option<Claim>) {
        match self.job.part {
            Some(part) => self.run_part(part, next).await,
            None => (self.run_job().await, None),
        }
    }

    async fn run_job(self) -> AttemptOutcome {
        let ended = match self.job.verify.clone() {
            // Its attempts are used up: only the manifest is looked at.
            Some(failure) => Err(AttemptError::Failed(failure)),
            None => self.run_or_adopt().await,
        };
        match ended {
            Ok(Ended::Committed(committed)) => self.complete(&committed).await,
            Ok(Ended::Split) => AttemptOutcome::Split,
            Err(AttemptError::Cancelled) => {
                self.remove_outputs().await;
                AttemptOutcome::Lost
            }
            Err(AttemptError::Failed(failure)) => self.fail(&failure).await,
            Err(AttemptError::Newer(version)) => self.hand_back(version).await,
        }
    }

    /// Leaves the job to workers of a newer version.
    pub(super) async fn hand_back(&self, version: u32) -> AttemptOutcome {
        let id = self.job.attempt.job;
        tracing::warn!(job = %id, version, "the job's manifest is of a newer version of tcoder; upgrade this worker");
        self.remove_outputs().await;
        let call = || self.queue.release_after(self.job.lease(), NEWER_PAUSE);
        self.until_answered("release", call).await;
        AttemptOutcome::Lost
    }

    fn manifest(&self) -> ManifestStore<'_> {
        ManifestStore { storage: self.storage, attempt: self.job.attempt, born: self.job.born }
    }

    async fn run_or_adopt(&self) -> Result<Ended, AttemptError> {
        // An earlier attempt may have committed and died before it reported completion.
        if self.job.earlier
            && let Some(committed) = self.manifest().earlier_result().await?
        {
            tracing::info!(job = %self.job.attempt.job, by = %committed.epoch, "adopted the result of an earlier attempt");
            return Ok(Ended::Committed(Box::new(committed)));
        }
        self.within_deadline(self.work()).await
    }

    async fn work(&self) -> Result<Ended, AttemptError> {
        if let Some(split) = self.job.split {
            return self.finish(split).instrument(info_span!("finish")).await;
        }
        match self.plan().instrument(info_span!("plan")).await? {
            Planned::Split => Ok(Ended::Split),
            Planned::Whole(info) => {
                self.encode_whole(info).await.map(|made| Ended::Committed(Box::new(made)))
            }
        }
    }

    /// Ends `work` at the job's deadline.
    pub(super) async fn within_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, AttemptError>>,
    ) -> Result<T, AttemptError> {
        let limit = Duration::from_secs(self.job.spec.deadline_seconds.into());
        let mut work = pin!(work);
        if let Ok(made) = tokio::time::timeout(limit, &mut work).await {
            return made.map_err(|error| self.with_remedy(error));
        }
        if self.cancel.is_cancelled() {
            return Err(AttemptError::Cancelled);
        }
        self.stop_work.cancel();
        match tokio::time::timeout(CANCEL_GRACE, work).await {
            // It ended well at the last moment.
            Ok(Ok(made)) => Ok(made),
            Ok(Err(_)) | Err(_) => Err(self.with_remedy(transcoder::ffmpeg::deadline_exceeded().into())),
        }
    }

    fn with_remedy(&self, error: AttemptError) -> AttemptError {
        match error {
            AttemptError::Failed(failure) => deadline::with_remedy(failure, &self.job.spec).into(),
            AttemptError::Cancelled | AttemptError::Newer(_) => error,
        }
    }

    /// Makes `result` that of the job, whose outputs are in the folder of this or of another attempt, unless another attempt was first; then that one's counts.
    pub(super) async fn commit(
        &self,
        folder: Option<Epoch>,
        result: JobResult,
    ) -> Result<Committed, AttemptError> {
        self.may_stand.store(true, Ordering::Relaxed);
        let verdict = match folder {
            Some(folder) => self.manifest().commit_in(folder, result).await?,
            None => self.manifest().commit(result).await?,
        };
        let ours = matches!(&verdict, Verdict::Result(c) if c.epoch == self.job.attempt.epoch);
        self.may_stand.store(ours, Ordering::Relaxed);
        match verdict {
            Verdict::Result(committed) => {
                if !ours {
                    tracing::info!(job = %self.job.attempt.job, by = %committed.epoch, "another attempt committed its result first");
                    self.remove_outputs().await;
                }
                Ok(*committed)
            }
            Verdict::NoResult | Verdict::Superseded => Err(AttemptError::Cancelled),
            Verdict::OfYoungerJob => Err(younger_job().into()),
        }
    }

    async fn complete(&self, committed: &Committed) -> AttemptOutcome {
        let AttemptId { job: id, epoch } = self.job.attempt;
        let result = &committed.result;
        let folder = committed.folder.unwrap_or(committed.epoch);
        let call = || self.queue.complete_in(&self.job, result, committed.epoch, folder);
        match self.until_answered("completion", call).await {
            Some(CompleteOutcome::Done | CompleteOutcome::Already) => {
                let t = &result.timings;
                let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
                tracing::info!(
                    job = %id, %epoch, outputs = result.outputs.len(), speed = rounded(result.speed),
                    download = rounded(t.download_seconds), transcode = rounded(t.transcode_seconds),
                    upload = rounded(t.upload_seconds),
                    "job completed"
                );
                AttemptOutcome::Completed
            }
            Some(CompleteOutcome::Lost(state)) => {
                tracing::warn!(job = %id, %epoch, ?state, "attempt finished after its lease was lost; its result is discarded");
                // The job was cancelled just before. Its files stay, because an attempt after a retry may have
                // adopted them already, or may do so.
                AttemptOutcome::Lost
            }
            None => {
                tracing::error!(job = %id, "attempt finished but could not report completion; the next attempt adopts its result");
                AttemptOutcome::Lost
            }
        }
    }

    pub(super) async fn fail(&self, failure: &Failure) -> AttemptOutcome {
        let span = Span::current();
        span.record("otel.status_code", "ERROR").record("otel.status_description", failure.message.as_str());
        span.record(attribute::ERROR_TYPE, failure.code.name());
        let AttemptId { job: id, epoch } = self.job.attempt;
        let told = match self.last_word(failure).await {
            LastWord::Complete(_) if self.job.part.is_some() => {
                // The attempt that finishes the job adopts the result.
                return self.give_up(failure).await;
            }
            LastWord::Complete(committed) => {
                tracing::info!(job = %id, by = %committed.epoch, %failure, "an attempt had committed its result; the job is completed");
                return self.complete(&committed).await;
            }
            LastWord::Nothing => {
                self.remove_outputs().await;
                return AttemptOutcome::Lost;
            }
            LastWord::Verify => {
                self.until_answered("failure", || self.queue.fail_unverified(&self.job, failure)).await
            }
            LastWord::Fail => self.until_answered("failure", || self.queue.fail(&self.job, failure)).await,
        };
        // After the report, so that unreachable storage cannot delay it.
        self.remove_outputs().await;
        match told {
            Some(FailOutcome::Retry(at)) => {
                tracing::warn!(job = %id, %epoch, code = ?failure.code, %failure, retry_at = %at, "attempt failed; the job is retried");
            }
            Some(FailOutcome::Failed | FailOutcome::Already) => {
                tracing::warn!(job = %id, %epoch, code = ?failure.code, %failure, "job failed");
            }
            Some(FailOutcome::Lost(_)) => return AttemptOutcome::Lost,
            None => {
                tracing::error!(job = %id, "attempt failed and could not report it; the job is requeued when its lease expires")
            }
        }
        AttemptOutcome::Failed(failure.code)
    }

    /// What to report for a failure. Before a job fails for good its manifest is looked at: another attempt may have
    /// committed, even one that a failover of Redis has forgotten, or this one without having heard of it.
    async fn last_word(&self, failure: &Failure) -> LastWord {
        if !self.job.is_last(failure) {
            return LastWord::Fail;
        }
        match self.manifest().seal_failed().await {
            Ok(Verdict::Result(committed)) => LastWord::Complete(committed),
            Ok(Verdict::NoResult) => {
                self.may_stand.store(false, Ordering::Relaxed);
                LastWord::Fail
            }
            Ok(Verdict::Superseded) => LastWord::Nothing,
            // If this job has its lease still, Redis was restored from a backup.
            Ok(Verdict::OfYoungerJob) => LastWord::Fail,
            Err(ManifestError::Newer(version)) => {
                tracing::warn!(job = %self.job.attempt.job, version, "the job's manifest is of a newer version of tcoder; another look follows");
                LastWord::Verify
            }
            Err(ManifestError::Unusable(unusable)) => {
                tracing::error!(job = %self.job.attempt.job, %unusable, "the job's manifest is unusable; the job fails");
                LastWord::Fail
            }
            Err(ManifestError::Storage(error)) => {
                tracing::warn!(job = %self.job.attempt.job, %error, "could not look for the job's manifest; another look follows");
                LastWord::Verify
            }
        }
    }

    /// Repeats a report until Redis answers; the lease is renewed meanwhile. Gives up when the attempt is cancelled
    /// (its lease is lost, or the worker has to leave), or after the worker's time to live.
    pub(super) async fn until_answered<T, F>(&self, report: &'static str, call: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, QueueError>>,
    {
        let began = Instant::now();
        let mut failures = 0;
        loop {
            let error = match call().await {
                Ok(answer) => return Some(answer),
                Err(error) => error,
            };
            failures += 1;
            if failures == 1 {
                tracing::warn!(job = %self.job.attempt.job, report, %error, "could not report to Redis; repeating until it answers");
            }
            if !self.config.ttl.is_zero() && began.elapsed() >= self.config.ttl {
                return None;
            }
            let pause = backoff::full_jitter(failures, Duration::from_millis(200), Duration::from_secs(5));
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Deletes what this attempt uploaded, unless its manifest may exist. Best effort: the janitor comes later, and looks
    /// at the manifest.
    async fn remove_outputs(&self) {
        // A part stores nothing under its own name.
        if self.may_stand.load(Ordering::Relaxed) || self.job.part.is_some() {
            return;
        }
        let Ok(prefix) = layout::attempt_prefix(self.job.attempt) else { return };
        let removal = self.storage.delete_prefix(Bucket::Output, &prefix, FEW_OBJECTS);
        match tokio::time::timeout(CLEAR_UP, removal).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(job = %self.job.attempt.job, %error, "could not delete an attempt's outputs");
            }
            Err(_) => {
                tracing::warn!(job = %self.job.attempt.job, "timed out while deleting an attempt's outputs")
            }
        }
    }
}

fn younger_job() -> Failure {
    let message = "the output bucket holds the manifest of a job that was submitted later under this id; submit this one \
                   again under another id";
    Failure::new(FailureCode::IdTaken, message)
}
