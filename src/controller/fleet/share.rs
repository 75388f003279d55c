//! Divides what waits in a queue among the fleets that take from it. Pure.
//!
//! Whichever worker is idle claims the next job of its classes, whatever its fleet. What is divided is therefore only what
//! each fleet makes machines for: first the machines that exist count, those of each fleet, and then each fleet makes as many
//! as it can, one after the other in their order. Each takes of its own classes only, and first of those that the fewest fleets
//! take. What nobody can take is the share of the first fleet of that class that makes machines at all; what waits for a class
//! that no fleet takes is nobody's.

use std::collections::BTreeMap;

use super::capacity::{FleetCapacity, OtherFleets};
use super::classify::{MachineRole, MachineView};
use super::machine::Phase;
use super::observation::{Moment, QueueView};
use super::policy::FleetPolicy;
use super::state::FleetState;
use crate::job::{WorkerClass, WorkerClasses};

/// What waits for a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub jobs: u64,
    /// Parts of split jobs.
    pub parts: u64,
}

impl Waiting {
    fn plus(self, other: Self) -> Self {
        Self { jobs: self.jobs.saturating_add(other.jobs), parts: self.parts.saturating_add(other.parts) }
    }

    fn minus(self, other: Self) -> Self {
        Self { jobs: self.jobs.saturating_sub(other.jobs), parts: self.parts.saturating_sub(other.parts) }
    }
}

/// What waits for the workers of each class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WaitingByClass(pub BTreeMap<WorkerClass, Waiting>);

impl WaitingByClass {
    /// What waits in this queue.
    pub(super) fn of(queue: &QueueView) -> Self {
        let waiting = queue.waiting.iter().map(|(class, view)| {
            let all = view.pending.saturating_add(view.due);
            let parts = view.parts.min(all);
            (class.clone(), Waiting { jobs: all - parts, parts })
        });
        Self(waiting.collect())
    }

    /// What waits for the workers of these classes, all together.
    pub(super) fn total_of(&self, classes: &WorkerClasses) -> Waiting {
        let of_these = self.0.iter().filter(|(class, _)| classes.contains(class));
        of_these.fold(Waiting::default(), |sum, (_, waiting)| sum.plus(*waiting))
    }

    fn get(&self, class: &WorkerClass) -> Waiting {
        self.0.get(class).copied().unwrap_or_default()
    }

    fn add(&mut self, taken: &[(&WorkerClass, Waiting)]) {
        for (class, taken) in taken {
            let sum = self.get(class).plus(*taken);
            self.0.insert((*class).clone(), sum);
        }
    }

    fn remove(&mut self, taken: &[(&WorkerClass, Waiting)]) {
        for (class, taken) in taken {
            let left = self.get(class).minus(*taken);
            self.0.insert((*class).clone(), left);
        }
    }
}

impl FleetCapacity {
    /// The capacity of a fleet of which no machine is known yet: it may be able to make all that it is allowed to.
    #[must_use]
    pub fn unknown(policy: &FleetPolicy) -> Self {
        let room = if policy.paused { 0 } else { policy.max };
        Self { room, ..Self::none(policy) }
    }

    /// The capacity of a fleet that can do nothing.
    #[must_use]
    pub fn none(policy: &FleetPolicy) -> Self {
        let largest = policy.sizes.larger().next().unwrap_or(policy.sizes.base());
        Self {
            idle: 0,
            free: 0,
            free_chunks: 0,
            room: 0,
            chunks: policy.chunks_on(largest),
            jobs_per_machine: policy.jobs_per_machine,
            classes: policy.classes.clone(),
            tries: !policy.paused && policy.max > 0,
        }
    }

    /// The capacity of a fleet with these machines that can make `room` more.
    pub(super) fn of(
        units: &[MachineView],
        policy: &FleetPolicy,
        too_large: Option<u32>,
        room: u32,
        now: Moment,
    ) -> Self {
        let boots =
            |u: &&MachineView| u.role == MachineRole::Booting && u.phase != Some(Phase::Unschedulable);
        let is_late = |u: &MachineView| u.deadline.is_some_and(|at| at <= now);
        // No host has room for the others, or they take long, so that another fleet may be faster.
        let free = units.iter().filter(|u| u.role == MachineRole::Idle || (boots(u) && !is_late(u)));
        // If none boots in time, the next one made would probably take as long.
        let mut booting = units.iter().filter(boots).peekable();
        let room = if booting.peek().is_some() && booting.all(is_late) { 0 } else { room };
        let largest = policy.sizes.larger().find(|size| too_large.is_none_or(|cpus| size.cpus < cpus));
        Self {
            idle: count(units.iter().filter(|u| u.role == MachineRole::Idle).count()),
            free: count(free.clone().count()),
            free_chunks: free.map(|u| u64::from(policy.chunks_on(u.size))).sum(),
            room,
            chunks: policy.chunks_on(largest.unwrap_or(policy.sizes.base())),
            ..Self::none(policy)
        }
    }

    /// The capacity of a fleet whose machines cannot be listed now: it makes none, and those without a job are as they
    /// were, as long as those that boot are not late.
    pub(super) fn remembered(memory: &FleetState, policy: &FleetPolicy, now: Moment) -> Self {
        let idle = memory.machines.values().filter(|seen| seen.idle_since.is_some()).count();
        let boots = memory.machines.values().filter(|seen| {
            let is_new = seen.launch_unconfirmed.is_some_and(|at| now < at + policy.deadlines.boot);
            let is_fit = seen.launch.as_ref().is_none_or(|launch| launch.classes == policy.classes);
            is_new && is_fit && !matches!(seen.phase, Phase::Unschedulable | Phase::Unknown(_))
        });
        let free = count(idle).saturating_add(count(boots.count()));
        let chunks = policy.chunks_on(policy.sizes.base());
        Self {
            idle: count(idle),
            free,
            free_chunks: u64::from(free) * u64::from(chunks),
            ..Self::none(policy)
        }
    }

    /// Whether it has or can make a machine for what waits.
    const fn takes_any(&self) -> bool {
        self.free > 0 || self.room > 0
    }

    /// What these machines take of each of these classes: first jobs, of one class after the other, and with the machines that
    /// are left, parts.
    fn taken_by<'a>(&self, which: Machines, left: &WaitingByClass, classes: &[&'a WorkerClass]) -> Taken<'a> {
        let machines = match which {
            Machines::Free => self.free,
            Machines::New => self.room,
        };
        let chunks_of = |machines: u64| match which {
            // On average: which of them take the jobs is not known.
            Machines::Free => (self.free_chunks * machines).checked_div(self.free.into()).unwrap_or_default(),
            Machines::New => machines * u64::from(self.chunks),
        };
        let own = classes.iter().filter(|class| self.classes.contains(class));
        let mut taken: Taken<'a> = own.map(|class| (*class, Waiting::default())).collect();
        let all = u64::from(machines) * u64::from(self.jobs_per_machine.get());
        let mut jobs = all;
        for (class, taken) in &mut taken {
            taken.jobs = left.get(class).jobs.min(jobs);
            jobs -= taken.jobs;
        }
        let mut parts = chunks_of(u64::from(machines) - self.machines_for(all - jobs).min(machines.into()));
        for (class, taken) in &mut taken {
            taken.parts = left.get(class).parts.min(parts);
            parts -= taken.parts;
        }
        taken
    }

    fn machines_for(&self, jobs: u64) -> u64 {
        jobs.div_ceil(self.jobs_per_machine.get().into())
    }
}

/// Machines of a fleet.
#[derive(Clone, Copy)]
enum Machines {
    /// Those that exist and have no job.
    Free,
    /// Those that can be made.
    New,
}

/// What a fleet takes of each of its classes.
type Taken<'a> = Vec<(&'a WorkerClass, Waiting)>;

/// The share of a fleet with this capacity in what waits.
pub(super) fn share(waiting: &WaitingByClass, own: &FleetCapacity, others: &OtherFleets) -> WaitingByClass {
    let (mut left, mut mine) = (waiting.clone(), WaitingByClass::default());
    let classes = by_number_of_fleets(waiting, own, others);
    for which in [Machines::Free, Machines::New] {
        for fleet in &others.before {
            left.remove(&fleet.taken_by(which, &left, &classes));
        }
        let taken = own.taken_by(which, &left, &classes);
        left.remove(&taken);
        mine.add(&taken);
        for fleet in &others.after {
            left.remove(&fleet.taken_by(which, &left, &classes));
        }
    }
    for class in classes.iter().copied().filter(|class| own.classes.contains(class)) {
        // The first one that makes machines at all, or else the first one.
        let takes = |fleet: &&FleetCapacity| fleet.classes.contains(class);
        let tries = |fleets: &[FleetCapacity]| fleets.iter().filter(takes).any(|fleet| fleet.tries);
        let is_first = match own.tries {
            true => !tries(&others.before),
            false => !others.before.iter().any(|fleet| takes(&fleet)) && !tries(&others.after),
        };
        if is_first {
            mine.add(&[(class, left.get(class))]);
        }
    }
    mine
}

/// The classes for which something waits, those first that the fewest fleets have machines for: a fleet that takes several
/// leaves to others what they can take.
fn by_number_of_fleets<'a>(
    waiting: &'a WaitingByClass,
    own: &FleetCapacity,
    others: &OtherFleets,
) -> Vec<&'a WorkerClass> {
    let fleets = || others.before.iter().chain([own]).chain(&others.after).filter(|fleet| fleet.takes_any());
    let mut classes: Vec<&WorkerClass> = waiting.0.keys().collect();
    // Of those with as many, the first by name; the sort is stable.
    classes.sort_by_key(|class| fleets().filter(|fleet| fleet.classes.contains(class)).count());
    classes
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
