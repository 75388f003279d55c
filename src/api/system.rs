//! The state of the installation: counts, workers, health.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures::lock::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AppState, Problem};
use crate::job::Millis;
use crate::queue::{PoolEntry, Queue, Stats, WorkerSandbox};
use crate::storage::Storage;
use crate::storage::urls::now_millis;
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
/// Where this process runs workers, it also tells how much of their sandbox there is.
pub(crate) async fn readyz(State(app): State<Arc<AppState>>) -> Result<String, Problem> {
    app.readiness.check(&app.queue, &app.storage).await.map_err(Problem::unavailable)?;
    let sandbox = app.readiness.sandbox.get();
    Ok(sandbox.map_or_else(|| "ready\n".to_owned(), |sandbox| format!("ready\nsandbox: {sandbox}\n")))
}

/// For how long the outcome of a check holds, milliseconds.
const CHECK_HOLDS_MS: i64 = 1_000;
/// Maximum duration of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether Redis and both buckets answer. Everybody may ask without a token, and each check costs requests to storage
/// that are billed, so that all who ask within a second share one.
#[derive(Default)]
pub struct Readiness {
    last: Mutex<Option<LastCheck>>,
    /// The sandbox of the workers of this process, if it has any.
    sandbox: OnceLock<WorkerSandbox>,
}

struct LastCheck {
    at: Millis,
    /// Why it is not ready, if it is not.
    outcome: Result<(), String>,
}

impl Readiness {
    /// Tells of the sandbox of this process's workers, too.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn set_sandbox(&self, sandbox: WorkerSandbox) {
        // It does not change while the process runs.
        let _ = self.sandbox.set(sandbox);
    }

    async fn check(&self, queue: &Queue, storage: &Storage) -> Result<(), String> {
        // Those who ask meanwhile wait here, and then find the outcome.
        let mut last = self.last.lock().await;
        if let Some(last) = &*last
            && (0..CHECK_HOLDS_MS).contains(&now_millis().0.saturating_sub(last.at.0))
        {
            return last.outcome.clone();
        }
        let check = async {
            queue.check_primary().await.map_err(|e| e.to_string())?;
            storage.check().await.map_err(|e| e.to_string())
        };
        let late = || Err("Redis or the object storage takes too long to answer".to_owned());
        let outcome = timeout(CHECK_TIMEOUT, check).await.unwrap_or_else(late);
        *last = Some(LastCheck { at: now_millis(), outcome: outcome.clone() });
        outcome
    }
}
