//! The reconciler without I/O: what to do next, as a function of what has been seen and of what came of the
//! steps before.
//!
//! A host calls [`Driver::next`], carries the [`Effect`] out, and reports its [`EffectResult`] with [`Driver::on`],
//! over and over. The hosts are the event loop of a process, the one-shot invocation at the edge, and the simulation.
//! Time is handed in: a [`Moment`] of whichever clock the host keeps to.
//!
//! A round begins with a view of the queue, from which one step is planned. Its effects, in their order: acquire
//! the lock, publish the status, acquire a permit, retire the machine's workers, check the fence, and one request to
//! the provider. After it comes the next round.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effect::{Effect, EffectResult, Ended};
use super::{observe, status};
use crate::controller::fleet::{
    FleetPolicy, FleetState, ListUnavailable, Machine, MachineId, MachineList, Moment, Observation,
    Operation, Outcome, Plan, PlannedOperation, ProviderError, ProviderFailure, ProviderWords, plan,
};
use crate::job::WorkerId;
use crate::queue::{FencingToken, FleetStatus, FleetView, LockOutcome, Permit, RequestClass, RetireOutcome};

/// How often the lock is renewed while there is work, or jobs wait for some.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time between two rounds; with machines up the plan asks for one every five minutes.
pub const MAX_SLEEP: Duration = Duration::from_secs(600);
/// How long a holder whose lock has expired is waited for while jobs wait: the same event wakes it.
pub const TAKEOVER_BUSY: Duration = Duration::from_secs(2);
/// How long it is waited for with workers up and nothing to do: twice the interval of its renewals, and some.
const TAKEOVER_WITH_WORKERS: Duration = Duration::from_secs(660);
/// How long it is waited for with no worker up.
pub const TAKEOVER_IDLE: Duration = Duration::from_secs(1260);
/// Pause before another look at a machine whose worker turned out to hold a lease.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// What a one-shot invocation leaves for the next one. Its moments are Redis's time.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DriverState {
    epoch: u64,
    memory: FleetState,
    suspects: BTreeMap<WorkerId, Moment>,
}

/// The work that a round is about.
#[derive(Clone)]
enum Work {
    List,
    Operation(PlannedOperation),
}

/// A round under way.
struct Round {
    view: FleetView,
    policy: FleetPolicy,
    plan: Plan,
    work: Option<Work>,
    /// Where this reconciler holds the lock.
    status: Option<FleetStatus>,
    /// What is still to be done, the first one next.
    effects: VecDeque<Effect>,
    /// When the request, or the retirement, was begun.
    sent_at: Moment,
}

impl Round {
    fn waits(&self) -> bool {
        self.view.pending + self.view.due > 0
    }

    /// How long somebody else's expired lock is left alone.
    fn takeover(&self) -> Duration {
        match (self.waits(), self.policy.min > 0 || !self.view.workers.is_empty()) {
            (true, _) => TAKEOVER_BUSY,
            (false, true) => TAKEOVER_WITH_WORKERS,
            (false, false) => TAKEOVER_IDLE,
        }
    }

    /// The pause at the end of the round. While there is work the lock has to be renewed meanwhile.
    fn pause(&self, at_most: Option<Duration>) -> Effect {
        let limit = (self.work.is_some() || self.waits()).then_some(RENEW_INTERVAL);
        let at_most = at_most.into_iter().chain(limit).min();
        Effect::Wait { at_most, settled: self.work.is_none() }
    }
}

/// Converges the machines on the queue, by what its host tells it.
pub struct Driver {
    words: &'static ProviderWords,
    /// How long a heartbeat counts.
    alive: Duration,
    policy: FleetPolicy,
    state: DriverState,
    seen: Observation,
    /// Machines made here that no list has shown yet.
    made: BTreeMap<MachineId, Machine>,
    /// The lock, as far as is known here, and when it was acquired or renewed last.
    fence: Option<FencingToken>,
    held_at: Moment,
    fresh: bool,
    /// What the lock said of another holder.
    other: Option<LockOutcome>,
    published: Option<FleetStatus>,
    round: Option<Round>,
    /// Redis was out of reach: that a worker gave no sign of life meanwhile says nothing.
    blind: bool,
}

impl Driver {
    /// A driver that goes on from `state`. `alive` is how long a worker's heartbeat counts.
    pub fn new(
        words: &'static ProviderWords,
        policy: FleetPolicy,
        alive: Duration,
        state: DriverState,
    ) -> Self {
        Self {
            words,
            alive,
            policy,
            state,
            seen: Observation { machines: Err(ListUnavailable::NOT_YET), queue: None },
            made: BTreeMap::new(),
            fence: None,
            held_at: Moment::ZERO,
            fresh: true,
            other: None,
            published: None,
            round: None,
            blind: false,
        }
    }

    /// Changes what is wanted, from the next round on.
    pub fn set_policy(&mut self, policy: FleetPolicy) {
        self.policy = policy;
    }

    /// What is wanted in this round, or from the next one on.
    pub fn policy(&self) -> &FleetPolicy {
        self.round.as_ref().map_or(&self.policy, |round| &round.policy)
    }

    /// The plan of this round, or of the last one.
    pub fn plan(&self) -> Option<&Plan> {
        self.round.as_ref().map(|round| &round.plan)
    }

    /// The machine that this round is going to start.
    pub fn starts(&self) -> Option<&MachineId> {
        match &self.round.as_ref()?.work {
            Some(Work::Operation(PlannedOperation { act: Operation::Start { machine }, .. })) => {
                Some(machine)
            }
            _ => None,
        }
    }

    /// The lock, as far as is known here.
    pub const fn fence(&self) -> Option<&FencingToken> {
        self.fence.as_ref()
    }

    /// What to do now. Asked again before an answer, it says the same.
    pub fn next(&mut self, now: Moment) -> Effect {
        let Some(round) = &mut self.round else { return Effect::Observe };
        let Some(effect) = round.effects.front().cloned() else { return Effect::Observe };
        if matches!(effect, Effect::Retire { .. } | Effect::List | Effect::Call(_)) {
            round.sent_at = now;
        }
        if matches!(effect, Effect::Wait { .. }) {
            round.effects.clear();
        }
        effect
    }

    /// Takes note of what came of the last effect. Returns the operation that has ended with it.
    pub fn on(&mut self, answer: EffectResult, now: Moment) -> Option<Ended> {
        match answer {
            EffectResult::Observed(view) => self.observe(view, now),
            EffectResult::Session { view, fence, permit, readmitted } => {
                self.hold(fence, now);
                self.observe(view, now);
                let granted = matches!(permit, Permit::Go { .. });
                self.drop_effects(|effect| match effect {
                    Effect::AcquireLock { .. } => true,
                    Effect::AcquirePermit(_) | Effect::CheckLock => granted,
                    Effect::Readmit(machine) => readmitted.as_ref() == Some(machine),
                    _ => false,
                });
            }
            EffectResult::Lock(outcome) => return self.on_lock(outcome, now),
            EffectResult::Published(held) => self.on_published(held),
            EffectResult::Permit(Permit::Wait(pause)) => self.pause(pause),
            EffectResult::Permit(Permit::Go { .. }) | EffectResult::Done => self.advance(),
            EffectResult::Retired(outcome) => return self.on_retired(outcome, now),
            EffectResult::Listed(answer) => self.on_listed(answer, now),
            EffectResult::Called(answer) => return self.on_called(answer, now),
            EffectResult::QueueUnavailable => {
                self.seen.queue = None;
                self.blind = true;
                self.round = None;
            }
        }
        None
    }

    /// The status of this round and the state to go on from. With `intent`, the state is as if the planned operation
    /// had been done: should nobody hear how it ended, a list will show.
    pub fn checkpoint(&self, intent: bool, now: Moment) -> Option<(FleetStatus, DriverState)> {
        let round = self.round.as_ref()?;
        let mut state = self.state.clone();
        if let (Some(Work::Operation(operation)), true) = (&round.work, intent) {
            state.memory.record(operation, &Outcome::Done(None), &round.policy, now, now);
        }
        Some((round.status.clone()?, state))
    }

    fn drop_effects(&mut self, is_done: impl Fn(&Effect) -> bool) {
        if let Some(round) = &mut self.round {
            round.effects.retain(|effect| !is_done(effect));
        }
    }

    /// The first effect is done.
    fn advance(&mut self) {
        if let Some(round) = &mut self.round {
            round.effects.pop_front();
        }
    }

    /// The round ends with a pause.
    fn pause(&mut self, at_most: Duration) {
        let pause = self.round.as_ref().map(|round| round.pause(Some(at_most)));
        self.finish_round(pause);
    }

    /// Only these effects are left of the round, then it is over.
    fn finish_round(&mut self, effects: impl IntoIterator<Item = Effect>) {
        if let Some(round) = &mut self.round {
            round.effects = effects.into_iter().collect();
        }
    }

    /// Begins a round.
    fn observe(&mut self, view: FleetView, now: Moment) {
        if std::mem::take(&mut self.blind) {
            self.state.memory.reset_heartbeat_clocks(now);
        }
        let policy =
            FleetPolicy { paused: self.policy.paused || view.paused.is_some(), ..self.policy.clone() };
        self.seen.queue = Some(observe::queue_view(&view, self.alive, &mut self.state.suspects, now));
        self.state.memory.observe(&self.seen, &policy, now);
        let plan = plan(&self.seen, &policy, &self.state.memory, now);
        let work = if plan.next_look == Some(Duration::ZERO) {
            Some(Work::List)
        } else {
            plan.actions.first().cloned().map(Work::Operation)
        };
        let status = self.status(&view, &policy, &plan, now);
        let mut round = Round { view, policy, plan, work, status, effects: VecDeque::new(), sent_at: now };
        round.effects = self.effects(&round, now);
        self.round = Some(round);
    }

    /// What a round consists of.
    fn effects(&self, round: &Round, now: Moment) -> VecDeque<Effect> {
        let news = round.status.clone().filter(|status| !self.was_published(status));
        // So that nobody takes a reconciler with nothing to do for gone.
        let shows = self.fence.is_some() && now.saturating_sub(self.held_at) >= MAX_SLEEP;
        let pause = round.pause(round.plan.next_look);
        if round.work.is_none() && !round.waits() && news.is_none() && !shows {
            return [pause].into();
        }
        let insist = match self.other {
            Some(LockOutcome::Lapsed(ago)) => round.work.is_some() && ago >= round.takeover(),
            _ => false,
        };
        let mut effects = VecDeque::from([Effect::AcquireLock { fresh: self.fresh, insist }]);
        effects.extend(news.map(Effect::Publish));
        match &round.work {
            Some(work) => effects.extend(self.effects_of(work)),
            None => effects.push_back(pause),
        }
        effects
    }

    fn effects_of(&self, work: &Work) -> Vec<Effect> {
        let operation = match work {
            Work::List => return vec![Effect::AcquirePermit(RequestClass::List), Effect::List],
            Work::Operation(operation) => &operation.act,
        };
        let retire = |machine: &MachineId, workers: Vec<WorkerId>| Effect::Retire {
            machine: machine.clone(),
            workers,
        };
        let call = Effect::Call(operation.clone());
        match operation {
            Operation::Retire { machine, workers } => vec![retire(machine, workers.clone())],
            Operation::Create { .. } => {
                vec![Effect::AcquirePermit(RequestClass::Create), Effect::CheckLock, call]
            }
            Operation::Start { machine } => vec![
                Effect::AcquirePermit(RequestClass::Start),
                Effect::CheckLock,
                Effect::Readmit(machine.clone()),
                call,
            ],
            // A retirement checks the fence itself.
            Operation::Stop { machine } => {
                let retire = retire(machine, self.workers_of(machine));
                vec![Effect::AcquirePermit(RequestClass::Stop), retire, call]
            }
            Operation::Destroy { machine, .. } => {
                let retire = retire(machine, self.workers_of(machine));
                vec![Effect::AcquirePermit(RequestClass::Destroy), retire, call]
            }
        }
    }

    /// The machine's workers as they were seen, also those that the pool has forgotten.
    fn workers_of(&self, machine: &MachineId) -> Vec<WorkerId> {
        let workers = self.seen.queue.iter().flat_map(|queue| &queue.workers);
        workers.filter(|w| w.machine == *machine).map(|w| w.worker.clone()).collect()
    }

    fn status(
        &self,
        view: &FleetView,
        policy: &FleetPolicy,
        current: &Plan,
        now: Moment,
    ) -> Option<FleetStatus> {
        let fence = self.fence.as_ref()?;
        let resumed = FleetPolicy { paused: false, ..policy.clone() };
        let unpaused = policy.paused.then(|| plan(&self.seen, &resumed, &self.state.memory, now));
        let seen = status::StatusInput { view, fleet: &self.seen, made: &self.made };
        Some(status::status(fence, &seen, policy, self.words, current, unpaused.as_ref().unwrap_or(current)))
    }

    /// Whether the last published status says the same, but for its time.
    fn was_published(&self, status: &FleetStatus) -> bool {
        self.published.as_ref().is_some_and(|last| *status == FleetStatus { at: status.at, ..last.clone() })
    }

    fn on_lock(&mut self, outcome: LockOutcome, now: Moment) -> Option<Ended> {
        let is_check = self.round.as_ref().is_some_and(|r| r.effects.front() == Some(&Effect::CheckLock));
        match outcome {
            LockOutcome::Mine(fence) if self.fence.as_ref() == Some(&fence) => {
                self.held_at = now;
                self.advance();
                None
            }
            _ if is_check => {
                self.fence = None;
                self.end_operation(&Outcome::Fenced, now)
            }
            LockOutcome::Mine(fence) => {
                self.hold(fence, now);
                self.finish_round([]);
                None
            }
            other => {
                (self.fence, self.published) = (None, None);
                if let Some(round) = &mut self.round {
                    let pause = standby_pause(&other, round.waits(), round.takeover());
                    let at_most = Some(pause.clamp(Duration::from_millis(50), MAX_SLEEP));
                    round.effects = [Effect::Wait { at_most, settled: false }].into();
                }
                self.other = Some(other);
                None
            }
        }
    }

    /// This reconciler holds the lock.
    fn hold(&mut self, fence: FencingToken, now: Moment) {
        (self.held_at, self.fresh, self.other) = (now, false, None);
        if self.fence.as_ref() == Some(&fence) {
            return;
        }
        tracing::info!(epoch = fence.epoch, holder = fence.holder, "acquired the fleet lock");
        // What another holder has done meanwhile is in no list of ours, nor in our memory.
        self.seen.machines = Err(ListUnavailable::NOT_YET);
        if self.state.epoch + 1 != fence.epoch {
            self.state.memory.reset_heartbeat_clocks(now);
        }
        self.state.epoch = fence.epoch;
        self.fence = Some(fence);
    }

    fn on_published(&mut self, held: bool) {
        let published = self.round.as_mut().and_then(|round| round.effects.pop_front());
        match published {
            Some(Effect::Publish(status)) if held => self.published = Some(status),
            _ => {
                self.fence = None;
                self.finish_round([]);
            }
        }
    }

    fn on_retired(&mut self, outcome: RetireOutcome, now: Moment) -> Option<Ended> {
        let outcome = match outcome {
            RetireOutcome::Retired => Outcome::Done(None),
            RetireOutcome::Busy => Outcome::Refused,
            RetireOutcome::Fenced => Outcome::Fenced,
        };
        self.advance();
        let more = self.round.as_ref().is_some_and(|round| !round.effects.is_empty());
        if more && matches!(outcome, Outcome::Done(_)) {
            return None;
        }
        self.end_operation(&outcome, now)
    }

    fn on_listed(&mut self, answer: Result<Vec<Machine>, ProviderError>, now: Moment) {
        let Some(at) = self.round.as_ref().map(|round| round.sent_at) else { return };
        let throttled = answer.as_ref().err().and_then(throttled);
        self.seen.machines = match answer {
            Ok(machines) => {
                tracing::debug!(machines = machines.len(), "listed the machines");
                self.made.clear();
                Ok(MachineList { at, machines })
            }
            Err(error) => {
                tracing::debug!(%error, "could not list the machines");
                Err(ListUnavailable { why: error.list_failure(), at: now })
            }
        };
        self.finish_round(throttled);
    }

    fn on_called(&mut self, answer: Result<Option<Machine>, ProviderError>, now: Moment) -> Option<Ended> {
        let throttled = answer.as_ref().err().and_then(throttled);
        let outcome = match answer {
            Ok(made) => {
                let id = made.as_ref().map(|machine| machine.id.clone());
                self.made.extend(made.map(|machine| (machine.id.clone(), machine)));
                Outcome::Done(id)
            }
            Err(error) => {
                tracing::warn!(%error, "operation on a machine failed");
                error.outcome()
            }
        };
        let ended = self.end_operation(&outcome, now);
        self.finish_round(throttled);
        ended
    }

    /// The round's operation has ended.
    fn end_operation(&mut self, outcome: &Outcome, now: Moment) -> Option<Ended> {
        let round = self.round.as_mut()?;
        let Some(Work::Operation(operation)) = &round.work else { return None };
        let ended = Ended { operation: operation.act.kind(), outcome: outcome.word() };
        log_end(operation, outcome);
        self.state.memory.record(operation, outcome, &round.policy, round.sent_at, now);
        let effects = if *outcome == Outcome::Refused {
            vec![Effect::Sweep, round.pause(Some(REFUSED_PAUSE))]
        } else {
            Vec::new()
        };
        self.finish_round(effects);
        Some(ended)
    }
}

fn throttled(error: &ProviderError) -> Option<Effect> {
    match error.failure {
        ProviderFailure::RateLimited { retry_after } => Some(Effect::ReportThrottled(retry_after)),
        _ => None,
    }
}

fn log_end(operation: &PlannedOperation, outcome: &Outcome) {
    let (action, reason) = (operation.act.kind(), &operation.reason);
    let machine = match (&operation.act, outcome) {
        (Operation::Create { name, .. }, Outcome::Done(Some(id))) => format!("{name} ({id})"),
        (Operation::Create { name, .. }, _) => name.clone(),
        (act, _) => act.machine().map(ToString::to_string).unwrap_or_default(),
    };
    if matches!(outcome, Outcome::Done(_)) {
        tracing::info!(action, machine, reason, "done");
    } else {
        tracing::warn!(action, machine, outcome = outcome.word(), reason, "not done");
    }
}

/// How long a reconciler waits that does not hold the lock. While jobs wait the holder renews it; with nothing to do
/// it does so now and then only.
fn standby_pause(other: &LockOutcome, waits: bool, takeover: Duration) -> Duration {
    match other {
        LockOutcome::Held(left) if waits => *left,
        LockOutcome::Lapsed(ago) => takeover.saturating_sub(*ago),
        LockOutcome::Held(_) | LockOutcome::Mine(_) => MAX_SLEEP,
    }
}

#[cfg(test)]
mod tests;
