//! `GET /metrics`: what is counted and measured, for a scraper.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, header};

use super::App;
use crate::metrics::{CONTENT_TYPE, scrape};

/// `GET /metrics`
pub async fn metrics(State(app): State<Arc<App>>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], scrape(&app.metrics, &app.queue).await)
}
