//! TranscodeJobs in the queues of a real Kueue: its controller with its webhooks runs beside an API server, Redis, an S3 server,
//! workers and the controller of tcoder. `make test-kueue` builds Kueue (`hack/kueue.sh`) and runs this.
//!
//! No kube-controller-manager runs, so that nothing is deleted with its owner.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::clips::{self, clip};
use support::kube::{Cluster, free_port};
use support::objects::put_input;
use support::process::{all_gone, bare, out, spawn};
use support::system::{self, PATIENCE, System, folder};
use tcoder::crd::TranscodeJob;
use tokio::process::{Child, Command};

const NAMESPACE: &str = "kueue-system";
const CERTIFICATE: &str = "kueue-webhook-server-cert";

/// A cluster with Kueue and tcoder. Everything ends when it is dropped.
struct Site {
    cluster: Cluster,
    system: &'static System,
    jobs: Api<TranscodeJob>,
    workloads: Api<DynamicObject>,
    _kueue: Child,
    _controller: Child,
}

async fn script(args: &[&str]) -> PathBuf {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/kueue.sh"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    // `make test-kueue` has built it.
    let ended = tokio::time::timeout(PATIENCE * 2, spawn(command).wait_with_output()).await;
    let output = ended.expect("hack/kueue.sh does not end").unwrap();
    assert!(output.status.success(), "hack/kueue.sh");
    out(&output).trim().into()
}

/// Repeats a look until it finds something.
async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    found(look).await.unwrap_or_else(|| panic!("{what}"))
}

/// Repeats a look until it finds something, at most for [`PATIENCE`].
async fn found<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.ok()
}

/// Kueue's own manifests, without those that need a node, with the address of its webhooks.
fn manifests(rendered: &str, port: u16) -> String {
    let documents: Vec<Value> = serde_saphyr::from_multiple(rendered).unwrap();
    let mut kept = Vec::new();
    for mut document in documents {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "Namespace" | "Secret" => {}
            "CustomResourceDefinition" => {
                if let Some(service) = document.pointer_mut("/spec/conversion/webhook/clientConfig/service") {
                    service["port"] = json!(port);
                }
            }
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
                // Those of pods and of other kinds of jobs have no part here.
                let webhooks = document["webhooks"].as_array_mut().unwrap();
                webhooks.retain(|webhook| {
                    webhook["clientConfig"]["service"]["path"].as_str().unwrap().contains("-kueue-x-k8s-io-")
                });
                for webhook in webhooks {
                    webhook["clientConfig"]["service"]["port"] = json!(port);
                }
            }
            _ => continue,
        }
        kept.push(document.to_string());
    }
    // Without nodes a service leads nowhere; this one leads to this machine.
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kueue-webhook-service", "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    });
    kept.push(service.to_string());
    kept.join("\n---\n")
}

/// Installs Kueue into the cluster and starts its controller.
async fn start_kueue(cluster: &Cluster) -> Child {
    let sources = script(&[]).await;
    let folder = folder("kueue");
    let (port, health) = (free_port(), free_port());
    let rendered = cluster.kubectl_ok(&["kustomize", sources.join("config/default").to_str().unwrap()]).await;
    let path = folder.join("kueue.yaml");
    std::fs::write(&path, manifests(&rendered, port)).unwrap();
    cluster.kubectl_ok(&["apply", "--server-side", "-f", path.to_str().unwrap()]).await;

    let certificates = folder.join("certificates");
    std::fs::create_dir(&certificates).unwrap();
    let config = json!({
        "apiVersion": "config.kueue.x-k8s.io/v1beta2", "kind": "Configuration", "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": format!("127.0.0.1:{health}")},
        "metrics": {"bindAddress": format!("127.0.0.1:{}", free_port())},
        "webhook": {"port": port, "host": "127.0.0.1", "certDir": certificates},
        "leaderElection": {"leaderElect": false},
        "internalCertManagement": {
            "enable": true, "webhookServiceName": "kueue-webhook-service", "webhookSecretName": CERTIFICATE,
        },
        "integrations": {"frameworks": ["batch/job"]},
    });
    std::fs::write(folder.join("config.yaml"), config.to_string()).unwrap();
    let mut command = bare(script(&["controller"]).await.to_str().unwrap());
    let log = std::fs::File::create(folder.join("kueue.log")).unwrap();
    command
        .arg("--config")
        .arg(folder.join("config.yaml"))
        .arg("--feature-gates=VisibilityOnDemand=false")
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let kueue = spawn(command);

    // The kubelet would mount the Secret there.
    let secrets: Api<Secret> = Api::namespaced(cluster.client().await, NAMESPACE);
    let data = eventually("Kueue makes no certificate", async || {
        secrets.get(CERTIFICATE).await.unwrap().data.filter(|data| data.contains_key("tls.crt"))
    })
    .await;
    for (name, content) in data {
        std::fs::write(certificates.join(name), content.0).unwrap();
    }
    let http = system::http();
    let url = format!("http://127.0.0.1:{health}/readyz");
    eventually("Kueue does not become ready", async || {
        let answer = http.get(&url).send().await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    kueue
}

/// A queue of Kueue with quota for this many CPUs.
async fn make_queue(cluster: &Cluster, name: &str, cpus: u32) {
    let yaml = format!(
        "{{apiVersion: kueue.x-k8s.io/v1beta2, kind: ResourceFlavor, metadata: {{name: default}}}}\n---\n\
         {{apiVersion: kueue.x-k8s.io/v1beta2, kind: ClusterQueue, metadata: {{name: {name}}}, spec: {{namespaceSelector: {{}}, \
         preemption: {{withinClusterQueue: LowerPriority}}, resourceGroups: [{{coveredResources: [cpu], flavors: [\
         {{name: default, resources: [{{name: cpu, nominalQuota: {cpus}}}]}}]}}]}}}}\n---\n\
         {{apiVersion: kueue.x-k8s.io/v1beta2, kind: LocalQueue, metadata: {{name: {name}, namespace: default}}, \
         spec: {{clusterQueue: {name}}}}}\n"
    );
    let path = folder("queue").join("queue.yaml");
    std::fs::write(&path, yaml).unwrap();
    cluster.kubectl_ok(&["apply", "-f", path.to_str().unwrap()]).await;
}

impl Site {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        cluster.define().await;
        let kueue = start_kueue(&cluster).await;
        let system = system::shared().await;
        let kubeconfig = cluster.kubeconfig();
        let address = format!("127.0.0.1:{}", free_port());
        let env =
            [("KUBECONFIG", kubeconfig.to_str().unwrap()), ("MIRROR_MAX", "0"), ("POD_NAMESPACE", "default")];
        let args = ["controller", "--listen", &address, "--all-namespaces"];
        let controller = system.logging(&args, &env, &folder("controller").join("log"));
        let client = cluster.client().await;
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta2", "Workload"));
        Self {
            jobs: Api::namespaced(client.clone(), "default"),
            workloads: Api::namespaced_with(client, "default", &kind),
            cluster,
            system,
            _kueue: kueue,
            _controller: controller,
        }
    }

    async fn input(&self, file: &Path) -> String {
        let name = format!("films/{}.mp4", uuid::Uuid::new_v4().simple());
        put_input(&self.system.storage_config(), &name, std::fs::read(file).unwrap()).await;
        name
    }

    async fn make(&self, name: &str, queue: &str, spec: Value) -> TranscodeJob {
        let object = json!({
            "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob", "spec": spec,
            "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": queue}},
        });
        let object = serde_json::from_value(object).unwrap();
        self.jobs.create(&PostParams::default(), &object).await.unwrap()
    }

    /// Waits until the job is as wanted.
    async fn until(&self, name: &str, what: &str, so: impl Fn(&TranscodeJob) -> bool) -> TranscodeJob {
        let mut last = None;
        let found = found(async || {
            let job = self.jobs.get(name).await.unwrap();
            last = job.status.clone();
            Some(job).filter(|job| so(job))
        })
        .await;
        found.unwrap_or_else(|| panic!("{name} is not {what}: {last:#?}"))
    }

    async fn phase(&self, name: &str, phase: &str) -> TranscodeJob {
        self.until(name, phase, |job| json!(job.status.as_ref().and_then(|s| s.phase)) == phase).await
    }

    /// Waits until the job is held back for this reason; returns the message.
    async fn held(&self, name: &str, reason: &str) -> String {
        let of = |job: &TranscodeJob| {
            let conditions = job.status.as_ref()?.conditions.iter();
            let mut held = conditions.filter(|c| c.type_ == "Suspended" && c.status == "True");
            held.find(|c| c.reason == reason).map(|c| c.message.clone())
        };
        let job = self.until(name, reason, |job| of(job).is_some()).await;
        of(&job).unwrap()
    }

    /// The condition of the job's Workload: status, reason and time.
    async fn workload(&self, job: &TranscodeJob, type_: &str) -> Option<(String, String, String)> {
        let workload = self.workloads.get_opt(&workload_name(job)).await.unwrap()?;
        let conditions = workload.data["status"]["conditions"].as_array()?.clone();
        let found = conditions.into_iter().find(|condition| condition["type"] == type_)?;
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        Some((text("status"), text("reason"), text("lastTransitionTime")))
    }

    /// Waits until this condition of the job's Workload is so; returns its reason and its time.
    async fn until_workload(&self, job: &TranscodeJob, type_: &str, status: &str) -> (String, String) {
        eventually(&format!("the Workload of {} is not {type_} {status}", job.name_any()), async || {
            let (now, reason, time) = self.workload(job, type_).await?;
            (now == status).then_some((reason, time))
        })
        .await
    }

    async fn set_active(&self, job: &TranscodeJob, active: bool) {
        let patch = Patch::Merge(json!({"spec": {"active": active}}));
        self.workloads.patch(&workload_name(job), &PatchParams::default(), &patch).await.unwrap();
    }

    /// The FFmpeg processes of a job that runs, paused.
    async fn encoders(&self, job: &TranscodeJob) -> Vec<support::process::Process> {
        self.system.pause_encode(&job.uid().unwrap()).await.1.processes
    }
}

fn workload_name(job: &TranscodeJob) -> String {
    format!("transcodejob-{}-{}", job.name_any(), &job.uid().unwrap()[..8])
}

#[tokio::test]
async fn real_kueue_admits_evicts_and_preempts_transcode_jobs() {
    let site = Site::start().await;
    make_queue(&site.cluster, "films", 1).await;
    let (short, long) = (site.input(clip()).await, site.input(&clips::long()).await);
    let long = json!({"input": {"key": long}, "preset": "hls", "qualities": ["720p"], "parallelism": 1});
    let short = json!({"input": {"key": short}, "qualities": ["144p"]});

    // There is quota for one: the second waits for the end of the first, though a worker is idle.
    let first = site.make("first", "films", long.clone()).await;
    site.phase("first", "Running").await;
    let second = site.make("second", "films", short.clone()).await;
    let message = site.held("second", "AwaitingAdmission").await;
    assert!(message.contains("in the queue films of Kueue"), "{message}");
    site.until_workload(&second, "QuotaReserved", "False").await;
    let message = eventually("Kueue's reason is not shown", async || {
        let message = site.held("second", "AwaitingAdmission").await;
        message.contains("insufficient unused quota for cpu in flavor default").then_some(message)
    })
    .await;
    println!("the second: {message}");

    // An administrator deactivates the first: it stops, and gives its quota to the second.
    let encoders = site.encoders(&first).await;
    site.until_workload(&first, "PodsReady", "True").await;
    site.set_active(&first, false).await;
    all_gone(&encoders).await;
    let message = site.held("first", "WorkloadEvicted").await;
    println!("the first: {message}");
    assert!(message.contains("(Deactivated)"), "{message}");
    site.until_workload(&first, "QuotaReserved", "False").await;
    let done = site.phase("second", "Complete").await;
    let (reason, finished) = site.until_workload(&second, "Finished", "True").await;
    assert_eq!(reason, "Succeeded");
    assert!(done.status.unwrap().outputs.len() == 1);

    // Activated again, it starts over; the quota of the second is free.
    site.set_active(&first, true).await;
    let (_, admitted) = site.until_workload(&first, "Admitted", "True").await;
    assert!(admitted >= finished, "{admitted} before {finished}");
    site.phase("first", "Running").await;

    // A more urgent job preempts it.
    let encoders = site.encoders(&first).await;
    let mut urgent = short.clone();
    urgent["priority"] = json!(50);
    let urgent = site.make("urgent", "films", urgent).await;
    all_gone(&encoders).await;
    site.phase("urgent", "Complete").await;
    site.until_workload(&urgent, "Finished", "True").await;
    // It comes back by itself, and one that fails says so to Kueue.
    site.until_workload(&first, "Admitted", "True").await;
    site.phase("first", "Running").await;
    site.jobs.delete("first", &DeleteParams::default()).await.unwrap();
    // No garbage collector runs here.
    site.workloads.delete(&workload_name(&first), &DeleteParams::default()).await.unwrap();
    let broken = site.make("broken", "films", json!({"input": {"key": "films/missing.mp4"}})).await;
    site.phase("broken", "Failed").await;
    assert_eq!(site.until_workload(&broken, "Finished", "True").await.0, "Failed");

    // More than the queue has is never admitted, and Kueue says why.
    let mut large = short;
    large["resources"] = json!({"requests": {"cpu": "2"}});
    site.make("large", "films", large).await;
    let message = eventually("Kueue's reason is not shown", async || {
        let message = site.held("large", "AwaitingAdmission").await;
        message.contains("cpu").then_some(message)
    })
    .await;
    println!("the large one: {message}");
}
