//! TranscodeJobs that name a queue of Kueue, on a real API server with Kueue's own definitions. No Kueue runs here: what its
//! controller would write, [`Queue::pretend`] writes. `make test-kueue` runs the real one (`tests/kueue`).

mod refusals;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tcoder::crd::TranscodeJob;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::{Controller, Site, condition, object, status};
use crate::support::clips::{clip, long};
use crate::support::kube::{self as cluster, Cluster};
use crate::support::process::{all_gone, out, spawn};
use crate::support::system::{self, PATIENCE};

/// The folder of Kueue's definitions, which hack/kueue.sh fetches with Go.
async fn definitions() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/kueue.sh");
    let mut command = Command::new(script);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // `make test` has fetched it.
    let ended = tokio::time::timeout(PATIENCE * 2, spawn(command).wait_with_output()).await;
    let output = ended.expect("the download of Kueue does not end").unwrap();
    assert!(output.status.success(), "hack/kueue.sh");
    Path::new(out(&output).trim()).join("config/components/crd/bases")
}

const NEEDED: [&str; 2] = ["kueue.x-k8s.io_workloads.yaml", "kueue.x-k8s.io_workloadpriorityclasses.yaml"];

async fn define_kueue(cluster: &Cluster) {
    let folder = definitions().await;
    for file in NEEDED {
        let path = folder.join(file);
        cluster.kubectl_ok(&["apply", "--server-side", "-f", path.to_str().unwrap()]).await;
    }
    for crd in ["workloads.kueue.x-k8s.io", "workloadpriorityclasses.kueue.x-k8s.io"] {
        cluster.established(crd).await;
    }
}

/// A namespace of a cluster that has Kueue's definitions, with a controller for it.
async fn queue_site(name: &str) -> Site {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    static CONTROLLER: OnceCell<Controller> = OnceCell::const_new();
    let cluster = CLUSTER
        .get_or_init(|| async {
            let cluster = Cluster::start().await;
            cluster.define().await;
            define_kueue(&cluster).await;
            cluster
        })
        .await;
    let system = system::shared().await;
    CONTROLLER
        .get_or_init(|| async {
            let own = cluster.namespace("operator").await;
            // With the roles of the manifests, and no others.
            let account = account_with_roles(cluster, &own).await;
            let env = [("ALLOW_PRIVATE_URLS", "true"), ("MIRROR_MAX", "0"), ("POD_NAMESPACE", own.as_str())];
            let controller = Controller::start(system, &account, &["--all-namespaces"], &env);
            controller.ready().await;
            controller
        })
        .await;
    Site::on(cluster, system, name).await
}

/// A service account with the roles of the cluster-wide overlay and those for Kueue.
async fn account_with_roles(cluster: &Cluster, namespace: &str) -> PathBuf {
    for overlay in ["cluster-wide", "kueue"] {
        grant(cluster, overlay, "tcoder-system", namespace).await;
    }
    cluster.kubeconfig_of(namespace, "tcoder-controller").await
}

/// Applies the roles of an overlay in another namespace than its own.
async fn grant(cluster: &Cluster, overlay: &str, own: &str, namespace: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/overlays").join(overlay);
    let rendered = cluster.kubectl_ok(&["kustomize", folder.to_str().unwrap()]).await;
    let text = format!("\n{}", rendered.replace(own, namespace));
    let is_of = |document: &&str| {
        ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"]
            .iter()
            .any(|kind| document.contains(&format!("\nkind: {kind}\n")))
    };
    let roles: Vec<&str> = text.split("\n---").filter(is_of).collect();
    assert!(!roles.is_empty(), "{overlay}");
    let path = system::folder("roles").join("roles.yaml");
    std::fs::write(&path, roles.join("\n---")).unwrap();
    cluster.kubectl_ok(&["apply", "-f", path.to_str().unwrap()]).await;
}

fn kind(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta2", kind), plural)
}

/// The Workloads of a namespace.
struct Queue<'a> {
    site: &'a Site,
    workloads: Api<DynamicObject>,
}

impl<'a> Queue<'a> {
    fn of(site: &'a Site) -> Self {
        let kind = kind("Workload", "workloads");
        Self { site, workloads: Api::namespaced_with(site.client.clone(), &site.namespace, &kind) }
    }

    /// Creates a TranscodeJob with these labels.
    async fn make(&self, name: &str, labels: Value, spec: Value) -> TranscodeJob {
        let mut object = object(name, spec);
        object.metadata.labels = serde_json::from_value(labels).unwrap();
        self.site.jobs().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Waits until the Workload of this job is as wanted; `None` while it does not exist.
    async fn until(
        &self,
        job: &TranscodeJob,
        what: &str,
        so: impl Fn(Option<&DynamicObject>) -> bool,
    ) -> Option<DynamicObject> {
        let name = workload_name(job);
        let mut last = None;
        let wait = async {
            let mut changes = watcher::watch_object(self.workloads.clone(), &name).default_backoff().boxed();
            loop {
                if let Ok(workload) = changes.next().await.expect("the watch ended") {
                    if so(workload.as_ref()) {
                        return workload;
                    }
                    last = workload;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(workload) => workload,
            Err(_) => panic!("the Workload {name} is not {what}: {last:#?}"),
        }
    }

    /// Waits until the job has a Workload.
    async fn workload(&self, job: &TranscodeJob) -> DynamicObject {
        self.until(job, "there", |workload| workload.is_some()).await.unwrap()
    }

    /// Writes into the status of a Workload what the controller of Kueue would write there. It is not Kueue that decides here.
    async fn pretend(&self, job: &TranscodeJob, conditions: &[(&str, bool, &str)]) {
        let name = workload_name(job);
        let workload = self.workloads.get(&name).await.unwrap();
        let mut all: Vec<Value> =
            workload.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        for (type_, holds, reason) in conditions {
            all.retain(|condition| condition["type"] != *type_);
            all.push(json!({
                "type": type_, "status": if *holds { "True" } else { "False" }, "reason": reason,
                "message": format!("{type_} as Kueue would say"), "lastTransitionTime": "2026-01-01T00:00:00Z",
            }));
        }
        let mut status = json!({"conditions": all});
        if conditions.iter().any(|(type_, holds, _)| *type_ == "QuotaReserved" && *holds) {
            let assignment = json!({"name": "main", "flavors": {"cpu": "default"}, "resourceUsage": {"cpu": "1"}, "count": 1});
            status["admission"] = json!({"clusterQueue": "video", "podSetAssignments": [assignment]});
        }
        let patch = Patch::Merge(json!({"status": status}));
        self.workloads.patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// As Kueue admits a Workload.
    async fn pretend_admission(&self, job: &TranscodeJob) {
        let admitted = [
            ("QuotaReserved", true, "QuotaReserved"),
            ("Admitted", true, "Admitted"),
            ("Evicted", false, "QuotaReserved"),
        ];
        self.pretend(job, &admitted).await;
    }
}

fn workload_name(job: &TranscodeJob) -> String {
    format!("transcodejob-{}-{}", job.name_any(), &job.uid().unwrap()[..8])
}

/// Whether Redis has a job for this object.
fn is_submitted(site: &Site, job: &TranscodeJob) -> bool {
    let key = format!("jobs:status:{}", job.uid().unwrap());
    redis::cmd("EXISTS").arg(key).query(&mut site.system.redis()).unwrap()
}

/// The status and the reason of a condition of a Workload.
fn of_workload(workload: &DynamicObject, type_: &str) -> Option<(String, String)> {
    let conditions = workload.data["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == type_)?;
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    Some((text("status"), text("reason")))
}

fn pair(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.to_owned(), reason.to_owned()))
}

fn in_queue() -> Value {
    json!({"kueue.x-k8s.io/queue-name": "films"})
}

#[tokio::test]
async fn job_runs_when_its_workload_is_admitted_and_says_there_how_it_ended() {
    let site = queue_site("admitted").await;
    let queue = Queue::of(&site);
    let key = site.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"], "priority": 7});
    let job = queue.make("film", in_queue(), spec).await;
    site.until("film", "waiting", |job| {
        condition(job, "Suspended").is_some_and(|(reason, message)| {
            reason == "AwaitingAdmission" && message.contains("the queue films of Kueue")
        })
    })
    .await;
    let workload = queue.workload(&job).await;
    assert_eq!(
        (&workload.data["spec"]["queueName"], &workload.data["spec"]["priority"]),
        (&json!("films"), &json!(7))
    );
    assert_eq!(workload.owner_references()[0].uid, job.uid().unwrap());
    queue.pretend(&job, &[("QuotaReserved", false, "Pending")]).await;
    site.until("film", "refused", |job| {
        condition(job, "Suspended")
            .is_some_and(|(_, message)| message.ends_with("QuotaReserved as Kueue would say"))
    })
    .await;
    // It is not even in the queue of workers.
    assert!(!is_submitted(&site, &job));

    queue.pretend_admission(&job).await;
    let done = site.phase("film", "Complete").await;
    assert!(condition(&done, "Suspended").is_none());
    // Finished comes last, thus PodsReady is written by then if a worker was seen with the job.
    let workload = queue
        .until(&job, "finished", |workload| of_workload(workload.unwrap(), "Finished").is_some())
        .await
        .unwrap();
    assert_eq!(of_workload(&workload, "Finished"), pair("True", "Succeeded"));
    assert_eq!(of_workload(&workload, "Admitted"), pair("True", "Admitted"));
}

#[tokio::test]
async fn evicted_job_stops_gives_its_quota_back_and_starts_over() {
    let site = queue_site("evicted").await;
    let queue = Queue::of(&site);
    let key = site.input(&long()).await;
    // In one piece, whose attempts are counted.
    let spec = json!({"input": {"key": key}, "preset": "hls", "qualities": ["720p"], "parallelism": 1});
    let job = queue.make("film", in_queue(), spec).await;
    queue.workload(&job).await;
    queue.pretend_admission(&job).await;
    site.phase("film", "Running").await;
    let encoders = site.encoders(&job.uid().unwrap()).await;
    queue
        .until(&job, "said to run", |workload| {
            of_workload(workload.unwrap(), "PodsReady") == pair("True", "Started")
        })
        .await;
    queue.pretend(&job, &[("Evicted", true, "Preempted")]).await;
    all_gone(&encoders).await;
    let (held, reason, message) = site.condition("film", "Suspended").await;
    assert_eq!((reason.as_str(), &status(&held)["phase"]), ("WorkloadEvicted", &json!("Suspended")));
    assert!(message.contains("(Preempted): Evicted as Kueue would say"), "{message}");
    let workload = queue
        .until(&job, "without quota", |workload| {
            of_workload(workload.unwrap(), "QuotaReserved") == pair("False", "Pending")
        })
        .await
        .unwrap();
    assert_eq!(workload.data["status"].get("admission"), None);
    assert_eq!(of_workload(&workload, "Admitted"), pair("False", "NoReservation"));
    assert_eq!(of_workload(&workload, "Requeued"), pair("True", "Preempted"));
    assert_eq!(of_workload(&workload, "PodsReady"), pair("False", "WaitForStart"));

    queue.pretend_admission(&job).await;
    site.phase("film", "Running").await;
    let encoders = site.encoders(&job.uid().unwrap()).await;
    let again = site.jobs().get("film").await.unwrap();
    assert_eq!(status(&again)["attempts"], 1, "the eviction was counted");
    // Its user suspends it: it needs no quota, and its Workload goes.
    site.patch("film", json!({"suspend": true})).await;
    all_gone(&encoders).await;
    queue.until(&job, "gone", |workload| workload.is_none()).await;
    assert_eq!(site.condition("film", "Suspended").await.1, "JobSuspended");
    // And comes again with the end of the suspension.
    site.patch("film", json!({"suspend": false})).await;
    queue.workload(&job).await;
    site.until("film", "waiting", |job| {
        condition(job, "Suspended").is_some_and(|(reason, _)| reason == "AwaitingAdmission")
    })
    .await;
    // Without the label it needs no admission.
    let unlabel = Patch::Merge(json!({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": null}}}));
    site.jobs().patch("film", &PatchParams::default(), &unlabel).await.unwrap();
    queue.until(&job, "gone", |workload| workload.is_none()).await;
    site.phase("film", "Running").await;
    let encoders = site.encoders(&job.uid().unwrap()).await;
    site.jobs().delete("film", &DeleteParams::default()).await.unwrap();
    all_gone(&encoders).await;
}

#[tokio::test]
async fn workload_of_another_object_and_a_missing_priority_class_are_reported() {
    let site = queue_site("refused").await;
    let queue = Queue::of(&site);
    // Suspended by its user, so that its uid is known before its Workload is made.
    let job = queue.make("film", in_queue(), json!({"input": {"key": "a.mp4"}, "suspend": true})).await;
    let name = workload_name(&job);
    let foreign: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "tcoder-controller"}},
        "spec": {"queueName": "films", "podSets": [
            {"name": "main", "count": 1, "template": {"spec": {"containers": [{"name": "c"}]}}},
        ]},
    }))
    .unwrap();
    queue.workloads.create(&PostParams::default(), &foreign).await.unwrap();
    site.patch("film", json!({"suspend": false})).await;
    let (_, reason, message) = site.condition("film", "Stalled").await;
    assert_eq!(reason, "WorkloadNotOwned", "{message}");
    site.jobs().delete("film", &DeleteParams::default()).await.unwrap();
    site.gone("film").await;
    assert!(queue.workloads.get_opt(&name).await.unwrap().is_some(), "a foreign Workload was deleted");

    let mut labels = in_queue();
    labels["kueue.x-k8s.io/priority-class"] = json!(format!("urgent-{}", site.namespace));
    let job = queue.make("urgent", labels.clone(), json!({"input": {"key": "a.mp4"}})).await;
    let (_, reason, message) = site.condition("urgent", "Stalled").await;
    assert_eq!(reason, "PriorityClassNotFound", "{message}");
    let classes: Api<DynamicObject> =
        Api::all_with(site.client.clone(), &kind("WorkloadPriorityClass", "workloadpriorityclasses"));
    let class: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "WorkloadPriorityClass",
        "metadata": {"name": labels["kueue.x-k8s.io/priority-class"]}, "value": 1000,
    }))
    .unwrap();
    classes.create(&PostParams::default(), &class).await.unwrap();
    let workload = queue.workload(&job).await;
    assert_eq!(workload.data["spec"]["priority"], 1000);
    assert_eq!(workload.data["spec"]["priorityClassRef"]["name"], class.metadata.name.unwrap());

    // Permitted as the value of a label, but no name of a queue.
    let labels = json!({"kueue.x-k8s.io/queue-name": "My_Queue"});
    let job = queue.make("odd", labels, json!({"input": {"key": "a.mp4"}})).await;
    let (held, reason, message) = site.condition("odd", "Stalled").await;
    assert_eq!((reason.as_str(), &status(&held)["phase"]), ("WorkloadRefused", &json!("Suspended")));
    assert!(message.contains("spec.queueName") && message.contains("My_Queue"), "{message}");
    let relabel = Patch::Merge(json!({"metadata": {"labels": in_queue()}}));
    site.jobs().patch("odd", &PatchParams::default(), &relabel).await.unwrap();
    queue.workload(&job).await;
    site.until("odd", "waiting", |job| {
        condition(job, "Stalled").is_none()
            && condition(job, "Suspended").is_some_and(|(reason, _)| reason == "AwaitingAdmission")
    })
    .await;
}

#[tokio::test]
async fn job_of_another_controller_is_left_alone_and_multikueue_gets_its_workload() {
    let site = queue_site("managed-by").await;
    let queue = Queue::of(&site);
    let spec = |manager: &str| json!({"input": {"key": "a.mp4"}, "managedBy": manager});
    let foreign = queue.make("foreign", in_queue(), spec("example.com/transcoder")).await;
    let elsewhere = queue.make("elsewhere", in_queue(), spec("kueue.x-k8s.io/multikueue")).await;
    queue.workload(&elsewhere).await;
    queue.pretend_admission(&elsewhere).await;
    queue.pretend(&elsewhere, &[("Evicted", true, "Deactivated")]).await;
    queue
        .until(&elsewhere, "without quota", |workload| {
            of_workload(workload.unwrap(), "QuotaReserved") == pair("False", "Pending")
        })
        .await;
    // By now the older one was reconciled, too.
    for job in [&foreign, &elsewhere] {
        let now = site.jobs().get(&job.name_any()).await.unwrap();
        assert_eq!((now.status, now.metadata.finalizers), (None, None), "{}", job.name_any());
        assert!(!is_submitted(&site, job), "{}", job.name_any());
    }
    assert!(queue.workloads.get_opt(&workload_name(&foreign)).await.unwrap().is_none());
    // As MultiKueue makes it in the cluster of the workers: the Workload first, which the job names.
    // A user may make one, too, whose labels the controller does not know.
    site.kubectl_ok(&["create", "configmap", "other"]).await;
    let other = site.kubectl_ok(&["get", "configmap", "other", "-o", "jsonpath={.metadata.uid}"]).await;
    for (name, labels) in [
        ("from-the-manager", json!({"app.kubernetes.io/managed-by": "tcoder-controller"})),
        ("from-a-user", json!({})),
    ] {
        let copy: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload",
            "metadata": {"name": name, "labels": labels, "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": other},
            ]},
            "spec": {"queueName": "films", "podSets": [
                {"name": "main", "count": 1, "template": {"spec": {"containers": [{"name": "worker"}]}}},
            ]},
        }))
        .unwrap();
        queue.workloads.create(&PostParams::default(), &copy).await.unwrap();
        let mut labels = in_queue();
        labels["kueue.x-k8s.io/prebuilt-workload-name"] = json!(name);
        let job = queue.make(name, labels, json!({"input": {"key": "films/missing.mp4"}})).await;
        let adopted = async {
            loop {
                let workload = queue.workloads.get(name).await.unwrap();
                if workload.owner_references().iter().any(|owner| Some(&owner.uid) == job.uid().as_ref()) {
                    return workload;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        let workload = tokio::time::timeout(PATIENCE, adopted).await.expect("the Workload is not adopted");
        // Its other owner stays.
        let owners: Vec<String> = workload.owner_references().iter().map(|owner| owner.uid.clone()).collect();
        assert_eq!(owners, [other.clone(), job.uid().unwrap()]);
    }
    // The field cannot be changed.
    let change = Patch::Merge(json!({"spec": {"managedBy": "tcoder.dev/controller"}}));
    let refused = site.jobs().patch("foreign", &PatchParams::default(), &change).await;
    assert!(refused.unwrap_err().to_string().contains("managedBy cannot be changed"));
}

#[tokio::test]
async fn job_that_names_a_queue_says_that_there_is_no_kueue_until_it_is_installed() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start().await));
    cluster.define().await;
    let site = Site::on(cluster, system::shared().await, "no-kueue").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let queue = Queue::of(&site);
    let key = site.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"]});
    let job = queue.make("film", in_queue(), spec.clone()).await;
    let (held, reason, message) = site.condition("film", "Stalled").await;
    assert_eq!((reason.as_str(), &status(&held)["phase"]), ("KueueNotInstalled", &json!("Suspended")));
    assert!(message.contains("install Kueue 0.15 or newer, or remove the label"), "{message}");
    assert!(!is_submitted(&site, &job));
    // Others need no Kueue.
    site.make("free", spec).await;
    site.phase("free", "Complete").await;

    define_kueue(cluster).await;
    queue.workload(&job).await;
    queue.pretend_admission(&job).await;
    site.phase("film", "Complete").await;
    let late = queue.make("late", in_queue(), json!({"input": {"key": "a.mp4"}})).await;
    queue.workload(&late).await;

    let crds: Api<CustomResourceDefinition> = Api::all(site.client.clone());
    crds.delete("workloads.kueue.x-k8s.io", &DeleteParams::default()).await.unwrap();
    // A definition that is being deleted refuses new objects, which the status says for a moment.
    site.until("late", "without Kueue", |job| {
        condition(job, "Stalled").is_some_and(|(reason, _)| reason == "KueueNotInstalled")
    })
    .await;
    let log = controller.stop().await;
    // A watch of what does not exist is not tried again and again.
    assert!(log.matches("the watch of Workloads broke").count() < 3, "{log}");
    assert_eq!(log.matches("does not know Kueue's Workload").count(), 2, "{log}");
}

#[tokio::test]
async fn controller_without_the_roles_for_kueue_says_which_to_apply() {
    let cluster = cluster::bare().await;
    define_kueue(cluster).await;
    let site = Site::on(cluster, system::shared().await, "forbidden").await;
    // Roles of one namespace, without those for Kueue.
    grant(cluster, "namespaced", "films", &site.namespace).await;
    let account = cluster.kubeconfig_of(&site.namespace, "tcoder-controller").await;
    let env = [("MIRROR_MAX", "0"), ("POD_NAMESPACE", site.namespace.as_str())];
    let controller = Controller::start(site.system, &account, &["--namespace", &site.namespace], &env);
    controller.ready().await;
    let queue = Queue::of(&site);
    let film = queue.make("film", in_queue(), json!({"input": {"key": "a.mp4"}})).await;
    let (_, reason, message) = site.condition("film", "Stalled").await;
    assert_eq!(reason, "KueueForbidden");
    assert!(message.contains("manifests/overlays/kueue") && message.contains("kueue=true"), "{message}");

    // With the role for Workloads only, jobs wait in their queues, but none with a class, which belongs to the cluster.
    grant(cluster, "kueue", "tcoder-system", &site.namespace).await;
    let binding = format!("{}:tcoder-controller-kueue-classes", site.namespace);
    cluster.kubectl_ok(&["delete", "clusterrolebinding", &binding]).await;
    queue.workload(&film).await;
    let mut labels = in_queue();
    labels["kueue.x-k8s.io/priority-class"] = json!("urgent");
    queue.make("urgent", labels, json!({"input": {"key": "a.mp4"}})).await;
    let (held, reason, message) = site.condition("urgent", "Stalled").await;
    assert_eq!((reason.as_str(), &status(&held)["phase"]), ("KueueForbidden", &json!("Suspended")));
    assert!(message.contains("workloadpriorityclasses"), "{message}");

    // When the controller comes again, no job names a queue any more, but one of them has a Workload. It is suspended, since a
    // Workload of a job that has ended is kept.
    site.jobs().delete("urgent", &DeleteParams::default()).await.unwrap();
    site.gone("urgent").await;
    controller.stop().await;
    let unlabel = Patch::Merge(json!({
        "metadata": {"labels": {"kueue.x-k8s.io/queue-name": null}}, "spec": {"suspend": true},
    }));
    site.jobs().patch("film", &PatchParams::default(), &unlabel).await.unwrap();
    let controller = Controller::start(site.system, &account, &["--namespace", &site.namespace], &env);
    controller.ready().await;
    queue.until(&film, "gone", |workload| workload.is_none()).await;
}

#[tokio::test]
async fn controller_that_starts_anew_writes_nothing_to_a_job_that_waits() {
    let cluster = cluster::bare().await;
    define_kueue(cluster).await;
    let site = Site::on(cluster, system::shared().await, "restart").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let queue = Queue::of(&site);
    let spec = json!({"input": {"key": "a.mp4"}});
    let waits = |job: &TranscodeJob| {
        condition(job, "Suspended").is_some_and(|(reason, message)| {
            reason == "AwaitingAdmission"
                && message.starts_with("the job waits for its admission in the queue")
        })
    };
    let job = queue.make("film", in_queue(), spec.clone()).await;
    queue.workload(&job).await;
    let before = site.until("film", "waiting", waits).await;
    let mut labels = in_queue();
    labels["kueue.x-k8s.io/priority-class"] = json!(format!("none-{}", site.namespace));
    queue.make("refused", labels, spec.clone()).await;
    let refused = site.until("refused", "refused", |job| condition(job, "Stalled").is_some()).await;
    assert_eq!(condition(&refused, "Stalled").unwrap().0, "PriorityClassNotFound");
    controller.stop().await;
    for name in ["second", "third"] {
        let controller = site.controller(&[]);
        controller.ready().await;
        let other = queue.make(name, in_queue(), spec.clone()).await;
        queue.workload(&other).await;
        // By now Kueue is known, and the older one was reconciled with that.
        site.until(name, "waiting", waits).await;
        controller.stop().await;
        for before in [&before, &refused] {
            let now = site.jobs().get(&before.name_any()).await.unwrap();
            assert_eq!(now.resource_version(), before.resource_version(), "{:#?}", now.status);
        }
    }
}

#[tokio::test]
async fn refused_deletion_of_a_workload_is_told_and_tried_again() {
    let cluster = cluster::bare().await;
    define_kueue(cluster).await;
    let site = Site::on(cluster, system::shared().await, "undeleted").await;
    for overlay in ["namespaced", "kueue"] {
        let own = if overlay == "kueue" { "tcoder-system" } else { "films" };
        grant(cluster, overlay, own, &site.namespace).await;
    }
    let account = cluster.kubeconfig_of(&site.namespace, "tcoder-controller").await;
    let env = [("MIRROR_MAX", "0"), ("POD_NAMESPACE", site.namespace.as_str())];
    let controller = Controller::start(site.system, &account, &["--namespace", &site.namespace], &env);
    controller.ready().await;
    let queue = Queue::of(&site);
    let job = queue.make("film", in_queue(), json!({"input": {"upload": {}}})).await;
    queue.workload(&job).await;
    // A policy of the cluster's administrator stands for whatever refuses it.
    let rules = json!([{"apiGroups": ["kueue.x-k8s.io"], "apiVersions": ["*"], "operations": ["DELETE"], "resources": ["workloads"]}]);
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": site.namespace},
        "spec": {
            "failurePolicy": "Fail", "matchConstraints": {"resourceRules": rules},
            "validations": [{"expression": "false", "message": "Workloads stay"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": site.namespace},
        "spec": {
            "policyName": site.namespace, "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}}},
        },
    });
    for object in [&policy, &binding] {
        let file = site.file(&object.to_string());
        cluster.kubectl_ok(&["apply", "-f", file.to_str().unwrap()]).await;
    }
    let name = workload_name(&job);
    let is_refused = async {
        let dry = DeleteParams { dry_run: true, ..DeleteParams::default() };
        while queue.workloads.delete(&name, &dry).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_refused).await.expect("the policy does not apply");
    // Without the label the job needs no Workload, and runs.
    let unlabel = Patch::Merge(json!({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": null}}}));
    site.jobs().patch("film", &PatchParams::default(), &unlabel).await.unwrap();
    let (job, reason, message) = site.condition("film", "WorkloadOutdated").await;
    assert!(reason == "WorkloadRefused" && message.contains("Workloads stay"), "{reason}: {message}");
    assert!(condition(&job, "Suspended").is_none(), "{:#?}", job.status);
    cluster.kubectl_ok(&["delete", "validatingadmissionpolicybinding", &site.namespace]).await;
    queue.until(&job, "gone", |workload| workload.is_none()).await;
    site.until("film", "without a Workload", |job| condition(job, "WorkloadOutdated").is_none()).await;
    controller.stop().await;
}
