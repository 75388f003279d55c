//! Makes the renditions of a split video out of its parts, and verifies that nothing is missing.

use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::join::{self, Run};
use super::report::{self, Whole, WholeRung};
use super::request::FinishRequest;
use crate::job::space::{self, DiskFull};
use crate::job::{Failure, Format, RenditionInfo};
use crate::transcoder::diagnose::wrong_output;
use crate::transcoder::format::Planned;
use crate::transcoder::format::cmaf::{
    self, hls, measure, presentation::Presentation, presentation::VideoTrack,
};
use crate::transcoder::plan::Plan;
use crate::transcoder::{
    Encoded, EncodedOutput, TranscodeError, bounded, deadline_in, disk, estimate, publish, verify,
    work_folder,
};

/// Makes the renditions out of the parts. Of adaptive streaming, [`Encoded::files`] are only the documents and stills:
/// the segments stay where they are.
///
/// # Errors
/// [`TranscodeError::Cancelled`] if the token was cancelled, otherwise the [`Failure`].
pub async fn finish(request: FinishRequest<'_>) -> Result<Encoded, TranscodeError> {
    let deadline = deadline_in(request.deadline);
    bounded(request.cancel, deadline, attempt(&request, deadline)).await?
}

async fn attempt(request: &FinishRequest<'_>, deadline: Instant) -> Result<Encoded, TranscodeError> {
    let (started, plan) = (Instant::now(), request.plan);
    let whole = report::assemble(plan, request.chunks, request.audio)?;
    let planned = plan.whole()?;
    std::fs::create_dir_all(request.out_dir).map_err(|e| disk::trouble("make the output folder", &e))?;
    let work = work_folder(request.out_dir)?;
    let scratch = work_folder(request.out_dir)?;
    let outputs = estimate::output_bytes(&planned, &plan.source, plan.preset);
    let run = Run {
        folder: work.path(),
        scratch: scratch.path(),
        space: DiskFull {
            needed: space::needed(0, outputs),
            free: disk::free(work.path(), request.disk_bytes),
        },
        deadline,
    };
    let mut made = match plan.format() {
        Format::Cmaf => describe(request, &whole, &planned, work.path()).await?,
        Format::Copy | Format::Mp4 | Format::HlsTs => join_all(request, &run, &whole, &planned).await?,
    };
    let copied = planned.outputs.iter().find(|output| output.is_copied);
    made.cpu_seconds += join::make_stills(request, &run, &whole, copied, planned.stills).await?;
    let length = made.outputs.first().map_or(0.0, |output| output.info.duration);
    let (poster, storyboard) = verify::pictures(work.path(), &planned, length).await?;
    made.files.extend(planned.stills.files().map(PathBuf::from));
    made.files.extend(made.last);
    publish(work.path(), request.out_dir)?;
    let parts = request.chunks.iter().map(|chunk| chunk.cpu_seconds);
    let parts: f64 = parts.chain(request.audio.map(|audio| audio.cpu_seconds)).sum();
    Ok(Encoded {
        outputs: made.outputs,
        entries: planned.entries,
        poster,
        storyboard,
        files: made.files,
        skipped: planned.skipped,
        source: plan.source.info(),
        speed: length / (request.elapsed + started.elapsed()).as_secs_f64().max(0.001),
        cpu_seconds: made.cpu_seconds + parts,
    })
}

/// The renditions.
struct Made {
    outputs: Vec<EncodedOutput>,
    /// Files relative to the output folder, in the order in which to upload them.
    files: Vec<PathBuf>,
    /// Files that refer to all others.
    last: Vec<PathBuf>,
    cpu_seconds: f64,
}

impl Made {
    /// Verifies a rendition in the output folder, and adds it.
    async fn add(
        &mut self,
        request: &FinishRequest<'_>,
        run: &Run<'_>,
        planned: &Plan,
        output: &Planned,
    ) -> Result<(), Failure> {
        let found = verify::find(run.folder, &output.file, planned.output_format()).await?;
        self.outputs.push(verify::check(&request.plan.source, planned, output, &found, None)?);
        self.files.extend(found.files);
        Ok(())
    }
}

/// Writes all documents of adaptive streaming, without reading any segment.
async fn describe(
    request: &FinishRequest<'_>,
    whole: &Whole<'_>,
    planned: &Plan,
    folder: &Path,
) -> Result<Made, TranscodeError> {
    let plan = request.plan;
    let mut presentation = Presentation { video: vec![], audio: vec![] };
    let mut made = Made { outputs: vec![], files: vec![], last: vec![], cpu_seconds: 0.0 };
    let mut audio_bytes = 0;
    if let Some(track) = whole.audio.and_then(|report| report.tracks.first()) {
        let channels = plan.source.audio.as_ref().map_or(0, |audio| if audio.channels == 1 { 1 } else { 2 });
        let bytes = track.total_bytes();
        let track = track.track();
        audio_bytes = bytes + write_media(folder, &track, &mut made.files).await?;
        presentation.audio.push(measure::audio_track(track, plan.source.audio.as_ref(), channels));
    }
    for (rung, output) in whole.rungs.iter().zip(&planned.outputs) {
        let track = measure::independent(rung.track.clone())?;
        let size = rung.bytes + write_media(folder, &track, &mut made.files).await?;
        let info = RenditionInfo {
            container: output.container,
            size,
            width: output.size.width,
            height: output.size.height,
            codec: "h264".to_owned(),
            audio_codec: (audio_bytes > 0).then(|| "aac".to_owned()),
            bitrate: ((size + audio_bytes) as f64 * 8.0 / rung.seconds.max(0.001)) as u64,
            duration: rung.seconds,
            is_copied: false,
        };
        made.outputs.push(EncodedOutput { quality: output.label, file: output.file.clone(), info });
        presentation.video.push(VideoTrack { track, size: output.size });
    }
    for (written, output) in
        cmaf::write_documents(folder, &presentation).await?.into_iter().zip(&mut made.outputs)
    {
        output.info.size += written.bytes;
        made.last.push(written.file);
    }
    made.last.extend(planned.entries.iter().map(|entry| PathBuf::from(&entry.file)));
    Ok(made)
}

/// Writes the media playlist of a track; returns its size in bytes.
async fn write_media(
    folder: &Path,
    track: &cmaf::presentation::Track,
    files: &mut Vec<PathBuf>,
) -> Result<u64, Failure> {
    let segments = track.segments.iter().map(|segment| (segment.file.as_str(), segment.seconds));
    let text = hls::media(&track.init, segments);
    let path = folder.join(&track.playlist);
    let written = async {
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent).await?;
        }
        tokio::fs::write(&path, &text).await
    };
    written.await.map_err(|e| disk::trouble("write a playlist", &e))?;
    files.push(PathBuf::from(&track.playlist));
    Ok(text.len() as u64)
}

/// Fetches the copied rendition, and joins one other after the other, so that the segments of only one are on the disk.
async fn join_all(
    request: &FinishRequest<'_>,
    run: &Run<'_>,
    whole: &Whole<'_>,
    planned: &Plan,
) -> Result<Made, TranscodeError> {
    let mut made = Made { outputs: vec![], files: vec![], last: vec![], cpu_seconds: 0.0 };
    for folder in planned.folders() {
        std::fs::create_dir_all(run.folder.join(folder)).map_err(|e| disk::trouble("make a folder", &e))?;
    }
    let (copied, encoded): (Vec<_>, Vec<_>) = planned.outputs.iter().partition(|output| output.is_copied);
    for output in copied {
        request.files.fetch(&output.file, &run.folder.join(&output.file)).await?;
        made.add(request, run, planned, output).await?;
    }
    for (rung, output) in whole.rungs.iter().zip(encoded) {
        let picture = run.scratch.join("picture.mp4");
        join::fetch_joined(request.files, rung, rung.track.segments.iter(), &picture).await?;
        let sound = fetch_sound(request, run, rung).await?;
        let stats = join::mux(request, run, rung, &picture, sound.as_deref(), &output.file).await?;
        made.cpu_seconds += stats.cpu_seconds;
        for file in [Some(picture), sound].into_iter().flatten() {
            tokio::fs::remove_file(file).await.map_err(|e| disk::trouble("delete a file", &e))?;
        }
        made.add(request, run, planned, output).await?;
    }
    Ok(made)
}

async fn fetch_sound(
    request: &FinishRequest<'_>,
    run: &Run<'_>,
    rung: &WholeRung,
) -> Result<Option<PathBuf>, TranscodeError> {
    if !request.plan.has_audio() {
        return Ok(None);
    }
    let track = report::track_for(request.audio, rung.rung.quality)
        .ok_or_else(|| wrong_output("a rendition came out without the source's sound".to_owned()))?;
    let path = run.scratch.join("sound.mp4");
    request.files.fetch(&track.file, &path).await?;
    Ok(Some(path))
}
