//! Measures queues with the same load: jobs that do nothing with 100 bytes each, one in flight for each worker.
//!
//! The peers take turns within a run, so that what else the machine does falls on all of them.

mod apalis_redis;
mod bullmq;
mod bullmq_official;
mod load;
mod tcoder_queue;

use std::any::Any;

use crate::figures::Figures;
use crate::redis_server::Redis;
use crate::{Failure, Scale};

/// Numbers of workers, and of producers.
const WORKERS: [usize; 3] = [1, 4, 16];
/// Workers of the phases that are measured with one number of workers alone.
const FEW: usize = 4;

pub use apalis_redis::MOST_JOBS as MOST_OF_APALIS;

/// A queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Bullmq,
    BullmqOfficial,
    ApalisRedis,
    Tcoder,
}

/// Keeps the idle workers of a peer.
type Guard = Box<dyn Any>;

impl Peer {
    pub const ALL: [Self; 4] = [Self::Bullmq, Self::BullmqOfficial, Self::ApalisRedis, Self::Tcoder];

    /// The name in figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bullmq => "bullmq",
            Self::BullmqOfficial => "bullmq_official",
            Self::ApalisRedis => "apalis_redis",
            Self::Tcoder => "tcoder",
        }
    }

    /// The most jobs that it can have at once.
    const fn most_jobs(self) -> usize {
        match self {
            Self::ApalisRedis => apalis_redis::MOST_JOBS,
            _ => usize::MAX,
        }
    }

    /// Adds the jobs, with as many producers as there are workers. Returns when each was done, in seconds.
    async fn enqueue(self, redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
        match self {
            Self::Bullmq => bullmq::enqueue(redis, workers, jobs).await,
            Self::BullmqOfficial => bullmq_official::enqueue(redis, workers, jobs).await,
            Self::ApalisRedis => apalis_redis::enqueue(redis, workers, jobs).await,
            Self::Tcoder => tcoder_queue::enqueue(redis, workers, jobs).await,
        }
    }

    /// Processes the jobs. Returns when each was done, in seconds.
    async fn drain(self, redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
        match self {
            Self::Bullmq => bullmq::drain(redis, workers, jobs).await,
            Self::BullmqOfficial => bullmq_official::drain(redis, workers, jobs).await,
            Self::ApalisRedis => apalis_redis::drain(redis, workers, jobs).await,
            Self::Tcoder => tcoder_queue::drain(redis, workers, jobs).await,
        }
    }

    /// Adds a hundred jobs a second while workers wait. Returns the milliseconds from before the call that adds each
    /// until its worker has it.
    async fn paced(self, redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
        match self {
            Self::Bullmq => bullmq::paced(redis, workers, jobs).await,
            Self::BullmqOfficial => bullmq_official::paced(redis, workers, jobs).await,
            Self::ApalisRedis => apalis_redis::paced(redis, workers, jobs).await,
            Self::Tcoder => tcoder_queue::paced(redis, workers, jobs).await,
        }
    }

    /// Starts workers that have nothing to do.
    async fn idle(self, redis: &Redis, workers: usize) -> Result<Guard, Failure> {
        match self {
            Self::Bullmq => bullmq::idle(redis, workers).await,
            Self::BullmqOfficial => bullmq_official::idle(redis, workers).await,
            Self::ApalisRedis => apalis_redis::idle(redis, workers).await,
            Self::Tcoder => tcoder_queue::idle(redis, workers).await,
        }
    }
}

/// The peers that this machine can run. Notes the versions of what they need.
pub async fn present(figures: &mut Figures) -> Result<Vec<Peer>, Failure> {
    let mut peers = Peer::ALL.to_vec();
    match bullmq::install().await {
        Ok(node) => figures.note("Node", &node),
        Err(reason) => {
            eprintln!("BullMQ is left out: {reason}");
            peers.retain(|peer| *peer != Peer::Bullmq);
        }
    }
    figures.note("Redis", &Redis::start().await?.version()?);
    Ok(peers)
}

pub async fn measure(figures: &mut Figures, peers: &[Peer], scale: &Scale) -> Result<(), Failure> {
    for workers in WORKERS {
        saturate(figures, peers, scale, workers).await?;
    }
    pace(figures, peers, scale).await
}

/// Jobs a second.
#[allow(clippy::cast_precision_loss)]
fn rate(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    // The first tenth is left out: connections, compilers and caches are cold.
    let warm = (times.len() / 10).max(1);
    (times.len() - warm) as f64 / (times[times.len() - 1] - times[warm - 1])
}

#[allow(clippy::cast_precision_loss)]
async fn saturate(
    figures: &mut Figures,
    peers: &[Peer],
    scale: &Scale,
    workers: usize,
) -> Result<(), Failure> {
    let mut taken: Vec<[Vec<f64>; 3]> = peers.iter().map(|_| <[Vec<f64>; 3]>::default()).collect();
    for _ in 0..scale.runs {
        for (peer, [enqueued, drained, commands]) in peers.iter().zip(&mut taken) {
            let redis = Redis::start().await?;
            let jobs = scale.jobs.min(peer.most_jobs());
            enqueued.push(rate(peer.enqueue(&redis, workers, jobs).await?));
            let adding = redis.commands();
            drained.push(rate(peer.drain(&redis, workers, jobs).await?));
            commands.push((adding + redis.commands()) / jobs as f64);
        }
    }
    for (peer, [enqueued, drained, commands]) in peers.iter().zip(taken) {
        let name = peer.name();
        figures.put(&format!("peer_queue_{name}_enqueue_{workers}"), enqueued, "jobs/s");
        figures.put(&format!("peer_queue_{name}_drain_{workers}"), drained, "jobs/s");
        if workers == FEW {
            figures.put(&format!("peer_queue_{name}_commands_per_job"), commands, "commands");
        }
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
async fn pace(figures: &mut Figures, peers: &[Peer], scale: &Scale) -> Result<(), Failure> {
    let mut taken: Vec<[Vec<f64>; 3]> = peers.iter().map(|_| <[Vec<f64>; 3]>::default()).collect();
    for _ in 0..scale.runs {
        for (peer, [half, most, commands]) in peers.iter().zip(&mut taken) {
            let redis = Redis::start().await?;
            let mut waits = peer.paced(&redis, FEW, scale.paced).await?;
            commands.push(redis.commands() / scale.paced as f64);
            waits.sort_by(f64::total_cmp);
            half.push(waits[waits.len() / 2]);
            most.push(waits[waits.len() * 99 / 100]);
        }
    }
    for (peer, [half, most, commands]) in peers.iter().zip(taken) {
        let name = peer.name();
        figures.put(&format!("peer_queue_{name}_claim_p50"), half, "ms");
        figures.put(&format!("peer_queue_{name}_claim_p99"), most, "ms");
        figures.put(&format!("peer_queue_{name}_paced_commands_per_job"), commands, "commands");
    }
    Ok(())
}

/// Idle workers of all peers at once, each with a server of its own: their commands are counted while something else
/// is measured.
pub struct Idle {
    peers: Vec<(Peer, Redis, Guard)>,
    began: tokio::time::Instant,
}

impl Idle {
    pub async fn begin(peers: &[Peer]) -> Result<Self, Failure> {
        let mut idle = Vec::new();
        for peer in peers {
            let redis = Redis::start().await?;
            let guard = peer.idle(&redis, FEW).await?;
            idle.push((*peer, redis, guard));
        }
        // They have connected, and found nothing.
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        for (_, redis, _) in &idle {
            redis.reset();
        }
        Ok(Self { peers: idle, began: tokio::time::Instant::now() })
    }

    #[allow(clippy::cast_precision_loss)]
    pub async fn end(self, figures: &mut Figures, scale: &Scale) {
        tokio::time::sleep_until(self.began + scale.idle).await;
        for (peer, redis, _guard) in &self.peers {
            let minutes = self.began.elapsed().as_secs_f64() / 60.0;
            let commands = redis.commands() / minutes / FEW as f64;
            let name = format!("peer_queue_{}_idle_commands_per_worker_minute", peer.name());
            figures.put(&name, vec![commands], "commands");
        }
    }
}
