//! The buckets through their bindings, with the operations that the Worker needs.

use std::sync::Arc;
use std::time::Duration;

use worker::send::SendWrapper;

use super::error::{CheckError, StorageError};
use super::{Bucket, ObjectInfo};
use crate::job::ObjectKey;
use crate::time::timeout;

/// Time limit for one operation.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
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

    /// Returns the bytes of a small object, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] if it has more than `limit` bytes, and every other failure.
    pub async fn get_small(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StorageError> {
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
            match object.body() {
                Some(body) => body.bytes().await.map(Some).map_err(failed),
                None => Ok(None),
            }
        };
        timeout(CALL_TIMEOUT, read).await.unwrap_or_else(|| Err(unavailable("it took too long".into())))
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
