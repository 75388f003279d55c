//! What limits the machines that a fleet can start or create at the moment. Pure.

use super::classify::{MachineRole, MachineView};
use super::desired;
use super::observation::Moment;
use super::policy::{ANY_REGION, FleetPolicy};
use super::state::FleetState;
use crate::queue::FleetDesired;

/// The region in which machines can be created now, if there is one.
pub(super) fn open_region(policy: &FleetPolicy, memory: &FleetState) -> Option<String> {
    let any = ANY_REGION.to_owned();
    let mut wanted = policy.regions.iter().chain(policy.any_region.then_some(&any));
    wanted.find(|region| !memory.full_regions.contains_key(*region)).cloned()
}

/// Whether the provider creates no machine for as long as a quota is reached or a bill is not paid.
pub(super) fn is_refused(memory: &FleetState) -> bool {
    memory.quota_until.or(memory.billing_until).is_some()
}

/// The machines at rest that can be started, in the order of their slots. `keepers`: only those whose workers stay.
pub(super) fn startable<'a>(
    units: &'a [MachineView],
    policy: &FleetPolicy,
    keepers: bool,
) -> Vec<&'a MachineView> {
    if !policy.capabilities.can_stop_and_start {
        return Vec::new();
    }
    let startable = units.iter().filter(|u| {
        let rests = matches!(u.role, MachineRole::Rest | MachineRole::Unstarted);
        let stays = u.slot.is_some_and(|slot| slot.0 <= policy.min);
        rests && !u.drifted && !u.blocked && (stays || !keepers)
    });
    startable.filter(|u| u.id.is_some()).collect()
}

/// The number of launches that may be tried while launches fail: after a hold a single one, until one brings a worker.
/// `None` while they do not fail.
pub(super) fn trials(
    desired: FleetDesired,
    policy: &FleetPolicy,
    memory: &FleetState,
    now: Moment,
) -> Option<u32> {
    if memory.launch_failures < policy.launch_failures {
        return None;
    }
    let is_over = memory.launch_hold_until.is_none_or(|until| until <= now);
    let tried = desired.booting.max(memory.launch_unconfirmed());
    Some(u32::from(is_over && tried == 0))
}

/// The number of machines that the fleet could start or create now.
pub(super) fn launchable(
    units: &[MachineView],
    desired: FleetDesired,
    policy: &FleetPolicy,
    memory: &FleetState,
    now: Moment,
) -> u32 {
    let barred = policy.paused
        || memory.guard.is_some()
        || memory.refused_until.is_some()
        || memory.backoff_until.is_some();
    if barred {
        return 0;
    }
    let rest = u32::try_from(startable(units, policy, false).len()).unwrap_or(u32::MAX);
    let creates = !is_refused(memory) && open_region(policy, memory).is_some();
    let room = if creates { desired.room().saturating_add(rest) } else { rest };
    let working = desired.busy.saturating_add(desired.idle).saturating_add(desired.booting);
    let affordable = desired::purse(units, policy).affords(&policy.offer(policy.sizes.base()));
    room.min(policy.max.saturating_sub(working))
        .min(u32::try_from(affordable).unwrap_or(u32::MAX))
        .min(trials(desired, policy, memory, now).unwrap_or(u32::MAX))
}
