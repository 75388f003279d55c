//! Machines that no host has room for, and what the provider says about launches.

use super::Life::{Busy, Idle, None as Nobody};
use super::Phase::{Failed, Started, Starting, Stopped, Unschedulable};
use super::*;

/// Machines of a provider that creates and destroys only.
fn desk(machines: &[(u32, Phase, Life)], pending: u64) -> Desk {
    let mut desk = Desk::new(machines, pending);
    desk.policy.capabilities.can_stop_and_start = false;
    desk.says_of_hosts();
    desk
}

impl Desk {
    /// The provider says why machines find no host, which is in the region of the policy.
    fn says_of_hosts(&mut self) {
        for machine in self.list() {
            machine.region = "any".to_owned();
            if machine.phase == Unschedulable {
                machine.message = Some("0/3 hosts have room".to_owned());
            }
        }
    }

    fn see_hosts(&mut self, machines: &[(u32, Phase, Life)], pending: u64) {
        self.see(machines, pending);
        self.says_of_hosts();
    }
}

#[test]
fn machine_without_a_host_counts_as_one_to_come_and_is_reported() {
    let mut desk = desk(&[(1, Unschedulable, Nobody)], 1);
    let plan = desk.plan();
    assert!(plan.actions.is_empty(), "{:?}", plan.actions);
    assert_eq!((plan.desired.machines, plan.desired.booting), (1, 1));
    assert!(desk.says("0/3 hosts have room"));
    // No other is created for the second job: it would find no host either.
    desk.now = s(20);
    desk.see_hosts(&[(1, Unschedulable, Nobody)], 2);
    assert!(desk.acts().is_empty());
    let conditions = desk.plan().conditions;
    assert_eq!(conditions.len(), 1, "it is said once: {conditions:?}");
    // When it has found one, others may be created.
    desk.now = s(30);
    desk.see_hosts(&[(1, Started, Busy)], 1);
    assert_eq!(desk.steps(), ["create 02 any"]);
    assert!(desk.plan().conditions.is_empty());
}

#[test]
fn machine_without_a_host_for_too_long_is_destroyed_and_another_is_tried_after_a_while() {
    let mut desk = desk(&[(1, Unschedulable, Nobody)], 1);
    desk.plan();
    let stuck = desk.policy.deadlines.stuck;
    desk.now = s(1) + stuck - s(1);
    desk.see_hosts(&[(1, Unschedulable, Nobody)], 1);
    assert!(desk.acts().is_empty());
    desk.now = s(1) + stuck;
    desk.see_hosts(&[(1, Unschedulable, Nobody)], 1);
    assert_eq!(desk.steps(), ["destroy m1"]);
    desk.first_ends(Outcome::Done(None));
    // The lack of hosts is no fault of the launch.
    assert_eq!(desk.memory.launch_failures, 0);
    desk.now += s(10);
    desk.see_hosts(&[], 1);
    assert!(desk.acts().is_empty() && desk.says("no region has capacity"));
    desk.now = s(1) + stuck + desk.policy.deadlines.region;
    desk.see_hosts(&[], 1);
    assert_eq!(desk.steps(), ["create 01 any"]);
}

#[test]
fn machine_without_a_host_is_destroyed_once_no_job_needs_it() {
    let machines = [(1, Started, Idle), (2, Unschedulable, Nobody), (3, Unschedulable, Nobody)];
    // One of the two jobs is for the idle machine.
    let mut one = desk(&machines, 2);
    assert_eq!(one.steps(), ["destroy m3"]);
    assert_eq!(desk(&machines, 0).steps(), ["destroy m3", "destroy m2"]);
    let mut kept = desk(&machines[1..], 0);
    kept.policy.min = 2;
    assert!(kept.acts().is_empty(), "the minimum waits for hosts");
    let mut busy = desk(&[(1, Started, Busy), (2, Unschedulable, Nobody)], 0);
    assert_eq!(busy.steps(), ["destroy m2"]);
}

#[test]
fn machine_without_a_host_is_replaced_when_its_launch_changes() {
    let mut desk = desk(&[(1, Unschedulable, Nobody)], 1);
    desk.policy.revision = Some("2".to_owned());
    assert_eq!(desk.steps(), ["destroy m1"]);
    desk.list()[0].launch.as_mut().unwrap().revision = Some("2".to_owned());
    assert!(desk.acts().is_empty());
}

#[test]
fn stopped_and_idle_machines_of_another_revision_are_replaced_and_busy_ones_are_kept() {
    let mut desk = Desk::new(&[(1, Stopped, Nobody), (2, Started, Idle), (3, Started, Busy)], 0);
    desk.policy.revision = Some("2".to_owned());
    assert_eq!(desk.steps(), ["retire m2", "destroy m1"]);
}

#[test]
fn message_about_the_last_launch_is_in_the_condition_until_a_launch_succeeds() {
    let mut desk = Desk::new(&[], 1);
    let failures = desk.policy.launch_failures;
    for _ in 0..failures {
        desk.first_ends(Outcome::Rejected);
        desk.memory.record_message(&Outcome::Rejected, "it violates a standard");
    }
    assert!(desk.says("3 launches in a row started no worker: it violates a standard; launches_failing"));
    // A machine whose image cannot be fetched says so itself.
    let mut desk = Desk::new(&[], 1);
    for _ in 0..failures {
        desk.first_ends(Outcome::Done(Some(MachineId("m1".to_owned()))));
        desk.now += s(5);
        desk.see(&[(1, Failed, Nobody)], 1);
        desk.list()[0].message = Some("ImagePullBackOff: no such image".to_owned());
        desk.plan();
        desk.now += s(5);
        desk.see(&[], 1);
        desk.plan();
    }
    assert!(desk.says("started no worker: ImagePullBackOff: no such image; "));
    desk.memory.launch_succeeded();
    assert!(!desk.says("ImagePullBackOff"));
}

#[test]
fn message_of_a_refused_create_is_in_the_condition() {
    let mut desk = Desk::new(&[], 1);
    desk.first_ends(Outcome::Quota);
    desk.memory.record_message(&Outcome::Quota, "exceeded quota: pods");
    assert!(desk.says("quota (exceeded quota: pods)"));
    let mut desk = Desk::new(&[], 1);
    desk.policy.any_region = true;
    desk.first_ends(Outcome::NoCapacity);
    desk.memory.record_message(&Outcome::NoCapacity, &"x".repeat(1000));
    let conditions = desk.plan().conditions;
    let message = conditions[0].message(&WORDS);
    assert!(message.contains("no region has capacity") && message.len() < 500, "{message}");
}

#[test]
fn image_that_is_pulled_for_minutes_leads_to_no_second_machine() {
    let mut desk = desk(&[(1, Starting, Nobody)], 1);
    assert!(desk.plan().actions.is_empty());
    // It may have ended instead, which only a list tells.
    desk.now = s(130);
    assert_eq!(desk.plan().next_look, Some(Duration::ZERO));
    desk.now = s(180);
    desk.see_hosts(&[(1, Starting, Nobody)], 1);
    let plan = desk.plan();
    assert!(plan.actions.is_empty(), "{:?}", plan.actions);
    assert_eq!(plan.desired.booting, 1);
}

#[test]
fn process_of_a_machine_that_cannot_be_stopped_has_time_to_end() {
    let mut desk = desk(&[(1, Started, Life::Fading)], 0);
    assert!(desk.acts().is_empty());
    desk.now = s(130);
    desk.see_hosts(&[(1, Started, Life::Dead)], 0);
    let plan = desk.plan();
    let act = plan.actions.iter().map(|action| &action.act).next();
    assert!(matches!(act, Some(Operation::Destroy { force: false, .. })), "{:?}", plan.actions);
}
