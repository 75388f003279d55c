//! Webhooks: signed messages about the end of jobs, and the rules of the outbox.
//!
//! The script that ends a job writes a delivery to Redis (`queue::outbox`). This module claims deliveries, signs them
//! by Standard Webhooks <https://www.standardwebhooks.com>, sends them, and retries with growing pauses for a day. A
//! message has the same id in all attempts, so that a receiver can recognise duplicates.

mod receivers;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};
use url::Url;

use crate::job::{Job, JobSpec, Millis, State};
use crate::net::{EgressPolicy, PostError, WebhookHttp};
use crate::queue::{Delivery, DeliveryState, Outbox, Queue, QueueError, backoff};
use crate::storage::urls::{UrlSigner, now_millis};
use crate::time::Instant;
use receivers::Receivers;

/// Pause after the first failed attempt; it is doubled each time up to [`RETRY_CAP`].
const RETRY_BASE: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(3600);
/// A delivery is abandoned this long after its first attempt, milliseconds.
const GIVE_UP_MS: i64 = 24 * 3600 * 1000;
/// Maximum time for a receiver to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a claimed delivery belongs to this process.
const HOLD: Duration = Duration::from_secs(60);
/// Maximum number of concurrent deliveries.
pub(crate) const MAX_CONCURRENT_DELIVERIES: usize = 32;

/// Webhooks cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The secret is not valid.
    #[error(
        "WEBHOOK_SECRET cannot be used: it must be `whsec_` and 24 to 64 bytes in base64; \
         `echo whsec_$(openssl rand -base64 32)` makes one"
    )]
    Secret,
    /// The HTTP client cannot be created.
    #[error("webhooks cannot be sent: {0}")]
    Client(#[from] reqwest::Error),
    /// A message could not be serialised.
    #[error("a webhook message could not be written: {0}")]
    Message(String),
}

/// The message about a job's end.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobEnded")]
pub(crate) struct Message<'a> {
    /// How the job ended.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// When the job ended.
    // RFC 3339, as Standard Webhooks requires.
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: String,
    /// The job.
    pub data: &'a Job,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "JobEndedType")]
pub(crate) enum MessageType {
    /// The beginning of the video is in storage, and players can play it; the job is not finished.
    #[serde(rename = "job.playable")]
    Playable,
    /// The outputs of the job are in storage.
    #[serde(rename = "job.completed")]
    Completed,
    /// The job has failed, and is not retried unless a client requests it.
    #[serde(rename = "job.failed")]
    Failed,
    /// A client cancelled the job.
    #[serde(rename = "job.cancelled")]
    Cancelled,
}

impl MessageType {
    /// The type of the message for this state; `None` if the job has not ended.
    const fn of(state: State) -> Option<Self> {
        match state {
            State::Completed => Some(Self::Completed),
            State::Failed => Some(Self::Failed),
            State::Cancelled => Some(Self::Cancelled),
            State::Playable => Some(Self::Playable),
            State::Uploading | State::Queued | State::Running => None,
        }
    }
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DeliveryOutcome {
    Delivered,
    /// A retry may succeed.
    Failed(String),
    /// A retry will not succeed.
    Permanent(String),
}

/// Signs messages. Never shows its secret.
pub struct Key(Webhook);

impl Key {
    /// A key from this secret.
    ///
    /// # Errors
    /// If the secret is not valid.
    pub fn new(secret: &SecretString) -> Result<Self, WebhookError> {
        use base64::Engine as _;
        let text = secret.expose_secret();
        let encoded = text.strip_prefix("whsec_").ok_or(WebhookError::Secret)?;
        let key = base64::engine::general_purpose::STANDARD.decode(encoded);
        let key = key.map_err(|_| WebhookError::Secret)?;
        if !(24..=64).contains(&key.len()) {
            return Err(WebhookError::Secret);
        }
        Webhook::from_bytes(key).map(Self).map_err(|_| WebhookError::Secret)
    }
}

/// A signing key is not available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUnavailable {
    /// It may be available later. Contains the reason.
    NotNow(String),
    /// It will never be available. Contains the reason.
    Never(String),
}

/// Finds the keys that sign the webhooks of jobs.
pub trait SigningKeys: Send + Sync {
    /// The key for this job.
    fn key<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Arc<Key>, KeyUnavailable>>;
}

/// The one key of an installation, for all jobs.
pub(crate) struct StaticKey(Arc<Key>);

impl StaticKey {
    /// A key from this secret.
    ///
    /// # Errors
    /// If the secret is not valid.
    pub(crate) fn new(secret: &SecretString) -> Result<Self, WebhookError> {
        Key::new(secret).map(|key| Self(Arc::new(key)))
    }
}

impl SigningKeys for StaticKey {
    fn key<'a>(&'a self, _: &'a Job) -> BoxFuture<'a, Result<Arc<Key>, KeyUnavailable>> {
        std::future::ready(Ok(Arc::clone(&self.0))).boxed()
    }
}

/// Sends the deliveries of one outbox.
pub struct WebhookSender {
    /// The outbox whose deliveries are sent.
    pub outbox: Outbox,
    /// The client that calls the receivers.
    pub caller: WebhookClient,
    /// The signing keys.
    pub keys: Arc<dyn SigningKeys>,
    receivers: Receivers,
}

impl WebhookSender {
    /// A sender of the deliveries of this outbox.
    #[must_use]
    pub fn new(outbox: Outbox, caller: WebhookClient, keys: Arc<dyn SigningKeys>) -> Self {
        Self { outbox, caller, keys, receivers: Receivers::default() }
    }

    /// A sender with the installation's own key.
    ///
    /// # Errors
    /// If the secret is not valid.
    pub fn of_installation(secret: &SecretString, guard: EgressPolicy) -> Result<Self, WebhookError> {
        let keys = Arc::new(StaticKey::new(secret)?);
        Ok(Self::new(Outbox::Installation, WebhookClient::new(guard)?, keys))
    }
}

/// Calls receivers. Cheap to clone.
#[derive(Clone)]
pub struct WebhookClient(WebhookHttp);

impl WebhookClient {
    /// A client that calls only the addresses which `guard` permits.
    ///
    /// # Errors
    /// If the machine's certificates cannot be loaded.
    pub fn new(guard: EgressPolicy) -> Result<Self, WebhookError> {
        Ok(Self(WebhookHttp::new(guard, ANSWER_TIMEOUT)?))
    }

    async fn send(&self, key: &Key, url: &Url, id: &str, now: Millis, body: String) -> DeliveryOutcome {
        let Some(headers) = headers(key, id, now.0 / 1000, &body) else {
            return DeliveryOutcome::Permanent("the message could not be signed".into());
        };
        match self.0.post(url, headers, body).await {
            Ok(status) => classify_status(status),
            Err(PostError::UrlRefused(refused)) => DeliveryOutcome::Permanent(refused.to_string()),
            Err(error) => DeliveryOutcome::Failed(error.to_string()),
        }
    }
}

fn headers(key: &Key, id: &str, seconds: i64, body: &str) -> Option<HeaderMap> {
    let signature = key.0.sign(id, seconds, body.as_bytes()).ok()?;
    let texts = [
        (HEADER_WEBHOOK_ID, id.to_owned()),
        (HEADER_WEBHOOK_TIMESTAMP, seconds.to_string()),
        (HEADER_WEBHOOK_SIGNATURE, signature),
    ];
    let mut headers =
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    for (name, text) in texts {
        headers.insert(HeaderName::from_static(name), text.parse().ok()?);
    }
    Some(headers)
}

/// Interprets the status of a response: 2xx means delivered, 410 ends the retries (as Standard Webhooks defines), and
/// everything else is retried.
fn classify_status(status: StatusCode) -> DeliveryOutcome {
    if status.is_success() {
        DeliveryOutcome::Delivered
    } else if status == StatusCode::GONE {
        DeliveryOutcome::Permanent("the receiver answered 410 Gone".into())
    } else if status.is_redirection() {
        let status = status.as_u16();
        DeliveryOutcome::Failed(format!(
            "the receiver redirects ({status}); webhookUrl must be its final address"
        ))
    } else {
        DeliveryOutcome::Failed(format!("the receiver answered {}", status.as_u16()))
    }
}

/// The minimum and maximum pause after a failed attempt, or `None` to abandon the delivery.
fn next_wait(state: &DeliveryState, now: Millis) -> Option<(Duration, Duration)> {
    let first = state.first_try.unwrap_or(now);
    if now.0 - first.0 >= GIVE_UP_MS {
        return None;
    }
    let most = backoff::ceiling(state.failures, RETRY_BASE, RETRY_CAP);
    Some((most / 2, most))
}

/// Claims up to `room` due deliveries for a minute. Also returns when the next one is due.
///
/// # Errors
/// If Redis fails.
pub(crate) async fn take(
    queue: &Queue,
    outbox: Outbox,
    now: Millis,
    room: usize,
) -> Result<(Vec<(Delivery, DeliveryState)>, Option<Millis>), QueueError> {
    queue.claim_deliveries(outbox, now, u32::try_from(room).unwrap_or(u32::MAX), HOLD).await
}

/// Whether the delivery still belongs to the current state of the job: its end, or that it can be played. After a retry the job continues, and its next
/// end has a delivery of its own.
fn is_current(delivery: &Delivery, job: &Job) -> bool {
    let by = match delivery.state {
        State::Playable => job.split_by(),
        _ => Some(job.ended_by()),
    };
    (Some(delivery.attempt), delivery.state) == (by, job.status)
}

/// Attempts one delivery that was claimed at `now`. Returns the pause before a retry, if there is one.
///
/// # Errors
/// If Redis fails; the delivery is then due again a minute after it was claimed.
pub(crate) async fn deliver(
    queue: &Queue,
    mail: &WebhookSender,
    links: &UrlSigner,
    now: Millis,
    delivery: Delivery,
    mut state: DeliveryState,
) -> Result<Option<Duration>, QueueError> {
    let began = Instant::now();
    let done = async || queue.remove_delivery(&delivery).await.map(|()| None);
    let job_id = delivery.attempt.job;
    let job = queue.get(job_id).await?;
    let Some((job, url)) = job.and_then(|job| Some((job.clone(), job.spec.webhook_url?))) else {
        return done().await;
    };
    if !is_current(&delivery, &job) {
        tracing::info!(job = %job_id, state = %delivery.state, now = %job.status, "webhook delivery dropped: the job has gone on");
        return done().await;
    }
    let receiver =
        format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let owner = job.owner.as_ref().map(ToString::to_string);
    let _in_flight = match mail.receivers.begin(receiver, owner) {
        Ok(in_flight) => in_flight,
        Err(pause) => {
            // This is no attempt, but the day in which it is tried begins.
            state.first_try.get_or_insert(now);
            let from_now = i64::try_from((began.elapsed() + pause).as_millis()).unwrap_or(i64::MAX);
            queue.retry_delivery(&delivery, &state, now.plus(from_now)).await?;
            return Ok(Some(pause));
        }
    };
    let epoch = match delivery.state {
        State::Playable => delivery.attempt.epoch,
        _ => job.webhook_epoch(),
    };
    let id = format!("msg_{job_id}_{epoch}_{}", delivery.state);
    let outcome = match mail.keys.key(&job).await {
        Ok(key) => match body(&delivery, job, links) {
            Ok(body) => mail.caller.send(&key, &url, &id, now_millis(), body).await,
            Err(error) => DeliveryOutcome::Failed(error.to_string()),
        },
        Err(KeyUnavailable::NotNow(why)) => DeliveryOutcome::Failed(why),
        Err(KeyUnavailable::Never(why)) => DeliveryOutcome::Permanent(why),
    };
    let why = match outcome {
        DeliveryOutcome::Delivered => {
            tracing::info!(job = %job_id, state = %delivery.state, "webhook delivered");
            return done().await;
        }
        DeliveryOutcome::Permanent(why) => {
            tracing::warn!(job = %job_id, why, "webhook delivery abandoned");
            return done().await;
        }
        DeliveryOutcome::Failed(why) => why,
    };
    state.failures += 1;
    state.first_try.get_or_insert(now);
    state.last_error = Some(why.clone());
    match next_wait(&state, now) {
        Some((least, most)) => {
            let wait = least + backoff::full_jitter(1, most - least, most - least);
            tracing::info!(job = %job_id, why, failures = state.failures, "webhook delivery failed; retrying later");
            let from_now = i64::try_from((began.elapsed() + wait).as_millis()).unwrap_or(i64::MAX);
            queue.retry_delivery(&delivery, &state, now.plus(from_now)).await?;
            Ok(Some(wait))
        }
        None => {
            tracing::warn!(job = %job_id, why, "webhook delivery abandoned after a day");
            done().await
        }
    }
}

fn body(delivery: &Delivery, job: Job, links: &UrlSigner) -> Result<String, WebhookError> {
    let words = |e: &dyn std::fmt::Display| WebhookError::Message(e.to_string());
    let mut job = links.with_urls(job, now_millis(), None).map_err(|e| words(&e))?;
    // The receiver need not know these: secrets of the addresses, and how the installation is built.
    job.spec = JobSpec { webhook_key: None, ..job.spec.redacted() };
    (job.worker, job.machine_id, job.owner) = (None, None, None);
    let kind =
        MessageType::of(delivery.state).ok_or_else(|| words(&"there is no message about this state"))?;
    let reached = match delivery.state {
        State::Playable => job.timestamps.playable_at,
        _ => job.timestamps.completed_at,
    };
    let message = Message { kind, timestamp: reached.unwrap_or_else(now_millis).to_string(), data: &job };
    serde_json::to_string(&message).map_err(|e| words(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{AttemptId, Epoch};

    #[test]
    fn webhook_secret_must_be_whsec_and_base64_of_valid_length() {
        let make = |s: &str| Key::new(&s.into()).is_ok();
        assert!(make("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
        for bad in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_%%%"] {
            assert!(!make(bad), "{bad}");
        }
    }

    #[test]
    fn webhook_status_2xx_is_delivered_and_410_is_permanent() {
        for (status, good) in [(200, true), (204, true), (301, false), (404, false), (500, false)] {
            let judged = classify_status(StatusCode::from_u16(status).unwrap());
            assert_eq!(judged == DeliveryOutcome::Delivered, good, "{status}");
            assert!(!matches!(judged, DeliveryOutcome::Permanent(_)));
        }
        assert!(matches!(classify_status(StatusCode::GONE), DeliveryOutcome::Permanent(_)));
    }

    #[test]
    fn webhook_delivery_is_current_only_for_the_last_end() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let job = |status: &str, epoch: u64| -> Job {
            let job = serde_json::json!({
                "jobId": id, "status": status, "inputKey": "inputs/a.mp4", "attempt": 1, "epoch": epoch,
                "progress": 0.0, "timestamps": {},
            });
            serde_json::from_value(job).unwrap()
        };
        let told = Delivery {
            attempt: AttemptId { job: id.parse().unwrap(), epoch: Epoch(2) },
            state: State::Failed,
            outbox: Outbox::Installation,
        };
        assert!(is_current(&told, &job("failed", 2)));
        for (status, epoch) in
            [("queued", 3), ("failed", 3), ("completed", 4), ("queued", 2), ("cancelled", 2)]
        {
            assert!(!is_current(&told, &job(status, epoch)), "{status} {epoch}");
        }
    }

    #[test]
    fn webhook_message_has_private_hls_urls_only_with_a_public_api() {
        let job = "01890a5d-ac96-774b-bcce-b302099a8057";
        let output = |quality: &str, name: &str, container: &str| {
            serde_json::json!({
                "quality": quality, "key": format!("outputs/{job}/7/{name}"), "container": container, "size": 1,
                "width": 256, "height": 144, "codec": "h264", "bitrate": 1, "duration": 1.0,
            })
        };
        let completed = serde_json::json!({
            "jobId": job, "status": "completed", "inputKey": "inputs/a.mp4", "attempt": 1, "epoch": 7,
            "progress": 100.0, "timestamps": {"completedAt": 1},
            "outputs": [output("144p", "144p.m3u8", "hls"), output("360p", "360p.mp4", "mp4")],
            "source": {
                "format": "mp4", "size": 9, "duration": 1.0,
                "video": {"codec": "h264", "width": 256, "height": 144, "frameRate": 25.0, "rotation": 0, "hdr": false},
            },
            "timings": {"downloadSeconds": 0.0, "transcodeSeconds": 0.0, "uploadSeconds": 0.0},
            "speed": 1.0, "cpuSeconds": 1.0,
        });
        let completed: Job = serde_json::from_value(completed).unwrap();
        let told = Delivery {
            attempt: AttemptId { job: job.parse().unwrap(), epoch: Epoch(7) },
            state: State::Completed,
            outbox: Outbox::Installation,
        };
        let env = crate::config::Env::of(|name| match name {
            "R2_ENDPOINT" => Some("http://127.0.0.1:9000".into()),
            "R2_PUBLIC_URL" => None,
            _ => Some("some-text".into()),
        });
        let storage = crate::config::StorageConfig::read(&env).unwrap();
        let message = |api: Option<&str>| -> serde_json::Value {
            let links = UrlSigner::new(&storage, api.map(|url| url.parse().unwrap())).unwrap();
            serde_json::from_str(&body(&told, completed.clone(), &links).unwrap()).unwrap()
        };
        let outputs = &message(None)["data"]["outputs"];
        assert!(outputs[0].get("url").is_none(), "{outputs}");
        assert!(outputs[1]["url"].as_str().unwrap().contains("X-Amz-Signature="), "{outputs}");
        let outputs = &message(Some("https://films.example"))["data"]["outputs"];
        let playlist = outputs[0]["url"].as_str().unwrap();
        assert!(
            playlist.starts_with("https://films.example/media/") && playlist.ends_with("/144p.m3u8"),
            "{playlist}"
        );
    }

    #[test]
    fn webhook_retries_back_off_to_an_hour_and_end_after_a_day() {
        let (mut now, mut state) =
            (Millis(0), DeliveryState { first_try: Some(Millis(0)), ..Default::default() });
        let mut most = Vec::new();
        loop {
            state.failures += 1;
            let Some((_, wait)) = next_wait(&state, now) else { break };
            most.push(wait.as_secs());
            now = now.plus(i64::try_from(wait.as_millis()).unwrap());
        }
        assert_eq!(most[..4], [5, 10, 20, 40]);
        assert!(most.iter().all(|s| *s <= 3600) && most.len() > 24, "{most:?}");
        assert!(now.0 >= GIVE_UP_MS && now.0 < GIVE_UP_MS + 3_600_000);
    }
}
