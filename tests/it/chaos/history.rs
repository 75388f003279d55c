//! What Redis told of the jobs while the run went on: its stream of events keeps the newest ten thousand only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tcoder::job::{JobEvent, JobId, State};
use tcoder::queue::{EventFeed, Queue};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::redis_pair::PREFIX;

/// A job whose worker was killed.
#[derive(Clone, Copy, Debug)]
struct LostWorker {
    job: JobId,
    /// When, in milliseconds.
    at: i64,
}

#[derive(Default)]
struct Events {
    completions: BTreeMap<JobId, usize>,
    claims: BTreeMap<JobId, Vec<i64>>,
    ended: BTreeSet<JobId>,
    lost_workers: Vec<LostWorker>,
    /// From when to when Redis was out of reach, milliseconds.
    outages: Vec<(i64, i64)>,
}

/// The recorded history.
pub struct History {
    events: Arc<Mutex<Events>>,
    /// The number of jobs that have ended.
    pub ended: watch::Receiver<usize>,
    _reader: Reader,
}

struct Reader(JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn connect(url: &str) -> redis::RedisResult<redis::Connection> {
    const LIMIT: Duration = Duration::from_secs(2);
    let connection = redis::Client::open(url)?.get_connection_with_timeout(LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    Ok(connection)
}

/// The attempts whose outputs the janitor is going to delete.
pub fn attempts_to_clean_up(url: &str) -> redis::RedisResult<BTreeSet<String>> {
    let key = format!("{PREFIX}jobs:cleanup");
    let all: Vec<String> = redis::cmd("ZRANGE").arg(key).arg(&["0", "-1"]).query(&mut connect(url)?)?;
    Ok(all.iter().filter_map(|cleanup| cleanup.strip_prefix("attempt:").map(str::to_owned)).collect())
}

/// The leases that a worker on this machine holds.
pub fn leases_of(url: &str, machine: &str) -> redis::RedisResult<Vec<JobId>> {
    let mut connection = connect(url)?;
    let leases: Vec<String> =
        redis::cmd("ZRANGE").arg(format!("{PREFIX}jobs:leases")).arg(&["0", "-1"]).query(&mut connection)?;
    let mut held = Vec::new();
    for id in leases.iter().filter_map(|lease| lease.split(':').next()) {
        let key = format!("{PREFIX}jobs:status:{id}");
        let worker: Option<String> = redis::cmd("HGET").arg(key).arg("worker").query(&mut connection)?;
        if worker.is_some_and(|worker| worker.starts_with(&format!("{machine}-"))) {
            held.extend(id.parse::<JobId>());
        }
    }
    Ok(held)
}

impl History {
    pub async fn follow(queue: &Queue) -> Self {
        let mut feed = EventFeed::open(queue).await.unwrap();
        let events = Arc::<Mutex<Events>>::default();
        let (counted, ended) = watch::channel(0);
        let shared = Arc::clone(&events);
        let reader = tokio::spawn(async move {
            loop {
                match feed.next(Duration::from_millis(500)).await {
                    Ok(new) => {
                        let mut events = lock(&shared);
                        new.iter().for_each(|event| events.add(event));
                        counted.send_replace(events.ended.len());
                    }
                    // Redis is away for a while.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Self { events, ended, _reader: Reader(reader) }
    }

    /// A worker that held these jobs was killed at this time.
    pub fn lost_worker(&self, jobs: Vec<JobId>, at: i64) {
        lock(&self.events).lost_workers.extend(jobs.into_iter().map(|job| LostWorker { job, at }));
    }

    pub fn outage(&self, from: i64, to: i64) {
        lock(&self.events).outages.push((from, to));
    }

    /// How often each job was completed.
    pub fn completions(&self) -> BTreeMap<JobId, usize> {
        lock(&self.events).completions.clone()
    }

    /// Seconds from the death of a worker to the next claim of its job; those without an outage of Redis in between,
    /// and the others.
    pub fn redeliveries(&self) -> (Vec<f64>, Vec<f64>) {
        let events = lock(&self.events);
        let (mut calm, mut disturbed) = (Vec::new(), Vec::new());
        for LostWorker { job, at } in &events.lost_workers {
            let claims = events.claims.get(job).into_iter().flatten();
            // Without one the job had ended by then.
            let Some(next) = claims.copied().find(|claim| claim > at) else { continue };
            let spared = |(from, to): &(i64, i64)| *from <= next && *to + GRACE_MS >= *at;
            let list = if events.outages.iter().any(spared) { &mut disturbed } else { &mut calm };
            list.push(Duration::from_millis((next - at).unsigned_abs()).as_secs_f64());
        }
        calm.sort_by(f64::total_cmp);
        disturbed.sort_by(f64::total_cmp);
        (calm, disturbed)
    }
}

/// For how long leases are spared after an outage, milliseconds.
const GRACE_MS: i64 = 30_000;

fn lock(events: &Mutex<Events>) -> MutexGuard<'_, Events> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Events {
    fn add(&mut self, event: &JobEvent) {
        if event.progress.is_some() {
            return;
        }
        let at = event.event_id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap();
        match event.status {
            State::Running => self.claims.entry(event.job_id).or_default().push(at),
            State::Completed => *self.completions.entry(event.job_id).or_default() += 1,
            _ => {}
        }
        if event.status.is_terminal() {
            self.ended.insert(event.job_id);
        }
    }
}
