//! Many concurrent workers on real Redis. A quarter of them die with their job, and some act long after they
//! lost it. The test ends when every job has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt as _;
use tcoder::job::{AttemptId, Epoch, JobId, State};
use tcoder::queue::{Claim, Claimed, CompleteOutcome, Policy, Queue, SubmitMode};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;

const JOBS: usize = 1000;
const WORKERS: usize = 16;
/// Short, so that lost jobs return during the test; the exact value does not matter.
const LEASE: Duration = Duration::from_millis(250);
const HANG: Duration = Duration::from_secs(300);

/// The recorded history, and object storage, in which the first manifest stays.
#[derive(Default)]
struct Record {
    manifests: BTreeMap<JobId, Epoch>,
    done: BTreeMap<JobId, Vec<Epoch>>,
    epochs: BTreeMap<JobId, Vec<Epoch>>,
    /// Jobs that have failed: no manifest can be put any more.
    sealed: BTreeMap<JobId, Epoch>,
    crashes: u32,
    stale: u32,
}

impl Record {
    /// Puts a manifest; returns the epoch of the one that stands, or nothing if the job has failed.
    fn commits(&mut self, id: JobId, epoch: Epoch) -> Option<Epoch> {
        if self.sealed.get(&id).is_some_and(|by| *by > epoch) {
            return None;
        }
        Some(*self.manifests.entry(id).or_insert(epoch))
    }

    /// Whether no manifest stands, and none can any more.
    fn seals(&mut self, id: JobId, epoch: Epoch) -> bool {
        let seals = !self.manifests.contains_key(&id);
        if seals {
            self.sealed.insert(id, epoch);
        }
        seals
    }
}

struct Worker {
    queue: Queue,
    name: WorkerId,
    record: Arc<Mutex<Record>>,
    /// Lost jobs on which it will still act.
    haunted: Vec<Claimed>,
}

impl Worker {
    async fn work(mut self) {
        loop {
            let now = now(&self.queue).await;
            match self.queue.claim(&self.name, now, true).await.unwrap() {
                Claim::Job(job) => self.attempt(*job).await,
                // No job is pending, running or delayed: all have ended.
                Claim::Empty { next_due: None, .. } if self.haunted.is_empty() => return,
                Claim::Empty { .. } => {
                    self.haunt().await;
                    sleep(LEASE / 10).await;
                }
                // It let a lease expire, like the crashed workers.
                Claim::Unregistered => drop(worker(&self.queue, &self.name.0).await),
                Claim::Retired => panic!("{} was told to leave", self.name),
            }
        }
    }

    async fn attempt(&mut self, job: Claimed) {
        let AttemptId { job: id, epoch } = job.attempt;
        self.record.lock().unwrap().epochs.entry(id).or_default().push(epoch);
        let fate = rand::rng().random_range(0..100);
        if let Some(failure) = job.verify.clone().filter(|_| fate >= 25) {
            if self.record.lock().unwrap().seals(id, epoch) {
                self.queue.fail(&job, &failure).await.unwrap();
            } else {
                self.finish(&job).await;
            }
            return;
        }
        match fate {
            0..25 => self.record.lock().unwrap().crashes += 1,
            25..40 => self.haunted.push(job),
            40..45 => self.fail(&job).await,
            45..50 => drop(self.queue.release(job.attempt).await.unwrap()),
            _ => drop(self.finish(&job).await),
        }
    }

    /// Fails the attempt, unless it is the last one and a manifest stands.
    async fn fail(&mut self, job: &Claimed) {
        let AttemptId { job: id, epoch } = job.attempt;
        let last = job.earlier && job.is_last(&retryable());
        if last && !self.record.lock().unwrap().seals(id, epoch) {
            self.finish(job).await;
        } else {
            self.queue.fail(job, &retryable()).await.unwrap();
        }
    }

    /// Commits its manifest, or adopts the existing one, and completes the job with it.
    async fn finish(&mut self, job: &Claimed) -> CompleteOutcome {
        let AttemptId { job: id, epoch } = job.attempt;
        let Some(manifest) = self.record.lock().unwrap().commits(id, epoch) else {
            return CompleteOutcome::Lost(Some(State::Failed));
        };
        let outcome = self.queue.complete(job, &result_of(manifest.0), manifest).await.unwrap();
        if outcome == CompleteOutcome::Done {
            self.record.lock().unwrap().done.entry(id).or_default().push(epoch);
        }
        outcome
    }

    /// Acts on a job that it lost: finds that its lease is gone, and completes the job nevertheless.
    async fn haunt(&mut self) {
        for job in std::mem::take(&mut self.haunted) {
            // A deadline in the past does not renew the lease but checks it.
            if self.queue.renew(job.attempt, Millis(1)).await.unwrap() {
                self.haunted.push(job);
                continue;
            }
            let outcome = self.finish(&job).await;
            assert!(matches!(outcome, CompleteOutcome::Lost(Some(_))), "a zombie's complete: {outcome:?}");
            self.record.lock().unwrap().stale += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_jobs_end_once_each_with_faulty_workers() {
    let config = shared();
    let policy = Policy { lease: LEASE, ..LONG };
    let queue = Queue::connect_with(&config, policy).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..JOBS {
        let id = JobId::new();
        let start = if n % 10 == 0 { SubmitMode::After(LEASE) } else { SubmitMode::Now };
        queue.submit(id, &JobSpec { max_attempts: 3, ..hooked() }, start).await.unwrap();
        ids.push(id);
    }
    let record = Arc::new(Mutex::new(Record::default()));
    let mut workers = JoinSet::new();
    for n in 0..WORKERS {
        let queue = queue.reconnect().await.unwrap();
        let name = worker(&queue, &format!("w{n}")).await;
        workers.spawn(Worker { queue, name, record: record.clone(), haunted: Vec::new() }.work());
    }
    timeout(HANG, workers.join_all()).await.expect("some job does not end");

    let record = std::mem::take(&mut *record.lock().unwrap());
    let (mut completed, mut failed) = (0, 0);
    for id in &ids {
        let job = queue.get(*id).await.unwrap().unwrap();
        assert!(job.attempt <= 3, "{id} was tried {} times", job.attempt);
        let epochs = &record.epochs[id];
        // In the order in which the workers learned of them, which may differ from the order of the claims.
        let mut sorted = epochs.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((sorted.len(), sorted.last()), (epochs.len(), Some(&job.epoch)), "{id}: {epochs:?}");
        match job.status {
            State::Completed => {
                completed += 1;
                assert_eq!(record.done[id].len(), 1, "{id} was completed by {:?}", record.done[id]);
                assert_eq!(job.result.unwrap().source.size, record.manifests[id].0, "{id}");
            }
            State::Failed => {
                failed += 1;
                assert!(!record.done.contains_key(id), "{id} was completed and failed");
                assert!(!record.manifests.contains_key(id), "{id} failed though its manifest stands");
            }
            other => panic!("{id} is {other}"),
        }
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.completed, stats.failed), (completed, failed));
    assert_eq!((stats.pending, stats.scheduled, stats.running, stats.uploading), (0, 0, 0, 0));
    assert_eq!(stats.pending_webhooks, JOBS as u64);
    assert!(record.crashes > 100 && record.stale > 50 && completed > 500, "the soak did not soak");
    println!(
        "soak: {completed} completed, {failed} failed, {} crashes, {} stale completes refused",
        record.crashes, record.stale
    );
}
