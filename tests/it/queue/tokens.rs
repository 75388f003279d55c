//! Tokens in Redis: they are found by the hash of their secret, and their limits hold also for calls at the same time.

use std::time::Duration;

use futures::future::join_all;
use tcoder::job::{Failure, FailureCode, JobId, ReachedLimit, Scope, Token, TokenLimits};
use tcoder::queue::{
    Authentication, CompleteOutcome, Filter, Owner, Queue, RedriveOutcome, SubmitMode, SubmitOutcome,
    TokenHash, UploadedOutcome,
};

use super::*;
use crate::support::redis::raw;

fn token(name: &str, limits: TokenLimits) -> Token {
    Token {
        name: name.parse().unwrap(),
        scopes: [Scope::Submit].into(),
        key_prefix: None,
        limits,
        created_at: Millis(1),
    }
}

fn owner(token: &Token) -> Owner<'_> {
    Owner { name: &token.name, limits: token.limits }
}

async fn submit_for(queue: &Queue, token: &Token, id: JobId) -> SubmitOutcome {
    queue.submit_for(Some(owner(token)), None, id, &spec(), SubmitMode::Now).await.unwrap()
}

fn reached(outcome: &SubmitOutcome) -> Option<ReachedLimit> {
    match outcome {
        SubmitOutcome::LimitReached { limit, retry_after } => {
            assert!(*retry_after > Duration::ZERO && *retry_after <= Duration::from_secs(86_400));
            Some(*limit)
        }
        _ => None,
    }
}

#[tokio::test]
async fn token_is_found_by_its_secret_and_by_no_other_that_it_had() {
    let (queue, config) = queue().await;
    let (token, first, second) =
        (token("films", TokenLimits::default()), TokenHash::of("one"), TokenHash::of("two"));
    assert_eq!(queue.authenticate(&first).await.unwrap(), Authentication::Unknown);
    assert!(queue.create_token(&token, &first).await.unwrap());
    assert!(!queue.create_token(&token, &second).await.unwrap());
    let found = Authentication::Token(Box::new(token.clone()));
    assert_eq!(queue.authenticate(&first).await.unwrap(), found);
    assert_eq!(queue.authenticate(&second).await.unwrap(), Authentication::Unknown);
    assert_eq!(queue.rotate_token(&token.name, &second).await.unwrap(), Some(token.clone()));
    assert_eq!(queue.authenticate(&first).await.unwrap(), Authentication::Unknown);
    assert_eq!(queue.authenticate(&second).await.unwrap(), found);
    assert_eq!(queue.tokens().await.unwrap(), std::slice::from_ref(&token));
    // The secret is nowhere in Redis.
    let mut redis = raw(&config);
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{}tokens*", config.prefix)).query(&mut redis).unwrap();
    for key in &keys {
        let dump: Vec<String> = redis::cmd("HGETALL").arg(key).query(&mut redis).unwrap();
        assert!(!dump.iter().any(|text| text == "two") && !key.ends_with("two"), "{key} {dump:?}");
    }
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert!(queue.delete_token(&token.name).await.unwrap());
    assert!(!queue.delete_token(&token.name).await.unwrap());
    assert_eq!(queue.authenticate(&second).await.unwrap(), Authentication::Unknown);
    assert!(!queue.change_token(&token).await.unwrap());
    assert_eq!(queue.rotate_token(&token.name, &first).await.unwrap(), None);
    assert_eq!(queue.tokens().await.unwrap(), []);
}

#[tokio::test]
async fn requests_at_the_same_time_do_not_pass_the_limit() {
    let (queue, _) = queue().await;
    let limits = TokenLimits { requests_per_minute: Some(10), ..TokenLimits::default() };
    let (token, secret) = (token("films", limits), TokenHash::of("secret"));
    assert!(queue.create_token(&token, &secret).await.unwrap());
    let outcomes = join_all((0..40).map(|_| queue.authenticate(&secret))).await;
    let (mut passed, mut refused) = (0, 0);
    for outcome in outcomes {
        match outcome.unwrap() {
            Authentication::Token(_) => passed += 1,
            Authentication::TooManyRequests(pause) => {
                refused += 1;
                assert!(pause <= Duration::from_secs(6), "{pause:?}");
            }
            Authentication::Unknown => panic!("the token is unknown"),
        }
    }
    // One more for every six seconds that the calls take.
    assert!((10..=12).contains(&passed) && passed + refused == 40, "{passed}");
}

#[tokio::test]
async fn job_that_a_late_upload_revives_is_open_again() {
    let (queue, _) = queue().await;
    let token = token("films", TokenLimits { open_jobs: Some(1), ..TokenLimits::default() });
    let late = JobId::new();
    let mode = SubmitMode::OnUpload(Duration::from_secs(60));
    queue.submit_for(Some(owner(&token)), None, late, &spec(), mode).await.unwrap();
    queue.expire_upload(late, &Failure::new(FailureCode::UploadExpired, "it never came")).await.unwrap();
    let other = JobId::new();
    assert_eq!(submit_for(&queue, &token, other).await, SubmitOutcome::Created);
    queue.cancel(other).await.unwrap();
    assert_eq!(queue.uploaded(&arrived(late)).await.unwrap(), UploadedOutcome::Queued);
    let refused = submit_for(&queue, &token, JobId::new()).await;
    assert_eq!(reached(&refused), Some(ReachedLimit::OpenJobs));
    queue.cancel(late).await.unwrap();
    assert_eq!(submit_for(&queue, &token, JobId::new()).await, SubmitOutcome::Created);
}

#[tokio::test]
async fn jobs_at_the_same_time_do_not_pass_the_limit_of_an_hour() {
    let (queue, _) = queue().await;
    let token = token("films", TokenLimits { jobs_per_hour: Some(5), ..TokenLimits::default() });
    let ids: Vec<JobId> = (0..20).map(|_| JobId::new()).collect();
    let outcomes = join_all(ids.iter().map(|id| submit_for(&queue, &token, *id))).await;
    let created: Vec<_> = outcomes.iter().filter(|outcome| **outcome == SubmitOutcome::Created).collect();
    let refused: Vec<_> = outcomes.iter().filter_map(reached).collect();
    // As many again where the hour ends meanwhile.
    assert!(matches!(created.len(), 5..=10) && created.len() + refused.len() == 20, "{outcomes:?}");
    assert!(refused.iter().all(|limit| *limit == ReachedLimit::JobsPerHour));
    // A repeated call is answered whatever the limit, and one of another token is another job.
    let made = ids.iter().zip(&outcomes).find(|(_, outcome)| **outcome == SubmitOutcome::Created).unwrap().0;
    assert_eq!(submit_for(&queue, &token, *made).await, SubmitOutcome::Same);
    let news = self::token("news", TokenLimits::default());
    assert!(matches!(submit_for(&queue, &news, *made).await, SubmitOutcome::Different(_)));
    assert!(matches!(
        queue.submit(*made, &spec(), SubmitMode::Now).await.unwrap(),
        SubmitOutcome::Different(_)
    ));
}

#[tokio::test]
async fn ended_jobs_make_room_for_others_of_their_token() {
    let (queue, config) = queue().await;
    let token = token("films", TokenLimits { open_jobs: Some(3), ..TokenLimits::default() });
    let ids: Vec<JobId> = (0..3).map(|_| JobId::new()).collect();
    for id in &ids {
        assert_eq!(submit_for(&queue, &token, *id).await, SubmitOutcome::Created);
    }
    assert_eq!(reached(&submit_for(&queue, &token, JobId::new()).await), Some(ReachedLimit::OpenJobs));
    // One is cancelled, one completed, and the record of one is gone.
    queue.cancel(ids[0]).await.unwrap();
    let worker = worker(&queue, "w").await;
    let job = claim(&queue, &worker).await.unwrap();
    let epoch = job.attempt.epoch;
    assert_eq!(queue.complete(&job, &result_of(1), epoch).await.unwrap(), CompleteOutcome::Done);
    let left = if job.attempt.job == ids[1] { ids[2] } else { ids[1] };
    let mut redis = raw(&config);
    let key = format!("{}jobs:status:{left}", config.prefix);
    assert_eq!(redis::cmd("DEL").arg(key).query::<i32>(&mut redis).unwrap(), 1);
    for _ in 0..3 {
        assert_eq!(submit_for(&queue, &token, JobId::new()).await, SubmitOutcome::Created);
    }
    assert_eq!(reached(&submit_for(&queue, &token, JobId::new()).await), Some(ReachedLimit::OpenJobs));
    // A retry needs room as well; one that somebody else asks for does not.
    let retried = queue.redrive_for(Some(owner(&token)), ids[0]).await.unwrap();
    assert!(
        matches!(retried, RedriveOutcome::LimitReached { limit: ReachedLimit::OpenJobs, .. }),
        "{retried:?}"
    );
    assert_eq!(queue.redrive(ids[0]).await.unwrap(), RedriveOutcome::Queued);
}

#[tokio::test]
async fn source_minutes_are_counted_once_for_each_completed_job() {
    let (queue, _) = queue().await;
    let limits = TokenLimits { source_minutes_per_day: Some(2), ..TokenLimits::default() };
    let (token, worker) = (token("films", limits), worker(&queue, "w").await);
    let encode = async |seconds: f64, repeats: u32| {
        let id = JobId::new();
        assert_eq!(submit_for(&queue, &token, id).await, SubmitOutcome::Created);
        let job = claim(&queue, &worker).await.unwrap();
        assert_eq!(job.attempt.job, id);
        let mut result = result_of(1);
        result.source.duration = seconds;
        assert_eq!(queue.complete(&job, &result, job.attempt.epoch).await.unwrap(), CompleteOutcome::Done);
        for _ in 0..repeats {
            let again = queue.complete(&job, &result, job.attempt.epoch).await.unwrap();
            assert_eq!(again, CompleteOutcome::Already);
        }
    };
    encode(59.0, 3).await;
    encode(60.5, 0).await;
    // A job of others counts for nobody.
    submit(&queue, &spec()).await;
    let job = claim(&queue, &worker).await.unwrap();
    queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    // The limit is not reached yet, so that this one is done as a whole.
    encode(600.0, 0).await;
    let refused = submit_for(&queue, &token, JobId::new()).await;
    assert_eq!(reached(&refused), Some(ReachedLimit::SourceMinutesPerDay));
}

#[tokio::test]
async fn limit_of_open_jobs_holds_in_a_redis_without_memory_and_counts_from_its_beginning() {
    let (queue, config) = queue().await;
    let unlimited = token("films", TokenLimits::default());
    for _ in 0..3 {
        assert_eq!(submit_for(&queue, &unlimited, JobId::new()).await, SubmitOutcome::Created);
    }
    // What was submitted without the limit takes no place, and no memory.
    let mut redis = raw(&config);
    let open = format!("{}tokens:open:films", config.prefix);
    assert!(!redis::cmd("EXISTS").arg(&open).query::<bool>(&mut redis).unwrap());
    let limited = token("films", TokenLimits { open_jobs: Some(2), ..TokenLimits::default() });
    let ids = [JobId::new(), JobId::new()];
    for id in ids {
        assert_eq!(submit_for(&queue, &limited, id).await, SubmitOutcome::Created);
    }
    queue.cancel(ids[0]).await.unwrap();
    // A look at the limit writes nothing: a submit that fails leaves the set as it was.
    let broken = format!("{}jobs:index", config.prefix);
    redis::cmd("RENAME").arg(&broken).arg(format!("{broken}:away")).exec(&mut redis).unwrap();
    redis::cmd("SET").arg(&broken).arg("no zset").exec(&mut redis).unwrap();
    let failed = queue.submit_for(Some(owner(&limited)), None, JobId::new(), &spec(), SubmitMode::Now).await;
    assert!(failed.is_err());
    let members =
        |redis: &mut redis::Connection| redis::cmd("SCARD").arg(&open).query::<usize>(redis).unwrap();
    assert_eq!(members(&mut redis), 2);
    redis::cmd("RENAME").arg(format!("{broken}:away")).arg(&broken).exec(&mut redis).unwrap();
    assert_eq!(submit_for(&queue, &limited, JobId::new()).await, SubmitOutcome::Created);
    assert_eq!(members(&mut redis), 2);
    assert_eq!(reached(&submit_for(&queue, &limited, JobId::new()).await), Some(ReachedLimit::OpenJobs));
}

#[tokio::test]
async fn clock_that_is_set_back_locks_no_token_out() {
    let (queue, config) = queue().await;
    let limits = TokenLimits { requests_per_minute: Some(2), ..TokenLimits::default() };
    let (token, secret) = (token("films", limits), TokenHash::of("secret"));
    assert!(queue.create_token(&token, &secret).await.unwrap());
    let mut redis = raw(&config);
    // As a clock that was an hour ahead left it.
    let ahead = now(&queue).await.0 + 3_600_000;
    let key = format!("{}tokens:rate:films", config.prefix);
    redis::cmd("SET").arg(&key).arg(ahead).exec(&mut redis).unwrap();
    assert!(matches!(queue.authenticate(&secret).await.unwrap(), Authentication::Token(_)));
    let Authentication::TooManyRequests(pause) = queue.authenticate(&secret).await.unwrap() else {
        panic!("the limit is forgotten");
    };
    assert!(pause <= Duration::from_secs(30), "{pause:?}");
}

#[tokio::test]
async fn list_of_a_token_has_its_jobs_alone_and_forgets_those_that_expired() {
    let (queue, config) = queue().await;
    let (films, news) = (token("films", TokenLimits::default()), token("news", TokenLimits::default()));
    let mut mine = Vec::new();
    for _ in 0..5 {
        mine.push(JobId::new());
        submit_for(&queue, &films, *mine.last().unwrap()).await;
        submit_for(&queue, &news, JobId::new()).await;
        submit(&queue, &spec()).await;
    }
    mine.reverse();
    let filter = Filter { owner: Some(films.name.clone()), ..Filter::default() };
    let page = queue.list(&filter, 100, None).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.job_id).collect::<Vec<_>>(), mine);
    assert!(page.jobs.iter().all(|job| job.owner.as_ref() == Some(&films.name)));
    let mut redis = raw(&config);
    let status = |id: JobId| format!("{}jobs:status:{id}", config.prefix);
    redis::cmd("DEL").arg(status(mine[0])).arg(status(mine[4])).exec(&mut redis).unwrap();
    // The oldest is forgotten by the next submit, the others by the next listing.
    submit_for(&queue, &films, JobId::new()).await;
    let index = format!("{}tokens:index:films", config.prefix);
    let entries =
        |redis: &mut redis::Connection| redis::cmd("ZCARD").arg(&index).query::<usize>(redis).unwrap();
    assert_eq!(entries(&mut redis), 5);
    assert_eq!(queue.list(&filter, 100, None).await.unwrap().jobs.len(), 4);
    assert_eq!(entries(&mut redis), 4);
}
