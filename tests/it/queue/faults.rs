//! The faults that a queue which is trusted survives, each with its number in the name of its test:
//! `grep -rn "fn fault_" tests/it` lists them.
//!
//! | fault | tests |
//! |---|---|
//! | 1 SIGKILL after the claim | `worker_death.rs` |
//! | 2 SIGKILL between manifest and completion | `worker_outage.rs` |
//! | 3 a worker that was stopped for longer than its lease | `worker_death.rs` |
//! | 4 all cores are busy with FFmpeg | `worker_lease.rs` |
//! | 5 a job that kills its workers | `queue/life.rs`, `worker_crash.rs` |
//! | 6 the reply to a completion is lost | `queue/life.rs`, `queue/failover.rs` |
//! | 7 a submit or an event of storage is repeated | `queue/life.rs` |
//! | 8 Redis restarts | here, `worker_outage.rs` |
//! | 9 the cache of scripts is flushed | here |
//! | 10 a failover loses the last second | `queue/life.rs`, `queue/faults/forgotten.rs` |
//! | 11 a client's clock is an hour off | here |
//! | 12 Redis is out of memory | here |
//! | 13 Redis evicts keys | here |
//! | 14 very many leases expire at once | `queue/faults/crowd.rs` |
//! | 15 a script fails midway | `queue/faults/partial.rs` |
//! | 16 two workers have the same name | `queue/faults/crowd.rs` |
//! | 17 a job takes longer than a lease | `worker_lease.rs` |
//! | 18 SIGTERM | `worker_death.rs` |
//! | 19 a cancellation races a completion | `queue/life.rs` |
//! | 20 very many jobs | `queue/faults/crowd.rs`; for a million, `benches/figures/memory.rs` |

mod crowd;
mod forgotten;
mod partial;

use std::net::TcpListener;
use std::time::Duration;

use tcoder::config::{RedisConfig, Retention};
use tcoder::job::{JobId, State};
use tcoder::queue::{CompleteOutcome, Policy, Queue, QueueError, SubmitMode};
use tokio::time::{sleep, timeout};

use super::*;
use crate::support::redis::{private_redis, raw};

/// Longer than anything here takes, so that a hang ends as a failure.
const HANG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn fault_09_flushed_scripts_are_sent_again() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let flush = || redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.raw()).unwrap();
    let w = worker(&queue, "w").await;
    flush();
    let id = submit(&queue, &spec()).await;
    flush();
    let job = claim(&queue, &w).await.unwrap();
    flush();
    assert_eq!(queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(), CompleteOutcome::Done);
    assert_eq!(queue.get(id).await.unwrap().unwrap().status, State::Completed);
}

/// Retries until Redis answers again.
async fn resumed(queue: &Queue) {
    let answers = async {
        while queue.ping().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, answers).await.expect("the handle does not come back");
}

#[tokio::test]
async fn fault_08_jobs_and_handles_survive_a_restart_of_redis() {
    let mut server = private_redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let held = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let waits = submit(&queue, &hooked()).await;
    let before = (queue.get(held).await.unwrap(), queue.get(waits).await.unwrap());

    server.kill().await;
    let error =
        timeout(HANG, queue.submit(JobId::new(), &spec(), SubmitMode::Now)).await.unwrap().unwrap_err();
    assert!(matches!(error, QueueError::Connection(_)), "{error}");

    server.start();
    resumed(&queue).await;
    assert_eq!((queue.get(held).await.unwrap(), queue.get(waits).await.unwrap()), before);
    assert!(queue.renew(job.attempt, job.at.plus(7_200_000)).await.unwrap());
    assert_eq!(queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(), CompleteOutcome::Done);
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, waits);
}

#[tokio::test]
async fn fault_11_worker_clock_that_is_an_hour_off_does_not_affect_leases() {
    const HOUR: i64 = 3_600_000;
    let (queue, config) = queue().await;
    for wrong in [-HOUR, HOUR] {
        let w = worker(&queue, "w").await;
        let id = submit(&queue, &spec()).await;
        let before = now(&queue).await;
        let claimed = queue.claim(&w, before.plus(wrong), false).await.unwrap();
        let after = now(&queue).await;
        let Claim::Job(job) = claimed else { panic!("{claimed:?}") };
        assert!((before..=after).contains(&job.at));
        let leases = zset(&mut raw(&config), &config, "jobs:leases");
        #[allow(clippy::cast_precision_loss)]
        let deadline = job.at.plus(HOUR).0 as f64;
        assert_eq!(leases, [(format!("{id}:{}", job.attempt.epoch), deadline)]);
        queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    }
}

/// The whole content of a server as comparable text, without its internal timestamps.
fn dump(redis: &mut redis::Connection, config: &RedisConfig) -> Vec<String> {
    let mut all = Vec::new();
    for set in ["uploading", "pending", "scheduled", "leases", "dead"] {
        all.push(format!("{set} {:?}", zset(redis, config, &format!("jobs:{set}"))));
    }
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*jobs:status:*").query(redis).unwrap();
    keys.sort();
    for key in keys {
        let hash: std::collections::BTreeMap<String, String> =
            redis::cmd("HGETALL").arg(&key).query(redis).unwrap();
        all.push(format!("{key} {hash:?}"));
    }
    all
}

fn set(redis: &mut redis::Connection, name: &str, value: &str) {
    redis::cmd("CONFIG").arg(["SET", name, value].as_slice()).exec(redis).unwrap();
}

fn is_out_of_memory<T: std::fmt::Debug>(outcome: Result<T, QueueError>) {
    assert!(matches!(outcome, Err(QueueError::OutOfMemory)), "{outcome:?}");
}

#[tokio::test]
async fn fault_12_redis_out_of_memory_changes_and_loses_nothing() {
    let server = private_redis(&["--maxmemory-policy", "noeviction"]);
    let config = server.config();
    let mut redis = server.raw();
    let queue = Queue::connect_with(&config, INSTANT).await.unwrap();
    let w = worker(&queue, "w").await;
    for _ in 0..4 {
        submit(&queue, &JobSpec { max_attempts: 2, ..spec() }).await;
    }
    let late = claim(&queue, &w).await.unwrap();
    let finished = claim(&queue, &w).await.unwrap();
    let scheduled = JobId::new();
    queue.submit(scheduled, &spec(), SubmitMode::After(Duration::from_millis(1))).await.unwrap();
    let uploading = JobId::new();
    queue.submit(uploading, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    // Leftovers of a failover, which must not bypass the memory limit.
    for (set, leftover) in
        [("leases", format!("{}:9", JobId::new())), ("scheduled", JobId::new().to_string())]
    {
        let key = format!("{}jobs:{set}", config.prefix);
        redis::cmd("ZADD").arg(key).arg(0).arg(leftover).exec(&mut redis).unwrap();
    }

    let before = dump(&mut redis, &config);
    set(&mut redis, "maxmemory", "1");
    is_out_of_memory(queue.renew(late.attempt, late.at.plus(3_600_000)).await);
    is_out_of_memory(queue.sweep(10, 0).await);
    is_out_of_memory(queue.claim(&w, late.at.plus(60_000), true).await);
    is_out_of_memory(queue.claim(&w, late.at.plus(60_000), false).await);
    is_out_of_memory(queue.submit(JobId::new(), &spec(), SubmitMode::Now).await);
    is_out_of_memory(queue.uploaded(&arrived(uploading)).await);
    is_out_of_memory(queue.cancel(late.attempt.job).await);
    is_out_of_memory(queue.progress(&late, 50.0).await);
    is_out_of_memory(queue.expire_upload(uploading, &hopeless()).await);
    assert_eq!(dump(&mut redis, &config), before);
    // Finished work is not discarded.
    assert_eq!(
        queue.complete(&finished, &result_of(1), finished.attempt.epoch).await.unwrap(),
        CompleteOutcome::Done
    );

    set(&mut redis, "maxmemory", "0");
    assert!(queue.renew(late.attempt, late.at.plus(30_000)).await.unwrap());
    let swept = queue.sweep(10, 0).await.unwrap();
    assert_eq!(swept.ready, 1, "the delayed job, and not the lease that was renewed");
    assert_eq!(zset(&mut redis, &config, "jobs:leases").len(), 1);
    assert_eq!(zset(&mut redis, &config, "jobs:scheduled").len(), 0);
    assert_eq!(queue.stats().await.unwrap().pending, 3);
}

#[tokio::test]
async fn fault_13_connect_rejects_a_redis_that_evicts() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let server = private_redis(&["--maxmemory-policy", policy]);
        let error = Queue::connect(&server.config()).await.err().expect("it was taken");
        assert!(matches!(&error, QueueError::Evicts(p) if p == policy), "{error}");
        let words = error.to_string();
        assert!(words.contains("set it to noeviction"), "{words}");
    }
}

#[tokio::test]
async fn connect_trusts_a_redis_that_forbids_config() {
    let server = private_redis(&["--rename-command", "CONFIG", ""]);
    Queue::connect(&server.config()).await.unwrap();
}

#[tokio::test]
async fn connect_error_for_a_wrong_password_hides_it() {
    let server = private_redis(&[]);
    set(&mut server.raw(), "requirepass", "right-one");
    let socket = server.config().url;
    let bare = {
        use secrecy::ExposeSecret as _;
        socket.expose_secret().to_owned()
    };
    let with = |query: &str| RedisConfig::new(format!("{bare}{query}"), "");
    for query in ["?pass=hush-hush", "?user=somebody&pass=hush-hush", ""] {
        let error = timeout(HANG, Queue::connect(&with(query))).await.unwrap().err().expect("it was let in");
        assert!(matches!(error, QueueError::Auth(_)), "{query}: {error:?}");
        let words = format!("{error} {error:?}");
        assert!(words.contains("REDIS_URL") && !words.contains("hush"), "{words}");
    }
    Queue::connect(&with("?pass=right-one")).await.unwrap();
}

#[tokio::test]
async fn connect_without_redis_fails_instead_of_waiting() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = |port: u16| RedisConfig::new(format!("redis://:hush-hush@127.0.0.1:{port}"), "");
    let closed = {
        let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        other.local_addr().unwrap().port()
    };
    // One address refuses connections; at the other one a listener never answers.
    let (refused, silent) = (config(closed), config(port));
    let both = async { tokio::join!(Queue::connect(&refused), Queue::connect(&silent)) };
    let (refused, silent) = timeout(HANG, both).await.expect("it waits for ever");
    for outcome in [refused, silent] {
        let error = outcome.err().expect("there is no Redis");
        assert!(matches!(error, QueueError::Connection(_) | QueueError::TimedOut), "{error:?}");
        let words = format!("{error} {error:?}");
        assert!(words.contains("REDIS_URL") && !words.contains("hush"), "{words}");
    }
    drop(listener);
}

#[tokio::test]
async fn connect_error_for_an_invalid_address_hides_it() {
    let config = RedisConfig::new("redis://:hush-hush@:port", "");
    let error = Queue::connect(&config).await.err().expect("it was taken");
    let words = format!("{error} {error:?}");
    assert!(words.contains("REDIS_URL") && !words.contains("hush"), "{words}");
}

#[tokio::test]
async fn only_finished_jobs_expire() {
    let config = shared();
    let retention = Retention { jobs: Duration::from_secs(600), ..LONG.retention };
    let policy = Policy { retention, ..LONG };
    let queue = Queue::connect_with(&config, policy).await.unwrap();
    let w = worker(&queue, "w").await;
    let mut redis = raw(&config);
    let mut ttl = |id: JobId| -> i64 {
        redis::cmd("PTTL").arg(format!("{}jobs:status:{id}", config.prefix)).query(&mut redis).unwrap()
    };
    let id = submit(&queue, &spec()).await;
    assert_eq!(ttl(id), -1);
    let job = claim(&queue, &w).await.unwrap();
    queue.fail(&job, &hopeless()).await.unwrap();
    assert!((1..=600_000).contains(&ttl(id)));
    queue.redrive(id).await.unwrap();
    assert_eq!(ttl(id), -1);
}
