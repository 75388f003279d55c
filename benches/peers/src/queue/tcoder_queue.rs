//! The load on tcoder's queue. A job is tcoder's own: its spec is somewhat longer than the payload of the others, and it ends
//! with a result.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tcoder::config::RedisConfig;
use tcoder::job::{
    Entries, Input, JobId, JobResult, JobSpec, Ladder, Preset, SourceInfo, Timings, VideoInfo, WorkerId,
};
use tcoder::queue::{Claim, CompleteOutcome, Queue, ServerClock, SubmitMode, WorkerRecord};
use tcoder::standalone::objects::{Buckets, Keys, Objects};
use tokio::process::Command;

use super::Guard;
use super::load::{Pace, Record, gather, shares};
use crate::redis_server::Redis;
use crate::{Failure, tcoder_program};

/// The interval in which a worker looks for expired leases and delayed tasks.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
const PREFIX: &str = "{peers}:";

fn config(redis: &Redis) -> RedisConfig {
    RedisConfig::new(redis.url(), PREFIX.to_owned())
}

fn spec() -> Result<JobSpec, Failure> {
    Ok(JobSpec::new(Input::Key("inputs/video.mp4".parse()?), Preset::Hls, Ladder::default()))
}

fn result() -> JobResult {
    let video = VideoInfo {
        codec: "h264".into(),
        width: 2,
        height: 2,
        frame_rate: 25.0,
        frames: None,
        rotation: 0,
        hdr: false,
    };
    let source = SourceInfo { format: "mp4".into(), size: 1, duration: 1.0, video, audio: None };
    JobResult {
        outputs: vec![],
        entries: Entries::default(),
        poster: None,
        storyboard: None,
        skipped: vec![],
        source,
        timings: Timings::default(),
        speed: 1.0,
        cpu_seconds: 1.0,
        split: None,
    }
}

/// What a worker of tcoder does with the queue.
struct Consumer {
    queue: Queue,
    bell: Queue,
    id: WorkerId,
    clock: ServerClock,
    result: JobResult,
    swept: Option<Instant>,
}

impl Consumer {
    async fn register(redis: &Redis) -> Result<Self, Failure> {
        let queue = Queue::connect(&config(redis)).await?;
        let bell = queue.reconnect().await?;
        let clock = queue.clock().await?;
        let id = WorkerId::on("peers");
        let record = WorkerRecord {
            worker_id: id.clone(),
            machine_id: "peers".into(),
            version: "0".into(),
            pid: std::process::id(),
            started_at: clock.now(),
            worker_classes: tcoder::job::WorkerClasses::default(),
            sandbox: None,
        };
        if !queue.register(&record, clock.now()).await? {
            return Err("the queue refused to register a worker".into());
        }
        Ok(Self { queue, bell, id, clock, result: result(), swept: None })
    }

    async fn all(redis: &Redis, workers: usize) -> Result<Vec<Self>, Failure> {
        let mut consumers = Vec::new();
        for _ in 0..workers {
            consumers.push(Self::register(redis).await?);
        }
        Ok(consumers)
    }

    /// Processes the next job, if there is one, and calls `on_claim` once it has it.
    async fn next(&mut self, on_claim: impl FnOnce(JobId)) -> Result<bool, Failure> {
        let sweep = self.swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY);
        if sweep {
            self.swept = Some(Instant::now());
        }
        match self.queue.claim(&self.id, self.clock.now(), sweep).await? {
            Claim::Job(job) => {
                on_claim(job.attempt.job);
                self.clock.set(job.at);
                let outcome = self.queue.complete(&job, &self.result, job.attempt.epoch).await?;
                if outcome != CompleteOutcome::Done {
                    return Err(format!("a job was not completed: {outcome:?}").into());
                }
                Ok(true)
            }
            Claim::Empty { .. } => Ok(false),
            other => Err(format!("a claim returned {other:?}").into()),
        }
    }
}

pub async fn enqueue(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let spec = spec()?;
    let mut producers = Vec::new();
    for _ in 0..workers {
        producers.push(Queue::connect(&config(redis)).await?);
    }
    redis.reset();
    let record = Record::new(jobs);
    let add = |(queue, share): (Queue, usize)| {
        let (spec, record) = (spec.clone(), record.clone());
        tokio::spawn(async move {
            for _ in 0..share {
                queue.submit(JobId::new(), &spec, SubmitMode::Now).await?;
                record.done();
            }
            Ok(Vec::new())
        })
    };
    gather(producers.into_iter().zip(shares(jobs, workers)).map(add).collect()).await?;
    record.full().await
}

pub async fn drain(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let consumers = Consumer::all(redis, workers).await?;
    redis.reset();
    let record = Record::new(jobs);
    let process = |mut consumer: Consumer| {
        let record = record.clone();
        tokio::spawn(async move {
            while consumer.next(|_| ()).await? {
                record.done();
            }
            Ok(Vec::new())
        })
    };
    gather(consumers.into_iter().map(process).collect()).await?;
    record.full().await
}

pub async fn paced(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let spec = spec()?;
    let pace = Pace::new(jobs);
    let ids: Vec<JobId> = (0..jobs).map(|_| JobId::new()).collect();
    let numbers: Arc<HashMap<JobId, usize>> =
        Arc::new(ids.iter().enumerate().map(|(number, id)| (*id, number)).collect());
    let consumers = Consumer::all(redis, workers).await?;
    let producer = Queue::connect(&config(redis)).await?;
    redis.reset();
    let mut tasks = tokio::task::JoinSet::new();
    for mut consumer in consumers {
        let (pace, numbers) = (pace.clone(), numbers.clone());
        tasks.spawn(async move {
            loop {
                let claimed = |id| {
                    if let Some(number) = numbers.get(&id) {
                        pace.claimed(*number);
                    }
                };
                if !consumer.next(claimed).await? {
                    consumer.bell.wait_for_wakeup(Duration::from_secs(5)).await?;
                }
            }
            #[allow(unreachable_code, reason = "gives the block its type")]
            Ok::<(), Failure>(())
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let add = |number: usize| {
        let (producer, spec, id) = (producer.clone(), spec.clone(), ids[number]);
        async move { Ok(producer.submit(id, &spec, SubmitMode::Now).await.map(drop)?) }
    };
    tokio::select! {
        waits = pace.run(add) => waits,
        Some(ended) = tasks.join_next() => Err(match ended {
            Ok(Err(error)) => error,
            other => format!("a worker ended: {other:?}").into(),
        }),
    }
}

/// Workers as they are in production, with an object store.
pub async fn idle(redis: &Redis, workers: usize) -> Result<Guard, Failure> {
    let folder = tempfile::tempdir()?;
    let (events, kept) = tokio::sync::mpsc::channel(16);
    let objects = Objects::start(
        folder.path().join("objects"),
        tokio::net::TcpListener::bind("127.0.0.1:0").await?,
        Keys::generate(),
        Buckets { input: "input".into(), output: "output".into() },
        events,
        tokio_util::sync::CancellationToken::new(),
    )?;
    let storage = objects.storage_config();
    let mut children = Vec::new();
    for number in 0..workers {
        use secrecy::ExposeSecret as _;
        let mut command = Command::new(tcoder_program()?);
        command
            .arg("worker")
            .env("REDIS_URL", redis.url())
            .env("REDIS_KEY_PREFIX", PREFIX)
            .env("R2_ENDPOINT", storage.endpoint.as_str())
            .env("R2_ACCESS_KEY_ID", &storage.access_key_id)
            .env("R2_SECRET_ACCESS_KEY", storage.secret_access_key.expose_secret())
            .env("R2_INPUT_BUCKET_NAME", &storage.input_bucket)
            .env("R2_OUTPUT_BUCKET_NAME", &storage.output_bucket)
            .env("WORKER_SCRATCH_DIR", folder.path().join(format!("scratch-{number}")))
            .env("WORKER_TTL", "0")
            .env("WORKER_IDLE_TIMEOUT", "0")
            .env("RUST_LOG", "error");
        children.push(tcoder::child::tie_to_parent(&mut command).spawn()?);
    }
    let queue = Queue::connect(&config(redis)).await?;
    let began = Instant::now();
    while queue.workers().await?.len() < workers {
        if began.elapsed() > Duration::from_secs(60) {
            return Err("the workers of tcoder do not start".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(Box::new((children, objects, kept, folder)))
}
