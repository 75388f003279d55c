//! Tests of fleets that take jobs of several classes.

use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::controller::fleet::share::{Waiting, WaitingByClass, share};
use crate::controller::fleet::{Capabilities, FleetCapacity, OtherFleets};

const CLASSES: [&str; 3] = ["default", "large", "small"];

fn fleet(classes: &str, free: u32, room: u32) -> FleetCapacity {
    FleetCapacity {
        idle: free,
        free,
        free_chunks: u64::from(free) * 2,
        room,
        chunks: 2,
        jobs_per_machine: NonZeroU32::MIN,
        classes: classes.parse().unwrap(),
        tries: true,
    }
}

fn class(name: &str) -> WorkerClass {
    name.parse().unwrap()
}

/// Jobs and parts that wait, by their class.
fn waiting(of: &[(&str, u64, u64)]) -> WaitingByClass {
    WaitingByClass(
        of.iter().map(|(name, jobs, parts)| (class(name), Waiting { jobs: *jobs, parts: *parts })).collect(),
    )
}

/// The share of each fleet in each class, in their order.
fn shares(waiting: &WaitingByClass, fleets: &[FleetCapacity]) -> Vec<WaitingByClass> {
    let others = |n: usize| OtherFleets { before: fleets[..n].to_vec(), after: fleets[n + 1..].to_vec() };
    (0..fleets.len()).map(|n| share(waiting, &fleets[n], &others(n))).collect()
}

/// The number of jobs of each class in the share of each fleet, such as `default 2, large 1`.
fn jobs(of: &[(&str, u64)], fleets: &[FleetCapacity]) -> Vec<String> {
    let of: Vec<_> = of.iter().map(|(name, jobs)| (*name, *jobs, 0)).collect();
    let said = |shared: &WaitingByClass| {
        let some = shared.0.iter().filter(|(_, waiting)| waiting.jobs > 0);
        some.map(|(class, waiting)| format!("{class} {}", waiting.jobs)).collect::<Vec<_>>().join(", ")
    };
    shares(&waiting(&of), fleets).iter().map(said).collect()
}

#[test]
fn fleet_has_no_share_in_what_waits_for_another_class() {
    let fleets = [fleet("default", 2, 9), fleet("large", 0, 1)];
    assert_eq!(jobs(&[("large", 5)], &fleets), ["", "large 5"]);
    assert_eq!(jobs(&[("default", 1), ("large", 1)], &fleets), ["default 1", "large 1"]);
    // Not even if the fleet of that class makes no machines.
    let paused = FleetCapacity { tries: false, ..fleet("large", 0, 0) };
    assert_eq!(jobs(&[("large", 5)], &[fleet("default", 2, 9), paused]), ["", "large 5"]);
}

#[test]
fn class_that_no_fleet_takes_is_nobodys() {
    assert_eq!(jobs(&[("huge", 5)], &[fleet("default", 2, 9), fleet("large", 0, 1)]), ["", ""]);
    assert_eq!(jobs(&[("huge", 5)], &[fleet("default,large,small", 0, 0)]), [""]);
}

#[test]
fn fleets_of_overlapping_classes_make_machines_by_their_order() {
    let fleets = [fleet("default,large", 0, 3), fleet("default", 0, 9)];
    assert_eq!(jobs(&[("default", 5)], &fleets), ["default 3", "default 2"]);
    let fleets = [fleet("default", 0, 3), fleet("default,large", 0, 9)];
    assert_eq!(jobs(&[("default", 5), ("large", 1)], &fleets), ["default 3", "default 2, large 1"]);
    // What no fleet can take is the share of the first one of its class.
    assert_eq!(jobs(&[("default", 20), ("large", 1)], &fleets), ["default 12", "default 8, large 1"]);
    assert_eq!(jobs(&[("large", 20)], &fleets), ["", "large 20"]);
}

#[test]
fn machines_that_take_one_class_are_not_free_for_the_next() {
    let both = [fleet("default,large", 2, 1)];
    assert_eq!(jobs(&[("default", 2), ("large", 2)], &both), ["default 2, large 2"]);
    let fleets = [fleet("default,large", 2, 1), fleet("default", 0, 9)];
    assert_eq!(jobs(&[("default", 2), ("large", 2)], &fleets), ["default 1, large 2", "default 1"]);
    let fleets = [fleet("default,large", 0, 2), fleet("large,small", 1, 2)];
    // The idle machine of the second takes the job of the class that the fewest take.
    assert_eq!(jobs(&[("large", 2), ("small", 1)], &fleets), ["large 2", "small 1"]);
}

#[test]
fn fleet_leaves_to_others_what_they_can_take() {
    // By name the first would take the job of the default class, and nobody could take the other.
    let fleets = [fleet("default,large", 0, 1), fleet("default", 0, 5)];
    assert_eq!(jobs(&[("default", 1), ("large", 1)], &fleets), ["large 1", "default 1"]);
    let fleets = [fleet("default,large", 1, 0), fleet("default", 1, 0)];
    assert_eq!(jobs(&[("default", 1), ("large", 1)], &fleets), ["large 1", "default 1"]);
    // A fleet that has no machine, and can make none, is no other.
    let fleets = [fleet("large,small", 0, 1), fleet("large", 0, 0), fleet("small", 0, 3)];
    assert_eq!(jobs(&[("large", 1), ("small", 1)], &fleets), ["large 1", "", "small 1"]);
}

#[test]
fn parts_of_all_classes_take_what_the_jobs_of_all_leave() {
    let parts = waiting(&[("default", 1, 3), ("large", 1, 9)]);
    let fleets = [fleet("default,large", 1, 3), fleet("large", 0, 9)];
    let total = |shared: &WaitingByClass, fleet: &FleetCapacity| shared.total_of(&fleet.classes);
    let all: Vec<_> = shares(&parts, &fleets).iter().zip(&fleets).map(|(s, f)| total(s, f)).collect();
    // The idle machine and one more for the jobs, two for four parts.
    assert_eq!(all, [Waiting { jobs: 2, parts: 4 }, Waiting { jobs: 0, parts: 8 }]);
}

proptest! {
    #[test]
    fn shares_of_classes_add_up_and_keep_to_the_classes_of_the_fleets(
        wait in vec((0_u64..20, 0_u64..20), 3),
        fleets in vec((1_usize..8, 0_u32..5, 0_u32..5, 1_u32..4, any::<bool>()), 1..5),
    ) {
        let of: Vec<_> = CLASSES.iter().zip(&wait).map(|(name, (jobs, parts))| (*name, *jobs, *parts)).collect();
        let waiting = waiting(&of);
        let fleets: Vec<FleetCapacity> = fleets
            .into_iter()
            .map(|(set, free, room, jobs_per_machine, tries)| {
                let names: Vec<&str> = (0..3).filter(|n| set & (1 << n) > 0).map(|n| CLASSES[n]).collect();
                FleetCapacity {
                    tries,
                    jobs_per_machine: NonZeroU32::new(jobs_per_machine).unwrap(),
                    ..fleet(&names.join(","), free, room)
                }
            })
            .collect();
        let shares = shares(&waiting, &fleets);
        for (name, jobs, parts) in &of {
            let takes = fleets.iter().any(|fleet| fleet.classes.contains(&class(name)));
            let of_class = |shared: &WaitingByClass| shared.0.get(&class(name)).copied().unwrap_or_default();
            let sum = |count: fn(Waiting) -> u64| shares.iter().map(|shared| count(of_class(shared))).sum::<u64>();
            prop_assert_eq!(sum(|waiting| waiting.jobs), if takes { *jobs } else { 0 });
            prop_assert_eq!(sum(|waiting| waiting.parts), if takes { *parts } else { 0 });
        }
        for (shared, fleet) in shares.iter().zip(&fleets) {
            let foreign = shared.0.iter().filter(|(class, _)| !fleet.classes.contains(class));
            prop_assert!(foreign.into_iter().all(|(_, waiting)| *waiting == Waiting::default()));
        }
    }

    /// A fleet counts all its classes together, so that it decides as if they were one.
    #[test]
    fn share_of_fleets_with_the_same_classes_is_that_of_one_class(
        wait in vec((0_u64..20, 0_u64..20), 3),
        fleets in vec((0_u32..5, 0_u32..5, 1_u32..4), 1..5),
    ) {
        let of: Vec<_> = CLASSES.iter().zip(&wait).map(|(name, (jobs, parts))| (*name, *jobs, *parts)).collect();
        let sum = (wait.iter().map(|(jobs, _)| jobs).sum(), wait.iter().map(|(_, parts)| parts).sum());
        let capacities = |classes: &str| -> Vec<FleetCapacity> {
            let one = |(free, room, jobs_per_machine): &(u32, u32, u32)| FleetCapacity {
                jobs_per_machine: NonZeroU32::new(*jobs_per_machine).unwrap(),
                ..fleet(classes, *free, *room)
            };
            fleets.iter().map(one).collect()
        };
        let totals = |waiting: &WaitingByClass, fleets: &[FleetCapacity]| -> Vec<Waiting> {
            shares(waiting, fleets).iter().zip(fleets).map(|(shared, fleet)| shared.total_of(&fleet.classes)).collect()
        };
        let several = totals(&waiting(&of), &capacities("default,large,small"));
        prop_assert_eq!(several, totals(&waiting(&[("default", sum.0, sum.1)]), &capacities("default")));
    }
}

/// A fleet of pods of these classes.
fn pods(classes: &str, machines: &[(u32, Phase, Life)]) -> Desk {
    let mut desk = Desk::new(machines, 0);
    desk.policy.capabilities = Capabilities { can_stop_and_start: false };
    desk.policy.classes = classes.parse().unwrap();
    for machine in desk.list().iter_mut() {
        machine.launch.as_mut().unwrap().classes = classes.parse().unwrap();
    }
    for worker in &mut desk.seen.queue.as_mut().unwrap().workers {
        worker.classes = classes.parse().unwrap();
    }
    desk
}

impl Desk {
    /// Sets the number of ready jobs of this class in the view of the queue.
    fn waits_for(&mut self, name: &str, pending: u64) {
        let view = ClassView { pending, ..ClassView::default() };
        self.seen.queue.as_mut().unwrap().waiting.insert(class(name), view);
    }
}

#[test]
fn plan_makes_no_machine_for_a_job_of_another_class_whatever_its_priority() {
    for priority in [-5, 0, 5] {
        let mut desk = pods("default", &[]);
        desk.policy.priority = priority;
        desk.waits_for("large", 9);
        let plan = desk.plan();
        assert_eq!((plan.desired.machines, plan.desired.waiting, plan.actions.len()), (0, 0, 0));
        desk.waits_for("default", 1);
        let plan = desk.plan();
        assert_eq!((plan.desired.machines, plan.desired.waiting), (1, 1));
        assert_eq!(desk.steps(), ["create 01 any"]);
    }
}

#[test]
fn plan_counts_the_jobs_of_all_its_classes() {
    let mut desk = pods("default,large", &[(1, Phase::Started, Life::Idle)]);
    desk.waits_for("default", 1);
    desk.waits_for("large", 1);
    desk.waits_for("huge", 1);
    let plan = desk.plan();
    assert_eq!((plan.desired.machines, plan.desired.waiting, plan.desired.idle), (2, 2, 1));
    assert_eq!(desk.steps(), ["create 02 any"]);
}

#[test]
fn plan_replaces_machines_of_other_classes() {
    let mut desk = pods("default", &[(1, Phase::Started, Life::Idle), (2, Phase::Started, Life::Busy)]);
    assert!(desk.acts().is_empty());
    desk.policy.classes = "large".parse().unwrap();
    assert_eq!(desk.steps(), ["retire m1"], "the busy one ends its job first");
}

/// A pool whose one machine never leaves by itself, of the default class until a moment ago; now a job of `large` waits.
fn changed_pool(classes: &str, phase: Phase, life: Life) -> Desk {
    let mut desk = pods("default", &[(1, phase, life)]);
    (desk.policy.min, desk.policy.max) = (1, 1);
    assert!(desk.acts().is_empty());
    desk.policy.classes = classes.parse().unwrap();
    desk.waits_for("large", 1);
    desk
}

#[test]
fn plan_retires_idle_machine_of_other_classes_while_jobs_wait() {
    for classes in ["large", "default,large"] {
        let mut desk = changed_pool(classes, Phase::Started, Life::Idle);
        let plan = desk.plan();
        assert_eq!((plan.desired.machines, plan.desired.idle, plan.desired.existing), (1, 0, 1));
        assert_eq!((plan.capacity.idle, plan.capacity.free, plan.capacity.free_chunks), (0, 0, 0));
        let reasons: Vec<&str> = plan.actions.iter().map(|action| action.reason.as_str()).collect();
        assert_eq!(reasons, ["it is idle and was created with other classes"], "{classes}");
        assert_eq!(desk.steps(), ["retire m1"]);
        // The maximum leaves room for another one at once.
        desk.policy.max = 2;
        assert_eq!(desk.steps(), ["create 02 any", "retire m1"]);
    }
    // With unchanged classes it takes the job.
    let mut same = changed_pool("default", Phase::Started, Life::Idle);
    same.waits_for("default", 1);
    assert!(same.acts().is_empty());
}

#[test]
fn plan_does_not_wait_for_booting_machine_of_other_classes() {
    let mut desk = changed_pool("large", Phase::Starting, Life::None);
    let plan = desk.plan();
    assert_eq!((plan.desired.booting, plan.desired.existing, plan.capacity.free), (0, 1, 0));
    assert!(plan.actions.is_empty(), "it is retired once its worker is there: {plan:?}");
    desk.policy.max = 2;
    assert_eq!(desk.steps(), ["create 02 any"]);
    // One that no host has room for is destroyed, as before.
    let mut desk = changed_pool("large", Phase::Unschedulable, Life::None);
    assert_eq!(desk.steps(), ["destroy m1"]);
}

/// A pool of `large` has created `m1` for a job.
fn launched(desk: &mut Desk) {
    let made = desk.first_ends(Outcome::Done(Some(MachineId("m1".into()))));
    assert_eq!(made.act.kind(), "create");
    desk.now += s(5);
}

/// `m1` runs with the launch of the policy, and its worker registered with these classes.
fn worker_registers(desk: &mut Desk, classes: &str) {
    desk.see(&[(1, Phase::Started, Life::Idle)], 0);
    desk.waits_for("large", 1);
    desk.seen.queue.as_mut().unwrap().workers[0].classes = classes.parse().unwrap();
    let launch = Launch::of(&desk.policy, Slot(1));
    desk.list()[0].launch = Some(launch);
}

#[test]
fn workers_that_register_without_their_classes_are_failed_launches() {
    for classes in ["large", "default,large"] {
        let mut desk = pods(classes, &[]);
        desk.waits_for("large", 1);
        for failed in 1..=3 {
            launched(&mut desk);
            // The worker of an old image registers without classes.
            worker_registers(&mut desk, "default");
            let plan = desk.plan();
            assert_eq!((desk.memory.launch_failures, plan.desired.idle, plan.capacity.free), (failed, 0, 0));
            let has_condition = plan.conditions.iter().any(|c| c.reason() == "WorkersWithoutClasses");
            assert_eq!(has_condition, failed == 3);
            assert!(desk.steps().contains(&"retire m1".to_owned()), "{plan:?}");
            desk.plan();
            assert_eq!(desk.memory.launch_failures, failed, "each launch counts once");
            desk.now += s(60);
            desk.memory.machines.clear();
            desk.see(&[], 0);
            desk.waits_for("large", 1);
        }
        assert!(desk.acts().is_empty(), "nothing is launched during the hold");
        assert!(desk.says("too old for classes of workers; workers_without_classes"));
        let mut corrected = desk.clone();
        corrected.policy.image = "image:2".to_owned();
        assert_eq!(corrected.steps(), ["create 01 any"]);
        desk.policy.classes = WorkerClasses::default();
        desk.waits_for("default", 1);
        assert_eq!(desk.steps(), ["create 01 any"], "other classes are a correction, too");
    }
}

#[test]
fn workers_that_register_with_their_classes_are_no_failed_launches() {
    // Whatever a worker of the default class only says of its classes, it takes the jobs of that.
    for (pool, worker) in [("large", "large"), ("large", "default,large"), ("default", "default")] {
        let mut desk = pods(pool, &[]);
        desk.waits_for(pool, 1);
        launched(&mut desk);
        worker_registers(&mut desk, worker);
        let plan = desk.plan();
        assert_eq!((desk.memory.launch_failures, plan.desired.idle), (0, 1), "{pool}, {worker}");
    }
}

#[test]
fn failures_of_machines_of_an_earlier_image_are_not_counted_against_the_corrected_one() {
    let slots = [1, 2, 3];
    let created = || {
        let mut desk = pods("default", &[]);
        desk.waits_for("default", 3);
        for slot in slots {
            desk.first_ends(Outcome::Done(Some(MachineId(format!("m{slot}")))));
        }
        desk.now += s(5);
        desk.see(&slots.map(|slot| (slot, Phase::Starting, Life::None)), 3);
        assert!(desk.acts().is_empty());
        desk
    };
    let ends: [fn(&mut Desk, Phase); 3] = [
        // A list shows that they failed.
        |desk, phase| desk.see(&[1, 2, 3].map(|slot| (slot, phase.clone(), Life::None)), 3),
        // They ran without a worker for too long.
        |desk, _| {
            desk.see(&[1, 2, 3].map(|slot| (slot, Phase::Started, Life::None)), 3);
            desk.plan();
            desk.now += s(200);
            desk.see(&[1, 2, 3].map(|slot| (slot, Phase::Started, Life::None)), 3);
        },
        // They are destroyed because they are stuck.
        |desk, _| {
            for slot in 1..=3 {
                let act = Operation::Destroy { machine: MachineId(format!("m{slot}")), force: true };
                let action = PlannedOperation { act, reason: "stuck".into() };
                desk.memory.record(&action, &Outcome::Done(None), &desk.policy, desk.now, desk.now);
            }
        },
    ];
    for (n, end) in ends.into_iter().enumerate() {
        for (image, failures) in [("image:2", 0), ("image:1", 3)] {
            let mut desk = created();
            desk.policy.image = image.to_owned();
            desk.now += s(5);
            end(&mut desk, Phase::Failed);
            desk.plan();
            assert_eq!(desk.memory.launch_failures, failures, "end {n}, {image}");
        }
    }
}

#[test]
fn reason_names_what_an_outdated_machine_was_created_with() {
    let reason = |change: fn(&mut FleetPolicy)| {
        let mut desk = Desk::new(&[(1, Phase::Stopped, Life::None)], 0);
        change(&mut desk.policy);
        desk.plan().actions.remove(0).reason
    };
    assert_eq!(reason(|p| p.classes = "large".parse().unwrap()), "it was created with other classes");
    assert_eq!(reason(|p| p.revision = Some("2".into())), "it was created with another template");
    let both = reason(|p| (p.image, p.classes) = ("image:2".into(), "large".parse().unwrap()));
    assert_eq!(both, "it was created with another image and other classes");
}
