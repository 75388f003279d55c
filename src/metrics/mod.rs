//! What can be counted and measured of an installation, as text for a scraper.
//!
//! What lives here: names, help texts, and the reckoning behind them. What does not: what is asked
//! of Fly or happens to jobs; others hand in what they heard.
//!
//! | where | what lives there |
//! |---|---|
//! | here | [`Metrics`]: the counters and histograms, which only grow while the process lives |
//! | `jobs` | which ends and which times a stream of changes tells. Pure |
//! | `format` | whether a scraper gets Prometheus's text format or OpenMetrics. Pure |
//! | `gauges` | how things stand now, as last handed in; what is not known is not shown |
//!
//! Every API process hears every job, so all of them show the same: a sum over processes counts each
//! job several times. What is told of Fly and of the fleet is the process's own.

mod format;
mod gauges;
mod jobs;

pub use format::Format;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::job::JobEvent;
use crate::queue::{FleetStatus, Queue, Stats};
use crate::time::timeout;
use gauges::{Fleet, Gauges};
use jobs::{ATTEMPT_ENDS, Ledger};

/// Jobs whose last change is remembered; about 120 bytes each.
const JOBS: usize = 50_000;
/// Upper bounds of buckets, seconds. A wake takes milliseconds, a machine's start seconds, a backlog hours.
const WAITING: [f64; 14] =
    [0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 14400.0];
const RUNNING: [f64; 13] =
    [1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 10800.0];
const REQUEST: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// Everything that is counted and measured in this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ledger: Mutex<Ledger>,
    gauges: Arc<Mutex<Gauges>>,
    ended: Family<Labels<1>, Counter>,
    attempts: Family<Labels<1>, Counter>,
    waiting: Histogram,
    running: Histograms,
    provider_requests: Family<Labels<2>, Counter>,
    fly_times: Histograms,
    fly_limited: Counter,
    actions: Family<Labels<2>, Counter>,
    spent: Counter<f64, std::sync::atomic::AtomicU64>,
    operator_leader: Gauge,
    reconciles: Family<Labels<1>, Counter>,
}

/// How long Redis may take to say how things stand. Prometheus gives up on a scrape after ten seconds.
const LIMIT: Duration = Duration::from_secs(5);

/// The answer to a scrape. It is one also where Redis gives none: the process's own counters are worth
/// most just then. `headers` are the request's, and choose the format.
pub async fn scrape(metrics: &Metrics, queue: &Queue, headers: &HeaderMap) -> Response {
    refresh(metrics, queue).await;
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let format = Format::negotiate(&accepts.collect::<Vec<_>>().join(","));
    let headers = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, header::ACCEPT.as_str())];
    (headers, metrics.encode(format)).into_response()
}

/// Asks Redis how things stand.
async fn refresh(metrics: &Metrics, queue: &Queue) {
    let asked = async { futures::join!(queue.stats(), queue.fleet()) };
    match timeout(LIMIT, asked).await {
        Some((Ok(stats), fleet)) => {
            // A status that cannot be read, by a newer version's reconciler say, hides the fleet alone.
            if let Err(error) = &fleet {
                tracing::debug!(%error, "could not read the fleet's metrics");
            }
            metrics.queue(&stats);
            let status = fleet.ok().and_then(|(status, paused)| {
                // The reconciler repeats what stands in Redis, and may not have come to it yet.
                status.map(|s| FleetStatus { paused: s.paused || paused.is_some(), ..s })
            });
            metrics.fleet(status.as_ref());
        }
        Some((Err(error), _)) => {
            tracing::debug!(%error, "could not read the queue's metrics");
            metrics.redis_down();
        }
        None => metrics.redis_down(),
    }
}

impl Metrics {
    /// All counters at zero, no gauge known.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("tcoder"),
            ledger: Mutex::new(Ledger::new(JOBS)),
            gauges: Arc::default(),
            ended: Family::default(),
            attempts: Family::default(),
            waiting: Histogram::new(WAITING),
            running: Family::new_with_constructor(|| Histogram::new(RUNNING)),
            provider_requests: Family::default(),
            fly_times: Family::new_with_constructor(|| Histogram::new(REQUEST)),
            fly_limited: Counter::default(),
            actions: Family::default(),
            spent: Counter::default(),
            operator_leader: Gauge::default(),
            reconciles: Family::default(),
        };
        for outcome in ["ok", "error"] {
            drop(metrics.reconciles.get_or_create(&[("outcome", outcome)]));
        }
        // From zero on, so that the first of its kind is seen as an increase.
        for end in ATTEMPT_ENDS {
            drop(metrics.attempts.get_or_create(&[("outcome", end.name())]));
            if let Some(state) = end.of_job() {
                drop(metrics.ended.get_or_create(&[("outcome", state)]));
            }
        }
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("build", "The version of tcoder", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register(
            "jobs_finished",
            "Jobs that ended since this process started, by how. Every API process counts all jobs: do not sum over processes",
            self.ended.clone(),
        );
        r.register(
            "job_attempts",
            "Attempts that ended since this process started, by how; requeued is one that failed, was lost or was handed back, with another to come. Every API process counts all jobs",
            self.attempts.clone(),
        );
        r.register_with_unit(
            "job_waiting",
            "How long an attempt waited for a worker, from the time the job was queued; a delay that was asked for and the pause before a retry included",
            Unit::Seconds,
            self.waiting.clone(),
        );
        r.register_with_unit(
            "job_running",
            "How long an attempt took from the claim to its end, by how it ended",
            Unit::Seconds,
            self.running.clone(),
        );
        r.register(
            "provider_requests",
            "Requests of this process to the Fly Machines API, by what they asked for and what came of them",
            self.provider_requests.clone(),
        );
        r.register_with_unit(
            "provider_request_duration",
            "How long requests of this process to the Fly Machines API took, without the wait for the shared rate limit",
            Unit::Seconds,
            self.fly_times.clone(),
        );
        r.register(
            "provider_throttled",
            "Answers of the Fly Machines API to this process that said 429",
            self.fly_limited.clone(),
        );
        r.register(
            "fleet_actions",
            "Steps this process carried out on the fleet, by kind and by what came of them",
            self.actions.clone(),
        );
        r.register_with_unit(
            "fleet_spent",
            "Estimated cost of machine time this process has seen pass",
            Unit::Other("dollars".to_owned()),
            self.spent.clone(),
        );
        r.register(
            "operator_leader",
            "Whether this process holds the Lease and sees to TranscodeJobs and WorkerPools",
            self.operator_leader.clone(),
        );
        r.register(
            "operator_reconciliations",
            "Looks of this process at a TranscodeJob, by whether they came to an end",
            self.reconciles.clone(),
        );
        r.register_collector(Box::new(gauges::Shown(Arc::clone(&self.gauges))));
    }

    /// All of it as text.
    #[must_use]
    pub fn encode(&self, format: Format) -> String {
        let mut out = String::with_capacity(16 * 1024);
        // A String takes whatever is written to it, so this cannot fail.
        let _ = match format {
            Format::Prometheus => prometheus_text::encode(&mut out, &self.registry),
            Format::OpenMetrics => text::encode(&mut out, &self.registry),
        };
        out
    }

    /// A change of a job was heard. Counts ends, and measures waiting and running times from the events'
    /// own times. What comes twice or late is left out.
    pub fn job_event(&self, event: &JobEvent) {
        let heard = lock(&self.ledger).hear(event);
        if let Some(state) = heard.ended {
            self.ended.get_or_create(&[("outcome", state)]).inc();
        }
        if let Some(waited) = heard.waited {
            self.waiting.observe(waited.as_secs_f64());
        }
        if let Some((end, took)) = heard.attempt {
            let labels = [("outcome", end.name())];
            self.attempts.get_or_create(&labels).inc();
            if let Some(took) = took {
                self.running.get_or_create(&labels).observe(took.as_secs_f64());
            }
        }
    }

    /// How the queue stands, as Redis has just said.
    pub fn queue(&self, stats: &Stats) {
        let mut gauges = lock(&self.gauges);
        gauges.redis_up = Some(true);
        gauges.queue = Some(*stats);
    }

    /// How the fleet stands; nothing where there is none, or where it is not known.
    pub fn fleet(&self, status: Option<&FleetStatus>) {
        lock(&self.gauges).fleet = status.map(Fleet::of);
    }

    /// Redis did not say how the queue and the fleet stand: what it said before is shown no more.
    pub fn redis_down(&self) {
        *lock(&self.gauges) = Gauges { redis_up: Some(false), queue: None, fleet: None };
    }

    /// A request to Fly is over. `took` is without the wait for the rate limit.
    pub fn provider_call(&self, action: &'static str, outcome: &'static str, took: Duration) {
        self.provider_requests.get_or_create(&[("action", action), ("outcome", outcome)]).inc();
        self.fly_times.get_or_create(&[("action", action)]).observe(took.as_secs_f64());
    }

    /// Fly said 429.
    pub fn provider_throttled(&self) {
        self.fly_limited.inc();
    }

    /// A step on the fleet was carried out, a retire too.
    pub fn fleet_action(&self, kind: &'static str, outcome: &'static str) {
        self.actions.get_or_create(&[("kind", kind), ("outcome", outcome)]).inc();
    }

    /// This process sees to custom resources from now on, or does so no longer.
    pub fn operator_leader(&self, acts: bool) {
        self.operator_leader.set(acts.into());
    }

    /// A TranscodeJob was looked at, or could not be.
    pub fn reconciled(&self, ok: bool) {
        self.reconciles.get_or_create(&[("outcome", if ok { "ok" } else { "error" })]).inc();
    }

    /// So many dollars were spent on machines, by estimate. What is no amount is left out: a counter
    /// never falls.
    pub fn fleet_spent(&self, dollars: f64) {
        if dollars.is_finite() && dollars > 0.0 {
            self.spent.inc_by(dollars);
        }
    }
}

/// What is behind these locks is whole at any moment, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
