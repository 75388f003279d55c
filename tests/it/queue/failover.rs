//! A primary that is demoted while clients keep their connections to it, answers that are lost, and Redis that was away.

use std::time::Duration;

use tcoder::config::RedisConfig;
use tcoder::queue::{CompleteOutcome, Policy, Queue, QueueError};
use tokio::time::timeout;

use super::*;
use crate::support::kube::free_port;
use crate::support::redis::{PrivateRedis, private_redis};
use crate::support::tcp_proxy::TcpProxy;

/// Longer than anything here takes, so that a hang ends as a failure.
const HANG: Duration = Duration::from_secs(120);

/// A server on a port too, since replication needs one.
fn on_a_port() -> (PrivateRedis, u16) {
    let port = free_port();
    (private_redis(&["--port", &port.to_string()]), port)
}

fn tell(server: &PrivateRedis, command: &[&str]) {
    redis::cmd(command[0]).arg(&command[1..]).exec(&mut server.raw()).unwrap();
}

fn through(proxy: &TcpProxy, prefix: &str) -> RedisConfig {
    RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port), prefix)
}

#[tokio::test]
async fn queue_finds_the_new_primary_after_a_failover_that_kills_no_connection() {
    let ((first, first_port), (second, second_port)) = (on_a_port(), on_a_port());
    tell(&second, &["REPLICAOF", "127.0.0.1", &first_port.to_string()]);
    let proxy = TcpProxy::to(first_port).await;
    let queue = Queue::connect_with(&through(&proxy, "{failover}:"), LONG).await.unwrap();
    queue.check_primary().await.unwrap();
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    redis::cmd("WAIT").arg(&["1", "60000"]).exec(&mut first.raw()).unwrap();

    tell(&second, &["REPLICAOF", "NO", "ONE"]);
    tell(&first, &["REPLICAOF", "127.0.0.1", &second_port.to_string()]);
    let demoted = queue.check_primary().await.unwrap_err();
    assert!(matches!(&demoted, QueueError::NotPrimary(_)), "{demoted:?}");
    assert!(demoted.to_string().contains("REDIS_URL"), "{demoted}");
    proxy.lead_to(second_port);
    // The open connection still leads to the demoted one.
    let outcome =
        timeout(HANG, queue.complete(&job, &result_of(1), job.attempt.epoch)).await.unwrap().unwrap();
    assert_eq!(outcome, CompleteOutcome::Done);
    queue.check_primary().await.unwrap();
    assert_eq!(queue.get(id).await.unwrap().unwrap().status, tcoder::job::State::Completed);
    submit(&queue, &spec()).await;
}

#[tokio::test]
async fn claim_whose_answer_was_lost_costs_no_attempt_and_takes_no_second_job() {
    let (server, port) = on_a_port();
    let proxy = TcpProxy::to(port).await;
    let queue = Queue::connect_with(&through(&proxy, "{lost-answer}:"), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    for _ in 0..2 {
        submit(&queue, &JobSpec { max_attempts: 1, ..spec() }).await;
    }
    let now = now(&queue).await;
    // The script is known to the server by then, so that the answer that is lost is that of the claim.
    assert!(matches!(queue.claim(&w, now, false).await.unwrap(), Claim::Job(_)));
    proxy.lose_answers(1);
    let Claim::Job(job) = timeout(HANG, queue.claim(&w, now, false)).await.unwrap().unwrap() else {
        panic!("the job is held by a lease that nobody knows of")
    };
    assert_eq!(proxy.will_lose(), 0, "no answer was lost");
    assert_eq!(job.number, 1);
    let config = RedisConfig { prefix: "{lost-answer}:".to_owned(), ..server.config() };
    assert_eq!(zset(&mut server.raw(), &config, "jobs:leases").len(), 2);
    let outcome = queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    assert_eq!(outcome, CompleteOutcome::Done);
}

#[tokio::test]
async fn claim_whose_answer_was_lost_in_an_outage_is_found_by_the_workers_next_claim() {
    let (server, port) = on_a_port();
    let proxy = TcpProxy::to(port).await;
    let queue = Queue::connect_with(&through(&proxy, "{outage}:"), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    for _ in 0..3 {
        submit(&queue, &JobSpec { max_attempts: 1, ..spec() }).await;
    }
    let now = now(&queue).await;
    assert!(matches!(queue.claim(&w, now, false).await.unwrap(), Claim::Job(_)));
    // No answer comes through for longer than one call tries.
    proxy.lose_answers(u32::MAX);
    let error = timeout(HANG, queue.claim(&w, now, false)).await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error}");
    proxy.lose_answers(0);
    let Claim::Job(job) = timeout(HANG, queue.claim(&w, now, true)).await.unwrap().unwrap() else {
        panic!("the job is held by a lease that nobody knows of")
    };
    assert_eq!(job.number, 1);
    let config = RedisConfig { prefix: "{outage}:".to_owned(), ..server.config() };
    assert_eq!(zset(&mut server.raw(), &config, "jobs:leases").len(), 2, "it took a second job");
    let outcome = queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    assert_eq!(outcome, CompleteOutcome::Done);
}

#[tokio::test]
async fn fault_06_completion_whose_answer_was_lost_is_done_once() {
    let (_server, port) = on_a_port();
    let proxy = TcpProxy::to(port).await;
    let queue = Queue::connect_with(&through(&proxy, "{lost-completion}:"), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    // The script is known to the server after the first, so that the answer that is lost is that of the second.
    for loses in [false, true] {
        submit(&queue, &hooked()).await;
        let job = claim(&queue, &w).await.unwrap();
        proxy.lose_answers(u32::from(loses));
        let result = result_of(1);
        let completes = queue.complete(&job, &result, job.attempt.epoch);
        let outcome = timeout(HANG, completes).await.unwrap().unwrap();
        let expected = if loses { CompleteOutcome::Already } else { CompleteOutcome::Done };
        assert_eq!(outcome, expected);
        assert_eq!(proxy.will_lose(), 0, "no answer was lost");
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.completed, stats.running, stats.pending_webhooks), (2, 0, 2));
}

#[tokio::test]
async fn leases_that_expired_while_redis_was_away_are_spared_for_a_while() {
    let mut server = private_redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let policy = Policy { grace: Duration::from_secs(4), ..INSTANT };
    let queue = Queue::connect_with(&server.config(), policy).await.unwrap();
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    // It was away for much longer than the grace.
    let leases = format!("{}jobs:leases", server.config().prefix);
    let expired = ["1".to_owned(), job.attempt.to_string()];
    redis::cmd("ZADD").arg(leases).arg(&expired).exec(&mut server.raw()).unwrap();
    server.kill().await;
    server.start();
    let sweep = async {
        loop {
            if let Ok(sweep) = queue.sweep(10, 0).await {
                return sweep;
            }
        }
    };
    let sweep = timeout(HANG, sweep).await.unwrap();
    assert_eq!(sweep.ready, 0, "a live worker's job was taken away");
    assert!(sweep.next_due > Some(sweep.now), "{sweep:?}");
    assert!(queue.renew(job.attempt, job.at.plus(1)).await.unwrap());
    // Nobody renews it any more.
    let reaped = async { while queue.sweep(10, 0).await.unwrap().ready == 0 {} };
    timeout(HANG, reaped).await.expect("the lease is spared for ever");
}
