//! Derives the plan's input from Redis's view of the queue and the workers. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::controller::fleet::{MachineId, Moment, QueueView, WorkerView};
use crate::job::{Millis, WorkerId};
use crate::queue::{FleetView, PoolWorker};

/// An idle worker claims a job within milliseconds. A worker that claims none for this long counts as dead.
const NO_SHOW: Duration = Duration::from_secs(5);
/// A worker is suspected for this long before it counts as dead: one that just ended a job claims the next a moment
/// later.
const AGAIN: Duration = Duration::from_secs(1);

/// The queue and the workers, without other fleets. `alive` is how long a heartbeat counts. `suspects` contains the workers that ignored
/// a waiting job in previous views, each with the time since when.
pub(crate) fn queue_view(
    view: &FleetView,
    alive: Duration,
    suspects: &mut BTreeMap<WorkerId, Moment>,
    now: Moment,
) -> QueueView {
    // Since when what the worker could claim waits, and whether it should have claimed it by now.
    let waits = |worker: &PoolWorker| {
        let own = view.waiting.iter().filter(|(class, of)| of.pending > 0 && worker.classes.contains(class));
        own.filter_map(|(_, of)| of.ready_since).min()
    };
    let is_overdue = |since: Millis| since_then(since, view.now) >= NO_SHOW;
    let before = std::mem::take(suspects);
    // When what idle workers could claim is overdue, of each of them.
    let mut looks: Vec<Millis> = Vec::new();
    let workers: Vec<WorkerView> = view
        .workers
        .iter()
        .map(|worker| {
            let until = worker.alive_until.filter(|until| *until > view.now);
            let last_sign = until.map(|until| until.plus(-millis(alive)));
            let waits = waits(worker);
            let overdue = waits.is_some_and(is_overdue);
            let mut ignores = overdue && worker.lease.is_none() && last_sign < waits;
            if ignores {
                let since = before.get(&worker.worker).copied().unwrap_or(now);
                suspects.insert(worker.worker.clone(), since);
                ignores = now.saturating_sub(since) >= AGAIN;
            }
            let seen = WorkerView {
                worker: worker.worker.clone(),
                machine: machine_of(worker),
                classes: worker.classes.clone(),
                fresh: until.is_some() && !ignores,
                busy: worker.lease.is_some_and(|(_, until)| until > view.now),
                retired: worker.retired,
            };
            let is_idle = seen.fresh && !seen.busy && !seen.retired;
            looks.extend(waits.filter(|_| is_idle && !overdue).map(|since| since.plus(millis(NO_SHOW))));
            seen
        })
        .collect();
    let next = looks.into_iter().chain(view.next_due).min();
    let again = suspects.values().map(|since| (*since + AGAIN).saturating_sub(now)).filter(|d| !d.is_zero());
    let next_due = next.map(|at| since_then(view.now, at)).into_iter().chain(again).min();
    let when = |at: Millis| now.saturating_sub(since_then(at, view.now));
    let heard = view.heard.iter().map(|(machine, at)| (MachineId(machine.clone()), when(*at))).collect();
    QueueView { waiting: view.waiting.clone(), next_due, workers, heard, ..QueueView::default() }
}

/// The machine that a worker runs on: as registered or, if its registration has expired, as its name says.
pub(crate) fn machine_of(worker: &PoolWorker) -> MachineId {
    let named = || worker.worker.0.rsplit_once('-').map_or("", |(machine, _)| machine).to_owned();
    MachineId(worker.machine.clone().unwrap_or_else(named))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn since_then(from: Millis, to: Millis) -> Duration {
    Duration::from_millis(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, WorkerClass, WorkerClasses};
    use crate::queue::ClassView;

    const ALIVE: Duration = Duration::from_secs(180);
    const NOW: Millis = Millis(1_000_000);

    fn worker(last_sign: i64, lease: Option<i64>) -> PoolWorker {
        PoolWorker {
            worker: WorkerId("m1-0123abcd".into()),
            machine: Some("m1".into()),
            classes: WorkerClasses::default(),
            alive_until: Some(NOW.plus(180_000 - last_sign)),
            retired: false,
            lease: lease.map(|left| (JobId::new(), NOW.plus(left))),
        }
    }

    fn seen(waits: Option<i64>, worker: PoolWorker) -> (QueueView, bool, bool) {
        let view = FleetView {
            now: NOW,
            waiting: BTreeMap::from([(
                WorkerClass::default(),
                ClassView {
                    pending: u64::from(waits.is_some()),
                    ready_since: waits.map(|ms| NOW.plus(-ms)),
                    ..ClassView::default()
                },
            )]),
            workers: vec![worker],
            ..FleetView::default()
        };
        let mut suspects = BTreeMap::new();
        let first = queue_view(&view, ALIVE, &mut suspects, Moment::ZERO);
        let doubtful = !suspects.is_empty();
        let queue = queue_view(&view, ALIVE, &mut suspects, AGAIN);
        assert!(!doubtful || (first.workers[0].fresh && first.next_due == Some(AGAIN)), "dead at once");
        let (fresh, busy) = (queue.workers[0].fresh, queue.workers[0].busy);
        (queue, fresh, busy)
    }

    #[test]
    fn queue_view_worker_is_fresh_until_its_heartbeat_expires() {
        assert!(seen(None, worker(179_999, None)).1);
        assert!(!seen(None, worker(180_000, None)).1);
    }

    #[test]
    fn queue_view_worker_is_busy_until_its_lease_expires() {
        assert!(seen(None, worker(0, Some(1))).2);
        assert!(!seen(None, worker(0, Some(0))).2);
    }

    #[test]
    fn queue_view_idle_worker_that_claims_no_waiting_job_is_not_fresh() {
        let (queue, fresh, _) = seen(Some(4_000), worker(60_000, None));
        assert!(fresh);
        assert_eq!(queue.next_due, Some(Duration::from_secs(1)), "the worker has another second");
        let (queue, fresh, _) = seen(Some(5_000), worker(60_000, None));
        assert!(!fresh);
        assert_eq!(queue.next_due, None);
        // Its heartbeat is newer than the job's wait, so the job was requeued or is a second one.
        assert!(seen(Some(5_000), worker(4_000, None)).1);
        // It is busy with another job.
        assert!(seen(Some(5_000), worker(60_000, Some(9_000))).1);
    }

    #[test]
    fn queue_view_idle_worker_that_claims_no_job_of_another_class_is_fresh() {
        let large = PoolWorker { classes: "large,huge".parse().unwrap(), ..worker(60_000, None) };
        let (queue, fresh, _) = seen(Some(9_000), large.clone());
        assert!(fresh && queue.next_due.is_none(), "{queue:?}");
        assert_eq!(queue.workers[0].classes, large.classes);
        // It is told apart from a worker that takes that job, even if it waits for a longer time itself.
        let waits = |pending, ms: i64| ClassView {
            pending,
            ready_since: Some(NOW.plus(-ms)),
            ..ClassView::default()
        };
        let view = FleetView {
            now: NOW,
            waiting: [(WorkerClass::default(), waits(1, 9_000)), ("large".parse().unwrap(), waits(2, 4_000))]
                .into(),
            workers: vec![worker(60_000, None), PoolWorker { worker: WorkerId("m2-1".into()), ..large }],
            ..FleetView::default()
        };
        let mut suspects = BTreeMap::new();
        queue_view(&view, ALIVE, &mut suspects, Moment::ZERO);
        let queue = queue_view(&view, ALIVE, &mut suspects, AGAIN);
        assert_eq!(queue.workers.iter().map(|worker| worker.fresh).collect::<Vec<_>>(), [false, true]);
        assert_eq!(queue.next_due, Some(Duration::from_secs(1)), "the other one has another second");
    }

    #[test]
    fn queue_view_registration_has_the_time_of_the_registration() {
        let view = FleetView {
            now: NOW,
            heard: vec![("m1".into(), NOW.plus(-2_000)), ("m2".into(), NOW.plus(-90_000))],
            ..FleetView::default()
        };
        let queue = queue_view(&view, ALIVE, &mut BTreeMap::new(), Moment::from_secs(60));
        let heard = |machine: &str| queue.heard[&MachineId(machine.into())];
        assert_eq!(heard("m1"), Moment::from_secs(58));
        assert_eq!(heard("m2"), Moment::ZERO, "the registration precedes the reconciler's start");
    }

    #[test]
    fn queue_view_unregistered_lease_holder_has_the_machine_of_its_name() {
        let stranger = PoolWorker { machine: None, alive_until: None, ..worker(0, Some(9_000)) };
        let (queue, fresh, busy) = seen(None, stranger);
        assert_eq!(queue.workers[0].machine, MachineId("m1".into()));
        assert!(busy && !fresh);
    }
}
