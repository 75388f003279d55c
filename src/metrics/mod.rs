//! The metrics of an installation, as text for a scraper.
//!
//! This module contains names, help texts and calculations. It does not call Fly or watch jobs; other modules record
//! their observations here.
//!
//! | module | contents |
//! |---|---|
//! | this one | [`Metrics`]: the counters and histograms, which only grow while the process lives |
//! | `jobs` | counters and durations that follow from the event stream. Pure |
//! | `format` | selects Prometheus's text format or OpenMetrics for a scraper. Pure |
//! | `gauges` | the current values, as last recorded; unknown values are not exported |
//!
//! Every API process receives the events of all jobs, so all of them report the same counts: a sum over processes
//! counts each job several times. The metrics about Fly and the fleet belong to the process.

mod format;
mod gauges;
mod jobs;

pub use format::ExpositionFormat;

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
use crate::queue::{FleetStatus, Fleets, Queue, Stats};
use crate::time::timeout;
use gauges::{FleetGauges, Gauges};
use jobs::{ATTEMPT_ENDS, Ledger};

/// Maximum number of jobs whose last event is stored; each needs about 120 bytes.
const JOBS: usize = 50_000;
/// Upper bounds of buckets, seconds. A wake-up takes milliseconds, the start of a machine seconds, a backlog hours.
const WAITING: [f64; 14] =
    [0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 14400.0];
const RUNNING: [f64; 13] =
    [1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 10800.0];
const REQUEST: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// All metrics of this process.
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
    segments_held: Gauge,
    segments: Family<Labels<1>, Counter>,
}

/// How a request for a segment of a video that is still encoded ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentRequest {
    /// The segment is in storage.
    Ready,
    /// It was not encoded in time.
    TimedOut,
    /// Too many requests were held already.
    Refused,
    /// There is no such segment.
    NotFound,
    /// Redis did not answer.
    Failed,
    /// The client went away, as players do when their viewer seeks.
    Abandoned,
}

impl SegmentRequest {
    const ALL: [Self; 6] =
        [Self::Ready, Self::TimedOut, Self::Refused, Self::NotFound, Self::Failed, Self::Abandoned];

    const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::NotFound => "not_found",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Maximum time for the queries to Redis. Prometheus aborts a scrape after ten seconds.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a scrape. It succeeds even if Redis does not answer, because the process's own counters matter most at
/// that time. `headers` are the request's and select the format.
pub async fn scrape(metrics: &Metrics, queue: &Queue, headers: &HeaderMap) -> Response {
    refresh(metrics, queue).await;
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let format = ExpositionFormat::negotiate(&accepts.collect::<Vec<_>>().join(","));
    let headers = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, header::ACCEPT.as_str())];
    (headers, metrics.encode(format)).into_response()
}

/// Queries Redis for the current values.
async fn refresh(metrics: &Metrics, queue: &Queue) {
    let asked = async { futures::join!(queue.stats(), queue.fleets()) };
    match timeout(QUERY_TIMEOUT, asked).await {
        Some((Ok(stats), fleet)) => {
            // If the status cannot be parsed, for example because a newer version wrote it, only the fleet is
            // missing.
            let fleet = fleet.and_then(Fleets::or_unreadable);
            if let Err(error) = &fleet {
                tracing::debug!(%error, "could not read the fleet's metrics");
            }
            metrics.queue(&stats);
            let status = fleet.ok().and_then(|Fleets { statuses, paused, .. }| {
                // The reconcilers publish the pause as well, but may not have done so yet.
                let total = FleetStatus::total(statuses.into_values());
                total.map(|all| FleetStatus { paused: all.paused || paused.is_some(), ..all })
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
    /// Creates the metrics with all counters at zero and without gauges.
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
            segments_held: Gauge::default(),
            segments: Family::default(),
        };
        for outcome in SegmentRequest::ALL {
            drop(metrics.segments.get_or_create(&[("outcome", outcome.name())]));
        }
        for outcome in ["ok", "error"] {
            drop(metrics.reconciles.get_or_create(&[("outcome", outcome)]));
        }
        // Starts them at zero, so that the first event is seen as an increase.
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
            "Jobs that ended since this process started, by outcome. Every API process counts all jobs: do not sum over processes",
            self.ended.clone(),
        );
        r.register(
            "job_attempts",
            "Attempts that ended since this process started, by outcome; requeued attempts failed, were lost or were released, and another one follows. Every API process counts all jobs",
            self.attempts.clone(),
        );
        r.register_with_unit(
            "job_waiting",
            "How long an attempt waited for a worker, from the time the job was queued; includes a requested delay and the pause before a retry",
            Unit::Seconds,
            self.waiting.clone(),
        );
        r.register_with_unit(
            "job_running",
            "How long an attempt took from the claim to its end, by outcome",
            Unit::Seconds,
            self.running.clone(),
        );
        r.register(
            "provider_requests",
            "Requests of this process to the Fly Machines API, by action and outcome",
            self.provider_requests.clone(),
        );
        r.register_with_unit(
            "provider_request_duration",
            "How long requests of this process to the Fly Machines API took, excluding the wait for the shared rate limit",
            Unit::Seconds,
            self.fly_times.clone(),
        );
        r.register(
            "provider_throttled",
            "Responses of the Fly Machines API to this process with status 429",
            self.fly_limited.clone(),
        );
        r.register(
            "fleet_actions",
            "Operations that this process carried out on the fleet, by kind and outcome",
            self.actions.clone(),
        );
        r.register_with_unit(
            "fleet_spent",
            "Estimated cost of the machine time that this process has observed",
            Unit::Other("dollars".to_owned()),
            self.spent.clone(),
        );
        r.register(
            "operator_leader",
            "Whether this process holds the Lease and reconciles TranscodeJobs and WorkerPools",
            self.operator_leader.clone(),
        );
        r.register(
            "operator_reconciliations",
            "Reconciliations of TranscodeJobs by this process, by outcome",
            self.reconciles.clone(),
        );
        r.register(
            "segment_requests_held",
            "Requests for segments that are not encoded yet which this process holds at the moment",
            self.segments_held.clone(),
        );
        r.register(
            "segment_requests",
            "Requests to this process for segments of videos that are still encoded, by outcome",
            self.segments.clone(),
        );
        r.register_collector(Box::new(gauges::Shown(Arc::clone(&self.gauges))));
    }

    /// Encodes all metrics as text.
    #[must_use]
    pub fn encode(&self, format: ExpositionFormat) -> String {
        let mut out = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail.
        let _ = match format {
            ExpositionFormat::Prometheus => prometheus_text::encode(&mut out, &self.registry),
            ExpositionFormat::OpenMetrics => text::encode(&mut out, &self.registry),
        };
        out
    }

    /// Records a change of a job. Counts ends, and measures waiting and running times from the times of the events.
    /// Duplicates and late events are ignored.
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

    /// Records the state of the queue as Redis returned it.
    pub fn queue(&self, stats: &Stats) {
        let mut gauges = lock(&self.gauges);
        gauges.redis_up = Some(true);
        gauges.queue = Some(*stats);
    }

    /// Records the state of all fleets together; `None` if there is none, or if it is unknown.
    pub fn fleet(&self, status: Option<&FleetStatus>) {
        lock(&self.gauges).fleet = status.map(FleetGauges::of);
    }

    /// Records that Redis did not answer. The gauges are then no longer exported.
    pub fn redis_down(&self) {
        *lock(&self.gauges) = Gauges { redis_up: Some(false), queue: None, fleet: None };
    }

    /// Records a request to the provider. `took` excludes the wait for the rate limit.
    pub fn provider_call(&self, action: &'static str, outcome: &'static str, took: Duration) {
        self.provider_requests.get_or_create(&[("action", action), ("outcome", outcome)]).inc();
        self.fly_times.get_or_create(&[("action", action)]).observe(took.as_secs_f64());
    }

    /// Records that Fly answered 429.
    pub fn provider_throttled(&self) {
        self.fly_limited.inc();
    }

    /// Records an operation on the fleet, including a retire.
    pub fn fleet_action(&self, kind: &'static str, outcome: &'static str) {
        self.actions.get_or_create(&[("kind", kind), ("outcome", outcome)]).inc();
    }

    /// Records whether this process is the leader for custom resources.
    pub fn operator_leader(&self, acts: bool) {
        self.operator_leader.set(acts.into());
    }

    /// Records a reconciliation of a TranscodeJob.
    pub fn reconciled(&self, ok: bool) {
        self.reconciles.get_or_create(&[("outcome", if ok { "ok" } else { "error" })]).inc();
    }

    /// Records the number of requests for segments that are held at the moment.
    pub fn segment_requests_held(&self, count: usize) {
        self.segments_held.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Records the end of a request for a segment of a video that is still encoded.
    pub fn segment_request(&self, outcome: SegmentRequest) {
        self.segments.get_or_create(&[("outcome", outcome.name())]).inc();
    }

    /// Adds estimated costs of machines. Invalid amounts are ignored, because a counter never decreases.
    pub fn fleet_spent(&self, dollars: f64) {
        if dollars.is_finite() && dollars > 0.0 {
            self.spent.inc_by(dollars);
        }
    }
}

/// The data behind these locks is always consistent, so a panic elsewhere does not corrupt it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
