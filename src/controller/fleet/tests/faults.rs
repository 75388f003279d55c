//! Every fault of a provider or worker that the plan must handle.

use super::*;
use crate::controller::fleet::{Exit, ListFailure, MachineDisk, Start};
use crate::job::Millis;
use Life::{Busy, Dead, Idle, None as Nobody, Retired};
use Phase::{Created, Destroying, Failed, Started, Starting, Stopped, Stopping};

#[test]
fn fault_01_error_429_pauses_all_writes_and_plan_launches_before_it_stops() {
    let mut desk = Desk::new(&[(1, Started, Nobody), (2, Stopped, Nobody)], 0);
    desk.plan();
    desk.now = s(400);
    desk.see(&[(1, Started, Nobody), (2, Stopped, Nobody)], 2);
    assert_eq!(desk.steps(), ["start m2", "create 03 any", "stop m1"]);
    desk.first_ends(Outcome::RateLimited { retry_after: Some(s(9)) });
    assert!(desk.acts().is_empty() && desk.says("throttles requests"));
    assert_eq!(desk.plan().next_look, Some(s(9)));
    desk.now += s(9);
    assert_eq!(desk.steps(), ["start m2", "create 03 any", "stop m1"]);
}

#[test]
fn fault_02_three_consecutive_lost_responses_pause_all_writes() {
    let mut desk = Desk::new(&[], 3);
    for _ in 0..3 {
        assert!(!desk.says("fails"));
        desk.first_ends(Outcome::Unknown);
    }
    assert!(desk.says("fails") && desk.acts().is_empty());
}

#[test]
fn fault_03_create_with_lost_response_reserves_its_slot_until_the_next_list() {
    let mut desk = Desk::new(&[], 1);
    assert_eq!(desk.steps(), ["create 01 any"]);
    desk.first_ends(Outcome::Unknown);
    assert!(desk.acts().is_empty());
    // Too early for a failure.
    desk.now += s(5);
    desk.see(&[], 1);
    assert!(desk.acts().is_empty());
    desk.now += s(30);
    desk.see(&[], 1);
    assert_eq!(desk.steps(), ["create 01 any"]);
}

#[test]
fn fault_03_create_with_lost_response_that_succeeded_is_adopted() {
    let mut desk = Desk::new(&[], 1);
    desk.first_ends(Outcome::NameTaken(Some(MachineId("m1".into()))));
    assert_eq!((desk.acts(), desk.plan().next_look), (vec![], Some(Duration::ZERO)));
    desk.now += s(1);
    desk.see(&[(1, Stopped, Nobody)], 1);
    assert_eq!(desk.steps(), ["start m1"]);
}

#[test]
fn fault_04_machine_that_never_started_is_started_then_destroyed() {
    let machines = [(1, Created, Nobody)];
    let mut desk = Desk::new(&machines, 1);
    assert!(desk.acts().is_empty(), "it may still start by itself");
    desk.now = s(40);
    desk.see(&machines, 1);
    assert_eq!(desk.steps(), ["start m1"]);
    desk.see(&machines, 0);
    assert!(desk.acts().is_empty());
    desk.now = s(400);
    desk.see(&machines, 0);
    assert_eq!(desk.steps(), ["destroy m1"]);
}

fn unreachable(desk: &mut Desk) {
    for machine in desk.list() {
        (machine.host_reachable, machine.launch) = (false, None);
    }
}

#[test]
fn fault_05_unreachable_machine_counts_toward_maximum_and_is_replaced() {
    let mut desk = Desk::new(&[(1, Started, Nobody)], 3);
    unreachable(&mut desk);
    assert_eq!(desk.steps(), ["create 02 any", "create 03 any"], "it counts toward MAX");
    desk.now = s(400);
    desk.see(&[(1, Started, Nobody)], 0);
    unreachable(&mut desk);
    assert_eq!(desk.steps(), ["destroy m1"]);
    desk.see(&[(1, Started, Busy)], 0);
    unreachable(&mut desk);
    assert!(desk.acts().is_empty(), "its worker holds a lease");
}

#[test]
fn fault_06_missing_machine_frees_its_slot() {
    let mut desk = Desk::new(&[(1, Started, Busy), (2, Started, Idle)], 0);
    desk.plan();
    desk.now = s(60);
    desk.see(&[(2, Started, Busy)], 1);
    assert_eq!(desk.steps(), ["create 01 any"]);
}

#[test]
fn fault_07_suddenly_empty_list_is_accepted_only_after_a_delay() {
    let all = [(1, Started, Busy), (2, Started, Idle), (3, Stopped, Nobody)];
    let mut desk = Desk::new(&all, 0);
    desk.plan();
    desk.now = s(60);
    desk.see(&[], 5);
    assert!(desk.acts().is_empty() && desk.says("3 of 3 machines are suddenly missing"));
    desk.now = s(70);
    desk.see(&all, 0);
    assert!(desk.acts().is_empty());
    desk.now = s(80);
    desk.see(&[], 1);
    desk.plan();
    // The absence lasts, so it is accepted.
    desk.now = s(200);
    desk.see(&[], 1);
    assert_eq!(desk.steps(), ["create 01 any"]);
}

#[test]
fn fault_08_concurrent_creates_of_one_name_make_the_second_adopt_the_machine() {
    let (mut a, mut b) = (Desk::new(&[], 1), Desk::new(&[], 1));
    assert_eq!(a.acts(), b.acts());
    b.first_ends(Outcome::NameTaken(None));
    assert_eq!((b.acts(), b.plan().next_look), (vec![], Some(Duration::ZERO)));
}

#[test]
fn fault_09_plan_ignores_the_clocks_of_the_provider() {
    let mut desk = Desk::new(&[(1, Starting, Nobody)], 1);
    for (created, since) in [("1970-01-01T00:00:00Z", Some(Millis(i64::MAX))), ("soon", None)] {
        desk.list()[0].created_at = created.into();
        desk.list()[0].running_since = since;
        assert!(desk.acts().is_empty());
    }
}

#[test]
fn fault_10_three_failed_launches_stop_launches_and_report_a_condition() {
    let mut desk = Desk::new(&[], 3);
    for slot in 1..=3 {
        let made = Outcome::Done(Some(MachineId(format!("m{slot}"))));
        desk.first_ends(made);
    }
    desk.now = s(5);
    desk.see(&[(1, Failed, Nobody), (2, Failed, Nobody), (3, Failed, Nobody)], 3);
    assert!(desk.says("3 launches in a row") && desk.says("launches_failing"));
    assert!(desk.acts().iter().all(|a| matches!(a, Operation::Destroy { .. })));
    desk.now = s(10);
    desk.see(&[], 3);
    assert!(desk.acts().is_empty());
    desk.now = s(200);
    desk.see(&[], 3);
    assert!(desk.acts().is_empty() && desk.says("3 launches in a row"));
    // Who corrects the image or the template need not wait.
    let mut corrected = desk.clone();
    corrected.policy.image = "corrected".to_owned();
    assert_eq!(corrected.acts().len(), 3);
    assert!(!corrected.says("launches in a row"));
    // After the hold there is one launch at a time; once a worker registers, all launches are made again.
    desk.now = s(700);
    desk.see(&[], 3);
    assert_eq!(desk.steps(), ["create 01 any"]);
    desk.first_ends(Outcome::Done(Some(MachineId("m1".into()))));
    assert!(desk.acts().is_empty());
    desk.now = s(705);
    desk.see(&[(1, Started, Busy)], 2);
    assert_eq!(desk.steps(), ["create 02 any", "create 03 any"]);
}

/// The last start of the machine took this many milliseconds, by the provider's clock; if `exit` is given,
/// its process has exited since.
fn life(desk: &mut Desk, start_took: u64, exit: Option<i32>) {
    let at = Millis(i64::try_from(start_took).unwrap());
    let machine = &mut desk.list()[0];
    machine.last_start = Some(Start { at, took: Duration::from_millis(start_took) });
    machine.last_exit =
        exit.map(|code| Exit { at: at.plus(60_000), code, out_of_memory: false, requested: false });
}

/// A machine was created for a job and has been listed since. With `id` the create reported its id.
fn launched(id: Option<&str>) -> Desk {
    let mut desk = Desk::new(&[], 1);
    let action = desk.first_ends(Outcome::Done(id.map(|id| MachineId(id.into()))));
    assert_eq!(action.act.kind(), "create");
    desk
}

fn failures(desk: &mut Desk) -> u32 {
    desk.plan();
    desk.memory.launch_failures
}

#[test]
fn fault_10_launches_without_a_heartbeat_report_workers_not_registering() {
    for id in [Some("m1"), None] {
        let mut desk = launched(id);
        for failed in 1..=3 {
            let launched_at = desk.now;
            desk.now = launched_at + s(121);
            desk.see(&[(1, Started, Nobody)], 1);
            life(&mut desk, 2_000, None);
            assert_eq!(failures(&mut desk), failed - 1, "the deadline has not passed yet");
            desk.now = launched_at + s(123);
            desk.see(&[(1, Started, Nobody)], 1);
            life(&mut desk, 2_000, None);
            assert_eq!(failures(&mut desk), failed);
            assert_eq!(desk.says("3 launches in a row"), failed == 3);
            let stop = Operation::Stop { machine: MachineId("m1".into()) };
            assert!(desk.acts().contains(&stop));
            let action = PlannedOperation { act: stop, reason: "no heartbeat".into() };
            desk.memory.record(&action, &Outcome::Done(None), &desk.policy, desk.now, desk.now);
            desk.now += s(6);
            desk.see(&[(1, Stopped, Nobody)], 1);
            if failed < 3 {
                assert_eq!(desk.steps(), ["start m1"]);
                desk.first_ends(Outcome::Done(None));
            }
        }
        assert!(desk.acts().is_empty(), "nothing is launched during the hold");
        assert!(desk.says("workers_not_registering"));
        desk.now += s(600);
        desk.see(&[(1, Stopped, Nobody)], 1);
        assert_eq!(desk.steps(), ["start m1"], "one more launch is made");
        desk.first_ends(Outcome::Done(None));
        assert!(desk.says("workers_not_registering"), "the condition remains during one more launch");
        desk.now += s(3);
        desk.see(&[(1, Started, Idle)], 1);
        assert_eq!(failures(&mut desk), 0);
        assert!(!desk.says("launches in a row"));
    }
}

#[test]
fn launch_deadline_excludes_the_image_pull() {
    let mut desk = launched(Some("m1"));
    desk.now = s(125);
    desk.see(&[(1, Starting, Nobody)], 1);
    assert_eq!(failures(&mut desk), 0);
    for (at, failed) in [(205, 0), (320, 0), (322, 1)] {
        desk.now = s(at);
        desk.see(&[(1, Started, Nobody)], 1);
        life(&mut desk, 200_000, None);
        assert_eq!(failures(&mut desk), failed, "at {at} s");
        assert_eq!(desk.steps().contains(&"stop m1".to_owned()), failed > 0, "at {at} s");
    }
    // Without start events the time counts from the list that showed the machine as started.
    let mut desk = launched(Some("m1"));
    for (at, failed) in [(125, 0), (244, 0), (245, 1)] {
        desk.now = s(at);
        desk.see(&[(1, Started, Nobody)], 1);
        assert_eq!(failures(&mut desk), failed, "at {at} s");
    }
}

#[test]
fn launch_with_expired_heartbeat_is_not_a_failure() {
    let mut desk = launched(Some("m1"));
    desk.now = s(5);
    desk.see(&[(1, Started, Idle)], 1);
    desk.plan();
    desk.now = s(400);
    desk.see(&[(1, Started, Dead)], 0);
    assert_eq!(desk.steps(), ["stop m1"]);
    desk.first_ends(Outcome::Done(None));
    desk.now = s(420);
    desk.see(&[(1, Stopped, Nobody)], 0);
    assert_eq!(failures(&mut desk), 0);
}

#[test]
fn launch_that_exits_before_the_next_list_is_a_failure_unless_registered() {
    for (registered, failed) in [(None, 1), (Some(s(0)), 1), (Some(s(9)), 0)] {
        let mut desk = launched(Some("m1"));
        desk.now = s(90);
        desk.see(&[(1, Stopped, Nobody)], 1);
        life(&mut desk, 2_000, Some(0));
        let registered = registered.map(|at| (MachineId("m1".into()), at));
        desk.seen.queue.as_mut().unwrap().heard.extend(registered.clone());
        assert_eq!(failures(&mut desk), failed, "registered: {registered:?}");
    }
}

#[test]
fn launch_that_disappears_or_hangs_is_a_failure() {
    // The machine disappeared.
    let mut desk = launched(Some("m1"));
    desk.now = s(121);
    desk.see(&[], 1);
    assert_eq!(failures(&mut desk), 1);
    // The machine never got further than `created`, and was started again and again.
    let mut desk = launched(Some("m1"));
    desk.now += s(1);
    desk.see(&[(1, Created, Nobody)], 1);
    desk.plan();
    for failed in 1..=3 {
        desk.now += s(40);
        desk.see(&[(1, Created, Nobody)], 1);
        assert_eq!(desk.steps(), ["start m1"]);
        desk.first_ends(Outcome::Done(None));
        assert_eq!(failures(&mut desk), failed);
    }
    // The machine hung while starting.
    let mut desk = launched(Some("m1"));
    desk.now = s(121);
    desk.see(&[(1, Starting, Nobody)], 1);
    desk.plan();
    desk.now = s(430);
    desk.see(&[(1, Starting, Nobody)], 0);
    assert_eq!(desk.steps(), ["stop m1"]);
    desk.first_ends(Outcome::Done(None));
    assert_eq!(failures(&mut desk), 1);
    // A stop was requested by a person.
    let mut desk = launched(Some("m1"));
    desk.now = s(50);
    desk.see(&[(1, Stopped, Nobody)], 0);
    life(&mut desk, 2_000, Some(0));
    desk.list()[0].last_exit.as_mut().unwrap().requested = true;
    assert_eq!(failures(&mut desk), 0);
}

#[test]
fn fault_11_create_without_capacity_tries_the_next_region_then_any() {
    let mut desk = Desk::new(&[], 1);
    desk.policy.regions = vec!["iad".into(), "dfw".into()];
    for region in ["iad", "dfw", "any"] {
        assert_eq!(desk.steps(), [format!("create 01 {region}")]);
        desk.first_ends(Outcome::NoCapacity);
    }
    assert!(desk.acts().is_empty() && desk.says("no region has capacity"));
    assert_eq!(desk.plan().next_look, Some(s(120)));
    desk.now += s(120);
    desk.see(&[], 1);
    assert_eq!(desk.steps(), ["create 01 iad"]);
}

#[test]
fn fault_12_stuck_machine_without_a_job_is_stopped_once_then_destroyed() {
    for state in [Starting, Stopping] {
        let mut desk = Desk::new(&[(1, state.clone(), Nobody)], 0);
        desk.plan();
        desk.now = s(302);
        assert_eq!((desk.acts(), desk.plan().next_look), (vec![], Some(Duration::ZERO)), "list first");
        desk.see(&[(1, state.clone(), Busy)], 0);
        assert!(desk.acts().is_empty());
        desk.see(&[(1, state.clone(), Nobody)], 0);
        assert_eq!(desk.steps(), ["stop m1"]);
        desk.first_ends(Outcome::Done(None));
        assert!(desk.acts().is_empty());
        desk.now = s(380);
        desk.see(&[(1, state, Nobody)], 0);
        assert_eq!(desk.steps(), ["destroy m1"]);
    }
}

#[test]
fn fault_13_zombie_is_replaced_first_and_stopped_after_its_lease() {
    let mut desk = Desk::new(&[(1, Started, Life::Fading)], 0);
    assert!(desk.acts().is_empty());
    desk.now = s(30);
    desk.see(&[(1, Started, Dead)], 1);
    assert_eq!(desk.steps(), ["create 02 any"]);
    desk.now = s(130);
    desk.see(&[(1, Started, Dead), (2, Started, Busy)], 0);
    assert_eq!(desk.steps(), ["stop m1"]);
}

#[test]
fn fault_14_machine_listed_as_stopped_with_fresh_heartbeat_is_not_started() {
    let machines = [(1, Stopped, Idle)];
    let mut desk = Desk::new(&machines, 1);
    assert!(desk.acts().is_empty());
    desk.now = s(20);
    desk.see(&machines, 1);
    assert_eq!(desk.steps(), ["create 02 any"], "another machine is created meanwhile");
    assert!(desk.says("left alone"));
    desk.see(&[(1, Stopped, Nobody)], 1);
    assert_eq!(desk.steps(), ["start m1"]);
}

#[test]
fn fault_15_worker_is_retired_before_its_machine_is_stopped() {
    let mut desk = Desk::new(&[(1, Started, Idle)], 0);
    desk.plan();
    desk.now = s(362);
    desk.see(&[(1, Started, Idle)], 0);
    assert_eq!(desk.steps(), ["retire m1"]);
    desk.first_ends(Outcome::Refused);
    desk.see(&[(1, Started, Busy)], 0);
    assert!(desk.acts().is_empty());
    desk.see(&[(1, Started, Retired)], 0);
    assert!(desk.acts().is_empty(), "its worker exits by itself");
    desk.now = s(500);
    desk.see(&[(1, Started, Retired)], 0);
    assert_eq!(desk.steps(), ["stop m1"]);
}

#[test]
fn fault_16_budget_limits_launches_and_stops_no_machine() {
    let mut desk = Desk::new(&[(1, Started, Busy), (2, Started, Busy)], 5);
    desk.policy.budget = Some(MicroDollars(100_000));
    assert_eq!(desk.policy.affordable(), 1);
    assert!(desk.acts().is_empty() && desk.says("allows at most 1 machines"));
    desk.see(&[], 5);
    desk.memory = FleetState::new();
    assert_eq!(desk.steps(), ["create 01 any"]);
}

#[test]
fn fault_17_broken_image_stops_launches_and_a_job_that_needs_too_much_memory_does_not() {
    // Without a job, a worker that needs too much memory would do so again.
    for (oom, registers, held) in [(true, true, false), (true, false, true), (false, false, true)] {
        let mut desk = Desk::new(&[(1, Stopped, Nobody)], 1);
        for round in 1..=3 {
            assert_eq!(desk.steps(), ["start m1"], "round {round}");
            desk.first_ends(Outcome::Done(None));
            desk.now += s(20);
            desk.see(&[(1, Stopped, Nobody)], 1);
            desk.list()[0].last_exit =
                Some(Exit { at: Millis(round), code: 137, out_of_memory: oom, requested: false });
            let heard = registers.then(|| (MachineId("m1".into()), desk.now - s(10)));
            desk.seen.queue.as_mut().unwrap().heard.extend(heard);
        }
        assert_eq!(desk.acts().is_empty(), held, "out of memory: {oom}, with a worker: {registers}");
    }
}

#[test]
fn fault_18_plan_is_empty_without_redis_or_without_a_list() {
    let mut desk = Desk::new(&[(1, Failed, Nobody)], 5);
    desk.seen.queue = None;
    assert!(desk.acts().is_empty() && desk.says("Redis"));
    let mut desk = Desk::new(&[(1, Failed, Nobody)], 5);
    desk.seen.machines = Err(ListUnavailable { why: ListFailure::Failed, at: desk.now });
    assert!(desk.acts().is_empty() && desk.says("list"));
    assert_eq!(desk.plan().next_look, Some(s(5)));
}

#[test]
fn fault_19_rejected_token_stops_writes_and_reports_a_condition() {
    let mut desk = Desk::new(&[], 5);
    desk.first_ends(Outcome::Unauthorized);
    assert!(desk.acts().is_empty() && desk.says("writes_refused"));
    desk.seen.machines = Err(ListUnavailable { why: ListFailure::Unauthorized, at: desk.now });
    assert!(desk.acts().is_empty() && desk.says("list_refused"));
}

#[test]
fn fault_20_billing_refusal_stops_launches_for_ten_minutes() {
    let mut desk = Desk::new(&[], 5);
    desk.first_ends(Outcome::Billing);
    assert!(desk.acts().is_empty() && desk.says("billing") && !desk.says("refused"));
    desk.now += s(600);
    desk.see(&[], 5);
    assert!(!desk.acts().is_empty() && !desk.says("billing"));
    // An existing machine may still be stopped or started, but not repeatedly.
    let mut desk = Desk::new(&[(1, Stopped, Nobody), (2, Failed, Nobody)], 1);
    assert_eq!(desk.steps()[0], "start m1");
    desk.first_ends(Outcome::Billing);
    assert!(desk.says("billing") && !desk.steps().iter().any(|step| step.starts_with("start")));
    let mut desk = Desk::new(&[(1, Failed, Nobody)], 5);
    desk.seen.machines = Err(ListUnavailable { why: ListFailure::Billing, at: desk.now });
    assert!(desk.acts().is_empty() && desk.says("billing") && !desk.says("refused"));
}

#[test]
fn plan_is_empty_and_reports_a_condition_while_paused() {
    let mut desk = Desk::new(&[(1, Failed, Nobody)], 5);
    desk.policy.paused = true;
    assert!(desk.acts().is_empty() && desk.says("tcoder fleet resume"));
}

#[test]
fn machine_with_outdated_image_is_replaced_when_idle_and_not_started() {
    let old = |desk: &mut Desk| desk.list()[0].launch.as_mut().unwrap().image = "image:0".into();
    let mut desk = Desk::new(&[(1, Started, Busy)], 0);
    old(&mut desk);
    assert!(desk.acts().is_empty());
    desk.see(&[(1, Started, Idle)], 0);
    old(&mut desk);
    assert_eq!(desk.steps(), ["retire m1"]);
    desk.see(&[(1, Stopped, Nobody)], 1);
    old(&mut desk);
    assert_eq!(desk.steps(), ["create 02 any", "destroy m1"]);
}

#[test]
fn machine_with_outdated_disk_or_input_limit_is_replaced() {
    let disk = |size_gb, max_input| Some(MachineDisk { size_gb, max_input });
    for wanted in [disk(40, 10_000_000_000), disk(25, 9_990_000_000), None] {
        let mut desk = Desk::new(&[(1, Stopped, Nobody)], 1);
        desk.policy.disk = disk(25, 10_000_000_000);
        desk.list()[0].launch.as_mut().unwrap().disk = desk.policy.disk;
        assert_eq!(desk.steps(), ["start m1"]);
        desk.policy.disk = wanted;
        assert_eq!(desk.steps(), ["create 02 any", "destroy m1"], "{wanted:?}");
        desk.see(&[(1, Started, Busy)], 0);
        assert!(desk.acts().is_empty(), "its job is not interrupted");
    }
}

#[test]
fn lowered_maximum_destroys_stopped_machines_and_retires_one_idle() {
    let mut desk = Desk::new(&[(1, Started, Idle), (2, Started, Idle), (3, Stopped, Nobody)], 0);
    desk.policy.max = 1;
    assert_eq!(desk.steps(), ["retire m2", "destroy m3"]);
    let mut desk = Desk::new(&[(1, Started, Busy), (2, Destroying, Nobody)], 3);
    desk.policy.max = 1;
    assert!(desk.acts().is_empty());
}

#[test]
fn machine_with_foreign_name_is_ignored() {
    let mut desk = Desk::new(&[(1, Failed, Nobody)], 0);
    desk.list()[0].name = "app-api".into();
    let plan = desk.plan();
    assert_eq!((plan.actions.len(), plan.desired.existing), (0, 0));
}

#[test]
fn heartbeat_deadline_restarts_after_a_redis_outage() {
    let mut desk = Desk::new(&[(1, Started, Idle)], 0);
    desk.plan();
    desk.now = s(250);
    // Its heartbeat expired while Redis was unreachable.
    desk.see(&[(1, Started, Dead)], 0);
    let mut doubting = Desk {
        policy: desk.policy.clone(),
        memory: desk.memory.clone(),
        seen: desk.seen.clone(),
        now: desk.now,
    };
    assert_eq!(desk.steps(), ["stop m1"]);
    doubting.memory.reset_heartbeat_clocks(doubting.now);
    assert!(doubting.acts().is_empty());
    doubting.now = s(320);
    doubting.see(&[(1, Started, Dead)], 0);
    assert_eq!(doubting.steps(), ["stop m1"]);
}

#[test]
fn machine_started_by_another_client_has_time_to_boot() {
    let mut desk = Desk::new(&[(1, Started, Idle)], 0);
    desk.plan();
    for (now, state, life) in [(100, Stopped, Nobody), (4000, Started, Nobody)] {
        desk.now = s(now);
        desk.see(&[(1, state, life)], 0);
        assert!(desk.acts().is_empty(), "at {now} s");
    }
}

#[test]
fn raised_minimum_replaces_machine_with_idle_timeout() {
    let mut desk = Desk::new(&[(1, Stopped, Nobody)], 0);
    desk.policy.min = 1;
    desk.list()[0].launch.as_mut().unwrap().stays = false;
    assert_eq!(desk.steps(), ["create 02 any", "destroy m1"]);
}

#[test]
fn provider_without_stop_and_start_receives_only_create_and_destroy() {
    let only = |machines: &[(u32, Phase, Life)], pending| {
        let mut desk = Desk::new(machines, pending);
        desk.policy.capabilities.can_stop_and_start = false;
        desk
    };
    // A stopped machine is useless whether or not it is needed, and its slot is free once it is destroyed.
    assert_eq!(only(&[(1, Stopped, Nobody)], 0).steps(), ["destroy m1"]);
    assert_eq!(only(&[(1, Stopped, Nobody)], 1).steps(), ["create 02 any", "destroy m1"]);
    let mut full = only(&[(1, Stopped, Nobody), (2, Started, Busy), (3, Stopped, Nobody)], 1);
    assert_eq!(full.steps(), ["destroy m1", "destroy m3"]);
    // A machine that never started is not started again.
    let mut desk = only(&[(1, Created, Nobody)], 1);
    desk.plan();
    desk.now = s(40);
    desk.see(&[(1, Created, Nobody)], 1);
    assert_eq!(desk.steps(), ["create 02 any"]);
    // A machine that hangs is not stopped first.
    let mut desk = only(&[(1, Starting, Nobody)], 0);
    desk.plan();
    desk.now = s(302);
    desk.see(&[(1, Starting, Nobody)], 0);
    assert_eq!(desk.steps(), ["destroy m1"]);
}

#[test]
fn machine_whose_worker_ended_with_a_failure_is_put_aside_for_a_while() {
    for (code, steps) in [(0, ["start m1"]), (1, ["create 02 any"]), (137, ["start m1"])] {
        let mut desk = launched(Some("m1"));
        desk.now = s(20);
        desk.see(&[(1, Started, Busy)], 0);
        desk.plan();
        desk.now = s(60);
        desk.see(&[(1, Stopped, Nobody)], 1);
        life(&mut desk, 2_000, Some(code));
        assert_eq!(desk.steps(), steps, "it exited with {code}");
        desk.now = s(700);
        desk.see(&[(1, Stopped, Nobody)], 1);
        life(&mut desk, 2_000, Some(code));
        assert_eq!(desk.steps(), ["start m1"], "it exited with {code} ten minutes ago");
    }
}
