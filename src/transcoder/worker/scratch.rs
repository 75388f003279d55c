//! Folders for the files of a job in work. A folder's name holds the process's id, so that a later
//! worker on the same machine can tell which were left behind by one that was killed.

use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use tempfile::TempDir;

const PREFIX: &str = "tcoder-work-";

/// A new folder below `base`; removed when it is dropped.
pub fn folder(base: &Path) -> std::io::Result<TempDir> {
    std::fs::create_dir_all(base)?;
    tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(base)
}

/// Removes what dead workers left below `base`. Best effort: the next worker tries again.
pub fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
        if let Some(pid) = owner.filter(|pid| !lives(*pid)) {
            tracing::info!(pid, "removing what a dead worker left");
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn lives(pid: i32) -> bool {
    // Without a signal kill(2) only looks; EPERM says that it is there and somebody else's.
    pid > 0 && !matches!(kill(Pid::from_raw(pid), None), Err(nix::Error::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_only_what_the_dead_left() {
        let base = tempfile::tempdir().unwrap();
        let mine = folder(base.path()).unwrap();
        // Process ids end below this number on Linux.
        let dead = base.path().join("tcoder-work-99999999-abc");
        let other = base.path().join("somebody-elses");
        std::fs::create_dir(&dead).unwrap();
        std::fs::create_dir(&other).unwrap();
        sweep(base.path());
        assert!(mine.path().exists() && other.exists() && !dead.exists());
    }
}
