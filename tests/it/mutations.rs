//! Good files of eight containers with damage at random places: each ends in a clear failure that blames the file, or in
//! outputs that were verified, within the limits, and a failure leaves nothing behind. `HOSTILE_FILES` is the number of
//! files, and with it the damage is random; `HOSTILE_SEED` repeats a run, which prints both if it fails.

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tcoder::job::{FailureCode, InputLimits, Preset, Stills};
use tcoder::transcoder::{TranscodeError, TranscodeRequest, transcode};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::clips::made;

/// Files of `make test`.
const FEW: usize = 48;
/// Files that are transcoded at the same time.
const AT_ONCE: usize = 3;
/// Maximum duration of each transcode. The clips last a second.
const DEADLINE: Duration = Duration::from_secs(120);

/// A clip in each container.
fn clips() -> Vec<PathBuf> {
    let h264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac";
    let kinds = [
        ("tiny.mp4", h264),
        ("tiny-fragmented.mov", "-c:v libx264 -preset ultrafast -c:a aac -movflags frag_keyframe+empty_moov"),
        ("tiny.mkv", "-c:v libx264 -preset ultrafast -c:a libopus"),
        ("tiny.webm", "-c:v libvpx -deadline realtime -c:a libvorbis"),
        ("tiny.avi", "-c:v mpeg4 -c:a libmp3lame"),
        ("tiny.flv", h264),
        ("tiny.ts", h264),
        ("tiny.mpg", "-c:v mpeg2video -c:a mp2"),
    ];
    let source = "-f lavfi -i testsrc2=s=160x90:r=25:d=1 -f lavfi -i sine=d=1 -ac 2 -g 10";
    kinds.iter().map(|(name, codecs)| made(name, &format!("{source} {codecs}"))).collect()
}

/// Damages a file as a broken disk, a cut upload or an attacker would.
fn damage(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..bytes.len());
        let length = rng.random_range(1..=(bytes.len() - at).min(512));
        match rng.random_range(0..7) {
            // One bit.
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            // Sizes and counters are large at the top of their range.
            1 => bytes[at..at + length.min(8)].fill(0xff),
            2 => bytes[at..at + length].fill(0),
            3 => rng.fill(&mut bytes[at..at + length]),
            4 => bytes.truncate(at.max(1)),
            5 => {
                bytes.drain(at..at + length);
            }
            _ => {
                let copy = bytes[at..at + length].to_vec();
                let to = rng.random_range(0..bytes.len());
                bytes.splice(to..to, copy);
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
            return;
        }
    }
}

/// How the transcode of a file ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    Verified,
    Failed,
    Wrong(String),
}

async fn transcoded(bytes: Vec<u8>) -> Outcome {
    let folder = TempDir::new().unwrap();
    let (input, out) = (folder.path().join("input"), folder.path().join("out"));
    std::fs::write(&input, &bytes).unwrap();
    let done = transcode(TranscodeRequest {
        input: &input,
        out_dir: &out,
        preset: Preset::HlsAdaptive,
        ladder: &"144p".parse().unwrap(),
        stills: Stills { poster: true, storyboard: false },
        input_limits: InputLimits::default(),
        disk_bytes: Some(64 << 20),
        stall_timeout: DEADLINE,
        deadline: DEADLINE,
        cancel: CancellationToken::new(),
        on_progress: &|_| {},
    })
    .await;
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    match done {
        Ok(encoded) if encoded.outputs.is_empty() => Outcome::Wrong("success without outputs".into()),
        Ok(_) => Outcome::Verified,
        Err(_) if left.len() != 1 => Outcome::Wrong(format!("files are left: {left:?}")),
        Err(TranscodeError::Failed(failure)) => {
            use FailureCode::{EncodeFailed, FfmpegCrashed, InputTooLarge, InvalidMedia, UnsupportedMedia};
            let blames_the_file = matches!(
                failure.code,
                InvalidMedia | UnsupportedMedia | InputTooLarge | EncodeFailed | FfmpegCrashed
            );
            if blames_the_file {
                Outcome::Failed
            } else {
                Outcome::Wrong(format!("{:?}: {failure}", failure.code))
            }
        }
        Err(TranscodeError::Cancelled) => Outcome::Wrong("it was cancelled".into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_end_in_a_failure_or_in_verified_outputs() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (files, seed) = (number("HOSTILE_FILES"), number("HOSTILE_SEED"));
    let seed = seed.unwrap_or_else(|| if files.is_some() { rand::random() } else { 1 });
    let files = files.map_or(FEW, |files| usize::try_from(files).unwrap());
    let clips: Vec<Vec<u8>> = clips().iter().map(|clip| std::fs::read(clip).unwrap()).collect();
    for (n, clip) in clips.iter().enumerate() {
        assert_eq!(transcoded(clip.clone()).await, Outcome::Verified, "undamaged clip {n}");
    }
    let outcomes: Vec<(usize, Outcome)> = futures::stream::iter(0..files)
        .map(|n| {
            let mut rng = StdRng::seed_from_u64(seed.wrapping_add(n as u64));
            let mut bytes = clips[n % clips.len()].clone();
            damage(&mut bytes, &mut rng);
            async move { (n, transcoded(bytes).await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let count = |wanted: &Outcome| outcomes.iter().filter(|(_, outcome)| outcome == wanted).count();
    let (verified, failed) = (count(&Outcome::Verified), count(&Outcome::Failed));
    println!("hostile_files {files} files\nhostile_files_survived {} files", verified + failed);
    println!("hostile_files_verified {verified} files");
    let wrong: Vec<_> = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Wrong(_))).collect();
    assert!(wrong.is_empty(), "HOSTILE_FILES={files} HOSTILE_SEED={seed}: {wrong:#?}");
    // Some damage is in padding, or in pictures that are decoded nevertheless.
    assert!(verified > 0 && failed > 0, "{verified} verified, {failed} failed");
}
