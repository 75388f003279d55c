//! From a local file to verified renditions in a local folder: probe, plan, run, verify.
//!
//! | part | what it does |
//! |---|---|
//! | `ffprobe` | asks ffprobe about a file, hardened and bounded |
//! | [`probe`] | chooses the picture and the sound, refuses what is no video (pure) |
//! | `ladder`, `stills`, [`plan`] | sizes, rungs, poster and storyboard, and the one FFmpeg argument list (pure) |
//! | `ffmpeg`, `diagnose` | the FFmpeg process: headway, cancelling, stalls; what its errors mean |
//! | `format` | one file for each output format: its part of the plan, its files, the documents that players open |
//! | `verify`, `playlist` | every output is read back before it counts |
//! | `estimate`, `disk` | how large the outputs will be (pure), and the free space of a folder's disk |
//! | `preflight` | which FFmpeg is installed |
//!
//! | [`worker`] | the worker's loop, the only part that knows the queue and storage |

mod diagnose;
mod disk;
mod estimate;
mod ffmpeg;
mod ffprobe;
mod format;
mod ladder;
mod lines;
pub mod plan;
mod playlist;
mod preflight;
pub mod probe;
mod reference;
mod stills;
mod verify;
pub mod worker;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::job::space::{self, DiskFull};
use crate::job::{
    EntryKind, Failure, FailureCode, Label, Ladder, Preset, RenditionInfo, Skipped, SourceInfo, Stills,
};

pub use format::references;
pub use preflight::{ToolVersions, check_tools};
pub use reference::Reference;

/// One file to transcode.
pub struct Request<'a> {
    /// The video, a plain file.
    pub input: &'a Path,
    /// Where the outputs go. Made when it is not there; what is in it already stays untouched.
    pub out_dir: &'a Path,
    /// What kind of outputs.
    pub preset: Preset,
    /// Which renditions; empty leaves it to the preset.
    pub ladder: &'a Ladder,
    /// Which stills beside them.
    pub stills: Stills,
    /// Bytes that the input and the outputs may take together; none: as many as the disk has free.
    pub disk_bytes: Option<u64>,
    /// FFmpeg without headway for this long is killed.
    pub stall_timeout: Duration,
    /// The whole may take this long.
    pub deadline: Duration,
    /// Ends the work, with nothing left behind.
    pub cancel: CancellationToken,
    /// Told about headway, about twice a second.
    pub on_progress: &'a (dyn Fn(Progress) + Send + Sync),
}

/// How far the encode is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// 0 to 100; never goes back. Stays 0 while the source's length is unknown.
    pub percent: f64,
    /// Seconds of video made in a second.
    pub speed: Option<f64>,
    /// How much of the video is made.
    pub out_time: Duration,
    /// Frames made.
    pub frame: u64,
}

/// What came out: every output read back and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The renditions, large to small.
    pub outputs: Vec<EncodedOutput>,
    /// The documents over all of them, in the order in which a client reads of them.
    pub entries: Vec<EntryFile>,
    /// The still of the beginning.
    pub poster: Option<EncodedStill>,
    /// The stills of the whole length.
    pub storyboard: Option<EncodedBoard>,
    /// All files, relative to the output folder, in the order in which to store them: what a
    /// playlist names comes before it.
    pub files: Vec<PathBuf>,
    /// What was asked for and not made.
    pub skipped: Vec<Skipped>,
    /// What the input is.
    pub source: SourceInfo,
    /// Seconds of video a second of encoding made.
    pub speed: f64,
    /// CPU seconds FFmpeg took.
    pub cpu_seconds: f64,
}

/// A document that players open to play all renditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryFile {
    /// Which kind of document.
    pub kind: EntryKind,
    /// Its file, relative to the output folder.
    pub file: String,
}

/// One rendition in the output folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EncodedOutput {
    /// Which rendition.
    pub quality: Label,
    /// Its file or playlist, relative to the output folder, with `/` between the parts.
    pub file: String,
    /// What it is.
    #[serde(flatten)]
    pub info: RenditionInfo,
}

/// A picture in the output folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedStill {
    /// Its file, relative to the output folder.
    pub file: String,
    /// Bytes.
    pub size: u64,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// A storyboard in the output folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBoard {
    /// The picture with all its stills.
    pub picture: EncodedStill,
    /// The WebVTT, relative to the output folder.
    pub cues: String,
    /// Pixels across of one still.
    pub width: u32,
    /// Pixels down of one still.
    pub height: u32,
    /// Stills in a row.
    pub columns: u32,
    /// How many.
    pub count: u32,
    /// Seconds from one to the next.
    pub interval: u32,
}

/// Nothing came out, and nothing is left in the output folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranscodeError {
    /// It failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The token was cancelled.
    #[error("the transcode was cancelled")]
    Cancelled,
}

/// Transcodes one file.
///
/// FFmpeg writes into a folder of its own inside `out_dir`; its files move up once all of them are
/// verified. So a failure, a cancelled token or a dropped future leaves nothing.
///
/// # Errors
/// [`TranscodeError::Cancelled`] when the token was cancelled, else the [`Failure`].
pub async fn transcode(request: Request<'_>) -> Result<Encoded, TranscodeError> {
    let far = Duration::from_secs(30 * 24 * 3600);
    let deadline = Instant::now() + request.deadline.min(far);
    let made = !request.out_dir.exists();
    std::fs::create_dir_all(request.out_dir).map_err(|e| disk::trouble("make the output folder", &e))?;
    let result = attempt(&request, deadline).await;
    if result.is_err() && made {
        // Only an empty folder goes, so nothing of anybody else's can be lost.
        let _ = std::fs::remove_dir(request.out_dir);
    }
    result
}

async fn attempt(request: &Request<'_>, deadline: Instant) -> Result<Encoded, TranscodeError> {
    let input = std::path::absolute(request.input).map_err(|e| disk::trouble("find the input", &e))?;
    let source = bounded(request, deadline, probe::probe(&input)).await??;
    let plan = plan::plan(&source, request.preset, request.ladder, request.stills)?;
    refuse_overwriting(request.out_dir, &plan)?;
    let space = space_for(request, &plan, &source)?;

    let work = tempfile::Builder::new()
        .prefix(".tcoder-")
        .tempdir_in(request.out_dir)
        .map_err(|e| disk::trouble("write to the output folder", &e))?;
    for folder in plan.folders() {
        std::fs::create_dir_all(work.path().join(folder)).map_err(|e| disk::trouble("make a folder", &e))?;
    }
    tracing::debug!(preset = %request.preset, outputs = plan.outputs.len(), "encoding");
    let run = ffmpeg::FfmpegRun {
        arguments: plan.arguments(&input),
        folder: work.path(),
        input: &input,
        source: &source,
        space,
        disk_bytes: outputs_limit(request, &source),
        stall_timeout: request.stall_timeout,
        deadline,
        cancel: &request.cancel,
        on_progress: request.on_progress,
    };
    let finished = run.finish().await?;
    let verified = bounded(request, deadline, verify::verify(work.path(), &source, &plan)).await?;
    // FFmpeg's HLS muxer ends well on a full disk; what it could not write is missing all the same.
    let verified = verified.map_err(|e| {
        if disk::is_full(work.path(), outputs_limit(request, &source)) { space.into() } else { e }
    })?;
    publish(work.path(), request.out_dir)?;

    let length = verified.outputs.first().map_or(0.0, |o| o.info.duration);
    Ok(Encoded {
        outputs: verified.outputs,
        entries: plan.entries,
        poster: verified.poster,
        storyboard: verified.storyboard,
        files: verified.files,
        skipped: plan.skipped,
        source: source.info(),
        speed: length / finished.wall.as_secs_f64().max(0.001),
        cpu_seconds: finished.cpu_seconds,
    })
}

/// Waits for `work` until the token is cancelled or the deadline has come.
async fn bounded<T>(
    request: &Request<'_>,
    deadline: Instant,
    work: impl Future<Output = T>,
) -> Result<T, TranscodeError> {
    tokio::select! {
        biased;
        () = request.cancel.cancelled() => Err(TranscodeError::Cancelled),
        () = tokio::time::sleep_until(deadline) => Err(ffmpeg::deadline_exceeded().into()),
        done = work => Ok(done),
    }
}

/// Bytes that the outputs may have, where that is limited: the input has its part of the limit already.
fn outputs_limit(request: &Request<'_>, source: &probe::Probe) -> Option<u64> {
    request.disk_bytes.map(|limit| limit.saturating_sub(source.size))
}

/// What the outputs need and what is free.
///
/// # Errors
/// When they do not fit.
fn space_for(request: &Request<'_>, plan: &plan::Plan, source: &probe::Probe) -> Result<DiskFull, Failure> {
    let needed = space::needed(0, estimate::output_bytes(plan, source, request.preset));
    let limit = outputs_limit(request, source);
    let space = DiskFull { needed, free: disk::free(request.out_dir, limit) };
    if space.free.is_some_and(|free| needed > free) { Err(space.into()) } else { Ok(space) }
}

fn refuse_overwriting(out_dir: &Path, plan: &plan::Plan) -> Result<(), Failure> {
    let taken = plan.top_level().into_iter().find(|name| out_dir.join(name).symlink_metadata().is_ok());
    match taken {
        Some(name) => Err(Failure::new(
            FailureCode::Worker,
            format!("the output folder already has a {name}; remove it or choose another folder"),
        )),
        None => Ok(()),
    }
}

/// Moves everything up; on trouble takes back what was moved.
fn publish(work: &Path, out_dir: &Path) -> Result<(), Failure> {
    let mut moved: Vec<PathBuf> = Vec::new();
    let result = (|| {
        for entry in std::fs::read_dir(work)? {
            let entry = entry?;
            let target = out_dir.join(entry.file_name());
            std::fs::rename(entry.path(), &target)?;
            moved.push(target);
        }
        Ok(())
    })();
    result.map_err(|e: std::io::Error| {
        for path in moved {
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }
        disk::trouble("move the outputs to their folder", &e)
    })
}
