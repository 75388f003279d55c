//! What the parts of a split video are made from, and within which limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::plan::SplitPlan;
use super::report::{AudioReport, ChunkReport};
use crate::transcoder::TranscodeError;
use crate::transcoder::input::MediaInput;

/// How to encode a part.
pub struct PartRequest<'a> {
    /// The plan of the video.
    pub plan: &'a SplitPlan,
    /// The video.
    pub input: MediaInput<'a>,
    /// The folder for the outputs, which no other part uses. It is created if it does not exist.
    pub out_dir: &'a Path,
    /// Maximum size of the outputs in bytes; `None` means all the free space of the disk.
    pub disk_bytes: Option<u64>,
    /// FFmpeg is killed after this long without progress.
    pub stall_timeout: Duration,
    /// Maximum duration of the encode.
    pub deadline: Duration,
    /// Whether other parts leave it the processor, because viewers wait for it.
    pub is_urgent: bool,
    /// Cancels the encode, which leaves no files behind.
    pub cancel: &'a CancellationToken,
    /// Takes the segments while later ones are encoded.
    pub sink: Option<&'a dyn SegmentSink>,
}

/// Takes segments while later ones are encoded.
pub trait SegmentSink: Sync {
    /// Takes these files, relative to `folder`: the header with the first segment, then each segment once, in their
    /// order. The encode goes on if it fails, and what it has not taken is part of the report like everything else.
    fn take<'a>(&'a self, folder: &'a Path, files: Vec<PathBuf>) -> BoxFuture<'a, ()>;
}

/// The files that the parts stored.
pub trait PartFiles: Sync {
    /// Copies the file with this name, relative to the output folder of its part, to a local path.
    fn fetch<'a>(&'a self, file: &'a str, to: &'a Path) -> BoxFuture<'a, Result<(), TranscodeError>>;
}

/// The parts of a video, and where to make its renditions.
pub struct FinishRequest<'a> {
    /// The plan of the video.
    pub plan: &'a SplitPlan,
    /// The report of each chunk, in any order.
    pub chunks: &'a [ChunkReport],
    /// The report of the sound, if there is any.
    pub audio: Option<&'a AudioReport>,
    /// The files of the parts.
    pub files: &'a dyn PartFiles,
    /// The folder for the outputs. It is created if it does not exist; existing files in it are not touched.
    pub out_dir: &'a Path,
    /// The time since the video was planned.
    pub elapsed: Duration,
    /// Maximum size of the outputs and intermediate files in bytes; `None` means all the free space of the disk.
    pub disk_bytes: Option<u64>,
    /// FFmpeg is killed after this long without progress.
    pub stall_timeout: Duration,
    /// Maximum duration of all of it.
    pub deadline: Duration,
    /// Cancels it, which leaves no files behind.
    pub cancel: &'a CancellationToken,
}
