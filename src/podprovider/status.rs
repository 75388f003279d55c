//! A pod as the API server lists it -> a machine. Pure.
//!
//! The reasons are those of the scheduler, the kubelet and the node controller:
//! <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>,
//! <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions>, and in Kubernetes' source
//! `pkg/kubelet/images/types.go`, `pkg/kubelet/kuberuntime/kuberuntime_container.go` and
//! `pkg/controller/util/node/controller_utils.go`.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::WORKER_CONTAINER;
use super::pod::{launch_of, machine_id};
use crate::controller::fleet::{ANY_REGION, Exit, Machine, Phase, Start};
use crate::job::Millis;

/// Why a container waits that will not start by itself, or only after somebody has changed something.
const LAUNCH_FAILURES: [&str; 11] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ImageInspectError",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "RunContainerError",
    "CrashLoopBackOff",
];

/// The machine that is this pod.
#[must_use]
pub fn machine(pod: &Pod) -> Machine {
    let none = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&none);
    let worker = worker(status);
    let state = worker.and_then(|worker| worker.state.as_ref());
    let (phase, message) = phase(pod, status, state);
    let created = pod.metadata.creation_timestamp.as_ref();
    let started = state.and_then(started_at).map(millis);
    let (launch, size) = launch_of(pod).unzip();
    Machine {
        id: machine_id(pod),
        name: pod.metadata.name.clone().unwrap_or_default(),
        running_since: started.filter(|_| phase == Phase::Started),
        last_start: started.map(|at| Start { at, took: since(created.map(millis), at) }),
        last_exit: exit(status, state, created),
        host_reachable: !is_node_lost(pod, status),
        phase,
        message,
        // Where in the cluster a pod runs is the scheduler's business.
        region: ANY_REGION.to_owned(),
        instance: None,
        labelled: true,
        launch,
        size,
        created_at: created.map(|at| at.0.to_string()).unwrap_or_default(),
        ran_seconds: 0.0,
    }
}

/// The phase of a pod, and why it does not run.
fn phase(pod: &Pod, status: &PodStatus, worker: Option<&ContainerState>) -> (Phase, Option<String>) {
    if pod.metadata.deletion_timestamp.is_some() {
        return (Phase::Destroying, disruption(status).map(reason_of));
    }
    let ended = worker.is_some_and(|state| state.terminated.is_some());
    match status.phase.as_deref() {
        _ if ended => (Phase::Stopped, end_message(status, worker)),
        Some("Succeeded") => (Phase::Stopped, None),
        // The pod ended before its worker ran, for example because another container failed.
        Some("Failed") if disruption(status).is_none() && !is_refused_by_node(status) => {
            (Phase::Failed, end_message(status, worker))
        }
        Some("Failed") => (Phase::Stopped, end_message(status, worker)),
        Some("Running") if worker.is_some_and(|state| state.running.is_some()) => (Phase::Started, None),
        Some("Running" | "Pending") | None => pending(status),
        // A node that is lost has no current status of its pods.
        Some("Unknown") => (Phase::Started, None),
        Some(other) => (Phase::Unknown(other.to_owned()), None),
    }
}

/// The phase of a pod whose worker does not run yet.
fn pending(status: &PodStatus) -> (Phase, Option<String>) {
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    let failed =
        |reason: &Option<String>| reason.as_deref().is_some_and(|reason| LAUNCH_FAILURES.contains(&reason));
    if let Some(waiting) = waiting.into_iter().find(|waiting| failed(&waiting.reason)) {
        return (Phase::Failed, Some(text(waiting.reason.as_deref(), waiting.message.as_deref())));
    }
    match condition(status, "PodScheduled") {
        Some(scheduled) if scheduled.status == "True" => (Phase::Starting, None),
        // `Unschedulable`, `SchedulingGated` and `SchedulerError`: it waits for a node, or for quota.
        Some(scheduled) => (Phase::Unschedulable, Some(reason_of(scheduled))),
        None => (Phase::Creating, None),
    }
}

/// How the worker ended. A pod that was evicted or preempted may have no containers any more.
fn exit(status: &PodStatus, worker: Option<&ContainerState>, created: Option<&Time>) -> Option<Exit> {
    let disruption = disruption(status);
    if let Some(ended) = worker.and_then(|state| state.terminated.as_ref()) {
        let at = ended.finished_at.as_ref().or(created).map(millis)?;
        return Some(Exit {
            at,
            code: ended.exit_code,
            out_of_memory: ended.reason.as_deref() == Some("OOMKilled"),
            requested: disruption.is_some(),
        });
    }
    if status.phase.as_deref() != Some("Failed") {
        return None;
    }
    let at = match disruption {
        Some(disruption) => disruption.last_transition_time.as_ref().or(created),
        None if is_refused_by_node(status) => created,
        None => return None,
    };
    Some(Exit { at: at.map(millis)?, code: 137, out_of_memory: false, requested: true })
}

/// Whether the kubelet refused the pod, because another took the place that the scheduler had seen, or because the node
/// shuts down (`pkg/kubelet/lifecycle/predicate.go`, `pkg/kubelet/nodeshutdown`). Another pod may find a node.
fn is_refused_by_node(status: &PodStatus) -> bool {
    let reason = status.reason.as_deref().unwrap_or_default();
    reason.starts_with("OutOf") || ["NodeAffinity", "NodeShutdown", "Terminated"].contains(&reason)
}

/// Whether the node controller has lost the node. It marks the pods as not ready, although their containers were ready
/// when the kubelet last reported; a pod that is then deleted has the reason `NodeLost`.
fn is_node_lost(pod: &Pod, status: &PodStatus) -> bool {
    let is = |type_: &str, value: &str| condition(status, type_).is_some_and(|c| c.status == value);
    let gated = pod.spec.as_ref().is_some_and(|spec| spec.readiness_gates.is_some());
    let marked = status.phase.as_deref() == Some("Running")
        && is("Ready", "False")
        && is("ContainersReady", "True")
        && !gated;
    marked || status.reason.as_deref() == Some("NodeLost") || status.phase.as_deref() == Some("Unknown")
}

fn worker(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.iter().flatten().find(|container| container.name == WORKER_CONTAINER)
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// The condition of a pod that is ended by something else than itself: eviction, preemption, a taint, a shutdown.
fn disruption(status: &PodStatus) -> Option<&PodCondition> {
    condition(status, "DisruptionTarget").filter(|condition| condition.status == "True")
}

/// Why a pod ended, if it did not end by itself.
fn end_message(status: &PodStatus, worker: Option<&ContainerState>) -> Option<String> {
    if status.reason.is_some() || status.message.is_some() {
        return Some(text(status.reason.as_deref(), status.message.as_deref()));
    }
    if let Some(disruption) = disruption(status) {
        return Some(reason_of(disruption));
    }
    match worker.and_then(|state| state.terminated.as_ref()) {
        Some(ended) => failure_message(ended),
        // The worker did not run, because another container failed.
        None => {
            let others = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
            let failed = |other: &ContainerStatus| {
                let failure = failure_message(other.state.as_ref()?.terminated.as_ref()?)?;
                Some(format!("container {}: {failure}", other.name))
            };
            others.into_iter().find_map(failed)
        }
    }
}

/// How a container ended, if it failed.
fn failure_message(ended: &ContainerStateTerminated) -> Option<String> {
    if ended.exit_code == 0 {
        return None;
    }
    let code = format!("exit code {}", ended.exit_code);
    let reason = ended.reason.as_deref().filter(|reason| !reason.is_empty());
    let reason = reason.map_or(code.clone(), |reason| format!("{reason} ({code})"));
    // The message may be the end of the log.
    Some(text(Some(&reason), ended.message.as_deref()))
}

fn reason_of(condition: &PodCondition) -> String {
    text(condition.reason.as_deref(), condition.message.as_deref())
}

fn text(reason: Option<&str>, message: Option<&str>) -> String {
    [reason, message].into_iter().flatten().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
}

fn started_at(state: &ContainerState) -> Option<&Time> {
    let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
    running.or_else(|| state.terminated.as_ref().and_then(|ended| ended.started_at.as_ref()))
}

fn millis(time: &Time) -> Millis {
    Millis(time.0.as_millisecond())
}

fn since(from: Option<Millis>, to: Millis) -> std::time::Duration {
    let millis = from.map_or(0, |from| to.0.saturating_sub(from.0));
    std::time::Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

#[cfg(test)]
mod tests;
