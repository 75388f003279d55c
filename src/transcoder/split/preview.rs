//! The sound around a chunk that a viewer has come to, while the sound as a whole has not come that far.
//!
//! The sound is encoded as a whole, one second after the other, so that it has no seams: of two hours, the end is there
//! after minutes. What is encoded here stands in for it until then. It lies on the same grid of frames, and no more than
//! a seam at its ends tells the two apart.

use std::path::{Path, PathBuf};

use super::arguments::{self, SoundSpan};
use super::encode::{make_folder, prepare, run};
use super::plan::SplitPlan;
use super::report::segment_file;
use super::request::PartRequest;
use crate::job::Format;
use crate::transcoder::ffmpeg::Expected;
use crate::transcoder::format::cmaf::SHARED_AUDIO;
use crate::transcoder::{TranscodeError, deadline_in, publish};

/// The segments of the sound by which one sees whether the sound is there that is played with this chunk; relative to the
/// output folder. There are none at the beginning, where the sound begins as a whole.
///
/// The first and the last of them are also encoded with the chunks before and after this one.
#[must_use]
pub fn sound_played_with(chunk: u32, plan: &SplitPlan) -> Vec<PathBuf> {
    let video = plan.chunks.segments_of(chunk);
    if SoundSpan::around(&video).is_none() {
        return vec![];
    }
    // The sound may end before the picture does, and with it a segment earlier.
    let is_last = video.end >= plan.chunks.segments() && video.len() > 1;
    (video.start..video.end - u32::from(is_last)).map(sound_file).collect()
}

fn sound_file(segment: u32) -> PathBuf {
    Path::new(SHARED_AUDIO).join(segment_file(segment))
}

/// Encodes the segments of the sound that are played with this chunk. Returns their files, relative to the output folder;
/// there are none if nobody has to wait for the sound there, or its segments are not shared by the renditions.
///
/// # Errors
/// [`TranscodeError::Cancelled`] if the token was cancelled, otherwise the failure.
pub async fn encode_sound_around(
    chunk: u32,
    request: &PartRequest<'_>,
) -> Result<Vec<PathBuf>, TranscodeError> {
    let plan = request.plan;
    let span = SoundSpan::around(&plan.chunks.segments_of(chunk));
    let Some(span) = span.filter(|_| plan.has_audio() && plan.format() == Format::Cmaf) else {
        return Ok(vec![]);
    };
    let work = prepare(request.out_dir)?;
    make_folder(&work.path().join(SHARED_AUDIO))?;
    let arguments = arguments::sound_around(plan, &span, request.input)?;
    let expected = Expected { start: span.start(), duration: Some(span.seconds()), frames: None };
    // 128 kbit/s are 16 KB a second.
    let bytes = (span.seconds() * 16_000.0) as u64;
    run(request, work.path(), arguments, expected, bytes, deadline_in(request.deadline)).await?;
    publish(work.path(), request.out_dir)?;
    Ok(span.segments.map(sound_file).filter(|file| request.out_dir.join(file).exists()).collect())
}
