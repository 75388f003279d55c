//! `GET /metrics`: what is counted and measured, for a scraper.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, header};

use super::App;
use crate::metrics::CONTENT_TYPE;

/// How long Redis may take to say how things stand. Prometheus gives up on a scrape after ten seconds.
const LIMIT: Duration = Duration::from_secs(5);

/// Answers also where Redis does not: the process's own counters are worth most just then.
pub async fn metrics(State(app): State<Arc<App>>) -> ([(HeaderName, &'static str); 1], String) {
    let asked = async { tokio::join!(app.queue.stats(), app.queue.fleet()) };
    match tokio::time::timeout(LIMIT, asked).await {
        Ok((Ok(stats), fleet)) => {
            // A status that cannot be read, by a newer version's reconciler say, hides the fleet alone.
            let status = fleet.map(|(status, paused)| {
                // The reconciler repeats what stands in Redis, and may not have come to it yet.
                status.map(|mut status| {
                    status.paused = paused.is_some();
                    status
                })
            });
            if let Err(error) = &status {
                tracing::debug!(%error, "the fleet's metrics cannot be read");
            }
            app.metrics.queue(&stats);
            app.metrics.fleet(status.ok().flatten().as_ref());
        }
        Ok((Err(error), _)) => {
            tracing::debug!(%error, "the queue's metrics cannot be read");
            app.metrics.redis_down();
        }
        Err(_) => app.metrics.redis_down(),
    }
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], app.metrics.encode())
}
