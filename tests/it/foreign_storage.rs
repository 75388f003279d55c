//! A job with third-party S3 servers: uploaded, encoded, and downloaded, as files and as HLS.

use std::path::Path;
use std::process::Stdio;

use secrecy::ExposeSecret as _;
use serde_json::Value;
use tcoder::config::StorageConfig;
use tokio::process::{Child, Command};

use crate::support::clips::{clip, probe};
use crate::support::kube::free_port;
use crate::support::objects::{self, client, keys_below};
use crate::support::process::{err, out, run, spawn, tcoder};
use crate::support::redis;
use crate::support::system::{self, PATIENCE, folder, http};

/// One of the servers of hack/s3-server.sh. It ends when dropped.
struct Server {
    config: StorageConfig,
    _child: Child,
}

impl Server {
    /// Starts the server, and waits until it has both buckets.
    async fn start(name: &str, keys: (&str, &str)) -> Self {
        let (port, dir) = (free_port(), folder(name));
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/s3-server.sh"));
        command.args([name, &port.to_string(), dir.to_str().unwrap()]).stdin(Stdio::null()).stderr(log);
        let child = spawn(command);
        let config = StorageConfig {
            endpoint: format!("http://127.0.0.1:{port}").parse().unwrap(),
            public_url: None,
            region: "us-east-1".into(),
            access_key_id: keys.0.into(),
            secret_access_key: keys.1.to_owned().into(),
            input_bucket: "input".into(),
            output_bucket: "output".into(),
        };
        let s3 = client(&config);
        let ready = async {
            for bucket in ["input", "output"] {
                while s3.head_bucket().bucket(bucket).send().await.is_err() {
                    // This fails until the server listens, and if the bucket exists.
                    let _ = s3.create_bucket().bucket(bucket).send().await;
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        };
        let log = || std::fs::read_to_string(dir.join("log")).unwrap();
        tokio::time::timeout(PATIENCE, ready).await.unwrap_or_else(|_| panic!("{name}: {}", log()));
        Self { config, _child: child }
    }
}

/// Starts a role of the binary with this server and this Redis, which logs into `dir`. It ends when dropped.
fn role(args: &[&str], environment: &[(&str, String)], dir: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = tcoder();
    command.args(args).envs(environment.iter().map(|(name, value)| (name, value)));
    command.env("RUST_LOG", "info").stdout(Stdio::null()).stderr(log);
    spawn(command)
}

async fn a_job_goes_up_and_comes_down(server: Server) {
    let (redis, dir) = (redis::shared(), folder("foreign"));
    let mut environment = objects::environment(&server.config);
    environment.extend([
        ("REDIS_URL", redis.url.expose_secret().to_owned()),
        ("REDIS_KEY_PREFIX", redis.prefix.clone()),
        ("WEBHOOK_SECRET", system::WEBHOOK_SECRET.to_owned()),
        ("WORKER_SCRATCH_DIR", dir.to_str().unwrap().to_owned()),
        ("WORKER_IDLE_TIMEOUT", "0".to_owned()),
        ("WORKER_TTL", "0".to_owned()),
        ("FLY_MACHINE_ID", "worker".to_owned()),
    ]);
    let listen = format!("127.0.0.1:{}", free_port());
    let _api = role(&["api", "--listen", &listen], &environment, &dir);
    let _worker = role(&["worker"], &environment, &dir);
    let (url, log) = (format!("http://{listen}"), || std::fs::read_to_string(dir.join("log")).unwrap());
    let ready = async {
        while !http().get(format!("{url}/readyz")).send().await.is_ok_and(|answer| answer.status() == 200) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap_or_else(|_| panic!("the API is not ready: {}", log()));

    let env = [("TCODER_URL", &*url)];
    let film = clip().to_str().unwrap();
    let files = ["submit", film, "--quality", "144p", "--poster", "--output", "files", "--json"];
    let done = run(&files, &env, &dir).await;
    assert!(done.status.success(), "{}\n{}", err(&done), log());
    assert_eq!(probe(dir.join("files/144p.mp4").to_str().unwrap())["streams"][0]["width"], 256);
    assert!(dir.join("files/poster.jpg").exists());
    let job: Value = serde_json::from_str(&out(&done)).unwrap();
    let id = job["jobId"].as_str().unwrap();
    let stored = keys_below(&server.config, "output", &format!("outputs/{id}")).await;
    assert!(stored.iter().any(|key| key.ends_with("/144p.mp4")), "{stored:?}");

    let hls = ["submit", film, "--preset", "hls-adaptive", "--quality", "144p", "--output", "hls"];
    let done = run(&hls, &env, &dir).await;
    assert!(done.status.success(), "{}\n{}", err(&done), log());
    let played = probe(dir.join("hls/master.m3u8").to_str().unwrap());
    let widths = played["streams"].as_array().unwrap().iter().filter_map(|stream| stream["width"].as_u64());
    assert_eq!(widths.max(), Some(256), "{played}");
}

#[tokio::test]
async fn job_runs_on_moto() {
    a_job_goes_up_and_comes_down(Server::start("moto", ("key", "secret")).await).await;
}

#[tokio::test]
async fn job_runs_on_s3rver() {
    a_job_goes_up_and_comes_down(Server::start("s3rver", ("S3RVER", "S3RVER")).await).await;
}
