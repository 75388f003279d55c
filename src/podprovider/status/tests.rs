//! Pods as the scheduler, the kubelet and the node controller leave them. The shapes are those of Kubernetes 1.37.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::controller::fleet::MachineId;

/// A pod with this status, made at 12:00.
fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "pods-worker-01", "uid": "u1", "creationTimestamp": "2026-01-01T12:00:00Z",
            "annotations": {"tcoder.dev/launch": json!({
                "image": "worker:1", "revision": "abc", "stays": false,
                "size": {"dedicated": true, "cpus": 2, "memoryMb": 4096},
            }).to_string()},
        },
        "spec": {"containers": [{"name": "worker"}]},
        "status": status,
    }))
    .unwrap()
}

fn listed(status: Value) -> Machine {
    machine(&pod(status))
}

/// A pod with a node, whose worker's container has this state.
fn with_worker(phase: &str, state: Value) -> Value {
    json!({
        "phase": phase,
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True"},
            {"type": "ContainersReady", "status": "True"},
        ],
        "containerStatuses": [
            {"name": "proxy", "state": {"running": {}}, "ready": true, "restartCount": 0, "image": "", "imageID": ""},
            {"name": "worker", "state": state, "ready": true, "restartCount": 0, "image": "", "imageID": ""},
        ],
    })
}

fn unscheduled(reason: &str, message: &str) -> Value {
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message});
    json!({"phase": "Pending", "conditions": [condition]})
}

fn terminated(code: i32, reason: &str) -> Value {
    json!({"terminated": {
        "exitCode": code, "reason": reason, "startedAt": "2026-01-01T12:00:30Z", "finishedAt": "2026-01-01T12:05:00Z",
    }})
}

/// The same status with the condition of a pod that is disrupted.
fn disrupted(mut status: Value, reason: &str, message: &str) -> Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T12:04:00Z",
    });
    match status["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => status["conditions"] = json!([condition]),
    }
    status
}

fn at(clock: &str) -> Millis {
    let at: jiff::Timestamp = format!("2026-01-01T{clock}Z").parse().unwrap();
    Millis(at.as_millisecond())
}

#[test]
fn launch_size_and_id_of_a_pod_are_those_it_was_made_with() {
    let machine = listed(json!({"phase": "Pending"}));
    assert_eq!(machine.id, MachineId("pods-worker-01.u1".into()));
    assert_eq!((machine.name.as_str(), machine.phase), ("pods-worker-01", Phase::Creating));
    let launch = machine.launch.unwrap();
    assert_eq!(
        (launch.image.as_str(), launch.revision.as_deref(), launch.stays),
        ("worker:1", Some("abc"), false)
    );
    assert_eq!(machine.size.unwrap().cpus, 2);
    assert_eq!(machine.created_at, "2026-01-01T12:00:00Z");
    assert!(machine.host_reachable && machine.labelled);
    let mut foreign = pod(json!({}));
    foreign.metadata.annotations = None;
    assert_eq!((super::machine(&foreign).launch, super::machine(&foreign).size), (None, None));
}

#[test]
fn pod_without_a_node_is_unschedulable_with_the_words_of_the_scheduler() {
    let message = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available";
    let machine = listed(unscheduled("Unschedulable", message));
    assert_eq!(machine.phase, Phase::Unschedulable);
    assert_eq!(machine.message.unwrap(), format!("Unschedulable: {message}"));
    let gated =
        listed(unscheduled("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates"));
    assert_eq!(gated.phase, Phase::Unschedulable);
}

#[test]
fn pod_on_a_node_starts_until_its_worker_runs() {
    let creating = listed(with_worker("Pending", json!({"waiting": {"reason": "ContainerCreating"}})));
    assert_eq!((creating.phase, creating.message), (Phase::Starting, None));
    let running = listed(with_worker("Running", json!({"running": {"startedAt": "2026-01-01T12:00:30Z"}})));
    assert_eq!(running.phase, Phase::Started);
    assert_eq!(running.running_since, Some(at("12:00:30")));
    assert_eq!(running.last_start, Some(Start { at: at("12:00:30"), took: Duration::from_secs(30) }));
    // Another container of the pod runs already.
    let early = listed(with_worker("Running", json!({"waiting": {"reason": "PodInitializing"}})));
    assert_eq!(early.phase, Phase::Starting);
}

#[test]
fn pod_that_cannot_start_has_failed_with_the_words_of_the_kubelet() {
    for reason in [
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "RunContainerError",
    ] {
        let waiting = json!({"waiting": {"reason": reason, "message": "because"}});
        let machine = listed(with_worker("Pending", waiting));
        assert_eq!((machine.phase, machine.message), (Phase::Failed, Some(format!("{reason}: because"))));
    }
    let mut status = with_worker("Pending", json!({"waiting": {"reason": "PodInitializing"}}));
    status["initContainerStatuses"] = json!([{
        "name": "init", "state": {"waiting": {"reason": "ImagePullBackOff"}}, "ready": false, "restartCount": 0,
        "image": "", "imageID": "",
    }]);
    assert_eq!(listed(status).message.as_deref(), Some("ImagePullBackOff"));
}

#[test]
fn pod_that_the_kubelet_refuses_makes_room_for_another_and_is_no_failed_launch() {
    let refused = json!({
        "phase": "Failed", "reason": "OutOfcpu",
        "message": "Pod was rejected: Node didn't have enough resource: cpu, requested: 4000, used: 0, capacity: 2000",
    });
    let machine = listed(refused);
    let exit = Exit { at: at("12:00:00"), code: 137, out_of_memory: false, requested: true };
    assert_eq!((machine.phase, machine.last_exit), (Phase::Stopped, Some(exit)));
    assert!(machine.message.unwrap().starts_with("OutOfcpu: Pod was rejected"));
    // Any other pod that ends before its worker ran is a failed launch.
    let other = listed(json!({"phase": "Failed", "reason": "UnexpectedAdmissionError"}));
    assert_eq!((other.phase, other.last_exit), (Phase::Failed, None));
}

#[test]
fn worker_that_exited_has_stopped_and_its_exit_is_known() {
    let exit = |code, out_of_memory| Exit { at: at("12:05:00"), code, out_of_memory, requested: false };
    let idle = listed(with_worker("Succeeded", terminated(0, "Completed")));
    assert_eq!((idle.phase, idle.last_exit, idle.message), (Phase::Stopped, Some(exit(0, false)), None));
    assert_eq!(idle.running_since, None);
    let failed = listed(with_worker("Failed", terminated(1, "Error")));
    assert_eq!((failed.phase, failed.last_exit), (Phase::Stopped, Some(exit(1, false))));
    assert_eq!(failed.message.as_deref(), Some("Error (exit code 1)"));
    // Another container keeps the pod running.
    assert_eq!(listed(with_worker("Running", terminated(0, "Completed"))).phase, Phase::Stopped);
    let killed = listed(with_worker("Failed", terminated(137, "OOMKilled")));
    assert_eq!((killed.phase, killed.last_exit), (Phase::Stopped, Some(exit(137, true))));
}

#[test]
fn eviction_and_preemption_are_exits_that_somebody_requested() {
    let message = "The node was low on resource: ephemeral-storage. ";
    let mut status =
        disrupted(with_worker("Failed", terminated(143, "Error")), "TerminationByKubelet", message);
    status["reason"] = json!("Evicted");
    status["message"] = json!(message);
    let evicted = listed(status);
    let exit = evicted.last_exit.unwrap();
    assert_eq!((evicted.phase, exit.requested, exit.code), (Phase::Stopped, true, 143));
    assert_eq!(evicted.message.unwrap(), format!("Evicted: {message}"));
    // Before its containers ran.
    let early = disrupted(
        json!({"phase": "Failed"}),
        "PreemptionByScheduler",
        "preempting to accommodate a higher priority pod",
    );
    let early = listed(early);
    assert_eq!((early.phase, early.last_exit.unwrap().requested), (Phase::Stopped, true));
    assert_eq!(early.last_exit.unwrap().at, at("12:04:00"));
    assert!(early.message.unwrap().starts_with("PreemptionByScheduler: preempting"));
}

#[test]
fn deleted_pod_is_destroyed_whatever_its_containers_do() {
    let status = with_worker("Running", json!({"running": {"startedAt": "2026-01-01T12:00:30Z"}}));
    let mut pod = pod(disrupted(status, "EvictionByEvictionAPI", "Eviction API: evicting"));
    pod.metadata.deletion_timestamp = pod.metadata.creation_timestamp.clone();
    let machine = machine(&pod);
    assert_eq!((machine.phase, machine.host_reachable), (Phase::Destroying, true));
    assert_eq!(machine.message.as_deref(), Some("EvictionByEvictionAPI: Eviction API: evicting"));
}

#[test]
fn lost_node_is_unreachable() {
    // The node controller changes the condition `Ready` alone.
    let mut status = with_worker("Running", json!({"running": {"startedAt": "2026-01-01T12:00:30Z"}}));
    assert!(listed(status.clone()).host_reachable);
    status["conditions"][1]["status"] = json!("False");
    let lost = listed(status.clone());
    assert_eq!((lost.phase, lost.host_reachable), (Phase::Started, false));
    // A container that is not ready says nothing about the node.
    status["conditions"][2]["status"] = json!("False");
    assert!(listed(status).host_reachable);
    let deleted = json!({"phase": "Running", "reason": "NodeLost"});
    assert!(!listed(deleted).host_reachable);
    assert!(!listed(json!({"phase": "Unknown"})).host_reachable);
}

#[test]
fn unknown_phase_is_reported_by_its_name() {
    assert_eq!(listed(json!({"phase": "Floating"})).phase, Phase::Unknown("Floating".into()));
}

#[test]
fn pod_whose_other_container_failed_says_which_and_how() {
    let of = |name: &str, state: Value| json!({"name": name, "state": state, "ready": false, "restartCount": 0, "image": "", "imageID": ""});
    let mut init = with_worker("Failed", json!({"waiting": {"reason": "PodInitializing"}}));
    let mut failed = terminated(3, "Error");
    failed["terminated"]["message"] = json!("no such secret");
    init["initContainerStatuses"] = json!([of("first", terminated(0, "Completed")), of("settings", failed)]);
    let machine = listed(init);
    let said = "container settings: Error (exit code 3): no such secret";
    assert_eq!((machine.phase, machine.message.as_deref()), (Phase::Failed, Some(said)));
    let mut sidecar = with_worker("Failed", json!({"waiting": {"reason": "ContainerCreating"}}));
    sidecar["containerStatuses"][0] = of("proxy", terminated(1, "Error"));
    assert_eq!(listed(sidecar).message.as_deref(), Some("container proxy: Error (exit code 1)"));
    // The worker's own end counts, if it has ended.
    let mut own = with_worker("Failed", terminated(2, "Error"));
    own["containerStatuses"][0] = of("proxy", terminated(1, "Error"));
    assert_eq!(listed(own).message.as_deref(), Some("Error (exit code 2)"));
}
