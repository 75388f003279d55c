//! No secret appears in a log, in Redis, or in a response that does not need it.

use serde_json::{Value, json};

use crate::support::clips::clip;
use crate::support::system::{Setup, TOKEN, WEBHOOK_SECRET};

/// The whole content of Redis as text.
fn dump(redis: &mut redis::Connection) -> String {
    let mut all = String::new();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(redis).unwrap();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query(redis).unwrap();
        let mut read = match kind.as_str() {
            "hash" => redis::cmd("HGETALL"),
            "zset" => redis::cmd("ZRANGE"),
            "stream" => redis::cmd("XRANGE"),
            _ => redis::cmd("GET"),
        };
        read.arg(&key);
        match kind.as_str() {
            "zset" => drop(read.arg(0).arg(-1)),
            "stream" => drop(read.arg("-").arg("+")),
            _ => {}
        }
        let value: redis::Value = read.query(redis).unwrap();
        all.push_str(&format!("{key} {}\n", text(&value)));
    }
    all
}

fn text(value: &redis::Value) -> String {
    match value {
        redis::Value::Array(list) => list.iter().map(|v| text(v) + " ").collect(),
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn secrets_appear_only_in_their_file() {
    let system = Setup::default()
        .env("API_TOKENS", TOKEN)
        .env("ALLOW_PRIVATE_URLS", "true")
        .env("RUST_LOG", "debug,tcoder=trace")
        .start()
        .await;
    let hook = crate::support::system::serve(axum::Router::new()).await;
    let job_request = json!({"webhookUrl": hook, "preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"});
    let ticket = system.post("/api/upload", &job_request).await.body;
    let signed = ticket["uploadUrl"].as_str().unwrap();
    let signature = signed.split("X-Amz-Signature=").nth(1).unwrap().split('&').next().unwrap();
    assert!(signature.len() == 64, "{signed}");
    let put = system.http.put(signed).body(std::fs::read(clip()).unwrap()).send().await.unwrap();
    assert!(put.status().is_success());
    let id = ticket["jobId"].as_str().unwrap();
    let job = system.completed(id).await;
    // Invalid tokens, and valid ones in the wrong place, are not logged, either.
    let wrong =
        system.http.get(format!("{}/api/stats?token={TOKEN}", system.url)).bearer_auth("wrong-but-private");
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    system.upload_bytes(b"no film".to_vec(), &json!({"fileName": "b.mp4"})).await;

    let secrets: Value =
        serde_json::from_slice(&std::fs::read(system.data.join("secrets.json")).unwrap()).unwrap();
    let key = secrets["secretAccessKey"].as_str().unwrap().to_owned();
    let own_hook = secrets["webhookSecret"].as_str().unwrap().to_owned();
    let bare_hook = WEBHOOK_SECRET.trim_start_matches("whsec_").to_owned();
    let answers = [
        job,
        system.get("/api/jobs").await.body,
        system.get("/api/status").await.body,
        system.get("/api/stats").await.body,
        system.get("/metrics").await.body,
    ];
    let answers: String = answers.iter().map(Value::to_string).collect();
    let places = [("Redis", dump(&mut system.redis())), ("the answers", answers)];
    let kept = [&*key, &own_hook, &bare_hook, signature, "wrong-but-private"];
    for (place, text) in &places {
        assert!(text.contains(id), "{place} was not read");
        for secret in kept.into_iter().chain([TOKEN]) {
            assert!(!text.contains(secret), "{secret} stands in {place}");
        }
    }
    let data = system.data.clone();
    system.stop().await;
    let log = std::fs::read_to_string(data.join("log")).unwrap();
    assert!(log.contains(id));
    for secret in kept.into_iter().chain([TOKEN]) {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} stands in the log: {line:?}");
    }
}
