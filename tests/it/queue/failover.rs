//! A primary that is demoted while clients keep their connections to it, answers that are lost, and Redis that was away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tcoder::config::RedisConfig;
use tcoder::queue::{Policy, Queue, QueueError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::support::kube::free_port;
use crate::support::redis::{PrivateRedis, private_redis};

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

/// An address that leads to one server and later to another. Connections that are open stay where they are, as behind a
/// name that is resolved anew, or a proxy that balances connections.
struct Address {
    port: u16,
    leads_to: watch::Sender<u16>,
    /// The next answer to a call is lost, and its connection with it.
    loses: Arc<AtomicBool>,
}

impl Address {
    async fn of(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (leads_to, target) = watch::channel(server);
        let loses = Arc::new(AtomicBool::new(false));
        let lossy = Arc::clone(&loses);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let port = *target.borrow();
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&lossy)));
            }
        });
        Self { port, leads_to, loses }
    }

    fn config(&self, prefix: &str) -> RedisConfig {
        RedisConfig { url: format!("redis://127.0.0.1:{}", self.port).into(), prefix: prefix.to_owned() }
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, loses: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_server.read(&mut buffer).await.unwrap_or(0);
            if read == 0 || loses.swap(false, Ordering::SeqCst) {
                return;
            }
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
    }
}

#[tokio::test]
async fn queue_finds_the_new_primary_after_a_failover_that_kills_no_connection() {
    let ((first, first_port), (second, second_port)) = (on_a_port(), on_a_port());
    tell(&second, &["REPLICAOF", "127.0.0.1", &first_port.to_string()]);
    let address = Address::of(first_port).await;
    let queue = Queue::connect_with(&address.config("{failover}:"), LONG).await.unwrap();
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
    address.leads_to.send_replace(second_port);
    // The open connection still leads to the demoted one.
    let outcome =
        timeout(HANG, queue.complete(&job, &result_of(1), job.attempt.epoch)).await.unwrap().unwrap();
    assert_eq!(outcome, tcoder::queue::CompleteOutcome::Done);
    queue.check_primary().await.unwrap();
    assert_eq!(queue.get(id).await.unwrap().unwrap().status, tcoder::job::State::Completed);
    submit(&queue, &spec()).await;
}

#[tokio::test]
async fn claim_whose_answer_was_lost_costs_no_attempt_and_takes_no_second_job() {
    let (server, port) = on_a_port();
    let address = Address::of(port).await;
    let queue = Queue::connect_with(&address.config("{lost-answer}:"), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    for _ in 0..2 {
        submit(&queue, &JobSpec { max_attempts: 1, ..spec() }).await;
    }
    let now = now(&queue).await;
    // The script is known to the server by then, so that the answer that is lost is that of the claim.
    assert!(matches!(queue.claim(&w, now, false).await.unwrap(), Claim::Job(_)));
    address.loses.store(true, Ordering::SeqCst);
    let Claim::Job(job) = timeout(HANG, queue.claim(&w, now, false)).await.unwrap().unwrap() else {
        panic!("the job is held by a lease that nobody knows of")
    };
    assert!(!address.loses.load(Ordering::SeqCst), "no answer was lost");
    assert_eq!(job.number, 1);
    let config = RedisConfig { prefix: "{lost-answer}:".to_owned(), ..server.config() };
    assert_eq!(zset(&mut server.raw(), &config, "jobs:leases").len(), 2);
    let outcome = queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    assert_eq!(outcome, tcoder::queue::CompleteOutcome::Done);
}

#[tokio::test]
async fn leases_that_expired_while_redis_was_away_are_spared_for_a_while() {
    let mut server = private_redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let policy = Policy { grace: Duration::from_secs(4), ..INSTANT };
    let queue = Queue::connect_with(&server.config(), policy).await.unwrap();
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
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
