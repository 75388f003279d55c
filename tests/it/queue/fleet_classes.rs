//! What the fleets see and say of the classes of workers.

use std::collections::BTreeMap;

use tcoder::job::WorkerClass;
use tcoder::queue::{
    ClassView, FleetDesired, FleetName, FleetStatus, LockOutcome, SubmitMode, UploadedOutcome,
};

use super::classes::{of_class, taking};
use super::*;
use crate::support::redis::raw;

const HOLD: Duration = Duration::from_secs(60);

fn class(name: &str) -> WorkerClass {
    name.parse().unwrap()
}

#[tokio::test]
async fn fleet_view_tells_of_each_class_since_when_it_waits() {
    let (queue, _) = queue().await;
    let mut since = BTreeMap::new();
    for name in ["large", "default", "small"] {
        let before = now(&queue).await;
        submit(&queue, &of_class(name)).await;
        since.insert(class(name), before..=now(&queue).await);
    }
    submit(&queue, &of_class("large")).await;
    // More classes than a worker takes.
    let asked: Vec<WorkerClass> =
        (0..9).map(|n| class(&format!("class-{n}"))).chain(["default", "large"].map(class)).collect();
    let view = queue.fleet_view(&asked).await.unwrap();
    let pending: Vec<(&str, u64)> =
        view.waiting.iter().map(|(class, of)| (class.as_str(), of.pending)).collect();
    assert_eq!(pending, [("default", 1), ("large", 2)]);
    for (class, ClassView { ready_since, .. }) in &view.waiting {
        assert!(since[class].contains(&ready_since.unwrap()), "{class}: {view:?}");
    }
}

#[tokio::test]
async fn upload_is_limited_by_the_fleets_of_its_class() {
    let (queue, _) = queue().await;
    let queue = queue.with_max_input_bytes(None);
    for (name, classes, limit) in [("u1", "default", 1 << 30), ("u2", "large", 4 << 30)] {
        let fleet = queue.of_fleet(FleetName::of_pool(name));
        let LockOutcome::Mine(fence) = fleet.acquire_fleet_lock("a", HOLD, false, false).await.unwrap()
        else {
            panic!("somebody else holds the lock");
        };
        let status = FleetStatus {
            worker_classes: classes.parse().unwrap(),
            desired: FleetDesired { max: 3, ..FleetDesired::default() },
            max_input_bytes: Some(limit),
            ..FleetStatus::default()
        };
        assert!(fleet.publish_fleet_status(&fence, &status).await.unwrap());
    }
    let limit = async |name: &str| queue.input_limit(2 << 30, &class(name)).await.unwrap();
    assert_eq!((limit("default").await, limit("large").await), (Some(1 << 30), Some(4 << 30)));
    assert_eq!(limit("small").await, None);
    // An input of 2 GiB is too large for a job of the default class, but not for one of large workers.
    for (name, outcome) in [
        ("default", UploadedOutcome::Refused),
        ("large", UploadedOutcome::Queued),
        ("small", UploadedOutcome::Queued),
    ] {
        let job = JobId::new();
        queue.submit(job, &of_class(name), SubmitMode::OnUpload(HOLD)).await.unwrap();
        assert_eq!(queue.uploaded(&too_large(job)).await.unwrap(), outcome, "{name}");
    }
}

#[tokio::test]
async fn configured_limit_is_about_the_classes_of_the_own_workers() {
    let (queue, _) = queue().await;
    let queue = queue.with_max_input_bytes(Some(1 << 30));
    let limit = async |queue: &Queue, name: &str| queue.input_limit(2 << 30, &class(name)).await.unwrap();
    assert_eq!((limit(&queue, "default").await, limit(&queue, "large").await), (Some(1 << 30), None));
    let large = taking(&queue, "large");
    assert_eq!((limit(&large, "default").await, limit(&large, "large").await), (None, Some(1 << 30)));
    for (name, outcome) in [("default", UploadedOutcome::Refused), ("large", UploadedOutcome::Queued)] {
        let job = JobId::new();
        queue.submit(job, &of_class(name), SubmitMode::OnUpload(HOLD)).await.unwrap();
        assert_eq!(queue.uploaded(&too_large(job)).await.unwrap(), outcome, "{name}");
    }
}

#[tokio::test]
async fn many_split_jobs_of_one_class_say_nothing_of_another() {
    let (queue, config) = queue().await;
    for _ in 0..3 {
        submit(&queue, &of_class("large")).await;
    }
    let split = format!("{}jobs:split", config.prefix);
    let ids: Vec<String> = (0..101).map(|_| JobId::new().to_string()).collect();
    redis::cmd("SADD").arg(split).arg(ids).exec(&mut raw(&config)).unwrap();
    let view = queue.fleet_view(&[class("large")]).await.unwrap();
    let ClassView { pending, parts, .. } = view.waiting[&class("large")];
    assert_eq!((pending, parts), (3, 0));
}
