//! Deletes folders: their objects, in batches, and the parts of uploads that were never completed.

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures::future::try_join_all;

use super::error::{StorageError, classify};
use super::{Bucket, Storage};
use crate::job::ObjectKey;

/// Maximum number of objects that one request deletes; also S3's.
const BATCH: usize = 1000;
/// Maximum number of concurrent deletions of single objects.
const DELETIONS: usize = 8;

impl Storage {
    /// Deletes the objects in the folder `prefix`, at most `limit`, and the parts of uploads into it. Returns whether
    /// none is left.
    ///
    /// # Errors
    /// If storage does not answer or refuses; some objects may be deleted by then.
    pub async fn delete_prefix(
        &self,
        bucket: Bucket,
        prefix: &ObjectKey,
        limit: usize,
    ) -> Result<bool, StorageError> {
        let mut left = limit;
        while left > 0 {
            let page = self.list(bucket, prefix, left.min(BATCH)).await?;
            let keys: Vec<ObjectKey> = page.objects.into_iter().map(|(key, _)| key).collect();
            self.delete_all(bucket, &keys).await?;
            left -= keys.len();
            if page.complete || keys.is_empty() {
                self.abort_uploads(bucket, prefix).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes these objects with one request, or one by one where the server does not take that request: its checksum
    /// is not known everywhere.
    async fn delete_all(&self, bucket: Bucket, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let [first, _, ..] = keys else {
            return self.delete_each(bucket, keys).await;
        };
        let object = |key: &ObjectKey| ObjectIdentifier::builder().key(key.as_str()).build();
        let unusable = |error: aws_sdk_s3::error::BuildError| StorageError::Refused {
            what: first.to_string(),
            why: error.to_string(),
        };
        let objects = keys.iter().map(object).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(unusable)?;
        let sent = self.small().delete_objects().bucket(self.name(bucket)).delete(delete).send().await;
        match sent {
            Ok(answer) if answer.errors().is_empty() => Ok(()),
            Ok(_) => self.delete_each(bucket, keys).await,
            Err(error) => match classify(first.as_str(), &error) {
                passing if passing.is_retryable() => Err(passing),
                _ => self.delete_each(bucket, keys).await,
            },
        }
    }

    async fn delete_each(&self, bucket: Bucket, keys: &[ObjectKey]) -> Result<(), StorageError> {
        for some in keys.chunks(DELETIONS) {
            try_join_all(some.iter().map(|key| self.delete(bucket, key))).await?;
        }
        Ok(())
    }

    /// Aborts uploads in parts into the folder that nobody will complete any more.
    async fn abort_uploads(&self, bucket: Bucket, prefix: &ObjectKey) -> Result<(), StorageError> {
        let request = self.small().list_multipart_uploads().bucket(self.name(bucket));
        let open = match request.prefix(format!("{prefix}/")).send().await {
            Ok(open) => open,
            Err(error) => {
                return match classify(prefix.as_str(), &error) {
                    passing if passing.is_retryable() => Err(passing),
                    // Not every server lists them; those that matter remove them after some days.
                    refused => {
                        tracing::debug!(%prefix, error = %refused, "unfinished uploads cannot be listed");
                        Ok(())
                    }
                };
            }
        };
        for upload in open.uploads() {
            let abort = self
                .small()
                .abort_multipart_upload()
                .bucket(self.name(bucket))
                .set_key(upload.key().map(str::to_owned))
                .set_upload_id(upload.upload_id().map(str::to_owned));
            if let Err(error) = abort.send().await {
                tracing::warn!(%prefix, error = %classify(prefix.as_str(), &error), "could not abort an unfinished upload");
            }
        }
        Ok(())
    }
}
