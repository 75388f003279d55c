//! Redis, storage and workers of their own, for tests that break one of them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tcoder::job::{Input, Job, JobId, JobSpec, Ladder, Parallelism, Preset, Quality, State};
use tcoder::queue::{Queue, SubmitMode};
use tokio::process::{Child, Command};

use super::clips::long_clip;
use super::objects::{ObjectServer, keys_below, put_input};
use super::paused::PausedEncode;
use super::process::{Process, encoders, eventually, spawn, tcoder};
use super::redis::{PrivateRedis, private_redis};
use super::system::{PATIENCE, folder};
use super::{objects, redis};

/// Redis, storage, and the workers that a test starts.
pub struct Installation {
    pub redis: PrivateRedis,
    pub storage: ObjectServer,
    pub queue: Queue,
    pub dir: PathBuf,
    pub endpoint: String,
}

impl Installation {
    pub async fn new(redis_args: &[&str]) -> Self {
        let (redis, storage) = (private_redis(redis_args), ObjectServer::start().await);
        let queue = Queue::connect(&redis.config()).await.unwrap();
        let endpoint = storage.config.endpoint.to_string();
        let dir = folder("installation").canonicalize().unwrap();
        Self { redis, storage, queue, dir, endpoint }
    }

    /// A worker, which ends when dropped.
    pub fn worker(&self, name: &str) -> Child {
        spawn(self.worker_command(name))
    }

    /// The command that starts a worker.
    pub fn worker_command(&self, name: &str) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let scratch = self.dir.join(name);
        std::fs::create_dir_all(&scratch).unwrap();
        let mut command = tcoder();
        command
            .arg("worker")
            .envs(redis::environment(&self.redis.config()))
            .envs(objects::environment(&self.storage.config))
            .env("R2_ENDPOINT", &self.endpoint)
            .env("WORKER_SCRATCH_DIR", &scratch)
            .env("WORKER_IDLE_TIMEOUT", "0")
            .env("WORKER_TTL", "0")
            .env("FLY_MACHINE_ID", name)
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub async fn logs(&self, words: &str) {
        eventually(&format!("the worker says {words:?}"), || self.log().contains(words)).await;
    }

    /// Submits a job with a single attempt and a webhook, whose encode takes some seconds.
    pub async fn submit(&self) -> JobId {
        self.submit_clip(long_clip(), Quality::P360, 1).await
    }

    /// Submits a job with this clip, quality, maximum number of attempts, and a webhook.
    pub async fn submit_clip(&self, clip: &Path, quality: Quality, max_attempts: u32) -> JobId {
        let id = JobId::new();
        let key = format!("inputs/{id}/clip.mp4");
        put_input(&self.storage.config, &key, std::fs::read(clip).unwrap()).await;
        let ladder = Ladder::try_from(vec![quality]).unwrap();
        let spec = JobSpec {
            max_attempts,
            webhook_url: Some("https://example.com/hook".parse().unwrap()),
            // One attempt encodes all of it.
            parallelism: Parallelism::Chunks(1),
            ..JobSpec::new(Input::Key(key.parse().unwrap()), Preset::WebOptimized, ladder)
        };
        self.queue.submit(id, &spec, SubmitMode::Now).await.unwrap();
        id
    }

    /// The job as soon as it is like this.
    pub async fn job(&self, id: JobId, like: impl Fn(&Job) -> bool) -> Job {
        let look = async {
            loop {
                if let Ok(Some(job)) = self.queue.get(id).await
                    && like(&job)
                {
                    return job;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let log = || self.log();
        tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("the job is not so:\n{}", log()))
    }

    pub async fn encodes(&self, id: JobId) -> Job {
        self.job(id, |job| job.status == State::Running && job.progress > 0.0).await
    }

    /// Holds the encode of this worker where it is, so that it cannot end before the test does what it is about.
    pub async fn pause_encode(&self, worker: &str) -> PausedEncode {
        PausedEncode::of(vec![self.encoder(worker).await])
    }

    /// The FFmpeg that encodes for this worker.
    pub async fn encoder(&self, worker: &str) -> Process {
        let scratch = self.dir.join(worker);
        eventually("FFmpeg encodes", || encoders(&scratch).len() == 1).await;
        encoders(&scratch).remove(0)
    }

    pub async fn has_manifest(&self, id: JobId) -> bool {
        let keys = keys_below(&self.storage.config, "output", &format!("outputs/{id}")).await;
        keys.iter().any(|key| key.ends_with("manifest.json"))
    }

    /// Its outputs are those of one attempt, and exactly one webhook is pending.
    pub async fn is_completed_once(&self, id: JobId) -> Job {
        let job = self.job(id, |job| job.status.is_terminal()).await;
        assert_eq!((job.status, job.attempt), (State::Completed, 1), "{job:#?}\n{}", self.log());
        let result = job.result.as_ref().unwrap();
        let epoch = job.committed.unwrap();
        assert_eq!(result.outputs[0].key.as_str(), format!("outputs/{id}/{epoch}/360p.mp4"));
        let keys = keys_below(&self.storage.config, "output", &format!("outputs/{id}")).await;
        assert_eq!(keys.len(), 2, "{keys:?}");
        let pending: Vec<String> =
            self.queue.deliveries().await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(pending, [format!("{id}:{epoch}:completed")]);
        job
    }
}
