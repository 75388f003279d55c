//! Simulations of whole fleets in virtual time.

use super::{Scenario, converge_calls_over_minimum, crowd, run};
use crate::controller::fleet::{Moment, Operation, plan};

#[test]
fn a_thousand_fleets_end_quiet_whatever_befalls_them() {
    end_quiet((0..1000).map(Scenario::random));
}

#[test]
fn fleets_of_a_provider_that_only_creates_and_destroys_end_quiet_and_without_a_machine() {
    end_quiet((0..1000).map(|seed| Scenario::random(seed).create_and_destroy_only()));
}

#[test]
fn fleets_whose_reconciler_runs_in_short_invocations_end_quiet() {
    end_quiet((0..600).map(|seed| Scenario::random(seed).in_invocations()));
}

fn end_quiet(scenarios: impl Iterator<Item = Scenario>) {
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
fn workers_at_another_redis_are_launched_three_times_and_then_once_in_ten_minutes() {
    for seed in 0..50 {
        let report = run(&Scenario::another_redis(seed)).unwrap();
        let launches = report.creates + report.starts;
        // One hour of failed launches, then the launch that brings a worker.
        assert!((4..=3 + 6 + 1).contains(&launches), "seed {seed}: {report:?}");
    }
}

#[test]
fn a_burst_costs_one_list_more_than_its_creates() {
    for machines in [1, 2, 5, 10, 20] {
        assert!(converge_calls_over_minimum(machines).unwrap() <= 1, "{machines} machines");
    }
}

#[test]
fn without_faults_nothing_is_stopped_or_destroyed_and_no_more_is_made_than_jobs() {
    for seed in 0..500 {
        let scenario = Scenario::calm(seed);
        let report = run(&scenario).unwrap();
        assert_eq!((report.stops, report.destroys), (0, 0), "seed {seed}: {report:?}");
        let jobs = u32::try_from(scenario.jobs.len()).unwrap();
        assert!(report.creates <= scenario.policy.max.min(jobs), "seed {seed}: {report:?}");
    }
}

#[test]
fn where_machines_cannot_be_started_again_each_is_destroyed_once_and_no_more_are_made_than_jobs() {
    for seed in 0..500 {
        let scenario = Scenario::calm(seed).create_and_destroy_only();
        let report = run(&scenario).unwrap();
        assert_eq!((report.starts, report.stops), (0, 0), "seed {seed}: {report:?}");
        assert_eq!(report.creates, report.destroys, "seed {seed}: {report:?}");
        assert!(report.creates <= u32::try_from(scenario.jobs.len()).unwrap(), "seed {seed}: {report:?}");
    }
}

#[test]
fn of_a_crowd_everything_at_rest_is_started_and_nothing_made() {
    let (seen, policy, memory) = crowd(300);
    let acts: Vec<Operation> =
        plan(&seen, &policy, &memory, Moment::ZERO).actions.into_iter().map(|a| a.act).collect();
    assert_eq!(acts.len(), 100);
    assert!(acts.iter().all(|act| matches!(act, Operation::Start { .. })));
}
