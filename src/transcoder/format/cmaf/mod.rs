//! Adaptive streaming of CMAF: all rungs in fragmented MP4, cut at the same frames, and the audio stored
//! once. The documents for players are written from measurements of the segments, because FFmpeg either
//! cannot write them or writes requested values instead of actual ones.
//!
//! | part | what it does |
//! |---|---|
//! | `measure`, `fragments` | read the headers of the segments |
//! | `presentation`, `rate` | the measurements, and the figures that follow from them (pure) |
//! | `labels` | languages and names of audio tracks (pure) |
//! | `hls` | the text of master and I-frame playlists (pure) |
//! | `dash` | the text of a DASH manifest (pure) |

pub(crate) mod dash;
pub(crate) mod fragments;
pub(crate) mod hls;
pub(crate) mod labels;
pub(crate) mod measure;
pub(crate) mod presentation;
pub(crate) mod rate;

use std::path::Path;

use futures::future::{BoxFuture, FutureExt as _};

use crate::job::{Container, EntryKind, Failure, SEGMENT_SECONDS};

use super::arguments::{
    COMMON, audio_args, planned, rung_args, segment_keyframe_args, split_args, video_args,
};
use super::hls_ts::playlist_files;
use super::{
    EntryDocumentFormat, FormatPlan, FormatRequest, OutputFiles, OutputFormat, VerifiedSet, WrittenFile,
};
use crate::transcoder::{disk, playlist};
use presentation::{Presentation, VideoTrack};

/// Folder of the audio that the rungs share.
pub(crate) const SHARED_AUDIO: &str = "audio";

/// File name of a segment in the folder of its rung, in FFmpeg's syntax; numbers start at 0.
pub(crate) const SEGMENT_NAME: &str = "segment_%05d.m4s";

const ENTRIES: &[EntryDocumentFormat] = &[
    EntryDocumentFormat {
        kind: EntryKind::Hls,
        file: "master.m3u8",
        write: hls::master,
        references: playlist::references,
    },
    EntryDocumentFormat {
        kind: EntryKind::Dash,
        file: "manifest.mpd",
        write: dash::manifest,
        references: dash::references,
    },
];

pub(super) struct Cmaf;

impl OutputFormat for Cmaf {
    /// All rungs and the audio in one output of FFmpeg's HLS muxer.
    fn plan(&self, request: &FormatRequest<'_>) -> Result<FormatPlan, Failure> {
        let (rungs, audio) = (request.rungs, request.source.audio.as_ref());
        let mut all: Vec<String> =
            (0..rungs.len()).flat_map(|n| split_args(&format!("-map [v{n}]"))).collect();
        all.extend(audio_args(audio, rungs.first().map_or(0, |rung| rung.quality.audio_kbps())));
        all.extend(video_args(request.video_codec));
        all.extend(segment_keyframe_args());
        for (n, rung) in rungs.iter().enumerate() {
            let stream = format!(":v:{n}");
            all.extend(rung_args(*rung, request.video_codec, request.rate_control, &stream));
        }
        all.extend(split_args(COMMON));
        all.extend(split_args(&format!(
            "-f hls -hls_time {SEGMENT_SECONDS} -hls_playlist_type vod -hls_segment_type fmp4 \
             -hls_flags independent_segments -hls_fmp4_init_filename init.mp4 \
             -hls_segment_filename %v/{SEGMENT_NAME} -var_stream_map"
        )));
        // One argument that contains spaces.
        let mut streams: Vec<String> =
            rungs.iter().enumerate().map(|(n, rung)| format!("v:{n},name:{}", rung.quality)).collect();
        if audio.is_some() {
            streams.push(format!("a:0,name:{SHARED_AUDIO}"));
        }
        all.extend([streams.join(" "), "%v/index.m3u8".to_owned()]);
        let output = |rung| planned(rung, format!("{}/index.m3u8", rung.quality), Container::Hls);
        Ok(FormatPlan {
            outputs: rungs.iter().copied().map(output).collect(),
            shared_audio: audio.map(|_| format!("{SHARED_AUDIO}/index.m3u8")),
            input_options: vec![],
            output_options: all,
        })
    }

    fn files(&self, folder: &Path, file: &str) -> Result<OutputFiles, Failure> {
        playlist_files(folder, file)
    }

    fn demuxers(&self) -> &'static str {
        "hls,mov,mp4"
    }

    fn entry_documents(&self) -> &'static [EntryDocumentFormat] {
        ENTRIES
    }

    fn describe<'a>(&'a self, set: VerifiedSet<'a>) -> BoxFuture<'a, Result<Vec<WrittenFile>, Failure>> {
        describe(set).boxed()
    }
}

/// Writes the I-frame playlist of each rung, and the entry documents.
async fn describe(set: VerifiedSet<'_>) -> Result<Vec<WrittenFile>, Failure> {
    write_documents(set.folder, &measure::measure(&set).await?).await
}

/// Writes the I-frame playlist of each rung, which it returns, and the entry documents.
pub(crate) async fn write_documents(
    folder: &Path,
    presentation: &Presentation,
) -> Result<Vec<WrittenFile>, Failure> {
    let mut written = Vec::new();
    for VideoTrack { track, .. } in &presentation.video {
        let (file, text) = (hls::iframe_playlist(&track.playlist), hls::iframes(track));
        write(folder, &file, &text).await?;
        written.push(WrittenFile { file: file.into(), bytes: text.len() as u64 });
    }
    for entry in ENTRIES {
        write(folder, entry.file, &(entry.write)(presentation)).await?;
    }
    Ok(written)
}

async fn write(folder: &Path, file: &str, text: &str) -> Result<(), Failure> {
    tokio::fs::write(folder.join(file), text).await.map_err(|e| disk::trouble("write a playlist", &e))
}
