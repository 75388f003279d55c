//! The configuration of the fleet, read from the environment. Settings that only one provider has, such as
//! its machine sizes, are read by the provider.

use std::num::NonZeroU32;
use std::time::Duration;

use super::machine::MachineDisk;
use super::price::MicroDollars;
use super::provider::{Capabilities, MachineProvider};
use super::size::{MachineSize, Offer, Purse, Sizes};
use crate::config::registry::{
    FLEET_BUDGET_USD_PER_HOUR, FLEET_LAUNCH_FAILURES, FLEET_PAUSED, FLEET_PRICE_USD_PER_HOUR,
    FLEET_STRICT_REGIONS, JOBS_PER_MACHINE, MAX_MACHINES, MIN_MACHINES, WORKER_CHUNKS, WORKER_CLASSES,
    WORKER_IDLE_TIMEOUT,
};
use crate::config::{ConfigError, ConfigErrors, Env, Setting};
use crate::job::{Millis, WorkerClasses};

/// The configuration of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetPolicy {
    /// The app: the provider's name for the group of machines. The names of the machines begin with it.
    pub app: String,
    /// The WorkerPool that configures the fleet, as namespace/name, if there is one.
    pub pool: Option<String>,
    /// The place among several fleets of a queue: the higher makes machines first.
    pub priority: i32,
    /// When its pool was made: of two fleets with the same priority the older one makes machines first.
    pub since: Millis,
    /// The worker image of the machines.
    pub image: String,
    /// The sizes of the machines.
    pub sizes: Sizes,
    /// The disk of the machines, and the largest input that fits on it. Without it, machines have the
    /// provider's default disk, and workers only check the free space.
    pub disk: Option<MachineDisk>,
    /// The largest input in bytes that workers accept, where it is known without `disk`. It is told to those who submit
    /// jobs; machines are not made anew because of it.
    pub max_input: Option<u64>,
    /// The revision of what only the provider knows of a machine; machines of other revisions are replaced.
    pub revision: Option<String>,
    /// The classes of the jobs that the machines take.
    pub classes: WorkerClasses,
    /// The regions of the machines, by preference.
    pub regions: Vec<String>,
    /// Whether machines may be created in any other region once all these are full.
    pub any_region: bool,
    /// Minimum number of running machines.
    pub min: u32,
    /// Maximum number of machines, running or stopped.
    pub max: u32,
    /// Number of waiting jobs per additional machine.
    pub jobs_per_machine: NonZeroU32,
    /// Number of chunks of split videos that a machine's worker encodes at once; `None` means one for each CPU.
    pub chunks: Option<NonZeroU32>,
    /// How long a worker waits for a job before it exits; zero means forever.
    pub idle_timeout: Duration,
    /// Maximum cost of running machines in dollars an hour; `None` means no limit.
    pub budget: Option<MicroDollars>,
    /// The price of one running machine of the size for jobs per hour, if known. That of others is in proportion to
    /// their CPUs.
    pub price: Option<MicroDollars>,
    /// Observe and report the planned operations, but carry out none.
    pub paused: bool,
    /// Time limits after which a state counts as wrong.
    pub deadlines: Deadlines,
    /// Number of consecutive launches without a worker after which the fleet pauses launching.
    pub launch_failures: u32,
    /// What the provider supports. The reconciler sets it from the provider.
    pub capabilities: Capabilities,
}

/// How long the worker of a larger machine waits at most.
const LARGER_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The region name that lets the provider choose the region.
pub const ANY_REGION: &str = "any";

/// Time limits: how long a state may last before the plan acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Maximum age of a list that writes are based on.
    pub list: Duration,
    /// Maximum time between lists while machines run. Heartbeats carry more information and cost no request.
    pub tick: Duration,
    /// Delay after a failed list.
    pub retry: Duration,
    /// Time until the outcome of a create or a start must appear in a list.
    pub settle: Duration,
    /// Time from `started` to the worker's first heartbeat.
    pub boot: Duration,
    /// Time from the worker's exit to the machine being stopped.
    pub leave: Duration,
    /// How long an idle worker may exceed its idle timeout before it is retired.
    pub idle_grace: Duration,
    /// Maximum time in a transitional phase.
    pub stuck: Duration,
    /// Maximum time in the phase `updating`, which may copy an image.
    pub updating: Duration,
    /// Initial delay between two attempts to repair a machine.
    pub repair: Duration,
    /// How long to wait for an unreachable host.
    pub unreachable: Duration,
    /// How long the list and the heartbeat may contradict each other.
    pub dispute: Duration,
    /// How long to distrust a list in which many machines are suddenly missing.
    pub guard: Duration,
    /// How long to avoid a region that is full.
    pub region: Duration,
    /// Pause after too many failed launches, an exhausted quota, or a refused token.
    pub hold: Duration,
    /// Minimum time between two retired machines.
    pub scale_in: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            list: s(30),
            tick: s(300),
            retry: s(5),
            settle: s(30),
            boot: s(120),
            leave: s(60),
            idle_grace: s(60),
            stuck: s(300),
            updating: s(600),
            repair: s(60),
            unreachable: s(300),
            dispute: s(15),
            guard: s(60),
            region: s(120),
            hold: s(600),
            scale_in: s(30),
        }
    }
}

impl FleetPolicy {
    /// The defaults for this app and image.
    #[must_use]
    pub fn new(app: &str, image: &str) -> Self {
        Self {
            app: app.to_owned(),
            pool: None,
            priority: 0,
            // After all pools with the same priority.
            since: Millis(i64::MAX),
            image: image.to_owned(),
            price: None,
            sizes: Sizes::default(),
            disk: None,
            max_input: None,
            revision: None,
            classes: WorkerClasses::default(),
            regions: vec![ANY_REGION.to_owned()],
            any_region: true,
            min: MIN_MACHINES.default_value().unwrap_or_default(),
            max: MAX_MACHINES.default_value().unwrap_or_default(),
            jobs_per_machine: JOBS_PER_MACHINE
                .default_value()
                .and_then(NonZeroU32::new)
                .unwrap_or(NonZeroU32::MIN),
            chunks: None,
            idle_timeout: WORKER_IDLE_TIMEOUT.default_value().unwrap_or_default(),
            budget: None,
            paused: false,
            deadlines: Deadlines::default(),
            launch_failures: FLEET_LAUNCH_FAILURES.default_value().unwrap_or_default(),
            capabilities: Capabilities { can_stop_and_start: true },
        }
    }

    /// Reads the settings that apply to every provider: `FLEET_STRICT_REGIONS`, `MIN_MACHINES`,
    /// `MAX_MACHINES`, `JOBS_PER_MACHINE`, `WORKER_CHUNKS`, `WORKER_CLASSES`, `WORKER_IDLE_TIMEOUT`, `FLEET_BUDGET_USD_PER_HOUR`,
    /// `FLEET_PRICE_USD_PER_HOUR`, `FLEET_LAUNCH_FAILURES`, `FLEET_PAUSED`. Everything else is taken from
    /// `own`, which the provider has read.
    ///
    /// # Errors
    /// The invalid settings.
    pub fn read<P: MachineProvider>(env: &Env<'_>, own: Self) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let min = errors.keep(env.require(&MIN_MACHINES));
        let max = errors.keep(env.require(&MAX_MACHINES));
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            let why = format!("it is {min}, more than {}, {max}", env.name_of(&MAX_MACHINES));
            errors.push(env.invalid(&MIN_MACHINES, why));
        }
        let money = errors.keep(read_money::<P>(env, &own, min.unwrap_or_default().max(1)));
        let strict_regions = errors.keep(env.require(&FLEET_STRICT_REGIONS));
        let jobs_per_machine = errors.keep(env.require(&JOBS_PER_MACHINE));
        let chunks = errors.keep(env.get(&WORKER_CHUNKS)).flatten();
        let classes = errors.keep(env.require(&WORKER_CLASSES));
        let idle_timeout = errors.keep(env.require(&WORKER_IDLE_TIMEOUT));
        let paused = errors.keep(env.require(&FLEET_PAUSED));
        let launch_failures = errors.keep(env.require(&FLEET_LAUNCH_FAILURES));
        let read = || {
            let (price, budget) = money?;
            Some(Self {
                any_region: !strict_regions?,
                min: min?,
                max: max?,
                jobs_per_machine: NonZeroU32::new(jobs_per_machine?)?,
                chunks: chunks.and_then(NonZeroU32::new),
                classes: classes?,
                idle_timeout: idle_timeout?,
                budget,
                price,
                paused: paused?,
                launch_failures: launch_failures?,
                ..own
            })
        };
        errors.finish(read())
    }

    /// The number of chunks of split videos that the worker of a machine of this size encodes at once.
    #[must_use]
    pub fn chunks_on(&self, size: MachineSize) -> u32 {
        self.chunks.map_or(size.cpus, NonZeroU32::get).max(1)
    }

    /// How long the worker of a machine of this size waits for a job before it exits; zero means forever. Larger
    /// machines are made for parts that wait already: one that comes too late for them, or that finished the video,
    /// would cost more while it waits than while it worked.
    #[must_use]
    pub fn idle_timeout_on(&self, size: MachineSize) -> Duration {
        let larger = size != self.sizes.base();
        if larger { self.idle_timeout.min(LARGER_IDLE_TIMEOUT) } else { self.idle_timeout }
    }

    /// The largest input in bytes that the workers accept, if it is known.
    #[must_use]
    pub fn largest_input(&self) -> Option<u64> {
        self.disk.map(|disk| disk.max_input).or(self.max_input)
    }

    /// The price of one running machine of this size per hour, if known.
    #[must_use]
    pub fn price_of(&self, size: MachineSize) -> Option<MicroDollars> {
        let base = self.sizes.base().cpus.max(1);
        self.price.map(|price| MicroDollars(price.times(size.cpus.into()).0 / u64::from(base)))
    }

    /// What a size, which need not be one of the policy's, means to the plan.
    pub(super) fn offer(&self, size: MachineSize) -> Offer {
        Offer { size, chunks: self.chunks_on(size), price: self.price_of(size) }
    }

    /// The number of running machines of the size for jobs that the budget allows.
    #[must_use]
    pub fn affordable(&self) -> u32 {
        let most = Purse(self.budget).affords(&self.offer(self.sizes.base()));
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}

/// Reads the price of a machine and the budget, each if known. The budget must suffice for `least` machines.
fn read_money<P: MachineProvider>(
    env: &Env<'_>,
    own: &FleetPolicy,
    least: u32,
) -> Result<(Option<MicroDollars>, Option<MicroDollars>), ConfigError> {
    let budget = dollars(env, &FLEET_BUDGET_USD_PER_HOUR)?;
    let price = dollars(env, &FLEET_PRICE_USD_PER_HOUR)?.or_else(|| P::price_per_hour(own.sizes.base()));
    let Some(limit) = budget else { return Ok((price, None)) };
    match price {
        Some(price) if price.0 > 0 => {
            let cost = price.times(u64::from(least));
            if limit < cost {
                let why = format!("{least} machines cost {cost} an hour, more than this");
                return Err(env.invalid(&FLEET_BUDGET_USD_PER_HOUR, why));
            }
            Ok((Some(price), budget))
        }
        _ => {
            let why = "a budget needs the price of a machine's hour, and this size is in no price list";
            Err(env.invalid(&FLEET_PRICE_USD_PER_HOUR, why))
        }
    }
}

fn dollars(env: &Env<'_>, setting: &Setting<f64>) -> Result<Option<MicroDollars>, ConfigError> {
    let Some(number) = env.get(setting)? else { return Ok(None) };
    let why = || env.invalid(setting, "it must be a number of dollars, such as 1.50");
    MicroDollars::from_dollars(number).map(Some).ok_or_else(why)
}
