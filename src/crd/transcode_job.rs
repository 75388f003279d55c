//! `TranscodeJob`: one video, asked for with `kubectl apply`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::job::{Output, Preset, Quality, Still};

/// What is to be made of which video.
///
/// What the job does, where its video lies and whom it tells are fixed once it is made: delete it and make
/// another. `suspend`, `activeDeadlineSeconds` and `ttlSecondsAfterFinished` can be changed at any time.
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
    doc = "A video to transcode: where it comes from, what is made of it, and how far that is.",
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
#[x_kube(validation = rules::unchanged("backoffLimit"))]
#[x_kube(validation = rules::unchanged_option("qualities"))]
#[x_kube(validation = rules::unchanged_option("stills"))]
#[x_kube(validation = rules::unchanged_option("webhook"))]
pub struct TranscodeJobSpec {
    /// Where the video comes from: one of `key`, `url` and `upload`.
    pub input: InputSpec,
    /// What kind of output.
    #[serde(default)]
    #[schemars(schema_with = "rules::preset", description = rules::preset_description())]
    pub preset: Preset,
    /// Which renditions, such as [720p, 360p]; each at most once. Without it the preset decides. Nothing is
    /// scaled up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::qualities")]
    pub qualities: Option<Vec<Quality>>,
    /// Stills beside the renditions: poster (a JPEG of the beginning), storyboard (small ones of the whole
    /// length in one JPEG, and a WebVTT that says which is of when).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::stills")]
    pub stills: Option<Vec<Still>>,
    /// How urgent, -100 to 100; one point is worth a minute of waiting.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
    /// Whom to tell at the end, by a signed POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSpec>,
    /// Keeps the job from running. A running encode is stopped, and begins anew when this is false again.
    #[serde(default)]
    pub suspend: bool,
    /// So many times it is tried again before it fails for good, 0 to 19. A video that cannot be
    /// transcoded is not tried again.
    #[serde(default = "default_backoff_limit")]
    #[schemars(range(min = 0, max = 19))]
    pub backoff_limit: i32,
    /// Seconds from `status.startTime` after which the job is failed, over all attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub active_deadline_seconds: Option<i64>,
    /// Seconds after its end at which the object is deleted; its outputs stay. A week by default.
    #[serde(default = "default_ttl")]
    #[schemars(range(min = 0, max = 315_360_000))]
    pub ttl_seconds_after_finished: i64,
}

const fn default_backoff_limit() -> i32 {
    2
}

/// A week: as long as Redis remembers the job.
const fn default_ttl() -> i64 {
    7 * 24 * 3600
}

/// Where the video comes from. Exactly one of the fields is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_of(&["key", "url", "upload"]))]
pub struct InputSpec {
    /// An object in the input bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub key: Option<String>,
    /// A public http(s) address, without user name and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = rules::PLAIN_URL))]
    pub url: Option<String>,
    /// The video is yet to come: `status.uploadUrl` says where to PUT it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadSpec>,
}

/// A video that is yet to come.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadSpec {
    /// The file's name; only for finding it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub file_name: Option<String>,
}

/// Whom to tell at the end.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSpec {
    /// A public http(s) address, without user name and password.
    #[schemars(length(max = 2048), regex(pattern = rules::PLAIN_URL))]
    pub url: String,
    /// The Secret, in the job's own namespace, whose key signs the message (Standard Webhooks: `whsec_` and
    /// 24 to 64 bytes in base64).
    pub secret_ref: SecretKeyRef,
}

/// A key of a Secret in the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which of its keys.
    #[serde(default = "default_secret_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_secret_key() -> String {
    "secret".to_owned()
}

/// Where a TranscodeJob stands, in a word; a summary of the conditions.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not queued yet: the conditions say why.
    Pending,
    /// Waits for its video.
    Uploading,
    /// Waits for a worker, or for the time of its next attempt.
    Queued,
    /// A worker has it.
    Running,
    /// `spec.suspend` keeps it from running.
    Suspended,
    /// Its outputs stand in storage.
    Complete,
    /// It will not be tried again.
    Failed,
}

impl Phase {
    /// Whether nothing more happens by itself.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }
}

/// How far a TranscodeJob is: a mirror of what Redis says.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TranscodeJobStatus {
    /// A summary of the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The generation of the spec that the rest was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The job's id in Redis, in the API and in storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub job_id: Option<String>,
    /// Attempts begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
    /// Percent of the present attempt's encode, written every ten seconds at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub progress_percent: Option<i32>,
    /// The machine whose worker has the job, or had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub machine: Option<String>,
    /// Since when it is queued or runs; unset while suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its outputs stood in storage; only on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// PUT the video there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub upload_url: Option<String>,
    /// Until when `uploadUrl` is good; a new one comes before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_expires_at: Option<Time>,
    /// Until when the addresses of the outputs are good; new ones come before. Absent where they are good for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls_expire_at: Option<Time>,
    /// The renditions, large to small.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub outputs: Vec<OutputStatus>,
    /// The documents that players open to play all renditions; none where each is played by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub entries: Vec<EntryStatus>,
    /// The poster, a JPEG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poster: Option<FileStatus>,
    /// The storyboard, a WebVTT beside its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storyboard: Option<FileStatus>,
    /// What the job's machine time costs, once it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostStatus>,
    /// Complete, Failed, Suspended, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "rules::conditions")]
    pub conditions: Vec<Condition>,
}

/// One rendition.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputStatus {
    /// Which one, such as 720p, or original for a copy.
    #[schemars(length(max = 16))]
    pub quality: String,
    /// Its object in the output bucket: the file, or the playlist.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// Where it can be read: below R2_PUBLIC_URL, or below API_PUBLIC_URL until urlsExpireAt; absent where the
    /// controller has neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub url: Option<String>,
    /// mp4, mkv or hls.
    #[schemars(length(max = 16))]
    pub container: String,
    /// Bytes, of all its segments where it has them.
    pub size_bytes: i64,
    /// Pixels across.
    pub width: i32,
    /// Pixels down.
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
    /// Which kind of document, such as hls for a master playlist.
    #[schemars(length(max = 16))]
    pub kind: String,
    /// Its object in the output bucket.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// Where it can be read: below R2_PUBLIC_URL, or below API_PUBLIC_URL until urlsExpireAt; absent where the
    /// controller has neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub url: Option<String>,
}

/// A file beside the renditions.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    /// Its object in the output bucket.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// Where it can be read: below R2_PUBLIC_URL, or below API_PUBLIC_URL until urlsExpireAt; absent where the
    /// controller has neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub url: Option<String>,
}

/// An estimate of what a job cost.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CostStatus {
    /// Seconds the successful attempt held its machine.
    pub machine_seconds: i64,
    /// Dollars at the list price of the pool's machines, as a decimal number; absent where no price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub usd: Option<String>,
}
