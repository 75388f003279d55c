//! Converts a TranscodeJob into a submission for the queue by parsing it. Pure.

use std::time::Duration;

use kube::ResourceExt as _;
use url::Url;

use crate::crd::{FailureRuleSpec, TranscodeJob, TranscodeJobSpec, default_backoff_limit, reason};
use crate::job::{
    FailurePolicy, FailureRule, Input, JobId, JobLimits, JobSpec, Ladder, ObjectKey, Origin, Priority,
    SecretRef, Stills,
};
use crate::net::{self, EgressPolicy};
use crate::queue::SubmitMode;
use crate::storage::{MediaType, layout};

/// How long a job waits for its upload. The signed URL for it is renewed meanwhile.
pub(crate) const UPLOAD_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The limits that an installation sets on jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Which addresses jobs may name.
    pub guard: EgressPolicy,
    /// The most that jobs may ask for.
    pub limits: JobLimits,
    /// Whether a namespace may use only objects below its own prefix.
    pub tenant_prefixes: bool,
}

impl Rules {
    /// The rules for jobs that are in the queue already: those that were stricter when the jobs were submitted, or have
    /// become so, do not change them.
    pub(super) fn of_queued(self) -> [Self; 2] {
        let of = |tenant_prefixes| Self { limits: JobLimits::HIGHEST, tenant_prefixes, ..self };
        [of(self.tenant_prefixes), of(!self.tenant_prefixes)]
    }
}

/// A job to be submitted to the queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Submission {
    /// The job's spec.
    pub spec: JobSpec,
    /// How the job starts.
    pub start: SubmitMode,
}

/// The object is not a valid job and must be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    /// The reason in CamelCase, for programs.
    pub reason: &'static str,
    /// What is wrong, and what to change.
    pub message: String,
}

impl Refusal {
    /// A refusal that names a field of the spec and what is wrong with it.
    fn field(field: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("spec.{field}: {why}. Delete this TranscodeJob and create another");
        Self { reason: reason::INVALID_SPEC, message }
    }

    /// A refusal of a field that can be changed.
    fn changeable(field: &str, why: impl std::fmt::Display) -> Self {
        Self { reason: reason::INVALID_SPEC, message: format!("spec.{field}: {why}. Change it") }
    }
}

/// Parses `object` into a submission with the job id `id`.
///
/// # Errors
/// Names the first invalid field and what to change.
pub(crate) fn to_submission(object: &TranscodeJob, id: JobId, rules: Rules) -> Result<Submission, Refusal> {
    let asked = &object.spec;
    let namespace = object.namespace().unwrap_or_default();
    let (input, start) = input(asked, id, &namespace, rules)?;
    let qualities = match asked.qualities.as_deref() {
        None => Ladder::default(),
        Some([]) => return Err(Refusal::field("qualities", "it is empty; name one, or leave it out")),
        Some(list) => Ladder::new(list.to_vec()).map_err(|e| Refusal::field("qualities", e))?,
    };
    let mut spec = JobSpec::new(input, asked.preset, qualities);
    spec.file_size = file_size(asked)?;
    signed_type(asked)?;
    spec.stills = Stills::from(asked.stills.clone().unwrap_or_default());
    spec.parallelism = asked.parallelism.unwrap_or_default();
    spec.origin = Origin::Kubernetes;
    spec.worker_class = asked.worker_class.clone();
    spec.failure_policy = failure_policy(asked);
    spec.priority =
        Priority::try_from(i64::from(asked.priority)).map_err(|e| Refusal::field("priority", e))?;
    let Rules { limits, .. } = rules;
    if spec.priority > limits.priority {
        let why = format!("it must be from -100 to {}", limits.priority.get());
        return Err(Refusal::field("priority", why));
    }
    spec.max_attempts = attempts(asked.backoff_limit, limits).ok_or_else(|| {
        Refusal::field("backoffLimit", format!("it must be from 0 to {}", limits.attempts - 1))
    })?;
    // activeDeadlineSeconds can be changed after the submission, so that the controller enforces it. The deadline of an
    // attempt bounds what no controller ends.
    spec.deadline_seconds = limits.deadline_seconds;
    let is_in_range = |seconds: i64| (1..=i64::from(limits.deadline_seconds)).contains(&seconds);
    if asked.active_deadline_seconds.is_some_and(|seconds| !is_in_range(seconds)) {
        let why = format!("it must be from 1 to {}", limits.deadline_seconds);
        return Err(Refusal::changeable("activeDeadlineSeconds", why));
    }
    if let Some(webhook) = &asked.webhook {
        spec.webhook_url = Some(address("webhook.url", &webhook.url, rules.guard)?);
        spec.webhook_key = Some(SecretRef {
            // Only the object's own namespace: a user who may create TranscodeJobs here may not read Secrets
            // elsewhere.
            namespace: namespace.clone(),
            name: webhook.secret_ref.name.clone(),
            key: webhook.secret_ref.key.clone(),
        });
    }
    let spec = spec.checked(&limits).map_err(|e| match e.field() {
        "inputUrl" => Refusal::field("input.url", plain_address()),
        "webhookUrl" => Refusal::field("webhook.url", plain_address()),
        _ => Refusal::field("", e),
    })?;
    Ok(Submission { spec, start })
}

/// The number of attempts, if it may be asked for. Who leaves it out asks for the default, which the API server fills in.
fn attempts(backoff_limit: i32, limits: JobLimits) -> Option<u32> {
    if backoff_limit == default_backoff_limit() {
        return Some(limits.default_attempts());
    }
    let attempts = u32::try_from(backoff_limit).ok()?.checked_add(1)?;
    (attempts <= limits.attempts).then_some(attempts)
}

fn failure_policy(asked: &TranscodeJobSpec) -> FailurePolicy {
    let rules = asked.failure_policy.iter().flat_map(|policy| &policy.rules);
    let rule =
        |rule: &FailureRuleSpec| FailureRule { action: rule.action, error_codes: rule.error_codes.clone() };
    FailurePolicy(rules.map(rule).collect())
}

/// The size that is announced for an upload.
fn file_size(asked: &TranscodeJobSpec) -> Result<Option<u64>, Refusal> {
    let size = asked.input.upload.as_ref().and_then(|upload| upload.file_size);
    let size = size.map(|size| u64::try_from(size).ok().filter(|size| *size > 0).ok_or(()));
    size.transpose().map_err(|()| Refusal::field("input.upload.fileSize", "it must be 1 or more"))
}

/// The only content type that storage is to accept for an upload, if it is announced.
pub(crate) fn signed_type(asked: &TranscodeJobSpec) -> Result<Option<MediaType>, Refusal> {
    let name = asked.input.upload.as_ref().and_then(|upload| upload.content_type.as_deref());
    name.map(|name| name.parse().map_err(|e| Refusal::field("input.upload.contentType", e))).transpose()
}

fn input(
    asked: &TranscodeJobSpec,
    id: JobId,
    namespace: &str,
    rules: Rules,
) -> Result<(Input, SubmitMode), Refusal> {
    let input = &asked.input;
    match (&input.key, &input.url, &input.upload) {
        (Some(key), None, None) => {
            let key: ObjectKey = key.parse().map_err(|e| Refusal::field("input.key", e))?;
            if rules.tenant_prefixes && !layout::is_of_tenant(namespace, &key) {
                return Err(Refusal::field("input.key", of_another_tenant(namespace)));
            }
            Ok((Input::Key(key), SubmitMode::Now))
        }
        (None, Some(url), None) => Ok((Input::Url(address("input.url", url, rules.guard)?), SubmitMode::Now)),
        (None, None, Some(upload)) => {
            let name = upload.file_name.as_deref().unwrap_or("video");
            let key = match rules.tenant_prefixes {
                true => layout::tenant_input_key(namespace, id, name),
                false => layout::input_key(id, name),
            };
            let key = key.map_err(|e| Refusal::field("input.upload.fileName", e))?;
            if rules.tenant_prefixes && !layout::is_of_tenant(namespace, &key) {
                return Err(Refusal::field("input.upload", of_another_tenant(namespace)));
            }
            Ok((Input::Key(key), SubmitMode::OnUpload(UPLOAD_WAIT)))
        }
        _ => Err(Refusal::field("input", "name the video by exactly one of key, url and upload")),
    }
}

fn of_another_tenant(namespace: &str) -> String {
    match layout::is_reserved(namespace) {
        true => format!(
            "the prefix {namespace}/ is that of the installation, so the namespace has no objects of its own"
        ),
        false => format!(
            "the key must begin with {namespace}/, because this installation limits each namespace to its own objects"
        ),
    }
}

const fn plain_address() -> &'static str {
    "it must be an http or https address without user name or password"
}

fn address(field: &str, text: &str, guard: EgressPolicy) -> Result<Url, Refusal> {
    let url: Url = text.parse().map_err(|_| Refusal::field(field, plain_address()))?;
    net::check_url(guard, &url).map_err(|e| Refusal::field(field, e))?;
    Ok(url)
}

/// Whether a queued job still matches the object. Mutable fields of the spec are ignored.
#[must_use]
pub(crate) fn same(queued: &JobSpec, requested: &JobSpec) -> bool {
    // The number of attempts of an object that names none depends on the limits at its submission.
    let usual = JobSpec::default_attempts();
    let attempts = queued.max_attempts;
    let is_usual = requested.max_attempts == usual && attempts < usual;
    if attempts != requested.max_attempts && !is_usual {
        return false;
    }
    let fixed = |spec: &JobSpec| {
        (
            spec.input.clone(),
            spec.preset,
            spec.output_qualities.clone(),
            spec.stills,
            spec.priority,
            spec.parallelism,
            spec.webhook_url.clone(),
            spec.webhook_key.clone(),
        )
    };
    // An operator that knows no such policy, or no classes, has queued the job without.
    let is_unknown = queued.failure_policy.is_empty();
    let is_same_policy = is_unknown || queued.failure_policy == requested.failure_policy;
    let is_same_class = queued.worker_class.is_default() || queued.worker_class == requested.worker_class;
    is_same_policy && is_same_class && fixed(queued) == fixed(requested)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const RULES: Rules =
        Rules { guard: EgressPolicy::PublicOnly, limits: JobLimits::HIGHEST, tenant_prefixes: false };

    fn id() -> JobId {
        "7d444840-9dc0-11d1-b245-5ffdce74fad2".parse().unwrap()
    }

    fn object(spec: Value) -> TranscodeJob {
        let object = json!({
            "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob",
            "metadata": {"name": "film", "namespace": "media"}, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn of(spec: Value) -> Result<Submission, Refusal> {
        to_submission(&object(spec), id(), RULES)
    }

    #[test]
    fn everything_that_is_asked_for_reaches_the_queue() {
        let to_submission = of(json!({
            "input": {"url": "https://example.com/a.mp4"}, "preset": "hls", "qualities": ["360p", "720p"],
            "priority": -3, "backoffLimit": 0, "activeDeadlineSeconds": 60, "workerClass": "large",
            "webhook": {"url": "https://example.com/hook", "secretRef": {"name": "hook"}},
        }))
        .unwrap();
        assert_eq!(to_submission.start, SubmitMode::Now);
        let spec = serde_json::to_value(&to_submission.spec).unwrap();
        let expected = json!({
            "inputUrl": "https://example.com/a.mp4", "preset": "hls", "outputQualities": ["720p", "360p"],
            "priority": -3, "workerClass": "large", "maxAttempts": 1, "deadlineSeconds": 604_800, "origin": "kubernetes",
            "webhookUrl": "https://example.com/hook",
            "webhookKey": {"namespace": "media", "name": "hook", "key": "secret"},
        });
        assert_eq!(spec, expected);
    }

    #[test]
    fn an_upload_waits_for_its_video_below_the_jobs_own_key() {
        let to_submission = of(json!({"input": {"upload": {"fileName": "My film.mov"}}})).unwrap();
        assert_eq!(to_submission.start, SubmitMode::OnUpload(UPLOAD_WAIT));
        assert_eq!(
            to_submission.spec.input,
            Input::Key(format!("inputs/{}/My-film.mov", id()).parse().unwrap())
        );
    }

    #[test]
    fn announced_size_of_an_upload_is_that_of_the_job() {
        let upload = |upload: Value| of(json!({"input": {"upload": upload}}));
        let named = upload(json!({"fileSize": 7, "contentType": "video/mp4; codecs=avc1"})).unwrap();
        assert_eq!(named.spec.file_size, Some(7));
        assert_eq!(upload(json!({})).unwrap().spec.file_size, None);
        for (wrong, field) in [
            (json!({"fileSize": 0}), "spec.input.upload.fileSize"),
            (json!({"fileSize": -1}), "spec.input.upload.fileSize"),
            (json!({"contentType": "film"}), "spec.input.upload.contentType"),
        ] {
            let refusal = upload(wrong).unwrap_err();
            assert!(refusal.message.starts_with(field), "{refusal}");
        }
    }

    /// Specs that an API server with CEL rejects at admission, and specs that no API server can reject.
    #[test]
    fn what_cannot_be_names_its_field_and_what_to_do() {
        let key = json!({"key": "a.mp4"});
        let hook = |url: &str| json!({"input": key, "webhook": {"url": url, "secretRef": {"name": "s"}}});
        for (field, spec) in [
            ("spec.input:", json!({"input": {}})),
            ("spec.input:", json!({"input": {"key": "a", "url": "https://example.com"}})),
            ("spec.input:", json!({"input": {"key": "a", "upload": {}}})),
            ("spec.input.key:", json!({"input": {"key": "../a"}})),
            ("spec.input.url:", json!({"input": {"url": "https://u:p@example.com/a.mp4"}})),
            ("spec.input.url:", json!({"input": {"url": "ftp://example.com/a.mp4"}})),
            ("spec.input.url:", json!({"input": {"url": "no address"}})),
            ("spec.input.url:", json!({"input": {"url": "http://169.254.169.254/latest"}})),
            ("spec.input.url:", json!({"input": {"url": "http://[::1]/a.mp4"}})),
            ("spec.webhook.url:", hook("http://10.0.0.1/")),
            ("spec.webhook.url:", hook("https://u@example.com/")),
            ("spec.qualities:", json!({"input": key, "qualities": []})),
            ("spec.qualities:", json!({"input": key, "qualities": ["360p", "360p"]})),
            ("spec.priority:", json!({"input": key, "priority": 101})),
            ("spec.backoffLimit:", json!({"input": key, "backoffLimit": 20})),
            ("spec.backoffLimit:", json!({"input": key, "backoffLimit": -1})),
            ("spec.activeDeadlineSeconds:", json!({"input": key, "activeDeadlineSeconds": 0})),
        ] {
            let refused = of(spec).unwrap_err();
            assert!(refused.message.starts_with(field), "{field} {refused:?}");
            assert_eq!(refused.reason, reason::INVALID_SPEC);
            assert!(!refused.message.contains("u:p"), "{refused:?}");
        }
    }

    #[test]
    fn more_than_the_installation_permits_is_refused_and_defaults_are_less() {
        let limits = JobLimits { deadline_seconds: 600, attempts: 2, priority: Priority::default() };
        let rules = Rules { limits, ..RULES };
        let of = |spec: Value| to_submission(&object(spec), id(), rules);
        let key = json!({"key": "a.mp4"});
        for (field, value, most) in [
            ("priority", 1, "to 0"),
            ("backoffLimit", 3, "0 to 1"),
            ("activeDeadlineSeconds", 601, "1 to 600"),
        ] {
            let refused = of(json!({"input": key, field: value})).unwrap_err();
            assert!(refused.message.starts_with(&format!("spec.{field}:")), "{refused:?}");
            assert!(refused.message.contains(most), "{refused:?}");
        }
        let spec = of(json!({"input": key})).unwrap().spec;
        assert_eq!((spec.max_attempts, spec.deadline_seconds), (2, 600));
        let spec = of(json!({"input": key, "backoffLimit": 0, "activeDeadlineSeconds": 60})).unwrap().spec;
        assert_eq!((spec.max_attempts, spec.deadline_seconds), (1, 600));
    }

    /// It can be changed at any time, and what is submitted cannot.
    #[test]
    fn active_deadline_is_not_part_of_what_is_submitted() {
        let of = |seconds: Value| {
            of(json!({"input": {"key": "a.mp4"}, "activeDeadlineSeconds": seconds})).unwrap().spec
        };
        let without = of(Value::Null);
        assert_eq!(without.deadline_seconds, JobLimits::HIGHEST.deadline_seconds);
        for seconds in [1, 60, 604_800] {
            assert_eq!(of(json!(seconds)), without, "{seconds}");
        }
    }

    #[test]
    fn namespace_reads_only_its_own_objects_where_tenants_have_prefixes() {
        let rules = Rules { tenant_prefixes: true, ..RULES };
        let of = |spec: Value| to_submission(&object(spec), id(), rules);
        for key in ["a.mp4", "mediator/a.mp4", "films/media/a.mp4", "media"] {
            let refused = of(json!({"input": {"key": key}})).unwrap_err();
            assert!(refused.message.contains("must begin with media/"), "{key} {refused:?}");
        }
        assert!(of(json!({"input": {"key": "media/a.mp4"}})).is_ok());
        let upload = of(json!({"input": {"upload": {"fileName": "a.mov"}}})).unwrap().spec.input;
        assert_eq!(upload, Input::Key(format!("media/inputs/{}/a.mov", id()).parse().unwrap()));
        let mut of_inputs = object(json!({"input": {"key": "inputs/a.mp4"}}));
        of_inputs.metadata.namespace = Some("inputs".into());
        let refused = to_submission(&of_inputs, id(), rules).unwrap_err();
        assert!(refused.message.contains("that of the installation"), "{refused:?}");
    }

    #[test]
    fn only_what_may_not_change_makes_a_job_another() {
        let base = json!({"input": {"key": "a.mp4"}, "preset": "hls", "workerClass": "small"});
        let queued = of(base.clone()).unwrap().spec;
        for (field, value, still) in [
            ("suspend", json!(true), true),
            ("activeDeadlineSeconds", json!(5), true),
            ("ttlSecondsAfterFinished", json!(5), true),
            ("preset", json!("default"), false),
            ("priority", json!(1), false),
            ("workerClass", json!("large"), false),
            ("qualities", json!(["144p"]), false),
            ("backoffLimit", json!(1), false),
            ("input", json!({"key": "b.mp4"}), false),
        ] {
            let mut spec = base.clone();
            spec[field] = value;
            assert_eq!(same(&queued, &of(spec).unwrap().spec), still, "{field}");
        }
        // An operator that knows no classes has queued it.
        let without = JobSpec { worker_class: crate::job::WorkerClass::default(), ..queued.clone() };
        assert!(same(&without, &queued));
    }
}
