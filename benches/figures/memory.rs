//! Measures the memory that Redis needs for jobs that have ended.

use serde_json::json;
use tcoder::job::{JobId, JobResult, JobSpec};
use tcoder::queue::{Claim, CompleteOutcome, Queue, SubmitMode};
use tokio::task::JoinSet;

use crate::Figures;
use crate::queue::{enter, spec};
use crate::redis_server::private_redis;

const NAMES: [&str; 2] = ["redis_bytes_per_job", "redis_mb_million_jobs"];
/// Jobs that end before anything is measured. They fill the event stream, which keeps 10,000 entries.
const BEFORE: usize = 8_000;
/// Jobs from which the memory of a million is computed. It is proportional to their number, and a million would take
/// some minutes and gigabytes.
const JOBS: usize = 100_000;
/// Connections that submit, claim and complete at the same time.
const CLIENTS: usize = 16;

#[allow(clippy::cast_precision_loss)]
pub async fn measure(figures: &mut Figures) {
    if !figures.wants(&NAMES) {
        return;
    }
    let server = private_redis(&[]);
    let queue = Queue::connect(&server.config()).await.unwrap();
    let mut raw = server.raw();
    end_jobs(&queue, BEFORE).await;
    let before = used_bytes(&mut raw);
    end_jobs(&queue, JOBS).await;
    let each = (used_bytes(&mut raw) - before) / JOBS as f64;
    figures.put(NAMES[0], each, "bytes");
    let fixed = before - BEFORE as f64 * each;
    figures.put(NAMES[1], (fixed + 1e6 * each) / 1e6, "MB");
}

/// Bytes that Redis has allocated for data.
fn used_bytes(redis: &mut redis::Connection) -> f64 {
    let info: String = redis::cmd("INFO").arg("memory").query(redis).unwrap();
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
}

async fn end_jobs(queue: &Queue, count: usize) {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let queue = queue.reconnect().await.unwrap();
        clients.spawn(async move {
            let (worker, clock) = enter(&queue).await;
            for _ in 0..count / CLIENTS {
                queue.submit(JobId::new(), &ladder(), SubmitMode::Now).await.unwrap();
                // It may be that of another client, which then claims this one's.
                let Claim::Job(job) = queue.claim(&worker, clock.now(), false).await.unwrap() else {
                    panic!("no job")
                };
                clock.set(job.at);
                let outcome =
                    queue.complete(&job, &result(job.attempt.job), job.attempt.epoch).await.unwrap();
                assert_eq!(outcome, CompleteOutcome::Done);
            }
        });
    }
    clients.join_all().await;
}

fn ladder() -> JobSpec {
    JobSpec { output_qualities: "720p,360p,144p".parse().unwrap(), ..spec() }
}

/// The result of a ladder of three qualities.
fn result(id: JobId) -> JobResult {
    let output = |quality: &str, width: u32, height: u32| {
        json!({
            "quality": quality, "key": format!("outputs/{id}/1795834812345/{quality}.mp4"), "container": "mp4",
            "size": 1_843_200, "width": width, "height": height, "codec": "h264", "audioCodec": "aac",
            "bitrate": 491_520, "duration": 30.0,
        })
    };
    let result = json!({
        "outputs": [output("720p", 1280, 720), output("360p", 640, 360), output("144p", 256, 144)],
        "entries": [], "skipped": [],
        "source": {
            "format": "mov,mp4,m4a,3gp,3g2,mj2", "size": 7_340_032, "duration": 30.0,
            "video": {
                "codec": "hevc", "width": 1920, "height": 1080, "frameRate": 30.0, "frames": 900, "rotation": 0,
                "hdr": false,
            },
            "audio": {"codec": "aac", "channels": 2, "sampleRate": 48_000},
        },
        "timings": {"downloadSeconds": 0.4, "transcodeSeconds": 16.2, "uploadSeconds": 0.7},
        "speed": 1.9, "cpuSeconds": 58.5,
    });
    serde_json::from_value(result).unwrap()
}
