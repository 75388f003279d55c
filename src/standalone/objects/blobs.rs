//! The bytes of objects and parts, in write-once files with unique names.
//!
//! A file that no row of the index names is a leftover, of a failed write or of a deleted object.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct BlobId(Uuid);

/// The folder with the files.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    dir: Arc<Path>,
    reads: Arc<Mutex<HashMap<BlobId, Reads>>>,
}

#[derive(Debug, Default)]
struct Reads {
    count: usize,
    /// Whether to remove the file when the last read ends.
    removed: bool,
}

impl Blobs {
    /// Opens the folder `dir`, and creates it if it does not exist.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir: dir.into(), reads: Arc::default() })
    }

    pub(crate) fn path(&self, id: BlobId) -> PathBuf {
        self.dir.join(id.0.simple().to_string())
    }

    /// Creates a file. It is removed again unless it is [kept](Draft::keep).
    pub(crate) fn create(&self) -> io::Result<Draft> {
        let id = BlobId(Uuid::now_v7());
        let file = File::options().write(true).create_new(true).open(self.path(id))?;
        Ok(Draft { blobs: self.clone(), id, file: Some(file), kept: false })
    }

    /// Creates a file with the bytes of another one: a hard link if the file system supports it.
    pub(crate) fn duplicate(&self, of: BlobId) -> io::Result<Draft> {
        self.import(&self.path(of))
    }

    /// Creates a file with the bytes of the file at `path`, which is not changed.
    pub(crate) fn import(&self, path: &Path) -> io::Result<Draft> {
        let id = BlobId(Uuid::now_v7());
        let mut draft = Draft { blobs: self.clone(), id, file: None, kept: false };
        if fs::hard_link(path, self.path(id)).is_err() {
            let mut file = File::options().write(true).create_new(true).open(self.path(id))?;
            io::copy(&mut File::open(path)?, &mut file)?;
            draft.file = Some(file);
        }
        Ok(draft)
    }

    /// Runs a lookup and protects the files that it names from removal until the guard is dropped.
    pub(crate) fn hold<T, E>(
        &self,
        look_up: impl FnOnce() -> Result<T, E>,
        files: impl FnOnce(&T) -> Vec<BlobId>,
    ) -> Result<(T, Hold), E> {
        // This runs under the lock: a file that is removed in the meantime was either not found, or waits for the
        // guard.
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let found = look_up()?;
        let ids = files(&found);
        for id in &ids {
            reads.entry(*id).or_default().count += 1;
        }
        Ok((found, Hold { blobs: self.clone(), ids }))
    }

    /// Removes files that the index no longer names, each as soon as nobody reads it.
    pub(crate) fn remove(&self, ids: &[BlobId]) {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            match reads.get_mut(id) {
                Some(reads) => reads.removed = true,
                None => self.unlink(*id),
            }
        }
    }

    fn unlink(&self, id: BlobId) {
        let path = self.path(id);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "could not delete an unused file; it is deleted at the next start");
        }
    }

    /// Removes every file that is not in `named`, and returns their number.
    pub(crate) fn remove_leftovers(&self, named: &HashSet<BlobId>) -> io::Result<u64> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| Uuid::try_parse(name).ok()).map(BlobId);
            if id.is_none_or(|id| !named.contains(&id)) {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

/// A file that is being written. It is removed if this is dropped before it was kept.
#[derive(Debug)]
pub(super) struct Draft {
    blobs: Blobs,
    id: BlobId,
    file: Option<File>,
    kept: bool,
}

impl Draft {
    pub(crate) const fn id(&self) -> BlobId {
        self.id
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file
            .as_mut()
            .map_or_else(|| Err(io::ErrorKind::ReadOnlyFilesystem.into()), |file| file.write_all(bytes))
    }

    /// Writes the file and its name to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.sync_all()?;
        }
        self.blobs.sync()
    }

    /// Keeps the file, because the index now names it.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            self.blobs.unlink(self.id);
        }
    }
}

/// Protects files from removal while they are read.
#[derive(Debug)]
pub(super) struct Hold {
    blobs: Blobs,
    ids: Vec<BlobId>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut reads = self.blobs.reads.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &self.ids {
            let Some(read) = reads.get_mut(id) else { continue };
            read.count = read.count.saturating_sub(1);
            if read.count == 0 && reads.remove(id).is_some_and(|read| read.removed) {
                self.blobs.unlink(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("data")).unwrap();
        (dir, blobs)
    }

    fn written(blobs: &Blobs, bytes: &[u8]) -> BlobId {
        let mut draft = blobs.create().unwrap();
        draft.append(bytes).unwrap();
        draft.sync().unwrap();
        let id = draft.id();
        draft.keep();
        id
    }

    #[test]
    fn draft_that_is_not_kept_leaves_no_file() {
        let (_dir, blobs) = blobs();
        let kept = written(&blobs, b"kept");
        let mut draft = blobs.create().unwrap();
        draft.append(b"half").unwrap();
        let path = blobs.path(draft.id());
        assert!(path.exists());
        drop(draft);
        assert!(!path.exists());
        assert_eq!(fs::read(blobs.path(kept)).unwrap(), b"kept");
    }

    #[test]
    fn blob_in_use_is_removed_after_its_last_reader() {
        let (_dir, blobs) = blobs();
        let id = written(&blobs, b"x");
        let hold = || blobs.hold(|| Ok::<_, ()>(id), |id| vec![*id]).unwrap().1;
        let (first, second) = (hold(), hold());
        blobs.remove(&[id]);
        drop(first);
        assert!(blobs.path(id).exists());
        drop(second);
        assert!(!blobs.path(id).exists());
        let other = written(&blobs, b"y");
        blobs.remove(&[other]);
        assert!(!blobs.path(other).exists());
    }

    #[test]
    fn blob_duplicate_outlives_the_original() {
        let (_dir, blobs) = blobs();
        let original = written(&blobs, b"x");
        let copy = blobs.duplicate(original).unwrap();
        let id = copy.id();
        copy.sync().unwrap();
        copy.keep();
        blobs.remove(&[original]);
        assert_eq!(fs::read(blobs.path(id)).unwrap(), b"x");
    }

    #[test]
    fn blobs_without_a_row_are_removed() {
        let (_dir, blobs) = blobs();
        let (named, forgotten) = (written(&blobs, b"x"), written(&blobs, b"y"));
        fs::write(blobs.dir.join("strange"), "z").unwrap();
        assert_eq!(blobs.remove_leftovers(&HashSet::from([named])).unwrap(), 2);
        assert!(blobs.path(named).exists() && !blobs.path(forgotten).exists());
    }
}
