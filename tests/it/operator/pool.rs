//! A WorkerPool configures the number of machines and shows the current one. Jobs of the API are mirrored as
//! TranscodeJobs.

use futures::StreamExt as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tcoder::crd::{TranscodeJob, WorkerPool};

use super::{Controller, Site, has_phase, site, status, until};
use crate::support::clips::{clip, half_minute};
use crate::support::kube::{self as cluster, Cluster};
use crate::support::process::{err, eventually};
use crate::support::system::{PATIENCE, Setup, System, http};

/// The pools of this namespace.
pub(super) fn pools(site: &Site) -> Api<WorkerPool> {
    Api::namespaced(site.client.clone(), &site.namespace)
}

pub(super) async fn make(site: &Site, name: &str, spec: Value) {
    let object = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": name}, "spec": spec,
    });
    let object = serde_json::from_value(object).unwrap();
    pools(site).create(&PostParams::default(), &object).await.unwrap();
}

/// Waits until the status of the pool is so.
pub(super) async fn pool_until(site: &Site, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let wait = async {
        let mut changes = watcher::watch_object(pools(site), name).default_backoff().boxed();
        loop {
            if let Some(Ok(Some(pool))) = changes.next().await {
                last = serde_json::to_value(&pool.status).unwrap();
                if so(&last) {
                    return last.clone();
                }
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("the pool {name} is not so: {what}: {last:#}"))
}

/// A condition of a status; null if there is none.
pub(super) fn condition<'a>(status: &'a Value, type_: &str) -> &'a Value {
    let all = status["conditions"].as_array();
    all.and_then(|all| all.iter().find(|c| c["type"] == type_)).unwrap_or(&Value::Null)
}

async fn own(workers: u16, name: &str) -> Site {
    let system: &'static System = Box::leak(Box::new(Setup::default().workers(workers).start().await));
    Site::on(cluster::bare().await, system, name).await
}

#[tokio::test]
async fn worker_pool_with_an_unknown_size_is_rejected_by_the_api_server() {
    let site = site("sizes").await;
    for (guest, words, refused) in [
        (json!({"size": "performance-3x"}), "spec.provider.fly.guest.size", true),
        (json!({"size": "shared-cpu-16x"}), "spec.provider.fly.guest.size", true),
        (json!({"size": "performance-2x", "memoryMb": 1000}), "spec.provider.fly.guest.memoryMb", true),
        (json!({"size": "performance-2x", "memoryMb": 512}), "memoryMb does not fit the size", true),
        (json!({"size": "performance-2x", "memoryMb": 4352}), "memoryMb does not fit the size", true),
        (json!({"size": "performance-2x", "memoryMb": 8192}), "", false),
    ] {
        let object = json!({
            "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool",
            "metadata": {"name": "sizes"}, "spec": {"provider": {"fly": {"guest": guest}}},
        });
        let file = site.file(&object.to_string());
        let file = file.to_str().unwrap();
        let output = site.kubectl(&["create", "--dry-run=server", "--validate=false", "-f", file]).await;
        let said = err(&output);
        assert_eq!(output.status.success(), !refused, "{guest}: {said}");
        assert!(!refused || said.contains(words), "{guest}: {said}");
    }
}

#[tokio::test]
async fn worker_pool_with_classes_that_are_no_names_is_rejected_by_the_api_server() {
    let site = site("class-names").await;
    let nine: Vec<String> = (0..9).map(|n| format!("class-{n}")).collect();
    const NAMES: &str = "workerClasses must be names of classes of workers: 1 to 40 lower-case letters";
    for (classes, words) in [
        (json!(["default", "Large"]), Some(NAMES)),
        (json!(["-large"]), Some(NAMES)),
        (json!(["default,large"]), Some(NAMES)),
        (json!([]), Some("spec.workerClasses")),
        (json!(["large", "large"]), Some("Duplicate value")),
        (json!(nine), Some("spec.workerClasses")),
        (json!(nine[..8]), None),
        (json!(["4k-hdr"]), None),
    ] {
        let object = json!({
            "apiVersion": "tcoder.dev/v1beta1", "kind": "WorkerPool",
            "metadata": {"name": "classes"}, "spec": {"workerClasses": classes},
        });
        let file = site.file(&object.to_string());
        let file = file.to_str().unwrap();
        let output = site.kubectl(&["create", "--dry-run=server", "--validate=false", "-f", file]).await;
        let said = err(&output);
        assert_eq!(output.status.success(), words.is_none(), "{classes}: {said}");
        assert!(words.is_none_or(|words| said.contains(words)), "{classes}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_pool_sets_the_number_of_machines() {
    let site = own(0, "pool").await;
    let (fly, _stop) = site.system.fly("clips").await;
    let config = fly.fly_config();
    let (api, token) = (config.base.to_string(), config.token.expose_secret().to_owned());
    let env = [
        ("FLY_API_TOKEN", token.as_str()),
        ("FLY_WORKER_APP", "clips"),
        ("FLY_API_HOSTNAME", api.as_str()),
        ("FLY_WORKER_REGIONS", "iad"),
        ("FLEET_PRICE_USD_PER_HOUR", "0.36"),
        // Machines inherit this, too, and would otherwise log into the output of the tests.
        ("RUST_LOG", "warn"),
    ];
    let controller = site.controller(&env);
    controller.ready().await;
    // The image must come from the pool: without it nothing can be done, which the status reports.
    make(&site, "default", json!({"max": 2, "idleTimeoutSeconds": 1})).await;
    let said = pool_until(&site, "default", "refused", |s| condition(s, "Stalled")["status"] == "True").await;
    assert!(said["lastError"].as_str().unwrap().starts_with("spec.image"), "{said:#}");
    let with_image = json!({"spec": {"image": "worker:1"}});
    pools(&site).patch("default", &PatchParams::default(), &Patch::Merge(with_image)).await.unwrap();

    // All machines on Fly belong to the oldest pool.
    make(&site, "second", json!({"image": "worker:2", "max": 50})).await;
    let behind = pool_until(&site, "second", "behind", |s| condition(s, "Stalled")["status"] == "True").await;
    assert_eq!(condition(&behind, "Stalled")["reason"], "PoolNotActive");

    let key = site.input(half_minute()).await;
    for n in 0..3 {
        let spec = json!({"input": {"key": key}, "preset": "hls", "qualities": ["720p"]});
        site.make(&format!("film-{n}"), spec).await;
    }
    pool_until(&site, "default", "two are busy", |s| {
        s["machines"]["busy"] == 2 && s["pending"].as_i64() > Some(0)
    })
    .await;
    for n in 0..3 {
        let job = site.phase(&format!("film-{n}"), "Complete").await;
        let cost = status(&job)["cost"].clone();
        assert!(cost["usd"].as_str().unwrap().parse::<f64>().unwrap() > 0.0, "{cost}");
    }
    assert_eq!(fly.machines().len(), 2, "never more than max");
    let rest = |s: &Value| s["desired"] == 0 && condition(s, "Ready")["status"] == "True";
    let rest = pool_until(&site, "default", "nothing is wanted", rest).await;
    assert_eq!((&rest["machines"]["total"], &rest["pending"]), (&json!(2), &json!(0)));

    // The scale subresource sets max, and min starts machines without any job.
    site.kubectl_ok(&["scale", "workerpool/default", "--replicas=1"]).await;
    assert_eq!(pools(&site).get("default").await.unwrap().spec.max, 1);
    let min = json!({"spec": {"min": 1, "idleTimeoutSeconds": 0}});
    pools(&site).patch("default", &PatchParams::default(), &Patch::Merge(min)).await.unwrap();
    pool_until(&site, "default", "one is up", |s| s["machines"]["idle"] == 1).await;

    // An invalid token is reported in the status, but is not contained in it.
    let paused = json!({"spec": {"paused": true}});
    pools(&site).patch("default", &PatchParams::default(), &Patch::Merge(paused)).await.unwrap();
    pool_until(&site, "default", "paused", |s| condition(s, "Paused")["status"] == "True").await;
    let table = site.kubectl_ok(&["get", "wp"]).await;
    for word in ["DESIRED", "BUSY", "IDLE", "PENDING", "READY", "default"] {
        assert!(table.contains(word), "{table}");
    }
    let log = controller.stop().await;
    assert!(!log.contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_managed_without_the_api_server() {
    let mut cluster = Cluster::start().await;
    cluster.define().await;
    let system = Setup::default().workers(0).start().await;
    let (fly, _stop) = system.fly("clips").await;
    let config = fly.fly_config();
    let (api, token) = (config.base.to_string(), config.token.expose_secret().to_owned());
    let env = [
        ("FLY_API_TOKEN", token.as_str()),
        ("FLY_WORKER_APP", "clips"),
        ("FLY_API_HOSTNAME", api.as_str()),
        ("FLY_WORKER_IMAGE", "worker:1"),
        ("MIRROR_MAX", "0"),
        ("RUST_LOG", "warn,tcoder=info"),
    ];
    let controller = Controller::start(&system, &cluster.kubeconfig(), &["--all-namespaces"], &env);
    controller.ready().await;
    eventually("it acts", || controller.log().contains("acquired leadership")).await;
    // From then on it knows that there is no pool. Before, it does not know the configuration.
    eventually("it sees to the fleet", || controller.log().contains("acquired the fleet lock")).await;
    cluster.kill_api_server().await;
    eventually("its Lease is over", || controller.log().contains("lost leadership")).await;
    // Without a pool the environment configures the fleet, and Redis decides who may change machines.
    let id = system.upload(clip(), &json!({"outputQualities": ["144p"], "fileName": "a.mp4"})).await;
    system.completed(&id).await;
    assert_eq!(fly.machines().len(), 1);
    controller.stop().await;
}

#[tokio::test]
async fn worker_pool_without_fly_reports_missing_settings() {
    let site = own(0, "no-fly").await;
    let controller = site.controller(&[]);
    make(&site, "default", json!({"image": "worker:1"})).await;
    let said = pool_until(&site, "default", "said", |s| condition(s, "Ready")["status"] == "False").await;
    assert_eq!(condition(&said, "Stalled")["reason"], "FlyNotConfigured");
    assert!(said["lastError"].as_str().unwrap().contains("FLY_API_TOKEN"), "{said:#}");
    controller.stop().await;
}

#[tokio::test]
async fn mirrors_show_jobs_of_the_api_up_to_the_maximum() {
    let site = own(1, "mirror").await;
    let before = site.system.upload(clip(), &json!({"outputQualities": ["144p"], "fileName": "a.mp4"})).await;
    let waits = site.system.post("/api/upload", &json!({"outputQualities": ["144p"]})).await.body;
    let waits = waits["jobId"].as_str().unwrap().to_owned();
    site.system.completed(&before).await;
    // What a newer version has written hides no other job.
    let newer = site.system.post("/api/upload", &json!({"outputQualities": ["144p"]})).await.body;
    let newer = format!("jobs:status:{}", newer["jobId"].as_str().unwrap());
    redis::cmd("HSET").arg(newer).arg(&["v", "99"]).exec(&mut site.system.redis()).unwrap();
    let namespace = site.namespace.clone();
    let controller = site.controller(&[("MIRROR_MAX", "2"), ("POD_NAMESPACE", &namespace)]);
    // Jobs that were active before the controller started are mirrored, finished ones are not.
    let shown = format!("api-{waits}");
    let mirror = site.phase(&shown, "Uploading").await;
    let labels = mirror.labels();
    assert_eq!((labels["tcoder.dev/origin"].as_str(), &labels["tcoder.dev/job-id"]), ("api", &waits));
    assert!(site.jobs().get_opt(&format!("api-{before}")).await.unwrap().is_none());

    let second = site.system.upload(clip(), &json!({"outputQualities": ["144p"], "fileName": "a.mp4"})).await;
    let mirror = site.phase(&format!("api-{second}"), "Complete").await;
    assert_eq!(status(&mirror)["outputs"].as_array().unwrap().len(), 1);
    assert!(mirror.finalizers().is_empty());
    // A third mirror replaces that of the finished job.
    let third = site.system.upload(clip(), &json!({"outputQualities": ["144p"], "fileName": "a.mp4"})).await;
    site.phase(&format!("api-{third}"), "Complete").await;
    // A scraper of the controllers alone sees how many jobs ended: the two since its start.
    let metrics =
        http().get(format!("{}/metrics", controller.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tcoder_jobs_finished_total{outcome=\"completed\"} 2"), "{metrics}");
    site.gone(&format!("api-{second}")).await;
    // Deleting a mirror does not cancel the job.
    site.jobs().delete(&shown, &DeleteParams::default()).await.unwrap();
    site.gone(&shown).await;
    assert_eq!(site.system.job(&waits).await["status"], "uploading");
    // In another namespace such a label reveals no job.
    let elsewhere = site.cluster.namespace("nosy").await;
    assert_ne!(elsewhere, site.namespace);
    let nosy = controller.stop().await;
    assert!(nosy.contains("lost leadership"));
}

/// The label of a mirror counts only in the namespace of the mirrors.
#[tokio::test]
async fn mirror_labels_on_other_objects_reveal_nothing() {
    let site = site("nosy").await;
    let id =
        site.system.upload(clip(), &json!({"outputQualities": ["144p"], "fileName": "secret.mp4"})).await;
    site.system.completed(&id).await;
    let key = site.input(clip()).await;
    let mut nosy = super::object("nosy", json!({"input": {"key": key}, "suspend": true}));
    nosy.labels_mut().insert("tcoder.dev/job-id".to_owned(), id.clone());
    nosy.labels_mut().insert("tcoder.dev/origin".to_owned(), "api".to_owned());
    site.jobs().create(&PostParams::default(), &nosy).await.unwrap();
    let jobs: Api<TranscodeJob> = site.jobs();
    let job = until(jobs, "nosy", "suspended", |job| has_phase(job, "Suspended")).await;
    assert_ne!(status(&job)["jobId"], json!(id));
}
