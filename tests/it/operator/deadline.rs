//! `activeDeadlineSeconds` of a TranscodeJob, which the controller enforces and which can be changed at any time.

use serde_json::{Value, json};

use super::{site, status};
use crate::support::clips::half_minute;

/// A job in one piece, which takes seconds.
fn spec(input: &Value, seconds: Option<u32>) -> Value {
    json!({
        "input": input, "preset": "hls", "qualities": ["720p"], "parallelism": 1,
        "activeDeadlineSeconds": seconds,
    })
}

#[tokio::test]
async fn deadline_that_is_raised_after_the_submission_is_the_one_that_counts() {
    let site = site("raised").await;
    // The job is in Redis while it waits for its upload, and its time begins with that.
    site.make("film", spec(&json!({"upload": {}}), Some(1))).await;
    let job = site.until("film", "an address", |job| status(job)["uploadUrl"].is_string()).await;
    site.patch("film", json!({"activeDeadlineSeconds": 3600})).await;
    site.until("film", "seen with its new deadline", |job| status(job)["observedGeneration"] == 2).await;
    let url = status(&job)["uploadUrl"].as_str().unwrap().to_owned();
    let film = std::fs::read(half_minute()).unwrap();
    assert_eq!(site.system.http.put(url).body(film).send().await.unwrap().status(), 200);
    site.phase("film", "Complete").await;
}
