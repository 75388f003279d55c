//! Runs a process whose scratch folder is on a small disk: a tmpfs in its own mount namespace, as root or in
//! a user namespace.

use std::path::Path;
use std::process::{Command as StdCommand, Stdio};
use std::sync::OnceLock;

use tokio::process::Command;

use super::process::bare;

/// The command that starts a process in a mount namespace; `None` if this system does not permit it.
fn unshare() -> Option<&'static [&'static str]> {
    static WAY: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
    *WAY.get_or_init(|| {
        let ways: [&[&str]; 2] = [&["unshare", "-m"], &["unshare", "-Urm"]];
        ways.into_iter().find(|way| {
            let mut command = StdCommand::new(way[0]);
            command.args(&way[1..]).args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
    })
}

/// Whether this system can provide small disks.
pub fn there_are() -> bool {
    unshare().is_some()
}

/// Runs `script` with sh and a disk of `bytes` bytes mounted on `folder`; `$0` is the binary, `$1` the
/// folder.
pub fn sh(folder: &Path, bytes: u64, script: &str) -> Command {
    let [program, arguments @ ..] = unshare().expect("ask there_are() first") else { unreachable!() };
    let mut command = bare(program);
    let script = format!("mount -t tmpfs -o size={bytes} tmpfs \"$1\"\n{script}");
    command.args(arguments).args(["sh", "-euc", &script, env!("CARGO_BIN_EXE_tcoder")]).arg(folder);
    command
}
