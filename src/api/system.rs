//! The state of the installation: counts, workers, health.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AppState, Problem};
use crate::queue::{PoolEntry, Stats};
use crate::time::timeout;

/// The response to `GET /api/status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemStatus {
    /// The version of tcoder.
    pub version: String,
    /// The number of jobs in each state.
    pub jobs: Stats,
    /// The workers, oldest first.
    pub workers: Vec<PoolEntry>,
}

/// `GET /api/stats`
pub(crate) async fn stats(State(app): State<Arc<AppState>>) -> Result<Json<Stats>, Problem> {
    Ok(Json(app.queue.stats().await?))
}

/// `GET /api/status`
pub(crate) async fn status(State(app): State<Arc<AppState>>) -> Result<Json<SystemStatus>, Problem> {
    let (jobs, workers) = futures::try_join!(app.queue.stats(), app.queue.workers())?;
    Ok(Json(SystemStatus { version: env!("CARGO_PKG_VERSION").to_owned(), jobs, workers }))
}

/// `GET /livez`: the process is alive.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: Redis and both buckets answer.
pub(crate) async fn readyz(State(app): State<Arc<AppState>>) -> Result<&'static str, Problem> {
    const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
    let check = async {
        app.queue.check_primary().await.map_err(|e| Problem::unavailable(e.to_string()))?;
        app.storage.check().await.map_err(|e| Problem::unavailable(e.to_string()))
    };
    match timeout(CHECK_TIMEOUT, check).await {
        Some(done) => done.map(|()| "ready\n"),
        None => Err(Problem::unavailable("Redis or the object storage takes too long to answer")),
    }
}
