//! Two versions of tcoder on one Redis: records of a newer version are left alone, and the version before works beside
//! this one in both directions. The recorded scripts of that version are in `previous/`.

use tcoder::job::{
    CLASS_VERSION, FORMAT_VERSION, Failure, FailureAction, FailureCode, FailurePolicy, FailureRule, State,
};
use tcoder::queue::{CompleteOutcome, EventFeed, FailOutcome, Filter, Queue, QueueError};

use super::*;
use crate::support::redis::raw;

/// The scripts of the version before, called as its code called them.
struct Previous {
    redis: redis::Connection,
    prefix: String,
}

macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("previous/lib.lua"), include_str!(concat!("previous/", $name, ".lua")))
    };
}

/// A claim as that version answered it.
struct OldClaim {
    id: String,
    epoch: u64,
    attempt: u64,
}

impl Previous {
    fn new(config: &RedisConfig) -> Self {
        Self { redis: raw(config), prefix: config.prefix.clone() }
    }

    fn eval(&mut self, script: &str, args: &[&str]) -> Vec<redis::Value> {
        let mut call = redis::cmd("EVAL");
        call.arg(script).arg(1).arg(format!("{}jobs", self.prefix)).arg(&self.prefix).arg(args);
        call.query(&mut self.redis).unwrap()
    }

    fn word(answer: &[redis::Value]) -> String {
        redis::from_redis_value(answer[0].clone()).unwrap()
    }

    fn submit(&mut self, id: JobId, spec: &JobSpec) {
        let json = serde_json::to_string(spec).unwrap();
        let max = spec.max_attempts.to_string();
        let args = [&id.to_string(), "queued", "0", &json, &max, "0", "0", "604800000", "1", ""];
        assert_eq!(Self::word(&self.eval(script!("submit"), &args)), "CREATED");
    }

    fn claim(&mut self, worker: &WorkerId, now: Millis) -> Option<OldClaim> {
        let now = now.0.to_string();
        let args = [&worker.0, &now, "3600000", "180000", "0", "0", "0", "token", "0"];
        let answer = self.eval(script!("claim"), &args);
        (Self::word(&answer) == "JOB").then(|| {
            let text = |at: usize| redis::from_redis_value::<String>(answer[at].clone()).unwrap();
            let int = |at: usize| redis::from_redis_value::<u64>(answer[at].clone()).unwrap();
            OldClaim { id: text(1), epoch: int(2), attempt: int(3) }
        })
    }

    fn complete(&mut self, job: &OldClaim) -> String {
        let result = serde_json::to_string(&result_of(job.epoch)).unwrap();
        let epoch = job.epoch.to_string();
        let args = [&job.id, epoch.as_str(), &result, "0", "604800000", &epoch];
        Self::word(&self.eval(script!("complete"), &args))
    }

    fn fail(&mut self, job: &OldClaim) -> String {
        let failure = serde_json::to_string(&retryable()).unwrap();
        let epoch = job.epoch.to_string();
        let args = [&job.id, epoch.as_str(), &failure, "0", "0", "604800000", ""];
        Self::word(&self.eval(script!("fail"), &args))
    }

    fn release(&mut self, job: &OldClaim) -> String {
        Self::word(&self.eval(script!("release"), &[&job.id, &job.epoch.to_string(), "0"]))
    }

    fn cancel(&mut self, id: JobId) -> String {
        Self::word(&self.eval(script!("cancel"), &[&id.to_string(), "cancelled", ""]))
    }

    fn redrive(&mut self, id: JobId) -> String {
        Self::word(&self.eval(script!("redrive"), &[&id.to_string()]))
    }

    /// The number of jobs that became ready.
    fn sweep(&mut self) -> u64 {
        let answer = self.eval(script!("sweep"), &["10", "0", "0"]);
        redis::from_redis_value(answer[0].clone()).unwrap()
    }
}

async fn state_of(queue: &Queue, id: JobId) -> State {
    queue.get(id).await.unwrap().unwrap().status
}

#[tokio::test]
async fn job_of_the_version_before_is_processed_by_this_one() {
    let (queue, config) = queue().await;
    let (mut previous, mut redis) = (Previous::new(&config), raw(&config));
    let w = worker(&queue, "new").await;
    let id = JobId::new();
    previous.submit(id, &spec());
    assert_eq!(queue.list(&Filter::default(), 10, None).await.unwrap().jobs[0].job_id, id);
    // An attempt by an old worker that dies, one by a new worker that fails, one that completes the job.
    let old = previous.claim(&w, now(&queue).await).unwrap();
    all_due(&mut redis, &config);
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!((job.number, job.earlier), (2, true));
    assert!(matches!(queue.fail(&job, &retryable()).await.unwrap(), FailOutcome::Retry(_)));
    all_due(&mut redis, &config);
    assert_eq!(previous.sweep(), 1);
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(previous.complete(&old), "LOST");
    let done = queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    assert_eq!((done, state_of(&queue, id).await), (CompleteOutcome::Done, State::Completed));
}

#[tokio::test]
async fn job_of_this_version_is_processed_by_the_version_before() {
    let (queue, config) = queue().await;
    let (mut previous, mut redis) = (Previous::new(&config), raw(&config));
    let w = worker(&queue, "old").await;
    let id = submit(&queue, &spec()).await;
    // Released, failed, given up and completed by old workers, with sweeps of either version.
    let job = previous.claim(&w, now(&queue).await).unwrap();
    assert_eq!((job.id.as_str(), job.attempt), (id.to_string().as_str(), 1));
    assert_eq!(previous.release(&job), "RELEASED");
    let job = previous.claim(&w, now(&queue).await).unwrap();
    assert_eq!(job.attempt, 1, "the release was counted");
    assert_eq!(previous.fail(&job), "RETRY");
    all_due(&mut redis, &config);
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    let lost = claim(&queue, &w).await.unwrap();
    all_due(&mut redis, &config);
    assert_eq!(previous.sweep(), 1);
    worker(&queue, "old").await;
    let job = previous.claim(&w, now(&queue).await).unwrap();
    assert_eq!(previous.complete(&job), "DONE");
    assert_eq!(state_of(&queue, id).await, State::Completed);
    let late = queue.complete(&lost, &result_of(1), lost.attempt.epoch).await.unwrap();
    assert_eq!(late, CompleteOutcome::Lost(Some(State::Completed)));
}

/// Workers of the version before know no rules about failures. They decide by the code of a failure, and leave the rules to
/// those that know them.
#[tokio::test]
async fn workers_that_know_no_failure_policy_do_no_harm_to_a_job_that_has_one() {
    let (queue, config) = queue().await;
    let (mut previous, mut redis) = (Previous::new(&config), raw(&config));
    let w = worker(&queue, "w").await;
    let storage = Failure::new(FailureCode::Storage, "the bucket is away");
    for action in [FailureAction::Ignore, FailureAction::Count, FailureAction::FailJob] {
        let rule = FailureRule { action, error_codes: vec![FailureCode::Storage] };
        let policy = FailurePolicy(vec![rule]);
        let of_job = JobSpec { failure_policy: policy.clone(), max_attempts: 3, ..spec() };
        let id = submit(&queue, &of_job).await;
        // A failed attempt by an old worker counts, whatever the rule says.
        let old = previous.claim(&w, now(&queue).await).unwrap();
        assert_eq!((old.id.clone(), old.attempt), (id.to_string(), 1));
        assert_eq!(previous.fail(&old), "RETRY");
        all_due(&mut redis, &config);
        assert_eq!(previous.sweep(), 1);
        // The rules are still there for a new worker.
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!((job.number, job.ignored, &job.spec.failure_policy), (2, 0, &policy), "{action:?}");
        let outcome = queue.fail(&job, &storage).await.unwrap();
        if action == FailureAction::FailJob {
            assert_eq!(outcome, FailOutcome::Failed);
            // Retried by the version before, the job is a new one for its old workers, and completes.
            assert_eq!(previous.redrive(id), "QUEUED");
        } else {
            assert!(matches!(outcome, FailOutcome::Retry(_)), "{action:?}: {outcome:?}");
            all_due(&mut redis, &config);
            assert_eq!(previous.sweep(), 1);
        }
        let old = previous.claim(&w, now(&queue).await).unwrap();
        let expected = match action {
            FailureAction::Ignore => 2,
            FailureAction::Count => 3,
            FailureAction::FailJob => 1,
        };
        assert_eq!(old.attempt, expected, "{action:?}");
        assert_eq!(previous.complete(&old), "DONE");
        assert_eq!(state_of(&queue, id).await, State::Completed);
    }
}

#[tokio::test]
async fn cancel_and_retry_work_across_versions() {
    let (queue, config) = queue().await;
    let mut previous = Previous::new(&config);
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(previous.cancel(id), "CANCELLED");
    assert!(!queue.progress(&job, 1.0).await.unwrap());
    assert_eq!(previous.redrive(id), "QUEUED");
    let old = previous.claim(&w, now(&queue).await).unwrap();
    queue.cancel(id).await.unwrap();
    assert_eq!(previous.complete(&old), "LOST");
    queue.redrive(id).await.unwrap();
    let job = claim(&queue, &w).await.unwrap();
    queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    assert_eq!(state_of(&queue, id).await, State::Completed);
}

/// Makes the record one of a version that this one does not know, or of this one again.
fn set_version(redis: &mut redis::Connection, config: &RedisConfig, id: JobId, version: u32) {
    let key = format!("{}jobs:status:{id}", config.prefix);
    redis::cmd("HSET").arg(key).arg("v").arg(version).exec(redis).unwrap();
}

#[tokio::test]
async fn job_of_a_newer_version_is_left_to_its_workers_at_no_cost() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let w = worker(&queue, "w").await;
    let (newer, known) = (submit(&queue, &spec()).await, submit(&queue, &spec()).await);
    set_version(&mut redis, &config, newer, CLASS_VERSION + 1);
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, known);
    let page = queue.list(&Filter::default(), 10, None).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.job_id).collect::<Vec<_>>(), [known]);
    assert_eq!(page.unreadable[0].job_id, newer);
    assert!(page.unreadable[0].error.contains("upgrade it"), "{:?}", page.unreadable);
    assert!(matches!(queue.get(newer).await, Err(QueueError::Data(_))));
    // However often it is looked at, it stays what it was, and a worker that understands it gets it.
    for _ in 0..3 {
        all_due(&mut redis, &config);
        set_version(&mut redis, &config, known, CLASS_VERSION + 1);
        queue.sweep(10, 0).await.unwrap();
        assert_eq!(claim(&queue, &w).await, None);
    }
    set_version(&mut redis, &config, newer, FORMAT_VERSION);
    set_version(&mut redis, &config, known, FORMAT_VERSION);
    all_due(&mut redis, &config);
    queue.sweep(10, 0).await.unwrap();
    let jobs = [claim(&queue, &w).await.unwrap(), claim(&queue, &w).await.unwrap()];
    let job = jobs.iter().find(|job| job.attempt.job == newer).unwrap();
    assert_eq!((job.number, job.earlier), (1, false));
}

#[tokio::test]
async fn claim_in_a_backlog_of_a_newer_version_says_that_more_is_due() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let w = worker(&queue, "w").await;
    for _ in 0..20 {
        let id = submit(&queue, &spec()).await;
        set_version(&mut redis, &config, id, CLASS_VERSION + 1);
    }
    let known = submit(&queue, &spec()).await;
    let mut claims = 0;
    let job = loop {
        claims += 1;
        let now = now(&queue).await;
        match queue.claim(&w, now, true).await.unwrap() {
            Claim::Job(job) => break job,
            // The worker does not wait.
            Claim::Empty { next_due, .. } => assert!(next_due.is_some_and(|due| due <= now), "{next_due:?}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((job.attempt.job, claims), (known, 3));
}

#[tokio::test]
async fn event_of_a_newer_version_is_skipped() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let mut feed = EventFeed::open(&queue).await.unwrap();
    let stream = format!("{}jobs:events", config.prefix);
    let strange = ["v", "99", "id", "some other name", "state", "dreaming"];
    redis::cmd("XADD").arg(&stream).arg("*").arg(&strange).exec(&mut redis).unwrap();
    let id = submit(&queue, &spec()).await;
    let events = loop {
        let events = feed.next(Duration::from_secs(60)).await.unwrap();
        if !events.is_empty() {
            break events;
        }
    };
    assert_eq!(events.iter().map(|event| event.job_id).collect::<Vec<_>>(), [id]);
    // Each event that this version writes has its version.
    let entries: Vec<redis::Value> =
        redis::cmd("XREVRANGE").arg(&stream).arg(&["+", "-", "COUNT", "1"]).query(&mut redis).unwrap();
    assert!(format!("{entries:?}").contains("\"v\""), "{entries:?}");
}

#[tokio::test]
async fn fleet_status_of_a_newer_version_is_refused_with_advice() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    let key = format!("{}fleet:status", config.prefix);
    redis::cmd("SET").arg(key).arg(r#"{"v":99,"machines":"many"}"#).exec(&mut redis).unwrap();
    let error = queue.fleet().await.unwrap_err();
    assert!(
        matches!(&error, QueueError::Data(what) if what.contains("version 99") && what.contains("upgrade it"))
    );
}

#[tokio::test]
async fn worker_record_has_its_version_and_those_of_others_are_read() {
    let (queue, config) = queue().await;
    let mut redis = raw(&config);
    worker(&queue, "w").await;
    let pool = format!("{}machines:pool", config.prefix);
    let record: String = redis::cmd("HGET").arg(&pool).arg("w").query(&mut redis).unwrap();
    assert!(record.starts_with(&format!("{{\"v\":{FORMAT_VERSION},")), "{record}");
    let newer = record.replace("\"v\":1", "\"v\":99,\"gpu\":true");
    redis::cmd("HSET").arg(&pool).arg(&["w", &newer]).exec(&mut redis).unwrap();
    // A fleet must see the workers of every version, or it would take their machines for idle ones.
    assert_eq!(queue.workers().await.unwrap()[0].record.worker_id, WorkerId("w".into()));
}
