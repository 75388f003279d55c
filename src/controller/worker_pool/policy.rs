//! Converts a WorkerPool's spec into the policy of the fleet. Pure.

use crate::config::registry::{
    FLEET_BUDGET_USD_PER_HOUR, FLEET_PAUSED, FLEET_STRICT_REGIONS, FLY_WORKER_DISK_GB, FLY_WORKER_GUEST,
    FLY_WORKER_GUESTS, FLY_WORKER_IMAGE, FLY_WORKER_MEMORY_MB, FLY_WORKER_REGIONS, JOBS_PER_MACHINE,
    MAX_MACHINES, MIN_MACHINES, WORKER_IDLE_TIMEOUT,
};
use crate::config::{Env, Field};
use crate::controller::fleet::FleetPolicy;
use crate::crd::WorkerPoolSpec;
use crate::flyprovider;

/// The pool's fields, each with the setting that it stands for.
fn fields(pool: &WorkerPoolSpec) -> Vec<Field> {
    let fly = pool.provider.as_ref().and_then(|provider| provider.fly.as_ref());
    let guest = fly.and_then(|fly| fly.guest.as_ref());
    let guests = fly.and_then(|fly| fly.guests.as_ref());
    let regions = fly.and_then(|fly| fly.regions.as_ref());
    // A pool can set these and not unset them: an environment that pauses the fleet is not undone by a pool.
    let strict_regions = fly.is_some_and(|fly| fly.strict_regions).then_some(true);
    let paused = pool.paused.then_some(true);
    vec![
        Field::new("spec.min", &MIN_MACHINES, Some(pool.min)),
        Field::new("spec.max", &MAX_MACHINES, Some(pool.max)),
        Field::new("spec.jobsPerMachine", &JOBS_PER_MACHINE, Some(pool.jobs_per_machine)),
        Field::new("spec.idleTimeoutSeconds", &WORKER_IDLE_TIMEOUT, Some(pool.idle_timeout_seconds)),
        Field::new("spec.image", &FLY_WORKER_IMAGE, pool.image.as_ref()),
        Field::new("spec.budgetUsdPerHour", &FLEET_BUDGET_USD_PER_HOUR, pool.budget_usd_per_hour.as_ref()),
        Field::new("spec.paused", &FLEET_PAUSED, paused),
        Field::new("spec.provider.fly.regions", &FLY_WORKER_REGIONS, regions.map(|names| names.join(","))),
        Field::new("spec.provider.fly.strictRegions", &FLEET_STRICT_REGIONS, strict_regions),
        Field::new("spec.provider.fly.guest.size", &FLY_WORKER_GUEST, guest.map(|guest| &guest.size)),
        Field::new("spec.provider.fly.guests", &FLY_WORKER_GUESTS, guests.map(|sizes| sizes.join(","))),
        Field::new(
            "spec.provider.fly.guest.memoryMb",
            &FLY_WORKER_MEMORY_MB,
            guest.and_then(|guest| guest.memory_mb),
        ),
        Field::new("spec.provider.fly.diskGb", &FLY_WORKER_DISK_GB, fly.and_then(|fly| fly.disk_gb)),
    ]
}

/// What is wanted of the fleet: what the pool says, and what the environment says where the pool says nothing.
///
/// # Errors
/// What is wrong, under the name of the pool's field, or of the variable where the value is the environment's.
pub(crate) fn policy(pool: Option<&WorkerPoolSpec>, env: &Env<'_>) -> Result<FleetPolicy, String> {
    let settings = Env::of(|name| env.text(name)).with_fields(pool.map(fields).unwrap_or_default());
    flyprovider::policy::read(&settings).map_err(|errors| errors.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kube::CustomResourceExt as _;

    use super::*;
    use crate::controller::fleet::{MachineSize, Sizes};
    use crate::crd::WorkerPool;

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
    fn policy_without_a_pool_uses_the_environment() {
        let policy = policy(None, &Env::of(env)).unwrap();
        assert_eq!((policy.max, policy.regions), (3, vec!["iad".to_owned()]));
    }

    #[test]
    fn policy_prefers_the_pool_and_falls_back_to_the_environment() {
        let spec = pool(serde_json::json!({
            "min": 1, "max": 7, "jobsPerMachine": 2, "idleTimeoutSeconds": 60, "budgetUsdPerHour": "2.50",
            "paused": true,
            "provider": {"fly": {"strictRegions": true, "guest": {"size": "performance-4x"}, "diskGb": 40}},
        }));
        let policy = policy(Some(&spec), &Env::of(env)).unwrap();
        assert_eq!((policy.min, policy.max, policy.jobs_per_machine.get()), (1, 7, 2));
        assert_eq!(policy.idle_timeout.as_secs(), 60);
        assert_eq!((policy.regions.as_slice(), policy.any_region), (["iad".to_owned()].as_slice(), false));
        assert_eq!((policy.sizes.base().cpus, policy.image.as_str()), (4, "registry.fly.io/clips:1"));
        assert!(policy.paused && policy.budget.is_some());
        assert_eq!(policy.disk.unwrap().size_gb, 40);
        let other = pool(serde_json::json!({
            "provider": {"fly": {"regions": ["fra", "ams"], "guests": ["performance-8x", "performance-16x"]}},
            "image": "registry.fly.io/clips:2",
        }));
        let policy = super::policy(Some(&other), &Env::of(env)).unwrap();
        assert_eq!(policy.regions, ["fra", "ams"]);
        let size = |cpus| MachineSize { cpus, memory_mb: 2048 * cpus, ..MachineSize::default() };
        assert_eq!(policy.sizes, Sizes::new(size(2), vec![size(8), size(16)]).unwrap());
        assert_eq!((policy.max, policy.image.as_str()), (10, "registry.fly.io/clips:2"));
    }

    #[test]
    fn policy_error_in_the_pool_names_its_field() {
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
            (
                "spec.provider.fly.guests",
                of_fly(
                    serde_json::json!({"guest": {"size": "performance-8x"}, "guests": ["performance-4x"]}),
                ),
            ),
            ("spec.budgetUsdPerHour", serde_json::json!({"budgetUsdPerHour": "0.01"})),
            ("spec.provider.fly.diskGb", of_fly(serde_json::json!({"diskGb": 51}))),
        ] {
            let error = policy(Some(&pool(spec)), &Env::of(env)).unwrap_err();
            assert!(error.starts_with(field), "{field}: {error}");
        }
        let both = policy(Some(&pool(serde_json::json!({"min": 3, "max": 2}))), &Env::of(env)).unwrap_err();
        assert_eq!(both, "spec.min cannot be used: it is 3, more than spec.max, 2");
        let nothing = Env::of(|name| (name == "FLY_WORKER_APP").then(|| "clips".to_owned()));
        let error = policy(Some(&pool(serde_json::json!({}))), &nothing).unwrap_err();
        assert!(error.starts_with("spec.image"), "{error}");
    }

    #[test]
    fn policy_error_in_the_environment_names_its_variable() {
        let spec = pool(serde_json::json!({"provider": {"fly": {"guest": {"size": "performance-4x"}}}}));
        for (variable, bad) in [
            ("FLY_WORKER_REGIONS", "i&d"),
            ("FLY_WORKER_MEMORY_MB", "512"),
            ("FLEET_PAUSED", "perhaps"),
            ("FLEET_LAUNCH_FAILURES", "0"),
        ] {
            let wrong = Env::of(|name| if name == variable { Some(bad.to_owned()) } else { env(name) });
            let error = policy(Some(&spec), &wrong).unwrap_err();
            assert!(error.starts_with(variable), "{variable}: {error}");
        }
    }

    /// The paths of the values below `schema`.
    fn paths(path: &str, schema: &serde_json::Value, found: &mut BTreeSet<String>) {
        match schema["properties"].as_object() {
            Some(properties) => {
                properties.iter().for_each(|(name, of)| paths(&format!("{path}.{name}"), of, found));
            }
            None => drop(found.insert(path.to_owned())),
        }
    }

    #[test]
    fn policy_fields_cover_all_fields_of_the_crd() {
        let crd = serde_json::to_value(WorkerPool::crd()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut expected = BTreeSet::new();
        paths("spec", schema, &mut expected);
        let fields = fields(&pool(serde_json::json!({})));
        assert_eq!(fields.iter().map(|field| field.path().to_owned()).collect::<BTreeSet<_>>(), expected);
    }
}
