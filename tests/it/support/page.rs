//! Drives the page in Chromium as a user would: tests/page.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::clips::{half_minute, heavy};
use super::process::node;

/// The folder with the screenshots of the last run, for inspection.
pub fn shots() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("page-shots")
}

/// The folder with the screenshots of videos that are played while they are encoded.
fn early_shots() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("page-early-shots")
}

/// Uses all functions of the page at `url`; returns whether that succeeded, and the output.
pub async fn drive(url: &str) -> (bool, String) {
    let shots = shots();
    run(
        "tests/page/page.mjs",
        [url.as_ref(), half_minute().as_os_str(), heavy().as_os_str(), shots.as_os_str()],
    )
    .await
}

/// Plays a job's HLS on the page at `url`, and switches to each of these heights.
pub async fn play(url: &str, token: &str, job: &str, heights: &[u32]) -> (bool, String) {
    let heights = heights.iter().map(u32::to_string);
    let args = [url, token, job].map(str::to_owned).into_iter().chain(heights);
    run("tests/page/private.mjs", args).await
}

/// Plays a playable job on the page at `url` while it is encoded, there and at 140 s, and cancels it. `file` is the name
/// of its video.
pub async fn play_early(url: &str, job: &str, file: &str) -> (bool, String) {
    let shots = early_shots();
    run("tests/page/early.mjs", [url.as_ref(), job.as_ref(), file.as_ref(), shots.as_os_str()]).await
}

/// Sends a video with the page at `url`, and plays it until after its job has ended.
pub async fn play_until_completed(url: &str, film: &Path) -> (bool, String) {
    let shots = early_shots();
    run("tests/page/completing.mjs", [url.as_ref(), film.as_os_str(), shots.as_os_str()]).await
}

/// Tries to use the API at `url`, which needs no token, from a page of another site at `other`.
pub async fn attack(url: &str, other: &str) -> (bool, String) {
    run("tests/page/foreign.mjs", [url, other]).await
}

async fn run<A: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = A>) -> (bool, String) {
    let output = node(script, args).await;
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
