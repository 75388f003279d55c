//! The client package of the original TCoder works unchanged with our API: it is installed as published.
//! <https://www.npmjs.com/package/tcoder-client>

use std::ffi::OsStr;

use crate::support::clips::clip;
use crate::support::process::node;
use crate::support::system::Api;
use serde_json::{Value, json};

/// The results of its calls.
pub async fn asked(api: &Api) -> Value {
    let args =
        [OsStr::new(&api.url), clip().as_os_str()].into_iter().chain(api.token.as_deref().map(OsStr::new));
    let output = node("tests/client/client.mjs", args).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{}", api.log());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {complaint}"))
}

/// Uploads, polls until the end, and reads the fields that its types promise.
pub async fn original_client_works_unchanged(api: &Api) {
    let answers = asked(api).await;
    let (done, failed) = (&answers["done"], &answers["failed"]);
    let status = &done["status"];
    assert_eq!(
        (&status["jobId"], &status["status"]),
        (&done["sent"]["jobId"], &json!("completed")),
        "{done:#}"
    );
    let known = ["uploading", "queued", "pending", "running", "completed"];
    assert!(
        done["seen"].as_array().unwrap().iter().all(|s| known.contains(&s.as_str().unwrap())),
        "{done:#}"
    );
    let outputs = status["outputs"].as_array().unwrap();
    let mut qualities: Vec<&str> = outputs.iter().map(|o| o["quality"].as_str().unwrap()).collect();
    qualities.sort_unstable();
    // The film has 180 lines: it is not scaled up.
    assert_eq!(qualities, ["144p", "360p"], "{done:#}");
    for output in outputs {
        let answer = api.http.get(output["url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.bytes().await.unwrap().len() as u64, output["size"].as_u64().unwrap());
    }
    let times: Vec<i64> = ["createdAt", "uploadedAt", "queuedAt", "startedAt", "completedAt"]
        .map(|name| status["timestamps"][name].as_i64().unwrap_or_else(|| panic!("{name}: {status:#}")))
        .to_vec();
    assert!(times.is_sorted() && times[0] > 1_700_000_000_000, "{times:?}");
    assert_eq!((&status["filename"], &status["preset"]), (&json!("my-film.mp4"), &json!("web-optimized")));
    assert!(status["machineId"].as_str().is_some_and(|id| !id.is_empty()), "{status:#}");

    assert_eq!(failed["status"]["status"], "failed", "{failed:#}");
    assert!(failed["status"]["error"].as_str().is_some_and(|words| words.len() > 10), "{failed:#}");
    assert_eq!(answers["unknown"]["tag"], "StatusError");
    assert!(answers["unknown"]["message"].as_str().unwrap().starts_with("Job not found"), "{answers:#}");
    assert_eq!(answers["refused"]["tag"], "UploadError");
    assert!(answers["refused"]["message"].as_str().unwrap().contains("hls-adaptive"), "{answers:#}");
}

#[tokio::test]
async fn original_client_works_against_a_process() {
    original_client_works_unchanged(crate::support::system::shared().await).await;
}
