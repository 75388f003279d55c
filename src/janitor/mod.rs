//! Maintenance that no request triggers: expired leases, due retries, lost uploads, pending webhook deliveries, old
//! records.
//!
//! | module | what lives there |
//! |---|---|
//! | here | [`JanitorTasks`]: what the tasks need, and the check of one upload |
//! | `service` | [`Janitor`]: runs the tasks when they are due, for the lifetime of a process |
//! | `one_shot` | runs as many tasks as the budget of one invocation allows, on Cloudflare Workers |

mod one_shot;
#[cfg(not(target_arch = "wasm32"))]
mod service;

pub use one_shot::{SubrequestBudget, SweepReport};
#[cfg(not(target_arch = "wasm32"))]
pub use service::Janitor;

use crate::job::{Failure, FailureCode, Input, JobId};
use crate::queue::{Queue, QueueError};
use crate::storage::urls::UrlSigner;
use crate::storage::{Bucket, Storage};
use crate::webhook::WebhookSender;

/// Maximum number of jobs handled by one call.
const BATCH: u32 = 100;

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
    /// Checks the input bucket for a job that is still waiting for its upload. If the object exists, its event was lost
    /// and the job is queued; if the upload window has passed, the job fails. Returns `false` if storage could not be
    /// reached and the check of an overdue upload must be repeated.
    async fn check_upload(&self, id: JobId, overdue: bool) -> Result<bool, QueueError> {
        let queue = &self.queue;
        let Some(job) = queue.get(id).await? else {
            let gone = Failure::new(FailureCode::UploadExpired, "the job is gone");
            return queue.expire_upload(id, &gone).await.map(|_| true);
        };
        let Input::Key(key) = &job.spec.input else { return Ok(!overdue) };
        match self.storage.head(Bucket::Input, key).await {
            Ok(Some(_)) => {
                tracing::info!(job = %id, "found an uploaded input whose event was lost");
                queue.uploaded(id).await.map(|_| true)
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
