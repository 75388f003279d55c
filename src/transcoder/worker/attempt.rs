//! One attempt at a job: download the input, transcode it, upload the outputs under a prefix of the attempt,
//! commit a manifest, report completion.
//!
//! Redis alone cannot guarantee that only one attempt's outputs count, because a failover may lose the last
//! second of writes. The commit is therefore an object that can be created only once (`If-None-Match: *`):
//! the attempt that creates it has won, and all others adopt its result.

use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_semantic_conventions::attribute;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, info_span};

use super::{progress, scratch};
use crate::config::WorkerConfig;
use crate::job::space::{Outputs, Space};
use crate::job::{
    AttemptId, EntryDocument, Epoch, Failure, FailureCode, Input, InvalidKey, JobResult, Millis, ObjectKey,
    Output, Poster, Storyboard, Timings,
};
use crate::queue::{Claimed, CompleteOutcome, FailOutcome, Queue};
use crate::storage::fetch::Fetcher;
use crate::storage::{Bucket, Limits, Progress, PutOutcome, Storage, StorageError, layout};
use crate::transcoder::{
    self, Encoded, EncodedOutput, EncodedStill, EntryFile, Request, TranscodeError, disk,
};

/// Maximum size of a manifest that is read, bytes.
const MANIFEST_LIMIT: u64 = 1 << 20;
/// Maximum number of older manifests that an attempt replaces before it gives up.
const REPLACEMENTS: u32 = 3;
/// How long an attempt past its deadline may take to stop, so that it leaves no partial upload.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// How long a finished attempt may clean up storage. It is shorter than the time the worker waits for it.
const CLEAR_UP: Duration = Duration::from_secs(5);

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job is completed.
    Completed,
    /// The attempt failed with this code.
    Failed(FailureCode),
    /// The attempt lost its lease: the job belongs to another worker, or no longer runs.
    Lost,
    /// The job was returned to the queue.
    Released,
}

/// The manifest that commits an attempt.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    epoch: Epoch,
    /// When the job was submitted: a job that is submitted again under the same id after its record expired
    /// is a different job.
    born: Millis,
    result: JobResult,
}

/// Why an attempt ended early.
enum AttemptError {
    Failed(Failure),
    Cancelled,
}

impl From<Failure> for AttemptError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
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

/// What an attempt needs.
pub struct Attempt<'a> {
    pub config: &'a WorkerConfig,
    pub queue: &'a Queue,
    pub storage: &'a Storage,
    pub fetcher: &'a Fetcher,
    pub job: Claimed,
    /// Cancels the attempt.
    pub cancel: CancellationToken,
    /// Whether its manifest may exist, so that its outputs may count.
    pub put: AtomicBool,
}

impl Attempt<'_> {
    /// Runs the attempt and reports its outcome.
    pub async fn run(self) -> Outcome {
        match self.run_or_adopt().await {
            Ok(result) => self.complete(&result).await,
            Err(AttemptError::Cancelled) => {
                self.remove_outputs().await;
                Outcome::Lost
            }
            Err(AttemptError::Failed(failure)) => self.fail(&failure).await,
        }
    }

    async fn run_or_adopt(&self) -> Result<JobResult, AttemptError> {
        // An earlier attempt may have committed and died before it reported completion.
        if self.job.earlier
            && let Some(manifest) = self.read_manifest().await?
            && manifest.born == self.job.born
        {
            tracing::info!(job = %self.job.attempt.job, by = %manifest.epoch, "adopted the result of an earlier attempt");
            return Ok(manifest.result);
        }
        let limit = Duration::from_secs(self.job.spec.deadline_seconds.into());
        let mut work = pin!(self.encode_and_commit());
        if let Ok(made) = tokio::time::timeout(limit, &mut work).await {
            return made;
        }
        if self.cancel.is_cancelled() {
            return Err(AttemptError::Cancelled);
        }
        self.cancel.cancel();
        match tokio::time::timeout(CANCEL_GRACE, work).await {
            // It committed at the last moment.
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) | Err(_) => Err(transcoder::ffmpeg::deadline_exceeded().into()),
        }
    }

    async fn encode_and_commit(&self) -> Result<JobResult, AttemptError> {
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
        let store = self.storage.upload_all(&prefix, &out_dir, &encoded.files, &quiet, &self.cancel);
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
        let limits = Limits { max_bytes: self.config.max_input_bytes, space };
        let tell = Progress::none();
        match &spec.input {
            Input::Key(key) => {
                self.storage.download(Bucket::Input, key, to, limits, &tell, &self.cancel).await?
            }
            Input::Url(url) => self.fetcher.fetch(url, to, limits, &tell, &self.cancel).await?,
        };
        Ok(())
    }

    async fn transcode(&self, input: &Path, out_dir: &Path) -> Result<Encoded, AttemptError> {
        let (percent, percents) = watch::channel(0.0);
        let on_progress = move |progress: transcoder::Progress| {
            percent.send_replace(progress.percent);
        };
        let transcode = transcoder::transcode(Request {
            input,
            out_dir,
            preset: self.job.spec.preset,
            ladder: &self.job.spec.output_qualities,
            stills: self.job.spec.stills,
            disk_bytes: self.config.disk_bytes,
            stall_timeout: self.config.stall_timeout,
            deadline: Duration::from_secs(self.job.spec.deadline_seconds.into()),
            cancel: self.cancel.clone(),
            on_progress: &on_progress,
        });
        tokio::select! {
            done = transcode => Ok(done?),
            () = progress::publish(self.queue, self.job.attempt, percents) => {
                Err(Failure::new(FailureCode::Worker, "the encode's progress broke off").into())
            }
        }
    }

    /// Commits `result`, or returns the result of the attempt that has already committed.
    async fn commit(&self, result: JobResult) -> Result<JobResult, AttemptError> {
        let key = layout::manifest_key(self.job.attempt.job)?;
        let manifest = Manifest { epoch: self.job.attempt.epoch, born: self.job.born, result };
        let json = serde_json::to_vec(&manifest)
            .map_err(|e| Failure::new(FailureCode::Worker, format!("the manifest cannot be written: {e}")))?;
        for _ in 0..=REPLACEMENTS {
            self.put.store(true, Ordering::Relaxed);
            let put = self.storage.put_if_absent(Bucket::Output, &key, json.clone(), "application/json");
            if put.await? == PutOutcome::Created {
                return Ok(manifest.result);
            }
            match self.read_manifest().await? {
                // Our own earlier request, whose answer was lost.
                Some(there) if there.epoch == self.job.attempt.epoch => return Ok(there.result),
                Some(winner) if winner.born == self.job.born => {
                    tracing::info!(job = %self.job.attempt.job, by = %winner.epoch, "another attempt committed its result first");
                    self.put.store(false, Ordering::Relaxed);
                    self.remove_outputs().await;
                    return Ok(winner.result);
                }
                // A younger job with the same id exists; the result of this one is no longer needed.
                Some(younger) if younger.born > self.job.born => {
                    self.put.store(false, Ordering::Relaxed);
                    return Err(AttemptError::Cancelled);
                }
                Some(older) => {
                    tracing::info!(job = %self.job.attempt.job, by = %older.epoch, "replacing the manifest of an older job with this id");
                    self.storage.delete(Bucket::Output, &key).await?;
                }
                None => {}
            }
        }
        let message = "the job's manifest comes and goes; is something else writing or deleting it?";
        Err(Failure::new(FailureCode::Storage, message).into())
    }

    async fn read_manifest(&self) -> Result<Option<Manifest>, AttemptError> {
        let key = layout::manifest_key(self.job.attempt.job)?;
        let Some(json) = self.storage.get_small(Bucket::Output, &key, MANIFEST_LIMIT).await? else {
            return Ok(None);
        };
        let manifest = serde_json::from_slice(&json).map_err(|_| {
            let message = format!("{key} in the output bucket is no manifest of this version; remove it");
            Failure::new(FailureCode::Storage, message)
        })?;
        Ok(Some(manifest))
    }

    async fn complete(&self, result: &JobResult) -> Outcome {
        let AttemptId { job: id, epoch } = self.job.attempt;
        match self.queue.complete(&self.job, result).await {
            Ok(CompleteOutcome::Done | CompleteOutcome::Already) => {
                let t = &result.timings;
                tracing::info!(
                    job = %id, %epoch, outputs = result.outputs.len(), speed = result.speed,
                    download = t.download_seconds, transcode = t.transcode_seconds, upload = t.upload_seconds,
                    "completed"
                );
                Outcome::Completed
            }
            Ok(CompleteOutcome::Lost(state)) => {
                tracing::warn!(job = %id, %epoch, ?state, "attempt finished after its lease was lost; its result is discarded");
                // Cancelled just before. Its files stay, because an attempt after a redrive may adopt them,
                // or already has.
                Outcome::Lost
            }
            Err(error) => {
                tracing::error!(job = %id, %error, "attempt finished but could not report completion; the next attempt adopts its result");
                Outcome::Lost
            }
        }
    }

    async fn fail(&self, failure: &Failure) -> Outcome {
        let span = Span::current();
        span.record("otel.status_code", "ERROR").record("otel.status_description", failure.message.as_str());
        span.record(attribute::ERROR_TYPE, failure.code.name());
        let AttemptId { job: id, epoch } = self.job.attempt;
        let told = self.queue.fail(&self.job, failure).await;
        // After the report, so that unreachable storage cannot delay it.
        self.remove_outputs().await;
        match told {
            Ok(FailOutcome::Retry(at)) => {
                tracing::warn!(job = %id, %epoch, code = ?failure.code, %failure, retry_at = %at, "attempt failed; the job is retried");
            }
            Ok(FailOutcome::Failed | FailOutcome::Already) => {
                tracing::warn!(job = %id, %epoch, code = ?failure.code, %failure, "failed");
            }
            Ok(FailOutcome::Lost(_)) => return Outcome::Lost,
            Err(error) => tracing::error!(job = %id, %error, "failed and could not say so"),
        }
        Outcome::Failed(failure.code)
    }

    /// Deletes what this attempt uploaded, unless its manifest may exist. Best effort: the objects are listed
    /// nowhere either way.
    async fn remove_outputs(&self) {
        if self.put.load(Ordering::Relaxed) {
            return;
        }
        let Ok(prefix) = layout::attempt_prefix(self.job.attempt) else { return };
        let removal = self.storage.delete_prefix(Bucket::Output, &prefix);
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
    })
}
