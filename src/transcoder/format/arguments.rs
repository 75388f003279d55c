//! Arguments of FFmpeg that several formats share (pure).

use crate::job::{Container, Label, Quality, RateControl, SEGMENT_SECONDS, VideoCodec};

use super::{FormatPlan, FormatRequest, Planned};
use crate::transcoder::copied::CopiedRung;
use crate::transcoder::ladder::Rung;
use crate::transcoder::probe::{Audio, Probe};

/// Drops everything but video and audio: subtitles, data, titles, locations, chapters.
pub(crate) const COMMON: &str = "-sn -dn -map_metadata -1 -map_chapters -1 -max_muxing_queue_size 1024";

/// The muxer of a plain MP4 file, whose index comes before its data.
pub(crate) const MP4_MUXER: &str = "-movflags +faststart -f mp4";

pub(crate) fn split_args(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The HLS muxer adds up the packets' durations, and x264 sets all of them to that of the nominal frame rate:
/// with a variable frame rate a playlist would claim 1.2 s of 2.9. This filter makes a packet last until the
/// next one.
pub(crate) const TRUE_DURATIONS: &str =
    "setts=pts=PTS:dts=DTS:duration=if(eq(NEXT_DTS\\,NOPTS)\\,DURATION\\,NEXT_DTS-DTS)";

/// The video encoder. `vfr` keeps the timestamp of each frame and duplicates none.
pub(crate) fn video_args(codec: VideoCodec) -> Vec<String> {
    let mut all = encoder_args(codec);
    all.extend(split_args("-fps_mode vfr"));
    all
}

/// The video encoder without its treatment of timestamps. How hard it tries depends on the rung ([`rung_args`]).
pub(crate) fn encoder_args(codec: VideoCodec) -> Vec<String> {
    match codec {
        VideoCodec::H264 => split_args("-c:v libx264 -pix_fmt yuv420p"),
    }
}

/// The arguments of one video stream that depend on its rung; `stream` is the specifier, such as `:v:0`.
pub(crate) fn rung_args(
    rung: Rung,
    codec: VideoCodec,
    rate_control: RateControl,
    stream: &str,
) -> Vec<String> {
    let VideoCodec::H264 = codec;
    let mut all = split_args(&format!("-preset{stream} {}", x264_preset(rung)));
    all.extend(rate_control_args(rung, rate_control, stream));
    all
}

/// The preset of x264 for a rung. Measured on FFmpeg 5.1 with a 30 s clip of 1080p to 720p, 360p and 144p: with
/// `faster`, 720p has the same size and the same SSIM (.97038 for .97036 of `fast`) for a fifth less CPU time; 360p would
/// lose .0012 of SSIM, and the small rungs cost little. With `veryfast`, 720p loses .0012. It is the same for larger rungs
/// (docs/figures.md): with `veryfast`, 1080p of a film loses .0026, and a longer lookahead gains nothing.
fn x264_preset(rung: Rung) -> &'static str {
    if rung.video_kbps() >= Quality::P720.video_kbps() { "faster" } else { "fast" }
}

/// Forces keyframes at the segment boundaries, at the same frames in every rung.
pub(crate) fn segment_keyframe_args() -> Vec<String> {
    let mut all = split_args("-g 48 -sc_threshold 0 -force_key_frames");
    all.push(format!("expr:gte(t,n_forced*{SEGMENT_SECONDS})"));
    all.extend(["-bsf:v".into(), TRUE_DURATIONS.into()]);
    all
}

/// The bitrate of one video stream.
fn rate_control_args(rung: Rung, rate_control: RateControl, stream: &str) -> Vec<String> {
    let cap = rung.video_kbps();
    // Not both: x264 would target the bitrate and ignore the quality.
    let aim = match rate_control {
        RateControl::Bitrate if stream.is_empty() => format!("-b:v {cap}k"),
        RateControl::Bitrate => format!("-b{stream} {cap}k"),
        RateControl::ConstantQuality(factor) => format!("-crf{stream} {factor}"),
    };
    split_args(&format!("{aim} -maxrate{stream} {cap}k -bufsize{stream} {}k", rung.buffer_kbit()))
}

/// Bit rates above this are encoded with FFmpeg's `fast` coder of AAC, kbit/s. FFmpeg's documentation has it worse below
/// 64 kbit/s, and better and much faster at higher rates. Measured on FFmpeg 5.1 with 300 s at 128 kbit/s: 2.8 CPU seconds
/// instead of 6.1, at a ratio of signal to distortion of 35.2 dB instead of 36.0. The sound is one task, so that its length
/// bounds how soon a split video is whole.
const SLOW_CODER_UP_TO: u32 = 64;

/// The filter that keeps the sound at the times of the source, without which FFmpeg stops where they go back, as by a
/// sample where recordings were joined: it stretches and squeezes by at most two percent where they are off by more
/// than a millisecond, and fills in silence or leaves out sound where by a tenth of a second.
const FOLLOW_TIMES: &str = "aresample=async=1000";

/// The audio encoder: mono stays mono, everything else becomes stereo.
pub(crate) fn audio_args(audio: Option<&Audio>, kbps: u32) -> Vec<String> {
    let Some(audio) = audio else { return vec![] };
    let channels = if audio.channels == 1 { 1 } else { 2 };
    let coder = if kbps > SLOW_CODER_UP_TO { "-aac_coder fast " } else { "" };
    let mut all =
        split_args(&format!("-map 0:{} -c:a aac {coder}-b:a {kbps}k -ac {channels} -ar 48000", audio.index));
    // Layouts beyond 7.1 cannot be mixed down: the first two channels are used.
    let mix = if audio.channels > 8 { "pan=stereo|c0=c0|c1=c1," } else { "" };
    all.extend(["-filter:a".into(), format!("{mix}{FOLLOW_TIMES}")]);
    all
}

/// One MP4 that takes the source's picture as it is, with its sound.
pub(crate) fn copied_output(source: &Probe, copied: CopiedRung, file: &str) -> Vec<String> {
    let mut all = split_args(&format!("-map 0:{} -c:v copy", source.video.index));
    match &source.audio {
        Some(audio) if copied.copies_audio => {
            all.extend(split_args(&format!("-map 0:{} -c:a copy", audio.index)));
        }
        audio => all.extend(audio_args(audio.as_ref(), copied.rung.quality.audio_kbps())),
    }
    all.extend(split_args(COMMON));
    all.extend(split_args(MP4_MUXER));
    all.push(file.to_owned());
    all
}

/// One output per rung, each with its own audio. `muxer` returns the file for a quality and the arguments
/// before it.
pub(crate) fn output_per_rung(
    request: &FormatRequest<'_>,
    container: Container,
    encoder: &[String],
    muxer: impl Fn(&str) -> (String, Vec<String>),
) -> FormatPlan {
    let audio = request.source.audio.as_ref();
    let mut plan = FormatPlan::default();
    for (n, rung) in request.rungs.iter().enumerate() {
        let (file, muxer) = muxer(rung.quality.name());
        if let Some(copied) = request.copied.filter(|copied| copied.rung == *rung) {
            plan.output_options.extend(copied_output(request.source, copied, &file));
            plan.outputs.push(Planned { is_copied: true, ..planned(*rung, file, container) });
            continue;
        }
        let options = &mut plan.output_options;
        options.extend(split_args(&format!("-map [v{n}]")));
        options.extend(audio_args(audio, rung.quality.audio_kbps()));
        options.extend_from_slice(encoder);
        options.extend(rung_args(*rung, request.video_codec, request.rate_control, ""));
        options.extend(split_args(COMMON));
        options.extend(muxer);
        options.push(file.clone());
        plan.outputs.push(planned(*rung, file, container));
    }
    plan
}

/// The planned rendition of a rung.
pub(crate) fn planned(rung: Rung, file: String, container: Container) -> Planned {
    Planned { label: Label::Quality(rung.quality), file, size: rung.size, container, is_copied: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Dimensions;

    const P360: Rung = Rung { quality: Quality::P360, size: Dimensions { width: 640, height: 360 } };

    #[test]
    fn large_rungs_have_a_faster_preset() {
        let of = |width, height, quality| {
            let rung = Rung { quality, size: Dimensions { width, height } };
            rung_args(rung, VideoCodec::H264, RateControl::ConstantQuality(20), ":v:1")[..2].join(" ")
        };
        assert_eq!(of(1280, 720, Quality::P720), "-preset:v:1 faster");
        assert_eq!(of(720, 1280, Quality::P1080), "-preset:v:1 faster");
        assert_eq!(of(640, 360, Quality::P360), "-preset:v:1 fast");
        // What counts is the picture, not the name of its quality.
        assert_eq!(of(640, 360, Quality::P1080), "-preset:v:1 fast");
    }

    #[test]
    fn a_bit_rate_is_that_of_its_stream() {
        let rung = P360;
        let of = |rate_control, stream| rate_control_args(rung, rate_control, stream).join(" ");
        assert_eq!(of(RateControl::Bitrate, ""), "-b:v 400k -maxrate 400k -bufsize 800k");
        assert_eq!(of(RateControl::Bitrate, ":v:1"), "-b:v:1 400k -maxrate:v:1 400k -bufsize:v:1 800k");
        assert_eq!(of(RateControl::ConstantQuality(20), ""), "-crf 20 -maxrate 400k -bufsize 800k");
    }
}
