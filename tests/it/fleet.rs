//! The reconciler with the emulator of Fly's API, whose machines are real workers on a real queue: as many
//! machines as the queue needs and no more, with one request a second, under all kinds of faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tcoder::config::{FlyConfig, RedisConfig};
use tcoder::controller::fleet::FleetPolicy;
use tcoder::controller::reconciler::{
    InvocationBudget, InvocationOutcome, OneShotReconciler, Reconciler, ReconcilerDeps,
};
use tcoder::flyprovider::emulator::{EmulatedCall, EmulatorHandle, Fault, Request};
use tcoder::flyprovider::{self, Fly, FlyMachine, MachineState};
use tcoder::metrics::Metrics;
use tcoder::queue::{FleetMachine, FleetStatus, Queue, RequestRate};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::clips::{clip, half_minute};
use crate::support::fly::FlyGuard;
use crate::support::process::{descendants, processes, send};
use crate::support::system::{PATIENCE, Setup, System, keeps_to_one_a_second};

pub async fn soon<T>(what: &str, done: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, done).await.unwrap_or_else(|_| panic!("it did not come to pass: {what}"))
}

/// An installation without workers, and an emulated Fly.
pub struct Cloud {
    pub system: System,
    pub fly: EmulatorHandle,
    pub queue: Queue,
    metrics: Arc<Metrics>,
    _stop: FlyGuard,
}

/// A reconciler in this process.
pub struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        soon("the reconciler ends", self.task).await.unwrap();
    }
}

pub fn policy(max: u32) -> FleetPolicy {
    FleetPolicy {
        max,
        regions: vec!["iad".into()],
        idle_timeout: Duration::from_secs(1),
        ..flyprovider::policy::defaults("clips", "worker:1")
    }
}

impl Cloud {
    async fn new() -> Self {
        let system = Setup::default().workers(0).start().await;
        let fly = system.fly("clips").await;
        Self::over(system, fly).await
    }

    /// Combines an installation with an emulated Fly whose machines work for it.
    pub async fn over(system: System, (fly, stop): (EmulatorHandle, FlyGuard)) -> Self {
        let redis = RedisConfig::new(system.redis_url(), "");
        let queue = Queue::connect(&redis).await.unwrap();
        Self { system, fly, queue, metrics: Metrics::new(), _stop: stop }
    }

    fn reconciler(&self, name: &str, policy: FleetPolicy, config: &FlyConfig) -> Running {
        self.follows(name, watch::channel(policy).1, config)
    }

    /// Starts a reconciler whose policy can change.
    pub fn follows(&self, name: &str, policy: watch::Receiver<FleetPolicy>, config: &FlyConfig) -> Running {
        let stop = CancellationToken::new();
        let parts = ReconcilerDeps {
            queue: self.queue.clone(),
            provider: Fly::new(config).unwrap(),
            rate: RequestRate::default(),
            policy,
            status: watch::Sender::new(None),
            environment: BTreeMap::new(),
            holder: name.into(),
            metrics: Arc::clone(&self.metrics),
        };
        Running { task: tokio::spawn(Reconciler::new(parts).run(stop.clone())), stop }
    }

    fn with(&self, name: &str, max: u32) -> Running {
        self.reconciler(name, policy(max), &self.fly.fly_config())
    }

    pub async fn jobs(&self, count: usize) -> Vec<String> {
        let job_request =
            json!({"preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"});
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.system.upload(clip(), &job_request).await);
        }
        ids
    }

    pub async fn all_completed(&self, ids: &[String]) -> Vec<Value> {
        let mut jobs = Vec::new();
        for id in ids {
            jobs.push(self.system.completed(id).await);
        }
        jobs
    }

    pub async fn until(&self, what: &str, is: impl Fn(&[FlyMachine]) -> bool) {
        soon(what, self.fly.until(is)).await;
    }

    /// Waits until the published status satisfies `is`.
    pub async fn says(&self, what: &str, is: impl Fn(&FleetStatus) -> bool) -> FleetStatus {
        let look = async {
            loop {
                if let Some(status) = self.queue.fleet().await.unwrap().0.filter(&is) {
                    return status;
                }
                // A key in Redis has no event, so it is polled.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        soon(what, look).await
    }

    /// Waits until this many jobs are ready for a worker.
    pub async fn queue_has(&self, count: u64) {
        let look = async {
            while self.queue.stats().await.unwrap().pending < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        soon("jobs are ready", look).await;
    }

    pub fn writes(&self) -> Vec<Request> {
        self.fly.requests().into_iter().filter(|r| r.action != EmulatedCall::List).collect()
    }

    fn keeps_to_one_a_second(&self) {
        keeps_to_one_a_second(&self.fly);
    }
}

pub fn count(machines: &[FlyMachine], state: &MachineState) -> usize {
    machines.iter().filter(|m| m.state == *state).count()
}

pub fn there(machines: &[FlyMachine]) -> usize {
    machines.iter().filter(|m| !m.state.is_gone()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_runs_sixty_jobs_on_five_machines_and_stops_them() {
    let cloud = Cloud::new().await;
    let running = cloud.with("one", 5);
    let ids = cloud.jobs(60).await;
    cloud.until("five machines run", |all| count(all, &MachineState::Started) == 5).await;
    // Two of them are killed, whatever they are doing.
    for machine in cloud.fly.machines().iter().take(2) {
        if let Some(pid) = cloud.fly.pid(&machine.id) {
            send(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    let jobs = cloud.all_completed(&ids).await;
    assert!(jobs.iter().all(|job| job["attempt"].as_u64() <= Some(2)), "{jobs:#?}");
    let all_rest = |all: &[FlyMachine]| {
        let rest = [MachineState::Stopped, MachineState::Destroyed];
        all.iter().all(|m| rest.contains(&m.state))
    };
    cloud.until("all machines rest", all_rest).await;
    assert!(there(&cloud.fly.machines()) <= 5);
    cloud.keeps_to_one_a_second();
    // They exited by themselves: none was stopped.
    assert!(cloud.writes().iter().all(|r| matches!(r.action, EmulatedCall::Create | EmulatedCall::Start)));

    // The next job starts a stopped machine; none is created.
    let made = cloud.writes().iter().filter(|r| r.action == EmulatedCall::Create).count();
    let next = cloud.jobs(1).await;
    cloud.all_completed(&next).await;
    let creates = cloud.writes().iter().filter(|r| r.action == EmulatedCall::Create).count();
    assert_eq!((made, creates), (5, 5));
    running.stop().await;
    cloud.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_lock_passes_to_another_reconciler_without_extra_machines() {
    let cloud = Cloud::new().await;
    let first = cloud.with("first", 2);
    cloud.says("the first acts", |status| status.reconciler == "first").await;
    let ids = cloud.jobs(1).await;
    let second = cloud.with("second", 2);
    cloud.all_completed(&ids).await;
    cloud.until("its machine rests", |all| count(all, &MachineState::Stopped) == there(all)).await;
    // Like a process that dies: it releases nothing.
    first.task.abort();
    let ids = cloud.jobs(3).await;
    let status = cloud.says("the second acts", |status| status.reconciler == "second").await;
    assert!(status.epoch >= 2, "{status:?}");
    cloud.all_completed(&ids).await;
    cloud.until("all machines rest", |all| count(all, &MachineState::Stopped) == there(all)).await;
    assert!(there(&cloud.fly.machines()) <= 2);
    cloud.keeps_to_one_a_second();

    // A reconciler that stops in order lets the next one act at once.
    let third = cloud.with("third", 2);
    second.stop().await;
    let ids = cloud.jobs(1).await;
    cloud.says("the third acts", |status| status.reconciler == "third").await;
    cloud.all_completed(&ids).await;
    third.stop().await;
    cloud.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_paused_plans_only_and_continues_when_resumed() {
    let cloud = Cloud::new().await;
    cloud.queue.fleet_pause(Some("moving house".into())).await.unwrap();
    // Its machines stay, so that a status cannot miss them.
    let stays = FleetPolicy { idle_timeout: Duration::ZERO, ..policy(3) };
    let running = cloud.reconciler("one", stays, &cloud.fly.fly_config());
    let ids = cloud.jobs(2).await;
    let would = cloud.says("what it would do", |s| s.paused && s.plan.len() == 2).await;
    let steps: Vec<_> = would.plan.iter().map(|s| (s.action.as_str(), s.machine.as_str())).collect();
    assert_eq!(steps, [("create", "clips-worker-01"), ("create", "clips-worker-02")]);
    assert!(would.plan[0].reason.contains("2 jobs wait"), "{would:?}");
    assert!(would.conditions.iter().any(|c| c.message.contains("tcoder fleet resume")), "{would:?}");
    assert_eq!(cloud.writes(), []);
    assert!(cloud.queue.fleet_resume().await.unwrap());
    cloud.all_completed(&ids).await;
    let is_listed = |m: &FleetMachine| m.running_since.is_some() && m.created_at.is_some();
    let goes_on = |s: &FleetStatus| !s.paused && s.plan.is_empty() && !s.machines.is_empty();
    cloud.says("it goes on", |s| goes_on(s) && s.machines.iter().all(is_listed)).await;
    running.stop().await;
    cloud.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_fly_token_or_app_stops_writes_and_is_reported() {
    let cloud = Cloud::new().await;
    let ids = cloud.jobs(1).await;
    let right = cloud.fly.fly_config();
    let token: SecretString = "hush-hush-wrong-token".into();
    let wrong_token = FlyConfig { token, ..right.clone() };
    let running = cloud.reconciler("wrong-token", policy(2), &wrong_token);
    let status =
        cloud.says("the token is wrong", |s| s.conditions.iter().any(|c| c.reason == "Unauthorized")).await;
    assert_eq!(status.conditions.len(), 1, "{status:?}");
    assert!(status.conditions[0].message.contains("FLY_API_TOKEN"), "{status:?}");
    assert!(!serde_json::to_string(&status).unwrap().contains("hush"));
    running.stop().await;

    let wrong_app = FlyConfig { app: "clops".into(), ..right.clone() };
    let running = cloud.reconciler("wrong-app", policy(2), &wrong_app);
    let status =
        cloud.says("the app is wrong", |s| s.conditions.iter().any(|c| c.reason == "NoSuchApp")).await;
    assert_eq!((status.reconciler.as_str(), status.conditions.len()), ("wrong-app", 1));
    assert!(status.conditions[0].message.contains("FLY_WORKER_APP"), "{status:?}");
    running.stop().await;
    assert_eq!(cloud.writes(), []);

    let running = cloud.reconciler("right", policy(2), &right);
    cloud.all_completed(&ids).await;
    let text = cloud.metrics.encode(tcoder::metrics::ExpositionFormat::OpenMetrics);
    assert!(text.contains("unauthorized") && !text.contains("hush"), "{text}");
    running.stop().await;
    cloud.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_completes_jobs_despite_faults_of_fly() {
    let cloud = Cloud::new().await;
    let say = |action, fault| cloud.fly.inject(action, fault, 1);
    say(EmulatedCall::List, Fault::Status { status: 503 });
    say(EmulatedCall::Create, Fault::RateLimited { retry_after: Some(2) });
    say(EmulatedCall::Create, Fault::LostReply);
    say(EmulatedCall::Create, Fault::HostFull);
    say(EmulatedCall::Start, Fault::LostReply);
    let running = cloud.with("one", 3);
    let ids = cloud.jobs(6).await;
    cloud.all_completed(&ids).await;
    cloud.until("all machines rest", |all| count(all, &MachineState::Stopped) == there(all)).await;
    assert!(there(&cloud.fly.machines()) <= 3);
    let names: std::collections::BTreeSet<_> = cloud.fly.machines().into_iter().map(|m| m.name).collect();
    assert!(names.len() <= 3, "{names:?}");
    running.stop().await;
    cloud.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_process_runs_the_fleet_and_exits_on_sigterm() {
    let cloud = Cloud::new().await;
    let config = cloud.fly.fly_config();
    let (api, token) = (config.base.to_string(), config.token.expose_secret().to_owned());
    let variables = [
        ("FLY_API_TOKEN", token.as_str()),
        ("FLY_WORKER_APP", "clips"),
        ("FLY_WORKER_IMAGE", "worker:1"),
        ("FLY_API_HOSTNAME", api.as_str()),
        ("WORKER_IDLE_TIMEOUT", "1"),
    ];
    let args = ["controller", "--listen", "127.0.0.1:0"];
    for missing in ["FLY_API_TOKEN", "FLY_WORKER_APP", "FLY_WORKER_IMAGE"] {
        let rest: Vec<_> = variables.iter().copied().filter(|(name, _)| *name != missing).collect();
        let (code, said) = cloud.system.role_fails(&args, &rest).await;
        assert!(code == Some(5) && said.contains(&format!("{missing} is not set")), "{code:?}: {said}");
    }
    let (mut child, url, log) = cloud.system.server(&args, &variables).await;
    let get = |path: &str| {
        let request = cloud.system.http.get(format!("{url}{path}"));
        async { request.send().await.unwrap().text().await.unwrap() }
    };
    assert_eq!((get("/livez").await, get("/readyz").await), ("ok\n".into(), "ready\n".into()));
    let ids = cloud.jobs(2).await;
    cloud.all_completed(&ids).await;
    cloud.until("all machines rest", |all| count(all, &MachineState::Stopped) == there(all)).await;
    let metrics = get("/metrics").await;
    for line in ["tcoder_fleet_machines_desired", "action=\"create\"", "tcoder_redis_up 1"] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    send(child.id().unwrap(), nix::sys::signal::Signal::SIGTERM);
    assert!(soon("it ends", child.wait()).await.unwrap().success());
    let log = log.await.unwrap().join("\n");
    assert!(log.contains("clips-worker-01") && !log.contains(&token), "{log}");
    cloud.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_fly_token_is_logged_once() {
    let cloud = Cloud::new().await;
    let api = cloud.fly.url().to_string();
    let variables = [
        ("FLY_API_TOKEN", "hush-hush-wrong-token"),
        ("FLY_WORKER_APP", "clips"),
        ("FLY_WORKER_IMAGE", "worker:1"),
        ("FLY_API_HOSTNAME", api.as_str()),
    ];
    let args = ["controller", "--listen", "127.0.0.1:0"];
    let (mut child, _, log) = cloud.system.server(&args, &variables).await;
    let wrong = |s: &FleetStatus| s.conditions.iter().any(|c| c.reason == "Unauthorized");
    cloud.jobs(1).await;
    cloud.says("the token is wrong", wrong).await;
    let mut redis = cloud.system.redis();
    let mut held = || redis::cmd("HGET").arg("fleet:lock").arg("until").query::<i64>(&mut redis).unwrap();
    for _ in 0..3 {
        // Each job makes it observe again and keep the lock.
        let before = held();
        cloud.jobs(1).await;
        let look = async {
            while held() == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        soon("another look", look).await;
    }
    send(child.id().unwrap(), nix::sys::signal::Signal::SIGTERM);
    assert!(soon("it ends", child.wait()).await.unwrap().success());
    let log = log.await.unwrap();
    let said: Vec<_> = log.iter().filter(|line| line.contains("set FLY_API_TOKEN")).collect();
    assert_eq!(said.len(), 1, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("hush")), "{log:#?}");
    assert_eq!(cloud.writes(), []);
    cloud.system.stop().await;
}

#[tokio::test]
async fn up_starts_and_stops_machines_with_the_jobs() {
    let system = Setup::default().workers(2).coming_and_going().env("WORKER_IDLE_TIMEOUT", "1").start().await;
    let workers =
        |pid| descendants(pid).into_iter().filter(|p| p.command.contains(" worker")).collect::<Vec<_>>();
    assert!(workers(system.pid).is_empty());
    let job_request = json!({"preset": "web-optimized", "outputQualities": ["720p"], "fileName": "long.mp4"});
    let id = system.upload(half_minute(), &job_request).await;
    let (_, encode) = system.pause_encode(&id).await;
    let up = workers(system.pid);
    assert_eq!(up.len(), 1, "{up:?}");
    encode.resume();
    system.completed(&id).await;
    crate::support::process::all_gone(&up).await;
    system.stop().await;
    assert!(!processes().iter().any(|p| up.iter().any(|u| u.pid == p.pid && u.command == p.command)));
}

fn visitor(cloud: &Cloud) -> OneShotReconciler<Fly> {
    OneShotReconciler {
        queue: cloud.queue.clone(),
        provider: Fly::new(&cloud.fly.fly_config()).unwrap(),
        policy: policy(2),
        environment: BTreeMap::new(),
        group: "visitor".into(),
        rate: RequestRate::default(),
    }
}

/// A one-shot reconciler that runs when a job arrives: each run starts a machine with a handful of round
/// trips.
#[tokio::test]
async fn one_shot_reconciler_creates_a_machine_and_later_restarts_it() {
    let cloud = Cloud::new().await;
    let visitor = visitor(&cloud);
    // The first run finds that the installation's own reconciler, which has no machines, acted last.
    let room = InvocationBudget { requests: 2, trips: 6, time: Duration::from_secs(20) };
    // The second run waits until the lock of the first has expired.
    for (verb, most) in [(EmulatedCall::Create, 5), (EmulatedCall::Start, 5)] {
        let ids = cloud.jobs(1).await;
        cloud.queue_has(1).await;
        let before = cloud.writes().len();
        let (_, end, trips) = visitor.run(&[], room).await.unwrap();
        let asked: Vec<EmulatedCall> = cloud.writes()[before..].iter().map(|r| r.action).collect();
        assert_eq!(asked, [verb], "{end:?} after {trips} round trips");
        assert_ne!(end, InvocationOutcome::NotLeader);
        assert!(trips <= most, "{trips} round trips");
        cloud.all_completed(&ids).await;
        cloud.until("its machine rests", |all| count(all, &MachineState::Stopped) == 1).await;
    }
    cloud.keeps_to_one_a_second();
}
