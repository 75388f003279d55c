//! Estimates the size of a plan's outputs (pure).

use crate::job::space::constant_quality_kbps;
use crate::job::{Label, Preset, RateControl};

use super::ladder::Rung;
use super::plan::Plan;
use super::probe::Probe;

/// Bytes of all outputs, estimated from their duration and bitrates: the bitrate caps if the bitrate is
/// constrained or the source's own bitrate is higher. If streams are copied or the duration is unknown, the
/// size of the source.
pub(super) fn output_bytes(plan: &Plan, source: &Probe, preset: Preset) -> u64 {
    let Some(seconds) = source.expected_duration().filter(|seconds| *seconds > 0.0) else {
        return source.size;
    };
    let source_kbps = source.size as f64 * 8.0 / 1000.0 / seconds;
    let mut kbps = 0.0;
    let mut sound: f64 = 0.0;
    for output in &plan.outputs {
        let Label::Quality(quality) = output.label else { return source.size };
        let cap = f64::from(Rung { quality, size: output.size }.video_kbps());
        kbps += match preset.row().rate_control {
            RateControl::Bitrate => cap,
            RateControl::ConstantQuality(_) => constant_quality_kbps(cap, source_kbps),
        };
        let audio = f64::from(quality.audio_kbps());
        // Adaptive renditions share the audio of the largest.
        sound = if plan.shared_audio.is_some() { sound.max(audio) } else { sound + audio };
    }
    if plan.has_audio {
        kbps += sound;
    }
    (kbps * 1000.0 / 8.0 * seconds) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Ladder, Stills};
    use crate::transcoder::plan::plan;
    use crate::transcoder::probe::{Audio, Video};

    fn bytes(size: u64, duration: Option<f64>, preset: Preset, ladder: &str) -> u64 {
        let video = Video { duration, ..Video::sample() };
        let audio = Audio { duration, ..Audio::sample() };
        let source = Probe {
            format: "mov".into(),
            size,
            duration,
            start: 0.0,
            video,
            audio: Some(audio),
            has_more: false,
        };
        let ladder: Ladder = ladder.parse().unwrap();
        output_bytes(&plan(&source, preset, &ladder, Stills::default()).unwrap(), &source, preset)
    }

    #[test]
    fn a_rich_source_fills_the_caps_and_a_poor_one_does_not() {
        const HOUR: Option<f64> = Some(3600.0);
        // Video of 3000 + 1500 + 400 + 100 kbit/s and one audio stream of 160 kbit/s.
        assert_eq!(bytes(4_500_000_000, HOUR, Preset::HlsAdaptive, ""), 2_322_000_000);
        // 1500 + 128 kbit/s, and 400 + 96 kbit/s with its own audio.
        assert_eq!(bytes(4_500_000_000, HOUR, Preset::WebOptimized, "720p,360p"), 955_800_000);
        // A slide show of 100 kbit/s, one hour long: 300 + 128 kbit/s.
        assert_eq!(bytes(45_000_000, HOUR, Preset::WebOptimized, "720p"), 192_600_000);
        // If the bitrate is constrained, it is reached.
        assert_eq!(bytes(45_000_000, HOUR, Preset::Default, "720p"), 732_600_000);
    }

    #[test]
    fn a_copy_and_a_source_of_unknown_length_count_as_large_as_the_source() {
        assert_eq!(bytes(45_000_000, Some(3600.0), Preset::Default, ""), 45_000_000);
        assert_eq!(bytes(45_000_000, None, Preset::HlsAdaptive, ""), 45_000_000);
    }
}
