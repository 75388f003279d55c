//! The objects as files, by s3s-fs, with what R2 does and s3s-fs does not: one winner among
//! conditional writes, no half-written objects, and a message about each new object.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::TRANSFER_ENCODING;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use jiff::Timestamp;
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;
use tokio_util::task::TaskTracker;

use super::Buckets;
use super::access::check_key;
use crate::job::Millis;

/// No byte of a body for this long ends the request.
const BODY_STALL: Duration = Duration::from_secs(60);
/// How long an upload waits for the queue of messages to have room.
const EVENT_WAIT: Duration = Duration::from_secs(10);
/// Bytes read from a file at once.
const READ: usize = 256 * 1024;
/// What a file name may have on every file system in use.
const NAME_MAX: usize = 255;

pub(super) struct Store {
    fs: Arc<FileSystem>,
    dir: PathBuf,
    buckets: Buckets,
    events: mpsc::Sender<Vec<u8>>,
    tasks: TaskTracker,
    claims: Claims,
}

impl Store {
    pub fn new(
        fs: FileSystem,
        dir: PathBuf,
        buckets: Buckets,
        events: mpsc::Sender<Vec<u8>>,
        tasks: TaskTracker,
    ) -> Self {
        Self { fs: Arc::new(fs), dir, buckets, events, tasks, claims: Claims::default() }
    }

    /// A place in the queue of messages, taken before the object is written: an object without its
    /// message would be a job that waits for ever.
    async fn place(&self, bucket: &str) -> S3Result<Option<mpsc::OwnedPermit<Vec<u8>>>> {
        if bucket != self.buckets.input {
            return Ok(None);
        }
        match timeout(EVENT_WAIT, self.events.clone().reserve_owned()).await {
            Ok(Ok(place)) => Ok(Some(place)),
            _ => Err(s3_error!(SlowDown, "too many uploads wait to be taken note of; try again")),
        }
    }

    /// Runs to its end even when the client hangs up meanwhile: between the object and its message
    /// nothing may be cut off.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = S3Result<T>> + Send + 'static,
    ) -> S3Result<T> {
        self.tasks
            .spawn(work)
            .await
            .map_err(|error| S3Error::with_source(S3ErrorCode::InternalError, error.into()))?
    }

    fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.dir.join(bucket).join(key)
    }

    /// s3s-fs opens a folder as if it were an object.
    async fn check_object(&self, bucket: &str, key: &str) -> S3Result<()> {
        match tokio::fs::metadata(self.path(bucket, key)).await {
            Ok(found) if found.is_dir() => Err(s3_error!(NoSuchKey)),
            _ => Ok(()),
        }
    }

    fn claim(&self, bucket: &str, key: &str, conditional: bool) -> S3Result<Option<Claim>> {
        if !conditional {
            return Ok(None);
        }
        let claim = self.claims.take(bucket, key);
        claim.map(Some).ok_or_else(|| s3_error!(ConditionalRequestConflict, "it is being written right now"))
    }
}

/// The message R2 sends, field by field as documented.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    account: &'a str,
    action: &'a str,
    bucket: &'a str,
    object: MessageObject<'a>,
    event_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    copy_source: Option<CopiedFrom>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageObject<'a> {
    key: &'a str,
    size: u64,
    e_tag: &'a str,
}

#[derive(Serialize)]
struct CopiedFrom {
    bucket: String,
    object: String,
}

/// A new object of the input bucket, to be told once it stands there.
struct News {
    place: Option<mpsc::OwnedPermit<Vec<u8>>>,
    action: &'static str,
    bucket: String,
    key: String,
    path: PathBuf,
    copy_source: Option<CopiedFrom>,
}

impl News {
    fn tell(self, etag: Option<&ETag>) -> S3Result<()> {
        let Some(place) = self.place else { return Ok(()) };
        let wrong = |error: io::Error| S3Error::with_source(S3ErrorCode::InternalError, error.into());
        let size = std::fs::metadata(&self.path).map_err(wrong)?.len();
        let message = Message {
            account: "local",
            action: self.action,
            bucket: &self.bucket,
            object: MessageObject { key: &self.key, size, e_tag: etag.map_or("", ETag::value) },
            event_time: Millis(Timestamp::now().as_millisecond()).to_string(),
            copy_source: self.copy_source,
        };
        place.send(serde_json::to_vec(&message).map_err(|error| wrong(error.into()))?);
        Ok(())
    }
}

/// Keys that are being written under a condition. A second such write of the same key is told to come
/// again, as S3 does, so that of several exactly one wins.
#[derive(Clone, Default)]
struct Claims(Arc<Mutex<HashSet<(String, String)>>>);

struct Claim {
    claims: Claims,
    key: (String, String),
}

impl Claims {
    fn take(&self, bucket: &str, key: &str) -> Option<Claim> {
        let key = (bucket.to_owned(), key.to_owned());
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(key.clone()).then(|| Claim { claims: self.clone(), key })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The body, as long as it was announced to be and no shorter: a connection that is torn down looks
/// like the body's end.
fn whole(body: Option<StreamingBlob>, length: u64) -> Option<StreamingBlob> {
    let body = body?;
    let stream = futures::stream::try_unfold((body, length), |(mut body, left)| async move {
        match timeout(BODY_STALL, body.next()).await {
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(None) if left == 0 => Ok(None),
            Ok(None) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(Some(Ok(bytes))) => match left.checked_sub(bytes.len() as u64) {
                Some(left) => Ok(Some((bytes, (body, left)))),
                None => Err(io::Error::from(io::ErrorKind::InvalidData)),
            },
        }
    });
    Some(StreamingBlob::wrap(stream))
}

/// Bytes of a body by its head: a request with neither length nor encoding has none (RFC 9112, 6.3).
fn announced(length: Option<i64>, headers: &HeaderMap) -> S3Result<u64> {
    match length {
        None if headers.contains_key(TRANSFER_ENCODING) => Err(s3_error!(MissingContentLength)),
        None => Ok(0),
        Some(n) => u64::try_from(n).map_err(|_| s3_error!(InvalidRequest)),
    }
}

/// The first byte of `bytes 3-5/6`; of the whole without it.
fn first_byte(content_range: Option<&str>) -> u64 {
    let first = content_range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    first.unwrap_or_default()
}

/// Part of a file, in larger pieces than s3s-fs reads: it takes a trip to another thread for every 4 KiB.
async fn read(path: &Path, start: u64, length: u64) -> S3Result<StreamingBlob> {
    let wrong = |error: io::Error| S3Error::with_source(S3ErrorCode::InternalError, error.into());
    let mut file = tokio::fs::File::open(path).await.map_err(wrong)?;
    file.seek(io::SeekFrom::Start(start)).await.map_err(wrong)?;
    Ok(StreamingBlob::wrap(ReaderStream::with_capacity(file.take(length), READ)))
}

/// The files s3s-fs keeps beside an object, by their names.
fn sidecars(bucket: &str, key: &str) -> [String; 2] {
    let stem = format!(".bucket-{}.object-{}", URL_SAFE_NO_PAD.encode(bucket), URL_SAFE_NO_PAD.encode(key));
    [format!("{stem}.metadata.json"), format!("{stem}.internal.json")]
}

/// Whether it is a file of an upload in parts that is not completed.
pub(super) fn is_upload_file(name: &str) -> bool {
    name.starts_with(".upload_id-")
        || (name.starts_with(".upload-") && name.ends_with(".json"))
        || (name.starts_with(".bucket-") && name.contains(".upload-") && name.ends_with(".metadata.json"))
}

/// Refuses a key that does not fit into file names, before anything is written.
fn check_fits(bucket: &str, key: &str, in_parts: bool) -> S3Result<()> {
    check_key(key)?;
    let upload = if in_parts { ".upload-".len() + 36 } else { 0 };
    let sidecar = sidecars(bucket, key).iter().map(String::len).max().unwrap_or_default();
    if sidecar + upload > NAME_MAX || key.split('/').any(|part| part.len() > NAME_MAX) {
        return Err(s3_error!(KeyTooLongError, "this server keeps objects as files; use a shorter key"));
    }
    Ok(())
}

fn remove_sidecars(dir: &Path, bucket: &str, key: &str) {
    for name in sidecars(bucket, key) {
        // There may be none; and one that stays is overwritten with the object's next version.
        let _ = std::fs::remove_file(dir.join(name));
    }
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        check_fits(&bucket, &key, false)?;
        let conditional = req.input.if_none_match.is_some() || req.input.if_match.is_some();
        let claim = self.claim(&bucket, &key, conditional)?;
        let length = announced(req.input.content_length, &req.headers)?;
        req.input.body = whole(req.input.body.take(), length);
        let path = self.path(&bucket, &key);
        let place = self.place(&bucket).await?;
        let news = News { place, action: "PutObject", bucket, key, path: path.clone(), copy_source: None };
        let fs = Arc::clone(&self.fs);
        self.to_the_end(async move {
            let _claim = claim;
            let done = fs.put_object(req).await;
            match &done {
                Ok(done) => news.tell(done.output.e_tag.as_ref())?,
                Err(error) if *error.code() == S3ErrorCode::BadDigest => {
                    // s3s-fs compares the checksum after the object is in place.
                    let _ = tokio::fs::remove_file(&path).await;
                }
                Err(_) => {}
            }
            done
        })
        .await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        check_fits(&bucket, &key, false)?;
        let CopySource::Bucket { bucket: from, key: source, .. } = &req.input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        check_key(source)?;
        if **from != *self.buckets.input && **from != *self.buckets.output {
            return Err(s3_error!(NoSuchBucket));
        }
        self.check_object(from, source).await?;
        let copy_source = Some(CopiedFrom { bucket: from.to_string(), object: source.to_string() });
        let path = self.path(&bucket, &key);
        let place = self.place(&bucket).await?;
        let news = News { place, action: "CopyObject", bucket, key, path, copy_source };
        let fs = Arc::clone(&self.fs);
        self.to_the_end(async move {
            let done = fs.copy_object(req).await?;
            let etag = done.output.copy_object_result.as_ref().and_then(|result| result.e_tag.as_ref());
            news.tell(etag)?;
            Ok(done)
        })
        .await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        check_fits(&req.input.bucket, &req.input.key, true)?;
        self.fs.create_multipart_upload(req).await
    }

    async fn upload_part(
        &self,
        mut req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let length = announced(req.input.content_length, &req.headers)?;
        req.input.body = whole(req.input.body.take(), length);
        self.fs.upload_part(req).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        check_fits(&bucket, &key, true)?;
        let conditional = req.input.if_none_match.is_some() || req.input.if_match.is_some();
        let claim = self.claim(&bucket, &key, conditional)?;
        let path = self.path(&bucket, &key);
        let place = self.place(&bucket).await?;
        let action = "CompleteMultipartUpload";
        let news = News { place, action, bucket, key, path, copy_source: None };
        let fs = Arc::clone(&self.fs);
        self.to_the_end(async move {
            let _claim = claim;
            let mut done = fs.complete_multipart_upload(req).await?;
            // s3s-fs answers later what it has done already.
            if let Some(later) = done.output.future.take() {
                done.output = later.await?;
            }
            news.tell(done.output.e_tag.as_ref())?;
            Ok(done)
        })
        .await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.fs.abort_multipart_upload(req).await
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.fs.list_parts(req).await
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.check_object(&req.input.bucket, &req.input.key).await?;
        let if_match = req.input.if_match.clone();
        let (disposition, kind) =
            (req.input.response_content_disposition.clone(), req.input.response_content_type.clone());
        // What an answer is called is for the signer to say, not for whoever follows a public link.
        let signed = req.credentials.is_some();
        let path = self.path(&req.input.bucket, &req.input.key);
        let mut found = self.fs.get_object(req).await?;
        let length = found.output.content_length.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
        if length > READ as u64 {
            let start = first_byte(found.output.content_range.as_deref());
            found.output.body = Some(read(&path, start, length).await?);
        }
        if let Some(ETagCondition::ETag(wanted)) = if_match
            && found.output.e_tag.as_ref().is_none_or(|etag| !etag.strong_cmp(&wanted))
        {
            return Err(s3_error!(PreconditionFailed));
        }
        if signed {
            found.output.content_disposition = disposition.or(found.output.content_disposition);
            found.output.content_type = kind.or(found.output.content_type);
        }
        Ok(found)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check_object(&req.input.bucket, &req.input.key).await?;
        self.fs.head_object(req).await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
        if self.check_object(&bucket, &key).await.is_err() {
            // Nothing to delete, which is a success.
            return Ok(S3Response::new(DeleteObjectOutput::default()));
        }
        let done = self.fs.delete_object(req).await?;
        remove_sidecars(&self.dir, &bucket, &key);
        Ok(done)
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let bucket = req.input.bucket.clone();
        let mut keys = Vec::new();
        for object in &req.input.delete.objects {
            keys.push(check_key(&object.key)?);
        }
        let done = self.fs.delete_objects(req).await?;
        for key in keys {
            remove_sidecars(&self.dir, &bucket, key.as_str());
        }
        Ok(done)
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        self.fs.list_objects(req).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.fs.list_objects_v2(req).await
    }

    async fn list_buckets(
        &self,
        req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.fs.list_buckets(req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.fs.head_bucket(req).await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.fs.get_bucket_location(req).await
    }

    async fn post_object(&self, _: S3Request<PostObjectInput>) -> S3Result<S3Response<PostObjectOutput>> {
        Err(s3_error!(NotImplemented, "R2 takes no forms; use a presigned PUT"))
    }
}
