//! Several WorkerPools that take jobs from one queue, each with its provider and priority.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{self, watcher};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tcoder::crd::TranscodeJob;

use super::kubelet::{Kubelet, write_status};
use super::pods::{change, controller, make as make_pods, own, pod_until, pods, without_workers};
use super::pool::{condition, make, pool_until, pools};
use super::{Site, status};
use crate::fleet::there;
use crate::support::clips::{clip, half_minute};
use crate::support::process::eventually;
use crate::support::system::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn pool_of_pods_is_the_base_and_fly_takes_the_bursts() {
    let site = own("burst").await;
    let _kubelet = Kubelet::start(&site);
    let (fly, _stop) = site.system.fly("clips").await;
    let config = fly.fly_config();
    let (api, token) = (config.base.to_string(), config.token.expose_secret().to_owned());
    let env = [
        ("FLY_API_TOKEN", token.as_str()),
        ("FLY_WORKER_APP", "clips"),
        ("FLY_API_HOSTNAME", api.as_str()),
        ("FLY_WORKER_REGIONS", "iad"),
        ("RUST_LOG", "warn"),
    ];
    let controller = site.controller(&env);
    controller.ready().await;
    make(&site, "burst", json!({"max": 2, "image": "worker:1", "idleTimeoutSeconds": 1})).await;
    make_pods(&site, "base", json!({"priority": 10, "max": 1, "idleTimeoutSeconds": 1}), json!({})).await;
    for name in ["burst", "base"] {
        pool_until(&site, name, "managed", |s| condition(s, "Ready")["status"] == "True").await;
    }

    // The base alone takes what it can.
    let short = site.input(clip()).await;
    site.make("short", json!({"input": {"key": short}, "qualities": ["144p"]})).await;
    site.phase("short", "Complete").await;
    assert_eq!(fly.machines().len(), 0, "the base had room");

    let key = site.input(half_minute()).await;
    for n in 0..3 {
        let spec = json!({"input": {"key": key}, "preset": "hls", "qualities": ["480p"]});
        site.make(&format!("film-{n}"), spec).await;
    }
    for n in 0..3 {
        let job = site.phase(&format!("film-{n}"), "Complete").await;
        assert_eq!(status(&job)["attempts"], 1);
    }
    let machines = fly.machines().len();
    assert!((1..=2).contains(&machines), "{machines} machines on Fly took what the base had no room for");
    pool_until(&site, "base", "no pod is left", |s| s["machines"]["total"] == 0 && s["desired"] == 0).await;
    let of_fly =
        pool_until(&site, "burst", "at rest", |s| s["desired"] == 0 && s["machines"]["billed"] == 0).await;
    assert_eq!(of_fly["machines"]["total"], machines);

    // The API tells of both, and so does the command.
    let answer = site.system.get("/api/fleet").await.body;
    assert_eq!(answer["fleet"]["app"], "clips");
    assert_eq!(answer["others"][0]["pool"], format!("{}/base", site.namespace));

    // Without its pool the machines on Fly go; those of a pool of pods go with it, and nothing is left of it in Redis.
    pools(&site).delete("burst", &Default::default()).await.unwrap();
    let destroyed = fly.until(|machines| there(machines) == 0);
    tokio::time::timeout(PATIENCE, destroyed).await.expect("machines remain on Fly");
    pools(&site).delete("base", &Default::default()).await.unwrap();
    let forgotten = async {
        while site.system.get("/api/fleet").await.body.to_string().contains("/base\"") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("the status of the pool remains");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pool_without_capacity_leaves_its_jobs_to_the_next_one() {
    let site = without_workers("spill").await;
    let controller = controller(&site, &[]).await;
    make_pods(&site, "first", json!({"max": 5}), json!({})).await;
    make_pods(&site, "second", json!({"max": 5}), json!({})).await;
    let key = site.input(clip()).await;
    site.make("film", json!({"input": {"key": key}, "qualities": ["144p"]})).await;
    // Of two pools with the same priority the older one makes the machine.
    let first = pod_until(&site, "made", |_| true).await;
    assert_eq!(first.name_any(), "first-worker-01");
    let message = "0/3 nodes are available: 3 Insufficient cpu.";
    let unscheduled = json!({"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message},
    ]});
    write_status(&pods(&site), &first.name_any(), unscheduled).await;
    let second = pod_until(&site, "of the other pool", |pod| pod.name_any() == "second-worker-01").await;
    assert_eq!(second.owner_references()[0].name, "second");
    // The first pool says why, and its pod remains, so that a node is added for it.
    let said = pool_until(&site, "first", "why", |s| condition(s, "Ready")["reason"] == "NoCapacity").await;
    assert_eq!(said["pending"], 0, "the job is the second pool's: {said:#}");
    pool_until(&site, "second", "the job is its own", |s| s["pending"] == 1).await;
    let listed = pods(&site).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(listed.len(), 2, "{listed:#?}");

    // When no job waits, no pod is left.
    site.jobs().delete("film", &Default::default()).await.unwrap();
    site.gone("film").await;
    let (name, uid) = (first.name_any(), first.uid().unwrap());
    let gone = await_condition(pods(&site), &name, is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.expect("a pod without a node remains").unwrap();
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pool_with_the_highest_priority_makes_the_machine_unless_it_is_paused() {
    let site = without_workers("order").await;
    let controller = controller(&site, &[]).await;
    make_pods(&site, "low", json!({}), json!({})).await;
    make_pods(&site, "high", json!({"priority": 5}), json!({})).await;
    make_pods(&site, "paused", json!({"priority": 9, "paused": true}), json!({})).await;
    for name in ["low", "high", "paused"] {
        pool_until(&site, name, "managed", |s| condition(s, "Ready")["status"] == "True").await;
    }
    let key = site.input(clip()).await;
    site.make("film", json!({"input": {"key": key}, "qualities": ["144p"]})).await;
    let pod = pod_until(&site, "made", |_| true).await;
    assert_eq!(pod.name_any(), "high-worker-01");
    pool_until(&site, "high", "the job is its own", |s| s["pending"] == 1).await;
    // The other pool has planned since the pod was made, as its new maximum shows, and left the job to the first.
    change(&site, "low", json!({"max": 7})).await;
    let low = pools(&site).get("low").await.unwrap().uid().unwrap();
    let published = || -> Value {
        let key = format!("{}:fleet:pools", site.namespace);
        let text: String = redis::cmd("HGET").arg(key).arg(&low).query(&mut site.system.redis()).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    eventually("the other pool has planned", || published()["desired"]["max"] == 7).await;
    assert_eq!(published()["desired"]["waiting"], 0);
    // Inputs that do not fit into its 5Gi with their outputs are refused before they are uploaded.
    assert_eq!(published()["maxInputBytes"], tcoder::job::space::largest_input(5 << 30));
    let listed = pods(&site).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(listed.len(), 1, "{listed:#?}");
    controller.stop().await;
}

/// The names of all pods that this namespace has had since the call, until the end of the test.
fn pods_ever(site: &Site) -> Arc<Mutex<BTreeSet<String>>> {
    let names = Arc::new(Mutex::new(BTreeSet::new()));
    let (known, pods) = (Arc::clone(&names), pods(site));
    tokio::spawn(async move {
        let mut changes = watcher(pods, watcher::Config::default()).applied_objects().boxed();
        while let Some(Ok(pod)) = changes.next().await {
            known.lock().unwrap().insert(pod.name_any());
        }
    });
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn job_runs_in_the_pool_of_its_class() {
    let site = own("classes").await;
    let _kubelet = Kubelet::start(&site);
    let made = pods_ever(&site);
    let controller = site.controller(&[("RUST_LOG", "warn")]);
    controller.ready().await;
    // Its priority does not matter to the jobs of another class.
    make_pods(&site, "usual", json!({"priority": 10, "idleTimeoutSeconds": 1}), json!({})).await;
    let classes = json!({"workerClasses": ["large", "huge"], "idleTimeoutSeconds": 1});
    make_pods(&site, "large", classes, json!({})).await;
    for name in ["usual", "large"] {
        pool_until(&site, name, "managed", |s| condition(s, "Ready")["status"] == "True").await;
    }
    let key = site.input(clip()).await;
    let film = |class: &str| json!({"input": {"key": key}, "qualities": ["144p"], "workerClass": class});
    site.make("of-nobody", film("another")).await;
    let message = |job: &TranscodeJob| super::condition(job, "Reconciling").map(|(_, message)| message);
    let waits = |job: &TranscodeJob| {
        message(job).is_some_and(|message| message == "the job waits for a worker of the class another")
    };
    site.until("of-nobody", "it says what it waits for", waits).await;

    for class in ["large", "huge"] {
        site.make(class, film(class)).await;
        let job = site.phase(class, "Complete").await;
        let machine = status(&job)["machine"].as_str().unwrap().to_owned();
        assert!(machine.starts_with("large-worker-"), "{class}: {machine}");
    }
    let names = || made.lock().unwrap().clone();
    assert!(!names().is_empty() && names().iter().all(|name| name.starts_with("large-")), "{:?}", names());

    let pods_of_usual = pod_until(&site, "of the other pool", |pod| pod.name_any().starts_with("usual-"));
    let (pod, ()) = tokio::join!(pods_of_usual, async {
        site.make("film", json!({"input": {"key": key}, "qualities": ["144p"]})).await;
    });
    let pod = serde_json::to_value(&pod).unwrap();
    let env = pod["spec"]["containers"][0]["env"].as_array().unwrap();
    let classes = env.iter().find(|variable| variable["name"] == "WORKER_CLASSES").unwrap();
    assert_eq!(classes["value"], "default");
    let job = site.phase("film", "Complete").await;
    let machine = status(&job)["machine"].as_str().unwrap().to_owned();
    assert!(machine.starts_with("usual-worker-"), "{machine}");
    assert_eq!(status(&site.jobs().get("of-nobody").await.unwrap())["phase"], "Queued");

    // A pool that takes its class from now on makes a machine for it.
    change(&site, "usual", json!({"workerClasses": ["another", "default"]})).await;
    let job = site.phase("of-nobody", "Complete").await;
    assert!(status(&job)["machine"].as_str().unwrap().starts_with("usual-worker-"), "{job:#?}");
    controller.stop().await;
}
