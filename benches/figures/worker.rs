//! Measures the cost of a worker process: its start, its idle time, and its size on disk.

use std::time::{Duration, Instant};

use tcoder::job::{Input, JobId, JobSpec, Ladder, Preset, State};
use tcoder::queue::{EventFeed, SubmitMode};
use tokio::process::Child;

use crate::command_count::CommandCount;
use crate::support::installation::Installation;
use crate::support::process::spawn;
use crate::{Figures, TCODER, median};

/// Two waits for a wake-up.
const IDLE: Duration = Duration::from_secs(150);

pub async fn measure(figures: &mut Figures) {
    if figures.wants(&["binary_mb"]) {
        #[allow(clippy::cast_precision_loss)]
        let size = std::fs::metadata(TCODER).unwrap().len() as f64;
        figures.put("binary_mb", size / 1e6, "MB");
    }
    if !figures.wants(&["worker_start_to_claim_ms", "worker_idle_rss_mb", "idle_commands_per_worker_minute"])
    {
        return;
    }
    let installation = Installation::new(&[]).await;
    let queue = &installation.queue;

    let mut starts = Vec::new();
    for _ in 0..5 {
        let mut feed = EventFeed::open(queue).await.unwrap();
        let spec = JobSpec::new(
            Input::Key("inputs/nothing.mp4".parse().unwrap()),
            Preset::Default,
            Ladder::default(),
        );
        queue.submit(JobId::new(), &spec, SubmitMode::Now).await.unwrap();
        let began = Instant::now();
        let mut worker = start(&installation);
        until_claimed(&mut feed).await;
        starts.push(began.elapsed().as_secs_f64() * 1000.0);
        worker.kill().await.unwrap();
    }
    figures.put("worker_start_to_claim_ms", median(starts), "ms");

    let mut raw = installation.redis.raw();
    redis::cmd("FLUSHALL").exec(&mut raw).unwrap();
    let mut worker = start(&installation);
    while queue.workers().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Wait for the first claim, and for the connection of the wake-ups.
    tokio::time::sleep(Duration::from_secs(5)).await;
    figures.put("worker_idle_rss_mb", resident_mb(worker.id().unwrap()), "MB");
    if figures.wants(&["idle_commands_per_worker_minute"]) {
        CommandCount::reset(&mut raw);
        tokio::time::sleep(IDLE).await;
        #[allow(clippy::cast_precision_loss)]
        let commands = CommandCount::read(&mut raw).total() as f64;
        figures.put("idle_commands_per_worker_minute", commands / (IDLE.as_secs_f64() / 60.0), "commands");
    }
    worker.kill().await.unwrap();
    installation.storage.stop().await;
}

fn start(installation: &Installation) -> Child {
    let mut command = installation.worker_command("worker");
    command.env("RUST_LOG", "error");
    spawn(command)
}

async fn until_claimed(feed: &mut EventFeed) {
    loop {
        let events = feed.next(Duration::from_secs(10)).await.unwrap();
        if events.iter().any(|event| event.status == State::Running) {
            return;
        }
    }
}

/// The resident memory of a process in MB.
pub fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kb * 1024.0 / 1e6
}
