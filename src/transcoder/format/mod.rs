//! Output formats: what FFmpeg is told to make of the rungs, what must then lie on disk, and the documents that
//! players open.
//!
//! | format | what it makes |
//! |---|---|
//! | `copy` | the source's own streams in a new file |
//! | `mp4` | one MP4 file a rendition |
//! | `hls_ts` | a playlist and MPEG-TS segments a rendition |
//! | `cmaf` | segments in fragmented MP4, the sound apart, and entry documents over all renditions |
//!
//! `arguments` holds what they share. A format is planned by [`plan`](super::plan) and read back by `verify`, which
//! know it by [`OutputFormat`] alone.

mod arguments;
mod cmaf;
mod copy;
mod hls_ts;
mod mp4;

use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt as _};

use crate::job::{Container, Dimensions, EntryKind, Failure, Format, Label, RateControl, VideoCodec};

use super::ladder::Rung;
use super::playlist::MediaPlaylist;
use super::probe::Probe;
use super::reference::Reference;
use cmaf::presentation::Presentation;

pub(super) use arguments::split_args;

/// One way of packaging renditions.
pub(super) trait OutputFormat: Send + Sync {
    /// What FFmpeg is told, and the files that it makes by it (pure).
    ///
    /// # Errors
    /// When the source cannot be packaged this way.
    fn plan(&self, request: &FormatRequest<'_>) -> Result<FormatPlan, Failure>;

    /// The files that belong to one output, of which `file` is the one that was planned.
    ///
    /// # Errors
    /// When FFmpeg left them incomplete.
    fn files(&self, folder: &Path, file: &str) -> Result<OutputFiles, Failure>;

    /// FFmpeg's demuxers that may read the outputs back, with commas between them.
    fn demuxers(&self) -> &'static str;

    /// The documents over all renditions, in the order in which a client reads of them.
    fn entry_documents(&self) -> &'static [EntryDocumentFormat] {
        &[]
    }

    /// Writes what describes the renditions to players, the entry documents among it, now that all of them were read
    /// back. Answers the files that belong to a rendition, in the renditions' order.
    fn describe<'a>(&'a self, _: VerifiedSet<'a>) -> BoxFuture<'a, Result<Vec<WrittenFile>, Failure>> {
        async { Ok(vec![]) }.boxed()
    }
}

/// The format behind its name.
pub(super) fn of(format: Format) -> &'static dyn OutputFormat {
    match format {
        Format::Copy => &copy::Copy,
        Format::Mp4 => &mp4::Mp4,
        Format::HlsTs => &hls_ts::HlsTs,
        Format::Cmaf => &cmaf::Cmaf,
    }
}

/// What is to be packaged.
pub(super) struct FormatRequest<'a> {
    pub source: &'a Probe,
    /// Large to small. `[v0]`, `[v1]`, ... of the filter graph are their pictures. None where streams are copied.
    pub rungs: &'a [Rung],
    pub video_codec: VideoCodec,
    pub rate_control: RateControl,
}

/// How a format is made.
#[derive(Debug, Default)]
pub(super) struct FormatPlan {
    /// The renditions, in the order of the rungs.
    pub outputs: Vec<Planned>,
    /// The playlist of the sound that all rungs share.
    pub shared_audio: Option<String>,
    /// FFmpeg's options of the input.
    pub input_options: Vec<String>,
    /// FFmpeg's options of the outputs, with their files.
    pub output_options: Vec<String>,
}

/// One rendition to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which rendition.
    pub label: Label,
    /// Its file or playlist, relative to the output folder.
    pub file: String,
    /// Pixels as displayed.
    pub size: Dimensions,
    /// How it is packaged.
    pub container: Container,
}

/// One output as it lies on disk.
pub(super) struct OutputFiles {
    /// Relative to the folder; what names the others comes last.
    pub files: Vec<PathBuf>,
    /// The media playlist, where it has one.
    pub playlist: Option<MediaPlaylist>,
    /// Whether its headers tell how many frames it has. Else it is read through.
    pub is_indexed: bool,
}

/// A kind of document that players open to play all renditions.
pub(super) struct EntryDocumentFormat {
    pub kind: EntryKind,
    /// Its file in the output folder.
    pub file: &'static str,
    /// Its text.
    pub write: fn(&Presentation) -> String,
    /// What such a document names.
    pub references: fn(&str) -> Vec<Reference>,
}

/// What a document of this kind names, each file once. Empty when it is no such document.
#[must_use]
pub fn references(kind: EntryKind, text: &str) -> Vec<Reference> {
    let mut formats = Format::ALL.iter().copied().flat_map(|format| of(format).entry_documents());
    formats.find(|entry| entry.kind == kind).map_or_else(Vec::new, |entry| (entry.references)(text))
}

/// The outputs of a plan, read back and checked.
pub(super) struct VerifiedSet<'a> {
    pub folder: &'a Path,
    pub source: &'a Probe,
    /// Large to small.
    pub renditions: Vec<VerifiedRendition<'a>>,
    pub shared_audio: Option<VerifiedAudio<'a>>,
}

/// A rendition's planned file and its media playlist.
pub(super) struct VerifiedRendition<'a> {
    pub file: &'a str,
    pub playlist: Option<&'a MediaPlaylist>,
    /// Pixels as displayed.
    pub size: Dimensions,
}

/// The sound's planned file and its media playlist.
pub(super) struct VerifiedAudio<'a> {
    pub file: &'a str,
    pub playlist: Option<&'a MediaPlaylist>,
    pub channels: u32,
}

/// A file that was written beside FFmpeg's.
pub(super) struct WrittenFile {
    /// Relative to the output folder.
    pub file: PathBuf,
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_kind_is_written_by_a_format_and_can_be_read() {
        for &kind in EntryKind::ALL {
            let entries = Format::ALL.iter().copied().flat_map(|format| of(format).entry_documents());
            let files: Vec<&str> =
                entries.filter(|entry| entry.kind == kind).map(|entry| entry.file).collect();
            assert_eq!(files.len(), 1, "{kind:?}: {files:?}");
            let key = format!("outputs/a/1/{}", files[0]).parse().unwrap();
            assert!(crate::storage::refers_to_others(&key), "{key} cannot be read in a private bucket");
            assert_eq!(references(kind, "hello"), []);
        }
    }
}
