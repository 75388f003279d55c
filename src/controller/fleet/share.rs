//! Divides what waits in a queue among the fleets that take from it. Pure.
//!
//! Whichever worker is idle claims the next job, whatever its fleet. What is divided is therefore only what each fleet
//! makes machines for: first the machines that exist count, those of each fleet, and then each fleet makes as many as it
//! can, one after the other in their order. What nobody can take is the share of the first fleet that makes machines at all.

use super::capacity::{FleetCapacity, OtherFleets};
use super::classify::{MachineRole, MachineView};
use super::machine::Phase;
use super::observation::{Moment, QueueView};
use super::policy::FleetPolicy;
use super::state::FleetState;

/// What waits for a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub jobs: u64,
    /// Parts of split jobs.
    pub parts: u64,
}

impl Waiting {
    /// What waits in this queue.
    pub(super) fn of(queue: &QueueView) -> Self {
        let all = queue.pending.saturating_add(queue.due);
        let parts = queue.parts.min(all);
        Self { jobs: all - parts, parts }
    }

    fn plus(self, other: Self) -> Self {
        Self { jobs: self.jobs.saturating_add(other.jobs), parts: self.parts.saturating_add(other.parts) }
    }

    fn minus(self, other: Self) -> Self {
        Self { jobs: self.jobs.saturating_sub(other.jobs), parts: self.parts.saturating_sub(other.parts) }
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
            is_new && !matches!(seen.phase, Phase::Unschedulable | Phase::Unknown(_))
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

    /// What the machines that exist take.
    fn taken_by_free(&self, left: Waiting) -> Waiting {
        let jobs = left.jobs.min(u64::from(self.free) * u64::from(self.jobs_per_machine.get()));
        let free = u64::from(self.free) - self.machines_for(jobs).min(self.free.into());
        // On average: which of them take the jobs is not known.
        let chunks = (self.free_chunks * free).checked_div(self.free.into()).unwrap_or_default();
        Waiting { jobs, parts: left.parts.min(chunks) }
    }

    /// What the machines that can be made take.
    fn taken_by_new(&self, left: Waiting) -> Waiting {
        let jobs = left.jobs.min(u64::from(self.room) * u64::from(self.jobs_per_machine.get()));
        let room = u64::from(self.room) - self.machines_for(jobs).min(self.room.into());
        Waiting { jobs, parts: left.parts.min(room * u64::from(self.chunks)) }
    }

    fn machines_for(&self, jobs: u64) -> u64 {
        jobs.div_ceil(self.jobs_per_machine.get().into())
    }
}

/// The share of a fleet with this capacity in what waits.
pub(super) fn share(waiting: Waiting, own: &FleetCapacity, others: &OtherFleets) -> Waiting {
    let (mut left, mut mine) = (waiting, Waiting::default());
    let steps: [fn(&FleetCapacity, Waiting) -> Waiting; 2] =
        [FleetCapacity::taken_by_free, FleetCapacity::taken_by_new];
    for take in steps {
        for fleet in &others.before {
            left = left.minus(take(fleet, left));
        }
        let taken = take(own, left);
        (left, mine) = (left.minus(taken), mine.plus(taken));
        for fleet in &others.after {
            left = left.minus(take(fleet, left));
        }
    }
    // The first one that makes machines at all, or else the first one.
    let tries = |fleets: &[FleetCapacity]| fleets.iter().any(|fleet| fleet.tries);
    let is_first = match own.tries {
        true => !tries(&others.before),
        false => others.before.is_empty() && !tries(&others.after),
    };
    if is_first { mine.plus(left) } else { mine }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
