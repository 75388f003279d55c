//! Maintenance that no request triggers: expired leases, due retries, lost uploads, pending webhook deliveries, old
//! records.
//!
//! | module | contents |
//! |---|---|
//! | this one | [`JanitorTasks`]: the tasks, each within a budget of round trips |
//! | `agenda` | decides which uploads to check, and when the next check is due (pure) |
//! | `cleanup` | deletes outputs of lost attempts, and what is kept no longer |
//! | `budget` | [`SubrequestBudget`] |
//! | `service` | [`Janitor`]: runs the tasks when they are due, for the lifetime of a process |
//! | `one_shot` | runs as many of them as the budget of one invocation allows, on Cloudflare Workers |

mod agenda;
mod budget;
mod cleanup;
mod one_shot;
#[cfg(not(target_arch = "wasm32"))]
mod service;

pub use budget::SubrequestBudget;
pub use one_shot::SweepReport;
#[cfg(not(target_arch = "wasm32"))]
pub use service::Janitor;

use futures::StreamExt as _;

use agenda::Agenda;

use crate::job::{Failure, FailureCode, Input, JobId, Millis};
use crate::queue::{Queue, QueueError, Sweep, UploadedInput};
use crate::storage::urls::UrlSigner;
use crate::storage::{Bucket, ObjectInfo, Storage};
use crate::webhook::WebhookSender;

/// Maximum number of jobs handled by one call.
const BATCH: u32 = 100;
/// Round trips for one upload: read its job, record the outcome. The Worker reaches the bucket through a binding, which
/// does not count.
const UPLOAD_TRIPS: u32 = 2;
/// Round trips for dead workers and old records.
const PRUNE_TRIPS: u32 = 4;
/// Maximum number of concurrent HEAD requests.
const CONCURRENT_HEADS: usize = 8;

/// What the maintenance tasks need.
pub struct JanitorTasks {
    /// The queue.
    pub queue: Queue,
    /// The buckets.
    pub storage: Storage,
    /// Signs URLs of objects, for webhook bodies.
    pub links: UrlSigner,
    /// Sends webhooks. Without it, deliveries stay in the outbox.
    pub webhooks: Option<WebhookSender>,
}

impl JanitorTasks {
    /// Reaps expired leases and promotes delayed jobs and retries, until none is due or a sixth of the budget is used
    /// (three are always allowed), and claims at most `cleanups` cleanups.
    /// Returns the last sweep, whose `ready` is the number of jobs of all sweeps; `None` if the budget is used up.
    async fn sweep(&self, cleanups: u32, budget: &mut SubrequestBudget) -> Result<Option<Sweep>, QueueError> {
        let mut share = (budget.0 / 6).max(3);
        let mut last: Option<Sweep> = None;
        while share > 0 && budget.take(1) {
            share -= 1;
            // The first one claims the cleanups.
            let cleanups = if last.is_none() { cleanups } else { 0 };
            let mut sweep = self.queue.sweep(BATCH, cleanups).await?;
            let done = sweep.next_due.is_none_or(|due| due > sweep.now);
            if let Some(last) = last {
                sweep.ready += last.ready;
                (sweep.cleanups, sweep.next_cleanup) = (last.cleanups, last.next_cleanup);
            }
            last = Some(sweep);
            if done {
                break;
            }
        }
        Ok(last)
    }

    /// Checks the uploads that the agenda chooses, as many as the budget allows; returns how many were checked.
    async fn check_uploads(
        &self,
        agenda: &mut Agenda,
        now: Millis,
        budget: &mut SubrequestBudget,
    ) -> Result<usize, QueueError> {
        if !budget.take(1) {
            return Ok(0);
        }
        let limit = agenda.limit();
        let awaited = self.queue.uploading(limit).await?;
        let most = budget.take_some(UPLOAD_TRIPS, u32::try_from(awaited.len()).unwrap_or(u32::MAX));
        let full = awaited.len() >= limit as usize;
        let checks = agenda.choose(&awaited, full, now, most as usize);
        // Concurrently, so that one slow answer does not delay the others.
        let checks = futures::stream::iter(checks).map(|(id, overdue)| async move {
            self.check_upload(id, overdue).await.map(|decided| (id, decided))
        });
        let checked: Vec<_> = checks.buffer_unordered(CONCURRENT_HEADS).collect().await;
        let checked = checked.into_iter().collect::<Result<Vec<_>, _>>()?;
        let count = checked.len();
        agenda.checked(checked, now);
        Ok(count)
    }

    /// Removes dead workers and old records.
    async fn prune(&self, now: Millis, budget: &mut SubrequestBudget) -> Result<(), QueueError> {
        if !budget.take(PRUNE_TRIPS) {
            return Ok(());
        }
        for worker in self.queue.prune_dead_workers(now).await? {
            tracing::warn!(%worker, "removed a worker without a heartbeat");
        }
        self.queue.prune_index(now).await
    }

    /// Checks the input bucket for a job that is still waiting for its upload. If the object exists, its event was lost
    /// and the job is queued; if the upload window has passed, the job fails. Returns `false` if storage could not be
    /// reached and the check of an overdue upload must be repeated.
    async fn check_upload(&self, id: JobId, overdue: bool) -> Result<bool, QueueError> {
        let queue = &self.queue;
        let found = match queue.get(id).await {
            // Another version has written the record; a process of that version handles it.
            Err(error @ QueueError::Data(_)) => {
                tracing::warn!(job = %id, %error, "could not read a job that waits for its upload");
                return Ok(!overdue);
            }
            found => found?,
        };
        let Some(job) = found else {
            let gone = Failure::new(FailureCode::UploadExpired, "the job no longer exists");
            return queue.expire_upload(id, &gone).await.map(|_| true);
        };
        let Input::Key(key) = &job.spec.input else { return Ok(!overdue) };
        match self.storage.head(Bucket::Input, key).await {
            Ok(Some(ObjectInfo { size, etag })) => {
                tracing::info!(job = %id, "found an uploaded input whose event was lost");
                queue.uploaded(&UploadedInput { job: id, key: key.clone(), size, etag }).await.map(|_| true)
            }
            Ok(None) if overdue => {
                let message = "the video was not uploaded within the day; ask for a new upload address";
                queue
                    .expire_upload(id, &Failure::new(FailureCode::UploadExpired, message))
                    .await
                    .map(|_| true)
            }
            Ok(None) => Ok(true),
            // The check is repeated in a minute; a job must not fail because storage is unavailable.
            Err(error) => {
                tracing::warn!(job = %id, %error, "could not check for an upload");
                Ok(!overdue)
            }
        }
    }
}
