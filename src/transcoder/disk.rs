//! The free space of a folder's disk.

use std::io::{self, ErrorKind};
use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::job::space::REMEDY;
use crate::job::{Failure, FailureCode};

/// A disk with fewer free bytes counts as full, because FFmpeg writes larger blocks.
const FULL: u64 = 256 << 10;

/// Bytes that may be written below `folder`, at most `limit`. `None` if its file system does not report free
/// space, as some network file systems do not.
pub(super) fn free(folder: &Path, limit: Option<u64>) -> Option<u64> {
    let stat = statvfs(folder)
        .inspect_err(|error| tracing::debug!(%error, "the free space of the disk is not known"))
        .ok()?;
    #[allow(clippy::useless_conversion, reason = "32 bits wide on some systems")]
    let (all, free, block): (u64, u64, u64) =
        (stat.blocks().into(), stat.blocks_available().into(), stat.fragment_size().into());
    let free = free.saturating_mul(block);
    (all > 0).then_some(limit.map_or(free, |limit| free.min(limit)))
}

/// Whether nothing more can be written below `folder`, or its files have more than `limit` bytes.
pub(super) fn is_full(folder: &Path, limit: Option<u64>) -> bool {
    free(folder, None).is_some_and(|free| free < FULL) || limit.is_some_and(|limit| size(folder) > limit)
}

/// Bytes of the files in `folder` and in the folders in it.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size_of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size_of).sum()
}

/// The failure of a file operation.
pub(super) fn trouble(what: &str, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Failure::new(FailureCode::DiskFull, format!("could not {what}: {error}; {REMEDY}"))
        }
        _ => Failure::new(FailureCode::Worker, format!("could not {what}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_space_is_the_file_systems_and_no_more_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let free_now = free(folder.path(), None).unwrap();
        let df = std::process::Command::new("df").args(["-P", "-B1"]).arg(folder.path()).output().unwrap();
        let df = String::from_utf8(df.stdout).unwrap();
        let available: u64 = df.lines().nth(1).unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
        // Other processes write between the two measurements.
        assert!(free_now.abs_diff(available) < 1 << 30, "{free_now} bytes, and df says {available}");
        assert_eq!(free(folder.path(), Some(7)), Some(7));
        assert_eq!(free(folder.path(), Some(u64::MAX)).map(|free| free > 7), Some(true));
        assert!(!is_full(folder.path(), None));
        std::fs::create_dir(folder.path().join("360p")).unwrap();
        std::fs::write(folder.path().join("360p/segment"), b"1234567").unwrap();
        assert!(!is_full(folder.path(), Some(7)));
        assert!(is_full(folder.path(), Some(6)));
        assert_eq!(free(&folder.path().join("nothing"), Some(7)), None);
    }

    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let full = trouble("make a folder", &ErrorKind::StorageFull.into());
        assert_eq!(full.code, FailureCode::DiskFull);
        assert!(full.message.contains("FLY_WORKER_DISK_GB"), "{full}");
        assert_eq!(trouble("make a folder", &ErrorKind::PermissionDenied.into()).code, FailureCode::Worker);
    }
}
