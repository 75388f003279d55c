//! Decides whether a video is split, and the plan that all workers share (pure).

use serde::{Deserialize, Serialize};

use super::chunks::{ChunkPlan, LONGEST_VIDEO, SEGMENT, TOLERANCE};
use crate::job::{Failure, Format, Ladder, Parallelism, Preset, Stills};
use crate::transcoder::copied::{self, CopiedRung};
use crate::transcoder::ladder::Rung;
use crate::transcoder::plan::{self, Plan};
use crate::transcoder::probe::Probe;

/// A shorter video is not split unless a number of workers is asked for, seconds: the parts would wait for each other
/// about as long as one worker encodes it.
const WORTH_IT: f64 = 30.0;

/// Priming samples of FFmpeg's AAC encoder, seconds at 48 kHz. They are decoded before the sound begins.
const PRIMING: f64 = 1024.0 / 48_000.0;

/// Minimum frame rate. With fewer frames a segment may have none.
const LEAST_RATE: f64 = 1.0;

/// Whether a video is split.
#[derive(Clone, Debug, PartialEq)]
pub enum SplitDecision {
    /// It is encoded in parts.
    Split(Box<SplitPlan>),
    /// It is encoded as a whole.
    Whole {
        /// Why, as a sentence; `None` if it was not to be split.
        because: Option<String>,
    },
}

/// How a video is encoded in parts. Every worker derives the same arguments from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitPlan {
    /// The source.
    pub source: Probe,
    /// The kind of outputs.
    pub preset: Preset,
    /// The requested renditions; if empty, the preset decides.
    pub ladder: Ladder,
    /// The stills to create besides the renditions.
    pub stills: Stills,
    /// The chunks.
    pub chunks: ChunkPlan,
}

/// Decides whether a video is split.
///
/// # Errors
/// If the source does not permit the requested outputs.
pub fn decide(
    source: &Probe,
    preset: Preset,
    ladder: &Ladder,
    stills: Stills,
    parallelism: Parallelism,
) -> Result<SplitDecision, Failure> {
    let (rungs, _) = plan::rungs(source, preset, ladder)?;
    let whole = |because: Option<String>| Ok(SplitDecision::Whole { because });
    let seconds = video_seconds(source);
    match (parallelism, seconds) {
        (Parallelism::Chunks(0 | 1), _) => return whole(None),
        (Parallelism::Auto, Some(seconds)) if seconds < WORTH_IT => return whole(None),
        _ => {}
    }
    let is_copied = rungs.len() == usize::from(copied::copied_rung(source, preset, &rungs).is_some());
    if let Some(because) = refusal(source, is_copied) {
        return whole(Some(because.to_owned()));
    }
    let Some(seconds) = seconds else {
        return whole(Some("the file does not say how long its video is".to_owned()));
    };
    if seconds > LONGEST_VIDEO {
        return whole(Some("the video is longer than 30 days".to_owned()));
    }
    let chunks = ChunkPlan::new(seconds, source.video.frame_rate, parallelism);
    if chunks.count() < 2 {
        return whole(Some("the video is too short for more than one part".to_owned()));
    }
    let plan = SplitPlan { source: source.clone(), preset, ladder: ladder.clone(), stills, chunks };
    Ok(SplitDecision::Split(Box::new(plan)))
}

/// Why a source cannot be split.
fn refusal(source: &Probe, is_copied: bool) -> Option<&'static str> {
    if is_copied {
        return Some("the streams are copied, which one worker does fast");
    }
    let names: Vec<&str> = source.format.split(',').collect();
    if names.contains(&"mpegts") {
        return Some("frames of an MPEG transport stream cannot be found by their times");
    }
    if !["mp4", "mov", "matroska", "webm"].iter().any(|name| names.contains(name)) {
        return Some(
            "frames of this container cannot be found by their times; MP4, MOV, MKV and WebM can be split",
        );
    }
    if source.video.start - source.start < -TOLERANCE {
        return Some("the video starts before the file does");
    }
    (source.video.frame_rate < LEAST_RATE).then_some("the video has less than one frame per second")
}

/// The duration of the video stream in seconds, if the file contains it.
fn video_seconds(source: &Probe) -> Option<f64> {
    let video = &source.video;
    let duration = video.duration?;
    // Matroska's tag is the time at which the stream ends.
    let is_end = source.format.contains("matroska");
    Some(if is_end { duration - video.start } else { duration }).filter(|seconds| *seconds > 0.0)
}

impl SplitPlan {
    /// The format of the renditions.
    #[must_use]
    pub fn format(&self) -> Format {
        self.preset.format(&self.ladder)
    }

    /// Whether there is sound to encode.
    #[must_use]
    pub fn has_audio(&self) -> bool {
        self.source.audio.is_some()
    }

    /// Whether there is a part besides the chunks: the sound, and the rendition that takes the picture as it is.
    #[must_use]
    pub fn has_streams(&self) -> bool {
        self.has_audio() || self.copied().is_ok_and(|copied| copied.is_some())
    }

    /// The rungs, largest first.
    pub(super) fn rungs(&self) -> Result<Vec<Rung>, Failure> {
        Ok(plan::rungs(&self.source, self.preset, &self.ladder)?.0)
    }

    /// The rung that takes the source's picture as it is, which is the largest.
    pub(super) fn copied(&self) -> Result<Option<CopiedRung>, Failure> {
        Ok(copied::copied_rung(&self.source, self.preset, &self.rungs()?))
    }

    /// The rungs that are encoded, largest first.
    pub(super) fn encoded(&self) -> Result<Vec<Rung>, Failure> {
        let copied = self.copied()?.map(|copied| copied.rung);
        Ok(self.rungs()?.into_iter().filter(|rung| Some(*rung) != copied).collect())
    }

    /// The plan of the same renditions as a whole.
    pub(super) fn whole(&self) -> Result<Plan, Failure> {
        plan::plan(&self.source, self.preset, &self.ladder, self.stills)
    }

    /// The time before which no frame of this segment is shown, in the times of the source's container; a bit before
    /// the frame that is exactly on time.
    pub(super) fn boundary(&self, segment: u32) -> f64 {
        self.source.video.start + f64::from(segment) * SEGMENT - TOLERANCE
    }

    /// The time at which the source's container starts, which is 0 in an encode of the whole.
    pub(super) fn zero(&self) -> f64 {
        self.source.start
    }

    /// The minimum distance of two frames as far as it is known, seconds. x264's first frames are decoded one and two
    /// times this before they are shown. It is the same for each chunk, whatever its own frame rate.
    pub(super) fn frame_distance(&self) -> f64 {
        let video = &self.source.video;
        let rate = video.base_rate.max(video.frame_rate);
        if rate > 0.0 { 1.0 / rate } else { 0.0 }
    }

    /// The constant that is added to all times, seconds: the first picture and the priming of the sound are decoded at
    /// 0 or later.
    pub(super) fn shift(&self) -> f64 {
        // Times in milliseconds are rounded by up to half of one for each of the two frames, and so is this.
        let least = (2.0 * self.frame_distance() + 0.002).max(PRIMING);
        (least * 1000.0).ceil() / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcoder::probe::{Audio, Video};

    fn source(format: &str, seconds: Option<f64>) -> Probe {
        Probe {
            format: format.into(),
            size: 1000,
            duration: seconds,
            start: 0.0,
            video: Video { duration: seconds, ..Video::sample() },
            audio: Some(Audio { duration: seconds, ..Audio::sample() }),
            has_more: false,
        }
    }

    fn because(source: &Probe, preset: Preset, parallelism: Parallelism) -> Option<String> {
        match decide(source, preset, &Ladder::default(), Stills::default(), parallelism).unwrap() {
            SplitDecision::Whole { because } => because,
            SplitDecision::Split(plan) => Some(format!("{} chunks", plan.chunks.count())),
        }
    }

    const MP4: &str = "mov,mp4,m4a,3gp,3g2,mj2";
    const EIGHT: Parallelism = Parallelism::Chunks(8);

    #[test]
    fn short_video_is_split_only_on_request() {
        let of =
            |seconds, parallelism| because(&source(MP4, Some(seconds)), Preset::HlsAdaptive, parallelism);
        assert_eq!(of(20.0, Parallelism::Auto), None);
        assert_eq!(of(20.0, EIGHT).unwrap(), "5 chunks");
        assert_eq!(of(60.0, Parallelism::Auto).unwrap(), "8 chunks");
        assert_eq!(of(600.0, Parallelism::Chunks(1)), None);
        assert!(of(3.0, EIGHT).unwrap().contains("too short"));
    }

    #[test]
    fn source_that_cannot_be_cut_is_encoded_as_a_whole_with_a_reason() {
        let of = |source: &Probe, preset| because(source, preset, EIGHT).unwrap();
        let hour = Some(3600.0);
        assert!(of(&source(MP4, hour), Preset::Default).contains("copied"));
        assert!(of(&source("mpegts", hour), Preset::Hls).contains("transport stream"));
        assert!(of(&source("avi", hour), Preset::Hls).contains("container"));
        assert!(of(&source(MP4, None), Preset::Hls).contains("how long"));
        assert!(of(&source("matroska,webm", hour), Preset::Hls).contains("chunks"));
        let mut early = source(MP4, hour);
        early.start = 1.0;
        assert!(of(&early, Preset::Hls).contains("before"));
    }

    #[test]
    fn plan_is_a_few_kilobytes_of_json() {
        let source = source(MP4, Some(86_000.0));
        let decision =
            decide(&source, Preset::HlsAdaptive, &Ladder::default(), Stills::default(), Parallelism::Auto);
        let Ok(SplitDecision::Split(plan)) = decision else { panic!("it is split") };
        let json = serde_json::to_string(&plan).unwrap();
        assert!(json.len() < 2000, "{} bytes", json.len());
        assert_eq!(serde_json::from_str::<SplitPlan>(&json).unwrap(), *plan);
    }

    #[test]
    fn matroska_says_when_a_stream_ends() {
        let mut source = source("matroska,webm", Some(20.0));
        source.video.start = 1.5;
        assert_eq!(video_seconds(&source), Some(18.5));
        source.format = MP4.into();
        assert_eq!(video_seconds(&source), Some(20.0));
    }
}
