//! What has to happen without anybody asking: leases that ran out, retries that are due, uploads that
//! never came, webhooks that are owed, records that are old.
//!
//! | part | what it does |
//! |---|---|
//! | here | the errands, one at a time |
//! | `service` | does them for as long as a process lives, when they are due |
//! | `one_shot` | does as many as there is room for, when somebody calls: at the edge |

mod one_shot;
#[cfg(not(target_arch = "wasm32"))]
mod service;

pub use one_shot::{Allowance, SweepReport};
#[cfg(not(target_arch = "wasm32"))]
pub use service::Janitor;

use crate::job::{Failure, FailureCode, Input, JobId};
use crate::queue::{Queue, QueueError};
use crate::storage::urls::UrlSigner;
use crate::storage::{Bucket, Storage};
use crate::webhook::WebhookSender;

/// Jobs seen to in one go.
const BATCH: u32 = 100;

/// What the errands need.
pub struct JanitorTasks {
    /// The queue.
    pub queue: Queue,
    /// The buckets.
    pub storage: Storage,
    /// Makes addresses of objects.
    pub links: UrlSigner,
    /// What webhooks are sent with; without it they stay in the outbox.
    pub webhooks: Option<WebhookSender>,
}

impl JanitorTasks {
    /// Looks for one upload; says whether that is settled for now. If that is there, its event was lost; if not and time is up, it fails.
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
            // It is looked for again in a minute; a job is not failed because storage is away.
            Err(error) => {
                tracing::warn!(job = %id, %error, "could not check for an upload");
                Ok(!overdue)
            }
        }
    }
}
