//! The configuration of Fly's machines, read from the environment.

use super::guest::{Guest, GuestError, NoSuchSize};
use super::price::list_price_per_hour;
use super::{Fly, disk};
use crate::config::registry::{
    FLY_WORKER_APP, FLY_WORKER_GUEST, FLY_WORKER_GUESTS, FLY_WORKER_IMAGE, FLY_WORKER_MEMORY_MB,
    FLY_WORKER_REGIONS,
};
use crate::config::{ConfigError, ConfigErrors, Env};
use crate::controller::fleet::{FleetPolicy, Sizes, SizesError};

/// The defaults, for this app and image.
#[must_use]
pub fn defaults(app: &str, image: &str) -> FleetPolicy {
    let guest = Guest::default();
    FleetPolicy {
        price: list_price_per_hour(guest),
        sizes: Sizes::one(guest.into()),
        disk: Some(disk::default_disk()),
        ..FleetPolicy::new(app, image)
    }
}

/// Reads `FLY_WORKER_APP`, `FLY_WORKER_IMAGE`, `FLY_WORKER_GUEST` (`performance-2x`), `FLY_WORKER_GUESTS`
/// (comma-separated), `FLY_WORKER_MEMORY_MB`, `FLY_WORKER_DISK_GB`, `WORKER_MAX_INPUT_BYTES`, `FLY_WORKER_REGIONS` (comma-separated), and the settings
/// that [`FleetPolicy::read`] reads.
///
/// # Errors
/// The missing or invalid settings.
pub fn read(env: &Env<'_>) -> Result<FleetPolicy, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let app = errors.keep(env.require(&FLY_WORKER_APP));
    let image = errors.keep(env.require(&FLY_WORKER_IMAGE));
    let sizes = errors.keep(read_sizes(env));
    let disk = errors.keep(disk::read(env));
    let regions = errors.keep(env.get(&FLY_WORKER_REGIONS));
    // If one of these is missing the policy is not used, but it is read nevertheless, so that all errors are
    // reported.
    let defaults = FleetPolicy::new(&app.unwrap_or_default(), &image.unwrap_or_default());
    let own = FleetPolicy {
        sizes: sizes.unwrap_or_default(),
        disk,
        regions: regions.flatten().unwrap_or(defaults.regions),
        ..defaults
    };
    let policy = errors.keep(FleetPolicy::read::<Fly>(env, own));
    errors.finish(policy)
}

/// Reads the size for jobs, and the larger ones for the parts of split videos. All of them have as much memory for each
/// CPU, because a part needs about one.
fn read_sizes(env: &Env<'_>) -> Result<Sizes, ConfigError> {
    let base = read_guest(env)?;
    let refused = |why: String| env.invalid(&FLY_WORKER_GUESTS, why);
    let mut larger = Vec::new();
    for (number, size) in (1..).zip(env.get(&FLY_WORKER_GUESTS)?.unwrap_or_default()) {
        let guest: Guest =
            size.parse().map_err(|_: NoSuchSize| refused(format!("of number {number}: {NoSuchSize}")))?;
        let same_kind = guest.kind() == base.kind();
        let guest = if same_kind { guest.with_memory_per_cpu_of(base) } else { Ok(guest) };
        larger.push(guest.map_err(|error: GuestError| refused(error.to_string()))?.into());
    }
    Sizes::new(base.into(), larger).map_err(|error: SizesError| refused(error.to_string()))
}

fn read_guest(env: &Env<'_>) -> Result<Guest, ConfigError> {
    let size = env.require(&FLY_WORKER_GUEST)?;
    let guest: Guest =
        size.parse().map_err(|error: NoSuchSize| env.invalid(&FLY_WORKER_GUEST, error.to_string()))?;
    match env.get(&FLY_WORKER_MEMORY_MB)? {
        Some(memory) => guest
            .with_memory(memory)
            .map_err(|error: GuestError| env.invalid(&FLY_WORKER_MEMORY_MB, error.to_string())),
        None => Ok(guest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fleet::{MachineSize, MicroDollars};

    fn policy(pairs: &[(&str, &str)]) -> Result<FleetPolicy, ConfigErrors> {
        let base = [("FLY_WORKER_APP", "clips"), ("FLY_WORKER_IMAGE", "registry.fly.io/clips:1")];
        let all: Vec<_> = pairs.iter().chain(&base).copied().collect();
        read(&Env::of(|name| all.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())))
    }

    #[test]
    fn policy_with_app_and_image_only_has_the_defaults() {
        assert_eq!(policy(&[]).unwrap(), defaults("clips", "registry.fly.io/clips:1"));
    }

    #[test]
    fn policy_reads_all_settings() {
        let policy = policy(&[
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
        assert_eq!((policy.sizes.base().cpus, policy.sizes.base().memory_mb), (4, 8192));
        assert_eq!(policy.disk.unwrap().size_gb, 40);
        assert!(policy.paused && !policy.any_region);
        // performance-4x: $0.172224 an hour.
        assert_eq!(policy.affordable(), 5);
    }

    #[test]
    fn policy_error_names_the_variable() {
        for (name, bad) in [
            ("FLY_WORKER_APP", "Clips!"),
            ("FLY_WORKER_REGIONS", ","),
            ("FLY_WORKER_REGIONS", "i&d"),
            ("FLY_WORKER_GUEST", "performance"),
            ("FLY_WORKER_GUEST", "performance-0x"),
            ("FLY_WORKER_GUEST", "performance-3x"),
            ("FLY_WORKER_GUEST", "huge-2x"),
            ("FLY_WORKER_GUESTS", ","),
            ("FLY_WORKER_GUESTS", "performance-8x,huge-2x"),
            ("FLY_WORKER_GUESTS", "performance-8x,performance-16x,performance-8x"),
            ("FLY_WORKER_GUESTS", "performance-2x"),
            ("FLY_WORKER_GUESTS", "performance-8x,performance-1x"),
            ("FLY_WORKER_GUESTS", "shared-cpu-8x"),
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
            let error = policy(&[(name, bad)]).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}={bad}: {error}");
        }
        let error = read(&Env::of(|_| None)).unwrap_err().to_string();
        assert!(error.starts_with("FLY_WORKER_APP"), "{error}");
    }

    #[test]
    fn policy_ignores_flys_own_variables() {
        let own = [("FLY_APP_NAME", "control-plane"), ("FLY_REGION", "lhr")];
        let policy = policy(&own).unwrap();
        assert_eq!((policy.app.as_str(), policy.regions), ("clips", vec!["any".to_owned()]));
        let alone =
            read(&Env::of(|name| own.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())));
        let error = alone.unwrap_err().to_string();
        assert!(error.starts_with("FLY_WORKER_APP"), "{error}");
    }

    #[test]
    fn policy_validates_memory_against_the_size() {
        let size = |size: &str, memory: &str| {
            policy(&[("FLY_WORKER_GUEST", size), ("FLY_WORKER_MEMORY_MB", memory)])
                .map(|policy| policy.sizes.base())
        };
        let guest = size("performance-4x", "16384").unwrap();
        assert_eq!((guest.cpus, guest.memory_mb), (4, 16_384));
        assert_eq!(size("shared-cpu-2x", "512").unwrap().memory_mb, 512);
        let error = size("performance-2x", "512").unwrap_err().to_string();
        assert!(error.contains("2 performance CPUs need 4096 MB of memory at least"), "{error}");
    }

    #[test]
    fn larger_sizes_have_the_memory_and_the_price_of_each_cpu_of_the_size_for_jobs() {
        let larger = ("FLY_WORKER_GUESTS", "performance-16x, performance-6x");
        let size = |cpus, memory_mb| MachineSize { cpus, memory_mb, ..MachineSize::default() };
        let usual = policy(&[larger]).unwrap();
        assert_eq!(usual.sizes, Sizes::new(size(2, 4096), vec![size(6, 12_288), size(16, 32_768)]).unwrap());
        assert_eq!(usual.price_of(size(16, 32_768)), Some(MicroDollars(8 * 86_112)));
        let listed = list_price_per_hour("performance-6x".parse().unwrap());
        assert_eq!(usual.price_of(size(6, 12_288)), listed);
        // 9 GB for 4 CPUs are 13.5 GB for 6, which Fly does not offer.
        let base = [("FLY_WORKER_GUEST", "performance-4x"), ("FLY_WORKER_MEMORY_MB", "9216")];
        let odd = policy(&[larger, base[0], base[1], ("FLEET_PRICE_USD_PER_HOUR", "0.20")]).unwrap();
        assert_eq!(odd.sizes, Sizes::new(size(4, 9216), vec![size(6, 14_336), size(16, 36_864)]).unwrap());
        assert_eq!(odd.price_of(size(6, 14_336)), Some(MicroDollars(300_000)));
    }

    #[test]
    fn error_of_a_larger_size_says_what_to_do() {
        for (sizes, words) in [
            ("performance-8x,performance-3x", "of number 2: it must be one of Fly's sizes: "),
            ("performance-2x", "2 CPUs are no more than the 2 of the size for jobs; leave that size out"),
            ("performance-8x,performance-8x", "two of the sizes have 8 CPUs; leave one of them out"),
            ("shared-cpu-4x", "choose sizes with the same kind of CPUs as the size for jobs"),
        ] {
            let error = policy(&[("FLY_WORKER_GUESTS", sizes)]).unwrap_err().to_string();
            assert!(error.contains(words), "{sizes}: {error}");
        }
    }

    #[test]
    fn policy_budget_for_a_size_without_list_price_requires_a_price() {
        let odd = [("FLY_WORKER_MEMORY_MB", "8192"), ("FLEET_BUDGET_USD_PER_HOUR", "1")];
        let error = policy(&odd).unwrap_err().to_string();
        assert!(error.starts_with("FLEET_PRICE_USD_PER_HOUR"), "{error}");
        let priced = [odd[0], odd[1], ("FLEET_PRICE_USD_PER_HOUR", "0.25")];
        assert_eq!(policy(&priced).unwrap().affordable(), 4);
    }
}
