//! The Worker and an operator with the same Redis and the same Fly: whichever acts, Fly receives at most one
//! request a second, and there is never a machine too many.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kube::api::{Api, PostParams};
use kube::runtime::wait::await_condition;
use nix::sys::signal::Signal;
use serde_json::json;
use tcoder::crd::{JobPhase, TranscodeJob};
use tcoder::flyprovider::{FlyMachine, MachineState};
use tokio::process::Child;

use crate::support::clips::clip;
use crate::support::edge::{Edge, Setup};
use crate::support::kube::{Cluster, free_port, shared as cluster};
use crate::support::process::{send, spawn, tcoder};
use crate::support::redis::shared;
use crate::support::system::{PATIENCE, folder, http, keeps_to_one_a_second};

const MAX: usize = 2;

/// Starts an operator for this namespace with the Worker's Redis, buckets and Fly, and waits until it is
/// ready.
async fn operator(edge: &Edge, cluster: &Cluster, namespace: &str) -> Child {
    let address = format!("127.0.0.1:{}", free_port());
    let log = std::fs::File::create(folder("operator").join("log")).unwrap();
    let mut command = tcoder();
    command
        .args(["controller", "--listen", &address, "--namespace", namespace])
        .envs(edge.role.iter().map(|(name, value)| (name, value)))
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("MAX_MACHINES", MAX.to_string())
        .env("MIRROR_MAX", "0")
        .stdout(Stdio::null())
        .stderr(log);
    let child = spawn(command);
    let ready = async {
        let is_ready = async || {
            let answer = http().get(format!("http://{address}/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        };
        while !is_ready().await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("the operator does not become ready");
    child
}

async fn uploads(edge: &Edge, count: usize) -> Vec<String> {
    let job_request = json!({"preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"});
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(edge.upload(clip(), &job_request).await);
    }
    ids
}

async fn completed(edge: &Edge, ids: &[String]) {
    for id in ids {
        edge.completed(id).await;
    }
}

/// Creates a TranscodeJob for this input and waits until it is complete.
async fn applied(cluster: &Cluster, namespace: &str, name: &str, key: &str) {
    let jobs: Api<TranscodeJob> = Api::namespaced(cluster.client().await, namespace);
    let job = json!({
        "apiVersion": "tcoder.dev/v1alpha1",
        "kind": "TranscodeJob",
        "metadata": {"name": name},
        "spec": {"input": {"key": key}, "preset": "web-optimized", "qualities": ["144p"]},
    });
    jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    let is_complete = |job: Option<&TranscodeJob>| {
        let status = job.and_then(|job| job.status.as_ref());
        status.is_some_and(|status| status.phase == Some(JobPhase::Complete))
    };
    let waited = tokio::time::timeout(PATIENCE, await_condition(jobs, name, is_complete)).await;
    waited.expect("it does not become complete").unwrap();
}

#[tokio::test]
async fn worker_and_controller_share_the_rate_limit_and_the_fleet_lock() {
    let redis = shared();
    let setup = Setup::over(redis.clone());
    let edge = Arc::new(setup.set("MAX_MACHINES", MAX.to_string()).alive().start().await);
    let cluster = cluster().await;
    let namespace = cluster.namespace("beside-the-edge").await;
    let most = Arc::new(AtomicUsize::new(0));
    let (watched, seen) = (Arc::clone(&edge), Arc::clone(&most));
    let watch = tokio::spawn(async move {
        let count = |machines: &[FlyMachine]| {
            let there = machines.iter().filter(|m| m.state != MachineState::Destroyed).count();
            seen.fetch_max(there, Ordering::SeqCst);
            false
        };
        watched.fly.until(count).await;
    });

    // Only the Worker acts.
    let first = uploads(&edge, 2).await;
    completed(&edge, &first).await;
    // Both act, on the same events.
    let mut running = operator(&edge, cluster, &namespace).await;
    let ids = uploads(&edge, 6).await;
    applied(cluster, &namespace, "one", &format!("inputs/{}/a.mp4", first[0])).await;
    completed(&edge, &ids).await;
    // The operator dies without releasing its lock: the Worker takes over.
    running.kill().await.unwrap();
    completed(&edge, &uploads(&edge, 3).await).await;
    // Another operator starts and stops in order.
    let mut running = operator(&edge, cluster, &namespace).await;
    applied(cluster, &namespace, "two", &format!("inputs/{}/a.mp4", first[1])).await;
    completed(&edge, &uploads(&edge, 2).await).await;
    send(running.id().unwrap(), Signal::SIGTERM);
    let ended = tokio::time::timeout(PATIENCE, running.wait()).await;
    assert!(ended.expect("the operator does not end").unwrap().success());

    watch.abort();
    let most = most.load(Ordering::SeqCst);
    assert!((1..=MAX).contains(&most), "{most} machines");
    keeps_to_one_a_second(&edge.fly);
}
