//! A model of a provider: the phases of its machines, their durations, and faults. Without the capability to stop and
//! start machines, a machine stays stopped once its process has exited.

use rand::RngExt as _;
use rand::rngs::StdRng;

use std::time::Duration;

use super::Faults;
use crate::controller::fleet::{
    Capabilities, Exit, IDLE_TIMEOUT, Launch, Machine, MachineId, MachineOrder, MachineSize, Phase,
    ProviderFailure, Start,
};
use crate::job::Millis;

/// The outcome of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    StaysCreated,
    HangsStarting,
    Fails,
    NoWorker,
    /// Its worker waits for jobs in another Redis and exits after the idle timeout.
    Elsewhere,
    /// Its worker registers too late.
    Late,
    Exits,
}

/// A machine of the model.
#[derive(Clone, Debug)]
pub(super) struct SimMachine {
    pub machine: Machine,
    /// When it changes its phase by itself; `None` while it is stopped or hangs.
    pub next: Option<u64>,
    fate: Fate,
    /// When its current launch was requested.
    asked_at: u64,
    /// When the worker of its process registers.
    pub worker_at: Option<u64>,
    /// How long its worker waits for a job.
    pub idle_ms: u64,
    /// Whether its workers' claims are refused until its next start.
    pub retired: bool,
}

/// All machines of the app.
pub(super) struct SimProvider {
    pub capabilities: Capabilities,
    pub machines: Vec<SimMachine>,
    made: u32,
    faults: Faults,
    idle_ms: u64,
}

impl SimProvider {
    pub(crate) fn new(capabilities: Capabilities, faults: &Faults, idle_ms: u64) -> Self {
        Self { capabilities, machines: Vec::new(), made: 0, faults: faults.clone(), idle_ms }
    }

    pub(crate) fn existing(&self) -> usize {
        self.machines.len()
    }

    /// The machines that are charged for CPU and memory, and their CPUs.
    pub(crate) fn billed(&self) -> (u64, u64) {
        let is_billed = |sim: &&SimMachine| {
            matches!(sim.machine.phase, Phase::Starting | Phase::Started | Phase::Stopping)
        };
        let cpus = self.machines.iter().filter(is_billed).map(|sim| sim.cpus());
        cpus.fold((0, 0), |(machines, sum), cpus| (machines + 1, sum + u64::from(cpus)))
    }

    pub(crate) fn find(&mut self, id: &MachineId) -> Option<&mut SimMachine> {
        self.machines.iter_mut().find(|m| m.machine.id == *id)
    }

    fn odds(&self, rng: &mut StdRng, chance: f64, now: u64) -> bool {
        now < self.faults.until_ms && chance > 0.0 && rng.random_bool(chance)
    }

    /// The failure that prevents a write, if any.
    pub(crate) fn refusal(
        &self,
        rng: &mut StdRng,
        launches: bool,
        region: &str,
        now: u64,
    ) -> Option<ProviderFailure> {
        let faults = &self.faults;
        if self.odds(rng, faults.rate_limited, now) {
            return Some(ProviderFailure::RateLimited { retry_after: None });
        }
        if self.odds(rng, faults.unauthorized, now) {
            return Some(ProviderFailure::Unauthorized);
        }
        if self.odds(rng, faults.lost, now) {
            return Some(ProviderFailure::UnknownOutcome);
        }
        (launches && region != super::ANY_REGION && self.odds(rng, faults.no_capacity, now))
            .then_some(ProviderFailure::NoCapacity)
    }

    pub(crate) fn loses_reply(&self, rng: &mut StdRng, now: u64) -> bool {
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

    pub(crate) fn create(
        &mut self,
        rng: &mut StdRng,
        order: &MachineOrder<'_>,
        now: u64,
    ) -> Result<Machine, ProviderFailure> {
        if let Some(there) = self.machines.iter().find(|m| m.machine.name == order.name) {
            return Err(ProviderFailure::NameTaken(Some(there.machine.id.clone())));
        }
        self.made += 1;
        let id = MachineId(format!("m{}", self.made));
        let (name, launch) = (order.name.to_owned(), order.launch.clone());
        let mut machine = machine(id, name, order.region, Phase::Creating, launch, order.size);
        machine.instance = Some(format!("{}-0", self.made));
        let fate = self.fate(rng, now);
        let next = Some(now + rng.random_range(100..600));
        let made = machine.clone();
        let idle_timeout =
            order.environment.get(IDLE_TIMEOUT).and_then(|seconds| seconds.parse::<u64>().ok());
        self.machines.push(SimMachine {
            machine,
            idle_ms: idle_timeout.map_or(self.idle_ms, |seconds| 1000 * seconds),
            next,
            fate,
            asked_at: now,
            worker_at: None,
            retired: false,
        });
        Ok(made)
    }

    pub(crate) fn start(
        &mut self,
        rng: &mut StdRng,
        id: &MachineId,
        now: u64,
    ) -> Result<(), ProviderFailure> {
        let fate = match self.fate(rng, now) {
            Fate::StaysCreated | Fate::Fails => Fate::Exits,
            fate => fate,
        };
        let next = now + rng.random_range(300..2_000);
        let sim = self.find(id).ok_or(ProviderFailure::NotFound)?;
        match sim.machine.phase {
            Phase::Started | Phase::Starting => Ok(()),
            Phase::Stopped | Phase::Created if sim.next.is_none() => {
                sim.machine.phase = Phase::Starting;
                (sim.fate, sim.next, sim.asked_at) = (fate, Some(next), now);
                sim.worker_at = None;
                Ok(())
            }
            _ => Err(ProviderFailure::Precondition),
        }
    }

    /// Stops a machine. Returns whether its process is killed.
    pub(crate) fn stop(
        &mut self,
        rng: &mut StdRng,
        id: &MachineId,
        now: u64,
    ) -> Result<bool, ProviderFailure> {
        let hangs = self.odds(rng, self.faults.hang, now);
        let next = now + rng.random_range(300..3_000);
        let sim = self.find(id).ok_or(ProviderFailure::NotFound)?;
        match sim.machine.phase {
            Phase::Stopped => Ok(false),
            Phase::Started | Phase::Starting | Phase::Stopping => {
                sim.machine.phase = Phase::Stopping;
                sim.next = (!hangs).then_some(next);
                sim.worker_at = None;
                Ok(true)
            }
            _ => Err(ProviderFailure::Precondition),
        }
    }

    /// Destroys a machine. Returns whether its process is killed.
    pub(crate) fn destroy(
        &mut self,
        rng: &mut StdRng,
        id: &MachineId,
        force: bool,
        now: u64,
    ) -> Result<bool, ProviderFailure> {
        let hangs = self.odds(rng, self.faults.hang, now);
        let next = now + rng.random_range(300..3_000);
        let sim = self.find(id).ok_or(ProviderFailure::NotFound)?;
        let rests = matches!(sim.machine.phase, Phase::Stopped | Phase::Failed);
        if !force && !rests {
            return Err(ProviderFailure::Precondition);
        }
        sim.machine.phase = Phase::Destroying;
        sim.next = (!hangs).then_some(next);
        sim.worker_at = None;
        Ok(true)
    }

    /// The list of machines, which may be incomplete.
    pub(crate) fn list(&self, rng: &mut StdRng, now: u64) -> Vec<Machine> {
        let all = self.machines.iter().map(|sim| sim.machine.clone());
        if !self.odds(rng, self.faults.list_lies, now) {
            return all.collect();
        }
        let kept = if rng.random_bool(0.5) { 0.0 } else { rng.random_range(0.0..1.0) };
        all.filter(|_| rng.random_bool(kept)).collect()
    }

    pub(crate) fn list_fails(&self, rng: &mut StdRng, now: u64) -> bool {
        self.odds(rng, self.faults.list_fails, now)
    }

    /// Performs the changes of phase that are due.
    pub(crate) fn step(&mut self, rng: &mut StdRng, now: u64) {
        for sim in &mut self.machines {
            while let Some(at) = sim.next.filter(|at| *at <= now) {
                sim.go_on(rng, at, self.idle_ms);
            }
        }
        self.machines.retain(|sim| sim.machine.phase != Phase::Gone);
    }
}

impl SimMachine {
    fn cpus(&self) -> u32 {
        self.machine.size.unwrap_or_default().cpus
    }

    /// The process exits by itself or is killed.
    pub(crate) fn exits(&mut self, rng: &mut StdRng, code: i32, now: u64) {
        self.machine.phase = Phase::Stopping;
        self.next = Some(now + rng.random_range(100..1_500));
        self.worker_at = None;
        self.machine.last_exit = Some(Exit { at: clock(now), code, out_of_memory: false, requested: false });
    }

    fn go_on(&mut self, rng: &mut StdRng, at: u64, idle_ms: u64) {
        self.next = None;
        match (&self.machine.phase, self.fate) {
            (Phase::Creating, Fate::Fails) => self.machine.phase = Phase::Failed,
            (Phase::Creating, Fate::StaysCreated) => self.machine.phase = Phase::Created,
            (Phase::Creating, _) => {
                self.machine.phase = Phase::Starting;
                self.next = Some(at + rng.random_range(300..2_000));
            }
            (Phase::Starting, Fate::HangsStarting) => {}
            (Phase::Starting, fate) => {
                self.machine.phase = Phase::Started;
                let took = Duration::from_millis(at - self.asked_at);
                self.machine.last_start = Some(Start { at: clock(at), took });
                match fate {
                    Fate::Elsewhere => self.next = Some(at + idle_ms),
                    Fate::Good => self.worker_at = Some(at + rng.random_range(300..2_000)),
                    Fate::Late => self.worker_at = Some(at + rng.random_range(30_000..400_000)),
                    Fate::Exits => self.exits(rng, 1, at),
                    _ => {}
                }
            }
            (Phase::Started, Fate::Elsewhere) => self.exits(rng, 0, at),
            (Phase::Stopping, _) => self.machine.phase = Phase::Stopped,
            (Phase::Destroying, _) => self.machine.phase = Phase::Gone,
            _ => {}
        }
    }
}

/// The provider's clock, which is years behind the other clocks.
fn clock(now: u64) -> Millis {
    Millis(i64::try_from(now).unwrap_or(i64::MAX))
}

/// A machine, as a list shows it.
pub(crate) fn machine(
    id: MachineId,
    name: String,
    region: &str,
    phase: Phase,
    launch: Launch,
    size: MachineSize,
) -> Machine {
    Machine {
        id,
        name,
        phase,
        region: region.to_owned(),
        instance: None,
        labelled: true,
        launch: Some(launch),
        size: Some(size),
        host_reachable: true,
        message: None,
        created_at: String::new(),
        last_start: None,
        last_exit: None,
        ran_seconds: 0.0,
        running_since: None,
    }
}
