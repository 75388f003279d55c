//! The life of a job, call by call: what repeats, who wins a race, and who is next.

use std::time::Duration;

use tcoder::job::{Epoch, JobId, JobSpec, State};
use tcoder::queue::{
    CancelOutcome, Claim, CompleteOutcome, FailOutcome, Queue, RedriveOutcome, Start, SubmitOutcome,
    UploadedOutcome,
};

use super::*;
use crate::support::redis::raw;

#[tokio::test]
async fn a_complete_whose_answer_was_lost_can_be_repeated() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(queue.complete(&job, &result_of(1)).await.unwrap(), CompleteOutcome::Done);
    let first = queue.get(id).await.unwrap();
    assert_eq!(queue.complete(&job, &result_of(1)).await.unwrap(), CompleteOutcome::Already);
    assert_eq!(queue.get(id).await.unwrap(), first);
    assert_eq!(queue.stats().await.unwrap().completed, 1);
}

#[tokio::test]
async fn a_heartbeat_whose_answer_was_lost_can_be_repeated() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let deadline = job.at.plus(7_200_000);
    assert!(queue.renew(job.id, job.epoch, deadline).await.unwrap());
    assert!(queue.renew(job.id, job.epoch, deadline).await.unwrap());
    assert!(!queue.renew(job.id, Epoch(job.epoch.0 + 1), deadline).await.unwrap());
    queue.cancel(job.id).await.unwrap();
    assert!(!queue.renew(job.id, job.epoch, deadline.plus(1)).await.unwrap());
}

#[tokio::test]
async fn a_second_submit_makes_no_second_job() {
    let (queue, _) = queue().await;
    let id = submit(&queue, &spec()).await;
    assert_eq!(queue.submit(id, &spec(), Start::Now).await.unwrap(), SubmitOutcome::Same);
    let other = with_priority(7);
    let outcome = queue.submit(id, &other, Start::Now).await.unwrap();
    assert_eq!(outcome, SubmitOutcome::Different(Box::new(spec())));
    assert_eq!(queue.stats().await.unwrap().pending, 1);
}

#[tokio::test]
async fn a_job_that_fell_out_of_the_listing_is_not_overwritten() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    redis::cmd("DEL").arg(format!("{}jobs:index", config.prefix)).exec(&mut raw(&config)).unwrap();
    assert_eq!(queue.submit(id, &spec(), Start::Now).await.unwrap(), SubmitOutcome::Same);
    let there = queue.get(id).await.unwrap().unwrap();
    assert_eq!((there.status, there.epoch), (State::Running, job.epoch));
}

#[tokio::test]
async fn a_second_storage_event_makes_no_second_attempt() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let id = JobId::new();
    assert_eq!(queue.uploaded(id).await.unwrap(), UploadedOutcome::Unknown);
    let window = Start::OnUpload(Duration::from_secs(60));
    queue.submit(id, &spec(), window).await.unwrap();
    assert_eq!(claim(&queue, &w).await, None);
    assert_eq!(queue.uploaded(id).await.unwrap(), UploadedOutcome::Queued);
    assert_eq!(queue.uploaded(id).await.unwrap(), UploadedOutcome::Already(State::Queued));
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(queue.uploaded(id).await.unwrap(), UploadedOutcome::Already(State::Running));
    queue.complete(&job, &result_of(1)).await.unwrap();
    assert_eq!(queue.uploaded(id).await.unwrap(), UploadedOutcome::Already(State::Completed));
    assert_eq!(claim(&queue, &w).await, None);
}

#[tokio::test]
async fn a_released_job_keeps_its_place_and_its_attempts() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let first = submit(&queue, &spec()).await;
    let second = submit(&queue, &spec()).await;
    for epoch in 1..=10 {
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!((job.id, job.epoch, job.attempt), (first, Epoch(epoch), 1));
        assert!(queue.release(job.id, job.epoch).await.unwrap());
        assert!(!queue.release(job.id, job.epoch).await.unwrap());
    }
    assert_eq!(queue.get(first).await.unwrap().unwrap().attempt, 0);
    claim(&queue, &w).await.unwrap();
    assert_eq!(claim(&queue, &w).await.unwrap().id, second);
}

#[tokio::test]
async fn urgent_jobs_overtake_and_old_ones_are_not_starved() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let plain = submit(&queue, &spec()).await;
    let low = submit(&queue, &with_priority(-1)).await;
    let high = submit(&queue, &with_priority(10)).await;
    // Ten points are worth ten minutes: a plain job that came eleven minutes ago goes first.
    let old = submit(&queue, &spec()).await;
    let pending = format!("{}jobs:pending", config.prefix);
    redis::cmd("ZINCRBY")
        .arg(pending)
        .arg(-11 * 60_000)
        .arg(old.to_string())
        .exec(&mut raw(&config))
        .unwrap();
    for expected in [old, high, plain, low] {
        assert_eq!(claim(&queue, &w).await.unwrap().id, expected);
    }
}

#[tokio::test]
async fn a_delayed_job_is_taken_when_it_is_due_and_not_before() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let id = JobId::new();
    let before = now(&queue).await;
    queue.submit(id, &spec(), Start::After(Duration::from_secs(60))).await.unwrap();
    let now = now(&queue).await;
    let Claim::Empty(Some(due)) = queue.claim(&w, now, true).await.unwrap() else { panic!("it is not due") };
    assert!((before.plus(60_000)..=now.plus(60_000)).contains(&due), "due {due:?} at {now:?}");
    assert_eq!(queue.claim(&w, due.plus(-1), true).await.unwrap(), Claim::Empty(Some(due)));
    let Claim::Job(job) = queue.claim(&w, due, true).await.unwrap() else { panic!("it is due") };
    assert_eq!(job.id, id);
}

#[tokio::test]
async fn an_idle_worker_learns_when_the_retry_is_due() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    let FailOutcome::Retry(at) = queue.fail(&job, &retryable()).await.unwrap() else { panic!("no retry") };
    assert_eq!(queue.fail(&job, &retryable()).await.unwrap(), FailOutcome::Already);
    // By a `now` before it, whatever wait was drawn.
    assert_eq!(queue.claim(&w, at.plus(-1), true).await.unwrap(), Claim::Empty(Some(at)));
    let Claim::Job(again) = queue.claim(&w, at, true).await.unwrap() else { panic!("the retry is due") };
    assert_eq!((again.id, again.attempt, again.epoch), (job.id, 2, Epoch(2)));
    assert_eq!(
        queue.complete(&job, &result_of(1)).await.unwrap(),
        CompleteOutcome::Lost(Some(State::Running))
    );
}

#[tokio::test]
async fn a_job_that_kills_its_workers_is_dead_after_exactly_its_attempts() {
    let config = shared();
    let queue = Queue::connect_with(&config, INSTANT).await.unwrap();
    let id = submit(&queue, &JobSpec { max_attempts: 4, ..hooked() }).await;
    for attempt in 1..=4 {
        // Each time another worker takes it and dies.
        let w = worker(&queue, &format!("w{attempt}")).await;
        assert_eq!(claim(&queue, &w).await.unwrap().attempt, attempt);
        queue.sweep(10).await.unwrap();
    }
    let job = queue.get(id).await.unwrap().unwrap();
    assert_eq!((job.status, job.attempt), (State::Failed, 4));
    let error = job.error.unwrap();
    assert!(error.message.contains("died 4 times"), "{error}");
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.pending, stats.running, stats.dead, stats.webhooks_owed), (0, 0, 1, 1));
    // Somebody asks for it again: a fresh set of attempts, and the numbers go on, one for the redrive.
    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    let job = claim(&queue, &worker(&queue, "w5").await).await.unwrap();
    assert_eq!((job.attempt, job.epoch), (1, Epoch(6)));
}

#[tokio::test]
async fn each_end_of_a_job_is_told_under_a_name_of_its_own() {
    let queue = Queue::connect(&shared()).await.unwrap();
    let id = submit(&queue, &hooked()).await;
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    let owed = queue.deliveries().await.unwrap();
    assert_eq!(owed.len(), 2);
    assert_ne!(owed[0].to_string(), owed[1].to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_cancel_and_a_complete_exactly_one_wins() {
    let (queue, _) = queue().await;
    let other = queue.reconnect().await.unwrap();
    let w = worker(&queue, "w").await;
    let mut cancelled = 0;
    for _ in 0..200 {
        let id = submit(&queue, &spec()).await;
        let job = claim(&queue, &w).await.unwrap();
        let (completes, cancels) = (queue.clone(), other.clone());
        let complete = tokio::spawn(async move { completes.complete(&job, &result_of(1)).await.unwrap() });
        let cancel = tokio::spawn(async move { cancels.cancel(id).await.unwrap() });
        let (complete, cancel) = (complete.await.unwrap(), cancel.await.unwrap());
        let state = queue.get(id).await.unwrap().unwrap().status;
        match (complete, cancel) {
            (CompleteOutcome::Done, CancelOutcome::Ended(State::Completed)) => {
                assert_eq!(state, State::Completed);
            }
            (CompleteOutcome::Lost(Some(State::Cancelled)), CancelOutcome::Cancelled) => {
                assert_eq!(state, State::Cancelled);
                cancelled += 1;
            }
            both => panic!("{both:?}"),
        }
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.completed, stats.cancelled, stats.running), (200 - cancelled, cancelled, 0));
}

#[tokio::test]
async fn a_worker_that_the_pool_forgot_is_told_so() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let later = now(&queue).await.plus(180_001);
    assert_eq!(queue.forget_dead_workers(later).await.unwrap(), std::slice::from_ref(&w));
    assert_eq!(queue.claim(&w, later, true).await.unwrap(), Claim::Unregistered);
    assert_eq!(queue.stats().await.unwrap().pending, 1);
}
