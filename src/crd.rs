//! The custom resources `TranscodeJob` and `WorkerPool`, group `tcoder.dev`, version `v1alpha1`.
//!
//! What lives here: their shapes, their schema's rules, the strings of their conditions, and the CRDs as
//! YAML (`tcoder crd`). What does not: what a controller does about them. A spec is a wish, a status the
//! mirror of what Redis and Fly say.
//!
//! Conventions of batch/v1 Job are kept where there is one to keep:
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/>.

// Clippy takes what kube's columns have in common for a repetition.
#![allow(clippy::duplicated_attributes)]

mod rules;
mod transcode_job;
mod worker_pool;

pub use transcode_job::{
    CostStatus, EntryStatus, FileStatus, InputSpec, OutputStatus, Phase, SecretKeyRef, TranscodeJob,
    TranscodeJobSpec, TranscodeJobStatus, UploadSpec, WebhookSpec,
};
pub use worker_pool::{
    FlySpec, GuestSpec, MachineCounts, ProviderSpec, WorkerPool, WorkerPoolSpec, WorkerPoolStatus,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// On a TranscodeJob: an object to be seen to before it goes.
pub const FINALIZER: &str = "tcoder.dev/job";
/// On a TranscodeJob that mirrors a job from elsewhere: where that one came from (`api`, `storage`).
pub const ORIGIN_LABEL: &str = "tcoder.dev/origin";
/// On a TranscodeJob that mirrors a job from elsewhere: that job's id.
pub const JOB_ID_LABEL: &str = "tcoder.dev/job-id";

/// Types of conditions.
pub mod condition {
    /// The outputs stand in storage. Excludes [`FAILED`].
    pub const COMPLETE: &str = "Complete";
    /// It will not be tried again. Excludes [`COMPLETE`].
    pub const FAILED: &str = "Failed";
    /// `spec.suspend` keeps it from running.
    pub const SUSPENDED: &str = "Suspended";
    /// Work towards the spec is under way (kstatus).
    pub const RECONCILING: &str = "Reconciling";
    /// It cannot go on until somebody changes something (kstatus).
    pub const STALLED: &str = "Stalled";
    /// The pool is looked after.
    pub const READY: &str = "Ready";
    /// The machines are left as they are.
    pub const PAUSED: &str = "Paused";
}

/// Reasons of conditions and events.
pub mod reason {
    /// The outputs stand in storage.
    pub const COMPLETED: &str = "Completed";
    /// Every attempt failed.
    pub const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
    /// `activeDeadlineSeconds` are over.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// Somebody called the job off, outside Kubernetes.
    pub const CANCELLED: &str = "Cancelled";
    /// Somebody gave the ended job another round of attempts.
    pub const RETRIED: &str = "Retried";
    /// The job waits for a worker, or runs.
    pub const IN_PROGRESS: &str = "InProgress";
    /// It waits for its input.
    pub const AWAITING_UPLOAD: &str = "AwaitingUpload";
    /// `spec.suspend` is true.
    pub const SUSPENDED: &str = "JobSuspended";
    /// `spec.suspend` is false again.
    pub const RESUMED: &str = "JobResumed";
    /// The spec cannot be a job.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// What may not change was changed after the job was queued.
    pub const IMMUTABLE_FIELD: &str = "ImmutableFieldChanged";
    /// The Secret that is to sign the webhook is not there, or not usable.
    pub const SECRET_NOT_USABLE: &str = "SecretNotUsable";
    /// Redis cannot be used at the moment.
    pub const REDIS_UNAVAILABLE: &str = "RedisUnavailable";
    /// As it should be.
    pub const AS_DESIRED: &str = "Reconciled";
    /// The reconciler acts on another pool.
    pub const ANOTHER_POOL: &str = "PoolNotActive";
    /// No Fly token or app is configured.
    pub const FLY_NOT_CONFIGURED: &str = "FlyNotConfigured";
    /// `spec.paused`, `tcoder fleet pause` or `FLEET_PAUSED`.
    pub const FLEET_PAUSED: &str = "FleetPaused";
    /// Nothing is known of the fleet yet.
    pub const NOT_OBSERVED: &str = "NotObservedYet";
}

/// Both definitions.
#[must_use]
pub fn all() -> [CustomResourceDefinition; 2] {
    [TranscodeJob::crd(), WorkerPool::crd()]
}

/// Both as YAML documents, for `kubectl apply -f -`; the very text of `manifests/base/crds.yaml`.
///
/// # Errors
/// When a schema cannot be written as YAML, which would be a fault of ours.
pub fn yaml() -> Result<String, serde_saphyr::SerializeError> {
    let mut text = "# Written by `tcoder crd`; `make crds` writes it anew.\n".to_owned();
    for crd in all() {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&crd)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
