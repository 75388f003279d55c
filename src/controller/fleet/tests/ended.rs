//! Machines whose provider cannot start them again, as pods, after their process has ended.

use super::*;
use crate::controller::fleet::Exit;
use crate::job::Millis;
use Life::{Busy, Idle, None as Nobody};
use Phase::{Destroying, Failed, Started, Starting, Stopped};

/// A desk whose provider cannot start a machine again, as pods.
fn ephemeral(machines: &[(u32, Phase, Life)]) -> Desk {
    let mut desk = Desk::new(machines, 0);
    desk.policy.capabilities.can_stop_and_start = false;
    desk.plan();
    desk.now = s(60);
    desk
}

#[test]
fn machine_that_ended_for_good_is_destroyed_although_its_last_heartbeat_is_fresh() {
    let mut desk = ephemeral(&[(1, Started, Idle)]);
    desk.see(&[(1, Stopped, Idle)], 1);
    assert_eq!(desk.steps(), ["create 02 any", "destroy m1"]);
    assert!(!desk.says("heartbeat"));
    desk.list()[0].message = Some("OOMKilled (exit code 137)".to_owned());
    let reason = &desk.plan().actions[1].reason;
    assert!(reason.ends_with("cannot start it again: OOMKilled (exit code 137)"), "{reason}");
    desk.see(&[(1, Failed, Idle)], 0);
    assert_eq!(desk.steps(), ["destroy m1"]);
    desk.see(&[(1, Stopped, Busy)], 0);
    assert!(desk.acts().is_empty(), "its worker holds a lease");
}

#[test]
fn machine_whose_worker_gave_up_keeps_its_slot_for_a_while() {
    let mut desk = ephemeral(&[(1, Started, Idle)]);
    let see = |desk: &mut Desk, code| {
        desk.see(&[(1, Stopped, Nobody)], 1);
        let exit = Exit { at: Millis(50_000), code, out_of_memory: false, requested: false };
        desk.list()[0].last_exit = Some(exit);
        desk.steps()
    };
    assert_eq!(see(&mut desk, 1), ["create 02 any"]);
    desk.now = s(60) + desk.policy.deadlines.hold;
    assert_eq!(see(&mut desk, 1), ["create 02 any", "destroy m1"]);
    // One that had nothing to do is of no use at once.
    let mut desk = ephemeral(&[(1, Started, Idle)]);
    assert_eq!(see(&mut desk, 0), ["create 02 any", "destroy m1"]);
}

/// A desk whose pods end one after the other as `end` says, before their workers come. The last of them has ended.
fn launches(n: u32, end: impl Fn(&mut Machine)) -> Desk {
    let mut desk = ephemeral(&[]);
    desk.see(&[], 1);
    for round in 1..=n {
        assert_eq!(desk.steps(), ["create 01 any"], "launch {round}");
        desk.first_ends(Outcome::Done(Some(MachineId("m1".into()))));
        desk.now += s(5);
        desk.see(&[(1, Starting, Nobody)], 1);
        desk.plan();
        desk.now += s(5);
        desk.see(&[(1, Stopped, Nobody)], 1);
        let at = desk.now;
        let machine = &mut desk.list()[0];
        machine.last_exit = Some(Exit {
            at: Millis(i64::try_from(at.as_millis()).unwrap()),
            code: 137,
            out_of_memory: false,
            requested: false,
        });
        end(machine);
        desk.plan();
        desk.now += s(5);
        desk.see(&[], 1);
        desk.plan();
    }
    desk
}

#[test]
fn machines_that_are_killed_before_their_workers_come_are_failed_launches() {
    let mut killed = launches(3, |machine| {
        machine.last_exit.as_mut().unwrap().out_of_memory = true;
        machine.message = Some("OOMKilled (exit code 137)".to_owned());
    });
    assert!(killed.acts().is_empty());
    assert!(
        killed.says("3 launches in a row started no worker: OOMKilled (exit code 137); launches_failing")
    );
}

#[test]
fn machines_that_others_end_before_their_workers_come_are_failed_launches_if_it_goes_on() {
    let evicted = |machine: &mut Machine| {
        machine.last_exit.as_mut().unwrap().requested = true;
        machine.message = Some("Preempted: by a better one".to_owned());
    };
    let removed = |machine: &mut Machine| {
        (machine.phase, machine.last_exit) = (Destroying, None);
        machine.message = Some("Preempted: by a better one".to_owned());
    };
    for end in [&evicted as &dyn Fn(&mut Machine), &removed] {
        let mut desk = launches(3, end);
        assert_eq!(
            (desk.steps().as_slice(), desk.memory.launch_failures),
            (["create 01 any".to_owned()].as_slice(), 0)
        );
        let mut desk = launches(6, end);
        assert!(desk.acts().is_empty());
        assert!(desk.says("started no worker: Preempted: by a better one; launches_failing"));
    }
    // A node that goes away ends several at once.
    let mut desk = ephemeral(&[]);
    desk.see(&[], 3);
    for n in 1..=3 {
        desk.first_ends(Outcome::Done(Some(MachineId(format!("m{n}")))));
    }
    desk.now += s(5);
    desk.see(&[(1, Destroying, Nobody), (2, Destroying, Nobody), (3, Destroying, Nobody)], 3);
    desk.plan();
    assert_eq!(desk.memory.launches_stopped, Some((1, desk.now)));
}

#[test]
fn machines_that_somebody_else_removes_are_told_once() {
    let removed = |desk: &Desk| -> Vec<String> {
        let machines = &desk.seen.machines.as_ref().unwrap().machines;
        desk.memory.removed_by_others(machines, &desk.policy).map(|machine| machine.id.0.clone()).collect()
    };
    let mut desk = ephemeral(&[(1, Started, Idle), (2, Stopped, Nobody)]);
    desk.see(&[(1, Started, Idle), (2, Stopped, Nobody)], 0);
    assert_eq!(desk.steps(), ["destroy m2"]);
    desk.first_ends(Outcome::Done(None));
    desk.now += s(5);
    // The third is not known: it may have been removed by another reconciler.
    desk.see(&[(1, Destroying, Nobody), (2, Destroying, Nobody), (3, Destroying, Nobody)], 0);
    assert_eq!(removed(&desk), ["m1"]);
    desk.plan();
    assert!(removed(&desk).is_empty());
}
