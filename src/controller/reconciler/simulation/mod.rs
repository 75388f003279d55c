//! A simulation in virtual time: a provider, a queue, workers and one or two reconcilers, all from one seed.
//!
//! It contains a host of the [driver](super::driver) that production runs, and models of Redis, of the provider
//! (with the trait of a real one), and of workers and their faults. Tests and figures use it. The tests of the real
//! Redis and provider are elsewhere.

mod api;
mod host;
mod invocation;
mod provider;
mod scenario;
#[cfg(test)]
mod tests;
mod world;

use std::fmt;

pub use scenario::{Faults, Parts, Scenario};

use crate::controller::fleet::{
    ANY_REGION, FleetPolicy, FleetState, Launch, Machine, MachineId, MachineList, Moment, Observation, Phase,
    QueueView, Slot, WorkerView,
};
use crate::job::{WorkerClass, WorkerId};
use crate::queue::ClassView;
use host::{Host, Limiter, Lock};
use invocation::Invocations;
use world::World;

#[cfg(test)]
pub(super) use api::WORDS;
pub(super) use provider::machine;

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of lists, including failed ones.
    pub lists: u32,
    /// Number of creates, including failed ones.
    pub creates: u32,
    /// Number of starts, including failed ones.
    pub starts: u32,
    /// Number of stops, including failed ones.
    pub stops: u32,
    /// Number of destroys, including failed ones.
    pub destroys: u32,
    /// Maximum number of machines that existed at the same time.
    pub most_machines: usize,
    /// For how long machines were charged for CPU and memory, in milliseconds, added up.
    pub billed: u64,
    /// The same times the CPUs of each machine, to which its price is proportional.
    pub billed_cpus: u64,
    /// The CPUs of each machine that was created, in this order.
    pub created_cpus: Vec<u32>,
    /// When the last job ended, in milliseconds.
    pub drained_at: u64,
    /// When the fleet had settled, in milliseconds.
    pub quiet_at: u64,
    /// Number of requests up to the last create or start.
    pub calls_to_converge: u32,
}

impl Report {
    /// Number of requests to the provider.
    #[must_use]
    pub const fn calls(&self) -> u32 {
        self.lists + self.writes()
    }

    /// Number of requests that change machines.
    #[must_use]
    pub const fn writes(&self) -> u32 {
        self.creates + self.starts + self.stops + self.destroys
    }
}

/// A run broke a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// The run's seed.
    pub seed: u64,
    /// The time, in virtual milliseconds.
    pub at: u64,
    /// The broken rule.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, at {} ms: {}", self.seed, self.at, self.what)
    }
}

/// A host of the driver.
enum AnyHost {
    Process(Box<Host>),
    OneShot(Box<Invocations>),
}

impl AnyHost {
    fn new(name: u8, scenario: &Scenario, world: &World) -> Self {
        if scenario.one_shot && name == 0 {
            Self::OneShot(Box::new(Invocations::new(name)))
        } else {
            Self::Process(Box::new(Host::new(name, world)))
        }
    }

    fn turn(
        &mut self,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &mut Lock,
        now: u64,
    ) -> Result<(), String> {
        match self {
            Self::Process(host) => host.turn(world, limiter, lock, now),
            Self::OneShot(host) => host.turn(world, limiter, lock, now),
        }
    }

    fn wakes_at(&self) -> u64 {
        match self {
            Self::Process(host) => host.wakes_at(),
            Self::OneShot(host) => host.wakes_at(),
        }
    }

    fn is_quiet(&self, lock: &Lock) -> bool {
        match self {
            Self::Process(host) => host.is_quiet(lock),
            Self::OneShot(host) => host.is_quiet(lock),
        }
    }
}

/// Runs a scenario until the fleet has settled.
///
/// # Errors
/// If a rule was broken, or the fleet did not settle before the horizon.
pub fn run(scenario: &Scenario) -> Result<Report, Violation> {
    let mut world = World::new(scenario);
    let mut limiter = Limiter::default();
    let mut lock = Lock::default();
    let mut hosts: Vec<AnyHost> =
        (0..scenario.reconcilers).map(|name| AnyHost::new(name, scenario, &world)).collect();
    let mut now = 0;
    loop {
        let violation = |what: String| Violation { seed: scenario.seed, at: now, what };
        world.step(now);
        for host in &mut hosts {
            host.turn(&mut world, &mut limiter, &mut lock, now).map_err(violation)?;
        }
        world.step(now);
        let existing = world.provider.existing();
        world.report.most_machines = world.report.most_machines.max(existing);
        if existing > scenario.policy.max as usize {
            return Err(violation(format!(
                "{existing} machines exist, MAX_MACHINES is {}",
                scenario.policy.max
            )));
        }
        let leader_is_quiet = hosts.iter().any(|h| h.is_quiet(&lock));
        if world.is_settled(now) && leader_is_quiet {
            world.report.quiet_at = now;
            return Ok(world.report);
        }
        let wakes = hosts.iter().map(AnyHost::wakes_at);
        let next = wakes.chain(world.next_event(now)).filter(|at| *at > now).min();
        match next {
            Some(at) if at <= scenario.horizon_ms => {
                let (machines, cpus) = world.provider.billed();
                world.report.billed += (at - now) * machines;
                world.report.billed_cpus += (at - now) * cpus;
                now = at;
            }
            _ => return Err(violation(format!("the fleet did not settle: {}", world.describe()))),
        }
    }
}

/// A fleet of this many machines, a third each busy, idle and stopped, with twice as many waiting jobs, to measure
/// how long [`crate::controller::fleet::plan`] takes. The returned state has already observed it.
#[must_use]
pub fn crowd(machines: u32) -> (Observation, FleetPolicy, FleetState) {
    let policy = FleetPolicy { max: machines, ..FleetPolicy::new("sim", "image:1") };
    let (list, workers): (Vec<Machine>, Vec<Option<WorkerView>>) = (1..=machines)
        .map(|n| {
            let id = MachineId(format!("m{n}"));
            let worker = (n % 3 > 0).then(|| WorkerView {
                worker: WorkerId(format!("w{n}")),
                machine: id.clone(),
                classes: policy.classes.clone(),
                fresh: true,
                busy: n % 3 == 1,
                retired: false,
            });
            let phase = if worker.is_some() { Phase::Started } else { Phase::Stopped };
            let launch = Launch::of(&policy, Slot(n));
            let name = Slot(n).name(&policy.app);
            (machine(id, name, ANY_REGION, phase, launch, policy.sizes.base()), worker)
        })
        .unzip();
    let workers = workers.into_iter().flatten().collect();
    let waiting = ClassView { pending: 2 * u64::from(machines), ..ClassView::default() };
    let waiting = [(WorkerClass::default(), waiting)].into();
    let queue = QueueView { waiting, workers, ..QueueView::default() };
    let seen =
        Observation { machines: Ok(MachineList { at: Moment::ZERO, machines: list }), queue: Some(queue) };
    let mut memory = FleetState::new();
    memory.observe(&seen, &policy, Moment::ZERO);
    (seen, policy, memory)
}

/// The number of requests to the provider, beyond one create for each machine, to get from an empty app to
/// `machines` machines without faults.
///
/// # Errors
/// If the run broke a rule.
pub fn converge_calls_over_minimum(machines: u32) -> Result<u32, Violation> {
    let report = run(&Scenario::burst(machines))?;
    Ok(report.calls_to_converge.saturating_sub(machines))
}
