//! An emulator of Fly's Machines API whose machines are child processes of this process.
//!
//! It covers the paths, JSON, states, errors, leases and rate limits of the API, according to its OpenAPI
//! document and Fly's own clients, and it can inject faults. It does not cover images (every machine runs the
//! same command), volumes, networks, services, suspending, restart policies other than `no`, and paginated
//! lists.

mod call;
mod faults;
mod http;
mod ids;
mod lease;
mod lease_routes;
mod life;
mod metadata;
mod order;
mod reply;
mod show;
mod wait;
mod world;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Layer as _;
use url::Url;
use uuid::Uuid;

pub use faults::{EmulatedCall, Fault, Happening, RequestAllowance};
use world::World;

use super::{FlyMachine, MachineId, MachineState};
use crate::config::FlyConfig;

/// Maximum number of connections.
const CONNECTIONS: usize = 256;
/// Time limit from the connection to the end of a request's head.
const HEAD: Duration = Duration::from_secs(30);
/// Time that running requests have to finish when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// How long the transitions of a machine take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transitions {
    /// Duration of the state `created`.
    pub create: Duration,
    /// Time from `starting` to `started`.
    pub start: Duration,
    /// Time from `destroying` to `destroyed`.
    pub destroy: Duration,
    /// Time from `launch_failed` to `destroyed`.
    pub launch_failed: Duration,
}

impl Default for Transitions {
    fn default() -> Self {
        Self {
            create: Duration::from_millis(500),
            start: Duration::from_millis(300),
            destroy: Duration::from_millis(500),
            launch_failed: Duration::from_secs(10),
        }
    }
}

/// Fly's own rate limits: per action, and per machine or app.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The limit for reads of one machine.
    pub get: RequestAllowance,
    /// The limit for all other requests.
    pub other: RequestAllowance,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            get: RequestAllowance { per_second: 5.0, burst: 10.0 },
            other: RequestAllowance { per_second: 1.0, burst: 3.0 },
        }
    }
}

/// The options of the emulator.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the only app.
    pub app: String,
    /// The accepted token: a macaroon (`fm2_...`) with the scheme `FlyV1`, any other as a bearer token.
    pub token: SecretString,
    /// The region of machines that request none.
    pub region: String,
    /// The command that machines run.
    pub command: Vec<OsString>,
    /// Environment variables of every machine, which its own configuration overrides.
    pub environment: BTreeMap<OsString, OsString>,
    /// Variables of this process that machines inherit; they inherit no others.
    pub inherit: Vec<String>,
    /// How long transitions take.
    pub transitions: Transitions,
    /// The rate limits; `None` disables them.
    pub limits: Option<Limits>,
    /// Maximum number of machines.
    pub quota: usize,
    /// Time between SIGTERM and SIGKILL for all machines when the emulator stops.
    pub grace: Duration,
}

impl Options {
    /// Fly's defaults, with this command for machines.
    pub fn new<I: IntoIterator<Item: Into<OsString>>>(command: I) -> Self {
        let inherit = ["PATH", "HOME", "TMPDIR", "LANG", "TZ", "RUST_LOG", "RUST_BACKTRACE", "NO_COLOR"];
        Self {
            app: "tcoder-workers".into(),
            token: format!("emulated_{}", Uuid::new_v4().simple()).into(),
            region: "iad".into(),
            command: command.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            inherit: inherit.map(str::to_owned).into(),
            transitions: Transitions::default(),
            limits: Some(Limits::default()),
            quota: 100,
            grace: Duration::from_secs(5),
        }
    }
}

/// A recorded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The time since the start of the emulator.
    pub at: Duration,
    /// The action.
    pub action: EmulatedCall,
    /// The machine that the request is about.
    pub machine: Option<MachineId>,
    /// The status of the response; 0 if it was lost.
    pub status: u16,
}

/// The emulator of the Machines API.
#[derive(Debug)]
pub struct Emulator;

/// A running emulator. Dropping the handle does not stop it; cancelling its token does.
pub struct EmulatorHandle {
    url: Url,
    world: Arc<World>,
    task: JoinHandle<()>,
}

impl Emulator {
    /// Serves requests on `listener` until `cancel`. Call it on a runtime that lives as long as the machines.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub fn start(
        options: Options,
        listener: TcpListener,
        cancel: CancellationToken,
    ) -> io::Result<EmulatorHandle> {
        Self::start_with(options, listener, cancel, |router| router)
    }

    /// Like [`Emulator::start`], with a layer around the API that can inspect requests and responses.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub fn start_with(
        options: Options,
        listener: TcpListener,
        cancel: CancellationToken,
        layer: impl FnOnce(Router) -> Router,
    ) -> io::Result<EmulatorHandle> {
        let url = format!("http://{}/", listener.local_addr()?).parse().map_err(io::Error::other)?;
        let world = Arc::new(World::new(options, cancel));
        let router = layer(http::router(world.clone()));
        let task = tokio::spawn(serve(listener, world.clone(), router));
        Ok(EmulatorHandle { url, world, task })
    }
}

impl EmulatorHandle {
    /// The URL that it listens at, for `FLY_API_HOSTNAME`.
    #[must_use]
    pub fn url(&self) -> Url {
        self.url.clone()
    }

    /// The token that it accepts.
    #[must_use]
    pub fn token(&self) -> SecretString {
        self.world.options.token.clone()
    }

    /// The settings of a client for it.
    #[must_use]
    pub fn fly_config(&self) -> FlyConfig {
        FlyConfig { token: self.token(), app: self.world.options.app.clone(), base: self.url() }
    }

    /// The actual machines, whatever the API returns, including destroyed ones.
    #[must_use]
    pub fn machines(&self) -> Vec<FlyMachine> {
        self.world.look().machines.values().map(|entry| entry.machine.clone()).collect()
    }

    /// The process id of a machine while it runs.
    #[must_use]
    pub fn pid(&self, id: &MachineId) -> Option<u32> {
        self.world.look().machines.get(id)?.pid
    }

    /// Waits until the machines satisfy `what`, which is evaluated at each change. The caller needs a
    /// timeout.
    pub async fn until(&self, what: impl Fn(&[FlyMachine]) -> bool) {
        let mut changed = self.world.changed.subscribe();
        while !what(&self.machines()) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until a machine is in a state. The caller needs a timeout.
    pub async fn until_state(&self, id: &MachineId, state: &MachineState) {
        self.until(|machines| machines.iter().any(|m| m.id == *id && m.state == *state)).await;
    }

    /// The requests in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        let mut requests: Vec<Request> = self.world.look().requests.iter().cloned().collect();
        requests.sort_by_key(|request| request.at);
        requests
    }

    /// Makes the next `times` requests with this action fail with `fault`, after those that were injected
    /// before.
    pub fn inject(&self, action: EmulatedCall, fault: Fault, times: u32) {
        self.world.look().faults.add(action, fault, times);
    }

    /// Makes a spontaneous event happen to a machine. Returns whether the machine exists.
    pub fn happens(&self, id: &MachineId, what: Happening) -> bool {
        self.world.change(|state| state.happens(id, what))
    }

    /// Marks a region as full or not full.
    pub fn set_region_full(&self, region: &str, full: bool) {
        let mut state = self.world.look();
        if full {
            state.full_regions.insert(region.to_owned());
        } else {
            state.full_regions.remove(region);
        }
    }

    /// Waits until it has stopped with all its machines, which happens soon after its token is cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the Fly emulator panicked");
        }
    }
}

async fn serve(listener: TcpListener, world: Arc<World>, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = world.stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), world.stop.clone()));
                }
                Err(error) => {
                    // Usually there are no file descriptors left: wait until a connection ends.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    world.tasks.close();
    // Each machine stops within the grace period, if necessary by SIGKILL.
    world.tasks.wait().await;
}

async fn connection(stream: TcpStream, router: Router, cancel: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    let hangup = call::Hangup::default();
    let service = Extension(hangup.clone()).layer(router);
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = hangup.0.cancelled() => return,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection broke off");
    }
}
