//! Encodes that are held where they are, so that they cannot end before a test does what it is about, however fast the
//! machine is.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::{Process, children, eventually, send};
use super::system::System;

/// The FFmpeg of a job, which continues when it is told to. It can be killed.
#[must_use = "it never ends unless it is resumed or killed"]
pub struct PausedEncode {
    pub processes: Vec<Process>,
}

impl PausedEncode {
    /// Pauses these processes.
    pub fn of(processes: Vec<Process>) -> Self {
        for process in &processes {
            send(process.pid, Signal::SIGSTOP);
        }
        Self { processes }
    }

    pub fn resume(self) {
        for process in &self.processes {
            send(process.pid, Signal::SIGCONT);
        }
    }
}

impl System {
    /// Pauses the encode of this job as soon as it begins; also returns the job as it is then.
    pub async fn pause_encode(&self, id: &str) -> (Value, PausedEncode) {
        let job = self.seen(id, |job| job["status"] == "running").await;
        let mut redis = self.redis();
        let record: String =
            redis::cmd("HGET").arg("machines:pool").arg(job["worker"].as_str()).query(&mut redis).unwrap();
        let record: Value = serde_json::from_str(&record).unwrap();
        let worker = u32::try_from(record["pid"].as_u64().unwrap()).unwrap();
        let encoders = || -> Vec<Process> {
            children(worker).into_iter().filter(|process| process.command.starts_with("ffmpeg ")).collect()
        };
        eventually("FFmpeg encodes", || !encoders().is_empty()).await;
        (job, PausedEncode::of(encoders()))
    }
}
