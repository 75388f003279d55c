//! Renditions that take the source's picture as it is, and sources that only seem to be fit for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tcoder::job::Preset;
use tcoder::transcoder::input::MediaInput;
use tcoder::transcoder::split::SplitDecision;
use tcoder::transcoder::{Encoded, TranscodeError};
use tempfile::TempDir;

use crate::media::with_stills;
use crate::split_exact::{Parts, STILLS, decided, packet_times, planned, sound_hash};
use crate::support::clips::{files_in, made, made_by, probed, stream, turned};
use crate::support::system::shared;

const PICTURE: &str = "-f lavfi -i testsrc2=s=320x180:r=25:d=18";
const SOUND: &str = "-f lavfi -i sine=d=18 -ac 2";
const X264: &str = "-c:v libx264 -preset veryfast -b:v 150k -pix_fmt yuv420p";
const AAC: &str = "-c:a aac -b:a 96k -ar 48000";

/// A clip of 18 s with what a copy of its picture and sound needs, but for these changes.
fn clip(name: &str, picture: &str, sound: &str) -> PathBuf {
    made(name, &format!("{PICTURE} {SOUND} {X264} {AAC} -g 50 {picture} {sound}"))
}

fn fit() -> PathBuf {
    clip("fit.mp4", "", "")
}

/// The packets of a file with their times and hashes.
fn packets(path: &Path, stream: &str) -> Vec<String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(path);
    let done = command.args(["-map", stream, "-c", "copy", "-f", "framemd5", "-"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

async fn encoded(input: &Path, qualities: &str) -> (Encoded, TempDir) {
    let out = TempDir::new().unwrap();
    let encoded = with_stills(input, out.path(), Preset::WebOptimized, qualities, STILLS).await;
    (encoded.unwrap_or_else(|e| panic!("{}: {e}", input.display())), out)
}

/// Checks that a rendition is a copy that plays from the beginning while it loads.
fn assert_is_copy(rendition: &Path, source: &Path) {
    let found = packets(rendition, "0:v");
    assert!(found.len() > 100 && found == packets(source, "0:v"), "{}", source.display());
    let bytes = std::fs::read(rendition).unwrap();
    let at = |name: &[u8]| bytes.windows(4).position(|window| window == name).unwrap();
    assert!(at(b"moov") < at(b"mdat"));
    assert!(packet_times(rendition, "v:0")[0].abs() < 0.001);
    let report = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "warning", "-i"])
        .arg(rendition)
        .args(["-f", "null", "-"])
        .output();
    assert_eq!(String::from_utf8(report.unwrap().stderr).unwrap(), "");
}

#[tokio::test]
async fn rendition_that_the_source_already_is_has_its_packets() {
    for qualities in ["360p", "720p,144p"] {
        let (encoded, out) = encoded(&fit(), qualities).await;
        let copy = &encoded.outputs[0];
        assert!(copy.info.is_copied, "{qualities}: {copy:?}");
        assert_is_copy(&out.path().join(&copy.file), &fit());
        assert_eq!(packets(&out.path().join(&copy.file), "0:a"), packets(&fit(), "0:a"));
        assert_eq!((copy.info.width, copy.info.height), (320, 180));
        assert_eq!((copy.info.codec.as_str(), copy.info.audio_codec.as_deref()), ("h264", Some("aac")));
        assert!(encoded.outputs[1..].iter().all(|output| !output.info.is_copied && output.info.width == 256));
        assert_eq!((encoded.poster.unwrap().width, encoded.storyboard.unwrap().count), (320, 10));
        assert_eq!(files_in(out.path()).len(), encoded.files.len());
    }
}

#[tokio::test]
async fn picture_that_is_not_the_rendition_is_encoded() {
    let mkv = clip("fit.mkv", "", "");
    let clips = [
        clip("copy-10-bit.mp4", "-pix_fmt yuv420p10le", ""),
        clip("copy-444.mp4", "-pix_fmt yuv444p", ""),
        clip("copy-full-range.mp4", "-pix_fmt yuvj420p", ""),
        clip("copy-interlaced.mp4", "-flags +ilme+ildct -x264opts tff=1", ""),
        clip(
            "copy-large.mp4",
            "-b:v 270k -minrate 270k -maxrate 270k -bufsize 270k -x264-params nal-hrd=cbr",
            "",
        ),
        clip("copy-hdr.mp4", "-color_trc arib-std-b67 -color_primaries bt2020 -colorspace bt2020nc", ""),
        clip("copy-wide-pixels.mp4", "-vf setsar=4/3", ""),
        clip("copy-keyframes.mp4", "-g 275 -x264-params scenecut=0", ""),
        clip("copy-level.mp4", "-level 5.1", ""),
        clip("copy-hevc.mp4", "-c:v libx265 -x265-params log-level=error", ""),
        turned(&fit(), "copy-turned.mp4"),
        mkv,
    ];
    for clip in clips {
        let (encoded, out) = encoded(&clip, "2160p").await;
        let output = &encoded.outputs[0];
        assert!(!output.info.is_copied, "{}", clip.display());
        assert_ne!(packets(&out.path().join(&output.file), "0:v"), packets(&clip, "0:v"));
    }
    let (smaller, _) = encoded(&fit(), "144p").await;
    assert!(!smaller.outputs[0].info.is_copied);
}

#[tokio::test]
async fn picture_is_copied_without_sound_that_is_unfit() {
    for (name, sound) in [
        ("copy-mp3.mp4", "-c:a libmp3lame"),
        ("copy-rich-sound.mp4", "-b:a 256k"),
        ("copy-surround.mp4", "-ac 6"),
        ("copy-low-rate.mp4", "-ar 22050"),
    ] {
        let clip = clip(name, "", sound);
        let (encoded, out) = encoded(&clip, "360p").await;
        let output = &encoded.outputs[0];
        let path = out.path().join(&output.file);
        assert!(output.info.is_copied, "{name}");
        assert_is_copy(&path, &clip);
        let audio = stream(&probed(&path), "audio").unwrap();
        assert_eq!((&audio["codec_name"], &audio["sample_rate"]), (&"aac".into(), &"48000".into()));
        assert_ne!(sound_hash(&path), sound_hash(&clip), "{name}");
    }
    let mute = clip("copy-mute.mp4", "", "-an");
    let (encoded, out) = encoded(&mute, "360p").await;
    assert!(encoded.outputs[0].info.is_copied && encoded.outputs[0].info.audio_codec.is_none());
    assert_is_copy(&out.path().join("360p.mp4"), &mute);
}

#[tokio::test]
async fn copy_keeps_a_variable_frame_rate() {
    let vary = "-vf select='not(mod(n,7))+lt(mod(n,31),9)' -fps_mode vfr";
    let clip = clip("copy-vfr.mp4", vary, "");
    let (encoded, out) = encoded(&clip, "360p,144p").await;
    assert!(encoded.outputs[0].info.is_copied);
    assert_is_copy(&out.path().join("360p.mp4"), &clip);
}

#[tokio::test]
async fn damaged_picture_is_not_copied() {
    let damaged = made_by("copy-damaged.mp4", "fit with wrong bytes in its picture", |path| {
        let fast = made("copy-fast.mp4", &format!("-i {} -c copy -movflags +faststart", fit().display()));
        let mut bytes = std::fs::read(fast).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 20_000].fill(0xff);
        std::fs::write(path, bytes).unwrap();
    });
    let mut failures = Vec::new();
    for qualities in ["144p", "360p", "360p,144p"] {
        let out = TempDir::new().unwrap();
        let result = with_stills(&damaged, out.path(), Preset::WebOptimized, qualities, STILLS).await;
        let Err(TranscodeError::Failed(failure)) = result else { panic!("{qualities}: {result:?}") };
        failures.push(failure.code);
    }
    assert!(failures.iter().all(|code| *code == failures[0]), "as if it was encoded: {failures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_beside_chunks_is_that_of_the_whole() {
    let mute = clip("copy-mute.mp4", "", "-an");
    let mp3 = clip("copy-mp3.mp4", "", "-c:a libmp3lame");
    for input in [fit(), mp3, mute] {
        let plan = planned(&input, Preset::WebOptimized, "360p,144p").await;
        let parts = Parts::encode(plan, MediaInput::File(&input)).await.unwrap();
        assert!(parts.chunks.iter().all(|chunk| chunk.rungs.len() == 1), "the copy is not encoded");
        let out = TempDir::new().unwrap();
        let split = parts.finish_into(out.path()).await.unwrap();
        let (whole, unsplit) = encoded(&input, "360p,144p").await;
        assert_eq!(files_in(out.path()), files_in(unsplit.path()));
        assert_is_copy(&out.path().join("360p.mp4"), &input);
        for (ours, theirs) in split.outputs.iter().zip(&whole.outputs) {
            assert_eq!((ours.quality, ours.info.is_copied), (theirs.quality, theirs.info.is_copied));
            assert_eq!(ours.info.audio_codec, theirs.info.audio_codec);
        }
        let read = |folder: &TempDir| std::fs::read(folder.path().join("360p.mp4")).unwrap();
        assert!(read(&out) == read(&unsplit), "{}", input.display());
        assert_eq!(split.poster.unwrap().width, 320, "it is made from the copy");
    }
    let SplitDecision::Whole { because } = decided(&fit(), Preset::WebOptimized, "360p").await else {
        panic!("it is split")
    };
    assert!(because.unwrap().contains("copied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_copy_is_an_error() {
    let mute = clip("copy-mute.mp4", "", "-an");
    let plan = planned(&mute, Preset::WebOptimized, "360p,144p").await;
    let mut parts = Parts::encode(plan, MediaInput::File(&mute)).await.unwrap();
    parts.audio = None;
    let Err(TranscodeError::Failed(failure)) = parts.finish_into(TempDir::new().unwrap().path()).await else {
        panic!("there is a result")
    };
    assert!(failure.message.contains("copied"), "{failure}");
}

#[tokio::test]
async fn job_in_parts_says_which_rendition_is_a_copy() {
    let system = shared().await;
    let options = json!({"preset": "web-optimized", "outputQualities": ["360p", "144p"], "parallelism": 3});
    let id = system.upload(&fit(), &options).await;
    let job = system.completed(&id).await;
    assert!(job["split"]["chunks"].as_u64().unwrap() > 2, "{job:#}");
    assert_eq!((&job["outputs"][0]["copied"], &job["outputs"][1]["copied"]), (&true.into(), &json!(null)));
    let copy = Path::new(job["outputs"][0]["url"].as_str().unwrap());
    assert_eq!(
        (packets(copy, "0:v"), packets(copy, "0:a")),
        (packets(&fit(), "0:v"), packets(&fit(), "0:a"))
    );
}
