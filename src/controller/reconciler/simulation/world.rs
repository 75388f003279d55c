//! The queue, the workers, and their faults.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::provider::SimProvider;
use super::{Parts, Report, Scenario};
use crate::config::IDLE_AFTER_PARTS;
use crate::controller::fleet::{FleetPolicy, MachineId, Phase, Slot};
use crate::job::{JobId, Millis, WorkerClass, WorkerId};
use crate::queue::{ClassView, FleetView, PoolWorker};

const LEASE_MS: u64 = 30_000;
const ALIVE_MS: i64 = 180_000;

fn millis(ms: u64) -> Millis {
    Millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// A job, or a part of the split one.
#[derive(Clone, Copy)]
struct Task {
    /// How long it takes, in milliseconds.
    length: u64,
    /// Since when it waits or, once a worker has it, when it ends or, if the worker is dead, when the lease expires.
    at: u64,
    is_part: bool,
    /// The place of its class among those of the fleet.
    class: usize,
}

/// A worker, as Redis records it.
struct SimWorker {
    id: WorkerId,
    job_id: JobId,
    machine: MachineId,
    /// Whether its process runs; otherwise only its record is left.
    lives: bool,
    /// When the heartbeat of a dead worker expires.
    fresh_until: u64,
    retired: bool,
    /// A job, or several parts.
    tasks: Vec<Task>,
    /// Whether its last work were parts.
    did_parts: bool,
    /// How many parts it encodes at once.
    chunks: u32,
    idle_ms: u64,
    idle_since: u64,
    stays: bool,
}

impl SimWorker {
    /// How long it waits for work.
    fn patience(&self) -> u64 {
        if self.did_parts { self.idle_ms.min(IDLE_AFTER_PARTS.as_millis() as u64) } else { self.idle_ms }
    }
}

/// What is still to come of the job that is split.
#[derive(PartialEq)]
enum SplitJob {
    /// It is being planned, or waits for that. Contains its parts.
    Planned(Parts),
    /// Its parts are encoded, or wait for that.
    Split {
        /// How long it takes to finish the job, in milliseconds.
        finish: u64,
    },
    /// It is being finished, or there is none.
    Over,
}

/// Everything but the reconcilers.
pub(super) struct World {
    pub provider: SimProvider,
    /// A forbidden request that a reconciler sent.
    pub violation: Option<String>,
    pub rng: StdRng,
    pub policy: FleetPolicy,
    pub report: Report,
    pub stall: f64,
    pub faults_until: u64,
    arrivals: Vec<(u64, u64)>,
    /// The number of tasks that there have been.
    tasks: usize,
    of_another_class: u64,
    pending: VecDeque<Task>,
    split: SplitJob,
    workers: Vec<SimWorker>,
    /// When a worker last registered, by machine.
    heard: BTreeMap<MachineId, u64>,
    born: u32,
    jobs_left: usize,
    stroke: Option<(u64, u64)>,
    outage: Option<(u64, u64)>,
    redis_back: u64,
    reach_back: Option<u64>,
}

impl World {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let faults = &scenario.faults;
        let mut arrivals = scenario.jobs.clone();
        arrivals.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            provider: SimProvider::new(
                scenario.capabilities,
                faults,
                u64::try_from(scenario.policy.idle_timeout.as_millis()).unwrap_or(u64::MAX),
            ),
            violation: None,
            rng: StdRng::seed_from_u64(scenario.seed),
            policy: FleetPolicy { capabilities: scenario.capabilities, ..scenario.policy.clone() },
            report: Report::default(),
            stall: faults.stall,
            faults_until: faults.until_ms,
            jobs_left: arrivals.len(),
            arrivals,
            tasks: 0,
            of_another_class: scenario.of_another_class,
            pending: VecDeque::new(),
            split: scenario.parts.clone().map_or(SplitJob::Over, SplitJob::Planned),
            workers: Vec::new(),
            heard: BTreeMap::new(),
            born: 0,
            stroke: faults.stroke_every_ms.map(|every| (every, every)),
            outage: faults.redis_every_ms.map(|every| (every, every)),
            redis_back: 0,
            reach_back: None,
        }
    }

    /// How long a heartbeat counts.
    pub(crate) const ALIVE: Duration = Duration::from_millis(ALIVE_MS.unsigned_abs());

    /// The queue and the workers, as Redis shows them; `None` while Redis is unavailable.
    pub(crate) fn view(&self, now: u64) -> Option<FleetView> {
        if now < self.redis_back {
            return None;
        }
        let workers = self.workers.iter().map(|w| PoolWorker {
            worker: w.id.clone(),
            machine: Some(w.machine.0.clone()),
            classes: self.policy.classes.clone(),
            alive_until: Some(if w.lives { millis(now).plus(ALIVE_MS) } else { millis(w.fresh_until) }),
            retired: w.retired,
            // A live worker renews its lease.
            lease: w.tasks.last().map(|t| (w.job_id, millis(if w.lives { now + LEASE_MS } else { t.at }))),
        });
        let leases = self.workers.iter().filter(|w| !w.lives).flat_map(|w| &w.tasks);
        Some(FleetView {
            now: millis(now),
            waiting: self.waiting(),
            next_due: leases.map(|task| millis(task.at)).min(),
            workers: workers.collect(),
            heard: self.heard.iter().map(|(machine, at)| (machine.0.clone(), millis(*at))).collect(),
            paused: None,
        })
    }

    /// The same for a reconciler that knows no other fleets.
    pub(crate) fn view_of_own_classes(&self, now: u64) -> Option<FleetView> {
        let mut view = self.view(now)?;
        view.waiting.retain(|class, _| self.policy.classes.contains(class));
        Some(view)
    }

    /// What waits for each class. What is of another class than those of the fleet waits from the beginning.
    fn waiting(&self) -> BTreeMap<WorkerClass, ClassView> {
        let mut waiting: BTreeMap<WorkerClass, ClassView> = BTreeMap::new();
        for (place, class) in self.policy.classes.iter().enumerate() {
            let own = || self.pending.iter().filter(|task| task.class == place);
            let view = ClassView {
                pending: own().count() as u64,
                parts: own().filter(|task| task.is_part).count() as u64,
                due: 0,
                ready_since: own().next().map(|task| millis(task.at)),
            };
            waiting.insert(class.clone(), view);
        }
        if let (1.., Ok(class)) = (self.of_another_class, "another".parse()) {
            let view = ClassView {
                pending: self.of_another_class,
                ready_since: Some(millis(0)),
                ..ClassView::default()
            };
            waiting.insert(class, view);
        }
        waiting
    }

    /// A task that is ready now. The classes of tasks take turns.
    fn task(&mut self, length: u64, at: u64, is_part: bool) -> Task {
        self.tasks += 1;
        Task { length, at, is_part, class: self.tasks % self.policy.classes.iter().count() }
    }

    /// Whether a machine's worker holds a lease.
    pub(crate) fn has_lease(&self, id: &MachineId) -> bool {
        self.workers.iter().any(|w| w.machine == *id && !w.tasks.is_empty())
    }

    /// Retires a machine's workers, unless one holds a lease.
    pub(crate) fn retire(&mut self, id: &MachineId) -> bool {
        if self.has_lease(id) {
            return false;
        }
        if let Some(sim) = self.provider.find(id) {
            sim.retired = true;
        }
        self.workers.iter_mut().filter(|w| w.machine == *id).for_each(|w| w.retired = true);
        true
    }

    /// Permits workers on the machine to claim jobs again.
    pub(crate) fn readmit(&mut self, id: &MachineId) {
        if let Some(sim) = self.provider.find(id) {
            sim.retired = false;
        }
    }

    /// Kills a machine's worker, which does not deregister.
    pub(crate) fn kill_worker(&mut self, id: &MachineId, now: u64) {
        let fresh = self.rng.random_range(1_000..180_000);
        for worker in self.workers.iter_mut().filter(|w| w.machine == *id && w.lives) {
            worker.lives = false;
            worker.fresh_until = now + fresh;
            worker.tasks.iter_mut().for_each(|task| task.at = now + LEASE_MS);
        }
    }

    pub(crate) fn step(&mut self, now: u64) {
        while let Some((_, length)) = self.arrivals.pop_if(|(at, _)| *at <= now) {
            let task = self.task(length, now, false);
            self.pending.push_back(task);
        }
        self.provider.step(&mut self.rng, now);
        self.strike(now);
        self.births(now);
        self.ends_of_jobs(now);
        self.claims(now);
        self.leaves(now);
    }

    /// A worker has one job or, of parts, as many as it encodes at once.
    fn claims(&mut self, now: u64) {
        for worker in self.workers.iter_mut().filter(|w| w.lives && !w.retired) {
            while let Some(next) = self.pending.front() {
                let chunks = worker.chunks as usize;
                let has_room =
                    next.is_part && worker.tasks.len() < chunks && worker.tasks.iter().all(|t| t.is_part);
                if !worker.tasks.is_empty() && !has_room {
                    break;
                }
                if let Some(task) = self.pending.pop_front() {
                    worker.tasks.push(Task { at: now + task.length, ..task });
                }
            }
        }
    }

    /// The split job becomes its parts when it is planned; when all of them are done, it is finished.
    fn goes_on(&mut self, now: u64) {
        if self.jobs_left > 0 {
            return;
        }
        let (next, tasks): (_, Vec<Task>) = match std::mem::replace(&mut self.split, SplitJob::Over) {
            SplitJob::Planned(Parts { lengths, finish }) => (
                SplitJob::Split { finish },
                lengths.into_iter().map(|length| self.task(length, now, true)).collect(),
            ),
            SplitJob::Split { finish } => (SplitJob::Over, vec![self.task(finish, now, false)]),
            SplitJob::Over => (SplitJob::Over, vec![]),
        };
        self.split = next;
        self.jobs_left += tasks.len();
        self.pending.extend(tasks);
    }

    fn births(&mut self, now: u64) {
        let app = &self.policy.app;
        for sim in &mut self.provider.machines {
            if sim.worker_at.is_some_and(|at| at <= now) {
                sim.worker_at = None;
                self.born += 1;
                self.heard.insert(sim.machine.id.clone(), now);
                self.workers.push(SimWorker {
                    id: WorkerId(format!("w{}", self.born)),
                    job_id: JobId::new(),
                    machine: sim.machine.id.clone(),
                    lives: true,
                    fresh_until: 0,
                    retired: sim.retired,
                    tasks: Vec::new(),
                    did_parts: false,
                    chunks: self.policy.chunks_on(sim.machine.size.unwrap_or_default()),
                    idle_ms: sim.idle_ms,
                    idle_since: now,
                    stays: Slot::parse(app, &sim.machine.name).is_some_and(|s| s.0 <= self.policy.min),
                });
            }
        }
    }

    fn ends_of_jobs(&mut self, now: u64) {
        for worker in &mut self.workers {
            for task in worker.tasks.extract_if(.., |task| task.at <= now) {
                worker.idle_since = now;
                worker.did_parts = task.is_part;
                if worker.lives {
                    self.jobs_left -= 1;
                    self.report.drained_at = now;
                } else {
                    self.pending.push_back(Task { at: now, ..task });
                }
            }
        }
        self.workers.retain(|w| w.lives || !w.tasks.is_empty() || w.fresh_until > now);
        self.goes_on(now);
    }

    fn leaves(&mut self, now: u64) {
        let mut left = Vec::new();
        self.workers.retain(|w| {
            let bored = !w.stays && now >= w.idle_since + w.patience();
            let leaves = w.lives && w.tasks.is_empty() && (w.retired || bored);
            if leaves {
                left.push(w.machine.clone());
            }
            !leaves
        });
        for id in left {
            if let Some(sim) = self.provider.machines.iter_mut().find(|m| m.machine.id == id) {
                sim.exits(&mut self.rng, 0, now);
            }
        }
    }

    /// Applies the faults that are due.
    fn strike(&mut self, now: u64) {
        if self.reach_back.is_some_and(|at| at <= now) {
            self.reach_back = None;
            self.provider.machines.iter_mut().for_each(|m| m.machine.host_reachable = true);
        }
        if let Some((at, every)) = self.outage.filter(|(at, _)| *at <= now) {
            self.outage = (at < self.faults_until).then(|| (now + every, every));
            self.redis_back = now + self.rng.random_range(1_000..40_000);
        }
        let Some((at, every)) = self.stroke.filter(|(at, _)| *at <= now) else { return };
        self.stroke = (at < self.faults_until).then(|| (now + every, every));
        if self.provider.machines.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.provider.machines.len());
        let id = self.provider.machines[which].machine.id.clone();
        match self.rng.random_range(0..4) {
            0 => {
                self.kill_worker(&id, now);
                self.provider.machines.remove(which);
            }
            1 => {
                self.kill_worker(&id, now);
                self.provider.machines[which].worker_at = None;
            }
            2 if self.provider.machines[which].machine.phase == Phase::Started => {
                self.kill_worker(&id, now);
                self.provider.machines[which].exits(&mut self.rng, 137, now);
            }
            _ => {
                self.provider.machines[which].machine.host_reachable = false;
                self.reach_back = Some(now + self.rng.random_range(10_000..900_000));
            }
        }
    }

    pub(crate) fn next_event(&self, now: u64) -> Option<u64> {
        let machines = self.provider.machines.iter().flat_map(|m| [m.next, m.worker_at]);
        let workers = self.workers.iter().flat_map(|w| {
            let leaves = (w.lives && !w.stays && w.tasks.is_empty()).then(|| w.idle_since + w.patience());
            let stale = (!w.lives).then_some(w.fresh_until);
            [w.tasks.iter().map(|task| task.at).min(), leaves, stale]
        });
        let others = [
            self.arrivals.last().map(|(at, _)| *at),
            self.stroke.map(|(at, _)| at),
            self.outage.map(|(at, _)| at),
            Some(self.redis_back),
            self.reach_back,
        ];
        machines.chain(workers).chain(others).flatten().filter(|at| *at > now).min()
    }

    /// Whether all jobs are done and only the minimum of machines is running.
    pub(crate) fn is_settled(&self, now: u64) -> bool {
        // A stopped machine that cannot be started again has yet to be destroyed.
        let rests = |phase: &Phase| self.provider.capabilities.can_stop_and_start && *phase == Phase::Stopped;
        let up = self.provider.machines.iter().filter(|m| !rests(&m.machine.phase)).count();
        let stays = self.workers.iter().filter(|w| w.lives && w.stays).count();
        let faultless = now >= self.faults_until && self.reach_back.is_none() && now >= self.redis_back;
        self.jobs_left == 0
            && self.split == SplitJob::Over
            && faultless
            && up == stays
            && stays == self.policy.min as usize
    }

    pub(crate) fn describe(&self) -> String {
        let machines: Vec<String> = self
            .provider
            .machines
            .iter()
            .map(|m| format!("{} {}", m.machine.name, m.machine.phase))
            .collect();
        let lives = self.workers.iter().filter(|w| w.lives).count();
        format!(
            "{} jobs left, {} pending, {lives} of {} workers live, machines: {}",
            self.jobs_left,
            self.pending.len(),
            self.workers.len(),
            machines.join(", ")
        )
    }
}
