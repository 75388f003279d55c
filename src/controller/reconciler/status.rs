//! Derives the published status of the fleet from an observation and a plan. Pure.

use std::collections::BTreeMap;

use crate::controller::fleet::{
    FleetPolicy, Machine, MachineId, MachineView, Observation, Operation, Phase, Plan, PlannedOperation,
    ProviderWords,
};
use crate::queue::{FencingToken, FleetCondition, FleetMachine, FleetStatus, FleetStep, FleetView};

use super::observe::machine_of;

/// Maximum number of machines in a status.
const MACHINES: usize = 1000;
/// Maximum number of planned operations in a status.
const STEPS: usize = 100;

/// The observations that a status is derived from.
pub(crate) struct StatusInput<'a> {
    /// The queue and the workers.
    pub view: &'a FleetView,
    /// The observation of the machines.
    pub fleet: &'a Observation,
    /// Machines created since the last list.
    pub made: &'a BTreeMap<MachineId, Machine>,
}

/// The status to publish. `plan` is the plan in force, `unpaused` the plan if the fleet were not paused.
pub(crate) fn status(
    fence: &FencingToken,
    seen: &StatusInput<'_>,
    policy: &FleetPolicy,
    words: &ProviderWords,
    plan: &Plan,
    unpaused: &Plan,
) -> FleetStatus {
    let view = seen.view;
    let listed = seen.fleet.machines.iter().flat_map(|listed| &listed.machines);
    let known = seen.made.values().chain(listed);
    let listed: BTreeMap<&MachineId, &Machine> = known.map(|m| (&m.id, m)).collect();
    let name_of = |id: &MachineId| listed.get(id).map_or_else(|| id.to_string(), |m| m.name.clone());
    FleetStatus {
        at: view.now,
        reconciler: fence.holder.clone(),
        epoch: fence.epoch,
        app: policy.app.clone(),
        pool: policy.pool.clone(),
        paused: policy.paused,
        desired: plan.desired,
        machines: plan
            .units
            .iter()
            .take(MACHINES)
            .map(|unit| machine(unit, unit.id.as_ref().and_then(|id| listed.get(id).copied()), view, policy))
            .collect(),
        conditions: plan
            .conditions
            .iter()
            .map(|c| FleetCondition { reason: c.reason().to_owned(), message: c.message(words) })
            .collect(),
        plan: steps(unpaused, &name_of),
        machine_usd_per_hour: policy.price.map(|price| price.dollars()),
        billed_usd_per_hour: plan.cost.map(|cost| cost.dollars()),
        worker_classes: policy.classes.clone(),
        max_input_bytes: policy.largest_input(),
    }
}

fn steps(plan: &Plan, name_of: &impl Fn(&MachineId) -> String) -> Vec<FleetStep> {
    if plan.next_look == Some(std::time::Duration::ZERO) {
        let reason = "the last list of machines is outdated or inconclusive".to_owned();
        return vec![FleetStep { action: "list".to_owned(), machine: "all".to_owned(), reason }];
    }
    let step = |action: &PlannedOperation| FleetStep {
        action: action.act.kind().to_owned(),
        machine: match &action.act {
            Operation::Create { name, .. } => name.clone(),
            act => act.machine().map(name_of).unwrap_or_default(),
        },
        reason: action.reason.clone(),
    };
    plan.actions.iter().take(STEPS).map(step).collect()
}

fn machine(
    unit: &MachineView,
    listed: Option<&Machine>,
    view: &FleetView,
    policy: &FleetPolicy,
) -> FleetMachine {
    let id = unit.id.as_ref();
    let runs = unit.role.is_capacity()
        || listed.is_some_and(|m| matches!(m.phase, Phase::Started | Phase::Stopping));
    // For a machine that is not listed yet, its worker's heartbeat is newer than the response to its creation.
    let shows = if unit.alive { Some(&Phase::Started) } else { listed.map(|m| &m.phase) };
    let phase = unit.phase.as_ref().or(shows);
    let held = view.workers.iter().filter(|w| id.is_some_and(|id| machine_of(w) == *id));
    FleetMachine {
        name: match (listed, unit.slot) {
            (Some(machine), _) => machine.name.clone(),
            (None, Some(slot)) => slot.name(&policy.app),
            (None, None) => id.map(ToString::to_string).unwrap_or_default(),
        },
        id: id.map(ToString::to_string),
        region: listed.map(|m| m.region.clone()),
        state: phase.map(|phase| phase.name().to_owned()),
        role: unit.role.name().to_owned(),
        job_id: held.filter_map(|w| w.lease).map(|(job, _)| job).next(),
        created_at: listed.map(|m| m.created_at.clone()).filter(|at| !at.is_empty()),
        ran_seconds: listed.map(|m| m.ran_seconds).unwrap_or_default(),
        running_since: listed.and_then(|m| m.running_since).filter(|_| runs),
        usd_per_hour: policy.price_of(unit.size).map(|price| price.dollars()),
    }
}
