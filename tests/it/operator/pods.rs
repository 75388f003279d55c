//! A WorkerPool whose machines are pods. The API server, its admission of pods and its eviction of pods are real; what a
//! scheduler, a kubelet and the controllers of the control plane do to pods, the tests do.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::kubelet::{Kubelet, write_status};
use super::pool::{condition, pool_until, pools};
use super::{Controller, Site, status};
use crate::support::clips::{half_minute, minutes};
use crate::support::kube as cluster;
use crate::support::process::err;
use crate::support::system::{self, PATIENCE, Setup, System};

pub(super) fn pods(site: &Site) -> Api<Pod> {
    Api::namespaced(site.client.clone(), &site.namespace)
}

/// A pool of pods; `pods` are its settings, and `spec` what else it says.
fn pool(name: &str, spec: &Value, pods: &Value) -> Value {
    let mut spec = spec.clone();
    spec["provider"] = json!({"pods": pods});
    if spec["image"].is_null() {
        spec["image"] = json!("worker:1");
    }
    json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": name}, "spec": spec,
    })
}

pub(super) async fn make(site: &Site, name: &str, spec: Value, pods: Value) {
    let object = serde_json::from_value(pool(name, &spec, &pods)).unwrap();
    pools(site).create(&PostParams::default(), &object).await.unwrap();
}

pub(super) async fn change(site: &Site, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    pools(site).patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// Waits until the condition `Ready` of the pool is false for this reason; returns its message.
async fn not_ready(site: &Site, name: &str, reason: &str) -> String {
    let status = pool_until(site, name, reason, |status| {
        let ready = condition(status, "Ready");
        ready["status"] == "False" && ready["reason"] == reason
    })
    .await;
    condition(&status, "Ready")["message"].as_str().unwrap().to_owned()
}

/// Waits until a pod of this namespace is so.
pub(super) async fn pod_until(site: &Site, what: &str, so: impl Fn(&Pod) -> bool) -> Pod {
    let wait = async {
        let mut changes = watcher(pods(site), watcher::Config::default()).applied_objects().boxed();
        loop {
            match changes.next().await {
                Some(Ok(pod)) if so(&pod) => return pod,
                _ => {}
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("no pod is so: {what}"))
}

/// A site with its own Redis and workers in pods only.
pub(super) async fn own(name: &str) -> Site {
    let system: &'static System = Box::leak(Box::new(Setup::default().workers(0).start().await));
    Site::on(cluster::bare().await, system, name).await
}

/// A site for a pool whose pods never run. It shares Redis with others, under a prefix of its own.
pub(super) async fn without_workers(name: &str) -> Site {
    Site::on(cluster::bare().await, system::shared().await, name).await
}

/// Starts the controller of a site without workers.
pub(super) async fn controller(site: &Site, env: &[(&str, &str)]) -> Controller {
    let prefix = format!("{}:", site.namespace);
    let env = [&[("REDIS_KEY_PREFIX", prefix.as_str()), ("FLEET_LAUNCH_FAILURES", "1")], env].concat();
    let controller = site.controller(&env);
    controller.ready().await;
    controller
}

/// Lets the namespace admit only pods that meet the restricted Pod Security Standard.
async fn restrict(site: &Site) {
    let label = "pod-security.kubernetes.io/enforce=restricted";
    site.kubectl_ok(&["label", "namespace", &site.namespace, label]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_pool_of_pods_runs_jobs_and_scales_to_zero() {
    let site = own("pods").await;
    restrict(&site).await;
    let _kubelet = Kubelet::start(&site);
    // There is no token for Fly.
    let controller = site.controller(&[("RUST_LOG", "warn")]);
    controller.ready().await;
    make(&site, "base", json!({"max": 2, "idleTimeoutSeconds": 1}), json!({})).await;
    let key = site.input(half_minute()).await;
    for n in 0..3 {
        let spec = json!({"input": {"key": key}, "preset": "hls", "qualities": ["720p"]});
        site.make(&format!("film-{n}"), spec).await;
    }
    pool_until(&site, "base", "two are busy", |s| {
        s["machines"]["busy"] == 2 && s["pending"].as_i64() > Some(0)
    })
    .await;
    // Another image replaces no busy pod: it is deleted only after its worker has exited.
    let before = pods(&site).list(&ListParams::default()).await.unwrap().items;
    change(&site, "base", json!({"image": "worker:2"})).await;
    for n in 0..3 {
        let job = site.phase(&format!("film-{n}"), "Complete").await;
        assert_eq!(status(&job)["attempts"], 1, "no worker was taken away");
    }
    assert_eq!(before.len(), 2, "never more than max");
    let uid = pools(&site).get("base").await.unwrap().uid().unwrap();
    for pod in &before {
        assert!(["base-worker-01", "base-worker-02"].contains(&pod.name_any().as_str()));
        let owner = &pod.owner_references()[0];
        assert_eq!((owner.kind.as_str(), &owner.uid, owner.controller), ("WorkerPool", &uid, Some(true)));
    }
    let rest = |s: &Value| s["machines"]["total"] == 0 && s["desired"] == 0;
    let rest = pool_until(&site, "base", "no pod is left", rest).await;
    assert_eq!(condition(&rest, "Ready")["status"], "True");
    assert!(pods(&site).list(&ListParams::default()).await.unwrap().items.is_empty());
    // The next job is for a pod of the new image.
    site.make("next", json!({"input": {"key": key}, "qualities": ["144p"]})).await;
    let pod = pod_until(&site, "of the new image", |pod| image(pod) == "worker:2").await;
    assert_eq!(pod.name_any(), "base-worker-01");
    site.phase("next", "Complete").await;
    let log = controller.stop().await;
    assert!(!log.contains("somebody else removes a machine"), "{log}");
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_of_an_evicted_pod_gives_its_job_back() {
    let site = own("drain").await;
    let _kubelet = Kubelet::start(&site);
    let controller = site.controller(&[("RUST_LOG", "warn")]);
    controller.ready().await;
    make(&site, "base", json!({"max": 1, "idleTimeoutSeconds": 1}), json!({})).await;
    let key = site.input(half_minute()).await;
    let film = json!({"input": {"key": key}, "preset": "hls", "qualities": ["720p"]});
    let film = site.make("film", film).await;
    site.phase("film", "Running").await;
    site.encoders(&film.uid().unwrap()).await;
    let first = pod_until(&site, "running", |_| true).await;
    // What `kubectl drain` does.
    pods(&site).evict(&first.name_any(), &EvictParams::default()).await.unwrap();
    let second = pod_until(&site, "another", |pod| pod.uid() != first.uid()).await;
    assert_eq!(second.name_any(), first.name_any(), "the slot is free again");
    let job = site.phase("film", "Complete").await;
    assert_eq!(status(&job)["attempts"], 1, "an attempt that was given back does not count");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn split_job_of_an_evicted_pod_goes_on_in_another_one() {
    let site = own("drain-split").await;
    let _kubelet = Kubelet::start(&site);
    let controller = site.controller(&[("RUST_LOG", "warn")]);
    controller.ready().await;
    make(&site, "base", json!({"max": 1, "idleTimeoutSeconds": 1}), json!({})).await;
    let key = site.input(&minutes()).await;
    let film = json!({"input": {"key": key}, "preset": "hls-adaptive", "qualities": ["360p", "144p"], "parallelism": 8});
    let film = site.make("film", film).await;
    site.phase("film", "Running").await;
    // Some parts are complete, and most are not. Between two parts there is no FFmpeg.
    site.system.encoding(&film.uid().unwrap()).await;
    let first = pod_until(&site, "running", |_| true).await;
    pods(&site).evict(&first.name_any(), &EvictParams::default()).await.unwrap();
    pod_until(&site, "another", |pod| pod.uid() != first.uid()).await;
    let job = site.phase("film", "Complete").await;
    assert_eq!(status(&job)["attempts"], 1, "an attempt that was given back does not count");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_run_are_told_apart() {
    let site = without_workers("faults").await;
    let controller = controller(&site, &[]).await;
    make(&site, "base", json!({"min": 1, "max": 1}), json!({})).await;
    let first = pod_until(&site, "made", |_| true).await;
    let message = "0/3 nodes are available: 3 Insufficient cpu.";
    let condition = |type_: &str, status: &str, reason: &str, message: &str| json!({"type": type_, "status": status, "reason": reason, "message": message});
    let unscheduled = json!({"conditions": [condition("PodScheduled", "False", "Unschedulable", message)]});
    write_status(&pods(&site), &first.name_any(), unscheduled).await;
    let said = not_ready(&site, "base", "NoCapacity").await;
    assert!(said.contains(message) && said.contains("spec.provider.pods.resources"), "{said}");

    // The template may be why, so a changed one replaces the pod at once.
    change(&site, "base", json!({"provider": {"pods": {"nodeSelector": {"disk": "ssd"}}}})).await;
    let second = pod_until(&site, "replaced", |pod| pod.uid() != first.uid()).await;
    assert_eq!(second.spec.as_ref().unwrap().node_selector.as_ref().unwrap()["disk"], "ssd");

    // The node is lost: its controller changes the condition `Ready` alone.
    let running = json!({
        "phase": "Running",
        "conditions": [
            condition("PodScheduled", "True", "", ""),
            condition("Ready", "False", "", ""),
            condition("ContainersReady", "True", "", ""),
        ],
        "containerStatuses": [{
            "name": "worker", "image": "worker", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }],
    });
    write_status(&pods(&site), &second.name_any(), running).await;
    not_ready(&site, "base", "Unreachable").await;

    // The image cannot be fetched: another pod is tried, and after the last try the pool says why.
    let message = "Back-off pulling image \"worker:1\": ErrImagePull: not found";
    let waiting = json!({
        "phase": "Pending",
        "conditions": [condition("PodScheduled", "True", "", "")],
        "containerStatuses": [{
            "name": "worker", "image": "worker", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": message}, "running": null},
        }],
    });
    write_status(&pods(&site), &second.name_any(), waiting).await;
    let said = not_ready(&site, "base", "LaunchesFailing").await;
    assert!(
        said.contains("ImagePullBackOff: Back-off pulling image") && said.contains("spec.image"),
        "{said}"
    );
    controller.stop().await;
}

/// A pool that the API server refuses pods for says why in the words of the API server.
async fn refused(site: &Site, spec: Value, pods: Value, reason: &str, words: &[&str]) {
    let controller = controller(site, &[]).await;
    make(site, "base", spec, pods).await;
    let said = not_ready(site, "base", reason).await;
    for words in words {
        assert!(said.contains(words), "{said}");
    }
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exceeded_quota_is_reported() {
    let site = without_workers("quota").await;
    // The controller of quotas would write the status.
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "0"}}, "status": {"hard": {"pods": "0"}, "used": {"pods": "0"}},
    });
    site.apply(&quota.to_string()).await;
    let status = json!({"status": quota["status"]}).to_string();
    site.kubectl_ok(&["patch", "quota", "few", "--subresource=status", "--type=merge", "-p", &status]).await;
    refused(&site, json!({"min": 1}), json!({}), "Quota", &["spec.max", "exceeded quota: few"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_range_is_reported_as_missing_capacity() {
    let site = without_workers("limits").await;
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]},
    });
    site.apply(&range.to_string()).await;
    let resources = json!({"resources": {"requests": {"cpu": 2}, "limits": {"cpu": 2}}});
    let words = ["LimitRange", "maximum cpu usage per Container is 1, but limit is 2"];
    refused(&site, json!({"min": 1}), resources, "NoCapacity", &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_by_pod_security_is_reported() {
    let site = without_workers("security").await;
    restrict(&site).await;
    let worker = json!({"name": "worker", "securityContext": {"allowPrivilegeEscalation": true}});
    let template = json!({"template": {"spec": {"containers": [worker]}}});
    let words = ["violates PodSecurity", "allowPrivilegeEscalation"];
    refused(&site, json!({"min": 1}), template, "LaunchesFailing", &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_of_somebody_else_that_has_the_name_of_a_slot_is_reported_and_left_alone() {
    let site = without_workers("foreign").await;
    let theirs = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "base-worker-01"},
        "spec": {"containers": [{"name": "shop", "image": "shop:1"}]},
    });
    let theirs: Pod = serde_json::from_value(theirs).unwrap();
    let theirs = pods(&site).create(&PostParams::default(), &theirs).await.unwrap();
    let words = ["the pod base-worker-01 does not belong to this WorkerPool; delete it"];
    refused(&site, json!({"min": 1}), json!({}), "LaunchesFailing", &words).await;
    let there = pods(&site).list(&ListParams::default()).await.unwrap().items;
    let [pod] = there.as_slice() else { panic!("{there:#?}") };
    assert_eq!((pod.uid(), &pod.metadata.deletion_timestamp), (theirs.uid(), &None));
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_of_a_deleted_pool_of_the_same_name_is_waited_for() {
    let site = without_workers("anew").await;
    let left = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "base-worker-01", "labels": {"tcoder.dev/worker-pool-uid": "earlier"},
            "ownerReferences": [{
                "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool", "name": "base", "uid": "earlier", "controller": true,
            }],
        },
        "spec": {"containers": [{"name": "worker", "image": "worker:1"}]},
    });
    let left: Pod = serde_json::from_value(left).unwrap();
    let left = pods(&site).create(&PostParams::default(), &left).await.unwrap();
    let controller = controller(&site, &[]).await;
    make(&site, "base", json!({"min": 1}), json!({})).await;
    let waits = pool_until(&site, "base", "the slot is taken", |s| s["machines"]["booting"] == 1).await;
    assert_eq!(condition(&waits, "Ready")["status"], "True", "{waits:#}");
    // What the garbage collector does, which these tests have not.
    let at_once = DeleteParams::default().grace_period(0);
    pods(&site).delete(&left.name_any(), &at_once).await.unwrap();
    let own = pod_until(&site, "its own", |pod| pod.uid() != left.uid()).await;
    assert_eq!(own.owner_references()[0].uid, pools(&site).get("base").await.unwrap().uid().unwrap());
    let log = controller.stop().await;
    assert!(!log.contains("does not belong to this WorkerPool"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_permission_for_pods_is_reported() {
    let site = without_workers("forbidden").await;
    let kubeconfig = site.cluster.kubeconfig_of(&site.namespace, "tcoder-controller").await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "all-but-pods"},
        "rules": [
            {"apiGroups": ["tcoder.dev"], "resources": ["*"], "verbs": ["*"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
        ],
    });
    site.apply(&role.to_string()).await;
    let account = format!("--serviceaccount={}:tcoder-controller", site.namespace);
    site.kubectl_ok(&["create", "rolebinding", "all-but-pods", "--role=all-but-pods", &account]).await;
    let prefix = format!("{}:", site.namespace);
    let env = [("REDIS_KEY_PREFIX", prefix.as_str()), ("MIRROR_MAX", "0")];
    let controller = Controller::start(site.system, &kubeconfig, &["--namespace", &site.namespace], &env);
    controller.ready().await;
    make(&site, "base", json!({"min": 1}), json!({})).await;
    let said = not_ready(&site, "base", "Unauthorized").await;
    assert!(said.contains("tcoder-controller-pods"), "{said}");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn template_that_makes_no_pod_is_reported() {
    let site = without_workers("template").await;
    let controller = controller(&site, &[]).await;
    let template = json!({"template": {"spec": {"nodeSelektor": {"disk": "ssd"}}}});
    make(&site, "base", json!({"min": 1}), template).await;
    let stalled = |s: &Value| condition(s, "Stalled")["status"] == "True";
    let said = pool_until(&site, "base", "refused", stalled).await;
    assert_eq!(condition(&said, "Stalled")["reason"], "InvalidSpec");
    assert!(said["lastError"].as_str().unwrap().contains("a pod has no field spec.nodeSelektor"), "{said:#}");
    // Corrected, it makes pods.
    let corrected = json!({"provider": {"pods": {"template": {"spec": {"nodeSelektor": null}}}}});
    change(&site, "base", corrected).await;
    pod_until(&site, "made", |_| true).await;
    controller.stop().await;
}

#[tokio::test]
async fn settings_of_pods_that_the_schema_can_tell_are_rejected_by_the_api_server() {
    let site = without_workers("settings").await;
    let with = |pods: Value| pool("settings", &json!({}), &pods);
    let both = json!({"fly": {}, "pods": {}});
    let mut two = with(json!({}));
    two["spec"]["provider"] = both;
    let mut none = with(json!({}));
    none["spec"]["provider"] = json!({});
    let mut imageless = with(json!({}));
    imageless["spec"].as_object_mut().unwrap().remove("image");
    for (object, words, refused) in [
        (two, "name exactly one provider: fly or pods", true),
        (none, "name exactly one provider: fly or pods", true),
        (imageless, "a pool of pods needs the worker image", true),
        (with(json!({"template": {"spec": {"restartPolicy": "Always"}}})), "restartPolicy", true),
        (
            with(json!({"resources": {"limits": {"memory": "4 GB"}}})),
            "spec.provider.pods.resources.limits",
            true,
        ),
        (with(json!({"serviceAccountName": "No Name"})), "spec.provider.pods.serviceAccountName", true),
        (with(json!({"nodeSelector": {"disk": "a b"}})), "spec.provider.pods.nodeSelector", true),
        (
            with(json!({
                "template": {"spec": {"containers": [{"name": "worker", "envFrom": []}], "priority": 1}},
                "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "1e9"}},
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
                "serviceAccountName": "workers",
            })),
            "",
            false,
        ),
    ] {
        let file = site.file(&object.to_string());
        let file = file.to_str().unwrap();
        let output = site.kubectl(&["create", "--dry-run=server", "--validate=false", "-f", file]).await;
        let said = err(&output);
        assert_eq!(output.status.success(), !refused, "{object}: {said}");
        assert!(!refused || said.contains(words), "{object}: {said}");
    }
    let fly = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "settings"},
        "spec": {"image": "worker:1", "provider": {"fly": {}}},
    });
    site.apply(&fly.to_string()).await;
    let file = site.file(&with(json!({})).to_string());
    let output = site.kubectl(&["replace", "-f", file.to_str().unwrap()]).await;
    assert!(err(&output).contains("a pool cannot change to pods or from pods"), "{}", err(&output));
}
