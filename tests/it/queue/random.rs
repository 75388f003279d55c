//! Random histories of a few jobs, on real Redis and on the model in lockstep: after each call the answer,
//! the content of Redis and the events must match the model.
//!
//! Tests do not sleep: sweeps use Redis's own clock, so the test moves deadlines into the past before a
//! sweep. A crash needs no call, because it is a claim without further calls. A zombie is a call for an old
//! claim.

mod content;
mod operation;
mod parts;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tcoder::config::RedisConfig;
use tcoder::job::{
    AttemptId, Failure, FailureCode, JobId, JobSpec, Millis, Origin, Priority, State, Transition,
    WorkerClasses, WorkerId,
};
use tcoder::queue::{
    self, CancelReason, Claimed, FailOutcome, PartsInfo, Queue, SubmitMode, SubmitOutcome, backoff,
};
use uuid::Uuid;

use operation::{Look, Op, op};

use super::model::{Begin, Model, Mutant, Task, Terms, Why};
use super::{LONG, arrived, hooked, hopeless, result_of, retryable, spec, too_large, worker};
use crate::support::redis::{raw, shared};

const JOBS: u8 = 4;
const WORKERS: u8 = 3;
/// The classes of jobs.
const CLASSES: [&str; 2] = ["default", "large"];
/// The classes of which each worker takes jobs, by their places in this list.
const OF_WORKERS: [&[u8]; WORKERS as usize] = [&[0], &[0, 1], &[1]];
const PLAN: &str = "the plan";

#[test]
fn random_operations_agree_between_redis_and_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let redis = RefCell::new(raw(&shared()));
    let config = Config { cases: 160, failure_persistence: None, ..Config::default() };
    let lives = vec((op(), prop::bool::weighted(0.3)), 1..60);
    TestRunner::new(config)
        .run(&lives, |life| {
            let config = shared();
            let redis = &mut redis.borrow_mut();
            runtime.block_on(async {
                let queue = Queue::connect_with(&config, LONG).await.unwrap();
                let mut lockstep = Lockstep::new(queue, config, redis).await;
                for (op, twice) in life {
                    lockstep.step(op, twice).await?;
                }
                lockstep.compare_keys()
            })
        })
        .unwrap();
}

/// Redis and the model, side by side.
struct Lockstep<'a> {
    queue: Queue,
    config: RedisConfig,
    redis: &'a mut redis::Connection,
    model: Model,
    workers: Vec<WorkerId>,
    /// The queue as each worker uses it.
    queues: Vec<Queue>,
    /// All claims so far, in order.
    claims: Vec<Claimed>,
    completions: BTreeMap<JobId, u32>,
    last_event: String,
    /// The state of each job in its last event.
    told: BTreeMap<JobId, State>,
}

/// Whether one transition of a job leads to this state; `None` is before the first state.
fn reachable(from: Option<State>, to: State) -> bool {
    match from {
        None => matches!(to, State::Uploading | State::Queued),
        Some(from) => from == to || Transition::ALL.iter().any(|how| from.apply(*how) == Ok(to)),
    }
}

fn job_id(n: u8) -> JobId {
    JobId::from_uuid(Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8000 + u128::from(n)))
}

const fn class_of(terms: u8) -> u8 {
    [0, 0, 1, 1, 0, 1][terms as usize]
}

fn spec_of(terms: u8) -> JobSpec {
    let (priority, max_attempts) = [(0, 2), (5, 2), (-5, 1), (0, 3), (100, 2), (-100, 1)][terms as usize];
    let base = if terms.is_multiple_of(2) { spec() } else { hooked() };
    let origin = if terms < 3 { Origin::Storage } else { Origin::Api };
    let worker_class = CLASSES[usize::from(class_of(terms))].parse().unwrap();
    JobSpec { priority: Priority::try_from(priority).unwrap(), max_attempts, origin, worker_class, ..base }
}

impl<'a> Lockstep<'a> {
    async fn new(queue: Queue, config: RedisConfig, redis: &'a mut redis::Connection) -> Self {
        let (mut workers, mut queues) = (Vec::new(), Vec::new());
        for (n, classes) in OF_WORKERS.iter().enumerate() {
            workers.push(worker(&queue, &format!("w{n}")).await);
            let classes = classes.iter().map(|class| CLASSES[usize::from(*class)].parse().unwrap());
            queues.push(queue.clone().for_classes(WorkerClasses::new(classes).unwrap()));
        }
        // The limit of inputs is about the workers of all classes.
        let all = CLASSES.iter().map(|class| class.parse().unwrap());
        let queue = queue.for_classes(WorkerClasses::new(all).unwrap());
        let (claims, completions) = (Vec::new(), BTreeMap::new());
        let model = Model::new(Mutant::Sound);
        Self {
            queue,
            config,
            redis,
            model,
            workers,
            queues,
            claims,
            completions,
            last_event: "0-0".into(),
            told: BTreeMap::new(),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.config.prefix)
    }

    /// Makes one call on both sides. With `twice` the same call is repeated, which must change nothing.
    async fn step(&mut self, op: Op, twice: bool) -> Result<(), TestCaseError> {
        let before: BTreeMap<JobId, State> = self.model.jobs.iter().map(|(id, j)| (*id, j.state)).collect();
        self.call(op).await?;
        self.compare(op)?;
        for (id, state) in before {
            let now = self.model.jobs[&id].state;
            let absorbed = !state.is_terminal()
                || now == state
                || matches!(op, Op::Redrive { .. } | Op::Uploaded { .. });
            prop_assert!(absorbed, "{op:?} took {id} from {state} to {now}");
        }
        // A second claim is a different claim, and a second sweep continues where its limit stopped the
        // first.
        if twice && !matches!(op, Op::Claim { .. } | Op::CompleteAndClaim { .. } | Op::Sweep { .. }) {
            let once = self.in_redis();
            self.call(op).await?;
            self.compare(op)?;
            prop_assert_eq!(once, self.in_redis(), "{:?}, repeated, changed something", op);
        }
        Ok(())
    }

    /// The time of the call, which is that of its event; irrelevant if there is no event.
    fn time(&mut self) -> i64 {
        let newest: Vec<(String, Vec<String>)> = redis::cmd("XREVRANGE")
            .arg(self.key("jobs:events"))
            .arg(&["+", "-", "COUNT", "1"])
            .query(self.redis)
            .unwrap();
        newest.first().map_or(0, |(id, _)| id.split_once('-').unwrap().0.parse().unwrap())
    }

    fn claim(&self, back: u8) -> Option<Claimed> {
        let at = self.claims.len().checked_sub(1 + back as usize)?;
        Some(self.claims[at].clone())
    }

    async fn call(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Submit { job, begin, terms } => self.submit(job_id(job), begin, terms).await,
            Op::Uploaded { job, fits } => {
                let input = if fits { arrived(job_id(job)) } else { too_large(job_id(job)) };
                let real = self.queue.uploaded(&input).await.unwrap();
                let now = self.time();
                prop_assert_eq!(real, self.model.uploaded(job_id(job), fits, now));
                Ok(())
            }
            Op::Claim { worker, look } => self.take(worker, look).await,
            Op::Renew { claim, ms } => {
                let Some(c) = self.claim(claim) else { return Ok(()) };
                let deadline = c.at.plus(3_600_000 + ms);
                let real = self.queue.renew(c.lease(), deadline).await.unwrap();
                prop_assert_eq!(real, self.model.renew(c.lease(), deadline.0));
                Ok(())
            }
            Op::Progress { claim, percent } => {
                let Some(c) = self.claim(claim).filter(|c| c.part.is_none()) else { return Ok(()) };
                let real = self.queue.progress(&c, f64::from(percent)).await.unwrap();
                prop_assert_eq!(real, self.model.progress(c.attempt, percent));
                Ok(())
            }
            Op::CompleteAndClaim { claim, worker } => self.complete_and_claim(claim, worker).await,
            Op::Split { claim, chunks, at_once } => self.split(claim, chunks, at_once).await,
            Op::Await { job, segment } => {
                let id = job_id(job);
                let split = self.model.jobs.get(&id).filter(|job| job.waits()).and_then(|job| job.split);
                let Some(epoch) = split else { return Ok(()) };
                let by = AttemptId { job: id, epoch };
                let real = self.queue.await_segment(by, segment).await.unwrap();
                prop_assert_eq!(real, self.model.await_segment(id, segment));
                Ok(())
            }
            Op::Complete { claim } => {
                let Some(c) = self.claim(claim) else { return Ok(()) };
                if c.part.is_some() {
                    let total = self.parts_of(&c);
                    let (real, _) = self
                        .queue
                        .complete_part(&c, "report", PartsInfo { count: total, can_play: false }, None)
                        .await
                        .unwrap();
                    let now = self.time();
                    prop_assert_eq!(real, self.model.complete_part(c.lease(), now));
                    return Ok(());
                }
                let manifest = self.model.commit(c.attempt).expect("nothing is sealed here");
                let real = self.queue.complete(&c, &result_of(manifest.0), manifest).await.unwrap();
                let now = self.time();
                prop_assert_eq!(real, self.model.complete(c.attempt, manifest, now));
                if real == queue::CompleteOutcome::Done {
                    let count = self.completions.entry(c.attempt.job).or_default();
                    *count += 1;
                    prop_assert_eq!(*count, 1, "{} was completed twice", c.attempt.job);
                }
                Ok(())
            }
            Op::Fail { claim, retryable } => self.fail(claim, retryable).await,
            Op::FailUnverified { claim } => self.fail_unverified(claim).await,
            Op::Release { claim } => {
                let Some(c) = self.claim(claim) else { return Ok(()) };
                let real = self.queue.release(c.lease()).await.unwrap();
                let now = if c.part.is_some() { self.queued(c.lease().into()) } else { self.time() };
                prop_assert_eq!(real, self.model.release(c.lease(), now));
                Ok(())
            }
            Op::Cancel { job, why } => {
                let late = Failure::new(FailureCode::DeadlineExceeded, "it took too long");
                let (how, why) = match why {
                    0 => (CancelReason::Cancelled, Why::Cancelled),
                    1 => (CancelReason::Suspended, Why::Suspended),
                    _ => (CancelReason::DeadlineExceeded(late), Why::Overdue),
                };
                let real = self.queue.cancel_with(job_id(job), &how).await.unwrap();
                let now = self.time();
                prop_assert_eq!(real, self.model.cancel_with(job_id(job), why, now));
                Ok(())
            }
            Op::Redrive { job } => {
                let real = self.queue.redrive(job_id(job)).await.unwrap();
                let now = self.time();
                prop_assert_eq!(real, self.model.redrive(job_id(job), now));
                Ok(())
            }
            Op::ExpireUpload { job } => {
                let failure = Failure::new(FailureCode::UploadExpired, "it never came");
                let real = self.queue.expire_upload(job_id(job), &failure).await.unwrap();
                let now = self.time();
                prop_assert_eq!(real, self.model.expire_upload(job_id(job), now));
                Ok(())
            }
            Op::Sweep { limit, past } => self.sweep(limit, past).await,
        }
    }

    async fn submit(&mut self, id: JobId, begin: u8, terms: u8) -> Result<(), TestCaseError> {
        let spec = spec_of(terms);
        let (start, begin) = match begin {
            0 => (SubmitMode::Now, Begin::Now),
            1 => (SubmitMode::After(std::time::Duration::from_secs(60)), Begin::After(60_000)),
            _ => (SubmitMode::OnUpload(std::time::Duration::from_secs(90)), Begin::OnUpload(90_000)),
        };
        let real = self.queue.submit(id, &spec, start).await.unwrap();
        let now = self.time();
        let terms = Terms {
            max: spec.max_attempts,
            boost: spec.priority.get() * 60_000,
            hook: spec.webhook_url.is_some(),
            from_storage: spec.origin == Origin::Storage,
            class: class_of(terms),
        };
        let there = self.model.jobs.get(&id).map(|j| j.terms);
        let new = self.model.submit(id, terms, begin, now);
        // The specs of `spec_of` differ exactly if their terms differ.
        match real {
            SubmitOutcome::Created => prop_assert!(new),
            SubmitOutcome::Same => prop_assert!(!new && there == Some(terms)),
            SubmitOutcome::Different(_) => prop_assert!(!new && there != Some(terms)),
            SubmitOutcome::LimitReached { limit, .. } => {
                prop_assert!(false, "a job without a token reached {limit:?}")
            }
        }
        Ok(())
    }

    async fn take(&mut self, worker: u8, look: Look) -> Result<(), TestCaseError> {
        if let Look::Later(past) = look {
            self.pass(past);
        }
        let sweeps = !matches!(look, Look::Away);
        let (name, queue) = (&self.workers[worker as usize], &self.queues[worker as usize]);
        let mut before = super::now(&self.queue).await;
        let mut real = queue.claim(name, before, sweeps).await.unwrap();
        // It let a lease expire, was presumed dead, and registers again, as workers do.
        if real == queue::Claim::Unregistered {
            super::worker(&self.queue, &name.0).await;
            before = super::now(&self.queue).await;
            real = queue.claim(name, before, sweeps).await.unwrap();
        }
        let after = super::now(&self.queue).await;
        let due = if sweeps {
            let now = match &real {
                queue::Claim::Empty { now, .. } => now.map_or(0, |now| now.0),
                _ => self.swept_at(after.0),
            };
            self.model.sweep(now, 8).1
        } else {
            None
        };
        if let queue::Claim::Empty { next_due, now } = &real {
            prop_assert_eq!(next_due.map(|m| m.0), due);
            prop_assert_eq!(now.is_some(), sweeps);
            prop_assert!(now.is_none_or(|now| (before..=after).contains(&now)));
        }
        self.compare_claim(worker, real)
    }

    /// Claims on the model, and compares what Redis has answered.
    fn compare_claim(&mut self, worker: u8, real: queue::Claim) -> Result<(), TestCaseError> {
        // The claim of a part has no event.
        let time = match &real {
            queue::Claim::Job(job) if job.part.is_some() => job.at.0,
            _ => self.time(),
        };
        let model = self.model.claim(worker, OF_WORKERS[worker as usize], time, 3_600_000);
        match (real, model) {
            (queue::Claim::Empty { .. }, None) => {}
            (queue::Claim::Job(job), Some(model)) => {
                let verify = job.verify.is_some();
                let real = (job.attempt, job.part, job.number, job.at, job.earlier, verify);
                let expected =
                    (model.attempt, model.part, model.number, Millis(time), model.earlier, model.verify);
                prop_assert_eq!(real, expected);
                let AttemptId { job: id, epoch } = job.attempt;
                let of_job = &self.model.jobs[&id];
                let record = job.part.map_or(of_job, |part| &of_job.parts[&part]);
                prop_assert_eq!(job.previous.as_ref().map(|failure| failure.code), record.error);
                prop_assert_eq!(job.born.0, of_job.created);
                prop_assert_eq!(job.split.map(|by| by.epoch), of_job.split);
                prop_assert_eq!(job.plan.as_deref(), of_job.split.map(|_| PLAN));
                let older = self.claims.iter().filter(|c| c.attempt.job == id && c.part == job.part);
                let newest = older.map(|c| c.attempt.epoch).max();
                prop_assert!(newest < Some(epoch), "epoch {} after {:?}", epoch, newest);
                self.claims.push(*job);
            }
            (real, model) => prop_assert!(false, "claimed {real:?}, the model {model:?}"),
        }
        Ok(())
    }

    async fn fail(&mut self, claim: u8, again: bool) -> Result<(), TestCaseError> {
        let Some(c) = self.claim(claim) else { return Ok(()) };
        let failure = if again { retryable() } else { hopeless() };
        let real = self.queue.fail(&c, &failure).await.unwrap();
        let now = self.time();
        // A part's retry has no event, and is due later than the newest one.
        let slack = if c.part.is_some() { 600_000 } else { 0 };
        let retries = again && c.number < c.spec.max_attempts;
        // The delay is random: it is taken from Redis after a check of its bounds.
        let retry_at = if let FailOutcome::Retry(at) = real {
            let most = backoff::ceiling(c.number, std::time::Duration::from_secs(5), LONG.lease);
            let most = i64::try_from(most.as_millis()).unwrap();
            prop_assert!((now..=now + most + slack).contains(&at.0), "a retry at {at:?}, called at {now}");
            Some(at.0)
        } else {
            retries.then_some(0)
        };
        prop_assert_eq!(real, self.model.fail(c.lease(), failure.code, retry_at, false, now));
        prop_assert!(retries || !matches!(real, FailOutcome::Retry(_)));
        Ok(())
    }

    async fn fail_unverified(&mut self, claim: u8) -> Result<(), TestCaseError> {
        let Some(c) = self.claim(claim) else { return Ok(()) };
        let failure = retryable();
        let real = self.queue.fail_unverified(&c, &failure).await.unwrap();
        let now = self.time();
        // The delay is random: it is taken from Redis.
        let retry_at = if let FailOutcome::Retry(at) = real { at.0 } else { 0 };
        prop_assert_eq!(real, self.model.fail(c.lease(), failure.code, Some(retry_at), true, now));
        Ok(())
    }

    /// The time of a claim's sweep of everything due by `after`. Reaping and promoting store their time in
    /// the job; if nothing was due it does not matter.
    fn swept_at(&mut self, after: i64) -> i64 {
        let leases = self.model.leases.iter().map(|(name, at)| (Task::from(*name), *at));
        let delays = self.model.scheduled.iter().map(|(task, at)| (*task, *at));
        let due: Vec<Task> = leases.chain(delays).filter(|(_, at)| *at <= after).map(|(id, _)| id).collect();
        let mut latest = 0;
        for id in due {
            let times: Vec<Option<String>> = redis::cmd("HMGET")
                .arg(self.key(&format!("jobs:status:{id}")))
                .arg(&["queued", "finished"])
                .query(self.redis)
                .unwrap();
            let times = times.into_iter().flatten().filter_map(|t| t.parse().ok());
            latest = times.max().unwrap_or(0).max(latest);
        }
        latest
    }

    /// Makes the first `past` leases and delays due.
    fn pass(&mut self, past: u8) {
        for (name, at) in self.model.leases.iter_mut().take(past as usize) {
            *at = 1;
            let key = format!("{}jobs:leases", self.config.prefix);
            redis::cmd("ZADD").arg(key).arg(1).arg(name.to_string()).exec(self.redis).unwrap();
        }
        for (id, at) in self.model.scheduled.iter_mut().take(past as usize) {
            *at = 1;
            let key = format!("{}jobs:scheduled", self.config.prefix);
            redis::cmd("ZADD").arg(key).arg(1).arg(id.to_string()).exec(self.redis).unwrap();
        }
    }

    async fn sweep(&mut self, limit: u8, past: u8) -> Result<(), TestCaseError> {
        self.pass(past);
        let real = self.queue.sweep(u32::from(limit), 0).await.unwrap();
        let (ready, due) = self.model.sweep(real.now.0, usize::from(limit));
        prop_assert_eq!((real.ready, real.next_due.map(|m| m.0)), (ready, due));
        Ok(())
    }

    /// Every attempt is running, has completed its job, or is left to the janitor.
    fn no_attempt_is_forgotten(&mut self) -> Result<(), TestCaseError> {
        let (leases, cleanups): (Vec<String>, Vec<String>) = redis::pipe()
            .cmd("ZRANGE")
            .arg(self.key("jobs:leases"))
            .arg(&["0", "-1"])
            .cmd("ZRANGE")
            .arg(self.key("jobs:cleanup"))
            .arg(&["0", "-1"])
            .query(self.redis)
            .unwrap();
        // Parts store their outputs with those of the attempt that split their job.
        for attempt in self.claims.iter().filter(|claim| claim.part.is_none()).map(|claim| claim.attempt) {
            let job = &self.model.jobs[&attempt.job];
            // Its outputs may also be the result with which a later attempt has completed the job.
            let is_result = job.epoch == attempt.epoch || job.result == Some(attempt.epoch);
            let completed = job.state == State::Completed && is_result;
            let has_parts = !job.state.is_terminal() && job.split == Some(attempt.epoch);
            let is_known = completed
                || has_parts
                || leases.contains(&attempt.to_string())
                || cleanups.contains(&format!("attempt:{attempt}"));
            prop_assert!(is_known, "nobody deletes the outputs of {attempt}");
        }
        Ok(())
    }

    /// Compares both sides completely.
    fn compare(&mut self, op: Op) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.in_redis(), self.in_model(), "after {:?}", op);
        self.no_attempt_is_forgotten()?;
        let events = self.new_events();
        for (id, state) in &events {
            let from = self.told.insert(*id, *state);
            prop_assert!(reachable(from, *state), "{op:?} took {id} from {from:?} to {state}");
        }
        prop_assert_eq!(events, std::mem::take(&mut self.model.events), "events of {:?}", op);
        prop_assert_eq!(self.model.violation(), None, "after {:?}", op);
        Ok(())
    }

    fn new_events(&mut self) -> Vec<(JobId, State)> {
        let entries: Vec<(String, BTreeMap<String, String>)> = redis::cmd("XRANGE")
            .arg(self.key("jobs:events"))
            .arg(format!("({}", self.last_event))
            .arg("+")
            .query(self.redis)
            .unwrap();
        if let Some((id, _)) = entries.last() {
            self.last_event.clone_from(id);
        }
        // The stream also contains events of workers.
        let jobs = entries.iter().filter(|(_, e)| !e.contains_key("fleet"));
        jobs.map(|(_, e)| (e["id"].parse().unwrap(), e["state"].parse().unwrap())).collect()
    }
}
