//! The redis-server child. Redis writes every change to the disk before it answers (`appendfsync always`, which costs
//! nothing at the rate of a laptop), so no Ctrl-C, killed process or power failure loses a job.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::child::{terminate, tie_to_parent};
use crate::config::RedisConfig;
use crate::queue::{Queue, QueueError, backoff};

/// Time limit for the start, which includes reading the append-only file of a long history.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(15);

/// redis-server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RedisServerError {
    /// redis-server is probably not installed.
    #[error(
        "redis-server cannot be started: {0}; install it (`apt-get install redis-server`, \
         `brew install redis`), or set REDIS_URL to one that runs"
    )]
    Start(io::Error),
    /// redis-server exited at once.
    #[error("redis-server exited at once; the end of {log} contains the reason", log = .0.display())]
    Ended(PathBuf),
    /// redis-server does not answer.
    #[error("redis-server does not answer: {error}; look at the end of {log}", log = log.display())]
    Silent {
        /// The error of the last attempt.
        error: QueueError,
        /// The path of its log.
        log: PathBuf,
    },
}

/// A redis-server process that is restarted if it dies.
pub(crate) struct RedisServer {
    socket: PathBuf,
    pid: Option<u32>,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
    /// The path of a Unix socket has at most 107 bytes, so the socket is in a short, private folder.
    _folder: TempDir,
}

impl RedisServer {
    /// Starts a redis-server that stores its data in `dir`, and waits until it answers.
    pub(crate) async fn start(dir: &Path) -> Result<Self, RedisServerError> {
        let folder = tempfile::Builder::new().prefix("tcoder-").tempdir().map_err(RedisServerError::Start)?;
        let socket = folder.path().join("redis.sock");
        let log = dir.join("redis.log");
        let mut child = spawn(dir, &socket, &log).map_err(RedisServerError::Start)?;
        let config = config(&socket);
        let began = Instant::now();
        loop {
            if let Ok(Some(_)) = child.try_wait() {
                return Err(RedisServerError::Ended(log));
            }
            match Queue::connect(&config).await {
                Ok(_) => break,
                Err(error) if began.elapsed() > START => return Err(RedisServerError::Silent { error, log }),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
        let (pid, stop) = (child.id(), CancellationToken::new());
        let keeper = tokio::spawn(keep(child, dir.to_owned(), socket.clone(), log, stop.clone()));
        Ok(Self { socket, pid, stop, keeper, _folder: folder })
    }

    /// The settings of a connection to it.
    pub(crate) fn config(&self) -> RedisConfig {
        config(&self.socket)
    }

    /// The process id at the start.
    pub(crate) const fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Makes it write all data to the disk and exit.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.keeper.await {
            tracing::error!(%error, "the redis-server supervisor panicked");
        }
    }
}

fn config(socket: &Path) -> RedisConfig {
    RedisConfig::new(format!("redis+unix://{}", socket.display()), "")
}

fn spawn(dir: &Path, socket: &Path, log: &Path) -> io::Result<Child> {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", "0", "--daemonize", "no", "--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", "", "--maxmemory-policy", "noeviction", "--unixsocketperm", "700"])
        .arg("--unixsocket")
        .arg(socket)
        .arg("--dir")
        .arg(dir)
        .arg("--logfile")
        .arg(log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    tie_to_parent(&mut command).spawn()
}

/// Waits for the child to exit, and restarts it unless `stop` was cancelled.
async fn keep(mut child: Child, dir: PathBuf, socket: PathBuf, log: PathBuf, stop: CancellationToken) {
    let mut deaths = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return terminate(child, STOP).await,
            status = child.wait() => {
                deaths += 1;
                tracing::error!(?status, log = %log.display(), "redis-server exited; restarting it");
            }
        }
        child = loop {
            let pause = backoff::ceiling(deaths, Duration::from_millis(100), Duration::from_secs(10));
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            match spawn(&dir, &socket, &log) {
                Ok(child) => break child,
                Err(error) => {
                    deaths += 1;
                    tracing::error!(%error, "could not start redis-server");
                }
            }
        };
    }
}
