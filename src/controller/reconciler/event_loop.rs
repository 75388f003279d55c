//! The driver's host in a process: events of jobs wake it; otherwise it sleeps until the plan requires another round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::apply::{Targets, apply};
use super::driver::{Driver, DriverState, MAX_SLEEP, RENEW_INTERVAL};
use super::effect::{Effect, EffectResult};
use super::fleet_table::FleetMembership;
use crate::controller::fleet::{
    Condition, FleetCapacity, FleetPolicy, ListFailure, MachineProvider, Moment, Outcome, Plan, ProviderWords,
};
use crate::event_bus::EventBus;
use crate::job::State;
use crate::metrics::Metrics;
use crate::queue::{Change, FleetStatus, LockOutcome, Queue, QueueError, RequestRate, backoff};

/// How long the lock is held without a renewal.
pub(super) const HOLD: Duration = Duration::from_secs(30);
/// Events within this time of the last observation cause a single further observation, and so do those within this
/// time of an event that is not urgent.
const DEBOUNCE: Duration = Duration::from_millis(200);
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
    /// What has changed since the last observation. If it is not that of the process's event bus, the guard ends the
    /// bus that it comes from.
    changes: Option<(Receiver<Change>, Option<DropGuard>)>,
    /// The place among the other fleets of the queue, if there can be any.
    membership: Option<FleetMembership>,
    /// A status that was published when the lock was renewed, before the driver asked for it.
    published: Option<FleetStatus>,
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
            changes: None,
            membership: None,
            published: None,
            billed_until: Moment::ZERO,
        }
    }

    /// Learns of changes from the event bus of its process, instead of reading the event stream itself.
    #[must_use]
    pub(crate) fn listening_to(mut self, event_bus: &EventBus) -> Self {
        self.changes = Some((event_bus.subscribe_to_all(), None));
        self
    }

    /// Divides what waits with the other fleets of its process.
    #[must_use]
    pub(crate) fn among(mut self, membership: FleetMembership) -> Self {
        self.membership = Some(membership);
        self
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
        let tells = observes || matches!(effect, Effect::AcquireLock { .. });
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
        if let (Some(membership), Some(plan)) = (&mut self.membership, self.driver.plan())
            && tells
            && pause.is_none()
        {
            let policy = self.driver.policy();
            // Another process acts for this fleet.
            let capacity =
                if self.driver.stands_by() { FleetCapacity::none(policy) } else { plan.capacity.clone() };
            membership.publish(capacity, policy);
        }
        pause
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<EffectResult, QueueError> {
        let ReconcilerDeps { queue, provider, environment, rate, metrics, .. } = &self.deps;
        let targets = Targets { queue, provider, environment, rate: *rate };
        match effect {
            Effect::Observe => self.observe().await,
            Effect::AcquireLock { fresh, insist } => {
                let (Some(status), Some(fence)) = (self.driver.status_after_lock(), self.driver.fence())
                else {
                    return self.lock(fresh, insist).await.map(EffectResult::Lock);
                };
                // One script instead of two, which read the same lock.
                let renewal =
                    queue.renew_fleet_lock_and_publish(fence, HOLD, (fresh, insist), status).await?;
                let (outcome, is_published) = renewal;
                self.published = is_published.then(|| status.clone());
                Ok(EffectResult::Lock(outcome))
            }
            Effect::CheckLock => self.lock(false, false).await.map(EffectResult::Lock),
            Effect::Publish(status) => {
                log_conditions(&mut self.conditions, self.driver.plan(), P::words());
                let Some(fence) = self.driver.fence() else { return Ok(EffectResult::Published(false)) };
                let is_published = self.published.take().as_ref() == Some(&*status);
                let held = is_published || queue.publish_fleet_status(fence, &status).await?;
                if held {
                    self.deps.status.send_replace(Some(*status));
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
        if self.changes.is_none() {
            // Opened before the view is read, so that no event between the two is missed.
            let stop = CancellationToken::new();
            let event_bus = EventBus::start(&self.deps.queue, None, stop.clone()).await?;
            self.changes = Some((event_bus.subscribe_to_all(), Some(stop.drop_guard())));
        }
        if let Some((changes, _)) = &mut self.changes {
            // The view shows all that has happened before it is read.
            while !matches!(changes.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
        }
        self.looked_at = Instant::now();
        let wanted = self.deps.policy.borrow().clone();
        let others = self.membership.as_mut().map(|membership| membership.others(&wanted.classes));
        let others = others.unwrap_or_default();
        // What others take of their other classes is not free for those of this fleet.
        let view = self.deps.queue.fleet_view(&others.with_classes(&wanted.classes)).await?;
        let capabilities = self.deps.provider.capabilities();
        self.driver.set_policy(FleetPolicy { app: self.app.clone(), capabilities, ..wanted });
        self.driver.set_others(others);
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
        if let (Some(_), Some(plan)) = (self.driver.fence(), self.driver.plan())
            && let Some(cost) = plan.cost
        {
            self.deps.metrics.fleet_spent(hours * cost.dollars());
        }
    }

    fn without_redis(&mut self, error: &QueueError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            tracing::warn!(%error, "cannot use Redis; the fleet is left unchanged until it is back");
        }
        backoff::full_jitter(self.failures, Duration::from_millis(200), Duration::from_secs(5))
    }

    /// Waits until something happens that may change the plan, at most `limit`.
    async fn wait(&mut self, limit: Option<Duration>) {
        let mut until = Instant::now() + limit.unwrap_or(MAX_SLEEP).min(MAX_SLEEP);
        let Some((changes, _)) = &mut self.changes else { return sleep_until(until).await };
        // Only while jobs wait do the other fleets matter to the plan.
        let jobs_wait = self.driver.jobs_wait();
        let others = self.membership.as_ref().map_or(0, FleetMembership::idle);
        let idle = self.driver.plan().map_or(0, |plan| plan.desired.idle).saturating_add(others);
        let quiet_until = self.looked_at + DEBOUNCE;
        loop {
            let settles = tokio::select! {
                () = sleep_until(until) => return,
                change = changes.recv() => match change {
                    Ok(change) => time_to_settle(&change, idle),
                    Err(RecvError::Lagged(_)) => Some(Duration::ZERO),
                    Err(RecvError::Closed) => {
                        // The next observation opens another one.
                        self.changes = None;
                        return sleep_until(until).await;
                    }
                },
                Ok(()) = self.deps.policy.changed() => Some(Duration::ZERO),
                () = changed(&mut self.membership), if jobs_wait => Some(Duration::ZERO),
            };
            if let Some(settles) = settles {
                until = until.min(quiet_until.max(Instant::now() + settles));
            }
        }
    }
}

/// Waits until what the other fleets can take has changed.
async fn changed(membership: &mut Option<FleetMembership>) {
    match membership {
        Some(membership) => membership.changed().await,
        None => std::future::pending().await,
    }
}

/// Logs each condition once when it appears and once when it clears.
fn log_conditions(last: &mut Vec<Condition>, plan: Option<&Plan>, words: &ProviderWords) {
    let Some(Plan { conditions, .. }) = plan else { return };
    let is_quiet =
        |c: &Condition| matches!(c, Condition::Paused { .. } | Condition::ListUnknown(ListFailure::NotYet));
    let held = std::mem::replace(last, conditions.clone());
    for condition in conditions.iter().filter(|c| !held.contains(c) && !is_quiet(c)) {
        tracing::warn!(reason = condition.reason(), "fleet condition: {}", condition.message(words));
    }
    let is_over = |c: &&Condition| !conditions.iter().any(|now| now.reason() == c.reason());
    for condition in held.iter().filter(is_over).filter(|c| !is_quiet(c)) {
        tracing::info!(reason = condition.reason(), "fleet condition cleared: {}", condition.message(words));
    }
}

/// How long to wait for further changes after this one before the next observation, if `idle` machines have an idle
/// worker. Nothing for a change that does not affect the plan.
fn time_to_settle(change: &Change, idle: u32) -> Option<Duration> {
    let Change::Job(event) = change else { return Some(Duration::ZERO) };
    if event.progress.is_some() || event.status == State::Uploading {
        return None;
    }
    // A machine may be needed at once, unless an idle worker claims the job in a moment.
    let is_urgent = event.status == State::Queued && idle == 0;
    Some(if is_urgent { Duration::ZERO } else { DEBOUNCE })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Epoch, JobEvent, JobId};

    fn job(status: State) -> JobEvent {
        JobEvent { event_id: "1-1".into(), job_id: JobId::new(), status, progress: None, epoch: None }
    }

    #[test]
    fn job_that_no_idle_worker_can_claim_is_urgent() {
        let settles = |event: JobEvent, idle| time_to_settle(&Change::Job(event), idle);
        assert_eq!(settles(job(State::Queued), 0), Some(Duration::ZERO));
        assert_eq!(settles(job(State::Queued), 1), Some(DEBOUNCE));
        for status in [State::Running, State::Completed, State::Failed, State::Cancelled] {
            assert_eq!(settles(job(status), 0), Some(DEBOUNCE), "{status}");
        }
        assert_eq!(time_to_settle(&Change::Fleet, 1), Some(Duration::ZERO));
    }

    #[test]
    fn upload_and_progress_do_not_affect_the_plan() {
        let progress = JobEvent { progress: Some(5.0), epoch: Some(Epoch(1)), ..job(State::Running) };
        for event in [progress, job(State::Uploading)] {
            assert_eq!(time_to_settle(&Change::Job(event), 0), None);
        }
    }
}
