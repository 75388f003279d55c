//! The permissions in the manifests are exactly those that the controller needs.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::kubelet::write_status;
use super::{Controller, Site, object, until};
use crate::support::clips::{clip, long};
use crate::support::kube::Cluster;
use crate::support::system::{PATIENCE, Setup, System, WEBHOOK_SECRET, serve};

/// Pairs of group/resource and verb.
type Grants = BTreeSet<(String, String)>;

fn manifest(overlay: &str) -> String {
    format!("{}/manifests/overlays/{overlay}", env!("CARGO_MANIFEST_DIR"))
}

/// Creates an overlay's accounts, roles and bindings, and returns what they grant.
async fn grant(cluster: &Cluster, overlay: &str, there: &str, here: &str) -> Grants {
    let text = cluster.kubectl_ok(&["kustomize", &manifest(overlay)]).await;
    // Use the namespace of the test instead, also in the names of what belongs to the cluster.
    let text = text.replace(&format!("namespace: {there}\n"), &format!("namespace: {here}\n"));
    let text = text.replace(&format!("name: {there}:"), &format!("name: {here}:"));
    let mut grants = Grants::new();
    for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
        let kind = document["kind"].as_str().unwrap();
        let (group, version) = match document["apiVersion"].as_str().unwrap().split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", document["apiVersion"].as_str().unwrap()),
        };
        if kind != "ServiceAccount" && group != "rbac.authorization.k8s.io" {
            continue;
        }
        for rule in document["rules"].as_array().into_iter().flatten() {
            for (group, resource, verb) in each(rule) {
                grants.insert((format!("{group}/{resource}"), verb));
            }
        }
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let client = cluster.client().await;
        let namespace = document["metadata"]["namespace"].as_str();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let object: DynamicObject = serde_json::from_value(document).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    grants
}

fn each(rule: &Value) -> Vec<(String, String, String)> {
    let list = |name: &str| -> Vec<String> {
        rule[name].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let mut all = Vec::new();
    for group in list("apiGroups") {
        for resource in list("resources") {
            for verb in list("verbs") {
                all.push((group.clone(), resource.clone(), verb));
            }
        }
    }
    all
}

/// The permissions that were used, and the requests that were denied.
fn asked(cluster: &Cluster, account: &str) -> (Grants, Vec<Value>) {
    let (mut grants, mut refused) = (Grants::new(), Vec::new());
    for event in cluster.audit() {
        if event["user"]["username"] != account || event["objectRef"].is_null() {
            continue;
        }
        let part = |name: &str| event["objectRef"][name].as_str().unwrap_or_default().to_owned();
        let resource = match part("subresource").as_str() {
            "" => part("resource"),
            sub => format!("{}/{sub}", part("resource")),
        };
        grants
            .insert((format!("{}/{resource}", part("apiGroup")), event["verb"].as_str().unwrap().to_owned()));
        if event["responseStatus"]["code"] == 403 {
            refused.push(event);
        }
    }
    (grants, refused)
}

/// Makes the controller in `site` do everything that it can do.
async fn everything(site: &Site) {
    let url = serve(axum::Router::new().route("/hook", axum::routing::post(|| async {}))).await;
    let secret = format!("--from-literal=secret={WEBHOOK_SECRET}");
    site.kubectl_ok(&["create", "secret", "generic", "hook", &secret]).await;
    let pool = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "default"}, "spec": {},
    });
    site.apply(&pool.to_string()).await;
    let (key, long) = (site.input(clip()).await, site.input(&long()).await);
    let spec = json!({
        "input": {"key": key}, "qualities": ["144p"], "ttlSecondsAfterFinished": 0,
        "webhook": {"url": format!("{url}/hook"), "secretRef": {"name": "hook"}},
    });
    site.make("film", spec).await;
    site.gone("film").await;
    // One that does not complete meanwhile. The second Event of a kind is a patch of the first.
    let spec = json!({"input": {"key": long}, "qualities": ["720p"], "parallelism": 1, "suspend": true});
    site.make("long", spec).await;
    for suspend in [false, true, false, true] {
        site.until("long", "suspended or not", |job| super::has_phase(job, "Suspended") != suspend).await;
        site.patch("long", json!({"suspend": suspend})).await;
    }
    site.phase("long", "Suspended").await;
    site.jobs().delete("long", &DeleteParams::default()).await.unwrap();
    site.gone("long").await;
    let job_request = json!({"outputQualities": ["144p"], "fileName": "a.mp4"});
    for _ in 0..2 {
        let id = site.system.upload(clip(), &job_request).await;
        site.system.completed(&id).await;
    }
    let pools: Api<tcoder::crd::WorkerPool> = Api::namespaced(site.client.clone(), &site.namespace);
    let said = async {
        while pools.get("default").await.unwrap().status.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.expect("nothing is said of the pool");
}

/// Makes the controller in `site` create, list and delete pods.
async fn pods_of_a_pool(site: &Site) {
    let pool = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "pods"},
        "spec": {"image": "worker:1", "min": 1, "provider": {"pods": {}}},
    });
    site.kubectl_ok(&["delete", "workerpool", "default"]).await;
    site.apply(&pool.to_string()).await;
    // A pod that has ended is replaced by another one, and deleted.
    let pods: Api<Pod> = Api::namespaced(site.client.clone(), &site.namespace);
    let other_than = |before: Option<String>| {
        let pods = pods.clone();
        async move {
            loop {
                let there = pods.list(&Default::default()).await.unwrap().items;
                match there.as_slice() {
                    [pod] if pod.uid() != before => return (pod.name_any(), pod.uid()),
                    _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                }
            }
        }
    };
    let (name, first) = tokio::time::timeout(PATIENCE, other_than(None)).await.expect("no pod is made");
    write_status(&pods, &name, json!({"phase": "Succeeded"})).await;
    tokio::time::timeout(PATIENCE, other_than(first)).await.expect("the pod that ended is not replaced");
    // A controller of the whole cluster would see it as well, and may not use pods of this namespace.
    site.kubectl_ok(&["delete", "workerpool", "pods"]).await;
}

#[tokio::test]
async fn roles_in_the_manifests_are_exactly_those_needed() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start().await));
    cluster.define().await;
    let system: &'static System = Box::leak(Box::new(Setup::default().start().await));
    let home = Site::on(cluster, system, "films").await;

    // A single namespace.
    let grants = grant(cluster, "namespaced", "films", &home.namespace).await;
    let kubeconfig = cluster.kubeconfig_of(&home.namespace, "tcoder-controller").await;
    let env =
        [("POD_NAMESPACE", home.namespace.as_str()), ("MIRROR_MAX", "1"), ("ALLOW_PRIVATE_URLS", "true")];
    let narrow = Controller::start(system, &kubeconfig, &["--namespace", &home.namespace], &env);
    narrow.ready().await;
    everything(&home).await;
    narrow.stop().await;
    // The workers of the system above have a fleet of their own, whose lock is in the same Redis.
    let env = [&env[..], &[("REDIS_KEY_PREFIX", "pods:")]].concat();
    let narrow = Controller::start(system, &kubeconfig, &["--namespace", &home.namespace], &env);
    narrow.ready().await;
    pods_of_a_pool(&home).await;
    narrow.stop().await;
    let account = format!("system:serviceaccount:{}:tcoder-controller", home.namespace);
    let (used, refused) = asked(cluster, &account);
    assert!(refused.is_empty(), "{refused:#?}");
    assert_eq!(used, grants, "left: used; right: granted");

    // The whole cluster: the objects are in other namespaces than the controller.
    let system: &'static System = Box::leak(Box::new(Setup::default().start().await));
    let own = cluster.namespace("system").await;
    let wide = grant(cluster, "cluster-wide", "tcoder-system", &own).await;
    assert!(wide.is_superset(&grants));
    let kubeconfig = cluster.kubeconfig_of(&own, "tcoder-controller").await;
    let env = [("POD_NAMESPACE", own.as_str()), ("MIRROR_MAX", "0")];
    // Not that of an installation: the controller asks.
    let tenant = cluster.namespace("tenant").await;
    super::installs::lease_of_all_namespaces(cluster, &tenant, "pod").await;
    let controller = Controller::start(system, &kubeconfig, &["--all-namespaces"], &env);
    controller.ready().await;
    let elsewhere = Site::on(cluster, system, "elsewhere").await;
    let key = elsewhere.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"]});
    elsewhere.jobs().create(&PostParams::default(), &object("film", spec)).await.unwrap();
    until(elsewhere.jobs(), "film", "complete", |job| super::has_phase(job, "Complete")).await;
    elsewhere.jobs().delete("film", &DeleteParams::default()).await.unwrap();
    elsewhere.gone("film").await;
    controller.stop().await;
    let (used, refused) = asked(cluster, &format!("system:serviceaccount:{own}:tcoder-controller"));
    assert!(refused.is_empty(), "{refused:#?}");
    // What it may do in addition.
    let more: Vec<_> = wide.difference(&grants).collect();
    let grant = |resource: &str, verb: &str| (resource.to_owned(), verb.to_owned());
    let reviews = grant("authorization.k8s.io/subjectaccessreviews", "create");
    assert_eq!(more, [&reviews, &grant("coordination.k8s.io/leases", "list")]);
    assert!(more.into_iter().all(|grant| used.contains(grant)), "{used:#?}");
}

/// A controller without permissions reports which roles it lacks, and is not ready.
#[tokio::test]
async fn controller_without_its_roles_reports_it() {
    let (cluster, system) = (crate::support::kube::bare().await, crate::support::system::shared().await);
    let namespace = cluster.namespace("powerless").await;
    let kubeconfig = cluster.kubeconfig_of(&namespace, "nobody").await;
    let controller = Controller::start(system, &kubeconfig, &["--namespace", &namespace], &[]);
    let http = crate::support::system::http();
    let said = async {
        loop {
            if let Ok(answer) = http.get(format!("{}/readyz", controller.url)).send().await {
                let (status, text) = (answer.status(), answer.text().await.unwrap());
                if text.contains("rbac.yaml") {
                    return status.as_u16();
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, said).await.expect("it does not say so"), 503);
    assert!(system.http.get(format!("{}/livez", controller.url)).send().await.unwrap().status().is_success());
    controller.stop().await;
}
