//! TranscodeJobs of a queue of Kueue that cannot run.

use serde_json::json;

use super::{Queue, Site, condition, define_kueue, in_queue, workload_name};
use crate::support::kube as cluster;
use crate::support::system::{self, WEBHOOK_SECRET};

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
