//! Names and launch configurations of machines. A fleet of at most MAX machines has the slots 1 to MAX, each
//! with one name. A provider accepts each name only once, so creates can never make more than MAX machines,
//! whatever else goes wrong.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::machine::MachineDisk;
use super::policy::FleetPolicy;

/// The position of a machine in the fleet, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u32);

impl Slot {
    /// The name of the slot's machine, such as `<app>-worker-07`.
    #[must_use]
    pub fn name(self, app: &str) -> String {
        format!("{app}-worker-{:02}", self.0)
    }

    /// Parses the slot from a machine's name; `None` for machines of others.
    #[must_use]
    pub fn parse(app: &str, name: &str) -> Option<Self> {
        let digits = name.strip_prefix(app)?.strip_prefix("-worker-")?;
        let number = digits.parse().ok().filter(|n| *n > 0)?;
        // `+7` and `007` parse as numbers, too, but the fleet never uses such names.
        (Self(number).name(app) == name).then_some(Self(number))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// The worker's setting for how long it waits for a job, in seconds.
pub const IDLE_TIMEOUT: &str = "WORKER_IDLE_TIMEOUT";
/// The worker's setting for the largest input it accepts, in bytes.
pub const MAX_INPUT_BYTES: &str = "WORKER_MAX_INPUT_BYTES";

/// How a machine is created. A machine whose launch differs from the desired one is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The worker image.
    pub image: String,
    /// Its disk, if one is configured.
    pub disk: Option<MachineDisk>,
    /// Whether its worker keeps running while idle.
    pub stays: bool,
}

impl Launch {
    /// The desired launch of the machine in `slot`.
    #[must_use]
    pub fn of(policy: &FleetPolicy, slot: Slot) -> Self {
        // The machines of MIN_MACHINES stay: if one exited when idle, it would only be started again.
        Self { image: policy.image.clone(), disk: policy.disk, stays: slot.0 <= policy.min }
    }

    /// Whether a machine in `slot` with this launch must be replaced.
    pub(super) fn is_outdated(&self, policy: &FleetPolicy, slot: Option<Slot>) -> bool {
        // Created when MIN_MACHINES was lower: its worker would exit when idle and be started again,
        // endlessly.
        let leaves = !self.stays && slot.is_some_and(|slot| slot.0 <= policy.min);
        leaves || self.disk != policy.disk || self.image != policy.image
    }

    /// The environment of the machine's worker; `common` is what all workers get. The provider adds secrets
    /// such as `REDIS_URL` itself.
    pub(super) fn environment(
        &self,
        policy: &FleetPolicy,
        common: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut env = common.clone();
        if self.stays {
            for name in [IDLE_TIMEOUT, "WORKER_TTL"] {
                env.insert(name.to_owned(), "0".to_owned());
            }
        } else {
            env.insert(IDLE_TIMEOUT.to_owned(), policy.idle_timeout.as_secs().to_string());
        }
        if let Some(disk) = self.disk {
            env.insert(MAX_INPUT_BYTES.to_owned(), disk.max_input.to_string());
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_slots_agree_and_other_names_are_not_ours() {
        for n in [1, 7, 10, 99, 100, 12_345] {
            assert_eq!(Slot::parse("clips", &Slot(n).name("clips")), Some(Slot(n)));
        }
        assert_eq!(Slot(7).name("clips"), "clips-worker-07");
        for other in ["", "clips", "clips-worker-7", "clips-worker-007", "clips-worker-00", "clips-worker-+7"]
        {
            assert_eq!(Slot::parse("clips", other), None, "{other}");
        }
        assert_eq!(Slot::parse("clips", "other-worker-07"), None);
    }

    #[test]
    fn only_the_machines_of_the_minimum_never_leave() {
        let policy = FleetPolicy { min: 1, ..FleetPolicy::new("clips", "image") };
        let env = |n| Launch::of(&policy, Slot(n)).environment(&policy, &BTreeMap::new());
        assert_eq!((env(1)[IDLE_TIMEOUT].as_str(), env(1)["WORKER_TTL"].as_str()), ("0", "0"));
        assert_eq!(env(2)[IDLE_TIMEOUT], "300");
    }

    #[test]
    fn a_workers_limit_fits_its_machines_disk() {
        let common = BTreeMap::from([(MAX_INPUT_BYTES.to_owned(), "50000000000".to_owned())]);
        let limit = |disk| {
            let policy = FleetPolicy { disk, ..FleetPolicy::new("clips", "image") };
            Launch::of(&policy, Slot(1)).environment(&policy, &common)[MAX_INPUT_BYTES].clone()
        };
        assert_eq!(limit(Some(MachineDisk { size_gb: 25, max_input: 10_000_000_000 })), "10000000000");
        assert_eq!(limit(None), "50000000000", "where the provider's disk is not ours to choose");
    }
}
