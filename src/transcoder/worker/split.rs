//! The attempts at a job that is encoded in parts: the one that splits it, and the one that finishes it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, AttemptError, Ended, Planned};
use super::input::{self, OpenInput, Opened};
use super::scratch;
use super::whole::result_of;
use crate::job::{
    AttemptId, Failure, FailureCode, Format, Input, Millis, ObjectKey, Parallelism, Part, SplitInfo, Timings,
};
use crate::queue::{NewPart, PartReports, SplitOutcome};
use crate::storage::{
    Bucket, CHANGING, ContentHeaders, DownloadLimits, Progress, PutCondition, Storage, StorageError,
    content_type, layout,
};
use crate::transcoder::split::{
    self, AudioReport, ChunkReport, FinishRequest, PartFiles, SplitDecision, SplitPlan,
};
use crate::transcoder::{TranscodeError, disk};

/// A smaller input is not split unless a number of chunks is asked for, bytes: it is downloaded and encoded by one
/// worker in less time than it takes to plan it.
const WORTH_IT: u64 = 8 << 20;
/// By how many milliseconds the place of each chunk in the queue is behind that of the one before, so that small jobs
/// pass large ones.
const BEHIND_MS: i64 = 2_000;
/// The maximum of that.
const MAX_BEHIND_MS: i64 = 600_000;

/// The plan of a job, as it is stored for the workers that encode its parts.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoredPlan {
    /// The version of the input that was planned.
    pub etag: String,
    /// The plan.
    pub plan: SplitPlan,
}

impl StoredPlan {
    /// Reads the plan of a claimed task.
    pub(crate) fn read(json: Option<&str>) -> Result<Self, Failure> {
        let unusable = |why: String| {
            let message = format!("the plan of the job cannot be read: {why}; retry the job");
            Failure::new(FailureCode::Worker, message)
        };
        let json = json.ok_or_else(|| unusable("there is none".into()))?;
        serde_json::from_str(json).map_err(|error| unusable(error.to_string()))
    }

    fn write(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(unwritable)
    }
}

/// What a part reports.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PartReport {
    Chunk(Box<ChunkReport>),
    Audio(AudioReport),
    /// It cannot be encoded by itself. The worker that finishes the job then encodes the whole.
    Failed(Failure),
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::new(FailureCode::Worker, format!("the plan of the job cannot be written: {error}"))
}

impl Attempt<'_> {
    /// Splits the job, if its video is worth it and can be split.
    pub(super) async fn plan(&self) -> Result<Planned, AttemptError> {
        let spec = &self.job.spec;
        let is_copied = spec.preset.format(&spec.output_qualities) == Format::Copy;
        if spec.parallelism == Parallelism::Chunks(1) || (is_copied && spec.parallelism.is_auto()) {
            return Ok(Planned::whole(None));
        }
        let id = self.job.attempt.job;
        // One that was opened for an earlier attempt may have been replaced since then.
        self.inputs.close().await;
        // The download finds out whether the input can be read at all, and says why not.
        let unreadable = |why: &dyn std::fmt::Display| {
            Ok(Planned::whole(Some(format!("the input could not be read by ranges: {why}"))))
        };
        let input = match self
            .inputs
            .open(self.storage, self.fetcher, id, &spec.input, input::connections(self.config))
            .await
        {
            Ok(Opened::Input(input)) => input,
            Ok(Opened::Whole(why)) => return Ok(Planned::whole(Some(why.to_owned()))),
            Err(failure) => return unreadable(&failure),
        };
        if matches!(spec.input, Input::Key(_)) {
            input.check_version(self.job.input_version.get_or_init(|| input.version().to_owned()))?;
        }
        if input.size() > self.config.max_input_bytes {
            return Err(StorageError::TooLarge { limit: self.config.max_input_bytes }.into());
        }
        if spec.parallelism.is_auto() && input.size() < WORTH_IT {
            self.inputs.close().await;
            return Ok(Planned::whole(None));
        }
        let decision = self.decide(&input).await;
        if let Err(failure) = input.check_complete() {
            return unreadable(&failure);
        }
        match decision? {
            SplitDecision::Split(plan) => self.split(&input, *plan).await,
            SplitDecision::Whole { because } => {
                self.inputs.close().await;
                Ok(Planned::whole(because))
            }
        }
    }

    async fn decide(&self, input: &OpenInput) -> Result<SplitDecision, AttemptError> {
        let spec = &self.job.spec;
        let source = tokio::select! {
            biased;
            () = self.stop_work.cancelled() => return Err(AttemptError::Cancelled),
            source = input.probe(&self.config.input_limits, spec.preset, &spec.output_qualities) => source?,
        };
        Ok(split::decide(&source, spec.preset, &spec.output_qualities, spec.stills, spec.parallelism)?)
    }

    async fn split(&self, input: &OpenInput, plan: SplitPlan) -> Result<Planned, AttemptError> {
        let attempt = self.job.attempt;
        let parts = new_parts(&plan, self.job.spec.parallelism);
        let prefix = layout::attempt_prefix(attempt)?;
        let documents = split::playing_documents(&plan)?.into_iter();
        futures::future::try_join_all(documents.map(|(file, text)| self.store_early(&prefix, file, text)))
            .await?;
        let json = StoredPlan { etag: input.etag().to_owned(), plan }.write()?;
        let call = || self.queue.split(attempt, &json, &parts);
        // From now on parts may store their outputs in this attempt's folder.
        self.may_stand.store(true, Ordering::Relaxed);
        match self.until_answered("split", call).await {
            Some(SplitOutcome::Split | SplitOutcome::Already) => {
                tracing::info!(job = %attempt.job, epoch = %attempt.epoch, parts = parts.len(), "job split");
                Ok(Planned::Split)
            }
            // Without an answer it is not known whether there are parts.
            Some(SplitOutcome::Lost(_)) | None => {
                self.abandon_split(Some(attempt)).await;
                Err(AttemptError::Cancelled)
            }
        }
    }

    /// Stores a playlist that is written once more when the job is finished.
    async fn store_early(&self, prefix: &ObjectKey, file: String, text: String) -> Result<(), AttemptError> {
        let key = prefix.join(&file)?;
        let headers =
            ContentHeaders { content_type: content_type(key.as_str()), cache_control: Some(CHANGING) };
        self.storage.put_if(PutCondition::Absent, Bucket::Output, &key, text.into_bytes(), headers).await?;
        Ok(())
    }

    /// Makes the result out of what the parts have stored, and commits it.
    pub(super) async fn finish(&self, split: AttemptId) -> Result<Ended, AttemptError> {
        let call = || self.queue.part_reports(split);
        // Without reports the job has ended.
        let reports = self.until_answered("reports", call).await.flatten().ok_or(AttemptError::Cancelled)?;
        let StoredPlan { plan, .. } = StoredPlan::read(Some(&reports.plan))?;
        let (chunks, audio) = match read_reports(&reports)? {
            Ok(reports) => reports,
            Err(failure) => return self.encode_whole_after(&failure).await,
        };
        let folder = scratch::folder(&self.config.scratch)
            .map_err(|e| disk::trouble("make a folder for the job's files", &e))?;
        let out_dir = folder.path().join("out");
        let parts_prefix = layout::attempt_prefix(split)?;
        let elapsed = elapsed(split, self.job.at);
        let began = tokio::time::Instant::now();
        let encoded = split::finish(FinishRequest {
            plan: &plan,
            chunks: &chunks,
            audio: audio.as_ref(),
            files: &StoredParts {
                storage: self.storage,
                prefix: &parts_prefix,
                max_bytes: self.config.max_input_bytes,
                cancel: &self.stop_work,
            },
            out_dir: &out_dir,
            elapsed,
            disk_bytes: self.config.disk_bytes,
            stall_timeout: self.config.stall_timeout,
            deadline: Duration::from_secs(self.job.spec.deadline_seconds.into()),
            cancel: &self.stop_work,
        })
        .await;
        let encoded = match encoded {
            Err(TranscodeError::Failed(failure)) if is_of_parts(&failure) => {
                return self.encode_whole_after(&failure).await;
            }
            encoded => encoded?,
        };
        let finished = tokio::time::Instant::now();
        // The segments of adaptive streaming stay where the parts have stored them; of other formats the parts' files are
        // only intermediate.
        let folder = (plan.format() == Format::Cmaf).then_some(split.epoch);
        let by = AttemptId { epoch: folder.unwrap_or(self.job.attempt.epoch), ..split };
        let prefix = layout::attempt_prefix(by)?;
        let quiet = Progress::none();
        self.storage.upload_all(&prefix, &out_dir, &encoded.files, &quiet, &self.stop_work).await?;
        let timings = Timings {
            download_seconds: 0.0,
            transcode_seconds: (elapsed + (finished - began)).as_secs_f64(),
            upload_seconds: finished.elapsed().as_secs_f64(),
        };
        let info = SplitInfo { chunks: plan.chunks.count(), whole_because: None };
        let committed = self.commit(folder, result_of(encoded, &prefix, timings, info)?).await?;
        Ok(Ended::Committed(Box::new(committed)))
    }

    /// Encodes the video as a whole, because its parts do not make one. If it is damaged, this says how.
    async fn encode_whole_after(&self, failure: &Failure) -> Result<Ended, AttemptError> {
        tracing::warn!(job = %self.job.attempt.job, %failure, "the parts of the video do not fit together; encoding it as a whole");
        let because = format!("its parts did not fit together: {}", failure.message);
        let info = SplitInfo { chunks: 1, whole_because: Some(because) };
        self.encode_whole(info).await.map(|made| Ended::Committed(Box::new(made)))
    }
}

/// The time between the split and now, both by Redis's clock. An epoch is the time of the claim.
fn elapsed(split: AttemptId, now: Millis) -> Duration {
    let began = i64::try_from(split.epoch.0).unwrap_or(i64::MAX);
    Duration::from_millis(u64::try_from(now.0.saturating_sub(began)).unwrap_or(0))
}

/// The parts of a video. The sound and the first chunk come first, with which players can begin.
fn new_parts(plan: &SplitPlan, parallelism: Parallelism) -> Vec<NewPart> {
    let at_once = match parallelism {
        Parallelism::Auto => u32::MAX,
        Parallelism::Chunks(number) => number.into(),
    };
    let chunks = (0..plan.chunks.count()).map(|number| NewPart {
        part: Part::Chunk(number),
        behind_ms: (i64::from(number) * BEHIND_MS).min(MAX_BEHIND_MS),
        segments: Some(u32::try_from(plan.chunks.segments_of(number).len()).unwrap_or(u32::MAX)),
        is_held_back: number >= at_once,
    });
    let audio = NewPart { part: Part::Audio, behind_ms: 0, segments: None, is_held_back: false };
    let audio = plan.has_streams().then_some(audio);
    audio.into_iter().chain(chunks).collect()
}

/// Whether a failure may be one of encoding a video in parts: an encode of the whole may succeed. A gap between two
/// frames that is longer than a chunk looks like the end of the file to the chunk.
fn is_of_parts(failure: &Failure) -> bool {
    matches!(
        failure.code,
        FailureCode::InvalidMedia | FailureCode::UnsupportedMedia | FailureCode::EncodeFailed
    )
}

/// The reports of all parts, or why one of them could not be encoded.
#[expect(clippy::type_complexity, reason = "the reports are taken apart at once")]
fn read_reports(
    reports: &PartReports,
) -> Result<Result<(Vec<ChunkReport>, Option<AudioReport>), Failure>, Failure> {
    let unusable = |part: Part, error: serde_json::Error| {
        let message = format!("the report of {part} cannot be read: {error}; retry the job");
        Failure::new(FailureCode::Worker, message)
    };
    let (mut chunks, mut audio) = (Vec::new(), None);
    for (part, json) in &reports.reports {
        match serde_json::from_str(json).map_err(|e| unusable(*part, e))? {
            PartReport::Chunk(report) => chunks.push(*report),
            PartReport::Audio(report) => audio = Some(report),
            PartReport::Failed(failure) => return Ok(Err(failure)),
        }
    }
    Ok(Ok((chunks, audio)))
}

/// The files that the parts have stored.
struct StoredParts<'a> {
    storage: &'a Storage,
    prefix: &'a ObjectKey,
    max_bytes: u64,
    cancel: &'a CancellationToken,
}

impl PartFiles for StoredParts<'_> {
    fn fetch<'a>(&'a self, file: &'a str, to: &'a Path) -> BoxFuture<'a, Result<(), TranscodeError>> {
        async move {
            let failed = |error: StorageError| match error {
                StorageError::Cancelled => TranscodeError::Cancelled,
                error => TranscodeError::Failed(error.into()),
            };
            let key = self.prefix.join(file).map_err(|error| {
                TranscodeError::Failed(Failure::new(FailureCode::Worker, error.to_string()))
            })?;
            let (limits, quiet) = (DownloadLimits::from(self.max_bytes), Progress::none());
            let done = self.storage.download(Bucket::Output, &key, to, limits, &quiet, self.cancel).await;
            done.map(drop).map_err(failed)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcoder::split::RungReport;

    #[test]
    fn report_of_a_chunk_has_its_segments_where_await_segment_lua_looks_for_them() {
        let rung = RungReport {
            quality: "360p".parse().unwrap(),
            init_sha256: String::new(),
            init_bytes: 1,
            codec: String::new(),
            timescale: 1,
            frames: 1,
            first: 0.0,
            last: 0.0,
            segments: vec![],
        };
        let report = ChunkReport { chunk: 3, rungs: vec![rung], cpu_seconds: 0.0 };
        let json = serde_json::to_value(PartReport::Chunk(Box::new(report))).unwrap();
        assert!(json["chunk"]["rungs"][0]["segments"].is_array(), "{json}");
    }
}
