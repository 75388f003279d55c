//! The HTTP API: accepted requests, rejected requests with their messages, and repeated requests.

use proptest::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};

use crate::acceptance::{self, acceptance, is_problem};
use crate::support::clips::clip;
use crate::support::system::{self, PATIENCE, Setup, guarded, shared};

acceptance!(guarded().await);

#[tokio::test]
async fn video_is_transcoded_and_its_webhook_delivered() {
    acceptance::video_is_transcoded_and_its_webhook_delivered(shared().await).await;
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop_oneof![Just("720p"), Just("hls"), Just("a.mp4"), Just("https://example.com/a")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec![
        "jobId",
        "preset",
        "outputQualities",
        "webhookUrl",
        "priority",
        "maxAttempts",
        "deadlineSeconds",
        "inputKey",
        "inputUrl",
        "delaySeconds",
        "fileName",
        "contentType",
    ]);
    let object = prop::collection::vec((names, any_json()), 0..4).prop_map(|pairs| {
        let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
        Value::Object(pairs.collect()).to_string().into_bytes()
    });
    prop_oneof![8 => object, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

#[test]
fn server_answers_arbitrary_bodies() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let system = runtime.block_on(guarded());
    let config = ProptestConfig { cases: 200, ..ProptestConfig::default() };
    proptest!(config, |(body in any_body(), path in prop::sample::select(vec!["/api/upload", "/api/jobs"]))| {
        let request = system.request(Method::POST, path).header("content-type", "application/json").body(body);
        let answer = runtime.block_on(system.answer(request));
        prop_assert!(answer.status < 500, "{:?}", answer);
        if answer.status >= 400 {
            is_problem(&answer, answer.status, answer.body["field"].as_str());
        }
    });
}

#[tokio::test]
async fn status_and_stats_describe_the_system() {
    let system = shared().await;
    system.completed(&system.upload(clip(), &json!({"outputQualities": ["144p"]})).await).await;
    // The fleet starts one machine a second.
    let status = async {
        loop {
            let status = system.get("/api/status").await.body;
            if status["workers"].as_array().unwrap().len() == 2 {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, status).await.expect("there are not two workers");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let stats = system.get("/api/stats").await.body;
    assert!(stats["completed"].as_u64().unwrap() >= 1 && stats["workers"] == 2, "{stats}");
}

/// One worker with all that the kernel offers, and one without a sandbox.
#[tokio::test]
async fn sandbox_of_the_workers_is_told() {
    let system = Setup::default().env("WORKER_SANDBOX", "off").start().await;
    let bare = |worker: &Value| worker["sandbox"]["state"] == "off";
    let confined = |worker: &Value| matches!(worker["sandbox"]["state"].as_str(), Some("full" | "partial"));
    let _worker = system.worker("confined", &[("WORKER_SANDBOX", "preferred")]);
    let workers = async {
        loop {
            let status = system.get("/api/status").await.body;
            let workers = status["workers"].as_array().unwrap().clone();
            if workers.iter().any(bare) && workers.iter().any(confined) {
                return workers;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let workers = tokio::time::timeout(PATIENCE, workers).await.expect("the workers tell nothing");
    let missing = "WORKER_SANDBOX is off: FFmpeg runs without a sandbox";
    for worker in workers.iter().filter(|worker| bare(worker)) {
        assert_eq!(worker["sandbox"]["missing"], json!([missing]), "{worker}");
    }
    let full = workers.iter().find(|worker| worker["sandbox"]["state"] == "full");
    assert!(full.is_none_or(|worker| worker["sandbox"]["missing"].is_null()), "{full:?}");
    // It does not make the system less ready.
    let ready = system.http.get(format!("{}/readyz", system.url)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    assert_eq!(ready.text().await.unwrap(), format!("ready\nsandbox: off: {missing}\n"));
    let folder = system::folder("fleet-status");
    let shown = system.cli(&["fleet", "status"], &folder).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("of 2 workers WORKER_SANDBOX is off"), "{shown}");
    system.stop().await;
}

#[tokio::test]
async fn jobs_ask_for_no_more_than_the_settings_permit() {
    let system = Setup::default()
        .workers(0)
        .env("JOB_MAX_DEADLINE_SECONDS", "600")
        .env("JOB_MAX_ATTEMPTS", "2")
        .env("JOB_MAX_PRIORITY", "5")
        .start()
        .await;
    for (field, value, most) in
        [("deadlineSeconds", 601, "600"), ("maxAttempts", 3, "2"), ("priority", 6, "-100 to 5")]
    {
        for (path, of) in [("/api/jobs", json!({"inputKey": "a.mp4"})), ("/api/upload", json!({}))] {
            let mut body = of;
            body[field] = json!(value);
            let refused = system.post(path, &body).await;
            is_problem(&refused, 422, Some(field));
            assert!(refused.body["detail"].as_str().unwrap().contains(most), "{refused:?}");
        }
    }
    let id = system.submit(&json!({"inputKey": "a.mp4", "priority": 5})).await;
    let job = system.job(&id).await;
    assert_eq!((&job["maxAttempts"], &job["deadlineSeconds"]), (&json!(2), &json!(600)), "{job:#}");
    system.stop().await;
}

/// What a newer version does to a job that is being watched.
#[tokio::test]
async fn watch_of_a_job_ends_when_a_newer_version_takes_the_job_over() {
    let system = shared().await;
    let ticket = system.post("/api/upload", &json!({"fileName": "a.mp4"})).await;
    let id = ticket.body["jobId"].as_str().unwrap();
    let watch = system.request(Method::GET, &format!("/api/jobs/{id}/events")).send().await.unwrap();
    let mut redis = system.redis();
    redis::cmd("HSET").arg(format!("jobs:status:{id}")).arg(&["v", "99"]).exec(&mut redis).unwrap();
    let event = ["*", "v", "1", "id", id, "state", "queued"];
    redis::cmd("XADD").arg("jobs:events").arg(&event).exec(&mut redis).unwrap();
    let text = tokio::time::timeout(PATIENCE, watch.text()).await.expect("the watch does not end").unwrap();
    assert_eq!(text.matches("event: job").count(), 1, "{text}");
    let answer = system.get(&format!("/api/jobs/{id}")).await;
    is_problem(&answer, 503, None);
    assert!(answer.body["detail"].as_str().unwrap().contains("another version of tcoder"), "{answer:?}");
    let page = system.get("/api/jobs?limit=100").await.body;
    assert!(page["unreadable"].as_array().unwrap().iter().any(|job| job["jobId"] == id), "{page:#}");
    // The record must not trouble the other tests.
    redis::cmd("HSET").arg(format!("jobs:status:{id}")).arg(&["v", "1"]).exec(&mut redis).unwrap();
}
