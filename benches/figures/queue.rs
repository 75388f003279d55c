//! Counts the Redis commands of the queue, and measures the latency of a claim.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tcoder::job::{
    Entries, Input, JobId, JobResult, JobSpec, Ladder, ObjectKey, Preset, SourceInfo, Timings, VideoInfo,
    WorkerId,
};
use tcoder::queue::{Claim, CompleteOutcome, Queue, SubmitMode, UploadedInput, WorkerRecord};
use tokio::sync::Mutex;

use crate::Figures;
use crate::command_count::CommandCount;
use crate::redis_server::private_redis;

const JOBS: u32 = 500;

pub async fn measure(figures: &mut Figures) {
    if figures.wants(&["queue_commands_per_job", "queue_commands_per_upload"]) {
        for (name, start) in [
            ("queue_commands_per_job", SubmitMode::Now),
            ("queue_commands_per_upload", SubmitMode::OnUpload(Duration::from_secs(3600))),
        ] {
            let commands = commands_per_job(start).await;
            figures.put(name, commands, "commands");
        }
    }
    if figures.wants(&["claim_p50_ms", "claim_p99_ms"]) {
        let mut waits = claim_waits().await;
        waits.sort_by(f64::total_cmp);
        figures.put("claim_p50_ms", waits[waits.len() / 2], "ms");
        figures.put("claim_p99_ms", waits[waits.len() * 99 / 100], "ms");
    }
}

fn input() -> ObjectKey {
    "inputs/video.mp4".parse().unwrap()
}

pub fn spec() -> JobSpec {
    JobSpec::new(Input::Key(input()), Preset::Hls, Ladder::default())
}

fn result() -> JobResult {
    JobResult {
        outputs: vec![],
        entries: Entries::default(),
        poster: None,
        storyboard: None,
        skipped: vec![],
        source: SourceInfo {
            format: "mp4".into(),
            size: 1,
            duration: 1.0,
            video: VideoInfo {
                codec: "h264".into(),
                width: 2,
                height: 2,
                frame_rate: 25.0,
                frames: None,
                rotation: 0,
                hdr: false,
            },
            audio: None,
        },
        timings: Timings::default(),
        speed: 1.0,
        cpu_seconds: 1.0,
        split: None,
    }
}

/// Registers a worker.
pub async fn enter(queue: &Queue) -> (WorkerId, tcoder::queue::ServerClock) {
    let clock = queue.clock().await.unwrap();
    let id = WorkerId::on("bench");
    let record = WorkerRecord {
        worker_id: id.clone(),
        machine_id: "bench".into(),
        version: "0".into(),
        pid: 1,
        started_at: clock.now(),
        worker_classes: tcoder::job::WorkerClasses::default(),
        sandbox: None,
    };
    assert!(queue.register(&record, clock.now()).await.unwrap());
    (id, clock)
}

/// Runs a job from submit to completion with one heartbeat, like a worker: a wait for a wake-up before the
/// first claim, and a sweep every five seconds.
async fn commands_per_job(start: SubmitMode) -> f64 {
    let server = private_redis(&[]);
    let queue = Queue::connect(&server.config()).await.unwrap();
    let bell = queue.reconnect().await.unwrap();
    let (worker, clock) = enter(&queue).await;
    let result = result();
    let mut raw = server.raw();
    // The scripts are in Redis's cache from here on, as in a running installation.
    let warm = JobId::new();
    queue.submit(warm, &spec(), start).await.unwrap();
    queue.cancel(warm).await.unwrap();

    CommandCount::reset(&mut raw);
    let mut swept: Option<Instant> = None;
    for _ in 0..JOBS {
        let id = JobId::new();
        queue.submit(id, &spec(), start).await.unwrap();
        if start != SubmitMode::Now {
            let etag = Some("5eb63bbbe01eeed093cb22bb8f5acdc3".to_owned());
            queue.uploaded(&UploadedInput { job: id, key: input(), size: 1 << 20, etag }).await.unwrap();
        }
        // One job at a time, so that each wakes a waiting worker.
        bell.wait_for_wakeup(Duration::from_secs(5)).await.unwrap();
        let sweep = swept.is_none_or(|at| at.elapsed() > Duration::from_secs(5));
        if sweep {
            swept = Some(Instant::now());
        }
        let Claim::Job(job) = queue.claim(&worker, clock.now(), sweep).await.unwrap() else {
            panic!("no job");
        };
        clock.set(job.at);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(queue.renew(job.attempt, clock.now().plus(30_000)).await.unwrap());
        assert_eq!(queue.complete(&job, &result, job.attempt.epoch).await.unwrap(), CompleteOutcome::Done);
    }
    let count = CommandCount::read(&mut raw);
    #[allow(clippy::cast_precision_loss)]
    let per_job = count.total() as f64 / f64::from(JOBS);
    per_job
}

/// Four idle workers and a hundred jobs per second for ten seconds: the time from before the submit to the
/// claim.
async fn claim_waits() -> Vec<f64> {
    const WORKERS: usize = 4;
    const PACED: usize = 1000;
    let server = private_redis(&[]);
    let queue = Queue::connect(&server.config()).await.unwrap();
    let waits = Arc::new(Mutex::new(Vec::with_capacity(PACED)));
    let sent: Arc<Mutex<std::collections::HashMap<JobId, Instant>>> = Arc::default();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        let (queue, waits, sent) = (queue.reconnect().await.unwrap(), waits.clone(), sent.clone());
        workers.spawn(async move {
            let bell = queue.reconnect().await.unwrap();
            let (worker, clock) = enter(&queue).await;
            let result = result();
            loop {
                match queue.claim(&worker, clock.now(), false).await.unwrap() {
                    Claim::Job(job) => {
                        let claimed = Instant::now();
                        clock.set(job.at);
                        let began = sent.lock().await.remove(&job.attempt.job);
                        if let Some(began) = began {
                            waits.lock().await.push((claimed - began).as_secs_f64() * 1000.0);
                        }
                        queue.complete(&job, &result, job.attempt.epoch).await.unwrap();
                        if waits.lock().await.len() == PACED {
                            return;
                        }
                    }
                    _ => bell.wait_for_wakeup(Duration::from_secs(1)).await.unwrap(),
                }
                if waits.lock().await.len() >= PACED {
                    return;
                }
            }
        });
    }
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..PACED {
        tick.tick().await;
        let id = JobId::new();
        sent.lock().await.insert(id, Instant::now());
        queue.submit(id, &spec(), SubmitMode::Now).await.unwrap();
    }
    workers.join_all().await;
    let waits = waits.lock().await;
    waits.clone()
}
