//! The shell around the plan, in virtual time: one request in flight, a shared limit of one a second,
//! and a lock with a fencing epoch.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::Report;
use super::provider::SimProvider;
use super::world::World;
use crate::controller::fleet::{
    Capabilities, FleetState, ListUnavailable, Machine, MachineId, MachineList, MachineOrder,
    MachineProvider, MachineSize, MicroDollars, Observation, Operation, Outcome, Plan, PlannedOperation,
    ProviderError, ProviderFailure, ProviderWords, carry_out, plan,
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
                let list = Api { world: RefCell::new(world), now }.list().now_or_never();
                self.seen.machines = match list.unwrap_or(Err(failed(ProviderFailure::Unavailable))) {
                    Ok(machines) => Ok(MachineList { at: at(sent), machines }),
                    Err(error) => Err(ListUnavailable { why: error.list_failure(), at: at(now) }),
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
        let outcome = ask(&action, world, now)?;
        let done = now + world.rng.random_range(50..900);
        self.flying = Some((InFlight::Write(action, outcome), now, done));
        Ok(())
    }
}

/// The provider as a reconciler reaches it at one moment.
struct Api<'a> {
    world: RefCell<&'a mut World>,
    now: u64,
}

const WORDS: ProviderWords = ProviderWords {
    name: "the simulation",
    list_refused: "",
    writes_refused: "",
    no_such_app: "",
    billing: "",
    quota: "",
    no_capacity: "",
    launches_failing: "",
    workers_not_registering: "",
};

/// Which of the report's numbers counts a write.
type Counter = fn(&mut Report) -> &mut u32;

impl Api<'_> {
    /// A write: it is counted, may be refused, and its answer may be lost.
    fn write<T>(
        &self,
        counter: Counter,
        region: Option<&str>,
        act: impl FnOnce(&mut World, u64) -> Result<T, ProviderFailure>,
    ) -> Result<T, ProviderError> {
        let world = &mut **self.world.borrow_mut();
        *counter(&mut world.report) += 1;
        if region.is_some() {
            world.report.calls_to_converge = world.report.calls();
        }
        let (launches, region) = (region.is_some(), region.unwrap_or_default());
        let refusal = world.provider.refusal(&mut world.rng, launches, region, self.now);
        let answer = match refusal {
            Some(refusal) => return Err(failed(refusal)),
            None => act(world, self.now),
        };
        let lost = world.provider.loses_reply(&mut world.rng, self.now);
        if lost { Err(failed(ProviderFailure::UnknownOutcome)) } else { answer.map_err(failed) }
    }

    /// Stop and destroy: no worker that holds a lease may be hit.
    fn ends(
        world: &mut World,
        machine: &MachineId,
        now: u64,
        end: impl FnOnce(&mut SimProvider, &mut StdRng) -> Result<bool, ProviderFailure>,
    ) -> Result<(), ProviderFailure> {
        if end(&mut world.provider, &mut world.rng)? {
            if world.has_lease(machine) {
                world.violation = Some(format!("machine {machine} was ended, whose worker holds a lease"));
            }
            world.kill_worker(machine, now);
        }
        Ok(())
    }

    fn only_where_it_can(world: &mut World) {
        if !world.provider.capabilities.can_stop_and_start {
            world.violation = Some("this provider can neither stop nor start machines".to_owned());
        }
    }
}

fn failed(failure: ProviderFailure) -> ProviderError {
    ProviderError { message: format!("{failure:?}"), failure }
}

impl MachineProvider for Api<'_> {
    fn words() -> &'static ProviderWords {
        &WORDS
    }

    fn price_per_hour(_: MachineSize) -> Option<MicroDollars> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        self.world.borrow().provider.capabilities
    }

    async fn list(&self) -> Result<Vec<Machine>, ProviderError> {
        let world = &mut **self.world.borrow_mut();
        if world.provider.list_fails(&mut world.rng, self.now) {
            return Err(failed(ProviderFailure::Unavailable));
        }
        Ok(world.provider.list(&mut world.rng, self.now))
    }

    async fn create(&self, order: &MachineOrder<'_>) -> Result<Machine, ProviderError> {
        self.write(
            |report| &mut report.creates,
            Some(order.region),
            |world, now| world.provider.create(&mut world.rng, order, now),
        )
    }

    async fn start(&self, machine: &MachineId) -> Result<(), ProviderError> {
        self.write(
            |report| &mut report.starts,
            Some("here"),
            |world, now| {
                Self::only_where_it_can(world);
                world.provider.start(&mut world.rng, machine, now)
            },
        )
    }

    async fn stop(&self, machine: &MachineId) -> Result<(), ProviderError> {
        self.write(
            |report| &mut report.stops,
            None,
            |world, now| {
                Self::only_where_it_can(world);
                Self::ends(world, machine, now, |provider, rng| provider.stop(rng, machine, now))
            },
        )
    }

    async fn destroy(&self, machine: &MachineId, force: bool) -> Result<(), ProviderError> {
        self.write(
            |report| &mut report.destroys,
            None,
            |world, now| {
                Self::ends(world, machine, now, |provider, rng| provider.destroy(rng, machine, force, now))
            },
        )
    }
}

/// The request reaches the provider, which answers at once.
fn ask(action: &PlannedOperation, world: &mut World, now: u64) -> Result<Outcome, String> {
    let policy = world.policy.clone();
    let api = Api { world: RefCell::new(world), now };
    let answer = carry_out(&api, &action.act, &policy, &BTreeMap::new()).now_or_never();
    let answer = answer.ok_or("the provider did not answer at once")?;
    match world.violation.take() {
        Some(violation) => Err(format!("{}: {violation}", action.act.kind())),
        None => Ok(answer.map_or_else(|error| error.outcome(), |made| Outcome::Done(made.map(|m| m.id)))),
    }
}
