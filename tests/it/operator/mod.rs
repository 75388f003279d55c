//! The operator with a real API server, real Redis, an S3 server, and workers that encode, from `kubectl
//! apply` of a TranscodeJob to its result.

mod api_versions;
mod deadline;
mod deletion;
mod faults;
pub mod installs;
mod kubectl;
mod kubelet;
mod kueue;
mod life;
mod pods;
mod pool;
mod refused;
mod roles;
mod several_pools;

use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tcoder::crd::TranscodeJob;
use tokio::process::Child;
use tokio::sync::OnceCell;

use crate::support::kube::{self as cluster, Cluster};
use crate::support::objects::put_input;
use crate::support::process::{self, Process};
use crate::support::system::{self, PATIENCE, System};

/// A running controller. It is killed when dropped.
struct Controller {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Controller {
    /// Starts a controller with `system`'s Redis and buckets, and the API server of this kubeconfig.
    fn start(system: &System, kubeconfig: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let kubeconfig = kubeconfig.to_str().unwrap();
        let address = format!("127.0.0.1:{}", cluster::free_port());
        let args = [&["controller", "--listen", &address], args].concat();
        let env = [&[("KUBECONFIG", kubeconfig)], env].concat();
        let log = system::folder("controller").join("log");
        Self { child: system.logging(&args, &env, &log), url: format!("http://{address}"), log }
    }

    /// Its log so far.
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Kills it with SIGKILL.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Stops it in order and returns its log.
    async fn stop(mut self) -> String {
        process::send(self.child.id().unwrap(), nix::sys::signal::Signal::SIGTERM);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        assert!(ended.expect("the controller does not end").unwrap().success());
        self.log()
    }

    /// Waits until it is ready; returns the reasons it reported before.
    async fn ready(&self) -> Vec<String> {
        let http = system::http();
        let mut said = Vec::new();
        let ready = async {
            loop {
                match http.get(format!("{}/readyz", self.url)).send().await {
                    Ok(answer) if answer.status() == 200 => return,
                    Ok(answer) => said.push(answer.text().await.unwrap()),
                    Err(_) => {}
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("the controller does not become ready");
        said
    }
}

/// A namespace and its objects.
struct Site {
    cluster: &'static Cluster,
    system: &'static System,
    namespace: String,
    client: Client,
}

/// A new namespace for a controller that all tests share: two workers, private addresses permitted, no
/// mirrors.
async fn site(name: &str) -> Site {
    static CONTROLLER: OnceCell<Controller> = OnceCell::const_new();
    let (cluster, system) = (cluster::shared().await, system::shared().await);
    CONTROLLER
        .get_or_init(|| async {
            let own = cluster.namespace("operator").await;
            let env = [("ALLOW_PRIVATE_URLS", "true"), ("MIRROR_MAX", "0"), ("POD_NAMESPACE", own.as_str())];
            let controller = Controller::start(system, &cluster.kubeconfig(), &["--all-namespaces"], &env);
            controller.ready().await;
            controller
        })
        .await;
    Site::on(cluster, system, name).await
}

impl Site {
    async fn on(cluster: &'static Cluster, system: &'static System, name: &str) -> Self {
        let namespace = cluster.namespace(name).await;
        Self { cluster, system, namespace, client: cluster.client().await }
    }

    /// Starts a controller for this namespace only.
    fn controller(&self, env: &[(&str, &str)]) -> Controller {
        let env = [&[("MIRROR_MAX", "0"), ("ALLOW_PRIVATE_URLS", "true")], env].concat();
        let arguments = ["--namespace", self.namespace.as_str()];
        Controller::start(self.system, &self.cluster.kubeconfig(), &arguments, &env)
    }

    fn jobs(&self) -> Api<TranscodeJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Puts a file into the input bucket and returns its key.
    async fn input(&self, file: &Path) -> String {
        self.input_bytes(std::fs::read(file).unwrap()).await
    }

    async fn input_bytes(&self, bytes: Vec<u8>) -> String {
        // Below inputs/ it would become a job by itself.
        let name = format!("films/{}.mp4", uuid::Uuid::new_v4().simple());
        put_input(&self.system.storage_config(), &name, bytes).await;
        name
    }

    /// Creates a TranscodeJob.
    async fn make(&self, name: &str, spec: Value) -> TranscodeJob {
        self.jobs().create(&PostParams::default(), &object(name, spec)).await.unwrap()
    }

    async fn patch(&self, name: &str, spec: Value) {
        let patch = json!({"spec": spec});
        self.jobs().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Waits until the condition holds for the object.
    async fn until(&self, name: &str, what: &str, so: impl Fn(&TranscodeJob) -> bool) -> TranscodeJob {
        until(self.jobs(), name, what, so).await
    }

    /// Waits until the object's status has this phase.
    async fn phase(&self, name: &str, phase: &str) -> TranscodeJob {
        self.until(name, phase, |job| has_phase(job, phase)).await
    }

    /// Waits until this condition is true; also returns its reason and message.
    async fn condition(&self, name: &str, type_: &str) -> (TranscodeJob, String, String) {
        let job = self.until(name, type_, |job| condition(job, type_).is_some()).await;
        let (reason, message) = condition(&job, type_).unwrap();
        (job, reason, message)
    }

    /// Waits until the object is deleted.
    async fn gone(&self, name: &str) {
        let gone = async {
            let mut changes = watched(self.jobs(), name);
            while let Some(change) = changes.next().await {
                if change.is_none() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the TranscodeJob is not gone");
    }

    async fn kubectl(&self, args: &[&str]) -> std::process::Output {
        self.cluster.kubectl(&[&["--namespace", &self.namespace], args].concat()).await
    }

    async fn kubectl_ok(&self, args: &[&str]) -> String {
        self.cluster.kubectl_ok(&[&["--namespace", &self.namespace], args].concat()).await
    }

    /// Applies these YAML documents.
    async fn apply(&self, yaml: &str) {
        let file = self.file(yaml);
        self.kubectl_ok(&["apply", "-f", file.to_str().unwrap()]).await;
    }

    fn file(&self, yaml: &str) -> PathBuf {
        let path = system::folder("manifest").join("object.yaml");
        std::fs::write(&path, yaml).unwrap();
        path
    }

    /// The job in Redis.
    async fn job(&self, object: &TranscodeJob) -> Value {
        self.system.job(&object.uid().unwrap()).await
    }

    /// Waits until FFmpeg encodes this job, pauses its processes and returns them.
    async fn encoders(&self, id: &str) -> Vec<Process> {
        self.system.pause_encode(id).await.1.processes
    }

    /// The reasons of the Events about this object.
    async fn events(&self, name: &str) -> Vec<String> {
        self.notes(name).await.into_iter().map(|(reason, _)| reason).collect()
    }

    /// The reasons and notes of the Events about this object, the oldest first.
    async fn notes(&self, name: &str) -> Vec<(String, String)> {
        let events: Api<k8s_openapi::api::events::v1::Event> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&Default::default()).await.unwrap();
        let of = |event: &k8s_openapi::api::events::v1::Event| {
            event.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(name))
        };
        let mut ours: Vec<_> = all.items.into_iter().filter(of).collect();
        ours.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
        ours.into_iter().map(|event| (event.reason.unwrap(), event.note.unwrap_or_default())).collect()
    }
}

fn object(name: &str, spec: Value) -> TranscodeJob {
    let object = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob", "metadata": {"name": name}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

/// The states of an object, `None` while it does not exist.
fn watched(jobs: Api<TranscodeJob>, name: &str) -> futures::stream::BoxStream<'static, Option<TranscodeJob>> {
    let changes = watcher::watch_object(jobs, name).default_backoff();
    changes.filter_map(|change| async { change.ok() }).boxed()
}

/// Waits until the condition holds for the object.
async fn until(
    jobs: Api<TranscodeJob>,
    name: &str,
    what: &str,
    so: impl Fn(&TranscodeJob) -> bool,
) -> TranscodeJob {
    let mut last = None;
    let wait = async {
        let mut changes = watched(jobs, name);
        loop {
            let change = changes.next().await.expect("the watch ended");
            match change {
                Some(job) if so(&job) => return job,
                change => last = change,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(job) => job,
        Err(_) => panic!("{name} is not {what}: {last:#?}"),
    }
}

fn has_phase(job: &TranscodeJob, phase: &str) -> bool {
    status(job)["phase"] == phase
}

fn status(job: &TranscodeJob) -> Value {
    serde_json::to_value(&job.status).unwrap()
}

/// The reason and message of a condition that is true.
fn condition(job: &TranscodeJob, type_: &str) -> Option<(String, String)> {
    let conditions = &job.status.as_ref()?.conditions;
    let held = conditions.iter().find(|c| c.type_ == type_ && c.status == "True")?;
    Some((held.reason.clone(), held.message.clone()))
}
