//! The queue on a Redis Cluster: the node with the keys is found, and found again when the slot moves or its primary dies.

use std::time::{Duration, Instant};

use tcoder::job::{JobId, State};
use tcoder::queue::{CompleteOutcome, EventFeed, Filter, LockOutcome, Queue, QueueError, SubmitMode};
use tokio::time::{sleep, timeout};

use super::wake::{all_woken, blocked, waiters};
use super::*;
use crate::support::redis_cluster::RedisCluster;

/// Longer than anything here takes, so that a hang ends as a failure.
const HANG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn queue_works_on_a_cluster_whichever_node_is_configured() {
    let cluster = RedisCluster::start(0).await;
    for (number, port) in cluster.nodes.keys().enumerate() {
        let prefix = format!("{{films-{number}}}:");
        let queue = Queue::connect_with(&cluster.config(*port, &prefix), LONG).await.unwrap();
        queue.check_primary().await.unwrap();
        let owner = &cluster.nodes[&cluster.owners(*port, &prefix).primary];
        let mut feed = EventFeed::open(&queue).await.unwrap();
        let w = worker(&queue, "w").await;
        // An idle worker is woken by the submit.
        let idle = waiters(&queue, 1).await;
        blocked(owner, 1).await;
        let id = submit(&queue, &hooked()).await;
        all_woken(idle).await;

        let job = claim(&queue, &w).await.unwrap();
        assert_eq!(job.attempt.job, id);
        let clock = queue.clock().await.unwrap();
        assert!(queue.keep(job.attempt, &clock).await.unwrap());
        assert!(queue.progress(&job, 50.0).await.unwrap());
        assert_eq!(
            queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(),
            CompleteOutcome::Done
        );
        let mut states = Vec::new();
        while states.last() != Some(&State::Completed) {
            let events = timeout(HANG, feed.next(HANG)).await.unwrap().unwrap();
            states.extend(events.into_iter().map(|event| event.status));
        }
        assert_eq!(states, [State::Queued, State::Running, State::Running, State::Completed]);

        let listed = queue.list(&Filter::default(), 10, None).await.unwrap();
        assert_eq!(listed.jobs.iter().map(|job| job.job_id).collect::<Vec<_>>(), [id]);
        assert_eq!(queue.stats().await.unwrap().completed, 1);
        assert_eq!(queue.workers().await.unwrap().len(), 1);
        assert_eq!(queue.deliveries().await.unwrap().len(), 1);
        let lock = |holder| queue.acquire_fleet_lock(holder, Duration::from_secs(60), false, false);
        assert!(matches!(lock("a").await.unwrap(), LockOutcome::Mine(_)));
        assert!(!matches!(lock("b").await.unwrap(), LockOutcome::Mine(_)));
        queue.fleet_pause(None).await.unwrap();
        assert!(queue.fleet().await.unwrap().1.is_some());
    }
}

#[tokio::test]
async fn connect_refuses_a_prefix_that_spreads_keys_over_a_cluster() {
    let cluster = RedisCluster::start(0).await;
    let port = *cluster.nodes.keys().next().unwrap();
    for prefix in ["", "films:"] {
        let error = Queue::connect(&cluster.config(port, prefix)).await.err().expect("it was taken");
        assert!(matches!(&error, QueueError::NoHashTag(p) if p == prefix), "{error:?}");
        let words = error.to_string();
        assert!(words.contains("REDIS_KEY_PREFIX") && words.contains("{tcoder}:"), "{words}");
    }
}

/// Submits a job as soon as the cluster permits it.
async fn submitted(queue: &Queue) -> JobId {
    let id = JobId::new();
    let submits = async {
        loop {
            match queue.submit(id, &spec(), SubmitMode::Now).await {
                Ok(_) => return,
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(HANG, submits).await.expect("the queue does not find the keys");
    id
}

/// Reads a feed until it has told of these jobs.
async fn hears_of(feed: &mut EventFeed, ids: &[JobId]) {
    let mut heard = Vec::new();
    let hears = async {
        while !ids.iter().all(|id| heard.contains(id)) {
            match feed.next(HANG).await {
                Ok(events) => heard.extend(events.into_iter().map(|event| event.job_id)),
                Err(error) => {
                    assert!(error.is_transient(), "{error:?}");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    timeout(HANG, hears).await.expect("events are missing");
}

#[tokio::test]
async fn queue_waits_while_its_slot_moves_and_follows_it() {
    const PREFIX: &str = "{moves}:";
    let cluster = RedisCluster::start(0).await;
    let any = *cluster.nodes.keys().next().unwrap();
    let owners = cluster.owners(any, PREFIX);
    let (slot, from) = (owners.slot.to_string(), owners.primary);
    let to = *cluster.nodes.keys().find(|port| **port != from).unwrap();
    let (source, target) = (&cluster.nodes[&from], &cluster.nodes[&to]);
    let queue = Queue::connect_with(&cluster.config(any, PREFIX), LONG).await.unwrap();
    let mut feed = EventFeed::open(&queue).await.unwrap();
    let w = worker(&queue, "w").await;
    let held = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let waits = submit(&queue, &spec()).await;
    let own = queue.reconnect().await.unwrap();
    let idle = tokio::spawn(async move { own.wait_for_wakeup(HANG).await });

    target.tell(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.id(from)]);
    source.tell(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &cluster.id(to)]);
    // No script may see some of the keys.
    let error = queue.submit(JobId::new(), &spec(), SubmitMode::Now).await.unwrap_err();
    assert!(matches!(&error, QueueError::Unavailable(why) if why.contains("ASK")), "{error:?}");
    let keys: Vec<String> =
        redis::cmd("CLUSTER").arg("GETKEYSINSLOT").arg(&slot).arg(1000).query(&mut source.raw()).unwrap();
    assert!(keys.len() > 3, "{keys:?}");
    for key in &keys {
        source.tell(&["MIGRATE", "127.0.0.1", &to.to_string(), key, "0", "5000"]);
        assert!(queue.submit(JobId::new(), &spec(), SubmitMode::Now).await.unwrap_err().is_transient());
    }
    let owner = cluster.id(to);
    for node in [target, source] {
        node.tell(&["CLUSTER", "SETSLOT", &slot, "NODE", &owner]);
    }

    // Both the blocked reads and the next call follow.
    let late = submitted(&queue).await;
    hears_of(&mut feed, &[held, waits, late]).await;
    timeout(HANG, idle).await.expect("the idle worker hears nothing").unwrap().unwrap();
    queue.check_primary().await.unwrap();
    assert_eq!(queue.stats().await.unwrap().pending, 2);
    assert_eq!(queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(), CompleteOutcome::Done);
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, waits);
}

#[tokio::test]
async fn queue_heals_when_the_primary_of_its_slot_dies_or_steps_back() {
    const PREFIX: &str = "{fails-over}:";
    let mut cluster = RedisCluster::start(1).await;
    let any = *cluster.nodes.keys().next().unwrap();
    let first = cluster.owners(any, PREFIX).primary;
    let other = *cluster.nodes.keys().find(|port| **port != first).unwrap();
    // The configured address is that of the node which dies.
    let queue = Queue::connect_with(&cluster.config(first, PREFIX), LONG).await.unwrap();
    let mut feed = EventFeed::open(&queue).await.unwrap();
    let heartbeat = queue.reconnect().await.unwrap();
    let w = worker(&queue, "w").await;
    let held = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let clock = queue.clock().await.unwrap();
    cluster.replicated(first).await;

    cluster.nodes.get_mut(&first).unwrap().kill().await;
    let second_job = submitted(&queue).await;
    hears_of(&mut feed, &[held, second_job]).await;
    let keeps = async { while !heartbeat.keep(job.attempt, &clock).await.unwrap_or(false) {} };
    timeout(HANG, keeps).await.expect("the heartbeat does not heal");
    assert_eq!(queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(), CompleteOutcome::Done);
    // Another connection is opened where the configured address is still dead.
    queue.reconnect().await.unwrap().check_primary().await.unwrap();

    // The one that died comes back as a replica, and takes over again by order.
    cluster.nodes.get_mut(&first).unwrap().start();
    let second = cluster.owners(other, PREFIX).primary;
    assert_ne!(second, first);
    // Of earlier wake-ups nothing is left.
    cluster.nodes[&second].tell(&["DEL", &format!("{PREFIX}jobs:bell")]);
    let idle = waiters_that_heal(&queue).await;
    blocked(&cluster.nodes[&second], 1).await;
    let takes_over = async {
        // An order to one that is not up to date is in vain.
        let mut redis = cluster.nodes[&first].raw();
        let mut info = || redis::cmd("INFO").arg("replication").query::<String>(&mut redis).unwrap();
        while !info().contains("master_link_status:up") {
            sleep(Duration::from_millis(50)).await;
        }
        // The nodes forget an order that they could not carry out within five seconds.
        let mut ordered: Option<Instant> = None;
        while cluster.owners(first, PREFIX).primary != first {
            if ordered.is_none_or(|at| at.elapsed() > Duration::from_secs(6)) {
                cluster.nodes[&first].tell(&["CLUSTER", "FAILOVER"]);
                ordered = Some(Instant::now());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(HANG, takes_over).await.expect("the replica does not take over");
    let third_job = submitted(&queue).await;
    hears_of(&mut feed, &[third_job]).await;
    timeout(HANG, idle).await.expect("the idle worker is not woken").unwrap();
    assert!(queue.get(second_job).await.unwrap().is_some());
    assert_eq!(queue.stats().await.unwrap().pending, 2);
}

/// An idle worker, which waits again after a failure as workers do, until it is woken.
async fn waiters_that_heal(queue: &Queue) -> tokio::task::JoinHandle<()> {
    let own = queue.reconnect().await.unwrap();
    tokio::spawn(async move {
        while let Err(error) = own.wait_for_wakeup(HANG * 2).await {
            assert!(error.is_transient(), "{error:?}");
            sleep(Duration::from_millis(50)).await;
        }
    })
}
