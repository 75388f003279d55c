//! A job that one worker does alone: download the input, transcode it, upload the outputs, commit them.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument as _, info_span};

use super::attempt::{Attempt, AttemptError};
use super::{progress, scratch};
use crate::job::space::{Outputs, Space};
use crate::job::{
    EntryDocument, Failure, FailureCode, Input, InvalidKey, JobResult, ObjectKey, Output, Poster, SplitInfo,
    Storyboard, Timings,
};
use crate::manifest::Committed;
use crate::storage::{Bucket, DownloadLimits, Progress, layout};
use crate::transcoder::{self, Encoded, EncodedOutput, EncodedStill, EntryFile, TranscodeRequest, disk};

impl Attempt<'_> {
    /// Downloads and encodes the video, stores the outputs, and commits them.
    pub(super) async fn encode_whole(&self, info: SplitInfo) -> Result<Committed, AttemptError> {
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
        self.commit(None, result_of(encoded, &prefix, timings, info)?).instrument(info_span!("commit")).await
    }

    async fn fetch(&self, to: &Path, free: Option<u64>) -> Result<(), AttemptError> {
        let spec = &self.job.spec;
        let outputs = Outputs::of(spec.preset, &spec.output_qualities);
        let space = free.map(|free| Space { free, outputs });
        let limits = DownloadLimits { max_bytes: self.config.max_input_bytes, space };
        let tell = Progress::none();
        match &spec.input {
            Input::Key(key) => {
                let version = &self.job.input_version;
                let stop = &self.stop_work;
                self.storage.download_version(Bucket::Input, key, version, to, limits, &tell, stop).await?
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
            input_limits: self.config.input_limits,
            disk_bytes: self.config.disk_bytes,
            stall_timeout: self.config.stall_timeout,
            deadline: Duration::from_secs(self.job.spec.deadline_seconds.into()),
            cancel: self.stop_work.clone(),
            on_progress: &on_progress,
        });
        tokio::select! {
            done = transcode => Ok(done?),
            () = progress::publish(self.queue, &self.job, percents) => {
                Err(Failure::new(FailureCode::Worker, "the encode's progress broke off").into())
            }
        }
    }
}

/// The result with these outputs, which are stored below `prefix`.
pub(super) fn result_of(
    encoded: Encoded,
    prefix: &ObjectKey,
    timings: Timings,
    split: SplitInfo,
) -> Result<JobResult, InvalidKey> {
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
        split: Some(split),
    })
}
