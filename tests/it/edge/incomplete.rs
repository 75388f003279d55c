//! A deployment with missing settings reports them and does no harm.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::acceptance::is_problem;
use crate::support::edge::{Fate, Setup, shared};
use crate::support::process::eventually;
use crate::support::redis::shared as redis;
use crate::support::system::{OTHER_TOKEN, TOKEN, WEBHOOK_SECRET, http};

/// Requests, events, cron triggers and webhooks with all settings: the log contains no secret and no signed
/// URL.
#[tokio::test]
async fn incomplete_settings_log_no_secrets() {
    let edge = shared().await;
    crate::acceptance::video_is_transcoded_and_its_webhook_delivered(edge).await;
    let wrong =
        http().get(format!("{}/api/jobs", edge.url)).bearer_auth("a-wrong-hush-hush-token").send().await;
    assert_eq!(wrong.unwrap().status(), 401);
    // The Worker's log is written concurrently with what it does.
    eventually("the log has it", || edge.log().contains("webhook delivered")).await;
    let log = edge.log();
    let fly = edge.fly.token();
    let secrets = [
        TOKEN,
        OTHER_TOKEN,
        WEBHOOK_SECRET.trim_start_matches("whsec_"),
        "hush-hush",
        "edge-secret-key",
        crate::support::upstash::TOKEN,
        fly.expose_secret(),
        "X-Amz-Signature",
    ];
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let mut redis = crate::support::redis::raw(&edge.redis);
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{}*", edge.redis.prefix)).query(&mut redis).unwrap();
    assert!(keys.iter().any(|key| key.ends_with("fleet:memory")), "{keys:?}");
    for key in keys {
        let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query(&mut redis).unwrap();
        let value = String::from_utf8_lossy(&value);
        for secret in secrets {
            assert!(!value.contains(secret), "{secret} is in Redis, in {key}");
        }
    }
}

#[tokio::test]
async fn incomplete_settings_are_named_in_readyz_and_the_log() {
    let setup = Setup::over(redis())
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
    assert_eq!(http().get(format!("{}/livez", edge.url)).send().await.unwrap().status(), 200);
    // All other requests are refused, even with a valid token.
    let refused = edge.post("/api/upload", &json!({})).await;
    is_problem(&refused, 503, None);
    assert!(refused.body["detail"].as_str().unwrap().contains("/readyz"), "{refused:?}");

    // Nothing is lost in the meantime.
    let event: Value = json!({
        "action": "PutObject", "bucket": "b", "object": {"key": "k", "size": 1, "eTag": "e"},
    });
    assert_eq!(edge.deliver(&[event]).await, [Fate::Retried]);
    edge.tick(1).await;

    for words in named {
        eventually(&format!("the log names {words}"), || edge.log().contains(words)).await;
    }
    let log = edge.log();
    for secret in ["hush-hush", WEBHOOK_SECRET, TOKEN, "edge-secret-key"] {
        assert!(!log.contains(secret) && !detail.contains(secret), "{secret}");
    }
}
