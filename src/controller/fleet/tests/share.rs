//! Tests of several fleets that take from one queue.

use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::controller::fleet::share::{Waiting, WaitingByClass, share};
use crate::controller::fleet::{Capabilities, Condition, FleetCapacity, ListFailure, OtherFleets};

fn capacity(free: u32, room: u32) -> FleetCapacity {
    FleetCapacity {
        idle: free,
        free,
        free_chunks: u64::from(free) * 2,
        room,
        chunks: 2,
        jobs_per_machine: NonZeroU32::MIN,
        classes: WorkerClasses::default(),
        tries: true,
    }
}

/// The share of each fleet, in their order.
fn shares(waiting: Waiting, fleets: &[FleetCapacity]) -> Vec<Waiting> {
    let others = |n: usize| OtherFleets { before: fleets[..n].to_vec(), after: fleets[n + 1..].to_vec() };
    let waiting = WaitingByClass([(WorkerClass::default(), waiting)].into());
    let total = |shared: &WaitingByClass| shared.total_of(&WorkerClasses::default());
    (0..fleets.len()).map(|n| total(&share(&waiting, &fleets[n], &others(n)))).collect()
}

fn jobs(jobs: u64) -> Waiting {
    Waiting { jobs, parts: 0 }
}

#[test]
fn first_fleet_makes_machines_until_it_has_no_room() {
    let fleets = [capacity(0, 3), capacity(0, 2)];
    for (waiting, expected) in [(0, [0, 0]), (2, [2, 0]), (4, [3, 1]), (9, [7, 2])] {
        assert_eq!(shares(jobs(waiting), &fleets), expected.map(jobs), "{waiting}");
    }
}

#[test]
fn idle_machines_of_any_fleet_come_before_new_ones() {
    assert_eq!(shares(jobs(1), &[capacity(0, 3), capacity(1, 3)]), [jobs(0), jobs(1)]);
    assert_eq!(shares(jobs(4), &[capacity(1, 1), capacity(1, 9)]), [jobs(2), jobs(2)]);
}

#[test]
fn fleet_without_room_leaves_the_jobs_to_the_next_one() {
    assert_eq!(shares(jobs(5), &[capacity(0, 0), capacity(0, 9)]), [jobs(0), jobs(5)]);
    // If no fleet has room, the first one tries on.
    assert_eq!(shares(jobs(5), &[capacity(0, 0), capacity(0, 0)]), [jobs(5), jobs(0)]);
    let paused = FleetCapacity { tries: false, ..capacity(0, 0) };
    assert_eq!(shares(jobs(5), &[paused.clone(), capacity(0, 0)]), [jobs(0), jobs(5)]);
    assert_eq!(shares(jobs(5), &[paused.clone(), paused]), [jobs(5), jobs(0)]);
}

#[test]
fn parts_take_what_the_jobs_leave() {
    let waiting = Waiting { jobs: 1, parts: 10 };
    let expected = [Waiting { jobs: 1, parts: 4 }, Waiting { jobs: 0, parts: 6 }];
    assert_eq!(shares(waiting, &[capacity(1, 2), capacity(0, 9)]), expected);
    let five = FleetCapacity { jobs_per_machine: NonZeroU32::new(5).unwrap(), ..capacity(1, 2) };
    let expected = [Waiting { jobs: 5, parts: 4 }, Waiting { jobs: 1, parts: 0 }];
    assert_eq!(shares(Waiting { jobs: 6, parts: 4 }, &[five, capacity(1, 9)]), expected);
}

proptest! {
    #[test]
    fn shares_add_up_to_what_waits(
        jobs in 0_u64..50,
        parts in 0_u64..50,
        fleets in vec((0_u32..5, 0_u32..5, 1_u32..4, 1_u32..4, any::<bool>()), 1..5),
    ) {
        let fleets: Vec<FleetCapacity> = fleets
            .into_iter()
            .map(|(free, room, chunks, jobs_per_machine, tries)| FleetCapacity {
                tries,
                free_chunks: u64::from(free * chunks),
                chunks,
                jobs_per_machine: NonZeroU32::new(jobs_per_machine).unwrap(),
                ..capacity(free, room)
            })
            .collect();
        let shares = shares(Waiting { jobs, parts }, &fleets);
        prop_assert_eq!(shares.iter().map(|share| share.jobs).sum::<u64>(), jobs);
        prop_assert_eq!(shares.iter().map(|share| share.parts).sum::<u64>(), parts);
        let more = shares.iter().zip(&fleets).filter(|(share, fleet)| {
            share.jobs > u64::from(fleet.free + fleet.room) * u64::from(fleet.jobs_per_machine.get())
        });
        prop_assert!(more.count() <= 1, "only one fleet may have more than it can take: {shares:?} {fleets:?}");
    }
}

/// A fleet whose machines cannot be stopped and started again, as pods.
fn pods(machines: &[(u32, Phase, Life)], pending: u64) -> Desk {
    let mut desk = Desk::new(machines, pending);
    desk.policy.capabilities = Capabilities { can_stop_and_start: false };
    desk
}

fn with_others(desk: &mut Desk, others: OtherFleets) {
    desk.seen.queue.as_mut().unwrap().others = others;
}

#[test]
fn plan_makes_no_machine_for_a_job_that_another_fleet_takes() {
    let mut desk = pods(&[], 1);
    assert_eq!(desk.steps(), ["create 01 any"]);
    with_others(&mut desk, OtherFleets { before: vec![capacity(0, 1)], after: Vec::new() });
    let plan = desk.plan();
    assert_eq!((plan.desired.machines, plan.desired.waiting, plan.actions.len()), (0, 0, 0));
    assert_eq!(plan.capacity, FleetCapacity { room: 3, ..FleetCapacity::none(&desk.policy) });
    with_others(&mut desk, OtherFleets { before: Vec::new(), after: vec![capacity(0, 1)] });
    assert_eq!(desk.steps(), ["create 01 any"]);
}

#[test]
fn capacity_of_a_fleet_is_what_the_provider_permits() {
    let room = |desk: &mut Desk| desk.plan().capacity.room;
    let mut desk = pods(&[(1, Phase::Started, Life::Busy), (2, Phase::Started, Life::Idle)], 5);
    let capacity = desk.plan().capacity;
    assert_eq!((capacity.idle, capacity.free, capacity.room), (1, 1, 1));
    desk.policy.paused = true;
    assert_eq!(room(&mut desk), 0);
    desk.policy.paused = false;
    for outcome in [Outcome::Quota, Outcome::NoCapacity, Outcome::Unauthorized, Outcome::Billing] {
        let mut desk = pods(&[(1, Phase::Started, Life::Busy)], 5);
        assert_eq!(room(&mut desk), 2);
        desk.first_ends(outcome.clone());
        assert_eq!(room(&mut desk), 0, "{outcome:?}");
    }
    // While launches fail, a single one is tried after a pause.
    let mut desk = pods(&[], 5);
    for _ in 0..desk.policy.launch_failures {
        desk.first_ends(Outcome::Rejected);
    }
    assert_eq!(room(&mut desk), 0);
    desk.now += desk.policy.deadlines.hold;
    desk.see(&[], 5);
    assert_eq!(room(&mut desk), 1);
    // Machines at rest can be started where none can be created.
    let mut desk = Desk::new(&[(1, Phase::Stopped, Life::None)], 5);
    assert_eq!(room(&mut desk), 3);
    desk.policy.budget = Some(MicroDollars(86_112));
    assert_eq!(room(&mut desk), 1);
}

#[test]
fn unschedulable_machine_remains_while_another_fleet_takes_the_job() {
    let waits = (1, Phase::Unschedulable, Life::None);
    let mut desk = pods(std::slice::from_ref(&waits), 1);
    desk.list()[0].region = "any".to_owned();
    with_others(&mut desk, OtherFleets { before: Vec::new(), after: vec![capacity(0, 5)] });
    let plan = desk.plan();
    assert_eq!((plan.desired.waiting, plan.actions.len(), plan.capacity.free), (0, 0, 0));
    assert!(plan.conditions.iter().any(|c| matches!(c, Condition::NoCapacity { .. })));
    // The job is being done elsewhere, and no other waits.
    desk.see(std::slice::from_ref(&waits), 0);
    desk.list()[0].region = "any".to_owned();
    with_others(&mut desk, OtherFleets { before: Vec::new(), after: vec![capacity(0, 5)] });
    assert_eq!(desk.steps(), ["destroy m1"]);
}

#[test]
fn fleet_says_why_another_one_takes_its_jobs() {
    let mut desk = pods(&[], 1);
    desk.first_ends(Outcome::Quota);
    with_others(&mut desk, OtherFleets { before: Vec::new(), after: vec![capacity(0, 5)] });
    let plan = desk.plan();
    assert_eq!(plan.desired.waiting, 0);
    assert!(plan.conditions.iter().any(|c| matches!(c, Condition::Quota { .. })), "{:?}", plan.conditions);
    // It looks again when the quota may have been raised.
    assert_eq!(plan.next_look, Some(desk.policy.deadlines.hold));
}

#[test]
fn fleet_that_may_have_no_machine_removes_those_that_it_has() {
    let stays = (1, Phase::Started, Life::Busy);
    let mut desk =
        Desk::new(&[stays.clone(), (2, Phase::Stopped, Life::None), (3, Phase::Started, Life::Idle)], 0);
    (desk.policy.min, desk.policy.max) = (0, 0);
    assert_eq!(desk.steps(), ["retire m3", "destroy m2"]);
    desk.see(&[stays.clone(), (3, Phase::Stopped, Life::None)], 4);
    assert_eq!(desk.steps(), ["destroy m3"]);
    desk.see(&[stays], 4);
    assert!(desk.acts().is_empty(), "a busy machine is left alone");
}

#[test]
fn budget_is_the_reason_why_another_fleet_takes_the_jobs() {
    let mut desk = Desk::new(&[(1, Phase::Started, Life::Busy)], 1);
    desk.policy.budget = Some(MicroDollars(86_112));
    with_others(&mut desk, OtherFleets { before: Vec::new(), after: vec![capacity(0, 5)] });
    let plan = desk.plan();
    assert_eq!((plan.desired.waiting, plan.capacity.room), (0, 0));
    assert!(plan.conditions.iter().any(|c| matches!(c, Condition::Budget { .. })), "{:?}", plan.conditions);
}

#[test]
fn machines_that_boot_are_not_forgotten_when_a_list_fails() {
    let mut desk = pods(&[], 2);
    desk.first_ends(Outcome::Done(Some(MachineId("m1".into()))));
    assert_eq!(desk.plan().capacity.free, 1);
    desk.seen.machines = Err(ListUnavailable { why: ListFailure::Failed, at: desk.now });
    let capacity = desk.plan().capacity;
    assert_eq!((capacity.free, capacity.room), (1, 0));
}

#[test]
fn machine_that_hangs_keeps_no_jobs_from_other_fleets() {
    let mut desk = pods(&[(1, Phase::Starting, Life::None)], 1);
    let capacity = desk.plan().capacity;
    assert_eq!((capacity.free, capacity.room), (1, 2));
    let boot = desk.policy.deadlines.boot;
    desk.now += boot;
    desk.see(&[(1, Phase::Starting, Life::None)], 1);
    let plan = desk.plan();
    assert_eq!((plan.capacity.free, plan.capacity.room), (0, 0));
    // It remains, and where there is no other fleet none is made in addition.
    assert!(plan.actions.is_empty() && plan.desired.waiting == 1, "{plan:?}");
    with_others(&mut desk, OtherFleets { before: Vec::new(), after: vec![self::capacity(0, 1)] });
    assert_eq!(desk.plan().desired.waiting, 0, "the job is the other fleet's");
    desk.see(&[(1, Phase::Started, Life::Idle)], 1);
    let capacity = desk.plan().capacity;
    assert_eq!((capacity.free, capacity.room), (1, 2));
    // As long as another one boots in time, so may the next.
    let mut desk = pods(&[(1, Phase::Starting, Life::None)], 3);
    desk.plan();
    desk.now += boot;
    desk.see(&[(1, Phase::Starting, Life::None), (2, Phase::Starting, Life::None)], 3);
    let capacity = desk.plan().capacity;
    assert_eq!((capacity.free, capacity.room), (1, 1));
}

#[test]
fn machines_that_do_not_boot_in_time_are_not_counted_while_a_list_fails() {
    let free = |desk: &mut Desk| {
        desk.seen.machines = Err(ListUnavailable { why: ListFailure::Failed, at: desk.now });
        desk.plan().capacity.free
    };
    let mut desk = pods(&[], 2);
    desk.first_ends(Outcome::Done(Some(MachineId("m1".into()))));
    desk.now += desk.policy.deadlines.boot - s(1);
    assert_eq!(free(&mut desk), 1);
    desk.now += s(1);
    assert_eq!(free(&mut desk), 0);
    // One without a host is no machine to come.
    let mut desk = pods(&[], 2);
    desk.first_ends(Outcome::Done(Some(MachineId("m1".into()))));
    desk.now += s(5);
    desk.see(&[(1, Phase::Unschedulable, Life::None)], 2);
    desk.plan();
    assert_eq!(free(&mut desk), 0);
}
