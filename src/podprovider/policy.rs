//! The policy of a fleet of pods.

use std::time::Duration;

use super::{PodTemplate, Pods};
use crate::config::registry::WORKER_MAX_INPUT_BYTES;
use crate::config::{ConfigErrors, Env};
use crate::controller::fleet::{Deadlines, FleetPolicy, Sizes};

/// Reads the settings of the fleet of a pool with this name, whose pods are made from this template.
///
/// # Errors
/// The invalid settings.
pub fn read(env: &Env<'_>, name: &str, template: &PodTemplate) -> Result<FleetPolicy, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    // What the controller's environment says is handed on to the pods; no worker takes more than fits.
    let said = errors.keep(env.get(&WORKER_MAX_INPUT_BYTES)).flatten();
    let max_input = said.or(template.max_input()).into_iter().chain(template.fits()).min();
    let own = FleetPolicy {
        max_input,
        sizes: Sizes::one(template.size()),
        revision: Some(template.revision().to_owned()),
        deadlines: deadlines(),
        ..FleetPolicy::new(name, template.image())
    };
    let policy = errors.keep(FleetPolicy::read::<Pods>(env, own));
    errors.finish(policy)
}

/// A list costs one request to an API server that is near, and it alone says that a pod finds no node. An autoscaler may
/// take minutes to add a node for a pod that waits, and stops when the pod is deleted.
fn deadlines() -> Deadlines {
    let s = Duration::from_secs;
    Deadlines {
        list: s(3),
        tick: s(15),
        stuck: s(600),
        region: s(60),
        hold: s(120),
        repair: s(15),
        ..Deadlines::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::job::space;

    fn largest_input(pods: Value, env: &[(&str, &str)]) -> Option<u64> {
        let template = PodTemplate::new(&serde_json::from_value(pods).unwrap(), Some("worker:1")).unwrap();
        let env = Env::of(|name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()));
        read(&env, "base", &template).unwrap().largest_input()
    }

    fn with_storage(limit: &str) -> Value {
        json!({"resources": {"limits": {"ephemeral-storage": limit}}})
    }

    fn with_env(env: Value) -> Value {
        json!({"template": {"spec": {"containers": [{"name": "worker", "env": env}]}}})
    }

    #[test]
    fn largest_input_is_what_fits_into_the_storage_of_a_pod() {
        let fits = |bytes| Some(space::largest_input(bytes));
        assert_eq!(largest_input(json!({}), &[]), fits(5 << 30));
        assert_eq!(largest_input(with_storage("20Gi"), &[]), fits(20 << 30));
        assert_eq!(
            largest_input(json!({"resources": {"limits": {"cpu": 1}}}), &[]),
            None,
            "nothing limits it"
        );
        let own_folder = json!({"template": {"spec": {
            "containers": [{"name": "worker", "volumeMounts": [{"name": "disk", "mountPath": "/tmp"}]}],
            "volumes": [{"name": "disk", "emptyDir": {}}],
        }}});
        assert_eq!(largest_input(own_folder, &[]), None, "the limit is not that of its folder");
        // A worker for which no input fits does not start, so that it limits no others.
        assert_eq!(largest_input(with_storage("1Mi"), &[]), None);
    }

    #[test]
    fn largest_input_is_what_the_environment_of_a_worker_says_unless_less_fits() {
        let set = [("WORKER_MAX_INPUT_BYTES", "1000000000")];
        assert_eq!(largest_input(json!({}), &set), Some(1_000_000_000));
        assert_eq!(largest_input(with_storage("1Gi"), &set), Some(space::largest_input(1 << 30)));
        let own = json!([{"name": "WORKER_MAX_INPUT_BYTES", "value": "2000000000"}]);
        assert_eq!(largest_input(with_env(own.clone()), &[]), Some(2_000_000_000));
        assert_eq!(largest_input(with_env(own), &set), Some(1_000_000_000), "the fleet's goes before it");
        let disk = json!([{"name": "WORKER_DISK_BYTES", "value": "9000000000"}]);
        assert_eq!(largest_input(with_env(disk), &[]), Some(space::largest_input(9_000_000_000)));
        let unknown =
            json!([{"name": "WORKER_DISK_BYTES", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]);
        assert_eq!(largest_input(with_env(unknown), &[]), None);
    }
}
