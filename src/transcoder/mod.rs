//! Transcodes a local file to verified renditions in a local folder: probe, plan, run, verify.
//!
//! | part | what it does |
//! |---|---|
//! | [`input`] | where FFmpeg and ffprobe read a video from |
//! | `program` | FFmpeg's programs as child processes, each in a sandbox |
//! | `ffprobe` | runs ffprobe on a file, hardened and bounded |
//! | `codecs` | the codecs that are decoded |
//! | [`probe`] | selects the video and audio stream, rejects files without video (pure) |
//! | [`copied`] | decides whether a rendition takes the source's picture as it is |
//! | `ladder`, `stills`, [`plan`] | sizes, rungs, poster and storyboard, and FFmpeg's arguments (pure) |
//! | `ffmpeg`, `diagnose` | runs FFmpeg: progress, cancellation, stalls; translates its errors |
//! | `format` | one file for each output format: its part of the plan, its files, its entry documents |
//! | `verify`, `playlist` | reads every output back before it counts |
//! | `estimate`, `disk` | the size of the outputs (pure), and the free space of a folder's disk |
//! | `preflight` | checks the installed FFmpeg |
//! | [`split`] | encodes one video in parts on several workers |
//! | [`worker`] | the worker's loop, the only part that uses the queue and storage |

mod codecs;
pub mod copied;
mod diagnose;
mod disk;
mod estimate;
mod ffmpeg;
mod ffprobe;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod input;
mod ladder;
mod lines;
pub mod plan;
mod playlist;
mod preflight;
pub mod probe;
mod program;
mod reference;
pub mod split;
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
    EntryKind, Failure, FailureCode, InputLimits, Label, Ladder, Preset, RenditionInfo, Skipped, SourceInfo,
    Stills,
};

use input::MediaInput;

pub use format::references;
pub use preflight::{Tools, check_tools};
pub use reference::Reference;

/// The parameters of a transcode.
pub struct TranscodeRequest<'a> {
    /// The video, a regular file.
    pub input: &'a Path,
    /// The folder for the outputs. It is created if it does not exist; existing files in it are not touched.
    pub out_dir: &'a Path,
    /// The kind of outputs.
    pub preset: Preset,
    /// The renditions; if empty, the preset decides.
    pub ladder: &'a Ladder,
    /// The stills to create besides the renditions.
    pub stills: Stills,
    /// What the input may have at most, besides its size.
    pub input_limits: InputLimits,
    /// Maximum size of the input and the outputs together, bytes; `None` means all the free space of the
    /// disk.
    pub disk_bytes: Option<u64>,
    /// FFmpeg is killed after this long without progress.
    pub stall_timeout: Duration,
    /// Maximum duration of the whole transcode.
    pub deadline: Duration,
    /// Cancels the transcode, which leaves no files behind.
    pub cancel: CancellationToken,
    /// Called about twice a second with the progress.
    pub on_progress: &'a (dyn Fn(EncodeProgress) + Send + Sync),
}

/// The progress of an encode.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EncodeProgress {
    /// 0 to 100, never decreasing. Stays 0 while the duration of the source is unknown.
    pub percent: f64,
    /// Seconds of video encoded per second.
    pub speed: Option<f64>,
    /// Duration of the video encoded so far.
    pub out_time: Duration,
    /// Number of frames encoded so far.
    pub frame: u64,
}

/// The outputs of a transcode, all of them read back and verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The renditions, largest first.
    pub outputs: Vec<EncodedOutput>,
    /// The entry documents, in the order in which clients list them.
    pub entries: Vec<EntryFile>,
    /// The poster.
    pub poster: Option<EncodedStill>,
    /// The storyboard.
    pub storyboard: Option<EncodedBoard>,
    /// All files, relative to the output folder, in the order in which to upload them: files that a playlist
    /// refers to come before it.
    pub files: Vec<PathBuf>,
    /// Requested renditions that were not made.
    pub skipped: Vec<Skipped>,
    /// Properties of the input.
    pub source: SourceInfo,
    /// Seconds of video encoded per second.
    pub speed: f64,
    /// CPU seconds that FFmpeg used.
    pub cpu_seconds: f64,
}

/// A document that players open to play all renditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryFile {
    /// Which kind of document.
    pub kind: EntryKind,
    /// The file, relative to the output folder.
    pub file: String,
}

/// One rendition in the output folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EncodedOutput {
    /// Which rendition.
    pub quality: Label,
    /// The file or playlist, relative to the output folder, with `/` as separator.
    pub file: String,
    /// What it is.
    #[serde(flatten)]
    pub info: RenditionInfo,
}

/// An image in the output folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedStill {
    /// The file, relative to the output folder.
    pub file: String,
    /// Size in bytes.
    pub size: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// A storyboard in the output folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBoard {
    /// The image that contains all stills.
    pub picture: EncodedStill,
    /// The WebVTT file, relative to the output folder.
    pub cues: String,
    /// Width of one still in pixels.
    pub width: u32,
    /// Height of one still in pixels.
    pub height: u32,
    /// Number of stills in a row.
    pub columns: u32,
    /// Number of stills.
    pub count: u32,
    /// Seconds between two stills.
    pub interval: u32,
}

/// The transcode did not succeed. No files are left in the output folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranscodeError {
    /// The transcode failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The token was cancelled.
    #[error("the transcode was cancelled")]
    Cancelled,
}

/// Transcodes one file.
///
/// FFmpeg writes into a separate folder inside `out_dir`, and the files are moved up once all of them are
/// verified. Therefore a failure, a cancelled token or a dropped future leaves no files behind.
///
/// # Errors
/// [`TranscodeError::Cancelled`] if the token was cancelled, otherwise the [`Failure`].
pub async fn transcode(request: TranscodeRequest<'_>) -> Result<Encoded, TranscodeError> {
    let deadline = deadline_in(request.deadline);
    let made = !request.out_dir.exists();
    std::fs::create_dir_all(request.out_dir).map_err(|e| disk::trouble("make the output folder", &e))?;
    let result = attempt(&request, deadline).await;
    if result.is_err() && made {
        // Removes the folder only if it is empty, so no other files can be lost.
        let _ = std::fs::remove_dir(request.out_dir);
    }
    result
}

async fn attempt(request: &TranscodeRequest<'_>, deadline: Instant) -> Result<Encoded, TranscodeError> {
    let input = std::path::absolute(request.input).map_err(|e| disk::trouble("find the input", &e))?;
    let source = async {
        let source = probe::probe(&input, &request.input_limits).await?;
        let input = MediaInput::File(&input);
        Ok::<_, Failure>(copied::with_keyframes(source, input, request.preset, request.ladder).await)
    };
    let source = bounded(&request.cancel, deadline, source).await??;
    let plan = plan::plan(&source, request.preset, request.ladder, request.stills)?;
    refuse_overwriting(request.out_dir, &plan)?;
    let space = space_for(request, &plan, &source)?;

    let work = work_folder(request.out_dir)?;
    for folder in plan.folders() {
        std::fs::create_dir_all(work.path().join(folder)).map_err(|e| disk::trouble("make a folder", &e))?;
    }
    tracing::debug!(preset = %request.preset, outputs = plan.outputs.len(), "encoding");
    let run = ffmpeg::FfmpegRun {
        arguments: plan.arguments(&input),
        folder: work.path(),
        input: MediaInput::File(&input),
        is_nice: false,
        expected: ffmpeg::Expected::all_of(&source),
        space,
        disk_bytes: outputs_limit(request, &source),
        stall_timeout: request.stall_timeout,
        deadline,
        cancel: &request.cancel,
        on_progress: request.on_progress,
    };
    let finished = run.finish().await?;
    let verified = bounded(&request.cancel, deadline, verify::verify(work.path(), &source, &plan)).await?;
    // FFmpeg's HLS muxer succeeds on a full disk although files are missing.
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

/// A folder in `out_dir` for files that are not complete yet.
fn work_folder(out_dir: &Path) -> Result<tempfile::TempDir, Failure> {
    let made = tempfile::Builder::new().prefix(".tcoder-").tempdir_in(out_dir);
    made.map_err(|e| disk::trouble("write to the output folder", &e))
}

/// The instant at which work must have ended that may take this long.
fn deadline_in(time: Duration) -> Instant {
    let far = Duration::from_secs(30 * 24 * 3600);
    Instant::now() + time.min(far)
}

/// Runs `work` until the token is cancelled or the deadline is reached.
async fn bounded<T>(
    cancel: &CancellationToken,
    deadline: Instant,
    work: impl Future<Output = T>,
) -> Result<T, TranscodeError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(TranscodeError::Cancelled),
        () = tokio::time::sleep_until(deadline) => Err(ffmpeg::deadline_exceeded().into()),
        done = work => Ok(done),
    }
}

/// Maximum size of the outputs in bytes, if limited: the limit minus the input.
fn outputs_limit(request: &TranscodeRequest<'_>, source: &probe::Probe) -> Option<u64> {
    request.disk_bytes.map(|limit| limit.saturating_sub(source.size))
}

/// The space that the outputs need, and the free space.
///
/// # Errors
/// If the outputs do not fit.
fn space_for(
    request: &TranscodeRequest<'_>,
    plan: &plan::Plan,
    source: &probe::Probe,
) -> Result<DiskFull, Failure> {
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

/// Moves all files up; if one move fails, the others are undone.
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
