//! The custom resources `TranscodeJob` and `WorkerPool`, group `tcoder.dev`, version `v1alpha1`.
//!
//! This module defines their schemas with rules, the strings of their conditions, and the CRDs as YAML
//! (`tcoder crd`). What a controller does about them is in `controller`. A spec is the desired state; a
//! status mirrors the state in Redis and at Fly.
//!
//! The conventions of batch/v1 Job are followed where one applies:
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/>.

// Clippy mistakes the common attributes of kube's columns for duplicates.
#![allow(clippy::duplicated_attributes)]

mod rules;
mod transcode_job;
mod worker_pool;

pub(crate) use transcode_job::default_backoff_limit;
pub use transcode_job::{
    CostStatus, EntryStatus, FailurePolicySpec, FailureRuleSpec, FailureStatus, FileStatus, InputSpec,
    JobPhase, OutputStatus, ResourcesSpec, SecretKeyRef, TranscodeJob, TranscodeJobSpec, TranscodeJobStatus,
    UploadSpec, WebhookSpec,
};
pub use worker_pool::{
    FlySpec, GuestSpec, MachineCounts, PodsSpec, ProviderSpec, WorkerPool, WorkerPoolSpec, WorkerPoolStatus,
    WorkerResources,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use kube::CustomResourceExt as _;

/// Finalizer of a TranscodeJob whose job may still be active.
pub const FINALIZER: &str = "tcoder.dev/job";
/// Label of a mirror: where its job was submitted (`api`, `storage`).
pub const ORIGIN_LABEL: &str = "tcoder.dev/origin";
/// Label of a mirror: the id of its job.
pub const JOB_ID_LABEL: &str = "tcoder.dev/job-id";

/// The value of `spec.managedBy` that stands for the controller of tcoder, as if there were none.
pub const CONTROLLER_NAME: &str = "tcoder.dev/controller";

/// Types of conditions.
pub mod condition {
    /// The outputs are in storage. Excludes [`FAILED`].
    pub const COMPLETE: &str = "Complete";
    /// The job has failed and is not retried. Excludes [`COMPLETE`].
    pub const FAILED: &str = "Failed";
    /// `spec.suspend`, or a queue of Kueue, prevents the job from running.
    pub const SUSPENDED: &str = "Suspended";
    /// Players can play the video from its beginning; later parts may still be encoded.
    pub const PLAYABLE: &str = "Playable";
    /// The controller is working towards the spec (kstatus).
    pub const RECONCILING: &str = "Reconciling";
    /// There is no progress until the spec or the cluster is changed (kstatus).
    pub const STALLED: &str = "Stalled";
    /// The API server refuses a change of the job's Workload in Kueue, which does not hold the job back.
    pub const WORKLOAD_OUTDATED: &str = "WorkloadOutdated";
    /// The fleet follows the pool.
    pub const READY: &str = "Ready";
    /// The fleet is paused: machines are left as they are.
    pub const PAUSED: &str = "Paused";
}

/// Reasons of conditions and events.
pub mod reason {
    /// The outputs are in storage.
    pub const COMPLETED: &str = "Completed";
    /// The beginning of the video is in storage.
    pub const PLAYABLE: &str = "BeginningStored";
    /// All attempts failed.
    pub const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
    /// `activeDeadlineSeconds` have elapsed.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// The job was cancelled outside Kubernetes.
    pub const CANCELLED: &str = "Cancelled";
    /// The finished job was redriven.
    pub const RETRIED: &str = "Retried";
    /// An attempt failed, and another follows.
    pub const ATTEMPT_FAILED: &str = "AttemptFailed";
    /// The job waits for a worker, or is running.
    pub const IN_PROGRESS: &str = "InProgress";
    /// The job waits for its upload.
    pub const AWAITING_UPLOAD: &str = "AwaitingUpload";
    /// `spec.suspend` is true.
    pub const SUSPENDED: &str = "JobSuspended";
    /// Nothing prevents the job from running any more.
    pub const RESUMED: &str = "JobResumed";
    /// The job waits until a queue of Kueue admits it.
    pub const AWAITING_ADMISSION: &str = "AwaitingAdmission";
    /// Kueue has taken the admission of the job back.
    pub const WORKLOAD_EVICTED: &str = "WorkloadEvicted";
    /// The Workload with the name of the job's belongs to another object.
    pub const WORKLOAD_NOT_OWNED: &str = "WorkloadNotOwned";
    /// The API server refuses the Workload of the job.
    pub const WORKLOAD_REFUSED: &str = "WorkloadRefused";
    /// The Workload that somebody made for the job has ended.
    pub const WORKLOAD_FINISHED: &str = "WorkloadFinished";
    /// The WorkloadPriorityClass that the job names does not exist.
    pub const PRIORITY_CLASS_NOT_FOUND: &str = "PriorityClassNotFound";
    /// The job names a queue of Kueue, but the cluster has no Kueue.
    pub const KUEUE_NOT_INSTALLED: &str = "KueueNotInstalled";
    /// The job names a queue of Kueue, but the controller may not use Kueue.
    pub const KUEUE_FORBIDDEN: &str = "KueueForbidden";
    /// The API server cannot ask a webhook, such as one of Kueue, about the Workload of the job.
    pub const KUEUE_UNAVAILABLE: &str = "KueueUnavailable";
    /// The spec is not a valid job.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// An immutable field was changed after the job was queued.
    pub const IMMUTABLE_FIELD: &str = "ImmutableFieldChanged";
    /// The Secret that signs the webhook is missing or unusable.
    pub const SECRET_NOT_USABLE: &str = "SecretNotUsable";
    /// Redis cannot be used at the moment.
    pub const REDIS_UNAVAILABLE: &str = "RedisUnavailable";
    /// The storage cannot be used at the moment.
    pub const STORAGE_UNAVAILABLE: &str = "StorageUnavailable";
    /// The number of machines is as desired.
    pub const AS_DESIRED: &str = "Reconciled";
    /// The fleet follows another pool.
    pub const ANOTHER_POOL: &str = "PoolNotActive";
    /// No Fly token or app is configured.
    pub const FLY_NOT_CONFIGURED: &str = "FlyNotConfigured";
    /// `spec.paused`, `tcoder fleet pause` or `FLEET_PAUSED`.
    pub const FLEET_PAUSED: &str = "FleetPaused";
    /// The state of the fleet is not known yet.
    pub const NOT_OBSERVED: &str = "NotObservedYet";
}

/// The version that is served beside the one in which objects are stored. An operator that knows only the stored one can
/// be installed again; the next release can store this one instead.
pub const BETA: &str = "v1beta1";

/// The definitions of both resources.
#[must_use]
pub fn all() -> [CustomResourceDefinition; 2] {
    [TranscodeJob::crd(), WorkerPool::crd()].map(with_beta)
}

/// Adds [`BETA`]. It has the same schema, so that the API server converts objects without a webhook.
fn with_beta(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    if let Some(stored) = crd.spec.versions.first().cloned() {
        crd.spec.versions.push(CustomResourceDefinitionVersion {
            name: BETA.to_owned(),
            storage: false,
            ..stored
        });
    }
    crd
}

/// Both definitions as YAML documents for `kubectl apply -f -`: the content of `manifests/crds/crds.yaml`.
///
/// # Errors
/// If a schema cannot be serialized, which would be a bug.
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
