//! A rolling upgrade with the real binaries of the version before and of this one, on one Redis and one S3 server, in
//! both orders and back again. `make test-upgrade` builds the former (`hack/previous.sh`) and runs this; what of it
//! needs no binary is in `tests/it/queue/versions.rs`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use support::objects::{self, ObjectServer, keys_below, put_input};
use support::process::{bare, send, spawn};
use support::redis::{self, PrivateRedis, private_redis};
use support::system::{PATIENCE, WEBHOOK_SECRET, folder, http, serve};
use tokio::process::Child;

/// A version of tcoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Before,
    This,
}

use Version::{Before, This};

impl Version {
    fn binary(self) -> String {
        match self {
            Before => std::env::var("TCODER_PREVIOUS").expect(
                "TCODER_PREVIOUS must name the binary of the version before; run `make test-upgrade`",
            ),
            This => env!("CARGO_BIN_EXE_tcoder").to_owned(),
        }
    }
}

/// Messages by job: the ids under which they came, and their types.
type Messages = Arc<Mutex<BTreeMap<String, BTreeSet<(String, String)>>>>;

async fn receive(State(messages): State<Messages>, headers: HeaderMap, body: Bytes) {
    Webhook::new(WEBHOOK_SECRET).unwrap().verify(&body, &headers).expect("the signature is wrong");
    let message: Value = serde_json::from_slice(&body).unwrap();
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut messages = messages.lock().unwrap();
    messages.entry(text(&message["data"]["jobId"])).or_default().insert((id, text(&message["type"])));
}

/// A role that runs.
struct Role {
    child: Child,
    /// Where an API listens.
    url: String,
}

impl Role {
    /// Stops it as a rolling update does.
    async fn stop(mut self) {
        send(self.child.id().unwrap(), Signal::SIGTERM);
        let status =
            tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it does not stop").unwrap();
        assert!(status.success(), "{status}");
    }
}

/// What both versions share.
struct Site {
    redis: PrivateRedis,
    storage: ObjectServer,
    dir: PathBuf,
    http: reqwest::Client,
    messages: Messages,
    receiver: String,
    jobs: Vec<String>,
}

impl Site {
    async fn new() -> Self {
        let messages = Messages::default();
        let hook = axum::Router::new().route("/hook", axum::routing::post(receive));
        let receiver = format!("{}/hook", serve(hook.with_state(Arc::clone(&messages))).await);
        let (redis, storage) = (private_redis(&[]), ObjectServer::start().await);
        let clip = std::fs::read(support::clips::normal()).unwrap();
        put_input(&storage.config, "films/normal.mp4", clip).await;
        Self { redis, storage, dir: folder("upgrade"), http: http(), messages, receiver, jobs: Vec::new() }
    }

    fn role(&self, version: Version, args: &[&str]) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = bare(&version.binary());
        command
            .args(args)
            .envs(redis::environment(&self.redis.config()))
            .envs(objects::environment(&self.storage.config))
            .env("WEBHOOK_SECRET", WEBHOOK_SECRET)
            .env("ALLOW_PRIVATE_URLS", "true")
            .env("WORKER_SCRATCH_DIR", &self.dir)
            .env("WORKER_IDLE_TIMEOUT", "0")
            .env("WORKER_TTL", "0")
            .env("FLY_MACHINE_ID", format!("{version:?}"))
            .stdout(Stdio::null())
            .stderr(log);
        spawn(command)
    }

    fn worker(&self, version: Version) -> Role {
        Role { child: self.role(version, &["worker"]), url: String::new() }
    }

    /// Starts an API and waits until it answers.
    async fn api(&self, version: Version) -> Role {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let child = self.role(version, &["api", "--listen", &format!("127.0.0.1:{port}")]);
        let url = format!("http://127.0.0.1:{port}");
        let answers = async {
            while self.http.get(format!("{url}/livez")).send().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, answers).await.unwrap_or_else(|_| panic!("{}", self.log()));
        Role { child, url }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    async fn submit(&mut self, api: &Role, count: usize) {
        for _ in 0..count {
            let body = json!({"inputKey": "films/normal.mp4", "preset": "web-optimized",
                "outputQualities": ["144p"], "webhookUrl": self.receiver});
            let answer = self.http.post(format!("{}/api/jobs", api.url)).json(&body).send().await.unwrap();
            assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
            let job: Value = answer.json().await.unwrap();
            self.jobs.push(job["jobId"].as_str().unwrap().to_owned());
        }
    }

    /// All jobs in the listing of this API.
    async fn list(&self, api: &Role) -> Vec<Value> {
        let page: Value = self
            .http
            .get(format!("{}/api/jobs?limit=100", api.url))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert!(page.get("unreadable").is_none(), "{page:#}");
        page["jobs"].as_array().unwrap().clone()
    }

    /// Waits until all jobs have ended, and checks how.
    async fn all_completed_once(&self, apis: &[&Role]) {
        let all = async {
            loop {
                let ended =
                    |job: &Value| ["completed", "failed", "cancelled"].iter().any(|s| job["status"] == *s);
                let jobs = self.list(apis[0]).await;
                let told = self.messages.lock().unwrap().len();
                if jobs.len() == self.jobs.len() && jobs.iter().all(ended) && told == jobs.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let log = || self.log();
        tokio::time::timeout(PATIENCE, all)
            .await
            .unwrap_or_else(|_| panic!("some jobs do not end:\n{}", log()));
        for api in apis {
            for job in self.list(api).await {
                let seen = (&job["status"], &job["attempt"]);
                assert_eq!(seen, (&json!("completed"), &json!(1)), "{job:#}\n{}", self.log());
            }
        }
        for (id, messages) in &*self.messages.lock().unwrap() {
            assert_eq!(messages.len(), 1, "{id}: {messages:?}");
            assert_eq!(messages.first().unwrap().1, "job.completed");
            let keys = keys_below(&self.storage.config, "output", &format!("outputs/{id}")).await;
            assert_eq!(keys.iter().filter(|key| key.ends_with("144p.mp4")).count(), 1, "{id}: {keys:?}");
        }
    }
}

/// The versions of the API and of the worker, one step of an upgrade after the other. The roles of two steps run side by
/// side while jobs are submitted through both.
async fn roll(steps: &[(Version, Version)]) {
    let mut site = Site::new().await;
    let mut running: Option<(Role, Role)> = None;
    for (api, worker) in steps {
        let next = (site.api(*api).await, site.worker(*worker));
        site.submit(&next.0, 4).await;
        if let Some((api, worker)) = running.replace(next) {
            site.submit(&api, 4).await;
            // A job is in its hands, most likely: it goes to the other one.
            worker.stop().await;
            site.submit(&api, 2).await;
            api.stop().await;
        }
    }
    let (api, worker) = running.unwrap();
    let other = site.api(if steps.last().unwrap().0 == This { Before } else { This }).await;
    site.all_completed_once(&[&api, &other]).await;
    worker.stop().await;
    api.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_of_workers_first_loses_and_fails_no_job() {
    roll(&[(Before, Before), (Before, This), (This, This)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_of_the_api_first_loses_and_fails_no_job() {
    roll(&[(Before, Before), (This, Before), (This, This)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_loses_and_fails_no_job() {
    roll(&[(This, This), (This, Before), (Before, Before)]).await;
}
