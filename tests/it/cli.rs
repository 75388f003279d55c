//! The command line as people and scripts use it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::clips::{clip, probe};
use crate::support::objects::ObjectServer;
use crate::support::process::{err, out, run};
use crate::support::system::{Setup, folder, guarded, shared};

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test]
async fn submit_with_wait_downloads_the_renditions() {
    let (system, dir) = (shared().await, folder("cli"));
    let film = clip().to_str().unwrap();
    let done = system.cli(&["submit", film, "--quality", "360p,144p", "--output", "out"], &dir).await;
    assert!(done.status.success(), "{}", err(&done));
    assert_eq!(files(&dir.join("out")), ["144p.mp4", "360p.mp4"]);
    assert!(out(&done).contains("360p") && out(&done).contains("320x180"), "{}", out(&done));
    assert_eq!(probe(dir.join("out/144p.mp4").to_str().unwrap())["streams"][0]["width"], 256);

    let arguments =
        ["submit", film, "--preset", "hls-adaptive", "--quality", "144p", "--output", "hls", "--json"];
    let done = system.cli(&arguments, &dir).await;
    assert!(done.status.success(), "{}", err(&done));
    assert_eq!(parsed(&out(&done))["status"], "completed");
    // All files that its playlists refer to, including the I-frame playlists, so that it plays offline.
    let named = [
        "144p/iframes.m3u8",
        "144p/index.m3u8",
        "144p/init_0.mp4",
        "144p/segment_00000.m4s",
        "audio/index.m3u8",
        "audio/init_1.mp4",
        "audio/segment_00000.m4s",
        "manifest.mpd",
        "master.m3u8",
    ];
    assert_eq!(crate::support::clips::files_in(&dir.join("hls")), named);
    for entry in ["hls/master.m3u8", "hls/manifest.mpd"] {
        let played = probe(dir.join(entry).to_str().unwrap());
        let widths =
            played["streams"].as_array().unwrap().iter().filter_map(|stream| stream["width"].as_u64());
        assert_eq!(widths.max(), Some(256), "{played}");
    }
}

#[tokio::test]
async fn submit_uploads_a_large_file_in_parts_and_downloads_its_stills() {
    let (system, dir) = (shared().await, folder("cli"));
    let film = crate::support::clips::heavy();
    let quality = ["--preset", "web-optimized", "--quality", "144p", "--poster", "--storyboard"];
    let arguments = [&["submit", film.to_str().unwrap(), "--output", "out"], &quality[..]].concat();
    let done = system.cli(&arguments, &dir).await;
    assert!(done.status.success(), "{}", err(&done));
    let made = ["144p.mp4", "poster.jpg", "storyboard.jpg", "storyboard.vtt"];
    assert_eq!(files(&dir.join("out")), made);
    assert!(out(&done).contains("storyboard: out/storyboard.vtt"), "{}", out(&done));

    let arguments = [&["transcode", film.to_str().unwrap(), "--output", "here"], &quality[..]].concat();
    let done = run(&arguments, &[], &dir).await;
    assert!(done.status.success(), "{}", err(&done));
    assert_eq!(files(&dir.join("here")), made);
}

#[tokio::test]
async fn json_option_prints_only_json_on_stdout() {
    let (system, dir) = (shared().await, folder("cli"));
    let film = clip().to_str().unwrap();
    let done = system.cli(&["submit", film, "--quality", "144p", "--wait", "--json"], &dir).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let job = parsed(&out(&done));
    assert_eq!((&job["status"], &job["outputs"][0]["quality"]), (&json!("completed"), &json!("144p")));
    let id = job["jobId"].as_str().unwrap();

    let sent = system.cli(&["submit", film, "--quality", "144p", "--json"], &dir).await;
    let sent = parsed(&out(&sent));
    let watched = system.cli(&["jobs", "watch", sent["jobId"].as_str().unwrap(), "--json"], &dir).await;
    assert_eq!(parsed(&out(&watched))["status"], "completed");
    assert_eq!(parsed(&out(&system.cli(&["jobs", "--json", "get", id], &dir).await)), job);
    let list = parsed(&out(&system.cli(&["jobs", "list", "--json", "--limit", "3"], &dir).await));
    assert!((2..=3).contains(&list.as_array().unwrap().len()), "{list}");

    let letter = dir.join("letter.mp4");
    std::fs::write(&letter, "this is a letter and no film\n".repeat(100)).unwrap();
    let failed = system.cli(&["submit", letter.to_str().unwrap(), "--wait", "--json"], &dir).await;
    assert_eq!(failed.status.code(), Some(1));
    let job = parsed(&out(&failed));
    assert_eq!(job["errorCode"], "invalidMedia");
    let said = err(&failed);
    assert!(said.contains(job["error"].as_str().unwrap()), "{said}");

    let retried = system.cli(&["jobs", "retry", job["jobId"].as_str().unwrap(), "--json"], &dir).await;
    assert_eq!(parsed(&out(&retried))["jobId"], job["jobId"], "{}", err(&retried));
}

#[tokio::test]
async fn submit_cancels_the_job_when_the_upload_fails() {
    // There is no listener at the public address.
    let mut system = Setup::default().workers(0).env("TCODER_PUBLIC_HOST", "127.0.0.9").start().await;
    system.api.url = system.url.replace("127.0.0.9", "127.0.0.1");
    let dir = folder("cli");
    let sent = system.cli(&["submit", clip().to_str().unwrap()], &dir).await;
    let said = err(&sent);
    assert_eq!(sent.status.code(), Some(4), "{said}");
    assert!(said.to_lowercase().contains("connection refused") && said.contains("submit it again"), "{said}");
    assert!(!said.contains("X-Amz") && !said.contains("127.0.0.9"), "{said}");
    let jobs = system.get("/api/jobs").await.body;
    assert_eq!(jobs["jobs"][0]["status"], "cancelled", "{jobs}");
    let list = out(&system.cli(&["jobs", "list"], &dir).await);
    assert!(list.contains("default"), "the qualities are not known before the encode: {list}");
    system.stop().await;
}

#[tokio::test]
async fn commands_without_json_print_readable_text() {
    let (system, dir) = (shared().await, folder("cli"));
    let sent = system.cli(&["submit", clip().to_str().unwrap(), "--quality", "144p"], &dir).await;
    assert!(sent.status.success(), "{}", err(&sent));
    // stdout contains only the id, for `$(tcoder submit ...)`; the hint is on stderr.
    let id = out(&sent).trim().to_owned();
    id.parse::<Uuid>().unwrap();
    assert!(err(&sent).contains(&format!("tcoder jobs watch {id}")), "{}", err(&sent));
    let watched = system.cli(&["jobs", "watch", &id, "--output", "out"], &dir).await;
    assert!(watched.status.success(), "{}", err(&watched));
    assert_eq!(files(&dir.join("out")), ["144p.mp4"]);
    let got = out(&system.cli(&["jobs", "get", &id], &dir).await);
    assert!(got.contains("completed") && got.contains("144p") && got.contains("clip.mp4"), "{got}");
    let list = out(&system.cli(&["jobs", "list", "--status", "completed", "--limit", "10000"], &dir).await);
    let line = list.lines().find(|line| line.contains(&id)).unwrap();
    assert!(line.contains("144p"), "{line}");
    let refused = system.cli(&["jobs", "cancel", &id], &dir).await;
    assert_eq!(refused.status.code(), Some(4));
    assert!(err(&refused).contains("completed already"), "{}", err(&refused));
}

#[tokio::test]
async fn exit_codes_match_the_kind_of_failure() {
    let (system, dir) = (shared().await, folder("cli"));
    let film = clip().to_str().unwrap();
    let nobody = Uuid::now_v7().to_string();
    let storage = ObjectServer::start().await;
    let no_api = storage.config.endpoint.to_string();
    for (args, code, words) in [
        (vec!["submit", "missing.mp4"], 4, "missing.mp4"),
        (vec!["submit", "."], 4, "not a file"),
        (vec!["submit", "ftp://example.com/a.mp4"], 4, "http or https"),
        (vec!["submit", film, "--preset", "HLS"], 2, "hls-adaptive"),
        (vec!["submit", film, "--quality", "721p"], 2, "1080p"),
        (vec!["submit", film, "--priority", "101"], 2, "100"),
        (vec!["submit"], 2, "FILE|URL"),
        (vec!["jobs", "get", &nobody], 4, "no job has this id"),
        (vec!["jobs", "get", "7"], 2, "UUID"),
        (vec!["jobs", "list", "--server", "http://127.0.0.1:9"], 3, "tcoder up"),
        (vec!["submit", film, "--server", "http://127.0.0.1:9"], 3, "tcoder up"),
        (vec!["submit", film, "--server", &no_api], 4, "--server"),
        (vec!["transcode", "missing.mp4"], 4, "missing.mp4"),
    ] {
        let done = system.cli(&args, &dir).await;
        assert_eq!(done.status.code(), Some(code), "{args:?}: {}", err(&done));
        assert!(err(&done).contains(words), "{args:?}: {}", err(&done));
        assert_eq!(out(&done), "", "{args:?}");
    }
    let stranger = run(&["jobs", "list"], &[("TCODER_URL", &guarded().await.url)], &dir).await;
    assert_eq!(stranger.status.code(), Some(4));
    assert!(err(&stranger).contains("--token"), "{}", err(&stranger));
    let missing = run(&["worker"], &[], &dir).await;
    assert_eq!(missing.status.code(), Some(5));
    assert!(err(&missing).contains("REDIS_URL is not set"), "{}", err(&missing));
}

#[tokio::test]
async fn transcode_needs_no_server() {
    let dir = folder("cli");
    let film = clip().to_str().unwrap();
    let done = run(&["transcode", film, "--quality", "144p"], &[], &dir).await;
    assert!(done.status.success(), "{}", err(&done));
    assert_eq!(files(&dir.join("out")), ["144p.mp4"]);
    let again = run(&["transcode", film, "--quality", "144p"], &[], &dir).await;
    assert_ne!(again.status.code(), Some(0));
    assert!(err(&again).contains("already has a 144p.mp4"), "{}", err(&again));
    let arguments =
        ["transcode", film, "--preset", "hls-adaptive", "--quality", "144p", "--output", "hls", "--json"];
    let done = run(&arguments, &[], &dir).await;
    let summary = parsed(&out(&done));
    assert_eq!(summary["master"], "master.m3u8", "{}", err(&done));
    assert_eq!(summary["entries"][0], serde_json::json!({"kind": "hls", "file": "master.m3u8"}));
    let letter = dir.join("letter.mp4");
    std::fs::write(&letter, "this is a letter and no film\n".repeat(100)).unwrap();
    let failed = run(&["transcode", letter.to_str().unwrap(), "--output", "none"], &[], &dir).await;
    assert_eq!((failed.status.code(), out(&failed).as_str()), (Some(1), ""));
    assert!(!dir.join("none").exists());
}

#[tokio::test]
async fn submit_accepts_any_file_name() {
    let (system, dir) = (shared().await, folder("cli"));
    for name in
        ["a 'film' \"of\" mine.mp4", "two\nlines.mp4", "-v.mp4", "фильм.mp4", "%2e%2e%2f.mp4", "..mp4"]
    {
        let path: PathBuf = dir.join(name);
        std::fs::copy(clip(), &path).unwrap();
        let done = system
            .cli(&["submit", path.to_str().unwrap(), "--quality", "144p", "--wait", "--json"], &dir)
            .await;
        assert!(done.status.success(), "{name:?}: {}", err(&done));
        let key = parsed(&out(&done))["inputKey"].as_str().unwrap().to_owned();
        assert!(key.is_ascii() && key.matches('/').count() == 2 && !key.contains(".."), "{key}");
    }
    // File names from clients can be anything.
    for name in ["../../etc/passwd", "..", "", "/", "a\u{0}b"] {
        let options = json!({"fileName": name, "preset": "web-optimized", "outputQualities": ["144p"]});
        system.completed(&system.upload(clip(), &options).await).await;
    }
}

#[tokio::test]
async fn help_of_every_command_has_examples() {
    let dir = folder("cli");
    for (command, words) in [
        (vec!["--help"], "tcoder up"),
        (vec!["up", "--help"], "the next start continues"),
        (vec!["submit", "--help"], "Examples:"),
        (vec!["jobs", "--help"], "Examples:"),
        (vec!["transcode", "--help"], "Examples:"),
        (vec!["api", "--help"], "R2_ENDPOINT"),
        (vec!["worker", "--help"], "WORKER_IDLE_TIMEOUT"),
        (vec!["jobs", "list", "--help"], "--status"),
        (vec!["jobs", "get", "--help"], "id"),
        (vec!["jobs", "cancel", "--help"], "Cancel a job"),
        (vec!["jobs", "retry", "--help"], "Queue a failed or cancelled job again"),
        (vec!["jobs", "watch", "--help"], "--output"),
    ] {
        let done = run(&command, &[], &dir).await;
        assert!(done.status.success());
        assert!(out(&done).contains(words), "{command:?}: {}", out(&done));
    }
}

#[tokio::test]
async fn closed_stdout_is_not_an_error() {
    let (system, dir) = (shared().await, folder("cli"));
    system.completed(&system.upload(clip(), &json!({"outputQualities": ["144p"]})).await).await;
    let script = format!("{} jobs list --server {} | true", env!("CARGO_BIN_EXE_tcoder"), system.url);
    let done =
        tokio::process::Command::new("sh").args(["-c", &script]).current_dir(&dir).output().await.unwrap();
    assert_eq!(err(&done), "");
}

#[tokio::test]
async fn tokens_are_managed_on_the_command_line() {
    let (system, dir) = (guarded().await, folder("cli"));
    let name = format!("cli-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let arguments = ["tokens", "create", &name, "--scope", "submit", "--jobs-per-hour", "1"];
    let created = system.cli(&arguments, &dir).await;
    assert!(created.status.success(), "{}", err(&created));
    // The secret alone, so that a script can read it; the rest is for people.
    let secret = out(&created).trim().to_owned();
    assert!(secret.starts_with("tcoder_") && !secret.contains(char::is_whitespace), "{secret}");
    assert!(err(&created).contains("not shown again"), "{}", err(&created));

    let list = out(&system.cli(&["tokens", "list"], &dir).await);
    let line = list.lines().find(|line| line.contains(&name)).unwrap();
    assert!(line.contains("submit") && line.contains("1 jobs an hour") && !list.contains(&secret), "{list}");

    let environment = [("TCODER_URL", system.url.as_str()), ("TCODER_TOKEN", &secret)];
    let film = clip().to_str().unwrap();
    let submit = ["submit", film, "--quality", "144p", "--json"];
    let first = run(&submit, &environment, &dir).await;
    assert!(first.status.success(), "{}", err(&first));
    assert_eq!(parsed(&out(&first))["owner"], *name);
    let second = run(&submit, &environment, &dir).await;
    assert_eq!(second.status.code(), Some(4), "{}", err(&second));
    assert!(err(&second).contains("in an hour"), "{}", err(&second));
    let refused = run(&["fleet", "status"], &environment, &dir).await;
    assert_eq!(refused.status.code(), Some(4));
    assert!(err(&refused).contains("scope `read`"), "{}", err(&refused));

    let deleted = system.cli(&["tokens", "delete", &name], &dir).await;
    assert!(deleted.status.success(), "{}", err(&deleted));
    let gone = run(&["jobs", "list"], &environment, &dir).await;
    assert!(err(&gone).contains("does not know this token"), "{}", err(&gone));
}
