//! How a machine of a slot is made, by the policy.

use std::collections::BTreeMap;

use super::machine::Launch;
use super::observation::WorkerView;
use super::policy::FleetPolicy;
use super::size::MachineSize;
use super::slot::Slot;
use crate::job::{WorkerClass, WorkerClasses};

/// The worker's setting for how long it waits for a job, in seconds.
pub const IDLE_TIMEOUT: &str = "WORKER_IDLE_TIMEOUT";
/// The worker's setting for the largest input it accepts, in bytes.
pub const MAX_INPUT_BYTES: &str = "WORKER_MAX_INPUT_BYTES";
/// The worker's setting for the classes of the jobs that it takes, separated by commas.
pub const CLASSES: &str = "WORKER_CLASSES";

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
            classes: policy.classes.clone(),
        }
    }

    /// Whether a machine in `slot` with this launch must be replaced.
    pub(super) fn is_outdated(&self, policy: &FleetPolicy, slot: Option<Slot>) -> bool {
        self.differences(policy, slot).next().is_some()
    }

    /// Why a machine in `slot` with this launch must be replaced: what it was created with.
    pub(super) fn differences(
        &self,
        policy: &FleetPolicy,
        slot: Option<Slot>,
    ) -> impl Iterator<Item = &'static str> {
        // Created when MIN_MACHINES was lower: its worker would exit when idle and be started again,
        // endlessly.
        let leaves = !self.stays && slot.is_some_and(|slot| slot.0 <= policy.min);
        let all = [
            (self.image != policy.image, "another image"),
            (self.disk != policy.disk, "another disk"),
            (self.revision != policy.revision, "another template"),
            (self.classes != policy.classes, "other classes"),
            (leaves, "a lower MIN_MACHINES"),
        ];
        all.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what)
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
        env.insert(CLASSES.to_owned(), self.classes.to_string());
        if let Some(disk) = self.disk {
            env.insert(MAX_INPUT_BYTES.to_owned(), disk.max_input.to_string());
        }
        env
    }
}

/// Whether a worker here registered without some of these classes, as one of an image from before classes does, which takes
/// the jobs of the default class whatever it is told.
pub(super) fn lacks_classes(here: &[&WorkerView], classes: &WorkerClasses) -> bool {
    let is_usual = classes.iter().all(WorkerClass::is_default);
    !is_usual && here.iter().any(|worker| worker.fresh && !worker.classes.contains_all(classes))
}

/// Whether a machine with this launch, if it is known, and these workers takes jobs of other classes than the fleet.
pub(super) fn is_unfit(launch: Option<&Launch>, here: &[&WorkerView], policy: &FleetPolicy) -> bool {
    launch.is_some_and(|launch| launch.classes != policy.classes) || lacks_classes(here, &policy.classes)
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
    fn launch_environment_has_the_classes_of_the_fleet() {
        let common = BTreeMap::from([(CLASSES.to_owned(), "small".to_owned())]);
        let classes = |policy: &FleetPolicy| {
            Launch::of(policy, Slot(1)).environment(BASE, policy, &common)[CLASSES].clone()
        };
        let usual = FleetPolicy::new("clips", "image");
        let of_both = FleetPolicy { classes: "large,default".parse().unwrap(), ..usual.clone() };
        assert_eq!((classes(&usual), classes(&of_both)), ("default".into(), "default,large".into()));
        // A change of the classes replaces the machines.
        let launch = Launch::of(&usual, Slot(1));
        assert!(launch.is_outdated(&of_both, Some(Slot(1))) && !launch.is_outdated(&usual, Some(Slot(1))));
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
