//! FFmpeg that is ended by a signal while a real worker encodes. A crash says something about the file; SIGKILL says
//! that memory ran out.

use nix::sys::signal::Signal;
use tcoder::job::{FailureCode, Job, JobId, Quality, State};

use crate::support::clips::{clip, long, long_clip};
use crate::support::installation::Installation;
use crate::support::process::{all_gone, lives, send};

/// Ends the FFmpeg of this attempt of the job with a signal, during the encode; returns the job afterwards.
async fn ended_by(here: &Installation, id: JobId, attempt: u32, signal: Signal) -> Job {
    here.job(id, |job| job.status == State::Running && job.attempt == attempt).await;
    let ffmpeg = here.encoder("w1").await;
    send(ffmpeg.pid, signal);
    all_gone(&[ffmpeg]).await;
    here.job(id, |job| job.status != State::Running).await
}

/// Makes the retry of a job due now, whatever pause was drawn.
async fn retry_now(here: &Installation, id: JobId) {
    let key = format!("{}jobs:scheduled", here.redis.config().prefix);
    // Unless its time has come already.
    redis::cmd("ZADD").arg(key).arg("XX").arg(1).arg(id.to_string()).exec(&mut here.redis.raw()).unwrap();
    here.queue.sweep(10, 0).await.unwrap();
}

fn code(job: &Job) -> Option<FailureCode> {
    job.error.as_ref().map(|failure| failure.code)
}

#[tokio::test]
async fn fault_05_file_that_crashes_ffmpeg_twice_fails_and_its_worker_goes_on() {
    let here = Installation::new(&[]).await;
    let mut worker = here.worker("w1");
    let id = here.submit_clip(&long(), Quality::P720, 5).await;

    let job = ended_by(&here, id, 1, Signal::SIGSEGV).await;
    assert_eq!((job.status, code(&job)), (State::Queued, Some(FailureCode::FfmpegCrashed)), "{}", here.log());
    assert!(job.error.as_ref().unwrap().message.contains("signal 11"), "{job:#?}");
    retry_now(&here, id).await;

    // The second crash in a row is the last, although three attempts are left.
    let job = ended_by(&here, id, 2, Signal::SIGABRT).await;
    assert_eq!((job.status, code(&job)), (State::Failed, Some(FailureCode::FfmpegCrashed)), "{}", here.log());
    assert_eq!(job.attempt, 2);
    let why = job.error.unwrap();
    assert!(why.message.contains("signal 6") && why.message.contains("another program"), "{why}");
    let json = serde_json::to_value(&why).unwrap();
    assert_eq!(json["errorCode"], "ffmpegCrashed");

    // The same process completes the next job.
    let next = here.submit_clip(clip(), Quality::P144, 1).await;
    let job = here.job(next, |job| job.status.is_terminal()).await;
    assert_eq!(job.status, State::Completed, "{}", here.log());
    assert!(worker.try_wait().unwrap().is_none() && lives(worker.id().unwrap()), "{}", here.log());
}

#[tokio::test]
async fn ffmpeg_killed_for_want_of_memory_is_tried_again_and_completes() {
    let here = Installation::new(&[]).await;
    let _worker = here.worker("w1");
    let id = here.submit_clip(long_clip(), Quality::P720, 2).await;
    let job = ended_by(&here, id, 1, Signal::SIGKILL).await;
    assert_eq!((job.status, code(&job)), (State::Queued, Some(FailureCode::Worker)), "{}", here.log());
    assert!(job.error.as_ref().unwrap().message.contains("out of memory"), "{job:#?}");
    retry_now(&here, id).await;
    let job = here.job(id, |job| job.status.is_terminal()).await;
    assert_eq!((job.status, job.attempt), (State::Completed, 2), "{}", here.log());
    assert!(job.error.is_none(), "{job:#?}");
}
