//! What an invocation has.

use std::sync::{Arc, LazyLock};

use super::settings::{Fleet, Settings};
use crate::api::{App, Feed};
use crate::config::{ConfigError, Env};
use crate::controller::reconciler::{Visitor, handed_on};
use crate::flyprovider::Fly;
use crate::housekeeping::Errands;
use crate::metrics::Metrics;
use crate::net::Guard;
use crate::queue::{FlyRate, Queue, Rest, SyncToken};
use crate::storage::Storage;
use crate::storage::links::Links;
use crate::webhook::Mail;

/// The bucket uploads go to.
pub const INPUT: &str = "INPUT";
/// The bucket results go to.
pub const OUTPUT: &str = "OUTPUT";
/// The queue for messages that nobody can read.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";
/// Its name among those who look after machines.
const FAMILY: &str = "edge";

/// Shared by all invocations of an isolate, so that each reads what an earlier one has written. The settings of an
/// isolate do not change, so there is one Redis.
static SYNC: LazyLock<SyncToken> = LazyLock::new(SyncToken::default);

/// What an invocation has.
pub struct Works {
    /// What it is set to do.
    pub settings: Settings,
    /// The queue.
    pub queue: Queue,
    /// The buckets.
    pub storage: Storage,
    /// For messages that nobody can read.
    pub dead_letters: worker::Queue,
    links: Links,
    env: worker::Env,
}

/// Why there is nothing to work with: what is missing, each by name.
#[derive(Debug, thiserror::Error)]
#[error("this installation is not complete: {}", .0.join("; "))]
pub struct Incomplete(Vec<String>);

fn lookup(env: &worker::Env) -> Env<'_> {
    // Secrets and variables look the same from here.
    Env::of(|name| env.var(name).ok().map(|value| value.to_string()))
}

impl Works {
    /// All of it.
    ///
    /// # Errors
    /// Names every variable, secret and binding that is missing or wrong.
    pub fn new(env: &worker::Env) -> Result<Self, Incomplete> {
        let settings = Settings::read(&lookup(env));
        let mut wrong: Vec<String> = match &settings {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ConfigError::to_string).collect(),
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
            return Err(Incomplete(wrong));
        };
        let one = |error: String| Incomplete(vec![error]);
        let rest = Rest::with_sync(&settings.redis_url, &settings.redis_token, SYNC.clone());
        let rest = rest.map_err(|_| {
            one("UPSTASH_REDIS_REST_TOKEN cannot be used: it holds characters no token has".into())
        })?;
        let queue = Queue::over_rest(rest, &settings.prefix);
        let links = Links::new(&settings.storage, settings.api.public_url.clone());
        let links = links.map_err(|error| one(error.to_string()))?;
        let storage = Storage::new((INPUT, input), (OUTPUT, output));
        Ok(Self { settings, queue, storage, dead_letters, links, env: env.clone() })
    }

    /// The API.
    pub fn app(&self) -> Arc<App> {
        Arc::new(App {
            queue: self.queue.clone(),
            storage: self.storage.clone(),
            links: self.links.clone(),
            config: self.settings.api.clone(),
            webhooks: self.settings.webhook.is_some(),
            metrics: Metrics::new(),
            feed: Feed,
        })
    }

    /// The errands.
    pub fn errands(&self) -> Errands {
        let guard = Guard::allow_private(self.settings.api.allow_private_urls);
        let mail = self.settings.webhook.as_ref().map(|secret| Mail::of_installation(secret, guard));
        let mail = mail.and_then(|mail| {
            mail.inspect_err(|error| tracing::error!(%error, "webhooks stay in the outbox")).ok()
        });
        Errands { queue: self.queue.clone(), storage: self.storage.clone(), links: self.links.clone(), mail }
    }

    /// The visitor to the fleet; nothing where somebody else looks after it.
    pub fn visitor(&self) -> Option<Visitor> {
        let Fleet { fly, policy } = self.settings.fleet.as_ref()?;
        let fly = Fly::new(fly);
        let fly = fly.inspect_err(|error| tracing::error!(%error, "the fleet is left alone")).ok()?;
        Some(Visitor {
            queue: self.queue.clone(),
            fly,
            policy: policy.clone(),
            environment: handed_on(&lookup(&self.env)),
            family: FAMILY.to_owned(),
            rate: FlyRate::default(),
        })
    }
}
