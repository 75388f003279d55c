//! The HTTP routes of a process that runs a reconciler and no API: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;
use tokio::sync::watch;

use crate::metrics::{self, Metrics};
use crate::queue::Queue;

/// Time limit for Redis to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether everything but Redis is ready; if not, the reason and the remedy.
pub type Ready = Result<(), String>;

struct AdminState {
    queue: Queue,
    metrics: Arc<Metrics>,
    ready: watch::Receiver<Ready>,
}

/// The three routes. A reconciler that waits for the fleet lock is ready, too.
pub fn router(queue: Queue, metrics: Arc<Metrics>, ready: watch::Receiver<Ready>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show))
        .with_state(Arc::new(AdminState { queue, metrics, ready }))
}

async fn readyz(State(inside): State<Arc<AdminState>>) -> Result<&'static str, (StatusCode, String)> {
    let not = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    if let Err(why) = &*inside.ready.borrow() {
        return Err(not(why));
    }
    match tokio::time::timeout(CHECK_TIMEOUT, inside.queue.check_primary()).await {
        Ok(Ok(())) => Ok("ready\n"),
        Ok(Err(error)) => Err(not(&error.to_string())),
        Err(_) => Err(not("Redis (REDIS_URL) does not answer in time")),
    }
}

async fn show(State(inside): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    metrics::scrape(&inside.metrics, &inside.queue, &headers).await
}
