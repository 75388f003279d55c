//! The whole system through its binary: `tcoder up` on a free port with a separate data folder, standalone
//! workers, the command line, and the processes that remain.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use eventsource_stream::Eventsource as _;
use futures::{Stream, StreamExt as _};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::Value;
use tcoder::config::{BaseUrl, StorageConfig};
use tcoder::flyprovider::emulator::{self, EmulatorHandle};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

use super::fly::{self, FlyGuard};
use super::process::{Process, children, err, lives, run, send, spawn, tcoder};

/// A limit against hanging; nothing is expected to take nearly as long.
pub const PATIENCE: Duration = Duration::from_secs(240);

pub const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub const TOKEN: &str = "token-of-the-guarded-system-0123456789";
/// The token of another caller.
pub const OTHER_TOKEN: &str = "token-of-somebody-else-0123456789";

/// A folder of this process. The next run removes it once the process is dead.
pub fn folder(name: &str) -> PathBuf {
    static BASE: LazyLock<PathBuf> = LazyLock::new(|| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in std::fs::read_dir(tmp).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|n| n.strip_prefix("system-")?.parse().ok());
            if owner.is_some_and(|pid| !lives(pid)) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        tmp.join(format!("system-{}", std::process::id()))
    });
    let path = BASE.join(format!("{name}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// The options of a system.
pub struct Setup {
    pub data: PathBuf,
    /// Minimum number of workers; by default the maximum.
    pub min: Option<u16>,
    pub workers: u16,
    pub listen: String,
    pub env: Vec<(&'static str, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { data: folder("data"), min: None, workers: 1, listen: "127.0.0.1:0".into(), env: Vec::new() }
    }
}

impl Setup {
    pub fn over(data: &Path) -> Self {
        Self { data: data.to_owned(), ..Self::default() }
    }

    pub fn workers(mut self, workers: u16) -> Self {
        self.workers = workers;
        self
    }

    /// Workers are started and stopped as jobs require.
    pub fn coming_and_going(mut self) -> Self {
        self.min = Some(0);
        self
    }

    pub fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    fn command(&self) -> Command {
        let mut command = tcoder();
        let log = std::fs::File::options().create(true).append(true).open(self.data.join("log")).unwrap();
        command
            .args(["up", "--listen", &self.listen, "--max-machines", &self.workers.to_string()])
            .args(["--min-machines", &self.min.unwrap_or(self.workers).to_string(), "--data"])
            .arg(&self.data)
            .env("WEBHOOK_SECRET", WEBHOOK_SECRET)
            .env("RUST_LOG", "info,tcoder=trace")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(log);
        command
    }

    pub async fn start(self) -> System {
        let mut child = spawn(self.command());
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let line = tokio::time::timeout(PATIENCE, stdout.next_line()).await.expect("it does not start");
            let Some(line) = line.unwrap() else {
                panic!("tcoder up ended: {}", std::fs::read_to_string(self.data.join("log")).unwrap());
            };
            if let Some((what, rest)) = line.trim().split_once(' ') {
                said.entry(what.to_owned()).or_insert_with(|| rest.trim().to_owned());
            }
            if line.starts_with("Press Ctrl-C") {
                break;
            }
        }
        let tokens = self.env.iter().find(|(name, _)| *name == "API_TOKENS");
        let token = tokens.and_then(|(_, list)| list.split(',').next()).map(str::to_owned);
        System {
            api: Api { url: said["API"].clone(), token, http: http(), log: self.data.join("log") },
            storage: said["storage"].split(' ').next().unwrap().to_owned(),
            data: self.data.canonicalize().unwrap(),
            pid: child.id().unwrap(),
            child,
            stdout,
            redis: self.env.iter().find(|(name, _)| *name == "REDIS_URL").map(|(_, url)| url.clone()),
        }
    }

    /// Starts a system that must fail; returns its exit code and output.
    pub async fn fails(self) -> (i32, String) {
        let mut command = self.command();
        command.stderr(Stdio::piped());
        let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
        let output = ended.expect("the start neither works nor fails").unwrap();
        (output.status.code().unwrap(), err(&output))
    }
}

/// A client that shares no connections with other tests: each is closed after its response.
pub fn http() -> reqwest::Client {
    tcoder::net::install_crypto();
    reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy().build().unwrap()
}

/// An API, wherever it runs.
pub struct Api {
    pub url: String,
    pub token: Option<String>,
    pub http: reqwest::Client,
    /// The log file of the servers.
    pub log: PathBuf,
}

impl Api {
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn answer(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned());
        let bytes = answer.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status, kind: kind.unwrap_or_default(), body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.answer(self.request(Method::DELETE, path)).await
    }

    /// Requests an upload and PUTs these bytes; returns the job's id.
    pub async fn upload_bytes(&self, bytes: Vec<u8>, options: &Value) -> String {
        let ticket = self.post("/api/upload", options).await;
        assert_eq!(ticket.status, 201, "{ticket:?}");
        let put = self.http.put(ticket.body["uploadUrl"].as_str().unwrap());
        // Set even if it is zero, as browsers and curl do.
        let put = put.header("content-length", bytes.len()).body(bytes);
        let stored = put.timeout(PATIENCE).send().await.unwrap();
        assert!(stored.status().is_success(), "{stored:?}");
        ticket.body["jobId"].as_str().unwrap().to_owned()
    }

    pub async fn upload(&self, file: &Path, options: &Value) -> String {
        self.upload_bytes(std::fs::read(file).unwrap(), options).await
    }

    /// Creates a job with `POST /api/jobs`; returns its id.
    pub async fn submit(&self, body: &Value) -> String {
        let answer = self.post("/api/jobs", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["jobId"].as_str().unwrap().to_owned()
    }

    pub async fn job(&self, id: &str) -> Value {
        let answer = self.get(&format!("/api/jobs/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    pub async fn feed(&self, id: &str) -> Feed {
        let again = self.request(Method::GET, &format!("/api/jobs/{id}/events"));
        Feed { events: open(&again).await, again, over: false }
    }

    /// Waits until the feed shows the job in this state.
    pub async fn seen(&self, id: &str, like: impl Fn(&Value) -> bool) -> Value {
        let mut feed = self.feed(id).await;
        let mut last = Value::Null;
        while let Some(job) = feed.next().await {
            if like(&job) {
                return job;
            }
            last = job;
        }
        panic!("the job ended otherwise: {last:#}\n{}", self.log());
    }

    /// Waits until the job has ended.
    pub async fn ended(&self, id: &str) -> Value {
        let over = |job: &Value| matches!(job["status"].as_str(), Some("completed" | "failed" | "cancelled"));
        self.seen(id, over).await
    }

    pub async fn completed(&self, id: &str) -> Value {
        let job = self.ended(id).await;
        assert_eq!(job["status"], "completed", "{job:#}\n{}", self.log());
        job
    }

    /// Waits until the job is being encoded.
    pub async fn encoding(&self, id: &str) -> Value {
        self.seen(id, |job| job["status"] == "running" && job["progress"].as_f64().unwrap() > 0.0).await
    }

    /// The combined stderr of the servers.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }
}

/// A running `tcoder up`. It is stopped when dropped.
pub struct System {
    pub api: Api,
    pub storage: String,
    pub data: PathBuf,
    pub pid: u32,
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    /// The Redis that it was configured to use, unless it has its own.
    redis: Option<String>,
}

/// A response of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub kind: String,
    pub body: Value,
}

type Events = Pin<Box<dyn Stream<Item = Value> + Send>>;

/// The events of a job. Like a browser's `EventSource`, it reopens a stream that ended early.
pub struct Feed {
    events: Events,
    again: reqwest::RequestBuilder,
    over: bool,
}

async fn open(request: &reqwest::RequestBuilder) -> Events {
    let answer = request.try_clone().unwrap().send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    Box::pin(answer.bytes_stream().eventsource().filter_map(|event| async {
        let event = event.ok()?;
        assert_eq!(event.event, "job");
        Some(serde_json::from_str(&event.data).unwrap())
    }))
}

impl Feed {
    /// The next event; `None` after the end of the job.
    pub async fn next(&mut self) -> Option<Value> {
        let next = async {
            loop {
                match self.events.next().await {
                    Some(job) => return Some(job),
                    None if self.over => return None,
                    None => self.events = open(&self.again).await,
                }
            }
        };
        let job = tokio::time::timeout(PATIENCE, next).await.expect("no event comes")?;
        self.over = matches!(job["status"].as_str(), Some("completed" | "failed" | "cancelled"));
        Some(job)
    }
}

/// The system for all tests that break nothing: two workers, private addresses permitted.
pub async fn shared() -> &'static System {
    static SYSTEM: OnceCell<System> = OnceCell::const_new();
    SYSTEM.get_or_init(|| Setup::default().workers(2).env("ALLOW_PRIVATE_URLS", "true").start()).await
}

/// A system that requires a token and calls no private addresses.
pub async fn guarded() -> &'static System {
    static SYSTEM: OnceCell<System> = OnceCell::const_new();
    SYSTEM.get_or_init(|| Setup::default().env("API_TOKENS", &format!("{TOKEN},{OTHER_TOKEN}")).start()).await
}

impl Deref for System {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl System {
    /// The settings for its buckets.
    pub fn storage_config(&self) -> StorageConfig {
        let env: BTreeMap<_, _> = self.role_environment().into_iter().collect();
        let endpoint: BaseUrl = env["R2_ENDPOINT"].parse().unwrap();
        StorageConfig {
            public_url: Some(endpoint.join("output/").unwrap()),
            endpoint,
            region: "auto".into(),
            access_key_id: env["R2_ACCESS_KEY_ID"].clone(),
            secret_access_key: env["R2_SECRET_ACCESS_KEY"].clone().into(),
            input_bucket: env["R2_INPUT_BUCKET_NAME"].clone(),
            output_bucket: env["R2_OUTPUT_BUCKET_NAME"].clone(),
        }
    }

    /// The keys below a prefix of the bucket, relative to it.
    pub async fn objects(&self, bucket: &str, prefix: &str) -> Vec<String> {
        super::objects::keys_below(&self.storage_config(), bucket, prefix).await
    }

    /// Puts a file into the input bucket.
    pub async fn put_input(&self, key: &str, file: &Path) {
        super::objects::put_input(&self.storage_config(), key, std::fs::read(file).unwrap()).await;
    }

    /// The public URL of an output.
    pub fn output_url(&self, key: &str) -> String {
        format!("{}/output/{key}", self.storage)
    }

    pub async fn has_output(&self, key: &str) -> bool {
        http().head(self.output_url(key)).send().await.unwrap().status() == 200
    }

    pub fn scratch(&self) -> Vec<String> {
        files_below(&self.data.join("scratch"))
    }

    /// The port of its storage.
    pub fn storage_port(&self) -> u16 {
        self.storage.parse::<reqwest::Url>().unwrap().port().unwrap()
    }

    /// The process of its redis-server.
    pub fn redis_server(&self) -> Process {
        let found = children(self.pid).into_iter().find(|p| p.command.starts_with("redis-server"));
        found.expect("there is no redis-server")
    }

    pub fn redis_url(&self) -> String {
        if let Some(url) = &self.redis {
            return url.clone();
        }
        // The process title of redis-server contains its socket.
        let command = self.redis_server().command;
        let socket = command.split_once("unixsocket:").unwrap().1.split(' ').next().unwrap().to_owned();
        format!("redis+unix://{socket}")
    }

    pub fn redis(&self) -> redis::Connection {
        redis::Client::open(self.redis_url()).unwrap().get_connection().unwrap()
    }

    /// The environment of another role that uses the same Redis and buckets.
    pub fn role_environment(&self) -> Vec<(&'static str, String)> {
        let secrets: Value =
            serde_json::from_slice(&std::fs::read(self.data.join("secrets.json")).unwrap()).unwrap();
        let secret = |name: &str| secrets[name].as_str().unwrap().to_owned();
        vec![
            ("REDIS_URL", self.redis_url()),
            ("R2_ENDPOINT", self.storage.clone()),
            ("R2_ACCESS_KEY_ID", secret("accessKeyId")),
            ("R2_SECRET_ACCESS_KEY", secret("secretAccessKey")),
            ("R2_INPUT_BUCKET_NAME", "input".into()),
            ("R2_OUTPUT_BUCKET_NAME", "output".into()),
        ]
    }

    fn role(&self, args: &[&str]) -> Command {
        let mut command = tcoder();
        command.args(args);
        self.in_role(command)
    }

    fn in_role(&self, mut command: Command) -> Command {
        command
            .stdin(Stdio::null())
            .envs(self.role_environment())
            .env("RUST_LOG", "info,tcoder=trace")
            .stdout(Stdio::null());
        command
    }

    /// Starts a second API; returns it and its address. It is stopped when dropped.
    pub async fn api(&self) -> (Child, String) {
        let (child, url, _) = self.server(&["api", "--listen", "127.0.0.1:0"], &[]).await;
        (child, url)
    }

    /// Starts a server role; returns it, its address and its log. It is stopped when dropped.
    pub async fn server(&self, args: &[&str], env: &[(&str, &str)]) -> (Child, String, Log) {
        let mut command = self.role(args);
        command.envs(env.iter().copied()).stderr(Stdio::piped());
        let mut child = spawn(command);
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let line = tokio::time::timeout(PATIENCE, said.next_line()).await.expect("it does not start");
            let line = line.unwrap().expect("the role ended");
            let line: Value = serde_json::from_str(&line).expect("a log line is not JSON");
            if let Some(address) = line["address"].as_str() {
                let url = format!("http://{address}");
                let log = tokio::spawn(async move {
                    let mut lines = Vec::new();
                    while let Ok(Some(line)) = said.next_line().await {
                        lines.push(line);
                    }
                    lines
                });
                return (child, url, log);
            }
        }
    }

    /// Starts a server role that logs into this file, so that it can outlive the test that started it. It is
    /// stopped when dropped.
    pub fn logging(&self, args: &[&str], env: &[(&str, &str)], log: &Path) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.role(args);
        command.envs(env.iter().copied()).stderr(log);
        spawn(command)
    }

    /// Runs a role that must fail to start; returns its exit code and output.
    pub async fn role_fails(&self, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = self.role(args);
        command.envs(env.iter().copied()).stderr(Stdio::piped());
        let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
        let output = ended.expect("it does not end").unwrap();
        (output.status.code(), err(&output))
    }

    /// An emulated Fly whose machines are workers of this system. It ends with the guard.
    pub async fn fly(&self, app: &str) -> (EmulatorHandle, FlyGuard) {
        let mut environment = self.role_environment();
        let scratch = self.data.join("scratch").to_str().unwrap().to_owned();
        environment.extend([("WORKER_SCRATCH_DIR", scratch), ("RUST_LOG", "error".into())]);
        fly_of_workers(app, &environment).await
    }

    /// Starts a separate worker with its own scratch folder.
    pub fn worker(&self, name: &str, env: &[(&str, &str)]) -> Worker {
        self.worker_by(name, env, |_| {
            let mut command = tcoder();
            command.arg("worker");
            command
        })
    }

    /// Like [`Self::worker`], with a command that eventually runs `tcoder worker` with this scratch folder.
    pub fn worker_by(
        &self,
        name: &str,
        env: &[(&str, &str)],
        command: impl FnOnce(&Path) -> Command,
    ) -> Worker {
        let scratch = folder(name);
        let mut command = self.in_role(command(&scratch));
        let log = std::fs::File::options().append(true).open(self.data.join("log")).unwrap();
        command
            .env("WORKER_SCRATCH_DIR", &scratch)
            .env("WORKER_IDLE_TIMEOUT", "0")
            .env("WORKER_TTL", "0")
            .env("FLY_MACHINE_ID", name)
            .envs(env.iter().copied())
            .stderr(log);
        let child = spawn(command);
        Worker { pid: child.id().unwrap(), scratch: scratch.canonicalize().unwrap(), child }
    }

    pub async fn cli(&self, args: &[&str], dir: &Path) -> Output {
        let mut env = vec![("TCODER_URL", self.url.as_str())];
        if let Some(token) = &self.token {
            env.push(("TCODER_TOKEN", token));
        }
        run(args, &env, dir).await
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// Waits until stdout contains these words.
    pub async fn says(&mut self, words: &str) {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.stdout.next_line()).await.expect("it is silent");
            if line.unwrap().expect("it ended").contains(words) {
                return;
            }
        }
    }

    /// Waits until it ends; returns its status and the remaining output.
    pub async fn over(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        let end = async {
            let status = self.child.wait().await.unwrap();
            self.stdout.get_mut().read_to_string(&mut said).await.unwrap();
            status
        };
        let status = tokio::time::timeout(PATIENCE, end).await.expect("tcoder up does not end");
        (status, said)
    }

    /// Stops it with SIGINT, like Ctrl-C.
    pub async fn stop(self) -> String {
        self.signal(Signal::SIGINT);
        let (status, said) = self.over().await;
        assert!(status.success(), "{status}: {said}");
        said
    }
}

/// An emulated Fly whose machines are workers with this environment, with validation. It ends with the guard.
pub async fn fly_of_workers(app: &str, environment: &[(&str, String)]) -> (EmulatorHandle, FlyGuard) {
    let options = emulator::Options {
        app: app.to_owned(),
        environment: environment.iter().map(|(name, value)| ((*name).into(), value.into())).collect(),
        ..emulator::Options::new([env!("CARGO_BIN_EXE_tcoder"), "worker"])
    };
    fly::start(options).await
}

/// Checks the rate of one request a second by the emulator's clock, with tolerance for delays on a loaded
/// machine.
pub fn keeps_to_one_a_second(fly: &EmulatorHandle) {
    let requests = fly.requests();
    for (i, late) in requests.iter().enumerate() {
        for (j, early) in requests[..i].iter().enumerate() {
            let least = Duration::from_secs((i - j) as u64).saturating_sub(Duration::from_secs(5));
            assert!(late.at - early.at >= least, "requests {j} to {i} too close: {requests:#?}");
        }
    }
    assert!(!requests.iter().any(|r| r.status == 429), "{requests:#?}");
}

/// The lines that a role logged, available once it has ended.
pub type Log = tokio::task::JoinHandle<Vec<String>>;

/// A standalone worker. It is stopped when dropped.
pub struct Worker {
    pub pid: u32,
    pub scratch: PathBuf,
    child: Child,
}

impl Worker {
    pub fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    pub async fn over(&mut self) -> ExitStatus {
        let end = tokio::time::timeout(PATIENCE, self.runs()).await;
        end.expect("the worker does not end")
    }

    /// Waits until it ends, however long it works.
    pub async fn runs(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }
}

/// All files below a folder, relative to it, sorted. Others may remove some of them meanwhile.
pub fn files_below(folder: &Path) -> Vec<String> {
    fn walk(base: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(base, &path, found);
            } else {
                found.push(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// Serves `router` on a free port of this machine for as long as the test's runtime lives.
pub async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}
