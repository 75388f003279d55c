//! The control plane as a Cloudflare Worker, in workerd: it makes the same promises as `tcoder api`, and does
//! the remaining work when an event or the cron trigger invokes it.

mod beside;
mod clock;
mod events;
mod incomplete;
mod upstash;

use serde_json::{Value, json};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::acceptance::{self, acceptance, is_problem};
use crate::support::edge::{Edge, Setup, shared};
use crate::support::redis;
use crate::support::system::http;

acceptance!(shared().await);

#[tokio::test]
async fn video_is_transcoded_and_its_webhook_delivered() {
    acceptance::video_is_transcoded_and_its_webhook_delivered(shared().await).await;
}

#[tokio::test]
async fn original_client_works_unchanged() {
    crate::the_original_client::original_client_works_unchanged(shared().await).await;
}

#[tokio::test]
async fn page_and_openapi_document_equal_those_of_the_api() {
    let (edge, native) = (shared().await, crate::support::system::shared().await);
    for path in ["/", "/app/main.js", "/vendor/hls.min.mjs", "/openapi.json", "/problems/conflict"] {
        let ask = async |url: &str| {
            let answer = http().get(format!("{url}{path}")).send().await.unwrap();
            let policy = answer.headers().get("content-security-policy").cloned();
            (answer.status(), policy, answer.bytes().await.unwrap())
        };
        let (there, here) = (ask(&edge.url).await, ask(&native.url).await);
        assert_eq!(there.0, 200, "{path}");
        assert_eq!(there, here, "{path}");
    }
    is_problem(&edge.get("/nothing/here").await, 404, None);
}

/// A Worker that does not manage the fleet, so that no worker claims the jobs and nothing happens by itself.
async fn quiet() -> &'static Edge {
    static EDGE: OnceCell<Edge> = OnceCell::const_new();
    EDGE.get_or_init(|| Setup::over(redis::shared()).set("EDGE_FLEET", "disabled").start()).await
}

fn key(id: &str) -> String {
    format!("inputs/{id}/film.mp4")
}

/// Creates a job that waits for its upload, and returns its id.
async fn awaited(edge: &Edge) -> String {
    let id = Uuid::now_v7().to_string();
    let ticket = edge.post("/api/upload", &json!({"jobId": id, "fileName": "film.mp4"})).await;
    assert_eq!((ticket.status, &ticket.body["inputKey"]), (201, &json!(key(&id))), "{ticket:?}");
    id
}

/// Creates a job whose upload exists but was not reported, and returns its id and its event.
async fn arrived(edge: &Edge) -> (String, Value) {
    let id = awaited(edge).await;
    let event = edge.put(&key(&id), "film").await;
    (id, event)
}

async fn status(edge: &Edge, id: &str) -> String {
    edge.job(id).await["status"].as_str().unwrap().to_owned()
}
