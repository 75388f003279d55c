//! The loop: when to look, who acts, waking.

mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{observe, status};
use crate::controller::fleet::{
    self, Condition, FleetPolicy, FleetState, ListUnavailable, Machine, MachineId, MachineProvider, Moment,
    Observation, Plan, plan,
};
use crate::job::WorkerId;
use crate::metrics::Metrics;
use crate::queue::{
    Change, EventFeed, FencingToken, FleetStatus, FleetView, LockOutcome, Queue, QueueError, RequestRate,
    backoff,
};

/// How long the right to act is held without a renewal.
const HOLD: Duration = Duration::from_secs(30);
/// It is renewed this often while there is something to do or to wait for.
const RENEW: Duration = Duration::from_secs(10);
/// How long a holder whose time ran out is waited for while jobs wait: it is woken by the same event.
const AFTER_YOU: Duration = Duration::from_secs(2);
/// Longest blocking read.
const READ: Duration = Duration::from_secs(300);
/// Longest time between two looks; with machines up the plan asks for one every 5 minutes.
const QUIET: Duration = Duration::from_secs(600);
/// Whoever has not renewed its hold for so long is taken for gone, with nothing to do or with workers up:
/// twice the time in which a reconciler renews it, and some.
const GONE: Duration = Duration::from_secs(1260);
const GONE_WITH_WORKERS: Duration = Duration::from_secs(660);
/// A burst of events is one look.
const GAP: Duration = Duration::from_millis(200);
/// Redis ends a blocking read that found nothing up to so much late: it looks ten times a second.
const LATE: Duration = Duration::from_millis(100);
/// What a request to the provider that is under way gets to end when the process is told to stop.
const LAST_CALL: Duration = Duration::from_secs(5);

/// Everything a reconciler needs.
pub struct ReconcilerDeps<P> {
    /// The queue.
    pub queue: Queue,
    /// Who runs the machines.
    pub provider: P,
    /// How often the provider is asked, by all together.
    pub rate: RequestRate,
    /// What is wanted; it may change, but for the app. Whoever wants always the same drops the sender.
    pub policy: watch::Receiver<FleetPolicy>,
    /// What is said of the fleet goes here too.
    pub told: watch::Sender<Option<FleetStatus>>,
    /// What machines find in their environment beside what the fleet gives them. No secrets.
    pub environment: BTreeMap<String, String>,
    /// The name of this process among its peers.
    pub holder: String,
    /// Where its figures go.
    pub metrics: Arc<Metrics>,
}

/// Converges the machines on the queue for as long as it runs.
pub struct Reconciler<P> {
    parts: ReconcilerDeps<P>,
    memory: FleetState,
    seen: Observation,
    began: Instant,
    /// The right to act, as far as is known here.
    fence: Option<FencingToken>,
    /// The process has just started.
    fresh: bool,
    /// What the lock said of somebody else at the last look.
    other: Option<Other>,
    told: Option<FleetStatus>,
    conditions: Vec<Condition>,
    looked_at: Option<Instant>,
    failures: u32,
    feed: Option<EventFeed>,
    /// Machines made here that no list has shown yet, as the provider answered.
    made: BTreeMap<MachineId, Machine>,
    /// Until when the machines are paid for in the metrics.
    billed_until: Moment,
    /// Idle workers that let a job lie, and since when.
    suspects: BTreeMap<WorkerId, Moment>,
    /// Redis was out of reach: that a worker gave no sign meanwhile says nothing.
    blind: bool,
    /// When the right to act was last taken or kept.
    held_at: Option<Instant>,
    /// The app whose machines are looked after, for this life.
    app: String,
}

/// Somebody else had the right to act last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// And has it, for so long at least.
    Holds(Duration),
    /// And let it lapse so long ago.
    Lapsed(Duration),
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// At once.
    Now,
    /// After this long, or when something happens; nothing: only then.
    Wait(Option<Duration>),
}

impl<P: MachineProvider> Reconciler<P> {
    /// A reconciler that remembers nothing yet.
    #[must_use]
    pub fn new(parts: ReconcilerDeps<P>) -> Self {
        let app = parts.policy.borrow().app.clone();
        Self {
            parts,
            app,
            memory: FleetState::new(),
            seen: Observation { machines: Err(ListUnavailable::NOT_YET), queue: None },
            began: Instant::now(),
            fence: None,
            fresh: true,
            other: None,
            told: None,
            conditions: Vec::new(),
            looked_at: None,
            failures: 0,
            feed: None,
            made: BTreeMap::new(),
            billed_until: Moment::ZERO,
            suspects: BTreeMap::new(),
            blind: false,
            held_at: None,
        }
    }

    /// Works until `stop`, then gives the right to act away.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let next = {
                let mut round = std::pin::pin!(self.round());
                tokio::select! {
                    next = &mut round => next,
                    () = stop.cancelled() => {
                        if timeout(LAST_CALL, round).await.is_err() {
                            tracing::warn!("shut down during a request to the provider; the next list shows its outcome");
                        }
                        break;
                    }
                }
            };
            if let Next::Wait(limit) = next {
                tokio::select! {
                    () = self.wait(limit) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        if let Some(fence) = &self.fence
            && let Err(error) = self.parts.queue.release_fleet_lock(fence).await
        {
            tracing::warn!(%error, "could not release the fleet lock; it expires");
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Looks, plans, and takes at most one step.
    async fn round(&mut self) -> Next {
        if self.feed.is_none() {
            // Before the first look, so that nothing happens unseen between the two.
            match EventFeed::open(&self.parts.queue).await {
                Ok(feed) => self.feed = Some(feed),
                Err(error) => return self.without_redis(&error),
            }
        }
        self.looked_at = Some(Instant::now());
        let view = match self.parts.queue.fleet_view().await {
            Ok(view) => view,
            Err(error) => return self.without_redis(&error),
        };
        if std::mem::take(&mut self.blind) {
            self.memory.reset_heartbeat_clocks(self.now());
        }
        match self.act_on(&view).await {
            Ok(next) => {
                self.failures = 0;
                next
            }
            Err(error) => self.without_redis(&error),
        }
    }

    fn policy(&self, view: &FleetView) -> FleetPolicy {
        let wanted = self.parts.policy.borrow();
        let paused = wanted.paused || view.paused.is_some();
        let capabilities = self.parts.provider.capabilities();
        FleetPolicy { paused, app: self.app.clone(), capabilities, ..wanted.clone() }
    }

    async fn act_on(&mut self, view: &FleetView) -> Result<Next, QueueError> {
        let (policy, now) = (self.policy(view), self.now());
        let alive = self.parts.queue.policy().alive;
        self.seen.queue = Some(observe::queue_view(view, alive, &mut self.suspects, now));
        self.memory.observe(&self.seen, &policy, now);
        let plan = plan(&self.seen, &policy, &self.memory, now);
        self.count_cost(&policy, &plan, now);
        let lists = plan.next_look == Some(Duration::ZERO);
        let acts = lists || !plan.actions.is_empty();
        let waits = view.pending + view.due > 0;
        let gone = match (waits, policy.min > 0 || !view.workers.is_empty()) {
            (true, _) => AFTER_YOU,
            (false, true) => GONE_WITH_WORKERS,
            (false, false) => GONE,
        };
        let news = self.fence.as_ref().and_then(|fence| self.news(fence, view, &policy, &plan));
        // So that nobody takes a reconciler with nothing to do for gone.
        let shows = self.fence.is_some() && self.held_at.is_none_or(|at| at.elapsed() >= QUIET);
        if !acts && !waits && news.is_none() && !shows {
            return Ok(Next::Wait(plan.next_look));
        }
        let Some(fence) = self.hold(gone, acts).await? else {
            return Ok(Next::Wait(Some(self.patience(waits, gone))));
        };
        self.held_at = Some(Instant::now());
        if self.fence.as_ref() != Some(&fence) {
            tracing::info!(epoch = fence.epoch, holder = fence.holder, "acquired the fleet lock");
            // What another did meanwhile stands in no list of ours, nor in our memory.
            self.seen.machines = Err(ListUnavailable::NOT_YET);
            self.memory.reset_heartbeat_clocks(now);
            (self.fence, self.fresh) = (Some(fence), false);
            return Ok(Next::Now);
        }
        self.log_conditions(&plan);
        if let Some(status) = news
            && self.parts.queue.publish_fleet_status(&fence, &status).await?
        {
            self.parts.told.send_replace(Some(status.clone()));
            self.told = Some(status);
        }
        let stepped = if lists {
            self.list(&fence).await?
        } else if let Some(action) = plan.actions.into_iter().next() {
            self.step(&fence, &action, &policy).await?
        } else {
            Next::Wait(plan.next_look)
        };
        Ok(match stepped {
            Next::Wait(limit) if acts || waits => Next::Wait(Some(limit.map_or(RENEW, |l| l.min(RENEW)))),
            next => next,
        })
    }

    /// What machines cost since the last look, as many as there are now. Only who acts counts it.
    fn count_cost(&mut self, policy: &FleetPolicy, plan: &Plan, now: Moment) {
        let hours = now.saturating_sub(self.billed_until).as_secs_f64() / 3600.0;
        self.billed_until = now;
        if let (Some(price), true) = (policy.price, self.fence.is_some()) {
            self.parts.metrics.fleet_spent(hours * f64::from(plan.desired.billed) * price.dollars());
        }
    }

    /// The right to act, where it is to be had.
    async fn hold(&mut self, gone: Duration, acts: bool) -> Result<Option<FencingToken>, QueueError> {
        let insists = matches!(self.other, Some(Other::Lapsed(time)) if acts && time >= gone);
        self.other =
            match self.parts.queue.acquire_fleet_lock(&self.parts.holder, HOLD, self.fresh, insists).await? {
                LockOutcome::Mine(fence) => {
                    self.other = None;
                    return Ok(Some(fence));
                }
                LockOutcome::Held(left) => Some(Other::Holds(left)),
                LockOutcome::Lapsed(time) => Some(Other::Lapsed(time)),
            };
        (self.fence, self.told) = (None, None);
        Ok(None)
    }

    /// How long somebody who may not act waits. While jobs wait the acting one renews its hold; with
    /// nothing to do it does so now and then only.
    fn patience(&self, waits: bool, gone: Duration) -> Duration {
        let left = match (self.other, waits) {
            (Some(Other::Holds(left)), true) => left,
            (Some(Other::Lapsed(time)), _) => gone.saturating_sub(time),
            (Some(Other::Holds(_)) | None, _) => QUIET,
        };
        left.clamp(Duration::from_millis(50), QUIET)
    }

    fn without_redis(&mut self, error: &QueueError) -> Next {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            tracing::warn!(%error, "cannot use Redis; the fleet is left unchanged until it is back");
        }
        self.seen.queue = None;
        self.blind = true;
        if error.is_connection() {
            self.feed = None;
        }
        Next::Wait(Some(backoff::full_jitter(
            self.failures,
            Duration::from_millis(200),
            Duration::from_secs(5),
        )))
    }

    /// What is to be said of the fleet, unless it was said last.
    fn news(
        &self,
        fence: &FencingToken,
        view: &FleetView,
        policy: &FleetPolicy,
        now: &Plan,
    ) -> Option<FleetStatus> {
        let free = FleetPolicy { paused: false, ..policy.clone() };
        let wish = policy.paused.then(|| plan(&self.seen, &free, &self.memory, self.now()));
        let seen = status::Seen { view, fleet: &self.seen, made: &self.made };
        let status = status::status(fence, &seen, policy, P::words(), now, wish.as_ref().unwrap_or(now));
        let said = |told: &FleetStatus| status == FleetStatus { at: status.at, ..told.clone() };
        (!self.told.as_ref().is_some_and(said)).then_some(status)
    }

    /// Each condition once, when it comes and when it goes.
    fn log_conditions(&mut self, plan: &Plan) {
        let held = std::mem::take(&mut self.conditions);
        let is_quiet = |c: &Condition| {
            matches!(c, Condition::Paused | Condition::ListUnknown(fleet::ListFailure::NotYet))
        };
        for condition in plan.conditions.iter().filter(|c| !held.contains(c) && !is_quiet(c)) {
            tracing::warn!(reason = condition.reason(), "fleet condition: {}", condition.message(P::words()));
        }
        let is_over = |c: &&Condition| !plan.conditions.iter().any(|now| now.reason() == c.reason());
        for condition in held.iter().filter(is_over).filter(|c| !is_quiet(c)) {
            tracing::info!(
                reason = condition.reason(),
                "fleet condition cleared: {}",
                condition.message(P::words())
            );
        }
        self.conditions.clone_from(&plan.conditions);
    }

    /// Waits until something happens that may change the plan, at most `limit`.
    async fn wait(&mut self, limit: Option<Duration>) {
        let until = Instant::now() + limit.unwrap_or(QUIET).min(QUIET);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(feed) = &mut self.feed else { return sleep(left).await };
            // The rest is slept here, to the millisecond: the limiter's next slot is waited for like this.
            let read = left.saturating_sub(LATE);
            if read.is_zero() {
                return sleep(left).await;
            }
            let changes = tokio::select! {
                changes = feed.changes(read.min(READ)) => changes,
                Ok(()) = self.parts.policy.changed() => {
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
        if let Some(at) = self.looked_at {
            sleep(GAP.saturating_sub(at.elapsed())).await;
        }
    }
}

/// Headway of a job changes nothing.
const fn matters(change: &Change) -> bool {
    match change {
        Change::Job(event) => event.progress.is_none(),
        Change::Fleet => true,
    }
}
