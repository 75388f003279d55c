//! Faults of Redis while a job is split: no memory, forgotten writes, scripts that fail midway, a clock that goes back.

use std::collections::BTreeMap;

use tcoder::job::StreamSegment;
use tcoder::queue::{QueueError, RedriveOutcome};
use tokio::time::{sleep, timeout};

use super::*;
use crate::queue::classes::{of_class, taking};
use crate::support::redis::{PrivateRedis, private_redis, private_redis_with_settable_clock, shared};

/// Longer than anything here takes, so that a hang ends as a failure.
const HANG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn fault_12_part_is_completed_without_memory_and_no_lease_is_reaped() {
    let server = private_redis(&["--maxmemory-policy", "noeviction"]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 3).await;
    let held = claim_parts(&queue, 2).await;
    let whole = submit(&queue, &spec()).await;
    // This one has the best place, and it is another job that is to be split.
    let pending = format!("{}jobs:pending", server.config().prefix);
    redis::cmd("ZADD").arg(pending).arg(1).arg(whole.to_string()).exec(&mut server.raw()).unwrap();
    let planned = claim(&queue, &w).await.unwrap();
    assert_eq!(planned.attempt.job, whole);
    let leases =
        || zset(&mut server.raw(), &server.config(), "jobs:leases").into_iter().map(|(name, _)| name);
    all_due(&mut server.raw(), &server.config());

    server.tell(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = queue.split(planned.attempt, PLAN, &parts(3)).await;
    assert!(matches!(refused, Err(QueueError::OutOfMemory)), "{refused:?}");
    assert_eq!(remains(&server.config(), whole), [""; 0]);
    // A call of another process, which does not know yet that memory is out.
    let other = Queue::connect_with(&server.config(), LONG).await;
    server.tell(&["CONFIG", "SET", "maxmemory", "0"]);
    let other = match other {
        Ok(other) => other,
        Err(_) => Queue::connect_with(&server.config(), LONG).await.unwrap(),
    };
    server.tell(&["CONFIG", "SET", "maxmemory", "1"]);
    let next = NextClaim {
        worker: &w,
        now: held[0].at,
        sweep: true,
        claimable: Claimable::Any,
        is_known_alive: true,
    };
    let (outcome, _) = other
        .complete_part(&held[0], &report(&held[0]), PartsInfo { count: 4, can_play: false }, Some(next))
        .await
        .unwrap();
    assert_eq!(outcome, PartOutcome::Done);
    let found: BTreeSet<String> = leases().collect();
    assert!(
        found.contains(&held[1].lease().to_string()) && found.contains(&planned.lease().to_string()),
        "{found:?}"
    );

    server.tell(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(!is_lost(&queue, &held[1]).await);
    assert_eq!(queue.split(planned.attempt, PLAN, &parts(0)).await.unwrap(), SplitOutcome::Split);
    assert_eq!(complete_part(&queue, &held[1], 4).await, PartOutcome::Done);
    assert_eq!(open_parts(&server.config(), by.job).len(), 2);
}

async fn forgetful() -> (PrivateRedis, Queue, WorkerId) {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    (server, queue, w)
}

/// Takes back all writes since Redis saved.
async fn forget(server: &mut PrivateRedis, queue: &Queue) {
    server.kill().await;
    server.start();
    let answers = async {
        while queue.ping().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, answers).await.expect("the handle does not come back");
}

/// What remains of the job is done by others, without a key that is left.
async fn done_by_others(server: &PrivateRedis, queue: &Queue, id: JobId, total: usize) {
    all_due(&mut server.raw(), &server.config());
    queue.sweep(100, 0).await.unwrap();
    let w = worker(queue, "heir").await;
    let mut finished = 0;
    while let Some(job) = claim(queue, &w).await {
        assert_eq!(job.attempt.job, id);
        if job.part.is_some() {
            assert_eq!(complete_part(queue, &job, total).await, PartOutcome::Done);
        } else if job.split.is_none() {
            assert_eq!(queue.split(job.attempt, PLAN, &parts(2)).await.unwrap(), SplitOutcome::Split);
        } else {
            assert_eq!(queue.part_reports(job.split.unwrap()).await.unwrap().unwrap().reports.len(), total);
            assert_eq!(finish(queue, &job).await, CompleteOutcome::Done);
            finished += 1;
        }
    }
    assert_eq!((finished, state(queue, id).await), (1, State::Completed));
    assert_eq!(remains(&server.config(), id), [""; 0]);
}

#[tokio::test]
async fn fault_10_forgotten_split_is_repeated_by_another_attempt() {
    let (mut server, queue, w) = forgetful().await;
    let id = submit(&queue, &hooked()).await;
    let job = claim(&queue, &w).await.unwrap();
    server.tell(&["SAVE"]);
    assert_eq!(queue.split(job.attempt, PLAN, &parts(2)).await.unwrap(), SplitOutcome::Split);
    let held = claim_parts(&queue, 2).await;
    forget(&mut server, &queue).await;
    for job in &held {
        assert!(is_lost(&queue, job).await);
        assert_eq!(complete_part(&queue, job, 3).await, PartOutcome::Lost);
    }
    done_by_others(&server, &queue, id, 3).await;
}

#[tokio::test]
async fn fault_10_forgotten_completions_of_parts_are_done_again_and_the_job_is_finished_once() {
    for saved_after in 0..3 {
        let (mut server, queue, w) = forgetful().await;
        let by = split_job(&queue, &w, &hooked(), 2).await;
        let held = claim_parts(&queue, 3).await;
        for (n, job) in held.iter().enumerate() {
            if n == saved_after {
                server.tell(&["SAVE"]);
            }
            assert_eq!(complete_part(&queue, job, 3).await, PartOutcome::Done);
        }
        let last = claim(&queue, &w).await.unwrap();
        forget(&mut server, &queue).await;
        assert_eq!(state(&queue, by.job).await, State::Running);
        assert!(is_lost(&queue, &last).await);
        // A worker that did not hear of its completion repeats it, the others do not.
        assert_eq!(complete_part(&queue, &held[saved_after], 3).await, PartOutcome::Done);
        done_by_others(&server, &queue, by.job, 3).await;
        assert_eq!(finish(&queue, &last).await, CompleteOutcome::Lost(Some(State::Completed)));
    }
}

#[tokio::test]
async fn fault_10_forgotten_failure_of_a_part_leaves_a_job_that_ends() {
    let (mut server, queue, w) = forgetful().await;
    let by = split_job(&queue, &w, &hooked(), 2).await;
    let held = claim_parts(&queue, 3).await;
    assert_eq!(complete_part(&queue, &held[0], 3).await, PartOutcome::Done);
    server.tell(&["SAVE"]);
    assert_eq!(queue.fail(&held[1], &hopeless()).await.unwrap(), FailOutcome::Failed);
    forget(&mut server, &queue).await;
    assert_eq!(queue.deliveries().await.unwrap(), []);
    done_by_others(&server, &queue, by.job, 3).await;
}

/// A call that is to fail midway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Split,
    CompletePart,
    CompletePartAndClaim,
    CompleteLast,
    RetryPart,
    FailPart,
    ReleasePart,
    ReapPart,
    Cancel,
    CancelFinish,
    FailFinish,
    Complete,
    ClaimFinish,
    AwaitSegment,
    LetNextIn,
    AwaitHeldBack,
}

const CALLS: [Call; 16] = [
    Call::Split,
    Call::CompletePart,
    Call::CompletePartAndClaim,
    Call::CompleteLast,
    Call::RetryPart,
    Call::FailPart,
    Call::ReleasePart,
    Call::ReapPart,
    Call::Cancel,
    Call::CancelFinish,
    Call::FailFinish,
    Call::Complete,
    Call::ClaimFinish,
    Call::AwaitSegment,
    Call::LetNextIn,
    Call::AwaitHeldBack,
];

/// All keys that these calls write, except for records; `<id>` is that of the job.
const KEYS: [&str; 16] = [
    "jobs:pending",
    "jobs:scheduled",
    "jobs:leases",
    "jobs:dead",
    "jobs:cancelled",
    "jobs:cleanup",
    "jobs:events",
    "jobs:bell",
    "jobs:bell:awaited",
    "jobs:bell:sound",
    "jobs:split",
    "jobs:parts:<id>",
    "jobs:reports:<id>",
    "jobs:heldback:<id>",
    "machines:alive",
    "webhooks:outbox",
];

/// The same of a job of the class `large`.
fn key_of_class(name: &'static str) -> &'static str {
    match name {
        "jobs:pending" => "jobs:pending:large",
        "jobs:bell" => "jobs:bell:class:large",
        "jobs:bell:awaited" => "jobs:bell:awaited:large",
        other => other,
    }
}

struct Scene {
    queue: Queue,
    config: RedisConfig,
    redis: redis::Connection,
    w: WorkerId,
    id: JobId,
    held: Vec<Claimed>,
}

impl Scene {
    async fn before(call: Call, class: &str) -> Self {
        let config = shared();
        let queue = taking(&Queue::connect_with(&config, LONG).await.unwrap(), class);
        let redis = raw(&config);
        let w = worker(&queue, "w").await;
        let id = submit(&queue, &of_class(class)).await;
        let mut scene = Self { queue, config, redis, w, id, held: Vec::new() };
        let queue = &scene.queue;
        if call == Call::Split {
            scene.held.push(claim(queue, &scene.w).await.unwrap());
            return scene;
        }
        if matches!(call, Call::LetNextIn | Call::AwaitHeldBack) {
            let job = claim(queue, &scene.w).await.unwrap();
            queue.split(job.attempt, PLAN, &limited_parts(3, 1)).await.unwrap();
            scene.held = claim_parts(queue, 2).await;
            scene.held.remove(0);
            return scene;
        }
        split(queue, &scene.w, 2).await;
        let mut held = claim_parts(queue, 2).await;
        assert_eq!(complete_part(queue, &held.remove(0), 3).await, PartOutcome::Done);
        if matches!(
            call,
            Call::CompleteLast | Call::CancelFinish | Call::FailFinish | Call::Complete | Call::ClaimFinish
        ) {
            assert_eq!(complete_part(queue, &held.remove(0), 3).await, PartOutcome::Done);
            held = claim_parts(queue, 1).await;
        }
        if matches!(call, Call::CancelFinish | Call::FailFinish | Call::Complete | Call::ClaimFinish) {
            assert_eq!(complete_part(queue, &held.remove(0), 3).await, PartOutcome::Done);
            if call != Call::ClaimFinish {
                held = vec![claim(queue, &scene.w).await.unwrap()];
            }
        }
        if call == Call::ReapPart {
            all_due(&mut scene.redis, &scene.config);
        }
        scene.held = held;
        scene
    }

    async fn run(&self, call: Call) -> Result<(), QueueError> {
        let queue = &self.queue;
        let job = || &self.held[0];
        match call {
            Call::Split => queue.split(job().attempt, PLAN, &parts(2)).await.map(drop),
            Call::CompletePart | Call::CompleteLast | Call::LetNextIn => queue
                .complete_part(job(), "report", PartsInfo { count: 3, can_play: false }, None)
                .await
                .map(drop),
            Call::CompletePartAndClaim => {
                let next = NextClaim {
                    worker: &self.w,
                    now: job().at,
                    sweep: false,
                    claimable: Claimable::Any,
                    is_known_alive: false,
                };
                queue
                    .complete_part(job(), "report", PartsInfo { count: 3, can_play: false }, Some(next))
                    .await
                    .map(drop)
            }
            Call::RetryPart => queue.fail(job(), &retryable()).await.map(drop),
            Call::FailPart | Call::FailFinish => queue.fail(job(), &hopeless()).await.map(drop),
            Call::ReleasePart => queue.release(job().lease()).await.map(drop),
            Call::ReapPart => queue.sweep(10, 0).await.map(drop),
            Call::Cancel | Call::CancelFinish => queue.cancel(self.id).await.map(drop),
            Call::Complete => queue.complete(job(), &result_of(1), job().attempt.epoch).await.map(drop),
            Call::AwaitSegment | Call::AwaitHeldBack => {
                let by = job().split.unwrap();
                queue.await_segment(by, StreamSegment::Video(2)).await.map(drop)
            }
            Call::ClaimFinish => queue.claim(&self.w, now(queue).await, false).await.map(drop),
        }
    }

    /// Puts a string in the place of this key, so that all commands for it fail.
    fn spoil(&mut self, key: &str) {
        let exists: bool = redis::cmd("EXISTS").arg(key).query(&mut self.redis).unwrap();
        if exists {
            redis::cmd("RENAME").arg(key).arg(format!("{key}:hidden")).exec(&mut self.redis).unwrap();
        }
        redis::cmd("SET").arg(key).arg("spoiled").exec(&mut self.redis).unwrap();
    }

    fn repair(&mut self, key: &str) {
        redis::cmd("DEL").arg(key).exec(&mut self.redis).unwrap();
        let hidden = format!("{key}:hidden");
        let exists: bool = redis::cmd("EXISTS").arg(&hidden).query(&mut self.redis).unwrap();
        if exists {
            redis::cmd("RENAME").arg(&hidden).arg(key).exec(&mut self.redis).unwrap();
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{}", self.config.prefix, name.replace("<id>", &self.id.to_string()))
    }

    /// Where the job and its parts stand, without ids and epochs, which differ in each scene.
    fn look(&mut self) -> BTreeMap<String, Vec<String>> {
        let id = self.id.to_string();
        let mut found = BTreeMap::new();
        for set in [
            "jobs:pending",
            "jobs:pending:large",
            "jobs:scheduled",
            "jobs:leases",
            "jobs:dead",
            "jobs:cancelled",
            "webhooks:outbox",
        ] {
            let members = zset(&mut self.redis, &self.config, set).into_iter();
            let names = members.filter_map(|(member, _)| {
                let rest = member.strip_prefix(&id)?;
                Some(
                    rest.split(':').filter(|part| part.parse::<u64>().is_err()).collect::<Vec<_>>().join(":"),
                )
            });
            found.insert(set.to_owned(), names.collect());
        }
        let records: Vec<String> =
            redis::cmd("KEYS").arg(self.key("jobs:status:<id>*")).query(&mut self.redis).unwrap();
        for record in records {
            let (state, attempt): (String, u32) =
                redis::cmd("HMGET").arg(&record).arg(&["state", "attempt"]).query(&mut self.redis).unwrap();
            found.insert(record.split_once(&id).unwrap().1.to_owned(), vec![state, attempt.to_string()]);
        }
        let mut open: Vec<String> =
            redis::cmd("HKEYS").arg(self.key("jobs:reports:<id>")).query(&mut self.redis).unwrap();
        open.sort();
        found.insert("reports".to_owned(), open);
        let held_back: Vec<String> = redis::cmd("ZRANGE")
            .arg(self.key("jobs:heldback:<id>"))
            .arg(&["0", "-1"])
            .query(&mut self.redis)
            .unwrap();
        found.insert("held back".to_owned(), held_back);
        let split: Vec<String> =
            redis::cmd("SMEMBERS").arg(self.key("jobs:split")).query(&mut self.redis).unwrap();
        found.insert("split".to_owned(), vec![split.contains(&id).to_string()]);
        found
    }
}

#[tokio::test]
async fn fault_15_script_that_fails_midway_in_a_split_job_can_be_repeated() {
    scripts_can_be_repeated("default", &KEYS).await;
}

#[tokio::test]
async fn fault_15_script_that_fails_midway_in_a_split_job_of_a_class_can_be_repeated() {
    let keys: Vec<&str> = KEYS.into_iter().map(key_of_class).chain(["jobs:classes"]).collect();
    scripts_can_be_repeated("large", &keys).await;
}

async fn scripts_can_be_repeated(class: &str, keys: &[&'static str]) {
    let mut failed = BTreeSet::new();
    for call in CALLS {
        let mut whole = Scene::before(call, class).await;
        whole.run(call).await.unwrap();
        let expected = whole.look();
        for &name in keys {
            let mut scene = Scene::before(call, class).await;
            let key = scene.key(name);
            scene.spoil(&key);
            let outcome = scene.run(call).await;
            scene.repair(&key);
            let Err(error) = outcome else { continue };
            assert!(matches!(error, QueueError::Refused(_)), "{call:?} without {name}: {error:?}");
            scene.run(call).await.unwrap_or_else(|error| panic!("{call:?} after {name}: {error}"));
            assert_eq!(scene.look(), expected, "{call:?} after {name}");
            failed.insert(name);
        }
    }
    // Each key made some call fail.
    assert_eq!(failed, keys.iter().copied().collect());
}

#[tokio::test]
async fn lease_of_a_part_is_never_that_of_an_earlier_split_though_the_clock_is_set_back() {
    let server = private_redis_with_settable_clock();
    server.set_clock(3600);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 6).await;
    // The completion of a part claims the next one at the time of its event, which stands still for an hour now.
    let encode = async |total: usize| {
        let mut job = claim(&queue, &w).await.unwrap();
        let mut leases = vec![job.lease()];
        for _ in 0..4 {
            job = complete_and_claim(&queue, &job, total, &w).await.1.unwrap();
            leases.push(job.lease());
        }
        leases
    };
    let before: BTreeSet<LeaseId> = encode(7).await.into_iter().collect();
    server.set_clock(0);
    queue.cancel(by.job).await.unwrap();
    assert_eq!(queue.redrive(by.job).await.unwrap(), RedriveOutcome::Queued);
    let anew = split(&queue, &w, 6).await;
    let after: BTreeSet<LeaseId> = encode(7).await.into_iter().collect();
    assert_eq!(before.intersection(&after).collect::<Vec<_>>(), Vec::<&LeaseId>::new());
    assert!(after.iter().all(|lease| lease.epoch > anew.epoch), "{after:?}");
}

#[tokio::test]
async fn lost_and_failed_parts_are_ready_in_time_after_the_clock_was_set_back() {
    let server = private_redis_with_settable_clock();
    server.set_clock(3600);
    let queue = Queue::connect_with(&server.config(), Policy { lease: Duration::from_secs(2), ..LONG })
        .await
        .unwrap();
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 1).await;
    let held = claim_parts(&queue, 2).await;
    assert!(matches!(queue.fail(&held[0], &retryable()).await.unwrap(), FailOutcome::Retry(_)));
    server.set_clock(0);
    let mut ready = 0;
    let both = async {
        while ready < 2 {
            ready += queue.sweep(10, 0).await.unwrap().ready;
        }
    };
    timeout(HANG, both).await.expect("a part waits for the former time");
    for _ in 0..2 {
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!((job.split, job.number), (Some(by), 2));
        assert_eq!(complete_part(&queue, &job, 2).await, PartOutcome::Done);
    }
    assert_eq!(finish(&queue, &claim(&queue, &w).await.unwrap()).await, CompleteOutcome::Done);
}
