//! What has to happen without anybody asking: leases that ran out, retries that are due, uploads that
//! never came, webhooks that are owed, records that are old.
//!
//! It sleeps until the next of these is due and learns of new ones from the event feed, so an idle
//! installation costs a handful of Redis commands every five minutes.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::App;
use crate::job::{Failure, FailureCode, Input, JobEvent, JobId, Millis, State};
use crate::queue::{QueueError, backoff};
use crate::storage::Bucket;
use crate::webhook::{self, Sender};

/// Longest sleep.
const QUIET: Duration = Duration::from_secs(300);
/// Jobs seen to in one go.
const BATCH: u32 = 100;
/// Buckets asked for uploads at once.
const HEADS: usize = 8;

/// Keeps an installation tidy for as long as it runs. Several may run side by side.
pub struct Housekeeper {
    app: Arc<App>,
    sender: Option<Sender>,
}

impl Housekeeper {
    /// A housekeeper of `app`; without a sender webhooks stay in the outbox.
    #[must_use]
    pub fn new(app: Arc<App>, sender: Option<Sender>) -> Self {
        Self { app, sender }
    }

    /// Works until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(self.tidy(), self.tell()) } => {}
        }
    }

    /// Leases, retries, uploads, records.
    async fn tidy(&self) {
        let mut events = self.app.hub.listen();
        let lease = self.app.queue.policy().lease;
        // An upload may have arrived while nobody listened: look once at all that are awaited.
        let mut look_at_all = true;
        let mut failures = 0;
        loop {
            let pause = match self.tidy_once(look_at_all).await {
                Ok(pause) => {
                    (failures, look_at_all) = (0, false);
                    pause.min(QUIET)
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "housekeeping failed; trying again");
                    backoff::full_jitter(failures, Duration::from_secs(1), Duration::from_secs(30))
                }
            };
            let mut until = Instant::now() + pause;
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    event = events.recv() => match event {
                        // A lease that begins now ends no sooner than this.
                        Ok(JobEvent { status: State::Running, progress: None, .. }) => {
                            until = until.min(Instant::now() + lease);
                        }
                        Ok(JobEvent { status: State::Queued, .. }) => {
                            until = until.min(Instant::now() + Duration::from_secs(5));
                        }
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    /// One round; says for how long nothing more is due.
    async fn tidy_once(&self, look_at_all: bool) -> Result<Duration, QueueError> {
        let queue = &self.app.queue;
        let mut sweep = queue.sweep(BATCH).await?;
        while sweep.next_due.is_some_and(|due| due <= sweep.now) {
            sweep = queue.sweep(BATCH).await?;
        }
        let awaited = queue.uploading(if look_at_all { 10_000 } else { BATCH }).await?;
        let next_upload = awaited.iter().map(|(_, due)| *due).find(|due| *due > sweep.now);
        let overdue = awaited.into_iter().filter(|(_, due)| look_at_all || *due <= sweep.now);
        futures::stream::iter(overdue)
            .map(|(id, due)| self.look_for_upload(id, due <= sweep.now))
            .buffer_unordered(HEADS)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<Vec<()>, _>>()?;
        for worker in queue.forget_dead_workers(sweep.now).await? {
            tracing::warn!(%worker, "a worker gave no sign for minutes; forgotten");
        }
        queue.trim(sweep.now).await?;
        let next = [sweep.next_due, next_upload].into_iter().flatten().min();
        Ok(next.map_or(QUIET, |due| until(due, sweep.now)))
    }

    /// A job waits for its input. If that is there, its event was lost; if not and time is up, it fails.
    async fn look_for_upload(&self, id: JobId, overdue: bool) -> Result<(), QueueError> {
        let queue = &self.app.queue;
        let Some(job) = queue.get(id).await? else {
            let gone = Failure::new(FailureCode::UploadExpired, "the job is gone");
            return queue.expire_upload(id, &gone).await.map(drop);
        };
        let Input::Key(key) = &job.spec.input else { return Ok(()) };
        match self.app.storage.head(Bucket::Input, key).await {
            Ok(Some(_)) => {
                tracing::info!(job = %id, "the input is there though its event never came");
                queue.uploaded(id).await.map(drop)
            }
            Ok(None) if overdue => {
                let message = "the video was not uploaded within the day; ask for a new upload address";
                queue.expire_upload(id, &Failure::new(FailureCode::UploadExpired, message)).await.map(drop)
            }
            Ok(None) => Ok(()),
            // It is looked for again in the next round; a job is not failed because storage is away.
            Err(error) => {
                tracing::warn!(job = %id, %error, "could not look for an upload");
                Ok(())
            }
        }
    }

    /// Webhooks.
    async fn tell(&self) {
        let Some(sender) = &self.sender else { return std::future::pending().await };
        let mut events = self.app.hub.listen();
        let mut failures = 0;
        loop {
            let pause = match self.tell_once(sender).await {
                Ok(pause) => {
                    failures = 0;
                    pause.min(QUIET)
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "webhooks could not be sent; trying again");
                    backoff::full_jitter(failures, Duration::from_secs(1), Duration::from_secs(30))
                }
            };
            let wake = tokio::time::sleep(pause);
            tokio::pin!(wake);
            loop {
                tokio::select! {
                    () = &mut wake => break,
                    event = events.recv() => match event {
                        Ok(event) if !event.status.is_terminal() => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    async fn tell_once(&self, sender: &Sender) -> Result<Duration, QueueError> {
        let now = self.app.queue.clock().await?.now();
        let next = webhook::deliver_due(&self.app.queue, sender, &self.app.links, now).await?;
        Ok(next.map_or(QUIET, |due| until(due, now)))
    }
}

fn until(due: Millis, now: Millis) -> Duration {
    Duration::from_millis(u64::try_from(due.0 - now.0).unwrap_or(0))
}
