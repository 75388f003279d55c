//! A client of the HTTP API.

use std::time::Duration;

use eventsource_stream::Eventsource as _;
use futures::{Stream, StreamExt as _};
use reqwest::{Method, Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::args::ServerArgs;
use super::upload;
use crate::api::{
    CreateJobRequest, CreateTokenRequest, CreateUploadRequest, CreateUploadResponse, FleetAnswer,
    IssuedToken, PauseFleet, ProblemBody, SignPartsRequest, SignedParts, SystemStatus, TokenList,
    TokenPermissions,
};
use crate::job::{Job, JobId, State, Token, TokenName};
use crate::queue::Page;

/// A call of the API failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There was no response.
    #[error(
        "no tcoder server answers at {url} ({why}); start one with `tcoder up`, or set the address with --server"
    )]
    Unreachable {
        /// The address of the server.
        url: Url,
        /// The reason.
        why: String,
    },
    /// The server cannot answer at the moment.
    #[error("{0}")]
    Busy(String),
    /// The server rejected the request.
    #[error("{0}")]
    Refused(String),
    /// The response is not one of this API.
    #[error("{0} is not a tcoder API, or has another version; check --server")]
    Strange(Url),
    /// Storage rejected the request.
    #[error("{0}")]
    Storage(String),
}

impl ClientError {
    /// Whether a retry may soon succeed.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy(_))
    }

    /// Whether there was no response.
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// A client of one server.
#[derive(Clone)]
pub(crate) struct ApiClient {
    http: reqwest::Client,
    uploads: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// The innermost error, such as "Connection refused" or that a name is not known. Those around it repeat the address.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

const CALL: Duration = Duration::from_secs(40);
/// Maximum time without data from the event stream. The server sends something at least every 15 s, if only a
/// comment.
const FEED_SILENCE: Duration = Duration::from_secs(45);

impl ApiClient {
    pub(crate) fn new(args: &ServerArgs) -> Result<Self, ClientError> {
        let cannot = |e: reqwest::Error| ClientError::Refused(e.to_string());
        let http = upload::builder().read_timeout(FEED_SILENCE).build().map_err(cannot)?;
        let uploads = upload::client().map_err(cannot)?;
        Ok(Self { http, uploads, base: args.server.clone(), token: args.token.clone() })
    }

    /// The client for downloads from storage.
    pub(crate) const fn downloads(&self) -> &reqwest::Client {
        &self.http
    }

    /// The client for uploads to storage.
    pub(crate) const fn uploads(&self) -> &reqwest::Client {
        &self.uploads
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn request(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let why = if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            return ClientError::Unreachable { url: self.base.clone(), why: root_cause(error) };
        } else {
            "the connection broke"
        };
        ClientError::Unreachable { url: self.base.clone(), why: why.into() }
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            let why = if self.token.is_some() { "does not know this token" } else { "asks for a token" };
            let detail = format!("the server {why}; give it one with --token or TCODER_TOKEN");
            return Err(ClientError::Refused(detail));
        }
        let pause = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let pause = pause.map(str::to_owned);
        let body = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        Err(match serde_json::from_slice::<ProblemBody>(&body) {
            Ok(problem) if status == StatusCode::SERVICE_UNAVAILABLE => ClientError::Busy(problem.detail),
            Ok(problem) if status == StatusCode::TOO_MANY_REQUESTS => ClientError::Busy(match pause {
                Some(seconds) => format!("{} ({seconds} s)", problem.detail),
                None => problem.detail,
            }),
            Ok(problem) => ClientError::Refused(match problem.field {
                Some(field) => format!("{field}: {}", problem.detail),
                None => problem.detail,
            }),
            // A proxy in front of the server answered.
            Err(_) if matches!(status.as_u16(), 429 | 502..=504) => {
                ClientError::Busy(format!("the server answered {status}; try again in a moment"))
            }
            Err(_) => ClientError::Strange(self.base.clone()),
        })
    }

    async fn json<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ClientError> {
        let response = self.answer(request.timeout(CALL)).await?;
        let body = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        serde_json::from_slice(&body).map_err(|_| ClientError::Strange(self.base.clone()))
    }

    async fn post<T: DeserializeOwned>(&self, url: Url, body: &impl Serialize) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, url).json(body)).await
    }

    /// Creates a job. A proxy that repeats the request makes no second one.
    async fn create<T: DeserializeOwned>(&self, url: Url, body: &impl Serialize) -> Result<T, ClientError> {
        let key = uuid::Uuid::new_v4().to_string();
        self.json(self.request(Method::POST, url).header("idempotency-key", key).json(body)).await
    }

    pub(crate) async fn upload(
        &self,
        body: &CreateUploadRequest,
    ) -> Result<CreateUploadResponse, ClientError> {
        self.create(self.url(&["api", "upload"]), body).await
    }

    pub(crate) async fn parts(&self, id: JobId, body: &SignPartsRequest) -> Result<SignedParts, ClientError> {
        self.post(self.url(&["api", "jobs", &id.to_string(), "parts"]), body).await
    }

    /// Reports an upload, in case storage does not.
    pub(crate) async fn uploaded(&self, id: JobId) -> Result<Job, ClientError> {
        let url = self.url(&["api", "jobs", &id.to_string(), "uploaded"]);
        self.json(self.request(Method::POST, url)).await
    }

    pub(crate) async fn submit(&self, body: &CreateJobRequest) -> Result<Job, ClientError> {
        self.create(self.url(&["api", "jobs"]), body).await
    }

    pub(crate) async fn get(&self, id: JobId) -> Result<Job, ClientError> {
        self.json(self.request(Method::GET, self.url(&["api", "jobs", &id.to_string()]))).await
    }

    pub(crate) async fn list(
        &self,
        status: Option<State>,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Page, ClientError> {
        let mut url = self.url(&["api", "jobs"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(status) = status {
            url.query_pairs_mut().append_pair("status", status.name());
        }
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        self.json(self.request(Method::GET, url)).await
    }

    pub(crate) async fn cancel(&self, id: JobId) -> Result<Job, ClientError> {
        self.json(self.request(Method::DELETE, self.url(&["api", "jobs", &id.to_string()]))).await
    }

    pub(crate) async fn retry(&self, id: JobId) -> Result<Job, ClientError> {
        let url = self.url(&["api", "jobs", &id.to_string(), "retry"]);
        self.json(self.request(Method::POST, url)).await
    }

    pub(crate) async fn system(&self) -> Result<SystemStatus, ClientError> {
        self.json(self.request(Method::GET, self.url(&["api", "status"]))).await
    }

    pub(crate) async fn fleet(&self) -> Result<FleetAnswer, ClientError> {
        self.json(self.request(Method::GET, self.url(&["api", "fleet"]))).await
    }

    pub(crate) async fn fleet_pause(&self, body: &PauseFleet) -> Result<FleetAnswer, ClientError> {
        self.post(self.url(&["api", "fleet", "pause"]), body).await
    }

    pub(crate) async fn fleet_resume(&self) -> Result<FleetAnswer, ClientError> {
        self.json(self.request(Method::POST, self.url(&["api", "fleet", "resume"]))).await
    }

    pub(crate) async fn tokens(&self) -> Result<TokenList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["api", "tokens"]))).await
    }

    pub(crate) async fn create_token(&self, body: &CreateTokenRequest) -> Result<IssuedToken, ClientError> {
        self.post(self.url(&["api", "tokens"]), body).await
    }

    pub(crate) async fn change_token(
        &self,
        name: &TokenName,
        body: &TokenPermissions,
    ) -> Result<Token, ClientError> {
        let url = self.url(&["api", "tokens", name.as_str()]);
        self.json(self.request(Method::PUT, url).json(body)).await
    }

    pub(crate) async fn rotate_token(&self, name: &TokenName) -> Result<IssuedToken, ClientError> {
        let url = self.url(&["api", "tokens", name.as_str(), "rotate"]);
        self.json(self.request(Method::POST, url)).await
    }

    pub(crate) async fn delete_token(&self, name: &TokenName) -> Result<(), ClientError> {
        let url = self.url(&["api", "tokens", name.as_str()]);
        self.answer(self.request(Method::DELETE, url).timeout(CALL)).await.map(drop)
    }

    /// The error for a stream that ended before the job did.
    pub(crate) fn gone(&self) -> ClientError {
        ClientError::Unreachable { url: self.base.clone(), why: "it stopped".into() }
    }

    /// The event stream of a job, starting with its current state.
    pub(crate) async fn events(
        &self,
        id: JobId,
    ) -> Result<impl Stream<Item = Result<Job, ClientError>> + use<>, ClientError> {
        let url = self.url(&["api", "jobs", &id.to_string(), "events"]);
        let response = self.answer(self.request(Method::GET, url)).await?;
        let base = self.base.clone();
        Ok(response.bytes_stream().eventsource().map(move |event| match event {
            Ok(event) => serde_json::from_str(&event.data).map_err(|_| ClientError::Strange(base.clone())),
            Err(_) => Err(ClientError::Unreachable { url: base.clone(), why: "the connection broke".into() }),
        }))
    }
}
