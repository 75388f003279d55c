//! The reconciler without I/O: decides the next effect from the observations and from the outcomes of earlier
//! effects.
//!
//! A host repeatedly calls [`Driver::next`], performs the [`Effect`], and reports its [`EffectResult`] with
//! [`Driver::on`]. The hosts are the event loop of a process, the one-shot invocation at the edge, and the
//! simulation. The host passes the time as a [`Moment`] of its own clock.
//!
//! A round begins with a view of the queue, from which one operation is planned. Its effects, in order: acquire the
//! lock, publish the status, acquire a permit, retire the machine's workers, check the fence, and send one request
//! to the provider. Then the next round begins.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effect::{Effect, EffectResult, Ended};
use super::{observe, status};
use crate::controller::fleet::{
    FleetPolicy, FleetState, ListUnavailable, Machine, MachineId, MachineList, Moment, Observation,
    Operation, OtherFleets, Outcome, Plan, PlannedOperation, ProviderError, ProviderFailure, ProviderWords,
    QueueView, plan,
};
use crate::job::WorkerId;
use crate::queue::{FencingToken, FleetStatus, FleetView, LockOutcome, Permit, RequestClass, RetireOutcome};

/// How often the lock is renewed while operations are planned or jobs wait.
pub(crate) const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time between two rounds; while machines run the plan requires one every five minutes.
pub(crate) const MAX_SLEEP: Duration = Duration::from_secs(600);
/// How long to wait for a holder whose lock has expired, while jobs wait: the same event wakes that holder.
pub(crate) const TAKEOVER_BUSY: Duration = Duration::from_secs(2);
/// How long to wait for it while workers run and no job waits: a little more than twice its interval of renewals.
const TAKEOVER_WITH_WORKERS: Duration = Duration::from_secs(660);
/// How long to wait for it while no worker runs.
pub(crate) const TAKEOVER_IDLE: Duration = Duration::from_secs(1260);
/// Pause before the next round after a machine's worker turned out to hold a lease.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// The state that a one-shot invocation saves for the next one. Its moments are by Redis's clock.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DriverState {
    epoch: u64,
    memory: FleetState,
    suspects: BTreeMap<WorkerId, Moment>,
}

/// The request that a round is planned for.
#[derive(Clone)]
enum Work {
    List,
    Operation(PlannedOperation),
}

/// The current round.
struct Round {
    view: FleetView,
    policy: FleetPolicy,
    plan: Plan,
    work: Option<Work>,
    /// The status, if this reconciler holds the lock.
    status: Option<FleetStatus>,
    /// The remaining effects, in order.
    effects: VecDeque<Effect>,
    /// When the request or the retirement was sent.
    sent_at: Moment,
}

impl Round {
    fn waits(&self) -> bool {
        let own = self.view.waiting.iter().filter(|(class, _)| self.policy.classes.contains(class));
        own.into_iter().any(|(_, of)| of.pending + of.due > 0)
    }

    /// How long after its expiry another holder's lock may be taken over.
    fn takeover(&self) -> Duration {
        match (self.waits(), self.policy.min > 0 || !self.view.workers.is_empty()) {
            (true, _) => TAKEOVER_BUSY,
            (false, true) => TAKEOVER_WITH_WORKERS,
            (false, false) => TAKEOVER_IDLE,
        }
    }

    /// The pause at the end of the round. While there is work, it is short enough to renew the lock.
    fn pause(&self, at_most: Option<Duration>) -> Effect {
        let limit = (self.work.is_some() || self.waits()).then_some(RENEW_INTERVAL);
        let at_most = at_most.into_iter().chain(limit).min();
        Effect::Wait { at_most, settled: self.work.is_none() }
    }
}

/// Reconciles the machines with the queue, from what its host reports.
pub(crate) struct Driver {
    words: &'static ProviderWords,
    /// How long a heartbeat counts.
    alive: Duration,
    policy: FleetPolicy,
    /// The other fleets that take from the queue.
    others: OtherFleets,
    state: DriverState,
    seen: Observation,
    /// Machines that this reconciler created since the last list.
    made: BTreeMap<MachineId, Machine>,
    /// The lock, as last reported, and when it was last acquired or renewed.
    fence: Option<FencingToken>,
    held_at: Moment,
    fresh: bool,
    /// Whether another process held the lock at the last lock request.
    stands_by: bool,
    /// How long another holder's lock had been expired at the last lock request.
    lapsed: Option<Duration>,
    published: Option<FleetStatus>,
    round: Option<Round>,
    /// Redis was unreachable, so workers could not send heartbeats.
    blind: bool,
}

impl Driver {
    /// A driver that continues from `state`. `alive` is how long a worker's heartbeat counts.
    pub(crate) fn new(
        words: &'static ProviderWords,
        policy: FleetPolicy,
        alive: Duration,
        state: DriverState,
    ) -> Self {
        Self {
            words,
            alive,
            policy,
            others: OtherFleets::default(),
            state,
            seen: Observation { machines: Err(ListUnavailable::NOT_YET), queue: None },
            made: BTreeMap::new(),
            fence: None,
            held_at: Moment::ZERO,
            fresh: true,
            stands_by: false,
            lapsed: None,
            published: None,
            round: None,
            blind: false,
        }
    }

    /// Changes the policy, from the next round on.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the event loop only"))]
    pub(crate) fn set_policy(&mut self, policy: FleetPolicy) {
        self.policy = policy;
    }

    /// Changes the other fleets that take from the queue, from the next round on.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the event loop only"))]
    pub(crate) fn set_others(&mut self, others: OtherFleets) {
        self.others = others;
    }

    /// Whether jobs of the fleet's classes waited when the round began, whichever fleet takes them.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the event loop only"))]
    pub(crate) fn jobs_wait(&self) -> bool {
        self.round.as_ref().is_some_and(Round::waits)
    }

    /// Whether another process manages the machines, as far as it is known.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the event loop only"))]
    pub(crate) const fn stands_by(&self) -> bool {
        self.stands_by
    }

    /// The policy of this round, or of the next one if no round has begun.
    pub(crate) fn policy(&self) -> &FleetPolicy {
        self.round.as_ref().map_or(&self.policy, |round| &round.policy)
    }

    /// The plan of this round, or of the last one, unless Redis has been unavailable since.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the event loop only"))]
    pub(crate) fn plan(&self) -> Option<&Plan> {
        self.round.as_ref().map(|round| &round.plan)
    }

    /// The operation of this round, if it has one.
    pub(crate) fn operation(&self) -> Option<&Operation> {
        match &self.round.as_ref()?.work {
            Some(Work::Operation(operation)) => Some(&operation.act),
            _ => None,
        }
    }

    /// The status that is published after the lock has been acquired, if that is the next effect.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the event loop only"))]
    pub(crate) fn status_after_lock(&self) -> Option<&FleetStatus> {
        let effects = &self.round.as_ref()?.effects;
        match (effects.front(), effects.get(1)) {
            (Some(Effect::AcquireLock { .. }), Some(Effect::Publish(status))) => Some(status),
            _ => None,
        }
    }

    /// The lock, as last reported.
    pub(crate) const fn fence(&self) -> Option<&FencingToken> {
        self.fence.as_ref()
    }

    /// The next effect. Until its answer is reported, each call returns the same effect, except for a pause.
    pub(crate) fn next(&mut self, now: Moment) -> Effect {
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

    /// Records the outcome of the last effect. Returns the operation that ended with it, if any.
    pub(crate) fn on(&mut self, answer: EffectResult, now: Moment) -> Option<Ended> {
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

    /// The status of this round and the state to continue from. With `intent`, the state is as if the planned
    /// operation had been done: if its outcome is not reported, the next list shows it.
    pub(crate) fn checkpoint(&self, intent: bool, now: Moment) -> Option<(FleetStatus, DriverState)> {
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

    /// Removes the first effect, which is done.
    fn advance(&mut self) {
        if let Some(round) = &mut self.round {
            round.effects.pop_front();
        }
    }

    /// Ends the round with a pause.
    fn pause(&mut self, at_most: Duration) {
        let pause = self.round.as_ref().map(|round| round.pause(Some(at_most)));
        self.finish_round(pause);
    }

    /// Replaces the remaining effects of the round with these.
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
        let queue = observe::queue_view(&view, self.alive, &mut self.state.suspects, now);
        self.seen.queue = Some(QueueView { others: self.others.clone(), ..queue });
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

    /// The effects of a round.
    fn effects(&self, round: &Round, now: Moment) -> VecDeque<Effect> {
        let news = round.status.clone().filter(|status| !self.was_published(status));
        // An idle reconciler renews the lock, so that others do not take it over.
        let shows = self.fence.is_some() && now.saturating_sub(self.held_at) >= MAX_SLEEP;
        let pause = round.pause(round.plan.next_look);
        if round.work.is_none() && !round.waits() && news.is_none() && !shows {
            return [pause].into();
        }
        let insist = round.work.is_some() && self.lapsed.is_some_and(|ago| ago >= round.takeover());
        let mut effects = VecDeque::from([Effect::AcquireLock { fresh: self.fresh, insist }]);
        effects.extend(news.map(|status| Effect::Publish(Box::new(status))));
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
            // The permit comes first, so that no worker is retired while its machine still has to wait for a request.
            Operation::Stop { machine } => {
                let retire = retire(machine, self.workers_of(machine));
                vec![Effect::AcquirePermit(RequestClass::Stop), retire, Effect::CheckLock, call]
            }
            Operation::Destroy { machine, .. } => {
                let retire = retire(machine, self.workers_of(machine));
                vec![Effect::AcquirePermit(RequestClass::Destroy), retire, Effect::CheckLock, call]
            }
        }
    }

    /// The machine's observed workers, including unregistered ones that hold a lease.
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

    /// Whether the last published status is the same except for its time.
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
                tracing::info!(epoch = fence.epoch, holder = fence.holder, "acquired the fleet lock");
                self.hold(fence, now);
                self.finish_round([]);
                None
            }
            other => {
                (self.fence, self.published, self.stands_by) = (None, None, true);
                if let Some(round) = &mut self.round {
                    let pause = standby_pause(&other, round.waits(), round.takeover());
                    let at_most = Some(pause.clamp(Duration::from_millis(50), MAX_SLEEP));
                    round.effects = [Effect::Wait { at_most, settled: false }].into();
                }
                self.lapsed = if let LockOutcome::Lapsed(ago) = other { Some(ago) } else { None };
                None
            }
        }
    }

    /// Records that this reconciler holds the lock.
    fn hold(&mut self, fence: FencingToken, now: Moment) {
        (self.held_at, self.fresh, self.lapsed, self.stands_by) = (now, false, None, false);
        if self.fence.as_ref() == Some(&fence) {
            return;
        }
        // Neither the last list nor the memory contains what another holder has done in the meantime.
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
            Some(Effect::Publish(status)) if held => self.published = Some(*status),
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
        let Some(round) = &self.round else { return };
        let at = round.sent_at;
        let throttled = answer.as_ref().err().and_then(throttled);
        self.seen.machines = match answer {
            Ok(machines) => {
                tracing::debug!(machines = machines.len(), "listed the machines");
                for machine in self.state.memory.removed_by_others(&machines, &round.policy) {
                    let why = machine.message.as_deref();
                    tracing::warn!(machine = %machine.id, why, "somebody else removes a machine");
                }
                self.made.clear();
                Ok(MachineList { at, machines })
            }
            Err(error) => {
                tracing::warn!(%error, "could not list the machines");
                Err(ListUnavailable { why: error.list_failure(), at: now })
            }
        };
        self.finish_round(throttled);
    }

    fn on_called(&mut self, answer: Result<Option<Machine>, ProviderError>, now: Moment) -> Option<Ended> {
        let throttled = answer.as_ref().err().and_then(throttled);
        let message = answer.as_ref().err().map(|error| error.message.clone());
        let outcome = match answer {
            Ok(made) => {
                let id = made.as_ref().map(|machine| machine.id.clone());
                self.made.extend(made.map(|machine| (machine.id.clone(), machine)));
                Outcome::Done(id)
            }
            Err(error) => {
                let action = self.operation().map(Operation::kind);
                tracing::warn!(action, %error, "operation on a machine failed");
                error.outcome()
            }
        };
        if let Some(message) = message {
            self.state.memory.record_message(&outcome, &message);
        }
        let ended = self.end_operation(&outcome, now);
        self.finish_round(throttled);
        ended
    }

    /// Records that the round's operation has ended.
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
        tracing::info!(action, machine, reason, "machine operation done");
    } else {
        tracing::warn!(action, machine, outcome = outcome.word(), reason, "machine operation not done");
    }
}

/// How long a reconciler without the lock waits. While jobs wait, the holder renews the lock often; without work it
/// does so rarely.
fn standby_pause(other: &LockOutcome, waits: bool, takeover: Duration) -> Duration {
    match other {
        LockOutcome::Held(left) if waits => *left,
        LockOutcome::Lapsed(ago) => takeover.saturating_sub(*ago),
        LockOutcome::Held(_) | LockOutcome::Mine(_) => MAX_SLEEP,
    }
}

#[cfg(test)]
mod tests;
