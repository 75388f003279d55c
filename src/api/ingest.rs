//! What an object-created event does: the very code for R2's events and for the local server's.

use crate::job::{JobId, ObjectKey};
use crate::queue::{Queue, QueueError, UploadedOutcome};
use crate::storage::event::{EventError, ObjectEvent};
use crate::storage::layout;

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
}

/// Takes in one event, as R2 documents it. Taking it in twice does nothing more.
///
/// # Errors
/// When the bytes are no event, or Redis fails (then send it again).
pub async fn ingest_object_event(
    queue: &Queue,
    input_bucket: &str,
    message: &[u8],
) -> Result<Ingested, IngestError> {
    let event = ObjectEvent::parse(message)?;
    let Some(created) = event.created_object() else { return Ok(Ingested::Ignored) };
    let key: Option<ObjectKey> = created.key.parse().ok();
    let job = key.as_ref().and_then(layout::job_of_input_key);
    let Some(job) = job.filter(|_| created.bucket == input_bucket) else {
        return Ok(Ingested::Ignored);
    };
    Ok(match queue.uploaded(job).await? {
        UploadedOutcome::Queued => {
            tracing::info!(%job, size = created.size, "the input arrived");
            Ingested::Queued(job)
        }
        UploadedOutcome::Already(_) => Ingested::Ignored,
        UploadedOutcome::Unknown => {
            tracing::warn!(%job, "an input arrived for a job that is not on record");
            Ingested::Ignored
        }
    })
}
