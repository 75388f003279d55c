//! Transfers whole objects between storage and files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::Bucket;
use super::client::{Storage, size, unquoted};
use super::content_type::content_type;
use super::download::{DownloadLimits, OpenedSource, Progress, Resume, Source, save};
use super::error::{StorageError, classify, root};
use crate::job::ObjectKey;

const MIB: u64 = 1 << 20;
/// Minimum size of an object that is uploaded in parts, bytes.
const MULTIPART_FROM: u64 = 64 * MIB;
const MIN_PART: u64 = 16 * MIB;
/// Maximum number of parts that S3 accepts for an object.
const MAX_PARTS: u64 = 10_000;
const PARTS_AT_ONCE: usize = 4;
const FILES_AT_ONCE: usize = 8;
/// Time limit for aborting a multipart upload.
const ABORT: Duration = Duration::from_secs(10);
/// An attempt writes below its own epoch and never writes the same key twice.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

impl Storage {
    /// Downloads an object to the file `to`, within `limits`, and returns the number of bytes. Memory is bounded, and
    /// an interrupted download is resumed.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::TooLarge`], [`StorageError::DiskFull`],
    /// [`StorageError::Cancelled`], [`StorageError::Disk`] and others, as they are defined. The file is then removed.
    pub async fn download(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        to: &Path,
        limits: impl Into<DownloadLimits>,
        on_bytes: &Progress,
        cancel: &CancellationToken,
    ) -> Result<u64, StorageError> {
        let object = Object { storage: self, bucket, key, version: None };
        save(&object, to, limits.into(), on_bytes, cancel).await
    }

    /// Like [`download`](Self::download), of one version of the object: the one with the entity tag `version`, which is
    /// without quotes. If it is not set, it becomes that of the version which the object has now, if storage names one.
    ///
    /// # Errors
    /// [`StorageError::OtherVersion`] if the object is another one now, and those of [`download`](Self::download).
    #[expect(clippy::too_many_arguments, reason = "those of download, and the version")]
    pub async fn download_version(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        version: &OnceLock<String>,
        to: &Path,
        limits: impl Into<DownloadLimits>,
        on_bytes: &Progress,
        cancel: &CancellationToken,
    ) -> Result<u64, StorageError> {
        let object = Object { storage: self, bucket, key, version: Some(version) };
        save(&object, to, limits.into(), on_bytes, cancel).await
    }

    /// Uploads the file `from` to the output bucket and returns the number of bytes.
    ///
    /// If the future is dropped, parts of a large object remain at the server until it removes them (R2: after a
    /// week). Use `cancel` to remove them.
    ///
    /// # Errors
    /// [`StorageError::Cancelled`], [`StorageError::Disk`] and others, as they are defined. There is then no object.
    pub async fn upload(
        &self,
        key: &ObjectKey,
        from: &Path,
        content_type: &str,
        on_bytes: &Progress,
        cancel: &CancellationToken,
    ) -> Result<u64, StorageError> {
        let file = tokio::fs::metadata(from).await.map_err(StorageError::disk("read", from))?;
        let upload = Upload { storage: self, key, from, content_type, bytes: file.len() };
        if file.len() < MULTIPART_FROM {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(StorageError::Cancelled),
                done = upload.whole() => done?,
            }
            on_bytes.tell(file.len());
        } else {
            upload.in_parts(on_bytes, cancel).await?;
        }
        Ok(file.len())
    }

    /// Uploads `files`, which are paths below `dir`, to the same paths below `prefix` in the output bucket, several
    /// at a time. The file extension determines the content type. Returns the total number of bytes.
    ///
    /// # Errors
    /// The same as those of [`upload`](Self::upload), of the first file that failed; other objects may exist.
    pub async fn upload_all(
        &self,
        prefix: &ObjectKey,
        dir: &Path,
        files: &[PathBuf],
        on_bytes: &Progress,
        cancel: &CancellationToken,
    ) -> Result<u64, StorageError> {
        let keys: Vec<ObjectKey> =
            files.iter().map(|file| key_below(prefix, file)).collect::<Result<_, _>>()?;
        let total = AtomicU64::new(0);
        stream::iter(keys.iter().zip(files))
            .map(|(key, file)| {
                let total = &total;
                async move {
                    let from = dir.join(file);
                    let bytes = self
                        .upload(key, &from, content_type(key.as_str()), &Progress::none(), cancel)
                        .await?;
                    on_bytes.tell(total.fetch_add(bytes, Ordering::Relaxed) + bytes);
                    Ok::<_, StorageError>(())
                }
            })
            .buffer_unordered(FILES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(total.into_inner())
    }
}

/// The key of a file below a prefix.
pub(crate) fn key_below(prefix: &ObjectKey, file: &Path) -> Result<ObjectKey, StorageError> {
    let name = file.to_string_lossy();
    prefix.join(&name).map_err(|source| StorageError::Key { name: name.into_owned(), source })
}

/// The size of a part in bytes, large enough for the maximum number of parts.
fn part_size(bytes: u64) -> u64 {
    bytes.div_ceil(MAX_PARTS).next_multiple_of(MIB).max(MIN_PART)
}

/// The number, offset and length of each part.
fn parts(bytes: u64) -> impl Iterator<Item = (i32, u64, u64)> {
    let size = part_size(bytes);
    (1..)
        .zip((0..bytes).step_by(usize::try_from(size).unwrap_or(usize::MAX)))
        .map(move |(number, offset)| (number, offset, size.min(bytes - offset)))
}

/// Whether a request for a version or a range failed because the object was replaced, or is shorter now.
fn is_of_condition<E>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(error, SdkError::ServiceError(e) if matches!(e.raw().status().as_u16(), 412 | 416))
}

struct Object<'a> {
    storage: &'a Storage,
    bucket: Bucket,
    key: &'a ObjectKey,
    /// The entity tag of the only version that is read, once it is known. Without it, a download starts over when the
    /// object is replaced.
    version: Option<&'a OnceLock<String>>,
}

impl Source for Object<'_> {
    async fn open(&self, resume: Option<&Resume>) -> Result<OpenedSource, StorageError> {
        let request =
            self.storage.large().get_object().bucket(self.storage.name(self.bucket)).key(self.key.as_str());
        let only = self.version.and_then(OnceLock::get).map(|etag| format!("\"{etag}\""));
        let whole = request.clone().set_if_match(only.clone());
        let mut starts_at = 0;
        let answer = match resume {
            None => whole.send().await,
            Some(Resume { offset, etag }) => {
                let rest = request.range(format!("bytes={offset}-")).if_match(only.as_ref().unwrap_or(etag));
                match rest.send().await {
                    // The object was replaced, or is shorter now.
                    Err(error) if only.is_none() && is_of_condition(&error) => whole.send().await,
                    rest => {
                        starts_at = *offset;
                        rest
                    }
                }
            }
        };
        let answer = match answer {
            Err(error) if only.is_some() && is_of_condition(&error) => {
                return Err(StorageError::OtherVersion);
            }
            answer => answer.map_err(|error| classify(self.key.as_str(), &error))?,
        };
        if let Some(version) = self.version
            && let Some(etag) = answer.e_tag().filter(|etag| !etag.starts_with("W/")).map(unquoted)
        {
            // Not every server honours the condition of the request.
            let is_the_same = *version.get_or_init(|| etag.clone()) == etag;
            if !is_the_same {
                return Err(StorageError::OtherVersion);
            }
        }
        let body = stream::unfold(answer.body, |mut body| async {
            let chunk = body.next().await?;
            Some((chunk.map_err(|error| root(&error)), body))
        });
        let length = answer.content_length.map(|n| size(Some(n)));
        Ok(OpenedSource {
            starts_at,
            total: length.map(|length| starts_at + length),
            etag: answer.e_tag,
            body: body.boxed(),
        })
    }

    fn broken(&self, why: String) -> StorageError {
        StorageError::Unavailable { what: self.key.to_string(), why }
    }
}

struct Upload<'a> {
    storage: &'a Storage,
    key: &'a ObjectKey,
    from: &'a Path,
    content_type: &'a str,
    bytes: u64,
}

impl Upload<'_> {
    async fn whole(&self) -> Result<(), StorageError> {
        let put = self
            .storage
            .large()
            .put_object()
            .bucket(self.bucket())
            .key(self.key.as_str())
            .content_type(self.content_type)
            .cache_control(IMMUTABLE)
            .body(self.read(0, self.bytes).await?);
        put.send().await.map(|_| ()).map_err(|error| self.failed(&error))
    }

    async fn in_parts(&self, on_bytes: &Progress, cancel: &CancellationToken) -> Result<(), StorageError> {
        let create = self
            .storage
            .large()
            .create_multipart_upload()
            .bucket(self.bucket())
            .key(self.key.as_str())
            .content_type(self.content_type)
            .cache_control(IMMUTABLE);
        let created = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(StorageError::Cancelled),
            created = create.send() => created.map_err(|error| self.failed(&error))?,
        };
        let id = created.upload_id().ok_or_else(|| StorageError::Refused {
            what: self.key.to_string(),
            why: "it returned no id for a multipart upload".to_owned(),
        })?;
        let done = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(StorageError::Cancelled),
            done = self.parts_and_complete(id, on_bytes) => done,
        };
        if done.is_err() {
            self.abort(id).await;
        }
        done
    }

    async fn parts_and_complete(&self, id: &str, on_bytes: &Progress) -> Result<(), StorageError> {
        let sent = AtomicU64::new(0);
        let mut parts: Vec<CompletedPart> = stream::iter(parts(self.bytes))
            .map(|(number, offset, length)| {
                let sent = &sent;
                async move {
                    let part = self.part(id, number, offset, length).await?;
                    on_bytes.tell(sent.fetch_add(length, Ordering::Relaxed) + length);
                    Ok::<_, StorageError>(part)
                }
            })
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        parts.sort_by_key(CompletedPart::part_number);
        let complete = self
            .storage
            .large()
            .complete_multipart_upload()
            .bucket(self.bucket())
            .key(self.key.as_str())
            .upload_id(id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        complete.send().await.map(|_| ()).map_err(|error| self.failed(&error))
    }

    async fn part(
        &self,
        id: &str,
        number: i32,
        offset: u64,
        length: u64,
    ) -> Result<CompletedPart, StorageError> {
        let put = self
            .storage
            .large()
            .upload_part()
            .bucket(self.bucket())
            .key(self.key.as_str())
            .upload_id(id)
            .part_number(number)
            .body(self.read(offset, length).await?);
        let put = put.send().await.map_err(|error| self.failed(&error))?;
        Ok(CompletedPart::builder().part_number(number).set_e_tag(put.e_tag).build())
    }

    async fn abort(&self, id: &str) {
        let abort = self
            .storage
            .large()
            .abort_multipart_upload()
            .bucket(self.bucket())
            .key(self.key.as_str())
            .upload_id(id);
        match tokio::time::timeout(ABORT, abort.send()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(key = %self.key, error = %self.failed(&error), "could not abort a multipart upload; its parts remain");
            }
            Err(_) => {
                tracing::warn!(key = %self.key, "timed out while aborting a multipart upload; its parts remain")
            }
        }
    }

    async fn read(&self, offset: u64, length: u64) -> Result<ByteStream, StorageError> {
        let body = ByteStream::read_from()
            .path(self.from)
            .offset(offset)
            .length(Length::Exact(length))
            .buffer_size(64 * 1024)
            .build()
            .await;
        let disk = StorageError::disk("read", self.from);
        body.map_err(|error| disk(std::io::Error::other(error)))
    }

    fn bucket(&self) -> &str {
        self.storage.name(Bucket::Output)
    }

    /// `NoSuchUpload` is a 404, too, but it does not mean that an input is missing.
    fn failed<E>(&self, error: &SdkError<E>) -> StorageError
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        match classify(self.key.as_str(), error) {
            StorageError::NotFound { what } => {
                StorageError::Refused { what, why: "it does not know the upload any more".to_owned() }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn part_size_grows_so_that_ten_thousand_parts_suffice() {
        assert_eq!(part_size(MULTIPART_FROM), MIN_PART);
        assert_eq!(part_size(MIN_PART * MAX_PARTS), MIN_PART);
        assert_eq!(part_size(MIN_PART * MAX_PARTS + 1), MIN_PART + MIB);
        // The largest object that S3 accepts: 5 TiB.
        assert!(parts(5 << 40).count() <= 10_000);
    }

    proptest! {
        #[test]
        fn parts_cover_every_byte_once(bytes in 1..200 * 1024 * MIB) {
            let mut next = 0;
            for (number, (got, offset, length)) in (1..).zip(parts(bytes)) {
                prop_assert_eq!((number, next), (got, offset));
                prop_assert!(length > 0);
                next = offset + length;
            }
            prop_assert_eq!(next, bytes);
        }
    }

    #[test]
    fn key_below_rejects_files_outside_the_folder() {
        let prefix: ObjectKey = "outputs/a/1".parse().unwrap();
        assert_eq!(key_below(&prefix, Path::new("720p/a.ts")).unwrap().as_str(), "outputs/a/1/720p/a.ts");
        for path in ["../a.ts", "/etc/passwd", "a/../../b", ""] {
            assert!(matches!(key_below(&prefix, Path::new(path)), Err(StorageError::Key { .. })), "{path}");
        }
    }
}
