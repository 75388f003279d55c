//! A visit to the fleet: by somebody whom an event calls, who takes the next steps and leaves. Each round
//! trip counts, so one brings what was done, the view, the right to act and a permit for a request together, and
//! what has to be remembered until the next visit is left in Redis, before the step it is about.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{apply, observe, status};
use crate::controller::fleet::{
    FleetPolicy, FleetState, ListUnavailable, Machine, MachineId, MachineList, MachineProvider, Moment,
    Observation, Operation, Outcome, Plan, PlannedOperation, ProviderError, ProviderFailure, carry_out, plan,
};
use crate::job::{JobId, WorkerId};
use crate::queue::{
    Checkpoint, FencingToken, FleetView, LockRequest, LockState, Permit, Queue, QueueError, RequestClass,
    RequestRate, Snapshot, UploadedOutcome,
};
use crate::time::{Instant, sleep};

/// How long the right to act is held after the first look: for a list, and the next turn. It is not given
/// back, which would be one more round trip, but ends soon.
const HOLD: Duration = Duration::from_secs(10);
/// And after every other look: for one request to the provider.
const HOLD_ON: Duration = Duration::from_secs(4);
/// Looks at a right that another visit holds, while jobs wait: it ends in a moment, and may not see to them.
const TRIES: u32 = 4;
/// Beyond the end of a hold.
const A_MOMENT: Duration = Duration::from_millis(20);
/// How long a controller whose time ran out is waited for while jobs wait: it is woken by the same event.
const AFTER_YOU: Duration = Duration::from_secs(2);
/// And with nothing to do: twice the time in which it shows that it lives, and some.
const GONE: Duration = Duration::from_secs(1260);
/// How long a place in the line for requests is kept.
const BUDGET: Duration = Duration::from_secs(20);
/// Leases looked at where a machine is busy that should not be.
const LEASES: u32 = 100;
/// Most that is left for the next visit, bytes. A thousand machines' worth.
const MEMORY_MAX: usize = 1 << 20;

/// Whoever visits.
pub struct OneShotReconciler<P> {
    /// The queue.
    pub queue: Queue,
    /// Who runs the machines.
    pub provider: P,
    /// What is wanted.
    pub policy: FleetPolicy,
    /// What machines find in their environment beside what the fleet gives them. No secrets.
    pub environment: BTreeMap<String, String>,
    /// The name of its family: of all that visit in its place.
    pub group: String,
    /// How often the provider is asked, by all together.
    pub rate: RequestRate,
}

/// How much a visit may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvocationBudget {
    /// Requests to the provider.
    pub requests: u32,
    /// Round trips in all, to Redis and to the provider.
    pub trips: u32,
    /// How long it may take until its last step begins.
    pub time: Duration,
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvocationOutcome {
    /// Nothing more is to be done for now.
    Settled,
    /// There is more to do than there was room for.
    OutOfBudget,
    /// Somebody else acts on the fleet.
    NotLeader,
}

/// What one visit leaves for the next. Its moments are Redis's time.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Left {
    epoch: u64,
    memory: FleetState,
    suspects: BTreeMap<WorkerId, Moment>,
}

impl Left {
    /// A visit that remembers nothing is safe: it only waits longer.
    fn read(json: Option<&str>) -> Self {
        json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    }
}

/// A visit under way.
struct Invocation<'a, P> {
    visitor: &'a OneShotReconciler<P>,
    name: String,
    room: InvocationBudget,
    began: Instant,
    fence: FencingToken,
    view: FleetView,
    looked: Instant,
    /// When the provider may be asked.
    slot: Permit,
    /// The machine whose workers were said to be welcome with the last look.
    welcome: Option<MachineId>,
    seen: Observation,
    made: BTreeMap<MachineId, Machine>,
    left: Left,
    trips: u32,
    requests: u32,
}

/// What the plan wants next.
enum Next {
    List,
    Operation(PlannedOperation),
}

impl<P: MachineProvider> OneShotReconciler<P> {
    const fn ask<'a>(&self, holder: &'a str, fresh: bool, priority: RequestClass) -> LockRequest<'a> {
        let rate = self.rate;
        LockRequest { holder, time: HOLD, fresh, insist: false, rate, priority, budget: BUDGET, starts: None }
    }

    /// Tells the queue of inputs that have arrived, and takes the next steps. Says also what became of the
    /// inputs, in their order, and how many round trips there were.
    ///
    /// # Errors
    /// When Redis fails. The next visit goes on.
    pub async fn run(
        &self,
        uploads: &[JobId],
        room: InvocationBudget,
    ) -> Result<(Vec<UploadedOutcome>, InvocationOutcome, u32), QueueError> {
        let began = Instant::now();
        let name = format!("{}:{}", self.group, Uuid::new_v4().simple());
        let mut trips = 1;
        let ask = self.ask(&name, true, RequestClass::List);
        let mut look = self.queue.look(uploads, None, &ask).await?;
        let outcomes = std::mem::take(&mut look.uploads);
        while let Some((pause, ask)) = again(&look, &ask, trips) {
            if began.elapsed() + pause > room.time {
                break;
            }
            sleep(pause).await;
            trips += 1;
            look = self.queue.look(&[], None, &ask).await?;
        }
        let Snapshot { view, turn: LockState::Mine(fence, slot), memory, .. } = look else {
            return Ok((outcomes, InvocationOutcome::NotLeader, trips));
        };
        let mut run = Invocation {
            visitor: self,
            name: name.clone(),
            room,
            began,
            fence,
            view,
            looked: Instant::now(),
            slot,
            welcome: None,
            seen: Observation { machines: Err(ListUnavailable::NOT_YET), queue: None },
            made: BTreeMap::new(),
            left: Left::read(memory.as_deref()),
            trips,
            requests: 0,
        };
        let end = run.run().await?;
        Ok((outcomes, end, run.trips))
    }
}

/// Whether somebody who may not act looks again, after what pause and how.
fn again<'a>(look: &Snapshot, ask: &LockRequest<'a>, looks: u32) -> Option<(Duration, LockRequest<'a>)> {
    let waits = look.view.pending + look.view.due > 0;
    let gone = if waits { AFTER_YOU } else { GONE };
    match look.turn {
        LockState::Lapsed(ago) if ago >= gone && !ask.insist => {
            Some((Duration::ZERO, LockRequest { insist: true, ..*ask }))
        }
        // A controller holds it for longer, and sees to them.
        LockState::Held(left) if waits && left <= HOLD && looks < TRIES => Some((left + A_MOMENT, *ask)),
        _ => None,
    }
}

impl<P: MachineProvider> Invocation<'_, P> {
    /// Redis's time.
    fn now(&self) -> Moment {
        Duration::from_millis(u64::try_from(self.view.now.0).unwrap_or(0)) + self.looked.elapsed()
    }

    fn policy(&self) -> FleetPolicy {
        let wanted = &self.visitor.policy;
        FleetPolicy {
            paused: wanted.paused || self.view.paused.is_some(),
            capabilities: self.visitor.provider.capabilities(),
            ..wanted.clone()
        }
    }

    async fn run(&mut self) -> Result<InvocationOutcome, QueueError> {
        // Somebody else acted since the last visit, or one broke off before it left a note.
        if self.left.epoch + 1 != self.fence.epoch {
            let now = self.now();
            self.left.memory.reset_heartbeat_clocks(now);
        }
        self.left.epoch = self.fence.epoch;
        let mut told = false;
        loop {
            let (policy, now) = (self.policy(), self.now());
            let alive = self.visitor.queue.policy().alive;
            self.seen.queue = Some(observe::queue_view(&self.view, alive, &mut self.left.suspects, now));
            self.left.memory.observe(&self.seen, &policy, now);
            let plan = plan(&self.seen, &policy, &self.left.memory, now);
            let next = if plan.next_look == Some(Duration::ZERO) {
                Some(Next::List)
            } else {
                plan.actions.first().cloned().map(Next::Operation)
            };
            let Some(next) = next else {
                if !told {
                    self.leave(&policy, &plan).await?;
                }
                return Ok(InvocationOutcome::Settled);
            };
            // A look and the step after it.
            let full = self.requests >= self.room.requests || self.trips + 2 > self.room.trips;
            if full || self.began.elapsed() >= self.room.time {
                // What stands there already says as much, but for what was made since.
                if !told {
                    self.leave(&policy, &plan).await?;
                }
                return Ok(InvocationOutcome::OutOfBudget);
            }
            let costs_request =
                !matches!(&next, Next::Operation(PlannedOperation { act: Operation::Retire { .. }, .. }));
            if let (Permit::Wait(wait), true) = (self.slot, costs_request) {
                if self.began.elapsed() + wait > self.room.time {
                    self.leave(&policy, &plan).await?;
                    return Ok(InvocationOutcome::OutOfBudget);
                }
                sleep(wait).await;
                if !self.look_again(&policy, &plan, &next).await? {
                    return Ok(InvocationOutcome::NotLeader);
                }
                told = true;
                continue;
            }
            match next {
                Next::List => {
                    self.list().await;
                    told = false;
                }
                Next::Operation(action) => match self.step(&action, &policy).await? {
                    // It stands in what was left before.
                    Outcome::Done(_) if told => {}
                    Outcome::Fenced => return Ok(InvocationOutcome::NotLeader),
                    // What keeps it busy may be a lease that ran out, and nobody else may be there to reap it.
                    Outcome::Refused => {
                        self.trips += 1;
                        self.visitor.queue.sweep(LEASES).await?;
                        self.leave(&policy, &plan).await?;
                        return Ok(InvocationOutcome::OutOfBudget);
                    }
                    _ => told = false,
                },
            }
        }
    }

    fn note(
        &self,
        policy: &FleetPolicy,
        plan: &Plan,
        intent: Option<&PlannedOperation>,
    ) -> Result<Checkpoint, QueueError> {
        let now = self.now();
        let free = FleetPolicy { paused: false, ..policy.clone() };
        let wish =
            policy.paused.then(|| crate::controller::fleet::plan(&self.seen, &free, &self.left.memory, now));
        let seen = status::Seen { view: &self.view, fleet: &self.seen, made: &self.made };
        let status =
            status::status(&self.fence, &seen, policy, P::words(), plan, wish.as_ref().unwrap_or(plan));
        let mut memory = self.left.memory.clone();
        if let Some(action) = intent {
            // Should nobody hear how it ended: a list will show.
            memory.record(action, &Outcome::Done(None), policy, now, now);
        }
        let left = Left { epoch: self.left.epoch, memory, suspects: self.left.suspects.clone() };
        let memory = serde_json::to_string(&left).map_err(|error| QueueError::Data(error.to_string()))?;
        let memory = if memory.len() <= MEMORY_MAX { memory } else { "{}".to_owned() };
        Ok(Checkpoint { fence: self.fence.clone(), status, memory })
    }

    async fn leave(&mut self, policy: &FleetPolicy, plan: &Plan) -> Result<(), QueueError> {
        self.trips += 1;
        let note = self.note(policy, plan, None)?;
        self.visitor.queue.save_checkpoint(&note).await.map(drop)
    }

    /// Leaves a note of what is about to be done, and looks again. Says whether the right to act still
    /// holds.
    async fn look_again(
        &mut self,
        policy: &FleetPolicy,
        plan: &Plan,
        next: &Next,
    ) -> Result<bool, QueueError> {
        let (priority, intent) = match next {
            Next::List => (RequestClass::List, None),
            Next::Operation(action) => (apply::priority(&action.act), Some(action)),
        };
        let note = self.note(policy, plan, intent)?;
        self.welcome = match next {
            Next::Operation(PlannedOperation { act: Operation::Start { machine }, .. }) => {
                Some(machine.clone())
            }
            _ => None,
        };
        let starts = self.welcome.as_ref().map(|machine| &*machine.0);
        let ask = LockRequest { starts, time: HOLD_ON, ..self.visitor.ask(&self.name, false, priority) };
        self.trips += 1;
        let look = self.visitor.queue.look(&[], Some(&note), &ask).await?;
        let LockState::Mine(fence, slot) = look.turn else { return Ok(false) };
        (self.view, self.looked, self.slot) = (look.view, Instant::now(), slot);
        Ok(fence == self.fence)
    }

    /// The request was made: the next one has to wait for its turn.
    fn spend(&mut self) {
        self.trips += 1;
        self.requests += 1;
        self.slot = Permit::Wait(self.visitor.rate.interval);
    }

    async fn list(&mut self) {
        let at = self.now();
        self.spend();
        self.seen.machines = match self.visitor.provider.list().await {
            Ok(machines) => {
                tracing::debug!(machines = machines.len(), "listed");
                self.made.clear();
                Ok(MachineList { at, machines })
            }
            Err(error) => {
                tracing::warn!(%error, "could not list the machines");
                self.heed(&error).await;
                Err(ListUnavailable { why: error.list_failure(), at: self.now() })
            }
        };
    }

    async fn step(&mut self, action: &PlannedOperation, policy: &FleetPolicy) -> Result<Outcome, QueueError> {
        let sent_at = self.now();
        let outcome = match &action.act {
            Operation::Retire { machine, workers } => self.retire(machine, workers).await?,
            Operation::Stop { machine } | Operation::Destroy { machine, .. } => {
                let workers = apply::workers_of(&self.seen, machine);
                match self.retire(machine, &workers).await? {
                    Outcome::Done(_) => self.ask(&action.act, policy).await?,
                    refused => refused,
                }
            }
            act => self.ask(act, policy).await?,
        };
        let (kind, reason) = (action.act.kind(), &action.reason);
        let machine = match (&action.act, &outcome) {
            (Operation::Create { name, .. }, _) => name.clone(),
            (act, _) => act.machine().map(ToString::to_string).unwrap_or_default(),
        };
        if matches!(outcome, Outcome::Done(_)) {
            tracing::info!(action = kind, machine, reason, "done");
        } else {
            tracing::warn!(action = kind, machine, outcome = outcome.word(), reason, "not done");
        }
        let now = self.now();
        self.left.memory.record(action, &outcome, policy, sent_at, now);
        Ok(outcome)
    }

    async fn retire(&mut self, machine: &MachineId, workers: &[WorkerId]) -> Result<Outcome, QueueError> {
        self.trips += 1;
        apply::retire(&self.visitor.queue, &self.fence, machine, workers).await
    }

    async fn ask(&mut self, act: &Operation, policy: &FleetPolicy) -> Result<Outcome, QueueError> {
        if let Operation::Start { machine } = act
            && self.welcome.as_ref() != Some(machine)
        {
            // Since the last look another one came to be the best to start.
            self.trips += 1;
            self.visitor.queue.readmit_machine(&machine.0).await?;
        }
        let answer = carry_out(&self.visitor.provider, act, policy, &self.visitor.environment).await;
        self.spend();
        Ok(match answer {
            Ok(made) => {
                let id = made.as_ref().map(|machine| machine.id.clone());
                self.made.extend(made.map(|machine| (machine.id.clone(), machine)));
                Outcome::Done(id)
            }
            Err(error) => {
                tracing::warn!(action = act.kind(), %error, "operation on a machine failed");
                self.heed(&error).await;
                error.outcome()
            }
        })
    }

    /// The provider said that there are too many requests: everybody waits.
    async fn heed(&mut self, error: &ProviderError) {
        let ProviderFailure::RateLimited { retry_after } = &error.failure else { return };
        self.trips += 1;
        if let Err(error) = self.visitor.queue.report_throttled(self.visitor.rate, *retry_after).await {
            tracing::warn!(%error, "could not record that the provider throttled a request; other processes are not slowed down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_not_act_looks_again_where_that_may_help() {
        let second = Duration::from_secs(1);
        let ask = LockRequest {
            holder: "edge:1",
            time: HOLD,
            fresh: true,
            insist: false,
            rate: RequestRate::default(),
            priority: RequestClass::List,
            budget: BUDGET,
            starts: None,
        };
        let looked = |turn: LockState, pending: u64, tries: u32| {
            let view = FleetView { pending, ..FleetView::default() };
            let look = Snapshot { uploads: Vec::new(), view, turn, memory: None };
            again(&look, &ask, tries).map(|(pause, ask)| (pause, ask.insist))
        };
        // Another visit, which ends soon.
        assert_eq!(looked(LockState::Held(2 * second), 1, 1), Some((2 * second + A_MOMENT, false)));
        assert_eq!(looked(LockState::Held(2 * second), 1, TRIES), None);
        assert_eq!(looked(LockState::Held(2 * second), 0, 1), None, "nobody waits");
        assert_eq!(looked(LockState::Held(30 * second), 1, 1), None, "a controller acts");
        // A controller that went away.
        assert_eq!(looked(LockState::Lapsed(AFTER_YOU), 1, 1), Some((Duration::ZERO, true)));
        assert_eq!(looked(LockState::Lapsed(second), 1, 1), None);
        assert_eq!(looked(LockState::Lapsed(AFTER_YOU), 0, 1), None);
        assert_eq!(looked(LockState::Lapsed(GONE), 0, 1), Some((Duration::ZERO, true)));
        let fence = FencingToken { holder: "edge:1".into(), epoch: 1 };
        assert_eq!(looked(LockState::Mine(fence, Permit::Wait(second)), 1, 1), None);
    }

    #[test]
    fn what_is_left_is_read_again_and_what_cannot_be_is_nothing() {
        let mut left = Left { epoch: 7, ..Left::default() };
        left.suspects.insert(WorkerId("m1-0001".into()), Duration::from_millis(1_764_000_000_123));
        let json = serde_json::to_string(&left).unwrap();
        let read = Left::read(Some(&json));
        assert_eq!((read.epoch, read.memory, read.suspects), (7, left.memory, left.suspects));
        for bad in [None, Some(""), Some("[]"), Some("{\"epoch\":\"x\"}")] {
            assert_eq!(Left::read(bad).epoch, 0, "{bad:?}");
        }
    }
}
