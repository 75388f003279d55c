//! Measures how soon a video can be played after its upload, and how soon a part further on: with the page of
//! `tcoder up`, in Chromium.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ffmpeg::ffmpeg;
use crate::support::clips::made;
use crate::support::process::{err, node, out};
use crate::up::Up;
use crate::{Figures, median};

/// The lengths of the videos, minutes.
const MINUTES: [u32; 3] = [1, 10, 120];
const FIRST: [&str; 3] = ["first_play_ms_1_min", "first_play_ms_10_min", "first_play_ms_120_min"];
const OTHERS: [&str; 2] = ["first_play_120_over_1_min", "seek_ahead_ms"];
const ROUNDS: usize = 3;

pub async fn measure(figures: &mut Figures, scratch: &Path) {
    let wants_others = figures.wants(&OTHERS);
    if !wants_others && !figures.wants(&FIRST) {
        return;
    }
    let minute = minute();
    // One worker, which is warm.
    let one = ["--max-machines", "1", "--min-machines", "1"];
    let up = Up::start(&scratch.join("playing"), &one, &[]).await;
    let (mut firsts, mut seeks) = (Vec::new(), Vec::new());
    for (minutes, name) in MINUTES.into_iter().zip(FIRST) {
        if !wants_others && !figures.wants(&[name]) {
            continue;
        }
        let film = repeated(scratch, &minute, minutes);
        let mut waits = Vec::new();
        for _ in 0..ROUNDS {
            let said = play(&up.api, &film, minutes > 1).await;
            waits.extend(said_of("first_play_ms", &said));
            seeks.extend(said_of("seek_ahead_ms", &said));
            // The parts are stopped before the next video.
            while up.get("/api/stats").await["running"] != 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        std::fs::remove_file(&film).unwrap();
        assert_eq!(waits.len(), ROUNDS);
        let first = median(waits);
        figures.put(name, first, "ms");
        firsts.push(first);
    }
    if let [shortest, _, longest] = firsts[..] {
        figures.put(OTHERS[0], longest / shortest, "ratio");
    }
    if !seeks.is_empty() {
        figures.put(OTHERS[1], median(seeks), "ms");
    }
}

/// Sends a video with the page at `url` and plays it; returns what the script says about that. `seeks`: also near its end.
async fn play(url: &str, film: &Path, seeks: bool) -> String {
    let seeks = seeks.then_some("seek".as_ref());
    let output =
        node("tests/page/first_frame.mjs", [url.as_ref(), film.as_os_str()].into_iter().chain(seeks)).await;
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    out(&output)
}

/// A value that the script said.
fn said_of(name: &str, said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// A minute of 1080p with motion and a tone.
fn minute() -> PathBuf {
    made(
        "minute-1080p.mp4",
        "-f lavfi -i testsrc2=size=1920x1080:rate=25:duration=60 -f lavfi -i sine=frequency=330:duration=60 \
         -c:v libx264 -preset veryfast -b:v 2M -maxrate 2M -bufsize 4M -g 50 -pix_fmt yuv420p -c:a aac",
    )
}

fn repeated(scratch: &Path, minute: &Path, minutes: u32) -> PathBuf {
    let path = scratch.join(format!("{minutes}-minutes.mp4"));
    let repeats = (minutes - 1).to_string();
    let before = ["-stream_loop", &repeats, "-i"].map(Path::new);
    let after = ["-c", "copy", "-movflags", "+faststart"].map(Path::new);
    ffmpeg(before.into_iter().chain([minute]).chain(after).chain([path.as_path()]));
    path
}
