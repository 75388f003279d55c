//! The driver's host in virtual time: one request in flight, a shared limit of one request a second, and a lock with
//! a fencing epoch. Effects on Redis take no time; requests to the provider do.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use rand::RngExt as _;

use super::api::{Api, WORDS};
use super::world::World;
use crate::controller::fleet::{Machine, MachineProvider as _, Operation, ProviderError, carry_out};
use crate::controller::reconciler::driver::{Driver, DriverState, MAX_SLEEP};
use crate::controller::reconciler::effect::{Effect, EffectResult};
use crate::controller::reconciler::event_loop::HOLD;
use crate::job::Millis;
use crate::queue::{FencingToken, LockOutcome, Permit, RequestClass, RetireOutcome};

/// The rate limit of all reconcilers together: one request a second.
#[derive(Default)]
pub(super) struct Limiter {
    next: u64,
    last: Option<u64>,
}

impl Limiter {
    pub(crate) fn acquire(&mut self, now: u64) -> Permit {
        if now < self.next {
            return Permit::Wait(at(self.next - now));
        }
        self.next = now + 1000;
        Permit::Go { at: Millis(i64::try_from(now).unwrap_or(i64::MAX)) }
    }

    /// Records that the provider throttles requests.
    pub(crate) fn throttle(&mut self, retry_after: Option<Duration>, now: u64) {
        self.next = self.next.max(now + ms(retry_after.unwrap_or_default()));
    }

    /// Records that a request is sent.
    pub(crate) fn send(&mut self, now: u64) -> Result<(), String> {
        if self.last.is_some_and(|last| now < last + 1000) {
            return Err("two requests within a second".to_owned());
        }
        self.last = Some(now);
        Ok(())
    }
}

/// The fleet lock, with the rules of `fleet_lock.lua`.
#[derive(Default)]
pub(super) struct Lock {
    holder: Option<u8>,
    until: u64,
    epoch: u64,
}

impl Lock {
    pub(crate) fn acquire(
        &mut self,
        name: u8,
        hold: Duration,
        now: u64,
        fresh: bool,
        insist: bool,
    ) -> LockOutcome {
        let mine = self.holder == Some(name);
        if self.holder.is_some() && !mine {
            if self.until > now {
                return LockOutcome::Held(at(self.until - now));
            }
            if !insist {
                return LockOutcome::Lapsed(at(now - self.until));
            }
        }
        if fresh || !mine {
            self.epoch += 1;
        }
        (self.holder, self.until) = (Some(name), now + ms(hold));
        LockOutcome::Mine(self.token(name))
    }

    fn token(&self, name: u8) -> FencingToken {
        FencingToken { holder: name.to_string(), epoch: self.epoch }
    }

    pub(crate) fn is_held_by(&self, name: u8) -> bool {
        self.holder == Some(name)
    }

    /// Whether the lock is held with this token, and has not expired, as `holds_lock` in `lib.lua` checks it.
    pub(crate) fn is_held_with(&self, name: u8, fence: Option<&FencingToken>, now: u64) -> bool {
        self.holder == Some(name) && fence == Some(&self.token(name)) && self.until > now
    }
}

/// An effect that takes time.
enum InFlight {
    List,
    Call(Box<Result<Option<Machine>, ProviderError>>),
    /// The process is suspended before it performs this effect.
    Suspended(Effect),
}

/// A process that runs a driver.
pub(super) struct Host {
    name: u8,
    driver: Driver,
    in_flight: Option<(InFlight, u64)>,
    wakes_at: u64,
    settled: bool,
}

pub(super) const fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Host {
    pub(crate) fn new(name: u8, world: &World) -> Self {
        let driver = Driver::new(&WORDS, world.policy.clone(), World::ALIVE, DriverState::default());
        Self { name, driver, in_flight: None, wakes_at: 0, settled: false }
    }

    pub(crate) fn wakes_at(&self) -> u64 {
        self.in_flight.as_ref().map_or(self.wakes_at, |(_, done)| *done)
    }

    /// Whether this host holds the lock and has nothing left to do.
    pub(crate) fn is_quiet(&self, lock: &Lock) -> bool {
        self.settled && lock.is_held_by(self.name) && self.in_flight.is_none()
    }

    /// Performs all effects that are possible now.
    pub(crate) fn turn(
        &mut self,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &mut Lock,
        now: u64,
    ) -> Result<(), String> {
        if let Some((in_flight, done)) = self.in_flight.take() {
            if done > now {
                self.in_flight = Some((in_flight, done));
                return Ok(());
            }
            let answer = match in_flight {
                InFlight::List => Some(EffectResult::Listed(list(world, now)?)),
                InFlight::Call(answer) => Some(EffectResult::Called(*answer)),
                InFlight::Suspended(effect) => self.carry_out(effect, world, limiter, lock, now)?,
            };
            let Some(answer) = answer else { return Ok(()) };
            self.driver.on(answer, at(now));
        }
        for _ in 0..256 {
            let effect = self.driver.next(at(now));
            if let Effect::Wait { at_most, settled } = effect {
                self.settled = settled;
                self.wakes_at = now + ms(at_most.unwrap_or(MAX_SLEEP)).max(1);
                return Ok(());
            }
            let writes = matches!(effect, Effect::AcquirePermit(class) if class != RequestClass::List);
            if writes && now < world.faults_until && world.stall > 0.0 && world.rng.random_bool(world.stall) {
                let wakes = now + world.rng.random_range(1_000..40_000);
                self.in_flight = Some((InFlight::Suspended(effect), wakes));
                return Ok(());
            }
            let Some(answer) = self.carry_out(effect, world, limiter, lock, now)? else { return Ok(()) };
            let unavailable = matches!(answer, EffectResult::QueueUnavailable);
            self.driver.on(answer, at(now));
            if unavailable {
                self.settled = false;
                self.wakes_at = now + world.rng.random_range(200..5_000);
                return Ok(());
            }
        }
        Err("the driver requested 256 effects at one moment".to_owned())
    }

    /// Performs an effect. Returns its answer, or `None` while a request is in flight.
    fn carry_out(
        &mut self,
        effect: Effect,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &mut Lock,
        now: u64,
    ) -> Result<Option<EffectResult>, String> {
        let (in_flight, time) = match effect {
            Effect::List => {
                world.report.lists += 1;
                (InFlight::List, 50..500)
            }
            Effect::Call(operation) => (InFlight::Call(Box::new(call(&operation, world, now)?)), 50..900),
            effect => return Ok(Some(self.ask_redis(&effect, world, limiter, lock, now))),
        };
        limiter.send(now)?;
        self.in_flight = Some((in_flight, now + world.rng.random_range(time)));
        Ok(None)
    }

    fn ask_redis(
        &self,
        effect: &Effect,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &mut Lock,
        now: u64,
    ) -> EffectResult {
        let Some(view) = world.view(now) else { return EffectResult::QueueUnavailable };
        match effect {
            Effect::Observe => EffectResult::Observed(view),
            Effect::AcquireLock { fresh, insist } => {
                EffectResult::Lock(lock.acquire(self.name, HOLD, now, *fresh, *insist))
            }
            Effect::CheckLock => EffectResult::Lock(lock.acquire(self.name, HOLD, now, false, false)),
            Effect::Publish(_) => {
                EffectResult::Published(lock.is_held_with(self.name, self.driver.fence(), now))
            }
            Effect::AcquirePermit(_) => EffectResult::Permit(limiter.acquire(now)),
            Effect::Retire { machine, .. } => EffectResult::Retired(match () {
                () if !lock.is_held_with(self.name, self.driver.fence(), now) => RetireOutcome::Fenced,
                () if world.retire(machine) => RetireOutcome::Retired,
                () => RetireOutcome::Busy,
            }),
            Effect::Readmit(machine) => {
                world.readmit(machine);
                EffectResult::Done
            }
            Effect::ReportThrottled(retry_after) => {
                limiter.throttle(*retry_after, now);
                EffectResult::Done
            }
            Effect::Sweep | Effect::List | Effect::Call(_) | Effect::Wait { .. } => EffectResult::Done,
        }
    }
}

pub(super) fn list(world: &mut World, now: u64) -> Result<Result<Vec<Machine>, ProviderError>, String> {
    let answer = Api::new(world, now).list().now_or_never();
    answer.ok_or_else(|| "the provider did not answer at once".to_owned())
}

/// Sends an operation to the provider, which performs it at once; the response arrives later.
pub(super) fn call(
    operation: &Operation,
    world: &mut World,
    now: u64,
) -> Result<Result<Option<Machine>, ProviderError>, String> {
    let policy = world.policy.clone();
    let answer = carry_out(&Api::new(world, now), operation, &policy, &BTreeMap::new()).now_or_never();
    let answer = answer.ok_or("the provider did not answer at once")?;
    match world.violation.take() {
        Some(violation) => Err(format!("{}: {violation}", operation.kind())),
        None => Ok(answer),
    }
}
