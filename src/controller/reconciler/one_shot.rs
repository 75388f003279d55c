//! The driver's host in one invocation, which an event or a timer starts: it performs the next operations and ends.
//!
//! Round trips are limited. Therefore one round trip returns the saved state, the view, the lock and a permit. The
//! state for the next invocation is saved in the round trip before each request, as if that request had been made.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::PERMIT_BUDGET;
use super::apply::{Targets, apply};
use super::driver::{Driver, DriverState, TAKEOVER_BUSY, TAKEOVER_IDLE};
use super::effect::{Effect, EffectResult};
use crate::controller::fleet::{FleetPolicy, MachineId, MachineProvider, Moment, Operation};
use crate::queue::{
    Checkpoint, FencingToken, FleetView, LockOutcome, LockRequest, LockState, Permit, Queue, QueueError,
    RequestClass, RequestRate, RetireOutcome, Snapshot, UploadedInput, UploadedOutcome, from_versioned_json,
    to_versioned_json,
};
use crate::time::{Instant, sleep};

/// How long the lock is held after the first snapshot: long enough for a list and the next request. The lock is not
/// released, which would cost another round trip, but expires soon.
pub(super) const HOLD: Duration = Duration::from_secs(10);
/// How long the lock is held after each further snapshot: long enough for one request to the provider.
pub(super) const HOLD_ON: Duration = Duration::from_secs(4);
/// Maximum number of attempts to acquire a lock that another invocation holds while jobs wait: that invocation ends
/// soon and may not have seen these jobs.
const MAX_LOOKS: u32 = 4;
/// Added to the remaining time of another holder's lock, so that the lock has expired.
const EXPIRY_SLACK: Duration = Duration::from_millis(20);
/// Maximum size in bytes of the state saved for the next invocation; enough for a thousand machines.
const MAX_STATE_BYTES: usize = 1 << 20;

/// Reconciles the fleet when it is invoked.
pub struct OneShotReconciler<P> {
    /// The queue.
    pub queue: Queue,
    /// The provider of the machines.
    pub provider: P,
    /// The policy of the fleet.
    pub policy: FleetPolicy,
    /// Environment variables of the machines besides those that the fleet sets. No secrets.
    pub environment: BTreeMap<String, String>,
    /// The name that all invocations share.
    pub group: String,
    /// The rate of requests to the provider, shared by all processes.
    pub rate: RequestRate,
}

/// The limits of an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvocationBudget {
    /// Requests to the provider.
    pub requests: u32,
    /// Total round trips to Redis and to the provider.
    pub trips: u32,
    /// Maximum time until its last operation begins.
    pub time: Duration,
}

/// How an invocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvocationOutcome {
    /// Nothing is left to do at the moment.
    Settled,
    /// The budget was used up before all was done.
    OutOfBudget,
    /// Another reconciler holds the fleet lock.
    NotLeader,
}

/// A running invocation.
struct Invocation<'a, P> {
    deps: &'a OneShotReconciler<P>,
    driver: Driver,
    name: String,
    budget: InvocationBudget,
    began: Instant,
    fence: FencingToken,
    view: FleetView,
    looked: Instant,
    /// The permit for the next request to the provider.
    permit: Permit,
    trips: u32,
    requests: u32,
    /// The operation of this round has begun; the budget suffices for all its effects.
    in_step: bool,
    /// The operation that was saved as done before it was performed.
    intent: Option<Operation>,
    /// Redis contains all that the next invocation needs.
    saved: bool,
}

impl<P: MachineProvider> OneShotReconciler<P> {
    const fn ask<'a>(&self, holder: &'a str, fresh: bool, priority: RequestClass) -> LockRequest<'a> {
        let rate = self.rate;
        LockRequest {
            holder,
            time: HOLD,
            fresh,
            insist: false,
            rate,
            priority,
            budget: PERMIT_BUDGET,
            starts: None,
        }
    }

    /// Marks inputs as uploaded and performs the next operations. Also returns the outcome for each input, in order,
    /// and the number of round trips.
    ///
    /// # Errors
    /// When Redis fails. The next invocation continues.
    pub async fn run(
        &self,
        uploads: &[UploadedInput],
        budget: InvocationBudget,
    ) -> Result<(Vec<UploadedOutcome>, InvocationOutcome, u32), QueueError> {
        let began = Instant::now();
        let name = format!("{}:{}", self.group, Uuid::new_v4().simple());
        let mut trips = 1;
        let ask = self.ask(&name, true, RequestClass::List);
        let mut look = self.queue.open_session(uploads, None, &self.policy.classes, &ask).await?;
        let outcomes = std::mem::take(&mut look.uploads);
        while let Some((pause, ask)) = again(&look, &ask, trips) {
            if began.elapsed() + pause > budget.time {
                break;
            }
            sleep(pause).await;
            trips += 1;
            look = self.queue.open_session(&[], None, &self.policy.classes, &ask).await?;
        }
        let Snapshot { view, lock: LockState::Mine(fence, permit), memory, .. } = look else {
            return Ok((outcomes, InvocationOutcome::NotLeader, trips));
        };
        let policy = FleetPolicy { capabilities: self.provider.capabilities(), ..self.policy.clone() };
        let driver = Driver::new(P::words(), policy, self.queue.policy().alive, read(memory.as_deref()));
        let mut run = Invocation {
            deps: self,
            driver,
            name: name.clone(),
            budget,
            began,
            fence,
            view,
            looked: Instant::now(),
            permit,
            trips,
            requests: 0,
            in_step: false,
            intent: None,
            saved: false,
        };
        let end = run.run().await?;
        Ok((outcomes, end, run.trips))
    }
}

/// The state that the last invocation saved. An empty state is safe: it only causes longer waits.
fn read(json: Option<&str>) -> DriverState {
    json.and_then(|json| from_versioned_json("fleet:memory", json).ok()).unwrap_or_default()
}

/// Whether an invocation without the lock requests it again; if so, the pause before the request, and the request.
fn again<'a>(look: &Snapshot, ask: &LockRequest<'a>, looks: u32) -> Option<(Duration, LockRequest<'a>)> {
    let waits = look.view.has_work();
    let takeover = if waits { TAKEOVER_BUSY } else { TAKEOVER_IDLE };
    match look.lock {
        LockState::Lapsed(ago) if ago >= takeover && !ask.insist => {
            Some((Duration::ZERO, LockRequest { insist: true, ..*ask }))
        }
        // A controller holds the lock for longer, and handles the jobs itself.
        LockState::Held(left) if waits && left <= HOLD && looks < MAX_LOOKS => {
            Some((left + EXPIRY_SLACK, *ask))
        }
        _ => None,
    }
}

impl<P: MachineProvider> Invocation<'_, P> {
    /// The current time by Redis's clock.
    fn now(&self) -> Moment {
        Duration::from_millis(u64::try_from(self.view.now.0).unwrap_or(0)) + self.looked.elapsed()
    }

    async fn run(&mut self) -> Result<InvocationOutcome, QueueError> {
        self.begin_round(None);
        loop {
            let effect = self.driver.next(self.now());
            let answer = match effect {
                // The view is at most as old as the last request.
                Effect::Observe => {
                    self.begin_round(None);
                    continue;
                }
                Effect::AcquireLock { .. } | Effect::CheckLock => {
                    EffectResult::Lock(LockOutcome::Mine(self.fence.clone()))
                }
                // The status is saved with the state.
                Effect::Publish(_) => EffectResult::Published(true),
                Effect::Wait { settled, .. } => return self.end(settled).await,
                effect @ (Effect::Sweep | Effect::ReportThrottled(_)) => self.step(effect).await?,
                _ if !self.in_step && self.is_spent() => return self.end(false).await,
                Effect::AcquirePermit(class) => {
                    let Some(held) = self.next_permit(class).await? else { return self.end(false).await };
                    if !held {
                        return Ok(InvocationOutcome::NotLeader);
                    }
                    continue;
                }
                effect => {
                    self.in_step = true;
                    self.step(effect).await?
                }
            };
            let fenced = matches!(answer, EffectResult::Retired(RetireOutcome::Fenced));
            self.driver.on(answer, self.now());
            if fenced {
                return Ok(InvocationOutcome::NotLeader);
            }
        }
    }

    fn begin_round(&mut self, readmitted: Option<MachineId>) {
        self.in_step = false;
        let (view, fence, permit) = (self.view.clone(), self.fence.clone(), self.permit);
        self.driver.on(EffectResult::Session { view, fence, permit, readmitted }, self.now());
    }

    /// Whether the budget does not suffice for another snapshot and the operation after it.
    fn is_spent(&self) -> bool {
        let full = self.requests >= self.budget.requests || self.trips + 2 > self.budget.trips;
        full || self.began.elapsed() >= self.budget.time
    }

    async fn end(&mut self, settled: bool) -> Result<InvocationOutcome, QueueError> {
        // The saved checkpoint is still correct, unless an outcome was not as foreseen.
        if !self.saved
            && let Some(checkpoint) = self.checkpoint(false)?
        {
            self.trips += 1;
            self.deps.queue.save_checkpoint(&checkpoint).await?;
        }
        Ok(if settled { InvocationOutcome::Settled } else { InvocationOutcome::OutOfBudget })
    }

    fn checkpoint(&self, intent: bool) -> Result<Option<Checkpoint>, QueueError> {
        let Some((status, state)) = self.driver.checkpoint(intent, self.now()) else { return Ok(None) };
        let memory = to_versioned_json(&state)?;
        let memory = if memory.len() <= MAX_STATE_BYTES { memory } else { "{}".to_owned() };
        Ok(Some(Checkpoint { fence: self.fence.clone(), status, memory }))
    }

    /// Waits for the next permit, saves the state as if the planned operation were done, and takes a new snapshot.
    /// Returns whether the lock is still held, or `None` if the budget has no time for the wait.
    async fn next_permit(&mut self, class: RequestClass) -> Result<Option<bool>, QueueError> {
        if let Permit::Wait(wait) = self.permit {
            if self.began.elapsed() + wait > self.budget.time {
                return Ok(None);
            }
            sleep(wait).await;
        }
        let checkpoint = self.checkpoint(true)?;
        let intent = self.driver.operation().cloned();
        let starts = match &intent {
            Some(Operation::Start { machine }) => Some(machine.clone()),
            _ => None,
        };
        let name = self.name.clone();
        let ask = self.deps.ask(&name, false, class);
        let ask = LockRequest { starts: starts.as_ref().map(|machine| &*machine.0), time: HOLD_ON, ..ask };
        self.trips += 1;
        let look =
            self.deps.queue.open_session(&[], checkpoint.as_ref(), &self.deps.policy.classes, &ask).await?;
        let LockState::Mine(fence, permit) = look.lock else { return Ok(Some(false)) };
        (self.view, self.looked, self.permit) = (look.view, Instant::now(), permit);
        (self.saved, self.intent) = (true, intent);
        if fence != self.fence {
            return Ok(Some(false));
        }
        self.begin_round(starts);
        Ok(Some(true))
    }

    async fn step(&mut self, effect: Effect) -> Result<EffectResult, QueueError> {
        let OneShotReconciler { queue, provider, environment, rate, .. } = self.deps;
        self.trips += 1;
        if let Effect::List | Effect::Call(_) = effect {
            self.requests += 1;
            // The next request needs a new permit.
            self.permit = Permit::Wait(rate.interval);
        }
        // The saved checkpoint already counts the operation and its retirement as done if it was the intended one at
        // the last snapshot.
        let intended = self.intent.is_some() && self.driver.operation() == self.intent.as_ref();
        let targets = Targets { queue, provider, environment, rate: *rate };
        let answer = apply(effect, &self.driver, &targets).await?;
        self.saved &= match answer {
            EffectResult::Done => true,
            EffectResult::Called(Ok(_)) | EffectResult::Retired(RetireOutcome::Retired) => intended,
            _ => false,
        };
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::WorkerClass;
    use crate::queue::ClassView;

    #[test]
    fn again_requests_the_lock_once_more_when_it_may_become_free() {
        let second = Duration::from_secs(1);
        let ask = LockRequest {
            holder: "edge:1",
            time: HOLD,
            fresh: true,
            insist: false,
            rate: RequestRate::default(),
            priority: RequestClass::List,
            budget: PERMIT_BUDGET,
            starts: None,
        };
        let looked = |lock: LockState, pending: u64, tries: u32| {
            let waiting = ClassView { pending, ..ClassView::default() };
            let waiting = [(WorkerClass::default(), waiting)].into();
            let view = FleetView { waiting, ..FleetView::default() };
            let look = Snapshot { uploads: Vec::new(), view, lock, memory: None };
            again(&look, &ask, tries).map(|(pause, ask)| (pause, ask.insist))
        };
        // Another invocation holds the lock; it ends soon.
        assert_eq!(looked(LockState::Held(2 * second), 1, 1), Some((2 * second + EXPIRY_SLACK, false)));
        assert_eq!(looked(LockState::Held(2 * second), 1, MAX_LOOKS), None);
        assert_eq!(looked(LockState::Held(2 * second), 0, 1), None, "no job waits");
        assert_eq!(looked(LockState::Held(30 * second), 1, 1), None, "a controller holds the lock");
        // A controller's lock has expired.
        assert_eq!(looked(LockState::Lapsed(TAKEOVER_BUSY), 1, 1), Some((Duration::ZERO, true)));
        assert_eq!(looked(LockState::Lapsed(second), 1, 1), None);
        assert_eq!(looked(LockState::Lapsed(TAKEOVER_BUSY), 0, 1), None);
        assert_eq!(looked(LockState::Lapsed(TAKEOVER_IDLE), 0, 1), Some((Duration::ZERO, true)));
        let fence = FencingToken { holder: "edge:1".into(), epoch: 1 };
        assert_eq!(looked(LockState::Mine(fence, Permit::Wait(second)), 1, 1), None);
    }

    #[test]
    fn read_of_an_unreadable_state_is_an_empty_state() {
        let empty = serde_json::to_string(&DriverState::default()).unwrap();
        for bad in [None, Some(""), Some("[]"), Some("{\"epoch\":\"x\"}"), Some("{\"v\":99,\"epoch\":7}")] {
            assert_eq!(serde_json::to_string(&read(bad)).unwrap(), empty, "{bad:?}");
        }
    }
}
