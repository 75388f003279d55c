//! The Worker in workerd, with a real Redis behind Upstash's REST interface, the emulator of Fly's API whose
//! machines are workers, and R2 as workerd emulates it.

use std::ops::Deref;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tcoder::config::{Env, RedisConfig, StorageConfig};
use tcoder::flyprovider::emulator::EmulatorHandle;
use tcoder::queue::Queue;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, oneshot};

use super::fly::FlyGuard;
use super::system::{Api, OTHER_TOKEN, PATIENCE, TOKEN, WEBHOOK_SECRET, fly_of_workers, folder, http};
use super::upstash::{self, Count};
use super::upstash_of;

pub const APP: &str = "clips";
pub const INPUT: &str = "tcoder-input";
pub const OUTPUT: &str = "tcoder-output";
const KEY: (&str, &str) = ("edge-key-id", "edge-secret-key");

/// A runtime for everything that outlives the test that started it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// The options of a Worker.
pub struct Setup {
    pub redis: RedisConfig,
    /// Settings that override the defaults; `None` removes one.
    pub settings: Vec<(&'static str, Option<Value>)>,
    /// Whether messages about new objects are delivered automatically, as by R2.
    pub notifies: bool,
    /// Whether its cron trigger fires by itself, faster than at Cloudflare.
    pub ticks: bool,
    /// The REST interface in front of Redis, unless it is a new one.
    pub front: Option<(String, Arc<Count>)>,
}

impl Setup {
    pub fn over(redis: RedisConfig) -> Self {
        Self { redis, settings: Vec::new(), notifies: false, ticks: false, front: None }
    }

    /// Uses this REST interface of the same Redis, which must outlive the Worker.
    pub fn behind(self, url: String, count: Arc<Count>) -> Self {
        Self { front: Some((url, count)), ..self }
    }

    pub fn set(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.settings.push((name, Some(value.into())));
        self
    }

    pub fn without(mut self, name: &'static str) -> Self {
        self.settings.push((name, None));
        self
    }

    /// As in production: events and cron triggers happen by themselves.
    pub fn alive(self) -> Self {
        Self { notifies: true, ticks: true, ..self }
    }

    /// Starts it with everything that it needs. All of it ends with the handle.
    pub async fn start(self) -> Edge {
        let (done, started) = oneshot::channel();
        // Its REST interface and its Fly are on a runtime that outlives tests.
        RUNTIME.spawn(async move {
            let _ = done.send(self.start_here().await);
        });
        started.await.expect("the edge does not start")
    }

    async fn start_here(self) -> Edge {
        // workerd and the machines must know each other's address beforehand.
        let port = super::kube::free_port();
        let url = format!("http://127.0.0.1:{port}");
        let (redis_url, count) = match self.front {
            Some(front) => front,
            None => upstash_of(&self.redis).await,
        };
        let data = folder("edge");
        let objects = format!("{url}/cdn-cgi/local/r2");
        let storage = [
            ("R2_ENDPOINT", format!("{objects}/s3/")),
            ("R2_ACCESS_KEY_ID", KEY.0.to_owned()),
            ("R2_SECRET_ACCESS_KEY", KEY.1.to_owned()),
            ("R2_INPUT_BUCKET_NAME", INPUT.to_owned()),
            ("R2_OUTPUT_BUCKET_NAME", OUTPUT.to_owned()),
        ];
        let mut machine = storage.to_vec();
        machine.extend([
            ("REDIS_URL", self.redis.url.expose_secret().to_owned()),
            ("REDIS_KEY_PREFIX", self.redis.prefix.clone()),
            ("WORKER_SCRATCH_DIR", data.to_str().unwrap().to_owned()),
            ("RUST_LOG", "error".to_owned()),
        ]);
        let (fly, stop) = fly_of_workers(APP, &machine).await;
        let mut settings = json!({
            "UPSTASH_REDIS_REST_URL": redis_url,
            "UPSTASH_REDIS_REST_TOKEN": upstash::TOKEN,
            "REDIS_KEY_PREFIX": self.redis.prefix,
            "R2_PUBLIC_URL": format!("{objects}/public/{OUTPUT}/"),
            "API_TOKENS": format!("{TOKEN},{OTHER_TOKEN}"),
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "ALLOW_PRIVATE_URLS": "true",
            "FLY_API_TOKEN": fly.token().expose_secret(),
            "FLY_WORKER_APP": APP,
            "FLY_API_HOSTNAME": fly.url(),
            "FLY_WORKER_IMAGE": "worker:1",
            "FLY_WORKER_REGIONS": "iad",
            "MAX_MACHINES": "3",
            "WORKER_IDLE_TIMEOUT": "2",
        });
        for (name, value) in storage {
            settings[name] = value.into();
        }
        for (name, value) in self.settings {
            settings[name] = value.unwrap_or_default();
        }
        let order = json!({"port": port, "notifies": self.notifies, "settings": settings});
        let (child, stdin, control) = host(&order, &data.join("log")).await;
        let api = Api { url, token: Some(TOKEN.to_owned()), http: http(), log: data.join("log") };
        let queue = Queue::connect(&self.redis).await.unwrap();
        let mut role = machine;
        role.extend([
            ("FLY_API_TOKEN", fly.token().expose_secret().to_owned()),
            ("FLY_WORKER_APP", APP.to_owned()),
            ("FLY_API_HOSTNAME", fly.url().to_string()),
            ("FLY_WORKER_IMAGE", "worker:1".to_owned()),
            ("FLY_WORKER_REGIONS", "iad".to_owned()),
            ("WORKER_IDLE_TIMEOUT", "2".to_owned()),
        ]);
        let edge = Edge {
            api,
            redis: self.redis,
            queue,
            role,
            fly,
            count,
            control,
            _child: child,
            _stdin: stdin,
            _stop: stop,
        };
        if self.ticks {
            let (http, tick) = (http(), format!("{}/scheduled", edge.control));
            RUNTIME.spawn(async move {
                // One of its minutes takes three seconds here. This ends with the host.
                for minute in 1_u64.. {
                    let at = json!({"at": minute * 60_000});
                    let request = http.post(&tick).json(&at);
                    if request.timeout(Duration::from_secs(120)).send().await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
            });
        }
        edge
    }
}

/// Starts workerd; returns the pipe for commands and the address.
async fn host(order: &Value, log: &Path) -> (Child, ChildStdin, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("hack/edge-run.sh"));
    command.current_dir(root).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(std::fs::File::options().create(true).append(true).open(log).unwrap());
    // Not tied to this process: it ends with its stdin and then stops workerd, which a SIGKILL would leave
    // running.
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = async {
        loop {
            let Some(line) = lines.next_line().await.unwrap() else {
                panic!("workerd does not start: {}", std::fs::read_to_string(log).unwrap());
            };
            let said: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(control) = said["control"].as_str() {
                return control.to_owned();
            }
        }
    };
    let control = tokio::time::timeout(PATIENCE, first).await.expect("workerd does not start");
    let log = log.to_owned();
    RUNTIME.spawn(async move {
        let mut file = std::fs::File::options().append(true).open(log).unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            use std::io::Write as _;
            let said: Value = serde_json::from_str(&line).unwrap_or_default();
            let _ = writeln!(file, "{}", said["log"].as_str().unwrap_or(&line));
        }
    });
    (child, stdin, control)
}

/// A running Worker. It ends when dropped.
pub struct Edge {
    api: Api,
    pub redis: RedisConfig,
    pub queue: Queue,
    /// The environment of a process that uses the same Redis, buckets and Fly.
    pub role: Vec<(&'static str, String)>,
    pub fly: EmulatorHandle,
    pub count: Arc<Count>,
    control: String,
    _child: Child,
    _stdin: ChildStdin,
    _stop: FlyGuard,
}

impl Deref for Edge {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

/// The outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Acked,
    Retried,
}

/// A Worker that is shared by all tests that break nothing.
pub async fn shared() -> &'static Edge {
    static EDGE: OnceCell<Edge> = OnceCell::const_new();
    EDGE.get_or_init(|| Setup::over(super::redis::shared()).alive().start()).await
}

impl Edge {
    async fn control(&self, verb: reqwest::Method, path: &str, body: &Value) -> Value {
        let request = self.http.request(verb, format!("{}{path}", self.control)).json(body);
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {text}\n{}", self.log());
        serde_json::from_str(&text).unwrap()
    }

    /// Delivers a batch to the consumer; returns the outcome of each message.
    pub async fn deliver(&self, bodies: &[Value]) -> Vec<Fate> {
        let said = self.control(reqwest::Method::POST, "/deliver", &bodies.into()).await;
        assert_eq!(said["outcome"], "ok", "{said}\n{}", self.log());
        let named = |list: &str, n: usize| {
            said[list].as_array().is_some_and(|list| {
                list.iter().any(|m| *m == format!("m{n}") || m["msgId"] == format!("m{n}"))
            })
        };
        (0..bodies.len())
            .map(|n| match (named("explicitAcks", n), named("retryMessages", n)) {
                (true, false) => Fate::Acked,
                (false, true) => Fate::Retried,
                _ => panic!("message {n} was neither acknowledged nor retried, or both: {said}"),
            })
            .collect()
    }

    /// Sends messages to the queue, like R2.
    pub async fn send(&self, bodies: &[Value]) {
        self.control(reqwest::Method::POST, "/queue", &bodies.into()).await;
    }

    /// Runs the cron trigger for the minute of this number.
    pub async fn tick(&self, minute: u64) {
        let said = self.control(reqwest::Method::POST, "/scheduled", &json!({"at": minute * 60_000})).await;
        assert_eq!(said["outcome"], "ok", "{said}\n{}", self.log());
    }

    /// The messages in the dead-letter queue.
    pub async fn letters(&self) -> Vec<Value> {
        let said = self.control(reqwest::Method::GET, "/letters", &Value::Null).await;
        said.as_array().unwrap().clone()
    }

    /// Puts an object into the input bucket without delivering its event, which is returned.
    pub async fn put(&self, key: &str, text: &str) -> Value {
        self.control(reqwest::Method::POST, "/put", &json!({"bucket": "INPUT", "key": key, "text": text}))
            .await
    }

    /// Puts an object into the output bucket.
    pub async fn put_output(&self, key: &str, text: &str) {
        self.control(reqwest::Method::POST, "/put", &json!({"bucket": "OUTPUT", "key": key, "text": text}))
            .await;
    }

    /// The buckets over R2's S3 interface, as workers have it.
    pub fn storage_config(&self) -> StorageConfig {
        let value = |name: &str| self.role.iter().find(|(known, _)| *known == name).map(|(_, v)| v.clone());
        StorageConfig::read(&Env::of(value)).unwrap()
    }

    /// Number of requests to Redis and Fly so far.
    pub fn subrequests(&self) -> u64 {
        self.count.so_far().0 + self.fly.requests().len() as u64
    }
}
