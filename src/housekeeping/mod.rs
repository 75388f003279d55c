//! What has to happen without anybody asking: leases that ran out, retries that are due, uploads that
//! never came, webhooks that are owed, records that are old.
//!
//! | part | what it does |
//! |---|---|
//! | here | the errands, one at a time |
//! | `run` | does them for as long as a process lives, when they are due |
//! | `visit` | does as many as there is room for, when somebody calls: at the edge |

#[cfg(not(target_arch = "wasm32"))]
mod run;
mod visit;

#[cfg(not(target_arch = "wasm32"))]
pub use run::Housekeeper;
pub use visit::{Allowance, Visited};

use crate::job::{Failure, FailureCode, Input, JobId};
use crate::queue::{Queue, QueueError};
use crate::storage::links::Links;
use crate::storage::{Bucket, Storage};
use crate::webhook::Mail;

/// Jobs seen to in one go.
const BATCH: u32 = 100;

/// What the errands need.
pub struct Errands {
    /// The queue.
    pub queue: Queue,
    /// The buckets.
    pub storage: Storage,
    /// Makes addresses of objects.
    pub links: Links,
    /// What webhooks are sent with; without it they stay in the outbox.
    pub mail: Option<Mail>,
}

impl Errands {
    /// Looks for one upload; says whether that is settled for now. If that is there, its event was lost; if not and time is up, it fails.
    async fn look_for_upload(&self, id: JobId, overdue: bool) -> Result<bool, QueueError> {
        let queue = &self.queue;
        let Some(job) = queue.get(id).await? else {
            let gone = Failure::new(FailureCode::UploadExpired, "the job is gone");
            return queue.expire_upload(id, &gone).await.map(|_| true);
        };
        let Input::Key(key) = &job.spec.input else { return Ok(!overdue) };
        match self.storage.head(Bucket::Input, key).await {
            Ok(Some(_)) => {
                tracing::info!(job = %id, "the input is there though its event never came");
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
                tracing::warn!(job = %id, %error, "could not look for an upload");
                Ok(!overdue)
            }
        }
    }
}
