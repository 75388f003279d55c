//! Measures the cost and the latency of the operator, with a real API server and a real worker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tcoder::crd::{JobPhase, TranscodeJob};
use tokio::process::Child;

use crate::Figures;
use crate::support::clips::clip;
use crate::support::kube::{Cluster, free_port};
use crate::support::system::{Setup, System, folder, http};
use crate::worker::resident_mb;

const LIFE: [&str; 4] =
    ["apply_to_running_ms_p50", "apply_to_running_ms_p99", "status_lag_ms_p99", "api_writes_per_job"];
const MEMORY: [&str; 3] = ["controller_rss_mb_0", "controller_rss_mb_1k", "controller_rss_mb_10k"];

/// Number of jobs that are measured one after the other.
const JOBS: usize = 60;
/// Number of objects that are created concurrently.
const MAX_CONCURRENT_CREATES: usize = 32;

pub async fn measure(figures: &mut Figures) {
    let wants = |names: &[&str]| figures.wants(names) || figures.wants(&["operator"]);
    let (life_asked, memory_asked) = (wants(&LIFE), wants(&MEMORY));
    if !life_asked && !memory_asked {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.define().await;
    let namespace = cluster.namespace("bench").await;
    // A service account, so that the API server audits its requests.
    let kubeconfig = cluster.kubeconfig_of(&namespace, "controller").await;
    let account = format!("--serviceaccount={namespace}:controller");
    cluster
        .kubectl_ok(&["create", "clusterrolebinding", "bench", "--clusterrole=cluster-admin", &account])
        .await;
    let system = Setup::default().start().await;
    let start = async || {
        let address = format!("127.0.0.1:{}", free_port());
        let args = ["controller", "--listen", &address, "--all-namespaces"];
        let kubeconfig = kubeconfig.to_str().unwrap();
        let env = [
            ("KUBECONFIG", kubeconfig),
            ("POD_NAMESPACE", namespace.as_str()),
            ("MIRROR_MAX", "0"),
            ("RUST_LOG", "warn"),
        ];
        let child = system.logging(&args, &env, &folder("controller").join("log"));
        ready(&format!("http://{address}/readyz")).await;
        child
    };
    let controller = start().await;
    // Other controllers may still wait for the lease; this one has it once the first job has completed.
    let jobs: Api<TranscodeJob> = Api::namespaced(cluster.client().await, &namespace);
    let key = "films/clip.mp4";
    system.put_input(key, clip()).await;
    let mut life = Life::new(jobs.clone());
    life.through("warm", key).await;
    figures.put(MEMORY[0], resident_mb(controller.id().unwrap()), "MB");

    if life_asked {
        let writes_before = writes(&cluster);
        let mut to_running = Vec::new();
        for n in 0..JOBS {
            to_running.push(life.through(&format!("film-{n}"), key).await);
        }
        to_running.sort_by(f64::total_cmp);
        figures.put(LIFE[0], to_running[to_running.len() / 2], "ms");
        figures.put(LIFE[1], to_running[to_running.len() * 99 / 100], "ms");
        figures.put(LIFE[2], life.lag_p99(&system), "ms");
        #[allow(clippy::cast_precision_loss)]
        let per_job = (writes(&cluster) - writes_before) as f64 / JOBS as f64;
        figures.put(LIFE[3], per_job, "writes");
    }
    if memory_asked {
        memory(figures, cluster.client().await, &namespace, controller, start).await;
    }
    jobs.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    system.stop().await;
}

async fn ready(url: &str) {
    let http = http();
    while !http.get(url).send().await.is_ok_and(|answer| answer.status() == 200) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn object(name: &str, spec: Value) -> TranscodeJob {
    let object = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob", "metadata": {"name": name}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

/// Jobs that run one after the other, as a watch shows them.
struct Life {
    jobs: Api<TranscodeJob>,
    changes: futures::stream::BoxStream<'static, watcher::Result<Event<TranscodeJob>>>,
    /// When a job was first shown as running and as complete: wall clock, milliseconds.
    shown: BTreeMap<(String, &'static str), i64>,
}

impl Life {
    fn new(jobs: Api<TranscodeJob>) -> Self {
        let changes = watcher(jobs.clone(), watcher::Config::default()).boxed();
        Self { jobs, changes, shown: BTreeMap::new() }
    }

    /// Creates a job and waits until it is complete. Returns the milliseconds until it was shown as running.
    async fn through(&mut self, name: &str, key: &str) -> f64 {
        let spec = json!({"input": {"key": key}, "preset": "web-optimized", "qualities": ["144p"]});
        let began = Instant::now();
        self.jobs.create(&PostParams::default(), &object(name, spec)).await.unwrap();
        let mut to_running = None;
        loop {
            let change = self.changes.next().await.unwrap();
            let Ok(Event::Apply(job) | Event::InitApply(job)) = change else { continue };
            if job.name_any() != name {
                continue;
            }
            let phase = job.status.as_ref().and_then(|status| status.phase);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
            let now = i64::try_from(now).unwrap();
            if phase == Some(JobPhase::Running) {
                to_running.get_or_insert_with(|| began.elapsed());
                self.shown.entry((job.uid().unwrap(), "running")).or_insert(now);
            }
            if phase == Some(JobPhase::Complete) {
                to_running.get_or_insert_with(|| began.elapsed());
                self.shown.entry((job.uid().unwrap(), "completed")).or_insert(now);
                if job.finalizers().is_empty() {
                    return to_running.unwrap().as_secs_f64() * 1000.0;
                }
            }
        }
    }

    /// The delay from a change in Redis, by its clock, which is that of this machine, until the watch shows
    /// it.
    fn lag_p99(&self, system: &System) -> f64 {
        let entries: Vec<(String, BTreeMap<String, String>)> =
            redis::cmd("XRANGE").arg("jobs:events").arg(&["-", "+"]).query(&mut system.redis()).unwrap();
        let mut lags = Vec::new();
        for (at, fields) in entries.iter().filter(|(_, fields)| !fields.contains_key("progress")) {
            let (Some(id), Some(state)) = (fields.get("id"), fields.get("state")) else { continue };
            let at: i64 = at.split('-').next().unwrap().parse().unwrap();
            let shown = self.shown.iter().find(|((of, what), _)| of == id && what == state);
            if let Some((_, shown)) = shown {
                #[allow(clippy::cast_precision_loss)]
                lags.push((shown - at) as f64);
            }
        }
        lags.sort_by(f64::total_cmp);
        lags[lags.len() * 99 / 100]
    }
}

/// Number of writes by the controller so far, without those to its Lease.
fn writes(cluster: &Cluster) -> usize {
    let is_write = |event: &&Value| {
        matches!(event["verb"].as_str(), Some("create" | "update" | "patch" | "delete"))
            && event["objectRef"]["resource"] != "leases"
    };
    cluster.audit().iter().filter(is_write).count()
}

/// The memory of a controller that has read this many objects.
async fn memory(
    figures: &mut Figures,
    client: Client,
    namespace: &str,
    mut controller: Child,
    start: impl AsyncFn() -> Child,
) {
    let jobs: Api<TranscodeJob> = Api::namespaced(client.clone(), namespace);
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(client, namespace);
    let mut made = 0;
    for (name, many) in [(MEMORY[1], 1_000), (MEMORY[2], 10_000)] {
        let make = futures::stream::iter(made..many).map(|n| {
            let jobs = jobs.clone();
            async move {
                let spec = json!({"input": {"key": format!("films/{n}.mp4")}, "suspend": true});
                jobs.create(&PostParams::default(), &object(&format!("waits-{n}"), spec)).await.unwrap();
            }
        });
        make.buffer_unordered(MAX_CONCURRENT_CREATES).collect::<Vec<()>>().await;
        made = many;
        suspended(&jobs, many).await;
        // A controller that reads them all when it starts, as after every update of the operator.
        controller.kill().await.unwrap();
        leases.delete("tcoder-controller", &DeleteParams::default()).await.unwrap();
        controller = start().await;
        acts(&leases).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        figures.put(name, resident_mb(controller.id().unwrap()), "MB");
    }
    controller.kill().await.unwrap();
}

/// Waits until this many objects are suspended.
async fn suspended(jobs: &Api<TranscodeJob>, many: usize) {
    let mut so = std::collections::BTreeSet::new();
    let mut changes = watcher(jobs.clone(), watcher::Config::default()).boxed();
    while so.len() < many {
        if let Ok(Event::Apply(job) | Event::InitApply(job)) = changes.next().await.unwrap()
            && job.status.as_ref().and_then(|s| s.phase) == Some(JobPhase::Suspended)
        {
            so.insert(job.name_any());
        }
    }
}

/// Waits until a controller holds the Lease.
async fn acts(leases: &Api<k8s_openapi::api::coordination::v1::Lease>) {
    while leases.get_opt("tcoder-controller").await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
