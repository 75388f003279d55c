//! The manifest that decides about a job. It can be created only once (`If-None-Match: *`): the attempt that creates
//! it has won, and all others go by what it says. It holds a result, or nothing: then the job has failed, and no
//! attempt that is still on its way can complete it any more.

use serde::{Deserialize, Serialize};

use crate::job::{AttemptId, Epoch, Failure, FailureCode, InvalidKey, JobResult, Millis};
use crate::storage::{Bucket, PutOutcome, Storage, StorageError, layout};

/// Maximum size of a manifest that is read, bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Maximum number of manifests that an attempt replaces before it gives up.
const REPLACEMENTS: u32 = 3;

/// A result, and the attempt that committed it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Committed {
    pub epoch: Epoch,
    pub result: JobResult,
}

/// What the manifest says about the job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// This result counts.
    Result(Box<Committed>),
    /// The job has failed.
    Failed,
    /// The job belongs to a later attempt, or the id to a younger job: this attempt has no say.
    Superseded,
}

/// Why there is no verdict.
#[derive(Debug)]
pub(crate) enum ManifestError {
    /// Storage did not answer, so that nothing is known.
    Storage(StorageError),
    /// The manifest is not usable.
    Unusable(Failure),
}

impl From<StorageError> for ManifestError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<InvalidKey> for ManifestError {
    fn from(error: InvalidKey) -> Self {
        Self::Unusable(Failure::new(FailureCode::Worker, error.to_string()))
    }
}

/// The object.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    epoch: Epoch,
    /// When the job was submitted: a job that is submitted again under the same id after its record expired is a
    /// different job.
    born: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<JobResult>,
}

/// The manifest of a job, as one attempt sees it.
pub(crate) struct ManifestStore<'a> {
    pub storage: &'a Storage,
    pub attempt: AttemptId,
    pub born: Millis,
}

impl ManifestStore<'_> {
    /// The result that an earlier attempt at this job has committed.
    pub(crate) async fn earlier_result(&self) -> Result<Option<Committed>, ManifestError> {
        let manifest = self.read().await?.filter(|there| there.born == self.born);
        Ok(manifest.and_then(|there| Some(Committed { epoch: there.epoch, result: there.result? })))
    }

    /// Makes `result` that of the job, unless a manifest stands already.
    pub(crate) async fn commit(&self, result: JobResult) -> Result<Verdict, ManifestError> {
        self.decide(Some(result)).await
    }

    /// Makes the job a failed one, unless a manifest stands already.
    pub(crate) async fn seal(&self) -> Result<Verdict, ManifestError> {
        self.decide(None).await
    }

    async fn decide(&self, result: Option<JobResult>) -> Result<Verdict, ManifestError> {
        let key = layout::manifest_key(self.attempt.job)?;
        let own = Manifest { epoch: self.attempt.epoch, born: self.born, result };
        let json = serde_json::to_vec(&own).map_err(|error| {
            let message = format!("the manifest cannot be written: {error}");
            ManifestError::Unusable(Failure::new(FailureCode::Worker, message))
        })?;
        for _ in 0..=REPLACEMENTS {
            let put =
                self.storage.put_if_absent(Bucket::Output, &key, json.clone(), "application/json").await?;
            if put == PutOutcome::Created {
                return Ok(own.verdict());
            }
            let Some(there) = self.read().await? else { continue };
            match there.standing(&own) {
                Standing::Decides => return Ok(there.verdict()),
                Standing::Supersedes => return Ok(Verdict::Superseded),
                Standing::Outdated => {
                    tracing::info!(job = %self.attempt.job, by = %there.epoch, "replacing the manifest of an earlier life of this job");
                    self.storage.delete(Bucket::Output, &key).await?;
                }
            }
        }
        let message = "the job's manifest comes and goes; is something else writing or deleting it?";
        Err(ManifestError::Unusable(Failure::new(FailureCode::Storage, message)))
    }

    async fn read(&self) -> Result<Option<Manifest>, ManifestError> {
        let key = layout::manifest_key(self.attempt.job)?;
        let Some(json) = self.storage.get_small(Bucket::Output, &key, MAX_BYTES).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&json).map(Some).map_err(|_| {
            let message = format!("{key} in the output bucket is no manifest of this version; remove it");
            ManifestError::Unusable(Failure::new(FailureCode::Storage, message))
        })
    }
}

/// What a manifest that stands means to an attempt that wanted to put its own.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It decides about the job.
    Decides,
    /// The attempt has no say any more.
    Supersedes,
    /// It is about a job that was submitted, or retried by a user, since then.
    Outdated,
}

impl Manifest {
    fn verdict(self) -> Verdict {
        let epoch = self.epoch;
        self.result.map_or(Verdict::Failed, |result| Verdict::Result(Box::new(Committed { epoch, result })))
    }

    fn standing(&self, own: &Self) -> Standing {
        if self.born != own.born {
            return if self.born > own.born { Standing::Supersedes } else { Standing::Outdated };
        }
        // A failed job is retried by a user only: then a later attempt has something to commit.
        match (&self.result, &own.result) {
            (None, Some(_)) if self.epoch < own.epoch => Standing::Outdated,
            (None, Some(_)) => Standing::Supersedes,
            _ => Standing::Decides,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest(born: i64, epoch: u64, has_result: bool) -> Manifest {
        let result = has_result.then(|| {
            serde_json::from_value(json!({
                "outputs": [],
                "source": {"format": "mp4", "size": 1, "duration": 1.0, "video": {
                    "codec": "h264", "width": 2, "height": 2, "frameRate": 25.0, "rotation": 0, "hdr": false}},
                "timings": {"downloadSeconds": 0.0, "transcodeSeconds": 0.0, "uploadSeconds": 0.0},
                "speed": 1.0, "cpuSeconds": 1.0,
            }))
            .unwrap()
        });
        Manifest { epoch: Epoch(epoch), born: Millis(born), result }
    }

    #[test]
    fn manifest_of_the_same_job_decides_unless_a_user_retried_it() {
        for (there, own, expected) in [
            // A result of this job counts, by any of its attempts.
            (manifest(5, 1, true), manifest(5, 2, true), Standing::Decides),
            (manifest(5, 2, true), manifest(5, 1, true), Standing::Decides),
            (manifest(5, 1, true), manifest(5, 2, false), Standing::Decides),
            // A job that has failed stays so.
            (manifest(5, 1, false), manifest(5, 2, false), Standing::Decides),
            // A zombie comes too late; an attempt after a retry does not.
            (manifest(5, 2, false), manifest(5, 1, true), Standing::Supersedes),
            (manifest(5, 1, false), manifest(5, 2, true), Standing::Outdated),
            // Other jobs that had or have the id.
            (manifest(4, 9, true), manifest(5, 2, true), Standing::Outdated),
            (manifest(6, 1, true), manifest(5, 2, true), Standing::Supersedes),
        ] {
            assert_eq!(there.standing(&own), expected, "{there:?} against {own:?}");
        }
    }

    #[test]
    fn manifest_without_a_result_is_read_again() {
        let sealed = serde_json::to_value(manifest(5, 1, false)).unwrap();
        assert_eq!(sealed, json!({"epoch": 1, "born": 5}));
        let read: Manifest = serde_json::from_value(sealed).unwrap();
        assert_eq!(read.verdict(), Verdict::Failed);
    }
}
