//! A job whose manifest stands is completed, whatever Redis or storage did around its end: a real worker, a real Redis
//! that stops and forgets, and a real S3 server behind a proxy that loses answers.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use secrecy::ExposeSecret as _;
use tcoder::job::{Input, Job, JobId, JobSpec, Ladder, Preset, Quality, State as JobState};
use tcoder::queue::{Queue, SubmitMode};
use tokio::process::Child;

use crate::support::clips::long_clip;
use crate::support::objects::{ObjectServer, keys_below, put_input};
use crate::support::process::{eventually, spawn, tcoder};
use crate::support::redis::{PrivateRedis, private_redis};
use crate::support::system::{PATIENCE, folder, http, serve};

/// Redis, storage and one worker.
struct Bench {
    redis: PrivateRedis,
    storage: ObjectServer,
    queue: Queue,
    dir: PathBuf,
    endpoint: String,
}

impl Bench {
    async fn new(redis_args: &[&str]) -> Self {
        let (redis, storage) = (private_redis(redis_args), ObjectServer::start().await);
        let queue = Queue::connect(&redis.config()).await.unwrap();
        let endpoint = storage.config.endpoint.to_string();
        Self { redis, storage, queue, dir: folder("outage"), endpoint }
    }

    /// A worker, which ends when dropped.
    fn worker(&self, name: &str) -> Child {
        let (redis, storage) = (self.redis.config(), &self.storage.config);
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let scratch = self.dir.join(name);
        std::fs::create_dir_all(&scratch).unwrap();
        let mut command = tcoder();
        command
            .arg("worker")
            .env("REDIS_URL", redis.url.expose_secret())
            .env("REDIS_KEY_PREFIX", &redis.prefix)
            .env("R2_ENDPOINT", &self.endpoint)
            .env("R2_REGION", &storage.region)
            .env("R2_ACCESS_KEY_ID", &storage.access_key_id)
            .env("R2_SECRET_ACCESS_KEY", storage.secret_access_key.expose_secret())
            .env("R2_INPUT_BUCKET_NAME", &storage.input_bucket)
            .env("R2_OUTPUT_BUCKET_NAME", &storage.output_bucket)
            .env("WORKER_SCRATCH_DIR", &scratch)
            .env("WORKER_IDLE_TIMEOUT", "0")
            .env("WORKER_TTL", "0")
            .env("FLY_MACHINE_ID", name)
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(log);
        spawn(command)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    async fn logs(&self, words: &str) {
        eventually(&format!("the worker says {words:?}"), || self.log().contains(words)).await;
    }

    /// Submits a job with a single attempt and a webhook.
    async fn submit(&self) -> JobId {
        let key = "inputs/long.mp4";
        put_input(&self.storage.config, key, std::fs::read(long_clip()).unwrap()).await;
        let ladder = Ladder::try_from(vec![Quality::P360]).unwrap();
        let spec = JobSpec {
            max_attempts: 1,
            webhook_url: Some("https://example.com/hook".parse().unwrap()),
            ..JobSpec::new(Input::Key(key.parse().unwrap()), Preset::WebOptimized, ladder)
        };
        let id = JobId::new();
        self.queue.submit(id, &spec, SubmitMode::Now).await.unwrap();
        id
    }

    /// The job as soon as it is like this.
    async fn job(&self, id: JobId, like: impl Fn(&Job) -> bool) -> Job {
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

    async fn encodes(&self, id: JobId) {
        self.job(id, |job| job.status == JobState::Running && job.progress > 0.0).await;
    }

    async fn has_manifest(&self, id: JobId) -> bool {
        let keys = keys_below(&self.storage.config, "output", &format!("outputs/{id}")).await;
        keys.iter().any(|key| key.ends_with("manifest.json"))
    }

    /// Its outputs are those of one attempt, and exactly one webhook is pending.
    async fn is_completed_once(&self, id: JobId) -> Job {
        let job = self.job(id, |job| job.status.is_terminal()).await;
        assert_eq!((job.status, job.attempt), (JobState::Completed, 1), "{job:#?}\n{}", self.log());
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

#[tokio::test]
async fn job_is_completed_when_redis_was_away_at_the_end_of_its_last_attempt() {
    let mut bench = Bench::new(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let _worker = bench.worker("w1");
    let id = bench.submit().await;
    bench.encodes(id).await;
    bench.redis.kill().await;
    bench.logs("could not report to Redis; repeating until it answers").await;
    assert!(bench.has_manifest(id).await);
    bench.redis.start();
    let job = bench.is_completed_once(id).await;
    assert_eq!(job.committed, Some(job.epoch));
}

#[tokio::test]
async fn job_is_completed_again_when_a_failover_forgot_its_completion() {
    // It saves when it is told to, and comes back with that.
    let mut bench = Bench::new(&[]).await;
    let _worker = bench.worker("w1");
    let id = bench.submit().await;
    bench.encodes(id).await;
    redis::cmd("SAVE").exec(&mut bench.redis.raw()).unwrap();
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
    let mut bench = Bench::new(&[]).await;
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
async fn worker_killed_between_manifest_and_completion_is_succeeded_by_one_that_adopts() {
    let mut bench = Bench::new(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let mut first = bench.worker("w1");
    let id = bench.submit().await;
    bench.encodes(id).await;
    bench.redis.kill().await;
    bench.logs("could not report to Redis; repeating until it answers").await;
    first.kill().await.unwrap();
    bench.redis.start();
    let _second = bench.worker("w2");
    let job = bench.is_completed_once(id).await;
    assert!(job.committed < Some(job.epoch) && job.worker.unwrap().0.starts_with("w2-"));
}

/// Answers each write as if it had been done, like a server that ignores conditions.
async fn without_conditions(state: State<LossyProxy>, request: Request) -> Response {
    let answer = forward(state, request).await;
    if answer.status() == StatusCode::PRECONDITION_FAILED { StatusCode::OK.into_response() } else { answer }
}

#[tokio::test]
async fn worker_says_what_to_do_where_storage_ignores_conditions() {
    let words = "the output bucket ignores If-None-Match";
    let mut bench = Bench::new(&[]).await;
    let honest = bench.worker("w1");
    bench.logs("worker started").await;
    assert!(!bench.log().contains(words), "{}", bench.log());
    drop(honest);
    let fails = Arc::new(AtomicBool::new(false));
    let proxy = LossyProxy { upstream: bench.endpoint.as_str().into(), client: http(), fails };
    bench.endpoint = serve(axum::Router::new().fallback(without_conditions).with_state(proxy)).await;
    let _worker = bench.worker("w2");
    bench.logs(words).await;
    assert_eq!(keys_below(&bench.storage.config, "output", "").await, ["probes/if-none-match"]);
}
