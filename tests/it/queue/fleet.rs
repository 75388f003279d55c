//! What reconcilers share in Redis: the fleet lock, the observation, retired machines, and the published
//! status.

use std::collections::BTreeMap;
use std::time::Duration;

use tcoder::job::{JobId, Millis, WorkerClasses, WorkerId};
use tcoder::queue::{
    Change, Claim, EventFeed, FencingToken, FleetName, FleetStatus, FleetView, LockOutcome, Paused, Permit,
    PoolWorker, Queue, RequestClass, RequestRate, RetireOutcome, SubmitMode,
};

use super::wake::{all_woken, blocked, waiters};
use super::*;
use crate::support::redis::{private_redis, raw};

const HOLD: Duration = Duration::from_secs(60);

async fn hold(queue: &Queue, holder: &str) -> LockOutcome {
    queue.acquire_fleet_lock(holder, HOLD, false, false).await.unwrap()
}

/// Acquires the fleet lock for `time`, even if another holder let it expire.
async fn fence_for(queue: &Queue, holder: &str, time: Duration, fresh: bool) -> FencingToken {
    match queue.acquire_fleet_lock(holder, time, fresh, true).await.unwrap() {
        LockOutcome::Mine(fence) => fence,
        other => panic!("{other:?}"),
    }
}

async fn fence(queue: &Queue) -> FencingToken {
    fence_for(queue, "a", HOLD, false).await
}

fn mine(holder: &str, epoch: u64) -> LockOutcome {
    LockOutcome::Mine(FencingToken { holder: holder.into(), epoch })
}

fn record(name: &str, machine: &str) -> WorkerRecord {
    WorkerRecord {
        worker_id: WorkerId(name.into()),
        machine_id: machine.into(),
        version: "0".into(),
        pid: 1,
        started_at: Millis(7),
        worker_classes: WorkerClasses::default(),
        sandbox: None,
    }
}

/// Registers a worker on a machine; `None` if it was refused.
async fn worker_on(queue: &Queue, name: &str, machine: &str) -> Option<WorkerId> {
    let record = record(name, machine);
    queue.register(&record, now(queue).await).await.unwrap().then_some(record.worker_id)
}

async fn ask(queue: &Queue, worker: &WorkerId) -> Claim {
    queue.claim(worker, now(queue).await, false).await.unwrap()
}

async fn retire(queue: &Queue, fence: &FencingToken, machine: &str) -> RetireOutcome {
    queue.retire(fence, machine, &[], HOLD).await.unwrap()
}

fn ready_and_due(view: &FleetView) -> (u64, u64) {
    let waiting = all_waiting(view);
    (waiting.pending, waiting.due)
}

fn find<'a>(view: &'a FleetView, worker: &WorkerId) -> &'a PoolWorker {
    view.workers.iter().find(|w| w.worker == *worker).unwrap()
}

#[tokio::test]
async fn fleet_lock_has_one_holder_and_its_epoch_grows() {
    let (queue, _) = queue().await;
    assert_eq!(queue.fleet_locks_expiry([&FleetName::default()]).await.unwrap(), None);
    let before = now(&queue).await;
    assert_eq!(hold(&queue, "a").await, mine("a", 1));
    let until = queue.fleet_locks_expiry([&FleetName::default()]).await.unwrap().unwrap();
    assert!((before.plus(60_000)..=now(&queue).await.plus(60_000)).contains(&until), "{until:?}");
    for insist in [false, true] {
        let other = queue.acquire_fleet_lock("b", HOLD, true, insist).await.unwrap();
        assert!(matches!(other, LockOutcome::Held(left) if left <= HOLD && !left.is_zero()), "{other:?}");
    }
    // A renewal does not change the epoch; a new process of the same name does.
    assert_eq!(hold(&queue, "a").await, mine("a", 1));
    assert_eq!(fence_for(&queue, "a", HOLD, true).await.epoch, 2);
    assert_eq!(hold(&queue, "a").await, mine("a", 2));
}

#[tokio::test]
async fn fleet_lock_prefers_its_lapsed_holder_unless_forced() {
    let (queue, _) = queue().await;
    let fence = fence_for(&queue, "a", Duration::ZERO, false).await;
    for _ in 0..2 {
        assert!(matches!(hold(&queue, "b").await, LockOutcome::Lapsed(_)));
    }
    assert!(matches!(
        queue.acquire_fleet_lock("b", HOLD, true, false).await.unwrap(),
        LockOutcome::Lapsed(_)
    ));
    // It comes back, and nobody acted in the meantime, so the epoch is the same.
    assert_eq!(fence_for(&queue, "a", Duration::ZERO, false).await, fence);
    assert_eq!(queue.acquire_fleet_lock("b", HOLD, false, true).await.unwrap(), mine("b", 2));
    assert!(matches!(hold(&queue, "a").await, LockOutcome::Held(_)));
}

#[tokio::test]
async fn fleet_lock_released_is_free_at_once() {
    let (queue, _) = queue().await;
    let first = fence(&queue).await;
    queue.release_fleet_lock(&first).await.unwrap();
    assert_eq!(hold(&queue, "b").await, mine("b", 2));
    // A status that is published again, or with an old epoch, takes nothing from others.
    let stale = FencingToken { holder: "b".into(), epoch: 1 };
    for old in [&first, &stale] {
        queue.release_fleet_lock(old).await.unwrap();
        assert!(matches!(hold(&queue, "c").await, LockOutcome::Held(_)));
    }
    // A successor of the same name increases the epoch, too.
    queue.release_fleet_lock(&FencingToken { holder: "b".into(), epoch: 2 }).await.unwrap();
    assert_eq!(hold(&queue, "b").await, mine("b", 3));
}

#[tokio::test]
async fn fleet_lock_survives_a_clock_that_was_set_back() {
    let (queue, config) = queue().await;
    fence(&queue).await;
    let (key, far) = (format!("{}fleet:lock", config.prefix), now(&queue).await.plus(86_400_000).0);
    redis::cmd("HSET").arg(key).arg("until").arg(far).exec(&mut raw(&config)).unwrap();
    let LockOutcome::Held(left) = hold(&queue, "b").await else { panic!("it is held") };
    assert!(left <= Duration::from_secs(300), "{left:?}");
}

#[tokio::test]
async fn fleet_lock_fences_off_its_former_holder() {
    let (queue, config) = queue().await;
    let w = worker_on(&queue, "w", "m").await.unwrap();
    let (old, new) = (fence(&queue).await, fence_for(&queue, "a", HOLD, true).await);
    let never = FencingToken { holder: "z".into(), epoch: new.epoch };
    let status = |at| FleetStatus { at: Millis(at), ..FleetStatus::default() };
    let powerless = async |fence: &FencingToken| {
        assert_eq!(retire(&queue, fence, "m").await, RetireOutcome::Fenced, "{fence:?}");
        assert!(!queue.publish_fleet_status(fence, &status(1)).await.unwrap(), "{fence:?}");
    };
    powerless(&old).await;
    powerless(&never).await;
    let lapsed = fence_for(&queue, "a", Duration::ZERO, false).await;
    assert_eq!(lapsed, new, "the same right, its time over");
    powerless(&lapsed).await;
    // An old token publishes nothing with a renewal of the lock either.
    for (fence, publishes) in [(&old, false), (&new, true)] {
        let renewed =
            queue.renew_fleet_lock_and_publish(fence, HOLD, (false, false), &status(3)).await.unwrap();
        assert_eq!(renewed, (mine("a", new.epoch), publishes), "{fence:?}");
        assert_eq!(queue.fleet().await.unwrap().0.is_some(), publishes);
    }
    assert_eq!(hold(&queue, "a").await, mine("a", new.epoch));
    assert!(queue.publish_fleet_status(&new, &status(2)).await.unwrap());
    queue.release_fleet_lock(&new).await.unwrap();
    powerless(&new).await;
    assert_eq!(queue.fleet().await.unwrap(), (Some(status(2)), None));
    assert_eq!(zset(&mut raw(&config), &config, "machines:retired"), []);
    assert_eq!(ask(&queue, &w).await, Claim::Empty { next_due: None, now: None });
}

#[tokio::test]
async fn retire_refuses_busy_machines_and_stops_claims_of_idle_ones() {
    let (queue, config) = queue().await;
    let fence = fence(&queue).await;
    let on_m = [worker_on(&queue, "w1", "m").await.unwrap(), worker_on(&queue, "w2", "m").await.unwrap()];
    let elsewhere = worker_on(&queue, "w3", "n").await.unwrap();
    submit(&queue, &spec()).await;
    let job = claim(&queue, &on_m[0]).await.unwrap();
    let before = zset(&mut raw(&config), &config, "machines:alive");
    assert_eq!(retire(&queue, &fence, "m").await, RetireOutcome::Busy);
    assert_eq!(zset(&mut raw(&config), &config, "machines:alive"), before, "nothing was done");
    assert_eq!(zset(&mut raw(&config), &config, "machines:retired"), []);

    queue.complete(&job, &result_of(1), job.attempt.epoch).await.unwrap();
    for _ in 0..2 {
        assert_eq!(retire(&queue, &fence, "m").await, RetireOutcome::Retired);
    }
    submit(&queue, &spec()).await;
    for w in &on_m {
        assert_eq!(ask(&queue, w).await, Claim::Retired);
        // Neither a heartbeat nor a claim with a sweep undoes the retirement.
        queue.report_alive(w, now(&queue).await.plus(86_400_000)).await.unwrap();
        assert_eq!(queue.claim(w, now(&queue).await, true).await.unwrap(), Claim::Retired);
    }
    assert!(matches!(ask(&queue, &elsewhere).await, Claim::Job(_)));
}

#[tokio::test]
async fn retire_counts_leases_of_unregistered_workers() {
    let (queue, config) = queue().await;
    let fence = fence(&queue).await;
    let w = worker_on(&queue, "w", "m").await.unwrap();
    submit(&queue, &spec()).await;
    claim(&queue, &w).await.unwrap();
    queue.deregister(&w).await.unwrap();
    let named = async || queue.retire(&fence, "m", std::slice::from_ref(&w), HOLD).await.unwrap();
    assert_eq!(named().await, RetireOutcome::Busy);
    // Its lease has expired but was not reaped: the worker may still come back.
    all_due(&mut raw(&config), &config);
    assert_eq!(named().await, RetireOutcome::Busy);
    queue.sweep(10, 0).await.unwrap();
    assert_eq!(named().await, RetireOutcome::Retired);
    assert_eq!(worker_on(&queue, "w", "m").await, None, "it heard of it when it came back");
}

#[tokio::test]
async fn register_is_refused_on_a_retired_machine_until_it_is_readmitted() {
    let (queue, _) = queue().await;
    let fence = fence(&queue).await;
    // No worker has registered yet, which is the case that this is for.
    assert_eq!(retire(&queue, &fence, "m").await, RetireOutcome::Retired);
    assert_eq!(worker_on(&queue, "w", "m").await, None);
    assert_eq!(queue.workers().await.unwrap(), []);
    let w = worker_on(&queue, "other", "n").await.unwrap();
    assert_eq!(ask(&queue, &w).await, Claim::Empty { next_due: None, now: None });
    queue.readmit_machine("m").await.unwrap();
    let w = worker_on(&queue, "w", "m").await.unwrap();
    submit(&queue, &spec()).await;
    assert!(matches!(ask(&queue, &w).await, Claim::Job(_)));
}

#[tokio::test]
async fn retire_refusal_expires() {
    let (queue, config) = queue().await;
    let fence = fence(&queue).await;
    assert_eq!(retire(&queue, &fence, "m").await, RetireOutcome::Retired);
    let key = format!("{}machines:retired", config.prefix);
    redis::cmd("ZADD").arg(key).arg(now(&queue).await.0).arg("m").exec(&mut raw(&config)).unwrap();
    assert!(worker_on(&queue, "w", "m").await.is_some());
    // Expired entries are removed with the next call.
    assert_eq!(retire(&queue, &fence, "n").await, RetireOutcome::Retired);
    let left: Vec<String> =
        zset(&mut raw(&config), &config, "machines:retired").into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["n"]);
}

#[tokio::test]
async fn retire_wakes_idle_workers() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let fence = fence(&queue).await;
    worker_on(&queue, "w", "m").await.unwrap();
    // Which idle worker is woken is arbitrary, so all wait.
    let waiting = waiters(&queue, 3).await;
    blocked(&server, 3).await;
    assert_eq!(retire(&queue, &fence, "m").await, RetireOutcome::Retired);
    all_woken(waiting).await;
}

#[tokio::test]
async fn prune_removes_dead_retired_workers() {
    let (queue, config) = queue().await;
    let fence = fence(&queue).await;
    let w = worker_on(&queue, "w", "m").await.unwrap();
    let alive_until = queue.workers().await.unwrap()[0].alive_until;
    retire(&queue, &fence, "m").await;
    let workers = queue.workers().await.unwrap();
    assert_eq!(workers.iter().map(|w| w.alive_until).collect::<Vec<_>>(), [alive_until]);
    assert_eq!(queue.prune_dead_workers(alive_until).await.unwrap(), []);
    assert_eq!(queue.prune_dead_workers(alive_until.plus(1)).await.unwrap(), std::slice::from_ref(&w));
    assert_eq!(queue.workers().await.unwrap(), []);
    assert_eq!(zset(&mut raw(&config), &config, "machines:alive"), []);
    assert_eq!(ask(&queue, &w).await, Claim::Unregistered);
}

#[tokio::test]
async fn fleet_view_contains_machines_whose_worker_left_or_was_refused() {
    let (queue, _) = queue().await;
    let fence = fence(&queue).await;
    let before = now(&queue).await;
    let w = worker_on(&queue, "w", "m1").await.unwrap();
    queue.deregister(&w).await.unwrap();
    retire(&queue, &fence, "m2").await;
    assert_eq!(worker_on(&queue, "v", "m2").await, None);
    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    assert_eq!(view.workers, []);
    let machines: Vec<&str> = view.heard.iter().map(|(machine, _)| machine.as_str()).collect();
    assert_eq!(machines, ["m1", "m2"]);
    assert!(view.heard.iter().all(|(_, at)| (before..=view.now).contains(at)), "{view:?}");
}

#[tokio::test]
async fn fleet_view_of_an_empty_queue_is_empty() {
    let (queue, _) = queue().await;
    let before = now(&queue).await;
    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    assert!((before..=now(&queue).await).contains(&view.now), "{view:?}");
    assert_eq!(view, FleetView { now: view.now, ..FleetView::default() });
}

#[tokio::test]
async fn fleet_view_shows_the_queue() {
    let (queue, config) = queue().await;
    let before = now(&queue).await;
    submit(&queue, &spec()).await;
    let after = now(&queue).await;
    submit(&queue, &spec()).await;
    for delay in [7200, 3600] {
        let start = SubmitMode::After(Duration::from_secs(delay));
        queue.submit(JobId::new(), &spec(), start).await.unwrap();
    }
    queue.submit(JobId::new(), &spec(), SubmitMode::OnUpload(HOLD)).await.unwrap();
    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    assert_eq!(ready_and_due(&view), (2, 0));
    assert!((before..=after).contains(&all_waiting(&view).ready_since.unwrap()), "{view:?}");
    let due = view.next_due.unwrap();
    assert!((after.plus(3_600_000)..=view.now.plus(3_600_000)).contains(&due), "the sooner one: {view:?}");

    // A lease that ends earlier is what is due next, half a minute after its end; later both kinds are.
    let w = worker_on(&queue, "w", "m").await.unwrap();
    let job = claim(&queue, &w).await.unwrap();
    let soon = now(&queue).await.plus(60_000);
    let key = format!("{}jobs:leases", config.prefix);
    let member = job.attempt.to_string();
    redis::cmd("ZADD").arg(key).arg(soon.0).arg(member).exec(&mut raw(&config)).unwrap();
    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    assert_eq!((ready_and_due(&view), view.next_due), ((1, 0), Some(soon.plus(30_000))));
    all_due(&mut raw(&config), &config);
    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    assert_eq!((ready_and_due(&view), view.next_due), ((1, 3), None));
}

#[tokio::test]
async fn fleet_view_shows_workers_jobs_and_retirement() {
    let (queue, config) = queue().await;
    let fence = fence(&queue).await;
    let busy = worker_on(&queue, "busy", "m1").await.unwrap();
    let idle = worker_on(&queue, "idle", "m2").await.unwrap();
    let leaves = worker_on(&queue, "leaves", "m3").await.unwrap();
    let forgotten = worker_on(&queue, "forgotten", "m4").await.unwrap();
    let mut held = Vec::new();
    for w in [&busy, &forgotten] {
        submit(&queue, &spec()).await;
        held.push(claim(&queue, w).await.unwrap());
    }
    queue.deregister(&forgotten).await.unwrap();
    let alive: BTreeMap<String, f64> =
        zset(&mut raw(&config), &config, "machines:alive").into_iter().collect();
    retire(&queue, &fence, "m3").await;
    // An invalid record does not hide the others.
    let key = format!("{}machines:pool", config.prefix);
    redis::cmd("HSET").arg(key).arg("odd").arg("no record").exec(&mut raw(&config)).unwrap();

    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    assert_eq!(view.workers.len(), 4, "{view:?}");
    #[expect(clippy::cast_possible_truncation, reason = "a time")]
    let until = |w: &WorkerId| Some(Millis(alive[&w.0] as i64));
    let known = |w: &WorkerId, machine: &str| PoolWorker {
        worker: w.clone(),
        machine: Some(machine.into()),
        classes: WorkerClasses::default(),
        alive_until: until(w),
        retired: false,
        lease: None,
    };
    let ends = |n: usize| Some((held[n].attempt.job, held[n].at.plus(3_600_000)));
    assert_eq!(*find(&view, &busy), PoolWorker { lease: ends(0), ..known(&busy, "m1") });
    assert_eq!(*find(&view, &idle), known(&idle, "m2"));
    assert_eq!(*find(&view, &leaves), PoolWorker { retired: true, ..known(&leaves, "m3") });
    let stranger = PoolWorker {
        worker: forgotten.clone(),
        machine: None,
        classes: WorkerClasses::default(),
        alive_until: None,
        retired: false,
        lease: ends(1),
    };
    assert_eq!(*find(&view, &forgotten), stranger);
}

#[tokio::test]
async fn worker_that_lost_a_lease_counts_as_dead_until_it_registers() {
    let (queue, config) = queue().await;
    let w = worker_on(&queue, "w", "m").await.unwrap();
    let other = worker_on(&queue, "other", "n").await.unwrap();
    let id = submit(&queue, &spec()).await;
    claim(&queue, &w).await.unwrap();
    all_due(&mut raw(&config), &config);
    queue.sweep(10, 0).await.unwrap();
    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    assert_eq!(view.workers.iter().map(|w| &w.worker).collect::<Vec<_>>(), [&other]);
    assert_eq!(all_waiting(&view).pending, 1);
    assert_eq!(ask(&queue, &w).await, Claim::Unregistered);
    assert_eq!(worker_on(&queue, "w", "m").await.as_ref(), Some(&w));
    let Claim::Job(job) = ask(&queue, &w).await else { panic!("it is welcome again") };
    assert_eq!((job.attempt.job, job.number), (id, 2));
}

#[tokio::test]
async fn worker_that_claims_stays_alive_despite_a_lost_lease() {
    let (queue, config) = queue().await;
    let w = worker_on(&queue, "w", "m").await.unwrap();
    submit(&queue, &spec()).await;
    claim(&queue, &w).await.unwrap();
    all_due(&mut raw(&config), &config);
    let Claim::Job(job) = queue.claim(&w, now(&queue).await, true).await.unwrap() else { panic!("no job") };
    assert_eq!(job.number, 2, "its claim ended its own lease");
    let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
    let worker = find(&view, &w);
    assert_eq!(worker.machine.as_deref(), Some("m"));
    assert_eq!(worker.lease.map(|(id, _)| id), Some(job.attempt.job));
}

/// The next changes of a feed.
async fn changes(feed: &mut EventFeed) -> Vec<Change> {
    feed.changes(Duration::from_secs(120)).await.unwrap()
}

#[tokio::test]
async fn pause_and_resume_appear_in_the_event_stream() {
    let (queue, _) = queue().await;
    let mut feed = EventFeed::open(&queue).await.unwrap();
    let before = now(&queue).await;
    let paused = queue.fleet_pause(Some("why".into())).await.unwrap();
    assert!((before..=now(&queue).await).contains(&paused.since), "{paused:?}");
    assert_eq!(changes(&mut feed).await, [Change::Fleet]);
    assert_eq!(queue.fleet().await.unwrap(), (None, Some(paused.clone())));
    assert_eq!(queue.fleet_view(&WorkerClasses::default()).await.unwrap().paused, Some(paused));
    assert!(queue.fleet_resume().await.unwrap());
    assert_eq!(changes(&mut feed).await, [Change::Fleet]);
    assert_eq!(queue.fleet().await.unwrap(), (None, None));
    assert_eq!(queue.fleet_view(&WorkerClasses::default()).await.unwrap().paused, None);
    assert!(!queue.fleet_resume().await.unwrap(), "there is nothing to resume");
    // Readers of job events do not get this event.
    let id = submit(&queue, &spec()).await;
    let jobs = feed.next(Duration::from_secs(120)).await.unwrap();
    assert!(jobs.iter().all(|event| event.job_id == id), "{jobs:?}");
}

#[tokio::test]
async fn second_pause_changes_the_reason_but_not_the_time() {
    let (queue, config) = queue().await;
    let pause = async |reason: Option<&str>| queue.fleet_pause(reason.map(str::to_owned)).await.unwrap();
    let first = pause(None).await;
    while now(&queue).await <= first.since {}
    for (given, kept) in [
        (Some("a"), Some("a")),
        (None, Some("a")),
        (Some("a"), Some("a")),
        (Some("b"), Some("b")),
        (None, Some("b")),
    ] {
        let expected = Paused { since: first.since, reason: kept.map(str::to_owned) };
        assert_eq!(pause(given).await, expected);
        assert_eq!(queue.fleet().await.unwrap().1, Some(expected));
    }
    // A key that was set by hand pauses the fleet, too.
    let key = format!("{}fleet:paused", config.prefix);
    redis::cmd("SET").arg(&key).arg("by hand").exec(&mut raw(&config)).unwrap();
    let by_hand = Some(Paused { since: Millis(0), reason: None });
    assert_eq!(queue.fleet().await.unwrap().1, by_hand);
    assert_eq!(queue.fleet_view(&WorkerClasses::default()).await.unwrap().paused, by_hand);
    let again = pause(Some("c")).await;
    assert!(again.since > first.since);
    assert_eq!(queue.fleet().await.unwrap().1, Some(again));
}

#[tokio::test]
async fn each_fleet_has_its_own_lock_and_status() {
    let (queue, config) = queue().await;
    let name = FleetName::of_pool("0c1d");
    let of_pool = queue.of_fleet(name.clone());
    let (own, fence) = (fence(&queue).await, fence(&of_pool).await);
    let status = |at, pool: Option<&str>| FleetStatus {
        at: Millis(at),
        pool: pool.map(str::to_owned),
        ..FleetStatus::default()
    };
    assert!(queue.publish_fleet_status(&own, &status(1, None)).await.unwrap());
    assert!(of_pool.publish_fleet_status(&fence, &status(2, Some("films/base"))).await.unwrap());
    let fleets = queue.fleets().await.unwrap();
    let expected = [(FleetName::default(), status(1, None)), (name.clone(), status(2, Some("films/base")))];
    assert_eq!(fleets.statuses.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(of_pool.fleet().await.unwrap().0, Some(status(2, Some("films/base"))));
    // The lock of one fences nothing off for the other.
    let epoch = FencingToken { epoch: own.epoch + 1, ..own.clone() };
    assert!(!queue.publish_fleet_status(&epoch, &status(3, None)).await.unwrap());
    let fresh = fence_for(&of_pool, "a", HOLD, true).await;
    assert!(!of_pool.publish_fleet_status(&fence, &status(3, None)).await.unwrap());
    assert!(queue.publish_fleet_status(&own, &status(4, None)).await.unwrap());
    assert_eq!(retire(&of_pool, &fresh, "m").await, RetireOutcome::Retired);
    // Permits of one provider delay no requests to another.
    let rate = RequestRate { interval: Duration::from_secs(60), ..RequestRate::default() };
    for queue in [&queue, &of_pool] {
        let permit = async || queue.acquire_permit(rate, RequestClass::List, Duration::ZERO).await.unwrap();
        assert!(matches!(permit().await, Permit::Go { .. }));
        assert!(matches!(permit().await, Permit::Wait(_)));
    }
    // A pause is for all.
    of_pool.fleet_pause(None).await.unwrap();
    assert!(queue.fleet_view(&WorkerClasses::default()).await.unwrap().paused.is_some());

    // A fleet whose lock is held is not forgotten as a dead one.
    let forget = async |age| {
        let fleets = queue.fleets().await.unwrap();
        queue.forget_dead_fleets(&fleets, age).await.unwrap();
        queue.fleets().await.unwrap().statuses.len()
    };
    assert_eq!(forget(Duration::ZERO).await, 2);
    // Nor is one whose lock was released a moment ago, as at each change of the leader.
    of_pool.release_fleet_lock(&fresh).await.unwrap();
    assert_eq!(forget(Duration::from_secs(3600)).await, 2);
    let key = format!("{}fleet:lock:0c1d", config.prefix);
    let before = now(&queue).await.plus(-3_600_001).0;
    redis::cmd("HSET").arg(key).arg("until").arg(before).exec(&mut raw(&config)).unwrap();
    assert_eq!(forget(Duration::from_secs(3600)).await, 1);
    assert_eq!(queue.fleet_locks_expiry([&name]).await.unwrap(), None);
    // One that cannot be read hides no other, and goes as well; so does one without a WorkerPool that nobody manages.
    let pools = format!("{}fleet:pools", config.prefix);
    redis::cmd("HSET").arg(&pools).arg("newer").arg(r#"{"v":99}"#).exec(&mut raw(&config)).unwrap();
    let fleets = queue.fleets().await.unwrap();
    assert_eq!(fleets.statuses.into_keys().collect::<Vec<_>>(), [FleetName::default()]);
    let unreadable: Vec<_> = fleets.unreadable.into_iter().collect();
    assert!(
        matches!(&unreadable[..], [(name, why)] if name.as_str() == "newer" && why.contains("version 99")),
        "{unreadable:?}"
    );
    assert_eq!(forget(Duration::from_secs(3600)).await, 1);
    let key = format!("{}fleet:lock", config.prefix);
    redis::cmd("HSET").arg(key).arg("until").arg(before).exec(&mut raw(&config)).unwrap();
    assert_eq!(forget(Duration::from_secs(3600)).await, 0);
    let left = redis::cmd("HGETALL").arg(format!("{}fleet:pools", config.prefix)).query(&mut raw(&config));
    assert_eq!(left, Ok(BTreeMap::<String, String>::new()));
}
