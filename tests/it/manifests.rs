//! The content of `manifests/`: every way to install builds with `kubectl kustomize`, contains nothing that
//! Kubernetes does not know, and meets the strictest pod security standard; the samples are valid objects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, PodSpec, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tcoder::crd::{TranscodeJob, WorkerPool};
use tcoder::metrics::{ExpositionFormat, Metrics};
use tcoder::queue::{FleetCondition, FleetStatus, Stats};

/// Folders for `kubectl apply -k`, below `manifests`.
const INSTALLS: [&str; 4] = ["", "overlays/cluster-wide", "overlays/namespaced", "overlays/try-out"];
/// What a cluster has once.
const CRDS: &str = "crds";
pub const MONITORING: &str = "overlays/monitoring";

pub fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests")
}

pub fn read(file: &str) -> String {
    std::fs::read_to_string(manifests().join(file)).unwrap()
}

/// The kubectl next to the API server's binaries, or the user's own.
fn kubectl() -> PathBuf {
    let said = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = said.map(|folder| folder.join("kubectl")).filter(|file| file.exists());
    found.unwrap_or_else(|| "kubectl".into())
}

pub fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap()
}

/// The documents that `kubectl apply -k` would send.
pub fn rendered(folder: &str) -> Vec<Value> {
    let output = Command::new(kubectl())
        .arg("kustomize")
        .arg(manifests().join(folder))
        .output()
        .expect("no kubectl: `make test` sees to one, or set KUBEBUILDER_ASSETS to a folder with one");
    assert!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr));
    let mut documents = documents(std::str::from_utf8(&output.stdout).unwrap());
    // kubectl breaks long base64 into lines, which Kubernetes accepts but k8s-openapi does not.
    let secrets = documents.iter_mut().filter(|document| kind(document) == "Secret");
    for value in
        secrets.filter_map(|secret| secret["data"].as_object_mut()).flat_map(|data| data.values_mut())
    {
        *value = value.as_str().unwrap().split_whitespace().collect::<String>().into();
    }
    documents
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn kind(document: &Value) -> &str {
    text(document, "/kind")
}

/// Kind, namespace and name.
fn named(document: &Value) -> (&str, &str, &str) {
    (kind(document), text(document, "/metadata/namespace"), text(document, "/metadata/name"))
}

fn all<T: DeserializeOwned>(documents: &[Value], wanted: &str) -> Vec<T> {
    let of_kind = documents.iter().filter(|document| kind(document) == wanted);
    of_kind.map(|document| serde_json::from_value(document.clone()).unwrap()).collect()
}

/// Parses a document into its type and checks that nothing is lost, as a misspelt field would be.
fn understood<T: DeserializeOwned + Serialize>(document: &Value) {
    let read: T = serde_json::from_value(document.clone())
        .unwrap_or_else(|error| panic!("{:?}: {error}", named(document)));
    let mut lost = Vec::new();
    missing(document, &serde_json::to_value(read).unwrap(), String::new(), &mut lost);
    assert!(lost.is_empty(), "{:?} has what nobody knows: {lost:?}", named(document));
}

/// Finds what `whole` contains and `part` does not.
fn missing(whole: &Value, part: &Value, at: String, lost: &mut Vec<String>) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, value) in whole {
                missing(value, part.get(name).unwrap_or(&Value::Null), format!("{at}/{name}"), lost);
            }
        }
        (Value::Array(whole), Value::Array(part)) if whole.len() == part.len() => {
            for (n, (value, other)) in whole.iter().zip(part).enumerate() {
                missing(value, other, format!("{at}/{n}"), lost);
            }
        }
        // An empty map equals an absent one.
        (Value::Object(whole), Value::Null) if whole.is_empty() => {}
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        _ if whole == part => {}
        _ => lost.push(at),
    }
}

fn understood_by_kind(document: &Value) {
    match (text(document, "/apiVersion"), kind(document)) {
        ("v1", "Namespace") => understood::<Namespace>(document),
        ("v1", "ServiceAccount") => understood::<ServiceAccount>(document),
        ("v1", "ConfigMap") => understood::<ConfigMap>(document),
        ("v1", "Secret") => understood::<Secret>(document),
        ("v1", "Service") => understood::<Service>(document),
        ("apps/v1", "Deployment") => understood::<Deployment>(document),
        ("networking.k8s.io/v1", "NetworkPolicy") => understood::<NetworkPolicy>(document),
        ("policy/v1", "PodDisruptionBudget") => understood::<PodDisruptionBudget>(document),
        ("rbac.authorization.k8s.io/v1", "Role") => understood::<Role>(document),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => understood::<RoleBinding>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => understood::<ClusterRole>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => understood::<ClusterRoleBinding>(document),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            understood::<CustomResourceDefinition>(document);
        }
        ("tcoder.dev/v1alpha1", "TranscodeJob") => understood::<TranscodeJob>(document),
        ("tcoder.dev/v1alpha1", "WorkerPool") => understood::<WorkerPool>(document),
        other => panic!("no type to read {other:?} with"),
    }
}

fn deployments(documents: &[Value]) -> Vec<(String, PodSpec)> {
    let deployments: Vec<Deployment> = all(documents, "Deployment");
    let pod = |d: Deployment| (d.metadata.name.unwrap(), d.spec.unwrap().template.spec.unwrap());
    deployments.into_iter().map(pod).collect()
}

fn controller(documents: &[Value]) -> (PodSpec, Container) {
    let found = deployments(documents).into_iter().find(|(name, _)| name == "tcoder-controller");
    let pod = found.unwrap().1;
    let container = pod.containers[0].clone();
    (pod, container)
}

#[test]
fn overlays_build_and_pass_kubernetes_validation() {
    for folder in INSTALLS.iter().copied().chain(["base", CRDS]) {
        let documents = rendered(folder);
        documents.iter().for_each(understood_by_kind);
        let names: BTreeSet<_> = documents.iter().map(named).collect();
        assert_eq!(names.len(), documents.len(), "{folder} has something twice");
    }
    let kueue = rendered("overlays/kueue");
    kueue.iter().for_each(understood_by_kind);
    assert_eq!(
        kueue.iter().map(kind).collect::<Vec<_>>(),
        ["ClusterRole", "ClusterRole", "ClusterRoleBinding", "ClusterRoleBinding"]
    );
    for (role, binding) in [(&kueue[0], &kueue[2]), (&kueue[1], &kueue[3])] {
        assert!(!role["rules"].to_string().contains('*'));
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    }
    // These types belong to the Prometheus operator, so they can only be inspected.
    let kinds: Vec<Value> =
        rendered(MONITORING).iter().map(|d| json!([d["apiVersion"], d["kind"]])).collect();
    let monitoring = |kind: &str| json!(["monitoring.coreos.com/v1", kind]);
    let board = json!(["v1", "ConfigMap"]);
    assert_eq!(kinds, [board, monitoring("PrometheusRule"), monitoring("ServiceMonitor")]);
}

#[test]
fn default_overlay_is_cluster_wide() {
    assert_eq!(rendered(""), rendered("overlays/cluster-wide"));
}

#[test]
fn crds_in_the_manifests_match_this_version() {
    assert_eq!(read("crds/crds.yaml"), tcoder::crd::yaml().unwrap(), "run: make crds");
}

/// `kubectl delete -k` of one would otherwise delete what belongs to the cluster or to another one.
#[test]
fn installs_have_nothing_in_common() {
    let mut owners: BTreeMap<(String, String, String), &str> = BTreeMap::new();
    // The first one is the same as the second.
    for folder in INSTALLS.into_iter().skip(1).chain([CRDS]) {
        for document in rendered(folder) {
            let (kind, namespace, name) = named(&document);
            let object = (kind.to_owned(), namespace.to_owned(), name.to_owned());
            assert!(folder == CRDS || kind != "CustomResourceDefinition", "{folder} contains {name}");
            if let Some(other) = owners.insert(object, folder) {
                panic!("{folder} and {other} both contain the {kind} {namespace}/{name}");
            }
        }
    }
}

/// The minor version of Kubernetes that hack/envtest.sh builds from this go.mod, such as 1.37.
pub fn minor_version(go_mod: &str) -> String {
    let text = std::fs::read_to_string(manifests().parent().unwrap().join(go_mod)).unwrap();
    let version = text.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v")).unwrap();
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// The two go.mod are where the supported versions are written; everything else follows them.
#[test]
fn documents_and_chart_state_the_tested_versions_of_kubernetes() {
    let (oldest, newest) =
        (minor_version("hack/envtest/oldest/go.mod"), minor_version("hack/envtest/go.mod"));
    let root = |file: &str| std::fs::read_to_string(manifests().parent().unwrap().join(file)).unwrap();
    let said = format!("Kubernetes {oldest} to {newest}");
    for file in ["README.md", "docs/kubernetes.md"] {
        assert!(root(file).contains(&said), "{file} does not say: {said}");
    }
    assert_eq!(documents(&read("helm/tcoder/Chart.yaml"))[0]["kubeVersion"], format!(">={oldest}.0-0"));
    // Newer types could contain fields that the oldest version does not know.
    let feature = format!("\"v{}\"", oldest.replace('.', "_"));
    let cargo = root("Cargo.toml");
    let types = cargo.lines().find(|line| line.starts_with("k8s-openapi = ")).unwrap();
    assert!(types.contains(&feature), "{types} does not have the feature {feature}");
}

#[test]
fn pods_conform_to_the_restricted_pod_security_standard() {
    for folder in INSTALLS {
        for (name, pod) in deployments(&rendered(folder)) {
            restricted(&format!("{folder}: {name}"), &pod);
        }
    }
}

/// Checks <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>, and that the
/// root file system is read-only.
fn restricted(what: &str, pod: &PodSpec) {
    let host = [pod.host_network, pod.host_pid, pod.host_ipc];
    assert!(host.iter().all(|on| *on != Some(true)), "{what}");
    let security = pod.security_context.as_ref().expect(what);
    assert_eq!(security.run_as_non_root, Some(true), "{what}");
    assert_ne!(security.run_as_user, Some(0), "{what}");
    assert!(security.sysctls.is_none(), "{what}");
    assert_eq!(security.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault", "{what}");
    for volume in pod.volumes.iter().flatten() {
        assert!(volume.empty_dir.is_some() || volume.secret.is_some(), "{what}: {volume:?}");
    }
    let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    for container in containers {
        let security = container.security_context.as_ref().expect(what);
        assert_eq!(security.allow_privilege_escalation, Some(false), "{what}");
        assert_eq!(security.read_only_root_filesystem, Some(true), "{what}");
        assert!(security.privileged != Some(true) && security.run_as_user.is_none(), "{what}");
        assert_ne!(security.run_as_non_root, Some(false), "{what}");
        let capabilities = security.capabilities.as_ref().expect(what);
        assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]), "{what}");
        assert!(capabilities.add.is_none(), "{what}");
        assert!(container.ports.iter().flatten().all(|port| port.host_port.is_none()), "{what}");
        let resources = container.resources.as_ref().expect(what);
        for (name, least) in [("cpu", &resources.requests), ("memory", &resources.limits)] {
            assert!(least.as_ref().is_some_and(|some| some.contains_key(name)), "{what}: {name}");
        }
    }
}

#[test]
fn images_have_the_tag_of_this_version() {
    for folder in INSTALLS {
        for (name, pod) in deployments(&rendered(folder)) {
            let image = pod.containers[0].image.clone().unwrap();
            match &*name {
                "tcoder-controller" | "tcoder-worker" => {
                    assert_eq!(image, format!("ghcr.io/tcoder/{name}:{}", env!("CARGO_PKG_VERSION")));
                }
                // Images have a fixed version.
                _ => assert!(image.split_once(':').is_some_and(|(_, tag)| tag != "latest"), "{image}"),
            }
        }
    }
}

/// Whether a selector matches the labels of a pod template.
fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[test]
fn selectors_and_references_in_the_manifests_resolve() {
    for folder in INSTALLS {
        let documents = rendered(folder);
        let there: BTreeSet<_> = documents.iter().map(named).collect();
        let deployments: Vec<Deployment> = all(&documents, "Deployment");
        let labels: Vec<BTreeMap<String, String>> = deployments
            .iter()
            .map(|d| d.spec.as_ref().unwrap().template.metadata.as_ref().unwrap().labels.clone().unwrap())
            .collect();
        let finds_one = |selector: BTreeMap<String, String>| {
            let found = labels.iter().filter(|labels| selects(&selector, labels)).count();
            assert_eq!(found, 1, "{folder}: {selector:?}");
        };
        for deployment in &deployments {
            finds_one(deployment.spec.as_ref().unwrap().selector.match_labels.clone().unwrap());
        }
        for service in all::<Service>(&documents, "Service") {
            finds_one(service.spec.unwrap().selector.unwrap());
        }
        for budget in all::<PodDisruptionBudget>(&documents, "PodDisruptionBudget") {
            finds_one(budget.spec.unwrap().selector.unwrap().match_labels.unwrap());
        }
        for policy in all::<NetworkPolicy>(&documents, "NetworkPolicy") {
            let spec = policy.spec.unwrap();
            finds_one(spec.pod_selector.unwrap().match_labels.unwrap());
            for peer in spec.egress.into_iter().flatten().filter_map(|rule| rule.to).flatten() {
                finds_one(peer.pod_selector.unwrap().match_labels.unwrap());
            }
        }
        for (deployment, document) in
            deployments.iter().zip(documents.iter().filter(|d| kind(d) == "Deployment"))
        {
            let namespace = text(document, "/metadata/namespace");
            let pod = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
            if let Some(account) = &pod.service_account_name {
                assert!(there.contains(&("ServiceAccount", namespace, account)), "{folder}: {account}");
            }
            for source in pod.containers[0].env_from.iter().flatten() {
                let (kind, name) = match (&source.config_map_ref, &source.secret_ref) {
                    (Some(map), _) => ("ConfigMap", &map.name),
                    (_, secret) => ("Secret", &secret.as_ref().unwrap().name),
                };
                // The user creates this one.
                if (kind, &**name) != ("Secret", "tcoder-secrets") {
                    assert!(there.contains(&(kind, namespace, name)), "{folder}: {name}");
                }
            }
        }
    }
    let monitor = rendered(MONITORING).into_iter().find(|d| kind(d) == "ServiceMonitor").unwrap();
    let selector: BTreeMap<String, String> =
        serde_json::from_value(monitor["spec"]["selector"]["matchLabels"].clone()).unwrap();
    let services: Vec<Service> = all(&rendered(""), "Service");
    let service = services.iter().find(|s| selects(&selector, s.metadata.labels.as_ref().unwrap())).unwrap();
    let port = &service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0];
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], json!(port.name));
    assert_eq!(text(&monitor, "/metadata/namespace"), service.metadata.namespace.as_deref().unwrap());
}

#[test]
fn controller_probes_and_scrapes_use_its_port() {
    let (_, container) = controller(&rendered(""));
    let port = &container.ports.as_ref().unwrap()[0];
    let listens = format!("--listen=0.0.0.0:{}", port.container_port);
    assert_eq!(container.args, Some(vec!["controller".to_owned(), listens]));
    for (probe, path) in [(&container.liveness_probe, "/livez"), (&container.readiness_probe, "/readyz")] {
        let get = probe.as_ref().unwrap().http_get.as_ref().unwrap();
        assert_eq!(get.path.as_deref(), Some(path));
        assert_eq!(json!(get.port), json!(port.name));
    }
}

#[test]
fn role_bindings_grant_existing_roles_to_the_controller_only() {
    for folder in INSTALLS {
        let documents = rendered(folder);
        let there: BTreeSet<_> = documents.iter().map(named).collect();
        let bindings = documents.iter().filter(|d| d.get("roleRef").is_some());
        let mut bound = BTreeSet::new();
        for binding in bindings {
            let kind = kind(binding);
            let namespace = if kind == "RoleBinding" { text(binding, "/metadata/namespace") } else { "" };
            let (role, name) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
            let home = if role == "Role" { namespace } else { "" };
            assert!(there.contains(&(role, home, name)), "{folder}: {role} {name}");
            bound.insert((role, home, name));
            for subject in binding["subjects"].as_array().unwrap() {
                let (namespace, name) = (text(subject, "/namespace"), text(subject, "/name"));
                assert_eq!(name, "tcoder-controller");
                assert!(there.contains(&("ServiceAccount", namespace, name)), "{folder}: {subject}");
            }
        }
        let roles = there.iter().filter(|(kind, ..)| kind.ends_with("Role")).copied();
        let unbound: Vec<_> = roles.filter(|role| !bound.contains(role)).collect();
        assert!(unbound.is_empty(), "{folder}: {unbound:?}");
    }
    for folder in INSTALLS.into_iter().chain([CRDS]) {
        let documents = rendered(folder);
        for rule in documents.iter().filter_map(|d| d["rules"].as_array()).flatten() {
            assert!(!rule.to_string().contains('*'), "{folder}: {rule}");
        }
    }
    // Roles for users are bound by Kubernetes itself.
    for role in rendered(CRDS).iter().filter(|d| kind(d) == "ClusterRole") {
        let labels = role["metadata"]["labels"].as_object().unwrap();
        assert!(labels.keys().any(|label| label.starts_with("rbac.authorization.k8s.io/aggregate-to-")));
    }
}

#[test]
fn namespaced_overlay_stays_in_its_namespace_with_the_same_rules() {
    let narrow = rendered("overlays/namespaced");
    for document in &narrow {
        assert_eq!(text(document, "/metadata/namespace"), "films", "{:?}", named(document));
    }
    let (_, container) = controller(&narrow);
    assert_eq!(container.args.unwrap().last().unwrap(), "--namespace=$(POD_NAMESPACE)");
    let wide = rendered("overlays/cluster-wide");
    for name in ["tcoder-controller", "tcoder-controller-secrets", "tcoder-controller-home"] {
        let rules = |documents: &[Value]| {
            let of_install = |d: &Value| named(d).2.rsplit(':').next() == Some(name);
            let role = documents.iter().find(|d| d.get("rules").is_some() && of_install(d));
            role.unwrap()["rules"].clone()
        };
        assert_eq!(rules(&narrow), rules(&wide), "{name}");
    }
}

#[test]
fn only_the_try_out_overlay_contains_a_secret() {
    for folder in ["base", "", "overlays/cluster-wide", "overlays/namespaced"] {
        assert!(rendered(folder).iter().all(|document| kind(document) != "Secret"), "{folder}");
    }
    for secret in all::<Secret>(&rendered("overlays/try-out"), "Secret") {
        for value in secret.data.unwrap().into_values() {
            let value = String::from_utf8(value.0).unwrap();
            let says_so = value.contains("for-trying-out-only");
            let no_secret = value.starts_with("http") || ["input", "output"].contains(&&*value);
            assert!(says_so || no_secret, "{value}");
        }
    }
    // The example lists all secret settings and contains no values.
    for (name, value) in settings(&read("base/secrets.env.example"), '=') {
        assert!(value.is_empty() || value.contains("PASSWORD"), "{name}");
    }
}

/// Names and values of lines like `NAME: value` or `NAME=value`, including commented ones.
fn settings(text: &str, mark: char) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (name, value) = line.trim().trim_start_matches(['#', ' ']).split_once(mark)?;
        let is_name =
            name.len() > 3 && name.chars().all(|c| c.is_ascii_uppercase() || "_0123456789".contains(c));
        is_name.then(|| (name.to_owned(), value.trim().trim_matches('"').to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Variables in the help of a role.
fn help(role: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_tcoder")).args([role, "--help"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let environment = text.split_once("Environment:").unwrap().1;
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    environment
        .split(word)
        .filter(|word| word.contains('_') || *word == "HOSTNAME")
        .map(str::to_owned)
        .collect()
}

#[test]
fn variables_in_the_manifests_are_in_the_help() {
    let mut told = BTreeMap::new();
    for folder in INSTALLS {
        let documents = rendered(folder);
        for (name, pod) in deployments(&documents) {
            let Some(role) = name.strip_prefix("tcoder-") else { continue };
            let known = told.entry(role.to_owned()).or_insert_with(|| help(role));
            for variable in pod.containers[0].env.iter().flatten() {
                assert!(known.contains(&variable.name), "{role} --help does not name {}", variable.name);
            }
        }
        for secret in all::<Secret>(&documents, "Secret") {
            if secret.metadata.name.unwrap().starts_with("tcoder-secrets") {
                for variable in secret.data.unwrap().keys() {
                    assert!(told["controller"].contains(variable), "{variable}");
                }
            }
        }
    }
    let (config, example) = (read("base/configmap.yaml"), read("base/secrets.env.example"));
    let suggested = [settings(&config, ':'), settings(&example, '=')].concat();
    assert!(suggested.len() > 20, "{suggested:?}");
    for (name, _) in suggested {
        assert!(told["controller"].contains(&name), "controller --help does not name {name}");
    }
}

/// Values that the ConfigMap shows as defaults are valid.
#[test]
fn settings_in_the_manifests_are_valid() {
    use tcoder::config::Env;
    let shown: BTreeMap<String, String> = settings(&read("base/configmap.yaml"), ':').into_iter().collect();
    let env = Env::of(|name| match name {
        "FLY_WORKER_APP" => Some("clips".to_owned()),
        "FLY_WORKER_IMAGE" => Some("registry.fly.io/clips:v1".to_owned()),
        name => shown.get(name).cloned(),
    });
    let policy = tcoder::flyprovider::policy::read(&env).unwrap();
    assert_eq!((policy.min, policy.max), (0, 10));
    assert!(env.text("MIRROR_MAX").unwrap().parse::<u32>().is_ok());
}

#[test]
fn samples_are_valid_custom_resources() {
    let mut kinds = BTreeSet::new();
    for entry in std::fs::read_dir(manifests().join("samples")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for mut document in documents(&text) {
            kinds.insert(kind(&document).to_owned());
            // A write-only field, which is read back as `data`.
            if let Some(plain) = document.as_object_mut().unwrap().remove("stringData") {
                assert!(plain["secret"].as_str().unwrap().starts_with("whsec_"), "{path:?}");
            }
            understood_by_kind(&document);
        }
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["PodDisruptionBudget", "Secret", "TranscodeJob", "WorkerPool"]
    );
}

/// All metrics that can be exported.
fn shown() -> String {
    let metrics = Metrics::new();
    metrics.queue(&Stats { oldest_pending_ms: Some(1), ..Stats::default() });
    let condition: FleetCondition =
        serde_json::from_value(json!({"reason": "Quota", "message": "full"})).unwrap();
    let fleet = FleetStatus {
        conditions: vec![condition],
        machine_usd_per_hour: Some(0.1),
        ..FleetStatus::default()
    };
    metrics.fleet(Some(&fleet));
    metrics.provider_call("list", "done", std::time::Duration::ZERO);
    metrics.encode(ExpositionFormat::OpenMetrics)
}

/// Checks that the metrics in this expression can be exported.
fn are_shown(expression: &str, shown: &str) {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    for figure in words.filter(|word| word.starts_with("tcoder_")) {
        let series = |line: &str| line.strip_prefix(figure).is_some_and(|rest| rest.starts_with([' ', '{']));
        assert!(shown.lines().any(series), "{figure} is not among:\n{shown}");
    }
}

/// An alert about a metric that does not exist would never fire.
#[test]
fn alerts_use_only_exported_metrics() {
    let shown = shown();
    let rules = rendered(MONITORING).into_iter().find(|d| kind(d) == "PrometheusRule").unwrap();
    let rules = rules["spec"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(!rules.is_empty());
    for rule in rules {
        are_shown(rule["expr"].as_str().unwrap(), &shown);
    }
}

/// A panel about such a metric would be empty.
#[test]
fn dashboard_uses_only_exported_metrics() {
    let shown = shown();
    let map = rendered(MONITORING).into_iter().find(|d| kind(d) == "ConfigMap").unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let board: Value = serde_json::from_str(map["data"]["tcoder.json"].as_str().unwrap()).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    let mut places = BTreeSet::new();
    for panel in panels {
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{panel}");
        let place = &panel["gridPos"];
        assert!(places.insert((place["x"].to_string(), place["y"].to_string())), "two panels at {place}");
        for target in panel["targets"].as_array().unwrap() {
            are_shown(target["expr"].as_str().unwrap(), &shown);
        }
    }
}
