//! How the installation is: counts, workers, health.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{App, Problem};
use crate::pace::within;
use crate::queue::{Registered, Stats};

/// The answer of `GET /api/status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemStatus {
    /// tcoder's version.
    pub version: String,
    /// How many jobs stand where.
    pub jobs: Stats,
    /// The workers, oldest first.
    pub workers: Vec<Registered>,
}

/// `GET /api/stats`
pub async fn stats(State(app): State<Arc<App>>) -> Result<Json<Stats>, Problem> {
    Ok(Json(app.queue.stats().await?))
}

/// `GET /api/status`
pub async fn status(State(app): State<Arc<App>>) -> Result<Json<SystemStatus>, Problem> {
    let (jobs, workers) = futures::try_join!(app.queue.stats(), app.queue.workers())?;
    Ok(Json(SystemStatus { version: env!("CARGO_PKG_VERSION").to_owned(), jobs, workers }))
}

/// `GET /healthz`: the process lives.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: it can do its work: Redis and both buckets answer.
pub async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    const LIMIT: Duration = Duration::from_secs(5);
    let check = async {
        app.queue.ping().await.map_err(|e| Problem::unavailable(e.to_string()))?;
        app.storage.check().await.map_err(|e| Problem::unavailable(e.to_string()))
    };
    match within(LIMIT, check).await {
        Some(done) => done.map(|()| "ready\n"),
        None => Err(Problem::unavailable("Redis or the object storage takes too long to answer")),
    }
}
