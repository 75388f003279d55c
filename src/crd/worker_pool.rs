//! `WorkerPool`: the configuration of the fleet, as a Kubernetes object.

#![allow(
    unreachable_pub,
    reason = "kube's derive of validation rules makes private types at the place of the specs"
)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::config::registry::{JOBS_PER_MACHINE, MAX_MACHINES, WORKER_IDLE_TIMEOUT};
use crate::flyprovider::ROOTFS_MAX_GB;
use crate::job::WorkerClass;

/// The number and kind of the machines that run workers.
///
/// A field that is absent is taken from the controller's environment (`FLY_WORKER_REGIONS`,
/// `FLY_WORKER_IMAGE`, ...). The Fly app and its token always are, so that only one pool of Fly is active: the oldest that
/// the controller sees. All pools of pods are.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tcoder.dev",
    version = "v1alpha1",
    kind = "WorkerPool",
    plural = "workerpools",
    shortname = "wp",
    category = "tcoder",
    namespaced,
    status = "WorkerPoolStatus",
    derive = "PartialEq",
    doc = "The machines that run the workers: how many there may be, and how many there are.",
    scale(spec_replicas_path = ".spec.max", status_replicas_path = ".status.machines.total"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desired"),
    printcolumn(name = "Busy", type_ = "integer", json_path = ".status.machines.busy"),
    printcolumn(name = "Idle", type_ = "integer", json_path = ".status.machines.idle"),
    printcolumn(name = "Total", type_ = "integer", json_path = ".status.machines.total"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(name = "Classes", type_ = "string", json_path = ".spec.workerClasses", priority = 1),
    printcolumn(name = "Min", type_ = "integer", json_path = ".spec.min", priority = 1),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.max", priority = 1),
    printcolumn(name = "Error", type_ = "string", json_path = ".status.lastError", priority = 1)
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::min_below_max(), validation = rules::pods_unchanged(), validation = rules::pods_have_image())]
pub struct WorkerPoolSpec {
    /// The place among several pools. Waiting jobs are first taken by the machines that exist; then the pools make machines
    /// for them, the pool with the higher priority first, and of two with the same the older one.
    #[serde(default)]
    pub priority: i32,
    /// The classes of the jobs that its machines take, 1 to 8. Machines are made only for jobs of these classes.
    #[serde(default = "default_classes")]
    #[schemars(schema_with = "rules::class_names")]
    #[x_kube(validation = rules::worker_classes())]
    pub worker_classes: Vec<WorkerClass>,
    /// Minimum number of running machines.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000))]
    pub min: i32,
    /// Maximum number of machines, running or stopped. `kubectl scale` sets it.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max: i32,
    /// Number of waiting jobs per additional machine.
    #[serde(default = "default_jobs_per_machine")]
    #[schemars(range(min = 1, max = 10_000))]
    pub jobs_per_machine: i32,
    /// Seconds without a job after which a worker exits; 0 means never.
    #[serde(default = "default_idle_timeout")]
    #[schemars(range(min = 0, max = 315_360_000))]
    pub idle_timeout_seconds: i64,
    /// The worker image, such as registry.fly.io/app:tag. Pods need it here or in their template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rules::image())]
    pub image: Option<String>,
    /// The provider of the machines, with its own settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderSpec>,
    /// Maximum cost of running machines in dollars an hour, as a decimal number such as "1.50".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]+(\.[0-9]{1,6})?$"))]
    pub budget_usd_per_hour: Option<String>,
    /// Whether the fleet is paused: machines are left as they are, and the planned operations are only
    /// reported.
    #[serde(default)]
    pub paused: bool,
}

fn default_classes() -> Vec<WorkerClass> {
    vec![WorkerClass::default()]
}

// The defaults of the settings. The limits of the schema would reject a value out of range.

fn default_max() -> i32 {
    MAX_MACHINES.default_value().and_then(|max| max.try_into().ok()).unwrap_or_default()
}

fn default_jobs_per_machine() -> i32 {
    JOBS_PER_MACHINE.default_value().and_then(|jobs| jobs.try_into().ok()).unwrap_or_default()
}

fn default_idle_timeout() -> i64 {
    WORKER_IDLE_TIMEOUT.default_value().and_then(|time| time.as_secs().try_into().ok()).unwrap_or_default()
}

/// The provider of the machines: exactly one. Without it, Fly with the settings of the environment.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_provider())]
pub struct ProviderSpec {
    /// Fly Machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fly: Option<FlySpec>,
    /// Pods in the namespace of the WorkerPool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsSpec>,
}

/// The settings of pods as machines.
///
/// A pod is made from the template. What the template leaves out is as the restricted Pod Security Standard requires.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodsSpec {
    /// The labels, annotations and spec of the pods. The worker runs in the container named `worker`, which is added
    /// if it is not there; its environment (`envFrom`) must contain the settings of Redis and storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::pod_template")]
    pub template: Option<serde_json::Value>,
    /// The resources of the worker's container, in place of those in the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<WorkerResources>,
    /// The labels of the nodes that pods may run on, in addition to those in the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::labels")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// The taints of nodes that pods tolerate, in addition to those in the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::tolerations")]
    pub tolerations: Option<Vec<Toleration>>,
    /// The service account of the pods, in place of that in the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account_name: Option<String>,
}

/// The resources of the worker's container.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerResources {
    /// What the scheduler reserves, such as `cpu: "2"`, `memory: 4Gi` and `ephemeral-storage: 20Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::quantities")]
    pub requests: Option<BTreeMap<String, Quantity>>,
    /// What the container may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::quantities")]
    pub limits: Option<BTreeMap<String, Quantity>>,
}

/// The settings of Fly Machines.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlySpec {
    /// The regions of the machines, by preference, such as [iad, dfw].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::regions")]
    pub regions: Option<Vec<String>>,
    /// Whether to use no other region even if all these are full.
    #[serde(default)]
    pub strict_regions: bool,
    /// The size of a machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestSpec>,
    /// Larger sizes for the parts of split videos, such as [performance-8x, performance-16x]. A machine has the
    /// largest of them that the waiting parts fill. They have as much memory for each CPU as the guest, and must have
    /// more CPUs of the same kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::guest_sizes")]
    pub guests: Option<Vec<String>>,
    /// Size of a machine's disk in gigabytes; by default as much as the largest input needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = ROOTFS_MAX_GB))]
    pub disk_gb: Option<i32>,
}

/// The size of a machine, one of those that Fly offers.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::memory_fits_size())]
pub struct GuestSpec {
    /// The kind and number of CPUs, such as performance-2x.
    #[schemars(schema_with = "rules::guest_size")]
    pub size: String,
    /// Memory in megabytes, by default that of the size: for each performance CPU 2048 to 8192 in steps of
    /// 1024, for each shared one 256 to 2048 in steps of 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 131_072), extend("multipleOf" = 256))]
    pub memory_mb: Option<i32>,
}

/// The state of the fleet as last published by its reconciler.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolStatus {
    /// The generation of the spec that this status is based on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The number of machines that should run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<i32>,
    /// The number of machines by role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<MachineCounts>,
    /// The waiting jobs that are this pool's to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// What is wrong, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_error: Option<String>,
    /// Conditions of the types Ready, Paused, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::conditions")]
    pub conditions: Vec<Condition>,
}

/// The number of machines by role.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineCounts {
    /// All machines, running or stopped.
    pub total: i32,
    /// Machines whose worker has a job.
    pub busy: i32,
    /// Machines whose worker is idle.
    pub idle: i32,
    /// Machines whose worker has not registered yet.
    pub booting: i32,
    /// Machines that are charged for CPU and memory.
    pub billed: i32,
}
