//! Reads every output back. FFmpeg's exit code 0 does not mean that the output is complete: for a truncated
//! source it can succeed with half of the film.

use std::path::{Path, PathBuf};

use crate::job::{Dimensions, Failure, FailureCode, Label, RenditionInfo};

use super::diagnose::{self, missing_output, wrong_output};
use super::ffprobe::{self, ProbeError, Report};
use super::format::{OutputFiles, OutputFormat, Planned, VerifiedAudio, VerifiedRendition, VerifiedSet};
use super::plan::Plan;
use super::playlist::MediaPlaylist;
use super::probe::Probe;
use super::stills;
use super::{EncodedBoard, EncodedOutput, EncodedStill};

/// The verified outputs.
pub(super) struct Verified {
    pub outputs: Vec<EncodedOutput>,
    pub poster: Option<EncodedStill>,
    pub storyboard: Option<EncodedBoard>,
    /// Relative to the folder. Files that a document refers to come before it, and the entry documents come
    /// last.
    pub files: Vec<PathBuf>,
}

/// An output on disk.
pub(super) struct Found {
    /// The files, relative to the folder, with the playlist last.
    pub files: Vec<PathBuf>,
    /// Total size of the files in bytes.
    size: u64,
    /// Duration in seconds.
    duration: f64,
    /// The media playlist, if the output has one.
    playlist: Option<MediaPlaylist>,
    report: Report,
}

/// Seconds by which an output may be shorter than its source: codecs pad and trim at both ends, and some
/// containers only contain estimates. A longer output is not an error of the encode.
fn duration_tolerance(expected: f64) -> f64 {
    (0.5 + expected * 0.005).min(3.0)
}

/// Number of frames that may be missing: two plus one percent, because frames with the same timestamp are
/// merged.
pub(super) fn frame_tolerance(frames: u64) -> u64 {
    2 + frames / 100
}

/// Verifies all outputs in `folder` against the plan and the source.
pub(super) async fn verify(folder: &Path, source: &Probe, plan: &Plan) -> Result<Verified, Failure> {
    let format = plan.output_format();
    let rungs = plan.outputs.iter().map(|o| find(folder, &o.file, format));
    let sound = async {
        match &plan.shared_audio {
            Some(file) => find(folder, file, format).await.map(Some),
            None => Ok(None),
        }
    };
    let (found, sound) = futures::future::try_join(futures::future::try_join_all(rungs), sound).await?;

    let mut outputs = Vec::new();
    let mut files = Vec::new();
    if let Some(sound) = &sound {
        check_sound(source, sound)?;
        files.extend(sound.files.iter().cloned());
    }
    for (planned, found) in plan.outputs.iter().zip(&found) {
        outputs.push(check(source, plan, planned, found, sound.as_ref())?);
        files.extend(found.files.iter().cloned());
    }
    let length = outputs.first().map_or(0.0, |o: &EncodedOutput| o.info.duration);
    let (poster, storyboard) = pictures(folder, plan, length).await?;
    files.extend(plan.stills.files().map(PathBuf::from));
    let set = VerifiedSet {
        folder,
        source,
        renditions: outputs.iter().zip(&found).map(|(output, found)| verified(output, found)).collect(),
        shared_audio: plan.shared_audio.as_deref().zip(sound.as_ref()).map(|(file, found)| VerifiedAudio {
            file,
            playlist: found.playlist.as_ref(),
            channels: found.report.audio().next().map_or(0, |a| a.channels),
        }),
    };
    let written = format.describe(set).await?;
    for (output, written) in outputs.iter_mut().zip(written) {
        output.info.size += written.bytes;
        files.push(written.file);
    }
    files.extend(plan.entries.iter().map(|entry| PathBuf::from(&entry.file)));
    Ok(Verified { outputs, poster, storyboard, files })
}

fn verified<'a>(output: &'a EncodedOutput, found: &'a Found) -> VerifiedRendition<'a> {
    let size = Dimensions { width: output.info.width, height: output.info.height };
    VerifiedRendition { file: &output.file, playlist: found.playlist.as_ref(), size }
}

/// Verifies the stills, and writes the WebVTT file now that the duration is known.
pub(super) async fn pictures(
    folder: &Path,
    plan: &Plan,
    length: f64,
) -> Result<(Option<EncodedStill>, Option<EncodedBoard>), Failure> {
    let (mut poster, mut storyboard) = (None, None);
    for (file, wanted) in plan.stills.pictures() {
        let bytes = tokio::fs::read(folder.join(file)).await.map_err(|_| missing_output(file))?;
        check_picture(file, &bytes, wanted)?;
        let Dimensions { width, height } = wanted;
        let still = EncodedStill { file: file.to_owned(), size: bytes.len() as u64, width, height };
        match plan.stills.board.filter(|_| file != stills::POSTER) {
            None => poster = Some(still),
            Some(board) => {
                let Some((cues, text)) = plan.stills.cues(length) else { continue };
                let written = tokio::fs::write(folder.join(cues), text).await;
                written.map_err(|e| super::disk::trouble("write the storyboard's cues", &e))?;
                storyboard = Some(EncodedBoard {
                    picture: still,
                    cues: cues.to_owned(),
                    width: board.size.width,
                    height: board.size.height,
                    columns: stills::columns(),
                    count: board.count(length),
                    interval: board.interval,
                });
            }
        }
    }
    Ok((poster, storyboard))
}

/// Verifies that the bytes are a complete JPEG of that size.
fn check_picture(file: &str, bytes: &[u8], wanted: Dimensions) -> Result<(), Failure> {
    // The last two bytes are the end marker: ITU-T T.81, B.1.1.3.
    if !bytes.ends_with(&[0xff, 0xd9]) {
        return Err(missing_output(file));
    }
    let size =
        imagesize::blob_size(bytes).map_err(|_| wrong_output(format!("{file} cannot be read back")))?;
    if (size.width, size.height) != (wanted.width as usize, wanted.height as usize) {
        let (came, asked) = ((size.width, size.height), (wanted.width, wanted.height));
        return Err(wrong_output(format!(
            "{file} came out as {}x{} instead of {}x{}",
            came.0, came.1, asked.0, asked.1
        )));
    }
    Ok(())
}

pub(super) async fn find(folder: &Path, file: &str, format: &dyn OutputFormat) -> Result<Found, Failure> {
    let OutputFiles { files, playlist, is_indexed } = format.files(folder, file)?;
    let mut size = 0;
    for file in &files {
        let bytes = std::fs::metadata(folder.join(file)).map_or(0, |m| m.len());
        if bytes == 0 {
            return Err(missing_output(&file.to_string_lossy()));
        }
        size += bytes;
    }
    let report = ffprobe::read_output(&folder.join(file), format.demuxers(), !is_indexed).await;
    let report = report.map_err(|error| match error {
        ProbeError::Start(error) => diagnose::start_failure("ffprobe", &error),
        ProbeError::Timeout => wrong_output(format!("reading {file} back did not end")),
        ProbeError::Refused(words) => {
            tracing::warn!(file, ffprobe = %words, "could not read back an output");
            wrong_output(format!("{file} cannot be read back"))
        }
    })?;
    let length = playlist.as_ref().map(MediaPlaylist::duration);
    let duration = length.or(report.duration).unwrap_or_default();
    Ok(Found { files, size, duration, playlist, report })
}

pub(super) fn check(
    source: &Probe,
    plan: &Plan,
    planned: &Planned,
    found: &Found,
    sound: Option<&Found>,
) -> Result<EncodedOutput, Failure> {
    let file = &planned.file;
    let made = Probe::choose(&found.report, found.size)
        .map_err(|e| wrong_output(format!("{file} came out without a picture: {e}")))?;
    let (asked, size) = (planned.size, made.display());
    // The new container may round the pixel aspect ratio of a copy.
    let slack = if planned.label == Label::ORIGINAL { 2 } else { 0 };
    if size.width.abs_diff(asked.width) > slack || size.height.abs_diff(asked.height) > slack {
        let text = |s: Dimensions| format!("{}x{}", s.width, s.height);
        return Err(wrong_output(format!("{file} came out as {} instead of {}", text(size), text(asked))));
    }
    match sound {
        None => check_length(found.duration, source.promised_duration())?,
        Some(sound) if source.video.duration.is_none() => {
            check_length(found.duration.max(sound.duration), source.promised_duration())?;
        }
        Some(_) => check_length(found.duration, source.video.duration)?,
    }
    if let (Some(has), Some(should), false) =
        (frames(&found.report), source.video.frames, source.video.interlaced)
        && has + frame_tolerance(should) < should
    {
        let message = format!("the file is damaged: {has} of {should} frames could be decoded");
        return Err(Failure::new(FailureCode::InvalidMedia, message));
    }
    let audio = sound.map_or(&found.report, |s| &s.report).audio().next();
    if plan.has_audio && audio.is_none() {
        return Err(wrong_output(format!("{file} came out without the source's sound")));
    }
    if let (None, Some(has), Some(should)) =
        (sound, audio.and_then(|a| a.duration), source.audio.as_ref().and_then(|a| a.duration))
    {
        check_length(has, Some(should))?;
    }
    let bytes = found.size + sound.map_or(0, |s| s.size);
    let info = RenditionInfo {
        container: planned.container,
        size: found.size,
        width: size.width,
        height: size.height,
        codec: made.video.codec,
        audio_codec: audio.and_then(|a| a.codec.clone()),
        bitrate: (bytes as f64 * 8.0 / found.duration.max(0.001)) as u64,
        duration: found.duration,
        is_copied: planned.is_copied,
    };
    Ok(EncodedOutput { quality: planned.label, file: file.clone(), info })
}

/// The number of frames of an output: its own value, or the count.
fn frames(report: &Report) -> Option<u64> {
    report.video().next().and_then(|v| v.frames)
}

fn check_sound(source: &Probe, found: &Found) -> Result<(), Failure> {
    if found.report.audio().next().is_none() {
        return Err(wrong_output("the shared sound came out empty".into()));
    }
    check_length(found.duration, source.audio.as_ref().and_then(|a| a.duration))
}

pub(super) fn check_length(reached: f64, expected: Option<f64>) -> Result<(), Failure> {
    match expected {
        Some(expected) if reached + duration_tolerance(expected) < expected => {
            Err(diagnose::ends_early(reached, Some(expected)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_output_means_a_file_that_ends_early() {
        assert!(check_length(10.0, None).is_ok());
        assert!(check_length(9.5, Some(10.0)).is_ok());
        assert!(check_length(30.0, Some(10.0)).is_ok());
        let failure = check_length(12.0, Some(20.0)).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidMedia);
        assert_eq!(failure.message, "the file ends early: 12.0 s of 20.0 s could be read");
        assert!(check_length(7196.0, Some(7200.0)).is_err());
        assert!(check_length(7197.5, Some(7200.0)).is_ok());
    }

    #[test]
    fn a_few_frames_may_be_missing_of_many() {
        assert_eq!(frame_tolerance(10), 2);
        assert_eq!(frame_tolerance(1000), 12);
    }
}
