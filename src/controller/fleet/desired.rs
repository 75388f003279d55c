//! Computes the desired number of machines, and the counts it is computed from.

use super::classify::{MachineRole, MachineView};
use super::observation::QueueView;
use super::policy::FleetPolicy;
use crate::queue::FleetDesired;

/// Counts the machines and computes the desired number:
/// `clamp(busy + ceil(jobs / JOBS_PER_MACHINE) + ceil(parts / WORKER_CHUNKS), MIN, MAX)`. A machine encodes several parts
/// of split videos at once, but one job.
pub(super) fn desired(units: &[MachineView], queue: &QueueView, policy: &FleetPolicy) -> FleetDesired {
    let count = |f: &dyn Fn(MachineRole) -> bool| {
        u32::try_from(units.iter().filter(|u| f(u.role)).count()).unwrap_or(u32::MAX)
    };
    let busy = count(&|r| r == MachineRole::Busy);
    let waiting = queue.pending.saturating_add(queue.due);
    let parts = queue.parts.min(waiting);
    let for_jobs = (waiting - parts).div_ceil(u64::from(policy.jobs_per_machine.get()));
    let for_parts = parts.div_ceil(u64::from(policy.chunks_per_machine()));
    let wanted = for_jobs.saturating_add(for_parts).saturating_add(u64::from(busy));
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    FleetDesired {
        machines: wanted.min(policy.max).max(policy.min),
        busy,
        idle: count(&|r| r == MachineRole::Idle),
        booting: count(&|r| r == MachineRole::Booting),
        waiting,
        waiting_parts: parts,
        existing: count(&|_| true),
        billed: count(&MachineRole::is_billed),
        ..unknown(policy)
    }
}

/// The same while the machines or the queue are unknown.
pub(super) fn unknown(policy: &FleetPolicy) -> FleetDesired {
    FleetDesired { min: policy.min, max: policy.max, ..FleetDesired::default() }
}
