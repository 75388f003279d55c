//! Simulations of whole fleets in virtual time.

use super::{Parts, Scenario, converge_calls_over_minimum, crowd, run};
use crate::controller::fleet::{FleetPolicy, MachineSize, Moment, Operation, plan};

#[test]
fn simulation_of_random_faults_ends_settled() {
    assert_settled((0..1000).map(Scenario::random));
}

#[test]
fn simulation_of_random_faults_without_stop_and_start_ends_settled() {
    assert_settled((0..1000).map(|seed| Scenario::random(seed).create_and_destroy_only()));
}

#[test]
fn simulation_of_short_invocations_ends_settled() {
    assert_settled((0..600).map(|seed| Scenario::random(seed).in_invocations()));
}

fn assert_settled(scenarios: impl Iterator<Item = Scenario>) {
    let failed: Vec<String> =
        scenarios.filter_map(|scenario| run(&scenario).err()).map(|v| v.to_string()).collect();
    assert!(
        failed.is_empty(),
        "{} runs failed:\n{}",
        failed.len(),
        failed[..failed.len().min(12)].join("\n")
    );
}

#[test]
fn simulation_of_workers_at_another_redis_launches_three_times_then_every_ten_minutes() {
    for seed in 0..50 {
        let report = run(&Scenario::another_redis(seed)).unwrap();
        let launches = report.creates + report.starts;
        // One hour of failed launches, then a launch whose worker registers.
        assert!((4..=3 + 6 + 1).contains(&launches), "seed {seed}: {report:?}");
    }
}

#[test]
fn simulation_of_a_burst_sends_one_list_besides_its_creates() {
    for machines in [1, 2, 5, 10, 20] {
        assert!(converge_calls_over_minimum(machines).unwrap() <= 1, "{machines} machines");
    }
}

#[test]
fn simulation_without_faults_stops_nothing_and_creates_no_more_machines_than_jobs() {
    for seed in 0..500 {
        let scenario = Scenario::calm(seed);
        let report = run(&scenario).unwrap();
        assert_eq!((report.stops, report.destroys), (0, 0), "seed {seed}: {report:?}");
        let jobs = u32::try_from(scenario.jobs.len()).unwrap();
        assert!(report.creates <= scenario.policy.max.min(jobs), "seed {seed}: {report:?}");
    }
}

#[test]
fn simulation_without_stop_and_start_destroys_each_machine_once() {
    for seed in 0..500 {
        let scenario = Scenario::calm(seed).create_and_destroy_only();
        let report = run(&scenario).unwrap();
        assert_eq!((report.starts, report.stops), (0, 0), "seed {seed}: {report:?}");
        assert_eq!(report.creates, report.destroys, "seed {seed}: {report:?}");
        assert!(report.creates <= u32::try_from(scenario.jobs.len()).unwrap(), "seed {seed}: {report:?}");
    }
}

#[test]
fn plan_starts_all_stopped_machines_before_it_creates() {
    let (seen, policy, memory) = crowd(300);
    let acts: Vec<Operation> =
        plan(&seen, &policy, &memory, Moment::ZERO).actions.into_iter().map(|a| a.act).collect();
    assert_eq!(acts.len(), 100);
    assert!(acts.iter().all(|act| matches!(act, Operation::Start { .. })));
}

#[test]
fn simulation_of_a_split_job_starts_a_machine_for_as_many_parts_as_it_encodes_at_once() {
    let size = MachineSize { cpus: 8, ..MachineSize::default() };
    let policy = FleetPolicy { max: 20, size, ..FleetPolicy::new("sim", "image:1") };
    let parts = Parts { lengths: vec![120_000; 48], finish: 1_000 };
    let report = run(&Scenario::split(policy.clone(), 1_000, parts)).unwrap();
    assert_eq!((report.creates, report.most_machines), (6, 6), "{report:?}");
    // The five others leave soon after their parts; the one that finishes the job waits for another.
    let idle = u64::try_from(policy.idle_timeout.as_millis()).unwrap();
    let busy = 6 * 120_000;
    assert!((busy + idle..busy + idle + 60_000).contains(&report.billed), "{report:?}");
}
