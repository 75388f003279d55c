//! One MP4 file per rendition, which can be played while it is downloaded.

use std::path::Path;

use crate::job::{Container, Failure};

use super::arguments::{MP4_MUXER, output_per_rung, split_args, video_args};
use super::{FormatPlan, FormatRequest, OutputFiles, OutputFormat};

pub(super) struct Mp4;

impl OutputFormat for Mp4 {
    fn plan(&self, request: &FormatRequest<'_>) -> Result<FormatPlan, Failure> {
        let encoder = video_args(request.video_codec);
        Ok(output_per_rung(request, Container::Mp4, &encoder, |quality| {
            (format!("{quality}.mp4"), split_args(MP4_MUXER))
        }))
    }

    fn files(&self, _: &Path, file: &str) -> Result<OutputFiles, Failure> {
        Ok(OutputFiles { files: vec![file.into()], playlist: None, is_indexed: true })
    }

    fn demuxers(&self) -> &'static str {
        "mov,mp4"
    }
}
