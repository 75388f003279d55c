//! `TranscodeJob`: the transcoding of one video, as a Kubernetes object.

#![allow(
    unreachable_pub,
    reason = "kube's derive of validation rules makes private types at the place of the specs"
)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::job::{FailureAction, FailureCode, Output, Parallelism, Preset, Quality, Still, WorkerClass};

/// The transcoding of one video.
///
/// The input, the output and the webhook are immutable: to change them, delete the object and create another.
/// `suspend`, `activeDeadlineSeconds` and `ttlSecondsAfterFinished` can be changed at any time.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tcoder.dev",
    version = "v1alpha1",
    kind = "TranscodeJob",
    plural = "transcodejobs",
    shortname = "tj",
    category = "tcoder",
    namespaced,
    status = "TranscodeJobStatus",
    derive = "PartialEq",
    selectable = ".status.phase",
    doc = "A video to transcode: its source, its outputs and its progress.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Progress",
        type_ = "integer",
        json_path = ".status.progressPercent",
        description = "Percent of the encode"
    ),
    printcolumn(name = "Attempts", type_ = "integer", json_path = ".status.attempts"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Preset", type_ = "string", json_path = ".spec.preset", priority = 1),
    printcolumn(name = "Machine", type_ = "string", json_path = ".status.machine", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.status==\"True\")].reason",
        priority = 1
    ),
    printcolumn(name = "Job", type_ = "string", json_path = ".status.jobId", priority = 1)
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::unchanged("input"))]
#[x_kube(validation = rules::unchanged("preset"))]
#[x_kube(validation = rules::unchanged("priority"))]
#[x_kube(validation = rules::unchanged("workerClass"))]
#[x_kube(validation = rules::unchanged("backoffLimit"))]
#[x_kube(validation = rules::unchanged_option("qualities"))]
#[x_kube(validation = rules::unchanged_option("stills"))]
#[x_kube(validation = rules::unchanged_option("webhook"))]
#[x_kube(validation = rules::unchanged_option("parallelism"))]
#[x_kube(validation = rules::unchanged_option("failurePolicy"))]
#[x_kube(validation = rules::unchanged_option("managedBy"))]
#[x_kube(validation = rules::unchanged_option("resources"))]
pub struct TranscodeJobSpec {
    /// The source of the video: exactly one of `key`, `url` and `upload`.
    pub input: InputSpec,
    /// The kind of output.
    #[serde(default)]
    #[schemars(schema_with = "rules::preset", description = rules::preset_description())]
    pub preset: Preset,
    /// The renditions, such as [720p, 360p], each at most once. Without it the preset decides. Videos are
    /// never scaled up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::qualities")]
    pub qualities: Option<Vec<Quality>>,
    /// Still images beside the renditions: poster (a JPEG from the beginning), storyboard (small images from
    /// the whole video in one JPEG, with a WebVTT file that gives the time of each).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::stills")]
    pub stills: Option<Vec<Still>>,
    /// The urgency, -100 to 100; one point is worth a minute of waiting.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
    /// The class of the workers that may run the job. Until there is a worker of that class, it waits. Which classes the
    /// machines of a pool have, its WorkerPool says.
    #[serde(default)]
    #[schemars(schema_with = "rules::class_name")]
    #[x_kube(validation = rules::worker_class())]
    pub worker_class: WorkerClass,
    /// The address that receives a signed POST request when the job ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSpec>,
    /// Whether the job is suspended. A running encode is stopped; it starts over when this becomes false.
    #[serde(default)]
    pub suspend: bool,
    /// The controller of the job, as a domain, a slash and a name. One with another name than tcoder.dev/controller is left
    /// alone by tcoder; kueue.x-k8s.io/multikueue has MultiKueue run it in another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = rules::DOMAIN_PATH))]
    pub managed_by: Option<String>,
    /// What the job counts for in the queue of Kueue that its label kueue.x-k8s.io/queue-name names. Workers are not sized by
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesSpec>,
    /// Number of retries before the job fails, 0 to 19. A video that cannot be transcoded is not retried.
    #[serde(default = "default_backoff_limit")]
    #[schemars(range(min = 0, max = 19))]
    pub backoff_limit: i32,
    /// Which failures of an attempt are retried. By default those are that may be temporary. Workers of a version before this
    /// field, or before one of its actions, ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicySpec>,
    /// Seconds after `status.startTime` at which the controller fails the job, including all attempts. Each attempt also ends
    /// after JOB_MAX_DEADLINE_SECONDS of the installation (a week by default), even while no controller runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub active_deadline_seconds: Option<i64>,
    /// How many chunks of a long video are encoded at once, each with about one core: `auto` (the default), as many as
    /// there is room for, or at most a number from 1, which does not split it, to 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::parallelism")]
    pub parallelism: Option<Parallelism>,
    /// Seconds after the end of the job at which the object is deleted; its outputs are kept. A week by
    /// default.
    #[serde(default = "default_ttl")]
    #[schemars(range(min = 0, max = 315_360_000))]
    pub ttl_seconds_after_finished: i64,
}

impl TranscodeJobSpec {
    /// The spec of a job with this input, and defaults for everything else.
    #[must_use]
    pub fn new(input: InputSpec) -> Self {
        Self {
            input,
            preset: Preset::default(),
            qualities: None,
            stills: None,
            priority: 0,
            worker_class: WorkerClass::default(),
            webhook: None,
            suspend: false,
            managed_by: None,
            resources: None,
            backoff_limit: default_backoff_limit(),
            failure_policy: None,
            active_deadline_seconds: None,
            parallelism: None,
            ttl_seconds_after_finished: default_ttl(),
        }
    }
}

/// What a job counts for in a queue of Kueue.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourcesSpec {
    /// The amount of each resource, such as `cpu: "4"`, for each of the chunks that `parallelism` lets be encoded at once; without
    /// a number there, once. By default one CPU.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "rules::short_quantities")]
    pub requests: BTreeMap<String, Quantity>,
}

/// The number of retries of an object that names none.
pub(crate) const fn default_backoff_limit() -> i32 {
    2
}

/// A week: as long as Redis keeps the job.
const fn default_ttl() -> i64 {
    7 * 24 * 3600
}

/// The source of the video. Exactly one of the fields is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_of(&["key", "url", "upload"]))]
pub struct InputSpec {
    /// An object in the input bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::object_key(), validation = rules::key_bytes())]
    pub key: Option<String>,
    /// A public http(s) URL without user name and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::plain_url())]
    pub url: Option<String>,
    /// The video will be uploaded with a PUT request to `status.uploadUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadSpec>,
}

/// A video that will be uploaded.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadSpec {
    /// The name of the file, only for reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub file_name: Option<String>,
    /// The size of the file in bytes, at most the 5 GiB that one PUT request can send. Storage then accepts no other at
    /// `status.uploadUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_PUT_BYTES))]
    pub file_size: Option<i64>,
    /// The content type of the file, such as video/mp4. Storage then accepts no other at `status.uploadUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 127), regex(pattern = rules::MEDIA_TYPE))]
    pub content_type: Option<String>,
}

/// Maximum number of bytes that S3 and R2 accept in one PUT request: 5 GiB.
const MAX_PUT_BYTES: i64 = 5 << 30;

impl UploadSpec {
    /// Maximum size of an upload in bytes.
    pub const MAX_BYTES: u64 = MAX_PUT_BYTES.unsigned_abs();
}

/// Rules about failed attempts, as `podFailurePolicy` of a Job has them about pods.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicySpec {
    /// The rules, of which the first for the code of a failure applies.
    #[schemars(length(min = 1, max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<FailureRuleSpec>,
}

/// A rule about failures with certain codes.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureRuleSpec {
    /// FailJob: the job fails without another attempt. Count: another attempt follows, unless `backoffLimit` is reached, also
    /// after a failure that would otherwise end the job at once, such as a second crash of FFmpeg in a row. Ignore: the same
    /// without counting the attempt, up to 20 times; Count after that.
    #[schemars(schema_with = "rules::failure_action")]
    pub action: FailureAction,
    /// The codes of `status.lastFailure.code`. The loss of a worker (workerLost) always counts.
    #[schemars(schema_with = "rules::error_codes")]
    pub error_codes: Vec<FailureCode>,
}

/// The receiver of a notification when the job ends.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSpec {
    /// A public http(s) URL without user name and password.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = rules::plain_url())]
    pub url: String,
    /// The Secret in the job's namespace whose key signs the message (Standard Webhooks: `whsec_` and 24 to
    /// 64 bytes in base64).
    pub secret_ref: SecretKeyRef,
}

/// A key of a Secret in the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::secret_name())]
    pub name: String,
    /// The key in the Secret.
    #[serde(default = "default_secret_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::secret_key())]
    pub key: String,
}

fn default_secret_key() -> String {
    "secret".to_owned()
}

/// The state of a TranscodeJob in one word; a summary of the conditions.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobPhase {
    /// Not queued yet; the conditions say why.
    Pending,
    /// Waits for the upload of its video.
    Uploading,
    /// Waits for a worker, or for its next attempt.
    Queued,
    /// A worker is processing it.
    Running,
    /// `spec.suspend`, or a queue of Kueue, prevents it from running.
    Suspended,
    /// Its outputs are in storage.
    Complete,
    /// It has failed and is not retried.
    Failed,
}

impl JobPhase {
    /// Whether the phase is final.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }
}

/// The state of a TranscodeJob; a mirror of the job in Redis.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TranscodeJobStatus {
    /// A summary of the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<JobPhase>,
    /// The generation of the spec that this status is based on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The id of the job in Redis, in the API and in storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub job_id: Option<String>,
    /// Number of attempts that have started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// Why the last attempt failed, and when the next one is due, while the job is retried; after it has failed, why it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailureStatus>,
    /// Progress of the current attempt's encode in percent, written at most every ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub progress_percent: Option<i32>,
    /// The machine whose worker processes the job, or did so last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub machine: Option<String>,
    /// When the job was queued; unset while it is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its outputs were in storage; only on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The signed URL for uploading the video with PUT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub upload_url: Option<String>,
    /// When `uploadUrl` expires; it is renewed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_expires_at: Option<Time>,
    /// When the URLs of the outputs expire; they are renewed before. Absent if they do not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls_expire_at: Option<Time>,
    /// The renditions, largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub outputs: Vec<OutputStatus>,
    /// The documents that players open to play all renditions; empty if each rendition is played by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub entries: Vec<EntryStatus>,
    /// The poster, a JPEG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poster: Option<FileStatus>,
    /// The storyboard, a WebVTT file next to its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storyboard: Option<FileStatus>,
    /// The cost of the job's machine time, once the job has finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostStatus>,
    /// Conditions of the types Complete, Failed, Suspended, Playable, Reconciling, Stalled and WorkloadOutdated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::conditions")]
    pub conditions: Vec<Condition>,
}

/// A failed attempt.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// The code, such as encodeFailed, as `errorCode` of the API.
    #[schemars(length(max = 64))]
    pub code: String,
    /// What went wrong; for an encode, with the first error of FFmpeg and the last ones.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// The number of the attempt, from 1; of a part, the number of attempts at it that have failed.
    #[schemars(range(min = 0))]
    pub attempt: i32,
    /// The part, if the job is encoded in parts on several workers: audio, or chunk- and its number, from 0.
    #[schemars(length(max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Number of failures so far that were not counted, by spec.failurePolicy.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<i32>,
    /// When the next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_time: Option<Time>,
}

/// One rendition.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputStatus {
    /// The quality, such as 720p, or original for a copy.
    #[schemars(length(max = 16))]
    pub quality: String,
    /// The key in the output bucket of the file or the playlist.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// The URL of the object: below R2_PUBLIC_URL, or below API_PUBLIC_URL until urlsExpireAt. Absent if the
    /// controller has neither setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub url: Option<String>,
    /// The container: mp4, mkv or hls.
    #[schemars(length(max = 16))]
    pub container: String,
    /// Size in bytes, including all segments.
    pub size_bytes: i64,
    /// Width in pixels.
    pub width: i32,
    /// Height in pixels.
    pub height: i32,
}

/// Not [`RenditionInfo`](crate::job::RenditionInfo) flattened: the status names the size with its unit, as Kubernetes
/// does, has integers with a sign only, and limits the length of every text.
impl From<&Output> for OutputStatus {
    fn from(output: &Output) -> Self {
        let info = &output.info;
        Self {
            quality: output.quality.to_string(),
            key: output.key.to_string(),
            url: None,
            container: info.container.name().to_owned(),
            size_bytes: i64::try_from(info.size).unwrap_or(i64::MAX),
            width: i32::try_from(info.width).unwrap_or(i32::MAX),
            height: i32::try_from(info.height).unwrap_or(i32::MAX),
        }
    }
}

/// A document that players open to play all renditions.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryStatus {
    /// The kind of document, such as hls for a master playlist.
    #[schemars(length(max = 16))]
    pub kind: String,
    /// The key in the output bucket.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// The URL of the object: below R2_PUBLIC_URL, or below API_PUBLIC_URL until urlsExpireAt. Absent if the
    /// controller has neither setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub url: Option<String>,
}

/// A file beside the renditions.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    /// The key in the output bucket.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// The URL of the object: below R2_PUBLIC_URL, or below API_PUBLIC_URL until urlsExpireAt. Absent if the
    /// controller has neither setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub url: Option<String>,
}

/// An estimate of the cost of a job.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CostStatus {
    /// Seconds for which the successful attempt occupied its machine; of a split video, the CPU time of its parts.
    pub machine_seconds: i64,
    /// Dollars at the list price of the pool's machines, as a decimal number; absent if the price is unknown. A second of a
    /// split video costs the price of one CPU, which is the same on machines of all sizes. Idle CPUs are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub usd: Option<String>,
}
