use super::*;
use crate::controller::fleet::{ANY_REGION, Launch, ListFailure, Phase, Slot};
use crate::controller::reconciler::simulation::{WORDS, machine};
use crate::job::{Millis, WorkerClass};
use crate::queue::ClassView;

const SECOND: Duration = Duration::from_secs(1);
const START: Moment = Duration::from_secs(1000);

/// A driver with a stopped clock.
struct Harness {
    driver: Driver,
    now: Moment,
}

fn policy() -> FleetPolicy {
    FleetPolicy::new("clips", "worker:1")
}

fn fence(epoch: u64) -> FencingToken {
    FencingToken { holder: "me".into(), epoch }
}

fn jobs(pending: u64) -> FleetView {
    let waiting = [(WorkerClass::default(), ClassView { pending, ..ClassView::default() })].into();
    FleetView { now: Millis(1_000_000), waiting, ..FleetView::default() }
}

/// A machine of the fleet in its first slot.
fn slot_one(phase: Phase) -> Machine {
    let policy = policy();
    let name = Slot(1).name(&policy.app);
    machine(
        MachineId("m1".into()),
        name,
        ANY_REGION,
        phase,
        Launch::of(&policy, Slot(1)),
        policy.sizes.base(),
    )
}

fn unavailable(failure: ProviderFailure) -> ProviderError {
    ProviderError { message: "no".into(), failure }
}

impl Harness {
    fn new() -> Self {
        let driver = Driver::new(&WORDS, policy(), Duration::from_secs(180), DriverState::default());
        Self { driver, now: START }
    }

    /// A driver that holds the lock with epoch 1 and has observed one waiting job and these machines.
    fn leading(machines: Vec<Machine>) -> Self {
        let mut harness = Self::new();
        harness.observe(jobs(1));
        assert_eq!(harness.next(), Effect::AcquireLock { fresh: true, insist: false });
        harness.on(EffectResult::Lock(LockOutcome::Mine(fence(1))));
        harness.observe(jobs(1));
        harness.pass_lock();
        assert_eq!(harness.next(), Effect::AcquirePermit(RequestClass::List));
        harness.permit();
        assert_eq!(harness.next(), Effect::List);
        harness.on(EffectResult::Listed(Ok(machines)));
        harness
    }

    fn next(&mut self) -> Effect {
        self.driver.next(self.now)
    }

    fn on(&mut self, answer: EffectResult) -> Option<Ended> {
        self.driver.on(answer, self.now)
    }

    fn permit(&mut self) {
        self.on(EffectResult::Permit(Permit::Go { at: Millis(0) }));
    }

    fn observe(&mut self, view: FleetView) {
        assert_eq!(self.next(), Effect::Observe);
        self.on(EffectResult::Observed(view));
    }

    /// Renews the lock, and publishes the status if it is new.
    fn pass_lock(&mut self) {
        assert_eq!(self.next(), Effect::AcquireLock { fresh: false, insist: false });
        self.on(EffectResult::Lock(LockOutcome::Mine(fence(1))));
        if let Effect::Publish(_) = self.next() {
            self.on(EffectResult::Published(true));
        }
    }
}

#[test]
fn driver_creates_a_machine_after_permit_and_check_of_the_lock() {
    let mut harness = Harness::leading(Vec::new());
    harness.observe(jobs(1));
    harness.pass_lock();
    assert_eq!(harness.next(), Effect::AcquirePermit(RequestClass::Create));
    harness.permit();
    assert_eq!(harness.next(), Effect::CheckLock);
    harness.on(EffectResult::Lock(LockOutcome::Mine(fence(1))));
    let Effect::Call(Operation::Create { .. }) = harness.next() else { panic!("no create") };
    let ended = harness.on(EffectResult::Called(Ok(Some(slot_one(Phase::Created)))));
    assert_eq!(ended, Some(Ended { operation: "create", outcome: "done" }));
    harness.observe(jobs(1));
    harness.pass_lock();
    let Effect::Wait { at_most: Some(at_most), settled: true } = harness.next() else { panic!("no pause") };
    assert!(at_most <= RENEW_INTERVAL, "the lock is renewed while a job waits");
    assert_eq!(harness.next(), Effect::Observe);
}

#[test]
fn driver_readmits_workers_before_a_start() {
    let mut harness = Harness::leading(vec![slot_one(Phase::Stopped)]);
    harness.observe(jobs(1));
    harness.pass_lock();
    assert_eq!(harness.driver.operation(), Some(&Operation::Start { machine: MachineId("m1".into()) }));
    assert_eq!(harness.next(), Effect::AcquirePermit(RequestClass::Start));
    harness.permit();
    harness.on(EffectResult::Lock(LockOutcome::Mine(fence(1))));
    assert_eq!(harness.next(), Effect::Readmit(MachineId("m1".into())));
    harness.on(EffectResult::Done);
    assert_eq!(harness.next(), Effect::Call(Operation::Start { machine: MachineId("m1".into()) }));
}

#[test]
fn driver_sends_nothing_when_the_check_finds_another_holder() {
    let mut harness = Harness::leading(Vec::new());
    harness.observe(jobs(1));
    harness.pass_lock();
    harness.permit();
    assert_eq!(harness.next(), Effect::CheckLock);
    let ended = harness.on(EffectResult::Lock(LockOutcome::Held(SECOND)));
    assert_eq!(ended, Some(Ended { operation: "create", outcome: Outcome::Fenced.word() }));
    assert_eq!(harness.driver.fence(), None);
    assert_eq!(harness.next(), Effect::Observe);
}

#[test]
fn driver_lists_again_after_another_reconciler_held_the_lock() {
    let mut harness = Harness::leading(Vec::new());
    harness.observe(jobs(1));
    harness.on(EffectResult::Lock(LockOutcome::Held(3 * SECOND)));
    assert_eq!(harness.next(), Effect::Wait { at_most: Some(3 * SECOND), settled: false });
    harness.observe(jobs(1));
    harness.on(EffectResult::Lock(LockOutcome::Lapsed(TAKEOVER_BUSY)));
    assert_eq!(harness.next(), Effect::Wait { at_most: Some(Duration::from_millis(50)), settled: false });
    harness.observe(jobs(1));
    assert_eq!(harness.next(), Effect::AcquireLock { fresh: false, insist: true });
    harness.on(EffectResult::Lock(LockOutcome::Mine(fence(3))));
    assert!(matches!(&harness.driver.seen.machines, Err(none) if none.why == ListFailure::NotYet));
}

#[test]
fn driver_acquires_the_lock_again_when_a_status_was_not_published() {
    let mut harness = Harness::leading(Vec::new());
    harness.observe(jobs(1));
    harness.on(EffectResult::Lock(LockOutcome::Mine(fence(1))));
    let Effect::Publish(status) = harness.next() else { panic!("no status") };
    assert_eq!(status.epoch, 1);
    harness.on(EffectResult::Published(false));
    harness.observe(jobs(1));
    assert_eq!(harness.next(), Effect::AcquireLock { fresh: false, insist: false });
}

#[test]
fn driver_reports_throttling_before_the_next_round() {
    let mut harness = Harness::leading(Vec::new());
    harness.observe(jobs(1));
    harness.pass_lock();
    harness.permit();
    harness.on(EffectResult::Lock(LockOutcome::Mine(fence(1))));
    let error = unavailable(ProviderFailure::RateLimited { retry_after: Some(SECOND) });
    let ended = harness.on(EffectResult::Called(Err(error)));
    assert_eq!(ended.map(|ended| ended.operation), Some("create"));
    assert_eq!(harness.next(), Effect::ReportThrottled(Some(SECOND)));
    harness.on(EffectResult::Done);
    assert_eq!(harness.next(), Effect::Observe);
}

#[test]
fn driver_sweeps_leases_when_a_machine_to_be_destroyed_is_busy() {
    // A failed machine is destroyed; its worker turns out to hold a lease.
    let mut harness = Harness::leading(vec![slot_one(Phase::Failed)]);
    harness.observe(jobs(0));
    harness.pass_lock();
    assert_eq!(harness.next(), Effect::AcquirePermit(RequestClass::Destroy));
    harness.permit();
    let Effect::Retire { machine, .. } = harness.next() else { panic!("no retirement") };
    assert_eq!(machine, MachineId("m1".into()));
    let ended = harness.on(EffectResult::Retired(RetireOutcome::Busy));
    assert_eq!(ended, Some(Ended { operation: "destroy", outcome: Outcome::Refused.word() }));
    assert_eq!(harness.next(), Effect::Sweep);
    harness.on(EffectResult::Done);
    assert_eq!(harness.next(), Effect::Wait { at_most: Some(REFUSED_PAUSE), settled: false });
}

#[test]
fn driver_session_with_a_permit_leads_to_the_request_at_once() {
    let mut harness = Harness::new();
    let permit = Permit::Go { at: Millis(0) };
    harness.on(EffectResult::Session { view: jobs(1), fence: fence(7), permit, readmitted: None });
    let Effect::Publish(status) = harness.next() else { panic!("no status") };
    harness.on(EffectResult::Published(true));
    assert_eq!(harness.next(), Effect::List);
    harness.on(EffectResult::Listed(Ok(vec![slot_one(Phase::Stopped)])));
    let permit = Permit::Wait(SECOND);
    harness.on(EffectResult::Session { view: jobs(1), fence: fence(7), permit, readmitted: None });
    harness.on(EffectResult::Published(true));
    assert_eq!(harness.next(), Effect::AcquirePermit(RequestClass::Start));
    let permit = Permit::Go { at: Millis(0) };
    let readmitted = Some(MachineId("m1".into()));
    harness.on(EffectResult::Session { view: jobs(1), fence: fence(7), permit, readmitted });
    assert_eq!(harness.next(), Effect::Call(Operation::Start { machine: MachineId("m1".into()) }));
    assert_eq!(status.reconciler, "me");
}

#[test]
fn driver_checkpoint_with_intent_counts_the_operation_as_done() {
    let mut harness = Harness::leading(vec![slot_one(Phase::Stopped)]);
    harness.observe(jobs(1));
    let (_, state) = harness.driver.checkpoint(true, START).unwrap();
    let (_, without) = harness.driver.checkpoint(false, START).unwrap();
    assert_ne!(state.memory, without.memory);
    let mut resumed = Driver::new(&WORDS, policy(), Duration::from_secs(180), state);
    let permit = Permit::Go { at: Millis(0) };
    resumed.on(EffectResult::Session { view: jobs(1), fence: fence(2), permit, readmitted: None }, START);
    resumed.on(EffectResult::Published(true), START);
    assert_eq!(resumed.next(START), Effect::List, "a list shows whether the operation was done");
    resumed.on(EffectResult::Listed(Ok(vec![slot_one(Phase::Stopped)])), START);
    resumed.on(EffectResult::Observed(jobs(1)), START);
    assert_ne!(resumed.operation().map(Operation::kind), Some("start"), "the machine is not started twice");
}

#[test]
fn driver_without_work_renews_the_lock_after_the_longest_sleep() {
    let mut harness = Harness::leading(Vec::new());
    harness.observe(jobs(0));
    harness.pass_lock();
    let Effect::Wait { settled: true, .. } = harness.next() else { panic!("no pause") };
    harness.observe(jobs(0));
    let Effect::Wait { settled: true, .. } = harness.next() else { panic!("Redis was written to") };
    harness.now += MAX_SLEEP;
    harness.observe(jobs(0));
    assert_eq!(harness.next(), Effect::AcquireLock { fresh: false, insist: false });
}

#[test]
fn driver_state_round_trips_through_json() {
    let mut state = DriverState { epoch: 7, ..DriverState::default() };
    state.suspects.insert(WorkerId("m1-0001".into()), Duration::from_millis(1_764_000_000_123));
    let json = serde_json::to_string(&state).unwrap();
    let read: DriverState = serde_json::from_str(&json).unwrap();
    assert_eq!((read.epoch, read.memory, read.suspects), (7, state.memory, state.suspects));
}

#[test]
fn driver_discards_the_round_and_the_heartbeats_when_redis_is_unavailable() {
    let mut harness = Harness::leading(Vec::new());
    harness.observe(jobs(1));
    harness.pass_lock();
    assert_eq!(harness.on(EffectResult::QueueUnavailable), None);
    assert!(harness.driver.plan().is_none() && harness.driver.seen.queue.is_none());
    harness.observe(jobs(1));
    assert!(!harness.driver.blind && harness.driver.seen.queue.is_some());
}

#[test]
fn driver_checks_the_lock_after_a_retirement_and_then_destroys() {
    let mut harness = Harness::leading(vec![slot_one(Phase::Failed)]);
    harness.observe(jobs(0));
    harness.pass_lock();
    harness.permit();
    harness.on(EffectResult::Retired(RetireOutcome::Retired));
    assert_eq!(harness.next(), Effect::CheckLock);
    harness.on(EffectResult::Lock(LockOutcome::Mine(fence(1))));
    let Effect::Call(Operation::Destroy { .. }) = harness.next() else { panic!("no destroy") };
}

#[test]
fn driver_drops_an_operation_whose_retirement_was_fenced() {
    let mut harness = Harness::leading(vec![slot_one(Phase::Failed)]);
    harness.observe(jobs(0));
    harness.pass_lock();
    harness.permit();
    let ended = harness.on(EffectResult::Retired(RetireOutcome::Fenced));
    assert_eq!(ended, Some(Ended { operation: "destroy", outcome: Outcome::Fenced.word() }));
    assert_eq!(harness.next(), Effect::Observe);
}

#[test]
fn driver_waits_for_a_permit_and_observes_again() {
    let mut harness = Harness::leading(Vec::new());
    harness.observe(jobs(1));
    harness.pass_lock();
    harness.on(EffectResult::Permit(Permit::Wait(SECOND)));
    assert_eq!(harness.next(), Effect::Wait { at_most: Some(SECOND), settled: false });
    assert_eq!(harness.next(), Effect::Observe);
}

#[test]
fn driver_reports_a_throttled_list() {
    let mut harness = Harness::new();
    harness.observe(jobs(1));
    harness.on(EffectResult::Lock(LockOutcome::Mine(fence(1))));
    harness.observe(jobs(1));
    harness.pass_lock();
    harness.permit();
    let error = unavailable(ProviderFailure::RateLimited { retry_after: None });
    assert_eq!(harness.on(EffectResult::Listed(Err(error))), None);
    assert!(harness.driver.seen.machines.is_err());
    assert_eq!(harness.next(), Effect::ReportThrottled(None));
}

#[test]
fn driver_takes_over_an_expired_lock_later_when_no_job_waits() {
    for (min, takeover) in [(0, TAKEOVER_IDLE), (1, TAKEOVER_WITH_WORKERS)] {
        let mut harness = Harness::leading(Vec::new());
        harness.driver.set_policy(FleetPolicy { min, max: 2, ..policy() });
        harness.now += MAX_SLEEP;
        harness.observe(jobs(0));
        harness.on(EffectResult::Lock(LockOutcome::Lapsed(takeover - 3 * SECOND)));
        let at_most = Some(3 * SECOND);
        assert_eq!(harness.next(), Effect::Wait { at_most, settled: false }, "with a minimum of {min}");
    }
}

#[test]
fn driver_session_readmits_the_machine_that_it_starts_and_no_other() {
    let mut harness = Harness::leading(vec![slot_one(Phase::Stopped)]);
    let permit = Permit::Go { at: Millis(0) };
    let readmitted = Some(MachineId("another".into()));
    harness.on(EffectResult::Session { view: jobs(1), fence: fence(1), permit, readmitted });
    while let Effect::Publish(_) = harness.next() {
        harness.on(EffectResult::Published(true));
    }
    assert_eq!(harness.next(), Effect::Readmit(MachineId("m1".into())));
}
