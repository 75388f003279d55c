//! Reads the fleet's status as its reconciler published it, and pauses and resumes the reconcilers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extract::{Body, Fields};
use super::{AppState, Problem};
use crate::job::Millis;
use crate::queue::{FleetStatus, Fleets, Paused, QueueError};

/// The response to `GET /api/fleet`, and to the requests that pause and resume the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FleetResponse")]
pub struct FleetAnswer {
    /// Redis's time, to compare the other times with.
    pub now: Millis,
    /// Jobs that are ready for a worker now.
    pub pending: u64,
    /// Whether the reconciler seems to be dead or disconnected from Redis: jobs have waited for more than a
    /// minute, and it has neither published a status nor renewed its lock during that time.
    pub silent: bool,
    /// Set while the fleet is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Paused>,
    /// The status that the reconciler published at the last change; absent if none was ever published. With several
    /// WorkerPools in a cluster it is that of the machines on Fly or, if there are none, of one of the pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStatus>,
    /// The statuses of the other WorkerPools' machines, if there are several pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<FleetStatus>,
}

impl FleetAnswer {
    /// The statuses of all fleets.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn fleets(&self) -> impl Iterator<Item = &FleetStatus> {
        self.fleet.iter().chain(&self.others)
    }
}

/// The body of `POST /api/fleet/pause`; it may be omitted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "PauseFleetRequest")]
pub struct PauseFleet {
    /// The reason, at most 200 characters, shown to people who find the fleet paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Fields for PauseFleet {
    const OWN: &'static [&'static str] = &["reason"];
    const COMMON: &'static [&'static str] = &[];
}

/// Maximum length of a reason, characters: one or two lines of a terminal.
const REASON: usize = 200;
/// After this long without a report, while a job waits, a reconciler is presumed dead, milliseconds. A running
/// reconciler observes every 10 s while jobs wait.
const PATIENCE: i64 = 60_000;

impl PauseFleet {
    /// Returns the reason if there is one. It must be fit to be shown to people.
    fn checked(self) -> Result<Option<String>, Problem> {
        let Some(reason) = self.reason else { return Ok(None) };
        if reason.chars().any(char::is_control) {
            return Err(Problem::field("reason", "it must be one line, without control characters"));
        }
        let reason = reason.trim();
        let length = reason.chars().count();
        if length > REASON {
            let detail = format!("it may have {REASON} characters and has {length}; make it shorter");
            return Err(Problem::field("reason", detail));
        }
        Ok((length > 0).then(|| reason.to_owned()))
    }
}

/// Whether a reconciler that has reported before is missing. A reconciler without news does not report, but it renews
/// its lock. One without work lets the lock expire, and gets a minute from the first job on.
fn is_silent(now: Millis, said: Millis, held_until: Option<Millis>, waits_ms: Option<i64>) -> bool {
    let quiet = said.plus(PATIENCE) < now && held_until.is_none_or(|until| until <= now);
    quiet && waits_ms.is_some_and(|ms| ms > PATIENCE)
}

/// Redis answers, but this version cannot read the stored status. A pause or its end takes effect nevertheless.
fn unreadable(error: QueueError) -> Problem {
    match error {
        QueueError::Data(what) => {
            tracing::error!(what, "could not read the fleet's status");
            Problem::unavailable(
                "what the reconciler says cannot be read here: it is of another version of tcoder; run the \
                 same one everywhere. Pausing and resuming works all the same",
            )
        }
        other => other.into(),
    }
}

impl AppState {
    async fn fleet(&self) -> Result<Json<FleetAnswer>, Problem> {
        let queue = &self.queue;
        let told = async {
            let fleets = queue.fleets().await.and_then(Fleets::or_unreadable).map_err(unreadable)?;
            Ok((queue.fleet_locks_expiry(fleets.statuses.keys()).await?, fleets))
        };
        let rest = async { futures::try_join!(queue.stats(), queue.clock()).map_err(Problem::from) };
        let ((held_until, fleets), (stats, clock)) = futures::try_join!(told, rest)?;
        let now = clock.now();
        let silent = |fleet: &FleetStatus| is_silent(now, fleet.at, held_until, stats.oldest_pending_ms);
        // One process manages them all, so that one that reports speaks for the others.
        let mut statuses = fleets.statuses.into_values();
        let (fleet, others) = (statuses.next(), statuses.collect::<Vec<_>>());
        let pause = fleets.paused;
        let silent = pause.is_none() && fleet.is_some() && fleet.iter().chain(&others).all(silent);
        Ok(Json(FleetAnswer { now, pending: stats.pending, silent, pause, fleet, others }))
    }
}

/// `GET /api/fleet`
pub(crate) async fn get(State(app): State<Arc<AppState>>) -> Result<Json<FleetAnswer>, Problem> {
    app.fleet().await
}

/// `POST /api/fleet/pause`
pub(crate) async fn pause(
    State(app): State<Arc<AppState>>,
    Body(body): Body<PauseFleet>,
) -> Result<Json<FleetAnswer>, Problem> {
    let paused = app.queue.fleet_pause(body.checked()?).await?;
    tracing::info!(since = %paused.since, reason = paused.reason, "fleet paused");
    app.fleet().await
}

/// `POST /api/fleet/resume`
pub(crate) async fn resume(State(app): State<Arc<AppState>>) -> Result<Json<FleetAnswer>, Problem> {
    if app.queue.fleet_resume().await? {
        tracing::info!("fleet resumed");
    }
    app.fleet().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_silent_only_when_jobs_wait_and_no_reconciler_holds_the_lock() {
        const NOW: Millis = Millis(1_000_000);
        let ago = |ms: i64| NOW.plus(-ms);
        for (said, held_until, waits_ms, silent) in [
            (ago(60_001), Some(ago(1)), Some(60_001), true),
            (ago(60_001), Some(NOW), Some(60_001), true),
            (ago(60_001), None, Some(60_001), true),
            // The reconciler lives and has nothing new to report.
            (ago(3_600_000), Some(NOW.plus(1)), Some(3_600_000), false),
            // It has just reported.
            (ago(60_000), None, Some(60_001), false),
            (NOW.plus(5), None, Some(60_001), false),
            // The first job after a quiet night wakes it up.
            (ago(36_000_000), Some(ago(35_000_000)), Some(60_000), false),
            // No job waits.
            (ago(36_000_000), Some(ago(35_000_000)), None, false),
        ] {
            let told = is_silent(NOW, said, held_until, waits_ms);
            assert_eq!(told, silent, "{said:?} {held_until:?} {waits_ms:?}");
        }
    }

    #[test]
    fn pause_reason_must_be_one_short_line() {
        let reason = |text: &str| PauseFleet { reason: Some(text.into()) }.checked();
        assert_eq!(reason("  a new image ").unwrap().as_deref(), Some("a new image"));
        assert_eq!(reason("").unwrap(), None);
        assert_eq!(reason("   ").unwrap(), None);
        assert_eq!(PauseFleet::default().checked().unwrap(), None);
        assert!(reason(&"ж".repeat(200)).is_ok());
        assert!(reason(&"ж".repeat(201)).is_err());
        for bad in ["two\nlines", "a\u{1b}[31m", "a\u{0}", "tab\tbed", "\n", "a\u{9b}"] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fleet_answer_round_trips_through_json() {
        let bare = FleetAnswer {
            now: Millis(0),
            pending: 1,
            silent: false,
            pause: None,
            fleet: None,
            others: vec![],
        };
        let text = serde_json::to_string(&bare).unwrap();
        assert_eq!(text, r#"{"now":0,"pending":1,"silent":false}"#);
        assert_eq!(serde_json::from_str::<FleetAnswer>(&text).unwrap(), bare);
        let pause = Some(Paused { since: Millis(5), reason: Some("why".into()) });
        let full = FleetAnswer {
            pause,
            fleet: Some(FleetStatus::default()),
            others: vec![FleetStatus::default()],
            ..bare
        };
        let text = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<FleetAnswer>(&text).unwrap(), full);
    }
}
