//! Workers of different classes, through the whole system: each takes the jobs of its classes.

use serde_json::json;

use crate::support::clips::clip;
use crate::support::system::{Setup, folder};

#[tokio::test]
async fn jobs_go_to_the_workers_of_their_classes() {
    let system = Setup::default().workers(0).start().await;
    let options = |class: &str| json!({"outputQualities": ["144p"], "workerClass": class});
    let large = system.upload(clip(), &options("large")).await;
    let plain = system.upload(clip(), &json!({"outputQualities": ["144p"]})).await;
    let arguments = ["submit", clip().to_str().unwrap(), "--quality", "144p", "--worker-class", "small"];
    let sent = system.cli(&arguments, &folder("classes")).await;
    let small = String::from_utf8(sent.stdout).unwrap().trim().to_owned();
    let stats = system.get("/api/stats").await.body;
    assert_eq!(stats["pending"], 3, "{stats}");
    // A job waits until there is a worker of its class, and nobody else takes it meanwhile.
    let _first = system.worker("first", &[]);
    let job = system.completed(&plain).await;
    assert!(job["worker"].as_str().unwrap().starts_with("first-"), "{job:#}");
    assert!(job.get("workerClass").is_none(), "{job:#}");
    let _second = system.worker("second", &[("WORKER_CLASSES", "large,small")]);
    for (id, class) in [(&large, "large"), (&small, "small")] {
        let job = system.completed(id).await;
        assert!(job["worker"].as_str().unwrap().starts_with("second-"), "{job:#}");
        assert_eq!((job["workerClass"].as_str(), job["attempt"].as_u64()), (Some(class), Some(1)), "{job:#}");
    }
    // Both sleep now, and are woken for what they take.
    let (large, plain) =
        (system.upload(clip(), &options("large")).await, system.upload(clip(), &options("default")).await);
    for (id, worker) in [(large, "second-"), (plain, "first-")] {
        let job = system.completed(&id).await;
        assert!(job["worker"].as_str().unwrap().starts_with(worker), "{job:#}");
    }
    let workers = system.get("/api/status").await.body;
    let of = |name: &str| {
        let workers = workers["workers"].as_array().unwrap();
        let found = workers.iter().find(|worker| worker["machineId"] == name).unwrap();
        found["workerClasses"].clone()
    };
    assert_eq!((of("first"), of("second")), (json!(["default"]), json!(["large", "small"])));
    system.stop().await;
}
