//! Computes the desired and the permitted number of machines.

use super::classify::{MachineRole, MachineView};
use super::observation::QueueView;
use super::policy::FleetPolicy;

/// The desired number of machines, and the counts it is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// `clamp(busy + ceil(waiting / JOBS_PER_MACHINE), MIN, MAX)`.
    pub machines: u32,
    /// Machines whose worker holds a lease.
    pub busy: u32,
    /// Machines whose worker is idle.
    pub idle: u32,
    /// Machines whose worker has not registered yet.
    pub booting: u32,
    /// Jobs that no worker has claimed.
    pub waiting: u64,
    /// Machines that exist or may exist.
    pub existing: u32,
    /// Existing machines that may be charged for.
    pub billed: u32,
}

impl Desired {
    /// Counts the machines and computes the desired number.
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

    /// The number of machines still to be started or created.
    #[must_use]
    pub const fn need(&self) -> u32 {
        self.machines.saturating_sub(self.busy.saturating_add(self.idle).saturating_add(self.booting))
    }

    /// The number of machines that may still be created below the maximum.
    #[must_use]
    pub const fn room(&self, policy: &FleetPolicy) -> u32 {
        policy.max.saturating_sub(self.existing)
    }

    /// The number of machines that may still be started within the cost limit.
    #[must_use]
    pub fn affordable(&self, policy: &FleetPolicy) -> u32 {
        policy.affordable().saturating_sub(self.billed)
    }
}
