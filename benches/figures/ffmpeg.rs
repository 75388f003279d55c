//! FFmpeg as it is run by hand.

use std::ffi::OsStr;
use std::process::Command;

/// Runs FFmpeg with these arguments until it has succeeded.
pub fn ffmpeg<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y"]).args(arguments);
    let done = command.status().unwrap();
    assert!(done.success(), "{command:?}");
}
