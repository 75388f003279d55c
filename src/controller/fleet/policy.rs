//! What the operator wants of the fleet, read from the environment. What is a provider's own of it, such as its
//! sizes, the provider reads.

use std::num::NonZeroU32;
use std::time::Duration;

use super::machine::{MachineDisk, MachineSize};
use super::price::MicroDollars;
use super::provider::{Capabilities, MachineProvider};
use crate::config::registry::{
    FLEET_BUDGET_USD_PER_HOUR, FLEET_LAUNCH_FAILURES, FLEET_PAUSED, FLEET_PRICE_USD_PER_HOUR,
    FLEET_STRICT_REGIONS, JOBS_PER_MACHINE, MAX_MACHINES, MIN_MACHINES, WORKER_IDLE_TIMEOUT,
};
use crate::config::{ConfigError, ConfigErrors, Env, Setting};

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetPolicy {
    /// The app, as the provider calls the group of machines; their names begin with it.
    pub app: String,
    /// Their image.
    pub image: String,
    /// Their size.
    pub size: MachineSize,
    /// Their disk, and how large inputs may be so that they fit on it. None: whatever the provider gives, and
    /// workers look at the free space alone.
    pub disk: Option<MachineDisk>,
    /// Where they are made, most wanted first.
    pub regions: Vec<String>,
    /// Whether a machine may be made anywhere once every region of the list is full.
    pub any_region: bool,
    /// So many machines are always up.
    pub min: u32,
    /// So many exist at most, at rest or not.
    pub max: u32,
    /// So many waiting jobs are worth one machine.
    pub jobs_per_machine: NonZeroU32,
    /// A worker leaves by itself after this long without a job; zero: never.
    pub idle_timeout: Duration,
    /// At most so many dollars an hour; none: no limit.
    pub budget: Option<MicroDollars>,
    /// What an hour of one machine costs.
    pub price: Option<MicroDollars>,
    /// Observe and say what would be done, but do nothing.
    pub paused: bool,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// After so many launches in a row that brought no worker, no more are made.
    pub launch_failures: u32,
    /// What can be asked of the provider. The reconciler takes it from the provider itself.
    pub capabilities: Capabilities,
}

/// The region of a machine that may be made anywhere.
pub const ANY_REGION: &str = "any";

/// How long things may take before they count as wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// A list this old is no ground for a write.
    pub list: Duration,
    /// With machines up, look at least this often. Heartbeats tell more, and cost no call.
    pub tick: Duration,
    /// After a look failed.
    pub retry: Duration,
    /// Until the outcome of a create or a start must show in a list.
    pub settle: Duration,
    /// From started to the worker's first heartbeat.
    pub boot: Duration,
    /// From the worker's leaving to the machine's rest.
    pub leave: Duration,
    /// An idle worker overdue this long is told to leave.
    pub idle_grace: Duration,
    /// A transient state.
    pub stuck: Duration,
    /// The state `updating`, which may copy an image.
    pub updating: Duration,
    /// Between two tries to set a machine right.
    pub repair: Duration,
    /// A host that cannot be reached.
    pub unreachable: Duration,
    /// Provider and heartbeat contradict each other.
    pub dispute: Duration,
    /// Many machines missing from the list at once.
    pub guard: Duration,
    /// A region that is full.
    pub region: Duration,
    /// After too many launches failed, the quota was reached, or the token was refused.
    pub hold: Duration,
    /// Between two machines told to leave.
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
    /// The defaults, for this app and image.
    #[must_use]
    pub fn new(app: &str, image: &str) -> Self {
        Self {
            app: app.to_owned(),
            image: image.to_owned(),
            price: None,
            size: MachineSize::default(),
            disk: None,
            regions: vec![ANY_REGION.to_owned()],
            any_region: true,
            min: MIN_MACHINES.default_value().unwrap_or_default(),
            max: MAX_MACHINES.default_value().unwrap_or_default(),
            jobs_per_machine: JOBS_PER_MACHINE
                .default_value()
                .and_then(NonZeroU32::new)
                .unwrap_or(NonZeroU32::MIN),
            idle_timeout: WORKER_IDLE_TIMEOUT.default_value().unwrap_or_default(),
            budget: None,
            paused: false,
            deadlines: Deadlines::default(),
            launch_failures: FLEET_LAUNCH_FAILURES.default_value().unwrap_or_default(),
            capabilities: Capabilities { can_stop_and_start: true },
        }
    }

    /// Reads what holds for every provider: `FLEET_STRICT_REGIONS`, `MIN_MACHINES`, `MAX_MACHINES`,
    /// `JOBS_PER_MACHINE`, `WORKER_IDLE_TIMEOUT`, `FLEET_BUDGET_USD_PER_HOUR`, `FLEET_PRICE_USD_PER_HOUR`,
    /// `FLEET_LAUNCH_FAILURES`, `FLEET_PAUSED`. The rest is as `own` has it, which the provider has read.
    ///
    /// # Errors
    /// The settings that are wrong.
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

    /// How many machines may run for the budget.
    #[must_use]
    pub fn affordable(&self) -> u32 {
        match (self.budget, self.price) {
            (Some(budget), Some(price)) if price.0 > 0 => {
                u32::try_from(budget.0 / price.0).unwrap_or(u32::MAX)
            }
            _ => u32::MAX,
        }
    }
}

/// The price of a machine and the budget, where they are known and set; `least` machines must fit into the budget.
fn read_money<P: MachineProvider>(
    env: &Env<'_>,
    own: &FleetPolicy,
    least: u32,
) -> Result<(Option<MicroDollars>, Option<MicroDollars>), ConfigError> {
    let budget = dollars(env, &FLEET_BUDGET_USD_PER_HOUR)?;
    let price = dollars(env, &FLEET_PRICE_USD_PER_HOUR)?.or_else(|| P::price_per_hour(own.size));
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
