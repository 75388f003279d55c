//! The simulated provider's implementation of [`MachineProvider`].

use std::cell::RefCell;

use rand::rngs::StdRng;

use super::Report;
use super::provider::SimProvider;
use super::world::World;
use crate::controller::fleet::{
    Capabilities, Machine, MachineId, MachineOrder, MachineProvider, MachineSize, MicroDollars,
    ProviderError, ProviderFailure, ProviderWords,
};

/// The provider at one moment.
pub(super) struct Api<'a> {
    world: RefCell<&'a mut World>,
    now: u64,
}

/// The messages of the simulated provider: they are empty because no person reads them.
pub(crate) const WORDS: ProviderWords = ProviderWords {
    name: "the simulation",
    list_refused: "",
    writes_refused: "",
    no_such_app: "",
    billing: "",
    quota: "",
    no_capacity: "",
    launches_failing: "",
    workers_not_registering: "",
    workers_without_classes: "",
};

/// Selects the counter of a write in the report.
type Counter = fn(&mut Report) -> &mut u32;

impl<'a> Api<'a> {
    pub(crate) const fn new(world: &'a mut World, now: u64) -> Self {
        Self { world: RefCell::new(world), now }
    }

    /// Performs a write. It is counted, may be refused, and its response may be lost.
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

    /// Stops or destroys a machine. It is a violation if a worker on it holds a lease.
    fn ends(
        world: &mut World,
        machine: &MachineId,
        now: u64,
        end: impl FnOnce(&mut SimProvider, &mut StdRng) -> Result<bool, ProviderFailure>,
    ) -> Result<(), ProviderFailure> {
        if end(&mut world.provider, &mut world.rng)? {
            if world.has_lease(machine) {
                world.violation = Some(format!("machine {machine} was ended while its worker held a lease"));
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
            |world, now| {
                let made = world.provider.create(&mut world.rng, order, now)?;
                world.report.created_cpus.push(order.size.cpus);
                Ok(made)
            },
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
