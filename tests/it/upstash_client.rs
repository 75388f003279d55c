//! Compares the emulation of Upstash's REST interface with Upstash's own published client, which must
//! interpret the responses like those of the service. <https://www.npmjs.com/package/@upstash/redis>

use serde_json::{Value, json};

use crate::support::process::node;
use crate::support::redis::private_redis;
use crate::support::upstash::TOKEN;
use crate::support::upstash_with_lagging_reads;

/// The results of its calls.
async fn answers(url: &str, prefix: &str) -> Value {
    let output = node("tests/upstash/client.mjs", [url, TOKEN, prefix]).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {complaint}"))
}

#[tokio::test]
async fn official_upstash_client_reads_the_stand_in_like_redis() {
    let redis = private_redis(&[]);
    redis::cmd("SET").arg("it:bytes").arg(&[0xff, 0x00, b'a', 0xe2, 0x82]).exec(&mut redis.raw()).unwrap();
    let (url, _, _replica) = upstash_with_lagging_reads(&redis).await;
    let all = answers(&url, "it:").await;

    for text in all["texts"].as_array().unwrap() {
        assert_eq!(text[0], text[1], "{text}");
        assert_eq!(text[2], text[0].as_str().unwrap().len(), "{text}");
    }
    // A TextDecoder replaces bytes that are not UTF-8; they were stored unchanged.
    assert_eq!(all["bytes"], "\u{fffd}\u{0}a\u{fffd}");
    assert_eq!(all["plain"], json!(["OK", "fünf", "\u{fffd}\u{0}a\u{fffd}"]));
    assert_eq!(all["object"], "OK");
    assert_eq!(all["nulls"], json!([null, [null, null], null]));
    assert_eq!(all["status"], json!(["PONG", "hello", "string"]));
    assert_eq!(
        all["lists"],
        json!({
            "zrange": ["a", "1.5", "b", "2"],
            "hgetall": ["field", "value", "", "empty"],
            "mget": ["[1,2]", null],
            "nested": [1, ["a", ["OK", 2]], null],
            "numbers": [1, "1.25", 1],
        })
    );
    let wrong_type = "WRONGTYPE Operation against a key holding the wrong kind of value";
    let results = all["pipeline"].as_array().unwrap();
    assert_eq!((&results[0]["result"], &results[1]["result"]), (&json!("OK"), &json!(2)));
    assert_eq!((&results[2]["error"], &results[3]["result"]), (&json!(wrong_type), &json!("2")));
    assert_eq!(results[4]["result"], Value::Null);

    // A command that fails during execution does not affect the others; one that Redis rejects discards the
    // transaction.
    let inside = all["inTransaction"]["message"].as_str().unwrap();
    assert!(inside.contains("Command 4 [ hget ] failed") && inside.contains("WRONGTYPE"), "{all:#}");
    assert_eq!((&all["afterIt"], &all["transaction"]), (&json!("2"), &json!(["OK", 2, "xy"])));
    let discarded = all["discarded"][0]["message"].as_str().unwrap();
    assert!(discarded.starts_with("EXECABORT Transaction discarded"), "{discarded}");
    assert_eq!(all["discarded"][1], Value::Null);

    // The client adds a prefix to the error of a single command.
    let words = |refusal: &Value| {
        refusal["message"].as_str().unwrap().trim_start_matches("Command failed: ").to_owned()
    };
    let script = &all["script"];
    assert!(words(&script["unknown"]).starts_with("NOSCRIPT "), "{script}");
    assert!(script["inPipeline"][0]["error"].as_str().unwrap().starts_with("NOSCRIPT "), "{script}");
    assert_eq!((&script["text"], &script["known"]), (&json!(["k", "v"]), &json!(["k", "v"])));
    for (name, start) in [
        ("syntax", "ERR wrong number of arguments for 'get' command"),
        ("unknown", "ERR Command is not available: 'NO-SUCH-COMMAND'"),
        ("blocking", "ERR Command is not available: 'BLPOP'"),
        ("wrongType", wrong_type),
        ("token", "WRONGPASS invalid or missing auth token"),
    ] {
        let refusal = &all["refusals"][name];
        assert_eq!(refusal["name"], "UpstashError", "{name}: {refusal}");
        assert!(words(refusal).starts_with(start), "{name}: {refusal}");
    }

    let region = json!({"first": "", "stale": null, "own": "written", "handedOn": "written"});
    assert_eq!(all["region"], region);
}

#[tokio::test]
async fn official_upstash_client_reports_a_missing_redis() {
    let mut redis = private_redis(&[]);
    let (url, _) = crate::support::upstash_of(&redis.config()).await;
    redis.kill().await;
    let output = node("tests/upstash/client.mjs", [&*url, TOKEN, "it:"]).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && complaint.contains("503 Service Temporarily Unavailable"),
        "{complaint}"
    );
}
