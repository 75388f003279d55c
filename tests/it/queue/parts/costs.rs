//! What the parts of a job cost in commands, and the claim that goes with the completion of a part.

use tcoder::config::RedisConfig;
use tcoder::queue::{FleetView, LockOutcome, RetireOutcome};
use tokio::time::timeout;

use super::*;
use crate::support::command_count::CommandCount;
use crate::support::kube::free_port;
use crate::support::redis::private_redis;
use crate::support::tcp_proxy::TcpProxy;

/// Longer than anything here takes, so that a hang ends as a failure.
pub const HANG: Duration = Duration::from_secs(120);

/// The commands of a split into this many chunks, of the claims and completions of the parts, and of the finish.
async fn commands_of_split(
    queue: &Queue,
    redis: &mut redis::Connection,
    chunks: u32,
    workers: u32,
) -> [u64; 3] {
    let total = parts(chunks).len();
    let w = worker(queue, "planner").await;
    submit(queue, &spec()).await;
    let job = claim(queue, &w).await.unwrap();
    let mut names = Vec::new();
    for n in 0..workers {
        names.push(worker(queue, &format!("worker-{n}")).await);
    }
    CommandCount::reset(redis);
    assert_eq!(queue.split(job.attempt, PLAN, &parts(chunks)).await.unwrap(), SplitOutcome::Split);
    let split = CommandCount::read(redis).total();
    let at = job.at.plus(60_000);
    CommandCount::reset(redis);
    let mut held = Vec::new();
    for name in &names {
        let Claim::Job(job) = queue.claim(name, at, false).await.unwrap() else { panic!("no part") };
        held.push(Some(*job));
    }
    // A worker whose next task is not ready is idle from then on; the one that completes the last part finishes the job.
    let last = 'done: loop {
        for (job, name) in held.iter_mut().zip(&names) {
            let Some(part) = job.take() else { continue };
            let (outcome, next) = complete_and_claim(queue, &part, total, name).await;
            assert_eq!(outcome, PartOutcome::Done);
            match next {
                Some(next) if next.part.is_none() => break 'done next,
                next => *job = next,
            }
        }
    };
    let encode = CommandCount::read(redis).total();
    CommandCount::reset(redis);
    assert_eq!(finish(queue, &last).await, CompleteOutcome::Done);
    [split, encode, CommandCount::read(redis).total()]
}

/// Hosted Redis is billed by commands, so their number is a promise. The documentation contains the numbers.
#[tokio::test]
async fn chunk_costs_at_most_twelve_commands() {
    // An hour in chunks of a minute.
    const CHUNKS: u32 = 60;
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let mut redis = server.raw();
    // One unmeasured run, so that the scripts are cached and every key exists.
    commands_of_split(&queue, &mut redis, 4, 2).await;
    let hour = commands_of_split(&queue, &mut redis, CHUNKS, 8).await;
    let two_hours = commands_of_split(&queue, &mut redis, 2 * CHUNKS, 8).await;
    let more = two_hours.iter().sum::<u64>() - hour.iter().sum::<u64>();
    let [split, encode, finish] = hour;
    println!(
        "commands of {CHUNKS} chunks and the sound on 8 workers: {split} for the split, {encode} for the parts, {finish} \
         for the end; {:.2} for each further part",
        more as f64 / f64::from(CHUNKS)
    );
    assert_eq!(more, 11 * u64::from(CHUNKS), "{hour:?} {two_hours:?}");
    assert!(split + encode <= 12 * u64::from(CHUNKS + 1), "{hour:?}");
    // Ten are those of a job with one task.
    assert!(finish <= 14, "{hour:?}");
}

#[tokio::test]
async fn completion_whose_answer_was_lost_is_done_once_and_claims_one_task() {
    let port = free_port();
    let server = private_redis(&["--port", &port.to_string()]);
    let proxy = TcpProxy::to(port).await;
    let config = RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port), server.config().prefix);
    let queue = Queue::connect_with(&config, LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 4).await;
    let first = claim(&queue, &w).await.unwrap();
    // The script is known to the server by then, so that the answer that is lost is that of the completion.
    let (_, second) = complete_and_claim(&queue, &first, 5, &w).await;
    let second = second.unwrap();
    proxy.lose_answers(1);
    let again = timeout(HANG, complete_and_claim(&queue, &second, 5, &w)).await.unwrap();
    assert_eq!(proxy.will_lose(), 0, "no answer was lost");
    let (outcome, third) = again;
    assert_eq!(outcome, PartOutcome::Already);
    let third = third.unwrap();
    assert_eq!((third.part, third.number), (Some(Part::Chunk(1)), 1));
    let leases: Vec<_> =
        zset(&mut server.raw(), &server.config(), "jobs:leases").into_iter().map(|l| l.0).collect();
    assert_eq!(leases, [third.lease().to_string()], "it took a second task");

    // No answer comes through for longer than one call tries: the worker's next call finds what the lost one took.
    proxy.lose_answers(u32::MAX);
    let next = NextClaim {
        worker: &w,
        now: third.at,
        sweep: false,
        claimable: Claimable::Any,
        is_known_alive: true,
    };
    let lost = timeout(
        HANG,
        queue.complete_part(&third, &report(&third), PartsInfo { count: 5, can_play: false }, Some(next)),
    )
    .await
    .unwrap();
    assert!(lost.unwrap_err().is_transient());
    proxy.lose_answers(0);
    let (outcome, fourth) = timeout(HANG, complete_and_claim(&queue, &third, 5, &w)).await.unwrap();
    assert_eq!((outcome, fourth.unwrap().part), (PartOutcome::Already, Some(Part::Chunk(2))));
    assert_eq!(zset(&mut server.raw(), &server.config(), "jobs:leases").len(), 1, "it took a second task");
    assert_eq!(open_parts(&server.config(), by.job), [Part::Chunk(2), Part::Chunk(3)]);
}

#[tokio::test]
async fn worker_that_holds_a_part_is_busy_and_a_retired_one_gets_none() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 2).await;
    let hold = Duration::from_secs(60);
    let LockOutcome::Mine(fence) = queue.acquire_fleet_lock("a", hold, true, false).await.unwrap() else {
        panic!("nobody else holds the lock")
    };
    let retire = async || queue.retire(&fence, "here", std::slice::from_ref(&w), hold).await.unwrap();
    let first = claim(&queue, &w).await.unwrap();
    assert_eq!(retire().await, RetireOutcome::Busy);
    let lease_of = |view: &FleetView| view.workers.iter().find(|of| of.worker == w).unwrap().lease;
    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    assert_eq!(lease_of(&view).map(|(job, _)| job), Some(by.job));
    assert_eq!((all_waiting(&view).pending, all_waiting(&view).due), (2, 0));
    assert!(all_waiting(&view).ready_since.is_some(), "{view:?}");
    assert_eq!(queue.workers().await.unwrap()[0].job_id, Some(by.job));
    // With the completion it gets the next one, so that it is busy all the time.
    let (_, second) = complete_and_claim(&queue, &first, 3, &w).await;
    let second = second.unwrap();
    assert_eq!(retire().await, RetireOutcome::Busy);
    assert_eq!(complete_part(&queue, &second, 3).await, PartOutcome::Done);
    assert_eq!(retire().await, RetireOutcome::Retired);
    // The same call, repeated by a worker that was retired since.
    let next = NextClaim {
        worker: &w,
        now: second.at,
        sweep: false,
        claimable: Claimable::Any,
        is_known_alive: true,
    };
    let (outcome, claim) = queue
        .complete_part(&second, &report(&second), PartsInfo { count: 3, can_play: false }, Some(next))
        .await
        .unwrap();
    assert_eq!((outcome, claim), (PartOutcome::Already, Some(Claim::Retired)));
    assert_eq!(open_parts(&config, by.job), [Part::Chunk(1)]);
}

#[tokio::test]
async fn completed_jobs_are_counted_while_others_wait_for_parts() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let job = claim(&queue, &w).await.unwrap();
    assert_eq!(finish(&queue, &job).await, CompleteOutcome::Done);
    let counts = async || {
        let stats = queue.stats().await.unwrap();
        (stats.completed, stats.pending, stats.scheduled, stats.running)
    };
    let first = split_job(&queue, &w, &spec(), 9).await;
    assert_eq!(counts().await, (1, 10, 0, 0));
    let held = claim_parts(&queue, 3).await;
    assert_eq!(counts().await, (1, 7, 0, 3));
    queue.fail(&held[0], &retryable()).await.unwrap();
    assert_eq!(complete_part(&queue, &held[1], 10).await, PartOutcome::Done);
    assert_eq!(counts().await, (1, 7, 1, 1));
    queue.cancel(first.job).await.unwrap();
    assert_eq!(counts().await, (1, 0, 0, 0));
}
