//! The real roles on Redis as it is hosted: a cluster, TLS, a server that loads its data, connections that go silent, and
//! settings that may lose jobs.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use tcoder::config::{Certificates, RedisConfig};
use tcoder::job::{Input, Job, JobId, JobSpec, Ladder, Preset, Quality, State};
use tcoder::queue::{Queue, SubmitMode};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::support::clips::{long_clip, normal};
use crate::support::kube::free_port;
use crate::support::objects::{self, ObjectServer, put_input};
use crate::support::process::{encoders, eventually, send, spawn, tcoder};
use crate::support::redis::{self as redis_server, private_redis, raw};
use crate::support::redis_cluster::RedisCluster;
use crate::support::redis_loading::{SlowToLoad, is_loading};
use crate::support::redis_tls::TlsRedis;
use crate::support::system::{PATIENCE, folder, http};
use crate::support::tcp_proxy::TcpProxy;

/// Storage, and roles that log into one folder.
struct Roles {
    storage: ObjectServer,
    dir: PathBuf,
}

impl Roles {
    async fn new(name: &str) -> Self {
        Self { storage: ObjectServer::start().await, dir: folder(name) }
    }

    /// Starts a role on this Redis, which logs into a file with this name. It ends when dropped.
    fn start(&self, args: &[&str], redis: &RedisConfig, name: &str) -> Child {
        let scratch = self.dir.join(format!("scratch-{name}"));
        std::fs::create_dir_all(&scratch).unwrap();
        let mut command = tcoder();
        command
            .args(args)
            .envs(redis_server::environment(redis))
            .envs(objects::environment(&self.storage.config))
            .env("WORKER_SCRATCH_DIR", &scratch)
            .env("WORKER_IDLE_TIMEOUT", "0")
            .env("WORKER_TTL", "0")
            .env("FLY_MACHINE_ID", name)
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.dir.join(name)).unwrap());
        if let Some(Certificates::File(path)) = &redis.ca_cert {
            command.env("REDIS_CA_CERT", path);
        }
        spawn(command)
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    async fn logs(&self, name: &str, words: &str) {
        eventually(&format!("{name} says {words:?}"), || self.log(name).contains(words)).await;
    }

    /// Submits a job with a single attempt.
    async fn submit(&self, queue: &Queue, clip: &std::path::Path) -> JobId {
        let key = format!("inputs/{}.mp4", JobId::new());
        put_input(&self.storage.config, &key, std::fs::read(clip).unwrap()).await;
        let ladder = Ladder::try_from(vec![Quality::P360]).unwrap();
        let input = Input::Key(key.parse().unwrap());
        let spec = JobSpec { max_attempts: 1, ..JobSpec::new(input, Preset::WebOptimized, ladder) };
        let id = JobId::new();
        queue.submit(id, &spec, SubmitMode::Now).await.unwrap();
        id
    }

    /// The job as soon as it has ended; it is completed by its only attempt.
    async fn completes(&self, queue: &Queue, id: JobId, worker: &str) -> Job {
        let ends = async {
            loop {
                match queue.get(id).await {
                    Ok(Some(job)) if job.status.is_terminal() => return job,
                    _ => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let job = timeout(PATIENCE, ends).await.unwrap_or_else(|_| panic!("no end:\n{}", self.log(worker)));
        assert_eq!((job.status, job.attempt), (State::Completed, 1), "{job:#?}\n{}", self.log(worker));
        job
    }
}

#[tokio::test]
async fn worker_on_a_cluster_completes_jobs() {
    let (roles, cluster) = (Roles::new("on-a-cluster").await, RedisCluster::start(0).await);
    let prefix = "{films}:";
    let any = *cluster.nodes.keys().next().unwrap();
    let owner = cluster.owners(any, prefix).primary;
    let stranger = *cluster.nodes.keys().find(|port| **port != owner).unwrap();
    let config = cluster.config(stranger, prefix);
    let queue = Queue::connect(&config).await.unwrap();
    let _worker = roles.start(&["worker"], &config, "worker");
    let id = roles.submit(&queue, &normal()).await;
    roles.completes(&queue, id, "worker").await;

    let mut lost = roles.start(&["worker"], &cluster.config(stranger, "films:"), "lost");
    let ended = timeout(PATIENCE, lost.wait()).await.expect("it does not end").unwrap();
    assert!(!ended.success());
    assert!(roles.log("lost").contains("REDIS_KEY_PREFIX to a text in braces"), "{}", roles.log("lost"));
}

#[tokio::test]
async fn worker_over_tls_completes_jobs() {
    let (roles, server) = (Roles::new("over-tls").await, TlsRedis::start("DNS:localhost"));
    let config = server.config(Some(Certificates::File(server.authority(true))));
    let queue = Queue::connect(&config).await.unwrap();
    let _worker = roles.start(&["worker"], &config, "worker");
    let id = roles.submit(&queue, &normal()).await;
    roles.completes(&queue, id, "worker").await;

    let mut wary = roles.start(&["worker"], &server.config(None), "wary");
    let ended = timeout(PATIENCE, wary.wait()).await.expect("it does not end").unwrap();
    assert!(!ended.success());
    assert!(roles.log("wary").contains("set REDIS_CA_CERT"), "{}", roles.log("wary"));
}

#[tokio::test]
async fn worker_whose_connections_go_silent_keeps_its_lease_and_completes_the_job() {
    let roles = Roles::new("silent").await;
    let port = free_port();
    let redis = private_redis(&["--port", &port.to_string()]);
    let proxy = TcpProxy::to(port).await;
    let config = redis.config();
    let queue = Queue::connect(&config).await.unwrap();
    let through = RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port), config.prefix.clone());
    let _worker = roles.start(&["worker"], &through, "worker");
    let id = roles.submit(&queue, long_clip()).await;
    let scratch = roles.dir.join("scratch-worker");
    eventually("FFmpeg encodes", || !encoders(&scratch).is_empty()).await;
    // It must not end before the lease was renewed.
    let encoders = encoders(&scratch);
    encoders.iter().for_each(|encoder| send(encoder.pid, Signal::SIGSTOP));

    proxy.silence();
    let deadline = || -> f64 {
        let key = format!("{}jobs:leases", config.prefix);
        let leases: Vec<(String, f64)> = redis::cmd("ZRANGE")
            .arg(key)
            .arg("0")
            .arg("-1")
            .arg("WITHSCORES")
            .query(&mut raw(&config))
            .unwrap();
        leases.first().map_or(0.0, |(_, deadline)| *deadline)
    };
    let before = deadline();
    assert!(before > 0.0, "{}", roles.log("worker"));
    eventually("the lease is renewed over a new connection", || deadline() > before).await;
    encoders.iter().for_each(|encoder| send(encoder.pid, Signal::SIGCONT));
    roles.completes(&queue, id, "worker").await;
    // Its idle connection, silent too, was replaced: it hears of the next job.
    let next = roles.submit(&queue, &normal()).await;
    roles.completes(&queue, next, "worker").await;
}

#[tokio::test]
async fn roles_wait_while_redis_loads_its_data_and_readyz_says_so() {
    let roles = Roles::new("loading").await;
    let mut server = SlowToLoad::new(&[]);
    let config = server.redis.config();
    server.restart().await;
    let address = format!("127.0.0.1:{}", free_port());
    let _worker = roles.start(&["worker"], &config, "worker");
    let _api = roles.start(&["api", "--listen", &address], &config, "api");
    for role in ["worker", "api"] {
        roles.logs(role, "Redis is not ready; waiting until it is").await;
    }
    server.load();
    let readyz = async || {
        let answer = http().get(format!("http://{address}/readyz")).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    };
    let becomes_ready = async || {
        let waits = async { while readyz().await.is_none_or(|(status, _)| status != 200) {} };
        timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("not ready:\n{}", roles.log("api")));
    };
    becomes_ready().await;
    let queue = Queue::connect(&config).await.unwrap();
    let id = roles.submit(&queue, &normal()).await;
    roles.completes(&queue, id, "worker").await;

    // The same while they run.
    server.restart().await;
    let says_why = async {
        loop {
            // What it found out a moment ago holds for a second.
            let (status, words) = readyz().await.unwrap();
            if status == 503 && words.contains("LOADING") {
                return;
            }
        }
    };
    timeout(PATIENCE, says_why).await.expect("it does not say why");
    assert!(is_loading(&server.redis), "it has loaded its data before the test could look");
    server.load();
    becomes_ready().await;
    assert!(!is_loading(&server.redis));
    let id = roles.submit(&queue, &normal()).await;
    roles.completes(&queue, id, "worker").await;
}

#[tokio::test]
async fn roles_say_once_what_redis_may_lose() {
    const VOLATILE: &str = "Redis appends its changes to no file";
    const UNKNOWN: &str = "Redis does not say whether it evicts keys";
    let roles = Roles::new("durability").await;
    let counted = |name: &str, words: &str| roles.log(name).matches(words).count();
    let volatile = private_redis(&["--appendonly", "no"]);
    let durable = private_redis(&["--appendonly", "yes"]);
    let mute = private_redis(&["--appendonly", "yes", "--rename-command", "CONFIG", ""]);
    mute.tell(&["ACL", "SETUSER", "default", "-info"]);
    let servers = [("volatile", &volatile, 1, 0), ("durable", &durable, 0, 0), ("mute", &mute, 0, 1)];
    for (name, server, warnings, hints) in servers {
        let _worker = roles.start(&["worker"], &server.config(), name);
        roles.logs(name, "worker started").await;
        assert_eq!(
            (counted(name, VOLATILE), counted(name, UNKNOWN)),
            (warnings, hints),
            "{}",
            roles.log(name)
        );
    }
}
