//! The client of the Fly Machines API.
//!
//! Each call is one request. The client does not limit its rate: the caller has obtained a permit of the
//! shared rate limit. If the response to a write is lost, [`FlyError::UnknownOutcome`] is returned, and the
//! next list shows the outcome.

use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use strum::{EnumString, IntoStaticStr, VariantNames};
use url::Url;

use super::error::{FlyError, FlyResponse, RequestKind, classify, retry_after};
use super::host;
use super::{FlyMachine, MachineConfig};
use crate::config::FlyConfig;
use crate::controller::fleet::MachineId;
use crate::time::timeout;

/// Maximum duration of a read. A create takes longer, because it waits for a host.
const READ: Duration = Duration::from_secs(20);
const WRITE: Duration = Duration::from_secs(60);

/// The parameters of a create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateMachine {
    /// The name, unique in the app, so that a repeated create has no effect.
    #[serde(default)]
    pub name: String,
    /// The region; Fly chooses one if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The configuration.
    #[serde(default)]
    pub config: MachineConfig,
    /// Whether the machine is created without starting it.
    #[serde(default)]
    pub skip_launch: bool,
}

/// The signal that Fly sends to a machine's process to stop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames)]
pub enum StopSignal {
    /// SIGHUP
    #[strum(serialize = "SIGHUP")]
    Hangup,
    /// SIGINT
    #[strum(serialize = "SIGINT")]
    Interrupt,
    /// SIGQUIT
    #[strum(serialize = "SIGQUIT")]
    Quit,
    /// SIGKILL
    #[strum(serialize = "SIGKILL")]
    Kill,
    /// SIGUSR1
    #[strum(serialize = "SIGUSR1")]
    User1,
    /// SIGUSR2
    #[strum(serialize = "SIGUSR2")]
    User2,
    /// SIGTERM
    #[strum(serialize = "SIGTERM")]
    Terminate,
}

impl StopSignal {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A client for the machines of one app. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fly {
    http: reqwest::Client,
    authorization: HeaderValue,
    token: SecretString,
    machines: Url,
}

/// A request to the API.
struct Call<'a> {
    method: Method,
    machine: Option<&'a MachineId>,
    verb: &'static str,
    query: Vec<(String, String)>,
    body: Option<serde_json::Value>,
    limit: Duration,
}

impl<'a> Call<'a> {
    fn new(method: Method, machine: Option<&'a MachineId>, verb: &'static str) -> Self {
        let limit = if method == Method::GET { READ } else { WRITE };
        Self { method, machine, verb, query: Vec::new(), body: None, limit }
    }

    fn query(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    fn body(mut self, body: serde_json::Value) -> Self {
        self.body = Some(body);
        self
    }

    fn kind(&self) -> RequestKind {
        if self.method == Method::GET { RequestKind::Read } else { RequestKind::Write }
    }
}

impl Fly {
    /// A client for the app in `config`. Makes no request yet.
    ///
    /// # Errors
    /// If the token is not a valid header, or the machine's certificates cannot be loaded.
    pub fn new(config: &FlyConfig) -> Result<Self, FlyError> {
        let http = host::http()
            .map_err(|error| FlyError::Unavailable { message: error.without_url().to_string() })?;
        let mut machines = config.base.clone();
        machines
            .path_segments_mut()
            .map_err(|()| FlyError::Unavailable { message: "FLY_API_HOSTNAME is no http address".into() })?
            .pop_if_empty()
            .extend(["v1", "apps", &config.app, "machines"]);
        let token = SecretString::from(bare(config.token.expose_secret()).to_owned());
        let authorization = authorization(&config.token).ok_or(FlyError::Auth { status: 401 })?;
        Ok(Self { http, authorization, token, machines })
    }

    /// Lists the machines that are not destroyed.
    ///
    /// # Errors
    /// Why there is no list.
    pub async fn list(&self) -> Result<Vec<FlyMachine>, FlyError> {
        self.ask(&Call::new(Method::GET, None, "")).await
    }

    /// Creates a machine and, by default, starts it.
    ///
    /// # Errors
    /// Why it was not created, or that the outcome is unknown.
    pub async fn create(&self, machine: &CreateMachine) -> Result<FlyMachine, FlyError> {
        let body = serde_json::to_value(machine)
            .map_err(|error| FlyError::Other { status: 0, message: error.to_string() })?;
        self.ask(&Call::new(Method::POST, None, "").body(body)).await
    }

    /// Starts a stopped machine.
    ///
    /// # Errors
    /// Why it was not started, or that the outcome is unknown.
    pub async fn start(&self, id: &MachineId) -> Result<(), FlyError> {
        self.tell(&Call::new(Method::POST, Some(id), "start")).await
    }

    /// Stops a machine with this signal, and after `timeout` with SIGKILL.
    ///
    /// # Errors
    /// Why it was not stopped, or that the outcome is unknown.
    pub async fn stop(&self, id: &MachineId, signal: StopSignal, timeout: Duration) -> Result<(), FlyError> {
        let body = json!({ "signal": signal.name(), "timeout": format!("{}s", timeout.as_secs()) });
        self.tell(&Call::new(Method::POST, Some(id), "stop").body(body)).await
    }

    /// Destroys a machine. A running machine is only destroyed with `force`.
    ///
    /// # Errors
    /// Why it was not destroyed, or that the outcome is unknown.
    pub async fn destroy(&self, id: &MachineId, force: bool) -> Result<(), FlyError> {
        let call = Call::new(Method::DELETE, Some(id), "");
        self.tell(&if force { call.query("force", "true") } else { call }).await
    }

    async fn tell(&self, call: &Call<'_>) -> Result<(), FlyError> {
        self.ask::<serde::de::IgnoredAny>(call).await.map(drop)
    }

    /// Sends the request once and reads the response.
    async fn ask<T: serde::de::DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, FlyError> {
        let (status, wait, body) = self.send(call).await?;
        if !status.is_success() {
            return Err(self.means(call, status, wait, &body));
        }
        // Go writes an empty body for an empty value.
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body)
            .map_err(|error| in_doubt(call.kind(), format!("its answer cannot be read: {error}")))
    }

    async fn send(&self, call: &Call<'_>) -> Result<(StatusCode, Option<Duration>, Vec<u8>), FlyError> {
        let in_time = timeout(call.limit, self.exchange(call)).await;
        in_time.unwrap_or_else(|| Err(in_doubt(call.kind(), "time-out".into())))
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<(StatusCode, Option<Duration>, Vec<u8>), FlyError> {
        // A clock that exists on every target. It is only used for the log.
        let began = Timestamp::now();
        let url = self.url(call)?;
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .header(AUTHORIZATION, self.authorization.clone());
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| lost(call.kind(), &error))?;
        if !host::is_from(&answer, &url) {
            return Err(in_doubt(call.kind(), "it points elsewhere".into()));
        }
        let now = Timestamp::now();
        let status = answer.status();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let wait = header(RETRY_AFTER.as_str()).and_then(|text| retry_after(text, now));
        tracing::debug!(
            method = %call.method,
            machine = call.machine.map(|id| id.0.as_str()),
            verb = call.verb,
            status = status.as_u16(),
            provider_request_id = header("fly-request-id"),
            ms = i64::try_from(now.duration_since(began).as_millis()).unwrap_or(i64::MAX),
            "asked Fly"
        );
        let mut body = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece.map_err(|error| lost(call.kind(), &error))?);
            if body.len() > host::BODY_MAX {
                return Err(in_doubt(call.kind(), "its answer has no end".into()));
            }
        }
        Ok((status, wait, body))
    }

    fn url(&self, call: &Call<'_>) -> Result<Url, FlyError> {
        let mut url = self.machines.clone();
        if let Some(id) = call.machine {
            // The id must not change the path: `..` would be resolved.
            if id.0.is_empty() || !id.0.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return Err(FlyError::NotFound(id.clone()));
            }
            if let Ok(mut path) = url.path_segments_mut() {
                path.push(&id.0);
                if !call.verb.is_empty() {
                    path.push(call.verb);
                }
            }
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }

    fn means(&self, call: &Call<'_>, status: StatusCode, wait: Option<Duration>, body: &[u8]) -> FlyError {
        // Error pages may echo the request.
        let mut body = String::from_utf8_lossy(body).into_owned();
        // A token may consist of several macaroons, each of which is a secret.
        for part in self.token.expose_secret().split(',').filter(|part| !part.is_empty()) {
            body = body.replace(part, "[token]");
        }
        let answer = FlyResponse { status: status.as_u16(), retry_after: wait, body: &body };
        let error = classify(call.kind(), call.machine, &answer);
        tracing::debug!(verb = call.verb, %error, "operation on a machine failed");
        error
    }
}

fn in_doubt(kind: RequestKind, message: String) -> FlyError {
    match kind {
        RequestKind::Read => FlyError::Unavailable { message },
        RequestKind::Write => FlyError::UnknownOutcome { message },
    }
}

/// The error if there was no response. Only a connection that was never established proves that a write was
/// not done.
fn lost(kind: RequestKind, error: &reqwest::Error) -> FlyError {
    if host::never_connected(error) {
        return FlyError::Unavailable { message: "no connection".into() };
    }
    in_doubt(kind, "the connection broke".into())
}

/// The token without the scheme.
fn bare(token: &str) -> &str {
    let mut token = token.trim();
    while let Some((scheme, rest)) = token.split_once(' ') {
        if !scheme.eq_ignore_ascii_case("bearer") && !scheme.eq_ignore_ascii_case("flyv1") {
            break;
        }
        token = rest.trim_start();
    }
    token
}

/// The header with the token: macaroons have their own scheme, all other tokens are bearer tokens.
fn authorization(token: &SecretString) -> Option<HeaderValue> {
    let given = token.expose_secret().trim();
    let token = bare(given);
    let is_macaroon = token.starts_with("fm1r_") || token.starts_with("fm1a_") || token.starts_with("fm2_");
    let says_so = given.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("flyv1 "));
    let scheme = if is_macaroon || says_so { "FlyV1" } else { "Bearer" };
    let mut value = HeaderValue::from_str(&format!("{scheme} {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_uses_the_scheme_of_the_token() {
        for (given, sent) in [
            ("fo1_abc", "Bearer fo1_abc"),
            ("Bearer fo1_abc", "Bearer fo1_abc"),
            ("fm2_abc,fm2_def", "FlyV1 fm2_abc,fm2_def"),
            ("FlyV1 fm2_abc", "FlyV1 fm2_abc"),
            ("Bearer fm2_abc", "FlyV1 fm2_abc"),
            ("Bearer FlyV1 fm2_abc", "FlyV1 fm2_abc"),
            ("flyv1 xyz", "FlyV1 xyz"),
            ("  bearer   x ", "Bearer x"),
        ] {
            let value = authorization(&given.to_owned().into()).unwrap();
            assert_eq!(value.to_str().unwrap(), sent, "{given}");
            assert!(value.is_sensitive());
        }
        assert!(authorization(&"a\nb".to_owned().into()).is_none());
    }

    fn fly() -> Fly {
        Fly::new(&FlyConfig {
            token: "hush-hush".to_owned().into(),
            app: "workers".into(),
            base: "http://example.com:1/".parse().unwrap(),
        })
        .unwrap()
    }

    #[test]
    fn url_with_invalid_machine_id_is_not_found() {
        let id = |text: &str| MachineId(text.into());
        let url = |id: &MachineId| fly().url(&Call::new(Method::POST, Some(id), "start"));
        let good = url(&id("3d8d41")).unwrap();
        assert_eq!(good.as_str(), "http://example.com:1/v1/apps/workers/machines/3d8d41/start");
        for bad in ["", "..", "../../other", "a/b", "a?b", "a#b"] {
            assert_eq!(url(&id(bad)), Err(FlyError::NotFound(id(bad))));
        }
    }

    #[test]
    fn token_is_redacted_in_debug_output_and_errors() {
        let fly = fly();
        assert!(!format!("{fly:?}").contains("hush-hush"));
        let call = Call::new(Method::GET, None, "");
        let error = fly.means(&call, StatusCode::BAD_REQUEST, None, b"bad header: hush-hush");
        assert!(!error.to_string().contains("hush-hush") && error.to_string().contains("[token]"), "{error}");
    }
}
