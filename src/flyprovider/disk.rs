//! The disk of a machine, and the largest input that fits on it: each follows from the other.

use super::machine::ROOTFS_MAX_GB;
use crate::config::registry::{FLY_WORKER_DISK_GB, WORKER_MAX_INPUT_BYTES};
use crate::config::{ConfigError, Env};
use crate::controller::fleet::MachineDisk;
use crate::job::space;

/// The disk that Fly gives a machine by default, gigabytes. Requesting less saves nothing.
/// <https://community.fly.io/t/17825>
const FLY_DEFAULT_GB: u32 = 8;
/// Minimum size of a disk, gigabytes: on a smaller one no input fits next to the image.
const LEAST_GB: u32 = 2;
/// Size of the worker's unpacked image and everything else that a machine writes, bytes.
const IMAGE: u64 = 1_000_000_000;
/// Usable bytes per gigabyte after the overhead of the file system: of Fly's 8 GB, 7.2 GiB are usable.
const USABLE_OF_A_GB: u64 = 900_000_000;
/// Default size of the largest input, bytes.
const DEFAULT_INPUT: u64 = 10_000_000_000;

/// The default disk.
pub(super) fn default_disk() -> MachineDisk {
    MachineDisk { size_gb: gigabytes_for(DEFAULT_INPUT).max(FLY_DEFAULT_GB), max_input: DEFAULT_INPUT }
}

/// Bytes of a disk that are available for the files of a job.
const fn usable(size_gb: u32) -> u64 {
    (size_gb as u64 * USABLE_OF_A_GB).saturating_sub(IMAGE)
}

/// The size of a disk on which inputs of `max_input` bytes fit, gigabytes.
fn gigabytes_for(max_input: u64) -> u32 {
    let bytes = space::disk_for(max_input).saturating_add(IMAGE);
    u32::try_from(bytes.div_ceil(USABLE_OF_A_GB)).unwrap_or(u32::MAX)
}

/// Reads `FLY_WORKER_DISK_GB` and `WORKER_MAX_INPUT_BYTES`. If only one is set, the other is derived from it.
///
/// # Errors
/// If no machine can have such a disk, or the inputs do not fit on it.
pub(super) fn read(env: &Env<'_>) -> Result<MachineDisk, ConfigError> {
    let size_gb = env.get(&FLY_WORKER_DISK_GB)?;
    if size_gb.is_some_and(|gb| !(LEAST_GB..=ROOTFS_MAX_GB).contains(&gb)) {
        let why = format!("it must be a whole number of gigabytes from {LEAST_GB} to {ROOTFS_MAX_GB}");
        return Err(env.invalid(&FLY_WORKER_DISK_GB, why));
    }
    let max_input = env.get(&WORKER_MAX_INPUT_BYTES)?;
    match (size_gb, max_input) {
        (None, None) => Ok(default_disk()),
        (Some(size_gb), None) => {
            Ok(MachineDisk { size_gb, max_input: space::largest_input(usable(size_gb)) })
        }
        (None, Some(max_input)) => match gigabytes_for(max_input) {
            size_gb if size_gb <= ROOTFS_MAX_GB => {
                Ok(MachineDisk { size_gb: size_gb.max(FLY_DEFAULT_GB), max_input })
            }
            size_gb => {
                let most = space::largest_input(usable(ROOTFS_MAX_GB));
                let why = format!(
                    "such inputs and what is made of them need a disk of {size_gb} GB, and a Fly machine has \
                     {ROOTFS_MAX_GB} GB at most: set it to {most} or less"
                );
                Err(env.invalid(&WORKER_MAX_INPUT_BYTES, why))
            }
        },
        (Some(size_gb), Some(max_input)) => {
            let most = space::largest_input(usable(size_gb));
            if max_input <= most {
                return Ok(MachineDisk { size_gb, max_input });
            }
            let why = format!(
                "on a disk of {size_gb} GB inputs of {}, {max_input} bytes, do not fit with what is made of \
                 them, but of {most} do; raise this to {}, lower that, or leave one of the two out",
                env.name_of(&WORKER_MAX_INPUT_BYTES),
                gigabytes_for(max_input)
            );
            Err(env.invalid(&FLY_WORKER_DISK_GB, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: &str = FLY_WORKER_DISK_GB.about.name;
    const INPUT: &str = WORKER_MAX_INPUT_BYTES.about.name;

    fn sizes(disk: Option<&str>, input: Option<&str>) -> Result<(u32, u64), String> {
        let env = Env::of(|name| {
            match name {
                DISK => disk,
                INPUT => input,
                _ => None,
            }
            .map(str::to_owned)
        });
        read(&env).map(|disk| (disk.size_gb, disk.max_input)).map_err(|e| e.to_string())
    }

    #[test]
    fn disk_and_input_limit_are_derived_from_each_other() {
        assert_eq!(sizes(None, None), Ok((25, 10_000_000_000)));
        assert_eq!(sizes(Some("8"), None), Ok((8, 2_936_402_651)));
        assert_eq!(sizes(Some("50"), None), Ok((50, 20_936_402_651)));
        assert_eq!(sizes(None, Some("20000000000")), Ok((48, 20_000_000_000)));
        assert_eq!(sizes(None, Some("1000000")), Ok((8, 1_000_000)), "no smaller than Fly's own");
        assert_eq!(sizes(Some("30"), Some("5000000000")), Ok((30, 5_000_000_000)));
    }

    #[test]
    fn smallest_disk_allows_the_minimum_input() {
        let (_, most) = sizes(Some("2"), None).unwrap();
        assert!(most >= space::ALWAYS_FITS, "{most}");
    }

    #[test]
    fn contradictory_disk_and_input_limit_error_names_valid_values() {
        let too_large = sizes(None, Some("50000000000")).unwrap_err();
        assert!(too_large.starts_with(INPUT) && too_large.contains("20936402651"), "{too_large}");
        let contradiction = sizes(Some("8"), Some("10000000000")).unwrap_err();
        for words in [DISK, INPUT, "2936402651", "raise this to 25"] {
            assert!(contradiction.contains(words), "{contradiction}");
        }
        for bad in ["0", "1", "51", "-1", "many", "8.5"] {
            let error = sizes(Some(bad), None).unwrap_err();
            assert!(error.starts_with(DISK) && error.contains("2 to 50"), "{bad}: {error}");
        }
        assert!(sizes(None, Some("large")).unwrap_err().starts_with(INPUT));
        assert!(sizes(None, Some(&u64::MAX.to_string())).unwrap_err().starts_with(INPUT));
    }

    proptest! {
        #[test]
        fn accepted_disk_and_input_limit_always_fit(disk in prop::option::of(0..60_u32), input in prop::option::of(0..60_000_000_000_u64)) {
            let (disk, input) = (disk.map(|n| n.to_string()), input.map(|n| n.to_string()));
            if let Ok((size_gb, max_input)) = sizes(disk.as_deref(), input.as_deref()) {
                prop_assert!(size_gb <= ROOTFS_MAX_GB);
                prop_assert!(space::disk_for(max_input) <= usable(size_gb));
                prop_assert!(max_input > 0 || input.as_deref() == Some("0"));
            }
        }
    }
}
