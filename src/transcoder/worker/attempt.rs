//! One attempt at a job: download the input, transcode it, upload the outputs under a prefix of the attempt,
//! commit a [manifest](crate::manifest), report completion.
//!
//! Redis alone cannot guarantee that only one attempt's outputs count, because a failover may lose the last
//! second of writes. The commit is therefore the manifest. For the same reason an attempt that
//! would fail a job for good looks at it first.

use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_semantic_conventions::attribute;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, info_span};

use super::{progress, scratch};
use crate::config::WorkerConfig;
use crate::job::space::{Outputs, Space};
use crate::job::{
    AttemptId, EntryDocument, Failure, FailureCode, Input, InvalidKey, JobResult, ObjectKey, Output, Poster,
    Storyboard, Timings,
};
use crate::manifest::{Committed, ManifestError, ManifestStore, Verdict};
use crate::queue::{Claimed, CompleteOutcome, FailOutcome, Queue, QueueError, backoff};
use crate::storage::fetch::Fetcher;
use crate::storage::{Bucket, DownloadLimits, Progress, Storage, StorageError, layout};
use crate::transcoder::{
    self, Encoded, EncodedOutput, EncodedStill, EntryFile, TranscodeError, TranscodeRequest, disk,
};

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
    /// The job is completed.
    Completed,
    /// The attempt failed with this code.
    Failed(FailureCode),
    /// The attempt lost its lease: the job belongs to another worker, or no longer runs.
    Lost,
    /// The job was returned to the queue.
    Released,
}

/// Why an attempt ended early.
enum AttemptError {
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
    config: &'a WorkerConfig,
    queue: &'a Queue,
    storage: &'a Storage,
    fetcher: &'a Fetcher,
    job: Claimed,
    /// Ends the attempt: its lease is lost, or the worker has to leave.
    cancel: CancellationToken,
    /// Ends its work: for the same reasons, or because its deadline has passed.
    stop_work: CancellationToken,
    /// Whether its manifest may stand, so that its outputs may count.
    may_stand: AtomicBool,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(
        config: &'a WorkerConfig,
        queue: &'a Queue,
        storage: &'a Storage,
        fetcher: &'a Fetcher,
        job: Claimed,
        cancel: CancellationToken,
    ) -> Self {
        let stop_work = cancel.child_token();
        Self { config, queue, storage, fetcher, job, cancel, stop_work, may_stand: AtomicBool::new(false) }
    }

    /// Runs the attempt and reports its outcome.
    pub(crate) async fn run(self) -> AttemptOutcome {
        let ended = match self.job.verify.clone() {
            // Its attempts are used up: only the manifest is looked at.
            Some(failure) => Err(AttemptError::Failed(failure)),
            None => self.run_or_adopt().await,
        };
        match ended {
            Ok(committed) => self.complete(&committed).await,
            Err(AttemptError::Cancelled) => {
                self.remove_outputs().await;
                AttemptOutcome::Lost
            }
            Err(AttemptError::Failed(failure)) => self.fail(&failure).await,
            Err(AttemptError::Newer(version)) => self.hand_back(version).await,
        }
    }

    /// Leaves the job to workers of a newer version.
    async fn hand_back(&self, version: u32) -> AttemptOutcome {
        let id = self.job.attempt.job;
        tracing::warn!(job = %id, version, "the job's manifest is of a newer version of tcoder; upgrade this worker");
        self.remove_outputs().await;
        let call = || self.queue.release_after(self.job.attempt, NEWER_PAUSE);
        self.until_answered("release", call).await;
        AttemptOutcome::Lost
    }

    fn manifest(&self) -> ManifestStore<'_> {
        ManifestStore { storage: self.storage, attempt: self.job.attempt, born: self.job.born }
    }

    async fn run_or_adopt(&self) -> Result<Committed, AttemptError> {
        // An earlier attempt may have committed and died before it reported completion.
        if self.job.earlier
            && let Some(committed) = self.manifest().earlier_result().await?
        {
            tracing::info!(job = %self.job.attempt.job, by = %committed.epoch, "adopted the result of an earlier attempt");
            return Ok(committed);
        }
        let limit = Duration::from_secs(self.job.spec.deadline_seconds.into());
        let mut work = pin!(self.encode_and_commit());
        if let Ok(made) = tokio::time::timeout(limit, &mut work).await {
            return made;
        }
        if self.cancel.is_cancelled() {
            return Err(AttemptError::Cancelled);
        }
        self.stop_work.cancel();
        match tokio::time::timeout(CANCEL_GRACE, work).await {
            // It committed at the last moment.
            Ok(Ok(committed)) => Ok(committed),
            Ok(Err(_)) | Err(_) => Err(transcoder::ffmpeg::deadline_exceeded().into()),
        }
    }

    async fn encode_and_commit(&self) -> Result<Committed, AttemptError> {
        let folder = scratch::folder(&self.config.scratch)
            .map_err(|e| disk::trouble("make a folder for the job's files", &e))?;
        let free = disk::free(folder.path(), self.config.disk_bytes);
        let (input, out_dir) = (folder.path().join("input"), folder.path().join("out"));

        let began = Instant::now();
        self.fetch(&input, free).instrument(info_span!("fetch")).await?;
        let fetched = Instant::now();
        let encoded = self.transcode(&input, &out_dir).instrument(info_span!("encode")).await?;
        let transcoded = Instant::now();
        let prefix = layout::attempt_prefix(self.job.attempt)?;
        let quiet = Progress::none();
        let store = self.storage.upload_all(&prefix, &out_dir, &encoded.files, &quiet, &self.stop_work);
        store.instrument(info_span!("store")).await?;
        let timings = Timings {
            download_seconds: (fetched - began).as_secs_f64(),
            transcode_seconds: (transcoded - fetched).as_secs_f64(),
            upload_seconds: transcoded.elapsed().as_secs_f64(),
        };
        self.commit(result_of(encoded, &prefix, timings)?).instrument(info_span!("commit")).await
    }

    async fn fetch(&self, to: &Path, free: Option<u64>) -> Result<(), AttemptError> {
        let spec = &self.job.spec;
        let outputs = Outputs::of(spec.preset, &spec.output_qualities);
        let space = free.map(|free| Space { free, outputs });
        let limits = DownloadLimits { max_bytes: self.config.max_input_bytes, space };
        let tell = Progress::none();
        match &spec.input {
            Input::Key(key) => {
                self.storage.download(Bucket::Input, key, to, limits, &tell, &self.stop_work).await?
            }
            Input::Url(url) => self.fetcher.fetch(url, to, limits, &tell, &self.stop_work).await?,
        };
        Ok(())
    }

    async fn transcode(&self, input: &Path, out_dir: &Path) -> Result<Encoded, AttemptError> {
        let (percent, percents) = watch::channel(0.0);
        let on_progress = move |progress: transcoder::EncodeProgress| {
            percent.send_replace(progress.percent);
        };
        let transcode = transcoder::transcode(TranscodeRequest {
            input,
            out_dir,
            preset: self.job.spec.preset,
            ladder: &self.job.spec.output_qualities,
            stills: self.job.spec.stills,
            disk_bytes: self.config.disk_bytes,
            stall_timeout: self.config.stall_timeout,
            deadline: Duration::from_secs(self.job.spec.deadline_seconds.into()),
            cancel: self.stop_work.clone(),
            on_progress: &on_progress,
        });
        tokio::select! {
            done = transcode => Ok(done?),
            () = progress::publish(self.queue, self.job.attempt, percents) => {
                Err(Failure::new(FailureCode::Worker, "the encode's progress broke off").into())
            }
        }
    }

    /// Makes `result` that of the job, unless another attempt was first; then that one's counts.
    async fn commit(&self, result: JobResult) -> Result<Committed, AttemptError> {
        self.may_stand.store(true, Ordering::Relaxed);
        let verdict = self.manifest().commit(result).await?;
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
        let call = || self.queue.complete(&self.job, result, committed.epoch);
        match self.until_answered("completion", call).await {
            Some(CompleteOutcome::Done | CompleteOutcome::Already) => {
                let t = &result.timings;
                tracing::info!(
                    job = %id, %epoch, outputs = result.outputs.len(), speed = result.speed,
                    download = t.download_seconds, transcode = t.transcode_seconds, upload = t.upload_seconds,
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

    async fn fail(&self, failure: &Failure) -> AttemptOutcome {
        let span = Span::current();
        span.record("otel.status_code", "ERROR").record("otel.status_description", failure.message.as_str());
        span.record(attribute::ERROR_TYPE, failure.code.name());
        let AttemptId { job: id, epoch } = self.job.attempt;
        let told = match self.last_word(failure).await {
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
    async fn until_answered<T, F>(&self, report: &'static str, call: impl Fn() -> F) -> Option<T>
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
        if self.may_stand.load(Ordering::Relaxed) {
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

fn result_of(encoded: Encoded, prefix: &ObjectKey, timings: Timings) -> Result<JobResult, InvalidKey> {
    let outputs = encoded.outputs.into_iter();
    let outputs = outputs.map(|EncodedOutput { quality, file, info }| {
        Ok(Output { quality, key: prefix.join(&file)?, url: None, info })
    });
    let entries = encoded.entries.into_iter();
    let entries = entries
        .map(|EntryFile { kind, file }| Ok(EntryDocument { kind, key: prefix.join(&file)?, url: None }));
    Ok(JobResult {
        outputs: outputs.collect::<Result<_, _>>()?,
        entries: entries.collect::<Result<_, _>>()?,
        poster: encoded
            .poster
            .map(|still| {
                let EncodedStill { file, size, width, height } = still;
                Ok(Poster { key: prefix.join(&file)?, url: None, size, width, height })
            })
            .transpose()?,
        storyboard: encoded
            .storyboard
            .map(|board| {
                Ok(Storyboard {
                    key: prefix.join(&board.cues)?,
                    url: None,
                    image_key: prefix.join(&board.picture.file)?,
                    image_url: None,
                    size: board.picture.size,
                    width: board.width,
                    height: board.height,
                    columns: board.columns,
                    count: board.count,
                    interval: board.interval.into(),
                })
            })
            .transpose()?,
        skipped: encoded.skipped,
        source: encoded.source,
        timings,
        speed: encoded.speed,
        cpu_seconds: encoded.cpu_seconds,
        split: None,
    })
}
