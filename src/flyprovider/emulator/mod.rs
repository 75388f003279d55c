//! A server that answers as Fly's Machines API does; its machines are child processes of this one.
//!
//! What lives here: the paths, JSON, states, refusals, leases and rate limits of the API as its OpenAPI document
//! and Fly's own clients have them, and faults by script. What does not: images (every machine runs the same
//! command), volumes, networks, services, suspending, restart policies other than `no`, lists by pages.

mod faults;
mod http;
mod lease;
mod life;
mod metadata;
mod order;
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

pub use faults::{Action, Fault, Happening, SubrequestBudget};
use world::World;

use super::{Machine, MachineId, MachineState};
use crate::config::FlyConfig;

/// Connections at once.
const CONNECTIONS: usize = 256;
/// From the connection to the end of a request's head.
const HEAD: Duration = Duration::from_secs(30);
/// What a request under way gets to end when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// How long a machine takes from one state to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transitions {
    /// From `created` on.
    pub create: Duration,
    /// From `starting` to `started`.
    pub start: Duration,
    /// From `destroying` to `destroyed`.
    pub destroy: Duration,
    /// From `launch_failed` to `destroyed`.
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

/// Fly's own limits: per action, and per machine or app.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// For a look at one machine.
    pub get: SubrequestBudget,
    /// For everything else.
    pub other: SubrequestBudget,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            get: SubrequestBudget { per_second: 5.0, burst: 10.0 },
            other: SubrequestBudget { per_second: 1.0, burst: 3.0 },
        }
    }
}

/// What is emulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The one app there is.
    pub app: String,
    /// The token that is let in; a macaroon (`fm2_...`) under `FlyV1`, any other as a bearer.
    pub token: SecretString,
    /// Where machines are that ask for no region.
    pub region: String,
    /// What a machine runs.
    pub command: Vec<OsString>,
    /// Environment of every machine, under the one of its own.
    pub environment: BTreeMap<OsString, OsString>,
    /// Variables of this process that machines get too; nothing else is inherited.
    pub inherit: Vec<String>,
    /// How long things take.
    pub transitions: Transitions,
    /// When 429 is answered; nothing for never.
    pub limits: Option<Limits>,
    /// How many machines there can be.
    pub quota: usize,
    /// From SIGTERM to SIGKILL for every machine when the emulator stops.
    pub grace: Duration,
}

impl Options {
    /// Fly's ways, with this as what machines run.
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

/// A request that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When, from the emulator's start on.
    pub at: Duration,
    /// What was asked.
    pub action: Action,
    /// Of which machine.
    pub machine: Option<MachineId>,
    /// What was answered; 0 for an answer that was lost.
    pub status: u16,
}

/// The emulator of the Machines API.
#[derive(Debug)]
pub struct Emulator;

/// A running emulator. Dropping it leaves it running; it stops with its token.
pub struct EmulatorHandle {
    url: Url,
    world: Arc<World>,
    task: JoinHandle<()>,
}

impl Emulator {
    /// Serves on `listener` until `cancel`. Call it on a runtime that lives as long as the machines.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn start(
        options: Options,
        listener: TcpListener,
        cancel: CancellationToken,
    ) -> io::Result<EmulatorHandle> {
        Self::start_with(options, listener, cancel, |router| router)
    }

    /// As [`Emulator::start`], with a layer around the API: for who looks at requests and answers.
    ///
    /// # Errors
    /// When the socket cannot be used.
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
    /// Where it listens; `FLY_API_HOSTNAME`.
    #[must_use]
    pub fn url(&self) -> Url {
        self.url.clone()
    }

    /// The token it lets in.
    #[must_use]
    pub fn token(&self) -> SecretString {
        self.world.options.token.clone()
    }

    /// The settings with which this installation uses it.
    #[must_use]
    pub fn fly_config(&self) -> FlyConfig {
        FlyConfig { token: self.token(), app: self.world.options.app.clone(), base: self.url() }
    }

    /// The machines as they are, whatever the API shows; also those that are gone.
    #[must_use]
    pub fn machines(&self) -> Vec<Machine> {
        self.world.look().machines.values().map(|entry| entry.machine.clone()).collect()
    }

    /// The process of a machine, while it runs.
    #[must_use]
    pub fn pid(&self, id: &MachineId) -> Option<u32> {
        self.world.look().machines.get(id)?.pid
    }

    /// Waits until the machines satisfy `what`, which is asked at each change. Bound it.
    pub async fn until(&self, what: impl Fn(&[Machine]) -> bool) {
        let mut changed = self.world.changed.subscribe();
        while !what(&self.machines()) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until a machine is in a state. Bound it.
    pub async fn until_state(&self, id: &MachineId, state: &MachineState) {
        self.until(|machines| machines.iter().any(|m| m.id == *id && m.state == *state)).await;
    }

    /// The requests that came, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        let mut requests: Vec<Request> = self.world.look().requests.iter().cloned().collect();
        requests.sort_by_key(|request| request.at);
        requests
    }

    /// The next so many calls of this action go wrong in this way, after those injected before.
    pub fn inject(&self, action: Action, fault: Fault, times: u32) {
        self.world.look().faults.add(action, fault, times);
    }

    /// Something happens to a machine by itself. Says whether there is such a machine.
    pub fn happens(&self, id: &MachineId, what: Happening) -> bool {
        self.world.change(|state| state.happens(id, what))
    }

    /// A region has no room from now on, or has room again.
    pub fn set_region_full(&self, region: &str, full: bool) {
        let mut state = self.world.look();
        if full {
            state.full_regions.insert(region.to_owned());
        } else {
            state.full_regions.remove(region);
        }
    }

    /// Waits until it has stopped, with all its machines; it does soon once its token is cancelled.
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
                    // Out of file descriptors, as a rule: some connection has to end first.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    world.tasks.close();
    // Each machine ends within the grace, by SIGKILL if need be.
    world.tasks.wait().await;
}

async fn connection(stream: TcpStream, router: Router, cancel: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    let hangup = http::Hangup::default();
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
