//! The load on apalis-redis, with its defaults: a worker fetches ten jobs at a time.
//!
//! Version 1.0.0 puts each job that `push` adds into its set of scheduled jobs, and only publishes those that do not go there.
//! Its workers are not told of new jobs for this reason, and have to poll.

use std::time::Duration;

use apalis::prelude::{BackendExt as _, TaskSink as _, WorkerBuilder, WorkerBuilderExt as _};
use apalis_redis::{Config, RedisStorage};
use tokio::task::JoinSet;

use super::Guard;
use super::load::{Pace, Payload, Record, gather, shares};
use crate::Failure;
use crate::redis_server::Redis;

/// How often an idle worker asks.
const POLL: Duration = Duration::from_millis(100);
/// The most jobs that may be due at once: a fetch moves them all with one call of Redis, and Lua refuses more than 8,000
/// arguments.
pub const MOST_JOBS: usize = 7_000;

fn config() -> Config {
    Config::default().queue("peers")
}

async fn storage(redis: &Redis) -> Result<RedisStorage<Payload>, Failure> {
    let connection = apalis_redis::connect(redis.url()).await?;
    Ok(RedisStorage::new(connection).with_config(config()))
}

/// Runs workers that call `on_claim` with each job, and do nothing. They stop when the set is dropped.
async fn consume<F>(redis: &Redis, workers: usize, on_claim: F) -> Result<JoinSet<()>, Failure>
where
    F: Fn(&Payload) + Clone + Send + Sync + 'static,
{
    let mut ready = Vec::new();
    for number in 0..workers {
        let on_claim = on_claim.clone();
        let process = move |payload: Payload| {
            on_claim(&payload);
            async {}
        };
        let backend = storage(redis).await?.poll_with_interval(POLL);
        ready.push(
            WorkerBuilder::new(format!("peer-{number}")).backend(backend).concurrency(1).build(process),
        );
    }
    redis.reset();
    let mut running = JoinSet::new();
    for worker in ready {
        running.spawn(async move {
            if let Err(error) = worker.run().await {
                eprintln!("a worker of apalis ended: {error}");
            }
        });
    }
    Ok(running)
}

pub async fn enqueue(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let mut producers = Vec::new();
    for _ in 0..workers {
        producers.push(storage(redis).await?);
    }
    redis.reset();
    let record = Record::new(jobs);
    let add = |(mut storage, share): (RedisStorage<Payload>, usize)| {
        let record = record.clone();
        tokio::spawn(async move {
            for number in 0..share {
                storage.push(Payload::new(number)).await.map_err(|e| e.to_string())?;
                record.done();
            }
            Ok(Vec::new())
        })
    };
    gather(producers.into_iter().zip(shares(jobs, workers)).map(add).collect()).await?;
    record.full().await
}

pub async fn drain(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let record = Record::new(jobs);
    let done = record.clone();
    let _running = consume(redis, workers, move |_| done.done()).await?;
    let times = record.full().await?;
    redis.until_size("SCARD", &config().done_jobs_set(), jobs).await?;
    Ok(times)
}

pub async fn paced(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let pace = Pace::new(jobs);
    let claimed = pace.clone();
    let on_claim = move |payload: &Payload| {
        if let Ok(number) = payload.number() {
            claimed.claimed(number);
        }
    };
    let mut storage = storage(redis).await?;
    let _running = consume(redis, workers, on_claim).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let storage = &mut storage;
    let waits = pace
        .run(|number| {
            let mut storage = storage.clone();
            async move { Ok(storage.push(Payload::new(number)).await.map_err(|e| e.to_string())?) }
        })
        .await?;
    redis.until_size("SCARD", &config().done_jobs_set(), jobs).await?;
    Ok(waits)
}

pub async fn idle(redis: &Redis, workers: usize) -> Result<Guard, Failure> {
    Ok(Box::new(consume(redis, workers, |_| ()).await?))
}
