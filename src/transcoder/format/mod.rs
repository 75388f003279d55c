//! Output formats: FFmpeg's arguments for the rungs, the files that they produce, and the documents that
//! players open.
//!
//! | format | what it makes |
//! |---|---|
//! | `copy` | the source's streams in a new file |
//! | `mp4` | one MP4 file per rendition |
//! | `hls_ts` | a playlist and MPEG-TS segments per rendition |
//! | `cmaf` | segments in fragmented MP4 with separate audio, and entry documents for all renditions |
//!
//! `arguments` contains what they share. [`plan`](super::plan) and `verify` use a format only through
//! [`OutputFormat`].

pub(super) mod arguments;
pub(super) mod cmaf;
mod copy;
pub(super) mod hls_ts;
mod mp4;

use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt as _};

use crate::job::{Container, Dimensions, EntryKind, Failure, Format, Label, RateControl, VideoCodec};

use super::copied::CopiedRung;
use super::ladder::Rung;
use super::playlist::MediaPlaylist;
use super::probe::Probe;
use super::reference::Reference;
use cmaf::presentation::Presentation;

pub(super) use arguments::split_args;

/// A way to package renditions.
pub(super) trait OutputFormat: Send + Sync {
    /// Plans FFmpeg's arguments and the files that it produces (pure).
    ///
    /// # Errors
    /// If the source cannot be packaged in this format.
    fn plan(&self, request: &FormatRequest<'_>) -> Result<FormatPlan, Failure>;

    /// The files of one output, whose planned file is `file`.
    ///
    /// # Errors
    /// If files are missing.
    fn files(&self, folder: &Path, file: &str) -> Result<OutputFiles, Failure>;

    /// FFmpeg's demuxers for reading the outputs back, separated by commas.
    fn demuxers(&self) -> &'static str;

    /// The documents for all renditions, in the order in which clients list them.
    fn entry_documents(&self) -> &'static [EntryDocumentFormat] {
        &[]
    }

    /// Writes the documents that describe the renditions to players, including the entry documents, after all
    /// renditions were read back. Returns the written files of each rendition, in the order of the
    /// renditions.
    fn describe<'a>(&'a self, _: VerifiedSet<'a>) -> BoxFuture<'a, Result<Vec<WrittenFile>, Failure>> {
        async { Ok(vec![]) }.boxed()
    }
}

/// The implementation of a format.
pub(super) fn of(format: Format) -> &'static dyn OutputFormat {
    match format {
        Format::Copy => &copy::Copy,
        Format::Mp4 => &mp4::Mp4,
        Format::HlsTs => &hls_ts::HlsTs,
        Format::Cmaf => &cmaf::Cmaf,
    }
}

/// The renditions to be packaged.
pub(super) struct FormatRequest<'a> {
    pub source: &'a Probe,
    /// The rungs, largest first, whose pictures are `[v0]`, `[v1]`, ... in the filter graph. Empty if streams
    /// are copied.
    pub rungs: &'a [Rung],
    /// The first of them, if it is not encoded but takes the source's picture as it is. Only MP4 has it.
    pub copied: Option<CopiedRung>,
    pub video_codec: VideoCodec,
    pub rate_control: RateControl,
}

/// The plan of a format.
#[derive(Debug, Default)]
pub(super) struct FormatPlan {
    /// The renditions, in the order of the rungs.
    pub outputs: Vec<Planned>,
    /// The playlist of the audio that all rungs share, if they do.
    pub shared_audio: Option<String>,
    /// FFmpeg's input options.
    pub input_options: Vec<String>,
    /// FFmpeg's output options, with the files.
    pub output_options: Vec<String>,
}

/// One rendition to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which rendition.
    pub label: Label,
    /// Its file or playlist, relative to the output folder.
    pub file: String,
    /// Size in pixels, as displayed.
    pub size: Dimensions,
    /// How it is packaged.
    pub container: Container,
    /// Whether its picture is the source's own.
    pub is_copied: bool,
}

/// The files of an output on disk.
pub(super) struct OutputFiles {
    /// Relative to the folder. A file that refers to others comes last.
    pub files: Vec<PathBuf>,
    /// The media playlist, if the output has one.
    pub playlist: Option<MediaPlaylist>,
    /// Whether the headers contain the number of frames. If not, the file must be read completely.
    pub is_indexed: bool,
}

/// A kind of document that players open to play all renditions.
pub(super) struct EntryDocumentFormat {
    pub kind: EntryKind,
    /// The file in the output folder.
    pub file: &'static str,
    /// Generates the text of the document.
    pub write: fn(&Presentation) -> String,
    /// Parses the files that such a document refers to.
    pub references: fn(&str) -> Vec<Reference>,
}

/// All files that a document of this kind refers to, each once. Empty if the text is not such a document.
#[must_use]
pub fn references(kind: EntryKind, text: &str) -> Vec<Reference> {
    let mut formats = Format::ALL.iter().copied().flat_map(|format| of(format).entry_documents());
    formats.find(|entry| entry.kind == kind).map_or_else(Vec::new, |entry| (entry.references)(text))
}

/// The outputs of a plan after they were read back.
pub(super) struct VerifiedSet<'a> {
    pub folder: &'a Path,
    pub source: &'a Probe,
    /// The renditions, largest first.
    pub renditions: Vec<VerifiedRendition<'a>>,
    pub shared_audio: Option<VerifiedAudio<'a>>,
}

/// A rendition's planned file, and its media playlist.
pub(super) struct VerifiedRendition<'a> {
    pub file: &'a str,
    pub playlist: Option<&'a MediaPlaylist>,
    /// Size in pixels, as displayed.
    pub size: Dimensions,
}

/// The planned file of the audio, and its media playlist.
pub(super) struct VerifiedAudio<'a> {
    pub file: &'a str,
    pub playlist: Option<&'a MediaPlaylist>,
    pub channels: u32,
}

/// A file that was written in addition to FFmpeg's.
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
