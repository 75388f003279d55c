//! The parameters of a job.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use strum::VariantArray;
use url::Url;

use super::failure_policy::FailurePolicy;
use super::key::ObjectKey;
use super::preset::Preset;
use super::quality::Ladder;
use super::task::Parallelism;
use super::worker_class::WorkerClass;

/// The source of the video. In JSON this is one of `inputKey` and `inputUrl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// An object in the input bucket.
    #[serde(rename = "inputKey")]
    Key(ObjectKey),
    /// A public http(s) URL.
    #[serde(rename = "inputUrl")]
    Url(Url),
}

impl Input {
    /// The name of the file: the last part of its key or URL.
    #[must_use]
    pub fn file_name(&self) -> Option<String> {
        let name = match self {
            Self::Key(key) => key.file_name(),
            Self::Url(url) => url.path_segments()?.next_back()?,
        };
        (!name.is_empty()).then(|| name.to_owned())
    }
}

/// The urgency of a job, -100 to 100, by default 0. One point is worth a minute of waiting, so urgent jobs
/// overtake others but no job starves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "i64", into = "i64")]
#[schemars(extend("format" = "int32", "minimum" = -100, "maximum" = 100))]
pub struct Priority(i64);

impl Priority {
    /// Milliseconds of waiting that one point is worth.
    pub const BOOST_MS: i64 = 60_000;
    /// The highest.
    pub const HIGHEST: Self = Self(100);

    /// The priority as a number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for Priority {
    type Error = SpecError;
    fn try_from(n: i64) -> Result<Self, SpecError> {
        let most = Self::HIGHEST.0;
        if (-100..=most).contains(&n) { Ok(Self(n)) } else { Err(SpecError::Priority { asked: n, most }) }
    }
}

impl From<Priority> for i64 {
    fn from(p: Priority) -> Self {
        p.0
    }
}

/// How a job was submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Through the HTTP API.
    #[default]
    Api,
    /// By a TranscodeJob in a cluster.
    Kubernetes,
    /// By an object that was uploaded without a job.
    Storage,
}

/// A key of a Secret in the cluster of the controller that submitted the job: a reference, never the secret
/// itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// The Secret's namespace.
    pub namespace: String,
    /// The name of the Secret.
    pub name: String,
    /// The key in the Secret.
    pub key: String,
}

/// Still images that can be made besides the renditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, VariantArray)]
#[serde(rename_all = "lowercase")]
pub enum Still {
    /// A JPEG from the beginning of the video.
    Poster,
    /// Small images from the whole video in one JPEG, with a WebVTT file that gives the time of each.
    Storyboard,
}

impl Still {
    /// Both stills.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The title and a sentence, for the web page.
    #[must_use]
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Poster => ("Poster", "A picture of the beginning, for the player and for links."),
            Self::Storyboard => ("Preview pictures", "Small pictures that show the place under a seek bar."),
        }
    }
}

/// The stills that a job requests. In JSON this is a list of their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Still>", into = "Vec<Still>")]
pub struct Stills {
    /// Whether [`Still::Poster`] is requested.
    pub poster: bool,
    /// Whether [`Still::Storyboard`] is requested.
    pub storyboard: bool,
}

impl Stills {
    /// Whether no still is requested.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.poster && !self.storyboard
    }
}

impl From<Vec<Still>> for Stills {
    fn from(list: Vec<Still>) -> Self {
        Self { poster: list.contains(&Still::Poster), storyboard: list.contains(&Still::Storyboard) }
    }
}

impl From<Stills> for Vec<Still> {
    fn from(stills: Stills) -> Self {
        let poster = stills.poster.then_some(Still::Poster);
        poster.into_iter().chain(stills.storyboard.then_some(Still::Storyboard)).collect()
    }
}

impl JsonSchema for Stills {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stills".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let still = generator.subschema_for::<Still>();
        json_schema!({"type": "array", "items": still})
    }
}

/// The parameters of a job. They are immutable once it is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSpec {
    /// The source of the video.
    #[serde(flatten)]
    pub input: Input,
    /// The size in bytes that was announced for the upload of the video; one of another size is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_size: Option<u64>,
    /// The kind of output.
    #[serde(default)]
    pub preset: Preset,
    /// The renditions; if empty, the preset decides.
    #[serde(default)]
    pub output_qualities: Ladder,
    /// The stills besides the renditions: `poster`, `storyboard`.
    #[serde(default, skip_serializing_if = "Stills::is_empty")]
    pub stills: Stills,
    /// The URL that receives a webhook when the job ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<Url>,
    /// The Secret with the key that signs the webhook; absent if it is the installation's own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_key: Option<SecretRef>,
    /// The urgency.
    #[serde(default)]
    pub priority: Priority,
    /// Maximum number of attempts, 1 to 20.
    #[serde(default = "JobSpec::default_attempts")]
    pub max_attempts: u32,
    /// Maximum duration of one attempt in seconds.
    #[serde(default = "JobSpec::default_deadline")]
    pub deadline_seconds: u32,
    /// Which failures of an attempt end the job at once, and which are tried again.
    #[serde(default, skip_serializing_if = "FailurePolicy::is_empty")]
    pub failure_policy: FailurePolicy,
    /// How many chunks of the video are encoded at once.
    #[serde(default, skip_serializing_if = "Parallelism::is_auto")]
    pub parallelism: Parallelism,
    /// The class of the workers that may run it.
    #[serde(default, skip_serializing_if = "WorkerClass::is_default")]
    pub worker_class: WorkerClass,
    /// How it was submitted.
    #[serde(default)]
    pub origin: Origin,
}

/// The most that the caller of an installation may ask for. The defaults of a job are never above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// Maximum duration of one attempt, seconds.
    pub deadline_seconds: u32,
    /// Maximum number of attempts.
    pub attempts: u32,
    /// Maximum urgency.
    pub priority: Priority,
}

impl JobLimits {
    /// What no installation exceeds: a week, 20 attempts, and the highest priority.
    pub const HIGHEST: Self = Self { deadline_seconds: 604_800, attempts: 20, priority: Priority::HIGHEST };

    /// Maximum number of attempts for a caller who asks for none.
    #[must_use]
    pub fn default_attempts(&self) -> u32 {
        JobSpec::default_attempts().min(self.attempts)
    }

    /// Maximum duration of one attempt for a caller who asks for none, seconds.
    #[must_use]
    pub fn default_deadline(&self) -> u32 {
        JobSpec::default_deadline().min(self.deadline_seconds)
    }
}

impl Default for JobLimits {
    fn default() -> Self {
        Self::HIGHEST
    }
}

/// The spec is not valid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// The priority is out of range.
    #[error("priority is {asked}; it must be from -100 to {most}")]
    Priority {
        /// What was asked for.
        asked: i64,
        /// The most that may be asked for.
        most: i64,
    },
    /// The number of attempts is out of range.
    #[error("maxAttempts is {asked}; it must be from 1 to {most}")]
    Attempts {
        /// What was asked for.
        asked: u32,
        /// The most that may be asked for.
        most: u32,
    },
    /// The deadline is out of range.
    #[error("deadlineSeconds is {asked}; it must be from 1 to {most}")]
    Deadline {
        /// What was asked for.
        asked: u32,
        /// The most that may be asked for.
        most: u32,
    },
    /// The URL is not http(s), or contains a password.
    #[error("{0} must be an http or https address without user name or password")]
    Address(&'static str),
}

impl SpecError {
    /// The name of the invalid JSON field.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Priority { .. } => "priority",
            Self::Attempts { .. } => "maxAttempts",
            Self::Deadline { .. } => "deadlineSeconds",
            Self::Address(field) => field,
        }
    }
}

impl JobSpec {
    /// A spec for `input` with defaults for everything else.
    #[must_use]
    pub fn new(input: Input, preset: Preset, output_qualities: Ladder) -> Self {
        Self {
            input,
            file_size: None,
            preset,
            output_qualities,
            stills: Stills::default(),
            webhook_url: None,
            webhook_key: None,
            priority: Priority::default(),
            max_attempts: Self::default_attempts(),
            deadline_seconds: Self::default_deadline(),
            failure_policy: FailurePolicy::default(),
            parallelism: Parallelism::default(),
            worker_class: WorkerClass::default(),
            origin: Origin::default(),
        }
    }

    /// The default number of attempts.
    pub(crate) const fn default_attempts() -> u32 {
        3
    }

    /// The default maximum duration of an attempt, seconds.
    pub(crate) const fn default_deadline() -> u32 {
        6 * 3600
    }

    /// Whether a request for this job is the same as that for the other. A version that does not know the size of the file is
    /// no difference.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let either_is_unknown = self.file_size.is_none() || other.file_size.is_none();
        let file_size = if either_is_unknown { other.file_size } else { self.file_size };
        Self { file_size, ..self.clone() } == *other
    }

    /// This spec without the queries of its addresses, which often contain a signature or a token.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        if let Input::Url(url) = &mut self.input {
            redact(url);
        }
        self.webhook_url.as_mut().map(redact);
        self
    }

    /// Returns this spec if its URLs are valid and its numbers are within these limits.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn checked(self, limits: &JobLimits) -> Result<Self, SpecError> {
        if self.priority > limits.priority {
            return Err(SpecError::Priority { asked: self.priority.get(), most: limits.priority.get() });
        }
        if !(1..=limits.attempts).contains(&self.max_attempts) {
            return Err(SpecError::Attempts { asked: self.max_attempts, most: limits.attempts });
        }
        if !(1..=limits.deadline_seconds).contains(&self.deadline_seconds) {
            let (asked, most) = (self.deadline_seconds, limits.deadline_seconds);
            return Err(SpecError::Deadline { asked, most });
        }
        if let Input::Url(url) = &self.input {
            check_address(url, "inputUrl")?;
        }
        if let Some(url) = &self.webhook_url {
            check_address(url, "webhookUrl")?;
        }
        Ok(self)
    }
}

fn redact(url: &mut Url) {
    if url.query().is_some() {
        url.set_query(Some("redacted"));
    }
    url.set_fragment(None);
}

fn check_address(url: &Url, field: &'static str) -> Result<(), SpecError> {
    let plain = url.username().is_empty() && url.password().is_none();
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    if plain && web && url.as_str().len() <= 2048 { Ok(()) } else { Err(SpecError::Address(field)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(url: &str) -> JobSpec {
        JobSpec::new(Input::Url(url.parse().unwrap()), Preset::Hls, Ladder::default())
    }

    #[test]
    fn json_is_flat_and_named_as_the_original_has_it() {
        let json = serde_json::to_value(spec("https://example.com/a.mp4")).unwrap();
        assert_eq!(json["inputUrl"], "https://example.com/a.mp4");
        assert_eq!(json["outputQualities"], serde_json::json!([]));
        let back: JobSpec =
            serde_json::from_str(r#"{"inputKey":"a.mp4","outputQualities":["360p"]}"#).unwrap();
        assert_eq!(back.preset, Preset::Default);
        assert_eq!(back.max_attempts, 3);
    }

    #[test]
    fn stills_are_a_list_of_names() {
        let both = Stills { poster: true, storyboard: true };
        assert_eq!(serde_json::to_value(both).unwrap(), serde_json::json!(["poster", "storyboard"]));
        let one: Stills = serde_json::from_str(r#"["storyboard", "storyboard"]"#).unwrap();
        assert_eq!(one, Stills { poster: false, storyboard: true });
        assert!(serde_json::from_str::<Stills>(r#"["cartoon"]"#).is_err());
        assert!(serde_json::to_value(spec("https://example.com/a.mp4")).unwrap().get("stills").is_none());
    }

    #[test]
    fn spec_is_the_same_where_one_version_does_not_know_the_size_of_the_file() {
        let sized = |file_size| JobSpec { file_size, ..spec("https://example.com/a.mp4") };
        assert!(sized(None).is_same(&sized(Some(7))) && sized(Some(7)).is_same(&sized(None)));
        assert!(sized(Some(7)).is_same(&sized(Some(7))) && !sized(Some(7)).is_same(&sized(Some(8))));
        assert!(!sized(None).is_same(&spec("https://example.com/b.mp4")));
    }

    #[test]
    fn redacted_addresses_have_no_query() {
        let shown = |url: &str| match spec(url).redacted().input {
            Input::Url(url) => url.to_string(),
            Input::Key(key) => key.to_string(),
        };
        assert_eq!(
            shown("https://h.example/a.mp4?X-Amz-Signature=hush#hush"),
            "https://h.example/a.mp4?redacted"
        );
        assert_eq!(shown("https://h.example/a.mp4"), "https://h.example/a.mp4");
        let webhook = Some("https://h.example/hook?token=hush".parse().unwrap());
        let redacted = JobSpec { webhook_url: webhook, ..spec("https://h.example/") }.redacted();
        assert_eq!(redacted.webhook_url.unwrap().as_str(), "https://h.example/hook?redacted");
    }

    #[test]
    fn numbers_and_addresses_are_bounded() {
        let ok = spec("https://example.com/a.mp4");
        let all = JobLimits::HIGHEST;
        assert!(ok.clone().checked(&all).is_ok());
        let mut s = ok.clone();
        s.max_attempts = 0;
        assert_eq!(s.checked(&all).unwrap_err().field(), "maxAttempts");
        let mut s = ok.clone();
        s.deadline_seconds = 604_801;
        assert_eq!(s.checked(&all).unwrap_err().field(), "deadlineSeconds");
        let few = JobLimits { deadline_seconds: 60, attempts: 2, priority: Priority(5) };
        assert_eq!(ok.clone().checked(&few).unwrap_err().field(), "maxAttempts");
        let fits = JobSpec { deadline_seconds: 60, max_attempts: 2, priority: Priority(5), ..ok };
        assert!(fits.clone().checked(&few).is_ok());
        let urgent = JobSpec { priority: Priority(6), ..fits.clone() };
        assert_eq!(urgent.checked(&few).unwrap_err().to_string(), "priority is 6; it must be from -100 to 5");
        let long = JobSpec { deadline_seconds: 61, ..fits };
        assert_eq!(long.checked(&few).unwrap_err(), SpecError::Deadline { asked: 61, most: 60 });
        for url in ["ftp://example.com/a", "file:///etc/passwd", "http://u:p@example.com/", "http://u@h/"] {
            assert_eq!(spec(url).checked(&all).unwrap_err().field(), "inputUrl", "{url}");
        }
        assert!(Priority::try_from(101).is_err());
    }
}
