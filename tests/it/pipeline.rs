//! A video is submitted by upload, by key or by URL, and its renditions match the result of the job.

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};

use crate::support::clips::{clip, probe};
use crate::support::objects::{ObjectServer, put_input};
use crate::support::process;
use crate::support::system::{self, Setup, guarded, serve, shared};

fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("no number: {value}"))
}

fn stream<'a>(probed: &'a Value, kind: &str) -> &'a Value {
    probed["streams"].as_array().unwrap().iter().find(|s| s["codec_type"] == kind).unwrap()
}

#[tokio::test]
async fn upload_becomes_the_outputs_in_the_result() {
    let system = shared().await;
    let options =
        json!({"preset": "web-optimized", "outputQualities": ["360p", "144p"], "fileName": "my film.mp4"});
    let id = system.upload(clip(), &options).await;
    let job = system.completed(&id).await;

    assert_eq!((&job["attempt"], &job["progress"]), (&json!(1), &json!(100.0)));
    assert_eq!(job["inputKey"], format!("inputs/{id}/my-film.mp4"));
    assert!(job["error"].is_null() && job["worker"].as_str().unwrap().contains('-'), "{job:#}");
    let times: Vec<i64> = ["createdAt", "uploadedAt", "queuedAt", "startedAt", "completedAt"]
        .iter()
        .map(|name| job["timestamps"][name].as_i64().unwrap_or_else(|| panic!("no {name}: {job:#}")))
        .collect();
    assert!(times.is_sorted(), "{times:?}");

    let source = &job["source"];
    assert_eq!(source["size"], std::fs::metadata(clip()).unwrap().len());
    assert!((number(&source["duration"]) - 2.0).abs() < 0.1, "{source}");
    let video = &source["video"];
    assert_eq!(
        (&video["codec"], &video["width"], &video["height"]),
        (&json!("h264"), &json!(320), &json!(180))
    );
    assert_eq!(
        (number(&video["frameRate"]), &video["rotation"], &video["hdr"]),
        (25.0, &json!(0), &json!(false))
    );
    assert_eq!((&source["audio"]["codec"], &source["audio"]["channels"]), (&json!("aac"), &json!(1)));
    for timing in ["downloadSeconds", "transcodeSeconds", "uploadSeconds"] {
        assert!(number(&job["timings"][timing]) > 0.0, "{timing}");
    }
    assert!(number(&job["speed"]) > 0.0 && number(&job["cpuSeconds"]) > 0.0);

    let outputs = job["outputs"].as_array().unwrap();
    assert_eq!(outputs.iter().map(|o| o["quality"].as_str().unwrap()).collect::<Vec<_>>(), ["360p", "144p"]);
    for output in outputs {
        let quality = output["quality"].as_str().unwrap();
        assert_eq!(output["key"], format!("outputs/{id}/{}/{quality}.mp4", job["epoch"]));
        let bytes =
            system.http.get(output["url"].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(output["size"], bytes.len());
        let file = system::folder("output").join("output.mp4");
        std::fs::write(&file, &bytes).unwrap();
        let probed = probe(file.to_str().unwrap());
        let (video, audio) = (stream(&probed, "video"), stream(&probed, "audio"));
        for field in ["width", "height"] {
            assert_eq!(output[field], video[field], "{quality} {field}");
        }
        assert_eq!((&output["codec"], &output["audioCodec"]), (&video["codec_name"], &audio["codec_name"]));
        assert_eq!(output["container"], "mp4");
        let duration = number(&probed["format"]["duration"]);
        assert!((number(&output["duration"]) - duration).abs() < 0.05, "{quality}: {output} {duration}");
        let bitrate = number(&probed["format"]["bit_rate"]);
        assert!((number(&output["bitrate"]) / bitrate - 1.0).abs() < 0.05, "{quality}: {output} {bitrate}");
    }
    // A picture that is smaller than its box is not enlarged.
    assert_eq!((&outputs[0]["width"], &outputs[1]["width"]), (&json!(320), &json!(256)));

    // Encodes the same upload again with another preset.
    let again = json!({"inputKey": job["inputKey"], "preset": "default"});
    let copy = system.completed(&system.submit(&again).await).await;
    assert_eq!(copy["outputs"][0]["quality"], "original");
    assert_eq!(copy["outputs"][0]["width"], 320);
}

#[tokio::test]
async fn hls_adaptive_plays_from_a_public_bucket() {
    let system = shared().await;
    let options = json!({"preset": "hls-adaptive", "outputQualities": ["144p"], "fileName": "a"});
    let job = system.completed(&system.upload(clip(), &options).await).await;
    let master = job["master"]["url"].as_str().unwrap();
    assert!(job["entries"][1]["url"].as_str().unwrap().ends_with("/manifest.mpd"), "{job:#}");
    let entry = &job["entries"][0];
    assert_eq!(
        (&entry["kind"], &entry["url"], &entry["key"]),
        (&"hls".into(), &job["master"]["url"], &job["master"]["key"])
    );
    assert!(master.starts_with(&system.storage) && !master.contains('?'), "{master}");
    let probed = probe(master);
    assert_eq!(
        (&stream(&probed, "video")["width"], &stream(&probed, "audio")["codec_name"]),
        (&json!(256), &json!("aac"))
    );
    let played = tokio::process::Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-xerror", "-i", master, "-f", "null", "-"])
        .output()
        .await
        .unwrap();
    assert!(played.status.success() && played.stderr.is_empty(), "{}", process::err(&played));
    assert_eq!(job["outputs"][0]["container"], "hls");
    // Inputs are private.
    let input = format!("{}/input/{}", system.storage, job["inputKey"].as_str().unwrap());
    assert_eq!(system.http.get(input).send().await.unwrap().status(), 403);
}

async fn films() -> String {
    let film = || async { std::fs::read(clip()).unwrap() };
    serve(
        Router::new()
            .route("/film.mp4", get(film))
            .route("/moved", get(|| async { axum::response::Redirect::temporary("/film.mp4") })),
    )
    .await
}

#[tokio::test]
async fn input_url_is_downloaded() {
    let (system, films) = (shared().await, films().await);
    for path in ["film.mp4", "moved"] {
        let body = json!({"inputUrl": format!("{films}/{path}"), "preset": "web-optimized", "outputQualities": ["144p"]});
        let job = system.completed(&system.submit(&body).await).await;
        assert_eq!(job["source"]["size"], std::fs::metadata(clip()).unwrap().len());
    }
    let body = json!({"inputUrl": format!("{films}/missing.mp4")});
    let job = system.ended(&system.submit(&body).await).await;
    assert_eq!((&job["status"], &job["errorCode"]), (&json!("failed"), &json!("inputNotFound")), "{job:#}");
}

#[tokio::test]
async fn private_input_addresses_are_rejected() {
    let (system, films) = (guarded().await, films().await);
    for url in
        [films.as_str(), "http://169.254.169.254/latest/meta-data", "http://[::1]/", "http://10.0.0.1/a"]
    {
        let answer = system.post("/api/jobs", &json!({"inputUrl": url})).await;
        assert_eq!((answer.status, &answer.body["field"]), (422, &json!("inputUrl")), "{url} {answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains("private"), "{answer:?}");
    }
    // A name must be resolved before its address is known, like the target of a redirect.
    let port = films.rsplit(':').next().unwrap();
    let body = json!({"inputUrl": format!("http://localhost:{port}/film.mp4")});
    let job = system.ended(&system.submit(&body).await).await;
    assert_eq!((&job["status"], &job["attempt"]), (&json!("failed"), &json!(1)), "{job:#}");
    assert_eq!(job["errorCode"], "inputRefused");
    assert!(job["error"].as_str().unwrap().contains("private network"), "{job:#}");
}

#[tokio::test]
async fn upload_with_a_lost_event_is_found_at_the_next_start() {
    let system = Setup::default().workers(0).start().await;
    let ask = json!({"preset": "web-optimized", "outputQualities": ["144p"], "fileName": "lost.mp4"});
    let ticket = system.post("/api/upload", &ask).await.body;
    let data = system.data.clone();
    system.stop().await;
    // The S3 server accepts the upload, and nobody reads its event.
    let server = ObjectServer::over(&data.join("objects")).await;
    let input = std::fs::read(clip()).unwrap();
    put_input(&server.config, ticket["inputKey"].as_str().unwrap(), input).await;
    server.stop().await;

    let system = Setup::over(&data).start().await;
    let job = system.completed(ticket["jobId"].as_str().unwrap()).await;
    assert_eq!(job["outputs"][0]["quality"], "144p");
}

#[tokio::test]
async fn upload_that_never_arrives_fails_after_its_window() {
    let data = system::folder("data");
    let system = Setup::over(&data).workers(0).start().await;
    let ticket = system.post("/api/upload", &json!({"fileName": "never.mp4"})).await.body;
    let id = ticket["jobId"].as_str().unwrap().to_owned();
    let () = redis::cmd("ZADD").arg("jobs:uploading").arg(1).arg(&id).query(&mut system.redis()).unwrap();
    system.stop().await;
    let system = Setup::over(&data).workers(0).start().await;
    let job = system.ended(&id).await;
    assert_eq!((&job["status"], &job["errorCode"]), (&json!("failed"), &json!("uploadExpired")), "{job:#}");
}

#[tokio::test]
async fn many_overdue_uploads_are_all_expired() {
    let data = system::folder("data");
    let system = Setup::over(&data).workers(0).start().await;
    let mut ids = Vec::new();
    for _ in 0..230 {
        let ticket = system.post("/api/upload", &json!({"fileName": "a.mp4"})).await.body;
        ids.push(ticket["jobId"].as_str().unwrap().to_owned());
    }
    let mut late = redis::cmd("ZADD");
    late.arg("jobs:uploading");
    for id in &ids {
        late.arg(1).arg(id);
    }
    let () = late.query(&mut system.redis()).unwrap();
    // Queueing any job wakes the janitor.
    system.submit(&json!({"inputKey": "inputs/some/film.mp4"})).await;
    for id in &ids {
        let job = system.ended(id).await;
        assert_eq!(job["errorCode"], "uploadExpired", "{job:#}");
    }
    system.stop().await;
}
