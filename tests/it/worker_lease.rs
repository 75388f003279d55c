//! A real worker keeps its lease for as long as it works, however busy its machine is and however long it takes.

use std::thread::available_parallelism;

use tcoder::config::RedisConfig;
use tcoder::job::{AttemptId, Job, Quality, State};
use tokio::process::Child;
use tokio::time::{Duration, sleep};

use crate::support::clips::{long, long_clip};
use crate::support::installation::Installation;
use crate::support::process::{bare, spawn};

/// How often a lease is looked at. Nothing tells a test that somebody renewed it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn attempt_of(job: &Job) -> AttemptId {
    AttemptId { job: job.job_id, epoch: job.epoch }
}

/// Redis's time and the deadline of this lease, milliseconds.
fn lease(redis: &mut redis::Connection, config: &RedisConfig, attempt: AttemptId) -> (i64, i64) {
    let key = format!("{}jobs:leases", config.prefix);
    let ((seconds, micros), deadline): ((i64, i64), Option<f64>) =
        redis::pipe().cmd("TIME").cmd("ZSCORE").arg(key).arg(attempt.to_string()).query(redis).unwrap();
    #[allow(clippy::cast_possible_truncation)]
    let deadline = deadline.expect("the lease is gone") as i64;
    (seconds * 1000 + micros / 1000, deadline)
}

/// An FFmpeg that uses one core until it is dropped.
fn busy_core() -> Child {
    let mut command = bare("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=25"]);
    command.args(["-threads", "1", "-c:v", "libx264", "-x264-params", "threads=1", "-f", "null", "-"]);
    spawn(command)
}

#[tokio::test]
async fn fault_04_heartbeats_are_in_time_while_ffmpeg_uses_all_cores() {
    const RENEWALS: u32 = 3;
    let here = Installation::new(&[]).await;
    let policy = here.queue.policy();
    let (config, mut redis) = (here.redis.config(), here.redis.raw());
    let _worker = here.worker("w1");
    let id = here.submit_clip(&long(), Quality::P720, 1).await;
    let job = here.encodes(id).await;
    let cores = available_parallelism().unwrap().get();
    let _others: Vec<Child> = (0..2 * cores).map(|_| busy_core()).collect();

    let attempt = attempt_of(&job);
    let (_, mut deadline) = lease(&mut redis, &config, attempt);
    let (mut renewals, mut least) = (0, i64::MAX);
    while renewals < RENEWALS {
        let (now, until) = lease(&mut redis, &config, attempt);
        least = least.min(until - now);
        if until > deadline {
            (renewals, deadline) = (renewals + 1, until);
        }
        sleep(LOOK_EVERY).await;
    }
    // A lease that is renewed in time has 25 s left by then. This is one that is renewed as late as that again.
    let on_time = i64::try_from((policy.lease - 2 * policy.heartbeat).as_millis()).unwrap();
    assert!(least >= on_time, "{least} ms were left of a lease");
    let now = here.queue.get(id).await.unwrap().unwrap();
    assert_eq!((now.status, attempt_of(&now), now.attempt), (State::Running, attempt, 1), "{}", here.log());
}

#[tokio::test]
async fn fault_17_job_longer_than_a_lease_is_not_rescued_while_its_worker_renews_it() {
    let here = Installation::new(&[]).await;
    let (config, mut redis) = (here.redis.config(), here.redis.raw());
    let _worker = here.worker("w1");
    let id = here.submit_clip(long_clip(), Quality::P720, 2).await;
    // An FFmpeg that does not continue makes the job as long as is needed, and uses no core meanwhile.
    let encode = here.pause_encode("w1").await;
    let job = here.job(id, |job| job.status == State::Running).await;
    let attempt = attempt_of(&job);
    // Another worker waits for a job, and sweeps for one.
    let _idle = here.worker("w2");
    let claimed_at = job.timestamps.started_at.unwrap().0;
    let lease_ms = i64::try_from(here.queue.policy().lease.as_millis()).unwrap();
    loop {
        let (now, deadline) = lease(&mut redis, &config, attempt);
        assert!(deadline > now, "the lease has expired");
        assert_eq!(here.queue.sweep(10, 0).await.unwrap().ready, 0, "{}", here.log());
        if now > claimed_at + lease_ms + 2000 {
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    encode.resume();
    let done = here.job(id, |job| job.status.is_terminal()).await;
    assert_eq!((done.status, done.attempt), (State::Completed, 1), "{}", here.log());
    assert_eq!(attempt_of(&done), attempt);
    assert!(done.worker.unwrap().0.starts_with("w1-"));
}
