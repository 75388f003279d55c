//! Describes finished segments to players: reads what the encode made, and writes the playlists that FFmpeg
//! either cannot write or writes from what was asked for instead of what came out.
//!
//! | part | what it does |
//! |---|---|
//! | `fragments` | reads the headers of fragmented MP4 |
//! | `presentation`, `rate` | what was measured, and the figures that follow from it (pure) |
//! | `labels` | languages and names of sounds (pure) |
//! | `hls` | the text of master and I-frame playlists (pure) |

mod fragments;
mod hls;
mod labels;
mod presentation;
mod rate;

use std::path::{Path, PathBuf};

use crate::job::{Dimensions, Failure, FailureCode};

use super::playlist::MediaPlaylist;
use fragments::{Init, Mp4Error};
use presentation::{AudioTrack, Presentation, Segment, Track, VideoTrack};

pub(super) use labels::Hints;

/// A media playlist that FFmpeg wrote.
pub(super) struct MediaPlaylistFile<'a> {
    /// Relative to the output folder.
    pub file: &'a str,
    pub playlist: &'a MediaPlaylist,
}

/// A quality of the picture.
pub(super) struct VideoRendition<'a> {
    pub source: MediaPlaylistFile<'a>,
    /// Pixels as displayed.
    pub size: Dimensions,
}

/// A sound that all qualities share.
pub(super) struct AudioRendition<'a> {
    pub source: MediaPlaylistFile<'a>,
    pub hints: Hints<'a>,
}

/// An I-frame playlist as it stands on disk.
pub(super) struct IFramePlaylist {
    /// Relative to the output folder.
    pub file: PathBuf,
    pub bytes: u64,
}

/// Writes the master playlist, and an I-frame playlist for each picture; answers these, in the pictures' order.
pub(super) async fn write_playlists(
    folder: &Path,
    master: &str,
    pictures: &[VideoRendition<'_>],
    sounds: &[AudioRendition<'_>],
) -> Result<Vec<IFramePlaylist>, Failure> {
    let presentation = measure(folder, pictures, sounds).await?;
    let mut written = Vec::new();
    for VideoTrack { track, .. } in &presentation.video {
        let (file, text) = (hls::iframe_playlist(&track.playlist), hls::iframes(track));
        write(folder, &file, &text).await?;
        written.push(IFramePlaylist { file: file.into(), bytes: text.len() as u64 });
    }
    write(folder, master, &hls::master(&presentation)).await?;
    Ok(written)
}

async fn write(folder: &Path, file: &str, text: &str) -> Result<(), Failure> {
    tokio::fs::write(folder.join(file), text).await.map_err(|e| super::disk::trouble("write a playlist", &e))
}

async fn measure(
    folder: &Path,
    pictures: &[VideoRendition<'_>],
    sounds: &[AudioRendition<'_>],
) -> Result<Presentation, Failure> {
    let mut presentation = Presentation { video: vec![], audio: vec![] };
    for picture in pictures {
        let track = independent(measure_track(folder, &picture.source).await?)?;
        presentation.video.push(VideoTrack { track, size: picture.size });
    }
    let hints: Vec<Hints<'_>> = sounds.iter().map(|sound| sound.hints).collect();
    for (sound, name) in sounds.iter().zip(labels::names(&hints)) {
        presentation.audio.push(AudioTrack {
            track: measure_track(folder, &sound.source).await?,
            name,
            language: sound.hints.language.and_then(labels::language),
            channels: sound.hints.channels,
        });
    }
    Ok(presentation)
}

/// A track whose segments can be decoded each by itself, as FFmpeg's media playlist says of a picture's.
fn independent(track: Track) -> Result<Track, Failure> {
    match track.is_independent() {
        true => Ok(track),
        false => Err(wrong(format!("a segment of {} does not start with a keyframe", track.playlist))),
    }
}

/// Measures the segments of a media playlist.
async fn measure_track(folder: &Path, source: &MediaPlaylistFile<'_>) -> Result<Track, Failure> {
    let (file, playlist) = (source.file.to_owned(), source.playlist.clone());
    let folder = folder.join(&file).parent().unwrap_or(folder).to_owned();
    // A small read of each segment: hundreds of them for a film.
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
            init,
            segments: segments.collect::<Result<_, _>>()?,
        })
    });
    match work.await {
        Ok(Ok(track)) => Ok(track),
        Ok(Err((file, error))) => {
            let error: Mp4Error = error;
            Err(wrong(format!("{file} cannot be measured: {error}")))
        }
        Err(error) => {
            Err(Failure::new(FailureCode::Worker, format!("measuring the segments broke off: {error}")))
        }
    }
}

fn wrong(message: String) -> Failure {
    Failure::new(FailureCode::EncodeFailed, message)
}

#[cfg(test)]
mod tests {
    use super::presentation::tests::track;
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
            let source = MediaPlaylistFile { file: "360p/index.m3u8", playlist: &playlist };
            let failure = measure_track(folder.path(), &source).await.unwrap_err();
            assert!(failure.message.contains(words), "{failure}");
        }
    }
}
