//! Measures the segments that FFmpeg wrote.

use std::path::Path;

use crate::job::{Failure, FailureCode};

use super::fragments::{Init, Mp4Error};
use super::labels::{self, Hints};
use super::presentation::{AudioTrack, Presentation, Segment, Track, VideoTrack};
use crate::transcoder::diagnose::{missing_output, wrong_output};
use crate::transcoder::format::VerifiedSet;
use crate::transcoder::playlist::MediaPlaylist;
use crate::transcoder::probe::Audio;

/// Measures everything in a verified set that can be played together.
pub(crate) async fn measure(set: &VerifiedSet<'_>) -> Result<Presentation, Failure> {
    let mut presentation = Presentation { video: vec![], audio: vec![] };
    for rendition in &set.renditions {
        let track = measure_track(set.folder, rendition.file, rendition.playlist).await?;
        presentation.video.push(VideoTrack { track: independent(track)?, size: rendition.size });
    }
    if let Some(sound) = &set.shared_audio {
        let track = measure_track(set.folder, sound.file, sound.playlist).await?;
        presentation.audio.push(audio_track(track, set.source.audio.as_ref(), sound.channels));
    }
    Ok(presentation)
}

/// The track of the source's only audio stream, with its labels.
pub(crate) fn audio_track(track: Track, source: Option<&Audio>, channels: u32) -> AudioTrack {
    let title = source.and_then(|audio| audio.title.as_deref());
    let language = source.and_then(|audio| audio.language.as_deref());
    let name = labels::names(&[Hints { title, language, channels }]).into_iter().next().unwrap_or_default();
    AudioTrack { track, name, language: language.and_then(labels::language), channels }
}

/// A track whose segments can be decoded independently, as FFmpeg's media playlist says of video tracks.
pub(crate) fn independent(track: Track) -> Result<Track, Failure> {
    match track.is_independent() {
        true => Ok(track),
        false => Err(wrong_output(format!("a segment of {} does not start with a keyframe", track.playlist))),
    }
}

/// Measures the segments of a media playlist.
pub(crate) async fn measure_track(
    folder: &Path,
    file: &str,
    playlist: Option<&MediaPlaylist>,
) -> Result<Track, Failure> {
    let playlist = playlist.cloned().ok_or_else(|| missing_output(file))?;
    let file = file.to_owned();
    let folder = folder.join(&file).parent().unwrap_or(folder).to_owned();
    // One small read per segment, of which a film has hundreds.
    let work = tokio::task::spawn_blocking(move || {
        let init = playlist.init.ok_or((file.clone(), Mp4Error::Missing("initialisation section")))?;
        let header = Init::read(&folder.join(&init)).map_err(|e| (init.clone(), e))?;
        let segments = playlist.segments.into_iter().map(|(file, seconds)| {
            match header.fragments(&folder.join(&file)) {
                Ok((bytes, fragments)) => Ok(Segment { file, bytes, seconds, fragments }),
                Err(error) => Err((file, error)),
            }
        });
        Ok(Track {
            playlist: file,
            version: playlist.version,
            target_duration: playlist.target_duration,
            codec: header.codec.clone(),
            timescale: header.timescale,
            init,
            segments: segments.collect::<Result<_, _>>()?,
        })
    });
    match work.await {
        Ok(Ok(track)) => Ok(track),
        Ok(Err((file, error))) => {
            let error: Mp4Error = error;
            Err(wrong_output(format!("{file} cannot be measured: {error}")))
        }
        Err(error) => {
            Err(Failure::new(FailureCode::Worker, format!("measuring the segments broke off: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::presentation::tests::track;
    use super::*;

    #[test]
    fn a_segment_that_does_not_start_with_a_keyframe_is_refused() {
        let mut track = track("360p/index.m3u8", "avc1.64001e", &[(400, 4.0), (400, 4.0)]);
        assert_eq!(independent(track.clone()), Ok(track.clone()));
        track.segments[1].fragments[0].starts_with_keyframe = false;
        let failure = independent(track).unwrap_err();
        assert_eq!(failure.code, FailureCode::EncodeFailed);
        assert_eq!(failure.message, "a segment of 360p/index.m3u8 does not start with a keyframe");
    }

    #[tokio::test]
    async fn files_that_cannot_be_measured_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("360p")).unwrap();
        std::fs::write(folder.path().join("init.mp4"), "no mp4").unwrap();
        let mut playlist =
            MediaPlaylist { segments: vec![("s0.m4s".into(), 4.0)], ..MediaPlaylist::default() };
        for (init, words) in [
            (None, "360p/index.m3u8 cannot be measured: it has no initialisation section"),
            (Some("gone.mp4"), "gone.mp4 cannot be measured: it cannot be read"),
            (Some("../init.mp4"), "init.mp4 cannot be measured: it is damaged"),
        ] {
            playlist.init = init.map(str::to_owned);
            let failure = measure_track(folder.path(), "360p/index.m3u8", Some(&playlist)).await.unwrap_err();
            assert!(failure.message.contains(words), "{failure}");
        }
    }
}
