//! The system of a run, and how faults are carried out on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use secrecy::ExposeSecret as _;
use tcoder::flyprovider::emulator::{self, EmulatorHandle};
use tcoder::flyprovider::{MachineId, MachineState};
use tcoder::job::JobId;
use tcoder::queue::Queue;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::clocks::Clocks;
use super::faults::{Clock, Fault, ReceiverFault, Role};
use super::history::{History, leases_of};
use super::load::{Clients, LONG_INPUT, SHARED_INPUT, long_tiny_clip, tiny_clip};
use super::receivers::Receiver;
use super::redis_pair::{RedisPair, now};
use super::roles::{Supervised, signal};
use super::storage::Storage;
use crate::support::edge::{self, Edge};
use crate::support::fly::{self, FlyGuard};
use crate::support::kube::free_port;
use crate::support::objects::{self, put_input};
use crate::support::process::tcoder;
use crate::support::redis;
use crate::support::small_disk;
use crate::support::system::{WEBHOOK_SECRET, folder, http};

/// Machines of the fleet.
pub const MACHINES: usize = 3;
const APP: &str = "chaos";
/// The worker that the fleet knows nothing of, on a small disk.
const SMALL: &str = "small";
/// Its disk, bytes: a job needs 32 MiB and a little.
const DISK: u64 = 40 << 20;

type Environment = Vec<(&'static str, String)>;

pub struct World {
    /// All files of the run.
    pub folder: PathBuf,
    /// The folder that the machines share for the files of jobs.
    pub scratch: PathBuf,
    pub storage: Storage,
    pub queue: Queue,
    pub history: History,
    pub clients: Clients,
    pub receiver: Mutex<Receiver>,
    pub fly: EmulatorHandle,
    pub edge: Arc<Edge>,
    /// Whether a failover has forgotten writes.
    pub forgot: AtomicBool,
    redis: Mutex<RedisPair>,
    pub redis_url: String,
    clocks: Clocks,
    api: Supervised,
    controller: Supervised,
    small: Supervised,
    small_scratch: PathBuf,
    environment: Environment,
    /// Held while one of them is faulty, so that the end of one fault is not that of the next.
    storage_fault: Mutex<()>,
    disk_fault: Mutex<()>,
    clock_fault: Mutex<()>,
    notices: JoinHandle<()>,
    fly_guard: FlyGuard,
}

fn role(environment: &Environment, log: &Path, mut command: Command) -> Command {
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdout(std::process::Stdio::null()).stderr(log);
    command
}

fn with(base: &Environment, more: &[(&'static str, &str)], clock: Environment) -> Environment {
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    base.iter().cloned().chain(more).chain(clock).collect()
}

impl World {
    pub async fn start() -> Self {
        assert!(
            small_disk::there_are() || std::env::var_os("CI").is_none(),
            "CI must be able to mount a disk"
        );
        let folder = folder("chaos");
        let (scratch, small_scratch) = (folder.join("scratch"), folder.join("small"));
        std::fs::create_dir(&scratch).unwrap();
        std::fs::create_dir(&small_scratch).unwrap();
        let log = folder.join("log");
        let redis = RedisPair::start().await;
        let redis_config = redis.config();
        let mut storage = Storage::start(folder.join("objects")).await;
        put_input(&storage.direct, SHARED_INPUT, tiny_clip()).await;
        put_input(&storage.direct, LONG_INPUT, long_tiny_clip()).await;
        let receiver = Receiver::start().await;
        let clocks = Clocks::make(&folder);
        let mut environment: Environment = objects::environment(&storage.through_proxy);
        environment.extend(redis::environment(&redis_config));
        environment.extend([
            ("ALLOW_PRIVATE_URLS", "true".to_owned()),
            ("WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ]);

        let on_machines = [("WORKER_SCRATCH_DIR", scratch.to_str().unwrap())];
        let machine = with(&environment, &on_machines, clocks.environment(Clock::Workers));
        // The emulator gives its machines no place for their logs.
        let program = env!("CARGO_BIN_EXE_tcoder");
        let script = format!("exec \"$0\" worker 2>>{}", log.display());
        let options = emulator::Options {
            app: APP.to_owned(),
            environment: machine.iter().map(|(name, value)| ((*name).into(), value.into())).collect(),
            ..emulator::Options::new(["sh", "-c", script.as_str(), program])
        };
        let (fly, fly_guard) = fly::start(options).await;

        let listen = format!("127.0.0.1:{}", free_port());
        let api = {
            let environment = with(&environment, &[], clocks.environment(Clock::Api));
            let (listen, log) = (listen.clone(), log.clone());
            Supervised::start(move || {
                let mut command = tcoder();
                command.args(["api", "--listen", &listen]);
                role(&environment, &log, command)
            })
        };
        let controller = {
            let config = fly.fly_config();
            let (most, token) = (MACHINES.to_string(), config.token.expose_secret().to_owned());
            let url = config.base.to_string();
            let fleet = [
                ("FLY_API_TOKEN", token.as_str()),
                ("FLY_WORKER_APP", APP),
                ("FLY_WORKER_IMAGE", "worker:1"),
                ("FLY_WORKER_REGIONS", "iad"),
                ("FLY_API_HOSTNAME", &url),
                ("MAX_MACHINES", &most),
                ("WORKER_IDLE_TIMEOUT", "3"),
                ("WORKER_TTL", "60"),
                // A worker cannot start while Redis or storage is away.
                ("FLEET_LAUNCH_FAILURES", "1000"),
            ];
            let environment = with(&environment, &fleet, clocks.environment(Clock::Controller));
            let log = log.clone();
            Supervised::start(move || {
                let mut command = tcoder();
                command.args(["controller", "--listen", "127.0.0.1:0"]);
                role(&environment, &log, command)
            })
        };
        let small = {
            let settings = [
                ("WORKER_SCRATCH_DIR", small_scratch.to_str().unwrap()),
                ("WORKER_IDLE_TIMEOUT", "0"),
                ("WORKER_TTL", "0"),
                ("FLY_MACHINE_ID", SMALL),
            ];
            let environment = with(&environment, &settings, clocks.environment(Clock::Workers));
            let (scratch, log) = (small_scratch.clone(), log.clone());
            Supervised::start(move || {
                let command = if small_disk::there_are() {
                    small_disk::sh(&scratch, DISK, r#"exec "$0" worker"#)
                } else {
                    let mut command = tcoder();
                    command.arg("worker");
                    command
                };
                role(&environment, &log, command)
            })
        };

        let queue = Queue::connect(&redis_config).await.unwrap();
        let history = History::follow(&queue).await;
        let edge = edge::Setup::over(redis.rest_config())
            .set("EDGE_FLEET", "disabled")
            .set("maxRetries", 100)
            .set("retryDelay", 1)
            .start()
            .await;
        let edge = Arc::new(edge);
        let clients = Clients::of(format!("http://{listen}"), receiver.url.clone());
        let mut arriving = storage.events.take().unwrap();
        let notices = {
            let edge = Arc::clone(&edge);
            tokio::spawn(async move {
                while let Some(message) = arriving.recv().await {
                    edge.send(&[serde_json::from_slice(&message).unwrap()]).await;
                }
            })
        };
        let world = Self {
            folder,
            scratch,
            storage,
            queue,
            history,
            clients,
            receiver: Mutex::new(receiver),
            fly,
            edge,
            forgot: AtomicBool::new(false),
            redis: Mutex::new(redis),
            redis_url: redis_config.url.expose_secret().to_owned(),
            clocks,
            api,
            controller,
            small,
            small_scratch,
            environment,
            storage_fault: Mutex::default(),
            disk_fault: Mutex::default(),
            clock_fault: Mutex::default(),
            notices,
            fly_guard,
        };
        world.until_api_is_ready().await;
        world
    }

    async fn until_api_is_ready(&self) {
        let ready = format!("{}/readyz", self.clients.api);
        let client = http();
        while !client.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200) {
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The workers that run: the machine that each is on, and its process.
    fn workers(&self) -> Vec<(String, u32)> {
        let machines = self.fly.machines();
        let started = machines.iter().filter(|machine| machine.state == MachineState::Started);
        let mut workers: Vec<_> =
            started.filter_map(|machine| Some((machine.id.0.clone(), self.fly.pid(&machine.id)?))).collect();
        workers.extend(self.small.pid().map(|pid| (SMALL.to_owned(), pid)));
        workers
    }

    /// A worker with a job, if there is one: the machine that it is on, its process, and its jobs.
    async fn worker(&self, pick: usize) -> Option<(String, u32, Vec<JobId>)> {
        let mut workers = self.workers();
        let first = pick.checked_rem(workers.len())?;
        workers.rotate_left(first);
        for (machine, pid) in &workers {
            let held = self.held_by(machine).await.unwrap_or_default();
            if !held.is_empty() {
                return Some((machine.clone(), *pid, held));
            }
        }
        let (machine, pid) = workers.swap_remove(0);
        Some((machine, pid, Vec::new()))
    }

    async fn kill_worker(&self, pick: usize) {
        let Some((machine, pid, held)) = self.worker(pick).await else { return };
        let at = now();
        if !signal(pid, Signal::SIGKILL) {
            return;
        }
        // Not those that it has completed in the meantime.
        let still = self.held_by(&machine).await.unwrap_or_default();
        self.history.lost_worker(held.into_iter().filter(|job| still.contains(job)).collect(), at);
    }

    /// The jobs that the worker of a machine holds, unless Redis is away.
    async fn held_by(&self, machine: &str) -> Option<Vec<JobId>> {
        let (url, machine) = (self.redis_url.clone(), machine.to_owned());
        tokio::task::spawn_blocking(move || leases_of(&url, &machine).ok()).await.unwrap()
    }

    fn machine(&self, pick: usize) -> Option<MachineId> {
        let machines = self.fly.machines();
        let there: Vec<_> = machines.iter().filter(|machine| !machine.state.is_gone()).collect();
        (!there.is_empty()).then(|| there[pick % there.len()].id.clone())
    }

    const fn role(&self, role: Role) -> &Supervised {
        match role {
            Role::Api => &self.api,
            Role::Controller => &self.controller,
        }
    }

    /// Carries out a fault until it is over.
    pub async fn play(&self, fault: Fault) {
        match fault {
            Fault::KillWorker { pick } => self.kill_worker(pick).await,
            Fault::FreezeWorker { pick, time } => {
                if let Some((_, pid, _)) = self.worker(pick).await
                    && signal(pid, Signal::SIGSTOP)
                {
                    sleep(time).await;
                    signal(pid, Signal::SIGCONT);
                }
            }
            Fault::Kill { role } => self.role(role).kill(),
            Fault::Freeze { role, time } => self.role(role).freeze(time).await,
            Fault::KillRedis { .. }
            | Fault::FreezeRedis { .. }
            | Fault::FailOver
            | Fault::FailOverForgetting { .. }
            | Fault::FlushScripts => self.play_redis(fault).await,
            Fault::Storage { fault, every, time } => {
                let _one = self.storage_fault.lock().await;
                self.storage.play(Some((fault, every)));
                sleep(time).await;
                self.storage.play(None);
            }
            Fault::Fly { action, fault, times } => self.fly.inject(action, fault, times),
            Fault::Machine { pick, happens } => {
                if let Some(machine) = self.machine(pick) {
                    self.fly.happens(&machine, happens);
                }
            }
            Fault::FillDisk { time } => self.fill_disk(time).await,
            Fault::Skew { clock, hours, time } => {
                let _one = self.clock_fault.lock().await;
                self.clocks.set(clock, hours);
                sleep(time).await;
                self.clocks.set(clock, 0);
            }
            Fault::Receivers { fault: ReceiverFault::Down, time } => {
                let mut receiver = self.receiver.lock().await;
                receiver.go_down().await;
                sleep(time).await;
                receiver.come_up().await;
            }
            Fault::Receivers { fault: ReceiverFault::Status(status), time } => {
                let receiver = self.receiver.lock().await;
                receiver.refuse(Some(status));
                sleep(time).await;
                receiver.refuse(None);
            }
        }
    }

    async fn play_redis(&self, fault: Fault) {
        let mut redis = self.redis.lock().await;
        let began = now();
        match fault {
            Fault::KillRedis { time } => redis.kill(time).await,
            Fault::FreezeRedis { time } => redis.freeze(time).await,
            Fault::FailOver => redis.fail_over().await,
            Fault::FailOverForgetting { time } => {
                self.forgot.store(true, Ordering::SeqCst);
                let cut = redis.fail_over_forgetting(time).await;
                self.clients.send_again_since(cut).await;
            }
            _ => return redis.flush_scripts(),
        }
        self.history.outage(began, now());
    }

    /// Fills the small worker's disk, which is seen from here through its process.
    async fn fill_disk(&self, time: Duration) {
        let _one = self.disk_fault.lock().await;
        let Some(pid) = self.small.pid().filter(|_| small_disk::there_are()) else { return };
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let ballast = root.join(self.small_scratch.strip_prefix("/").unwrap()).join("ballast");
        let path = ballast.clone();
        let filled = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            use std::io::Write as _;
            let mut file = std::fs::File::create(path)?;
            for _ in 0..DISK >> 16 {
                file.write_all(&[0; 1 << 16])?;
            }
            Ok(())
        });
        // The disk is full, or went with its worker.
        let _ = filled.await.unwrap();
        sleep(time).await;
        let _ = std::fs::remove_file(ballast);
    }

    /// Restarts the API, whose janitor looks at all uploads when it starts.
    pub async fn restart_api(&self) {
        self.api.kill();
        self.until_api_is_ready().await;
    }

    /// Stops all processes but the machines; then a last worker cleans up behind those that were killed.
    pub async fn stop(self) -> Remaining {
        self.small.stop().await;
        self.controller.stop().await;
        self.api.stop().await;
        self.notices.abort();
        drop(self.fly_guard);
        self.fly.stopped().await;
        let scratch = self.scratch.to_str().unwrap().to_owned();
        let settings = [("WORKER_SCRATCH_DIR", scratch.as_str()), ("WORKER_IDLE_TIMEOUT", "1")];
        let mut last = tcoder();
        last.arg("worker");
        let log = self.folder.join("log");
        let last = role(&with(&self.environment, &settings, Vec::new()), &log, last).status().await.unwrap();
        assert!(last.success(), "the last worker: {last}");
        Remaining { folder: self.folder, scratch: self.scratch }
    }
}

/// What is left of a world.
pub struct Remaining {
    pub folder: PathBuf,
    pub scratch: PathBuf,
}
