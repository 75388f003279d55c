//! The queue on real Redis: random comparison with a model, exploration of the lease protocol, a soak test
//! with crashes, and a named test for each fault.

mod classes;
mod clock;
mod cluster;
mod durability;
mod failover;
mod faults;
mod fleet;
mod fleet_classes;
mod half_open;
mod lease_model;
mod life;
mod listing;
mod loading;
mod model;
mod outbox;
mod parts;
mod random;
mod rest;
mod soak;
mod tls;
mod tokens;
mod uploads;
mod upstash;
mod versions;
mod wake;

use std::time::Duration;

use tcoder::config::{RedisConfig, Retention};
use tcoder::job::{
    Entries, Failure, FailureCode, Input, JobId, JobResult, JobSpec, Ladder, Millis, Preset, Priority,
    SourceInfo, Timings, VideoInfo, WorkerId,
};
use tcoder::queue::{Claim, Claimed, ClassView, FleetView, Policy, Queue, UploadedInput, WorkerRecord};

use crate::support::redis::shared;

/// What waits for the workers of all classes of the view together.
fn all_waiting(view: &FleetView) -> ClassView {
    view.waiting.values().fold(ClassView::default(), |sum, of| ClassView {
        pending: sum.pending + of.pending,
        parts: sum.parts + of.parts,
        due: sum.due + of.due,
        ready_since: sum.ready_since.into_iter().chain(of.ready_since).min(),
    })
}

fn spec() -> JobSpec {
    JobSpec::new(Input::Key("inputs/clip.mp4".parse().unwrap()), Preset::Hls, Ladder::default())
}

fn with_priority(priority: i64) -> JobSpec {
    JobSpec { priority: Priority::try_from(priority).unwrap(), ..spec() }
}

fn hooked() -> JobSpec {
    JobSpec { webhook_url: Some("https://example.com/hook".parse().unwrap()), ..spec() }
}

/// A result that identifies the manifest of an attempt.
fn result_of(epoch: u64) -> JobResult {
    let video = VideoInfo {
        codec: "h264".into(),
        width: 320,
        height: 180,
        frame_rate: 25.0,
        frames: None,
        rotation: 0,
        hdr: false,
    };
    let source = SourceInfo { format: "mp4".into(), size: epoch, duration: 1.0, video, audio: None };
    JobResult {
        outputs: Vec::new(),
        entries: Entries::default(),
        poster: None,
        storyboard: None,
        skipped: Vec::new(),
        source,
        timings: Timings::default(),
        speed: 1.0,
        cpu_seconds: 0.5,
        split: None,
    }
}

fn retryable() -> Failure {
    Failure::new(FailureCode::EncodeFailed, "FFmpeg ended with code 1")
}

fn hopeless() -> Failure {
    Failure::new(FailureCode::InvalidMedia, "the file is no video")
}

/// Leases that do not expire during a test.
const LONG: Policy = Policy {
    lease: Duration::from_secs(3600),
    heartbeat: Duration::from_secs(5),
    bell_wait: Duration::from_secs(75),
    alive: Duration::from_secs(180),
    retention: Retention { jobs: Duration::from_secs(3600), inputs: None, outputs: None },
    grace: Duration::ZERO,
    max_input_bytes: Some(1 << 30),
};

/// Leases that expire at once.
const INSTANT: Policy = Policy { lease: Duration::ZERO, ..LONG };

/// The input of a job, of a size that workers take.
fn arrived(job: JobId) -> UploadedInput {
    let Input::Key(key) = spec().input else { unreachable!() };
    UploadedInput { job, key, size: 1 << 20, etag: Some("5eb63bbbe01eeed0".into()) }
}

/// The input of a job, of a size that workers do not take.
fn too_large(job: JobId) -> UploadedInput {
    UploadedInput { size: 2 << 30, ..arrived(job) }
}

async fn queue() -> (Queue, RedisConfig) {
    let config = shared();
    (Queue::connect_with(&config, LONG).await.unwrap(), config)
}

async fn worker(queue: &Queue, name: &str) -> WorkerId {
    let worker_id = WorkerId(name.to_owned());
    let now = queue.clock().await.unwrap().now();
    let record = WorkerRecord {
        worker_id: worker_id.clone(),
        machine_id: "here".into(),
        version: "0".into(),
        pid: 1,
        started_at: now,
        worker_classes: tcoder::job::WorkerClasses::default(),
        sandbox: None,
    };
    assert!(queue.register(&record, now).await.unwrap());
    worker_id
}

async fn now(queue: &Queue) -> Millis {
    queue.clock().await.unwrap().now()
}

/// Claims without a sweep. A worker that lost a lease registers again, as workers do.
async fn claim(queue: &Queue, name: &WorkerId) -> Option<Claimed> {
    loop {
        match queue.claim(name, now(queue).await, false).await.unwrap() {
            Claim::Job(job) => return Some(*job),
            Claim::Empty { .. } => return None,
            Claim::Unregistered => drop(worker(queue, &name.0).await),
            Claim::Retired => panic!("{name} was told to leave"),
        }
    }
}

/// Submits a job that is ready at once.
async fn submit(queue: &Queue, spec: &JobSpec) -> JobId {
    let id = JobId::new();
    let outcome = queue.submit(id, spec, tcoder::queue::SubmitMode::Now).await.unwrap();
    assert_eq!(outcome, tcoder::queue::SubmitOutcome::Created);
    id
}

/// Makes every lease and every delay due: Redis sweeps by its own clock, so a test moves the deadlines.
fn all_due(redis: &mut redis::Connection, config: &RedisConfig) {
    for set in ["jobs:leases", "jobs:scheduled"] {
        for (member, _) in zset(redis, config, set) {
            let key = format!("{}{set}", config.prefix);
            redis::cmd("ZADD").arg(key).arg(1).arg(member).exec(redis).unwrap();
        }
    }
}

/// A sorted set, lowest score first.
fn zset(redis: &mut redis::Connection, config: &RedisConfig, key: &str) -> Vec<(String, f64)> {
    let key = format!("{}{key}", config.prefix);
    redis::cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES").query(redis).unwrap()
}
