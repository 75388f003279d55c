//! R2's messages: each is acknowledged or redelivered by itself, and whatever their order and number, a job
//! starts once.

use std::time::Duration;

use serde_json::{Value, json};
use tcoder::flyprovider::emulator::EmulatedCall;
use uuid::Uuid;

use super::{arrived, awaited, key, quiet, status};
use crate::acceptance::is_problem;
use crate::support::clips::half_minute;
use crate::support::edge::{Edge, Fate, INPUT, Setup};
use crate::support::process::eventually;
use crate::support::redis::{private_redis, shared};
use crate::support::system::{PATIENCE, keeps_to_one_a_second};

fn with(event: &Value, field: &str, value: impl Into<Value>) -> Value {
    let mut event = event.clone();
    event[field] = value.into();
    event
}

/// An event of an object that does not exist.
fn of_nothing(id: &str) -> Value {
    json!({
        "account": "3f4b7e3dcab231cbfdaa90a6a28bd548",
        "action": "PutObject",
        "bucket": INPUT,
        "object": {"key": key(id), "size": 65536, "eTag": "c846ff7a18f28c2e262116d6e8719ef0"},
        "eventTime": "2026-11-24T19:36:44.379Z"
    })
}

async fn letter(edge: &Edge, like: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            if let Some(found) = edge.letters().await.into_iter().find(&like) {
                return found;
            }
            // workerd does not report the delivery of a message.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("it is no dead letter")
}

#[tokio::test]
async fn queue_messages_of_a_batch_are_handled_independently() {
    let edge = quiet().await;
    let (put, put_event) = arrived(edge).await;
    let (copied, copy_event) = arrived(edge).await;
    let (parts, parts_event) = arrived(edge).await;
    let (deleted, deleted_event) = arrived(edge).await;
    let elsewhere = awaited(edge).await;
    let nonsense = json!({"nonsense": Uuid::new_v4().to_string()});
    let batch = [
        with(&deleted_event, "action", "DeleteObject"),
        put_event,
        nonsense.clone(),
        with(&copy_event, "action", "CopyObject"),
        with(&of_nothing(&elsewhere), "bucket", "somebody-elses"),
        with(&parts_event, "action", "CompleteMultipartUpload"),
        with(&deleted_event, "action", "LifecycleDeletion"),
        with(&deleted_event, "action", "ObjectBlessed"),
        json!("nonsense"),
        Value::Null,
    ];
    let fates = edge.deliver(&batch).await;
    assert_eq!(fates, [Fate::Acked; 10]);
    for id in [&put, &copied, &parts] {
        assert_eq!(status(edge, id).await, "queued");
    }
    for id in [&deleted, &elsewhere] {
        assert_eq!(status(edge, id).await, "uploading");
    }
    letter(edge, |letter| *letter == nonsense).await;
    letter(edge, |letter| *letter == json!("nonsense")).await;
    letter(edge, Value::is_null).await;
    eventually("the log has it", || edge.log().contains("moved a message to the dead-letter queue")).await;
}

#[tokio::test]
async fn queue_duplicate_event_starts_a_job_once() {
    let edge = quiet().await;
    let (id, event) = arrived(edge).await;
    let before = edge.queue.stats().await.unwrap().pending;
    assert_eq!(edge.deliver(&[event.clone(), event.clone(), event.clone()]).await, [Fate::Acked; 3]);
    let job = edge.job(&id).await;
    assert_eq!(edge.deliver(std::slice::from_ref(&event)).await, [Fate::Acked]);
    assert_eq!(edge.job(&id).await, job);
    assert!(edge.queue.stats().await.unwrap().pending > before);
    // A late message: the job has ended, and remains so.
    assert_eq!(edge.delete(&format!("/api/jobs/{id}")).await.status, 200);
    assert_eq!(edge.deliver(&[event]).await, [Fate::Acked]);
    assert_eq!(status(edge, &id).await, "cancelled");
}

#[tokio::test]
async fn queue_events_are_accepted_in_any_order() {
    let edge = quiet().await;
    let (first, first_event) = arrived(edge).await;
    let (second, second_event) = arrived(edge).await;
    // The deletion of the previous object, received after the creation of the current one.
    let gone = with(&first_event, "action", "DeleteObject");
    assert_eq!(edge.deliver(&[second_event, first_event, gone]).await, [Fate::Acked; 3]);
    for id in [first, second] {
        assert_eq!(status(edge, &id).await, "queued");
    }
}

#[tokio::test]
async fn queue_event_for_an_unknown_job_creates_it_if_the_input_exists() {
    let edge = quiet().await;
    let [there, missing, changed, encoded] = [(); 4].map(|()| Uuid::now_v7().to_string());
    let there_event = edge.put(&key(&there), "a film").await;
    let old_event = edge.put(&key(&changed), "an old film").await;
    edge.put(&key(&changed), "a new film").await;
    let encoded_event = edge.put(&key(&encoded), "a film").await;
    edge.put_output(&format!("outputs/{encoded}/manifest.json"), "{}").await;
    let batch = [there_event.clone(), of_nothing(&missing), old_event, encoded_event, there_event];
    assert_eq!(edge.deliver(&batch).await, [Fate::Acked; 5]);
    let job = edge.job(&there).await;
    assert_eq!(
        (&job["status"], &job["preset"], &job["inputKey"]),
        (&json!("queued"), &json!("default"), &json!(key(&there)))
    );
    for id in [missing, changed, encoded] {
        is_problem(&edge.get(&format!("/api/jobs/{id}")).await, 404, None);
    }
}

/// Each consumer is a separate invocation that wants to start machines. One of them acts; the others wait for
/// the lock and find nothing left to do.
#[tokio::test]
async fn queue_events_of_a_batch_start_machines() {
    const JOBS: usize = 3;
    let edge = Setup::over(shared()).start().await;
    let film = std::fs::read(half_minute()).unwrap();
    let ask = json!({"preset": "web-optimized", "outputQualities": ["720p", "360p"], "fileName": "film.mp4"});
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(edge.upload_bytes(film.clone(), &ask).await);
    }
    // Without an entity tag: the job belongs to whatever is there.
    let object = |id: &String| json!({"key": key(id), "size": film.len()});
    let event =
        |id: &String| with(&with(&of_nothing(id), "action", "CompleteMultipartUpload"), "object", object(id));
    let batches: Vec<[Value; 1]> = ids.iter().map(|id| [event(id)]).collect();
    let fates = futures::future::join_all(batches.iter().map(|batch| edge.deliver(batch))).await;
    assert_eq!(fates, [[Fate::Acked]; JOBS]);
    let creates = edge.fly.requests().iter().filter(|r| r.action == EmulatedCall::Create).count();
    assert_eq!(creates, JOBS, "{:?}\n{}", edge.fly.requests(), edge.log());
    for id in &ids {
        edge.completed(id).await;
    }
    keeps_to_one_a_second(&edge.fly);
}

#[tokio::test]
async fn queue_messages_are_redelivered_without_redis_then_dead_lettered() {
    let mut redis = private_redis(&["--appendonly", "yes", "--appendfsync", "always"]);
    let setup =
        Setup::over(redis.config()).set("EDGE_FLEET", "disabled").set("maxRetries", 2).set("retryDelay", 0);
    let edge = setup.start().await;
    let (id, event) = arrived(&edge).await;
    redis.kill().await;
    // Messages that do not need Redis are processed.
    let nonsense = json!({"nonsense": 1});
    let fates = edge.deliver(&[event.clone(), nonsense, with(&event, "action", "DeleteObject")]).await;
    assert_eq!(fates, [Fate::Retried, Fate::Acked, Fate::Acked]);
    let ready = edge.get("/readyz").await;
    is_problem(&ready, 503, None);
    assert!(ready.body["detail"].as_str().unwrap().contains("UPSTASH_REDIS_REST_URL"), "{ready:?}");
    is_problem(&edge.post("/api/upload", &json!({})).await, 503, None);

    edge.send(std::slice::from_ref(&event)).await;
    letter(&edge, |letter| *letter == event).await;
    // The cron trigger finds nothing to do but to wait.
    edge.tick(1).await;
    redis.start();
    assert_eq!(status(&edge, &id).await, "uploading");
    edge.tick(2).await;
    assert_eq!(status(&edge, &id).await, "queued");
}
