//! The driver's host in one invocation: somebody whom an event or the clock calls, who takes the next steps and ends.
//!
//! Each round trip counts. So one brings the state that was left, the view, the lock and a permit together, and what
//! the next invocation has to know is saved with the look before each request, as if that request had been made.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::PERMIT_BUDGET;
use super::apply::{Targets, apply};
use super::driver::{Driver, DriverState, TAKEOVER_BUSY, TAKEOVER_IDLE};
use super::effect::{Effect, EffectResult};
use crate::controller::fleet::{FleetPolicy, MachineId, MachineProvider, Moment};
use crate::job::JobId;
use crate::queue::{
    Checkpoint, FencingToken, FleetView, LockOutcome, LockRequest, LockState, Permit, Queue, QueueError,
    RequestClass, RequestRate, RetireOutcome, Snapshot, UploadedOutcome,
};
use crate::time::{Instant, sleep};

/// How long the lock is held after the first look: for a list, and the next request. It is not released, which would
/// be one more round trip, but expires soon.
const HOLD: Duration = Duration::from_secs(10);
/// How long it is held after every other look: for one request to the provider.
const HOLD_ON: Duration = Duration::from_secs(4);
/// Most looks at a lock that another invocation holds while jobs wait: it ends in a moment, and may not see to them.
const MAX_LOOKS: u32 = 4;
/// Added to the rest of another's hold, so that it has expired.
const EXPIRY_SLACK: Duration = Duration::from_millis(20);
/// Most that is left for the next invocation, bytes. A thousand machines' worth.
const MAX_STATE_BYTES: usize = 1 << 20;

/// Reconciles the fleet when it is invoked.
pub struct OneShotReconciler<P> {
    /// The queue.
    pub queue: Queue,
    /// Who runs the machines.
    pub provider: P,
    /// What is wanted.
    pub policy: FleetPolicy,
    /// What machines find in their environment beside what the fleet gives them. No secrets.
    pub environment: BTreeMap<String, String>,
    /// The name that all invocations share.
    pub group: String,
    /// How often the provider is asked, by all processes together.
    pub rate: RequestRate,
}

/// How much an invocation may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvocationBudget {
    /// Requests to the provider.
    pub requests: u32,
    /// Round trips in all, to Redis and to the provider.
    pub trips: u32,
    /// How long it may take until its last step begins.
    pub time: Duration,
}

/// How an invocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvocationOutcome {
    /// Nothing more is to be done for now.
    Settled,
    /// There is more to do than the budget allowed.
    OutOfBudget,
    /// Another reconciler acts on the fleet.
    NotLeader,
}

/// An invocation under way.
struct Invocation<'a, P> {
    deps: &'a OneShotReconciler<P>,
    driver: Driver,
    name: String,
    budget: InvocationBudget,
    began: Instant,
    fence: FencingToken,
    view: FleetView,
    looked: Instant,
    /// When the provider may be asked.
    permit: Permit,
    trips: u32,
    requests: u32,
    /// The round's first step has begun: the budget has room for all of it.
    in_step: bool,
    /// The next invocation would find in Redis all that it has to know.
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

    /// Marks inputs as uploaded, and takes the next steps. Returns also what became of the inputs, in their order, and
    /// how many round trips there were.
    ///
    /// # Errors
    /// When Redis fails. The next invocation continues.
    pub async fn run(
        &self,
        uploads: &[JobId],
        budget: InvocationBudget,
    ) -> Result<(Vec<UploadedOutcome>, InvocationOutcome, u32), QueueError> {
        let began = Instant::now();
        let name = format!("{}:{}", self.group, Uuid::new_v4().simple());
        let mut trips = 1;
        let ask = self.ask(&name, true, RequestClass::List);
        let mut look = self.queue.open_session(uploads, None, &ask).await?;
        let outcomes = std::mem::take(&mut look.uploads);
        while let Some((pause, ask)) = again(&look, &ask, trips) {
            if began.elapsed() + pause > budget.time {
                break;
            }
            sleep(pause).await;
            trips += 1;
            look = self.queue.open_session(&[], None, &ask).await?;
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
            saved: false,
        };
        let end = run.run().await?;
        Ok((outcomes, end, run.trips))
    }
}

/// The state that the last invocation left. One that remembers nothing is safe: it only waits longer.
fn read(json: Option<&str>) -> DriverState {
    json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// Whether one that does not hold the lock looks again, after what pause and how.
fn again<'a>(look: &Snapshot, ask: &LockRequest<'a>, looks: u32) -> Option<(Duration, LockRequest<'a>)> {
    let waits = look.view.pending + look.view.due > 0;
    let takeover = if waits { TAKEOVER_BUSY } else { TAKEOVER_IDLE };
    match look.lock {
        LockState::Lapsed(ago) if ago >= takeover && !ask.insist => {
            Some((Duration::ZERO, LockRequest { insist: true, ..*ask }))
        }
        // A controller holds it for longer, and sees to them.
        LockState::Held(left) if waits && left <= HOLD && looks < MAX_LOOKS => {
            Some((left + EXPIRY_SLACK, *ask))
        }
        _ => None,
    }
}

impl<P: MachineProvider> Invocation<'_, P> {
    /// Redis's time.
    fn now(&self) -> Moment {
        Duration::from_millis(u64::try_from(self.view.now.0).unwrap_or(0)) + self.looked.elapsed()
    }

    async fn run(&mut self) -> Result<InvocationOutcome, QueueError> {
        self.begin_round(None);
        loop {
            let effect = self.driver.next(self.now());
            let answer = match effect {
                // What it saw is at most as old as the last request.
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
            if let EffectResult::Retired(RetireOutcome::Fenced) = answer {
                return Ok(InvocationOutcome::NotLeader);
            }
            self.driver.on(answer, self.now());
        }
    }

    fn begin_round(&mut self, readmitted: Option<MachineId>) {
        self.in_step = false;
        let (view, fence, permit) = (self.view.clone(), self.fence.clone(), self.permit);
        self.driver.on(EffectResult::Session { view, fence, permit, readmitted }, self.now());
    }

    /// Whether the budget has no room for a look and the step after it.
    fn is_spent(&self) -> bool {
        let full = self.requests >= self.budget.requests || self.trips + 2 > self.budget.trips;
        full || self.began.elapsed() >= self.budget.time
    }

    async fn end(&mut self, settled: bool) -> Result<InvocationOutcome, QueueError> {
        // What is saved already says as much, but for what was made since.
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
        let memory = serde_json::to_string(&state).map_err(|error| QueueError::Data(error.to_string()))?;
        let memory = if memory.len() <= MAX_STATE_BYTES { memory } else { "{}".to_owned() };
        Ok(Some(Checkpoint { fence: self.fence.clone(), status, memory }))
    }

    /// Waits for the next permit, saves what is about to be done, and looks again. Returns whether the lock is still
    /// held, or nothing where the budget has no time for the wait.
    async fn next_permit(&mut self, class: RequestClass) -> Result<Option<bool>, QueueError> {
        if let Permit::Wait(wait) = self.permit {
            if self.began.elapsed() + wait > self.budget.time {
                return Ok(None);
            }
            sleep(wait).await;
        }
        let checkpoint = self.checkpoint(true)?;
        let starts = self.driver.starts().cloned();
        let name = self.name.clone();
        let ask = self.deps.ask(&name, false, class);
        let ask = LockRequest { starts: starts.as_ref().map(|machine| &*machine.0), time: HOLD_ON, ..ask };
        self.trips += 1;
        let look = self.deps.queue.open_session(&[], checkpoint.as_ref(), &ask).await?;
        let LockState::Mine(fence, permit) = look.lock else { return Ok(Some(false)) };
        (self.view, self.looked, self.permit, self.saved) = (look.view, Instant::now(), permit, true);
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
            // The next request has to wait for its turn.
            self.permit = Permit::Wait(rate.interval);
        }
        let targets = Targets { queue, provider, environment, rate: *rate };
        let answer = apply(effect, &self.driver, &targets).await?;
        // That the planned operation was done is saved already.
        let foreseen = matches!(
            answer,
            EffectResult::Called(Ok(_)) | EffectResult::Done | EffectResult::Retired(RetireOutcome::Retired)
        );
        self.saved &= foreseen;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn again_looks_twice_where_the_lock_may_become_free() {
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
            let view = FleetView { pending, ..FleetView::default() };
            let look = Snapshot { uploads: Vec::new(), view, lock, memory: None };
            again(&look, &ask, tries).map(|(pause, ask)| (pause, ask.insist))
        };
        // Another visit, which ends soon.
        assert_eq!(looked(LockState::Held(2 * second), 1, 1), Some((2 * second + EXPIRY_SLACK, false)));
        assert_eq!(looked(LockState::Held(2 * second), 1, MAX_LOOKS), None);
        assert_eq!(looked(LockState::Held(2 * second), 0, 1), None, "nobody waits");
        assert_eq!(looked(LockState::Held(30 * second), 1, 1), None, "a controller acts");
        // A controller that went away.
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
        for bad in [None, Some(""), Some("[]"), Some("{\"epoch\":\"x\"}")] {
            assert_eq!(serde_json::to_string(&read(bad)).unwrap(), empty, "{bad:?}");
        }
    }
}
