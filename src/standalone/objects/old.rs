//! Imports folders of earlier versions, in which an object was a file named after its key, at the first start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::{Timestamp, TimestampFormat};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::blobs::{Blobs, Draft};
use super::conditions::WriteConditions;
use super::error::OpenError;
use super::index::Index;
use super::record::{Data, Headers, Object};

/// Imports the objects of a bucket: the file of each, and the contents of the two files beside the bucket that are
/// named after it. After an interruption, the import continues at the next start.
pub(super) fn import(dir: &Path, bucket: &str, index: &Index, blobs: &Blobs) -> Result<(), OpenError> {
    let root = dir.join(bucket);
    if !root.is_dir() {
        return Ok(());
    }
    let (mut taken, mut strange) = (0_u64, 0_u64);
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(path);
            } else if let (true, Some(key)) = (kind.is_file(), key_of(&root, &path)) {
                import_object(dir, bucket, key, &path, index, blobs)?;
                taken += 1;
            } else {
                tracing::warn!(path = %path.display(), "not an object; the file stays where it is");
                strange += 1;
            }
        }
    }
    remove_sidecars(dir, bucket)?;
    if strange == 0 {
        fs::remove_dir_all(&root)?;
    }
    tracing::info!(bucket, objects = taken, "imported the objects of an earlier version's data folder");
    Ok(())
}

fn key_of<'a>(root: &Path, path: &'a Path) -> Option<&'a str> {
    path.strip_prefix(root).ok()?.to_str()
}

fn import_object(
    dir: &Path,
    bucket: &str,
    key: &str,
    path: &Path,
    index: &Index,
    blobs: &Blobs,
) -> Result<(), OpenError> {
    // The object exists: the last start was interrupted between the next two steps.
    if index.object(bucket, key).map_err(OpenError::Read)?.is_none() {
        let found = fs::metadata(path)?;
        let modified = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified = u64::try_from(modified.as_millis()).unwrap_or_default();
        let stem = stem(bucket, key);
        let internal: Internal = read(&dir.join(format!("{stem}.internal.json")));
        let attributes: Attributes = read(&dir.join(format!("{stem}.metadata.json")));
        let draft = blobs.import(path)?;
        draft.sync()?;
        let object = Object {
            size: found.len(),
            // Any text that changes with the object will do.
            etag: internal.e_tag.unwrap_or_else(|| format!("{:x}-{modified:x}", found.len())),
            modified,
            checksum: None,
            headers: attributes.into(),
            data: Data::Blob(draft.id()),
        };
        let done = index.put(bucket, key, &object, &WriteConditions::default());
        let _nothing_freed = done.map_err(OpenError::Read)?;
        Draft::keep(draft);
    }
    fs::remove_file(path)?;
    Ok(())
}

fn stem(bucket: &str, key: &str) -> String {
    format!(".bucket-{}.object-{}", URL_SAFE_NO_PAD.encode(bucket), URL_SAFE_NO_PAD.encode(key))
}

/// Parses such a file. A missing or invalid file yields the defaults.
fn read<T: DeserializeOwned + Default>(path: &Path) -> T {
    fs::read(path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

fn remove_sidecars(dir: &Path, bucket: &str) -> io::Result<()> {
    let of_bucket = format!(".bucket-{}.", URL_SAFE_NO_PAD.encode(bucket));
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&of_bucket) || name.starts_with(".upload") || name.starts_with(".tmp.")
    };
    let paths: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.into_iter().filter(ours).try_for_each(fs::remove_file)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Internal {
    e_tag: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes {
    user_metadata: Option<std::collections::BTreeMap<String, String>>,
    content_encoding: Option<String>,
    content_type: Option<String>,
    content_disposition: Option<String>,
    content_language: Option<String>,
    cache_control: Option<String>,
    expires: Option<String>,
}

impl From<Attributes> for Headers {
    fn from(old: Attributes) -> Self {
        Self {
            content_type: old.content_type,
            content_encoding: old.content_encoding,
            content_disposition: old.content_disposition,
            content_language: old.content_language,
            cache_control: old.cache_control,
            expires: old.expires.and_then(|text| Timestamp::parse(TimestampFormat::DateTime, &text).ok()),
            metadata: old.user_metadata.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn import_moves_objects_and_headers_of_an_old_folder() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("input/inputs/a/b.mp4", "film");
        write("input/plain.txt", "text");
        let stem = stem("input", "inputs/a/b.mp4");
        write(&format!("{stem}.internal.json"), r#"{"e_tag": "abc-2", "checksum_crc32": "x"}"#);
        write(
            &format!("{stem}.metadata.json"),
            r#"{"content_type": "video/mp4", "user_metadata": {"a": "b"}, "expires": "2030-01-02T03:04:05.000Z"}"#,
        );
        write(".upload-7f0c5b53-7b5c-4a3f-9b53-1f1f3f6d2a11.json", "{}");

        let index = Index::open(&dir.join("index.redb"), ["input", "output"], 0).unwrap();
        let blobs = Blobs::open(dir.join("_data")).unwrap();
        import(dir, "input", &index, &blobs).unwrap();
        import(dir, "output", &index, &blobs).unwrap();

        let film = index.object("input", "inputs/a/b.mp4").unwrap().unwrap();
        assert_eq!((film.size, &*film.etag), (4, "abc-2"));
        assert_eq!(film.headers.content_type.as_deref(), Some("video/mp4"));
        assert_eq!(film.headers.metadata["a"], "b");
        assert!(film.headers.expires.is_some());
        let files = index.files(&film).unwrap();
        assert_eq!(fs::read(blobs.path(files[0].0)).unwrap(), b"film");
        let plain = index.object("input", "plain.txt").unwrap().unwrap();
        assert!(!plain.etag.is_empty() && plain.modified > 0);
        let mut left: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["_data", "index.redb"]);
    }

    #[test]
    fn import_continues_after_an_interruption() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("input")).unwrap();
        let index = Index::open(&dir.join("index.redb"), ["input", "output"], 0).unwrap();
        let blobs = Blobs::open(dir.join("_data")).unwrap();
        for name in ["done", "new"] {
            fs::write(dir.join("input").join(name), name).unwrap();
        }
        import_object(dir, "input", "done", &dir.join("input/done"), &index, &blobs).unwrap();
        let done = index.object("input", "done").unwrap();
        // The crash happened before the old file was removed.
        fs::write(dir.join("input/done"), "done").unwrap();
        import(dir, "input", &index, &blobs).unwrap();
        assert_eq!(index.object("input", "done").unwrap(), done);
        assert!(index.object("input", "new").unwrap().is_some());
        assert!(!dir.join("input").exists());
    }
}
