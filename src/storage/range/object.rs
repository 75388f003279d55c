//! Objects that are read by ranges.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::source::{HEAD_BYTES, RangeBody, RangeSource, RangeSupport, collect_head, header, patiently};
use crate::job::ObjectKey;
use crate::storage::Bucket;
use crate::storage::client::Storage;
use crate::storage::error::{StorageError, classify, root};
use crate::storage::fetch::content_range;

impl Storage {
    /// Opens an object for reading by ranges and reads its first bytes. All reads are of the version that the object
    /// has now.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::Denied`], [`StorageError::Unavailable`] and others, as they are
    /// defined.
    pub async fn open_ranges(&self, bucket: Bucket, key: &ObjectKey) -> Result<RangeSupport, StorageError> {
        patiently(async || self.try_open_ranges(bucket, key).await).await
    }

    async fn try_open_ranges(&self, bucket: Bucket, key: &ObjectKey) -> Result<RangeSupport, StorageError> {
        // The client for small requests, because a range is one, and is better requested again than waited for.
        let request = self.small().get_object().bucket(self.name(bucket)).key(key.as_str());
        let answer = match request.range(header(&(0..HEAD_BYTES))).send().await {
            Ok(answer) => answer,
            Err(SdkError::ServiceError(e)) if e.raw().status().as_u16() == 416 => {
                return Ok(RangeSupport::Unsupported("the object is empty"));
            }
            Err(error) => return Err(classify(key.as_str(), &error)),
        };
        let span = answer.content_range().and_then(content_range).filter(|span| span.starts_at == 0);
        let Some(size) = span.and_then(|span| span.total) else {
            return Ok(RangeSupport::Unsupported("object storage does not honour ranges"));
        };
        let Some(etag) = answer.e_tag.filter(|etag| !etag.starts_with("W/")) else {
            return Ok(RangeSupport::Unsupported("object storage names no strong entity tag"));
        };
        let broken = |why| StorageError::Unavailable { what: key.to_string(), why };
        let head = collect_head(body(answer.body), size).await.map_err(broken)?;
        let storage = self.clone();
        Ok(RangeSupport::Supported(Arc::new(Object { storage, bucket, key: key.clone(), size, etag, head })))
    }
}

/// One version of an object.
struct Object {
    storage: Storage,
    bucket: Bucket,
    key: ObjectKey,
    size: u64,
    etag: String,
    head: Bytes,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Object");
        shown.field("key", &self.key).field("size", &self.size).field("etag", &self.etag);
        shown.finish_non_exhaustive()
    }
}

#[async_trait]
impl RangeSource for Object {
    fn size(&self) -> u64 {
        self.size
    }

    fn etag(&self) -> &str {
        &self.etag
    }

    fn head(&self) -> Bytes {
        self.head.clone()
    }

    async fn read(&self, range: Range<u64>) -> Result<RangeBody, StorageError> {
        let replaced = || StorageError::Replaced { what: self.key.to_string() };
        let name = self.storage.name(self.bucket);
        let request = self.storage.small().get_object().bucket(name).key(self.key.as_str());
        let answer = match request.range(header(&range)).if_match(&self.etag).send().await {
            Ok(answer) => answer,
            // The object was replaced, or is shorter now.
            Err(SdkError::ServiceError(e)) if matches!(e.raw().status().as_u16(), 412 | 416) => {
                return Err(replaced());
            }
            Err(error) => return Err(classify(self.key.as_str(), &error)),
        };
        let span = answer.content_range().and_then(content_range);
        // Not every server honours the condition of the request.
        if answer.e_tag() != Some(self.etag.as_str()) {
            return Err(replaced());
        }
        if span.is_none_or(|span| span.starts_at != range.start || span.total != Some(self.size)) {
            return Err(self.broken("the response is another range than requested".to_owned()));
        }
        Ok(body(answer.body))
    }

    fn broken(&self, why: String) -> StorageError {
        StorageError::Unavailable { what: self.key.to_string(), why }
    }
}

fn body(bytes: ByteStream) -> RangeBody {
    let chunks = stream::unfold(bytes, |mut bytes| async {
        let chunk = bytes.next().await?;
        Some((chunk.map_err(|error| root(&error)), bytes))
    });
    chunks.boxed()
}
