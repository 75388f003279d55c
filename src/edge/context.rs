//! The context of an invocation of the Worker.

use std::sync::{Arc, LazyLock};

use super::settings::{FleetSettings, Settings};
use crate::api::{AppState, EventStreams, Feed, HeldRequests, Readiness};
use crate::config::{ConfigError, Env};
use crate::controller::reconciler::{OneShotReconciler, forwarded_env};
use crate::flyprovider::Fly;
use crate::janitor::JanitorTasks;
use crate::metrics::Metrics;
use crate::net::EgressPolicy;
use crate::queue::{Queue, RequestRate, Rest, SyncToken};
use crate::storage::Storage;
use crate::storage::urls::UrlSigner;
use crate::webhook::WebhookSender;

/// The binding of the bucket for uploads.
pub(crate) const INPUT: &str = "INPUT";
/// The binding of the bucket for outputs.
pub(crate) const OUTPUT: &str = "OUTPUT";
/// The binding of the dead-letter queue, for messages that cannot be parsed.
pub(crate) const DEAD_LETTERS: &str = "DEAD_LETTERS";
/// The group of all invocations of the Worker; one of a group may take over the fleet lock from another at
/// once.
const GROUP: &str = "edge";

/// Shared by all invocations of an isolate, so that each one reads what an earlier one has written. The
/// settings of an isolate do not change, so there is only one Redis.
static SYNC: LazyLock<SyncToken> = LazyLock::new(SyncToken::default);

/// The requests that an isolate holds for segments that are not encoded yet.
static HELD: LazyLock<HeldRequests> = LazyLock::new(HeldRequests::default);

/// The event streams that an isolate sends.
static STREAMS: LazyLock<EventStreams> = LazyLock::new(EventStreams::default);

/// What an invocation needs.
pub(crate) struct EdgeContext {
    /// The Worker's settings.
    pub settings: Settings,
    /// The queue.
    pub queue: Queue,
    /// The buckets.
    pub storage: Storage,
    /// The dead-letter queue.
    pub dead_letters: worker::Queue,
    links: UrlSigner,
    env: worker::Env,
}

/// The installation cannot be used. Contains what is missing or wrong, by name.
#[derive(Debug, thiserror::Error)]
#[error("this installation is not complete: {}", .0.join("; "))]
pub(crate) struct IncompleteSettings(Vec<String>);

fn lookup(env: &worker::Env) -> Env<'_> {
    // Secrets and variables are read in the same way.
    Env::of(|name| env.var(name).ok().map(|value| value.to_string()))
}

impl EdgeContext {
    /// Reads the settings and bindings.
    ///
    /// # Errors
    /// Names every variable, secret and binding that is missing or wrong.
    pub(crate) fn new(env: &worker::Env) -> Result<Self, IncompleteSettings> {
        let settings = Settings::read(&lookup(env));
        let mut wrong: Vec<String> = match &settings {
            Ok(_) => Vec::new(),
            Err(errors) => errors.all().iter().map(ConfigError::to_string).collect(),
        };
        let bound = |name: &'static str, section: &str| {
            format!(
                "{name} is not bound: it needs a binding of that name under [[{section}]] in wrangler.toml"
            )
        };
        let bucket = |name| env.bucket(name).map_err(|_| bound(name, "r2_buckets"));
        let (input, output) = (bucket(INPUT), bucket(OUTPUT));
        let dead_letters = env.queue(DEAD_LETTERS).map_err(|_| bound(DEAD_LETTERS, "queues.producers"));
        wrong.extend(
            [input.as_ref().err(), output.as_ref().err(), dead_letters.as_ref().err()]
                .into_iter()
                .flatten()
                .cloned(),
        );
        let (Ok(settings), Ok(input), Ok(output), Ok(dead_letters)) = (settings, input, output, dead_letters)
        else {
            return Err(IncompleteSettings(wrong));
        };
        let one = |error: String| IncompleteSettings(vec![error]);
        let rest = Rest::with_sync(&settings.redis_url, &settings.redis_token, SYNC.clone());
        let rest = rest.map_err(|_| {
            one("UPSTASH_REDIS_REST_TOKEN cannot be used: it holds characters no token has".into())
        })?;
        let queue = Queue::over_rest(rest, &settings.prefix)
            .with_retention(settings.retention)
            .with_max_input_bytes(settings.api.max_input_bytes);
        let links = UrlSigner::new(&settings.storage, settings.api.public_url.clone());
        let links = links.map_err(|error| one(error.to_string()))?;
        let storage = Storage::new((INPUT, input), (OUTPUT, output));
        Ok(Self { settings, queue, storage, dead_letters, links, env: env.clone() })
    }

    /// The state of the API's handlers.
    pub(crate) fn app(&self) -> Arc<AppState> {
        Arc::new(AppState {
            queue: self.queue.clone(),
            storage: self.storage.clone(),
            links: self.links.clone(),
            config: self.settings.api.clone(),
            webhooks: self.settings.webhook.is_some(),
            metrics: Metrics::new(),
            feed: Feed,
            held: HELD.clone(),
            streams: STREAMS.clone(),
            // An invocation must not wait for the requests of another.
            readiness: Readiness::default(),
        })
    }

    /// The janitor's tasks.
    pub(crate) fn janitor(&self) -> JanitorTasks {
        let guard = EgressPolicy::allow_private(self.settings.api.allow_private_urls);
        let webhooks =
            self.settings.webhook.as_ref().map(|secret| WebhookSender::of_installation(secret, guard));
        let webhooks = webhooks.and_then(|webhooks| {
            webhooks
                .inspect_err(
                    |error| tracing::error!(%error, "cannot send webhooks; deliveries stay in the outbox"),
                )
                .ok()
        });
        JanitorTasks {
            queue: self.queue.clone(),
            storage: self.storage.clone(),
            links: self.links.clone(),
            webhooks,
        }
    }

    /// The reconciler of the fleet; `None` if a `tcoder controller` manages it.
    pub(crate) fn reconciler(&self) -> Option<OneShotReconciler<Fly>> {
        let FleetSettings { fly, policy } = self.settings.fleet.as_ref()?;
        let fly = Fly::new(fly);
        let fly = fly
            .inspect_err(
                |error| tracing::error!(%error, "cannot call the Fly API; the fleet is left unchanged"),
            )
            .ok()?;
        Some(OneShotReconciler {
            queue: self.queue.clone(),
            provider: fly,
            policy: policy.clone(),
            environment: forwarded_env(&lookup(&self.env)),
            group: GROUP.to_owned(),
            rate: RequestRate::default(),
        })
    }
}
