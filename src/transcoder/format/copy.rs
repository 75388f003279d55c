//! The source's streams in a new file: MP4 if it can contain them, otherwise Matroska.

use std::path::Path;

use crate::job::{Container, Failure, FailureCode, Label};

use super::arguments::{COMMON, MP4_MUXER, split_args};
use super::{FormatPlan, FormatRequest, OutputFiles, OutputFormat, Planned};

const MP4_FILE: &str = "original.mp4";
const MKV_FILE: &str = "original.mkv";

pub(super) struct Copy;

impl OutputFormat for Copy {
    fn plan(&self, request: &FormatRequest<'_>) -> Result<FormatPlan, Failure> {
        let source = request.source;
        let video = source.video.codec.as_str();
        let audio = source.audio.as_ref();
        let mp4 = matches!(video, "h264" | "hevc" | "av1" | "vp9" | "mpeg4" | "mpeg2video")
            && audio
                .is_none_or(|a| matches!(a.codec.as_str(), "aac" | "mp3" | "ac3" | "eac3" | "opus" | "alac"));
        if !mp4 && source.video.rotation != 0 {
            // FFmpeg 5.1 drops the rotation in Matroska, so the copy would be displayed sideways.
            let message = "the video is turned for display, and a copy of its codecs needs MKV, which cannot \
                           say so; ask for a quality such as 720p";
            return Err(Failure::new(FailureCode::UnsupportedMedia, message));
        }
        let (file, container, muxer) = if mp4 {
            (MP4_FILE, Container::Mp4, MP4_MUXER)
        } else {
            (MKV_FILE, Container::Mkv, "-f matroska")
        };
        let mut options = split_args(&format!("-map 0:{}", source.video.index));
        if let Some(audio) = audio {
            options.extend(split_args(&format!("-map 0:{}", audio.index)));
        }
        options.extend(split_args("-c copy"));
        if mp4 && video == "hevc" {
            // Apple's players accept HEVC only with this tag.
            options.extend(split_args("-tag:v hvc1"));
        }
        options.extend(split_args(COMMON));
        options.extend(split_args(muxer));
        options.push(file.to_owned());
        Ok(FormatPlan {
            outputs: vec![Planned {
                label: Label::ORIGINAL,
                file: file.to_owned(),
                size: source.display(),
                container,
                is_copied: true,
            }],
            shared_audio: None,
            // AVI has no presentation timestamps; they cannot be generated after the copy.
            input_options: split_args("-fflags +genpts"),
            output_options: options,
        })
    }

    fn files(&self, _: &Path, file: &str) -> Result<OutputFiles, Failure> {
        // MP4 contains the number of frames in its index, Matroska does not.
        Ok(OutputFiles { files: vec![file.into()], playlist: None, is_indexed: file == MP4_FILE })
    }

    fn demuxers(&self) -> &'static str {
        "mov,mp4,matroska"
    }
}
