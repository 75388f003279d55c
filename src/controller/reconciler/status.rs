//! What is said of the fleet: an observation and a plan -> the status that everybody can read. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::controller::fleet::{
    FleetPolicy, MachineDisk, MachineView, Observation, Operation, Plan, PlannedOperation,
};
use crate::flyprovider::{Machine, MachineEvent, MachineId, MachineState};
use crate::job::Millis;
use crate::queue::{
    FencingToken, FleetCondition, FleetDesired, FleetMachine, FleetStatus, FleetStep, FleetView,
};

use super::observe::machine_of;

/// Machines that are told of, at most.
const MACHINES: usize = 1000;
/// Steps that are told of, at most.
const STEPS: usize = 100;

/// What was seen.
pub struct Seen<'a> {
    /// Of the queue and the pool.
    pub view: &'a FleetView,
    /// Of the machines.
    pub fleet: &'a Observation,
    /// Machines that no list has shown yet.
    pub made: &'a BTreeMap<MachineId, Machine>,
}

/// What to say. `plan` is what is done now, `wish` what would be done were nobody to stop it.
pub fn status(
    fence: &FencingToken,
    seen: &Seen<'_>,
    policy: &FleetPolicy,
    plan: &Plan,
    wish: &Plan,
) -> FleetStatus {
    let view = seen.view;
    let listed = seen.fleet.machines.iter().flat_map(|listed| &listed.machines);
    let known = seen.made.values().chain(listed);
    let listed: BTreeMap<&MachineId, &Machine> = known.map(|m| (&m.id, m)).collect();
    let name_of = |id: &MachineId| listed.get(id).map_or_else(|| id.to_string(), |m| m.name.clone());
    let desired = plan.desired;
    FleetStatus {
        at: view.now,
        reconciler: fence.holder.clone(),
        epoch: fence.epoch,
        app: policy.app.clone(),
        paused: policy.paused,
        desired: FleetDesired {
            machines: desired.machines,
            busy: desired.busy,
            idle: desired.idle,
            booting: desired.booting,
            waiting: desired.waiting,
            existing: desired.existing,
            billed: desired.billed,
            min: policy.min,
            max: policy.max,
        },
        machines: plan
            .units
            .iter()
            .take(MACHINES)
            .map(|unit| machine(unit, unit.id.as_ref().and_then(|id| listed.get(id).copied()), view, policy))
            .collect(),
        conditions: plan
            .conditions
            .iter()
            .map(|c| FleetCondition { reason: c.reason().to_owned(), message: c.to_string() })
            .collect(),
        plan: steps(wish, &name_of),
        machine_usd_per_hour: policy.price.map(|price| price.dollars()),
        max_input_bytes: policy.disk.map(MachineDisk::max_input),
    }
}

fn steps(wish: &Plan, name_of: &impl Fn(&MachineId) -> String) -> Vec<FleetStep> {
    if wish.next_look == Some(std::time::Duration::ZERO) {
        let reason = "what Fly said last is too old to act on, or leaves something open".to_owned();
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
    wish.actions.iter().take(STEPS).map(step).collect()
}

fn machine(
    unit: &MachineView,
    listed: Option<&Machine>,
    view: &FleetView,
    policy: &FleetPolicy,
) -> FleetMachine {
    let id = unit.id.as_ref();
    let (ran, since) = listed.map(|m| run_times(&m.events)).unwrap_or_default();
    // One that was made a moment ago has shown no event yet.
    let made =
        listed.and_then(|m| m.created_at.parse().ok()).map(|at: Timestamp| Millis(at.as_millisecond()));
    let since = since.or(made.filter(|_| ran == 0.0));
    let runs = unit.role.is_capacity()
        || listed.is_some_and(|m| matches!(m.state, MachineState::Started | MachineState::Stopping));
    // Of one that no list has shown yet, its worker tells more than the answer that it was made.
    let shows = if unit.alive { Some(&MachineState::Started) } else { listed.map(|m| &m.state) };
    let state = unit.state.as_ref().or(shows);
    let held = view.workers.iter().filter(|w| id.is_some_and(|id| machine_of(w) == *id));
    FleetMachine {
        name: match (listed, unit.slot) {
            (Some(machine), _) => machine.name.clone(),
            (None, Some(slot)) => slot.name(&policy.app),
            (None, None) => id.map(ToString::to_string).unwrap_or_default(),
        },
        id: id.map(ToString::to_string),
        region: listed.map(|m| m.region.clone()),
        state: state.map(|state| state.name().to_owned()),
        role: unit.role.name().to_owned(),
        job_id: held.filter_map(|w| w.lease).map(|(job, _)| job).next(),
        created_at: listed.map(|m| m.created_at.clone()).filter(|at| !at.is_empty()),
        ran_seconds: ran,
        running_since: since.filter(|_| runs),
    }
}

/// How long it ran in all before its present run, seconds, and since when it runs. A machine's run
/// begins with an event of the status `started` and ends with the next of another kind of rest.
fn run_times(events: &[MachineEvent]) -> (f64, Option<Millis>) {
    let mut events: Vec<(i64, &str)> = events.iter().map(|e| (e.timestamp, e.status.as_str())).collect();
    events.sort_by_key(|(at, _)| *at);
    let (mut ran, mut since) = (0, None);
    for (at, status) in events {
        match (status, since) {
            ("started", None) => since = Some(at),
            ("stopped" | "suspended" | "failed" | "destroyed", Some(began)) => {
                ran += at - began;
                since = None;
            }
            _ => {}
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a life fit")]
    let seconds = ran as f64 / 1000.0;
    (seconds, since.map(Millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(list: &[(i64, &str)]) -> Vec<MachineEvent> {
        let event = |(at, status): &(i64, &str)| MachineEvent {
            kind: "x".into(),
            status: (*status).into(),
            timestamp: *at,
            ..MachineEvent::default()
        };
        list.iter().map(event).collect()
    }

    #[test]
    fn run_times_add_up_whatever_the_order_and_whatever_is_missing() {
        let life =
            [(0, "created"), (100, "starting"), (400, "started"), (1400, "stopped"), (5000, "started")];
        let mut newest_first = life;
        newest_first.reverse();
        for list in [life, newest_first] {
            assert_eq!(run_times(&events(&list)), (1.0, Some(Millis(5000))));
        }
        assert_eq!(run_times(&[]), (0.0, None));
        // Events do not go back to the beginning of everything.
        assert_eq!(
            run_times(&events(&[(900, "stopped"), (1000, "started"), (3500, "stopped")])),
            (2.5, None)
        );
        assert_eq!(run_times(&events(&[(1, "started"), (2, "started")])), (0.0, Some(Millis(1))));
    }
}
