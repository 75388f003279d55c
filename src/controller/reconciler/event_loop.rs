//! The driver's host in a process: it is woken by whatever happens to a job, and sleeps until the plan says that
//! time changes something.

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
/// Events within this time of the last look cause one look.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Redis ends a blocking read that found nothing up to this much late: it looks ten times a second.
const READ_LATENESS: Duration = Duration::from_millis(100);
/// Time that a request under way has to end when the process is told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What a reconciler needs.
pub struct ReconcilerDeps<P> {
    /// The queue.
    pub queue: Queue,
    /// Who runs the machines.
    pub provider: P,
    /// How often the provider is asked, by all processes together.
    pub rate: RequestRate,
    /// What is wanted. It may change, but for the app; where it does not, the sender may be dropped.
    pub policy: watch::Receiver<FleetPolicy>,
    /// Receives each published status.
    pub status: watch::Sender<Option<FleetStatus>>,
    /// What machines find in their environment beside what the fleet gives them. No secrets.
    pub environment: BTreeMap<String, String>,
    /// The name of this process among its peers.
    pub holder: String,
    /// Where its figures go.
    pub metrics: Arc<Metrics>,
}

/// Converges the machines on the queue for as long as it runs.
pub struct Reconciler<P> {
    deps: ReconcilerDeps<P>,
    driver: Driver,
    began: Instant,
    conditions: Vec<Condition>,
    looked_at: Instant,
    /// Failures of Redis in a row.
    failures: u32,
    feed: Option<EventFeed>,
    /// Until when the machines are paid for in the metrics.
    billed_until: Moment,
    /// The app whose machines are looked after, for the lifetime of the process.
    app: String,
}

impl<P: MachineProvider> Reconciler<P> {
    /// A reconciler that remembers nothing yet.
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

    /// Works until `stop`, then releases the lock.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let effect = self.driver.next(self.now());
            if let Effect::Wait { at_most, .. } = effect {
                self.failures = 0;
                tokio::select! {
                    () = self.wait(at_most) => {}
                    () = stop.cancelled() => {}
                }
                continue;
            }
            let mut step = std::pin::pin!(self.step(effect));
            let failed = tokio::select! {
                failed = &mut step => failed,
                () = stop.cancelled() => {
                    if timeout(SHUTDOWN_GRACE, step).await.is_err() {
                        tracing::warn!("shut down during a request to the provider; the next list shows its outcome");
                    }
                    break;
                }
            };
            if let Some(pause) = failed {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        if let Some(fence) = self.driver.fence()
            && let Err(error) = self.deps.queue.release_fleet_lock(fence).await
        {
            tracing::warn!(%error, "could not release the fleet lock; it expires");
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Carries an effect out and reports what came of it. Where Redis failed, returns the pause before the next try.
    async fn step(&mut self, effect: Effect) -> Option<Duration> {
        let observes = effect == Effect::Observe;
        let (answer, pause) = match self.carry_out(effect).await {
            Ok(answer) => (answer, None),
            Err(error) => (EffectResult::QueueUnavailable, Some(self.without_redis(&error))),
        };
        if let Some(ended) = self.driver.on(answer, self.now()) {
            self.deps.metrics.fleet_action(ended.operation, ended.outcome);
        }
        if observes {
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
            // Before the look, so that nothing happens unseen between the two.
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

    /// Renews the lock while a request is under way.
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

    /// Counts what machines have cost since the last look, as many as there are now. Only the leader does.
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
            // The rest is slept here, to the millisecond: a permit is waited for like this.
            let read = left.saturating_sub(READ_LATENESS);
            if read.is_zero() {
                return sleep(left).await;
            }
            let changes = tokio::select! {
                changes = feed.changes(read.min(READ)) => changes,
                Ok(()) = self.deps.policy.changed() => {
                    // The read goes on at Redis, and would hold the connection up.
                    self.feed = None;
                    break;
                }
            };
            match changes {
                Ok(changes) if changes.iter().any(matters) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "the event stream broke; opening it anew");
                    self.feed = None;
                    return sleep(left.min(Duration::from_secs(1))).await;
                }
            }
        }
        sleep(DEBOUNCE.saturating_sub(self.looked_at.elapsed())).await;
    }
}

/// Logs each condition once, when it comes and when it goes.
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

/// Progress of a job changes nothing.
const fn matters(change: &Change) -> bool {
    match change {
        Change::Job(event) => event.progress.is_none(),
        Change::Fleet => true,
    }
}
