//! The sound around a place to which a viewer has come before the sound as a whole.

use tokio::time::timeout;

use super::*;
use crate::support::objects;
use crate::support::process::{Process, descendants, eventually, send};
use crate::support::system::files_below;

/// Five minutes of small pictures and a tone. Its sound takes seconds, and its picture not much more.
fn five_minutes() -> PathBuf {
    made(
        "five-minutes.mp4",
        "-f lavfi -i testsrc2=s=256x144:r=5:d=300 -f lavfi -i sine=d=300 -c:v libx264 -preset ultrafast \
         -pix_fmt yuv420p -c:a aac -movflags +faststart",
    )
}

/// The FFmpeg that encodes the sound as a whole.
fn encoder_of_sound(worker: u32) -> Option<Process> {
    let is_it = |process: &Process| {
        let is_ffmpeg = process.command.starts_with("ffmpeg ");
        is_ffmpeg
            && process.command.contains("audio/segment_")
            && process.command.contains("-start_number 0 ")
    };
    descendants(worker).into_iter().find(is_it)
}

/// Waits until the first segments of the sound are encoded, and stops it there.
async fn stop_sound(worker: u32, scratch: &Path) -> Process {
    let has_begun = || files_below(scratch).iter().any(|file| file.ends_with("audio/segment_00001.m4s"));
    eventually("the first segments of the sound are encoded", has_begun).await;
    let encoder = encoder_of_sound(worker).expect("the sound is encoded");
    send(encoder.pid, Signal::SIGSTOP);
    encoder
}

/// The segments of a chunk, by the plan.
fn segments_of(system: &System, id: &str, chunk: usize) -> std::ops::Range<u32> {
    let record =
        keys_of(system, id).into_iter().find(|key| key.ends_with(&format!("jobs:status:{id}"))).unwrap();
    let lengths: String = redis::cmd("HGET").arg(record).arg("segments").query(&mut system.redis()).unwrap();
    let lengths: Vec<u32> = lengths.split(',').map(|length| length.parse().unwrap()).collect();
    let first = lengths[..chunk].iter().sum();
    first..first + lengths[chunk]
}

#[tokio::test]
async fn sound_around_a_finished_chunk_is_played_before_the_sound_has_come_there_and_the_whole_replaces_it() {
    let system = Setup::default().workers(0).start().await;
    let options = |parallelism: u16| json!({"preset": "hls-adaptive", "outputQualities": ["144p"], "parallelism": parallelism});
    let id = system.upload(&five_minutes(), &options(8)).await;
    let worker = system.worker("only", &[("WORKER_CHUNKS", "2")]);
    let encoder = stop_sound(worker.pid, &worker.scratch).await;
    let playable = system.seen(&id, |job| job["status"] == "playable").await;
    let master: Url = playable["playUrl"].as_str().unwrap().parse().unwrap();
    let mut feed = system.feed(&id).await;
    while !completed_parts(&system, &id).contains(&"chunk-5".to_owned()) {
        feed.next().await.expect("the job waits for its sound");
    }
    let segments = segments_of(&system, &id, 5);
    let place = |number: u32| format!("audio/segment_{number:05}.m4s");
    let segment = |number: u32| master.join(&format!("{}?awaited", place(number))).unwrap();
    assert!(segments.len() > 2, "{segments:?}");

    // As if the sound had come to a part of the chunk.
    let (real, asked) = (segments.start + 1, segments.start + 2);
    let folder = format!("outputs/{id}/{}", playable["epoch"]);
    let key = |number: u32| format!("{folder}/{}", place(number));
    let client = objects::client(&system.storage_config());
    let real_bytes = b"the sound as a whole".to_vec();
    client.put_object().bucket("output").key(key(real)).body(real_bytes.clone().into()).send().await.unwrap();
    let began = std::time::Instant::now();
    let preview =
        timeout(PATIENCE, segment_of(&system, &segment(asked))).await.expect("nobody makes a preview");
    println!("the sound around a finished chunk was there after {:?}", began.elapsed());
    assert!(preview.contains("moof"));
    for number in segments.clone().filter(|number| *number != real) {
        assert!(system.has_output(&key(number)).await, "segment {number} of {segments:?} is missing");
    }
    let stored = async |number: u32| {
        let answer = system.http.get(system.output_url(&key(number))).send().await.unwrap();
        answer.bytes().await.unwrap().to_vec()
    };
    assert!(stored(real).await == real_bytes, "a preview has replaced the sound");
    // The end of the chunk before is there now, with which this one's sound begins. That is not all of it.
    let before = segments_of(&system, &id, 4);
    let has_last = system.has_output(&key(before.end - 1)).await;
    assert!(has_last && !system.has_output(&key(before.start)).await, "{before:?}");
    let preview = timeout(PATIENCE, segment_of(&system, &segment(before.start))).await;
    assert!(preview.expect("nobody makes a preview").contains("moof"));
    assert!(!completed_parts(&system, &id).contains(&"audio".to_owned()), "the sound was not stopped");

    send(encoder.pid, Signal::SIGCONT);
    let parts = system.completed(&id).await;
    assert!(stored(real).await != real_bytes, "the sound has replaced what was there before");
    let whole = encoded(&system, &five_minutes(), options(1)).await;
    let address = |job: &Value| job["master"]["url"].as_str().unwrap().to_owned();
    assert_eq!(sound(&address(&parts)), sound(&address(&whole)), "a preview is left");
    system.stop().await;
}
