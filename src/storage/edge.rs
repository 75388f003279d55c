//! The buckets through their bindings, with the operations that the Worker needs.

use std::sync::Arc;
use std::time::Duration;

use worker::send::SendWrapper;
use worker::{Conditional, HttpMetadata};

use super::error::{CheckError, StorageError};
use super::{Bucket, ContentHeaders, ObjectInfo, PutCondition, PutOutcome, SmallObject};
use crate::job::ObjectKey;
use crate::time::timeout;

/// Time limit for one operation.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum number of objects that one operation lists and deletes; also R2's.
const BATCH: usize = 1000;
/// Nobody writes this object. That it does not exist shows that the bucket answers.
const NOTHING: &str = ".tcoder-is-here";

/// The two buckets of an installation. Cheap to clone.
#[derive(Clone)]
pub struct Storage(Arc<[Bound; 2]>);

struct Bound {
    binding: &'static str,
    // An isolate has only one thread.
    bucket: SendWrapper<worker::Bucket>,
}

impl Storage {
    /// Wraps these bindings, each with its name.
    #[must_use]
    pub fn new(input: (&'static str, worker::Bucket), output: (&'static str, worker::Bucket)) -> Self {
        let bound = |(binding, bucket)| Bound { binding, bucket: SendWrapper::new(bucket) };
        Self(Arc::new([bound(input), bound(output)]))
    }

    fn bound(&self, bucket: Bucket) -> &Bound {
        let [input, output] = &*self.0;
        match bucket {
            Bucket::Input => input,
            Bucket::Output => output,
        }
    }

    /// Checks that both buckets can be reached and read.
    ///
    /// # Errors
    /// Names the binding to check.
    pub async fn check(&self) -> Result<(), CheckError> {
        for bound in &*self.0 {
            if let Err(why) = bound.look(NOTHING).await {
                return Err(CheckError {
                    variable: bound.binding,
                    why: format!("the bucket does not answer: {why}"),
                });
            }
        }
        Ok(())
    }

    /// Returns the size and the entity tag of an object, or `None` if it does not exist.
    ///
    /// # Errors
    /// Every other failure.
    pub async fn head(&self, bucket: Bucket, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let looked = self.bound(bucket).look(key.as_str()).await;
        looked.map_err(|why| StorageError::Unavailable { what: key.to_string(), why })
    }

    /// Returns a small object, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] if it has more than `limit` bytes, and every other failure.
    pub async fn get_small(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        limit: u64,
    ) -> Result<Option<SmallObject>, StorageError> {
        let unavailable = |why: String| StorageError::Unavailable { what: key.to_string(), why };
        let bucket = &self.bound(bucket).bucket;
        let read = async {
            let failed = |error: worker::Error| unavailable(error.to_string());
            let Some(object) = bucket.get(key.as_str()).execute().await.map_err(failed)? else {
                return Ok(None);
            };
            if object.size() > limit {
                return Err(StorageError::TooLarge { limit });
            }
            let Some(body) = object.body() else { return Ok(None) };
            let bytes = body.bytes().await.map_err(failed)?;
            let cache_control = object.http_metadata().cache_control;
            Ok(Some(SmallObject { bytes, etag: Some(object.etag()), cache_control }))
        };
        timeout(CALL_TIMEOUT, read).await.unwrap_or_else(|| Err(unavailable("it took too long".into())))
    }

    /// Writes an object if the condition holds.
    ///
    /// # Errors
    /// If it is unknown whether the object was written.
    pub async fn put_if(
        &self,
        condition: PutCondition<'_>,
        bucket: Bucket,
        key: &ObjectKey,
        bytes: Vec<u8>,
        headers: impl Into<ContentHeaders<'_>>,
    ) -> Result<PutOutcome, StorageError> {
        let only_if = match condition {
            PutCondition::Absent => {
                Conditional { etag_does_not_match: Some("*".to_owned()), ..Conditional::default() }
            }
            PutCondition::Unchanged(etag) => {
                Conditional { etag_matches: Some(etag.to_owned()), ..Conditional::default() }
            }
        };
        let headers = headers.into();
        let metadata = HttpMetadata {
            content_type: Some(headers.content_type.to_owned()),
            cache_control: headers.cache_control.map(str::to_owned),
            ..HttpMetadata::default()
        };
        let put = self.bound(bucket).bucket.put(key.as_str(), bytes).only_if(only_if);
        match within(key.as_str(), put.http_metadata(metadata).execute()).await? {
            Some(_) => Ok(PutOutcome::Written),
            None => Ok(PutOutcome::ConditionFailed),
        }
    }

    /// Deletes an object. It is not an error if it does not exist.
    ///
    /// # Errors
    /// If the bucket does not answer.
    pub async fn delete(&self, bucket: Bucket, key: &ObjectKey) -> Result<(), StorageError> {
        within(key.as_str(), self.bound(bucket).bucket.delete(key.as_str())).await
    }

    /// Deletes the objects in the folder `prefix`, at most `limit`. Returns whether none is left. The parts of uploads
    /// that were never completed are removed by R2 after a week.
    ///
    /// # Errors
    /// If the bucket does not answer; some objects may be deleted by then.
    pub async fn delete_prefix(
        &self,
        bucket: Bucket,
        prefix: &ObjectKey,
        limit: usize,
    ) -> Result<bool, StorageError> {
        let bucket = &self.bound(bucket).bucket;
        let mut left = limit;
        while left > 0 {
            let some = u32::try_from(left.min(BATCH)).unwrap_or(u32::MAX);
            let page = bucket.list().prefix(format!("{prefix}/")).limit(some).execute();
            let page = within(prefix.as_str(), page).await?;
            let keys: Vec<String> = page.objects().iter().map(worker::Object::key).collect();
            if keys.is_empty() {
                return Ok(true);
            }
            left -= keys.len();
            within(prefix.as_str(), bucket.delete_multiple(keys)).await?;
            if !page.truncated() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The answer of an operation, within its time limit.
async fn within<T>(
    what: &str,
    operation: impl Future<Output = worker::Result<T>>,
) -> Result<T, StorageError> {
    let unavailable = |why: String| StorageError::Unavailable { what: what.to_owned(), why };
    match timeout(CALL_TIMEOUT, operation).await {
        Some(answer) => answer.map_err(|error| unavailable(error.to_string())),
        None => Err(unavailable("it took too long".into())),
    }
}

impl Bound {
    async fn look(&self, key: &str) -> Result<Option<ObjectInfo>, String> {
        let head = async {
            let found = self.bucket.head(key).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(found.map(|object| ObjectInfo { size: object.size(), etag: Some(object.etag()) }))
        };
        timeout(CALL_TIMEOUT, head).await.unwrap_or_else(|| Err("it took too long".into()))
    }
}
