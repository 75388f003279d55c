//! The template of a pool's pods: what its settings say, and for the rest what the restricted Pod Security Standard
//! requires. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::WORKER_CONTAINER;
use super::quantity::{bytes, number, whole};
use crate::controller::fleet::{MAX_INPUT_BYTES, MachineSize};
use crate::crd::PodsSpec;
use crate::hex::hex;
use crate::job::space;

/// Time between SIGTERM and SIGKILL, seconds. A worker gives back its job within 10 s.
const TERMINATION_GRACE_SECONDS: i64 = 30;
/// The folder with the files of a job, which must be writable.
const SCRATCH: &str = "/tmp";
/// The name of the volume that is made for that folder.
const SCRATCH_VOLUME: &str = "tcoder-scratch";
/// The worker's setting for the space on its disk.
pub(super) const DISK_BYTES: &str = "WORKER_DISK_BYTES";
/// Annotations that keep cluster autoscalers from removing a node while a worker runs there. A worker without a job exits
/// by itself.
const AUTOSCALER_ANNOTATIONS: [(&str, &str); 2] =
    [("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")];
/// The resources of a worker for which nothing else is said.
const DEFAULT_REQUESTS: [(&str, &str); 3] =
    [("cpu", "500m"), ("memory", "512Mi"), ("ephemeral-storage", "5Gi")];
const DEFAULT_LIMITS: [(&str, &str); 2] = [("memory", "4Gi"), ("ephemeral-storage", "5Gi")];

/// A template that a pod can be made from.
#[derive(Clone, Debug, PartialEq)]
pub struct PodTemplate {
    pub(super) metadata: ObjectMeta,
    pub(super) spec: PodSpec,
    /// The container of the worker, which is not in the spec. It has an image.
    pub(super) worker: Container,
    /// The image of the worker.
    pub(super) image: String,
    /// The size of the worker's container.
    pub(super) size: MachineSize,
    /// Changes with everything but the image.
    pub(super) revision: String,
}

/// Why no pod can be made from the settings of a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template is no template of a pod.
    #[error("spec.provider.pods.template is no template of a pod: {0}")]
    Malformed(String),
    /// A pod has no such field.
    #[error(
        "spec.provider.pods.template: a pod has no field {0}; remove it or correct its name (the controller knows the fields of Kubernetes 1.33)"
    )]
    UnknownField(String),
    /// Neither the pool nor the template has an image.
    #[error("spec.image is not set: set it to the worker image, such as ghcr.io/tcoder/tcoder-worker:0.1.0")]
    NoImage,
    /// A field that the controller decides.
    #[error("spec.provider.pods.template.spec.{field} must not be set: {why}")]
    Reserved {
        /// The field of the pod's spec.
        field: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A quantity cannot be read.
    #[error("{field}: {text:?} is no quantity, such as 500m or 4Gi")]
    Quantity {
        /// The field.
        field: String,
        /// Its value.
        text: String,
    },
}

impl PodTemplate {
    /// The template of the pods of a pool with these settings and this image.
    ///
    /// # Errors
    /// Why no pod can be made from it.
    pub fn new(pods: &PodsSpec, image: Option<&str>) -> Result<Self, TemplateError> {
        let template = parse(pods.template.as_ref())?;
        let mut metadata = template.metadata.unwrap_or_default();
        let mut spec = template.spec.unwrap_or_default();
        refuse_reserved(&spec)?;
        let place = spec.containers.iter().position(|container| container.name == WORKER_CONTAINER);
        let mut worker = match place {
            Some(place) => spec.containers.remove(place),
            None => Container { name: WORKER_CONTAINER.to_owned(), ..Container::default() },
        };
        let image = image.map(str::to_owned).or_else(|| worker.image.take());
        let image = image.filter(|image| !image.is_empty()).ok_or(TemplateError::NoImage)?;
        worker.image = None;
        let annotations = metadata.annotations.get_or_insert_default();
        for (name, value) in AUTOSCALER_ANNOTATIONS {
            annotations.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        apply_settings(pods, &mut spec, &mut worker);
        default_pod(&mut spec);
        default_worker(&mut worker);
        default_scratch(&mut spec, &mut worker);
        let size = size(worker.resources.as_ref())?;
        let revision = revision(&metadata, &spec, &worker);
        Ok(Self { metadata, spec, worker, image, size, revision })
    }

    /// The image of the worker.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The size of the worker's container.
    #[must_use]
    pub const fn size(&self) -> MachineSize {
        self.size
    }

    /// The largest input in bytes that its worker accepts by its own settings, if they say so.
    pub(super) fn max_input(&self) -> Option<u64> {
        let said = self.variable(MAX_INPUT_BYTES)?;
        said.value.as_ref()?.trim().parse().ok()
    }

    /// The largest input in bytes that fits into the space of a worker, if that is limited.
    pub(super) fn fits(&self) -> Option<u64> {
        let disk = match self.variable(DISK_BYTES) {
            Some(said) => said.value.as_ref()?.trim().parse().ok()?,
            None => self.storage_limit().and_then(number).map(bytes)?,
        };
        // A worker for which no input fits does not start.
        Some(space::largest_input(disk)).filter(|most| *most > 0)
    }

    /// The limit of the space for the files of a job, if there is one and it is for the folder with these. The worker is
    /// told it.
    pub(super) fn storage_limit(&self) -> Option<&Quantity> {
        // A volume of the template's own does not count for the limit.
        let is_own = self.worker.volume_mounts.iter().flatten().any(|mount| mount.name == SCRATCH_VOLUME);
        let limits = self.worker.resources.as_ref()?.limits.as_ref()?;
        limits.get("ephemeral-storage").filter(|_| is_own)
    }

    fn variable(&self, name: &str) -> Option<&EnvVar> {
        self.worker.env.iter().flatten().find(|variable| variable.name == name)
    }

    /// A text that changes with everything but the image.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

fn parse(template: Option<&Value>) -> Result<PodTemplateSpec, TemplateError> {
    let Some(template) = template else { return Ok(PodTemplateSpec::default()) };
    let mut written = template.clone();
    // A pod's spec requires the list, but the worker's container may be made here.
    if let Some(spec) = written.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("containers").or_insert_with(|| Value::Array(Vec::new()));
    }
    let parsed: PodTemplateSpec = serde_path_to_error::deserialize(&written)
        .map_err(|error| TemplateError::Malformed(format!("{}: {}", error.path(), error.inner())))?;
    // The parser ignores unknown fields, and with them typing errors.
    let read = serde_json::to_value(&parsed).map_err(|error| TemplateError::Malformed(error.to_string()))?;
    match lost(&written, &read, "") {
        Some(field) => Err(TemplateError::UnknownField(field)),
        None => Ok(parsed),
    }
}

/// The path of the first field of `written` that `read` does not have.
fn lost(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match read.get(name) {
                Some(read) => lost(value, read, &path),
                None => (!value.is_null()).then_some(path),
            }
        }),
        (Value::Array(written), Value::Array(read)) => {
            let pairs = written.iter().zip(read).enumerate();
            pairs.into_iter().find_map(|(n, (written, read))| lost(written, read, &format!("{path}[{n}]")))
        }
        _ => None,
    }
}

fn refuse_reserved(spec: &PodSpec) -> Result<(), TemplateError> {
    let reserved = |field, why| Err(TemplateError::Reserved { field, why });
    if spec.restart_policy.as_deref().is_some_and(|policy| policy != "Never") {
        return reserved("restartPolicy", "a worker that exits is replaced by another pod");
    }
    if spec.init_containers.iter().flatten().any(|container| container.name == WORKER_CONTAINER) {
        return reserved("initContainers", "the container named worker is the one that runs the worker");
    }
    Ok(())
}

/// The settings that a pool has besides the template.
fn apply_settings(pods: &PodsSpec, spec: &mut PodSpec, worker: &mut Container) {
    if let Some(resources) = &pods.resources {
        worker.resources = Some(ResourceRequirements {
            requests: resources.requests.clone(),
            limits: resources.limits.clone(),
            ..worker.resources.take().unwrap_or_default()
        });
    }
    if let Some(labels) = &pods.node_selector {
        spec.node_selector.get_or_insert_default().extend(labels.clone());
    }
    if let Some(tolerations) = &pods.tolerations {
        spec.tolerations.get_or_insert_default().extend(tolerations.iter().cloned());
    }
    if let Some(account) = &pods.service_account_name {
        spec.service_account_name = Some(account.clone());
    }
}

/// What the restricted Pod Security Standard requires of a pod, and what a worker does not need.
fn default_pod(spec: &mut PodSpec) {
    spec.restart_policy = Some("Never".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(TERMINATION_GRACE_SECONDS);
    // A worker talks to Redis and to storage, never to Kubernetes.
    spec.automount_service_account_token.get_or_insert(false);
    spec.enable_service_links.get_or_insert(false);
    let security = spec.security_context.get_or_insert_with(PodSecurityContext::default);
    security.run_as_non_root.get_or_insert(true);
    security.seccomp_profile.get_or_insert_with(|| SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        ..SeccompProfile::default()
    });
}

fn default_worker(worker: &mut Container) {
    worker.args.get_or_insert_with(|| vec!["worker".to_owned()]);
    // The pod of a worker that fails is deleted soon, and its log with it.
    worker.termination_message_policy.get_or_insert_with(|| "FallbackToLogsOnError".to_owned());
    let security = worker.security_context.get_or_insert_with(SecurityContext::default);
    security.allow_privilege_escalation.get_or_insert(false);
    security.read_only_root_filesystem.get_or_insert(true);
    security.capabilities.get_or_insert_with(|| Capabilities {
        drop: Some(vec!["ALL".to_owned()]),
        ..Capabilities::default()
    });
    let resources = worker.resources.get_or_insert_default();
    if resources.requests.is_none() && resources.limits.is_none() {
        let quantities = |of: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
            of.iter().map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned()))).collect()
        };
        resources.requests = Some(quantities(&DEFAULT_REQUESTS));
        resources.limits = Some(quantities(&DEFAULT_LIMITS));
    }
}

/// A writable folder for the files of a job, unless the template has one there.
fn default_scratch(spec: &mut PodSpec, worker: &mut Container) {
    let mounts = worker.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == SCRATCH) {
        return;
    }
    let name = SCRATCH_VOLUME.to_owned();
    mounts.push(VolumeMount { name: name.clone(), mount_path: SCRATCH.to_owned(), ..VolumeMount::default() });
    let limits = worker.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let size_limit = limits.and_then(|limits| limits.get("ephemeral-storage")).cloned();
    spec.volumes.get_or_insert_default().push(Volume {
        name,
        empty_dir: Some(EmptyDirVolumeSource { size_limit, ..EmptyDirVolumeSource::default() }),
        ..Volume::default()
    });
}

/// The size of the worker's container: what it may use, or else what is reserved for it.
fn size(resources: Option<&ResourceRequirements>) -> Result<MachineSize, TemplateError> {
    let of = |name: &str| -> Result<Option<f64>, TemplateError> {
        let Some(resources) = resources else { return Ok(None) };
        let maps = [("limits", &resources.limits), ("requests", &resources.requests)];
        let found = maps.into_iter().find_map(|(kind, map)| Some((kind, map.as_ref()?.get(name)?)));
        let Some((kind, quantity)) = found else { return Ok(None) };
        number(quantity).map(Some).ok_or_else(|| TemplateError::Quantity {
            field: format!("spec.provider.pods.resources.{kind}.{name}"),
            text: quantity.0.clone(),
        })
    };
    let cpus = of("cpu")?.map_or(1, whole);
    let memory_mb = of("memory")?.map_or(512, |bytes| whole(bytes / 1_048_576.0));
    Ok(MachineSize { dedicated: true, cpus, memory_mb })
}

fn revision(metadata: &ObjectMeta, spec: &PodSpec, worker: &Container) -> String {
    let text = serde_json::json!([metadata, spec, worker]).to_string();
    hex(&Sha256::digest(text)[..8])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods(settings: Value) -> PodsSpec {
        serde_json::from_value(settings).unwrap()
    }

    fn template(settings: Value) -> Result<PodTemplate, TemplateError> {
        PodTemplate::new(&pods(settings), Some("worker:1"))
    }

    #[test]
    fn pool_without_a_template_has_what_restricted_pod_security_requires() {
        let made = template(json!({})).unwrap();
        let spec = serde_json::to_value(&made.spec).unwrap();
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(
            (&spec["automountServiceAccountToken"], &spec["enableServiceLinks"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        let worker = serde_json::to_value(&made.worker).unwrap();
        assert_eq!((&worker["name"], &worker["args"]), (&json!("worker"), &json!(["worker"])));
        let security = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        });
        assert_eq!(worker["securityContext"], security);
        assert_eq!(worker["volumeMounts"], json!([{"name": "tcoder-scratch", "mountPath": "/tmp"}]));
        assert_eq!(spec["volumes"], json!([{"name": "tcoder-scratch", "emptyDir": {"sizeLimit": "5Gi"}}]));
        assert_eq!((made.size.cpus, made.size.memory_mb), (1, 4096));
    }

    #[test]
    fn template_goes_before_the_defaults_and_the_settings_before_the_template() {
        let made = template(json!({
            "template": {
                "metadata": {
                    "labels": {"team": "films"},
                    "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
                },
                "spec": {
                    "terminationGracePeriodSeconds": 120,
                    "nodeSelector": {"zone": "a", "disk": "ssd"},
                    "tolerations": [{"key": "spot", "operator": "Exists"}],
                    "serviceAccountName": "other",
                    "priorityClassName": "batch",
                    "securityContext": {"runAsUser": 1000, "runAsNonRoot": true},
                    "containers": [
                        {
                            "name": "worker", "image": "worker:0", "envFrom": [{"secretRef": {"name": "settings"}}],
                            "resources": {"requests": {"cpu": "1"}},
                            "securityContext": {"readOnlyRootFilesystem": false},
                            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
                        },
                        {"name": "proxy", "image": "proxy:1"},
                    ],
                    "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}],
                },
            },
            "resources": {"requests": {"cpu": "3500m", "memory": "6Gi"}, "limits": {"memory": "8Gi"}},
            "nodeSelector": {"zone": "b"},
            "tolerations": [{"key": "encoder", "operator": "Exists"}],
            "serviceAccountName": "workers",
        }))
        .unwrap();
        assert_eq!(made.image(), "worker:1");
        assert_eq!((made.size.cpus, made.size.memory_mb), (4, 8192));
        let annotations = made.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"], "true");
        assert_eq!(annotations["karpenter.sh/do-not-disrupt"], "true");
        let spec = serde_json::to_value(&made.spec).unwrap();
        assert_eq!(spec["nodeSelector"], json!({"zone": "b", "disk": "ssd"}));
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(
            (&spec["serviceAccountName"], &spec["priorityClassName"]),
            (&json!("workers"), &json!("batch"))
        );
        assert_eq!(spec["terminationGracePeriodSeconds"], 120);
        assert_eq!(spec["containers"], json!([{"name": "proxy", "image": "proxy:1"}]));
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1, "it has a folder of its own at /tmp");
        let worker = serde_json::to_value(&made.worker).unwrap();
        assert_eq!(worker["securityContext"]["readOnlyRootFilesystem"], false);
        assert_eq!(worker["envFrom"], json!([{"secretRef": {"name": "settings"}}]));
        assert_eq!(worker["resources"]["requests"], json!({"cpu": "3500m", "memory": "6Gi"}));
    }

    #[test]
    fn error_of_a_template_names_the_field() {
        let of_spec = |spec: Value| json!({"template": {"spec": spec}});
        for (settings, words) in [
            (of_spec(json!({"restartPolicy": "Always"})), "template.spec.restartPolicy must not be set"),
            (
                of_spec(json!({"initContainers": [{"name": "worker"}]})),
                "template.spec.initContainers must not",
            ),
            (of_spec(json!({"nodeSelektor": {"a": "b"}})), "a pod has no field spec.nodeSelektor"),
            (
                of_spec(json!({"containers": [{"name": "worker", "envfrom": []}]})),
                "a pod has no field spec.containers[0].envfrom",
            ),
            (of_spec(json!({"priority": "high"})), "is no template of a pod: spec.priority"),
            (
                json!({"resources": {"limits": {"memory": "4 GB"}}}),
                "resources.limits.memory: \"4 GB\" is no quantity",
            ),
        ] {
            let error = template(settings).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        let error = PodTemplate::new(&PodsSpec::default(), None).unwrap_err().to_string();
        assert!(error.starts_with("spec.image is not set"), "{error}");
    }

    #[test]
    fn image_of_the_template_counts_if_the_pool_has_none() {
        let pods =
            pods(json!({"template": {"spec": {"containers": [{"name": "worker", "image": "worker:0"}]}}}));
        assert_eq!(PodTemplate::new(&pods, None).unwrap().image(), "worker:0");
        assert_eq!(PodTemplate::new(&pods, Some("worker:1")).unwrap().image(), "worker:1");
    }

    #[test]
    fn revision_changes_with_everything_but_the_image() {
        let revision = |settings: Value, image: &str| {
            PodTemplate::new(&pods(settings), Some(image)).unwrap().revision().to_owned()
        };
        let first = revision(json!({}), "worker:1");
        assert_eq!(first, revision(json!({}), "worker:2"));
        for settings in [
            json!({"serviceAccountName": "workers"}),
            json!({"nodeSelector": {"a": "b"}}),
            json!({"resources": {"limits": {"memory": "8Gi"}}}),
            json!({"template": {"metadata": {"labels": {"a": "b"}}}}),
        ] {
            assert_ne!(first, revision(settings.clone(), "worker:1"), "{settings}");
        }
    }
}
