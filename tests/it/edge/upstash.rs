//! The Worker with an Upstash database whose read region lags behind, or whose plan is used up.

use serde_json::json;

use crate::acceptance::{is_problem, waiting};
use crate::support::edge::Setup;
use crate::support::process::eventually;
use crate::support::redis::private_redis;
use crate::support::{upstash_of, upstash_with_lagging_reads};

#[tokio::test]
async fn job_is_readable_after_submit_despite_a_lagging_read_region() {
    let redis = private_redis(&[]);
    let (url, front, _replica) = upstash_with_lagging_reads(&redis).await;
    let edge = Setup::over(redis.config()).set("EDGE_FLEET", "disabled").behind(url, front).start().await;
    for _ in 0..3 {
        let made = edge.post("/api/jobs", &waiting()).await;
        assert_eq!(made.status, 201, "{made:?}\n{}", edge.log());
        let path = format!("/api/jobs/{}", made.body["jobId"].as_str().unwrap());
        let read = edge.get(&path).await;
        assert_eq!((read.status, &read.body["status"]), (200, &json!("queued")), "{read:?}");
        assert_eq!(edge.delete(&path).await.status, 200);
        // Each request is a separate invocation.
        assert_eq!(edge.get(&path).await.body["status"], "cancelled");
        let listed = edge.get("/api/jobs?limit=1").await;
        assert_eq!(listed.body["jobs"][0]["jobId"], made.body["jobId"], "{listed:?}");
    }
}

#[tokio::test]
async fn used_up_quota_is_reported_in_readyz_problems_and_the_log() {
    const QUOTA: (u16, &str) =
        (400, r#"{"error":"ERR max requests limit exceeded. Limit: 500000, Usage: 500001."}"#);
    let redis = private_redis(&[]);
    let (url, front) = upstash_of(&redis.config()).await;
    let edge =
        Setup::over(redis.config()).set("EDGE_FLEET", "disabled").behind(url, front.clone()).start().await;
    front.answer(&[QUOTA]);
    let ready = edge.get("/readyz").await;
    is_problem(&ready, 503, None);
    let detail = ready.body["detail"].as_str().unwrap();
    assert!(detail.contains("request quota of Redis at UPSTASH_REDIS_REST_URL is used up"), "{detail}");
    assert!(detail.contains("Usage: 500001") && detail.contains("raise the limit of its plan"), "{detail}");
    front.answer(&[QUOTA]);
    let refused = edge.post("/api/jobs", &waiting()).await;
    is_problem(&refused, 503, None);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("request quota") && detail.contains("raise the limit of its plan"), "{detail}");
    // The Worker's log is written concurrently with its responses.
    eventually("the log has it", || edge.log().contains("Limit: 500000, Usage: 500001")).await;
    assert!(front.all_answered());
}
