//! The names machines get. A fleet of at most MAX machines has the slots 1 to MAX, each with one name,
//! and Fly lets a name exist once: whatever else goes wrong, creates can never make more than MAX.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::policy::FleetPolicy;
use crate::flyprovider::{MachineConfig, Restart, Rootfs, StopConfig};

/// A place in the fleet, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u32);

impl Slot {
    /// Its machine's name: `<app>-worker-07`.
    #[must_use]
    pub fn name(self, app: &str) -> String {
        format!("{app}-worker-{:02}", self.0)
    }

    /// The slot a machine's name stands for; nothing for machines that are not ours.
    #[must_use]
    pub fn parse(app: &str, name: &str) -> Option<Self> {
        let digits = name.strip_prefix(app)?.strip_prefix("-worker-")?;
        let number = digits.parse().ok().filter(|n| *n > 0)?;
        // `+7` and `007` are numbers too, but not names of ours.
        (Self(number).name(app) == name).then_some(Self(number))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// Metadata key under which a machine carries the launch it was made by.
pub const LAUNCH_ID: &str = "tcoder_launch";
/// Metadata key by which lists are filtered to the fleet.
pub const POOL: &str = "tcoder_pool";

/// Metadata key under which a machine carries the size of its disk, gigabytes.
pub const DISK_GB: &str = "tcoder_disk_gb";
/// The worker's setting of the largest input it takes, bytes.
pub(super) const MAX_INPUT_BYTES: &str = "WORKER_MAX_INPUT_BYTES";

/// How the machine of `slot` is made. `launch_id` tells one create from another of the same name;
/// `env` is what every worker needs (`REDIS_URL` and such belong into the app's secrets, not here).
#[must_use]
pub fn launch_config(
    policy: &FleetPolicy,
    slot: Slot,
    launch_id: &str,
    mut env: BTreeMap<String, String>,
) -> MachineConfig {
    let seconds = |d: std::time::Duration| d.as_secs().to_string();
    if slot.0 <= policy.min {
        // The machines of MIN_MACHINES stay: one that left would only be started again.
        for name in ["WORKER_IDLE_TIMEOUT", "WORKER_TTL"] {
            env.insert(name.to_owned(), "0".to_owned());
        }
    } else {
        env.insert("WORKER_IDLE_TIMEOUT".to_owned(), seconds(policy.idle_timeout));
    }
    let mut metadata = BTreeMap::from(
        [(LAUNCH_ID, launch_id), (POOL, "workers")].map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    if let Some(disk) = policy.disk {
        metadata.insert(DISK_GB.to_owned(), disk.size_gb().to_string());
        env.insert(MAX_INPUT_BYTES.to_owned(), disk.max_input().to_string());
    }
    MachineConfig {
        image: policy.image.clone(),
        guest: Some(policy.guest),
        env,
        metadata,
        rootfs: policy.disk.map(|disk| Rootfs { size_gb: disk.size_gb() }),
        auto_destroy: false,
        // The worker's exit ends the bill, without a call.
        restart: Some(Restart { policy: "no".to_owned() }),
        stop_config: Some(StopConfig { signal: "SIGTERM".to_owned(), timeout: "30s".to_owned() }),
    }
}

/// What a list shows of a machine that was made from `image` with the disk that is the default.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn listed_config(image: &str) -> MachineConfig {
    let disk = super::disk::MachineDisk::default();
    MachineConfig {
        image: image.to_owned(),
        metadata: [(DISK_GB.to_owned(), disk.size_gb().to_string())].into(),
        env: [(MAX_INPUT_BYTES.to_owned(), disk.max_input().to_string())].into(),
        ..MachineConfig::default()
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
        let config = |n| launch_config(&policy, Slot(n), "abc", BTreeMap::new());
        assert_eq!(config(1).env["WORKER_IDLE_TIMEOUT"], "0");
        assert_eq!(config(2).env["WORKER_IDLE_TIMEOUT"], "300");
        assert_eq!(config(2).restart.unwrap().policy, "no");
        assert_eq!(config(2).metadata[LAUNCH_ID], "abc");
    }

    #[test]
    fn a_machines_disk_and_its_workers_limit_fit_each_other() {
        let env = BTreeMap::from([("WORKER_MAX_INPUT_BYTES".to_owned(), "50000000000".to_owned())]);
        let policy = FleetPolicy::new("clips", "image");
        let config = launch_config(&policy, Slot(1), "abc", env.clone());
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["rootfs"], serde_json::json!({"size_gb": 25}));
        assert_eq!(config.env["WORKER_MAX_INPUT_BYTES"], "10000000000");
        assert_eq!(config.metadata[DISK_GB], "25");
        // Where the provider's disk is not ours to choose.
        let config = launch_config(&FleetPolicy { disk: None, ..policy }, Slot(1), "abc", env);
        assert_eq!((config.rootfs, config.metadata.get(DISK_GB)), (None, None));
        assert_eq!(config.env["WORKER_MAX_INPUT_BYTES"], "50000000000");
    }
}
