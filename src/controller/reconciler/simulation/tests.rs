//! Simulations of whole fleets in virtual time.

use std::time::Duration;

use super::{Parts, Scenario, converge_calls_over_minimum, crowd, run};
use crate::controller::fleet::{FleetPolicy, MachineSize, Moment, Operation, Sizes, plan};
use crate::job::Parallelism;
use crate::transcoder::split::ChunkPlan;

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
fn simulation_of_several_classes_that_all_machines_take_is_that_of_one() {
    for seed in 0..40 {
        for scenario in
            [Scenario::random(seed), Scenario::random(seed).in_invocations(), Scenario::calm(seed)]
        {
            assert_eq!(run(&scenario), run(&scenario.clone().of_three_classes()), "seed {seed}");
        }
    }
}

#[test]
fn simulation_beside_jobs_of_another_class_is_that_without_them() {
    for seed in 0..40 {
        for scenario in
            [Scenario::random(seed), Scenario::random(seed).in_invocations(), Scenario::calm(seed)]
        {
            assert_eq!(run(&scenario), run(&scenario.clone().beside_another_class()), "seed {seed}");
        }
    }
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
    let policy = FleetPolicy { max: 20, sizes: Sizes::one(size), ..FleetPolicy::new("sim", "image:1") };
    let parts = Parts { lengths: vec![120_000; 48], finish: 1_000 };
    let report = run(&Scenario::split(policy.clone(), 1_000, parts)).unwrap();
    assert_eq!((report.creates, report.most_machines), (6, 6), "{report:?}");
    // The five others leave soon after their parts; the one that finishes the job waits for another.
    let idle = u64::try_from(policy.idle_timeout.as_millis()).unwrap();
    let busy = 6 * 120_000;
    assert!((busy + idle..busy + idle + 60_000).contains(&report.billed), "{report:?}");
}

fn size(cpus: u32) -> MachineSize {
    MachineSize { cpus, memory_mb: 2048 * cpus, ..MachineSize::default() }
}

/// A fleet with machines of two CPUs, and of more for parts.
fn with_larger(cpus: &[u32]) -> FleetPolicy {
    let sizes = Sizes::new(size(2), cpus.iter().copied().map(size).collect()).unwrap();
    FleetPolicy { max: 60, sizes, ..FleetPolicy::new("sim", "image:1") }
}

#[test]
fn simulation_of_a_film_is_whole_sooner_on_larger_machines_at_about_the_same_cost() {
    // An hour of 1080p, of which a second takes a core about two.
    let chunks = ChunkPlan::new(3600.0, 25.0, Parallelism::Auto);
    let seconds_of = |chunk| chunks.segments_of(chunk).map(|segment| chunks.seconds_of(segment)).sum::<f64>();
    let film = |policy| {
        let lengths = (0..chunks.count()).map(|chunk| Duration::from_secs_f64(2.0 * seconds_of(chunk)));
        let lengths = lengths.map(|length| u64::try_from(length.as_millis()).unwrap()).collect();
        run(&Scenario::split(policy, 1_000, Parts { lengths, finish: 1_000 })).unwrap()
    };
    let (small, larger) = (film(with_larger(&[])), film(with_larger(&[8, 16])));
    assert!(small.created_cpus.iter().all(|cpus| *cpus == 2), "{small:?}");
    assert!(larger.created_cpus.contains(&16), "{larger:?}");
    // A machine is started every second: with 16 CPUs, a few have all chunks while most of the others are still to come.
    assert!(3 * larger.drained_at < 2 * small.drained_at, "{larger:?} {small:?}");
    let difference = larger.billed_cpus.abs_diff(small.billed_cpus);
    assert!(10 * difference < small.billed_cpus, "{larger:?} {small:?}");
}

#[test]
fn simulation_of_single_jobs_on_a_fleet_with_larger_machines_uses_none_of_them() {
    for seed in 0..50 {
        let calm = Scenario::calm(seed);
        let sizes = with_larger(&[8, 16]).sizes;
        let report = run(&Scenario { policy: FleetPolicy { sizes, ..calm.policy }, ..calm }).unwrap();
        assert!(report.created_cpus.iter().all(|cpus| *cpus == 2), "seed {seed}: {report:?}");
    }
    let one = run(&Scenario::whole(with_larger(&[8, 16]), 60_000)).unwrap();
    assert_eq!(one.created_cpus, [2]);
}

#[test]
fn simulation_of_a_film_with_faults_ends_settled_with_machines_of_several_sizes() {
    let film = |seed| {
        let Scenario { policy, faults, reconcilers, .. } = Scenario::random(seed);
        let parts = Parts { lengths: vec![60_000; 100], finish: 5_000 };
        let sizes = with_larger(&[8, 16]).sizes;
        let scenario = Scenario::split(FleetPolicy { sizes, ..policy }, 5_000, parts);
        Scenario { seed, faults, reconcilers, horizon_ms: 8 * 3_600_000, ..scenario }
    };
    assert_settled((0..300).map(film));
    assert_settled((0..100).map(|seed| film(seed).create_and_destroy_only()));
    assert_settled((0..100).map(|seed| film(seed).in_invocations()));
}
