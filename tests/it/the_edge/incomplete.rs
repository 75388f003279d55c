//! A deployment in which something is missing says what, and does no harm.

use serde_json::{Value, json};

use crate::acceptance::is_problem;
use crate::support::edge::{Fate, Setup};
use crate::support::redis;
use crate::support::system::{TOKEN, WEBHOOK_SECRET, http};

#[tokio::test]
async fn what_is_missing_names_itself_in_readyz_and_in_the_log() {
    let setup = Setup::over(redis::shared())
        .without("UPSTASH_REDIS_REST_TOKEN")
        .without("API_TOKENS")
        .without("R2_INPUT_BUCKET_NAME")
        .set("MAX_MACHINES", "many-hush-hush")
        .without("INPUT")
        .without("DEAD_LETTERS");
    let edge = setup.start().await;
    let named = [
        "UPSTASH_REDIS_REST_TOKEN is not set",
        "API_TOKENS is not set",
        "R2_INPUT_BUCKET_NAME is not set",
        "MAX_MACHINES cannot be used",
        "INPUT is not bound",
        "DEAD_LETTERS is not bound",
    ];
    let ready = edge.get("/readyz").await;
    is_problem(&ready, 503, None);
    let detail = ready.body["detail"].as_str().unwrap();
    for words in named {
        assert!(detail.contains(words), "{words}: {detail}");
    }
    assert!(!detail.contains("OUTPUT is not bound"), "{detail}");
    assert_eq!(http().get(format!("{}/healthz", edge.url)).send().await.unwrap().status(), 200);
    // Everything else is refused: also to those who would be let in by a token.
    let refused = edge.post("/api/upload", &json!({})).await;
    is_problem(&refused, 503, None);
    assert!(refused.body["detail"].as_str().unwrap().contains("/readyz"), "{refused:?}");

    // Nothing is lost meanwhile.
    let event: Value = json!({
        "action": "PutObject", "bucket": "b", "object": {"key": "k", "size": 1, "eTag": "e"},
    });
    assert_eq!(edge.deliver(&[event]).await, [Fate::Retried]);
    edge.tick(1).await;

    let log = edge.log();
    for words in named {
        assert!(log.contains(words), "{words}: {log}");
    }
    for secret in ["hush-hush", WEBHOOK_SECRET, TOKEN, "edge-secret-key"] {
        assert!(!log.contains(secret) && !detail.contains(secret), "{secret}");
    }
}
