//! The S3 server of a run, and a proxy in front of it that plays the faults of storage.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tcoder::config::StorageConfig;
use tcoder::standalone::objects::{Buckets, Keys, Objects};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::faults::StorageFault;
use crate::support::edge::{INPUT, OUTPUT};
use crate::support::system::{http, serve};

/// Storage as it is, and as the system reaches it.
pub struct Storage {
    /// The server itself.
    pub direct: StorageConfig,
    /// The same through the proxy.
    pub through_proxy: StorageConfig,
    /// The messages about new inputs.
    pub events: Option<mpsc::Receiver<Vec<u8>>>,
    proxy: Arc<Proxy>,
    _stop: DropGuard,
}

struct Proxy {
    upstream: String,
    client: reqwest::Client,
    /// The current fault, and which share of the requests it hits.
    fault: Mutex<Option<(StorageFault, u64)>>,
    requests: AtomicU64,
    faults: AtomicU64,
}

impl Storage {
    pub async fn start(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sender, events) = mpsc::channel(4096);
        // The names that the Worker knows.
        let buckets = Buckets { input: INPUT.into(), output: OUTPUT.into() };
        let stop = CancellationToken::new();
        let server =
            Objects::start(folder, listener, Keys::generate(), buckets, sender, stop.clone()).unwrap();
        let direct = server.storage_config();
        let proxy = Arc::new(Proxy {
            upstream: direct.endpoint.as_str().trim_end_matches('/').to_owned(),
            client: http(),
            fault: Mutex::default(),
            requests: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        });
        let url = serve(axum::Router::new().fallback(forward).with_state(Arc::clone(&proxy))).await;
        let through_proxy =
            StorageConfig { endpoint: url.parse().unwrap(), public_url: None, ..direct.clone() };
        Self { direct, through_proxy, events: Some(events), proxy, _stop: stop.drop_guard() }
    }

    /// Plays this fault from now on, for one of `every` requests.
    pub fn play(&self, fault: Option<(StorageFault, u64)>) {
        *self.proxy.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Number of requests that a fault has hit.
    pub fn faults(&self) -> u64 {
        self.proxy.faults.load(Ordering::Relaxed)
    }
}

/// The URL of an output, which everybody may read.
pub fn output_url(direct: &StorageConfig, key: &str) -> String {
    format!("{}/{}/{key}", direct.endpoint.as_str().trim_end_matches('/'), direct.output_bucket)
}

impl Proxy {
    fn fault(&self) -> Option<StorageFault> {
        let (fault, every) = (*self.fault.lock().unwrap_or_else(PoisonError::into_inner))?;
        let hit = self.requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(every);
        if hit {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        hit.then_some(fault)
    }
}

async fn forward(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    let fault = proxy.fault();
    match fault {
        Some(StorageFault::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(StorageFault::Slow(time)) => tokio::time::sleep(time).await,
        _ => {}
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", proxy.upstream);
    // A client that was killed does not send its body to the end.
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut headers = parts.headers;
    for hop in [header::CONNECTION, header::TRANSFER_ENCODING, header::EXPECT] {
        headers.remove(hop);
    }
    let is_read = [Method::GET, Method::HEAD].contains(&parts.method);
    let sent = proxy.client.request(parts.method, url).headers(headers).body(body).send().await;
    let Ok(answer) = sent else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::CONNECTION);
    let Ok(body) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into_response() };
    match fault {
        Some(StorageFault::LostAnswer) if !is_read => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(StorageFault::HalfBody) if is_read && status.is_success() && body.len() > 1 => {
            headers.insert(header::CONTENT_LENGTH, body.len().into());
            whole(status, headers, half(&body))
        }
        _ => whole(status, headers, Body::from(body)),
    }
}

/// The first half; then the connection breaks.
fn half(body: &Bytes) -> Body {
    let pieces = [Ok(body.slice(..body.len() / 2)), Err(std::io::Error::other("the connection breaks here"))];
    Body::from_stream(futures::stream::iter(pieces))
}

fn whole(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut answer = Response::new(body);
    (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
    answer
}
