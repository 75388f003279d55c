//! Encodes the parts of split jobs, several at once: a part uses about one core.
//!
//! A worker has `WORKER_CHUNKS` slots, and one more for a part that a viewer waits for, because all others may be in the
//! middle of long chunks. The runs of FFmpeg for other chunks leave the processor to this one.
//!
//! Segments are stored while later ones are encoded. Beside the parts, the sound around a viewer's chunk is encoded
//! (`preview`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, AttemptError, AttemptOutcome};
use super::input::{self, Opened};
use super::lifetime::WorkerLifetime;
use super::split::{PartReport, StoredPlan};
use super::{ClaimNext, Worker, scratch};
use crate::job::{AttemptId, Failure, FailureCode, Format, JobId, ObjectKey, Part};
use crate::queue::{Claim, Claimable, Claimed, PartOutcome, PartsInfo};
use crate::storage::{Progress, StorageError, content_type, key_below, layout};
use crate::transcoder::split::{self, PartRequest, SegmentSink, SplitPlan};
use crate::transcoder::{TranscodeError, disk};

/// Minimum time between two reports about the sound, after the first.
const TELL_EVERY: Duration = Duration::from_secs(3);

impl Worker {
    /// Encodes a part and then others, as long as one is next in the queue; at most `WORKER_CHUNKS` at once, and one that
    /// a viewer waits for. Returns the outcomes by which the worker counts its failures.
    pub(super) async fn work_on_parts(
        &self,
        first: Claimed,
        life: &WorkerLifetime,
        stop: &CancellationToken,
    ) -> Vec<(JobId, AttemptOutcome)> {
        let others = (1..self.config.chunks).map(|_| None);
        let slots = std::iter::once(Some(first)).chain(others);
        let slots = slots.map(|first| self.slot(first, Claimable::Part, life, stop));
        let slots = slots.collect::<FuturesUnordered<_>>().collect::<Vec<_>>();
        let (have_ended, all_have_ended) = (CancellationToken::new(), CancellationToken::new());
        let parts = async {
            let slots = slots.inspect(|_| have_ended.cancel());
            let outcomes = tokio::join!(slots, self.slot_for_viewers(life, stop, &have_ended));
            all_have_ended.cancel();
            outcomes
        };
        let ((outcomes, of_viewers), ()) = tokio::join!(parts, self.make_previews(stop, &all_have_ended));
        self.inputs.close().await;
        outcomes.into_iter().flatten().chain(of_viewers).collect()
    }

    /// Encodes parts that viewers wait for, until the other slots have ended.
    async fn slot_for_viewers(
        &self,
        life: &WorkerLifetime,
        stop: &CancellationToken,
        others_have_ended: &CancellationToken,
    ) -> Vec<(JobId, AttemptOutcome)> {
        let (mut bell, mut outcomes) = (None, Vec::new());
        let limit = self.queue.policy().bell_wait;
        while goes_on(life, stop) {
            tokio::select! {
                biased;
                () = others_have_ended.cancelled() => break,
                () = stop.cancelled() => break,
                _ = self.wait_for(&mut bell, limit, async |queue| queue.wait_for_awaited_part(limit).await) => {}
            }
            outcomes.extend(self.slot(None, Claimable::AwaitedPart, life, stop).await);
        }
        outcomes
    }

    /// Encodes one part after the other. Ends with the first one that is not completed, or when none is next.
    async fn slot(
        &self,
        first: Option<Claimed>,
        claimable: Claimable,
        life: &WorkerLifetime,
        stop: &CancellationToken,
    ) -> Option<(JobId, AttemptOutcome)> {
        let mut job = match first {
            Some(job) => job,
            None => self.claim_part(claimable).await?,
        };
        loop {
            let goes_on = goes_on(life, stop);
            let next = goes_on.then_some(ClaimNext { worker: self, claimable });
            let id = job.attempt.job;
            let (outcome, next) = self.process(job, stop, next).await;
            if outcome != AttemptOutcome::Completed || !goes_on || stop.is_cancelled() {
                // A part that was claimed with the completion is the next one's, whatever ends this slot.
                if let Some(Claim::Job(next)) = next {
                    let lease = next.lease();
                    let released = tokio::time::timeout(super::LET_GO, self.queue.release(lease)).await;
                    if !matches!(released, Ok(Ok(_))) {
                        tracing::warn!(job = %lease.job, "could not release a part; it is requeued when its lease expires");
                    }
                }
                return Some((id, outcome));
            }
            job = match next {
                Some(Claim::Job(next)) => {
                    self.clock.set(next.at);
                    *next
                }
                Some(_) => return Some((id, outcome)),
                None => match self.claim_part(claimable).await {
                    Some(next) => next,
                    None => return Some((id, outcome)),
                },
            };
        }
    }

    async fn claim_part(&self, claimable: Claimable) -> Option<Claimed> {
        match self.queue.claim_only(&self.id, self.clock.now(), claimable).await {
            Ok(Claim::Job(job)) => {
                self.clock.set(job.at);
                Some(*job)
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(worker = %self.id, %error, "could not claim a part");
                None
            }
        }
    }
}

/// Whether a worker claims another part.
fn goes_on(life: &WorkerLifetime, stop: &CancellationToken) -> bool {
    !stop.is_cancelled() && life.reason_to_leave(std::time::Instant::now()).is_none()
}

impl Attempt<'_> {
    /// Encodes and stores the part, reports it, and claims the next one with the report.
    pub(super) async fn run_part(
        self,
        part: Part,
        next: Option<ClaimNext<'_>>,
    ) -> (AttemptOutcome, Option<Claim>) {
        let made = match self.job.verify.clone() {
            // Its attempts are used up.
            Some(failure) => Err(AttemptError::Failed(failure)),
            None => self.within_deadline(self.encode_part(part)).await,
        };
        match made {
            Ok((report, parts)) => self.complete_part(part, &report, parts, next).await,
            Err(AttemptError::Failed(failure))
                if may_pass_as_whole(&failure)
                    && self.job.is_last(&failure)
                    && !self.job.ends_job(&failure) =>
            {
                (self.give_up(&failure).await, None)
            }
            Err(AttemptError::Cancelled) => {
                self.abandon_split(self.job.split).await;
                (AttemptOutcome::Lost, None)
            }
            Err(AttemptError::Failed(failure)) => (self.fail(&failure).await, None),
            Err(AttemptError::Newer(version)) => (self.hand_back(version).await, None),
        }
    }

    /// Has the janitor delete what was stored for a split of which the job knows nothing any more.
    pub(super) async fn abandon_split(&self, split: Option<AttemptId>) {
        let Some(split) = split else { return };
        if let Err(error) = self.queue.abandon_split(split).await {
            tracing::warn!(job = %self.job.attempt.job, %error, "could not have the outputs of a lost part deleted");
        }
    }

    /// Reports that the part cannot be encoded by itself, so that the whole is encoded.
    pub(super) async fn give_up(&self, failure: &Failure) -> AttemptOutcome {
        let id = self.job.attempt.job;
        tracing::warn!(job = %id, part = ?self.job.part, %failure, "the part cannot be encoded by itself; the video is encoded as a whole");
        let report = match write(&PartReport::Failed(failure.clone())) {
            Ok(report) => report,
            Err(failure) => return AttemptOutcome::Failed(failure.code),
        };
        let told = self.until_answered("failure of a part", || self.queue.give_up_part(&self.job, &report));
        match told.await {
            Some(true) => AttemptOutcome::Failed(failure.code),
            Some(false) | None => AttemptOutcome::Lost,
        }
    }

    /// The report of the part, after its files are stored.
    async fn encode_part(&self, part: Part) -> Result<(String, PartsInfo), AttemptError> {
        let StoredPlan { etag, plan } = StoredPlan::read(self.job.plan.as_deref())?;
        let split = self.job.split.ok_or(AttemptError::Cancelled)?;
        let spec = &self.job.spec;
        let id = self.job.attempt.job;
        let connections = input::connections(self.config);
        let input = match self.inputs.open(self.storage, self.fetcher, id, &spec.input, connections).await? {
            Opened::Input(input) => input,
            Opened::Whole(why) => {
                let message = format!("the input can no longer be read in parts: {why}");
                return Err(Failure::new(FailureCode::Storage, message).into());
            }
        };
        input.check_version(&etag)?;
        let folder = scratch::folder(&self.config.scratch)
            .map_err(|e| disk::trouble("make a folder for the part's files", &e))?;
        let out_dir = folder.path().join("out");
        let prefix = layout::attempt_prefix(split)?;
        let early = StoredSegments {
            attempt: self,
            prefix: &prefix,
            is_sound: part == Part::Audio,
            stored: Mutex::default(),
        };
        let request = PartRequest {
            plan: &plan,
            input: input.media(),
            out_dir: &out_dir,
            disk_bytes: scratch::share_of_a_part(self.config),
            stall_timeout: self.config.stall_timeout,
            deadline: Duration::from_secs(spec.deadline_seconds.into()),
            // Players begin with the first chunk. The sound is far ahead even beside it.
            is_urgent: self.job.is_awaited || part == Part::Chunk(0),
            cancel: &self.stop_work,
            sink: Some(&early),
        };
        let made = match part {
            Part::Chunk(number) => {
                let made = split::encode_chunk(number, &request).await;
                made.map(|report| (report.files(), PartReport::Chunk(Box::new(report))))
            }
            Part::Audio => {
                let made = split::encode_audio(&request).await;
                made.map(|report| (report.files(), PartReport::Audio(report)))
            }
        };
        if !matches!(made, Err(TranscodeError::Cancelled)) {
            input.check_complete()?;
        }
        let (files, report) = made?;
        let stored = early.stored.into_inner().unwrap_or_else(PoisonError::into_inner).files;
        let files: Vec<PathBuf> = files.into_iter().filter(|file| !stored.contains(file)).collect();
        self.storage.upload_all(&prefix, &out_dir, &files, &Progress::none(), &self.stop_work).await?;
        Ok((write(&report)?, parts_info(&plan)))
    }

    async fn complete_part(
        &self,
        part: Part,
        report: &str,
        parts: PartsInfo,
        next: Option<ClaimNext<'_>>,
    ) -> (AttemptOutcome, Option<Claim>) {
        let (id, began) = (self.job.attempt.job, Instant::now());
        let call = || self.queue.complete_part(&self.job, report, parts, next.map(ClaimNext::as_of_now));
        match self.until_answered("completion of a part", call).await {
            Some((PartOutcome::Done | PartOutcome::Already, claim)) => {
                tracing::info!(job = %id, %part, "part completed");
                (AttemptOutcome::Completed, claim)
            }
            Some((PartOutcome::Lost, claim)) => {
                tracing::warn!(job = %id, %part, "the part was encoded after its lease was lost");
                self.abandon_split(self.job.split).await;
                (AttemptOutcome::Lost, claim)
            }
            None => {
                tracing::error!(job = %id, %part, waited = began.elapsed().as_secs_f64(), "could not report the completion of a part; it is encoded again");
                (AttemptOutcome::Lost, None)
            }
        }
    }
}

/// Stores the segments of a part while later ones are encoded.
struct StoredSegments<'a, 'w> {
    attempt: &'a Attempt<'w>,
    prefix: &'a ObjectKey,
    /// Whether Redis is told how many there are. Whether one of a chunk is there is looked up in storage.
    is_sound: bool,
    stored: Mutex<Stored>,
}

#[derive(Default)]
struct Stored {
    files: BTreeSet<PathBuf>,
    /// Whether an earlier file is missing.
    has_gap: bool,
    /// When Redis was last told.
    told: Option<Instant>,
}

impl StoredSegments<'_, '_> {
    async fn store(&self, folder: &Path, file: &Path) -> Result<(), StorageError> {
        let key = key_below(self.prefix, file)?;
        let Attempt { storage, stop_work, .. } = self.attempt;
        let (kind, quiet) = (content_type(key.as_str()), Progress::none());
        storage.upload(&key, &folder.join(file), kind, &quiet, stop_work).await.map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of segments of the sound that Redis is to be told now.
    fn to_tell(&self) -> Option<u32> {
        let mut stored = self.lock();
        // Only what is there from the beginning on is told.
        let is_due =
            self.is_sound && !stored.has_gap && stored.told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if is_due {
            stored.told = Some(Instant::now());
        }
        // One of the files is the header.
        is_due.then(|| u32::try_from(stored.files.len() - 1).unwrap_or(u32::MAX))
    }
}

impl SegmentSink for StoredSegments<'_, '_> {
    fn take<'a>(&'a self, folder: &'a Path, files: Vec<PathBuf>) -> BoxFuture<'a, ()> {
        async move {
            let Attempt { queue, job, .. } = self.attempt;
            let id = job.attempt.job;
            for file in files {
                if let Err(error) = self.store(folder, &file).await {
                    tracing::warn!(job = %id, %error, "could not store a segment yet");
                    self.lock().has_gap = true;
                    return;
                }
                self.lock().files.insert(file);
            }
            let Some(segments) = self.to_tell() else { return };
            if let Err(error) = queue.report_sound(job, segments).await {
                tracing::debug!(job = %id, %error, "could not report segments of the sound");
            }
        }
        .boxed()
    }
}

fn write(report: &PartReport) -> Result<String, Failure> {
    serde_json::to_string(report).map_err(|error| {
        Failure::new(FailureCode::Worker, format!("the report of a part cannot be written: {error}"))
    })
}

/// Whether an encode of the whole may succeed, or say what is wrong with the file: a server that refuses many connections
/// may serve one, and a gap between two frames looks like the end of the file to a chunk.
fn may_pass_as_whole(failure: &Failure) -> bool {
    let is_of_the_worker =
        matches!(failure.code, FailureCode::WorkerLost | FailureCode::FfmpegCrashed | FailureCode::DiskFull);
    !is_of_the_worker && failure.code != FailureCode::DeadlineExceeded
}

fn parts_info(plan: &SplitPlan) -> PartsInfo {
    let count = plan.chunks.count() as usize + usize::from(plan.has_streams());
    PartsInfo { count, can_play: plan.format() == Format::Cmaf }
}
