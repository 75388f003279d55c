//! The Helm chart: it renders the objects of the kustomize overlays, its values are documented and checked, and
//! releases live side by side in a real API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::manifests::{documents, kind, manifests, read, rendered};
use crate::operator::installs::{Install, assert_job_is_there, job_of_a_user, may_list};
use crate::support::kube::Cluster;
use crate::support::process::{err, out, spawn};
use crate::support::system::{PATIENCE, folder};

fn chart() -> PathBuf {
    manifests().join("helm/tcoder")
}

/// The Helm that hack/helm.sh builds or finds.
async fn program() -> &'static Path {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    PROGRAM
        .get_or_init(|| async {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/helm.sh");
            let mut command = Command::new(script);
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            // `make test` has built it.
            let ended = tokio::time::timeout(PATIENCE * 2, spawn(command).wait_with_output()).await;
            let output = ended.expect("the build of Helm does not end").unwrap();
            assert!(output.status.success(), "hack/helm.sh");
            out(&output).trim().into()
        })
        .await
}

async fn helm(args: &[&str], kubeconfig: Option<&Path>) -> Output {
    let mut command = Command::new(program().await);
    let home = folder("helm");
    command.args(args).env_clear().env("HOME", &home).env("PATH", std::env::var_os("PATH").unwrap());
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
    ended.expect("helm does not end").unwrap()
}

async fn helm_ok(args: &[&str], kubeconfig: Option<&Path>) -> String {
    let output = helm(args, kubeconfig).await;
    assert!(output.status.success(), "helm {args:?}: {}", err(&output));
    out(&output)
}

/// The documents of a release, without its definitions.
async fn template(release: &str, namespace: &str, values: &[&str]) -> Vec<Value> {
    let chart = chart();
    let mut args = vec!["template", release, chart.to_str().unwrap(), "--namespace", namespace];
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    documents(&helm_ok(&args, None).await)
}

/// Removes what only a release of Helm has: its own labels and the checksum of its settings.
fn without_release(value: &mut Value) {
    match value {
        Value::Object(object) => {
            let of_helm = [
                "app.kubernetes.io/instance",
                "app.kubernetes.io/managed-by",
                "helm.sh/chart",
                "checksum/config",
            ];
            object.retain(|name, _| !of_helm.contains(&&**name));
            object.values_mut().for_each(without_release);
        }
        Value::Array(array) => array.iter_mut().for_each(without_release),
        _ => {}
    }
}

type Objects = BTreeMap<(String, String), Value>;

/// By kind and name.
fn by_name(documents: Vec<Value>) -> Objects {
    let mut objects = Objects::new();
    for mut document in documents {
        without_release(&mut document);
        // kustomize gives ClusterRoleBindings a namespace, which the API server ignores.
        if kind(&document).starts_with("Cluster") {
            document["metadata"].as_object_mut().unwrap().remove("namespace");
        }
        let key = (kind(&document).to_owned(), document["metadata"]["name"].as_str().unwrap().to_owned());
        assert!(objects.insert(key.clone(), document).is_none(), "two objects {key:?}");
    }
    objects
}

fn assert_same(chart: &Objects, kustomize: &Objects) {
    assert_eq!(chart.keys().collect::<Vec<_>>(), kustomize.keys().collect::<Vec<_>>());
    for (name, object) in chart {
        assert_eq!(object, &kustomize[name], "left: the chart; right: kustomize");
    }
}

#[tokio::test]
async fn chart_renders_the_objects_of_the_cluster_wide_overlay() {
    let mut chart = by_name(template("tcoder", "tcoder-system", &[]).await);
    let mut kustomize = by_name(rendered("overlays/cluster-wide"));
    // Helm makes the namespace by --create-namespace.
    kustomize.remove(&("Namespace".to_owned(), "tcoder-system".to_owned())).unwrap();
    // In manifests/crds there is one pair of them for all installs; each release has its own.
    for mut role in rendered("crds").into_iter().filter(|d| kind(d) == "ClusterRole") {
        let name = role["metadata"]["name"].as_str().unwrap().to_owned();
        let of_release = format!("tcoder-system:{name}");
        role["metadata"]["name"] = json!(of_release);
        kustomize.insert(("ClusterRole".to_owned(), of_release), role);
    }
    assert_same(&chart, &kustomize);
    let users = chart.keys().filter(|(_, name)| name.ends_with("-edit") || name.ends_with("-view"));
    assert_eq!(users.count(), 2);
    chart = by_name(template("tcoder", "tcoder-system", &["userRoles=false"]).await);
    kustomize.retain(|(_, name), _| !name.ends_with("-edit") && !name.ends_with("-view"));
    assert_same(&chart, &kustomize);
}

#[tokio::test]
async fn chart_renders_the_objects_of_the_namespaced_overlay() {
    let chart = by_name(template("tcoder", "films", &["scope=namespace"]).await);
    assert_same(&chart, &by_name(rendered("overlays/namespaced")));
}

#[tokio::test]
async fn chart_renders_the_roles_for_kueue_only_where_they_are_asked_for() {
    let plain = by_name(template("tcoder", "tcoder-system", &[]).await);
    let mut with = by_name(template("tcoder", "tcoder-system", &["kueue=true"]).await);
    with.retain(|name, _| !plain.contains_key(name));
    assert_same(&with, &by_name(rendered("overlays/kueue")));
    let narrow = by_name(template("films", "films", &["scope=namespace", "kueue=true"]).await);
    let rules = |objects: &Objects, kind: &str, name: &str| {
        objects[&(kind.to_owned(), name.to_owned())]["rules"].clone()
    };
    assert_eq!(
        rules(&narrow, "Role", "films-controller-kueue"),
        rules(&with, "ClusterRole", "tcoder-system:tcoder-controller-kueue")
    );
    // WorkloadPriorityClasses belong to the cluster, which no Role can grant.
    let classes = "films:films-controller-kueue-classes";
    assert_eq!(
        rules(&narrow, "ClusterRole", classes),
        json!([{"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloadpriorityclasses"], "verbs": ["get"]}])
    );
    let binding = &narrow[&("ClusterRoleBinding".to_owned(), classes.to_owned())];
    assert_eq!(
        binding["roleRef"],
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": classes})
    );
    assert_eq!(binding["subjects"][0]["namespace"], "films");
    let of_cluster = narrow.keys().filter(|(kind, _)| kind.starts_with("Cluster")).count();
    assert_eq!(of_cluster, 2, "{:?}", narrow.keys());
}

#[test]
fn files_that_the_chart_shares_with_kustomize_are_the_same() {
    for (copy, original) in [
        ("crds/crds.yaml", "crds/crds.yaml"),
        ("files/users.yaml", "crds/users.yaml"),
        ("files/rbac.yaml", "base/rbac.yaml"),
        ("files/cluster-rbac.yaml", "overlays/cluster-wide/rbac.yaml"),
        ("files/kueue-rbac.yaml", "overlays/kueue/rbac.yaml"),
    ] {
        assert!(read(&format!("helm/tcoder/{copy}")) == read(original), "{copy}: run make chart");
    }
    let chart = &documents(&read("helm/tcoder/Chart.yaml"))[0];
    for version in ["version", "appVersion"] {
        assert_eq!(chart[version], env!("CARGO_PKG_VERSION"), "{version}");
    }
}

/// The paths of all values in `values`, such as `image.tag`. A map that users fill is one value.
fn paths(values: &Value, prefix: &str, found: &mut Vec<String>) {
    for (name, value) in values.as_object().unwrap() {
        let path = format!("{prefix}{name}");
        match value {
            Value::Object(object) if !object.is_empty() && !["config", "resources"].contains(&&*path) => {
                paths(value, &format!("{path}."), found);
            }
            _ => found.push(path),
        }
    }
}

#[test]
fn values_are_documented() {
    let mut expected = Vec::new();
    paths(&documents(&read("helm/tcoder/values.yaml"))[0], "", &mut expected);
    let text = read("helm/tcoder/README.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let first = rows.filter_map(|row| row.split(" | ").next());
    let mut named: Vec<String> =
        first.flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`').to_owned())).collect();
    expected.sort();
    named.sort();
    assert_eq!(named, expected, "left: README.md; right: values.yaml");
}

#[tokio::test]
async fn chart_passes_lint_and_refuses_unknown_values() {
    let chart = chart();
    let chart = chart.to_str().unwrap();
    helm_ok(&["lint", "--strict", chart], None).await;
    helm_ok(&["lint", "--strict", chart, "--set", "scope=namespace,serviceMonitor.enabled=true"], None).await;
    for wrong in ["scope=everything", "replicas=-1", "replica=1", "image.tags=x", "config.lower=1"] {
        let output = helm(&["template", "tcoder", chart, "--set", wrong], None).await;
        assert!(!output.status.success(), "{wrong} is accepted");
        assert!(
            err(&output).contains("values don't meet the specifications of the schema"),
            "{}",
            err(&output)
        );
    }
}

#[tokio::test]
async fn values_reach_the_objects() {
    let values = [
        "replicas=1",
        "image.repository=registry.example/tcoder",
        "image.tag=v9",
        "secretName=keys",
        "config.MAX_MACHINES=1000000",
        "config.TENANT_PREFIXES=true",
        "webhookSecrets=false",
        "networkPolicy.extraEgress[0].ports[0].port=8333",
        "nodeSelector.pool=video",
        "serviceMonitor.enabled=true",
        "serviceMonitor.labels.release=prometheus",
    ];
    let objects = by_name(template("clips", "films", &values).await);
    let object = |kind: &str, name: &str| &objects[&(kind.to_owned(), name.to_owned())];
    let spec = &object("Deployment", "clips-controller")["spec"];
    let pod = &spec["template"]["spec"];
    assert_eq!((&spec["replicas"], &pod["nodeSelector"]["pool"]), (&json!(1), &json!("video")));
    assert_eq!(pod["containers"][0]["image"], "registry.example/tcoder:v9");
    assert_eq!(pod["containers"][0]["envFrom"][1]["secretRef"]["name"], "keys");
    let data = &object("ConfigMap", "clips-config")["data"];
    assert_eq!((&data["MAX_MACHINES"], &data["TENANT_PREFIXES"]), (&json!("1000000"), &json!("true")));
    assert_eq!(data["LOG_FORMAT"], "json");
    let egress = object("NetworkPolicy", "clips-controller")["spec"]["egress"].as_array().unwrap();
    assert_eq!(egress.last().unwrap()["ports"][0]["port"], 8333);
    assert_eq!(object("ServiceMonitor", "clips-controller")["metadata"]["labels"]["release"], "prometheus");
    let bindings: Vec<&str> = objects
        .keys()
        .filter(|(kind, _)| kind == "ClusterRoleBinding")
        .map(|(_, name)| name.as_str())
        .collect();
    assert_eq!(bindings, ["films:clips-controller", "films:clips-controller-installs"]);
    assert!(!objects.keys().any(|(kind, _)| kind == "PodDisruptionBudget"));
}

#[tokio::test]
async fn releases_do_not_touch_each_other() {
    let cluster = Cluster::start().await;
    let kubeconfig = cluster.kubeconfig();
    let chart = chart();
    let chart = chart.to_str().unwrap();
    let run = async |args: &[&str]| helm_ok(args, Some(&kubeconfig)).await;
    let install = async |release: &str, namespace: &str, scope: &str| {
        let scope = format!("scope={scope}");
        let args =
            ["install", release, chart, "--namespace", namespace, "--create-namespace", "--set", &scope];
        run(&args).await
    };
    let setting = async |namespace: &str, map: &str| {
        let args = ["-n", namespace, "get", "configmap", map, "-o", "jsonpath={.data.LOG_FORMAT}"];
        cluster.kubectl_ok(&args).await
    };
    let one = Install { namespace: "one", account: "tcoder-controller" };
    // The same release name in another namespace, and other names.
    let two = Install { namespace: "two", account: "tcoder-controller" };
    let films = Install { namespace: "films", account: "films-controller" };
    install("tcoder", "one", "cluster").await;
    install("tcoder", "two", "cluster").await;
    let notes = install("films", "films", "namespace").await;
    assert!(notes.contains("create secret generic films-secrets"), "{notes}");
    assert_eq!(may_list(&cluster, one).await, (true, true));
    assert_eq!(may_list(&cluster, two).await, (true, true));
    assert_eq!(may_list(&cluster, films).await, (true, false));
    // The first release has brought the definitions.
    let job = job_of_a_user(&cluster).await;

    let output = helm(&["install", "more", chart, "--namespace", "films"], Some(&kubeconfig)).await;
    assert!(!output.status.success(), "a namespace takes two releases");
    let said = err(&output);
    assert!(said.contains("has a tcoder controller already, the Deployment films-controller"), "{said}");

    run(&["upgrade", "tcoder", chart, "--namespace", "one", "--set", "config.LOG_FORMAT=text"]).await;
    assert_eq!(setting("one", "tcoder-config").await, "text");
    assert_eq!(setting("two", "tcoder-config").await, "json");
    assert_eq!(setting("films", "films-config").await, "json");
    assert_job_is_there(&cluster, &job).await;

    run(&["uninstall", "tcoder", "--namespace", "two"]).await;
    assert_eq!(may_list(&cluster, two).await, (false, false));
    assert_eq!(may_list(&cluster, one).await, (true, true));
    run(&["uninstall", "tcoder", "--namespace", "one"]).await;
    assert_eq!(may_list(&cluster, one).await, (false, false));
    assert_eq!(may_list(&cluster, films).await, (true, false));
    run(&["uninstall", "films", "--namespace", "films"]).await;
    assert_eq!(may_list(&cluster, films).await, (false, false));
    let left = cluster.kubectl_ok(&["get", "clusterroles,clusterrolebindings", "-o", "name"]).await;
    assert!(!left.contains("tcoder"), "{left}");
    assert_job_is_there(&cluster, &job).await;
}
