//! TranscodeJobs of a queue of Kueue that cannot run, and webhooks of Kueue that do not answer.

use kube::ResourceExt as _;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use super::{Queue, Site, condition, define_kueue, in_queue, of_workload, pair, workload_name};
use crate::operator::{has_phase, status};
use crate::support::clips::clip;
use crate::support::kube as cluster;
use crate::support::system::{self, PATIENCE, WEBHOOK_SECRET};

/// A namespace of a cluster with Kueue's definitions.
async fn own(name: &str) -> Site {
    let cluster = cluster::bare().await;
    define_kueue(cluster).await;
    Site::on(cluster, system::shared().await, name).await
}

async fn is_stalled(site: &Site, name: &str, reason: &str) {
    site.until(name, reason, |job| condition(job, "Stalled").is_some_and(|(found, _)| found == reason)).await;
}

#[tokio::test]
async fn job_that_cannot_run_takes_no_quota() {
    let site = own("invalid").await;
    let controller = site.controller(&[("JOB_MAX_DEADLINE_SECONDS", "600")]);
    controller.ready().await;
    let queue = Queue::of(&site);
    let spec = |seconds: u32| json!({"input": {"key": "a.mp4"}, "activeDeadlineSeconds": seconds});
    let invalid = queue.make("invalid", in_queue(), spec(601)).await;
    is_stalled(&site, "invalid", "InvalidSpec").await;
    let webhook = json!({"url": "https://example.com/", "secretRef": {"name": "hook"}});
    let hook = queue.make("hook", in_queue(), json!({"input": {"key": "a.mp4"}, "webhook": webhook})).await;
    is_stalled(&site, "hook", "SecretNotUsable").await;

    // One that becomes invalid gives back what it has.
    let film = queue.make("film", in_queue(), spec(600)).await;
    queue.workload(&film).await;
    queue.pretend(&film, &[("QuotaReserved", true, "QuotaReserved")]).await;
    site.patch("film", json!({"activeDeadlineSeconds": 601})).await;
    queue.until(&film, "gone", |workload| workload.is_none()).await;
    is_stalled(&site, "film", "InvalidSpec").await;
    for job in [&invalid, &hook] {
        let workload = queue.workloads.get_opt(&workload_name(job)).await.unwrap();
        assert!(workload.is_none(), "{workload:#?}");
    }
    // And those that are mended wait.
    site.patch("film", json!({"activeDeadlineSeconds": 600})).await;
    queue.workload(&film).await;
    let secret = format!("--from-literal=secret={WEBHOOK_SECRET}");
    site.kubectl_ok(&["create", "secret", "generic", "hook", &secret]).await;
    queue.workload(&hook).await;
    controller.stop().await;
}

/// A webhook for the Workloads of this namespace at an address where nobody listens.
fn webhook(site: &Site) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": site.namespace},
        "webhooks": [{
            "name": "vworkload.kb.example", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 1,
            "clientConfig": {"url": format!("https://127.0.0.1:{}/", cluster::free_port())},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}},
            "rules": [{
                "apiGroups": ["kueue.x-k8s.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
                "resources": ["workloads", "workloads/status"],
            }],
        }],
    })
}

#[tokio::test]
async fn webhooks_of_kueue_that_do_not_answer_are_told_and_hold_up_no_job_that_has_ended() {
    let site = own("webhooks").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let queue = Queue::of(&site);
    let spec = json!({"input": {"upload": {}}, "qualities": ["144p"]});
    let film = queue.make("film", in_queue(), spec).await;
    queue.workload(&film).await;
    queue.pretend_admission(&film).await;
    let waits = site.until("film", "an address", |job| status(job)["uploadUrl"].is_string()).await;
    let file = site.file(&webhook(&site).to_string());
    site.cluster.kubectl_ok(&["apply", "-f", file.to_str().unwrap()]).await;
    let is_asked = async {
        let other: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": {"name": "other"},
            "spec": {"queueName": "films", "podSets": [
                {"name": "main", "count": 1, "template": {"spec": {"containers": [{"name": "c"}]}}},
            ]},
        }))
        .unwrap();
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        while queue.workloads.create(&dry, &other).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_asked).await.expect("the API server does not ask the webhook");

    let late = queue.make("late", in_queue(), json!({"input": {"key": "a.mp4"}})).await;
    is_stalled(&site, "late", "KueueUnavailable").await;
    let url = status(&waits)["uploadUrl"].as_str().unwrap().to_owned();
    let put = site.system.http.put(url).body(std::fs::read(clip()).unwrap());
    assert_eq!(put.send().await.unwrap().status(), 200);
    let is_free = |job: &tcoder::crd::TranscodeJob| has_phase(job, "Complete") && job.finalizers().is_empty();
    site.until("film", "complete and free", is_free).await;
    let (_, reason, message) = site.condition("film", "WorkloadOutdated").await;
    assert!(reason == "KueueUnavailable" && message.contains("vworkload.kb.example"), "{reason}: {message}");

    site.cluster.kubectl_ok(&["delete", "validatingwebhookconfiguration", &site.namespace]).await;
    queue.workload(&late).await;
    queue
        .until(&film, "finished", |workload| {
            of_workload(workload.unwrap(), "Finished") == pair("True", "Succeeded")
        })
        .await;
    site.until("film", "up to date", |job| condition(job, "WorkloadOutdated").is_none()).await;
    controller.stop().await;
}
