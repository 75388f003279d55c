//! The edge beside a controller that stays, on one Redis and one Fly: whoever acts, Fly is asked once a second
//! and there is never one machine too many.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tcoder::config::RedisConfig;
use tcoder::controller::fleet::FleetPolicy;
use tcoder::controller::reconciler::{Parts, Reconciler};
use tcoder::flyprovider::{Fly, Limit, MachineState};
use tcoder::metrics::Metrics;
use tcoder::queue::FlyRate;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::edge::{APP, Edge, Setup};
use crate::support::redis::shared;
use crate::support::system::{PATIENCE, clip, keeps_to_one_a_second};

const MAX: u32 = 2;

fn controller(edge: &Edge) -> Reconciler {
    let policy = FleetPolicy {
        max: MAX,
        jobs_per_machine: NonZeroU32::MIN,
        regions: vec!["iad".into()],
        idle_timeout: Duration::from_secs(2),
        ..FleetPolicy::new(APP, "worker:1")
    };
    Reconciler::new(Parts {
        queue: edge.queue.clone(),
        fly: Fly::new(&edge.fly.fly_config()).unwrap(),
        limit: Limit::new(edge.queue.clone(), FlyRate::default()),
        policy: watch::channel(policy).1,
        told: watch::Sender::new(None),
        environment: BTreeMap::new(),
        holder: "controller".into(),
        metrics: Metrics::new(),
    })
}

async fn uploads(edge: &Edge, count: usize) -> Vec<String> {
    let wish = json!({"preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"});
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(edge.upload(clip(), &wish).await);
    }
    ids
}

async fn completed(edge: &Edge, ids: &[String]) {
    for id in ids {
        edge.completed(id).await;
    }
}

#[tokio::test]
async fn whoever_acts_there_is_one_request_a_second_and_never_one_machine_too_many() {
    let redis = shared();
    let setup = Setup::over(RedisConfig { url: redis.url.clone(), prefix: redis.prefix.clone() });
    let edge = Arc::new(setup.set("MAX_MACHINES", MAX.to_string()).alive().start().await);
    let most = Arc::new(AtomicUsize::new(0));
    let (watched, seen) = (Arc::clone(&edge), Arc::clone(&most));
    let watch = tokio::spawn(async move {
        let there = |state: &MachineState| !matches!(state, MachineState::Destroyed);
        let count = |machines: &[tcoder::flyprovider::Machine]| {
            seen.fetch_max(machines.iter().filter(|m| there(&m.state)).count(), Ordering::SeqCst);
            false
        };
        watched.fly.until(count).await;
    });

    // The edge alone.
    completed(&edge, &uploads(&edge, 2).await).await;
    // Both, each woken by the same events.
    let stop = CancellationToken::new();
    let running = tokio::spawn(controller(&edge).run(stop.clone()));
    completed(&edge, &uploads(&edge, 6).await).await;
    // The controller dies, and gives nothing back: the edge goes on.
    running.abort();
    completed(&edge, &uploads(&edge, 3).await).await;
    // One comes again, and stops in order.
    let running = tokio::spawn(controller(&edge).run(stop.clone()));
    completed(&edge, &uploads(&edge, 2).await).await;
    stop.cancel();
    tokio::time::timeout(PATIENCE, running).await.expect("the controller does not stop").unwrap();

    watch.abort();
    assert!(most.load(Ordering::SeqCst) <= MAX as usize, "{} machines", most.load(Ordering::SeqCst));
    assert!(most.load(Ordering::SeqCst) > 0);
    keeps_to_one_a_second(&edge.fly);
}
