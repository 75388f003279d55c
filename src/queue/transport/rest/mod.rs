//! Redis over Upstash's REST interface: a command is a JSON array, so is a pipeline of them.
//! <https://upstash.com/docs/redis/features/restapi>
//!
//! The headers are those of the official client, `@upstash/redis`: strings are returned as base64, and the sync token
//! is sent back and forth. Unlike the official client, this one retries after HTTP 5xx or 429 if the commands change
//! nothing.

mod answer;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use url::Url;

use super::sync::{self, SyncToken};
use super::{Command, QueueError, Reply};
use crate::queue::backoff;
use crate::time::{sleep, timeout};
use answer::{Redaction, RestResponse};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use answer::check_rest_answer;

/// Maximum duration of a request, including the whole response.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of retries of a failed read.
const RETRIES: u32 = 2;

/// Redis behind a REST interface. Clones are cheap and share the sync token.
#[derive(Clone)]
pub struct Rest(Arc<RestInner>);

struct RestInner {
    http: reqwest::Client,
    one: Url,
    many: Url,
    authorization: HeaderValue,
    redaction: Redaction,
    sync: SyncToken,
}

impl Rest {
    /// A client for this address with this access token.
    ///
    /// # Errors
    /// If the access token is not valid, or the machine's certificates cannot be loaded.
    pub fn new(url: &Url, token: &SecretString) -> Result<Self, QueueError> {
        Self::with_sync(url, token, SyncToken::default())
    }

    /// Like [`Self::new`], as a client that reads the writes of all other clients with this sync token.
    ///
    /// # Errors
    /// The same as those of [`Self::new`].
    pub fn with_sync(url: &Url, token: &SecretString, sync: SyncToken) -> Result<Self, QueueError> {
        #[cfg(not(target_arch = "wasm32"))]
        crate::net::install_crypto();
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| QueueError::Auth("it contains characters that a token cannot have".into()))?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .user_agent(concat!("tcoder/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| QueueError::Connection("could not create an HTTP client".into()))?;
        let mut base = url.clone();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let many =
            base.join("pipeline").map_err(|_| QueueError::Refused("the address is not valid".into()))?;
        let redaction = Redaction::new(url, token);
        Ok(Self(Arc::new(RestInner { http, one: base, many, authorization, redaction, sync })))
    }

    /// Runs a command.
    pub async fn run(&self, command: Command) -> Result<Reply, QueueError> {
        let is_read = command.is_read();
        let answer: RestResponse = self.ask(&self.0.one, &command.0, is_read).await?;
        answer.reply(&self.0.redaction)
    }

    /// Runs several commands. As over TCP, a failed command does not prevent the following ones.
    pub async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Reply>, QueueError> {
        let is_read = commands.iter().all(Command::is_read);
        let bodies: Vec<&Vec<String>> = commands.iter().map(|command| &command.0).collect();
        let answers: Vec<RestResponse> = self.ask(&self.0.many, &bodies, is_read).await?;
        if answers.len() != commands.len() {
            return Err(QueueError::data("a pipeline has another number of answers than of commands"));
        }
        answers.into_iter().map(|answer| answer.reply(&self.0.redaction)).collect()
    }

    /// Sends a request, and retries it if it only reads and a retry may help.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        url: &Url,
        body: &impl Serialize,
        is_read: bool,
    ) -> Result<T, QueueError> {
        let mut tries = 0;
        loop {
            match self.post(url, body, is_read).await {
                // A request that timed out is not retried: nobody would wait that long.
                Err(error) if is_read && tries < RETRIES && !is_late(&error) && error.is_transient() => {
                    tries += 1;
                    sleep(backoff::full_jitter(tries, Duration::from_millis(100), Duration::from_secs(1)))
                        .await;
                }
                other => return other,
            }
        }
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        url: &Url,
        body: &impl Serialize,
        is_read: bool,
    ) -> Result<T, QueueError> {
        let inside = &*self.0;
        let (token, sent) = inside.sync.current();
        let exchange = async {
            let request = inside.http.post(url.clone()).header(AUTHORIZATION, inside.authorization.clone());
            let request = request.header(sync::HEADER, token).header("Upstash-Encoding", "base64");
            let answer = request.json(body).send().await.map_err(|error| lost(&error))?;
            let status = answer.status();
            inside.sync.answered(sent, is_read, answer.headers().get(sync::HEADER));
            let bytes = answer.bytes().await.map_err(|error| lost(&error))?;
            Ok::<_, QueueError>((status, bytes))
        };
        let Some(answered) = timeout(CALL_TIMEOUT, exchange).await else { return Err(late()) };
        let (status, bytes) = answered?;
        if !status.is_success() {
            return Err(answer::refusal(status, &bytes, &inside.redaction));
        }
        serde_json::from_slice(&bytes)
            .map_err(|_| QueueError::data("an answer that is not JSON of Upstash's REST interface"))
    }
}

const LATE: &str = "time-out";

fn late() -> QueueError {
    QueueError::Connection(LATE.into())
}

fn is_late(error: &QueueError) -> bool {
    matches!(error, QueueError::Connection(why) if why == LATE)
}

/// Describes a broken connection without the address.
fn lost(error: &reqwest::Error) -> QueueError {
    if error.is_timeout() { late() } else { QueueError::Connection("connection lost".into()) }
}
