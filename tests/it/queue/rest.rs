//! The queue over Upstash's REST interface: the same calls have the same outcome as over TCP.

use std::time::Duration;

use tcoder::job::{Failure, FailureCode, State};
use tcoder::queue::{
    CancelOutcome, Claim, CompleteOutcome, FailOutcome, Filter, Outbox, Queue, QueueError, RedriveOutcome,
    Rest, SubmitMode, SubmitOutcome, UploadedOutcome,
};

use super::*;
use crate::support::redis::private_redis;
use crate::support::upstash::TOKEN;
use crate::support::upstash_of;

async fn over_rest(config: &RedisConfig, token: &str) -> Queue {
    let url = upstash_of(config).await.0.parse().unwrap();
    Queue::over_rest(Rest::new(&url, &token.to_owned().into()).unwrap(), &config.prefix)
}

/// The Worker's operations on jobs, with a worker that uses the same Redis over TCP.
#[tokio::test]
async fn job_completes_with_one_side_over_rest() {
    let config = shared();
    let (rest, tcp) = (over_rest(&config, TOKEN).await, Queue::connect(&config).await.unwrap());
    let w = worker(&tcp, "w").await;
    let (id, asked) = (JobId::new(), hooked());
    let start = SubmitMode::OnUpload(Duration::from_secs(60));
    assert_eq!(rest.submit(id, &asked, start).await.unwrap(), SubmitOutcome::Created);
    assert_eq!(rest.submit(id, &asked, start).await.unwrap(), SubmitOutcome::Same);
    assert!(matches!(rest.submit(id, &spec(), start).await.unwrap(), SubmitOutcome::Different(_)));
    assert_eq!(rest.uploading(10).await.unwrap().len(), 1);
    assert_eq!(rest.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Queued);
    assert_eq!(rest.uploaded(&arrived(id)).await.unwrap(), UploadedOutcome::Already(State::Queued));
    let job = claim(&tcp, &w).await.unwrap();
    assert_eq!(job.attempt.job, id);
    assert_eq!(tcp.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap(), CompleteOutcome::Done);

    // Both return the same job, field by field.
    let job = rest.get(id).await.unwrap();
    assert_eq!((job.as_ref().unwrap().status, &job), (State::Completed, &tcp.get(id).await.unwrap()));
    assert_eq!(rest.stats().await.unwrap(), tcp.stats().await.unwrap());
    assert_eq!(rest.workers().await.unwrap(), tcp.workers().await.unwrap());
    let page = rest.list(&Filter::default(), 10, None).await.unwrap();
    assert_eq!(page, tcp.list(&Filter::default(), 10, None).await.unwrap());
    let now = rest.clock().await.unwrap().now().plus(1000);
    let (pending, _) =
        rest.claim_deliveries(Outbox::Installation, now, 10, Duration::from_secs(60)).await.unwrap();
    assert_eq!(pending.len(), 1);
    rest.remove_delivery(&pending[0].0).await.unwrap();
    assert_eq!(tcp.deliveries().await.unwrap(), []);
}

#[tokio::test]
async fn claims_and_ends_agree_over_rest_and_tcp() {
    let config = shared();
    let rest = over_rest(&config, TOKEN).await;
    let w = worker(&rest, "w").await;
    let id = submit(&rest, &spec()).await;
    let job = claim(&rest, &w).await.unwrap();
    assert!(rest.renew(job.attempt, job.at.plus(60_000)).await.unwrap());
    assert!(rest.progress(&job, 12.5).await.unwrap());
    let failure = Failure::new(FailureCode::InvalidMedia, "no video");
    assert_eq!(rest.fail(&job, &failure).await.unwrap(), FailOutcome::Failed);
    assert_eq!(rest.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    assert_eq!(rest.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(rest.cancel(id).await.unwrap(), CancelOutcome::Ended(State::Cancelled));
    let now = rest.clock().await.unwrap().now();
    assert!(matches!(rest.claim(&w, now, true).await.unwrap(), Claim::Empty { next_due: None, .. }));
    assert_eq!(rest.sweep(10, 0).await.unwrap().ready, 0);
}

#[tokio::test]
async fn errors_agree_over_rest_and_tcp() {
    let config = shared();
    let stranger = over_rest(&config, "another-token").await;
    assert!(matches!(stranger.ping().await.unwrap_err(), QueueError::Auth(_)));
    let said = stranger.ping().await.unwrap_err().to_string();
    assert!(!said.contains("another-token"), "{said}");

    // There is no listener at this address.
    let nowhere = format!("http://127.0.0.1:{}", crate::support::kube::free_port()).parse().unwrap();
    let nobody = Queue::over_rest(Rest::new(&nowhere, &TOKEN.to_owned().into()).unwrap(), "");
    assert!(nobody.ping().await.unwrap_err().is_connection());

    let server = private_redis(&["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]);
    let full = over_rest(&server.config(), TOKEN).await;
    let mut outcome = Ok(());
    for _ in 0..2000 {
        outcome = full.submit(JobId::new(), &hooked(), SubmitMode::Now).await.map(drop);
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(QueueError::OutOfMemory)), "{outcome:?}");
}
