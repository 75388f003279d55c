//! A failover to a replica that has not received the last writes, as a Redis that saves when it is told to, and comes
//! back with what it saved.

use std::collections::BTreeSet;
use std::time::Duration;

use tcoder::job::{JobId, State};
use tcoder::queue::{
    CancelOutcome, CompleteOutcome, Delivery, FailOutcome, Outbox, Queue, SubmitMode, SubmitOutcome,
    UploadedOutcome,
};

use super::resumed;
use crate::queue::{LONG, all_due, arrived, claim, hooked, hopeless, now, result_of, submit, worker};
use crate::support::redis::{PrivateRedis, private_redis};

async fn forgetful() -> (PrivateRedis, Queue) {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    (server, queue)
}

fn save(server: &PrivateRedis) {
    redis::cmd("SAVE").exec(&mut server.raw()).unwrap();
}

/// Takes back all writes since the last [`save`].
async fn forget(server: &mut PrivateRedis, queue: &Queue) {
    server.kill().await;
    server.start();
    resumed(queue).await;
}

async fn state(queue: &Queue, id: JobId) -> Option<State> {
    queue.get(id).await.unwrap().map(|job| job.status)
}

fn names(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn fault_10_forgotten_completion_is_repeated_under_the_same_name() {
    let (mut server, queue) = forgetful().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &hooked()).await;
    let first = claim(&queue, &w).await.unwrap();
    save(&server);
    let committed = first.attempt.epoch;
    assert_eq!(queue.complete(&first, &result_of(1), committed).await.unwrap(), CompleteOutcome::Done);
    let told = names(&queue.deliveries().await.unwrap());
    assert_eq!(told, [format!("{id}:{committed}:completed")]);

    forget(&mut server, &queue).await;
    assert_eq!(state(&queue, id).await, Some(State::Running));
    assert_eq!(queue.deliveries().await.unwrap(), []);
    // Nobody works at it, so its lease expires. The next attempt finds the manifest of the first.
    all_due(&mut server.raw(), &server.config());
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    let heir = claim(&queue, &w).await.unwrap();
    assert!(heir.earlier && heir.attempt > first.attempt, "{heir:?} after {first:?}");
    assert_eq!(queue.complete(&heir, &result_of(1), committed).await.unwrap(), CompleteOutcome::Done);
    let job = queue.get(id).await.unwrap().unwrap();
    assert_eq!((job.status, job.committed), (State::Completed, Some(committed)));
    // A receiver that got the first webhook knows the second one by its name.
    assert_eq!(names(&queue.deliveries().await.unwrap()), told);
}

#[tokio::test]
async fn fault_10_forgotten_failure_leaves_a_job_that_ends() {
    let (mut server, queue) = forgetful().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &hooked()).await;
    let first = claim(&queue, &w).await.unwrap();
    save(&server);
    assert_eq!(queue.fail(&first, &hopeless()).await.unwrap(), FailOutcome::Failed);
    let told = queue.get(id).await.unwrap().unwrap().webhook_epoch();

    forget(&mut server, &queue).await;
    assert_eq!(state(&queue, id).await, Some(State::Running));
    all_due(&mut server.raw(), &server.config());
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    let heir = claim(&queue, &w).await.unwrap();
    // The attempt that reported the failure has no say any more.
    let late = queue.fail(&first, &hopeless()).await.unwrap();
    assert_eq!(late, FailOutcome::Lost(Some(State::Running)));
    assert_eq!(queue.fail(&heir, &hopeless()).await.unwrap(), FailOutcome::Failed);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.failed, stats.running, stats.pending_webhooks), (1, 0, 1));
    // Its webhook has the id that the first one had, which a user's retry would change.
    let named = queue.get(id).await.unwrap().unwrap().webhook_epoch();
    assert_eq!(named, told);
    queue.redrive(id).await.unwrap();
    assert_ne!(queue.get(id).await.unwrap().unwrap().webhook_epoch(), told);
}

#[tokio::test]
async fn fault_10_forgotten_submit_can_be_repeated() {
    let (mut server, queue) = forgetful().await;
    let w = worker(&queue, "w").await;
    let uploading = JobId::new();
    queue.submit(uploading, &hooked(), SubmitMode::OnUpload(Duration::from_secs(60))).await.unwrap();
    save(&server);
    let id = submit(&queue, &hooked()).await;
    assert_eq!(queue.uploaded(&arrived(uploading)).await.unwrap(), UploadedOutcome::Queued);
    assert!(claim(&queue, &w).await.is_some());

    forget(&mut server, &queue).await;
    // Nothing is left of the first, and the second one waits for its upload again.
    assert_eq!(state(&queue, id).await, None);
    assert_eq!(queue.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Unknown);
    assert_eq!(state(&queue, uploading).await, Some(State::Uploading));
    assert_eq!(claim(&queue, &w).await, None);
    assert_eq!(queue.submit(id, &hooked(), SubmitMode::Now).await.unwrap(), SubmitOutcome::Created);
    assert_eq!(queue.uploaded(&arrived(uploading)).await.unwrap(), UploadedOutcome::Queued);
    let mut ended = BTreeSet::new();
    while let Some(job) = claim(&queue, &w).await {
        assert_eq!(job.number, 1);
        ended.insert(job.attempt.job);
        let outcome = queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
        assert_eq!(outcome, CompleteOutcome::Done);
    }
    assert_eq!(ended, BTreeSet::from([id, uploading]));
}

#[tokio::test]
async fn fault_10_forgotten_delivery_is_sent_again_under_the_same_name() {
    let (mut server, queue) = forgetful().await;
    let id = submit(&queue, &hooked()).await;
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    let told = names(&queue.deliveries().await.unwrap());
    assert_eq!(told.len(), 1);
    save(&server);
    let hold = Duration::from_secs(60);
    let later = now(&queue).await.plus(1000);
    let (taken, _) = queue.claim_deliveries(Outbox::Installation, later, 10, hold).await.unwrap();
    queue.remove_delivery(&taken[0].0).await.unwrap();
    assert_eq!(queue.deliveries().await.unwrap(), []);

    forget(&mut server, &queue).await;
    let (taken, _) = queue.claim_deliveries(Outbox::Installation, later, 10, hold).await.unwrap();
    let again: Vec<String> = taken.iter().map(|(delivery, _)| delivery.to_string()).collect();
    assert_eq!(again, told);
}

#[tokio::test]
async fn fault_10_forgotten_cancellation_can_be_repeated() {
    let (mut server, queue) = forgetful().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &hooked()).await;
    let job = claim(&queue, &w).await.unwrap();
    save(&server);
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    let deadline = job.at.plus(7_200_000);
    assert!(!queue.renew(job.attempt, deadline).await.unwrap());

    forget(&mut server, &queue).await;
    assert!(queue.renew(job.attempt, deadline).await.unwrap());
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    assert!(!queue.renew(job.attempt, deadline.plus(1)).await.unwrap());
    assert_eq!(queue.deliveries().await.unwrap().len(), 1);
}
