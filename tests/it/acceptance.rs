//! The promises of the API, which `tcoder api` and the Worker must keep alike. The tests need an API that
//! requires [`TOKEN`], also accepts [`OTHER_TOKEN`], and has workers.

mod tokens;

pub use tokens::*;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::clips::heavy;
use crate::support::clips::{clip, half_minute};
use crate::support::system::{Answer, Api, OTHER_TOKEN, TOKEN, http};
use crate::webhooks::Receiver;

/// A test for each promise, for the API that this expression returns.
macro_rules! acceptance {
    ($api:expr) => {
        $crate::acceptance::acceptance! { $api;
            bad_requests_get_problems_that_name_the_field
            repeated_request_makes_one_job
            refused_upload_leaves_its_idempotency_key_free
            idempotency_keys_of_two_callers_are_independent
            concurrent_repeated_requests_make_one_job
            job_listing_is_paged
            queued_job_is_cancelled_at_once_and_can_be_retried
            event_stream_follows_a_job_from_start_to_end
            event_stream_after_the_end_is_answered_204
            large_video_is_uploaded_in_parts
            parts_are_signed_only_for_jobs_that_wait_for_an_upload
            upload_is_queued_when_the_client_reports_it
            requests_without_a_configured_token_are_rejected
            writes_need_a_content_type_and_no_foreign_origin
            tokens_are_created_changed_replaced_and_deleted_at_once
            token_sees_and_changes_only_its_own_jobs_without_further_scopes
            token_names_only_objects_of_its_folder
            event_stream_ends_when_its_token_is_deleted
            operations_need_the_scopes_that_they_name
            limits_of_a_token_are_answered_429_with_the_time_to_wait
        }
    };
    ($api:expr; $($name:ident)*) => {$(
        #[tokio::test]
        async fn $name() {
            $crate::acceptance::$name($api).await;
        }
    )*};
}
pub(crate) use acceptance;

pub fn is_problem(answer: &Answer, status: u16, field: Option<&str>) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.kind, "application/problem+json", "{answer:?}");
    assert_eq!(answer.body["status"], status);
    assert_eq!(answer.body["field"].as_str(), field, "{answer:?}");
    for word in ["type", "title", "detail"] {
        assert!(answer.body[word].as_str().is_some_and(|text| text.len() > 5), "{word}: {answer:?}");
    }
}

/// A job that is delayed, so that nothing happens to it.
pub fn waiting() -> Value {
    json!({"inputKey": "inputs/some/film.mp4", "delaySeconds": 3600})
}

async fn with_key(api: &Api, key: &str, path: &str, body: &Value) -> Answer {
    api.answer(api.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

pub async fn bad_requests_get_problems_that_name_the_field(api: &Api) {
    for (path, body, field) in [
        ("/api/upload", json!({"preset": "HLS"}), "preset"),
        ("/api/upload", json!({"outputQualities": ["720p", "721p"]}), "outputQualities[1]"),
        ("/api/upload", json!({"outputQualities": "720p"}), "outputQualities"),
        ("/api/upload", json!({"outputQualitys": []}), "outputQualitys"),
        ("/api/upload", json!({"jobId": "mine"}), "jobId"),
        ("/api/upload", json!({"fileName": 7}), "fileName"),
        ("/api/upload", json!({"fileSize": -1}), "fileSize"),
        ("/api/upload", json!({"stills": ["poster", "cartoon"]}), "stills[1]"),
        ("/api/upload", json!({"priority": 101}), "priority"),
        ("/api/upload", json!({"priority": "high"}), "priority"),
        ("/api/upload", json!({"maxAttempts": 0}), "maxAttempts"),
        ("/api/upload", json!({"maxAttempts": 21}), "maxAttempts"),
        ("/api/upload", json!({"deadlineSeconds": 0}), "deadlineSeconds"),
        ("/api/upload", json!({"webhookUrl": "nope"}), "webhookUrl"),
        ("/api/upload", json!({"webhookUrl": "ftp://example.com/"}), "webhookUrl"),
        ("/api/jobs", json!({}), "inputKey"),
        ("/api/jobs", json!({"inputKey": "a", "inputUrl": "https://example.com/a"}), "inputUrl"),
        ("/api/jobs", json!({"inputKey": "../a"}), "inputKey"),
        ("/api/jobs", json!({"inputUrl": "file:///etc/passwd"}), "inputUrl"),
        ("/api/jobs", json!({"inputUrl": "https://u:p@example.com/"}), "inputUrl"),
        ("/api/jobs", json!({"inputKey": "a", "delaySeconds": 2_592_001}), "delaySeconds"),
    ] {
        is_problem(&api.post(path, &body).await, 422, Some(field));
    }
    let post = |path: &str| api.request(Method::POST, path);
    let json_type = ("content-type", "application/json");
    for body in ["nonsense", "[]", "7", "{\"preset\":"] {
        let request = post("/api/jobs").header(json_type.0, json_type.1).body(body);
        is_problem(&api.answer(request).await, 400, None);
    }
    let large = format!("{{\"fileName\":\"{}\"}}", "x".repeat(70_000));
    let request = post("/api/upload").header(json_type.0, json_type.1).body(large);
    is_problem(&api.answer(request).await, 413, None);
    let request = post("/api/upload").header("content-type", "text/plain").body("{}");
    is_problem(&api.answer(request).await, 415, None);
    for key in ["x".repeat(256), "two words".to_owned()] {
        is_problem(&with_key(api, &key, "/api/upload", &json!({})).await, 422, Some("Idempotency-Key"));
    }

    is_problem(&api.get("/api/nothing").await, 404, None);
    is_problem(&api.delete("/api/stats").await, 405, None);
    let nobody = Uuid::now_v7();
    is_problem(&api.get(&format!("/api/jobs/{nobody}")).await, 404, None);
    is_problem(&api.get(&format!("/api/jobs/{nobody}/events")).await, 404, None);
    is_problem(&api.delete(&format!("/api/jobs/{nobody}")).await, 404, None);
    is_problem(&api.post(&format!("/api/jobs/{nobody}/retry"), &json!({})).await, 404, None);
    for id in ["7", "%FF", "..%2f..%2fetc"] {
        is_problem(&api.get(&format!("/api/jobs/{id}")).await, 404, None);
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("status=done", "status"),
        ("cursor=nowhere", "cursor"),
    ] {
        is_problem(&api.get(&format!("/api/jobs?{query}")).await, 422, Some(field));
    }
}

pub async fn repeated_request_makes_one_job(api: &Api) {
    let mut body = waiting();
    body["jobId"] = json!(Uuid::now_v7());
    let (first, second) = (api.post("/api/jobs", &body).await, api.post("/api/jobs", &body).await);
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.body, second.body);
    body["preset"] = json!("hls");
    is_problem(&api.post("/api/jobs", &body).await, 409, None);

    for (path, body, other) in [
        ("/api/jobs", waiting(), json!({"inputKey": "inputs/other.mp4", "delaySeconds": 3600})),
        ("/api/upload", json!({"fileName": "a.mp4"}), json!({"fileName": "b.mp4"})),
    ] {
        let key = Uuid::new_v4().to_string();
        let first = with_key(api, &key, path, &body).await;
        let second = with_key(api, &key, path, &body).await;
        assert_eq!((first.status, second.status), (201, 200), "{first:?} {second:?}");
        assert_eq!(first.body["jobId"], second.body["jobId"]);
        is_problem(&with_key(api, &key, path, &other).await, 409, None);
        let mut named = body.clone();
        named["jobId"] = json!(Uuid::now_v7());
        is_problem(&with_key(api, &key, path, &named).await, 409, None);
    }
}

pub async fn refused_upload_leaves_its_idempotency_key_free(api: &Api) {
    let key = Uuid::new_v4().to_string();
    let inside = json!({"webhookUrl": "ftp://example.com/"});
    is_problem(&with_key(api, &key, "/api/upload", &inside).await, 422, Some("webhookUrl"));
    // A key that was stored would belong to a job with another id.
    let chosen = json!({"jobId": Uuid::now_v7()});
    let created = with_key(api, &key, "/api/upload", &chosen).await;
    assert_eq!((created.status, &created.body["jobId"]), (201, &chosen["jobId"]), "{created:?}");
}

pub async fn idempotency_keys_of_two_callers_are_independent(api: &Api) {
    let (key, body) = (Uuid::new_v4().to_string(), waiting());
    let mine = with_key(api, &key, "/api/jobs", &body).await;
    let theirs = http().post(format!("{}/api/jobs", api.url)).bearer_auth(OTHER_TOKEN);
    let theirs = api.answer(theirs.header("idempotency-key", &key).json(&body)).await;
    assert_eq!((mine.status, theirs.status), (201, 201), "{theirs:?}");
    assert_ne!(mine.body["jobId"], theirs.body["jobId"]);
}

pub async fn concurrent_repeated_requests_make_one_job(api: &Api) {
    let (key, body) = (Uuid::new_v4().to_string(), waiting());
    let asked = (0..16).map(|_| with_key(api, &key, "/api/jobs", &body));
    let answers = futures::future::join_all(asked).await;
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 15, "{answers:?}");
    assert!(answers.iter().all(|a| a.body["jobId"] == answers[0].body["jobId"]));
}

pub async fn job_listing_is_paged(api: &Api) {
    let mut mine = Vec::new();
    for _ in 0..5 {
        mine.push(api.submit(&waiting()).await);
    }
    let cancelled = api.submit(&waiting()).await;
    assert_eq!(api.delete(&format!("/api/jobs/{cancelled}")).await.status, 200);
    mine.reverse();

    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/api/jobs?limit=2&status=queued&cursor={cursor}")).await.body;
        let jobs = page["jobs"].as_array().unwrap();
        assert!(jobs.len() <= 2 && jobs.iter().all(|job| job["status"] == "queued"), "{page}");
        found.extend(jobs.iter().map(|job| job["jobId"].as_str().unwrap().to_owned()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    // Jobs of other tests may be in between; ours must each occur once, newest first.
    found.retain(|id| mine.contains(id));
    assert_eq!(found, mine);
    let page = api.get("/api/jobs?status=cancelled&limit=100").await.body;
    assert!(page["jobs"].as_array().unwrap().iter().any(|job| job["jobId"] == cancelled), "{page}");
}

pub async fn queued_job_is_cancelled_at_once_and_can_be_retried(api: &Api) {
    let id = api.submit(&waiting()).await;
    let path = format!("/api/jobs/{id}");
    let answer = api.delete(&path).await;
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("cancelled")));
    assert_eq!(api.delete(&path).await.status, 200);
    // A retry is queued without the original delay. The input does not exist.
    let again = api.post(&format!("{path}/retry"), &json!({})).await;
    assert_eq!(again.status, 200, "{again:?}");
    let job = api.ended(&id).await;
    assert_eq!((&job["status"], &job["errorCode"]), (&json!("failed"), &json!("inputNotFound")));
    let retried = api.post(&format!("{path}/retry"), &json!({})).await;
    assert_eq!(retried.status, 200);
    let again = api.ended(&id).await;
    assert_eq!((&again["status"], &again["attempt"]), (&json!("failed"), &json!(1)), "{again:#}");
    assert!(again["epoch"].as_u64() > job["epoch"].as_u64(), "{again:#}");
    is_problem(&api.delete(&path).await, 409, None);
}

pub async fn event_stream_follows_a_job_from_start_to_end(api: &Api) {
    // The encode is long enough that a client polling every two seconds sees it.
    let ask = json!({"preset": "web-optimized", "outputQualities": ["720p"], "fileName": "a.mp4"});
    let ticket = api.post("/api/upload", &ask).await.body;
    let id = ticket["jobId"].as_str().unwrap();
    let mut feed = api.feed(id).await;
    // Subscribe at once, before anything can happen to the job.
    assert_eq!(feed.next().await.unwrap()["status"], "uploading");
    let film = std::fs::read(half_minute()).unwrap();
    api.http.put(ticket["uploadUrl"].as_str().unwrap()).body(film).send().await.unwrap();
    let mut seen = Vec::new();
    while let Some(job) = feed.next().await {
        assert_eq!(job["jobId"], id);
        seen.push(job);
    }
    let last = seen.last().unwrap();
    assert_eq!((&last["status"], &last["progress"]), (&json!("completed"), &json!(100.0)));
    assert!(last["outputs"][0]["url"].is_string());
    assert!(seen.iter().any(|job| job["status"] == "running"), "{seen:?}");

    // A late subscriber gets the final state and the end of the stream.
    let mut late = api.feed(id).await;
    assert_eq!(late.next().await.unwrap(), *last);
    assert!(late.next().await.is_none());
    is_problem(&api.post(&format!("/api/jobs/{id}/retry"), &json!({})).await, 409, None);
    is_problem(&api.delete(&format!("/api/jobs/{id}")).await, 409, None);
}

/// The whole pipeline: a video is uploaded to storage, encoded by a machine that was started for it, and
/// reported by a webhook.
pub async fn video_is_transcoded_and_its_webhook_delivered(api: &Api) {
    let mut receiver = Receiver::start(204).await;
    let ask = json!({
        "preset": "hls-adaptive", "outputQualities": ["240p", "144p"], "fileName": "a.mp4",
        "webhookUrl": receiver.url,
    });
    let id = api.upload(clip(), &ask).await;
    let job = api.completed(&id).await;
    let outputs = job["outputs"].as_array().unwrap();
    let qualities: Vec<_> = outputs.iter().map(|output| output["quality"].as_str().unwrap()).collect();
    assert_eq!(qualities, ["240p", "144p"], "{job:#}");
    for output in outputs {
        let fetched = api.http.get(output["url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(fetched.status(), 200, "{output}");
        assert!(fetched.text().await.unwrap().starts_with("#EXTM3U"));
    }
    let (_, message) = receiver.next().await;
    assert_eq!((&message["type"], &message["data"]["jobId"]), (&json!("job.completed"), &json!(id)));
    let listed = api.get("/api/jobs?status=completed&limit=100").await.body;
    assert!(listed["jobs"].as_array().unwrap().iter().any(|job| job["jobId"] == *id), "{listed}");
}

/// Requests a job for `heavy`; returns the response and the id of its upload.
async fn in_parts(api: &Api) -> (Value, String) {
    let size = std::fs::metadata(heavy()).unwrap().len();
    let ask = json!({
        "preset": "web-optimized", "outputQualities": ["144p"], "fileName": "heavy.mp4", "fileSize": size,
        "stills": ["poster", "storyboard"],
    });
    let ticket = api.post("/api/upload", &ask).await.body;
    let begun = api.http.post(ticket["multipart"]["startUrl"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(begun.status(), 200, "{ticket:#}");
    let xml = begun.text().await.unwrap();
    let upload = xml.split_once("<UploadId>").unwrap().1.split_once("</UploadId>").unwrap().0.to_owned();
    (ticket, upload)
}

pub async fn large_video_is_uploaded_in_parts(api: &Api) {
    let (ticket, upload) = in_parts(api).await;
    let id = ticket["jobId"].as_str().unwrap();
    let film = std::fs::read(heavy()).unwrap();
    let size = usize::try_from(ticket["multipart"]["partSize"].as_u64().unwrap()).unwrap();
    let parts: Vec<&[u8]> = film.chunks(size).collect();
    assert_eq!(parts.len(), 2, "{}", film.len());
    let path = format!("/api/jobs/{id}/parts");
    let sign = async |numbers: &[u16]| {
        let answer = api.post(&path, &json!({"uploadId": upload, "partNumbers": numbers})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    let put = async |signed: &Value, part: &[u8]| {
        let answer = api.http.put(signed["url"].as_str().unwrap()).body(part.to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.headers()["etag"].to_str().unwrap().to_owned()
    };
    let signed = sign(&[2, 1]).await;
    let numbers: Vec<_> =
        signed["parts"].as_array().unwrap().iter().map(|p| p["partNumber"].clone()).collect();
    assert_eq!(numbers, [2, 1]);
    let second = put(&signed["parts"][0], parts[1]).await;
    // The address of a part takes no other number of bytes.
    let short = api.http.put(signed["parts"][1]["url"].as_str().unwrap()).body(parts[0][..1000].to_vec());
    let short = short.send().await.unwrap();
    assert_eq!(short.status(), 403);
    // The first part is sent, signed again, and sent again.
    put(&signed["parts"][1], parts[0]).await;
    let again = sign(&[1]).await;
    let first = put(&again["parts"][0], parts[0]).await;
    let part = |n: u8, tag: &str| format!("<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>");
    let list =
        format!("<CompleteMultipartUpload>{}{}</CompleteMultipartUpload>", part(1, &first), part(2, &second));
    let complete = sign(&[]).await["completeUrl"].as_str().unwrap().to_owned();
    let joined = api.http.post(complete).body(list).send().await.unwrap();
    assert_eq!(joined.status(), 200, "{}", joined.text().await.unwrap());

    let job = api.completed(id).await;
    assert_eq!(job["source"]["size"], film.len(), "{job:#}");
    for (address, kind, start) in [
        (&job["poster"]["url"], "image/jpeg", &[0xff, 0xd8, 0xff][..]),
        (&job["storyboard"]["imageUrl"], "image/jpeg", &[0xff, 0xd8, 0xff][..]),
        (&job["storyboard"]["url"], "text/vtt", b"WEBVTT\n\n00:00:00.000 --> 00:00:00.5"),
    ] {
        let fetched = api.http.get(address.as_str().unwrap()).send().await.unwrap();
        assert_eq!(
            (fetched.status().as_u16(), fetched.headers()["content-type"].to_str().unwrap()),
            (200, kind)
        );
        assert!(fetched.bytes().await.unwrap().starts_with(start), "{address}");
    }
    is_problem(&api.post(&path, &json!({"uploadId": upload, "partNumbers": [1]})).await, 409, None);
}

pub async fn parts_are_signed_only_for_jobs_that_wait_for_an_upload(api: &Api) {
    let (ticket, upload) = in_parts(api).await;
    let path = format!("/api/jobs/{}/parts", ticket["jobId"].as_str().unwrap());
    for (body, field) in [
        (json!({"partNumbers": [1]}), "uploadId"),
        (json!({"uploadId": "x".repeat(2049), "partNumbers": [1]}), "uploadId"),
        (json!({"uploadId": upload, "partNumbers": [1, 0]}), "partNumbers[1]"),
        (json!({"uploadId": upload, "partNumbers": [10_001]}), "partNumbers[0]"),
        (json!({"uploadId": upload, "partNumbers": [2, 3]}), "partNumbers[1]"),
        (json!({"uploadId": upload, "partNumbers": vec![1; 101]}), "partNumbers"),
        (json!({"uploadId": upload, "partNumbers": "all"}), "partNumbers"),
        (json!({"uploadId": upload, "parts": [1]}), "parts"),
    ] {
        is_problem(&api.post(&path, &body).await, 422, Some(field));
    }
    let body = json!({"uploadId": upload, "partNumbers": [1]});
    let signed = api.post(&path, &body).await.body;
    // A URL that is signed for one part is not valid for another upload.
    let other = signed["parts"][0]["url"].as_str().unwrap().replace("partNumber=1&", "partNumber=2&");
    assert_eq!(api.http.put(other).body("x").send().await.unwrap().status(), 403);
    let gone = api.http.delete(signed["abortUrl"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    // A job whose input already exists accepts no upload, whoever created it.
    let submitted = api.submit(&waiting()).await;
    is_problem(&api.post(&format!("/api/jobs/{submitted}/parts"), &body).await, 409, None);
    is_problem(&api.post(&format!("/api/jobs/{}/parts", Uuid::now_v7()), &body).await, 404, None);
    let ask = |size: u64| json!({"fileName": "a.mp4", "fileSize": size});
    let small = api.post("/api/upload", &ask(16 << 20)).await.body;
    assert!(small["multipart"].is_null() && small["uploadUrl"].is_string(), "{small}");
    is_problem(&api.post("/api/upload", &ask((5 << 40) + 1)).await, 422, Some("fileSize"));
}

/// If storage sends no events, the client can report its upload. The report is checked against the bucket.
pub async fn upload_is_queued_when_the_client_reports_it(api: &Api) {
    let ask = json!({"preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"});
    for verb in ["uploaded", "trigger-r2-event"] {
        let ticket = api.post("/api/upload", &ask).await.body;
        let id = ticket["jobId"].as_str().unwrap();
        let path = format!("/api/jobs/{id}/{verb}");
        is_problem(&api.post(&path, &json!({})).await, 409, None);
        let film = std::fs::read(clip()).unwrap();
        api.http.put(ticket["uploadUrl"].as_str().unwrap()).body(film).send().await.unwrap();
        let told = api.post(&path, &json!({})).await;
        assert_eq!(told.status, 200, "{told:?}");
        assert!(
            ["queued", "running", "completed"].contains(&told.body["status"].as_str().unwrap()),
            "{told:?}"
        );
        api.completed(id).await;
        // A repeated report changes nothing.
        assert_eq!(api.post(&path, &json!({})).await.body["status"], "completed");
        let nobody = format!("/api/jobs/{}/{verb}", Uuid::now_v7());
        is_problem(&api.post(&nobody, &json!({})).await, 404, None);
    }
}

pub async fn event_stream_after_the_end_is_answered_204(api: &Api) {
    let id = api.submit(&waiting()).await;
    let open = async |seen: Option<&str>| {
        let request = api.request(Method::GET, &format!("/api/jobs/{id}/events"));
        let request = seen.iter().fold(request, |request, seen| request.header("last-event-id", *seen));
        request.send().await.unwrap()
    };
    let mut waiting = open(None).await;
    let first = String::from_utf8(waiting.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.contains("id: 0-queued"), "{first}");
    drop(waiting);
    api.delete(&format!("/api/jobs/{id}")).await;
    // The connection broke before the final event, which is therefore sent again.
    for seen in [None, Some("0-queued")] {
        let end = open(seen).await.text().await.unwrap();
        assert!(end.contains("id: 0-cancelled"), "{end}");
    }
    assert_eq!(open(Some("0-cancelled")).await.status(), 204);
}

pub async fn requests_without_a_configured_token_are_rejected(api: &Api) {
    let (http, url) = (http(), &api.url);
    let nobody = Uuid::now_v7();
    let guarded = [
        (Method::GET, "/api/jobs".to_owned()),
        (Method::POST, "/api/jobs".to_owned()),
        (Method::POST, "/api/upload".to_owned()),
        (Method::GET, "/api/stats".to_owned()),
        (Method::GET, "/api/status".to_owned()),
        (Method::GET, "/metrics".to_owned()),
        (Method::GET, format!("/api/jobs/{nobody}")),
        (Method::DELETE, format!("/api/jobs/{nobody}")),
        (Method::POST, format!("/api/jobs/{nobody}/retry")),
        (Method::POST, format!("/api/jobs/{nobody}/parts")),
        (Method::POST, format!("/api/jobs/{nobody}/uploaded")),
        (Method::GET, format!("/api/jobs/{nobody}/events")),
    ];
    for (method, path) in guarded {
        let plain = || http.request(method.clone(), format!("{url}{path}"));
        for request in
            [plain(), plain().bearer_auth("a-wrong-token"), plain().basic_auth("user", Some(TOKEN))]
        {
            is_problem(&api.answer(request).await, 401, None);
        }
        assert_ne!(api.answer(plain().bearer_auth(TOKEN)).await.status, 401, "{method} {path}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(http.get(format!("{url}{path}")).send().await.unwrap().status(), 200, "{path}");
    }
    let refused = http.get(format!("{url}/api/jobs")).send().await.unwrap();
    assert_eq!(refused.headers()["www-authenticate"], "Bearer");
}

pub async fn writes_need_a_content_type_and_no_foreign_origin(api: &Api) {
    let untyped = api.request(Method::POST, "/api/jobs").body(waiting().to_string());
    is_problem(&api.answer(untyped).await, 415, None);
    for (name, value) in
        [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
    {
        for path in ["/api/jobs", "/api/upload"] {
            let foreign = api.request(Method::POST, path).header(name, value).json(&waiting());
            let answer = api.answer(foreign).await;
            is_problem(&answer, 403, None);
            assert_eq!(answer.body["type"], "/problems/foreign-origin");
        }
    }
    let own = api.request(Method::POST, "/api/jobs").header("origin", &api.url).json(&waiting());
    assert_eq!(api.answer(own).await.status, 201);
}
