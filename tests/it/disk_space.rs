//! A job that does not fit on its worker's disk ends at once with a message about the missing space and its
//! remedy. A worker with a larger disk can process it.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_LENGTH;
use axum::response::IntoResponse as _;
use axum::routing::get;
use futures::StreamExt as _;
use serde_json::json;
use tcoder::config::RedisConfig;
use tcoder::queue::{FleetDesired, FleetStatus, LockOutcome, Queue};

use crate::support::clips::{clip, long_clip};
use crate::support::process::{err, eventually, out, spawn, tcoder};
use crate::support::small_disk;
use crate::support::system::{PATIENCE, Setup, System, Worker, folder, serve};

const MB: u64 = 1 << 20;
/// Size of the small disk, bytes.
const DISK: u64 = 40 * MB;
/// Size of a film that does not fit: it needs 2.1 times its size and 32 MiB.
const FILM: u64 = 5 * MB;

/// A worker with a disk of [`DISK`] bytes or, if this system cannot provide one, a worker that is limited to
/// as many.
fn small_worker(system: &System, env: &[(&str, &str)]) -> Worker {
    if small_disk::there_are() {
        return system
            .worker_by("small", env, |scratch| small_disk::sh(scratch, DISK, r#"exec "$0" worker"#));
    }
    let bytes = DISK.to_string();
    system.worker("small", &[env, &[("WORKER_DISK_BYTES", bytes.as_str())]].concat())
}

/// Serves `length` bytes at a URL, and counts those that are read.
async fn film(length: u64) -> (String, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let handler = move || {
        let count = Arc::clone(&count);
        async move {
            let chunk = Bytes::from_static(&[0; 1 << 16]);
            let chunks = futures::stream::repeat(chunk).map(move |chunk| {
                count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Ok::<_, std::io::Error>(chunk)
            });
            ([(CONTENT_LENGTH, length)], Body::from_stream(chunks)).into_response()
        }
    };
    (serve(axum::Router::new().route("/film.mp4", get(handler))).await, taken)
}

#[tokio::test]
async fn job_too_large_for_a_disk_fails_early_and_a_larger_worker_completes_it() {
    let system = Setup::default().workers(0).env("ALLOW_PRIVATE_URLS", "true").start().await;
    // It does not count as a failure of the worker, either.
    let mut small = small_worker(&system, &[("ALLOW_PRIVATE_URLS", "true"), ("WORKER_MAX_FAILURES", "1")]);

    let (url, taken) = film(1_000_000_000).await;
    let id = system.submit(&json!({"inputUrl": format!("{url}/film.mp4"), "maxAttempts": 1})).await;
    let job = system.ended(&id).await;
    assert_eq!((&job["status"], &job["errorCode"]), (&json!("failed"), &json!("diskFull")), "{job:#}");
    let message = job["error"].as_str().unwrap();
    // The input, the copy plus ten percent, and the margin.
    for words in ["needs 2133554432 bytes", "are free", "FLY_WORKER_DISK_GB", "WORKER_SCRATCH_DIR"] {
        assert!(message.contains(words), "{message}");
    }
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < 50_000_000, "{taken} bytes of a film were fetched that has no room");

    // Another film, whose job has attempts left, and then one that fits.
    let mut bytes = std::fs::read(clip()).unwrap();
    // A `free` box, which players and FFmpeg skip.
    let filling = u32::try_from(FILM).unwrap();
    bytes.extend(filling.to_be_bytes());
    bytes.extend(b"free");
    bytes.resize(bytes.len() + filling as usize - 8, 0);
    let film = system.upload_bytes(bytes, &json!({"fileName": "film.mp4", "maxAttempts": 20})).await;
    let waits = system.seen(&film, |job| job["errorCode"] == "diskFull" && job["status"] == "queued").await;
    assert!(waits["error"].is_string(), "it is tried again: {waits:#}");
    let fits = system.upload(clip(), &json!({"fileName": "clip.mp4"})).await;
    let fits = system.completed(&fits).await;
    assert!(fits["worker"].as_str().unwrap().starts_with("small-"), "{fits:#}");

    small.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(small.over().await.success());
    let large = system.worker("large", &[]);
    let done = system.completed(&film).await;
    assert!(done["worker"].as_str().unwrap().starts_with("large-"), "{done:#}");
    drop(large);
    system.stop().await;
}

#[tokio::test]
async fn worker_with_a_full_disk_leaves_jobs_to_others() {
    if !small_disk::there_are() {
        return;
    }
    let system = Setup::default().workers(0).start().await;
    let fill = r#"cat /dev/zero > "$1/ballast" 2>/dev/null || true; exec "$0" worker"#;
    let full = system.worker_by("full", &[], |scratch| small_disk::sh(scratch, DISK, fill));
    let no_room = || system.log().contains("the worker's disk has no room for any job");
    eventually("the worker finds that its disk is full", no_room).await;
    let id = system.upload(clip(), &json!({"fileName": "clip.mp4", "maxAttempts": 1})).await;
    let large = system.worker("large", &[]);
    let job = system.completed(&id).await;
    assert!(job["worker"].as_str().unwrap().starts_with("large-"), "{job:#}");
    drop(large);
    // It works again when there is room.
    let ballast = full.scratch.strip_prefix("/").unwrap().join("ballast");
    std::fs::remove_file(Path::new(&format!("/proc/{}/root", full.pid)).join(ballast)).unwrap();
    let id = system.upload(clip(), &json!({"fileName": "clip.mp4", "maxAttempts": 1})).await;
    let job = system.completed(&id).await;
    assert!(job["worker"].as_str().unwrap().starts_with("full-"), "{job:#}");
    drop(full);
    system.stop().await;
}

/// The output of `tcoder transcode` on a disk that fills up while it runs.
async fn on_a_filling_disk(preset: &str) -> (Option<i32>, String) {
    let disk = folder("small");
    let script = r#"
"$0" transcode "$2" --preset "$3" --quality 720p,360p --output "$1/out" &
until [ -n "$(ls -A "$1/out" 2>/dev/null)" ]; do kill -0 $! || break; sleep 0.05; done
cat /dev/zero > "$1/ballast" 2>/dev/null || true
wait $!"#;
    let mut command = small_disk::sh(&disk, 128 * MB, script);
    command.arg(long_clip()).arg(preset);
    run_to_its_end(command).await
}

async fn run_to_its_end(mut command: tokio::process::Command) -> (Option<i32>, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
    let output = ended.expect("it does not end").unwrap();
    assert_eq!(output.status.signal(), None);
    (output.status.code(), format!("{}{}", out(&output), err(&output)))
}

#[tokio::test]
async fn disk_that_fills_up_during_the_encode_fails_with_disk_full() {
    let full = |preset: &str, (code, said): (Option<i32>, String)| {
        assert_eq!(code, Some(1), "{preset}: {said}");
        assert!(said.contains("the worker's disk is full"), "{preset}: {said}");
        assert!(said.contains("was reckoned to need") && said.contains("were free"), "{preset}: {said}");
    };
    assert!(small_disk::there_are() || std::env::var_os("CI").is_none(), "CI must be able to mount a disk");
    if small_disk::there_are() {
        // FFmpeg's HLS muxer succeeds on a full disk.
        for preset in ["web-optimized", "hls", "hls-adaptive"] {
            full(preset, on_a_filling_disk(preset).await);
        }
    }
    // A limited file size, which works even where no disk can be created.
    let output = folder("limited").join("out");
    let mut command = tokio::process::Command::new("sh");
    let script =
        r#"trap '' XFSZ; ulimit -f 200; exec "$0" transcode "$1" --preset web-optimized --output "$2""#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_tcoder")]).arg(long_clip()).arg(&output);
    full("limited", run_to_its_end(command).await);
    assert!(!output.exists(), "it left something behind");
}

#[tokio::test]
async fn job_that_does_not_fit_after_the_probe_is_not_encoded() {
    // An hour of black has some hundred kilobytes; at a constrained bitrate it has 733 MB.
    let black = folder("black").join("black.mp4");
    let made = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", "color=black:s=1280x720:r=1:d=3600"])
        .args(["-c:v", "libx264", "-preset", "ultrafast"])
        .arg(&black)
        .status()
        .unwrap();
    assert!(made.success());
    let system = Setup::default().workers(0).start().await;
    let small = small_worker(&system, &[]);
    let job_request = json!({"fileName": "black.mp4", "outputQualities": ["720p"], "maxAttempts": 1});
    let job = system.ended(&system.upload(Path::new(&black), &job_request).await).await;
    assert_eq!((&job["status"], &job["errorCode"]), (&json!("failed"), &json!("diskFull")), "{job:#}");
    assert_eq!(job["progress"], 0.0, "{job:#}");
    assert!(job["error"].as_str().unwrap().contains("are free"), "{job:#}");
    drop(small);
    system.stop().await;
}

async fn queue(system: &System) -> Queue {
    Queue::connect(&RedisConfig::new(system.redis_url(), "")).await.unwrap()
}

#[tokio::test]
async fn upload_larger_than_any_worker_accepts_is_rejected() {
    let system = Setup::default().env("WORKER_MAX_INPUT_BYTES", "20000").start().await;
    let ask = async |system: &System, size: u64| system.post("/api/upload", &json!({"fileSize": size})).await;
    assert_eq!(ask(&system, 20_000).await.status, 201);
    let refused = ask(&system, 20_001).await;
    assert_eq!((refused.status, &refused.body["field"]), (422, &json!("fileSize")), "{refused:?}");
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("20001 bytes") && detail.contains("take 20000 at most"), "{detail}");
    // The command line reports it and uploads nothing.
    let told = system.cli(&["submit", clip().to_str().unwrap()], &folder("cli")).await;
    assert_eq!(told.status.code(), Some(4), "{}", err(&told));
    assert!(err(&told).contains("WORKER_MAX_INPUT_BYTES"), "{}", err(&told));
    assert_eq!(system.objects("input", "").await, [""; 0]);
    system.stop().await;

    // If the workers belong to a fleet, the reconciler publishes the limit.
    let system = Setup::default().workers(0).start().await;
    let size = 10_000_000_001;
    assert_eq!(ask(&system, size).await.status, 201, "nobody knows a limit");
    let queue = queue(&system).await;
    let LockOutcome::Mine(fence) = queue.acquire_fleet_lock("test", PATIENCE, true, true).await.unwrap()
    else {
        panic!("somebody else acts")
    };
    let status = |max| FleetStatus {
        max_input_bytes: Some(size - 1),
        desired: FleetDesired { max, ..FleetDesired::default() },
        ..FleetStatus::default()
    };
    assert!(queue.publish_fleet_status(&fence, &status(0)).await.unwrap());
    assert_eq!(ask(&system, size).await.status, 201, "a fleet without machines limits nothing");
    assert!(queue.publish_fleet_status(&fence, &status(1)).await.unwrap());
    assert_eq!(ask(&system, size).await.status, 422);
    assert_eq!(ask(&system, size - 1).await.status, 201);
    system.stop().await;
}

#[tokio::test]
async fn contradictory_disk_and_input_limits_are_rejected_at_the_start() {
    let start =
        Setup::default().env("WORKER_DISK_BYTES", "50000000").env("WORKER_MAX_INPUT_BYTES", "50000000");
    let (code, said) = start.fails().await;
    assert_eq!(code, 5, "{said}");
    for words in ["WORKER_DISK_BYTES", "WORKER_MAX_INPUT_BYTES", "raise this to", "lower that to"] {
        assert!(said.contains(words), "{said}");
    }
    let mut command = tcoder();
    let fly = [
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("FLY_API_TOKEN", "some"),
        ("FLY_WORKER_APP", "clips"),
        ("FLY_WORKER_IMAGE", "worker:1"),
        ("FLY_WORKER_DISK_GB", "8"),
        ("WORKER_MAX_INPUT_BYTES", "10000000000"),
    ];
    command.args(["controller", "--listen", "127.0.0.1:0"]).envs(fly);
    let (code, said) = run_to_its_end(command).await;
    assert!(code == Some(5) && said.contains("FLY_WORKER_DISK_GB cannot be used"), "{code:?}: {said}");
}
