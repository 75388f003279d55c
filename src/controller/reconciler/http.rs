//! What a process that runs a reconciler and no API answers: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::{self, Metrics};
use crate::queue::Queue;

/// Redis has so long to answer.
const LIMIT: Duration = Duration::from_secs(5);

struct Inside {
    queue: Queue,
    metrics: Arc<Metrics>,
}

/// The three routes. A reconciler that waits for its turn to act is ready too.
pub fn router(queue: Queue, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show))
        .with_state(Arc::new(Inside { queue, metrics }))
}

async fn readyz(State(inside): State<Arc<Inside>>) -> Result<&'static str, (StatusCode, &'static str)> {
    match tokio::time::timeout(LIMIT, inside.queue.ping()).await {
        Ok(Ok(())) => Ok("ready\n"),
        _ => Err((StatusCode::SERVICE_UNAVAILABLE, "Redis (REDIS_URL) does not answer\n")),
    }
}

async fn show(State(inside): State<Arc<Inside>>) -> impl IntoResponse {
    let text = metrics::scrape(&inside.metrics, &inside.queue).await;
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}
