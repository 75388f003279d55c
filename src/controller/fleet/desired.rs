//! Computes the desired number of machines, and the counts it is computed from.

use super::classify::{MachineRole, MachineView};
use super::observation::QueueView;
use super::policy::FleetPolicy;
use crate::queue::FleetDesired;

/// Counts the machines and computes the desired number: `clamp(busy + ceil(waiting / JOBS_PER_MACHINE), MIN, MAX)`.
pub(super) fn desired(units: &[MachineView], queue: &QueueView, policy: &FleetPolicy) -> FleetDesired {
    let count = |f: &dyn Fn(MachineRole) -> bool| {
        u32::try_from(units.iter().filter(|u| f(u.role)).count()).unwrap_or(u32::MAX)
    };
    let busy = count(&|r| r == MachineRole::Busy);
    let waiting = queue.pending.saturating_add(queue.due);
    let worth = waiting.div_ceil(u64::from(policy.jobs_per_machine.get()));
    let wanted = u32::try_from(worth.saturating_add(u64::from(busy))).unwrap_or(u32::MAX);
    FleetDesired {
        machines: wanted.min(policy.max).max(policy.min),
        busy,
        idle: count(&|r| r == MachineRole::Idle),
        booting: count(&|r| r == MachineRole::Booting),
        waiting,
        existing: count(&|_| true),
        billed: count(&MachineRole::is_billed),
        ..unknown(policy)
    }
}

/// The same while the machines or the queue are unknown.
pub(super) fn unknown(policy: &FleetPolicy) -> FleetDesired {
    FleetDesired { min: policy.min, max: policy.max, ..FleetDesired::default() }
}
