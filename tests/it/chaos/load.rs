//! The jobs of a run, and the clients that submit them. Which jobs is a pure function of the seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tcoder::job::JobId;
use tokio::sync::watch;
use tokio::time::sleep;

use super::redis_pair::now;
use crate::support::clips::made;
use crate::support::system::http;

/// The key of a video that some jobs share.
pub const SHARED_INPUT: &str = "videos/clip.mp4";
/// The key of a video that is long enough to be encoded in parts.
pub const LONG_INPUT: &str = "videos/long.mp4";
/// The pause before a client tries again.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a client waits for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Jobs that are in the system at the same time.
const IN_FLIGHT: usize = 100;

/// How the video of a job gets into the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is there before.
    Shared,
    /// It is there before, and is encoded in parts.
    Parts,
    /// The client uploads it and tells the API.
    Reported,
    /// The client uploads it, and storage tells the Worker.
    Noticed,
}

/// A job that a client wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub id: JobId,
    pub way: Way,
    /// Whether the input is a video.
    pub good: bool,
    pub preset: &'static str,
    pub qualities: &'static [&'static str],
    pub stills: &'static [&'static str],
    pub max_attempts: u32,
}

/// The jobs of a run.
pub fn plans(seed: u64, count: usize) -> Vec<Plan> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x6a6f_6273);
    (0..count).map(|_| plan(&mut rng)).collect()
}

fn plan(rng: &mut StdRng) -> Plan {
    let id = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
    let good = rng.random_bool(0.97);
    let way = match rng.random_range(0..10) {
        0..4 if good => Way::Shared,
        0..7 => Way::Reported,
        _ => Way::Noticed,
    };
    let (preset, qualities, stills): (_, &[_], &[_]) = match rng.random_range(0..20) {
        0..14 => ("default", &[], &[]),
        14..17 => ("web-optimized", &["144p"], &[]),
        17..19 => ("web-optimized", &["144p"], &["poster"]),
        _ => ("hls-adaptive", &["144p"], &[]),
    };
    // The sound and the chunks of a video in parts have attempts of their own.
    let (way, preset, qualities) = match rng.random_range(0..10) {
        0 if good => (Way::Parts, ["hls-adaptive", "web-optimized"][rng.random_range(0..2)], &["144p"][..]),
        _ => (way, preset, qualities),
    };
    let max_attempts = [1, 3, 3, 5][rng.random_range(0..4)];
    Plan { id: id.to_string().parse().unwrap(), way, good, preset, qualities, stills, max_attempts }
}

impl Plan {
    /// The request, and its path.
    fn request(&self, webhook: &str) -> (&'static str, Value) {
        let mut body = json!({
            "jobId": self.id,
            "preset": self.preset,
            "outputQualities": self.qualities,
            "stills": self.stills,
            "webhookUrl": webhook,
            "maxAttempts": self.max_attempts,
        });
        match self.way {
            Way::Parts => {
                body["inputKey"] = LONG_INPUT.into();
                body["parallelism"] = 3.into();
                ("/api/jobs", body)
            }
            Way::Shared => {
                body["inputKey"] = SHARED_INPUT.into();
                ("/api/jobs", body)
            }
            Way::Reported | Way::Noticed => {
                body["fileName"] = "clip.mp4".into();
                ("/api/upload", body)
            }
        }
    }
}

/// Half a second of 64x36 with a tone.
pub fn tiny_clip() -> Vec<u8> {
    let recipe = "-f lavfi -i testsrc2=s=64x36:r=10:d=0.5 -f lavfi -i sine=d=0.5 -c:v libx264 -preset ultrafast \
                  -pix_fmt yuv420p -c:a aac -shortest";
    std::fs::read(made("tiny.mp4", recipe)).unwrap()
}

/// Thirteen seconds of the same: four segments.
pub fn long_tiny_clip() -> Vec<u8> {
    let recipe = "-f lavfi -i testsrc2=s=64x36:r=10:d=13 -f lavfi -i sine=d=13 -c:v libx264 -preset ultrafast \
                  -pix_fmt yuv420p -c:a aac -shortest";
    std::fs::read(made("long-tiny.mp4", recipe)).unwrap()
}

/// What a client knows of its job.
#[derive(Clone, Debug)]
struct Sent {
    plan: Plan,
    /// When the system had confirmed all of it.
    accepted: Option<i64>,
    /// It has to be sent again, because a failover forgot something meanwhile.
    again: bool,
}

/// The clients of a run.
#[derive(Clone)]
pub struct Clients {
    pub api: String,
    pub webhook: String,
    clip: Arc<Vec<u8>>,
    http: reqwest::Client,
    sent: Arc<Mutex<BTreeMap<JobId, Sent>>>,
}

impl Clients {
    pub fn of(api: String, webhook: String) -> Self {
        Self { api, webhook, clip: Arc::new(tiny_clip()), http: http(), sent: Arc::default() }
    }

    fn sent(&self) -> MutexGuard<'_, BTreeMap<JobId, Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs that the system has accepted.
    pub fn accepted(&self) -> Vec<Plan> {
        self.sent().values().filter(|sent| sent.accepted.is_some()).map(|sent| sent.plan.clone()).collect()
    }

    /// Submits all of these jobs, at most one in each `interval`.
    pub async fn submit_all(&self, plans: Vec<Plan>, interval: Duration, ended: watch::Receiver<usize>) {
        const CLIENTS: usize = 4;
        let plans = Arc::new(Mutex::new(plans.into_iter()));
        let clients = (0..CLIENTS).map(|_| {
            let (client, plans, mut ended) = (self.clone(), Arc::clone(&plans), ended.clone());
            async move {
                loop {
                    let Some(plan) = plans.lock().unwrap().next() else { return };
                    let has_room = |ended: &usize| client.sent().len() < ended + IN_FLIGHT;
                    ended.wait_for(has_room).await.unwrap();
                    client.send(plan, false).await;
                    sleep(interval * u32::try_from(CLIENTS).unwrap()).await;
                }
            }
        });
        futures::future::join_all(clients).await;
    }

    /// Sends everything again that was confirmed after `cut`, or is being sent: a failover may have forgotten it.
    pub async fn send_again_since(&self, cut: i64) {
        let forgotten: Vec<Plan> = {
            let mut sent = self.sent();
            sent.values_mut().filter(|sent| sent.accepted.is_none()).for_each(|sent| sent.again = true);
            let late = sent.values().filter(|sent| sent.accepted.is_some_and(|at| at >= cut));
            late.map(|sent| sent.plan.clone()).collect()
        };
        futures::future::join_all(forgotten.into_iter().map(|plan| self.send(plan, true))).await;
    }

    /// Submits a job, until all of it is confirmed.
    async fn send(&self, plan: Plan, mut reports: bool) {
        let id = plan.id;
        let new = Sent { plan: plan.clone(), accepted: None, again: false };
        self.sent().entry(id).or_insert(new);
        loop {
            while !self.try_to_send(&plan, reports || plan.way == Way::Reported).await {
                sleep(PAUSE).await;
            }
            let mut all = self.sent();
            let Some(sent) = all.get_mut(&id) else { return };
            if !std::mem::take(&mut sent.again) {
                sent.accepted.get_or_insert_with(now);
                return;
            }
            reports = true;
        }
    }

    /// Returns whether all of the job is confirmed.
    async fn try_to_send(&self, plan: &Plan, reports: bool) -> bool {
        let (path, body) = plan.request(&self.webhook);
        let Some((status, job)) = self.post(path, &body).await else { return false };
        match status {
            200 | 201 => {}
            400..500 => panic!("{path} refuses {body:#}: {status} {job:#}"),
            _ => return false,
        }
        if matches!(plan.way, Way::Shared | Way::Parts) || job["status"] != "uploading" {
            return true;
        }
        let content = if plan.good { self.clip.to_vec() } else { b"this is no video".to_vec() };
        let put = self.http.put(job["uploadUrl"].as_str().unwrap());
        let put = put.header("content-length", content.len()).body(content);
        if !put.timeout(ANSWER).send().await.is_ok_and(|stored| stored.status().is_success()) {
            return false;
        }
        if !reports {
            return true;
        }
        let told = self.post(&format!("/api/jobs/{}/uploaded", plan.id), &Value::Null).await;
        told.is_some_and(|(status, _)| status == 200)
    }

    async fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self.http.post(format!("{}{path}", self.api)).json(body).timeout(ANSWER);
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }
}
