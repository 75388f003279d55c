//! The figure of pods as machines: what a reconciler does with a list of ten thousand pods, from the answers of the API
//! server to the plan, without the requests.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::core::ObjectList;
use serde_json::{Value, json};
use tcoder::controller::fleet::{
    Capabilities, FleetPolicy, FleetState, MachineId, MachineList, Moment, Observation, QueueView, Slot,
    WorkerView, plan,
};
use tcoder::job::{WorkerClass, WorkerId};
use tcoder::podprovider;
use tcoder::queue::ClassView;

use crate::Figures;
use crate::fleet::wants;
use crate::median;

const PODS: u32 = 10_000;
/// Pods in a page of the list.
const PAGE: u32 = 500;
const FIGURE: &str = "reconcile_10k_pods_ms";

pub fn measure(figures: &mut Figures) {
    if wants(figures, &[FIGURE]) {
        figures.put(FIGURE, reconcile(), "ms");
    }
}

fn reconcile() -> f64 {
    let policy = FleetPolicy {
        max: PODS,
        capabilities: Capabilities { can_stop_and_start: false },
        ..FleetPolicy::new("pods", "worker:1")
    };
    let slots: Vec<u32> = (1..=PODS).collect();
    let pages: Vec<String> = slots
        .chunks(PAGE as usize)
        .map(|slots| {
            let items: Vec<Value> = slots.iter().map(|slot| pod(&Slot(*slot).name("pods"), *slot)).collect();
            json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": items})
                .to_string()
        })
        .collect();
    // Half of the workers have a job, and as many jobs wait.
    let worker = |slot: &u32| WorkerView {
        classes: tcoder::job::WorkerClasses::default(),
        worker: WorkerId(format!("w{slot}")),
        machine: MachineId(format!("{}.{}", Slot(*slot).name("pods"), uid(*slot))),
        fresh: true,
        busy: slot.is_multiple_of(2),
        retired: false,
    };
    let queue = QueueView {
        waiting: [(
            WorkerClass::default(),
            ClassView { pending: u64::from(PODS) / 2, ..ClassView::default() },
        )]
        .into(),
        workers: slots.iter().map(worker).collect(),
        heard: BTreeMap::new(),
        ..QueueView::default()
    };
    let times = (0..11).map(|_| {
        let began = Instant::now();
        let parsed =
            pages.iter().map(|page| serde_json::from_str::<ObjectList<Pod>>(black_box(page)).unwrap());
        let machines: Vec<_> =
            parsed.flat_map(|page| page.items).map(|pod| podprovider::machine(&pod)).collect();
        assert_eq!(machines.len(), PODS as usize);
        let seen = Observation {
            machines: Ok(MachineList { at: Moment::ZERO, machines }),
            queue: Some(queue.clone()),
        };
        let mut memory = FleetState::new();
        memory.observe(&seen, &policy, Moment::ZERO);
        let plan = plan(&seen, &policy, &memory, Moment::ZERO);
        let took = began.elapsed();
        assert_eq!((plan.desired.busy, plan.desired.idle), (PODS / 2, PODS / 2));
        took.as_secs_f64() * 1000.0
    });
    median(times.collect())
}

fn uid(slot: u32) -> String {
    format!("3f0c6f0e-7f0a-4d53-9b1c-{slot:012}")
}

/// A running pod, about as large as the API server answers it.
fn pod(name: &str, slot: u32) -> Value {
    let time = "2026-01-01T12:00:00Z";
    let condition = |type_: &str| json!({"type": type_, "status": "True", "lastProbeTime": null, "lastTransitionTime": time, "observedGeneration": 1});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(condition);
    let launch = json!({
        "image": "worker:1", "revision": null, "stays": true,
        "size": {"dedicated": true, "cpus": 2, "memoryMb": 4096},
    });
    let env: Vec<Value> =
        (0..12).map(|n| json!({"name": format!("SETTING_{n}"), "value": "a value"})).collect();
    let managed = json!({
        "manager": "tcoder", "operation": "Update", "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app.kubernetes.io/name": {}}}, "f:spec": {"f:containers": {
            "k:{\"name\":\"worker\"}": {".": {}, "f:args": {}, "f:env": {}, "f:image": {}, "f:resources": {}},
        }}},
    });
    json!({
        "metadata": {
            "name": name, "namespace": "films", "uid": uid(slot), "resourceVersion": slot.to_string(),
            "generation": 1, "creationTimestamp": time, "managedFields": [managed, managed],
            "labels": {
                "app.kubernetes.io/name": "tcoder", "app.kubernetes.io/component": "worker",
                "tcoder.dev/worker-pool": "pods", "tcoder.dev/worker-pool-uid": "3f0c6f0e-7f0a-4d53-9b1c-0e5d2d0c9a11",
            },
            "annotations": {"tcoder.dev/launch": launch.to_string(), "karpenter.sh/do-not-disrupt": "true"},
            "ownerReferences": [{
                "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool", "name": "pods", "controller": true,
                "uid": "3f0c6f0e-7f0a-4d53-9b1c-0e5d2d0c9a11",
            }],
        },
        "spec": {
            "containers": [{
                "name": "worker", "image": "worker:1", "args": ["worker"], "env": env,
                "envFrom": [{"configMapRef": {"name": "tcoder-config"}}, {"secretRef": {"name": "tcoder-secrets"}}],
                "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
                "volumeMounts": [{"name": "tcoder-scratch", "mountPath": "/tmp"}],
                "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
            "volumes": [{"name": "tcoder-scratch", "emptyDir": {"sizeLimit": "5Gi"}}],
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "nodeName": format!("node-{}", slot / 50), "priority": 0,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "schedulerName": "default-scheduler", "enableServiceLinks": false,
        },
        "status": {
            "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.1.0.1", "startTime": time, "qosClass": "Burstable",
            "conditions": conditions,
            "containerStatuses": [{
                "name": "worker", "state": {"running": {"startedAt": time}}, "lastState": {}, "ready": true,
                "restartCount": 0, "image": "worker:1", "imageID": "sha256:0123456789abcdef", "started": true,
            }],
        },
    })
}
