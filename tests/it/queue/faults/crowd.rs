//! Many of one kind: expired leases, jobs, and workers of one name.

use std::time::Duration;

use tcoder::config::RedisConfig;
use tcoder::job::{AttemptId, JobSpec, State, WorkerId};
use tcoder::queue::{CompleteOutcome, Queue, Sweep};
use tokio::time::{sleep, timeout};

use super::HANG;
use crate::queue::{
    INSTANT, LONG, claim, hooked, hopeless, now, queue, result_of, spec, submit, worker, zset,
};
use crate::support::redis::{private_redis, raw};

/// Adds as many running jobs like this one, whose leases have expired.
fn copy(redis: &mut redis::Connection, config: &RedisConfig, like: AttemptId, count: u32) {
    const SCRIPT: &str = "
        local fields = redis.call('HGETALL', KEYS[1])
        for i = 1, tonumber(ARGV[2]) do
            local id = string.format('%08x-0000-7000-8000-%012x', i, i)
            redis.call('HSET', ARGV[1] .. 'jobs:status:' .. id, unpack(fields))
            redis.call('ZADD', ARGV[1] .. 'jobs:leases', 1, id .. ':' .. ARGV[3])
        end";
    redis::cmd("EVAL")
        .arg(SCRIPT)
        .arg(1)
        .arg(format!("{}jobs:status:{}", config.prefix, like.job))
        .arg(&config.prefix)
        .arg(count)
        .arg(like.epoch.to_string())
        .exec(redis)
        .unwrap();
}

fn number(redis: &mut redis::Connection, command: &str, key: &str) -> u64 {
    redis::cmd(command).arg(key).query(redis).unwrap()
}

/// The CPU time that Redis has used, milliseconds.
fn cpu_ms(redis: &mut redis::Connection) -> f64 {
    let info: String = redis::cmd("INFO").arg("cpu").query(redis).unwrap();
    let seconds = |name: &str| -> f64 {
        info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    (seconds("used_cpu_user:") + seconds("used_cpu_sys:")) * 1000.0
}

#[tokio::test]
async fn fault_14_fifty_thousand_expired_leases_are_reaped_in_short_batches() {
    const JOBS: u32 = 50_000;
    const BATCH: u32 = 500;
    let server = private_redis(&[]);
    let (config, mut redis) = (server.config(), server.raw());
    let queue = Queue::connect_with(&config, INSTANT).await.unwrap();
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    copy(&mut redis, &config, job.attempt, JOBS - 1);
    let before = cpu_ms(&mut redis);
    for round in 0..JOBS / BATCH {
        let Sweep { ready, next_due, now, .. } = queue.sweep(BATCH, 0).await.unwrap();
        assert_eq!(ready, BATCH, "round {round}");
        // More is due at once, as long as a batch was full.
        assert_eq!(next_due, Some(now));
    }
    let rest = queue.sweep(BATCH, 0).await.unwrap();
    assert_eq!((rest.ready, rest.next_due), (0, None));
    // For so long a batch keeps Redis from others: about 30 ms.
    let each = (cpu_ms(&mut redis) - before) / f64::from(JOBS / BATCH);
    assert!(each < 250.0, "a batch takes {each:.1} ms of CPU time");
    let key = |name: &str| format!("{}{name}", config.prefix);
    assert_eq!(number(&mut redis, "ZCARD", &key("jobs:pending")), u64::from(JOBS));
    assert_eq!(number(&mut redis, "ZCARD", &key("jobs:leases")), 0);
    assert!(number(&mut redis, "XLEN", &key("jobs:events")) < 10_200);
    assert!(claim(&queue, &w).await.is_some());
}

#[tokio::test]
async fn fault_16_workers_of_one_name_do_not_share_a_job() {
    assert_ne!(WorkerId::on("machine"), WorkerId::on("machine"), "two workers of a machine have one name");
    let (queue, config) = queue().await;
    let other = queue.reconnect().await.unwrap();
    let mut redis = raw(&config);
    let (one, two) = (worker(&queue, "same").await, worker(&other, "same").await);
    assert_eq!(one, two);
    for _ in 0..2 {
        submit(&queue, &spec()).await;
    }
    let first = claim(&queue, &one).await.unwrap();
    let second = claim(&other, &two).await.unwrap();
    assert_ne!(first.attempt.job, second.attempt.job);
    let deadline = second.at.plus(7_200_000);
    assert!(queue.renew(first.attempt, deadline).await.unwrap());
    assert!(other.renew(second.attempt, deadline).await.unwrap());

    // The first one dies. Only its own lease expires, although its name is removed from the pool.
    let leases = format!("{}jobs:leases", config.prefix);
    redis::cmd("ZADD").arg(&leases).arg(1).arg(first.attempt.to_string()).exec(&mut redis).unwrap();
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    assert!(other.renew(second.attempt, deadline.plus(1)).await.unwrap());
    assert_eq!(
        other.complete(&second, &result_of(2), second.attempt.epoch).await.unwrap(),
        CompleteOutcome::Done
    );

    // The second one goes on, and gets the job of the first; `claim` registers it again.
    let heir = claim(&other, &two).await.unwrap();
    assert_eq!((heir.attempt.job, heir.number), (first.attempt.job, 2));
    // The first one comes back. Its job runs under its own name, but it is not its attempt.
    assert!(!queue.renew(first.attempt, deadline.plus(2)).await.unwrap());
    assert_eq!(
        queue.complete(&first, &result_of(1), first.attempt.epoch).await.unwrap(),
        CompleteOutcome::Lost(Some(State::Running))
    );
    assert!(!queue.release(first.attempt).await.unwrap());
    assert_eq!(
        other.complete(&heir, &result_of(3), heir.attempt.epoch).await.unwrap(),
        CompleteOutcome::Done
    );
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.completed, stats.running, stats.pending, stats.workers), (2, 0, 0, 1));
}

/// Bytes that Redis has allocated for data.
fn used_bytes(redis: &mut redis::Connection) -> f64 {
    let info: String = redis::cmd("INFO").arg("memory").query(redis).unwrap();
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
}

/// Runs jobs to all of their ends.
async fn end_jobs(queue: &Queue, worker: &WorkerId, count: usize) {
    for n in 0..count {
        let spec = if n % 2 == 0 { spec() } else { JobSpec { max_attempts: 1, ..spec() } };
        let id = submit(queue, &spec).await;
        if n % 10 == 0 {
            queue.cancel(id).await.unwrap();
            continue;
        }
        let job = claim(queue, worker).await.unwrap();
        if n % 10 == 1 {
            queue.fail(&job, &hopeless()).await.unwrap();
        } else {
            queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
        }
    }
}

#[tokio::test]
async fn fault_20_memory_grows_only_with_the_jobs_that_can_be_read() {
    /// A job with a short spec and result takes about 2,400 bytes.
    const BYTES_PER_JOB: f64 = 4000.0;
    const JOBS: usize = 1000;
    let server = private_redis(&[]);
    let (config, mut redis) = (server.config(), server.raw());
    let queue = Queue::connect_with(&config, LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let key = |name: &str| format!("{}{name}", config.prefix);
    // The stream is full after this, so that it does not count.
    end_jobs(&queue, &w, 4000).await;
    let events = number(&mut redis, "XLEN", &key("jobs:events"));
    assert!((10_000..10_200).contains(&events), "{events}");
    let before = used_bytes(&mut redis);
    end_jobs(&queue, &w, JOBS).await;
    assert!(number(&mut redis, "XLEN", &key("jobs:events")) < 10_200);
    #[allow(clippy::cast_precision_loss)]
    let each = (used_bytes(&mut redis) - before) / JOBS as f64;
    assert!(each < BYTES_PER_JOB, "{each:.0} bytes");

    // Their time is over: Redis removes the records, and the janitor removes what names them.
    let hooks = submit(&queue, &hooked()).await;
    let keys: Vec<String> = redis::cmd("KEYS").arg(key("jobs:status:*")).query(&mut redis).unwrap();
    let mut expires = redis::pipe();
    for key in keys.iter().filter(|key| !key.ends_with(&hooks.to_string())) {
        expires.cmd("PEXPIRE").arg(key).arg(1).ignore();
    }
    expires.exec(&mut redis).unwrap();
    let expired = async {
        while redis::cmd("DBSIZE").query::<u64>(&mut redis).unwrap() > 20 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, expired).await.expect("the records do not expire");
    let long_after = now(&queue).await.plus(400 * 24 * 3_600_000);
    queue.prune_index(long_after).await.unwrap();
    let index = zset(&mut redis, &config, "jobs:index");
    assert_eq!(index.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), [hooks.to_string()]);
    for set in ["jobs:dead", "jobs:cancelled", "jobs:leases", "jobs:scheduled", "jobs:uploading"] {
        assert_eq!(number(&mut redis, "ZCARD", &key(set)), 0, "{set}");
    }
    let after = used_bytes(&mut redis);
    assert!(after < before, "{after} bytes remain of {before}");
}
