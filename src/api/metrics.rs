//! `GET /metrics`: what is counted and measured, for a scraper.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::App;
use crate::metrics::scrape;

/// `GET /metrics`
pub async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    scrape(&app.metrics, &app.queue, &headers).await
}
