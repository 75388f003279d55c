//! Differences between Upstash and Redis: short outages, a used-up plan, and a read region that lags behind.

use std::time::Duration;

use axum::http::StatusCode;
use tcoder::controller::reconciler::admin;
use tcoder::job::{Failure, FailureCode, State};
use tcoder::metrics::Metrics;
use tcoder::queue::{
    CancelOutcome, Command, FailOutcome, Filter, Outbox, Queue, QueueError, Rest, SubmitMode, SubmitOutcome,
    SyncToken,
};
use tokio::sync::watch;

use super::*;
use crate::support::redis::private_redis;
use crate::support::system::serve;
use crate::support::upstash::TOKEN;
use crate::support::{upstash_of, upstash_with_lagging_reads};

const PAGE: &str = "<html><body>502 Bad Gateway</body></html>";
const JSON: &str = r#"{"error":"ERR upstream is away"}"#;
const QUOTA: &str = r#"{"error":"ERR max requests limit exceeded. Limit: 500000, Usage: 500001. See https://upstash.com/docs/redis/troubleshooting/max_requests_limit for details"}"#;

fn client(url: &str, prefix: &str) -> Queue {
    client_with(url, prefix, SyncToken::default())
}

fn client_with(url: &str, prefix: &str, sync: SyncToken) -> Queue {
    let rest = Rest::with_sync(&url.parse().unwrap(), &TOKEN.to_owned().into(), sync).unwrap();
    Queue::over_rest(rest, prefix)
}

#[tokio::test]
async fn submit_is_retried_after_5xx_or_429() {
    let config = shared();
    let (url, front) = upstash_of(&config).await;
    let rest = client(&url, &config.prefix);
    for answers in [[(502, PAGE), (503, JSON), (429, "")], [(500, JSON), (429, JSON), (504, "[]")]] {
        front.answer(&answers);
        let outcome = rest.submit(JobId::new(), &spec(), SubmitMode::Now).await;
        assert_eq!(outcome.unwrap(), SubmitOutcome::Created, "{answers:?}");
        assert!(front.all_answered());
    }
    assert_eq!(rest.stats().await.unwrap().pending, 2);
}

#[tokio::test]
async fn read_is_retried_after_5xx_and_a_claim_is_not() {
    let config = shared();
    let (url, front) = upstash_of(&config).await;
    let rest = client(&url, &config.prefix);
    let id = submit(&rest, &spec()).await;
    front.answer(&[(500, JSON), (503, PAGE)]);
    assert_eq!(rest.get(id).await.unwrap().unwrap().job_id, id);
    front.answer(&[(502, JSON)]);
    assert_eq!(rest.stats().await.unwrap().pending, 1);
    assert!(front.all_answered());
    // It is unavailable for longer than the client retries.
    front.answer(&[(500, JSON); 3]);
    let error = rest.get(id).await.unwrap_err();
    assert!(
        matches!(&error, QueueError::Unavailable(words) if words.contains("ERR upstream is away")),
        "{error:?}"
    );
    let before = front.so_far().0;
    front.answer(&[(500, JSON)]);
    assert!(rest.redrive(id).await.unwrap_err().is_transient());
    assert_eq!(front.so_far().0, before + 1);
}

#[tokio::test]
async fn used_up_quota_is_reported_and_not_retried() {
    let config = shared();
    let (url, front) = upstash_of(&config).await;
    let rest = client(&url, &config.prefix);
    for status in [400, 429] {
        front.answer(&[(status, QUOTA); 2]);
        for error in [
            rest.ping().await.unwrap_err(),
            rest.submit(JobId::new(), &spec(), SubmitMode::Now).await.unwrap_err(),
        ] {
            assert!(matches!(error, QueueError::Quota(_)), "{error:?}");
            let words = error.to_string();
            assert!(
                words.contains("Limit: 500000, Usage: 500001") && words.contains("raise the limit"),
                "{words}"
            );
        }
        assert!(front.all_answered());
    }
    // An error of one command in a pipeline.
    front.answer(&[(200, &*format!("[{QUOTA}]").leak())]);
    let error = rest.mark_uploaded_all(&[arrived(JobId::new())]).await.unwrap_err();
    assert!(matches!(error, QueueError::Quota(_)), "{error:?}");

    // The controller reports it in its health check.
    let ready = watch::channel(Ok(())).1;
    let controller = serve(admin::router(rest, Metrics::new(), ready)).await;
    front.answer(&[(400, QUOTA)]);
    let answer = reqwest::get(format!("{controller}/readyz")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let words = answer.text().await.unwrap();
    assert!(words.contains("quota") && words.contains("raise the limit"), "{words}");
}

#[tokio::test]
async fn retried_commands_only_read() {
    let commands: Vec<Vec<redis::Value>> =
        redis::cmd("COMMAND").query(&mut crate::support::redis::raw(&shared())).unwrap();
    let mut reads = 0;
    for command in commands {
        let name: String = redis::from_redis_value(command[0].clone()).unwrap();
        let flags: Vec<String> = redis::from_redis_value(command[2].clone()).unwrap();
        if Command::new(&name.to_ascii_uppercase()).is_read() {
            reads += 1;
            assert!(!flags.iter().any(|flag| flag == "write"), "{name}: {flags:?}");
        }
    }
    assert_eq!(reads, 22);
    assert!(!Command::new("EVALSHA").is_read() && !Command::new("SET").is_read());
}

#[tokio::test]
async fn sync_token_gives_read_your_writes_in_a_lagging_region() {
    let redis = private_redis(&[]);
    let (url, _, _replica) = upstash_with_lagging_reads(&redis).await;
    let prefix = redis.config().prefix;
    let (writer, stranger) = (client(&url, &prefix), client(&url, &prefix));
    let id = JobId::new();
    let window = SubmitMode::OnUpload(Duration::from_secs(60));
    assert_eq!(writer.submit(id, &hooked(), window).await.unwrap(), SubmitOutcome::Created);
    assert_eq!(writer.get(id).await.unwrap().map(|job| job.status), Some(State::Uploading));
    assert_eq!(writer.list(&Filter::default(), 10, None).await.unwrap().jobs.len(), 1);
    assert_eq!(writer.cancel(id).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(writer.get(id).await.unwrap().map(|job| job.status), Some(State::Cancelled));

    // The region has received what the writer's token required, but not the later writes.
    let next = submit(&writer, &spec()).await;
    assert_eq!(stranger.list(&Filter::default(), 10, None).await.unwrap().jobs.len(), 1, "the region lags");
    assert_eq!(writer.list(&Filter::default(), 10, None).await.unwrap().jobs.len(), 2);
    // A job that another client has just submitted is found nevertheless, because the primary is asked.
    let last = submit(&writer, &spec()).await;
    assert_eq!(stranger.get(last).await.unwrap().map(|job| job.job_id), Some(last));
    assert_eq!(stranger.get(JobId::new()).await.unwrap(), None);
    assert_ne!(next, last);
}

#[tokio::test]
async fn shared_sync_token_gives_read_each_others_writes() {
    let redis = private_redis(&[]);
    let (url, _, _replica) = upstash_with_lagging_reads(&redis).await;
    let (prefix, sync) = (redis.config().prefix, SyncToken::default());
    let (one, other) = (client_with(&url, &prefix, sync.clone()), client_with(&url, &prefix, sync));
    for jobs in 1..4 {
        submit(&one, &spec()).await;
        assert_eq!(other.stats().await.unwrap().pending, jobs);
    }
}

/// A webhook would be dropped if the job seemed to be still running.
#[tokio::test]
async fn late_response_does_not_revert_the_sync_token() {
    let redis = private_redis(&[]);
    let (url, front, _replica) = upstash_with_lagging_reads(&redis).await;
    let rest = client(&url, &redis.config().prefix);
    let mut late = front.hold("ZRANGE");
    let reading = tokio::spawn({
        let rest = rest.clone();
        async move { rest.list(&Filter::default(), 10, None).await }
    });
    late.ready().await;
    let id = submit(&rest, &spec()).await;
    late.release();
    assert_eq!(reading.await.unwrap().unwrap().jobs, []);
    let page = rest.list(&Filter::default(), 10, None).await.unwrap();
    assert_eq!(page.jobs.first().map(|job| job.job_id), Some(id));
}

#[tokio::test]
async fn values_of_every_kind_agree_over_rest_and_tcp() {
    let config = shared();
    let (url, _) = upstash_of(&config).await;
    let (rest, tcp) = (client(&url, &config.prefix), Queue::connect(&config).await.unwrap());
    let w = worker(&rest, "w").await;
    let id = submit(&rest, &hooked()).await;
    let job = claim(&rest, &w).await.unwrap();
    let failure = Failure::new(FailureCode::InvalidMedia, "\u{0}null, \"quote\", \\, \r\n, ☃ and 🎬, T0s=");
    assert_eq!(rest.fail(&job, &failure).await.unwrap(), FailOutcome::Failed);
    let (over_rest, over_tcp) = (rest.get(id).await.unwrap().unwrap(), tcp.get(id).await.unwrap().unwrap());
    assert_eq!(
        (over_rest.error.as_ref().map(|e| &e.message), &over_rest),
        (Some(&failure.message), &over_tcp)
    );

    // Bytes that are not UTF-8, written by another client.
    let mut raw = crate::support::redis::raw(&config);
    let name = format!("{}:failed", job.attempt);
    let tries = [b"{\"failures\":1,\"lastError\":\"\xffa\xe2\x82b".as_slice(), b"\xf0\x9f\"}"].concat();
    redis::cmd("HSET")
        .arg(format!("{}webhooks:tries", config.prefix))
        .arg(name)
        .arg(tries)
        .exec(&mut raw)
        .unwrap();
    let take = async |queue: &Queue| {
        let now = queue.clock().await.unwrap().now().plus(1000);
        let (taken, _) = queue.claim_deliveries(Outbox::Installation, now, 10, Duration::ZERO).await.unwrap();
        taken.first().and_then(|(_, state)| state.last_error.clone())
    };
    let expected = Some("\u{fffd}a\u{fffd}b\u{fffd}".to_owned());
    assert_eq!((take(&rest).await, take(&tcp).await), (expected.clone(), expected));
}
