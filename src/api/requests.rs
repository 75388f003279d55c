//! The requests that create jobs, and how they become jobs.

use std::time::Duration;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use super::extract::Fields;
use super::{Multipart, Problem};
use crate::job::{
    Input, JobId, JobLimits, JobSpec, Ladder, Millis, ObjectKey, Parallelism, Preset, Priority, State,
    Stills, WorkerClass,
};
use crate::net::{self, EgressPolicy};
use crate::storage::{MAX_OBJECT_BYTES, MediaType};

/// The options of every new job.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JobOptions {
    /// An id that the client chose (a UUID), so that sending the request twice makes one job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The kind of output.
    pub preset: Preset,
    /// The renditions, such as `["720p", "360p"]`; if empty, the preset decides.
    pub output_qualities: Ladder,
    /// Still images besides the renditions: `poster`, a JPEG from the beginning; `storyboard`, small images
    /// from the whole video in one JPEG, with a WebVTT file that gives the time of each.
    #[serde(skip_serializing_if = "Stills::is_empty")]
    pub stills: Stills,
    /// The URL that receives a signed POST request when the job ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<Url>,
    /// The urgency, -100 to 100; one point is worth a minute of waiting.
    pub priority: Priority,
    /// Maximum number of attempts.
    #[schemars(range(min = 1, max = 20), extend("default" = JobSpec::default_attempts()))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Maximum duration of one attempt in seconds.
    #[schemars(range(min = 1, max = 604_800), extend("default" = JobSpec::default_deadline()))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
    /// How many chunks of a long video are encoded at once, each with about one core: `auto`, as many as there is room
    /// for, or at most this number; 1 means that it is not split.
    #[serde(skip_serializing_if = "Parallelism::is_auto")]
    pub parallelism: Parallelism,
    /// The class of the workers that may run the job. It waits until there is one that takes jobs of this class.
    #[serde(skip_serializing_if = "WorkerClass::is_default")]
    pub worker_class: WorkerClass,
}

/// `POST /api/upload`: a job whose video the client will upload.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "UploadRequest")]
pub struct CreateUploadRequest {
    /// The name of the file, only for reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// The same under its name in the original TCoder, whose client may announce another content type than it sends:
    /// storage then accepts any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// The size of the file in bytes. Storage then accepts no other at the upload URL. A large file also gets URLs for
    /// uploading it in parts.
    #[schemars(range(max = MAX_OBJECT_BYTES))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size: Option<u64>,
    /// The content type of the file, such as `video/mp4`. Storage then accepts no other at the upload URL. An empty one
    /// counts as none.
    #[serde(deserialize_with = "nonempty", skip_serializing_if = "Option::is_none")]
    pub content_type: Option<MediaType>,
    /// The options of every new job.
    #[serde(flatten)]
    pub options: JobOptions,
}

/// `POST /api/jobs`: a job whose video already exists. Requires one of `inputKey` and `inputUrl`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "JobRequest")]
pub struct CreateJobRequest {
    /// An object in the input bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_key: Option<ObjectKey>,
    /// A public http(s) URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_url: Option<Url>,
    /// Minimum delay in seconds before the job starts (at most 30 days).
    #[schemars(range(max = MOST_DELAY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<u32>,
    /// The options of every new job.
    #[serde(flatten)]
    pub options: JobOptions,
}

/// Maximum delay of a job, seconds.
const MOST_DELAY: u32 = 30 * 24 * 3600;

/// The response to `POST /api/upload`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "UploadResponse")]
pub struct CreateUploadResponse {
    /// The id of the job.
    pub job_id: JobId,
    /// The state of the job: `uploading`, or a later state if the same request was sent before.
    pub status: State,
    /// The key of the video in the input bucket.
    pub input_key: ObjectKey,
    /// PUT the video to this URL; absent once it has been uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_url: Option<Url>,
    /// How to upload it in parts instead: for a video of more than 16 MiB, if the request contained its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multipart: Option<Multipart>,
    /// Send this as the header `Content-Type` with the PUT, and with the POST that starts an upload in parts: it is signed.
    /// Absent if the request contained none; storage then accepts any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<MediaType>,
    /// When these URLs expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
}

/// A browser that does not know the type of a file says that it is empty.
fn nonempty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MediaType>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

impl Fields for CreateUploadRequest {
    const OWN: &'static [&'static str] = &["fileName", "filename", "fileSize", "contentType"];
}

impl Fields for CreateJobRequest {
    const OWN: &'static [&'static str] = &["inputKey", "inputUrl", "delaySeconds"];
}

/// What the installation permits jobs to use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubmissionLimits {
    /// The addresses that jobs may name.
    pub guard: EgressPolicy,
    /// Whether webhooks can be signed.
    pub webhooks: bool,
    /// The most that jobs may ask for.
    pub limits: JobLimits,
}

impl JobOptions {
    fn spec(self, input: Input, rules: SubmissionLimits) -> Result<JobSpec, Problem> {
        let mut spec = JobSpec::new(input, self.preset, self.output_qualities);
        spec.stills = self.stills;
        spec.webhook_url = self.webhook_url;
        spec.priority = self.priority;
        spec.max_attempts = self.max_attempts.unwrap_or_else(|| rules.limits.default_attempts());
        spec.deadline_seconds = self.deadline_seconds.unwrap_or_else(|| rules.limits.default_deadline());
        spec.parallelism = self.parallelism;
        spec.worker_class = self.worker_class;
        let spec = spec.checked(&rules.limits).map_err(|e| Problem::field(e.field(), e.to_string()))?;
        if let Some(url) = &spec.webhook_url {
            net::check_url(rules.guard, url).map_err(|e| Problem::field("webhookUrl", e.to_string()))?;
            if !rules.webhooks {
                let detail = "this installation has no WEBHOOK_SECRET to sign webhooks with; set it, \
                              or leave webhookUrl out and poll the job";
                return Err(Problem::field("webhookUrl", detail));
            }
        }
        Ok(spec)
    }
}

impl CreateUploadRequest {
    /// The name of the file.
    pub(super) fn name(&self) -> &str {
        self.file_name.as_deref().or(self.filename.as_deref()).unwrap_or("video")
    }

    /// The only content type that storage is to accept, if it is known.
    pub(super) fn signed_type(&self) -> Option<MediaType> {
        self.content_type.clone().filter(|_| self.filename.is_none())
    }

    /// The job that is requested, with `key` as its input.
    pub(super) fn spec(self, key: ObjectKey, rules: SubmissionLimits) -> Result<JobSpec, Problem> {
        let spec = self.options.spec(Input::Key(key), rules)?;
        Ok(JobSpec { file_size: self.file_size, ..spec })
    }
}

impl CreateJobRequest {
    /// The job that is requested, and the delay before it starts.
    pub(super) fn spec(self, rules: SubmissionLimits) -> Result<(JobSpec, Duration), Problem> {
        let input = match (self.input_key, self.input_url) {
            (Some(key), None) => Input::Key(key),
            (None, Some(url)) => {
                net::check_url(rules.guard, &url).map_err(|e| Problem::field("inputUrl", e.to_string()))?;
                Input::Url(url)
            }
            (None, None) => {
                let detail = "name the video: inputKey for an object in the input bucket, or inputUrl \
                              for a web address; to upload one, POST /api/upload instead";
                return Err(Problem::field("inputKey", detail));
            }
            (Some(_), Some(_)) => {
                return Err(Problem::field("inputUrl", "name one of inputKey and inputUrl, not both"));
            }
        };
        let delay = self.delay_seconds.unwrap_or(0);
        if delay > MOST_DELAY {
            return Err(Problem::field("delaySeconds", "a job can be delayed by 2592000 seconds (30 days)"));
        }
        Ok((self.options.spec(input, rules)?, Duration::from_secs(delay.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::extract::parse;
    use super::*;

    const RULES: SubmissionLimits =
        SubmissionLimits { guard: EgressPolicy::PublicOnly, webhooks: true, limits: JobLimits::HIGHEST };

    fn status_and_field<T>(result: Result<T, Problem>) -> String {
        format!("{:?}", result.err().map(|p| format!("{p:?}")))
    }

    #[test]
    fn request_errors_name_the_invalid_field() {
        for (body, field) in [
            (r#"{"preset":"HLS"}"#, "preset"),
            (r#"{"outputQualities":["720p","721p"]}"#, "outputQualities[1]"),
            (r#"{"outputQualities":["720p","720p"]}"#, "outputQualities"),
            (r#"{"outputQualities":"720p"}"#, "outputQualities"),
            (r#"{"jobId":"x"}"#, "jobId"),
            (r#"{"webhookUrl":"nope"}"#, "webhookUrl"),
            (r#"{"priority":101}"#, "priority"),
            (r#"{"maxAttempts":-1}"#, "maxAttempts"),
            (r#"{"workerClass":"Large"}"#, "workerClass"),
            (r#"{"outputQualitys":[]}"#, "outputQualitys"),
            (r#"{"fileName":7}"#, "fileName"),
            (r#"{"contentType":"film"}"#, "contentType"),
            (r#"{"contentType":"video/mp4\r\nx: y"}"#, "contentType"),
        ] {
            let problem = status_and_field(parse::<CreateUploadRequest>(body.as_bytes()));
            assert!(problem.contains(&format!("field: Some(\\\"{field}\\\")")), "{body}: {problem}");
            assert!(problem.contains("status: 422"), "{body}: {problem}");
        }
        for body in ["", "{}", r#"{"contentType":""}"#, r#"{"contentType":null}"#] {
            assert!(parse::<CreateUploadRequest>(body.as_bytes()).unwrap().signed_type().is_none());
        }
        for body in ["nonsense", "[]", "7", "{\"preset\":", "\u{0}"] {
            assert!(
                status_and_field(parse::<CreateUploadRequest>(body.as_bytes())).contains("status: 400"),
                "{body}"
            );
        }
    }

    #[test]
    fn original_client_may_send_another_type_than_it_announces() {
        let from = |name: &str| {
            let body = format!(r#"{{"{name}":"a.mov","contentType":"video/mp4"}}"#);
            let request = parse::<CreateUploadRequest>(body.as_bytes()).unwrap();
            (request.name().to_owned(), request.signed_type().map(String::from))
        };
        assert_eq!(from("fileName"), ("a.mov".to_owned(), Some("video/mp4".to_owned())));
        assert_eq!(from("filename"), ("a.mov".to_owned(), None));
    }

    #[test]
    fn create_job_request_requires_exactly_one_input() {
        let from = |body: &str| parse::<CreateJobRequest>(body.as_bytes()).unwrap().spec(RULES);
        assert!(from(r#"{"inputKey":"a.mp4"}"#).is_ok());
        assert!(from(r#"{"inputUrl":"https://example.com/a.mp4"}"#).is_ok());
        assert!(from("{}").is_err());
        assert!(from(r#"{"inputKey":"a.mp4","inputUrl":"https://example.com/a.mp4"}"#).is_err());
        assert!(from(r#"{"inputUrl":"http://127.0.0.1/a.mp4"}"#).is_err());
        assert!(from(r#"{"inputUrl":"https://u:p@example.com/a.mp4"}"#).is_err());
        assert!(from(r#"{"inputKey":"a.mp4","webhookUrl":"http://169.254.169.254/"}"#).is_err());
        assert!(from(r#"{"inputKey":"a.mp4","delaySeconds":2592001}"#).is_err());
        assert!(parse::<CreateJobRequest>(br#"{"inputKey":"../a.mp4"}"#).is_err());
    }

    #[test]
    fn job_asks_for_no_more_than_the_installation_permits() {
        let limits = JobLimits { deadline_seconds: 600, attempts: 2, priority: Priority::default() };
        let from = |body: serde_json::Value| {
            let rules = SubmissionLimits { limits, ..RULES };
            parse::<CreateJobRequest>(body.to_string().as_bytes()).unwrap().spec(rules).map(|(spec, _)| spec)
        };
        for (field, value, most) in
            [("deadlineSeconds", 601, "600"), ("maxAttempts", 3, "2"), ("priority", 1, "to 0")]
        {
            let problem = status_and_field(from(serde_json::json!({"inputKey": "a", field: value})));
            assert!(problem.contains("status: 422") && problem.contains(field), "{field}: {problem}");
            assert!(problem.contains(most), "{field}: {problem}");
        }
        let spec = from(serde_json::json!({"inputKey": "a"})).unwrap();
        assert_eq!((spec.deadline_seconds, spec.max_attempts), (600, 2));
        let spec =
            from(serde_json::json!({"inputKey": "a", "deadlineSeconds": 60, "maxAttempts": 1})).unwrap();
        assert_eq!((spec.deadline_seconds, spec.max_attempts), (60, 1));
    }

    #[test]
    fn webhook_url_without_signing_key_is_rejected() {
        let ask =
            || parse::<CreateJobRequest>(br#"{"inputKey":"a","webhookUrl":"https://example.com/"}"#).unwrap();
        assert!(ask().spec(RULES).is_ok());
        assert!(ask().spec(SubmissionLimits { webhooks: false, ..RULES }).is_err());
    }
}
