//! HLS with MPEG-TS segments: one media playlist per rendition, each with its own audio.

use std::path::Path;

use crate::job::{Container, Failure, SEGMENT_SECONDS};

use super::arguments::{output_per_rung, segment_keyframe_args, split_args, video_args};
use super::{FormatPlan, FormatRequest, OutputFiles, OutputFormat};
use crate::transcoder::diagnose::{missing_output, wrong_output};
use crate::transcoder::disk;
use crate::transcoder::playlist::{MediaPlaylist, with_target_duration};

pub(super) struct HlsTs;

impl OutputFormat for HlsTs {
    fn plan(&self, request: &FormatRequest<'_>) -> Result<FormatPlan, Failure> {
        let encoder = [video_args(request.video_codec), segment_keyframe_args()].concat();
        Ok(output_per_rung(request, Container::Hls, &encoder, |quality| {
            (format!("{quality}/index.m3u8"), muxer(quality))
        }))
    }

    fn files(&self, folder: &Path, file: &str) -> Result<OutputFiles, Failure> {
        playlist_files(folder, file)
    }

    fn demuxers(&self) -> &'static str {
        "hls,mpegts"
    }
}

/// The muxer of a rendition.
pub(crate) fn muxer(quality: &str) -> Vec<String> {
    split_args(&format!(
        "-f hls -hls_time {SEGMENT_SECONDS} -hls_playlist_type vod -hls_segment_type mpegts \
         -hls_flags independent_segments -hls_segment_filename {quality}/segment_%05d.ts"
    ))
}

/// The files of a media playlist that FFmpeg wrote. The playlist is corrected if necessary.
pub(super) fn playlist_files(folder: &Path, file: &str) -> Result<OutputFiles, Failure> {
    let path = folder.join(file);
    let written = std::fs::read_to_string(&path).map_err(|_| missing_output(file))?;
    let text = with_target_duration(&written);
    if text != written {
        std::fs::write(&path, &*text).map_err(|e| disk::trouble("write a playlist", &e))?;
    }
    let playlist = MediaPlaylist::parse(&text).filter(|p| p.ended && !p.segments.is_empty());
    let playlist = playlist.ok_or_else(|| wrong_output(format!("the playlist {file} is incomplete")))?;
    if !playlist.is_of_one_folder() {
        return Err(wrong_output(format!("the playlist {file} names files in other places")));
    }
    let parent = Path::new(file).parent().unwrap_or(Path::new(""));
    let named = playlist.files().map(|name| parent.join(name));
    let files = named.chain([file.into()]).collect();
    Ok(OutputFiles { files, playlist: Some(playlist), is_indexed: false })
}
