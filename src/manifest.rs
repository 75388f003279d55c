//! The manifest that decides about a job. It can be created only once (`If-None-Match: *`): the attempt that creates
//! it has won, and all others go by what it says. It holds a result, or nothing: then no attempt up to the one that
//! wrote it can complete the job any more, because the job has `failed`, or because the outputs of these attempts are
//! deleted.
//!
//! A worker commits its result here, and looks here before a job fails for good. The janitor looks here before it
//! deletes the outputs of an attempt.

use serde::{Deserialize, Serialize};

use crate::job::{
    AttemptId, Epoch, FORMAT_VERSION, Failure, FailureCode, InvalidKey, JobId, JobResult, Millis, ObjectKey,
    SPLIT_VERSION,
};
use crate::storage::{Bucket, PutCondition, PutOutcome, SmallObject, Storage, StorageError, layout};

/// Maximum size of a manifest that is read, bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Maximum number of manifests that an attempt replaces before it gives up.
const REPLACEMENTS: u32 = 3;

/// A result, and the attempt that committed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The attempt's epoch.
    pub epoch: Epoch,
    /// The attempt below whose folder the outputs are stored, if it is another one: the one that split the job.
    pub folder: Option<Epoch>,
    /// The result.
    pub result: JobResult,
}

/// What the manifest says about the job.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// This result counts.
    Result(Box<Committed>),
    /// There is no result, and no attempt up to this one can commit one any more.
    NoResult,
    /// A later attempt has written it: this one has no say any more.
    Superseded,
    /// It is about a job that was submitted later under the same id.
    OfYoungerJob,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Storage did not answer, so that nothing is known.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The manifest is not usable.
    #[error(transparent)]
    Unusable(Failure),
    /// A newer version of tcoder has written it, and this one does not understand it.
    #[error(
        "the job's manifest has version {0} of the format, and this tcoder knows {SPLIT_VERSION}; upgrade it"
    )]
    Newer(u32),
}

impl From<InvalidKey> for ManifestError {
    fn from(error: InvalidKey) -> Self {
        Self::Unusable(Failure::new(FailureCode::Worker, error.to_string()))
    }
}

/// The object.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// The version of its format; 1 where it is absent.
    #[serde(default = "first_version")]
    version: u32,
    epoch: Epoch,
    /// The attempt whose folder holds the outputs, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder: Option<Epoch>,
    /// When the job was submitted: a job that is submitted again under the same id after its record expired is a
    /// different job.
    born: Millis,
    /// Whether the job has failed. For people who look for the state of a job that Redis has lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<JobResult>,
}

/// What every version can read of a manifest.
#[derive(Deserialize)]
struct Version {
    #[serde(default = "first_version")]
    version: u32,
}

const fn first_version() -> u32 {
    1
}

/// The manifest of a job, as one attempt sees it.
pub struct ManifestStore<'a> {
    /// The buckets.
    pub storage: &'a Storage,
    /// The attempt.
    pub attempt: AttemptId,
    /// When its job was submitted.
    pub born: Millis,
}

impl ManifestStore<'_> {
    /// The result that an earlier attempt at this job has committed.
    ///
    /// # Errors
    /// If storage does not answer, or the manifest cannot be read.
    pub async fn earlier_result(&self) -> Result<Option<Committed>, ManifestError> {
        let manifest = read(self.storage, self.attempt.job).await?.map(|(there, _)| there);
        let manifest = manifest.filter(|there| there.born == self.born);
        Ok(manifest.and_then(|there| {
            Some(Committed { epoch: there.epoch, folder: there.folder, result: there.result? })
        }))
    }

    /// Makes `result` that of the job, unless a manifest stands already.
    ///
    /// # Errors
    /// If it is unknown whose result counts.
    pub async fn commit(&self, result: JobResult) -> Result<Verdict, ManifestError> {
        self.decide(Some(result), None, false).await
    }

    /// Like [`Self::commit`], with outputs in the folder of the attempt that split the job.
    ///
    /// # Errors
    /// The same.
    pub async fn commit_in(&self, folder: Epoch, result: JobResult) -> Result<Verdict, ManifestError> {
        self.decide(Some(result), Some(folder), false).await
    }

    /// Sees to it that no attempt up to this one can commit a result any more, unless one stands already.
    ///
    /// # Errors
    /// If it is unknown whether one stands.
    pub async fn seal(&self) -> Result<Verdict, ManifestError> {
        self.decide(None, None, false).await
    }

    /// Like [`Self::seal`], for a job that is about to fail.
    ///
    /// # Errors
    /// The same.
    pub async fn seal_failed(&self) -> Result<Verdict, ManifestError> {
        self.decide(None, None, true).await
    }

    async fn decide(
        &self,
        result: Option<JobResult>,
        folder: Option<Epoch>,
        failed: bool,
    ) -> Result<Verdict, ManifestError> {
        let key = layout::manifest_key(self.attempt.job)?;
        let AttemptId { epoch, .. } = self.attempt;
        // Versions that know no folder of another attempt would delete it.
        let version = if folder.is_some() { SPLIT_VERSION } else { FORMAT_VERSION };
        let own = Manifest { version, epoch, folder, born: self.born, failed, result };
        let json = serde_json::to_vec(&own).map_err(|error| {
            let message = format!("the manifest cannot be written: {error}");
            ManifestError::Unusable(Failure::new(FailureCode::Worker, message))
        })?;
        let mut outdated: Option<String> = None;
        for _ in 0..=REPLACEMENTS {
            let etag = outdated.take();
            let condition = etag.as_deref().map_or(PutCondition::Absent, PutCondition::Unchanged);
            let put = self.storage.put_if(condition, Bucket::Output, &key, json.clone(), "application/json");
            match put.await {
                Ok(PutOutcome::Written) => return Ok(own.verdict()),
                Ok(PutOutcome::ConditionFailed) => {}
                // Not every server knows If-Match for writes.
                Err(StorageError::Refused { .. }) if etag.is_some() => {
                    self.storage.delete(Bucket::Output, &key).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let Some((there, etag)) = read(self.storage, self.attempt.job).await? else { continue };
            match there.standing(&own) {
                Standing::Decides => return Ok(there.verdict()),
                Standing::Supersedes => return Ok(Verdict::Superseded),
                Standing::OfYoungerJob => return Ok(Verdict::OfYoungerJob),
                Standing::Outdated => {
                    tracing::info!(job = %self.attempt.job, by = %there.epoch, "replacing the manifest of an earlier attempt");
                    outdated = etag;
                }
            }
        }
        let message = "the job's manifest comes and goes; is something else writing or deleting it?";
        Err(ManifestError::Unusable(Failure::new(FailureCode::Storage, message)))
    }
}

/// The attempt in whose folder the outputs are for which a manifest stands, if one does.
///
/// # Errors
/// If storage does not answer, or the manifest cannot be read.
pub async fn standing_folder(storage: &Storage, job: JobId) -> Result<Option<Epoch>, ManifestError> {
    Ok(read(storage, job).await?.map(|(there, _)| there.folder.unwrap_or(there.epoch)))
}

/// A job's manifest and its entity tag.
async fn read(storage: &Storage, job: JobId) -> Result<Option<(Manifest, Option<String>)>, ManifestError> {
    let key = layout::manifest_key(job)?;
    let Some(SmallObject { bytes, etag, .. }) = storage.get_small(Bucket::Output, &key, MAX_BYTES).await?
    else {
        return Ok(None);
    };
    parse(&bytes, &key).map(|manifest| Some((manifest, etag)))
}

fn parse(json: &[u8], key: &ObjectKey) -> Result<Manifest, ManifestError> {
    let unusable = |_| {
        let message = format!("{key} in the output bucket is no manifest of this version; remove it");
        ManifestError::Unusable(Failure::new(FailureCode::Storage, message))
    };
    let Version { version } = serde_json::from_slice(json).map_err(unusable)?;
    if version > SPLIT_VERSION {
        return Err(ManifestError::Newer(version));
    }
    serde_json::from_slice(json).map_err(unusable)
}

/// What [`parse`] promises, for `crate::fuzz`.
#[cfg(all(any(test, feature = "fuzzing"), not(target_arch = "wasm32")))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok(key) = "outputs/a/manifest.json".parse() else { return };
    match parse(bytes, &key) {
        Ok(manifest) => {
            assert!(manifest.version <= SPLIT_VERSION);
            let json = serde_json::to_vec(&manifest).unwrap_or_default();
            let again = parse(&json, &key);
            let same = |again: Manifest| {
                let is_same = (again.version, again.epoch, again.folder, again.born)
                    == (manifest.version, manifest.epoch, manifest.folder, manifest.born);
                is_same && again.result.is_some() == manifest.result.is_some()
            };
            assert!(again.is_ok_and(same), "{}", String::from_utf8_lossy(&json));
            assert_eq!(manifest.standing(&manifest), Standing::Decides);
        }
        Err(error) => assert!(error.to_string().len() < 300, "{error}"),
    }
}

/// What a manifest that stands means to an attempt that wanted to put its own.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It decides about the job.
    Decides,
    /// The attempt has no say any more.
    Supersedes,
    /// It is about a job that was submitted later.
    OfYoungerJob,
    /// It speaks for earlier attempts only, or about a job that had the id before.
    Outdated,
}

impl Manifest {
    fn verdict(self) -> Verdict {
        let (epoch, folder) = (self.epoch, self.folder);
        let committed = |result| Verdict::Result(Box::new(Committed { epoch, folder, result }));
        self.result.map_or(Verdict::NoResult, committed)
    }

    fn standing(&self, own: &Self) -> Standing {
        if self.born != own.born {
            return if self.born > own.born { Standing::OfYoungerJob } else { Standing::Outdated };
        }
        // One without a result speaks for the attempts up to the one that wrote it.
        match (&self.result, &own.result) {
            (None, _) if self.epoch < own.epoch => Standing::Outdated,
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
        Manifest {
            version: FORMAT_VERSION,
            epoch: Epoch(epoch),
            folder: None,
            born: Millis(born),
            failed: false,
            result,
        }
    }

    #[test]
    fn manifest_of_the_same_job_decides_unless_it_speaks_for_earlier_attempts_only() {
        for (there, own, expected) in [
            // A result of this job counts, by any of its attempts.
            (manifest(5, 1, true), manifest(5, 2, true), Standing::Decides),
            (manifest(5, 2, true), manifest(5, 1, true), Standing::Decides),
            (manifest(5, 1, true), manifest(5, 2, false), Standing::Decides),
            // A job that has failed stays so, and the last attempt that has found so speaks for those before it.
            (manifest(5, 2, false), manifest(5, 2, false), Standing::Decides),
            (manifest(5, 3, false), manifest(5, 2, false), Standing::Decides),
            (manifest(5, 1, false), manifest(5, 2, false), Standing::Outdated),
            // A zombie comes too late; an attempt after a retry does not.
            (manifest(5, 2, false), manifest(5, 1, true), Standing::Supersedes),
            (manifest(5, 1, false), manifest(5, 2, true), Standing::Outdated),
            // Other jobs that had or have the id.
            (manifest(4, 9, true), manifest(5, 2, true), Standing::Outdated),
            (manifest(6, 1, true), manifest(5, 2, true), Standing::OfYoungerJob),
        ] {
            assert_eq!(there.standing(&own), expected, "{there:?} against {own:?}");
        }
    }

    #[test]
    fn manifest_without_a_result_is_read_again() {
        let sealed = serde_json::to_value(manifest(5, 1, false)).unwrap();
        assert_eq!(sealed, json!({"version": 1, "epoch": 1, "born": 5}));
        let read: Manifest = serde_json::from_value(sealed).unwrap();
        assert_eq!(read.verdict(), Verdict::NoResult);
    }

    #[test]
    fn manifest_of_a_newer_version_is_told_from_one_without_a_version_and_from_rubbish() {
        let key = "outputs/a/manifest.json".parse().unwrap();
        let of = |json: serde_json::Value| parse(json.to_string().as_bytes(), &key);
        assert_eq!(of(json!({"epoch": 1, "born": 5})).unwrap().version, 1);
        let newer = of(json!({"version": SPLIT_VERSION + 1, "verdict": "another form"}));
        assert!(matches!(newer, Err(ManifestError::Newer(version)) if version == SPLIT_VERSION + 1));
        assert!(matches!(of(json!({"version": 1})), Err(ManifestError::Unusable(_))));
        assert!(matches!(parse(b"<html>", &key), Err(ManifestError::Unusable(_))));
    }
}
