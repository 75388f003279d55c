//! Fly, as far as machines go: states, how long they take, and what may go wrong.

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::Faults;
use crate::controller::fleet::Outcome;
use crate::controller::fleet::slot::listed_config;
use crate::flyprovider::{HostStatus, Machine, MachineEvent, MachineId, MachineState};

/// What becomes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    StaysCreated,
    HangsStarting,
    Fails,
    NoWorker,
    /// Its worker waits for jobs at another Redis, and leaves when it has waited for long enough.
    Elsewhere,
    /// Its worker comes long after its time.
    Late,
    Exits,
}

/// A machine of the model.
#[derive(Clone, Debug)]
pub(super) struct SimMachine {
    pub machine: Machine,
    /// When it goes on by itself; nothing while it rests or hangs.
    pub next: Option<u64>,
    fate: Fate,
    /// When its process, started, has a worker.
    pub worker_at: Option<u64>,
    /// Its workers' claims are refused in this life.
    pub retired: bool,
}

/// All machines of the app.
pub(super) struct Fly {
    pub machines: Vec<SimMachine>,
    made: u32,
    faults: Faults,
    idle_ms: u64,
}

impl Fly {
    pub fn new(faults: &Faults, idle_ms: u64) -> Self {
        Self { machines: Vec::new(), made: 0, faults: faults.clone(), idle_ms }
    }

    pub fn existing(&self) -> usize {
        self.machines.len()
    }

    pub fn find(&mut self, id: &MachineId) -> Option<&mut SimMachine> {
        self.machines.iter_mut().find(|m| m.machine.id == *id)
    }

    fn odds(&self, rng: &mut StdRng, chance: f64, now: u64) -> bool {
        now < self.faults.until_ms && chance > 0.0 && rng.random_bool(chance)
    }

    /// What keeps a write from being done at all.
    pub fn refusal(&self, rng: &mut StdRng, launches: bool, region: &str, now: u64) -> Option<Outcome> {
        let faults = &self.faults;
        if self.odds(rng, faults.rate_limited, now) {
            return Some(Outcome::RateLimited { retry_after: None });
        }
        if self.odds(rng, faults.unauthorized, now) {
            return Some(Outcome::Unauthorized);
        }
        if self.odds(rng, faults.lost, now) {
            return Some(Outcome::Unknown);
        }
        (launches && region != "any" && self.odds(rng, faults.no_capacity, now))
            .then_some(Outcome::NoCapacity)
    }

    pub fn loses_reply(&self, rng: &mut StdRng, now: u64) -> bool {
        self.odds(rng, self.faults.lost_reply, now)
    }

    fn fate(&self, rng: &mut StdRng, now: u64) -> Fate {
        if self.odds(rng, self.faults.elsewhere, now) {
            return Fate::Elsewhere;
        }
        if !self.odds(rng, self.faults.bad_launch, now) {
            return Fate::Good;
        }
        let fates =
            [Fate::StaysCreated, Fate::HangsStarting, Fate::Fails, Fate::NoWorker, Fate::Late, Fate::Exits];
        fates[rng.random_range(0..fates.len())]
    }

    pub fn create(&mut self, rng: &mut StdRng, name: &str, region: &str, image: &str, now: u64) -> Outcome {
        if let Some(there) = self.machines.iter().find(|m| m.machine.name == name) {
            return Outcome::NameTaken(Some(there.machine.id.clone()));
        }
        self.made += 1;
        let id = MachineId(format!("m{}", self.made));
        let mut machine = machine(id.clone(), name.to_owned(), region, MachineState::Creating, image);
        machine.instance_id = Some(format!("{}-0", self.made));
        machine.events.push(event("launch", "created", now, None));
        let fate = self.fate(rng, now);
        let next = Some(now + rng.random_range(100..600));
        self.machines.push(SimMachine { machine, next, fate, worker_at: None, retired: false });
        Outcome::Done(Some(id))
    }

    pub fn start(&mut self, rng: &mut StdRng, id: &MachineId, now: u64) -> Result<Outcome, String> {
        let fate = match self.fate(rng, now) {
            Fate::StaysCreated | Fate::Fails => Fate::Exits,
            fate => fate,
        };
        let next = now + rng.random_range(300..2_000);
        let Some(sim) = self.find(id) else { return Ok(Outcome::NotFound) };
        sim.machine.events.push(event("start", "starting", now, None));
        match sim.machine.state {
            MachineState::Started | MachineState::Starting => Ok(Outcome::Done(None)),
            MachineState::Stopped | MachineState::Created if sim.next.is_none() => {
                sim.machine.state = MachineState::Starting;
                (sim.fate, sim.next) = (fate, Some(next));
                (sim.worker_at, sim.retired) = (None, false);
                Ok(Outcome::Done(None))
            }
            _ => Ok(Outcome::Precondition),
        }
    }

    /// The answer, and whether the machine's process is killed by it.
    pub fn stop(&mut self, rng: &mut StdRng, id: &MachineId, now: u64) -> (Outcome, bool) {
        let hangs = self.odds(rng, self.faults.hang, now);
        let next = now + rng.random_range(300..3_000);
        let Some(sim) = self.find(id) else { return (Outcome::NotFound, false) };
        match sim.machine.state {
            MachineState::Stopped => (Outcome::Done(None), false),
            MachineState::Started | MachineState::Starting | MachineState::Stopping => {
                sim.machine.state = MachineState::Stopping;
                sim.next = (!hangs).then_some(next);
                sim.worker_at = None;
                (Outcome::Done(None), true)
            }
            _ => (Outcome::Precondition, false),
        }
    }

    /// As [`Self::stop`].
    pub fn destroy(&mut self, rng: &mut StdRng, id: &MachineId, force: bool, now: u64) -> (Outcome, bool) {
        let hangs = self.odds(rng, self.faults.hang, now);
        let next = now + rng.random_range(300..3_000);
        let Some(sim) = self.find(id) else { return (Outcome::NotFound, false) };
        let rests = matches!(sim.machine.state, MachineState::Stopped | MachineState::Failed);
        if !force && !rests {
            return (Outcome::Precondition, false);
        }
        sim.machine.state = MachineState::Destroying;
        sim.next = (!hangs).then_some(next);
        sim.worker_at = None;
        (Outcome::Done(None), true)
    }

    /// The list, as Fly gives it now.
    pub fn list(&self, rng: &mut StdRng, now: u64) -> Vec<Machine> {
        let all = self.machines.iter().map(|sim| sim.machine.clone());
        if !self.odds(rng, self.faults.list_lies, now) {
            return all.collect();
        }
        let kept = if rng.random_bool(0.5) { 0.0 } else { rng.random_range(0.0..1.0) };
        all.filter(|_| rng.random_bool(kept)).collect()
    }

    pub fn list_fails(&self, rng: &mut StdRng, now: u64) -> bool {
        self.odds(rng, self.faults.list_fails, now)
    }

    /// Whatever goes on by itself.
    pub fn step(&mut self, rng: &mut StdRng, now: u64) {
        for sim in &mut self.machines {
            while let Some(at) = sim.next.filter(|at| *at <= now) {
                sim.go_on(rng, at, self.idle_ms);
            }
        }
        self.machines.retain(|sim| sim.machine.state != MachineState::Destroyed);
    }
}

impl SimMachine {
    /// The process exits by itself, or is taken away.
    pub fn exits(&mut self, rng: &mut StdRng, code: i64, now: u64) {
        self.machine.state = MachineState::Stopping;
        self.next = Some(now + rng.random_range(100..1_500));
        self.worker_at = None;
        let exit = serde_json::json!({"exit_event": {"exit_code": code, "oom_killed": false}});
        self.machine.events.push(event("exit", "stopped", now, Some(exit)));
    }

    fn go_on(&mut self, rng: &mut StdRng, at: u64, idle_ms: u64) {
        self.next = None;
        match (&self.machine.state, self.fate) {
            (MachineState::Creating, Fate::Fails) => self.machine.state = MachineState::Failed,
            (MachineState::Creating, Fate::StaysCreated) => self.machine.state = MachineState::Created,
            (MachineState::Creating, _) => {
                self.machine.state = MachineState::Starting;
                self.next = Some(at + rng.random_range(300..2_000));
            }
            (MachineState::Starting, Fate::HangsStarting) => {}
            (MachineState::Starting, fate) => {
                self.machine.state = MachineState::Started;
                self.machine.events.push(event("start", "started", at, None));
                match fate {
                    Fate::Elsewhere => self.next = Some(at + idle_ms),
                    Fate::Good => self.worker_at = Some(at + rng.random_range(300..2_000)),
                    Fate::Late => self.worker_at = Some(at + rng.random_range(30_000..400_000)),
                    Fate::Exits => self.exits(rng, 1, at),
                    _ => {}
                }
            }
            (MachineState::Started, Fate::Elsewhere) => self.exits(rng, 0, at),
            (MachineState::Stopping, _) => self.machine.state = MachineState::Stopped,
            (MachineState::Destroying, _) => self.machine.state = MachineState::Destroyed,
            _ => {}
        }
    }
}

/// An event by Fly's clock, which is years behind everybody else's.
fn event(kind: &str, status: &str, now: u64, request: Option<serde_json::Value>) -> MachineEvent {
    let timestamp = i64::try_from(now).unwrap_or(i64::MAX);
    MachineEvent {
        kind: kind.to_owned(),
        status: status.to_owned(),
        timestamp,
        request,
        ..MachineEvent::default()
    }
}

/// A machine as Fly lists it.
pub(super) fn machine(
    id: MachineId,
    name: String,
    region: &str,
    state: MachineState,
    image: &str,
) -> Machine {
    Machine {
        id,
        name,
        state,
        region: region.to_owned(),
        instance_id: None,
        host_status: HostStatus::Ok,
        config: Some(listed_config(image)),
        created_at: String::new(),
        updated_at: String::new(),
        events: Vec::new(),
    }
}
