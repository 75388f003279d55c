//! The page in a real browser, in desktop and phone width and without findings of axe-core: it uploads and
//! plays a film, cancels a job, explains a failure, resumes an interrupted upload, and pauses the fleet. It plays
//! videos that are still encoded. Pages of other sites cannot use the API through it.

use serde_json::json;

use crate::support::clips::{large_minutes, minutes};
use crate::support::page::{attack, drive, play_early, play_until_completed, shots};
use crate::support::system::{Setup, serve, shared};

#[tokio::test]
async fn page_works_in_a_browser() {
    let system = Setup::default().workers(2).coming_and_going().start().await;
    let (well, said) = drive(&system.url).await;
    assert!(well, "{said}\n{}", system.log());
    assert!(said.contains("page_axe_violations 0"), "{said}");
    assert_eq!(std::fs::read_dir(shots()).unwrap().count(), 10, "{said}");
    system.stop().await;
}

#[tokio::test]
async fn page_plays_a_video_while_it_is_encoded() {
    // With one chunk at a time the encode takes long enough to be watched.
    let system = Setup::default().env("WORKER_CHUNKS", "1").start().await;
    let options = json!({
        "fileName": "minutes.mp4", "preset": "hls-adaptive", "outputQualities": ["720p", "360p", "144p"],
        "parallelism": 8,
    });
    let id = system.upload(&large_minutes(), &options).await;
    system.seen(&id, |job| job["status"] == "playable").await;
    let (well, said) = play_early(&system.url, &id, "minutes.mp4").await;
    assert!(well, "{said}\n{}", system.log());
    assert_eq!(system.ended(&id).await["status"], "cancelled");
    system.stop().await;
}

#[tokio::test]
async fn page_keeps_playing_when_the_encode_of_the_video_completes() {
    let system = Setup::default().start().await;
    let (well, said) = play_until_completed(&system.url, &minutes()).await;
    assert!(well, "{said}\n{}", system.log());
    system.stop().await;
}

#[tokio::test]
async fn page_of_another_site_neither_creates_nor_reads_jobs() {
    let system = shared().await;
    let other =
        serve(axum::Router::new().fallback(|| async { axum::response::Html("<title>Cats</title>") })).await;
    let (well, said) = attack(&system.url, &other).await;
    assert!(well, "{said}\n{}", system.log());
    let jobs = system.get("/api/jobs?limit=100").await.body.to_string();
    assert!(!jobs.contains("drive-by"), "{jobs}");
}
