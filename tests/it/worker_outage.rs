//! A job whose manifest stands is completed, whatever Redis or storage did around its end: a real worker, a real Redis
//! that stops and forgets, and a real S3 server behind a proxy that loses answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use nix::sys::signal::Signal;
use tcoder::job::{FailureCode, JobId, Quality, State as JobState, WorkerId};
use tcoder::queue::{Claim, WorkerRecord};
use tcoder::storage::{Bucket, PutCondition, layout};
use tokio::time::timeout;

use crate::support::clips::long_clip;
use crate::support::installation::Installation;
use crate::support::process::{eventually, send};
use crate::support::system::{PATIENCE, http, serve};

#[tokio::test]
async fn fault_08_job_is_completed_when_redis_was_away_at_the_end_of_its_last_attempt() {
    let mut bench = Installation::new(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let _worker = bench.worker("w1");
    let id = bench.submit().await;
    let encode = bench.pause_encode("w1").await;
    bench.redis.kill().await;
    encode.resume();
    bench.logs("could not report to Redis; repeating until it answers").await;
    assert!(bench.has_manifest(id).await);
    bench.redis.start();
    let job = bench.is_completed_once(id).await;
    assert_eq!(job.committed, Some(job.epoch));
}

#[tokio::test]
async fn worker_that_starts_without_redis_waits_for_it() {
    const WAITS: &str = "Redis is not ready; waiting until it is";
    let mut bench = Installation::new(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let id = bench.submit().await;
    bench.redis.kill().await;
    let mut stopped = bench.worker("stopped");
    bench.logs(WAITS).await;
    send(stopped.id().unwrap(), Signal::SIGTERM);
    let ended = timeout(PATIENCE, stopped.wait()).await.expect("it does not end").unwrap();
    assert!(ended.success(), "{ended:?}: {}", bench.log());

    let _worker = bench.worker("w1");
    eventually("it waits", || bench.log().matches(WAITS).count() == 2).await;
    bench.redis.start();
    bench.is_completed_once(id).await;
}

#[tokio::test]
async fn job_is_completed_again_when_a_failover_forgot_its_completion() {
    // It saves when it is told to, and comes back with that.
    let mut bench = Installation::new(&[]).await;
    let _worker = bench.worker("w1");
    let id = bench.submit().await;
    let encode = bench.pause_encode("w1").await;
    redis::cmd("SAVE").exec(&mut bench.redis.raw()).unwrap();
    encode.resume();
    let first = bench.is_completed_once(id).await;
    bench.redis.kill().await;
    bench.redis.start();
    bench.job(id, |job| job.status == JobState::Running).await;
    // Its lease runs out, since nobody works at it; the attempt that verifies adopts the result.
    let again = bench.is_completed_once(id).await;
    assert!(again.epoch > first.epoch, "{again:#?}");
    assert_eq!((again.committed, again.result), (first.committed, first.result));
}

/// Loses answers about manifests while `fails` is set.
#[derive(Clone)]
struct LossyProxy {
    upstream: Arc<str>,
    client: reqwest::Client,
    fails: Arc<AtomicBool>,
}

async fn forward(State(proxy): State<LossyProxy>, request: Request) -> Response {
    let is_manifest = request.uri().path().ends_with("/manifest.json");
    let lost = is_manifest && proxy.fails.load(Ordering::SeqCst);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", proxy.upstream.trim_end_matches('/'));
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let forwarded =
        proxy.client.request(parts.method, url).headers(parts.headers).body(body).send().await.unwrap();
    let (status, headers) = (forwarded.status(), forwarded.headers().clone());
    let body = forwarded.bytes().await.unwrap();
    if lost {
        // It was done, and its client does not hear of it.
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let mut answer = Response::new(Body::from(body));
    (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
    answer
}

#[tokio::test]
async fn job_is_completed_when_the_answer_to_its_manifest_was_lost() {
    let mut bench = Installation::new(&[]).await;
    let fails = Arc::new(AtomicBool::new(true));
    let proxy =
        LossyProxy { upstream: bench.endpoint.as_str().into(), client: http(), fails: Arc::clone(&fails) };
    bench.endpoint = serve(axum::Router::new().fallback(forward).with_state(proxy)).await;
    let _worker = bench.worker("w1");
    let id = bench.submit().await;
    bench.logs("could not look for the job's manifest; another look follows").await;
    assert!(bench.has_manifest(id).await);
    bench.job(id, |job| job.status == JobState::Queued).await;
    fails.store(false, Ordering::SeqCst);
    let job = bench.is_completed_once(id).await;
    assert!(job.committed < Some(job.epoch), "{job:#?}");
}

/// What a killed worker leaves behind costs no second encode and no second webhook.
#[tokio::test]
async fn fault_02_worker_killed_between_manifest_and_completion_is_succeeded_by_one_that_adopts() {
    let mut bench = Installation::new(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let mut first = bench.worker("w1");
    let id = bench.submit().await;
    let encode = bench.pause_encode("w1").await;
    bench.redis.kill().await;
    encode.resume();
    bench.logs("could not report to Redis; repeating until it answers").await;
    first.kill().await.unwrap();
    bench.redis.start();
    let _second = bench.worker("w2");
    let job = bench.is_completed_once(id).await;
    assert!(job.committed < Some(job.epoch) && job.worker.unwrap().0.starts_with("w2-"));
}

/// Answers each write with this condition as if it had been done, like a server that ignores it.
async fn without(header: &'static str, state: State<LossyProxy>, request: Request) -> Response {
    let ignores = request.headers().contains_key(header);
    let answer = forward(state, request).await;
    if ignores && answer.status() == StatusCode::PRECONDITION_FAILED {
        StatusCode::OK.into_response()
    } else {
        answer
    }
}

#[tokio::test]
async fn worker_says_what_to_do_where_storage_ignores_conditions() {
    let mut bench = Installation::new(&[]).await;
    let honest = bench.worker("w0");
    bench.logs("worker started").await;
    assert!(!bench.log().contains("the output bucket ignores"), "{}", bench.log());
    drop(honest);
    let upstream: Arc<str> = bench.endpoint.as_str().into();
    for header in ["If-None-Match", "If-Match"] {
        let fails = Arc::new(AtomicBool::new(false));
        let proxy = LossyProxy { upstream: Arc::clone(&upstream), client: http(), fails };
        let router = axum::Router::new().fallback(move |state, request| without(header, state, request));
        bench.endpoint = serve(router.with_state(proxy)).await;
        let _worker = bench.worker(header);
        bench.logs(&format!("the output bucket ignores {header},")).await;
    }
}

/// Puts this manifest of the job into the output bucket.
async fn put_manifest(here: &Installation, id: JobId, manifest: &serde_json::Value) {
    let key = layout::manifest_key(id).unwrap();
    let bytes = manifest.to_string().into_bytes();
    let put = here.storage.storage();
    put.put_if(PutCondition::Absent, Bucket::Output, &key, bytes, "application/json").await.unwrap();
}

#[tokio::test]
async fn job_fails_when_the_manifest_of_a_younger_job_stands_under_its_id() {
    let here = Installation::new(&[]).await;
    let id = here.submit().await;
    // Redis was restored from a backup, in which the job is an older one that had the id.
    let younger =
        serde_json::json!({"version": 1, "epoch": 9_999_999_999_999_u64, "born": 9_999_999_999_990_u64});
    put_manifest(&here, id, &younger).await;
    let _worker = here.worker("w1");
    let job = here.job(id, |job| job.status.is_terminal()).await;
    let failure = job.error.unwrap();
    assert_eq!((failure.code, job.attempt), (FailureCode::IdTaken, 1), "{failure}");
}

#[tokio::test]
async fn job_with_a_manifest_of_a_newer_version_is_handed_back_at_no_cost() {
    let here = Installation::new(&[]).await;
    let id = here.submit().await;
    put_manifest(&here, id, &serde_json::json!({"version": 99, "verdict": "in another form"})).await;
    let _worker = here.worker("w1");
    here.logs("the job's manifest is of a newer version of tcoder; upgrade this worker").await;
    let job = here.job(id, |job| job.status == JobState::Queued).await;
    assert_eq!((job.attempt, job.error), (0, None));
    assert!(job.timestamps.retry_at.is_some());
}

#[tokio::test]
async fn result_that_the_version_before_committed_is_adopted() {
    let here = Installation::new(&[]).await;
    let id = here.submit_clip(long_clip(), Quality::P360, 2).await;
    let now = here.queue.clock().await.unwrap().now();
    let record = WorkerRecord {
        worker_id: WorkerId("old".into()),
        machine_id: "old".into(),
        version: "0.0.0".into(),
        pid: 1,
        started_at: now,
        worker_classes: tcoder::job::WorkerClasses::default(),
        sandbox: None,
    };
    assert!(here.queue.register(&record, now).await.unwrap());
    let Claim::Job(old) = here.queue.claim(&record.worker_id, now, false).await.unwrap() else {
        panic!("no job is ready")
    };
    // As commit b5e2cdd wrote it.
    let result = serde_json::json!({
        "outputs": [{"quality": "360p", "key": format!("outputs/{id}/{}/360p.mp4", old.attempt.epoch),
            "container": "mp4", "size": 5, "width": 640, "height": 360, "codec": "h264", "bitrate": 40,
            "duration": 1.0}],
        "source": {"format": "mov,mp4,m4a,3gp,3g2,mj2", "size": 5, "duration": 1.0, "video": {
            "codec": "h264", "width": 640, "height": 360, "frameRate": 25.0, "rotation": 0, "hdr": false}},
        "timings": {"downloadSeconds": 0.1, "transcodeSeconds": 0.2, "uploadSeconds": 0.3},
        "speed": 5.0, "cpuSeconds": 0.5,
    });
    let manifest = serde_json::json!({"epoch": old.attempt.epoch, "born": old.born, "result": result});
    put_manifest(&here, id, &manifest).await;
    assert!(here.queue.release(old.attempt).await.unwrap());
    let _worker = here.worker("w1");
    let job = here.job(id, |job| job.status.is_terminal()).await;
    assert_eq!((job.status, job.committed), (JobState::Completed, Some(old.attempt.epoch)), "{job:#?}");
}
