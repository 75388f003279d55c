//! What the record of a split job says about failed attempts at its parts.

use tcoder::job::{Failure, FailureAction, FailureCode, FailurePolicy, FailureRule, JobEvent, PartFailure};
use tcoder::queue::EventFeed;

use super::*;

async fn part_failure(queue: &Queue, id: JobId) -> Option<PartFailure> {
    queue.get(id).await.unwrap().unwrap().part_failure
}

fn storage() -> Failure {
    Failure::new(FailureCode::Storage, "the bucket refuses: no such right")
}

async fn fail(queue: &Queue, job: &Claimed, failure: &Failure) -> Millis {
    match queue.fail(job, failure).await.unwrap() {
        FailOutcome::Retry(at) => at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn failed_attempt_at_a_part_is_told_by_the_job_until_its_parts_are_encoded() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &JobSpec { max_attempts: 3, ..spec() }, 2).await;
    let held = claim_parts(&queue, 3).await;
    assert_eq!(part_failure(&queue, by.job).await, None);
    assert_eq!(complete_part(&queue, &held[0], 3).await, PartOutcome::Done);
    let mut feed = EventFeed::open(&queue).await.unwrap();
    let at = fail(&queue, &held[1], &storage()).await;
    let told = PartFailure { part: "chunk-0".into(), failures: 1, retry_at: Some(at), failure: storage() };
    let job = queue.get(by.job).await.unwrap().unwrap();
    assert_eq!((job.status, job.error, job.part_failure), (State::Running, None, Some(told)));
    // Those who watch read the job because of an event that has the progress and no epoch.
    let mut heard: Vec<JobEvent> = Vec::new();
    let hear = async {
        while !heard.iter().any(|event| event.job_id == by.job) {
            heard.extend(feed.next(Duration::from_secs(5)).await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hear).await.expect("no event of the job arrives");
    let event = heard.iter().find(|event| event.job_id == by.job).unwrap();
    assert_eq!((event.status, event.progress, event.epoch), (State::Running, Some(33.3), None));

    // The worker of the other one is lost.
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    let lost = part_failure(&queue, by.job).await.unwrap();
    assert_eq!((&*lost.part, lost.failures, lost.retry_at), ("chunk-1", 1, None));
    assert_eq!(lost.failure.code, FailureCode::WorkerLost);
    let mut again = claim_parts(&queue, 2).await;
    again.sort_by_key(|job| job.part);
    fail(&queue, &again[0], &storage()).await;
    let second = part_failure(&queue, by.job).await.unwrap();
    assert_eq!((&*second.part, second.failures), ("chunk-0", 2));

    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    // The worker of chunk-1 was lost once more.
    assert_eq!(part_failure(&queue, by.job).await.unwrap().part, "chunk-1");
    let mut again = claim_parts(&queue, 2).await;
    again.sort_by_key(|job| std::cmp::Reverse(job.part));
    for job in again {
        complete_part(&queue, &job, 3).await;
        // What failed is over once it is complete, while the other part is encoded still.
        assert_eq!(part_failure(&queue, by.job).await, None);
    }
    let job = queue.get(by.job).await.unwrap().unwrap();
    assert_eq!((job.status, job.part_failure), (State::Queued, None));
    let last = claim(&queue, &w).await.unwrap();
    assert_eq!(part_failure(&queue, by.job).await, None);
    // What failed before is not told of the parts of another split.
    assert_eq!(queue.split(last.attempt, PLAN, &parts(2)).await.unwrap(), SplitOutcome::Split);
    assert_eq!(part_failure(&queue, by.job).await, None);
    let held = claim_parts(&queue, 3).await;
    fail(&queue, &held[2], &storage()).await;
    assert_eq!(part_failure(&queue, by.job).await.unwrap().part, "chunk-1");
}

#[tokio::test]
async fn failures_of_a_part_that_are_not_counted_are_told_with_a_number_each() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let rule = FailureRule { action: FailureAction::Ignore, error_codes: vec![FailureCode::Storage] };
    let spec = JobSpec { failure_policy: FailurePolicy(vec![rule]), max_attempts: 1, ..spec() };
    let by = split_job(&queue, &w, &spec, 1).await;
    let held = claim_parts(&queue, 2).await;
    assert_eq!(complete_part(&queue, &held[0], 2).await, PartOutcome::Done);
    let mut job = held.into_iter().nth(1).unwrap();
    for failures in 1..=3 {
        fail(&queue, &job, &storage()).await;
        let told = part_failure(&queue, by.job).await.unwrap();
        assert_eq!((&*told.part, told.failures), ("chunk-0", failures));
        all_due(&mut raw(&config), &config);
        queue.sweep(10, 0).await.unwrap();
        job = claim(&queue, &w).await.unwrap();
    }
    // With the end of the job its own failure is told.
    let hopeless = hopeless();
    assert_eq!(queue.fail(&job, &hopeless).await.unwrap(), FailOutcome::Failed);
    let ended = queue.get(by.job).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.error, ended.part_failure), (State::Failed, Some(hopeless), None));
}
