//! The cron trigger: the work that no request triggers, within the limits of an invocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::json;
use tcoder::config::RedisConfig;
use tcoder::job::{Input, JobId, JobSpec, Ladder, Preset, State, WorkerId};
use tcoder::manifest::{ManifestStore, Verdict};
use tcoder::queue::{Claim, Claimed, Outbox, Queue, SubmitMode, WorkerRecord};
use tcoder::storage::Storage;

use super::{arrived, awaited, key, status};
use crate::support::edge::{Edge, Setup};
use crate::support::objects::keys_below;
use crate::support::process::eventually;
use crate::support::redis::{raw, shared};
use crate::support::system::serve;
use crate::webhooks::Receiver;

/// A Worker in which only the cron trigger acts.
async fn clocked() -> (Edge, RedisConfig) {
    let redis = shared();
    let setup = Setup::over(redis.clone());
    (setup.set("EDGE_FLEET", "disabled").set("EDGE_CRON_MAX_SECONDS", "0").start().await, redis)
}

fn spec() -> JobSpec {
    JobSpec::new(Input::Key("inputs/clip.mp4".parse().unwrap()), Preset::Default, Ladder::default())
}

fn hooked(url: &str) -> JobSpec {
    JobSpec { webhook_url: Some(url.parse().unwrap()), ..spec() }
}

async fn registered(queue: &Queue, name: &str) -> WorkerId {
    let now = queue.clock().await.unwrap().now();
    let record = WorkerRecord {
        worker_id: WorkerId(name.into()),
        machine_id: name.split_once('-').unwrap().0.into(),
        version: "0".into(),
        pid: 1,
        started_at: now,
        worker_classes: tcoder::job::WorkerClasses::default(),
        sandbox: None,
    };
    assert!(queue.register(&record, now).await.unwrap());
    record.worker_id
}

async fn state(queue: &Queue, id: JobId) -> State {
    queue.get(id).await.unwrap().unwrap().status
}

/// Makes all entries of this set due.
fn make_due(config: &RedisConfig, set: &str) {
    let key = format!("{}{set}", config.prefix);
    let mut redis = raw(config);
    let members: Vec<String> = redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).query(&mut redis).unwrap();
    assert!(!members.is_empty(), "{set} is empty");
    for member in members {
        redis::cmd("ZADD").arg(&key).arg(1).arg(member).exec(&mut redis).unwrap();
    }
}

#[tokio::test]
async fn scheduled_run_reaps_expired_leases() {
    let (edge, redis) = clocked().await;
    let (queue, id) = (&edge.queue, JobId::new());
    queue.submit(id, &spec(), SubmitMode::Now).await.unwrap();
    let worker = registered(queue, "m1-0001").await;
    let now = queue.clock().await.unwrap().now();
    assert!(matches!(queue.claim(&worker, now, false).await.unwrap(), Claim::Job(_)));
    edge.tick(1).await;
    assert_eq!(state(queue, id).await, State::Running, "its lease holds");
    make_due(&redis, "jobs:leases");
    edge.tick(2).await;
    assert_eq!(state(queue, id).await, State::Queued);
    assert_eq!(queue.stats().await.unwrap().pending, 1);
    let another = registered(queue, "m2-0001").await;
    let claim = queue.claim(&another, now, false).await.unwrap();
    assert!(matches!(&claim, Claim::Job(job) if job.attempt.job == id), "{claim:?}");
}

#[tokio::test]
async fn scheduled_run_fails_late_uploads_and_queues_those_with_lost_events() {
    let (edge, redis) = clocked().await;
    let (lost, _) = arrived(&edge).await;
    let (late, _) = arrived(&edge).await;
    let (never, still) = (awaited(&edge).await, awaited(&edge).await);
    let overdue = format!("{}jobs:uploading", redis.prefix);
    for id in [&late, &never] {
        redis::cmd("ZADD").arg(&overdue).arg(1).arg(id.as_str()).exec(&mut raw(&redis)).unwrap();
    }
    edge.tick(1).await;
    for id in [&lost, &late] {
        assert_eq!(status(&edge, id).await, "queued", "it is there");
    }
    assert_eq!(status(&edge, &still).await, "uploading", "its time is not up");
    let job = edge.job(&never).await;
    assert_eq!((&job["status"], &job["errorCode"]), (&json!("failed"), &json!("uploadExpired")));
    // A PUT that started in time may end at any time.
    let event = edge.put(&key(&never), "film").await;
    edge.deliver(&[event]).await;
    assert_eq!(status(&edge, &never).await, "queued");
}

#[tokio::test]
async fn scheduled_run_sends_and_retries_webhooks() {
    let (edge, redis) = clocked().await;
    let mut receiver = Receiver::start(500).await;
    let id = JobId::new();
    edge.queue.submit(id, &hooked(&receiver.url), SubmitMode::Now).await.unwrap();
    edge.queue.cancel(id).await.unwrap();
    edge.tick(1).await;
    let (first, message) = receiver.next().await;
    assert_eq!((&message["type"], &message["data"]["jobId"]), (&json!("job.cancelled"), &json!(id)));
    // The delay of the retry is over.
    make_due(&redis, "webhooks:outbox");
    edge.tick(2).await;
    assert_eq!(receiver.next().await, (first, message));
    assert_eq!(edge.queue.deliveries().await.unwrap(), []);
}

#[tokio::test]
async fn scheduled_run_sends_webhooks_of_jobs_that_end_within_its_minute() {
    let redis = shared();
    let setup = Setup::over(redis.clone());
    let edge = setup.set("EDGE_FLEET", "disabled").set("EDGE_CRON_MAX_SECONDS", "20").start().await;
    let mut receiver = Receiver::start(204).await;
    // Something is in progress.
    edge.queue.submit(JobId::new(), &spec(), SubmitMode::Now).await.unwrap();
    let ends = async {
        eventually("the minute's errands are done", || edge.log().contains("scheduled run finished")).await;
        let id = JobId::new();
        edge.queue.submit(id, &hooked(&receiver.url), SubmitMode::Now).await.unwrap();
        edge.queue.cancel(id).await.unwrap();
        receiver.next().await
    };
    let ((), (_, message)) = tokio::join!(edge.tick(1), ends);
    assert_eq!(message["type"], "job.cancelled");
}

#[tokio::test]
async fn scheduled_run_does_not_follow_redirects_of_webhooks() {
    let (edge, _) = clocked().await;
    let hits = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&hits);
    let elsewhere = serve(Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        StatusCode::NO_CONTENT
    }))
    .await;
    let there = format!("{elsewhere}/there");
    let moved = move || async move { (StatusCode::TEMPORARY_REDIRECT, [("location", there)]) };
    let url = serve(Router::new().route("/hook", post(moved))).await;
    let id = JobId::new();
    edge.queue.submit(id, &hooked(&format!("{url}/hook")), SubmitMode::Now).await.unwrap();
    edge.queue.cancel(id).await.unwrap();
    edge.tick(1).await;
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    assert_eq!(edge.queue.deliveries().await.unwrap().len(), 1, "it is tried again later");
    eventually("the log has it", || edge.log().contains("redirects")).await;
}

#[tokio::test]
async fn scheduled_run_does_infrequent_tasks_every_ten_minutes() {
    let (edge, redis) = clocked().await;
    let gone = JobId::new().to_string();
    let set = |name: &str| format!("{}{name}", redis.prefix);
    let record = json!({"workerId": "m9-dead", "machineId": "m9", "version": "0", "pid": 1, "startedAt": 1});
    let mut raw = raw(&redis);
    redis::cmd("ZADD").arg(set("jobs:index")).arg(1).arg(&gone).exec(&mut raw).unwrap();
    redis::cmd("HSET")
        .arg(set("machines:pool"))
        .arg("m9-dead")
        .arg(record.to_string())
        .exec(&mut raw)
        .unwrap();
    redis::cmd("ZADD").arg(set("machines:alive")).arg(1).arg("m9-dead").exec(&mut raw).unwrap();
    let mut left = || -> (u64, u64) {
        let index = redis::cmd("ZCARD").arg(set("jobs:index")).query(&mut raw).unwrap();
        (index, redis::cmd("HLEN").arg(set("machines:pool")).query(&mut raw).unwrap())
    };
    edge.tick(9).await;
    assert_eq!(left(), (1, 1));
    edge.tick(10).await;
    assert_eq!(left(), (0, 0));
}

/// A minute without work costs only a handful of commands.
#[tokio::test]
async fn scheduled_run_without_work_uses_few_commands() {
    let redis = shared();
    let edge = Setup::over(redis).start().await;
    // The scripts are cached from here on.
    edge.tick(10).await;
    let before = edge.count.so_far();
    let fly = edge.fly.requests().len();
    for minute in 11..20 {
        edge.tick(minute).await;
    }
    let after = edge.count.so_far();
    let (requests, commands) = (after.0 - before.0, after.1 - before.1);
    assert!(commands <= 9 * 4 && requests <= 9 * 4, "{requests} requests, {commands} commands in 9 minutes");
    assert_eq!(edge.fly.requests().len(), fly, "Fly was asked though nothing happens");
}

#[tokio::test]
async fn scheduled_run_deletes_the_outputs_of_a_lost_attempt_after_shutting_it_out() {
    let (edge, redis) = clocked().await;
    let (queue, id) = (&edge.queue, JobId::new());
    let config = edge.storage_config();
    queue.submit(id, &spec(), SubmitMode::Now).await.unwrap();
    let worker = registered(queue, "m1-0001").await;
    let now = queue.clock().await.unwrap().now();
    let claim = async || match queue.claim(&worker, now, false).await.unwrap() {
        Claim::Job(job) => *job,
        other => panic!("no job: {other:?}"),
    };
    let lost = claim().await;
    edge.put_output(&format!("outputs/{id}/{}/360p.mp4", lost.attempt.epoch), "film").await;
    assert!(queue.release(lost.attempt).await.unwrap());
    make_due(&redis, "jobs:cleanup");
    edge.tick(1).await;
    let keys = async || keys_below(&config, "tcoder-output", &format!("outputs/{id}")).await;
    assert_eq!(keys().await, ["manifest.json"], "{}", edge.log());
    // Over R2's S3 interface, as workers have it: the lost attempt comes too late, the next one does not.
    let storage = Storage::new(&config);
    let commit = async |job: &Claimed| {
        let manifest = ManifestStore { storage: &storage, attempt: job.attempt, born: job.born };
        manifest.commit(crate::cleanup::result()).await.unwrap()
    };
    assert_eq!(commit(&lost).await, Verdict::Superseded);
    let next = claim().await;
    edge.put_output(&format!("outputs/{id}/{}/360p.mp4", next.attempt.epoch), "film").await;
    assert!(matches!(commit(&next).await, Verdict::Result(there) if there.epoch == next.attempt.epoch));
    assert!(queue.release(next.attempt).await.unwrap());
    make_due(&redis, "jobs:cleanup");
    edge.tick(2).await;
    let kept = [format!("{}/360p.mp4", next.attempt.epoch), "manifest.json".to_owned()];
    assert_eq!(keys().await, kept, "{}", edge.log());
}

/// Records of a newer version stop nothing: neither the leases of others, nor uploads, nor webhooks.
#[tokio::test]
async fn scheduled_run_handles_what_it_can_read_beside_records_of_a_newer_version() {
    let (edge, redis) = clocked().await;
    let queue = &edge.queue;
    let newer = |id: &str| {
        let key = format!("{}jobs:status:{id}", redis.prefix);
        redis::cmd("HSET").arg(key).arg(&["v", "99"]).exec(&mut raw(&redis)).unwrap();
    };
    let strange = awaited(&edge).await;
    let (lost, _) = arrived(&edge).await;
    newer(&strange);
    let mut receiver = Receiver::start(204).await;
    let (silent, told) = (JobId::new(), JobId::new());
    for id in [silent, told] {
        queue.submit(id, &hooked(&receiver.url), SubmitMode::Now).await.unwrap();
        queue.cancel(id).await.unwrap();
    }
    newer(&silent.to_string());
    let running = JobId::new();
    queue.submit(running, &spec(), SubmitMode::Now).await.unwrap();
    let worker = registered(queue, "m1-0001").await;
    let now = queue.clock().await.unwrap().now();
    assert!(matches!(queue.claim(&worker, now, false).await.unwrap(), Claim::Job(_)));
    make_due(&redis, "jobs:leases");
    make_due(&redis, "jobs:uploading");
    edge.tick(1).await;
    assert_eq!(state(queue, running).await, State::Queued, "{}", edge.log());
    assert_eq!(status(&edge, &lost).await, "queued");
    assert_eq!(receiver.next().await.1["data"]["jobId"], told.to_string());
    let page = edge.get("/api/jobs?limit=100").await.body;
    assert_eq!(page["unreadable"].as_array().unwrap().len(), 2, "{page:#}");
}

/// However much work there is, an invocation makes no more subrequests than the platform permits, and the
/// next one continues.
#[tokio::test]
async fn scheduled_run_with_much_work_stays_within_the_subrequest_limit() {
    const CROWD: usize = 150;
    let redis = shared();
    let setup = Setup::over(redis.clone());
    let edge = setup.set("MAX_MACHINES", "20").set("EDGE_CRON_MAX_SECONDS", "15").start().await;
    let hits = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&hits);
    let take = move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        StatusCode::NO_CONTENT
    };
    let receiver = format!("{}/hook", serve(Router::new().route("/hook", post(take))).await);
    let queue = &edge.queue;
    for _ in 0..CROWD {
        // Its upload never arrived.
        queue.submit(JobId::new(), &spec(), SubmitMode::OnUpload(Duration::ZERO)).await.unwrap();
        let id = JobId::new();
        queue.submit(id, &hooked(&receiver), SubmitMode::Now).await.unwrap();
        queue.cancel(id).await.unwrap();
    }
    // There are also jobs that need machines. Their input does not exist, so that each ends quickly.
    for _ in 0..4 {
        queue.submit(JobId::new(), &spec(), SubmitMode::Now).await.unwrap();
    }
    let asked = |hits: u64| edge.subrequests() + hits;
    let mut before = asked(0);
    let mut waiting = queue.uploading(1000).await.unwrap().len();
    for minute in 1..=3 {
        edge.tick(minute).await;
        let now = asked(hits.load(Ordering::SeqCst));
        assert!(now - before <= 50, "an invocation made {} subrequests: {}", now - before, edge.log());
        before = now;
        let left = queue.uploading(1000).await.unwrap().len();
        assert!(left < waiting, "no upload was seen to");
        waiting = left;
        assert!(!edge.fly.requests().is_empty(), "no machine was asked for");
    }
    assert!(hits.load(Ordering::SeqCst) >= 9, "hardly a webhook was sent");
    assert!(
        !queue
            .claim_deliveries(Outbox::Installation, queue.clock().await.unwrap().now(), 1, Duration::ZERO)
            .await
            .unwrap()
            .0
            .is_empty()
    );
}
