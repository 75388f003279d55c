//! The part of Kueue's `Workload` that is read and written here. Pure.
//!
//! Kueue is written in Go and has a library for controllers in Go. Every other controller makes the Workload of its job
//! itself, as that library does: `pkg/controller/jobframework` in Kueue's sources.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{ApiResource, GroupVersionKind, Object};
use kube::{Resource as _, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::controller::conditions::{find, holds, millis, time};
use crate::crd::TranscodeJob;
use crate::job::{Millis, Parallelism};

/// Kueue's API group.
pub(crate) const GROUP: &str = "kueue.x-k8s.io";
/// The version of its API, which Kueue 0.15 and newer serve.
pub(crate) const VERSION: &str = "v1beta2";
/// Label of a job: the LocalQueue that admits it.
pub(crate) const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
/// Label of a job: the WorkloadPriorityClass of its Workload.
pub(crate) const PRIORITY_CLASS_LABEL: &str = "kueue.x-k8s.io/priority-class";
/// Label of a job: the Workload that somebody made for it already. MultiKueue does in the cluster of the workers.
const PREBUILT_LABEL: &str = "kueue.x-k8s.io/prebuilt-workload-name";
/// Label of a job: after how many seconds since its admission Kueue deactivates it.
const MAX_SECONDS_LABEL: &str = "kueue.x-k8s.io/max-exec-time-seconds";
/// Label of a Workload: the uid of its job.
const JOB_UID_LABEL: &str = "kueue.x-k8s.io/job-uid";
/// Label of the Workloads of TranscodeJobs, by which they are watched.
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
const MANAGED_BY: &str = "tcoder-controller";
/// The only set of pods in a Workload.
const POD_SET: &str = "main";
/// Maximum length of a Workload's name, since Kueue uses it as the value of a label.
const NAME_MAX: usize = 63;

/// A Workload.
pub(crate) type Workload = Object<WorkloadSpec, WorkloadStatus>;

/// What is read of the spec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WorkloadSpec {
    /// The LocalQueue.
    pub queue_name: String,
    /// Whether it may be admitted; absent means yes.
    pub active: Option<bool>,
}

/// What is read of the status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WorkloadStatus {
    /// All conditions, because a merge patch replaces the whole list.
    pub conditions: Vec<Condition>,
    /// Seconds for which it was admitted before.
    pub accumulated_past_execution_time_seconds: Option<i64>,
}

/// Types of conditions.
pub(crate) mod workload_condition {
    /// The Workload may run.
    pub(crate) const ADMITTED: &str = "Admitted";
    /// Quota is reserved for it.
    pub(crate) const QUOTA_RESERVED: &str = "QuotaReserved";
    /// It must stop.
    pub(crate) const EVICTED: &str = "Evicted";
    /// Its job has ended.
    pub(crate) const FINISHED: &str = "Finished";
    /// Its job runs.
    pub(crate) const PODS_READY: &str = "PodsReady";
    /// Whether it waits in its queue again after an eviction.
    pub(crate) const REQUEUED: &str = "Requeued";
}

use workload_condition::{ADMITTED, EVICTED, FINISHED, PODS_READY, QUOTA_RESERVED, REQUEUED};

/// The kind `Workload`.
#[must_use]
pub(crate) fn workloads() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, "Workload"), "workloads")
}

/// The kind `WorkloadPriorityClass`.
#[must_use]
pub(crate) fn priority_classes() -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, "WorkloadPriorityClass");
    ApiResource::from_gvk_with_plural(&kind, "workloadpriorityclasses")
}

/// Selects the Workloads of TranscodeJobs.
#[must_use]
pub(crate) fn selector() -> String {
    format!("{MANAGED_BY_LABEL}={MANAGED_BY}")
}

/// The name of the Workload that somebody made for this job already.
#[must_use]
pub(crate) fn prebuilt(job: &TranscodeJob) -> Option<&str> {
    job.labels().get(PREBUILT_LABEL).map(String::as_str).filter(|name| !name.is_empty())
}

/// The queue in which the job waits for its admission.
#[must_use]
pub(crate) fn queue(job: &TranscodeJob) -> Option<&str> {
    job.labels().get(QUEUE_LABEL).map(String::as_str).filter(|name| !name.is_empty())
}

/// The name of the Workload of this job.
#[must_use]
pub(crate) fn workload_name(job: &TranscodeJob) -> String {
    if let Some(name) = prebuilt(job) {
        return name.to_owned();
    }
    let uid = job.uid().unwrap_or_default();
    // A job that is made anew under its old name has another Workload.
    let end: String = uid.chars().take(8).collect();
    let mut name = format!("transcodejob-{}", job.name_any());
    name.truncate(name.floor_char_boundary(NAME_MAX - 1 - end.len()));
    format!("{}-{end}", name.trim_end_matches(['.', '-']))
}

/// The priority of a Workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadPriority {
    /// The WorkloadPriorityClass that decides about it.
    pub class: Option<String>,
    /// The number; higher is more urgent.
    pub value: i32,
}

/// The Workload of a job.
#[must_use]
pub(crate) fn to_workload(job: &TranscodeJob, queue: &str, priority: &WorkloadPriority) -> Value {
    let uid = job.uid().unwrap_or_default();
    let mut spec = json!({
        "queueName": queue,
        "priority": priority.value,
        "podSets": [{
            "name": POD_SET,
            "count": count(job.spec.parallelism),
            "template": {"spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "worker", "resources": {"requests": requests(job)}}],
            }},
        }],
    });
    if let Some(class) = &priority.class {
        spec["priorityClassRef"] = json!({"group": GROUP, "kind": "WorkloadPriorityClass", "name": class});
    }
    let seconds = job.labels().get(MAX_SECONDS_LABEL).and_then(|text| text.parse::<i32>().ok());
    if let Some(seconds) = seconds.filter(|seconds| *seconds > 0) {
        spec["maximumExecutionTimeSeconds"] = json!(seconds);
    }
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "Workload",
        "metadata": {
            "name": workload_name(job),
            "namespace": job.namespace(),
            "labels": {JOB_UID_LABEL: uid, MANAGED_BY_LABEL: MANAGED_BY},
            "ownerReferences": [owner(job)],
        },
        "spec": spec,
    })
}

/// The pods that stand for a job: one for each chunk that may be encoded at once. Where the job takes what there is, one.
const fn count(parallelism: Option<Parallelism>) -> u16 {
    match parallelism {
        Some(Parallelism::Chunks(chunks)) => chunks,
        Some(Parallelism::Auto) | None => 1,
    }
}

/// What each of the pods counts for: a chunk is encoded with about one core.
fn requests(job: &TranscodeJob) -> BTreeMap<String, Quantity> {
    let asked = job.spec.resources.as_ref().map(|resources| resources.requests.clone()).unwrap_or_default();
    if asked.is_empty() { BTreeMap::from([("cpu".to_owned(), Quantity("1".to_owned()))]) } else { asked }
}

/// Not with `blockOwnerDeletion`, for which some clusters ask for a permission.
fn owner(job: &TranscodeJob) -> Value {
    json!({
        "apiVersion": TranscodeJob::api_version(&()),
        "kind": TranscodeJob::kind(&()),
        "name": job.name_any(),
        "uid": job.uid(),
        "controller": true,
    })
}

/// The patch that makes a Workload that was made for a job the job's own. It fails if the Workload has changed, and replaces
/// the list of its owners: the others stay in it.
#[must_use]
pub(crate) fn adoption(job: &TranscodeJob, workload: &Workload) -> Value {
    let uid = job.uid().unwrap_or_default();
    let others = workload.owner_references().iter().filter(|owner| owner.uid != uid);
    let owners: Vec<Value> = others.map(|owner| json!(owner)).chain([owner(job)]).collect();
    json!({"metadata": {
        "resourceVersion": workload.resource_version(),
        "labels": {JOB_UID_LABEL: job.uid(), MANAGED_BY_LABEL: MANAGED_BY},
        "ownerReferences": owners,
    }})
}

/// The job to which a Workload belongs, as its name.
#[must_use]
pub(crate) fn job_of(workload: &Workload) -> Option<&str> {
    let kind = TranscodeJob::kind(&());
    let of_job = workload.owner_references().iter().find(|owner| {
        owner.controller == Some(true) && owner.kind == kind && owner.api_version.starts_with("tcoder.dev/")
    })?;
    Some(&of_job.name)
}

/// Whether the Workload is controlled by the object with this uid.
#[must_use]
pub(crate) fn is_of(workload: &Workload, uid: &str) -> bool {
    let mut owners = workload.owner_references().iter();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Whether no object controls the Workload.
#[must_use]
pub(crate) fn is_free(workload: &Workload) -> bool {
    workload.owner_references().iter().all(|owner| owner.controller != Some(true))
}

/// The conditions of a Workload.
#[must_use]
pub(crate) fn conditions_of(workload: &Workload) -> &[Condition] {
    workload.status.as_ref().map_or(&[], |status| &status.conditions)
}

/// Whether this condition of a Workload is true.
#[must_use]
pub(crate) fn is(workload: &Workload, type_: &str) -> bool {
    holds(conditions_of(workload), type_).is_some()
}

/// A condition that is to be written.
struct Write {
    type_: &'static str,
    holds: bool,
    reason: String,
    message: String,
}

/// The patch of the status that says that the job has ended.
#[must_use]
pub(crate) fn finished(workload: &Workload, succeeded: bool, message: &str, now: Millis) -> Value {
    let reason = if succeeded { "Succeeded" } else { "Failed" };
    let write =
        Write { type_: FINISHED, holds: true, reason: reason.to_owned(), message: message.to_owned() };
    json!({"metadata": guard(workload), "status": {"conditions": with(workload, vec![write], now)}})
}

/// The patch of the status that says that the job runs. Where Kueue waits for the pods of a Workload (`waitForPodsReady`), it
/// would evict the Workload otherwise.
#[must_use]
pub(crate) fn started(workload: &Workload, now: Millis) -> Value {
    let write = Write {
        type_: PODS_READY,
        holds: true,
        reason: "Started".to_owned(),
        message: "A worker processes the job".to_owned(),
    };
    json!({"metadata": guard(workload), "status": {"conditions": with(workload, vec![write], now)}})
}

/// The patch of the status that gives the quota of an evicted Workload back: its job does not run any more. Only the controller
/// of the job can tell, so that Kueue waits for this.
#[must_use]
pub(crate) fn released(workload: &Workload, now: Millis) -> Value {
    let (reason, message) = holds(conditions_of(workload), EVICTED)
        .map_or_else(Default::default, |evicted| (evicted.reason.clone(), evicted.message.clone()));
    // Kueue itself queues the Workload again after every other eviction, when its cause is gone.
    let requeued = ["Preempted", "NodeFailures"].contains(&&*reason);
    let no = |type_, reason: &str, message: &str| Write {
        type_,
        holds: false,
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let mut writes = vec![
        Write { type_: REQUEUED, holds: requeued, reason, message: message.clone() },
        no(QUOTA_RESERVED, "Pending", &message),
    ];
    let mut status = json!({"admission": null});
    if let Some(admitted) = holds(conditions_of(workload), ADMITTED) {
        writes.push(no(ADMITTED, "NoReservation", "The workload has no reservation"));
        let before = workload.status.as_ref().and_then(|s| s.accumulated_past_execution_time_seconds);
        let seconds = now.0.saturating_sub(millis(&admitted.last_transition_time).0) / 1000;
        status["accumulatedPastExecutionTimeSeconds"] =
            json!(before.unwrap_or_default().saturating_add(seconds.max(0)));
    }
    if is(workload, PODS_READY) {
        writes.push(no(PODS_READY, "WaitForStart", "The job is not admitted"));
    }
    status["conditions"] = with(workload, writes, now);
    json!({"metadata": guard(workload), "status": status})
}

/// A patch with this fails if the Workload has changed: it replaces all conditions.
fn guard(workload: &Workload) -> Value {
    json!({"resourceVersion": workload.resource_version()})
}

/// All conditions of a Workload, with these changed.
fn with(workload: &Workload, writes: Vec<Write>, now: Millis) -> Value {
    let before = conditions_of(workload);
    let mut all: Vec<Condition> =
        before.iter().filter(|c| writes.iter().all(|write| write.type_ != c.type_)).cloned().collect();
    for Write { type_, holds, reason, message } in writes {
        let status = if holds { "True" } else { "False" };
        let same = find(before, type_).filter(|c| c.status == status);
        all.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason,
            message: if message.is_empty() { "-".to_owned() } else { message },
            last_transition_time: same.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
            observed_generation: workload.meta().generation,
        });
    }
    json!(all)
}
