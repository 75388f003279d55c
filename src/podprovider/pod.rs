//! A template and an order -> the pod of a machine. Pure.

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec, ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use serde::{Deserialize, Serialize};

use super::pool::PodPool;
use super::template::{DISK_BYTES, PodTemplate};
use super::{LAUNCH_ANNOTATION, POOL_LABEL, POOL_UID_LABEL};
use crate::controller::fleet::{Launch, MachineId, MachineOrder, MachineSize};
use crate::crd::WorkerPool;
use crate::job::WorkerClasses;

/// Maximum length of a label's value.
const MAX_LABEL: usize = 63;
/// The worker's setting for the number of chunks that it encodes at once.
const CHUNKS: &str = "WORKER_CHUNKS";

/// How a pod was made, as its annotation has it. Admission may change everything else, such as the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LaunchRecord {
    image: String,
    revision: Option<String>,
    stays: bool,
    size: MachineSize,
    /// Pods of versions without classes take jobs of the default one.
    #[serde(default)]
    classes: WorkerClasses,
}

/// The launch and the size of a pod, if its annotation has them.
pub(super) fn launch_of(pod: &Pod) -> Option<(Launch, MachineSize)> {
    let text = pod.metadata.annotations.as_ref()?.get(LAUNCH_ANNOTATION)?;
    let LaunchRecord { image, revision, stays, size, classes } = serde_json::from_str(text).ok()?;
    Some((Launch { image, disk: None, revision, stays, classes }, size))
}

/// The id of the machine that is this pod. The worker gets the same one as its `HOSTNAME`.
pub(super) fn machine_id(pod: &Pod) -> MachineId {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    MachineId(format!("{name}.{}", pod.metadata.uid.as_deref().unwrap_or_default()))
}

/// The name and the uid of the pod that is this machine.
pub(super) fn pod_of(machine: &MachineId) -> Option<(&str, &str)> {
    machine.0.rsplit_once('.')
}

/// The pod of an order.
pub(super) fn pod(pool: &PodPool, order: &MachineOrder<'_>) -> Pod {
    let template = &pool.template;
    Pod {
        metadata: metadata(pool, order),
        spec: Some(PodSpec { containers: containers(template, order), ..template.spec.clone() }),
        status: None,
    }
}

fn metadata(pool: &PodPool, order: &MachineOrder<'_>) -> ObjectMeta {
    let mut labels = pool.template.metadata.labels.clone().unwrap_or_default();
    let own = [
        ("app.kubernetes.io/name", "tcoder"),
        ("app.kubernetes.io/component", "worker"),
        (POOL_UID_LABEL, pool.uid.as_str()),
        (POOL_LABEL, pool.name.as_str()),
    ];
    labels.extend(
        own.into_iter()
            .filter(|(_, value)| value.len() <= MAX_LABEL)
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let mut annotations = pool.template.metadata.annotations.clone().unwrap_or_default();
    let record = LaunchRecord {
        image: order.launch.image.clone(),
        // The template of this moment is what the pod is made from, even if the order is from the moment before.
        revision: Some(pool.template.revision.clone()),
        stays: order.launch.stays,
        size: order.size,
        classes: order.launch.classes.clone(),
    };
    annotations.insert(LAUNCH_ANNOTATION.to_owned(), serde_json::json!(record).to_string());
    ObjectMeta {
        name: Some(order.name.to_owned()),
        labels: Some(labels),
        annotations: Some(annotations),
        // Whatever happens to the controller, pods do not outlive their pool.
        owner_references: Some(vec![OwnerReference {
            api_version: WorkerPool::api_version(&()).into_owned(),
            kind: WorkerPool::kind(&()).into_owned(),
            name: pool.name.clone(),
            uid: pool.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

fn containers(template: &PodTemplate, order: &MachineOrder<'_>) -> Vec<Container> {
    let mut worker = template.worker.clone();
    worker.image = Some(order.launch.image.clone());
    worker.env = Some(environment(worker.env.take().unwrap_or_default(), template, order));
    let mut containers = vec![worker];
    containers.extend(template.spec.containers.iter().cloned());
    containers
}

/// The environment of the worker: what the template says, unless the fleet says something else.
fn environment(template_env: Vec<EnvVar>, template: &PodTemplate, order: &MachineOrder<'_>) -> Vec<EnvVar> {
    let field = |path: &str| {
        let source = EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        };
        EnvVar { value_from: Some(source), ..EnvVar::default() }
    };
    let value = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    };
    // A variable can refer to those before it.
    let mut env = vec![
        EnvVar { name: "POD_NAME".to_owned(), ..field("metadata.name") },
        EnvVar { name: "POD_UID".to_owned(), ..field("metadata.uid") },
        value("HOSTNAME", "$(POD_NAME).$(POD_UID)"),
    ];
    env.extend(order.environment.iter().map(|(name, text)| value(name, &escaped(text))));
    let own: Vec<String> = env.iter().map(|variable| variable.name.clone()).collect();
    env.extend(template_env.into_iter().filter(|variable| !own.contains(&variable.name)));
    let has = |env: &[EnvVar], name: &str| env.iter().any(|variable| variable.name == name);
    if !has(&env, CHUNKS) {
        // A container without a limit on its CPUs sees all of its node's.
        env.push(value(CHUNKS, &order.size.cpus.to_string()));
    }
    if !has(&env, DISK_BYTES) && template.storage_limit().is_some() {
        // A worker that wrote more would be evicted.
        let source = EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                resource: "limits.ephemeral-storage".to_owned(),
                ..ResourceFieldSelector::default()
            }),
            ..EnvVarSource::default()
        };
        env.push(EnvVar { name: DISK_BYTES.to_owned(), value_from: Some(source), ..EnvVar::default() });
    }
    env
}

/// A text without references to variables: `$(NAME)` would be replaced.
fn escaped(text: &str) -> String {
    text.replace("$(", "$$(")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::controller::fleet::IDLE_TIMEOUT;

    fn pool(settings: Value) -> PodPool {
        let template =
            PodTemplate::new(&serde_json::from_value(settings).unwrap(), Some("worker:1")).unwrap();
        PodPool {
            namespace: "films".into(),
            name: "pods".into(),
            uid: "u-1".into(),
            template: template.into(),
        }
    }

    fn order(environment: &[(&str, &str)]) -> MachineOrder<'static> {
        let launch = Launch {
            image: "worker:1".into(),
            disk: None,
            revision: Some("old".into()),
            stays: true,
            classes: "large".parse().unwrap(),
        };
        let pairs = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        MachineOrder {
            name: "pods-worker-01",
            region: "any",
            size: MachineSize { dedicated: true, cpus: 3, memory_mb: 4096 },
            launch,
            environment: BTreeMap::from_iter(pairs),
        }
    }

    fn env<'a>(pod: &'a Value, name: &str) -> &'a Value {
        let all = pod["spec"]["containers"][0]["env"].as_array().unwrap();
        let found: Vec<&Value> = all.iter().filter(|variable| variable["name"] == name).collect();
        assert!(found.len() <= 1, "{name} occurs more than once");
        found.first().copied().unwrap_or(&Value::Null)
    }

    #[test]
    fn pod_belongs_to_its_pool_and_its_launch_can_be_read_again() {
        let pool = pool(json!({"template": {"metadata": {"labels": {"team": "films"}}}}));
        let made = pod(&pool, &order(&[]));
        let json = serde_json::to_value(&made).unwrap();
        assert_eq!(json["metadata"]["name"], "pods-worker-01");
        let labels = &json["metadata"]["labels"];
        assert_eq!(
            (&labels["team"], &labels[POOL_UID_LABEL], &labels[POOL_LABEL]),
            (&json!("films"), &json!("u-1"), &json!("pods"))
        );
        let owner = json!([{
            "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool", "name": "pods", "uid": "u-1", "controller": true,
        }]);
        assert_eq!(json["metadata"]["ownerReferences"], owner);
        let (launch, size) = launch_of(&made).unwrap();
        assert_eq!(launch.revision.as_deref(), Some(pool.template.revision()));
        assert_eq!((launch.image.as_str(), launch.stays, size.cpus), ("worker:1", true, 3));
        assert_eq!(launch.classes.to_string(), "large");
    }

    #[test]
    fn pod_of_a_version_without_classes_takes_jobs_of_the_default_one() {
        let mut made = pod(&pool(json!({})), &order(&[]));
        let annotations = made.metadata.annotations.as_mut().unwrap();
        let mut record: Value = serde_json::from_str(&annotations[LAUNCH_ANNOTATION]).unwrap();
        record.as_object_mut().unwrap().remove("classes").unwrap();
        annotations.insert(LAUNCH_ANNOTATION.to_owned(), record.to_string());
        assert_eq!(launch_of(&made).unwrap().0.classes, WorkerClasses::default());
    }

    #[test]
    fn environment_of_the_fleet_goes_before_that_of_the_template() {
        let worker = json!({
            "name": "worker",
            "env": [{"name": IDLE_TIMEOUT, "value": "7"}, {"name": "MINE", "value": "1"}],
        });
        let pool = pool(json!({"template": {"spec": {"containers": [worker]}}}));
        let made =
            serde_json::to_value(pod(&pool, &order(&[(IDLE_TIMEOUT, "0"), ("RUST_LOG", "a$(b)")]))).unwrap();
        assert_eq!(env(&made, IDLE_TIMEOUT)["value"], "0");
        assert_eq!(env(&made, "MINE")["value"], "1");
        assert_eq!(env(&made, "RUST_LOG")["value"], "a$$(b)");
        assert_eq!(env(&made, "HOSTNAME")["value"], "$(POD_NAME).$(POD_UID)");
        assert_eq!(env(&made, "POD_UID")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.uid");
        assert_eq!(env(&made, "WORKER_CHUNKS")["value"], "3");
        assert_eq!(
            env(&made, "WORKER_DISK_BYTES")["valueFrom"]["resourceFieldRef"]["resource"],
            "limits.ephemeral-storage"
        );
        let made = serde_json::to_value(pod(&pool, &order(&[("WORKER_CHUNKS", "9")]))).unwrap();
        assert_eq!(env(&made, "WORKER_CHUNKS")["value"], "9");
    }

    #[test]
    fn machine_id_has_the_name_and_the_uid_of_the_pod() {
        let mut made = pod(&pool(json!({})), &order(&[]));
        made.metadata.name = Some("a.b-worker-01".into());
        made.metadata.uid = Some("0b1c-2".into());
        let id = machine_id(&made);
        assert_eq!((id.0.as_str(), pod_of(&id)), ("a.b-worker-01.0b1c-2", Some(("a.b-worker-01", "0b1c-2"))));
        assert_eq!(pod_of(&MachineId("m1".into())), None);
    }

    #[test]
    fn long_pool_name_is_no_label() {
        let pool = PodPool { name: "a".repeat(64), ..pool(json!({})) };
        let labels = pod(&pool, &order(&[])).metadata.labels.unwrap();
        assert!(!labels.contains_key(POOL_LABEL) && labels.contains_key(POOL_UID_LABEL));
    }
}
