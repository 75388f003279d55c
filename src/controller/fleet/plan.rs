//! Plans the next operations, each with its reason.

use std::collections::BTreeSet;
use std::time::Duration;

use super::capacity::FleetCapacity;
use super::classify::{MachineRole, MachineView, units};
use super::condition::Condition;
use super::desired::{self, Demand};
use super::limits;
use super::machine::Phase;
use super::observation::{ListFailure, ListUnavailable, Moment, Observation};
use super::observe::{ByMachine, by_machine};
use super::operation::{Operation, PlannedOperation};
use super::planner::Planner;
use super::policy::FleetPolicy;
use super::price::MicroDollars;
use super::repair;
use super::share::{WaitingByClass, share};
use super::size::Offer;
use super::slot::Slot;
use super::state::{FleetState, LaunchFailure};
use crate::queue::FleetDesired;

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many machines there should be, and why.
    pub desired: FleetDesired,
    /// The steps, the most urgent first. After each, plan anew: that is how superseded ones are dropped.
    pub actions: Vec<PlannedOperation>,
    /// What a person should know.
    pub conditions: Vec<Condition>,
    /// What the machines that are charged cost an hour, if their prices are known.
    pub cost: Option<MicroDollars>,
    /// The machines as they were judged, in the order of their slots; none while that is unknown.
    pub units: Vec<MachineView>,
    /// What the fleet can take of what waits, for the other fleets of the queue.
    pub capacity: FleetCapacity,
    /// Zero: list the machines now. Else plan again after this long even if the queue is silent.
    /// Nothing: not before the queue says something.
    pub next_look: Option<Duration>,
}

/// The next operations. The same observation must have been passed to [`FleetState::observe`] before.
#[must_use]
pub fn plan(observation: &Observation, policy: &FleetPolicy, memory: &FleetState, now: Moment) -> Plan {
    let hold = |condition, next_look| Plan {
        desired: desired::unknown(policy),
        actions: Vec::new(),
        conditions: vec![condition],
        cost: None,
        units: Vec::new(),
        capacity: match &observation.machines {
            Err(ListUnavailable { why: ListFailure::NotYet, .. }) => FleetCapacity::unknown(policy),
            Err(_) => FleetCapacity::remembered(memory, policy, now),
            Ok(_) => FleetCapacity::none(policy),
        },
        next_look,
    };
    let Some(queue) = &observation.queue else {
        // Without Redis it is unknown which machines are busy. The caller plans again once Redis is back.
        return hold(Condition::QueueUnknown, None);
    };
    let listed = match &observation.machines {
        Ok(listed) => listed,
        Err(ListUnavailable { why, at }) => {
            let wait = match why {
                ListFailure::NotYet => Duration::ZERO,
                ListFailure::Failed => policy.deadlines.retry,
                ListFailure::Unauthorized | ListFailure::Billing | ListFailure::NoSuchApp => {
                    policy.deadlines.tick
                }
            };
            return hold(Condition::ListUnknown(*why), Some((*at + wait).saturating_sub(now)));
        }
    };
    let workers = by_machine(observation);
    let units = units(listed, &workers, policy, memory, now);
    let too_large = memory.too_large.map(|(cpus, _)| cpus);
    let by_class = WaitingByClass::of(queue);
    let waiting = by_class.total_of(&policy.classes);
    let alone = desired::demand(&units, waiting, policy, too_large);
    let room = limits::launchable(&units, alone.desired, policy, memory, now);
    let capacity = FleetCapacity::of(&units, policy, too_large, room, now);
    let mine = share(&by_class, &capacity, &queue.others).total_of(&policy.classes);
    let wanted_alone = alone.desired.machines;
    let Demand { desired, launches } =
        if mine == waiting { alone } else { desired::demand(&units, mine, policy, too_large) };
    let mut draft = Planner {
        policy,
        memory,
        listed,
        queue,
        units: &units,
        desired,
        wanted_alone,
        launches: &launches,
        now,
        conditions: Vec::new(),
    };
    let actions = draft.actions(&workers);
    let plan = draft.finish(actions);
    Plan { cost: desired::cost(&units, policy), units, capacity, ..plan }
}

impl<'a> Planner<'a> {
    fn actions(&mut self, workers: &ByMachine<'_>) -> Vec<PlannedOperation> {
        self.note_machines();
        let bars = [
            (self.policy.paused, Condition::Paused { has_pool: self.policy.pool.is_some() }),
            (self.memory.refused_until.is_some(), Condition::Unauthorized),
            (
                self.memory.backoff_until.is_some(),
                Condition::BackingOff { said: self.memory.backoff_said.clone() },
            ),
        ];
        let mut barred = self.memory.guard.is_some();
        if let Some((missing, of, _)) = self.memory.guard {
            self.conditions.push(Condition::SuddenDrop { missing, of });
        }
        for (bar, condition) in bars {
            if bar {
                barred = true;
                self.conditions.push(condition);
            }
        }
        let mut actions = self.scale_out();
        actions.extend(repair::actions(self, workers));
        if barred {
            actions.clear();
        }
        actions.sort_by_key(|action| action.act.rank());
        let mut touched = BTreeSet::new();
        actions.retain(|action| action.act.machine().is_none_or(|id| touched.insert(id.clone())));
        actions
    }

    fn note_machines(&mut self) {
        let unreachable = self.units.iter().filter(|u| u.role == MachineRole::Unreachable).count();
        if unreachable > 0 {
            self.conditions.push(Condition::Unreachable(u32::try_from(unreachable).unwrap_or(u32::MAX)));
        }
        if self.units.iter().any(|unit| unit.phase == Some(Phase::Unschedulable)) {
            self.conditions.push(Condition::NoCapacity { said: self.memory.capacity_said.clone() });
        }
        for unit in self.units {
            match (unit.role, &unit.id, &unit.phase) {
                (MachineRole::Odd, Some(id), Some(phase)) => {
                    self.conditions.push(Condition::UnknownMachineState(id.clone(), phase.clone()));
                }
                (MachineRole::Disputed, Some(id), _) => self.conditions.push(Condition::Disputed(id.clone())),
                _ => {}
            }
        }
    }

    /// Starts machines of the wanted sizes, then creates some; destroys others at rest if only that makes room for
    /// them. Where none can be created, machines at rest of other sizes are started instead.
    fn scale_out(&mut self) -> Vec<PlannedOperation> {
        let need = self.desired.need();
        let failures = self.memory.launch_failures;
        let trials = limits::trials(self.desired, self.policy, self.memory, self.now);
        // Report it during a single trial launch as well, so that the condition lasts as long as the problem.
        if trials.is_some() && (self.need_alone() > 0 || self.desired.waiting > 0) {
            self.conditions.push(match self.memory.launch_failure {
                Some(LaunchFailure::Silent) => Condition::WorkersNotRegistering { failures },
                Some(LaunchFailure::WithoutClasses) => {
                    Condition::WorkersWithoutClasses { failures, classes: self.policy.classes.clone() }
                }
                Some(LaunchFailure::Failed) | None => {
                    Condition::LaunchesFailing { failures, said: self.memory.launch_said.clone() }
                }
            });
        }
        if need == 0 {
            // Another fleet takes the jobs; a person should know why.
            let need_alone = self.need_alone();
            if need_alone > 0 {
                self.note_refusals();
                self.open_region();
                let base = self.policy.offer(self.policy.sizes.base());
                if desired::purse(self.units, self.policy).affords(&base) < need_alone.into() {
                    self.conditions.push(self.over_budget());
                }
            }
            return Vec::new();
        }
        let mut purse = desired::purse(self.units, self.policy);
        let mut wanted: Vec<Offer> =
            self.launches.iter().copied().take_while(|offer| purse.buy(offer)).collect();
        if wanted.len() < self.launches.len() {
            self.conditions.push(self.over_budget());
        }
        if let Some(trials) = trials {
            wanted.truncate(trials as usize);
        }
        self.note_refusals();
        // Only the workers of the first slots stay: any other would exit and be started again, repeatedly.
        let keepers = self.desired.waiting == 0;
        let mut at_rest = limits::startable(self.units, self.policy, keepers);
        let mut actions = Vec::new();
        wanted.retain(|offer| {
            let same = at_rest.iter().position(|unit| unit.size == offer.size);
            actions.extend(same.and_then(|same| self.start(at_rest.remove(same))));
            same.is_none()
        });
        if wanted.is_empty() {
            return actions;
        }
        let Some(region) = self.open_region() else {
            for offer in wanted {
                let difference = |unit: &MachineView| unit.size.cpus.abs_diff(offer.size.cpus);
                let nearest = (0..at_rest.len()).min_by_key(|n| difference(at_rest[*n]));
                if let Some(nearest) = nearest
                    && purse.exchange(&offer, &self.policy.offer(at_rest[nearest].size))
                {
                    actions.extend(self.start(at_rest.remove(nearest)));
                }
            }
            return actions;
        };
        let creates = self.creates(&wanted, &region);
        let missing = wanted.len() - creates.len();
        actions.extend(creates);
        let in_the_way = missing.saturating_sub(self.desired.room() as usize);
        let room = repair::make_room(self, &at_rest, in_the_way, keepers);
        actions.extend(room);
        actions
    }

    fn over_budget(&self) -> Condition {
        Condition::Budget { affordable: self.policy.affordable(), has_pool: self.policy.pool.is_some() }
    }

    fn why(&self) -> String {
        let FleetDesired { machines, busy, idle, booting, .. } = self.desired;
        let waits = self.desired.waits();
        format!("{waits}: {machines} machines wanted, {busy} busy, {idle} idle, {booting} booting")
    }

    fn start(&self, unit: &MachineView) -> Option<PlannedOperation> {
        let machine = unit.id.clone()?;
        Some(PlannedOperation { reason: self.why(), act: Operation::Start { machine } })
    }

    /// The region in which machines can be created now, if there is one.
    fn open_region(&mut self) -> Option<String> {
        if limits::is_refused(self.memory) {
            return None;
        }
        let open = limits::open_region(self.policy, self.memory);
        let condition = Condition::NoCapacity { said: self.memory.capacity_said.clone() };
        if open.is_none() && !self.conditions.contains(&condition) {
            self.conditions.push(condition);
        }
        open
    }

    fn note_refusals(&mut self) {
        let quota = Condition::Quota { said: self.memory.quota_said.clone() };
        for (until, condition) in
            [(self.memory.quota_until, quota), (self.memory.billing_until, Condition::Billing)]
        {
            if until.is_some() {
                self.conditions.push(condition);
            }
        }
    }

    /// The number of machines that would still be missing if no other fleet took from the queue.
    fn need_alone(&self) -> u32 {
        FleetDesired { machines: self.wanted_alone, ..self.desired }.need()
    }

    fn creates(&self, wanted: &[Offer], region: &str) -> Vec<PlannedOperation> {
        let taken: BTreeSet<Slot> = self.units.iter().filter_map(|u| u.slot).collect();
        let free = (1..=self.policy.max).map(Slot).filter(|slot| !taken.contains(slot));
        let create = |(slot, offer): (Slot, &Offer)| {
            // The machines of MIN_MACHINES stay, whatever they were created for.
            let size = if slot.0 <= self.policy.min { self.policy.sizes.base() } else { offer.size };
            PlannedOperation {
                reason: format!("{}, none with {} CPUs at rest", self.why(), size.cpus),
                act: Operation::Create {
                    slot,
                    name: slot.name(&self.policy.app),
                    region: region.to_owned(),
                    size,
                },
            }
        };
        free.take(self.desired.room() as usize).zip(wanted).map(create).collect()
    }

    /// Whether the list is too old to base writes on.
    fn list_is_old(&self) -> bool {
        let limits = &self.policy.deadlines;
        let known = self.memory.acted_at.unwrap_or_default().max(self.listed.at);
        let aged = self.now > known + limits.list || self.now > self.listed.at + 10 * limits.list;
        // A worker has left since the list: its machine may be the one to start.
        let left = self.units.iter().any(|u| u.role == MachineRole::Leaving && u.since > self.listed.at);
        aged || self.memory.doubt.is_some() || (self.desired.need() > 0 && left)
    }

    fn finish(self, mut actions: Vec<PlannedOperation>) -> Plan {
        let next_look = self.next_look(&actions);
        if next_look == Some(Duration::ZERO) {
            // List the machines first, then plan again. A retire needs Redis only, so it does not wait.
            actions.clear();
        }
        let (desired, conditions) = (self.desired, self.conditions);
        let capacity = FleetCapacity::none(self.policy);
        Plan { desired, actions, conditions, cost: None, units: Vec::new(), capacity, next_look }
    }

    fn next_look(&self, actions: &[PlannedOperation]) -> Option<Duration> {
        let limits = &self.policy.deadlines;
        let must = !actions.is_empty() && self.list_is_old();
        let unread = self.units.iter().any(|u| {
            // These roles are only acted on with a list from after their deadline, because a dispute is one
            // list against the heartbeat.
            let overdue = u.deadline.is_some_and(|d| d <= self.now && self.listed.at < d)
                && u.role != MachineRole::Idle;
            let disputed = u.id.as_ref().and_then(|id| self.memory.machines.get(id)?.disputed_since);
            overdue || disputed.is_some_and(|since| self.listed.at < since)
        });
        let (need, need_alone) = (self.desired.need() > 0, self.need_alone() > 0);
        let since_list = self.now.saturating_sub(self.listed.at);
        // A machine is about to make room: check whether it has.
        let awaited = self.units.iter().any(|u| matches!(u.role, MachineRole::Leaving | MachineRole::Going));
        let blocked = need && actions.is_empty() && awaited && self.may_act();
        // If nothing is running, a list is only needed where an earlier one may have been incomplete.
        let billed = self.units.iter().any(|u| u.role.is_billed());
        let tick = self.listed.at + if billed { limits.tick } else { 6 * limits.tick };
        let ticks = tick.min(self.memory.confirm_at.unwrap_or(tick)) <= self.now;
        let doubted = self.memory.doubt.is_some();
        if must || unread || doubted || ticks || (blocked && since_list >= limits.retry) {
            return Some(Duration::ZERO);
        }
        let memory = self.memory;
        let mut moments: Vec<Moment> = self.units.iter().filter_map(|u| u.deadline).collect();
        moments.push(tick);
        moments.extend(memory.confirm_at);
        let waits = [
            memory.quota_until,
            memory.billing_until,
            memory.refused_until,
            memory.backoff_until,
            memory.launch_hold_until,
        ];
        moments.extend(waits.into_iter().flatten());
        moments.extend(memory.guard.map(|(_, _, until)| until));
        moments.extend(memory.full_regions.values().filter(|_| need_alone));
        moments.extend(memory.too_large.map(|(_, until)| until).filter(|_| need_alone));
        moments.extend(memory.machines.values().filter_map(|m| m.blocked_until).filter(|_| need_alone));
        moments.extend(self.units.iter().filter_map(|unit| repair::next_try(self, unit)));
        moments.extend(memory.scaled_in_at.map(|at| at + limits.scale_in));
        moments.extend(self.queue.next_due.map(|due| self.now + due.max(Duration::from_millis(1))));
        moments.extend(blocked.then(|| self.listed.at + limits.retry));
        let next = moments.into_iter().filter(|moment| *moment > self.now).min();
        next.map(|moment| moment.saturating_sub(self.now))
    }

    fn may_act(&self) -> bool {
        let memory = self.memory;
        let base = self.policy.offer(self.policy.sizes.base());
        !self.policy.paused
            && memory.refused_until.is_none()
            && memory.backoff_until.is_none()
            && desired::purse(self.units, self.policy).affords(&base) > 0
    }
}
