//! Third-party tools work with the API's contract: linters find nothing, generated clients compile and
//! process a video, and the API's responses match the schemas.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::support::clips::clip;
use crate::support::process::spawn;
use crate::support::system::{Api, PATIENCE, shared};
use crate::webhooks::Receiver;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/api-clients.sh"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Installs the pinned packages once, and returns the environment for finding them: PATH and NODE_MODULES.
pub async fn installed() -> &'static [(String, String)] {
    static ENVIRONMENT: OnceCell<Vec<(String, String)>> = OnceCell::const_new();
    // They come from registries, which may be slow.
    const LIMIT: Duration = Duration::from_secs(1200);
    let install = || async {
        let ended = tokio::time::timeout(LIMIT, spawn(command(&["install"])).wait_with_output()).await;
        let output = ended.expect("the packages are not installed in time").unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let variable = |line: &str| line.split_once('=').map(|(name, value)| (name.into(), value.into()));
        lines.lines().filter_map(variable).collect()
    };
    ENVIRONMENT.get_or_init(install).await
}

/// A command of hack/api-clients.sh with its packages.
pub async fn script(args: &[&str]) -> Command {
    installed().await;
    command(args)
}

/// Runs it with `input` on its stdin; returns whether it succeeded, its stdout and its stderr.
async fn run(args: &[&str], input: &str) -> (bool, String, String) {
    let mut command = script(args).await;
    let mut child = spawn({
        command.stdin(Stdio::piped());
        command
    });
    let mut stdin = child.stdin.take().unwrap();
    let end = async {
        // A command that fails may not read all of it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await.unwrap()
    };
    let output = tokio::time::timeout(PATIENCE, end).await.expect("the script does not end");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn openapi_document_passes_redocly_and_spectral() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/openapi.json");
    let (found_nothing, found, errors) = run(&["lint", file.to_str().unwrap()], "").await;
    assert!(found_nothing, "{found}{errors}");
    for words in ["Your API description is valid", "No results with a severity of 'hint' or higher found"] {
        assert!(found.contains(words), "{found}");
    }
}

/// The output of a generated client.
async fn client(language: &str, api: &Api) -> Value {
    let mut args = vec![language, &api.url, clip().to_str().unwrap()];
    args.extend(api.token.as_deref());
    let (succeeded, answers, errors) = run(&args, "").await;
    assert!(succeeded, "{errors}\n{}", api.log());
    serde_json::from_str(&answers).unwrap_or_else(|e| panic!("{e}: {answers}{errors}"))
}

/// The job without URLs, which differ for each reader. JavaScript has only one type of number.
fn comparable(job: &Value) -> Value {
    fn with_one_kind_of_number(value: &mut Value) {
        match value {
            Value::Number(number) => *value = json!(number.as_f64()),
            Value::Array(list) => list.iter_mut().for_each(with_one_kind_of_number),
            Value::Object(map) => map.values_mut().for_each(with_one_kind_of_number),
            _ => {}
        }
    }
    let mut job = job.clone();
    for output in job["outputs"].as_array_mut().into_iter().flatten() {
        assert!(output.as_object_mut().unwrap().remove("url").is_some());
    }
    with_one_kind_of_number(&mut job);
    job
}

async fn a_generated_client_takes_a_video_to_its_end(language: &str) -> Value {
    let api = shared().await;
    let answers = client(language, api).await;
    let (completed, failed) = (&answers["completed"], &answers["failed"]);
    for (job, status) in [(completed, "completed"), (failed, "failed")] {
        assert_eq!(job["status"], status, "{answers:#}");
        let read = api.job(job["jobId"].as_str().unwrap()).await;
        assert_eq!(comparable(job), comparable(&read));
    }
    let output = &answers["outputs"][0];
    assert_eq!((&output["container"], &output["size"]), (&json!("mp4"), &output["fetched"]), "{answers:#}");
    assert_eq!(output["size"], completed["outputs"][0]["size"]);
    let times = |name: &str| completed["timestamps"][name].as_i64().unwrap();
    assert_eq!(answers["took"], times("completedAt") - times("createdAt"));
    assert_eq!(failed["errorCode"], "invalidMedia");
    assert!(answers["listed"].as_array().unwrap().contains(&failed["jobId"]), "{answers:#}");
    assert_eq!(answers["problem"], json!({"kind": "/problems/invalid-field", "field": "webhookUrl"}));
    let submitted = json!({"status": "queued", "inputUrl": "http://127.0.0.1:9/film.mp4", "priority": -1});
    assert_eq!(answers["submitted"], submitted);
    assert_eq!(answers["cancelled"], "cancelled");
    assert!(!answers["workers"].as_array().unwrap().is_empty(), "{answers:#}");
    answers
}

#[tokio::test]
async fn generated_typescript_client_compiles_and_transcodes_a_video() {
    let answers = a_generated_client_takes_a_video_to_its_end("typescript").await;
    let id = answers["failed"]["jobId"].as_str().unwrap();
    assert_eq!(answers["told"], format!("{id}: invalidMedia"));
}

#[tokio::test]
async fn generated_python_client_passes_mypy_and_transcodes_a_video() {
    a_generated_client_takes_a_video_to_its_end("python").await;
}

#[tokio::test]
async fn responses_have_exactly_the_fields_of_their_schemas() {
    let (api, mut receiver) = (shared().await, Receiver::start(204).await);
    let request = json!({
        "preset": "hls-adaptive", "outputQualities": ["360p", "144p"], "stills": ["poster", "storyboard"],
        "fileName": "a.mp4", "webhookUrl": receiver.url,
    });
    let id = api.upload(clip(), &request).await;
    let (_, message) = receiver.next().await;
    let failed = api.upload_bytes(b"no film".to_vec(), &json!({"priority": 1})).await;
    let failed = api.ended(&failed).await;
    let delayed = json!({"inputUrl": "http://127.0.0.1:9/a.mp4", "delaySeconds": 3600});
    let delayed = api.post("/api/jobs", &delayed).await.body;
    let ticket = api.post("/api/upload", &json!({"fileSize": 32 << 20})).await.body;
    assert!(ticket["multipart"].is_object(), "{ticket}");
    let parts = format!("/api/jobs/{}/parts", ticket["jobId"].as_str().unwrap());
    let cancelled = api.delete(&format!("/api/jobs/{}", delayed["jobId"].as_str().unwrap())).await.body;
    let fleet = api.get("/api/fleet").await.body;
    assert!(fleet["fleet"]["machines"].is_array(), "{fleet}");
    let values = [
        ("Job", api.job(&id).await),
        ("Job", failed),
        ("Job", delayed),
        ("Job", cancelled),
        ("JobEnded", message),
        ("UploadResponse", ticket),
        ("PartsResponse", api.post(&parts, &json!({"uploadId": "a", "partNumbers": [1, 2]})).await.body),
        ("JobList", api.get("/api/jobs?limit=5").await.body),
        ("Stats", api.get("/api/stats").await.body),
        ("SystemStatus", api.get("/api/status").await.body),
        ("FleetResponse", fleet),
        ("Problem", api.get("/api/jobs/nothing").await.body),
        ("Problem", api.post("/api/upload", &json!({"outputQualities": ["721p"]})).await.body),
    ];
    let document = api.get("/openapi.json").await.body;
    let input = json!({"document": document, "values": values}).to_string();
    let (faultless, counted, faults) = run(&["validate"], &input).await;
    assert!(faultless, "{faults}");
    assert_eq!(counted.trim(), format!("{} values, 0 faults", values.len()));

    // The validation can fail.
    let wrong = json!({"document": document, "values": [["Job", {"jobId": "x", "stauts": "queued"}]]});
    let (faultless, _, faults) = run(&["validate"], &wrong.to_string()).await;
    assert!(!faultless && faults.contains("stauts"), "{faults}");
}
