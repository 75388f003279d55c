//! Whatever process dies, each TranscodeJob is one job with one result.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, ResourceExt as _};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tcoder::crd::TranscodeJob;

use super::pool::{self, pool_until};
use super::{Controller, Site, condition, has_phase, object, pods, site, status, until};
use crate::support::clips::{clip, half_minute};
use crate::support::kube::{self as cluster, Cluster};
use crate::support::objects::put_input;
use crate::support::process;
use crate::support::redis::private_redis;
use crate::support::system::{self, PATIENCE, Setup, System};
use crate::support::tcp_proxy::TcpProxy;

/// A namespace with controllers of its own.
async fn own(system: &'static System, name: &str) -> Site {
    Site::on(cluster::bare().await, system, name).await
}

impl Site {
    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn holder(&self) -> Option<String> {
        let lease = self.leases().get_opt("tcoder-controller").await.unwrap()?;
        lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
    }

    /// Releases the lease of a killed controller, so that the test need not wait until it expires.
    async fn free_lease(&self) {
        match self.leases().delete("tcoder-controller", &DeleteParams::default()).await {
            // The controller was killed before it had one.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted.unwrap()),
        }
    }

    /// The changes of the job in the event stream, which show how often it was submitted.
    fn changes(&self, id: &str) -> Vec<String> {
        let mut redis = self.system.redis();
        let entries: Vec<(String, BTreeMap<String, String>)> =
            redis::cmd("XRANGE").arg("jobs:events").arg(&["-", "+"]).query(&mut redis).unwrap();
        let ours = entries.into_iter().filter(|(_, fields)| fields.get("id").is_some_and(|of| of == id));
        ours.filter(|(_, fields)| !fields.contains_key("progress")).map(|(_, f)| f["state"].clone()).collect()
    }
}

/// The stages of a job that its object shows, in order.
const MOMENTS: [&str; 6] = ["made", "held", "queued", "running", "complete", "free"];

fn shows(job: &TranscodeJob, moment: &str) -> bool {
    match moment {
        "made" => true,
        "held" => !job.finalizers().is_empty(),
        "queued" => ["Queued", "Running", "Complete"].iter().any(|phase| has_phase(job, phase)),
        "running" => ["Running", "Complete"].iter().any(|phase| has_phase(job, phase)),
        "complete" => has_phase(job, "Complete"),
        _ => has_phase(job, "Complete") && job.finalizers().is_empty(),
    }
}

#[tokio::test]
async fn controller_killed_at_any_step_leaves_one_job_with_one_result() {
    let site = own(system::shared().await, "killed").await;
    let mut controller = site.controller(&[]);
    for moment in MOMENTS {
        controller.ready().await;
        let key = site.input(clip()).await;
        let job = site.make(moment, json!({"input": {"key": key}, "qualities": ["144p"]})).await;
        site.until(moment, moment, |job| shows(job, moment)).await;
        controller.kill().await;
        site.free_lease().await;
        controller = site.controller(&[]);
        let job = site.until(moment, "complete", |job| shows(job, "free")).await.uid().or(job.uid()).unwrap();
        assert_eq!(site.changes(&job), ["queued", "running", "completed"], "killed when {moment}");
    }
    controller.ready().await;
    controller.stop().await;
}

#[tokio::test]
async fn job_that_is_retried_while_there_is_no_controller_is_seen_by_the_next_one() {
    let site = own(system::shared().await, "between").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let key = format!("films/{}.mp4", uuid::Uuid::new_v4().simple());
    let job = site.make("film", json!({"input": {"key": key}, "qualities": ["144p"]})).await;
    let (_, reason, message) = site.condition("film", "Failed").await;
    assert_eq!(reason, "InputNotFound", "{message}");
    controller.stop().await;
    put_input(&site.system.storage_config(), &key, std::fs::read(clip()).unwrap()).await;
    let id = job.uid().unwrap();
    assert_eq!(site.system.post(&format!("/api/jobs/{id}/retry"), &json!({})).await.status, 200);
    site.system.completed(&id).await;
    let controller = site.controller(&[]);
    let job = site.phase("film", "Complete").await;
    assert!(condition(&job, "Failed").is_none());
    controller.stop().await;
}

#[tokio::test]
async fn leadership_passes_to_the_second_controller() {
    let site = own(system::shared().await, "two").await;
    let (first, second) =
        (site.controller(&[("HOSTNAME", "first")]), site.controller(&[("HOSTNAME", "second")]));
    // The candidate that waits is ready, too.
    first.ready().await;
    second.ready().await;
    let key = site.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"]});
    let job = site.make("one", spec.clone()).await;
    site.phase("one", "Complete").await;
    assert_eq!(site.changes(&job.uid().unwrap()), ["queued", "running", "completed"]);
    let acts = |log: &str| log.contains("acquired leadership");
    assert!(acts(&first.log()) != acts(&second.log()));

    let holder = site.holder().await.unwrap();
    let (acting, waiting) = if holder.starts_with("first") { (first, second) } else { (second, first) };
    acting.kill().await;
    site.make("two", spec.clone()).await;
    site.phase("two", "Complete").await;
    assert_ne!(site.holder().await.unwrap(), holder);
    // A leader that stops in order releases the Lease at once.
    waiting.stop().await;
    assert_eq!(site.holder().await, None);
}

#[tokio::test]
async fn watch_recovers_after_the_api_server_lost_its_history() {
    let mut cluster = Cluster::start().await;
    let system = Setup::default().start().await;
    let early = Controller::start(&system, &cluster.kubeconfig(), &["--all-namespaces"], &[]);
    // The CRDs are created later; until then the controller reports what is missing.
    let jobs_crd = tcoder::crd::all()[0].metadata.name.clone().unwrap();
    let http = system::http();
    let said = async {
        loop {
            if let Ok(answer) = http.get(format!("{}/readyz", early.url)).send().await {
                let text = answer.text().await.unwrap();
                if text.contains("kubectl apply -k manifests/crds") {
                    return;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("it does not ask for {jobs_crd}"));
    cluster.define().await;
    early.ready().await;

    let namespace = cluster.namespace("outage").await;
    let jobs: Api<TranscodeJob> = Api::namespaced(cluster.client().await, &namespace);
    let key = "films/long.mp4";
    system.put_input(key, half_minute()).await;
    let spec = json!({"input": {"key": key}, "preset": "hls", "qualities": ["720p"]});
    let made = jobs.create(&PostParams::default(), &object("film", spec)).await.unwrap();
    until(jobs.clone(), "film", "running", |job| has_phase(job, "Running")).await;

    cluster.kill_api_server().await;
    // The job continues in the meantime.
    system.completed(&made.uid().unwrap()).await;
    cluster.start_api_server().await;
    for n in 0..20 {
        let spec = json!({"input": {"key": key}, "suspend": true});
        jobs.create(&PostParams::default(), &object(&format!("later-{n}"), spec)).await.unwrap();
    }
    cluster.compact().await;
    cluster.kill_api_server().await;
    cluster.start_api_server().await;
    let jobs: Api<TranscodeJob> = Api::namespaced(cluster.client().await, &namespace);
    until(jobs.clone(), "film", "complete", |job| has_phase(job, "Complete")).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"], "suspend": true});
    jobs.create(&PostParams::default(), &object("last", spec)).await.unwrap();
    until(jobs, "last", "suspended", |job| has_phase(job, "Suspended")).await;
    early.stop().await;
}

#[tokio::test]
async fn conditions_report_redis_while_it_does_not_answer() {
    // The folder of the system contains the file of its redis-server.
    let system = Box::leak(Box::new(Setup::default().start().await));
    let site = own(system, "redis").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let redis = site.system.redis_server();
    process::send(redis.pid, Signal::SIGSTOP);
    let key = site.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"]});
    let job = site.make("film", spec).await;
    let (_, reason, message) = site.condition("film", "Reconciling").await;
    assert_eq!(reason, "RedisUnavailable", "{message}");
    process::send(redis.pid, Signal::SIGCONT);
    site.phase("film", "Complete").await;
    assert_eq!(site.changes(&job.uid().unwrap()), ["queued", "running", "completed"]);
    controller.stop().await;
}

#[tokio::test]
async fn condition_reports_storage_that_cannot_be_reached() {
    let system = system::shared().await;
    let site = Site::on(cluster::shared().await, system, "no-storage").await;
    let storage = TcpProxy::to(cluster::free_port()).await;
    let endpoint = format!("http://127.0.0.1:{}", storage.port);
    let controller = site.controller(&[("R2_ENDPOINT", endpoint.as_str())]);
    controller.ready().await;
    site.make("film", json!({"input": {"upload": {}}, "qualities": ["144p"]})).await;
    let unreachable = |job: &TranscodeJob| {
        condition(job, "Reconciling").is_some_and(|(reason, _)| reason == "StorageUnavailable")
    };
    until(site.jobs(), "film", "said to be without storage", unreachable).await;
    storage.lead_to(system.storage_port());
    let awaits = |job: &TranscodeJob| {
        condition(job, "Reconciling").is_some_and(|(reason, _)| reason == "AwaitingUpload")
    };
    let job = until(site.jobs(), "film", "said to wait for its upload again", awaits).await;
    let url = status(&job)["uploadUrl"].as_str().unwrap().to_owned();
    let film = std::fs::read(clip()).unwrap();
    assert_eq!(system.http.put(url).body(film).send().await.unwrap().status(), 200);
    let job = site.phase("film", "Complete").await;
    assert!(condition(&job, "Reconciling").is_none(), "{:#?}", job.status);
    let log = controller.stop().await;
    assert!(log.contains("could not look for an upload; looking again"), "{log}");
}

#[tokio::test]
async fn operator_starts_while_redis_is_away_and_says_so() {
    use secrecy::ExposeSecret as _;
    let mut redis = private_redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let url = redis.config().url.expose_secret().to_owned();
    let system = Box::leak(Box::new(Setup::default().env("REDIS_URL", &url).start().await));
    let site = own(system, "redis-at-start").await;
    redis.kill().await;
    let controller = site.controller(&[]);
    site.make("film", json!({"input": {"key": site.input(clip()).await}, "qualities": ["144p"]})).await;
    let (_, reason, message) = site.condition("film", "Reconciling").await;
    assert_eq!(reason, "RedisUnavailable", "{message}\n{}", controller.log());
    pods::make(&site, "base", json!({"max": 1}), json!({})).await;
    let is = |status: &Value, value: &str| pool::condition(status, "Ready")["status"] == value;
    let said = pool_until(&site, "base", "it says that Redis is away", |status| is(status, "False")).await;
    assert_eq!(pool::condition(&said, "Ready")["reason"], "RedisUnavailable", "{said:#}");
    redis.start();
    controller.ready().await;
    let said = pool_until(&site, "base", "it is ready", |status| is(status, "True")).await;
    assert_eq!(said["lastError"], Value::Null, "{said:#}");
    site.phase("film", "Complete").await;
    let log = controller.stop().await;
    assert!(log.contains("Redis cannot be used; retrying") && log.contains("Redis can be used now"), "{log}");
}

#[tokio::test]
async fn operator_recovers_after_redis_restarts() {
    use secrecy::ExposeSecret as _;
    let mut redis = private_redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let url = redis.config().url.expose_secret().to_owned();
    let system = Box::leak(Box::new(Setup::default().env("REDIS_URL", &url).start().await));
    let site = own(system, "redis-killed").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let (short, long) = (site.input(clip()).await, site.input(half_minute()).await);
    let spec = json!({"input": {"key": long}, "preset": "hls", "qualities": ["480p"]});
    let runs = site.make("runs", spec).await;
    site.phase("runs", "Running").await;
    redis.kill().await;
    site.make("later", json!({"input": {"key": short}, "qualities": ["144p"]})).await;
    let (_, reason, message) = site.condition("later", "Reconciling").await;
    assert_eq!(reason, "RedisUnavailable", "{message}");
    site.make("gone", json!({"input": {"key": short}, "suspend": true})).await;
    redis.start();
    site.phase("later", "Complete").await;
    let job = site.phase("runs", "Complete").await;
    assert_eq!(site.job(&runs).await["status"], "completed");
    assert!(condition(&job, "Failed").is_none());
    site.phase("gone", "Suspended").await;
    controller.stop().await;
}

#[tokio::test]
async fn thousand_transcode_jobs_at_once_become_thousand_jobs() {
    let system = Box::leak(Box::new(Setup::default().workers(0).start().await));
    let site = own(system, "thousand").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let (jobs, key) = (site.jobs(), site.input(clip()).await);
    let made: Vec<TranscodeJob> =
        futures::stream::iter(0..1000)
            .map(|n| {
                let (jobs, spec) = (jobs.clone(), json!({"input": {"key": key}, "qualities": ["144p"]}));
                async move {
                    jobs.create(&PostParams::default(), &object(&format!("film-{n}"), spec)).await.unwrap()
                }
            })
            .buffer_unordered(16)
            .collect()
            .await;
    let all_queued = async {
        let mut left: std::collections::BTreeSet<String> = made.iter().map(|job| job.name_any()).collect();
        let mut changes = watcher(jobs.clone(), watcher::Config::default()).boxed();
        while !left.is_empty() {
            if let Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job)) =
                changes.next().await.unwrap()
                && has_phase(&job, "Queued")
            {
                left.remove(&job.name_any());
            }
        }
    };
    tokio::time::timeout(PATIENCE, all_queued).await.expect("not all are queued");
    let mut redis = site.system.redis();
    let pending: usize = redis::cmd("ZCARD").arg("jobs:pending").query(&mut redis).unwrap();
    assert_eq!(pending, 1000);
    // All objects are deleted, and their jobs are cancelled.
    jobs.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    let all_gone = async {
        loop {
            let pending: usize = redis::cmd("ZCARD").arg("jobs:pending").query(&mut redis).unwrap();
            let there = jobs.list_metadata(&ListParams::default().limit(1)).await.unwrap();
            if pending == 0 && there.items.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_gone).await.expect("not all are gone");
    controller.stop().await;
}

#[tokio::test]
async fn unreadable_objects_say_so_and_do_not_block_the_others() {
    let cluster = Box::leak(Box::new(Cluster::start().await));
    cluster.define().await;
    let system = system::shared().await;
    let site = Site::on(cluster, system, "unreadable").await;
    // An older or newer schema that permits such an object.
    let crds: Api<CustomResourceDefinition> = Api::all(site.client.clone());
    let anything = [0, 1].map(|version| {
        let path = format!("/spec/versions/{version}/schema/openAPIV3Schema/properties/spec");
        let value = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        json!({"op": "replace", "path": path, "value": value})
    });
    let anything = json!(anything);
    let patch = Patch::<()>::Json(serde_json::from_value(anything).unwrap());
    let mut odd_ones = Vec::new();
    for (kind, plural, spec) in [
        ("TranscodeJob", "transcodejobs", json!({"input": 7, "preset": "from-next-year"})),
        ("WorkerPool", "workerpools", json!({"min": "one"})),
    ] {
        crds.patch(&format!("{plural}.tcoder.dev"), &PatchParams::default(), &patch).await.unwrap();
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("tcoder.dev", "v1alpha1", kind), plural);
        let any: Api<DynamicObject> = Api::namespaced_with(site.client.clone(), &site.namespace, &resource);
        let odd = json!({
            "apiVersion": "tcoder.dev/v1alpha1", "kind": kind, "spec": spec, "metadata": {"name": "odd"},
        });
        let odd: DynamicObject = serde_json::from_value(odd).unwrap();
        let mut refused = None;
        let make_odd = async {
            // It takes a moment until the API server uses the new schema.
            while let Err(error) = any.create(&PostParams::default(), &odd).await {
                refused = Some(error);
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let made = tokio::time::timeout(PATIENCE, make_odd).await;
        made.unwrap_or_else(|_| panic!("the API server refuses the odd {kind}: {refused:?}"));
        odd_ones.push(any);
    }
    let controller = site.controller(&[]);
    let key = site.input(clip()).await;
    site.make("film", json!({"input": {"key": key}, "qualities": ["144p"]})).await;
    let film = site.phase("film", "Complete").await;
    assert!(condition(&film, "Complete").is_some());
    for any in odd_ones {
        let stalled = async {
            loop {
                let odd = any.get("odd").await.unwrap();
                let stalled = pool::condition(&odd.data["status"], "Stalled");
                if let Some(said) = stalled["message"].as_str() {
                    assert_eq!(stalled["reason"], "InvalidSpec");
                    assert!(said.contains("cannot be read"), "{said}");
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stalled).await.expect("nothing is said of the odd one");
        any.delete("odd", &DeleteParams::default()).await.unwrap();
    }
    controller.stop().await;
}

#[tokio::test]
async fn recreated_transcode_job_is_another_job() {
    let site = site("anew").await;
    let key = site.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"]});
    let first = site.make("film", spec.clone()).await;
    let done = site.phase("film", "Complete").await;
    site.jobs().delete("film", &DeleteParams::default()).await.unwrap();
    site.gone("film").await;
    let second = site.make("film", spec).await;
    let again = site.phase("film", "Complete").await;
    assert_ne!(first.uid(), second.uid());
    assert_ne!(status(&done)["outputs"][0]["key"], status(&again)["outputs"][0]["key"]);
}
