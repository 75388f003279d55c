//! What storage and the queue take as the upload of a job: the size and the type that were announced, no more than workers
//! take, and nothing else once the job is queued.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::clips::clip;
use crate::support::system::{Setup, System};

const LIMIT: usize = 200_000;

async fn without_workers() -> System {
    Setup::default().workers(0).env("WORKER_MAX_INPUT_BYTES", &LIMIT.to_string()).start().await
}

async fn put(system: &System, url: &Value, kind: Option<&str>, bytes: Vec<u8>) -> StatusCode {
    let mut put = system.http.put(url.as_str().unwrap()).body(bytes);
    if let Some(kind) = kind {
        put = put.header("content-type", kind);
    }
    put.send().await.unwrap().status()
}

#[tokio::test]
async fn upload_has_the_announced_type() {
    let system = without_workers().await;
    let ask = json!({"fileName": "a.mov", "contentType": "video/quicktime"});
    let ticket = system.post("/api/upload", &ask).await.body;
    assert_eq!(ticket["contentType"], "video/quicktime");
    let url = &ticket["uploadUrl"];
    assert_eq!(put(&system, url, Some("text/html"), vec![0; 9]).await, StatusCode::FORBIDDEN);
    assert_eq!(put(&system, url, None, vec![0; 9]).await, StatusCode::FORBIDDEN);
    assert_eq!(put(&system, url, Some("video/quicktime"), vec![0; 9]).await, StatusCode::OK);

    let ask = json!({"fileName": "a.mov", "contentType": ""});
    let ticket = system.post("/api/upload", &ask).await.body;
    assert!(ticket["contentType"].is_null(), "{ticket}");
    assert_eq!(put(&system, &ticket["uploadUrl"], Some("any/thing"), vec![0; 9]).await, StatusCode::OK);
    system.stop().await;
}

/// There is no worker, so none can have looked at it.
#[tokio::test]
async fn upload_larger_than_workers_take_fails_its_job_without_a_worker() {
    let system = without_workers().await;
    let id = system.upload_bytes(vec![0; LIMIT + 1], &json!({"fileName": "a.mp4"})).await;
    let job = system.ended(&id).await;
    assert_eq!((&job["status"], &job["errorCode"]), (&json!("failed"), &json!("inputTooLarge")), "{job:#}");
    assert_eq!(job["attempt"], 0, "{job:#}");
    let message = job["error"].as_str().unwrap();
    assert!(message.contains(&(LIMIT + 1).to_string()) && message.contains(&LIMIT.to_string()), "{message}");
    let fits = system.upload_bytes(vec![0; LIMIT], &json!({"fileName": "a.mp4"})).await;
    system.seen(&fits, |job| job["status"] == "queued").await;
    system.stop().await;
}

/// The address of a whole file is signed for its size, so that only parts can make up another one.
#[tokio::test]
async fn upload_of_another_size_than_announced_fails_its_job_without_a_worker() {
    let system = Setup::default().workers(0).start().await;
    let size = (16 << 20) + 1;
    let ticket = system.post("/api/upload", &json!({"fileName": "a.mp4", "fileSize": size})).await.body;
    let id = ticket["jobId"].as_str().unwrap();
    assert_eq!(put(&system, &ticket["uploadUrl"], None, vec![0; 9]).await, StatusCode::FORBIDDEN);
    let begun = system.http.post(ticket["multipart"]["startUrl"].as_str().unwrap()).send().await.unwrap();
    let xml = begun.text().await.unwrap();
    let upload = xml.split_once("<UploadId>").unwrap().1.split_once("</UploadId>").unwrap().0;
    let ask = json!({"uploadId": upload, "partNumbers": [1, 2]});
    let signed = system.post(&format!("/api/jobs/{id}/parts"), &ask).await.body;
    let (first, last) = (&signed["parts"][0]["url"], &signed["parts"][1]["url"]);
    assert_eq!(put(&system, first, None, vec![0; 1000]).await, StatusCode::FORBIDDEN);
    assert_eq!(put(&system, first, None, vec![0; 16 << 20]).await, StatusCode::OK);
    assert_eq!(put(&system, last, None, vec![0; 2]).await, StatusCode::FORBIDDEN);
    let sent = system.http.put(last.as_str().unwrap()).body(vec![0]).send().await.unwrap();
    let tag = sent.headers()["etag"].to_str().unwrap();
    // The first part is left out.
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>2</PartNumber><ETag>{tag}</ETag></Part></CompleteMultipartUpload>"
    );
    let joined = system.http.post(signed["completeUrl"].as_str().unwrap()).body(list).send().await.unwrap();
    assert_eq!(joined.status(), StatusCode::OK, "{}", joined.text().await.unwrap());
    let job = system.ended(id).await;
    assert_eq!((&job["errorCode"], &job["attempt"]), (&json!("invalidMedia"), &json!(0)), "{job:#}");
    assert!(job["error"].as_str().unwrap().contains("another fileSize was announced"), "{job:#}");
    let retried = system.post(&format!("/api/jobs/{id}/retry"), &json!({})).await;
    assert_eq!(retried.status, 409, "{retried:?}");
    system.stop().await;
}

/// The address of an upload is valid for an hour, in which its holder could send another file.
#[tokio::test]
async fn input_that_is_replaced_once_it_is_queued_is_refused() {
    let system = Setup::default().workers(0).start().await;
    let film = std::fs::read(clip()).unwrap();
    let mut ids = Vec::new();
    // The first is downloaded at once, the second is first read by ranges.
    for options in [
        json!({"fileName": "a.mp4", "preset": "default"}),
        json!({"fileName": "a.mp4", "preset": "web-optimized", "outputQualities": ["144p"]}),
    ] {
        let ticket = system.post("/api/upload", &options).await.body;
        let id = ticket["jobId"].as_str().unwrap().to_owned();
        assert_eq!(put(&system, &ticket["uploadUrl"], None, film.clone()).await, StatusCode::OK);
        system.seen(&id, |job| job["status"] == "queued").await;
        let other = [&film[..], &[0; 8]].concat();
        assert_eq!(put(&system, &ticket["uploadUrl"], None, other).await, StatusCode::OK);
        ids.push(id);
    }
    let _worker = system.worker("replaced", &[]);
    for id in ids {
        let job = system.ended(&id).await;
        assert_eq!((&job["errorCode"], &job["attempt"]), (&json!("inputNotFound"), &json!(1)), "{job:#}");
        assert!(job["error"].as_str().unwrap().contains("was replaced"), "{job:#}");
    }
    system.stop().await;
}
