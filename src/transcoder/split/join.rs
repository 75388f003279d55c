//! Joins the segments of a rendition: to one file with its sound, or to stills.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::plan::SplitPlan;
use super::report::{Whole, WholeRung};
use super::request::{FinishRequest, PartFiles};
use crate::job::space::DiskFull;
use crate::job::{Dimensions, Format};
use crate::transcoder::ffmpeg::{Expected, FfmpegRun, RunStats};
use crate::transcoder::ffprobe::{INPUT_FORMATS, input_options};
use crate::transcoder::format::Planned;
use crate::transcoder::format::arguments::{COMMON, MP4_MUXER, split_args};
use crate::transcoder::format::cmaf::presentation::Segment;
use crate::transcoder::format::hls_ts;
use crate::transcoder::input::MediaInput;
use crate::transcoder::plan::{filter_graph, input_args};
use crate::transcoder::probe::Video;
use crate::transcoder::stills::PlannedStills;
use crate::transcoder::{TranscodeError, disk};

/// Number of files that are fetched at the same time.
const FETCHES: usize = 8;
/// Seconds of the video that the poster is chosen from, rounded up to whole segments.
const POSTER_SECONDS: f64 = 12.0;

/// Fetches the initialization section of a rung and these segments, and joins them to one file.
pub(super) async fn fetch_joined(
    files: &dyn PartFiles,
    rung: &WholeRung,
    segments: impl Iterator<Item = &Segment>,
    to: &Path,
) -> Result<(), TranscodeError> {
    let folder = rung.rung.quality.name();
    let segments = segments.map(|segment| format!("{folder}/{}", segment.file));
    let names: Vec<String> = [format!("{folder}/{}", rung.track.init)].into_iter().chain(segments).collect();
    let trouble = |e: std::io::Error| disk::trouble("join the segments", &e);
    let mut joined = tokio::fs::File::create(to).await.map_err(trouble)?;
    let fetches = names.into_iter().enumerate().map(|(n, name)| {
        let part = to.with_extension(format!("{n}.part"));
        async move { files.fetch(&name, &part).await.map(|()| part) }
    });
    let mut fetches = futures::stream::iter(fetches).buffered(FETCHES);
    while let Some(part) = fetches.next().await {
        let part: PathBuf = part?;
        let mut bytes = tokio::fs::File::open(&part).await.map_err(trouble)?;
        tokio::io::copy(&mut bytes, &mut joined).await.map_err(trouble)?;
        tokio::fs::remove_file(&part).await.map_err(trouble)?;
    }
    joined.flush().await.map_err(trouble)?;
    Ok(())
}

/// Makes the file or the playlist of a rendition from its joined picture, and from the file of its sound.
pub(super) async fn mux(
    request: &FinishRequest<'_>,
    run: &Run<'_>,
    rung: &WholeRung,
    picture: &Path,
    sound: Option<&Path>,
    file: &str,
) -> Result<RunStats, TranscodeError> {
    let picture = MediaInput::File(picture);
    let mut arguments: Vec<OsString> = strings(input_args(picture, false, true));
    arguments.extend(["-copyts".into(), "-i".into(), picture.argument()]);
    let mut all = split_args("-map 0:v:0");
    if let Some(sound) = sound.map(MediaInput::File) {
        arguments.extend(strings(input_options(sound, INPUT_FORMATS)));
        arguments.extend(["-i".into(), sound.argument()]);
        all.extend(split_args("-map 1:a:0"));
    }
    // The times of an encode of the whole.
    all.extend(split_args(&format!("-c copy -output_ts_offset {:.6}", -request.plan.shift())));
    all.extend(split_args(COMMON));
    match request.plan.format() {
        Format::HlsTs => all.extend(hls_ts::muxer(rung.rung.quality.name())),
        Format::Copy | Format::Mp4 | Format::Cmaf => all.extend(split_args(MP4_MUXER)),
    }
    all.push(file.to_owned());
    arguments.extend(strings(all));
    run.ffmpeg(request, arguments).await
}

/// Makes the stills from the renditions that fit. Only segments with frames that can be in a still are fetched; a copied
/// rendition is in the output folder.
pub(super) async fn make_stills(
    request: &FinishRequest<'_>,
    run: &Run<'_>,
    whole: &Whole<'_>,
    copied: Option<&Planned>,
    stills: PlannedStills,
) -> Result<f64, TranscodeError> {
    let mut cpu_seconds = 0.0;
    let (mut stills, mut of_copy) = (stills, PlannedStills::default());
    if let Some(copied) = copied {
        let is_of_copy = |size: &Dimensions| !whole.rungs.iter().any(|rung| holds(rung, *size));
        of_copy.poster = stills.poster.take_if(|size| is_of_copy(size));
        of_copy.board = stills.board.take_if(|board| is_of_copy(&board.size));
        cpu_seconds += stills_of_copy(request, run, copied, &of_copy).await?;
    }
    if let Some(size) = stills.poster
        && let Some(rung) = fitting(whole, size)
    {
        let first = rung.track.segments.first().and_then(shown_at).unwrap_or_default();
        let early = |segment: &&Segment| shown_at(segment).is_some_and(|at| at < first + POSTER_SECONDS);
        let segments = rung.track.segments.iter().filter(early);
        let poster = PlannedStills { poster: Some(size), board: None };
        cpu_seconds += still(request, run, rung, segments, &poster).await?;
    }
    if let Some(board) = stills.board
        && let Some(rung) = fitting(whole, board.size)
    {
        let zero = request.plan.shift();
        let times = (0..board.count(rung.seconds)).map(|n| f64::from(n * board.interval) + zero);
        let needed = segments_at(&rung.track.segments, times);
        let segments = rung.track.segments.iter().zip(needed).filter(|(_, is_needed)| *is_needed);
        let storyboard = PlannedStills { poster: None, board: Some(board) };
        cpu_seconds += still(request, run, rung, segments.map(|(segment, _)| segment), &storyboard).await?;
    }
    Ok(cpu_seconds)
}

/// The smallest rung with at least twice the sides of the picture, because the rungs are compressed, unlike the pictures
/// from which an encode of the whole makes stills; else the largest.
fn fitting<'a>(whole: &'a Whole<'_>, size: Dimensions) -> Option<&'a WholeRung> {
    whole.rungs.iter().rev().find(|rung| holds(rung, size)).or(whole.rungs.first())
}

fn holds(rung: &WholeRung, size: Dimensions) -> bool {
    rung.rung.size.width >= 2 * size.width && rung.rung.size.height >= 2 * size.height
}

/// Makes these stills from the rendition with the source's own picture.
async fn stills_of_copy(
    request: &FinishRequest<'_>,
    run: &Run<'_>,
    copied: &Planned,
    stills: &PlannedStills,
) -> Result<f64, TranscodeError> {
    // The picture is the only stream of its kind in the rendition, and the first.
    let video = Video { index: 0, ..request.plan.source.video.clone() };
    let Some(graph) = filter_graph(&video, &[], stills, "") else { return Ok(0.0) };
    let input = MediaInput::File(Path::new(&copied.file));
    let mut arguments = strings(input_args(input, true, true));
    arguments.extend(["-i".into(), input.argument(), "-filter_complex".into(), graph.into()]);
    arguments.extend(strings(stills.outputs()));
    Ok(run.ffmpeg(request, arguments).await?.cpu_seconds)
}

fn shown_at(segment: &Segment) -> Option<f64> {
    segment.fragments.first().map(|fragment| fragment.shown_at)
}

/// Whether each segment has the frame that is shown at one of these times, seconds.
fn segments_at(segments: &[Segment], times: impl Iterator<Item = f64>) -> Vec<bool> {
    let starts: Vec<f64> = segments.iter().map(|segment| shown_at(segment).unwrap_or_default()).collect();
    let mut needed = vec![false; segments.len()];
    for time in times {
        // The segment before one that begins at this very time has the frame if the other begins a bit later.
        for time in [time - 0.1, time] {
            let at = starts.partition_point(|start| *start <= time).saturating_sub(1);
            if let Some(needed) = needed.get_mut(at) {
                *needed = true;
            }
        }
    }
    needed
}

async fn still(
    request: &FinishRequest<'_>,
    run: &Run<'_>,
    rung: &WholeRung,
    segments: impl Iterator<Item = &Segment>,
    stills: &PlannedStills,
) -> Result<f64, TranscodeError> {
    let picture = run.scratch.join("stills.mp4");
    fetch_joined(request.files, rung, segments, &picture).await?;
    let input = MediaInput::File(&picture);
    let mut arguments = strings(input_args(input, true, true));
    arguments.extend(strings(still_times(request.plan)));
    arguments.extend(["-i".into(), input.argument()]);
    let feeds: String = stills.feeds().map(|feed| format!("[{feed}]")).collect();
    // A fragment does not say how long its last frame is shown, which may be the time of the last still.
    let graph = format!("[0:v]tpad=stop_mode=clone:stop_duration=0.2{feeds}{}", stills.filters());
    arguments.extend(["-filter_complex".into(), graph.into()]);
    arguments.extend(strings(stills.outputs()));
    let stats = run.ffmpeg(request, arguments).await?;
    tokio::fs::remove_file(&picture).await.map_err(|e| disk::trouble("delete a file", &e))?;
    Ok(stats.cpu_seconds)
}

/// The input options that restore the times of an encode of the whole.
fn still_times(plan: &SplitPlan) -> Vec<String> {
    split_args(&format!("-copyts -itsoffset {:.6}", -plan.shift()))
}

fn strings(all: Vec<String>) -> Vec<OsString> {
    all.into_iter().map(OsString::from).collect()
}

/// Where FFmpeg runs.
pub(super) struct Run<'a> {
    /// The folder for outputs.
    pub folder: &'a Path,
    /// A folder for files that are deleted in the end.
    pub scratch: &'a Path,
    pub space: DiskFull,
    pub deadline: tokio::time::Instant,
}

impl Run<'_> {
    async fn ffmpeg(
        &self,
        request: &FinishRequest<'_>,
        arguments: Vec<OsString>,
    ) -> Result<RunStats, TranscodeError> {
        let run = FfmpegRun {
            arguments,
            folder: self.folder,
            input: MediaInput::File(self.scratch),
            is_nice: false,
            expected: Expected::default(),
            space: self.space,
            disk_bytes: request.disk_bytes,
            stall_timeout: request.stall_timeout,
            deadline: self.deadline,
            cancel: request.cancel,
            on_progress: &|_| {},
        };
        run.finish().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcoder::format::cmaf::presentation::Fragment;

    #[test]
    fn segments_of_stills_are_those_around_their_times() {
        let segments: Vec<Segment> = (0..10)
            .map(|n| {
                let fragment = Fragment {
                    offset: 0,
                    first_sample_end: 1,
                    starts_with_keyframe: true,
                    shown_at: 0.1 + f64::from(n) * 4.0,
                    decoded_at: 0,
                    duration: 1,
                    samples: 1,
                };
                Segment { file: String::new(), bytes: 1, seconds: 4.0, fragments: vec![fragment] }
            })
            .collect();
        let needed = segments_at(&segments, [0.0, 17.0, 32.1].into_iter());
        let found: Vec<usize> = (0..10).filter(|n| needed[*n]).collect();
        assert_eq!(found, [0, 4, 7, 8]);
    }
}
