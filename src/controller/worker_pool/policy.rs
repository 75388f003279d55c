//! Converts a WorkerPool's spec into the fleet that it configures: the provider, and the policy. Pure.

use std::sync::Arc;

use kube::ResourceExt as _;

use crate::config::registry::{
    FLEET_BUDGET_USD_PER_HOUR, FLEET_PAUSED, FLEET_STRICT_REGIONS, FLY_WORKER_DISK_GB, FLY_WORKER_GUEST,
    FLY_WORKER_GUESTS, FLY_WORKER_IMAGE, FLY_WORKER_MEMORY_MB, FLY_WORKER_REGIONS, JOBS_PER_MACHINE,
    MAX_MACHINES, MIN_MACHINES, WORKER_CLASSES, WORKER_IDLE_TIMEOUT,
};
use crate::config::{Env, Field};
use crate::controller::fleet::FleetPolicy;
use crate::crd::{PodsSpec, WorkerPool, WorkerPoolSpec};
use crate::flyprovider;
use crate::job::{Millis, WorkerClass};
use crate::podprovider::{self, PodPool, PodTemplate};

/// The fleet that is wanted, by its provider.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FleetTarget {
    /// Machines on Fly.
    Fly(FleetPolicy),
    /// Pods of this pool.
    Pods(PodPool, FleetPolicy),
}

impl FleetTarget {
    /// The policy of the fleet.
    pub(crate) const fn policy(&self) -> &FleetPolicy {
        match self {
            Self::Fly(policy) | Self::Pods(_, policy) => policy,
        }
    }
}

/// The fields of a pool with any provider, each with the setting that it stands for.
fn common_fields(pool: &WorkerPoolSpec) -> Vec<Field> {
    // A pool can set this and not unset it: an environment that pauses the fleet is not undone by a pool.
    let paused = pool.paused.then_some(true);
    let classes: Vec<&str> = pool.worker_classes.iter().map(WorkerClass::as_str).collect();
    vec![
        Field::new("spec.workerClasses", &WORKER_CLASSES, Some(classes.join(","))),
        Field::new("spec.min", &MIN_MACHINES, Some(pool.min)),
        Field::new("spec.max", &MAX_MACHINES, Some(pool.max)),
        Field::new("spec.jobsPerMachine", &JOBS_PER_MACHINE, Some(pool.jobs_per_machine)),
        Field::new("spec.idleTimeoutSeconds", &WORKER_IDLE_TIMEOUT, Some(pool.idle_timeout_seconds)),
        Field::new("spec.budgetUsdPerHour", &FLEET_BUDGET_USD_PER_HOUR, pool.budget_usd_per_hour.as_ref()),
        Field::new("spec.paused", &FLEET_PAUSED, paused),
    ]
}

/// The fields of a pool of machines on Fly, each with the setting that it stands for.
fn fly_fields(pool: &WorkerPoolSpec) -> Vec<Field> {
    let fly = pool.provider.as_ref().and_then(|provider| provider.fly.as_ref());
    let guest = fly.and_then(|fly| fly.guest.as_ref());
    let guests = fly.and_then(|fly| fly.guests.as_ref());
    let regions = fly.and_then(|fly| fly.regions.as_ref());
    // Like `paused`.
    let strict_regions = fly.is_some_and(|fly| fly.strict_regions).then_some(true);
    let mut fields = common_fields(pool);
    fields.extend([
        Field::new("spec.image", &FLY_WORKER_IMAGE, pool.image.as_ref()),
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
    ]);
    fields
}

/// What is wanted of the fleet: what the pool says, and what the environment says where the pool says nothing.
///
/// # Errors
/// What is wrong, under the name of the pool's field, or of the variable where the value is the environment's.
pub(crate) fn target(pool: Option<&WorkerPool>, env: &Env<'_>) -> Result<FleetTarget, String> {
    let provider = pool.and_then(|pool| pool.spec.provider.as_ref());
    match (pool, provider.and_then(|provider| provider.pods.as_ref())) {
        (Some(pool), Some(pods)) => pods_target(pool, pods, env),
        (pool, _) => {
            let policy = fly_policy(pool.map(|pool| &pool.spec), env)?;
            Ok(FleetTarget::Fly(match pool {
                Some(pool) => with_place(policy, pool),
                None => policy,
            }))
        }
    }
}

/// The policy that removes the machines on Fly of a pool that is gone. No machine is made, so that the image of those that
/// go is of no interest.
///
/// # Errors
/// Why the environment does not say which app they belong to.
pub(super) fn emptied_fly_policy(pool: &str, env: &Env<'_>) -> Result<FleetPolicy, String> {
    let image = env.get(&FLY_WORKER_IMAGE).ok().flatten().unwrap_or_else(|| "none".to_owned());
    let fields = vec![Field::new("spec.image", &FLY_WORKER_IMAGE, Some(image))];
    let policy = flyprovider::policy::read(&Env::of(|name| env.text(name)).with_fields(fields))
        .map_err(|errors| errors.to_string())?;
    Ok(FleetPolicy { pool: Some(pool.to_owned()), ..emptied(policy) })
}

/// The policy of a fleet that goes: it takes jobs from no other.
pub(super) fn emptied(policy: FleetPolicy) -> FleetPolicy {
    FleetPolicy { min: 0, max: 0, priority: i32::MIN, ..policy }
}

/// The namespace and the name of a pool.
pub(super) fn full_name(pool: &WorkerPool) -> String {
    format!("{}/{}", pool.namespace().unwrap_or_default(), pool.name_any())
}

/// The policy of a pool, with its place among the others.
fn with_place(policy: FleetPolicy, pool: &WorkerPool) -> FleetPolicy {
    FleetPolicy {
        pool: Some(full_name(pool)),
        priority: pool.spec.priority,
        since: Millis(pool.creation_timestamp().map_or(0, |at| at.0.as_millisecond())),
        ..policy
    }
}

fn fly_policy(pool: Option<&WorkerPoolSpec>, env: &Env<'_>) -> Result<FleetPolicy, String> {
    let settings = Env::of(|name| env.text(name)).with_fields(pool.map(fly_fields).unwrap_or_default());
    flyprovider::policy::read(&settings).map_err(|errors| errors.to_string())
}

fn pods_target(pool: &WorkerPool, pods: &PodsSpec, env: &Env<'_>) -> Result<FleetTarget, String> {
    let template = PodTemplate::new(pods, pool.spec.image.as_deref()).map_err(|error| error.to_string())?;
    let settings = Env::of(|name| env.text(name)).with_fields(common_fields(&pool.spec));
    let name = pool.name_any();
    let policy =
        podprovider::policy::read(&settings, &name, &template).map_err(|errors| errors.to_string())?;
    let policy = with_place(policy, pool);
    let pool = PodPool {
        namespace: pool.namespace().unwrap_or_default(),
        name,
        uid: pool.uid().unwrap_or_default(),
        template: Arc::new(template),
    };
    Ok(FleetTarget::Pods(pool, policy))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kube::CustomResourceExt as _;

    use super::*;
    use crate::controller::fleet::{MachineSize, Sizes};

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
        let policy = fly_policy(None, &Env::of(env)).unwrap();
        assert_eq!((policy.max, policy.regions), (3, vec!["iad".to_owned()]));
    }

    #[test]
    fn policy_prefers_the_pool_and_falls_back_to_the_environment() {
        let spec = pool(serde_json::json!({
            "min": 1, "max": 7, "workerClasses": ["large", "default"], "jobsPerMachine": 2, "idleTimeoutSeconds": 60, "budgetUsdPerHour": "2.50",
            "paused": true,
            "provider": {"fly": {"strictRegions": true, "guest": {"size": "performance-4x"}, "diskGb": 40}},
        }));
        let policy = fly_policy(Some(&spec), &Env::of(env)).unwrap();
        assert_eq!((policy.min, policy.max, policy.jobs_per_machine.get()), (1, 7, 2));
        assert_eq!((policy.idle_timeout.as_secs(), policy.classes.to_string()), (60, "default,large".into()));
        assert_eq!((policy.regions.as_slice(), policy.any_region), (["iad".to_owned()].as_slice(), false));
        assert_eq!((policy.sizes.base().cpus, policy.image.as_str()), (4, "registry.fly.io/clips:1"));
        assert!(policy.paused && policy.budget.is_some());
        assert_eq!(policy.disk.unwrap().size_gb, 40);
        let other = pool(serde_json::json!({
            "provider": {"fly": {"regions": ["fra", "ams"], "guests": ["performance-8x", "performance-16x"]}},
            "image": "registry.fly.io/clips:2",
        }));
        let policy = fly_policy(Some(&other), &Env::of(env)).unwrap();
        assert_eq!(policy.regions, ["fra", "ams"]);
        let size = |cpus| MachineSize { cpus, memory_mb: 2048 * cpus, ..MachineSize::default() };
        assert_eq!(policy.sizes, Sizes::new(size(2), vec![size(8), size(16)]).unwrap());
        assert_eq!((policy.max, policy.image.as_str()), (10, "registry.fly.io/clips:2"));
    }

    #[test]
    fn policy_error_in_the_pool_names_its_field() {
        let of_fly = |fly: serde_json::Value| serde_json::json!({"provider": {"fly": fly}});
        for (field, spec) in [
            (
                "spec.workerClasses",
                serde_json::json!({"workerClasses": ["a", "b", "c", "d", "e", "f", "g", "h", "i"]}),
            ),
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
            let error = fly_policy(Some(&pool(spec)), &Env::of(env)).unwrap_err();
            assert!(error.starts_with(field), "{field}: {error}");
        }
        let both =
            fly_policy(Some(&pool(serde_json::json!({"min": 3, "max": 2}))), &Env::of(env)).unwrap_err();
        assert_eq!(both, "spec.min cannot be used: it is 3, more than spec.max, 2");
        let nothing = Env::of(|name| (name == "FLY_WORKER_APP").then(|| "clips".to_owned()));
        let error = fly_policy(Some(&pool(serde_json::json!({}))), &nothing).unwrap_err();
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
            let error = fly_policy(Some(&spec), &wrong).unwrap_err();
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
        // These are no settings of the environment, where there is one fleet and no pods.
        expected.retain(|path| path != "spec.priority" && !path.starts_with("spec.provider.pods."));
        let fields = fly_fields(&pool(serde_json::json!({})));
        assert_eq!(fields.iter().map(|field| field.path().to_owned()).collect::<BTreeSet<_>>(), expected);
    }
    fn pods_pool(spec: serde_json::Value) -> WorkerPool {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool",
            "metadata": {"name": "base", "namespace": "films", "uid": "u1"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn pool_of_pods_needs_nothing_of_fly() {
        let spec = serde_json::json!({
            "min": 1, "max": 7, "idleTimeoutSeconds": 60, "image": "worker:1", "workerClasses": ["large"],
            "provider": {"pods": {"resources": {"limits": {"cpu": 4, "memory": "8Gi"}}}},
        });
        let env = Env::of(|name| (name == "FLEET_PAUSED").then(|| "true".to_owned()));
        let Ok(FleetTarget::Pods(pool, policy)) = target(Some(&pods_pool(spec)), &env) else {
            panic!("it is no pool of pods")
        };
        assert_eq!((pool.namespace.as_str(), pool.name.as_str(), pool.uid.as_str()), ("films", "base", "u1"));
        assert_eq!((policy.app.as_str(), policy.image.as_str()), ("base", "worker:1"));
        assert_eq!((policy.min, policy.max, policy.idle_timeout.as_secs()), (1, 7, 60));
        assert_eq!((policy.sizes.base().cpus, policy.sizes.base().memory_mb), (4, 8192));
        assert_eq!(policy.revision.as_deref(), Some(pool.template.revision()));
        assert!(policy.paused);
        assert_eq!(policy.classes.to_string(), "large");
    }

    #[test]
    fn pool_that_names_no_class_takes_jobs_of_the_default_one_whatever_the_environment_says() {
        let env = |name: &str| if name == "WORKER_CLASSES" { Some("large".to_owned()) } else { env(name) };
        let none = pool(serde_json::json!({}));
        assert_eq!(fly_policy(Some(&none), &Env::of(env)).unwrap().classes.to_string(), "default");
        assert_eq!(fly_policy(None, &Env::of(env)).unwrap().classes.to_string(), "large");
    }

    #[test]
    fn error_of_a_pool_of_pods_names_its_field() {
        let nothing = Env::of(|_| None);
        for (spec, words) in [
            (serde_json::json!({"provider": {"pods": {}}}), "spec.image is not set"),
            (serde_json::json!({"image": "a", "min": 3, "max": 2, "provider": {"pods": {}}}), "spec.min"),
            (
                serde_json::json!({"image": "a", "budgetUsdPerHour": "1", "provider": {"pods": {}}}),
                "FLEET_PRICE_USD_PER_HOUR",
            ),
            (
                serde_json::json!({"image": "a", "provider": {"pods": {"template": {"spec": {"hostNetworks": true}}}}}),
                "a pod has no field spec.hostNetworks",
            ),
        ] {
            let error = target(Some(&pods_pool(spec)), &nothing).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
