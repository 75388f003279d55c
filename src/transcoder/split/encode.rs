//! Encodes a part of a split video into a local folder: one chunk in all renditions, or the sound as a whole.

use std::ffi::OsString;
use std::path::Path;

use futures::future::try_join_all;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::arguments::{self, INDEX, INIT, Sound};
use super::fragments::Cutter;
use super::hand_over::{GrowingChunk, GrowingSound, while_encoding};
use super::report::{AudioReport, AudioTrackReport, ChunkReport, RungReport};
use super::request::PartRequest;
use crate::hex::hex;
use crate::job::space::{self, DiskFull};
use crate::job::{Failure, FailureCode, Format, Quality};
use crate::transcoder::diagnose::{ends_early, missing_output, wrong_output};
use crate::transcoder::ffmpeg::{Expected, FfmpegRun, RunStats};
use crate::transcoder::format::cmaf::fragments::{Init, Mp4Error};
use crate::transcoder::format::cmaf::measure::measure_track;
use crate::transcoder::format::cmaf::presentation::Track;
use crate::transcoder::format::cmaf::{SHARED_AUDIO, presentation::Segment};
use crate::transcoder::playlist::MediaPlaylist;
use crate::transcoder::{TranscodeError, bounded, deadline_in, disk, estimate, publish, work_folder};

/// Encodes one chunk in all renditions: `720p/init.mp4`, `720p/segment_00042.m4s`, and so on.
///
/// # Errors
/// [`TranscodeError::Cancelled`] if the token was cancelled, otherwise the [`Failure`].
pub async fn encode_chunk(number: u32, request: &PartRequest<'_>) -> Result<ChunkReport, TranscodeError> {
    let (plan, deadline) = (request.plan, deadline_in(request.deadline));
    let segments = plan.chunks.segments_of(number);
    if segments.is_empty() {
        let message = format!("the video has no chunk {number}");
        return Err(Failure::new(FailureCode::Worker, message).into());
    }
    let work = prepare(request.out_dir)?;
    let rungs = plan.encoded()?;
    for rung in &rungs {
        make_folder(&work.path().join(rung.quality.name()))?;
    }
    let seconds: f64 = segments.clone().map(|segment| plan.chunks.seconds_of(segment)).sum();
    let start = plan.boundary(segments.start) - plan.zero() + plan.shift();
    let expected = Expected { start, duration: Some(seconds), frames: None };
    let bytes = estimate::output_bytes(&plan.whole()?, &plan.source, plan.preset) as f64;
    // The segments stand beside the files that they are cut from.
    let bytes = (2.0 * bytes * seconds / plan.chunks.seconds().max(seconds)) as u64;
    let all = plan.rungs()?.len();
    let runs = arguments::runs(all - rungs.len()..all, request.is_urgent).into_iter().map(|of| {
        let arguments = arguments::chunk(plan, number, of, request.is_urgent, request.input)?;
        Ok(run(request, work.path(), arguments, expected, bytes, deadline))
    });
    let encode = try_join_all(runs.collect::<Result<Vec<_>, Failure>>()?);
    let qualities = rungs.iter().map(|rung| rung.quality);
    let mut growing = GrowingChunk::new(work.path(), qualities, segments.start);
    let stats = while_encoding(work.path(), &mut growing, request.sink, encode).await?;
    let cpu_seconds = stats.iter().map(|run| run.cpu_seconds).sum();

    let measure = async {
        let mut reports = Vec::new();
        for (quality, rest) in growing.into_rungs() {
            let reached = plan.boundary(segments.start) - plan.source.video.start;
            let rung = measure_rung(work.path(), quality, rest).await?;
            reports.push(rung.ok_or_else(|| ends_early(reached.max(0.0), Some(plan.chunks.seconds())))?);
        }
        Ok::<_, Failure>(reports)
    };
    let reports = bounded(request.cancel, deadline, measure).await??;
    if reports.len() != rungs.len() {
        return Err(broke_off("a rendition is missing").into());
    }
    let rungs = reports;
    let first = rungs.first().map(|rung| (rung.frames, rung.segments.len()));
    if rungs.iter().any(|rung| Some((rung.frames, rung.segments.len())) != first) {
        return Err(wrong_output(format!("the renditions of chunk {number} have different frames")).into());
    }
    publish(work.path(), request.out_dir)?;
    Ok(ChunkReport { chunk: number, rungs, cpu_seconds })
}

/// Encodes the sound of the whole video: `audio/init.mp4` and `audio/segment_00000.m4s` if all renditions share it,
/// otherwise `audio-128k.mp4` for each bit rate; and makes the rendition that takes the picture as it is. Without either
/// there is nothing to do.
///
/// # Errors
/// [`TranscodeError::Cancelled`] if the token was cancelled, otherwise the [`Failure`].
pub async fn encode_audio(request: &PartRequest<'_>) -> Result<AudioReport, TranscodeError> {
    let (plan, deadline) = (request.plan, deadline_in(request.deadline));
    let (sounds, copied) = (arguments::sounds(plan)?, plan.copied()?.map(arguments::copied_file));
    if !plan.has_streams() {
        return Ok(AudioReport { tracks: vec![], copied: None, cpu_seconds: 0.0 });
    }
    let work = prepare(request.out_dir)?;
    if plan.format() == Format::Cmaf {
        make_folder(&work.path().join(SHARED_AUDIO))?;
    }
    let duration = plan.source.audio.as_ref().and_then(|audio| audio.duration).or(plan.source.duration);
    let copied_bytes = if copied.is_some() { plan.source.size } else { 0 };
    let expected = Expected { start: 0.0, duration, frames: None };
    let kbps: u32 = sounds.iter().map(|sound| sound.kbps).sum();
    let bytes = (f64::from(kbps) * 125.0 * duration.unwrap_or_default()) as u64 + copied_bytes;
    let arguments = arguments::audio(plan, request.input)?;
    let sink = request.sink.filter(|_| plan.format() == Format::Cmaf);
    let encode = run(request, work.path(), arguments, expected, bytes, deadline);
    let mut growing = GrowingSound::new(work.path());
    let stats = while_encoding(work.path(), &mut growing, sink, encode).await?;
    let measure = async {
        let mut tracks = Vec::new();
        for sound in sounds {
            tracks.push(measure_sound(work.path(), sound, plan.format()).await?);
        }
        Ok::<_, Failure>(tracks)
    };
    let tracks = bounded(request.cancel, deadline, measure).await??;
    publish(work.path(), request.out_dir)?;
    Ok(AudioReport { tracks, copied, cpu_seconds: stats.cpu_seconds })
}

pub(super) fn prepare(out_dir: &Path) -> Result<tempfile::TempDir, Failure> {
    std::fs::create_dir_all(out_dir).map_err(|e| disk::trouble("make the output folder", &e))?;
    work_folder(out_dir)
}

pub(super) fn make_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|e| disk::trouble("make a folder", &e))
}

/// Runs FFmpeg, whose outputs have about this many bytes.
pub(super) async fn run(
    request: &PartRequest<'_>,
    folder: &Path,
    arguments: Vec<OsString>,
    expected: Expected,
    bytes: u64,
    deadline: Instant,
) -> Result<RunStats, TranscodeError> {
    let needed = space::needed(0, bytes);
    let space = DiskFull { needed, free: disk::free(folder, request.disk_bytes) };
    if space.free.is_some_and(|free| needed > free) {
        return Err(Failure::from(space).into());
    }
    let run = FfmpegRun {
        arguments,
        folder,
        input: request.input,
        is_nice: !request.is_urgent,
        expected,
        space,
        disk_bytes: request.disk_bytes,
        stall_timeout: request.stall_timeout,
        deadline,
        cancel: request.cancel,
        on_progress: &|_| {},
    };
    let stats = run.finish().await?;
    // FFmpeg's HLS muxer succeeds on a full disk although files are missing.
    if disk::is_full(folder, request.disk_bytes) { Err(Failure::from(space).into()) } else { Ok(stats) }
}

/// Cuts the rest of one rendition of a chunk, and measures it; `None` if it has no frames.
async fn measure_rung(folder: &Path, quality: Quality, rest: Cutter) -> Result<Option<RungReport>, Failure> {
    let folder = folder.join(quality.name());
    let work = tokio::task::spawn_blocking(move || {
        let trouble = |e: std::io::Error| disk::trouble("cut a chunk into segments", &e);
        let names = rest.finish().map_err(trouble)?;
        if names.is_empty() { Ok(None) } else { rung_report(&folder, quality, names).map(Some) }
    });
    work.await.map_err(broke_off)?
}

/// The segments in a folder, which FFmpeg's playlist names; `None` if there are none.
async fn segments(folder: &Path, name: &str) -> Result<Option<Track>, Failure> {
    let file = format!("{name}/{INDEX}");
    let path = folder.join(&file);
    let Ok(text) = tokio::fs::read_to_string(&path).await else { return Ok(None) };
    let playlist = MediaPlaylist::parse(&text).ok_or_else(|| missing_output(&file))?;
    if playlist.segments.is_empty() {
        return Ok(None);
    }
    let track = measure_track(folder, &file, Some(&playlist)).await?;
    // It would refer to the segments of this part alone.
    tokio::fs::remove_file(&path).await.map_err(|e| disk::trouble("delete a playlist", &e))?;
    Ok(Some(track))
}

fn rung_report(folder: &Path, quality: Quality, names: Vec<String>) -> Result<RungReport, Failure> {
    let init_path = folder.join(INIT);
    let bytes = std::fs::read(&init_path).map_err(|_| missing_output(INIT))?;
    let init = Init::read(&init_path).map_err(|e| unmeasured(INIT, &e))?;
    let (mut times, mut segments) = (Vec::new(), Vec::new());
    for file in names {
        let path = folder.join(&file);
        let found = init.presentation_times(&path).and_then(|times| Ok((times, init.fragments(&path)?)));
        let (shown, (bytes, fragments)) = found.map_err(|e| unmeasured(&file, &e))?;
        if !fragments.first().is_some_and(|fragment| fragment.starts_with_keyframe) {
            return Err(wrong_output(format!("{file} of {quality} does not start with a keyframe")));
        }
        let units: u64 = fragments.iter().map(|fragment| fragment.duration).sum();
        times.extend(shown);
        segments.push(Segment { file, bytes, seconds: units as f64 / f64::from(init.timescale), fragments });
    }
    times.sort_unstable();
    if times.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(wrong_output(format!("two frames of {quality} are shown at the same time")));
    }
    let seconds = |time: Option<&i64>| time.map_or(0.0, |time| *time as f64 / f64::from(init.timescale));
    Ok(RungReport {
        quality,
        init_sha256: hex(&Sha256::digest(&bytes)),
        init_bytes: bytes.len() as u64,
        codec: init.codec.clone(),
        timescale: init.timescale,
        frames: times.len() as u64,
        first: seconds(times.first()),
        last: seconds(times.last()),
        segments,
    })
}

async fn measure_sound(folder: &Path, sound: Sound, format: Format) -> Result<AudioTrackReport, Failure> {
    let Sound { kbps, file } = sound;
    if format != Format::Cmaf {
        let path = folder.join(&file);
        let work = tokio::task::spawn_blocking(move || measure_file(kbps, file, &path));
        return work.await.map_err(broke_off)?;
    }
    let empty = || wrong_output("the shared sound came out empty".into());
    let track = segments(folder, SHARED_AUDIO).await?.ok_or_else(empty)?;
    let file = format!("{SHARED_AUDIO}/{INIT}");
    let bytes = tokio::fs::metadata(folder.join(&file)).await.map_err(|_| missing_output(&file))?.len();
    let seconds = track.segments.iter().map(|segment: &Segment| segment.seconds).sum();
    let Track { codec, timescale, segments, .. } = track;
    Ok(AudioTrackReport { kbps, file, bytes, codec, timescale, seconds, segments })
}

/// Measures the sound in one file.
fn measure_file(kbps: u32, file: String, path: &Path) -> Result<AudioTrackReport, Failure> {
    let init = Init::read(path).map_err(|e| unmeasured(&file, &e))?;
    let (bytes, fragments) = init.fragments(path).map_err(|e| unmeasured(&file, &e))?;
    let units: u64 = fragments.iter().map(|fragment| fragment.duration).sum();
    let seconds = units as f64 / f64::from(init.timescale);
    let (codec, timescale) = (init.codec, init.timescale);
    Ok(AudioTrackReport { kbps, file, bytes, codec, timescale, seconds, segments: vec![] })
}

fn unmeasured(file: &str, error: &Mp4Error) -> Failure {
    wrong_output(format!("{file} cannot be measured: {error}"))
}

fn broke_off(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureCode::Worker, format!("measuring the segments broke off: {error}"))
}
