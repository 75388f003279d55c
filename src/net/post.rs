//! Sends small messages to addresses that users supply. Only the status of the response matters. Redirects are not
//! followed, because the message is meant for nobody else.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use url::Url;

use super::{EgressPolicy, UrlRefused};
#[cfg(not(target_arch = "wasm32"))]
use super::{Redirects, Timeouts};

#[cfg(not(target_arch = "wasm32"))]
const CONNECT: Duration = Duration::from_secs(5);

/// There was no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The address was refused.
    #[error(transparent)]
    UrlRefused(#[from] UrlRefused),
    /// The response did not arrive in time.
    #[error("the receiver did not answer in time")]
    Late,
    /// The receiver could not be reached.
    #[error("the receiver could not be reached")]
    Unreachable,
}

/// Sends messages. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WebhookHttp {
    #[cfg(not(target_arch = "wasm32"))]
    http: super::Client,
    #[cfg(target_arch = "wasm32")]
    guard: EgressPolicy,
    #[cfg(target_arch = "wasm32")]
    limit: Duration,
}

#[cfg(not(target_arch = "wasm32"))]
impl WebhookHttp {
    /// A client that calls only the addresses which `guard` permits, and waits for a response for at most `limit`.
    ///
    /// # Errors
    /// If the machine's certificates cannot be loaded.
    pub fn new(guard: EgressPolicy, limit: Duration) -> Result<Self, reqwest::Error> {
        let timeouts = Timeouts { connect: CONNECT, read: limit, total: Some(limit) };
        Ok(Self { http: super::client(guard, timeouts, Redirects::Stay)? })
    }

    /// Posts `body` and returns the status.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn post(&self, url: &Url, headers: HeaderMap, body: String) -> Result<StatusCode, PostError> {
        let request = self.http.request(reqwest::Method::POST, url)?;
        match self.http.send(request.headers(headers).body(body)).await {
            Ok(answer) => Ok(answer.status()),
            Err(error) => Err(match UrlRefused::find(&error) {
                Some(refused) => refused.clone().into(),
                None if error.is_timeout() => PostError::Late,
                None => PostError::Unreachable,
            }),
        }
    }
}

/// Uses `fetch` directly, because reqwest follows redirects on this target.
#[cfg(target_arch = "wasm32")]
impl WebhookHttp {
    /// A client that calls only the addresses which `guard` permits, and waits for a response for at most `limit`.
    ///
    /// # Errors
    /// Never; the native version may fail.
    pub fn new(guard: EgressPolicy, limit: Duration) -> Result<Self, reqwest::Error> {
        Ok(Self { guard, limit })
    }

    /// Posts `body` and returns the status.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn post(&self, url: &Url, headers: HeaderMap, body: String) -> Result<StatusCode, PostError> {
        use worker::{Fetch, Headers, Method, Request, RequestInit, RequestRedirect};

        super::check_url(self.guard, url)?;
        let call = async {
            let mut init = RequestInit::new();
            init.with_method(Method::Post)
                .with_headers(Headers::from(headers))
                .with_redirect(RequestRedirect::Manual)
                .with_body(Some(body.into()));
            let answer = Fetch::Request(Request::new_with_init(url.as_str(), &init)?).send().await?;
            Ok::<_, worker::Error>(answer.status_code())
        };
        match crate::time::timeout(self.limit, call).await {
            Some(Ok(status)) => StatusCode::from_u16(status).map_err(|_| PostError::Unreachable),
            Some(Err(_)) => Err(PostError::Unreachable),
            None => Err(PostError::Late),
        }
    }
}
