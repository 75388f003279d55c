//! Tests of decisions and of what is written, from plain values.

use serde_json::{Value, json};

use super::decide::{Hold, JobView, Presence, QueueView, Step, hold, step};
use super::refusal::Refusal;
use super::workload::{
    Workload, WorkloadPriority, adoption, finished, job_of, released, started, to_workload, workload_name,
};
use crate::crd::{TranscodeJob, reason};
use crate::job::Millis;

const UID: &str = "7d444840-9dc0-11d1-b245-5ffdce74fad2";
const NOW: Millis = Millis(1_700_000_000_000);

fn job(name: &str, labels: Value, spec: Value) -> TranscodeJob {
    let mut all = json!({"input": {"key": "a.mp4"}});
    for (name, value) in spec.as_object().unwrap() {
        all[name] = value.clone();
    }
    let object = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob", "spec": all,
        "metadata": {"name": name, "namespace": "films", "uid": UID, "labels": labels},
    });
    serde_json::from_value(object).unwrap()
}

/// A Workload with these conditions, such as `Admitted` or `!Admitted`, of the job with this uid.
fn workload(uid: &str, conditions: &[&str]) -> Workload {
    let condition = |text: &&str| {
        let (type_, status) = text.strip_prefix('!').map_or((*text, "True"), |type_| (type_, "False"));
        json!({
            "type": type_, "status": status, "reason": "Preempted", "message": format!("about {type_}"),
            "lastTransitionTime": "2023-11-14T22:13:00Z",
        })
    };
    let conditions: Vec<Value> = conditions.iter().map(condition).collect();
    let object = json!({
        "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload",
        "metadata": {
            "name": "transcodejob-film-7d444840", "namespace": "films", "resourceVersion": "7",
            "ownerReferences": [{
                "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob", "name": "film", "uid": uid,
                "controller": true,
            }],
        },
        "spec": {"queueName": "films", "podSets": []},
        "status": {"conditions": conditions},
    });
    serde_json::from_value(object).unwrap()
}

const USABLE: &Presence = &Presence::Usable;

fn view<'a>(workload: Option<&'a Workload>) -> QueueView<'a> {
    QueueView {
        queue: Some("films"),
        suspend: false,
        uid: UID,
        is_prebuilt: false,
        is_elsewhere: false,
        refusal: None,
        presence: USABLE,
        workload,
    }
}

fn waiting() -> JobView {
    JobView::default()
}

fn queued() -> JobView {
    JobView { is_active: true, ..JobView::default() }
}

fn running() -> JobView {
    JobView { is_running: true, ..queued() }
}

fn ended(succeeded: bool) -> JobView {
    JobView { ended: Some(succeeded), message: "1 rendition".into(), ..JobView::default() }
}

fn reason_of(view: &QueueView<'_>) -> Option<&'static str> {
    hold(view).map(|hold| hold.reason)
}

#[test]
fn job_without_a_queue_needs_no_kueue() {
    for presence in [
        Presence::Unknown,
        Presence::Usable,
        Presence::Missing { reason: reason::KUEUE_NOT_INSTALLED, message: "m".into() },
    ] {
        let free = QueueView { queue: None, presence: &presence, ..view(None) };
        assert_eq!((hold(&free), step(&free, &running())), (None, Step::Nothing));
        let suspended = QueueView { suspend: true, ..free };
        assert_eq!(reason_of(&suspended), Some(reason::SUSPENDED));
    }
}

#[test]
fn job_runs_while_its_workload_is_admitted() {
    let admitted = workload(UID, &["QuotaReserved", "Admitted", "!Evicted"]);
    assert_eq!(hold(&view(Some(&admitted))), None);
    for (conditions, expected) in [
        (&[][..], reason::AWAITING_ADMISSION),
        (&["!QuotaReserved"], reason::AWAITING_ADMISSION),
        (&["QuotaReserved", "!Admitted"], reason::AWAITING_ADMISSION),
        (&["QuotaReserved", "Admitted", "Evicted"], reason::WORKLOAD_EVICTED),
        (&["QuotaReserved", "Admitted", "Finished"], reason::AWAITING_ADMISSION),
    ] {
        let workload = workload(UID, conditions);
        let hold = hold(&view(Some(&workload))).unwrap();
        assert_eq!((hold.reason, hold.stops, hold.is_stalled), (expected, true, false), "{conditions:?}");
    }
    let mut inactive = admitted.clone();
    inactive.spec.active = Some(false);
    assert_eq!(reason_of(&view(Some(&inactive))), Some(reason::WORKLOAD_EVICTED));
    let deleted = Workload {
        metadata: serde_json::from_value(json!({
            "name": "w", "deletionTimestamp": "2023-11-14T22:13:00Z", "ownerReferences": admitted.metadata.owner_references,
        }))
        .unwrap(),
        ..admitted
    };
    assert!(hold(&view(Some(&deleted))).unwrap().stops);
    assert_eq!(step(&view(Some(&deleted)), &waiting()), Step::Nothing);
}

#[test]
fn user_and_queue_hold_a_job_back_independently() {
    let admitted = workload(UID, &["QuotaReserved", "Admitted"]);
    let suspended = QueueView { suspend: true, ..view(Some(&admitted)) };
    assert_eq!(reason_of(&suspended), Some(reason::SUSPENDED));
    // The quota is kept until the job does not run any more.
    assert_eq!(step(&suspended, &running()), Step::Nothing);
    assert_eq!(step(&suspended, &waiting()), Step::Delete);
    let without = QueueView { suspend: true, ..view(None) };
    assert_eq!(step(&without, &waiting()), Step::Nothing);
}

#[test]
fn job_that_cannot_be_queued_has_no_workload() {
    let refused = JobView { is_refused: true, ..JobView::default() };
    assert_eq!(step(&view(None), &refused), Step::Nothing);
    for conditions in [&["!QuotaReserved"][..], &["QuotaReserved", "Admitted"]] {
        let workload = workload(UID, conditions);
        assert_eq!(step(&view(Some(&workload)), &refused), Step::Delete, "{conditions:?}");
        // One that somebody else made is not this controller's to delete.
        let prebuilt = QueueView { is_prebuilt: true, ..view(Some(&workload)) };
        assert_eq!(step(&prebuilt, &refused), Step::Nothing, "{conditions:?}");
    }
    let prebuilt = QueueView { is_prebuilt: true, ..view(None) };
    assert_eq!(step(&prebuilt, &refused), Step::Nothing);
}

#[test]
fn missing_kueue_is_reported_and_stops_no_job_that_was_started() {
    let missing = Presence::Missing { reason: reason::KUEUE_NOT_INSTALLED, message: "there is none".into() };
    let view = QueueView { presence: &missing, ..view(None) };
    let Hold { reason, message, stops, is_stalled } = hold(&view).unwrap();
    assert_eq!((reason, stops, is_stalled), (reason::KUEUE_NOT_INSTALLED, false, true));
    assert_eq!(message, "the job waits for its admission in the queue films of Kueue, but there is none");
    assert_eq!(step(&view, &waiting()), Step::Nothing);
    let unknown = QueueView { presence: &Presence::Unknown, ..view };
    let hold = hold(&unknown).unwrap();
    assert!(!hold.stops && !hold.is_stalled);
    assert_eq!(step(&unknown, &waiting()), Step::Nothing);
}

#[test]
fn workload_follows_the_life_of_its_job() {
    assert_eq!(step(&view(None), &waiting()), Step::Create);
    // The label was added while the job ran.
    assert_eq!(step(&view(None), &running()), Step::Create);
    assert_eq!(step(&view(None), &ended(true)), Step::Nothing);

    let pending = workload(UID, &["!QuotaReserved"]);
    assert_eq!(step(&view(Some(&pending)), &waiting()), Step::Nothing);
    let other_queue = QueueView { queue: Some("series"), ..view(Some(&pending)) };
    assert_eq!(step(&other_queue, &waiting()), Step::Move("series".into()));

    let admitted = workload(UID, &["QuotaReserved", "Admitted"]);
    let other_queue = QueueView { queue: Some("series"), ..view(Some(&admitted)) };
    assert_eq!(step(&other_queue, &queued()), Step::Nothing);
    assert_eq!(step(&view(Some(&admitted)), &queued()), Step::Nothing);
    assert_eq!(step(&view(Some(&admitted)), &running()), Step::Start);
    let started = workload(UID, &["QuotaReserved", "Admitted", "PodsReady"]);
    assert_eq!(step(&view(Some(&started)), &running()), Step::Nothing);
    for succeeded in [true, false] {
        let finish = Step::Finish(succeeded, "1 rendition".into());
        assert_eq!(step(&view(Some(&started)), &ended(succeeded)), finish);
    }
    let finished = workload(UID, &["QuotaReserved", "Admitted", "Finished"]);
    assert_eq!(step(&view(Some(&finished)), &ended(true)), Step::Nothing);
    // It was retried after its end, and has to be admitted again.
    assert_eq!(step(&view(Some(&finished)), &queued()), Step::Nothing);
    assert_eq!(step(&view(Some(&finished)), &waiting()), Step::Delete);
    // The label was removed.
    let free = QueueView { queue: None, ..view(Some(&admitted)) };
    assert_eq!((hold(&free), step(&free, &running())), (None, Step::Delete));
}

#[test]
fn refused_workload_stalls_a_job_that_waits_and_none_that_is_admitted() {
    let refusal = Refusal::no_class("urgent");
    let refused = |workload| QueueView { refusal: Some(&refusal), ..view(workload) };
    let Hold { reason, message, stops, is_stalled } = hold(&refused(None)).unwrap();
    assert_eq!((reason, stops, is_stalled), (reason::PRIORITY_CLASS_NOT_FOUND, true, true));
    assert!(message.contains("urgent"), "{message}");
    // Somebody may have made the class since then.
    assert_eq!(step(&refused(None), &waiting()), Step::Create);
    // It could not be moved to another queue.
    let pending = workload(UID, &["!QuotaReserved"]);
    assert!(hold(&refused(Some(&pending))).unwrap().is_stalled);
    let admitted = workload(UID, &["QuotaReserved", "Admitted"]);
    assert_eq!(hold(&refused(Some(&admitted))), None);
    let suspended = QueueView { suspend: true, ..refused(None) };
    assert_eq!(reason_of(&suspended), Some(reason::SUSPENDED));
    let foreign = workload("another-uid", &[]);
    assert_eq!(reason_of(&refused(Some(&foreign))), Some(reason::WORKLOAD_NOT_OWNED));
}

#[test]
fn evicted_job_gives_its_quota_back_when_it_does_not_run_any_more() {
    let evicted = workload(UID, &["QuotaReserved", "Admitted", "Evicted"]);
    assert_eq!(step(&view(Some(&evicted)), &running()), Step::Nothing);
    assert_eq!(step(&view(Some(&evicted)), &queued()), Step::Nothing);
    assert_eq!(step(&view(Some(&evicted)), &waiting()), Step::Release);
    let given_back = workload(UID, &["!QuotaReserved", "!Admitted", "Evicted"]);
    assert_eq!(step(&view(Some(&given_back)), &waiting()), Step::Nothing);
}

#[test]
fn workload_of_another_object_is_left_alone() {
    let foreign = workload("another-uid", &["QuotaReserved", "Admitted"]);
    let view = view(Some(&foreign));
    assert_eq!(reason_of(&view), Some(reason::WORKLOAD_NOT_OWNED));
    for job in [waiting(), queued(), running(), ended(true)] {
        assert_eq!(step(&view, &job), Step::Nothing);
    }
    let suspended = QueueView { suspend: true, ..view };
    assert_eq!(step(&suspended, &waiting()), Step::Nothing);
    let unlabelled = QueueView { queue: None, suspend: false, ..suspended };
    assert_eq!(step(&unlabelled, &waiting()), Step::Nothing);
}

#[test]
fn workload_that_multikueue_made_is_adopted_and_never_deleted() {
    let prebuilt = |workload| QueueView { is_prebuilt: true, ..view(workload) };
    assert_eq!(step(&prebuilt(None), &waiting()), Step::Find);
    assert_eq!(step(&prebuilt(None), &ended(true)), Step::Nothing);
    let mut free = workload(UID, &["QuotaReserved", "Admitted"]);
    free.metadata.owner_references = None;
    assert_eq!(step(&prebuilt(Some(&free)), &waiting()), Step::Adopt);
    assert_eq!(step(&view(Some(&free)), &waiting()), Step::Nothing);
    assert_eq!(reason_of(&view(Some(&free))), Some(reason::WORKLOAD_NOT_OWNED));
    let adopted = workload(UID, &["QuotaReserved", "Admitted"]);
    assert_eq!(hold(&prebuilt(Some(&adopted))), None);
    let suspended = QueueView { suspend: true, ..prebuilt(Some(&adopted)) };
    assert_eq!(step(&suspended, &waiting()), Step::Nothing);
    let unlabelled = QueueView { queue: None, ..prebuilt(Some(&adopted)) };
    assert_eq!(step(&unlabelled, &running()), Step::Nothing);
    // Its quota is taken: it is given back although nothing else is done about the Workload.
    let evicted = workload(UID, &["QuotaReserved", "Admitted", "Evicted"]);
    let suspended = QueueView { suspend: true, ..prebuilt(Some(&evicted)) };
    assert_eq!(step(&suspended, &running()), Step::Nothing);
    assert_eq!(step(&suspended, &waiting()), Step::Release);
    let unlabelled = QueueView { queue: None, ..prebuilt(Some(&evicted)) };
    for job in [running(), queued(), waiting()] {
        assert_eq!(step(&unlabelled, &job), Step::Release, "{job:?}");
    }
    let given_back = workload(UID, &["!QuotaReserved", "!Admitted", "Evicted"]);
    let suspended = QueueView { suspend: true, ..prebuilt(Some(&given_back)) };
    assert_eq!(step(&suspended, &waiting()), Step::Nothing);
    let over = workload(UID, &["QuotaReserved", "Admitted", "Evicted", "Finished"]);
    assert_eq!(step(&prebuilt(Some(&over)), &waiting()), Step::Nothing);
    // It was retried after its end, which nobody but the maker of the Workload can undo.
    let finished = workload(UID, &["QuotaReserved", "Admitted", "Finished"]);
    let Hold { reason, stops, is_stalled, .. } = hold(&prebuilt(Some(&finished))).unwrap();
    assert_eq!((reason, stops, is_stalled), (reason::WORKLOAD_FINISHED, true, true));
    assert_eq!(step(&prebuilt(Some(&finished)), &waiting()), Step::Nothing);
    let job = job("film", json!({"kueue.x-k8s.io/prebuilt-workload-name": "from-the-manager"}), json!({}));
    assert_eq!(workload_name(&job), "from-the-manager");
    let patch = adoption(&job, &free);
    assert_eq!(patch["metadata"]["ownerReferences"][0]["uid"], UID);
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    // Who else owns it stays so, and the job is in the list once.
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": uid});
    free.metadata.owner_references =
        serde_json::from_value(json!([owner("another-uid"), owner(UID)])).unwrap();
    let patch = adoption(&job, &free);
    let owners = patch["metadata"]["ownerReferences"].as_array().unwrap();
    assert_eq!(owners.len(), 2, "{owners:?}");
    assert_eq!(owners[0], owner("another-uid"));
    assert_eq!((&owners[1]["uid"], &owners[1]["controller"]), (&json!(UID), &json!(true)));
}

#[test]
fn workload_that_multikueue_finished_is_not_made_anew() {
    // The status of the job arrives by another watch, perhaps later.
    let finished = workload(UID, &["QuotaReserved", "Admitted", "Finished"]);
    let elsewhere = QueueView { is_elsewhere: true, ..view(Some(&finished)) };
    assert_eq!(step(&elsewhere, &waiting()), Step::Nothing);
    assert_eq!(step(&elsewhere, &ended(true)), Step::Nothing);
}

#[test]
fn workload_says_what_its_job_counts_for() {
    let queue = json!({"kueue.x-k8s.io/queue-name": "films"});
    let plain = WorkloadPriority { class: None, value: 5 };
    let made = to_workload(&job("film", queue.clone(), json!({})), "films", &plain);
    let expected = json!({
        "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload",
        "metadata": {
            "name": "transcodejob-film-7d444840", "namespace": "films",
            "labels": {"kueue.x-k8s.io/job-uid": UID, "app.kubernetes.io/managed-by": "tcoder-controller"},
            "ownerReferences": [{
                "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob", "name": "film", "uid": UID,
                "controller": true,
            }],
        },
        "spec": {
            "queueName": "films", "priority": 5,
            "podSets": [{"name": "main", "count": 1, "template": {"spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "worker", "resources": {"requests": {"cpu": "1"}}}],
            }}}],
        },
    });
    assert_eq!(made, expected);
    assert_eq!(job_of(&serde_json::from_value(made).unwrap()), Some("film"));

    let labels = json!({"kueue.x-k8s.io/max-exec-time-seconds": "600"});
    let spec = json!({"parallelism": 8, "resources": {"requests": {"cpu": "2", "memory": "4Gi"}}});
    let class = WorkloadPriority { class: Some("urgent".into()), value: 1000 };
    let made = to_workload(&job("film", labels, spec), "films", &class)["spec"].clone();
    assert_eq!((&made["podSets"][0]["count"], &made["priority"]), (&json!(8), &json!(1000)));
    let container = &made["podSets"][0]["template"]["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"], json!({"cpu": "2", "memory": "4Gi"}));
    let class = json!({"group": "kueue.x-k8s.io", "kind": "WorkloadPriorityClass", "name": "urgent"});
    assert_eq!((&made["priorityClassRef"], &made["maximumExecutionTimeSeconds"]), (&class, &json!(600)));
}

#[test]
fn name_of_a_workload_is_short_enough_for_a_label() {
    let name = |name: &str| workload_name(&job(name, json!({}), json!({})));
    assert_eq!(name("film"), "transcodejob-film-7d444840");
    for long in ["f".repeat(253), format!("{}.-", "f".repeat(40)), format!("{}...", "f".repeat(39))] {
        let name = name(&long);
        assert!(name.len() <= 63 && name.ends_with("f-7d444840"), "{name}");
    }
}

#[test]
fn written_conditions_keep_the_others_and_fail_if_the_workload_has_changed() {
    let before = workload(UID, &["QuotaReserved", "Admitted", "Evicted", "PodsReady", "Other"]);
    let of = |patch: &Value, type_: &str| {
        let all = patch["status"]["conditions"].as_array().unwrap().clone();
        let found: Vec<Value> = all.into_iter().filter(|c| c["type"] == type_).collect();
        assert_eq!(found.len(), 1, "{type_}");
        (found[0]["status"].as_str().unwrap().to_owned(), found[0]["reason"].as_str().unwrap().to_owned())
    };
    let pair = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());

    let patch = released(&before, NOW);
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    assert_eq!(patch["status"].as_object().unwrap()["admission"], Value::Null);
    assert_eq!(of(&patch, "QuotaReserved"), pair("False", "Pending"));
    assert_eq!(of(&patch, "Admitted"), pair("False", "NoReservation"));
    assert_eq!(of(&patch, "PodsReady"), pair("False", "WaitForStart"));
    // Kueue queues it again at once after a preemption only.
    assert_eq!(of(&patch, "Requeued"), pair("True", "Preempted"));
    assert_eq!(of(&patch, "Evicted").0, "True");
    assert_eq!(of(&patch, "Other").0, "True");
    // It was admitted at 22:13:00, and now it is 22:13:20.
    assert_eq!(patch["status"]["accumulatedPastExecutionTimeSeconds"], 20);

    let patch = finished(&before, false, "it is no video", NOW);
    assert_eq!(of(&patch, "Finished"), pair("True", "Failed"));
    assert_eq!(of(&patch, "Admitted").0, "True");
    assert!(patch["status"].get("admission").is_none());
    assert_eq!(of(&finished(&before, true, "", NOW), "Finished"), pair("True", "Succeeded"));
    assert_eq!(of(&started(&before, NOW), "PodsReady"), pair("True", "Started"));
}
