//! Folders for the files of the current job. A folder is locked for the lifetime of its worker, so that a
//! later worker on the same machine can recognize folders of workers that were killed.
//!
//! A lock is used rather than a process id: ids are reused, ids of dead processes remain until somebody reaps
//! them, and in two containers that share a folder the same id means two processes.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use tempfile::TempDir;

use crate::config::WorkerConfig;

const PREFIX: &str = "tcoder-work-";
/// A concurrent cleanup may remove the folder between its creation and the lock, but hardly this often.
const TRIES: usize = 10;

/// A folder that is removed when the value is dropped.
pub(crate) struct Scratch {
    // Removed before the lock is released.
    folder: TempDir,
    _lock: File,
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Maximum size of the files of a part of a split job, bytes: the parts that are encoded at the same time share the disk.
pub(super) fn share_of_a_part(config: &WorkerConfig) -> Option<u64> {
    config.disk_bytes.map(|bytes| bytes / (config.chunks as u64 + 1))
}

/// Creates a folder below `base`.
pub(crate) fn folder(base: &Path) -> io::Result<Scratch> {
    std::fs::create_dir_all(base)?;
    for _ in 0..TRIES {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
        match File::open(folder.path()) {
            // The lock only counts if the folder still exists.
            Ok(lock) if lock.try_lock().is_ok() && folder.path().exists() => {
                return Ok(Scratch { folder, _lock: lock });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("new folders vanish at once; is something deleting them?"))
}

/// Removes folders of dead workers below `base`. Best effort: the next worker tries again.
pub(crate) fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        let Ok(lock) = File::open(entry.path()) else { continue };
        if lock.try_lock().is_ok() {
            tracing::info!(folder = ?entry.file_name(), "removing the scratch folder of a dead worker");
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_only_what_the_dead_left() {
        let base = tempfile::tempdir().unwrap();
        let mine = folder(base.path()).unwrap();
        let dead = base.path().join("tcoder-work-abc");
        let other = base.path().join("somebody-elses");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("input"), "a film").unwrap();
        std::fs::create_dir(&other).unwrap();
        sweep(base.path());
        assert!(mine.path().exists() && other.exists() && !dead.exists());
        let path = mine.path().to_owned();
        drop(mine);
        assert!(!path.exists());
    }
}
