//! The processes of a run. One that ends is started again, as by a supervisor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::process::spawn;

/// The pause before a process is started again.
const RESTART: Duration = Duration::from_millis(500);
/// How long a process may take to exit after SIGTERM.
const EXIT: Duration = Duration::from_secs(60);

/// Sends a signal; returns whether the process existed.
pub fn signal(pid: u32, signal: Signal) -> bool {
    match kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal) {
        Ok(()) => true,
        Err(Errno::ESRCH) => false,
        Err(error) => panic!("cannot signal {pid}: {error}"),
    }
}

/// A process that is started again when it ends.
pub struct Supervised {
    pid: Arc<AtomicU32>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervised {
    pub fn start(command: impl Fn() -> Command + Send + 'static) -> Self {
        let (pid, stop) = (Arc::<AtomicU32>::default(), CancellationToken::new());
        let (shown, stopped) = (Arc::clone(&pid), stop.clone());
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                let mut child = spawn(command());
                let id = child.id().unwrap();
                shown.store(id, Ordering::SeqCst);
                tokio::select! {
                    _ = child.wait() => {}
                    () = stopped.cancelled() => {
                        signal(id, Signal::SIGCONT);
                        signal(id, Signal::SIGTERM);
                        let exited = tokio::time::timeout(EXIT, child.wait()).await;
                        exited.unwrap_or_else(|_| panic!("process {id} does not exit")).unwrap();
                    }
                }
                shown.store(0, Ordering::SeqCst);
                tokio::select! {
                    () = tokio::time::sleep(RESTART) => {}
                    () = stopped.cancelled() => {}
                }
            }
        });
        Self { pid, stop, task }
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::SeqCst)).filter(|pid| *pid > 0)
    }

    pub fn kill(&self) {
        if let Some(pid) = self.pid() {
            signal(pid, Signal::SIGKILL);
        }
    }

    pub async fn freeze(&self, time: Duration) {
        if let Some(pid) = self.pid() {
            signal(pid, Signal::SIGSTOP);
            tokio::time::sleep(time).await;
            signal(pid, Signal::SIGCONT);
        }
    }

    /// Stops it with SIGTERM.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}
