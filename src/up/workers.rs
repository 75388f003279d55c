//! The worker children. One that ends is replaced, after a pause that grows while they end quickly.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::process::{end, tied};
use crate::queue::backoff;

/// A worker hands its job back in under a second; this is for a machine that is very busy.
const STOP: Duration = Duration::from_secs(5);
/// One that lived this long did not end because it could not start.
const SETTLED: Duration = Duration::from_secs(30);

/// A fixed number of worker processes.
pub struct Workers {
    count: u16,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Workers {
    /// Starts `count` of them with this environment on top of ours.
    pub fn start(count: u16, environment: Vec<(&'static str, String)>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        for number in 1..=count {
            let mut environment = environment.clone();
            environment.push(("FLY_MACHINE_ID", format!("local-{number}")));
            tasks.spawn(keep(number, environment, stop.clone()));
        }
        tasks.close();
        Self { count, stop, tasks }
    }

    /// How many.
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Has them hand their jobs back and end.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

async fn keep(number: u16, environment: Vec<(&'static str, String)>, stop: CancellationToken) {
    let mut quick_ends = 0;
    while !stop.is_cancelled() {
        let began = Instant::now();
        match spawn(&environment) {
            Ok(mut child) => {
                tokio::select! {
                    () = stop.cancelled() => return end(child, STOP).await,
                    status = child.wait() => {
                        let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                        tracing::warn!(number, status, "a worker ended; starting another");
                    }
                }
            }
            Err(error) => tracing::error!(number, %error, "a worker cannot be started; trying again"),
        }
        quick_ends = if began.elapsed() < SETTLED { quick_ends + 1 } else { 0 };
        let pause = match quick_ends {
            0 | 1 => Duration::ZERO,
            n => backoff::ceiling(n - 1, Duration::from_millis(500), Duration::from_secs(30)),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

fn spawn(environment: &[(&'static str, String)]) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("worker").envs(environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
    // What the API needs, a process that runs FFmpeg on strangers' files must not have.
    command.env_remove("API_TOKENS").env_remove("WEBHOOK_SECRET");
    tied(&mut command).spawn()
}
