//! The load on bullmq-official, the port of BullMQ to Rust.

use std::time::Duration;

use bullmq::options::RedisConnectionOptions;
use bullmq::{Job, Queue, QueueOptions, Worker, WorkerOptions};
use serde_json::Value;

use super::Guard;
use super::load::{Pace, Payload, Record, gather, shares};
use crate::Failure;
use crate::redis_server::Redis;

const NAME: &str = "peers";
/// Where its queue of this name has the jobs that are completed.
const COMPLETED: &str = "bull:peers:completed";

async fn queue(redis: &Redis) -> Result<Queue, Failure> {
    let connection = RedisConnectionOptions::new().url(redis.url());
    Ok(Queue::with_options(NAME, QueueOptions::new().connection(connection)).await?)
}

/// Workers that call `on_claim` with each job, and do nothing. They do not run yet.
async fn consumers<F>(redis: &Redis, workers: usize, on_claim: F) -> Result<Vec<Worker>, Failure>
where
    F: Fn(&Job) + Clone + Send + Sync + 'static,
{
    let mut consumers = Vec::new();
    for _ in 0..workers {
        let on_claim = on_claim.clone();
        let process = move |job: Job, _: bullmq::worker::CancellationToken| {
            on_claim(&job);
            async { Ok(Value::Null) }
        };
        let options = WorkerOptions {
            connection: RedisConnectionOptions::new().url(redis.url()),
            autorun: false,
            concurrency: 1,
            ..WorkerOptions::default()
        };
        consumers.push(Worker::with_options(NAME, process, options).await?);
    }
    Ok(consumers)
}

async fn run(workers: &[Worker]) -> Result<(), Failure> {
    for worker in workers {
        worker.run().await?;
    }
    Ok(())
}

async fn close(workers: Vec<Worker>) -> Result<(), Failure> {
    futures::future::try_join_all(workers.iter().map(|worker| worker.close(10_000))).await?;
    Ok(())
}

pub async fn enqueue(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let mut producers = Vec::new();
    for _ in 0..workers {
        producers.push(queue(redis).await?);
    }
    redis.reset();
    let record = Record::new(jobs);
    let add = |(queue, share): (Queue, usize)| {
        let record = record.clone();
        tokio::spawn(async move {
            for number in 0..share {
                queue.add("job", Payload::new(number)).await?;
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
    let consumers = consumers(redis, workers, move |_| done.done()).await?;
    redis.reset();
    run(&consumers).await?;
    let times = record.full().await?;
    redis.until_size("ZCARD", COMPLETED, jobs).await?;
    close(consumers).await?;
    Ok(times)
}

pub async fn paced(redis: &Redis, workers: usize, jobs: usize) -> Result<Vec<f64>, Failure> {
    let pace = Pace::new(jobs);
    let claimed = pace.clone();
    let on_claim = move |job: &Job| {
        let payload: Result<Payload, _> = serde_json::from_value(job.data().clone());
        if let Some(number) = payload.ok().and_then(|payload| payload.number().ok()) {
            claimed.claimed(number);
        }
    };
    let consumers = consumers(redis, workers, on_claim).await?;
    let producer = queue(redis).await?;
    redis.reset();
    run(&consumers).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let producer = &producer;
    let waits = pace
        .run(|number| async move { Ok(producer.add("job", Payload::new(number)).await.map(drop)?) })
        .await?;
    redis.until_size("ZCARD", COMPLETED, jobs).await?;
    close(consumers).await?;
    Ok(waits)
}

pub async fn idle(redis: &Redis, workers: usize) -> Result<Guard, Failure> {
    let consumers = consumers(redis, workers, |_| ()).await?;
    run(&consumers).await?;
    Ok(Box::new(consumers))
}
