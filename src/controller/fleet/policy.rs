//! What the operator wants of the fleet, read from the environment.

use std::num::NonZeroU32;
use std::time::Duration;

use super::disk::MachineDisk;
use super::price::{MicroDollars, list_price_per_hour};
use crate::config::registry::{FLEET_PAUSED, FLEET_STRICT_REGIONS, WORKER_IDLE_TIMEOUT};
use crate::config::{ConfigError, Env};
use crate::flyprovider::guest::{Guest, GuestError, NoSuchSize};

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetPolicy {
    /// The Fly app the workers live in.
    pub app: String,
    /// Their image.
    pub image: String,
    /// Their size.
    pub guest: Guest,
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
}

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
    /// Fly and the heartbeat contradict each other.
    pub dispute: Duration,
    /// Many machines missing from the list at once.
    pub guard: Duration,
    /// A region that is full.
    pub region: Duration,
    /// After too many launches failed, the quota was reached, or Fly refused the token.
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
        let guest = Guest::default();
        Self {
            app: app.to_owned(),
            image: image.to_owned(),
            price: list_price_per_hour(guest),
            guest,
            disk: Some(MachineDisk::default()),
            regions: vec!["any".to_owned()],
            any_region: true,
            min: 0,
            max: 10,
            jobs_per_machine: NonZeroU32::MIN,
            idle_timeout: Duration::from_secs(300),
            budget: None,
            paused: false,
            deadlines: Deadlines::default(),
            launch_failures: 3,
        }
    }

    /// Reads `FLY_WORKER_APP`, `FLY_WORKER_IMAGE`, `FLY_WORKER_GUEST` (`performance-2x`),
    /// `FLY_WORKER_MEMORY_MB`, `FLY_WORKER_DISK_GB`, `WORKER_MAX_INPUT_BYTES`, `FLY_WORKER_REGIONS`
    /// (with commas between), `FLEET_STRICT_REGIONS`,
    /// `MIN_MACHINES`, `MAX_MACHINES`, `JOBS_PER_MACHINE`, `WORKER_IDLE_TIMEOUT`,
    /// `FLEET_BUDGET_USD_PER_HOUR`, `FLEET_PRICE_USD_PER_HOUR`, `FLEET_LAUNCH_FAILURES`, `FLEET_PAUSED`.
    ///
    /// # Errors
    /// Names the variable.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let app =
            env.required("FLY_WORKER_APP", "the Fly app of the workers; `fly apps create` makes one")?;
        if !app.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') || app.len() > 52 {
            let why = "an app's name has small letters, digits and dashes only, 52 at most";
            return Err(invalid("FLY_WORKER_APP", why));
        }
        let image = env.required("FLY_WORKER_IMAGE", "the worker image, such as registry.fly.io/app:tag")?;
        let defaults = Self::new(&app, &image);
        let guest = read_guest(env, defaults.guest)?;
        let regions = read_regions(env)?.unwrap_or(defaults.regions);
        let min = whole(env, "MIN_MACHINES", 0, 0)?;
        let max = whole(env, "MAX_MACHINES", 10, 1)?;
        if min > max {
            return Err(invalid("MIN_MACHINES", &format!("it is {min}, more than MAX_MACHINES, {max}")));
        }
        let budget = dollars(env, "FLEET_BUDGET_USD_PER_HOUR")?;
        let own_price = dollars(env, "FLEET_PRICE_USD_PER_HOUR")?;
        let price = own_price.or_else(|| list_price_per_hour(guest));
        if budget.is_some() && price.is_none_or(|p| p.0 == 0) {
            let why = "a budget needs the price of a machine's hour, and this size is in no list";
            return Err(invalid("FLEET_PRICE_USD_PER_HOUR", why));
        }
        if let (Some(budget), Some(price)) = (budget, price)
            && budget < price.times(u64::from(min.max(1)))
        {
            let least = price.times(u64::from(min.max(1)));
            let why = format!("{} machines cost {least} an hour, more than this", min.max(1));
            return Err(invalid("FLEET_BUDGET_USD_PER_HOUR", &why));
        }
        Ok(Self {
            guest,
            disk: Some(MachineDisk::read(env)?),
            regions,
            any_region: !env.require(&FLEET_STRICT_REGIONS)?,
            min,
            max,
            jobs_per_machine: NonZeroU32::new(whole(env, "JOBS_PER_MACHINE", 1, 1)?)
                .unwrap_or(NonZeroU32::MIN),
            idle_timeout: env.require(&WORKER_IDLE_TIMEOUT)?,
            budget,
            price,
            paused: env.require(&FLEET_PAUSED)?,
            launch_failures: whole(env, "FLEET_LAUNCH_FAILURES", 3, 1)?,
            ..defaults
        })
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

fn invalid(name: &'static str, why: &str) -> ConfigError {
    ConfigError::Invalid { name, why: why.to_owned() }
}

/// Fly's own limit on machines of an app lies far below; this one keeps sums and slots small.
const MOST: u32 = 10_000;

fn whole(env: &Env<'_>, name: &'static str, default: u32, least: u32) -> Result<u32, ConfigError> {
    let n = env.parsed(name, &format!("a whole number from {least} to {MOST}"))?.unwrap_or(default);
    if (least..=MOST).contains(&n) {
        return Ok(n);
    }
    Err(invalid(name, &format!("it must be a whole number from {least} to {MOST}")))
}

fn dollars(env: &Env<'_>, name: &'static str) -> Result<Option<MicroDollars>, ConfigError> {
    let what = "a number of dollars, such as 1.50";
    let Some(number) = env.parsed(name, what)? else { return Ok(None) };
    MicroDollars::from_dollars(number).map(Some).ok_or_else(|| invalid(name, &format!("it must be {what}")))
}

fn read_regions(env: &Env<'_>) -> Result<Option<Vec<String>>, ConfigError> {
    let Some(text) = env.text("FLY_WORKER_REGIONS") else { return Ok(None) };
    let regions: Vec<String> =
        text.split(',').map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned).collect();
    let sound = |r: &String| r.len() <= 16 && r.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if regions.is_empty() || !regions.iter().all(sound) {
        return Err(invalid(
            "FLY_WORKER_REGIONS",
            "it must be a region or several with commas, such as iad,dfw",
        ));
    }
    Ok(Some(regions))
}

fn read_guest(env: &Env<'_>, default: Guest) -> Result<Guest, ConfigError> {
    let guest = match env.text("FLY_WORKER_GUEST") {
        Some(size) => {
            size.parse().map_err(|error: NoSuchSize| invalid("FLY_WORKER_GUEST", &error.to_string()))?
        }
        None => default,
    };
    match env.parsed("FLY_WORKER_MEMORY_MB", "a whole number of megabytes")? {
        Some(memory) => guest
            .with_memory(memory)
            .map_err(|error: GuestError| invalid("FLY_WORKER_MEMORY_MB", &error.to_string())),
        None => Ok(guest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<FleetPolicy, ConfigError> {
        let base = [("FLY_WORKER_APP", "clips"), ("FLY_WORKER_IMAGE", "registry.fly.io/clips:1")];
        let all: Vec<_> = pairs.iter().chain(&base).copied().collect();
        FleetPolicy::read(&Env::of(|name| all.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())))
    }

    #[test]
    fn nothing_set_but_the_app_and_the_image_gives_the_defaults() {
        assert_eq!(read(&[]).unwrap(), FleetPolicy::new("clips", "registry.fly.io/clips:1"));
    }

    #[test]
    fn everything_can_be_set() {
        let policy = read(&[
            ("FLY_WORKER_REGIONS", "iad, dfw"),
            ("FLEET_STRICT_REGIONS", "true"),
            ("FLY_WORKER_GUEST", "performance-4x"),
            ("MIN_MACHINES", "2"),
            ("MAX_MACHINES", "20"),
            ("JOBS_PER_MACHINE", "3"),
            ("FLEET_BUDGET_USD_PER_HOUR", "1.00"),
            ("FLEET_PAUSED", "yes"),
            ("FLY_WORKER_DISK_GB", "40"),
        ])
        .unwrap();
        assert_eq!(policy.regions, ["iad", "dfw"]);
        assert_eq!((policy.min, policy.max, policy.jobs_per_machine.get()), (2, 20, 3));
        assert_eq!((policy.guest.cpus(), policy.guest.memory_mb()), (4, 8192));
        assert_eq!(policy.disk.unwrap().size_gb(), 40);
        assert!(policy.paused && !policy.any_region);
        // performance-4x: $0.172224 an hour.
        assert_eq!(policy.affordable(), 5);
    }

    #[test]
    fn what_is_wrong_names_its_variable() {
        for (name, bad) in [
            ("FLY_WORKER_APP", "Clips!"),
            ("FLY_WORKER_REGIONS", ","),
            ("FLY_WORKER_REGIONS", "i&d"),
            ("FLY_WORKER_GUEST", "performance"),
            ("FLY_WORKER_GUEST", "performance-0x"),
            ("FLY_WORKER_GUEST", "performance-3x"),
            ("FLY_WORKER_GUEST", "huge-2x"),
            ("FLY_WORKER_MEMORY_MB", "512"),
            ("FLY_WORKER_MEMORY_MB", "4352"),
            ("FLY_WORKER_MEMORY_MB", "65536"),
            ("FLY_WORKER_MEMORY_MB", "much"),
            ("FLY_WORKER_DISK_GB", "51"),
            ("WORKER_MAX_INPUT_BYTES", "50000000000"),
            ("MAX_MACHINES", "0"),
            ("MAX_MACHINES", "many"),
            ("MAX_MACHINES", "4294967295"),
            ("MIN_MACHINES", "11"),
            ("MIN_MACHINES", "-1"),
            ("JOBS_PER_MACHINE", "0"),
            ("FLEET_BUDGET_USD_PER_HOUR", "-1"),
            ("FLEET_BUDGET_USD_PER_HOUR", "NaN"),
            ("FLEET_BUDGET_USD_PER_HOUR", "0.01"),
            ("FLEET_PAUSED", "perhaps"),
            ("WORKER_IDLE_TIMEOUT", "soon"),
            ("FLEET_LAUNCH_FAILURES", "0"),
        ] {
            let error = read(&[(name, bad)]).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}={bad}: {error}");
        }
        let error = FleetPolicy::read(&Env::of(|_| None)).unwrap_err().to_string();
        assert!(error.starts_with("FLY_WORKER_APP"), "{error}");
    }

    #[test]
    fn what_fly_says_of_the_controllers_own_machine_is_not_taken_for_the_workers() {
        let own = [("FLY_APP_NAME", "control-plane"), ("FLY_REGION", "lhr")];
        let policy = read(&own).unwrap();
        assert_eq!((policy.app.as_str(), policy.regions), ("clips", vec!["any".to_owned()]));
        let alone = FleetPolicy::read(&Env::of(|name| {
            own.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        }));
        let error = alone.unwrap_err().to_string();
        assert!(error.starts_with("FLY_WORKER_APP"), "{error}");
    }

    #[test]
    fn memory_is_held_to_what_the_size_can_have() {
        let size = |size: &str, memory: &str| {
            read(&[("FLY_WORKER_GUEST", size), ("FLY_WORKER_MEMORY_MB", memory)]).map(|policy| policy.guest)
        };
        let guest = size("performance-4x", "16384").unwrap();
        assert_eq!((guest.cpus(), guest.memory_mb()), (4, 16_384));
        assert_eq!(size("shared-cpu-2x", "512").unwrap().memory_mb(), 512);
        let error = size("performance-2x", "512").unwrap_err().to_string();
        assert!(error.contains("2 performance CPUs need 4096 MB of memory at least"), "{error}");
    }

    #[test]
    fn a_budget_for_a_size_without_a_list_price_asks_for_the_price() {
        let odd = [("FLY_WORKER_MEMORY_MB", "8192"), ("FLEET_BUDGET_USD_PER_HOUR", "1")];
        let error = read(&odd).unwrap_err().to_string();
        assert!(error.starts_with("FLEET_PRICE_USD_PER_HOUR"), "{error}");
        let priced = [odd[0], odd[1], ("FLEET_PRICE_USD_PER_HOUR", "0.25")];
        assert_eq!(read(&priced).unwrap().affordable(), 4);
    }
}
