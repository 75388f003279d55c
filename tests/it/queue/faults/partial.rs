//! A script that fails after its first write. Redis does not roll it back, so it has to do so itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tcoder::config::RedisConfig;
use tcoder::job::{Failure, FailureCode, JobId, JobSpec, Priority};
use tcoder::queue::{CancelReason, Claim, Claimed, Queue, QueueError, SubmitMode};

use crate::queue::classes::{misplace, of_class, taking};
use crate::queue::{
    LONG, all_due, arrived, claim, hooked, hopeless, now, result_of, retryable, submit, too_large, worker,
};
use crate::support::redis::{raw, shared};

/// A transition of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Submit,
    SubmitDelayed,
    SubmitUpload,
    Uploaded,
    UploadedLate,
    UploadRefused,
    ExpireUpload,
    Claim,
    Complete,
    FailAndRetry,
    Fail,
    Release,
    CancelUploading,
    CancelQueued,
    CancelDelayed,
    CancelRunning,
    CancelSuspended,
    Overdue,
    RedriveFailed,
    RedriveCancelled,
    Reap,
    Promote,
    /// While a job of another class waits that the worker takes, too.
    ClaimBesideOther,
    /// A version that knows no classes has put the job into the wrong lane.
    ClaimMisplaced,
    SweepMisplaced,
}

const CALLS: [Call; 22] = [
    Call::Submit,
    Call::SubmitDelayed,
    Call::SubmitUpload,
    Call::Uploaded,
    Call::UploadedLate,
    Call::UploadRefused,
    Call::ExpireUpload,
    Call::Claim,
    Call::Complete,
    Call::FailAndRetry,
    Call::Fail,
    Call::Release,
    Call::CancelUploading,
    Call::CancelQueued,
    Call::CancelDelayed,
    Call::CancelRunning,
    Call::CancelSuspended,
    Call::Overdue,
    Call::RedriveFailed,
    Call::RedriveCancelled,
    Call::Reap,
    Call::Promote,
];

/// These are there because of the classes.
const CALLS_OF_CLASSES: [Call; 3] = [Call::ClaimBesideOther, Call::ClaimMisplaced, Call::SweepMisplaced];

/// All keys that these calls write, except for the job's own record.
const KEYS: [&str; 13] = [
    "jobs:uploading",
    "jobs:pending",
    "jobs:scheduled",
    "jobs:leases",
    "jobs:dead",
    "jobs:cancelled",
    "jobs:index",
    "jobs:cleanup",
    "jobs:events",
    "jobs:bell",
    "machines:alive",
    "machines:pool",
    "webhooks:outbox",
];

/// The same for jobs of the class `large`.
const KEYS_OF_CLASS: [&str; 16] = [
    "jobs:uploading",
    "jobs:pending",
    "jobs:pending:large",
    "jobs:classes",
    "jobs:scheduled",
    "jobs:leases",
    "jobs:dead",
    "jobs:cancelled",
    "jobs:index",
    "jobs:cleanup",
    "jobs:events",
    "jobs:bell",
    "jobs:bell:class:large",
    "machines:alive",
    "machines:pool",
    "webhooks:outbox",
];

const WINDOW: SubmitMode = SubmitMode::OnUpload(Duration::from_secs(3600));
const DELAYED: SubmitMode = SubmitMode::After(Duration::from_secs(3600));

/// One job, in the state that a call finds.
struct Scene {
    queue: Queue,
    config: RedisConfig,
    redis: redis::Connection,
    id: JobId,
    attempt: Option<Claimed>,
    class: &'static str,
}

impl Scene {
    async fn before(call: Call, class: &'static str) -> Self {
        let config = shared();
        let queue = taking(&Queue::connect_with(&config, LONG).await.unwrap(), class);
        let redis = raw(&config);
        let mut scene = Self { queue, config, redis, id: JobId::new(), attempt: None, class };
        let w = worker(&scene.queue, "w").await;
        match call {
            Call::Submit | Call::SubmitDelayed | Call::SubmitUpload => {}
            Call::Uploaded | Call::UploadRefused | Call::ExpireUpload | Call::CancelUploading => {
                scene.submit(WINDOW).await;
            }
            Call::UploadedLate => {
                scene.submit(WINDOW).await;
                scene.queue.expire_upload(scene.id, &too_late()).await.unwrap();
            }
            Call::Claim | Call::CancelQueued => scene.submit(SubmitMode::Now).await,
            Call::ClaimBesideOther => {
                scene.submit(SubmitMode::Now).await;
                let behind = JobSpec { priority: Priority::try_from(-9).unwrap(), ..hooked() };
                submit(&scene.queue, &behind).await;
                scene.queue = taking(&scene.queue, "default,large");
            }
            Call::ClaimMisplaced | Call::SweepMisplaced => {
                scene.submit(SubmitMode::Now).await;
                misplace(&scene.config, &scene.id.to_string(), 1);
                scene.queue = taking(&scene.queue, "default,large");
            }
            Call::CancelDelayed => scene.submit(DELAYED).await,
            Call::Promote => {
                scene.submit(DELAYED).await;
                all_due(&mut scene.redis, &scene.config);
            }
            Call::CancelSuspended => {
                scene.submit(SubmitMode::Now).await;
                scene.queue.cancel_with(scene.id, &CancelReason::Suspended).await.unwrap();
            }
            Call::RedriveCancelled => {
                scene.submit(SubmitMode::Now).await;
                scene.queue.cancel(scene.id).await.unwrap();
            }
            Call::Complete
            | Call::FailAndRetry
            | Call::Fail
            | Call::Release
            | Call::CancelRunning
            | Call::Overdue
            | Call::RedriveFailed
            | Call::Reap => {
                scene.submit(SubmitMode::Now).await;
                scene.attempt = claim(&scene.queue, &w).await;
                assert!(scene.attempt.is_some());
            }
        }
        if call == Call::Reap {
            all_due(&mut scene.redis, &scene.config);
        } else if call == Call::RedriveFailed {
            scene.queue.fail(scene.attempt.as_ref().unwrap(), &hopeless()).await.unwrap();
        }
        scene
    }

    async fn submit(&self, start: SubmitMode) {
        self.queue.submit(self.id, &of_class(self.class), start).await.unwrap();
    }

    async fn run(&self, call: Call) -> Result<(), QueueError> {
        let (queue, id) = (&self.queue, self.id);
        let attempt = || self.attempt.as_ref().unwrap();
        match call {
            Call::Submit => queue.submit(id, &of_class(self.class), SubmitMode::Now).await.map(drop),
            Call::SubmitDelayed => queue.submit(id, &of_class(self.class), DELAYED).await.map(drop),
            Call::SubmitUpload => queue.submit(id, &of_class(self.class), WINDOW).await.map(drop),
            Call::Uploaded | Call::UploadedLate => queue.uploaded(&arrived(id)).await.map(drop),
            Call::UploadRefused => queue.uploaded(&too_large(id)).await.map(drop),
            Call::ExpireUpload => queue.expire_upload(id, &too_late()).await.map(drop),
            Call::Claim | Call::ClaimBesideOther | Call::ClaimMisplaced => {
                let claimed =
                    queue.claim(&tcoder::job::WorkerId("w".into()), now(queue).await, false).await?;
                assert!(matches!(claimed, Claim::Job(_)), "{claimed:?}");
                Ok(())
            }
            Call::Complete => {
                let job = attempt();
                queue.complete(job, &result_of(1), job.attempt.epoch).await.map(drop)
            }
            Call::FailAndRetry => queue.fail(attempt(), &retryable()).await.map(drop),
            Call::Fail => queue.fail(attempt(), &hopeless()).await.map(drop),
            Call::Release => queue.release(attempt().attempt).await.map(drop),
            Call::CancelUploading
            | Call::CancelQueued
            | Call::CancelDelayed
            | Call::CancelRunning
            | Call::CancelSuspended => queue.cancel(id).await.map(drop),
            Call::Overdue => {
                let why = Failure::new(FailureCode::DeadlineExceeded, "it took too long");
                queue.cancel_with(id, &CancelReason::DeadlineExceeded(why)).await.map(drop)
            }
            Call::RedriveFailed | Call::RedriveCancelled => queue.redrive(id).await.map(drop),
            Call::Reap | Call::Promote | Call::SweepMisplaced => queue.sweep(10, 0).await.map(drop),
        }
    }

    /// Puts a string in the place of this key, so that all commands for it fail.
    fn spoil(&mut self, key: &str) {
        let key = format!("{}{key}", self.config.prefix);
        let exists: bool = redis::cmd("EXISTS").arg(&key).query(&mut self.redis).unwrap();
        if exists {
            redis::cmd("RENAME").arg(&key).arg(format!("{key}:hidden")).exec(&mut self.redis).unwrap();
        }
        redis::cmd("SET").arg(&key).arg("spoiled").exec(&mut self.redis).unwrap();
    }

    fn repair(&mut self, key: &str) {
        let key = format!("{}{key}", self.config.prefix);
        redis::cmd("DEL").arg(&key).exec(&mut self.redis).unwrap();
        let hidden = format!("{key}:hidden");
        let exists: bool = redis::cmd("EXISTS").arg(&hidden).query(&mut self.redis).unwrap();
        if exists {
            redis::cmd("RENAME").arg(&hidden).arg(&key).exec(&mut self.redis).unwrap();
        }
    }

    /// Where the job stands: its state and attempts, whether its record expires, and the sets that contain it.
    fn look(&mut self) -> BTreeMap<String, String> {
        let prefix = &self.config.prefix;
        let mut found = BTreeMap::new();
        for set in KEYS_OF_CLASS {
            let is_of_another_kind = matches!(set, "jobs:events" | "jobs:classes" | "machines:pool");
            if is_of_another_kind || set.starts_with("jobs:bell") {
                continue;
            }
            let members: Vec<String> = redis::cmd("ZRANGE")
                .arg(format!("{prefix}{set}"))
                .arg(&["0", "-1"])
                .query(&mut self.redis)
                .unwrap();
            // Without ids and epochs, which differ in each scene.
            let id = self.id.to_string();
            let is_word = |part: &&str| *part != id && part.parse::<u64>().is_err();
            let names: Vec<String> = members
                .iter()
                .filter(|member| member.contains(&id))
                .map(|member| member.split(':').filter(is_word).collect::<Vec<_>>().join(":"))
                .collect();
            if !names.is_empty() {
                found.insert(set.to_owned(), names.join(" "));
            }
        }
        let key = format!("{prefix}jobs:status:{}", self.id);
        let (state, attempt): (Option<String>, Option<String>) =
            redis::cmd("HMGET").arg(&key).arg(&["state", "attempt"]).query(&mut self.redis).unwrap();
        let ttl: i64 = redis::cmd("PTTL").arg(&key).query(&mut self.redis).unwrap();
        found.extend(state.map(|state| ("state".to_owned(), state)));
        found.extend(attempt.map(|attempt| ("attempt".to_owned(), attempt)));
        found.insert("expires".to_owned(), (ttl > 0).to_string());
        found
    }
}

fn too_late() -> Failure {
    Failure::new(FailureCode::UploadExpired, "it never came")
}

/// A live job is in exactly one of the sets that lead to its end, the one of its state. Another one is in none of them,
/// and its record expires.
fn is_consistent(found: &BTreeMap<String, String>) -> bool {
    let live = ["jobs:uploading", "jobs:pending", "jobs:pending:large", "jobs:scheduled", "jobs:leases"];
    let sets: Vec<&str> = live.into_iter().filter(|set| found.contains_key(*set)).collect();
    let ends = [found.contains_key("jobs:dead"), found.contains_key("jobs:cancelled")];
    let expires = found["expires"] == "true";
    match (found.get("state").map(String::as_str), sets.as_slice()) {
        (Some("uploading"), ["jobs:uploading"])
        | (Some("queued"), ["jobs:pending" | "jobs:pending:large" | "jobs:scheduled"])
        | (Some("running"), ["jobs:leases"]) => !expires && ends == [false, false],
        (Some("completed"), []) => expires && ends == [false, false],
        (Some("failed"), []) => expires && ends == [true, false],
        (Some("cancelled"), []) => expires && ends == [false, true],
        (None, []) => ends == [false, false] && !found.contains_key("jobs:index"),
        _ => false,
    }
}

#[tokio::test]
async fn fault_15_script_that_fails_midway_leaves_no_partial_state_and_can_be_repeated() {
    scripts_leave_no_partial_state("default", &CALLS, &KEYS).await;
}

#[tokio::test]
async fn fault_15_script_that_fails_midway_leaves_no_partial_state_of_a_job_of_a_class() {
    scripts_leave_no_partial_state("large", &[&CALLS[..], &CALLS_OF_CLASSES].concat(), &KEYS_OF_CLASS).await;
}

async fn scripts_leave_no_partial_state(class: &'static str, calls: &[Call], keys: &[&'static str]) {
    let mut failed = BTreeSet::new();
    for &call in calls {
        let mut whole = Scene::before(call, class).await;
        whole.run(call).await.unwrap();
        let expected = whole.look();
        assert!(is_consistent(&expected), "{call:?}: {expected:?}");
        for &key in keys {
            let mut scene = Scene::before(call, class).await;
            scene.spoil(key);
            let outcome = scene.run(call).await;
            scene.repair(key);
            let found = scene.look();
            assert!(is_consistent(&found), "{call:?} without {key}: {outcome:?}, {found:?}");
            let Err(error) = outcome else { continue };
            assert!(matches!(error, QueueError::Refused(_)), "{call:?} without {key}: {error:?}");
            scene.run(call).await.unwrap_or_else(|error| panic!("{call:?} after {key}: {error}"));
            assert_eq!(scene.look(), expected, "{call:?} after {key}");
            failed.insert(key);
        }
    }
    // Each key made some call fail.
    assert_eq!(failed, keys.iter().copied().collect());
}
