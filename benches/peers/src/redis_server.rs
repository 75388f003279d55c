//! A fresh redis-server, whose commands are counted.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::Failure;
use crate::command_count::CommandCount;

/// The longest time for a server to start, and for a peer to write what it has done.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a port of this machine. It is stopped when dropped.
pub struct Redis {
    pub port: u16,
    control: Mutex<redis::Connection>,
    /// Commands since the last reset that are our own.
    own: AtomicU64,
    _child: Child,
    _folder: TempDir,
}

impl Redis {
    pub async fn start() -> Result<Self, Failure> {
        // Another process may take the port before it is used; the server then exits at once.
        for _ in 0..20 {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            if let Some(server) = Self::start_on(port).await? {
                return Ok(server);
            }
        }
        Err("redis-server does not start on any free port".into())
    }

    async fn start_on(port: u16) -> Result<Option<Self>, Failure> {
        let folder = tempfile::Builder::new().prefix("tcoder-peers-").tempdir()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = tcoder::child::tie_to_parent(&mut command)
            .spawn()
            .map_err(|e| format!("redis-server cannot be started ({e}); install the package redis-server"))?;
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if child.try_wait()?.is_some() {
                return Ok(None);
            }
            if let Ok(control) = client.get_connection_with_timeout(Duration::from_secs(5)) {
                let control = Mutex::new(control);
                let own = AtomicU64::new(0);
                return Ok(Some(Self { port, control, own, _child: child, _folder: folder }));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("redis-server does not answer".into())
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn control<T>(&self, work: impl FnOnce(&mut redis::Connection) -> T) -> T {
        work(&mut self.control.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a phase: what was counted before is forgotten.
    pub fn reset(&self) {
        self.control(CommandCount::reset);
        self.own.store(0, Ordering::Relaxed);
    }

    /// The commands since the reset, including those inside scripts, without our own.
    #[allow(clippy::cast_precision_loss)]
    pub fn commands(&self) -> f64 {
        let all = self.control(CommandCount::read).total();
        (all - self.own.load(Ordering::Relaxed)) as f64
    }

    /// Waits until a set has this many members. `count` is the command that counts them.
    pub async fn until_size(&self, count: &str, key: &str, size: usize) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            let found: usize = self.control(|control| redis::cmd(count).arg(key).query(control))?;
            self.own.fetch_add(1, Ordering::Relaxed);
            if found >= size {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{key} has {found} members instead of {size}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn version(&self) -> Result<String, Failure> {
        let info: String = self.control(|control| redis::cmd("INFO").arg("server").query(control))?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.unwrap_or("of an unknown version").to_owned())
    }
}
