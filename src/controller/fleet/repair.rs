//! Operations for machines that are broken or no longer needed.

use std::collections::BTreeMap;

use super::classify::{MachineRole, MachineView};
use super::machine::{Launch, Machine, MachineId, Phase};
use super::observation::Moment;
use super::observe::ByMachine;
use super::operation::{Operation, PlannedOperation};
use super::planner::Planner;
use super::state::{MachineRecord, shortened};

/// Stops, destroys and retires.
pub(super) fn actions(draft: &Planner<'_>, workers: &ByMachine<'_>) -> Vec<PlannedOperation> {
    let mut actions: Vec<PlannedOperation> =
        draft.units.iter().filter_map(|unit| remediate(draft, unit)).collect();
    actions.extend(useless_unschedulable(draft));
    actions.extend(useless_at_rest(draft));
    actions.extend(outdated_at_rest(draft));
    actions.extend(excess_at_rest(draft));
    actions.extend(retire_one(draft, workers));
    actions
}

fn seen<'a>(draft: &'a Planner<'_>, unit: &MachineView) -> Option<&'a MachineRecord> {
    draft.memory.machines.get(unit.id.as_ref()?)
}

/// The next operation for a machine in the wrong state: first a stop, then a destroy.
fn remediate(draft: &Planner<'_>, unit: &MachineView) -> Option<PlannedOperation> {
    let machine = unit.id.clone()?;
    // The machine is not listed: there is nothing to operate on yet.
    let phase = unit.phase.clone()?;
    let overdue = unit.deadline.is_none_or(|d| d <= draft.now && d <= draft.listed.at);
    let (first_stop, what) = match unit.role {
        MachineRole::Zombie => (true, "it runs without a worker heartbeat"),
        MachineRole::Leaving => (true, "its worker exited, but it did not stop"),
        MachineRole::Stuck => (phase != Phase::Created, "it did not start or stop in time"),
        MachineRole::Unstarted => (false, "it never started"),
        MachineRole::Unreachable if !unit.alive => (false, "its host has been unreachable for too long"),
        MachineRole::Failed => (false, "it failed"),
        MachineRole::Going => (false, "it was not destroyed in time"),
        _ => return None,
    };
    if !overdue || !repair_is_due(draft, unit) {
        return None;
    }
    let repairs = seen(draft, unit).map_or(0, |s| s.repairs);
    let can_stop = draft.policy.capabilities.can_stop_and_start;
    // A process that runs has the time to end that it usually has, at first.
    let gently = first_stop && repairs == 0;
    let act = match (gently, can_stop) {
        (true, true) => Operation::Stop { machine },
        (true, false) => Operation::Destroy { machine, force: false },
        (false, _) => Operation::Destroy { machine, force: true },
    };
    let tried = if repairs > 0 { format!("; {repairs} repairs did not help") } else { String::new() };
    Some(PlannedOperation { act, reason: format!("{what} (it is listed as {phase}){tried}") })
}

fn repair_is_due(draft: &Planner<'_>, unit: &MachineView) -> bool {
    next_try(draft, unit).is_none_or(|at| at <= draft.now)
}

/// When to repair a machine again that was repaired before. The delay grows with each attempt, so that a
/// machine beyond repair costs few requests.
pub(super) fn next_try(draft: &Planner<'_>, unit: &MachineView) -> Option<Moment> {
    let seen = seen(draft, unit)?;
    let wait = draft.policy.deadlines.repair.saturating_mul(1 << seen.repairs.saturating_sub(1).min(5));
    Some(seen.repaired_at? + wait)
}

fn destroy(machine: MachineId, reason: &str) -> PlannedOperation {
    PlannedOperation { act: Operation::Destroy { machine, force: false }, reason: reason.to_owned() }
}

/// Destroys machines that no host has room for: those with an outdated launch, which may be why, and those that no job
/// needs any more, the last slots first.
fn useless_unschedulable(draft: &Planner<'_>) -> Vec<PlannedOperation> {
    let desired = draft.desired;
    // While jobs wait, a machine is kept although another fleet takes them: a host may be added for it.
    let needed = desired.machines.max(draft.wanted_alone);
    let surplus = (desired.busy + desired.idle + desired.booting).saturating_sub(needed) as usize;
    let waits = |u: &&MachineView| {
        matches!(u.role, MachineRole::Booting | MachineRole::Unfit)
            && u.phase == Some(Phase::Unschedulable)
            && repair_is_due(draft, u)
    };
    let (old, current): (Vec<_>, Vec<_>) = draft.units.iter().rev().filter(waits).partition(|u| u.drifted);
    let counted = old.iter().filter(|u| u.role == MachineRole::Booting).count();
    let surplus = surplus.saturating_sub(counted);
    let old = old.into_iter().map(|u| (u, "no host has room for it, and its launch is outdated"));
    let current = current.into_iter().map(|u| (u, "no host has room for it, and no job needs it any more"));
    old.chain(current.take(surplus)).filter_map(|(u, reason)| Some(destroy(u.id.clone()?, reason))).collect()
}

/// Destroys stopped machines if the provider cannot start them again.
fn useless_at_rest(draft: &Planner<'_>) -> Vec<PlannedOperation> {
    if draft.policy.capabilities.can_stop_and_start {
        return Vec::new();
    }
    // One whose worker gave up stays for a while and holds its slot: another would take the next jobs at once, and fail them.
    let is_useless = |u: &&MachineView| u.role == MachineRole::Rest && !u.blocked && repair_is_due(draft, u);
    let said = |machine: &Machine| Some((machine.id.clone(), machine.message.clone()?));
    let said: BTreeMap<MachineId, String> = draft.listed.machines.iter().filter_map(said).collect();
    let act = |u: &MachineView| {
        let machine = u.id.clone()?;
        let why = said.get(&machine).map(|why| format!(": {}", shortened(why))).unwrap_or_default();
        Some(destroy(machine, &format!("its process has ended, and its provider cannot start it again{why}")))
    };
    draft.units.iter().filter(is_useless).filter_map(act).collect()
}

/// Destroys stopped machines with an outdated launch; they do no work that could be lost.
fn outdated_at_rest(draft: &Planner<'_>) -> Vec<PlannedOperation> {
    let old =
        draft.units.iter().filter(|u| u.role == MachineRole::Rest && u.drifted && repair_is_due(draft, u));
    let launches: BTreeMap<&MachineId, &Machine> = draft.listed.machines.iter().map(|m| (&m.id, m)).collect();
    let act = |u: &MachineView| {
        let machine = u.id.clone()?;
        let launch = launches.get(&machine).and_then(|m| m.launch.as_ref());
        Some(destroy(machine, &format!("it was created with {}", differences(draft, u, launch))))
    };
    old.filter_map(act).collect()
}

/// What a machine with an outdated launch was created with.
fn differences(draft: &Planner<'_>, unit: &MachineView, launch: Option<&Launch>) -> String {
    let of_launch = launch.into_iter().flat_map(|launch| launch.differences(draft.policy, unit.slot));
    let of_size = (!draft.policy.sizes.contains(unit.size)).then_some("another size");
    of_launch.chain(of_size).collect::<Vec<_>>().join(" and ")
}

/// Destroys stopped machines in excess of MAX_MACHINES after it was lowered, the last slots first.
fn excess_at_rest(draft: &Planner<'_>) -> Vec<PlannedOperation> {
    let over = draft.desired.existing.saturating_sub(draft.policy.max) as usize;
    let rest = draft.units.iter().rev().filter(|u| u.role == MachineRole::Rest && repair_is_due(draft, u));
    rest.filter_map(|u| Some(destroy(u.id.clone()?, "there are more machines than MAX_MACHINES")))
        .take(over)
        .collect()
}

/// Destroys stopped machines to make room for others: first those that cannot be started, or whose worker would not
/// stay, then those of `at_rest`, which could be started and have a size that is not wanted. Of the latter no more than
/// are wanted in addition to those that are being destroyed.
pub(super) fn make_room(
    draft: &Planner<'_>,
    at_rest: &[&MachineView],
    wanted: usize,
    keepers: bool,
) -> Vec<PlannedOperation> {
    let passing = |u: &MachineView| keepers && u.slot.is_none_or(|slot| slot.0 > draft.policy.min);
    let useless = draft.units.iter().filter(|u| u.drifted || u.blocked || passing(u));
    let useless = useless.map(|u| (u, "it takes no jobs, and its slot is needed"));
    let goes = |u: &&MachineView| {
        u.role == MachineRole::Going && draft.now < u.since + draft.policy.deadlines.settle
    };
    let going = draft.units.iter().filter(goes).count();
    let others = at_rest.iter().take(wanted.saturating_sub(going));
    let others = others.map(|u| (*u, "its slot is needed for a machine of another size"));
    let rest = useless.chain(others).filter(|(u, _)| u.role == MachineRole::Rest && repair_is_due(draft, u));
    rest.filter_map(|(u, reason)| Some(destroy(u.id.clone()?, reason))).take(wanted).collect()
}

/// Retires one idle machine, although idle workers exit by themselves: one that takes jobs of other classes than the fleet,
/// whatever waits, since nobody would take that; one that failed to exit, one with an outdated launch, or one too many.
fn retire_one(draft: &Planner<'_>, workers: &ByMachine<'_>) -> Option<PlannedOperation> {
    let limits = &draft.policy.deadlines;
    if draft.memory.scaled_in_at.is_some_and(|at| draft.now < at + limits.scale_in)
        || draft.units.iter().any(|u| u.drifted && u.role == MachineRole::Leaving)
    {
        return None;
    }
    let listed = |role| draft.units.iter().rev().filter(move |u| u.role == role && u.phase.is_some());
    let idle = || listed(MachineRole::Idle).filter(|_| draft.desired.waiting == 0);
    let unfit = || listed(MachineRole::Unfit).find(|u| u.alive);
    let desired = draft.desired;
    let spare = desired.busy + desired.idle + desired.booting > desired.machines;
    let overdue = || idle().find(|u| spare && u.deadline.is_some_and(|d| d <= draft.now));
    let surplus = || idle().find(|_| desired.existing > draft.policy.max);
    let old = || idle().find(|u| u.drifted);
    let launch = |unit: &MachineView| {
        let machine = draft.listed.machines.iter().find(|m| unit.id.as_ref() == Some(&m.id));
        machine.and_then(|m| m.launch.as_ref())
    };
    let outdated = |u| format!("it is idle and was created with {}", differences(draft, u, launch(u)));
    let (unit, reason) = unfit()
        .map(|u| {
            let lacks = || "its worker does not take the jobs of all classes of the fleet".to_owned();
            (u, if u.drifted { outdated(u) } else { lacks() })
        })
        .or_else(|| overdue().map(|u| (u, "its worker did not exit although it is idle".to_owned())))
        .or_else(|| surplus().map(|u| (u, "there are more machines than MAX_MACHINES".to_owned())))
        .or_else(|| old().map(|u| (u, outdated(u))))?;
    let machine = unit.id.clone()?;
    let workers = workers.get(&machine).into_iter().flatten().map(|w| w.worker.clone()).collect();
    Some(PlannedOperation { act: Operation::Retire { machine, workers }, reason })
}
