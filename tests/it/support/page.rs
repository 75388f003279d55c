//! The page, driven in Chromium as people use it: tests/page/page.mjs.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::clips::heavy;
use super::system::{PATIENCE, long_clip, spawn};

/// Where the screenshots of the last run are, for somebody to look at.
pub fn shots() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("page-shots")
}

/// Uses the page at `url` for everything it is for; answers whether all went well, and what was said.
pub async fn drive(url: &str) -> (bool, String) {
    run("page.mjs", |command| {
        command.arg(url).arg(long_clip()).arg(heavy()).arg(shots());
    })
    .await
}

/// Plays a job's HLS on the page at `url`, and switches to each of these heights.
pub async fn play(url: &str, token: &str, job: &str, heights: &[u32]) -> (bool, String) {
    run("private.mjs", |command| {
        command.args([url, token, job]).args(heights.iter().map(u32::to_string));
    })
    .await
}

async fn run(script: &str, with_arguments: impl FnOnce(&mut Command)) -> (bool, String) {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/page-test.sh"));
    with_arguments(command.arg(script));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
    let output = ended.expect("the browser does not end").unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
