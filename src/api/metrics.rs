//! `GET /metrics`: serves the metrics to a scraper.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::AppState;
use crate::metrics::scrape;

/// `GET /metrics`
pub(crate) async fn metrics(State(app): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    app.metrics.segment_requests_held(app.held.count());
    scrape(&app.metrics, &app.queue, &headers).await
}
