//! Measures how long a job waits after its worker was killed, until another one claims it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tcoder::job::{JobId, Quality, State};
use tcoder::queue::{Claim, Queue};
use tokio::process::Child;

use crate::Figures;
use crate::queue::enter;
use crate::support::clips::long_clip;
use crate::support::installation::Installation;
use crate::support::process::{encoders, send};

const NAME: &str = "redelivery_p99_s";
/// Workers that are killed. With so few, the 99th percentile is the longest time.
const KILLS: usize = 12;
/// A lease of 30 s that was renewed within 5 s ends at least 25 s after this, and leases are spared for 30 s.
const AFTER_START: Duration = Duration::from_secs(8);
/// How often processes and jobs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub async fn measure(figures: &mut Figures) {
    if !figures.wants(&[NAME]) {
        return;
    }
    let began = Instant::now();
    let here = Installation::new(&[]).await;
    let mut workers: HashMap<String, Child> =
        (0..KILLS).map(|n| format!("w{n}")).map(|name| (name.clone(), here.worker(&name))).collect();
    while here.queue.workers().await.unwrap().len() < KILLS {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut jobs = Vec::new();
    for _ in 0..KILLS {
        jobs.push(here.submit_clip(long_clip(), Quality::P720, 3).await);
    }
    stop_encoders(&here).await;
    // The leases expire when Redis has run for longer than it spares expired leases after a start.
    tokio::time::sleep(AFTER_START.saturating_sub(began.elapsed())).await;

    // The heir is an idle worker that learns when the next lease expires; it keeps what it claims.
    let heir = tokio::spawn(claim_all(here.queue.reconnect().await.unwrap()));
    let mut killed = HashMap::new();
    for id in jobs {
        let job = here.job(id, |job| job.status == State::Running).await;
        let mut worker = workers.remove(job.machine_id.as_deref().unwrap()).unwrap();
        worker.kill().await.unwrap();
        killed.insert(id, Instant::now());
        // At all moments between two heartbeats.
        tokio::time::sleep(here.queue.policy().heartbeat / u32::try_from(KILLS).unwrap()).await;
    }
    let claimed = heir.await.unwrap();
    let waits = killed.iter().map(|(id, at)| (claimed[id] - *at).as_secs_f64());
    figures.put(NAME, waits.fold(0.0, f64::max), "s");
}

/// Stops the FFmpeg of each worker, so that no job ends and the cores are free.
async fn stop_encoders(here: &Installation) {
    let mut stopped = Vec::new();
    while stopped.len() < KILLS {
        for ffmpeg in encoders(&here.dir) {
            if !stopped.contains(&ffmpeg.pid) {
                send(ffmpeg.pid, Signal::SIGSTOP);
                stopped.push(ffmpeg.pid);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Claims jobs like an idle worker until it has as many as workers were killed; returns when.
async fn claim_all(queue: Queue) -> HashMap<JobId, Instant> {
    let bell = queue.reconnect().await.unwrap();
    let (worker, clock) = enter(&queue).await;
    let mut claimed = HashMap::new();
    while claimed.len() < KILLS {
        match queue.claim(&worker, clock.now(), true).await.unwrap() {
            Claim::Job(job) => {
                clock.set(job.at);
                claimed.entry(job.attempt.job).or_insert_with(Instant::now);
            }
            Claim::Empty { next_due, now } => {
                now.into_iter().for_each(|now| clock.set(now));
                let longest = queue.policy().bell_wait;
                let due = next_due.map_or(longest, |due| {
                    Duration::from_millis(u64::try_from(due.0 - clock.now().0).unwrap_or(0))
                });
                bell.wait_for_wakeup(due.min(longest)).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    claimed
}
