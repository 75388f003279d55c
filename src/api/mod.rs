//! The HTTP API: one axum router for `tcoder api`, `tcoder up` and the Cloudflare Worker.
//!
//! This module contains requests and responses, authentication, the live feed of changes, and the processing of
//! object-created events. `job` defines what a job is, and `queue` stores it.

mod auth;
mod client_address;
mod extract;
mod feed;
mod fleet;
#[cfg(all(any(test, feature = "fuzzing"), not(target_arch = "wasm32")))]
pub(crate) mod fuzz;
mod hold;
mod ingest;
mod jobs;
mod media;
mod metrics;
#[cfg(not(target_arch = "wasm32"))]
pub mod openapi;
#[cfg(not(target_arch = "wasm32"))]
mod page;
mod parts;
mod problem;
mod request_origin;
mod requests;
#[cfg(not(target_arch = "wasm32"))]
mod span;
mod sse;
mod system;
mod tokens;
mod web_origin;

pub use feed::Feed;
pub use fleet::{FleetAnswer, PauseFleet};
pub use hold::HeldRequests;
pub use ingest::{IngestError, Ingested, UploadedObject, ingest_object_event};
pub use parts::{Multipart, PartAddress, SignPartsRequest, SignedParts};
pub use problem::{Problem, ProblemBody};
pub use request_origin::RequestOrigin;
pub use requests::{CreateJobRequest, CreateUploadRequest, CreateUploadResponse, JobOptions};
pub use sse::EventStreams;
pub use system::{Readiness, SystemStatus};
pub use tokens::{CreateTokenRequest, IssuedToken, TokenList, TokenPermissions};

#[cfg(not(target_arch = "wasm32"))]
use span::with_tracing;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::ApiConfig;
use crate::job::Scope;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::storage::Storage;
use crate::storage::urls::UrlSigner;
use crate::time::timeout;
use crate::trace::TraceParent;

/// Maximum size of a request body, bytes. Requests contain options, never videos.
const BODY_LIMIT: usize = 64 * 1024;
/// Maximum duration of a request, except for the live feed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The state that all handlers share.
pub struct AppState {
    /// The job queue.
    pub queue: Queue,
    /// The input and output buckets.
    pub storage: Storage,
    /// Signs the addresses of objects.
    pub links: UrlSigner,
    /// Tokens, CORS origins and addresses.
    pub config: ApiConfig,
    /// Whether webhooks can be signed. If not, requests with a webhook are rejected.
    pub webhooks: bool,
    /// The metrics, including the number of connections to the feed.
    pub metrics: Arc<Metrics>,
    /// The source of the live feed.
    pub feed: Feed,
    /// The requests for segments that are not encoded yet.
    pub held: HeldRequests,
    /// The open event streams.
    pub streams: EventStreams,
    /// Whether Redis and the buckets answered last.
    pub readiness: Readiness,
}

/// Builds the whole API for `app`.
pub fn router(app: Arc<AppState>) -> Router {
    let cors = cors(&app.config.cors_origins);
    let administrators = Router::new()
        .route("/api/tokens", get(tokens::list).post(tokens::create))
        .route("/api/tokens/{name}", put(tokens::change).delete(tokens::delete))
        .route("/api/tokens/{name}/rotate", post(tokens::rotate))
        .route_layer(from_fn(auth::require_administrator));
    let operators = Router::new()
        .route("/api/fleet/pause", post(fleet::pause))
        .route("/api/fleet/resume", post(fleet::resume))
        .route_layer(from_fn_with_state(Scope::Operate, auth::require_scope));
    let readers = Router::new()
        .route("/api/stats", get(system::stats))
        .route("/api/status", get(system::status))
        .route("/api/fleet", get(fleet::get))
        .route("/metrics", get(metrics::metrics))
        .route_layer(from_fn_with_state(Scope::Read, auth::require_scope));
    let submitters = Router::new()
        .route("/api/upload", post(jobs::upload))
        .route("/api/jobs", post(jobs::submit))
        .route_layer(from_fn_with_state(Scope::Submit, auth::require_scope));
    // Their handlers look at whose job it is.
    let guarded = Router::new()
        .route("/api/jobs", get(jobs::list))
        .route("/api/jobs/{id}", get(jobs::get_one).delete(jobs::cancel))
        .route("/api/jobs/{id}/retry", post(jobs::retry))
        .route("/api/jobs/{id}/parts", post(parts::sign))
        .route("/api/jobs/{id}/uploaded", post(parts::uploaded))
        // The name of this route in the original TCoder.
        .route("/api/jobs/{id}/trigger-r2-event", post(parts::uploaded))
        .merge(submitters)
        .merge(readers)
        .merge(operators)
        .merge(administrators)
        .layer(from_fn(request_timeout))
        .route("/api/jobs/{id}/events", get(sse::job_events))
        .route_layer(from_fn_with_state(app.clone(), auth::authenticate));
    let router = Router::new()
        .merge(guarded)
        .route("/problems/{kind}", get(problem::explain))
        .route("/livez", get(system::livez))
        .route("/readyz", get(system::readyz))
        .merge(others())
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(cors)
        .merge(media::routes())
        .layer(from_fn_with_state(Arc::clone(&app), web_origin::refuse_cross_site))
        .with_state(app);
    with_tracing(router)
}

/// Serves the web page on all other paths.
#[cfg(not(target_arch = "wasm32"))]
fn others() -> Router<Arc<AppState>> {
    page::routes()
}

/// In the Worker, Cloudflare serves the files of the web page.
#[cfg(target_arch = "wasm32")]
fn others() -> Router<Arc<AppState>> {
    Router::new().fallback(problem::no_such_route)
}

/// Cloudflare traces requests itself.
#[cfg(target_arch = "wasm32")]
const fn with_tracing(router: Router) -> Router {
    router
}

/// The trace that the caller's request belongs to.
fn caller_trace(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(headers.get(TraceParent::HEADER)?.to_str().ok()?)
}

async fn request_timeout(request: Request, next: Next) -> Response {
    let late = || Problem::unavailable("this took too long; try again in a few seconds").into_response();
    timeout(REQUEST_TIMEOUT, next.run(request)).await.unwrap_or_else(late)
}

/// Browsers may call from the configured origins; by default from none.
fn cors(origins: &[String]) -> CorsLayer {
    let allowed = if origins.iter().any(|o| o == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static(TraceParent::HEADER),
        ])
        .max_age(Duration::from_secs(600))
}

#[cfg(not(target_arch = "wasm32"))]
mod process {
    //! The API in a process.

    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::{AppState, EventStreams, Feed, HeldRequests, Readiness};
    use crate::config::ApiConfig;
    use crate::event_bus::EventBus;
    use crate::janitor::{Janitor, JanitorTasks};
    use crate::metrics::Metrics;
    use crate::queue::{Queue, QueueError};
    use crate::storage::Storage;
    use crate::storage::urls::UrlSigner;
    use crate::webhook::WebhookSender;

    impl AppState {
        /// Starts an API for this queue and these buckets. Its feed runs until `stop` is cancelled.
        ///
        /// # Errors
        /// If Redis does not answer, or the address of the storage is invalid.
        pub async fn start(
            queue: Queue,
            storage: Storage,
            links: UrlSigner,
            config: ApiConfig,
            webhooks: bool,
            metrics: Arc<Metrics>,
            stop: CancellationToken,
        ) -> Result<Arc<Self>, QueueError> {
            let event_bus = EventBus::start(&queue, Some(Arc::clone(&metrics)), stop.clone()).await?;
            let feed = Feed::new(event_bus, stop);
            Ok(Arc::new(Self {
                queue,
                storage,
                links,
                config,
                webhooks,
                metrics,
                feed,
                held: HeldRequests::default(),
                streams: EventStreams::default(),
                readiness: Readiness::default(),
            }))
        }

        /// The event bus of this process.
        pub(crate) const fn event_bus(&self) -> &EventBus {
            self.feed.event_bus()
        }

        /// A janitor for the same queue and storage.
        #[must_use]
        pub fn janitor(&self, webhooks: Option<WebhookSender>) -> Janitor {
            let tasks = JanitorTasks {
                queue: self.queue.clone(),
                storage: self.storage.clone(),
                links: self.links.clone(),
                webhooks,
            };
            Janitor { tasks, event_bus: self.event_bus().clone() }
        }
    }
}
