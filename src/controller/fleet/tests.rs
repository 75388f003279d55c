//! Tests of the plan: small fleets exhaustively, large ones at random, each fault by name, and whole
//! simulations.

mod classes;
mod ended;
mod faults;
mod neutral;
mod rules;
mod share;
mod sizes;
mod unschedulable;

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    FleetPolicy, FleetState, Launch, ListUnavailable, Machine, MachineId, MachineList, MachineSize,
    MicroDollars, Moment, Observation, Operation, Outcome, Phase, Plan, PlannedOperation, ProviderWords,
    QueueView, Slot, WorkerView, plan,
};
use crate::job::{WorkerClass, WorkerClasses, WorkerId};
use crate::queue::ClassView;

fn s(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn policy() -> FleetPolicy {
    FleetPolicy { max: 3, price: Some(MicroDollars(86_112)), ..FleetPolicy::new("app", "image:1") }
}

/// A launch that is right for every slot.
fn launch(image: &str) -> Launch {
    let classes = WorkerClasses::default();
    Launch { image: image.to_owned(), disk: None, revision: None, stays: true, classes }
}

fn machine(slot: u32, phase: Phase) -> Machine {
    Machine {
        id: MachineId(format!("m{slot}")),
        name: Slot(slot).name("app"),
        phase,
        region: "iad".into(),
        instance: None,
        labelled: false,
        launch: Some(launch("image:1")),
        size: Some(MachineSize::default()),
        host_reachable: true,
        message: None,
        created_at: String::new(),
        last_start: None,
        last_exit: None,
        ran_seconds: 0.0,
        running_since: None,
    }
}

/// Each message is the name of its field.
const WORDS: ProviderWords = ProviderWords {
    name: "the cloud",
    list_refused: "list_refused",
    writes_refused: "writes_refused",
    no_such_app: "no_such_app",
    billing: "billing",
    quota: "quota",
    no_capacity: "no region has capacity now; no_capacity",
    launches_failing: "launches_failing",
    workers_not_registering: "workers_not_registering",
    workers_without_classes: "workers_without_classes",
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// No worker.
    None,
    Idle,
    Busy,
    /// Its heartbeat is stale, but its lease has not expired.
    Fading,
    /// Its heartbeat is stale, and it holds no lease.
    Dead,
    Retired,
}

fn worker(slot: u32, life: Life) -> Option<WorkerView> {
    (life != Life::None).then(|| WorkerView {
        worker: WorkerId(format!("w{slot}")),
        machine: MachineId(format!("m{slot}")),
        classes: WorkerClasses::default(),
        fresh: matches!(life, Life::Idle | Life::Busy | Life::Retired),
        busy: matches!(life, Life::Busy | Life::Fading),
        retired: life == Life::Retired,
    })
}

/// A queue in which so much is ready for the workers of the default class.
fn ready(pending: u64) -> BTreeMap<WorkerClass, ClassView> {
    [(WorkerClass::default(), ClassView { pending, ..ClassView::default() })].into()
}

/// A reconciler's state together with its current observation.
#[derive(Clone)]
struct Desk {
    policy: FleetPolicy,
    memory: FleetState,
    seen: Observation,
    now: Moment,
}

impl Desk {
    fn new(machines: &[(u32, Phase, Life)], pending: u64) -> Self {
        let mut desk = Self {
            policy: policy(),
            memory: FleetState::new(),
            seen: Observation { machines: Err(ListUnavailable::NOT_YET), queue: None },
            now: s(1),
        };
        desk.see(machines, pending);
        desk
    }

    /// A new observation: a current list of machines, and the queue.
    fn see(&mut self, machines: &[(u32, Phase, Life)], pending: u64) {
        let list = machines.iter().map(|(slot, state, _)| machine(*slot, state.clone())).collect();
        self.seen.machines = Ok(MachineList { at: self.now, machines: list });
        let workers = machines.iter().filter_map(|(slot, _, life)| worker(*slot, *life)).collect();
        self.seen.queue = Some(QueueView { waiting: ready(pending), workers, ..QueueView::default() });
    }

    /// What waits for the workers of the default class.
    fn waiting(&mut self) -> &mut ClassView {
        self.seen.queue.as_mut().unwrap().waiting.entry(WorkerClass::default()).or_default()
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

    /// The planned operations in short, such as `start m1` or `create 02`.
    fn steps(&mut self) -> Vec<String> {
        let about = |act: &Operation| match act {
            Operation::Create { slot, region, .. } => format!("create {slot} {region}"),
            act => format!("{} {}", act.kind(), act.machine().unwrap()),
        };
        self.acts().iter().map(about).collect()
    }

    /// Carries out the first operation with this outcome.
    fn first_ends(&mut self, outcome: Outcome) -> PlannedOperation {
        let action = self.plan().actions.remove(0);
        self.memory.record(&action, &outcome, &self.policy, self.now, self.now);
        action
    }

    fn says(&mut self, words: &str) -> bool {
        self.plan().conditions.iter().any(|c| c.message(&WORDS).contains(words))
    }
}
