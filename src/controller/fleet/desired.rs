//! How many machines are wanted, and how many are allowed.

use super::classify::{MachineRole, MachineView};
use super::observation::QueueView;
use super::policy::FleetPolicy;

/// How many machines there should be, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// `clamp(busy + ceil(waiting / JOBS_PER_MACHINE), MIN, MAX)`.
    pub machines: u32,
    /// Machines with a job.
    pub busy: u32,
    /// Machines without one.
    pub idle: u32,
    /// Machines whose worker is yet to come.
    pub booting: u32,
    /// Jobs without a worker.
    pub waiting: u64,
    /// Machines that exist, or may.
    pub existing: u32,
    /// Of these, on the bill.
    pub billed: u32,
}

impl Desired {
    /// Counts.
    #[must_use]
    pub fn of(units: &[MachineView], queue: &QueueView, policy: &FleetPolicy) -> Self {
        let count = |f: &dyn Fn(MachineRole) -> bool| {
            u32::try_from(units.iter().filter(|u| f(u.role)).count()).unwrap_or(u32::MAX)
        };
        let busy = count(&|r| r == MachineRole::Busy);
        let waiting = queue.pending.saturating_add(queue.due);
        let worth = waiting.div_ceil(u64::from(policy.jobs_per_machine.get()));
        let wished = u32::try_from(worth.saturating_add(u64::from(busy))).unwrap_or(u32::MAX);
        Self {
            machines: wished.min(policy.max).max(policy.min),
            busy,
            idle: count(&|r| r == MachineRole::Idle),
            booting: count(&|r| r == MachineRole::Booting),
            waiting,
            existing: count(&|_| true),
            billed: count(&MachineRole::is_billed),
        }
    }

    /// How many more machines must come up.
    #[must_use]
    pub const fn need(&self) -> u32 {
        self.machines.saturating_sub(self.busy.saturating_add(self.idle).saturating_add(self.booting))
    }

    /// How many more machines may be made.
    #[must_use]
    pub const fn room(&self, policy: &FleetPolicy) -> u32 {
        policy.max.saturating_sub(self.existing)
    }

    /// How many more machines may run for the money.
    #[must_use]
    pub fn affordable(&self, policy: &FleetPolicy) -> u32 {
        policy.affordable().saturating_sub(self.billed)
    }
}
