//! Deletes objects that are of no use any more: outputs of attempts that did not complete their job, and inputs and
//! outputs that are kept no longer.
//!
//! An attempt whose lease is lost may be on its way still, and commit its result. Its outputs are deleted only after
//! the job's manifest says that it cannot any more.

use futures::StreamExt as _;

use super::{JanitorTasks, SubrequestBudget};
use crate::job::{AttemptId, Epoch, Input, InvalidKey, Job, JobId, Millis, ObjectKey};
use crate::manifest::{self, ManifestError, ManifestStore, Verdict};
use crate::queue::{Cleanup, QueueError};
use crate::storage::{Bucket, StorageError, layout};

/// Maximum number of cleanups in one run of a process.
pub(super) const MAX_CLEANUPS: u32 = 20;
/// Maximum number of concurrent cleanups.
const CONCURRENT: usize = 4;
/// Round trips for one cleanup: read its job, record the outcome. The Worker reaches the bucket through a binding, which
/// does not count.
const CLEANUP_TRIPS: u32 = 2;
/// Maximum number of objects that one cleanup deletes before others have their turn.
const OBJECTS: usize = 10_000;
/// Pause before a folder with more objects is continued, milliseconds.
const NEXT_BATCH_MS: i64 = 1000;
/// Pause before a cleanup that failed is repeated, milliseconds.
const RETRY_MS: i64 = 600_000;
/// When the outputs of an attempt are looked for again, milliseconds.
const AGAIN_MS: i64 = 24 * 3600 * 1000;

/// Why a cleanup was not done.
#[derive(Debug, thiserror::Error)]
enum CleanupError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Key(#[from] InvalidKey),
    #[error(transparent)]
    Manifest(ManifestError),
}

impl From<ManifestError> for CleanupError {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Storage(error) => Self::Storage(error),
            unreadable => Self::Manifest(unreadable),
        }
    }
}

/// What follows a cleanup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing.
    Done,
    /// Another cleanup, after this number of milliseconds.
    Then(Cleanup, i64),
    /// The same, after this number of milliseconds.
    Again(i64),
}

/// What the objects of a job are of use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Nothing.
    None,
    /// The job runs again. Its next end enters another cleanup.
    Runs,
    /// The job may be resumed.
    Suspended,
    /// They belong to a later job with the same id.
    OtherJob,
}

impl Use {
    /// What follows a cleanup of objects of this use.
    const fn next(self) -> Next {
        match self {
            Self::Suspended => Next::Again(AGAIN_MS),
            Self::None | Self::Runs | Self::OtherJob => Next::Done,
        }
    }
}

/// The newest attempt that must not commit any more before the outputs of one are deleted. What an attempt has stored
/// that split the job, later ones commit; they are all older than the one that the job has now, unless it has ended.
fn fence(job: &Job, of: Epoch) -> Epoch {
    let newest = if job.status.is_terminal() { job.epoch } else { Epoch(job.epoch.0.saturating_sub(1)) };
    newest.max(of)
}

/// The number of cleanups that a run with this budget performs.
pub(super) fn share_of(budget: SubrequestBudget) -> u32 {
    (budget.0 / (6 * CLEANUP_TRIPS)).min(MAX_CLEANUPS)
}

impl JanitorTasks {
    /// Performs the claimed cleanups. What fails is repeated later.
    ///
    /// # Errors
    /// If Redis fails. A claimed cleanup is then due again after a while.
    pub async fn clean_up(
        &self,
        cleanups: Vec<Cleanup>,
        now: Millis,
        budget: &mut SubrequestBudget,
    ) -> Result<(), QueueError> {
        let count = budget.take_some(CLEANUP_TRIPS, u32::try_from(cleanups.len()).unwrap_or(u32::MAX));
        let tasks = cleanups.into_iter().take(count as usize).map(|cleanup| async move {
            let next = match self.clean_up_one(cleanup).await {
                Ok(next) => next,
                Err(CleanupError::Queue(error)) if !matches!(error, QueueError::Data(_)) => {
                    return Err(error);
                }
                // It will be the same in ten minutes.
                Err(error @ CleanupError::Manifest(_)) => {
                    tracing::warn!(%cleanup, %error, "could not read the manifest of a job whose outputs may be of no use; retrying tomorrow");
                    Next::Again(AGAIN_MS)
                }
                Err(error) => {
                    tracing::warn!(%cleanup, %error, "could not delete objects; retrying in ten minutes");
                    Next::Again(RETRY_MS)
                }
            };
            match next {
                Next::Done => self.queue.finish_cleanup(cleanup, None).await,
                Next::Then(next, ms) => self.queue.finish_cleanup(cleanup, Some((next, now.plus(ms)))).await,
                Next::Again(ms) => self.queue.postpone_cleanup(cleanup, now.plus(ms)).await,
            }
        });
        let mut done = futures::stream::iter(tasks).buffer_unordered(CONCURRENT);
        while let Some(outcome) = done.next().await {
            outcome?;
        }
        Ok(())
    }

    async fn clean_up_one(&self, cleanup: Cleanup) -> Result<Next, CleanupError> {
        match cleanup {
            Cleanup::Attempt(attempt) => {
                let again = Next::Then(Cleanup::AttemptAgain(attempt), AGAIN_MS);
                self.delete_attempt(attempt, again).await
            }
            Cleanup::AttemptAgain(attempt) => self.delete_attempt(attempt, Next::Done).await,
            Cleanup::Input(id, born) => match self.use_of(id, born).await? {
                (Use::None, job) => {
                    let folder = match job.as_ref().map(|job| &job.spec.input) {
                        Some(Input::Key(key)) => layout::folder_of_upload(id, key),
                        Some(Input::Url(_)) | None => None,
                    };
                    // That of a tenant is known only as long as the job is.
                    let folder = folder.map_or_else(|| layout::input_prefix(id), Ok)?;
                    self.delete(Bucket::Input, &folder, Next::Done).await
                }
                (other, _) => Ok(other.next()),
            },
            Cleanup::Outputs(id, born) => match self.use_of(id, born).await? {
                (Use::None, _) => {
                    // First, so that no attempt adopts a result whose files are deleted already.
                    self.storage.delete(Bucket::Output, &layout::manifest_key(id)?).await?;
                    self.delete(Bucket::Output, &layout::job_prefix(id)?, Next::Done).await
                }
                (other, _) => Ok(other.next()),
            },
        }
    }

    /// Deletes the outputs of an attempt, unless its result is that of its job. `then` follows when none is left.
    async fn delete_attempt(&self, attempt: AttemptId, then: Next) -> Result<Next, CleanupError> {
        let folder = attempt.epoch;
        let job = self.queue.get(attempt.job).await?;
        let born = job.as_ref().and_then(|job| job.timestamps.created_at);
        let is_committed = match (&job, born) {
            // Attempts begin after their job was submitted.
            (Some(job), Some(born)) if u64::try_from(born.0).is_ok_and(|born| born <= attempt.epoch.0) => {
                let attempt = AttemptId { epoch: fence(job, attempt.epoch), ..attempt };
                let manifest = ManifestStore { storage: &self.storage, attempt, born };
                matches!(manifest.seal().await?, Verdict::Result(there) if there.folder.unwrap_or(there.epoch) == folder)
            }
            // The job is over, and its attempts with it.
            _ => manifest::standing_folder(&self.storage, attempt.job).await? == Some(folder),
        };
        if is_committed {
            return Ok(Next::Done);
        }
        self.delete(Bucket::Output, &layout::attempt_prefix(attempt)?, then).await
    }

    /// What the objects of the job that was submitted at `born` are of use for. Also returns the job.
    async fn use_of(&self, id: JobId, born: Millis) -> Result<(Use, Option<Job>), QueueError> {
        let job = self.queue.get(id).await?;
        let is_of_use = match &job {
            Some(job) if job.timestamps.created_at != Some(born) => Use::OtherJob,
            Some(job) if !job.status.is_terminal() => Use::Runs,
            Some(Job { suspended: true, .. }) => Use::Suspended,
            Some(_) | None => {
                tracing::info!(job = %id, "deleting objects that are kept no longer");
                Use::None
            }
        };
        Ok((is_of_use, job))
    }

    async fn delete(&self, bucket: Bucket, prefix: &ObjectKey, then: Next) -> Result<Next, CleanupError> {
        let all = self.storage.delete_prefix(bucket, prefix, OBJECTS).await?;
        Ok(if all { then } else { Next::Again(NEXT_BATCH_MS) })
    }
}
