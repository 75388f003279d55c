//! What an object-created event does: the very code for R2's events and for the local server's.

use crate::job::{Input, JobId, JobSpec, Ladder, ObjectKey, Preset};
use crate::queue::{Queue, QueueError, SubmitMode, UploadedOutcome};
use crate::storage::event::{EventError, ObjectEvent};
use crate::storage::{Bucket, ObjectInfo, Storage, StorageError, layout};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingested {
    /// The job waits for a worker now.
    Queued(JobId),
    /// Nothing to do: not an input of ours, no creation, a second event, or a job that has ended.
    Ignored,
}

/// The event could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// It never will: it belongs to the dead letters.
    #[error(transparent)]
    Undecodable(#[from] EventError),
    /// It may, later.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// It may, later.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// An input has appeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedObject {
    /// Whose.
    pub job: JobId,
    /// Its key.
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
    /// Its entity tag.
    pub etag: Option<String>,
}

impl UploadedObject {
    /// What this event, as R2 documents it, tells of; nothing where it is no creation, or not of an input
    /// of ours.
    ///
    /// # Errors
    /// When the bytes are no event.
    pub fn read(input_bucket: &str, message: &[u8]) -> Result<Option<Self>, EventError> {
        let event = ObjectEvent::parse(message)?;
        let Some(created) = event.created_object().filter(|c| c.bucket == input_bucket) else {
            return Ok(None);
        };
        let Ok(key) = created.key.parse::<ObjectKey>() else { return Ok(None) };
        let etag = created.etag.map(str::to_owned);
        Ok(layout::job_of_input_key(&key).map(|job| Self { job, key, size: created.size, etag }))
    }

    /// What became of it, where the queue said `outcome`. A job that is not on record is made from the
    /// key, if the buckets say that the input is there and that nobody encoded it before. Once more does
    /// nothing more.
    ///
    /// # Errors
    /// When a bucket or Redis fails.
    pub async fn apply(
        &self,
        queue: &Queue,
        storage: &Storage,
        outcome: UploadedOutcome,
    ) -> Result<Ingested, IngestError> {
        match outcome {
            UploadedOutcome::Queued => {
                tracing::info!(job = %self.job, size = self.size, "input uploaded");
                Ok(Ingested::Queued(self.job))
            }
            UploadedOutcome::Already(_) => Ok(Ingested::Ignored),
            UploadedOutcome::Unknown => self.adopt(queue, storage).await,
        }
    }

    async fn adopt(&self, queue: &Queue, storage: &Storage) -> Result<Ingested, IngestError> {
        let found = storage.head(Bucket::Input, &self.key).await?;
        // An event that tells of an older object under the same key is an old one.
        let is_the_same =
            |found: &ObjectInfo| self.etag.is_none() || found.etag.is_none() || found.etag == self.etag;
        if !found.as_ref().is_some_and(is_the_same) {
            tracing::warn!(job = %self.job, "ignored an event for a missing input of an unknown job");
            return Ok(Ingested::Ignored);
        }
        if let Ok(manifest) = layout::manifest_key(self.job)
            && storage.head(Bucket::Output, &manifest).await?.is_some()
        {
            tracing::info!(job = %self.job, "ignored an event for an input that is already encoded");
            return Ok(Ingested::Ignored);
        }
        let spec = JobSpec::new(Input::Key(self.key.clone()), Preset::default(), Ladder::default());
        queue.submit(self.job, &spec, SubmitMode::Now).await?;
        tracing::info!(job = %self.job, key = %self.key, "created a job with the default preset for an input without one");
        Ok(Ingested::Queued(self.job))
    }
}

/// Takes in one event, as R2 documents it. Taking it in twice does nothing more.
///
/// # Errors
/// When the bytes are no event, or a bucket or Redis fails (then send it again).
pub async fn ingest_object_event(
    queue: &Queue,
    storage: &Storage,
    input_bucket: &str,
    message: &[u8],
) -> Result<Ingested, IngestError> {
    let Some(arrival) = UploadedObject::read(input_bucket, message)? else { return Ok(Ingested::Ignored) };
    let outcome = queue.uploaded(arrival.job).await?;
    arrival.apply(queue, storage, outcome).await
}
