//! Files that are not videos, incomplete, or malicious: each yields one clear sentence, and no files are
//! left.

use std::path::{Path, PathBuf};

use tcoder::job::{Failure, FailureCode, Preset};
use tcoder::transcoder::TranscodeError;
use tempfile::TempDir;

use crate::media::into;
use crate::support::clips::{files_in, made, made_by, normal};

/// Transcodes a file that must fail, and checks that the folder is empty.
async fn refused(input: &Path, preset: Preset, qualities: &str) -> Failure {
    let out = TempDir::new().unwrap();
    let result = into(input, out.path(), preset, qualities).await;
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "{:?}", files_in(out.path()));
    match result {
        Err(TranscodeError::Failed(failure)) => failure,
        other => panic!("{} gave {other:?}", input.display()),
    }
}

async fn check(input: &Path, code: FailureCode, words: &str) {
    let failure = refused(input, Preset::WebOptimized, "144p").await;
    assert_eq!(failure.code, code, "{failure}");
    assert!(failure.message.contains(words), "{failure}");
    assert!(!failure.message.contains(input.to_str().unwrap()), "no paths of this machine: {failure}");
}

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn file_that_is_not_a_video_is_rejected_as_such() {
    use FailureCode::{InputNotFound, InvalidMedia, UnsupportedMedia};
    let folder = TempDir::new().unwrap();
    check(&file(&folder, "zero.mp4", b""), InvalidMedia, "0 bytes").await;
    check(&file(&folder, "text.mp4", b"Dear diary,\nnothing.\n"), InvalidMedia, "not a video").await;
    check(&file(&folder, "noise", &[7; 5000]), InvalidMedia, "not a video").await;
    check(&folder.path().join("absent.mp4"), InputNotFound, "no such file").await;
    check(folder.path(), InvalidMedia, "a folder").await;
    let png = made("small.png", "-f lavfi -i color=red:s=64x64 -frames:v 1");
    let png = file(&folder, "picture.mp4", &std::fs::read(png).unwrap());
    check(&png, UnsupportedMedia, "a picture").await;
}

#[tokio::test]
async fn codecs_that_nobody_uploads_are_rejected_by_their_names() {
    use FailureCode::UnsupportedMedia;
    for (name, codec) in [("cinepak.avi", "cinepak"), ("cinepak.mkv", "cinepak"), ("snow.avi", "snow")] {
        let codecs = format!("-f lavfi -i testsrc2=s=320x180:r=25:d=1 -strict -2 -c:v {codec}");
        check(&made(name, &codecs), UnsupportedMedia, codec).await;
    }
    let sound = made(
        "wavpack.mkv",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=1 -f lavfi -i sine=d=1 -c:v libx264 -pix_fmt yuv420p -c:a wavpack",
    );
    check(&sound, UnsupportedMedia, "wavpack").await;
}

#[tokio::test]
async fn audio_only_file_is_rejected_as_such() {
    let song = made("song.m4a", "-f lavfi -i sine=d=1 -c:a aac");
    check(&song, FailureCode::InvalidMedia, "only sound").await;
    let cover = made(
        "cover.mp3",
        "-f lavfi -i sine=d=1 -f lavfi -i color=red:s=64x64:r=25:d=0.04 -map 0 -map 1 -c:v png \
         -disposition:v attached_pic",
    );
    check(&cover, FailureCode::InvalidMedia, "only sound").await;
}

#[tokio::test]
async fn playlist_inputs_are_rejected_without_leaking_other_files() {
    let folder = TempDir::new().unwrap();
    let secret = normal();
    let secret = secret.display();
    let hls = format!("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{secret}\n#EXT-X-ENDLIST\n");
    let concat = format!("ffconcat version 1.0\nfile '{secret}'\n");
    for (name, text) in [("hls.mp4", &hls), ("list.mp4", &concat), ("hls", &hls), ("list.m3u8", &hls)] {
        let path = file(&folder, name, text.as_bytes());
        check(&path, FailureCode::UnsupportedMedia, "playlist").await;
        let copied = refused(&path, Preset::Default, "").await;
        assert_eq!(copied.code, FailureCode::UnsupportedMedia);
    }
}

#[tokio::test]
async fn truncated_file_fails_with_every_preset() {
    let whole = std::fs::read(normal()).unwrap();
    let half = made_by("half.mp4", "half of normal", |path| {
        std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
    });
    for (preset, qualities) in Preset::ALL.iter().map(|p| (*p, "144p")).chain([(Preset::Default, "")]) {
        let failure = refused(&half, preset, qualities).await;
        assert_eq!(failure.code, FailureCode::InvalidMedia, "{failure}");
        assert!(failure.message.starts_with("the file ends early: "), "{preset}: {failure}");
        assert!(failure.message.contains("of 3.0 s could be read"), "{preset}: {failure}");
    }
}

#[tokio::test]
async fn mp4_without_its_index_is_reported_as_truncated() {
    let clip = made(
        "index-last.mp4",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=1 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    let whole = std::fs::read(clip).unwrap();
    let folder = TempDir::new().unwrap();
    let cut = file(&folder, "cut.mp4", &whole[..whole.len() / 2]);
    check(&cut, FailureCode::InvalidMedia, "moov atom").await;
    let cut = file(&folder, "no ending", &whole[..whole.len() / 2]);
    check(&cut, FailureCode::InvalidMedia, "damaged").await;
}

#[tokio::test]
async fn truncated_matroska_file_fails() {
    let clip = made(
        "whole.mkv",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=4 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    let whole = std::fs::read(clip).unwrap();
    let folder = TempDir::new().unwrap();
    let cut = file(&folder, "half.mkv", &whole[..whole.len() / 2]);
    check(&cut, FailureCode::InvalidMedia, "").await;
}

#[tokio::test]
async fn picture_of_absurd_size_is_rejected_before_decoding() {
    let clip = made("huge.mkv", "-f lavfi -i color=red:s=16384x8192:r=1:d=1 -c:v ffv1 -pix_fmt gray");
    check(&clip, FailureCode::UnsupportedMedia, "16384x8192").await;
}
