//! A scheduler and a kubelet for the pods of one namespace. The API server of the tests has neither: this one binds each pod
//! to a node, writes its status in the shapes of the real ones, and runs its worker's container as a process of the
//! pod's own environment.

use std::collections::HashMap;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Site;
use crate::support::system::{System, Worker};

/// What a worker's task is told.
enum Order {
    /// Send SIGTERM: the pod is being deleted.
    Terminate,
}

/// Runs until it is dropped; then its workers are killed.
pub struct Kubelet {
    task: JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kubelet {
    /// Takes over the pods of this namespace.
    pub fn start(site: &Site) -> Self {
        let pods: Api<Pod> = Api::namespaced(site.client.clone(), &site.namespace);
        Self { task: tokio::spawn(run(site.client.clone(), site.system, pods)) }
    }
}

async fn run(client: Client, system: &'static System, pods: Api<Pod>) {
    let mut changes = watcher(pods.clone(), watcher::Config::default()).default_backoff().boxed();
    let mut workers: HashMap<String, mpsc::Sender<Order>> = HashMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(change) = changes.next().await {
        let Ok(change) = change else { continue };
        match change {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                let uid = pod.uid().unwrap();
                let is_deleted = pod.meta().deletion_timestamp.is_some();
                match workers.get(&uid) {
                    Some(worker) if is_deleted => drop(worker.send(Order::Terminate).await),
                    Some(_) => {}
                    None => {
                        bind(&client, &pod).await;
                        let (orders, told) = mpsc::channel(8);
                        workers.insert(uid, orders);
                        tasks.spawn(run_pod(pods.clone(), system, pod, told));
                    }
                }
            }
            // Removed with force: dropping the sender kills the worker.
            watcher::Event::Delete(pod) => drop(workers.remove(&pod.uid().unwrap())),
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }
}

/// Assigns the pod to a node, as the scheduler does.
async fn bind(client: &Client, pod: &Pod) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod.name_any()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node-of-the-tests"},
    });
    let bound: Result<Value, _> =
        pods.create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding).await;
    match bound {
        // It was deleted meanwhile, or bound before the watch broke.
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
        bound => drop(bound.unwrap()),
    }
}

/// Writes the status of a pod; a pod that was removed meanwhile has none.
pub async fn write_status(pods: &Api<Pod>, name: &str, status: Value) {
    let patch = Patch::Merge(json!({"status": status}));
    match pods.patch_status(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        written => drop(written.unwrap()),
    }
}

fn status(phase: &str, state: Value, is_ready: bool) -> Value {
    let now = Timestamp::now().to_string();
    let condition = |type_: &str, holds: bool| {
        json!({
            "type": type_, "status": if holds { "True" } else { "False" }, "lastTransitionTime": now,
        })
    };
    json!({
        "phase": phase,
        "conditions": [
            condition("PodScheduled", true),
            condition("Ready", is_ready),
            condition("ContainersReady", is_ready),
        ],
        "containerStatuses": [{
            "name": "worker", "image": "worker", "imageID": "", "ready": is_ready, "restartCount": 0, "state": state,
        }],
    })
}

/// Runs the worker of a pod until it exits.
async fn run_pod(pods: Api<Pod>, system: &'static System, pod: Pod, mut orders: mpsc::Receiver<Order>) {
    let name = pod.name_any();
    let environment = environment(&pod);
    let variables: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut worker: Worker = system.worker(&format!("{name}-{}", &pod.uid().unwrap()[..8]), &variables);
    let pid = worker.pid;
    let started = Timestamp::now().to_string();
    write_status(&pods, &name, status("Running", json!({"running": {"startedAt": started}}), true)).await;
    let (ended, mut end) = oneshot::channel();
    let waiting = tokio::spawn(async move {
        let status = worker.runs().await;
        let _ = ended.send(status);
    });
    let exit = loop {
        tokio::select! {
            biased;
            exit = &mut end => break exit.unwrap(),
            order = orders.recv() => match order {
                Some(Order::Terminate) => crate::support::process::send(pid, Signal::SIGTERM),
                None => {
                    waiting.abort();
                    return;
                }
            },
        }
    };
    let code = exit.code().unwrap_or(137);
    let state = json!({"terminated": {
        "exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
        "startedAt": started, "finishedAt": Timestamp::now().to_string(),
    }});
    write_status(&pods, &name, status(if code == 0 { "Succeeded" } else { "Failed" }, state, false)).await;
    // A pod that is being deleted is removed once its containers have ended.
    loop {
        let now = pods.get_opt(&name).await.unwrap().filter(|now| now.uid() == pod.uid());
        let Some(now) = now else { return };
        if now.meta().deletion_timestamp.is_some() {
            let at_once = DeleteParams::default().grace_period(0);
            drop(pods.delete(&name, &at_once).await);
            return;
        }
        if orders.recv().await.is_none() {
            return;
        }
    }
}

/// The environment of the worker's container, with the values that a kubelet fills in. The settings of Redis and storage,
/// which a pod has from a Secret, are those of the system under test.
fn environment(pod: &Pod) -> Vec<(String, String)> {
    let worker = pod.spec.as_ref().unwrap().containers.iter().find(|c| c.name == "worker").unwrap();
    let mut known: Vec<(String, String)> = vec![("FLY_MACHINE_ID".to_owned(), String::new())];
    for EnvVar { name, value, value_from } in worker.env.clone().unwrap_or_default() {
        let field = value_from.and_then(|from| from.field_ref).map(|field| field.field_path);
        let text = match (value, field.as_deref()) {
            (Some(value), _) => {
                known.iter().fold(value, |text, (name, value)| text.replace(&format!("$({name})"), value))
            }
            (None, Some("metadata.name")) => pod.name_any(),
            (None, Some("metadata.uid")) => pod.uid().unwrap(),
            // The worker finds out the space on its disk by itself.
            (None, _) => continue,
        };
        known.push((name, text));
    }
    known
}
