//! Decides whether the largest rendition takes the source's picture as it is, without encoding it.
//!
//! It does where nobody could tell the encode from the source but by its losses: an MP4 of constant quality, in the
//! source's own size, of a picture that all players play and that stays below the rendition's maximum bit rate.
//! Segments of HLS and DASH begin with keyframes at multiples of four seconds, which sources rarely have, so that those
//! formats are always encoded; so is a fixed bit rate.

use crate::job::{Dimensions, Format, Ladder, Preset, Quality, RateControl};

use super::ffprobe;
use super::input::MediaInput;
use super::ladder::{Rung, select_rungs};
use super::probe::{Matrix, PlainVideo, Probe, Transfer};

/// The maximum time from a keyframe to the next one, seconds: players decode that much to seek. It is that of x264 at 25
/// frames a second, as other renditions have it.
const MAX_KEYFRAME_DISTANCE: f64 = 10.0;

/// How much of the video is read to find its keyframes, seconds. Encoders keep one rule from the beginning to the end.
const READ_SECONDS: u32 = 30;

/// The maximum level of H.264 up to 1080p, times ten, and above: those of 60 frames a second.
const MAX_LEVEL: (u32, u32) = (42, 52);

/// By how much later than the file the picture may begin, seconds.
const MAX_START: f64 = 0.05;

/// By which part of its bit rate the sound may exceed that of the rendition: encoders do not keep it exactly.
const SOUND_TOLERANCE: f64 = 0.05;

/// A rung that takes the source's picture as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CopiedRung {
    pub rung: Rung,
    /// Whether it takes the sound as it is, too.
    pub copies_audio: bool,
}

/// Reads the distance of the keyframes, if a rendition may be a copy. If it cannot be read, none will be.
pub async fn with_keyframes(
    mut source: Probe,
    input: MediaInput<'_>,
    preset: Preset,
    ladder: &Ladder,
) -> Probe {
    let (rungs, _) = select_rungs(source.display(), preset.rungs(ladder));
    if candidate(&source, preset, &rungs).is_none() {
        return source;
    }
    if let Some(plain) = &mut source.video.plain {
        let distance = ffprobe::keyframe_distance(input, source.video.index, READ_SECONDS).await;
        plain.keyframe_distance = distance.unwrap_or_else(|error| {
            tracing::warn!(?error, "could not read the keyframes; the picture is encoded");
            None
        });
    }
    source
}

/// The rung among these, largest first, that takes the source's picture as it is.
pub(super) fn copied_rung(source: &Probe, preset: Preset, rungs: &[Rung]) -> Option<CopiedRung> {
    let (rung, plain) = candidate(source, preset, rungs)?;
    let is_seekable = plain.keyframe_distance.is_some_and(|seconds| seconds <= MAX_KEYFRAME_DISTANCE);
    let copies_audio = source.audio.as_ref().is_some_and(|audio| {
        let most = f64::from(rung.quality.audio_kbps()) * 1000.0 * (1.0 + SOUND_TOLERANCE);
        audio.plain_bit_rate.is_some_and(|rate| rate as f64 <= most)
    });
    is_seekable.then_some(CopiedRung { rung, copies_audio })
}

/// The rung that could take the source's picture as it is, as far as the header of the file says.
fn candidate<'a>(source: &'a Probe, preset: Preset, rungs: &[Rung]) -> Option<(Rung, &'a PlainVideo)> {
    let (rung, row, video) = (*rungs.first()?, preset.row(), &source.video);
    let plain = video.plain.as_ref()?;
    let is_asked = row.format == Format::Mp4 && matches!(row.rate_control, RateControl::ConstantQuality(_));
    // Only MP4 and MOV have the times and sizes of all frames in their index. Without a number of frames that agrees
    // with the duration, an edit list may show a part of them.
    let is_indexed = source.format.split(',').any(|name| name == "mp4") && video.frames.is_some();
    let is_upright = video.rotation == 0 && video.sar == (1, 1) && !video.interlaced;
    let has_colours = video.transfer == Transfer::Sdr && video.matrix != Matrix::Other;
    let is_whole = rung.size == Dimensions { width: video.width, height: video.height };
    let is_small = rung.video_kbps() <= Quality::P1080.video_kbps();
    let level = if is_small { MAX_LEVEL.0 } else { MAX_LEVEL.1 };
    let is_within = plain.level <= level && plain.bit_rate <= u64::from(rung.video_kbps()) * 1000;
    let starts = (video.start - source.start).abs() <= MAX_START;
    (is_asked && is_indexed && is_upright && has_colours && is_whole && is_within && starts)
        .then_some((rung, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcoder::probe::{Audio, Video};

    fn source() -> Probe {
        let plain = PlainVideo { level: 40, bit_rate: 3_000_000, keyframe_distance: Some(10.0) };
        let video = Video { frames: Some(250), plain: Some(plain), ..Video::sample() };
        Probe {
            format: "mov,mp4,m4a,3gp,3g2,mj2".into(),
            size: 1000,
            duration: Some(10.0),
            start: 0.0,
            video,
            audio: Some(Audio { plain_bit_rate: Some(160_000), ..Audio::sample() }),
            has_more: false,
        }
    }

    fn copied(source: &Probe, preset: Preset, ladder: &str) -> Option<CopiedRung> {
        let (rungs, _) = select_rungs(source.display(), preset.rungs(&ladder.parse().unwrap()));
        copied_rung(source, preset, &rungs)
    }

    #[test]
    fn only_an_mp4_of_constant_quality_in_the_size_of_the_source_is_a_copy() {
        let of = |preset, ladder| copied(&source(), preset, ladder).map(|copied| copied.rung.quality);
        assert_eq!(of(Preset::WebOptimized, "1080p,360p"), Some(Quality::P1080));
        assert_eq!(of(Preset::WebOptimized, "2160p"), Some(Quality::P2160));
        assert_eq!(of(Preset::WebOptimized, "720p"), None);
        for preset in [Preset::Default, Preset::Hls, Preset::HlsAdaptive] {
            assert_eq!(of(preset, "1080p"), None, "{preset}");
        }
    }

    #[test]
    fn a_picture_that_not_all_players_play_or_that_needs_more_bits_is_encoded() {
        type Change = fn(&mut Probe);
        let changes: [Change; 13] = [
            |p| p.format = "matroska,webm".into(),
            |p| p.video.frames = None,
            |p| p.video.rotation = 180,
            |p| p.video.sar = (4, 3),
            |p| p.video.interlaced = true,
            |p| p.video.transfer = Transfer::Hlg,
            |p| p.video.matrix = Matrix::Other,
            |p| p.video.start = 0.1,
            |p| p.video.plain = None,
            |p| p.video.plain.as_mut().unwrap().bit_rate += 1,
            |p| p.video.plain.as_mut().unwrap().level = 50,
            |p| p.video.plain.as_mut().unwrap().keyframe_distance = Some(10.1),
            |p| p.video.plain.as_mut().unwrap().keyframe_distance = None,
        ];
        assert!(copied(&source(), Preset::WebOptimized, "1080p").is_some());
        for (n, change) in changes.into_iter().enumerate() {
            let mut source = source();
            change(&mut source);
            assert_eq!(copied(&source, Preset::WebOptimized, "1080p"), None, "change {n}");
        }
    }

    #[test]
    fn the_sound_is_copied_if_it_is_within_that_of_the_rendition() {
        let of = |rate| {
            let mut source = source();
            source.audio.as_mut().unwrap().plain_bit_rate = rate;
            copied(&source, Preset::WebOptimized, "1080p").unwrap().copies_audio
        };
        assert!(of(Some(64_000)) && of(Some(168_000)));
        assert!(!of(Some(168_001)) && !of(None));
        let mute = Probe { audio: None, ..source() };
        assert!(!copied(&mute, Preset::WebOptimized, "1080p").unwrap().copies_audio);
    }
}
