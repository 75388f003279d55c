//! The shell around the plan, in virtual time: one request in flight, a shared limit of one a second,
//! and a lock with a fencing epoch.

use std::time::Duration;

use rand::RngExt as _;

use super::world::World;
use crate::controller::fleet::{
    FleetState, ListFailure, ListUnavailable, MachineList, Observation, Operation, Outcome, Plan,
    PlannedOperation, plan,
};

const LOCK_MS: u64 = 15_000;
const RENEW_MS: u64 = 5_000;

/// One request a second, over all reconcilers.
#[derive(Default)]
pub(super) struct Limiter {
    next: u64,
    last: Option<u64>,
}

impl Limiter {
    fn take(&mut self, now: u64) -> Result<(), String> {
        if self.last.is_some_and(|last| now < last + 1000) {
            return Err("two requests within a second".to_owned());
        }
        (self.last, self.next) = (Some(now), now + 1000);
        Ok(())
    }
}

/// Who may act.
#[derive(Default)]
pub(super) struct Lock {
    holder: Option<u8>,
    until: u64,
    epoch: u64,
}

enum InFlight {
    List,
    Write(PlannedOperation, Outcome),
    /// Planned, and asleep before it is sent.
    Stalled(PlannedOperation),
}

pub(super) struct Reconciler {
    name: u8,
    epoch: u64,
    memory: FleetState,
    seen: Observation,
    flying: Option<(InFlight, u64, u64)>,
    wake: Option<u64>,
    quiet: bool,
}

const fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Reconciler {
    pub fn new(name: u8) -> Self {
        let seen = Observation { machines: Err(ListUnavailable::NOT_YET), queue: None };
        Self { name, epoch: 0, memory: FleetState::new(), seen, flying: None, wake: None, quiet: false }
    }

    pub fn wakes_at(&self) -> Option<u64> {
        match &self.flying {
            Some((_, _, done)) => Some(*done),
            None => self.wake,
        }
    }

    /// It leads, and has nothing to do nor to wait for but time.
    pub fn is_quiet(&self, lock: &Lock) -> bool {
        self.quiet && lock.holder == Some(self.name) && self.flying.is_none()
    }

    /// Whatever it can do now.
    pub fn turn(
        &mut self,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &mut Lock,
        now: u64,
    ) -> Result<(), String> {
        if let Some((flying, sent, done)) = self.flying.take() {
            if done > now {
                self.flying = Some((flying, sent, done));
                return Ok(());
            }
            if let Some(action) = self.land(flying, sent, world, lock, now) {
                // It slept, is still the leader, and sends what it planned then.
                if now < limiter.next {
                    self.flying = Some((InFlight::Stalled(action), sent, limiter.next));
                    return Ok(());
                }
                return self.send(action, world, limiter, now);
            }
        }
        if !self.leads(lock, world, now) {
            self.wake = Some(lock.until.max(now + 1_000));
            return Ok(());
        }
        for _ in 0..32 {
            self.seen.queue = world.queue(now);
            self.memory.observe(&self.seen, &world.policy, at(now));
            let Plan { actions, next_look, .. } = plan(&self.seen, &world.policy, &self.memory, at(now));
            let lists = next_look == Some(Duration::ZERO);
            self.quiet = actions.is_empty() && !lists;
            let renew = now + RENEW_MS;
            let replan =
                next_look.map_or(renew, |d| now + u64::try_from(d.as_millis()).unwrap_or(u64::MAX).max(1));
            self.wake = Some(replan.min(renew));
            let Some(action) = actions.into_iter().next() else {
                if lists && now >= limiter.next {
                    return self.send_list(world, limiter, now);
                }
                if lists {
                    self.wake = Some(limiter.next);
                }
                return Ok(());
            };
            if let Operation::Retire { machine, .. } = &action.act {
                let outcome = if world.retire(machine) { Outcome::Done(None) } else { Outcome::Refused };
                self.memory.record(&action, &outcome, &world.policy, at(now), at(now));
                continue;
            }
            if now < limiter.next {
                self.wake = Some(limiter.next);
                return Ok(());
            }
            let stall = now < world.faults_until && world.stall > 0.0 && world.rng.random_bool(world.stall);
            if stall {
                let wakes = now + world.rng.random_range(1_000..40_000);
                self.flying = Some((InFlight::Stalled(action), now, wakes));
                return Ok(());
            }
            return self.send(action, world, limiter, now);
        }
        Err("it planned 32 steps at one moment".to_owned())
    }

    fn leads(&mut self, lock: &mut Lock, world: &World, now: u64) -> bool {
        if world.queue(now).is_none() {
            return lock.holder == Some(self.name) && lock.until > now;
        }
        let mine = lock.holder == Some(self.name);
        if !mine && lock.until > now {
            return false;
        }
        if !mine || self.epoch != lock.epoch {
            lock.epoch += 1;
            self.epoch = lock.epoch;
            // What another did meanwhile stands in no list of ours.
            self.seen.machines = Err(ListUnavailable::NOT_YET);
        }
        (lock.holder, lock.until) = (Some(self.name), now + LOCK_MS);
        true
    }

    fn land(
        &mut self,
        flying: InFlight,
        sent: u64,
        world: &mut World,
        lock: &Lock,
        now: u64,
    ) -> Option<PlannedOperation> {
        match flying {
            InFlight::List => {
                let fails = world.fly.list_fails(&mut world.rng, now);
                self.seen.machines = if fails {
                    Err(ListUnavailable { why: ListFailure::Failed, at: at(now) })
                } else {
                    Ok(MachineList { at: at(sent), machines: world.fly.list(&mut world.rng, now) })
                };
                self.wake = Some(now);
                None
            }
            InFlight::Write(action, outcome) => {
                self.memory.record(&action, &outcome, &world.policy, at(sent), at(now));
                None
            }
            InFlight::Stalled(action) => {
                if lock.epoch == self.epoch && lock.until > now && world.queue(now).is_some() {
                    return Some(action);
                }
                self.memory.record(&action, &Outcome::Fenced, &world.policy, at(sent), at(now));
                None
            }
        }
    }

    fn send_list(&mut self, world: &mut World, limiter: &mut Limiter, now: u64) -> Result<(), String> {
        limiter.take(now)?;
        world.report.lists += 1;
        let done = now + world.rng.random_range(50..500);
        self.flying = Some((InFlight::List, now, done));
        Ok(())
    }

    fn send(
        &mut self,
        action: PlannedOperation,
        world: &mut World,
        limiter: &mut Limiter,
        now: u64,
    ) -> Result<(), String> {
        if let Operation::Stop { machine } | Operation::Destroy { machine, .. } = &action.act
            && !world.retire(machine)
        {
            self.flying = Some((InFlight::Write(action, Outcome::Refused), now, now + 1));
            return Ok(());
        }
        limiter.take(now)?;
        let outcome = carry_out(&action, world, now)?;
        let done = now + world.rng.random_range(50..900);
        self.flying = Some((InFlight::Write(action, outcome), now, done));
        Ok(())
    }
}

/// The request reaches Fly.
fn carry_out(action: &PlannedOperation, world: &mut World, now: u64) -> Result<Outcome, String> {
    let report = &mut world.report;
    let (region, launches) = match &action.act {
        Operation::Create { region, .. } => (region.as_str(), true),
        Operation::Start { .. } => ("here", true),
        _ => ("", false),
    };
    let count = match &action.act {
        Operation::Create { .. } => &mut report.creates,
        Operation::Start { .. } => &mut report.starts,
        Operation::Stop { .. } => &mut report.stops,
        _ => &mut report.destroys,
    };
    *count += 1;
    if launches {
        report.calls_to_converge = report.calls();
    }
    if let Some(refusal) = world.fly.refusal(&mut world.rng, launches, region, now) {
        return Ok(refusal);
    }
    let rng = &mut world.rng;
    let (outcome, killed) = match &action.act {
        Operation::Create { name, region, .. } => {
            (world.fly.create(rng, name, region, &world.policy.image, now), None)
        }
        Operation::Start { machine } => (world.fly.start(rng, machine, now)?, None),
        Operation::Stop { machine } => {
            let (outcome, killed) = world.fly.stop(rng, machine, now);
            (outcome, killed.then_some(machine))
        }
        Operation::Destroy { machine, force } => {
            let (outcome, killed) = world.fly.destroy(rng, machine, *force, now);
            (outcome, killed.then_some(machine))
        }
        Operation::Retire { .. } => (Outcome::Done(None), None),
    };
    if let Some(machine) = killed {
        if world.has_lease(machine) {
            return Err(format!("{} of machine {machine}, whose worker holds a lease", action.act.kind()));
        }
        world.kill_worker(machine, now);
    }
    let lost = world.fly.loses_reply(&mut world.rng, now);
    Ok(if lost { Outcome::Unknown } else { outcome })
}
