//! The driver's host in a process: events of jobs wake it; otherwise it sleeps until the plan requires another round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::apply::{Targets, apply};
use super::driver::{Driver, DriverState, MAX_SLEEP, RENEW_INTERVAL};
use super::effect::{Effect, EffectResult};
use crate::controller::fleet::{
    Condition, FleetPolicy, ListFailure, MachineProvider, Moment, Outcome, Plan, ProviderWords,
};
use crate::metrics::Metrics;
use crate::queue::{Change, EventFeed, FleetStatus, LockOutcome, Queue, QueueError, RequestRate, backoff};

/// How long the lock is held without a renewal.
pub(super) const HOLD: Duration = Duration::from_secs(30);
/// Longest blocking read of the event stream.
const READ: Duration = Duration::from_secs(300);
/// Events within this time of the last observation cause a single further observation.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Redis ends a blocking read without a result up to this much late: it checks timeouts ten times a second.
const READ_LATENESS: Duration = Duration::from_millis(100);
/// Time that an unfinished request has to end when the process is stopped.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What a reconciler needs.
pub struct ReconcilerDeps<P> {
    /// The queue.
    pub queue: Queue,
    /// The provider of the machines.
    pub provider: P,
    /// The rate of requests to the provider, shared by all processes.
    pub rate: RequestRate,
    /// The policy of the fleet. All of it but the app may change; the sender may be dropped if nothing changes.
    pub policy: watch::Receiver<FleetPolicy>,
    /// Receives each published status.
    pub status: watch::Sender<Option<FleetStatus>>,
    /// Environment variables of the machines besides those that the fleet sets. No secrets.
    pub environment: BTreeMap<String, String>,
    /// The name of this process among its peers.
    pub holder: String,
    /// The metrics to record in.
    pub metrics: Arc<Metrics>,
}

/// Reconciles the machines with the queue for as long as it runs.
pub struct Reconciler<P> {
    deps: ReconcilerDeps<P>,
    driver: Driver,
    began: Instant,
    conditions: Vec<Condition>,
    looked_at: Instant,
    /// Consecutive failures of Redis.
    failures: u32,
    feed: Option<EventFeed>,
    /// The time until which the metrics include the machines' cost.
    billed_until: Moment,
    /// The app of the machines, fixed for the lifetime of the process.
    app: String,
}

impl<P: MachineProvider> Reconciler<P> {
    /// A reconciler with an empty state.
    #[must_use]
    pub fn new(deps: ReconcilerDeps<P>) -> Self {
        let policy = deps.policy.borrow().clone();
        let app = policy.app.clone();
        let alive = deps.queue.policy().alive;
        Self {
            driver: Driver::new(P::words(), policy, alive, DriverState::default()),
            deps,
            app,
            began: Instant::now(),
            conditions: Vec::new(),
            looked_at: Instant::now(),
            failures: 0,
            feed: None,
            billed_until: Moment::ZERO,
        }
    }

    /// Runs until `stop`, then releases the lock.
    pub async fn run(mut self, stop: CancellationToken) {
        {
            let mut rounds = std::pin::pin!(self.rounds(&stop));
            tokio::select! {
                () = &mut rounds => {}
                () = stop.cancelled() => {
                    if timeout(SHUTDOWN_GRACE, rounds).await.is_err() {
                        tracing::warn!("shut down during a request to the provider; the next list shows its outcome");
                    }
                }
            }
        }
        if let Some(fence) = self.driver.fence()
            && let Err(error) = self.deps.queue.release_fleet_lock(fence).await
        {
            tracing::warn!(%error, "could not release the fleet lock; it expires");
        }
    }

    /// Runs rounds until `stop`; then finishes the current one.
    async fn rounds(&mut self, stop: &CancellationToken) {
        loop {
            let effect = self.driver.next(self.now());
            if stop.is_cancelled() && matches!(effect, Effect::Observe | Effect::Wait { .. }) {
                return;
            }
            let pause = match effect {
                Effect::Wait { at_most, .. } => {
                    self.failures = 0;
                    tokio::select! {
                        () = self.wait(at_most) => {}
                        () = stop.cancelled() => {}
                    }
                    continue;
                }
                effect => self.step(effect).await,
            };
            if let Some(pause) = pause {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Performs an effect and reports its outcome to the driver. If Redis failed, returns the pause before the retry.
    async fn step(&mut self, effect: Effect) -> Option<Duration> {
        let observes = effect == Effect::Observe;
        let (answer, pause) = match self.carry_out(effect).await {
            Ok(answer) => (answer, None),
            Err(error) => (EffectResult::QueueUnavailable, Some(self.without_redis(&error))),
        };
        if let Some(ended) = self.driver.on(answer, self.now()) {
            self.deps.metrics.fleet_action(ended.operation, ended.outcome);
        }
        if observes && pause.is_none() {
            self.count_cost();
        }
        pause
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<EffectResult, QueueError> {
        let ReconcilerDeps { queue, provider, environment, rate, metrics, .. } = &self.deps;
        let targets = Targets { queue, provider, environment, rate: *rate };
        match effect {
            Effect::Observe => self.observe().await,
            Effect::AcquireLock { fresh, insist } => self.lock(fresh, insist).await.map(EffectResult::Lock),
            Effect::CheckLock => self.lock(false, false).await.map(EffectResult::Lock),
            Effect::Publish(status) => {
                log_conditions(&mut self.conditions, self.driver.plan(), P::words());
                let Some(fence) = self.driver.fence() else { return Ok(EffectResult::Published(false)) };
                let held = queue.publish_fleet_status(fence, &status).await?;
                if held {
                    self.deps.status.send_replace(Some(status));
                }
                Ok(EffectResult::Published(held))
            }
            effect @ (Effect::List | Effect::Call(_)) => {
                let action = if let Effect::Call(operation) = &effect { operation.kind() } else { "list" };
                let began = Instant::now();
                let answer = self.while_renewing(apply(effect, &self.driver, &targets)).await?;
                let outcome = match &answer {
                    EffectResult::Listed(Err(error)) | EffectResult::Called(Err(error)) => error.outcome(),
                    _ => Outcome::Done(None),
                };
                metrics.provider_call(action, outcome.word(), began.elapsed());
                Ok(answer)
            }
            effect => {
                if let Effect::ReportThrottled(_) = effect {
                    metrics.provider_throttled();
                }
                apply(effect, &self.driver, &targets).await
            }
        }
    }

    async fn observe(&mut self) -> Result<EffectResult, QueueError> {
        if self.feed.is_none() {
            // Opened before the view is read, so that no event between the two is missed.
            self.feed = Some(EventFeed::open(&self.deps.queue).await?);
        }
        self.looked_at = Instant::now();
        let view = self.deps.queue.fleet_view().await?;
        let capabilities = self.deps.provider.capabilities();
        let wanted = self.deps.policy.borrow().clone();
        self.driver.set_policy(FleetPolicy { app: self.app.clone(), capabilities, ..wanted });
        Ok(EffectResult::Observed(view))
    }

    async fn lock(&self, fresh: bool, insist: bool) -> Result<LockOutcome, QueueError> {
        self.deps.queue.acquire_fleet_lock(&self.deps.holder, HOLD, fresh, insist).await
    }

    /// Renews the lock until a request has ended.
    async fn while_renewing<T>(&self, request: impl Future<Output = T>) -> T {
        let mut request = std::pin::pin!(request);
        loop {
            tokio::select! {
                answer = &mut request => return answer,
                () = sleep(RENEW_INTERVAL) => {
                    if let Err(error) = self.lock(false, false).await {
                        tracing::debug!(%error, "could not renew the fleet lock");
                    }
                }
            }
        }
    }

    /// Adds the cost of the machines since the last observation to the metrics. Only the holder of the lock does so.
    fn count_cost(&mut self) {
        let now = self.now();
        let hours = now.saturating_sub(self.billed_until).as_secs_f64() / 3600.0;
        self.billed_until = now;
        if let (Some(price), Some(_), Some(plan)) =
            (self.driver.policy().price, self.driver.fence(), self.driver.plan())
        {
            self.deps.metrics.fleet_spent(hours * f64::from(plan.desired.billed) * price.dollars());
        }
    }

    fn without_redis(&mut self, error: &QueueError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            tracing::warn!(%error, "cannot use Redis; the fleet is left unchanged until it is back");
        }
        if error.is_connection() {
            self.feed = None;
        }
        backoff::full_jitter(self.failures, Duration::from_millis(200), Duration::from_secs(5))
    }

    /// Waits until something happens that may change the plan, at most `limit`.
    async fn wait(&mut self, limit: Option<Duration>) {
        let until = Instant::now() + limit.unwrap_or(MAX_SLEEP).min(MAX_SLEEP);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(feed) = &mut self.feed else { return sleep(left).await };
            // The remainder is slept here with millisecond accuracy, which permits need.
            let read = left.saturating_sub(READ_LATENESS);
            if read.is_zero() {
                return sleep(left).await;
            }
            let changes = tokio::select! {
                changes = feed.changes(read.min(READ)) => changes,
                Ok(()) = self.deps.policy.changed() => {
                    // The read continues in Redis and would block the connection.
                    self.feed = None;
                    break;
                }
            };
            match changes {
                Ok(changes) if changes.iter().any(matters) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "the event stream broke; opening it again");
                    self.feed = None;
                    return sleep(left.min(Duration::from_secs(1))).await;
                }
            }
        }
        sleep(DEBOUNCE.saturating_sub(self.looked_at.elapsed())).await;
    }
}

/// Logs each condition once when it appears and once when it clears.
fn log_conditions(last: &mut Vec<Condition>, plan: Option<&Plan>, words: &ProviderWords) {
    let Some(Plan { conditions, .. }) = plan else { return };
    let is_quiet =
        |c: &Condition| matches!(c, Condition::Paused | Condition::ListUnknown(ListFailure::NotYet));
    let held = std::mem::replace(last, conditions.clone());
    for condition in conditions.iter().filter(|c| !held.contains(c) && !is_quiet(c)) {
        tracing::warn!(reason = condition.reason(), "fleet condition: {}", condition.message(words));
    }
    let is_over = |c: &&Condition| !conditions.iter().any(|now| now.reason() == c.reason());
    for condition in held.iter().filter(is_over).filter(|c| !is_quiet(c)) {
        tracing::info!(reason = condition.reason(), "fleet condition cleared: {}", condition.message(words));
    }
}

/// Whether a change may affect the plan. The progress of a job does not.
const fn matters(change: &Change) -> bool {
    match change {
        Change::Job(event) => event.progress.is_none(),
        Change::Fleet => true,
    }
}
