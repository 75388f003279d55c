//! Split jobs beside workers and controllers of versions that know none. The recorded scripts of the last one are in
//! `../before_parts/`; they leave records of a version that they do not know alone. The oldest version from which an
//! upgrade may start (`../previous/`) has no such check.

use tcoder::queue::RedriveOutcome;

use super::*;

/// The version before this one, called as its code called its scripts.
pub(super) struct WholeJobs {
    redis: redis::Connection,
    prefix: String,
}

macro_rules! script {
    ($name:literal) => {
        concat!(
            include_str!("../before_parts/lib.lua"),
            "local function script()\n",
            include_str!(concat!("../before_parts/", $name, ".lua")),
            "end\nreturn script()\n"
        )
    };
}

impl WholeJobs {
    pub(super) fn new(config: &RedisConfig) -> Self {
        Self { redis: raw(config), prefix: config.prefix.clone() }
    }

    /// The first word of the answer.
    fn call(&mut self, script: &str, args: &[&str]) -> redis::Value {
        let mut call = redis::cmd("EVAL");
        call.arg(script).arg(1).arg(format!("{}jobs", self.prefix)).arg(&self.prefix).arg(args);
        call.query::<Vec<redis::Value>>(&mut self.redis).unwrap().remove(0)
    }

    pub(super) fn claim(&mut self, worker: &WorkerId, now: Millis) -> String {
        let now = now.0.to_string();
        let args = [&worker.0, &now, "3600000", "180000", "0", "0", "0", "token", "0"];
        redis::from_redis_value(self.call(script!("claim"), &args)).unwrap()
    }

    pub(super) fn cancel(&mut self, id: JobId) {
        let word: String =
            redis::from_redis_value(self.call(script!("cancel"), &[&id.to_string(), "cancelled", ""]))
                .unwrap();
        assert_eq!(word, "CANCELLED");
    }

    pub(super) fn redrive(&mut self, id: JobId) {
        let word: String =
            redis::from_redis_value(self.call(script!("redrive"), &[&id.to_string()])).unwrap();
        assert_eq!(word, "QUEUED");
    }

    /// The number of tasks that became ready.
    pub(super) fn sweep(&mut self) -> u32 {
        let args = ["10", "0", "0", "3600000", "180000", "0", "600000"];
        redis::from_redis_value(self.call(script!("sweep"), &args)).unwrap()
    }
}

#[tokio::test]
async fn worker_of_a_version_without_parts_leaves_them_to_this_one_at_no_cost() {
    let (queue, config) = queue().await;
    let mut old = WholeJobs::new(&config);
    let (w, o) = (worker(&queue, "new").await, worker(&queue, "old").await);
    let by = split_job(&queue, &w, &JobSpec { max_attempts: 1, ..spec() }, 2).await;
    for _ in 0..3 {
        assert_eq!(old.claim(&o, now(&queue).await), "NEWER");
    }
    assert_eq!(old.claim(&o, now(&queue).await), "EMPTY");
    all_due(&mut raw(&config), &config);
    // Sweeps of either version make them ready again.
    assert_eq!(old.sweep(), 3);
    let held = claim_parts(&queue, 3).await;
    for job in &held {
        assert_eq!((job.number, job.split), (1, Some(by)));
    }
    // A lease that has expired is left to a sweep of this version.
    all_due(&mut raw(&config), &config);
    assert_eq!(old.sweep(), 0);
    for job in &held {
        assert!(!is_lost(&queue, job).await);
        assert_eq!(complete_part(&queue, job, 3).await, PartOutcome::Done);
    }
    assert_eq!(old.claim(&o, now(&queue).await), "NEWER");
    all_due(&mut raw(&config), &config);
    assert_eq!(queue.sweep(10, 0).await.unwrap().ready, 1);
    assert_eq!(finish(&queue, &claim(&queue, &w).await.unwrap()).await, CompleteOutcome::Done);
    assert_eq!(remains(&config, by.job), [""; 0]);
}

#[tokio::test]
async fn parts_of_a_job_that_an_older_version_cancelled_are_dropped() {
    let (queue, config) = queue().await;
    let mut old = WholeJobs::new(&config);
    let w = worker(&queue, "w").await;
    let id = submit(&queue, &spec()).await;
    let by = split(&queue, &w, 3).await;
    let held = claim_parts(&queue, 3).await;
    assert_eq!(complete_part(&queue, &held[0], 4).await, PartOutcome::Done);
    old.cancel(id);
    assert_ne!(remains(&config, id), [""; 0]);
    // The first current worker that completes, fails or claims a part of such a job removes all that remains of its
    // split. The second queue below has no earlier knowledge of the job.
    assert_eq!(complete_part(&queue, &held[1], 4).await, PartOutcome::Lost);
    assert_eq!(remains(&config, id), [""; 0]);
    assert_eq!(state(&queue, id).await, State::Cancelled);

    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    let again = split(&queue, &w, 3).await;
    assert!(again > by);
    let held = claim_parts(&queue, 1).await;
    old.cancel(id);
    let failed = queue.fail(&held[0], &hopeless()).await.unwrap();
    assert_eq!(failed, FailOutcome::Lost(Some(State::Cancelled)));
    assert_eq!(remains(&config, id), [""; 0]);

    assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
    split(&queue, &w, 3).await;
    old.cancel(id);
    let stranger = Queue::connect_with(&config, LONG).await.unwrap();
    assert_eq!(claim(&stranger, &w).await, None);
    assert_eq!(remains(&config, id), [""; 0]);
    assert_eq!(state(&queue, id).await, State::Cancelled);
}

#[tokio::test]
async fn job_that_an_older_version_cancelled_and_retried_is_planned_anew() {
    for retried_by_old in [true, false] {
        let (queue, config) = queue().await;
        let mut old = WholeJobs::new(&config);
        let w = worker(&queue, "w").await;
        let id = submit(&queue, &spec()).await;
        let by = split(&queue, &w, 2).await;
        let held = claim_parts(&queue, 2).await;
        assert_eq!(complete_part(&queue, &held[0], 3).await, PartOutcome::Done);
        old.cancel(id);
        if retried_by_old {
            old.redrive(id);
            // The job has the best place among what is ready.
            let pending = format!("{}jobs:pending", config.prefix);
            redis::cmd("ZADD").arg(pending).arg(1).arg(id.to_string()).exec(&mut raw(&config)).unwrap();
            assert_eq!(complete_part(&queue, &held[1], 3).await, PartOutcome::Lost);
        } else {
            assert_eq!(queue.redrive(id).await.unwrap(), RedriveOutcome::Queued);
            assert_eq!(remains(&config, id), [""; 0]);
        }
        let anew = split(&queue, &w, 0).await;
        assert!(anew > by && cleanups(&config).contains(&format!("attempt:{by}")));
        assert_eq!(complete_part(&queue, &held[1], 3).await, PartOutcome::Lost);
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!((job.part, job.split), (Some(Part::Audio), Some(anew)));
        assert_eq!(claim(&queue, &w).await, None);
        assert_eq!(complete_part(&queue, &job, 1).await, PartOutcome::Done);
        assert_eq!(finish(&queue, &claim(&queue, &w).await.unwrap()).await, CompleteOutcome::Done);
        assert_eq!(remains(&config, id), [""; 0]);
    }
}

#[tokio::test]
async fn finish_of_a_job_that_an_older_version_cancelled_and_retried_still_has_its_parts() {
    let (queue, config) = queue().await;
    let mut old = WholeJobs::new(&config);
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 1).await;
    for job in claim_parts(&queue, 2).await {
        complete_part(&queue, &job, 2).await;
    }
    old.cancel(by.job);
    old.redrive(by.job);
    let last = claim(&queue, &w).await.unwrap();
    assert_eq!((last.split, queue.part_reports(by).await.unwrap().unwrap().reports.len()), (Some(by), 2));
    assert_eq!(finish(&queue, &last).await, CompleteOutcome::Done);
    assert_eq!(remains(&config, by.job), [""; 0]);
}
