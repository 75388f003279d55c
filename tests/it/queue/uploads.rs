//! The inputs of jobs: jobs that wait for an upload, late and repeated uploads, and the versions of their objects.

use std::time::Duration;

use tcoder::job::{Failure, FailureCode, JobId, JobSpec, State};
use tcoder::queue::{CancelReason, RedriveOutcome, SubmitMode, UploadedOutcome};

use super::*;
use crate::support::redis::raw;

#[tokio::test]
async fn fault_07_repeated_event_of_an_upload_queues_the_job_once() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let id = JobId::new();
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Unknown);
    let window = SubmitMode::OnUpload(Duration::from_secs(60));
    queue.submit(id, &spec(), window).await.unwrap();
    assert_eq!(claim(&queue, &w).await, None);
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Queued);
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Already(State::Queued));
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Already(State::Running));
    queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Already(State::Completed));
    assert_eq!(claim(&queue, &w).await, None);
}

/// No worker hears of it, and one that fits is still taken.
#[tokio::test]
async fn upload_of_another_size_fails_the_job_at_once() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let announced = JobSpec { file_size: Some(1 << 20), ..hooked() };
    let other_size = |job| UploadedInput { size: (1 << 20) - 1, ..arrived(job) };
    for (spec, input, code) in [
        (hooked(), too_large as fn(JobId) -> UploadedInput, FailureCode::InputTooLarge),
        (announced, other_size, FailureCode::InvalidMedia),
    ] {
        let id = JobId::new();
        queue.submit(id, &spec, SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
        assert_eq!(queue.uploaded(&input(id)).await.unwrap(), UploadedOutcome::Refused);
        let repeated = queue.uploaded(&input(id)).await.unwrap();
        assert_eq!(repeated, UploadedOutcome::Already(State::Failed), "{code:?}");
        let job = queue.get(id).await.unwrap().unwrap();
        assert_eq!((job.status, job.attempt, job.error.unwrap().code), (State::Failed, 0, code));
        assert_eq!(claim(&queue, &w).await, None);
        assert!(queue.uploading(10).await.unwrap().is_empty());
        let delivery = format!("{id}:0:failed");
        let outbox = format!("{}webhooks:outbox", config.prefix);
        let due: Option<f64> =
            redis::cmd("ZSCORE").arg(outbox).arg(delivery).query(&mut raw(&config)).unwrap();
        assert!(due.is_some(), "no webhook tells it");
        assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Queued);
        assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, id);
    }
}

/// A job reads the version of its input that was uploaded, or that its first attempt has read.
#[tokio::test]
async fn version_of_the_input_is_kept_for_all_attempts() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let id = JobId::new();
    queue.submit(id, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    queue.uploaded(&arrived(id)).await.unwrap();
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(job.input_version.get(), arrived(id).etag.as_ref());
    queue.cancel(id).await.unwrap();

    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(job.input_version.get(), None);
    job.input_version.set("of-the-first-attempt".into()).unwrap();
    queue.fail(&job, &retryable()).await.unwrap();
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    let again = claim(&queue, &w).await.unwrap();
    assert_eq!(
        (again.attempt.job, again.input_version.get().map(String::as_str)),
        (id, Some("of-the-first-attempt"))
    );
    queue.cancel(id).await.unwrap();

    // One that is lost tells it while it encodes.
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    job.input_version.set("of-the-lost-attempt".into()).unwrap();
    assert!(queue.progress(&job, 5.0).await.unwrap());
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    let w = worker(&queue, "w").await;
    let again = claim(&queue, &w).await.unwrap();
    assert_eq!(again.attempt.job, id);
    assert_eq!(again.input_version.get().map(String::as_str), Some("of-the-lost-attempt"));
}

/// Who retries a job may have replaced a damaged object before. An upload cannot be replaced.
#[tokio::test]
async fn retried_job_reads_the_present_version_of_an_object_that_was_not_uploaded_for_it() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    for is_upload in [true, false] {
        let id = JobId::new();
        if is_upload {
            queue.submit(id, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
            queue.uploaded(&arrived(id)).await.unwrap();
        } else {
            queue.submit(id, &spec(), SubmitMode::Now).await.unwrap();
        }
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!(job.attempt.job, id);
        let _ = job.input_version.set("of-the-first-attempt".into());
        assert!(queue.progress(&job, 5.0).await.unwrap());
        queue.fail(&job, &hopeless()).await.unwrap();
        assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
        let again = claim(&queue, &w).await.unwrap();
        let expected = arrived(id).etag.filter(|_| is_upload);
        assert_eq!((again.attempt.job, again.input_version.get()), (id, expected.as_ref()));
        queue.cancel(id).await.unwrap();
    }
}

#[tokio::test]
async fn uploaded_after_the_window_revives_the_job() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let id = JobId::new();
    queue.submit(id, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    let late = Failure::new(FailureCode::UploadExpired, "it never came");
    queue.expire_upload(id, &late).await.unwrap();
    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::NeverUploaded);
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Queued);
    let job = queue.get(id).await.unwrap().unwrap();
    assert_eq!((job.status, job.error, job.timestamps.completed_at), (State::Queued, None, None));
    let key = format!("{}jobs:status:{id}", config.prefix);
    let ttl: i64 = redis::cmd("PTTL").arg(key).query(&mut raw(&config)).unwrap();
    assert_eq!((ttl, queue.stats().await.unwrap().failed), (-1, 0));
    let job = claim(&queue, &w).await.unwrap();
    // A job that failed for another reason is not revived by a second event.
    queue.fail(&job, &hopeless()).await.unwrap();
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Already(State::Failed));
    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
}

#[tokio::test]
async fn job_cancelled_before_its_upload_is_not_retried_without_it() {
    let (queue, _) = queue().await;
    let id = JobId::new();
    queue.submit(id, &spec(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    queue.cancel(id).await.unwrap();
    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::NeverUploaded);
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Already(State::Cancelled));
}

#[tokio::test]
async fn job_that_ends_again_after_a_late_upload_has_another_delivery() {
    let (queue, _) = queue().await;
    let id = JobId::new();
    queue.submit(id, &hooked(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    queue.expire_upload(id, &Failure::new(FailureCode::UploadExpired, "it never came")).await.unwrap();
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Queued);
    let overdue = Failure::new(FailureCode::DeadlineExceeded, "it took too long");
    queue.cancel_with(id, &CancelReason::DeadlineExceeded(overdue)).await.unwrap();
    let deliveries = queue.deliveries().await.unwrap();
    let names: Vec<String> = deliveries.iter().map(ToString::to_string).collect();
    assert_eq!(names, [format!("{id}:0:failed"), format!("{id}:1:failed")]);
}
