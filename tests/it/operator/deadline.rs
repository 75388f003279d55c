//! `activeDeadlineSeconds` of a TranscodeJob, which the controller enforces and which can be changed at any time.

use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tcoder::crd::TranscodeJob;

use super::{Site, condition, site, status};
use crate::support::clips::{half_minute, long};
use crate::support::kube as cluster;
use crate::support::objects::put_input;
use crate::support::system;
use crate::support::tcp_proxy::TcpProxy;

/// A job in one piece, which takes seconds.
fn spec(input: &Value, seconds: Option<u32>) -> Value {
    json!({
        "input": input, "preset": "hls", "qualities": ["720p"], "parallelism": 1,
        "activeDeadlineSeconds": seconds,
    })
}

#[tokio::test]
async fn deadline_that_is_raised_after_the_submission_is_the_one_that_counts() {
    let site = site("raised").await;
    // The job is in Redis while it waits for its upload, and its time begins with that.
    site.make("film", spec(&json!({"upload": {}}), Some(1))).await;
    let job = site.until("film", "an address", |job| status(job)["uploadUrl"].is_string()).await;
    site.patch("film", json!({"activeDeadlineSeconds": 3600})).await;
    site.until("film", "seen with its new deadline", |job| status(job)["observedGeneration"] == 2).await;
    let url = status(&job)["uploadUrl"].as_str().unwrap().to_owned();
    let film = std::fs::read(half_minute()).unwrap();
    assert_eq!(site.system.http.put(url).body(film).send().await.unwrap().status(), 200);
    site.phase("film", "Complete").await;
}

#[tokio::test]
async fn deadline_of_a_job_that_is_retried_begins_anew() {
    let site = Site::on(cluster::bare().await, system::shared().await, "retried").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let key = format!("films/{}.mp4", uuid::Uuid::new_v4().simple());
    site.make("film", spec(&json!({"key": key}), Some(3600))).await;
    let (failed, reason, message) = site.condition("film", "Failed").await;
    assert_eq!(reason, "InputNotFound", "{message}");
    controller.stop().await;
    // As if the job had failed a day ago.
    let began = failed.status.as_ref().unwrap().start_time.clone().unwrap().0;
    let day = json!({"status": {"startTime": (began - SignedDuration::from_hours(24)).to_string()}});
    site.jobs().patch_status("film", &PatchParams::default(), &Patch::Merge(day)).await.unwrap();
    put_input(&site.system.storage_config(), &key, std::fs::read(half_minute()).unwrap()).await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let id = failed.uid().unwrap();
    assert_eq!(site.system.post(&format!("/api/jobs/{id}/retry"), &json!({})).await.status, 200);
    let job = site.phase("film", "Complete").await;
    assert!(job.status.unwrap().start_time.unwrap().0 >= began);
    controller.stop().await;
}

/// A job whose result is in storage must not fail, so that a job fails at its deadline only if it is known to have none.
#[tokio::test]
async fn job_past_its_deadline_says_that_storage_is_away_and_fails_when_it_is_back() {
    let site = Site::on(cluster::bare().await, system::shared().await, "late").await;
    let storage = TcpProxy::to(cluster::free_port()).await;
    let endpoint = format!("http://127.0.0.1:{}", storage.port);
    let controller = site.controller(&[("R2_ENDPOINT", endpoint.as_str())]);
    controller.ready().await;
    let key = site.input(&long()).await;
    let job = site.make("film", spec(&json!({"key": key}), None)).await;
    site.phase("film", "Running").await;
    site.patch("film", json!({"activeDeadlineSeconds": 1})).await;
    let is_told = |job: &TranscodeJob| {
        condition(job, "Reconciling").is_some_and(|(reason, message)| {
            reason == "StorageUnavailable"
                && message.starts_with("spec.activeDeadlineSeconds (1 s) have passed")
        })
    };
    let told = site.until("film", "said to be without storage", is_told).await;
    assert_eq!(status(&told)["phase"], "Running");
    storage.lead_to(site.system.storage_port());
    // It looks again by itself after a while, and at once when the job has changed.
    site.patch("film", json!({"activeDeadlineSeconds": 2})).await;
    let (_, reason, message) = site.condition("film", "Failed").await;
    assert_eq!(reason, "DeadlineExceeded", "{message}");
    assert_eq!(site.job(&job).await["errorCode"], "deadlineExceeded");
    controller.stop().await;
}
