//! How a machine of a slot is made, by the policy.

use std::collections::BTreeMap;

use super::machine::Launch;
use super::policy::FleetPolicy;
use super::size::MachineSize;
use super::slot::Slot;

/// The worker's setting for how long it waits for a job, in seconds.
pub const IDLE_TIMEOUT: &str = "WORKER_IDLE_TIMEOUT";
/// The worker's setting for the largest input it accepts, in bytes.
pub const MAX_INPUT_BYTES: &str = "WORKER_MAX_INPUT_BYTES";

impl Launch {
    /// The desired launch of the machine in `slot`.
    #[must_use]
    pub fn of(policy: &FleetPolicy, slot: Slot) -> Self {
        // The machines of MIN_MACHINES stay: if one exited when idle, it would only be started again.
        Self {
            image: policy.image.clone(),
            disk: policy.disk,
            revision: policy.revision.clone(),
            stays: slot.0 <= policy.min,
        }
    }

    /// Whether a machine in `slot` with this launch must be replaced.
    pub(super) fn is_outdated(&self, policy: &FleetPolicy, slot: Option<Slot>) -> bool {
        // Created when MIN_MACHINES was lower: its worker would exit when idle and be started again,
        // endlessly.
        let leaves = !self.stays && slot.is_some_and(|slot| slot.0 <= policy.min);
        leaves || self.disk != policy.disk || self.image != policy.image || self.revision != policy.revision
    }

    /// The environment of the worker of a machine of this size; `common` is what all workers get. The provider adds secrets
    /// such as `REDIS_URL` itself.
    pub(super) fn environment(
        &self,
        size: MachineSize,
        policy: &FleetPolicy,
        common: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut env = common.clone();
        if self.stays {
            for name in [IDLE_TIMEOUT, "WORKER_TTL"] {
                env.insert(name.to_owned(), "0".to_owned());
            }
        } else {
            env.insert(IDLE_TIMEOUT.to_owned(), policy.idle_timeout_on(size).as_secs().to_string());
        }
        if let Some(disk) = self.disk {
            env.insert(MAX_INPUT_BYTES.to_owned(), disk.max_input.to_string());
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::MachineDisk;
    use super::*;

    const BASE: MachineSize = MachineSize { dedicated: true, cpus: 2, memory_mb: 4096 };

    #[test]
    fn launch_environment_of_minimum_machines_disables_idle_timeout() {
        let policy = FleetPolicy { min: 1, ..FleetPolicy::new("clips", "image") };
        let env = |n| Launch::of(&policy, Slot(n)).environment(BASE, &policy, &BTreeMap::new());
        assert_eq!((env(1)[IDLE_TIMEOUT].as_str(), env(1)["WORKER_TTL"].as_str()), ("0", "0"));
        assert_eq!(env(2)[IDLE_TIMEOUT], "300");
    }

    #[test]
    fn worker_of_a_larger_machine_waits_for_seconds_only() {
        let large = MachineSize { cpus: 16, memory_mb: 32_768, ..BASE };
        let idle = |size, seconds| {
            let idle_timeout = std::time::Duration::from_secs(seconds);
            let policy = FleetPolicy { idle_timeout, ..FleetPolicy::new("clips", "image") };
            let env = Launch::of(&policy, Slot(1)).environment(size, &policy, &BTreeMap::new());
            env[IDLE_TIMEOUT].clone()
        };
        assert_eq!(
            (idle(BASE, 300), idle(large, 300), idle(large, 5)),
            ("300".into(), "10".into(), "5".into())
        );
        assert_eq!(idle(large, 0), "0", "no worker leaves by itself");
    }

    #[test]
    fn launch_environment_limits_input_to_the_disk() {
        let common = BTreeMap::from([(MAX_INPUT_BYTES.to_owned(), "50000000000".to_owned())]);
        let limit = |disk| {
            let policy = FleetPolicy { disk, ..FleetPolicy::new("clips", "image") };
            Launch::of(&policy, Slot(1)).environment(BASE, &policy, &common)[MAX_INPUT_BYTES].clone()
        };
        assert_eq!(limit(Some(MachineDisk { size_gb: 25, max_input: 10_000_000_000 })), "10000000000");
        assert_eq!(limit(None), "50000000000", "the provider chooses the disk");
    }
}
