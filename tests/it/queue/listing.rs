//! Listings contain every job once, newest first, even if jobs are added in the meantime.

use std::collections::BTreeSet;
use std::time::Duration;

use tcoder::job::{JobId, State};
use tcoder::queue::{Filter, Queue, QueueError, SubmitMode, SubmitOutcome};

use super::*;
use crate::support::redis::raw;

async fn pages(queue: &Queue, filter: &Filter, limit: usize) -> Vec<Vec<JobId>> {
    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let page = queue.list(filter, limit, cursor.as_deref()).await.unwrap();
        pages.push(page.jobs.iter().map(|j| j.job_id).collect());
        cursor = page.next_cursor;
        if cursor.is_none() {
            return pages;
        }
        assert!(pages.len() < 1000, "the listing does not end");
    }
}

/// Jobs in the order of a listing: newest first.
async fn jobs(queue: &Queue, count: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(submit(queue, &spec()).await);
    }
    ids.reverse();
    ids
}

#[tokio::test]
async fn list_shows_every_job_once_with_any_page_size() {
    let (queue, _) = queue().await;
    let ids = jobs(&queue, 320).await;
    for limit in [1, 7, 50, 99, 100, 101, 200, 319, 320, 321, 1000] {
        let pages = pages(&queue, &Filter::default(), limit).await;
        assert_eq!(pages.concat(), ids, "pages of {limit}");
        assert_eq!(pages.len(), ids.len().div_ceil(limit), "pages of {limit}");
    }
}

#[tokio::test]
async fn list_shows_all_jobs_of_the_same_millisecond() {
    let (queue, config) = queue().await;
    let ids = jobs(&queue, 320).await;
    let mut redis = raw(&config);
    let mut pipe = redis::pipe();
    for id in &ids {
        pipe.cmd("ZADD").arg(format!("{}jobs:index", config.prefix)).arg(5).arg(id.to_string()).ignore();
    }
    pipe.exec(&mut redis).unwrap();
    for limit in [1, 99, 100, 150, 1000] {
        assert_eq!(pages(&queue, &Filter::default(), limit).await.concat(), ids, "pages of {limit}");
    }
}

#[tokio::test]
async fn list_filter_finds_old_jobs() {
    let (queue, _) = queue().await;
    let ids = jobs(&queue, 450).await;
    let wanted = [ids[0], ids[99], ids[100], ids[199], ids[200], ids[449]];
    for id in wanted {
        queue.cancel(id).await.unwrap();
    }
    let filter = Filter { state: Some(State::Cancelled), ..Filter::default() };
    for limit in [1, 2, 100] {
        assert_eq!(pages(&queue, &filter, limit).await.concat(), wanted, "pages of {limit}");
    }
    let none = Filter { state: Some(State::Failed), ..Filter::default() };
    assert_eq!(pages(&queue, &none, 10).await, [Vec::<JobId>::new()]);
}

#[tokio::test]
async fn list_cursor_is_stable_while_jobs_arrive() {
    let (queue, _) = queue().await;
    let ids = jobs(&queue, 30).await;
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = queue.list(&Filter::default(), 4, cursor.as_deref()).await.unwrap();
        seen.extend(page.jobs.iter().map(|j| j.job_id));
        submit(&queue, &spec()).await;
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn list_omits_expired_jobs() {
    let (queue, config) = queue().await;
    let mut ids = jobs(&queue, 10).await;
    let mut redis = raw(&config);
    let gone: BTreeSet<JobId> = ids.drain(2..5).collect();
    for id in &gone {
        redis::cmd("DEL").arg(format!("{}jobs:status:{id}", config.prefix)).exec(&mut redis).unwrap();
    }
    assert_eq!(pages(&queue, &Filter::default(), 4).await.concat(), ids);
    assert_eq!(zset(&mut redis, &config, "jobs:index").len(), 7);
}

#[tokio::test]
async fn prune_index_removes_only_expired_jobs() {
    let (queue, config) = queue().await;
    let ids = jobs(&queue, 10).await;
    let mut redis = raw(&config);
    for id in &ids[..4] {
        queue.cancel(*id).await.unwrap();
        redis::cmd("DEL").arg(format!("{}jobs:status:{id}", config.prefix)).exec(&mut redis).unwrap();
    }
    let long_after = queue.clock().await.unwrap().now().plus(400 * 24 * 3_600_000);
    queue.prune_index(long_after).await.unwrap();
    assert_eq!(zset(&mut redis, &config, "jobs:index").len(), 6);
    assert_eq!(zset(&mut redis, &config, "jobs:cancelled").len(), 0);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.pending, stats.cancelled, stats.completed), (6, 0, 0));
    // An expired job can be submitted again; an existing one cannot be submitted twice.
    assert_eq!(queue.submit(ids[0], &spec(), SubmitMode::Now).await.unwrap(), SubmitOutcome::Created);
    assert_eq!(queue.submit(ids[9], &spec(), SubmitMode::Now).await.unwrap(), SubmitOutcome::Same);
}

#[tokio::test]
async fn list_rejects_a_foreign_cursor() {
    let (queue, _) = queue().await;
    let error = queue.list(&Filter::default(), 4, Some("x")).await.unwrap_err();
    assert!(matches!(&error, QueueError::Refused(why) if why.contains("cursor")), "{error}");
}

#[tokio::test]
async fn stats_count_jobs_by_state() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    for start in [SubmitMode::OnUpload(Duration::from_secs(60)), SubmitMode::After(Duration::from_secs(60))] {
        queue.submit(JobId::new(), &spec(), start).await.unwrap();
    }
    jobs(&queue, 5).await;
    let job = claim(&queue, &w).await.unwrap();
    queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    let job = claim(&queue, &w).await.unwrap();
    queue.fail(&job, &hopeless()).await.unwrap();
    let running = claim(&queue, &w).await.unwrap();
    let stats = queue.stats().await.unwrap();
    let stand = (stats.uploading, stats.scheduled, stats.pending, stats.running);
    assert_eq!(stand, (1, 1, 2, 1));
    assert_eq!((stats.completed, stats.failed, stats.cancelled, stats.workers), (1, 1, 0, 1));
    assert!(stats.oldest_pending_ms.is_some());
    let workers = queue.workers().await.unwrap();
    assert_eq!(workers[0].job_id, Some(running.attempt.job));
}

/// What a version with another preset would write.
fn make_unreadable(redis: &mut redis::Connection, config: &RedisConfig, id: JobId) {
    let key = format!("{}jobs:status:{id}", config.prefix);
    let spec: String = redis::cmd("HGET").arg(&key).arg("spec").query(redis).unwrap();
    let newer = spec.replace("\"hls\"", "\"hologram\"");
    assert_ne!(spec, newer);
    redis::cmd("HSET").arg(&key).arg(&["spec", &newer]).exec(redis).unwrap();
}

#[tokio::test]
async fn record_of_another_version_stops_neither_lists_nor_claims_and_costs_no_attempt() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let w = worker(&queue, "w").await;
    // Newest first.
    let ids = jobs(&queue, 3).await;
    make_unreadable(&mut redis, &config, ids[2]);
    let page = queue.list(&Filter::default(), 10, None).await.unwrap();
    let readable: BTreeSet<JobId> = page.jobs.iter().map(|job| job.job_id).collect();
    assert_eq!(readable, BTreeSet::from([ids[0], ids[1]]));
    assert_eq!(page.unreadable.iter().map(|job| job.job_id).collect::<Vec<_>>(), [ids[2]]);
    assert!(page.unreadable[0].error.contains("hologram"), "{:?}", page.unreadable);
    // It is the first in the queue.
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, ids[1]);
    assert_eq!(zset(&mut redis, &config, "jobs:leases").len(), 1);
    assert_eq!(zset(&mut redis, &config, "jobs:scheduled").len(), 1);
    let key = format!("{}jobs:status:{}", config.prefix, ids[2]);
    let stands: (String, u32) =
        redis::cmd("HMGET").arg(key).arg(&["state", "attempt"]).query(&mut redis).unwrap();
    assert_eq!(stands, ("queued".to_owned(), 0));
}
