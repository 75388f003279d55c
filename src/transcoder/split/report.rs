//! What was encoded of a split video, and whether the parts make a whole (pure).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::arguments::{INDEX, INIT};
use super::plan::SplitPlan;
use crate::job::{Failure, FailureCode, Quality};
use crate::transcoder::diagnose::{ends_early, wrong_output};
use crate::transcoder::format::cmaf::SHARED_AUDIO;
use crate::transcoder::format::cmaf::hls::MEDIA_VERSION;
use crate::transcoder::format::cmaf::presentation::{Segment, Track};
use crate::transcoder::ladder::Rung;
use crate::transcoder::verify;

/// An encoded chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkReport {
    /// The number of the chunk.
    pub chunk: u32,
    /// Its renditions, largest first.
    pub rungs: Vec<RungReport>,
    /// CPU seconds that FFmpeg used.
    pub cpu_seconds: f64,
}

/// One rendition of a chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RungReport {
    /// The quality, which is also the name of its folder.
    pub quality: Quality,
    /// SHA-256 of the initialization section, hexadecimal.
    pub init_sha256: String,
    /// Size of the initialization section in bytes.
    pub init_bytes: u64,
    /// The codec as in RFC 6381.
    pub codec: String,
    /// Units per second in which fragments count time.
    pub timescale: u32,
    /// Number of frames.
    pub frames: u64,
    /// Presentation time of the first frame, seconds.
    pub first: f64,
    /// Presentation time of the last frame, seconds.
    pub last: f64,
    /// The segments in the order of playback.
    pub(crate) segments: Vec<Segment>,
}

/// The encoded sound of the whole video, and the rendition that takes the picture as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AudioReport {
    /// The encodes: one that all renditions share, or one for each bit rate.
    pub tracks: Vec<AudioTrackReport>,
    /// The file of the rendition that takes the picture as it is, relative to the output folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<String>,
    /// CPU seconds that FFmpeg used.
    pub cpu_seconds: f64,
}

/// One encode of the sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AudioTrackReport {
    /// Bit rate, kbit/s.
    pub kbps: u32,
    /// The file, relative to the output folder; of segments, the initialization section.
    pub file: String,
    /// Size of that file in bytes.
    pub bytes: u64,
    /// The codec as in RFC 6381.
    pub codec: String,
    /// Units per second in which fragments count time.
    pub timescale: u32,
    /// Duration in seconds.
    pub seconds: f64,
    /// The segments; empty if it is one file.
    pub(crate) segments: Vec<Segment>,
}

impl ChunkReport {
    /// The files to store, relative to the output folder. The initialization sections of all chunks are the same, and
    /// only the first chunk stores them.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let is_first = self.chunk == 0;
        let of = |rung: &RungReport| {
            let folder = PathBuf::from(rung.quality.name());
            let init = is_first.then(|| folder.join(INIT));
            let segments: Vec<PathBuf> = rung.segments.iter().map(|s| folder.join(&s.file)).collect();
            init.into_iter().chain(segments)
        };
        self.rungs.iter().flat_map(of).collect()
    }
}

impl AudioReport {
    /// The files to store, relative to the output folder.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let of = |track: &AudioTrackReport| {
            let file = PathBuf::from(&track.file);
            let segments: Vec<PathBuf> =
                track.segments.iter().map(|s| file.with_file_name(&s.file)).collect();
            [file].into_iter().chain(segments)
        };
        self.tracks.iter().flat_map(of).chain(self.copied.iter().map(PathBuf::from)).collect()
    }
}

/// The whole video as its parts have it.
pub(super) struct Whole<'a> {
    /// Those that were encoded, largest first.
    pub rungs: Vec<WholeRung>,
    pub audio: Option<&'a AudioReport>,
}

/// One rendition of the whole video.
pub(super) struct WholeRung {
    pub rung: Rung,
    pub track: Track,
    /// Size of the initialization section and the segments in bytes.
    pub bytes: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Joins the reports of all parts, and verifies that nothing is missing, doubled or out of order.
pub(super) fn assemble<'a>(
    plan: &SplitPlan,
    chunks: &[ChunkReport],
    audio: Option<&'a AudioReport>,
) -> Result<Whole<'a>, Failure> {
    let mut chunks: Vec<&ChunkReport> = chunks.iter().collect();
    chunks.sort_by_key(|report| report.chunk);
    for number in 0..plan.chunks.count() {
        if chunks.get(number as usize).is_none_or(|report| report.chunk != number) {
            return Err(wrong_parts(format!("the report of chunk {number} is missing or doubled")));
        }
    }
    if chunks.len() != plan.chunks.count() as usize {
        return Err(wrong_parts("there are more reports than chunks".to_owned()));
    }
    let rungs = plan.encoded()?.into_iter().enumerate();
    let rungs = rungs.map(|(n, rung)| whole_rung(plan, &chunks, n, rung)).collect::<Result<Vec<_>, _>>()?;
    check_audio(plan, audio)?;
    Ok(Whole { rungs, audio })
}

fn whole_rung(plan: &SplitPlan, chunks: &[&ChunkReport], n: usize, rung: Rung) -> Result<WholeRung, Failure> {
    let name = rung.quality.name();
    let parts: Vec<&RungReport> = chunks
        .iter()
        .map(|report| report.rungs.get(n).filter(|part| part.quality == rung.quality))
        .collect::<Option<_>>()
        .ok_or_else(|| wrong_parts(format!("a chunk has no {name}")))?;
    let Some(first) = parts.first() else { return Err(wrong_parts(format!("{name} has no chunks"))) };
    let mut segments: Vec<Segment> = Vec::new();
    let mut shown = f64::NEG_INFINITY;
    for (number, part) in parts.iter().enumerate() {
        if (&part.init_sha256, &part.codec, part.timescale)
            != (&first.init_sha256, &first.codec, first.timescale)
        {
            let message = format!("{name} cannot be joined: the header of chunk {number} is another one");
            return Err(wrong_output(message));
        }
        if part.first <= shown || part.last < part.first {
            return Err(wrong_output(format!("{name} cannot be joined: chunk {number} is out of order")));
        }
        shown = part.last;
        check_segments(plan, number as u32, part, shown - plan.shift())?;
        segments.extend(part.segments.iter().cloned());
    }
    let rate = plan.source.video.frame_rate;
    let end = shown + if rate > 0.0 { 1.0 / rate } else { 0.0 };
    let segments = continuous(name, segments, end)?;
    let frames = parts.iter().map(|part| part.frames).sum::<u64>();
    let seconds = segments.iter().map(|segment| segment.seconds).sum();
    verify::check_length(seconds, Some(plan.chunks.seconds()))?;
    if let (Some(should), false) = (plan.source.video.frames, plan.source.video.interlaced)
        && frames + verify::frame_tolerance(should) < should
    {
        let message = format!("the file is damaged: {frames} of {should} frames could be decoded");
        return Err(Failure::new(FailureCode::InvalidMedia, message));
    }
    let bytes = first.init_bytes + segments.iter().map(|segment| segment.bytes).sum::<u64>();
    let track = Track {
        playlist: format!("{name}/{INDEX}"),
        version: MEDIA_VERSION,
        target_duration: target_duration(&segments),
        codec: first.codec.clone(),
        init: INIT.to_owned(),
        timescale: first.timescale,
        segments,
    };
    Ok(WholeRung { rung, track, bytes, seconds })
}

/// Verifies that a chunk has its segments. The last chunk may have more or fewer, because the duration in a file's
/// header may be an estimate.
fn check_segments(plan: &SplitPlan, chunk: u32, part: &RungReport, reached: f64) -> Result<(), Failure> {
    let planned = plan.chunks.segments_of(chunk);
    let numbers = planned.start..planned.start + part.segments.len() as u32;
    let named = numbers.map(segment_file).eq(part.segments.iter().map(|segment| segment.file.clone()));
    let is_last = planned.end == plan.chunks.segments();
    if !named || part.segments.is_empty() {
        return Err(wrong_parts(format!("the segments of chunk {chunk} are not those that were planned")));
    }
    if part.segments.len() != planned.len() && !is_last {
        return Err(ends_early(reached, Some(plan.chunks.seconds())));
    }
    Ok(())
}

/// The segments, each lasting until the next one begins, and the last one until `end`. A chunk does not know when the
/// next one begins.
fn continuous(name: &str, mut segments: Vec<Segment>, end: f64) -> Result<Vec<Segment>, Failure> {
    let starts: Vec<(f64, u64)> = segments
        .iter()
        .map(|segment| segment.fragments.first().map(|f| (f.shown_at, f.decoded_at)))
        .collect::<Option<_>>()
        .ok_or_else(|| wrong_output(format!("a segment of {name} has no frames")))?;
    for (n, segment) in segments.iter_mut().enumerate() {
        let (shown_at, _) = starts[n];
        let Some((next_shown, next_decoded)) = starts.get(n + 1).copied() else {
            segment.seconds = ((end - shown_at).max(0.0) * 1e6).round() / 1e6;
            continue;
        };
        // Microseconds, as FFmpeg's playlists have them.
        segment.seconds = ((next_shown - shown_at) * 1e6).round() / 1e6;
        let Some(fragment) = segment.fragments.last_mut() else { continue };
        if next_shown <= shown_at || next_decoded <= fragment.decoded_at {
            return Err(wrong_output(format!("{name} cannot be joined: {} is out of order", segment.file)));
        }
        fragment.duration = next_decoded - fragment.decoded_at;
    }
    Ok(segments)
}

fn check_audio(plan: &SplitPlan, audio: Option<&AudioReport>) -> Result<(), Failure> {
    let copied = audio.and_then(|report| report.copied.as_ref());
    if copied.is_some() != plan.copied()?.is_some() {
        return Err(wrong_parts("the report of the copied picture is missing".to_owned()));
    }
    let Some(source) = &plan.source.audio else { return Ok(()) };
    let tracks = audio.map_or(&[][..], |report| &report.tracks);
    let sounds = super::arguments::sounds(plan)?;
    if !sounds.iter().map(|sound| sound.kbps).eq(tracks.iter().map(|track| track.kbps)) {
        return Err(wrong_parts("the report of the sound is missing or incomplete".to_owned()));
    }
    tracks.iter().try_for_each(|track| verify::check_length(track.seconds, source.duration))
}

impl AudioTrackReport {
    /// The track of segments.
    pub(super) fn track(&self) -> Track {
        Track {
            playlist: format!("{SHARED_AUDIO}/{INDEX}"),
            version: MEDIA_VERSION,
            target_duration: target_duration(&self.segments),
            codec: self.codec.clone(),
            init: INIT.to_owned(),
            timescale: self.timescale,
            segments: self.segments.clone(),
        }
    }

    /// Size of all its files in bytes.
    pub(super) fn total_bytes(&self) -> u64 {
        self.bytes + self.segments.iter().map(|segment| segment.bytes).sum::<u64>()
    }
}

/// The file of a segment in the folder of its rung.
pub(super) fn segment_file(number: u32) -> String {
    format!("segment_{number:05}.m4s")
}

/// `EXT-X-TARGETDURATION`: no segment is longer, rounded.
fn target_duration(segments: &[Segment]) -> u64 {
    (segments.iter().map(|segment| segment.seconds).fold(0.0, f64::max).round() as u64).max(1)
}

/// The reports contradict the plan, which a worker did wrong and the source did not.
fn wrong_parts(what: String) -> Failure {
    Failure::new(FailureCode::Worker, format!("the parts of the video do not make a whole: {what}"))
}

/// The sound of a rung, if each bit rate is a file.
pub(super) fn track_for(report: Option<&AudioReport>, quality: Quality) -> Option<&AudioTrackReport> {
    report?.tracks.iter().find(|track| track.kbps == quality.audio_kbps())
}
