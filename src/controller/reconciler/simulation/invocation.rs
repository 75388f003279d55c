//! The driver's host in consecutive short invocations, in virtual time: each continues from the state that the last one
//! saved, sends a few requests, and may be cut off.

use rand::RngExt as _;

use super::api::WORDS;
use super::host::{Limiter, Lock, at, call, list, ms};
use super::world::World;
use crate::controller::fleet::{Machine, MachineId, Operation, ProviderError};
use crate::controller::reconciler::driver::{Driver, DriverState, TAKEOVER_BUSY, TAKEOVER_IDLE};
use crate::controller::reconciler::effect::{Effect, EffectResult};
use crate::controller::reconciler::one_shot::{HOLD, HOLD_ON};
use crate::queue::{FencingToken, FleetView, LockOutcome, Permit, RetireOutcome};

/// Maximum number of requests to the provider in one invocation.
const REQUESTS: u32 = 3;
/// The interval of the timer that starts invocations.
const CRON_MS: u64 = 60_000;

/// An effect that takes time.
enum InFlight {
    List,
    Call(Box<Result<Option<Machine>, ProviderError>>),
    /// The wait for the next permit; a new snapshot follows it.
    Permit,
}

/// A running invocation.
struct Invocation {
    driver: Driver,
    fence: FencingToken,
    view: FleetView,
    permit: Permit,
    requests: u32,
    /// The operation that was saved as done before it was performed.
    intent: Option<Operation>,
    saved: bool,
    in_flight: Option<(InFlight, u64)>,
}

/// Consecutive invocations and the state that each saves for the next.
pub(super) struct Invocations {
    name: u8,
    state: String,
    current: Option<Invocation>,
    wakes_at: u64,
    settled: bool,
}

impl Invocation {
    fn session(&mut self, readmitted: Option<MachineId>, now: u64) {
        let (view, fence, permit) = (self.view.clone(), self.fence.clone(), self.permit);
        self.driver.on(EffectResult::Session { view, fence, permit, readmitted }, at(now));
    }
}

impl Invocations {
    pub(crate) const fn new(name: u8) -> Self {
        Self { name, state: String::new(), current: None, wakes_at: 0, settled: false }
    }

    pub(crate) fn wakes_at(&self) -> u64 {
        let in_flight = self.current.as_ref().and_then(|run| run.in_flight.as_ref());
        in_flight.map_or(self.wakes_at, |(_, done)| *done)
    }

    pub(crate) fn is_quiet(&self, lock: &Lock) -> bool {
        self.settled && self.current.is_none() && lock.is_held_by(self.name)
    }

    /// Handles an event, the timer, or the end of the effect in flight.
    pub(crate) fn turn(
        &mut self,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &mut Lock,
        now: u64,
    ) -> Result<(), String> {
        match self.current.as_mut().and_then(|run| run.in_flight.take()) {
            Some((in_flight, done)) if done > now => {
                if let Some(run) = &mut self.current {
                    run.in_flight = Some((in_flight, done));
                }
                return Ok(());
            }
            Some((in_flight, _)) => self.land(in_flight, world, limiter, lock, now)?,
            None => self.begin(world, limiter, lock, now),
        }
        for _ in 0..256 {
            if self.current.is_none() || !self.step(world, limiter, lock, now)? {
                return Ok(());
            }
        }
        Err("an invocation had 256 effects at one moment".to_owned())
    }

    fn begin(&mut self, world: &World, limiter: &mut Limiter, lock: &mut Lock, now: u64) {
        self.wakes_at = now + CRON_MS;
        let Some(view) = world.view_of_own_classes(now) else { return };
        let takeover = if view.has_work() { TAKEOVER_BUSY } else { TAKEOVER_IDLE };
        let outcome = match lock.acquire(self.name, HOLD, now, true, false) {
            LockOutcome::Lapsed(ago) if ago >= takeover => lock.acquire(self.name, HOLD, now, true, true),
            outcome => outcome,
        };
        let LockOutcome::Mine(fence) = outcome else { return };
        let state: DriverState = serde_json::from_str(&self.state).unwrap_or_default();
        let driver = Driver::new(&WORDS, world.policy.clone(), World::ALIVE, state);
        let permit = limiter.acquire(now);
        let mut run = Invocation {
            driver,
            fence,
            view,
            permit,
            requests: 0,
            intent: None,
            saved: false,
            in_flight: None,
        };
        run.session(None, now);
        self.current = Some(run);
    }

    /// Handles the end of the effect in flight.
    fn land(
        &mut self,
        in_flight: InFlight,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &mut Lock,
        now: u64,
    ) -> Result<(), String> {
        let Some(run) = &mut self.current else { return Ok(()) };
        let answer = match in_flight {
            InFlight::Permit => return self.look_again(world, limiter, lock, now),
            InFlight::List => {
                run.saved = false;
                EffectResult::Listed(list(world, now)?)
            }
            InFlight::Call(answer) => {
                run.saved &= answer.is_ok() && run.driver.operation() == run.intent.as_ref();
                EffectResult::Called(*answer)
            }
        };
        run.driver.on(answer, at(now));
        if now < world.faults_until && world.stall > 0.0 && world.rng.random_bool(world.stall) {
            // The platform cuts the invocation off.
            self.current = None;
        }
        Ok(())
    }

    fn look_again(
        &mut self,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &mut Lock,
        now: u64,
    ) -> Result<(), String> {
        let Some(mut run) = self.current.take() else { return Ok(()) };
        let Some(view) = world.view_of_own_classes(now) else { return Ok(()) };
        if lock.is_held_with(self.name, Some(&run.fence), now) {
            self.state = checkpoint(&run.driver, true, now)?;
        }
        let starts = match run.driver.operation() {
            Some(Operation::Start { machine }) => Some(machine.clone()),
            _ => None,
        };
        let held = lock.acquire(self.name, HOLD_ON, now, false, false);
        if held != LockOutcome::Mine(run.fence.clone()) {
            return Ok(());
        }
        (run.intent, run.saved) = (run.driver.operation().cloned(), true);
        (run.view, run.permit) = (view, limiter.acquire(now));
        if let (Permit::Go { .. }, Some(machine)) = (run.permit, &starts) {
            world.readmit(machine);
        }
        run.session(starts, now);
        self.current = Some(run);
        Ok(())
    }

    /// Performs the next effect. Returns whether another one follows at this moment.
    fn step(
        &mut self,
        world: &mut World,
        limiter: &mut Limiter,
        lock: &Lock,
        now: u64,
    ) -> Result<bool, String> {
        let Some(run) = &mut self.current else { return Ok(false) };
        let effect = run.driver.next(at(now));
        let is_request = matches!(effect, Effect::AcquirePermit(_) | Effect::List | Effect::Call(_));
        let answer = match effect {
            _ if is_request && run.requests >= REQUESTS => return self.end(false, world, lock, now),
            Effect::Observe => {
                run.session(None, now);
                return Ok(true);
            }
            Effect::AcquireLock { .. } | Effect::CheckLock => {
                EffectResult::Lock(LockOutcome::Mine(run.fence.clone()))
            }
            Effect::Publish(_) => EffectResult::Published(true),
            Effect::Wait { settled, .. } => return self.end(settled, world, lock, now),
            Effect::AcquirePermit(_) => {
                let wait = if let Permit::Wait(wait) = run.permit { ms(wait) } else { 0 };
                run.in_flight = Some((InFlight::Permit, now + wait.max(1)));
                return Ok(false);
            }
            Effect::Retire { .. } | Effect::Readmit(_) if world.view(now).is_none() => {
                self.current = None;
                return Ok(false);
            }
            Effect::Retire { machine, .. } => {
                let held = lock.is_held_with(self.name, Some(&run.fence), now);
                let retired = held && world.retire(&machine);
                run.saved &= retired && run.intent.as_ref() == run.driver.operation();
                EffectResult::Retired(match (held, retired) {
                    (false, _) => RetireOutcome::Fenced,
                    (true, true) => RetireOutcome::Retired,
                    (true, false) => RetireOutcome::Busy,
                })
            }
            Effect::Readmit(machine) => {
                world.readmit(&machine);
                EffectResult::Done
            }
            Effect::ReportThrottled(retry_after) => {
                limiter.throttle(retry_after, now);
                EffectResult::Done
            }
            Effect::Sweep => EffectResult::Done,
            Effect::List => {
                world.report.lists += 1;
                run.request(InFlight::List, world, limiter, now)?;
                return Ok(false);
            }
            Effect::Call(operation) => {
                let answer = call(&operation, world, now)?;
                run.request(InFlight::Call(Box::new(answer)), world, limiter, now)?;
                return Ok(false);
            }
        };
        let fenced = matches!(answer, EffectResult::Retired(RetireOutcome::Fenced));
        run.driver.on(answer, at(now));
        if fenced {
            self.current = None;
        }
        Ok(!fenced)
    }

    fn end(&mut self, settled: bool, world: &World, lock: &Lock, now: u64) -> Result<bool, String> {
        self.settled = settled;
        if let Some(run) = self.current.take()
            && !run.saved
            && world.view(now).is_some()
            && lock.is_held_with(self.name, Some(&run.fence), now)
        {
            self.state = checkpoint(&run.driver, false, now)?;
        }
        Ok(false)
    }
}

impl Invocation {
    fn request(
        &mut self,
        in_flight: InFlight,
        world: &mut World,
        limiter: &mut Limiter,
        now: u64,
    ) -> Result<(), String> {
        limiter.send(now)?;
        self.requests += 1;
        self.permit = Permit::Wait(at(1000));
        self.in_flight = Some((in_flight, now + world.rng.random_range(50..900)));
        Ok(())
    }
}

fn checkpoint(driver: &Driver, intent: bool, now: u64) -> Result<String, String> {
    let (_, state) = driver.checkpoint(intent, at(now)).ok_or("an invocation has nothing to save")?;
    serde_json::to_string(&state).map_err(|error| error.to_string())
}
