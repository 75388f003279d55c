//! Machines whose provider cannot start them again, as pods, after their process has ended.

use super::*;
use crate::controller::fleet::Exit;
use crate::job::Millis;
use Life::{Busy, Idle, None as Nobody};
use Phase::{Failed, Started, Stopped};

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
