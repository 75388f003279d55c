//! FFmpeg's arguments for the parts of a split video (pure).

use std::ffi::OsString;
use std::ops::Range;

use super::chunks::SEGMENT;
use super::plan::SplitPlan;
use crate::job::{Failure, Format};
use crate::transcoder::copied::CopiedRung;
use crate::transcoder::format::arguments::{
    COMMON, audio_args, copied_output, encoder_args, rung_args, split_args,
};
use crate::transcoder::format::cmaf::{SEGMENT_NAME, SHARED_AUDIO};
use crate::transcoder::input::MediaInput;
use crate::transcoder::plan::{filter_graph, input_args};
use crate::transcoder::stills::PlannedStills;

/// The initialization section in the folder of a rung.
pub(super) const INIT: &str = "init.mp4";
/// The media playlist there.
pub(super) const INDEX: &str = "index.m3u8";

/// Seconds between a chunk's start and the time to seek to. Containers seek by the times of decoding, which come before
/// those of presentation.
const SEEK_MARGIN: f64 = 0.5;

/// The options of segments of sound: absolute times in every fragment, and no edit list.
const FRAGMENTS: &str = "movflags=+frag_discont:use_editlist=0:avoid_negative_ts=disabled";

/// A fragment for each segment, with absolute times, which is written to the file at once when it is complete.
const FRAGMENT_PER_KEYFRAME: &str =
    "-flush_packets 1 -movflags +frag_keyframe+frag_discont+delay_moov+default_base_moof+skip_trailer";

/// The runs of FFmpeg that encode a chunk with these rungs, by their places in the ladder. A run uses about one core, so
/// that an urgent chunk has two: one for the largest rung, which costs more than the others together.
pub(super) fn runs(rungs: Range<usize>, is_urgent: bool) -> Vec<Range<usize>> {
    let Range { start, end } = rungs;
    if is_urgent && rungs.len() > 1 { vec![start..start + 1, start + 1..end] } else { vec![rungs] }
}

/// The arguments for these rungs of one chunk, each of which becomes a file such as `720p.mp4` with a fragment for each
/// segment. The files do not depend on which rungs are encoded together.
pub(super) fn chunk(
    plan: &SplitPlan,
    number: u32,
    of: Range<usize>,
    is_urgent: bool,
    input: MediaInput<'_>,
) -> Result<Vec<OsString>, Failure> {
    let segments = plan.chunks.segments_of(number);
    let (is_first, is_last) = (segments.start == 0, segments.end >= plan.chunks.segments());
    let begin = plan.boundary(segments.start);

    // From the middle of a stream, the decoder reports frames that it cannot decode, which the filter drops. Whether
    // frames are missing is seen by their number.
    let mut all = input_args(input, true, is_first);
    all.extend(split_args("-copyts -start_at_zero"));
    let seek = begin - SEEK_MARGIN;
    if !is_first && seek > 0.0 {
        all.extend(split_args(&format!("-seek_timestamp 1 -ss {seek:.6} -noaccurate_seek")));
    }
    // One thread is the cheapest, and several chunks use several cores. If viewers wait for it, its decoder has more.
    all.extend(split_args(if is_urgent { "-threads 0" } else { "-threads 1" }));
    let mut arguments: Vec<OsString> = all.into_iter().map(OsString::from).collect();
    arguments.extend(["-i".into(), input.argument()]);

    let mut limits = Vec::new();
    limits.extend((!is_first).then(|| format!("start={:.6}", begin - plan.zero())));
    limits.extend((!is_last).then(|| format!("end={:.6}", plan.boundary(segments.end) - plan.zero())));
    // An encode of the whole merges frames with the same time, too. x264 refuses them.
    let cut =
        format!("trim={},select=isnan(prev_selected_pts)+gt(pts\\,prev_selected_pts),", limits.join(":"));
    let rungs = plan.rungs()?;
    let (below, rungs) = (of.start, rungs.get(..of.end).unwrap_or(&rungs));
    // Each rung is scaled from the one above it.
    let mut graph =
        filter_graph(&plan.source.video, rungs, &PlannedStills::default(), &cut).unwrap_or_default();
    (0..below).for_each(|n| graph += &format!(";[v{n}]nullsink"));
    let mut all = split_args("-filter_complex_threads 1 -filter_complex");
    all.push(graph);
    let row = plan.preset.row();
    let keyframes: Vec<String> = (segments.start + 1..segments.end)
        .map(|segment| format!("{:.6}", plan.boundary(segment) - plan.zero()))
        .collect();
    for (n, rung) in rungs.iter().enumerate().skip(below) {
        let folder = rung.quality.name();
        all.extend(split_args(&format!("-map [v{n}]")));
        all.extend(encoder_args(row.video_codec));
        // With several threads, x264 makes other bytes each time where the bit rate is limited.
        all.extend(split_args("-fps_mode passthrough -enc_time_base -1 -threads 1"));
        // A fragment begins at every keyframe, so that there must be no others.
        all.extend(split_args("-g 1000000 -sc_threshold 0"));
        if !keyframes.is_empty() {
            all.extend(["-force_key_frames".to_owned(), keyframes.join(",")]);
        }
        all.extend(["-bsf:v".to_owned(), times(plan.frame_distance())]);
        all.extend(rung_args(*rung, row.video_codec, row.rate_control, ""));
        if !is_first {
            // x264 lets a stream begin with a buffer that is 90 percent full. If every chunk did, they would have 7
            // percent more bits than the whole where the bit rate is limited (48 s at 240p in chunks of 8 s, FFmpeg 5.1).
            // Half full, they have 0.2 percent fewer, at the same SSIM around the joins and elsewhere.
            all.extend(split_args(&format!("-rc_init_occupancy {}k", rung.buffer_kbit() / 2)));
        }
        all.extend(split_args(COMMON));
        all.extend(at_times(plan.shift()));
        // Not the HLS muxer: it lets a segment begin when the one before ends by the durations of its packets, which
        // is not when its first frame is shown where the frame rate varies.
        all.extend(split_args(&format!("{FRAGMENT_PER_KEYFRAME} -use_editlist 0 -f mp4 {folder}.mp4")));
    }
    arguments.extend(all.into_iter().map(OsString::from));
    Ok(arguments)
}

/// The filter of packets that makes a packet last until the next one, and lets the first two be decoded at times that
/// do not depend on the frames after them: x264 takes the distance of the first frames, which varies where the frame
/// rate does.
fn times(distance: f64) -> String {
    format!(
        "setts=pts=PTS:dts=if(lt(N\\,2)\\,STARTPTS-(2-N)*max(1\\,round({distance:.9}/TB))\\,DTS)\
         :duration=if(eq(NEXT_DTS\\,NOPTS)\\,DURATION\\,NEXT_DTS-DTS)"
    )
}

/// The options that add this to all times, seconds.
fn at_times(offset: f64) -> Vec<String> {
    split_args(&format!("-avoid_negative_ts disabled -output_ts_offset {offset:.6}"))
}

/// One encode of the sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sound {
    /// Bit rate, kbit/s.
    pub kbps: u32,
    /// The file or the playlist, relative to the output folder.
    pub file: String,
}

/// The encodes of the sound: one that all renditions share, or one for each bit rate.
pub(super) fn sounds(plan: &SplitPlan) -> Result<Vec<Sound>, Failure> {
    if !plan.has_audio() {
        return Ok(vec![]);
    }
    let rungs = plan.encoded()?;
    if plan.format() == Format::Cmaf {
        let kbps = rungs.first().map_or(0, |rung| rung.quality.audio_kbps());
        return Ok(vec![Sound { kbps, file: format!("{SHARED_AUDIO}/{INDEX}") }]);
    }
    let mut kbps: Vec<u32> = rungs.iter().map(|rung| rung.quality.audio_kbps()).collect();
    kbps.dedup();
    Ok(kbps.into_iter().map(|kbps| Sound { kbps, file: sound_file(kbps) }).collect())
}

/// Segments of the sound that are encoded by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SoundSpan {
    /// The segment with which the encode begins, so that the encoder has heard something when it comes to the first one
    /// that is used.
    from: u32,
    /// The segments that are used.
    pub segments: Range<u32>,
}

impl SoundSpan {
    /// Those that are played with these segments of the picture; `None` at the beginning, where the sound begins as a
    /// whole. A segment after them is played in part.
    pub(super) fn around(video: &Range<u32>) -> Option<Self> {
        // Two segments are 375 frames of AAC at 48 kHz, so that those of an even segment lie on the same grid as those of
        // the whole.
        let from = video.start.checked_sub(2)? / 2 * 2;
        Some(Self { from, segments: from + 1..video.end + 1 })
    }

    /// Where the encode begins, seconds.
    pub(super) fn start(&self) -> f64 {
        f64::from(self.from) * SEGMENT
    }

    /// Its duration in seconds. The muxer ends a segment only when it has heard the frame after it.
    pub(super) fn seconds(&self) -> f64 {
        f64::from(self.segments.end - self.from) * SEGMENT + 0.1
    }
}

/// The muxer that makes segments of the sound, the first of which has this number.
fn segmented_sound(first: u32) -> Vec<String> {
    split_args(&format!(
        "-f hls -hls_time {SEGMENT} -hls_playlist_type vod -hls_segment_type fmp4 \
         -hls_segment_options {FRAGMENTS} -hls_fmp4_init_filename {INIT} -start_number {first} \
         -hls_segment_filename {SHARED_AUDIO}/{SEGMENT_NAME}"
    ))
}

/// The file of the rendition that takes the picture as it is, as an encode of the whole makes it.
pub(super) fn copied_file(copied: CopiedRung) -> String {
    format!("{}.mp4", copied.rung.quality)
}

/// The intermediate file of the sound at a bit rate.
pub(super) fn sound_file(kbps: u32) -> String {
    format!("audio-{kbps}k.mp4")
}

/// The arguments for the sound, and for the rendition that takes the picture as it is. FFmpeg must run in the output folder.
pub(super) fn audio(plan: &SplitPlan, input: MediaInput<'_>) -> Result<Vec<OsString>, Failure> {
    sound(plan, None, input)
}

/// The arguments for a part of the sound that the renditions share. FFmpeg must run in the output folder.
pub(super) fn sound_around(
    plan: &SplitPlan,
    span: &SoundSpan,
    input: MediaInput<'_>,
) -> Result<Vec<OsString>, Failure> {
    sound(plan, Some(span), input)
}

/// The arguments for this part of the sound; for all of it, if there is no span.
fn sound(
    plan: &SplitPlan,
    span: Option<&SoundSpan>,
    input: MediaInput<'_>,
) -> Result<Vec<OsString>, Failure> {
    // A decoder that begins in the middle of a stream may report errors.
    let mut all = input_args(input, false, span.is_none());
    let start = span.map_or(0.0, SoundSpan::start);
    if span.is_some() {
        all.extend(split_args(&format!("-ss {start:.6}")));
    }
    let mut arguments: Vec<OsString> = all.into_iter().map(OsString::from).collect();
    arguments.extend(["-i".into(), input.argument()]);
    let mut all = Vec::new();
    for Sound { kbps, file } in sounds(plan)? {
        all.extend(audio_args(plan.source.audio.as_ref(), kbps));
        all.push("-vn".into());
        if let Some(span) = span {
            all.extend(split_args(&format!("-t {:.6}", span.seconds())));
        }
        all.extend(split_args(COMMON));
        all.extend(at_times(plan.shift() + start));
        if plan.format() == Format::Cmaf {
            all.extend(segmented_sound(span.map_or(0, |span| span.from)));
        } else {
            all.extend(split_args(
                "-movflags +frag_discont+delay_moov+default_base_moof -use_editlist 0 -frag_duration 10000000 -f mp4",
            ));
        }
        all.push(file);
    }
    if let Some(copied) = plan.copied()? {
        all.extend(copied_output(&plan.source, copied, &copied_file(copied)));
    }
    arguments.extend(all.into_iter().map(OsString::from));
    Ok(arguments)
}
