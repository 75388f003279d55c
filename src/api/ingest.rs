//! Processes object-created events, both R2's and those of the local S3 server.

use std::time::Duration;

use crate::job::{Input, JobId, JobLimits, JobSpec, Ladder, ObjectKey, Origin, Preset};
use crate::queue::{Queue, QueueError, SubmitMode, UploadedInput, UploadedOutcome};
use crate::storage::event::{EventError, ObjectEvent};
use crate::storage::{Bucket, ObjectInfo, Storage, StorageError, layout};

/// The outcome of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingested {
    /// The job is now queued.
    Queued(JobId),
    /// The job has failed because of the size of its input.
    Refused(JobId),
    /// There is nothing to do: the object is not an input of a job, the event is not a creation or a duplicate, or
    /// the job has ended.
    Ignored,
}

/// An event could not be processed.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A retry will not help: the event belongs into the dead-letter queue.
    #[error(transparent)]
    Undecodable(#[from] EventError),
    /// The queue failed; a retry may help.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Storage failed; a retry may help.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How long a job that is created for an input waits for the report of that input, which follows at once. If the process
/// ends in between, the janitor finds the input.
const REPORT_WINDOW: Duration = Duration::from_secs(60);

/// An object that appeared in the input bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedObject(pub UploadedInput);

impl UploadedObject {
    /// Parses an event in the format that R2 documents. Returns `None` if it is not a creation, or not of an input of
    /// a job.
    ///
    /// # Errors
    /// If the bytes are not an event.
    pub fn read(input_bucket: &str, message: &[u8]) -> Result<Option<Self>, EventError> {
        let event = ObjectEvent::parse(message)?;
        let Some(created) = event.created_object().filter(|c| c.bucket == input_bucket) else {
            return Ok(None);
        };
        let Ok(key) = created.key.parse::<ObjectKey>() else { return Ok(None) };
        let etag = created.etag.map(|etag| etag.trim_matches('"').to_owned());
        let job = layout::job_of_input_key(&key);
        Ok(job.map(|job| Self(UploadedInput { job, key, size: created.size, etag })))
    }

    /// Completes an event after the queue answered `outcome`. If the queue does not know the job, it is created from
    /// the key within these limits, provided that the input exists and that no attempt has encoded it before. Idempotent.
    ///
    /// # Errors
    /// If a bucket or Redis fails.
    pub async fn apply(
        &self,
        queue: &Queue,
        storage: &Storage,
        limits: JobLimits,
        outcome: UploadedOutcome,
    ) -> Result<Ingested, IngestError> {
        let UploadedInput { job, size, .. } = self.0;
        match outcome {
            UploadedOutcome::Queued => {
                tracing::info!(%job, size, "input uploaded");
                Ok(Ingested::Queued(job))
            }
            UploadedOutcome::Refused => {
                tracing::warn!(%job, size, "refused an input because of its size");
                Ok(Ingested::Refused(job))
            }
            UploadedOutcome::Already(_) | UploadedOutcome::OtherInput => Ok(Ingested::Ignored),
            UploadedOutcome::Unknown => self.adopt(queue, storage, limits).await,
        }
    }

    async fn adopt(
        &self,
        queue: &Queue,
        storage: &Storage,
        limits: JobLimits,
    ) -> Result<Ingested, IngestError> {
        let UploadedInput { job, key, etag, .. } = &self.0;
        if !layout::is_shared_upload(key) {
            tracing::warn!(%job, %key, "ignored an event for an input of an unknown job of a tenant");
            return Ok(Ingested::Ignored);
        }
        let found = storage.head(Bucket::Input, key).await?;
        // If the event describes an older object under the same key, it is outdated.
        let is_the_same = |found: &ObjectInfo| etag.is_none() || found.etag.is_none() || found.etag == *etag;
        if !found.as_ref().is_some_and(is_the_same) {
            tracing::warn!(%job, "ignored an event for a missing input of an unknown job");
            return Ok(Ingested::Ignored);
        }
        if let Ok(manifest) = layout::manifest_key(*job)
            && storage.head(Bucket::Output, &manifest).await?.is_some()
        {
            tracing::info!(%job, "ignored an event for an input that is already encoded");
            return Ok(Ingested::Ignored);
        }
        let spec = JobSpec {
            max_attempts: limits.default_attempts(),
            deadline_seconds: limits.default_deadline(),
            origin: Origin::Storage,
            ..JobSpec::new(Input::Key(key.clone()), Preset::default(), Ladder::default())
        };
        queue.submit(*job, &spec, SubmitMode::OnUpload(REPORT_WINDOW)).await?;
        tracing::info!(%job, %key, "created a job with the default preset for an input without one");
        // Reported like every other upload, so that its size is checked and its version is kept.
        Ok(match queue.uploaded(&self.0).await? {
            UploadedOutcome::Queued => Ingested::Queued(*job),
            UploadedOutcome::Refused => Ingested::Refused(*job),
            UploadedOutcome::Already(_) | UploadedOutcome::OtherInput | UploadedOutcome::Unknown => {
                Ingested::Ignored
            }
        })
    }
}

/// Processes one event in the format that R2 documents. Idempotent.
///
/// # Errors
/// If the bytes are not an event, or if a bucket or Redis fails, in which case the event should be redelivered.
pub async fn ingest_object_event(
    queue: &Queue,
    storage: &Storage,
    input_bucket: &str,
    limits: JobLimits,
    message: &[u8],
) -> Result<Ingested, IngestError> {
    let Some(arrival) = UploadedObject::read(input_bucket, message)? else { return Ok(Ingested::Ignored) };
    let outcome = queue.uploaded(&arrival.0).await?;
    arrival.apply(queue, storage, limits, outcome).await
}
