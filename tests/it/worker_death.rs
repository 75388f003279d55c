//! Whatever happens to a worker during an encode, its job is completed exactly once.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::clips::{clip, half_minute};
use crate::support::process::{all_gone, children, encoders, eventually, send};
use crate::support::system::{Setup, System};

fn job_request() -> Value {
    json!({"preset": "web-optimized", "outputQualities": ["720p"], "fileName": "long.mp4"})
}

/// The job's result is that of one attempt, and storage contains no outputs of others.
async fn is_of_one_attempt(system: &System, job: &Value) {
    let (id, epoch) = (job["jobId"].as_str().unwrap(), &job["epoch"]);
    assert_eq!(job["outputs"][0]["key"], format!("outputs/{id}/{epoch}/720p.mp4"));
    let expected = [format!("{epoch}/720p.mp4"), "manifest.json".to_owned()];
    assert_eq!(system.objects("output", &format!("outputs/{id}")).await, expected);
}

/// The job runs in another attempt than `before`, which has this number.
fn is_after(before: &Value, job: &Value, attempt: u32) {
    assert_eq!(job["attempt"], attempt, "{job:#}");
    assert!(job["epoch"].as_u64() > before["epoch"].as_u64(), "{job:#} after {before:#}");
}

/// When the job was last queued, by Redis's clock.
fn queued_at(redis: &mut redis::Connection, id: &str) -> i64 {
    let stream: String =
        redis::cmd("KEYS").arg("*jobs:events").query::<Vec<String>>(redis).unwrap().remove(0);
    let events: Vec<(String, BTreeMap<String, String>)> =
        redis::cmd("XREVRANGE").arg(stream).arg(&["+", "-"]).query(redis).unwrap();
    let says = |event: &BTreeMap<String, String>, name, value| event.get(name).is_some_and(|v| v == value);
    let last = events.iter().find(|(_, e)| says(e, "id", id) && says(e, "state", "queued"));
    last.unwrap().0.split_once('-').unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn fault_01_worker_killed_during_an_encode_costs_one_attempt() {
    let system = Setup::default().start().await;
    let id = system.upload(half_minute(), &job_request()).await;
    let (first, _) = system.pause_encode(&id).await;
    let worker = children(system.pid).into_iter().find(|p| p.command.contains(" worker")).unwrap();
    let encoders = encoders(&system.data);
    assert_eq!(encoders.len(), 1, "{encoders:?}");
    send(worker.pid, Signal::SIGKILL);
    all_gone(&encoders).await;

    let job = system.completed(&id).await;
    is_after(&first, &job, 2);
    is_of_one_attempt(&system, &job).await;
    system.stop().await;
}

#[tokio::test]
async fn fault_18_worker_on_sigterm_releases_its_job_and_its_attempt() {
    let system = Setup::default().workers(0).start().await;
    let id = system.upload(half_minute(), &job_request()).await;
    let mut first = system.worker("first", &[]);
    let (released, _) = system.pause_encode(&id).await;
    let encoders = encoders(&first.scratch);
    assert_eq!(encoders.len(), 1, "{encoders:?}");
    let mut redis = system.redis();
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query(&mut redis).unwrap();
    first.signal(Signal::SIGTERM);
    let status = first.over().await;
    assert!(status.success(), "{status}");
    // By Redis's clock, so that neither the worker's exit nor the delays of this test count.
    let took = queued_at(&mut redis, &id) - (seconds * 1000 + micros / 1000);
    // Well under a second on an idle machine. If it were not released, its lease would expire after 25 s at the earliest.
    assert!((0..10_000).contains(&took), "released after {took} ms");
    all_gone(&encoders).await;
    assert_eq!(std::fs::read_dir(&first.scratch).unwrap().count(), 0);
    let job = system.job(&id).await;
    assert_eq!((&job["status"], &job["attempt"]), (&json!("queued"), &json!(0)), "{job:#}");
    assert_eq!(system.get("/api/status").await.body["workers"], json!([]));

    let mut second = system.worker("second", &[("WORKER_MAX_JOBS", "1")]);
    let job = system.completed(&id).await;
    is_after(&released, &job, 1);
    is_of_one_attempt(&system, &job).await;
    assert!(second.over().await.success());
    assert_eq!(system.get("/api/status").await.body["workers"], json!([]));
    system.stop().await;
}

#[tokio::test]
async fn fault_03_worker_that_slept_through_its_lease_changes_nothing() {
    let system = Setup::default().workers(0).start().await;
    let id = system.upload(half_minute(), &job_request()).await;
    let mut zombie = system.worker("zombie", &[("WORKER_MAX_JOBS", "1")]);
    let (first, _) = system.pause_encode(&id).await;
    zombie.signal(Signal::SIGSTOP);
    let mut heir = system.worker("heir", &[("WORKER_MAX_JOBS", "1")]);
    let job = system.completed(&id).await;
    is_after(&first, &job, 2);
    assert!(job["worker"].as_str().unwrap().starts_with("heir-"));
    assert!(heir.over().await.success());

    zombie.signal(Signal::SIGCONT);
    assert!(zombie.over().await.success());
    assert_eq!(system.job(&id).await, job);
    is_of_one_attempt(&system, &job).await;
    assert_eq!(std::fs::read_dir(&zombie.scratch).unwrap().count(), 0);
    system.stop().await;
}

#[tokio::test]
async fn workers_exit_at_their_limits() {
    let system = Setup::default().workers(0).start().await;
    for (name, value) in [("WORKER_IDLE_TIMEOUT", "1"), ("WORKER_TTL", "1")] {
        let mut worker = system.worker("mortal", &[(name, value)]);
        assert!(worker.over().await.success(), "{name}");
        assert_eq!(system.get("/api/status").await.body["workers"], json!([]), "{name}");
    }
    let mut worker = system.worker("one-job", &[("WORKER_MAX_JOBS", "1")]);
    let job_request = json!({"preset": "web-optimized", "outputQualities": ["144p"]});
    let (first, second) =
        (system.upload(clip(), &job_request).await, system.upload(clip(), &job_request).await);
    assert!(worker.over().await.success());
    assert_eq!(system.job(&first).await["status"], "completed");
    assert_eq!(system.job(&second).await["status"], "queued");
    assert_eq!(system.get("/api/status").await.body["workers"], json!([]));
}

#[tokio::test]
async fn running_job_stops_within_seconds_when_cancelled() {
    let system = Setup::default().start().await;
    let id = system.upload(half_minute(), &job_request()).await;
    let _paused = system.pause_encode(&id).await;
    let encoders = encoders(&system.data);
    assert_eq!(encoders.len(), 1, "{encoders:?}");
    let mut feed = system.feed(&id).await;
    assert_eq!(feed.next().await.unwrap()["status"], "running");

    let answer = system.delete(&format!("/api/jobs/{id}")).await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("cancelled")), "{answer:?}");
    let mut last = Value::Null;
    while let Some(job) = feed.next().await {
        last = job;
    }
    assert_eq!(last["status"], "cancelled");
    all_gone(&encoders).await;
    eventually("the scratch folder is empty", || system.scratch().is_empty()).await;
    assert_eq!(system.objects("output", "outputs").await, [""; 0]);
    // A repeated cancellation is not an error. A finished job cannot be cancelled, but it can be redriven.
    assert_eq!(system.delete(&format!("/api/jobs/{id}")).await.status, 200);
    assert_eq!(system.post(&format!("/api/jobs/{id}/retry"), &json!({})).await.status, 200);
    let job = system.completed(&id).await;
    assert_eq!(job["attempt"], 1, "{job:#}");
    is_of_one_attempt(&system, &job).await;
    let answer = system.delete(&format!("/api/jobs/{id}")).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    system.stop().await;
}

#[tokio::test]
async fn encode_survives_a_restart_of_redis() {
    let system = Setup::default().start().await;
    let id = system.upload(half_minute(), &job_request()).await;
    let (_, encode) = system.pause_encode(&id).await;
    let mut feed = system.feed(&id).await;
    let before = system.redis_server();
    send(before.pid, Signal::SIGKILL);
    let is_another = || {
        let now = children(system.pid).into_iter().find(|p| p.command.contains("unixsocket"));
        now.is_some_and(|now| now.pid != before.pid)
    };
    eventually("redis-server runs again", is_another).await;
    encode.resume();
    // A client that watches the job continues to do so.
    let mut job = Value::Null;
    while let Some(next) = feed.next().await {
        job = next;
    }
    assert_eq!((&job["status"], &job["attempt"]), (&json!("completed"), &json!(1)), "{job:#}");
    is_of_one_attempt(&system, &job).await;
    system.stop().await;
}
