//! Pending webhooks: written with the job's end, removed when delivered, never claimed twice at the same
//! time.

use std::time::Duration;

use tcoder::job::{AttemptId, Epoch, State};
use tcoder::queue::{Delivery, DeliveryState, Outbox};

use super::*;

const HOLD: Duration = Duration::from_secs(60);

#[tokio::test]
async fn end_of_a_job_adds_exactly_one_delivery() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let silent = claim(&queue, &w).await.unwrap();
    queue.complete(&silent, &result_of(1), silent.attempt.epoch).await.unwrap();
    assert_eq!(queue.deliveries().await.unwrap(), []);

    let id = submit(&queue, &hooked()).await;
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(queue.deliveries().await.unwrap(), []);
    for _ in 0..3 {
        queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    }
    let pending = Delivery {
        attempt: AttemptId { job: id, epoch: job.attempt.epoch },
        state: State::Completed,
        outbox: Outbox::Installation,
    };
    assert_eq!(queue.deliveries().await.unwrap(), [pending]);
}

#[tokio::test]
async fn delivery_is_held_then_due_again_then_removed() {
    let (queue, _) = queue().await;
    let id = submit(&queue, &hooked()).await;
    queue.cancel(id).await.unwrap();
    let pending = Delivery {
        attempt: AttemptId { job: id, epoch: Epoch(0) },
        state: State::Cancelled,
        outbox: Outbox::Installation,
    };
    let now = now(&queue).await.plus(1000);

    let (taken, next) = queue.claim_deliveries(Outbox::Installation, now, 10, HOLD).await.unwrap();
    assert_eq!((taken, next), (vec![(pending, DeliveryState::default())], None));
    let (taken, next) = queue.claim_deliveries(Outbox::Installation, now.plus(1), 10, HOLD).await.unwrap();
    assert_eq!((taken, next), (vec![], Some(now.plus(60_000))));

    // The claimer died: after the hold the delivery is due again.
    let (taken, _) = queue.claim_deliveries(Outbox::Installation, now.plus(60_000), 10, HOLD).await.unwrap();
    assert_eq!(taken.len(), 1);

    let tried =
        DeliveryState { failures: 1, first_try: Some(now), last_error: Some("the answer was 500".into()) };
    queue.retry_delivery(&pending, &tried, now.plus(300_000)).await.unwrap();
    let (taken, next) =
        queue.claim_deliveries(Outbox::Installation, now.plus(299_999), 10, HOLD).await.unwrap();
    assert_eq!((taken, next), (vec![], Some(now.plus(300_000))));
    let (taken, _) = queue.claim_deliveries(Outbox::Installation, now.plus(300_000), 10, HOLD).await.unwrap();
    assert_eq!(taken, [(pending, tried)]);

    queue.remove_delivery(&pending).await.unwrap();
    assert_eq!(queue.deliveries().await.unwrap(), []);
    let late = now.plus(9_999_999);
    assert_eq!(queue.claim_deliveries(Outbox::Installation, late, 10, HOLD).await.unwrap(), (vec![], None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_is_claimed_by_one_process_only() {
    let (queue, _) = queue().await;
    for _ in 0..200 {
        let id = submit(&queue, &hooked()).await;
        queue.cancel(id).await.unwrap();
    }
    // The claimers' clocks differ slightly, like those of two processes.
    let now = now(&queue).await.plus(1000);
    let takers: Vec<_> = (0..8)
        .map(|n| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for round in 0..40 {
                    let now = now.plus(n * 3 + round * 7);
                    let (taken, _) =
                        queue.claim_deliveries(Outbox::Installation, now, 10, HOLD).await.unwrap();
                    mine.extend(taken.into_iter().map(|(delivery, _)| delivery));
                }
                mine
            })
        })
        .collect();
    let mut taken = Vec::new();
    for taker in takers {
        taken.extend(taker.await.unwrap());
    }
    let all = taken.len();
    taken.sort_by_key(|d| d.attempt);
    taken.dedup();
    assert_eq!((taken.len(), all), (200, 200));
}

#[tokio::test]
async fn retry_of_a_delivery_that_was_removed_meanwhile_leaves_nothing() {
    let (queue, config) = queue().await;
    let id = submit(&queue, &hooked()).await;
    queue.cancel(id).await.unwrap();
    let [delivery] = queue.deliveries().await.unwrap()[..] else { panic!("there is not one delivery") };
    let failed = DeliveryState { failures: 1, ..DeliveryState::default() };
    let tries = || -> u32 {
        let key = format!("{}webhooks:tries", config.prefix);
        redis::cmd("HLEN").arg(key).query(&mut crate::support::redis::raw(&config)).unwrap()
    };
    queue.retry_delivery(&delivery, &failed, Millis(1)).await.unwrap();
    assert_eq!(tries(), 1);
    // Another process has delivered it.
    queue.remove_delivery(&delivery).await.unwrap();
    queue.retry_delivery(&delivery, &failed, Millis(2)).await.unwrap();
    assert_eq!((tries(), queue.deliveries().await.unwrap()), (0, vec![]));
}
