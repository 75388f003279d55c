//! Converts a WorkerPool's spec into the policy of the fleet. Pure.

use std::collections::BTreeMap;

use crate::config::{ConfigErrors, Env};
use crate::controller::fleet::FleetPolicy;
use crate::crd::WorkerPoolSpec;
use crate::flyprovider;

/// The fields of the pool as environment variables, which override the environment.
fn said(pool: &WorkerPoolSpec) -> BTreeMap<&'static str, String> {
    let mut said = BTreeMap::from([
        ("MIN_MACHINES", pool.min.to_string()),
        ("MAX_MACHINES", pool.max.to_string()),
        ("JOBS_PER_MACHINE", pool.jobs_per_machine.to_string()),
        ("WORKER_IDLE_TIMEOUT", pool.idle_timeout_seconds.to_string()),
    ]);
    let mut put = |name, value: Option<String>| {
        if let Some(value) = value {
            said.insert(name, value);
        }
    };
    if let Some(fly) = pool.provider.as_ref().and_then(|provider| provider.fly.as_ref()) {
        put("FLY_WORKER_REGIONS", fly.regions.as_ref().map(|regions| regions.join(",")));
        put("FLEET_STRICT_REGIONS", fly.strict_regions.then(|| "true".to_owned()));
        put("FLY_WORKER_GUEST", fly.guest.as_ref().map(|guest| guest.size.clone()));
        put(
            "FLY_WORKER_MEMORY_MB",
            fly.guest.as_ref().and_then(|guest| guest.memory_mb).map(|mb| mb.to_string()),
        );
        put("FLY_WORKER_DISK_GB", fly.disk_gb.map(|gb| gb.to_string()));
    }
    put("FLY_WORKER_IMAGE", pool.image.clone());
    put("FLEET_BUDGET_USD_PER_HOUR", pool.budget_usd_per_hour.clone());
    // A pool that is not paused does not resume a fleet that the environment pauses.
    put("FLEET_PAUSED", pool.paused.then(|| "true".to_owned()));
    said
}

/// Environment variables and the corresponding fields of a pool.
const FIELDS: [(&str, &str); 12] = [
    ("MIN_MACHINES", "spec.min"),
    ("MAX_MACHINES", "spec.max"),
    ("JOBS_PER_MACHINE", "spec.jobsPerMachine"),
    ("WORKER_IDLE_TIMEOUT", "spec.idleTimeoutSeconds"),
    ("FLY_WORKER_REGIONS", "spec.provider.fly.regions"),
    ("FLEET_STRICT_REGIONS", "spec.provider.fly.strictRegions"),
    ("FLY_WORKER_GUEST", "spec.provider.fly.guest.size"),
    ("FLY_WORKER_MEMORY_MB", "spec.provider.fly.guest.memoryMb"),
    ("FLY_WORKER_DISK_GB", "spec.provider.fly.diskGb"),
    ("FLY_WORKER_IMAGE", "spec.image"),
    ("FLEET_BUDGET_USD_PER_HOUR", "spec.budgetUsdPerHour"),
    ("FLEET_PAUSED", "spec.paused"),
];

/// The policy of the fleet: the pool's fields, and the environment for fields that are absent.
///
/// # Errors
/// What is wrong, with the name of the pool's field.
pub fn policy(pool: Option<&WorkerPoolSpec>, env: &Env<'_>) -> Result<FleetPolicy, String> {
    let said = pool.map(said).unwrap_or_default();
    let both = Env::of(|name| said.get(name).cloned().or_else(|| env.text(name)));
    flyprovider::policy::read(&both).map_err(|error| in_fields(&error, pool.is_some()))
}

fn in_fields(error: &ConfigErrors, pool: bool) -> String {
    let text = error.to_string();
    if !pool {
        return text;
    }
    // The invalid setting comes first; others that its explanation mentions follow.
    FIELDS.iter().fold(text, |text, (variable, field)| text.replace(variable, field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        let said = match name {
            "FLY_WORKER_APP" => "clips",
            "FLY_WORKER_IMAGE" => "registry.fly.io/clips:1",
            "FLY_WORKER_REGIONS" => "iad",
            "MAX_MACHINES" => "3",
            _ => return None,
        };
        Some(said.to_owned())
    }

    fn pool(spec: serde_json::Value) -> WorkerPoolSpec {
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn without_a_pool_the_environment_rules() {
        let policy = policy(None, &Env::of(env)).unwrap();
        assert_eq!((policy.max, policy.regions), (3, vec!["iad".to_owned()]));
    }

    #[test]
    fn what_a_pool_says_goes_first_and_what_it_leaves_out_is_the_environments() {
        let spec = pool(serde_json::json!({
            "min": 1, "max": 7, "jobsPerMachine": 2, "idleTimeoutSeconds": 60, "budgetUsdPerHour": "2.50",
            "paused": true,
            "provider": {"fly": {"strictRegions": true, "guest": {"size": "performance-4x"}, "diskGb": 40}},
        }));
        let policy = policy(Some(&spec), &Env::of(env)).unwrap();
        assert_eq!((policy.min, policy.max, policy.jobs_per_machine.get()), (1, 7, 2));
        assert_eq!(policy.idle_timeout.as_secs(), 60);
        assert_eq!((policy.regions.as_slice(), policy.any_region), (["iad".to_owned()].as_slice(), false));
        assert_eq!((policy.size.cpus, policy.image.as_str()), (4, "registry.fly.io/clips:1"));
        assert!(policy.paused && policy.budget.is_some());
        assert_eq!(policy.disk.unwrap().size_gb, 40);
        let other = pool(serde_json::json!({
            "provider": {"fly": {"regions": ["fra", "ams"]}}, "image": "registry.fly.io/clips:2",
        }));
        let policy = super::policy(Some(&other), &Env::of(env)).unwrap();
        assert_eq!(policy.regions, ["fra", "ams"]);
        assert_eq!((policy.max, policy.image.as_str()), (10, "registry.fly.io/clips:2"));
    }

    #[test]
    fn what_is_wrong_is_said_by_the_pools_own_field() {
        let of_fly = |fly: serde_json::Value| serde_json::json!({"provider": {"fly": fly}});
        for (field, spec) in [
            ("spec.min", serde_json::json!({"min": 3, "max": 2})),
            ("spec.max", serde_json::json!({"max": 0})),
            ("spec.jobsPerMachine", serde_json::json!({"jobsPerMachine": -1})),
            ("spec.provider.fly.regions", of_fly(serde_json::json!({"regions": ["i&d"]}))),
            ("spec.provider.fly.guest.size", of_fly(serde_json::json!({"guest": {"size": "huge-2x"}}))),
            (
                "spec.provider.fly.guest.size",
                of_fly(serde_json::json!({"guest": {"size": "performance-3x"}})),
            ),
            (
                "spec.provider.fly.guest.memoryMb",
                of_fly(serde_json::json!({"guest": {"size": "performance-2x", "memoryMb": 512}})),
            ),
            ("spec.budgetUsdPerHour", serde_json::json!({"budgetUsdPerHour": "0.01"})),
            ("spec.provider.fly.diskGb", of_fly(serde_json::json!({"diskGb": 51}))),
        ] {
            let error = policy(Some(&pool(spec)), &Env::of(env)).unwrap_err();
            assert!(error.starts_with(field), "{field}: {error}");
        }
        let nothing = Env::of(|name| (name == "FLY_WORKER_APP").then(|| "clips".to_owned()));
        let error = policy(Some(&pool(serde_json::json!({}))), &nothing).unwrap_err();
        assert!(error.starts_with("spec.image"), "{error}");
    }
}
