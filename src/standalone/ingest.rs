//! Processes the S3 server's object-created events, as the Worker's queue handler does in production.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{IngestError, ingest_object_event};
use crate::job::JobLimits;
use crate::queue::{Queue, backoff};
use crate::storage::Storage;

/// Processes events until `stop` is cancelled. A failed event is retried; if the process stops before it succeeds,
/// the janitor finds the upload at the next start.
pub(crate) async fn run(
    queue: Queue,
    storage: Storage,
    bucket: String,
    limits: JobLimits,
    mut events: mpsc::Receiver<Vec<u8>>,
    stop: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return,
            message = events.recv() => match message {
                Some(message) => message,
                None => return,
            },
        };
        let mut tries = 0;
        loop {
            match ingest_object_event(&queue, &storage, &bucket, limits, &message).await {
                Ok(_) => break,
                Err(IngestError::Undecodable(error)) => {
                    tracing::error!(%error, "dropped an event");
                    break;
                }
                Err(error) => {
                    tries += 1;
                    tracing::warn!(%error, tries, "could not process an event; retrying");
                    let pause =
                        backoff::full_jitter(tries, Duration::from_millis(200), Duration::from_secs(5));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }
}
