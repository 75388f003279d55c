//! The plan, tried: small cases exhaustively, large ones at random, each fault by name, whole lives.

mod faults;
mod rules;
mod simulated;

use std::time::Duration;

use super::slot::listed_config;
use super::{
    FleetPolicy, FleetState, ListUnavailable, MachineList, Moment, Observation, Operation, Outcome, Plan,
    PlannedOperation, QueueView, Slot, WorkerView, plan,
};
use crate::flyprovider::{HostStatus, Machine, MachineId, MachineState};
use crate::job::WorkerId;

fn s(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn policy() -> FleetPolicy {
    FleetPolicy { max: 3, ..FleetPolicy::new("app", "image:1") }
}

fn machine(slot: u32, state: MachineState) -> Machine {
    Machine {
        id: MachineId(format!("m{slot}")),
        name: Slot(slot).name("app"),
        state,
        region: "iad".into(),
        instance_id: None,
        host_status: HostStatus::Ok,
        config: Some(listed_config("image:1")),
        created_at: String::new(),
        updated_at: String::new(),
        events: Vec::new(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// No worker.
    None,
    Idle,
    Busy,
    /// Its heartbeat is stale, its lease is not.
    Fading,
    /// Stale, and without a lease.
    Dead,
    Retired,
}

fn worker(slot: u32, life: Life) -> Option<WorkerView> {
    (life != Life::None).then(|| WorkerView {
        worker: WorkerId(format!("w{slot}")),
        machine: MachineId(format!("m{slot}")),
        fresh: matches!(life, Life::Idle | Life::Busy | Life::Retired),
        busy: matches!(life, Life::Busy | Life::Fading),
        retired: life == Life::Retired,
    })
}

/// A reconciler and what it sees.
struct Desk {
    policy: FleetPolicy,
    memory: FleetState,
    seen: Observation,
    now: Moment,
}

impl Desk {
    fn new(machines: &[(u32, MachineState, Life)], pending: u64) -> Self {
        let mut desk = Self {
            policy: policy(),
            memory: FleetState::new(),
            seen: Observation { machines: Err(ListUnavailable::NOT_YET), queue: None },
            now: s(1),
        };
        desk.see(machines, pending);
        desk
    }

    /// A new look: a list of now, and the queue.
    fn see(&mut self, machines: &[(u32, MachineState, Life)], pending: u64) {
        let list = machines.iter().map(|(slot, state, _)| machine(*slot, state.clone())).collect();
        self.seen.machines = Ok(MachineList { at: self.now, machines: list });
        let workers = machines.iter().filter_map(|(slot, _, life)| worker(*slot, *life)).collect();
        self.seen.queue = Some(QueueView { pending, workers, ..QueueView::default() });
    }

    fn list(&mut self) -> &mut Vec<Machine> {
        &mut self.seen.machines.as_mut().unwrap().machines
    }

    fn plan(&mut self) -> Plan {
        self.memory.observe(&self.seen, &self.policy, self.now);
        plan(&self.seen, &self.policy, &self.memory, self.now)
    }

    fn acts(&mut self) -> Vec<Operation> {
        self.plan().actions.into_iter().map(|a| a.act).collect()
    }

    /// The kinds of the steps and what they are about: `start m1`, `create 02`.
    fn steps(&mut self) -> Vec<String> {
        let about = |act: &Operation| match act {
            Operation::Create { slot, region, .. } => format!("create {slot} {region}"),
            act => format!("{} {}", act.kind(), act.machine().unwrap()),
        };
        self.acts().iter().map(about).collect()
    }

    /// The first step is carried out and ends so.
    fn first_ends(&mut self, outcome: Outcome) -> PlannedOperation {
        let action = self.plan().actions.remove(0);
        self.memory.record(&action, &outcome, &self.policy, self.now, self.now);
        action
    }

    fn says(&mut self, words: &str) -> bool {
        self.plan().conditions.iter().any(|c| c.to_string().contains(words))
    }
}
