//! Videos that are encoded in parts by several workers, through the whole system.

mod preview;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::{Value, json};
use url::Url;

use crate::support::clips::{large_minutes, made, minutes, probed, stream};
use crate::support::command_count::CommandCount;
use crate::support::system::{Api, PATIENCE, Setup, System, shared};

/// 320x180, 25 frames per second, 26 s with a tone: seven segments.
fn film() -> PathBuf {
    made(
        "seven.mp4",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=26 -f lavfi -i sine=d=26 -c:v libx264 -preset ultrafast \
         -pix_fmt yuv420p -c:a aac -movflags +faststart",
    )
}

/// The number of frames of the video at an address.
fn frames(url: &str) -> u64 {
    let report = probed(Path::new(url));
    stream(&report, "video").unwrap()["nb_read_packets"].as_str().unwrap().parse().unwrap()
}

/// A hash of the encoded sound at an address.
fn sound(url: &str) -> String {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i", url, "-map", "0:a:0", "-c", "copy", "-f", "streamhash", "-"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The keys in Redis that belong to a job.
fn keys_of(system: &System, id: &str) -> Vec<String> {
    redis::cmd("KEYS").arg(format!("*{id}*")).query(&mut system.redis()).unwrap()
}

/// The parts of a job that have reported.
fn completed_parts(system: &System, id: &str) -> Vec<String> {
    let key = keys_of(system, id).into_iter().find(|key| key.contains("jobs:reports:")).unwrap();
    let fields: Vec<String> = redis::cmd("HKEYS").arg(key).query(&mut system.redis()).unwrap();
    fields.into_iter().filter(|field| field != "plan").collect()
}

/// The parts of a job that workers hold.
fn held_parts(system: &System, id: &str) -> Vec<String> {
    let leases: Vec<String> = redis::cmd("KEYS").arg("*jobs:leases").query(&mut system.redis()).unwrap();
    // Without a lease there is no key.
    let Some(leases) = leases.first() else { return Vec::new() };
    let held: Vec<String> =
        redis::cmd("ZRANGE").arg(leases).arg(0).arg(-1).query(&mut system.redis()).unwrap();
    let part = |lease: &String| Some(lease.strip_prefix(&format!("{id}/"))?.split(':').next()?.to_owned());
    held.iter().filter_map(part).collect()
}

async fn encoded(system: &System, file: &Path, options: Value) -> Value {
    let id = system.upload(file, &options).await;
    system.completed(&id).await
}

#[tokio::test]
async fn adaptive_streaming_in_parts_has_the_frames_and_the_sound_of_one_encode() {
    let system = shared().await;
    let options = |parallelism: u16| {
        json!({
            "preset": "hls-adaptive", "outputQualities": ["360p", "144p"], "stills": ["poster", "storyboard"],
            "parallelism": parallelism,
        })
    };
    let parts = encoded(system, &film(), options(2)).await;
    let whole = encoded(system, &film(), options(1)).await;
    assert!(parts["split"]["chunks"].as_u64().unwrap() > 2, "{parts:#}");
    assert_eq!(whole["split"], json!({"chunks": 1}), "{whole:#}");
    assert!(parts["poster"]["url"].is_string() && parts["storyboard"]["url"].is_string(), "{parts:#}");
    let url = |job: &Value, n: usize| job["outputs"][n]["url"].as_str().unwrap().to_owned();
    for n in 0..2 {
        assert_eq!(parts["outputs"][n]["quality"], whole["outputs"][n]["quality"]);
        assert_eq!((frames(&url(&parts, n)), frames(&url(&whole, n))), (650, 650));
    }
    let master = |job: &Value| job["master"]["url"].as_str().unwrap().to_owned();
    assert_eq!(sound(&master(&parts)), sound(&master(&whole)));
    let id = parts["jobId"].as_str().unwrap();
    let log = system.log();
    assert!(log.contains("job split") && log.contains("part completed"), "{log}");
    // Nothing of the parts is left in Redis.
    let keys = keys_of(system, id);
    assert_eq!(keys.len(), 1, "{keys:?}");
}

#[tokio::test]
async fn mp4_files_are_joined_from_parts() {
    let system = shared().await;
    let options = json!({"preset": "web-optimized", "outputQualities": ["144p"], "parallelism": 3});
    let job = encoded(system, &film(), options).await;
    assert!(job["split"]["chunks"].as_u64().unwrap() > 2, "{job:#}");
    let url = job["outputs"][0]["url"].as_str().unwrap();
    let report = probed(Path::new(url));
    assert_eq!(frames(url), 650);
    assert!(stream(&report, "audio").is_some(), "{report:#}");
}

#[tokio::test]
async fn video_that_cannot_be_cut_is_encoded_as_a_whole_and_says_why() {
    let system = shared().await;
    let film = made(
        "five.ts",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=9 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -f mpegts",
    );
    let options = json!({"preset": "hls", "outputQualities": ["144p"], "parallelism": 4});
    let job = encoded(system, &film, options).await;
    assert_eq!(job["split"]["chunks"], 1, "{job:#}");
    assert!(job["split"]["wholeBecause"].as_str().unwrap().contains("transport stream"), "{job:#}");
}

#[tokio::test]
async fn video_with_a_long_gap_between_two_frames_is_encoded_as_a_whole() {
    let system = shared().await;
    let film = made(
        "gap.mp4",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=40 -vf select=lt(t\\,6)+gt(t\\,34) -fps_mode vfr -c:v libx264 \
         -preset ultrafast -pix_fmt yuv420p",
    );
    let options = json!({"preset": "hls-adaptive", "outputQualities": ["144p"], "parallelism": 4});
    let job = encoded(system, &film, options).await;
    assert_eq!(job["split"]["chunks"], 1, "{job:#}");
    assert!(job["split"]["wholeBecause"].as_str().unwrap().contains("did not fit together"), "{job:#}");
    assert_eq!(frames(job["outputs"][0]["url"].as_str().unwrap()), frames(film.to_str().unwrap()));
}

#[tokio::test]
async fn killed_worker_costs_the_parts_that_it_encoded() {
    let system = Setup::default().workers(0).start().await;
    let options = json!({"preset": "hls-adaptive", "outputQualities": ["360p", "144p"], "parallelism": 8});
    let id = system.upload(&minutes(), &options).await;
    let first = system.worker("first", &[("WORKER_CHUNKS", "1")]);
    system.seen(&id, |job| job["status"] == "playable").await;
    first.signal(Signal::SIGKILL);
    let before = completed_parts(&system, &id);
    assert!(!before.is_empty() && before.len() < 15, "{before:?}");
    let mut redis = system.redis();
    let reports = keys_of(&system, &id).into_iter().find(|key| key.contains("jobs:reports:")).unwrap();
    let report = |redis: &mut redis::Connection, part: &str| -> String {
        redis::cmd("HGET").arg(&reports).arg(part).query(redis).unwrap()
    };
    let kept: Vec<String> = before.iter().map(|part| report(&mut redis, part)).collect();
    let _second = system.worker("second", &[]);
    // The reports are there until the job ends.
    let (mut last, mut feed) = (kept.clone(), system.feed(&id).await);
    let mut job = Value::Null;
    while let Some(next) = feed.next().await {
        let now: Vec<Option<String>> = before
            .iter()
            .map(|part| redis::cmd("HGET").arg(&reports).arg(part).query(&mut redis).unwrap())
            .collect();
        if let Some(now) = now.into_iter().collect::<Option<Vec<String>>>() {
            last = now;
        }
        job = next;
    }
    assert_eq!(job["status"], "completed", "{job:#}");
    assert_eq!(last, kept, "a part that was completed was encoded again");
    for output in job["outputs"].as_array().unwrap() {
        assert_eq!(frames(output["url"].as_str().unwrap()), 3750);
    }
    system.stop().await;
}

#[tokio::test]
async fn split_job_goes_on_with_the_next_worker_when_its_only_one_was_told_to_stop() {
    let system = Setup::default().workers(0).start().await;
    let options = json!({"preset": "hls-adaptive", "outputQualities": ["360p", "144p"], "parallelism": 8});
    let id = system.upload(&minutes(), &options).await;
    let mut first = system.worker("first", &[("WORKER_CHUNKS", "1")]);
    system.seen(&id, |job| job["status"] == "playable").await;
    first.signal(Signal::SIGTERM);
    assert!(first.over().await.success());
    // The parts that it held wait for another worker at once; the job has begun, and stays so.
    assert_eq!(held_parts(&system, &id), Vec::<String>::new());
    assert_eq!(system.job(&id).await["status"], "playable");
    let stats = system.get("/api/stats").await.body;
    assert!(stats["pending"].as_u64() > Some(0), "{stats}");
    let _second = system.worker("second", &[]);
    let job = system.completed(&id).await;
    assert_eq!(job["attempt"], 1, "{job:#}");
    system.stop().await;
}

/// The text at an address, or the status of a refusal.
async fn get(api: &Api, url: &Url) -> Result<String, StatusCode> {
    let answer = api.http.get(url.clone()).timeout(PATIENCE).send().await.unwrap();
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    }
    if !answer.status().is_success() {
        return Err(answer.status());
    }
    Ok(String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned())
}

/// A segment, which is asked for until it is there, as players do.
async fn segment_of(api: &Api, url: &Url) -> String {
    loop {
        match get(api, url).await {
            Ok(segment) => return segment,
            Err(status) => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// The lines of a playlist that name files.
fn names(playlist: &str) -> Vec<&str> {
    playlist.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[tokio::test]
async fn video_is_played_while_it_is_encoded_and_a_part_further_on_is_encoded_next() {
    let system = Setup::default().env("WORKER_CHUNKS", "1").start().await;
    let options = json!({"preset": "hls-adaptive", "outputQualities": ["360p", "144p"], "parallelism": 8});
    let id = system.upload(&minutes(), &options).await;
    let playable = system.seen(&id, |job| job["status"] == "playable").await;
    assert!(playable["timestamps"]["playableAt"].is_i64(), "{playable:#}");
    let master: Url = playable["playUrl"].as_str().unwrap().parse().unwrap();
    let text = get(&system, &master).await.unwrap();
    let media: BTreeSet<&str> = names(&text).into_iter().collect();
    assert_eq!(media.len(), 2, "{text}");
    let small = master.join(media.iter().find(|name| name.contains("144p")).unwrap()).unwrap();
    let text = get(&system, &small).await.unwrap();
    assert!(text.contains("#EXT-X-ENDLIST"), "the playlist is complete: {text}");
    let segments = names(&text);
    assert_eq!(segments.len(), 38);
    // What is there is answered at once.
    assert!(get(&system, &small.join(segments[0]).unwrap()).await.unwrap().contains("moof"));
    // A segment near the end is encoded before what lies between.
    let ahead = small.join(segments[35]).unwrap();
    assert!(segment_of(&system, &ahead).await.contains("moof"));
    let between = completed_parts(&system, &id);
    assert!(between.len() < 12, "most parts are still to be encoded: {between:?}");
    // There is no segment behind the end, and nothing without a signature.
    let beyond = small.join("segment_00099.m4s?awaited").unwrap();
    assert_eq!(get(&system, &beyond).await, Err(StatusCode::NOT_FOUND));
    let answer = system.delete(&format!("/api/jobs/{id}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(system.ended(&id).await["status"], "cancelled");
}

#[tokio::test]
async fn busy_worker_encodes_what_a_viewer_waits_for_at_once_and_hands_over_the_beginning_of_it() {
    let system = Setup::default().env("WORKER_CHUNKS", "1").start().await;
    // Chunks of 1, 2, 4 and then 6 segments.
    let options = json!({"preset": "hls-adaptive", "outputQualities": ["720p", "144p"], "parallelism": 2});
    let id = system.upload(&large_minutes(), &options).await;
    let playable = system.seen(&id, |job| job["status"] == "playable").await;
    let master: Url = playable["playUrl"].as_str().unwrap().parse().unwrap();
    // A segment of a chunk further on. The only slot is busy with an earlier one, and nothing interrupts that.
    let segment = master.join("144p/segment_00019.m4s?awaited").unwrap();
    assert!(segment_of(&system, &segment).await.contains("moof"));
    let (done, held) = (completed_parts(&system, &id), held_parts(&system, &id));
    assert!(!done.contains(&"chunk-5".to_owned()), "its chunk goes on: {done:?}");
    assert!(held.contains(&"chunk-5".to_owned()) && held.len() == 2, "{held:?}");
    system.delete(&format!("/api/jobs/{id}")).await;
    assert_eq!(system.ended(&id).await["status"], "cancelled");
}

/// The kind of the problem with which a client's request for an address is refused for now.
async fn refusal(api: &Api, url: &Url, client: &str) -> String {
    let request = api.http.get(url.clone()).header("x-forwarded-for", client).timeout(PATIENCE);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    answer.json::<Value>().await.unwrap()["type"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_client_cannot_take_all_places_for_segments_that_are_not_encoded() {
    let system = Setup::default().workers(0).start().await;
    let options = json!({"preset": "hls-adaptive", "outputQualities": ["144p"], "parallelism": 8});
    let id = system.upload(&minutes(), &options).await;
    let worker = system.worker("only", &[("WORKER_CHUNKS", "1")]);
    let playable = system.seen(&id, |job| job["status"] == "playable").await;
    // Nobody encodes what is asked for.
    worker.signal(Signal::SIGKILL);
    let master: Url = playable["playUrl"].as_str().unwrap().parse().unwrap();
    let answer = system.http.get(master.clone()).send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-cache", "it is replaced when the job is completed");

    let ahead = master.join("144p/segment_00036.m4s?awaited").unwrap();
    let mut redis = system.redis();
    CommandCount::reset(&mut redis);
    let one = futures::future::join_all((0..18).map(|_| refusal(&system, &ahead, "8.8.4.4")));
    let (one, other) = tokio::join!(one, refusal(&system, &ahead, "1.1.1.1"));
    // Only looks for a segment ask for the reports of its chunk and of the sound. There are at most five in a second, on behalf
    // of all 17 viewers; each of them looks about seven times if it looks by itself.
    let asked = CommandCount::read(&mut redis).0["hexists"];
    assert!((1..100).contains(&asked), "{asked} commands for one segment");
    let count = |kind: &str| one.iter().filter(|found| *found == kind).count();
    assert_eq!((count("/problems/not-ready"), count("/problems/too-many-waiting")), (16, 2), "{one:?}");
    assert_eq!(other, "/problems/not-ready");
    let metrics = get(&system, &format!("{}/metrics", system.url).parse().unwrap()).await.unwrap();
    for line in [
        "tcoder_segment_requests_held 0",
        "tcoder_segment_requests_total{outcome=\"timed_out\"} 17",
        "tcoder_segment_requests_total{outcome=\"refused\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not among:\n{metrics}");
    }
    assert_eq!(system.delete(&format!("/api/jobs/{id}")).await.status, 200);
    assert_eq!(system.ended(&id).await["status"], "cancelled");
}
