//! Fleets whose machines have several sizes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::controller::fleet::Sizes;
use Life::{Busy, Idle, None as Nobody};
use Phase::{Started, Stopped};

pub(super) fn size(cpus: u32) -> MachineSize {
    MachineSize { cpus, memory_mb: 2048 * cpus, ..MachineSize::default() }
}

/// The price of a machine with this many CPUs.
const fn price(cpus: u64) -> u64 {
    43_056 * cpus
}

/// A fleet with machines of 2 CPUs and of 8 and 16 for parts. Each machine has this many CPUs.
fn desk(machines: &[(u32, Phase, Life, u32)], jobs: u64, parts: u64) -> Desk {
    let mut desk = Desk::new(&[], 0);
    desk.policy.max = 20;
    desk.policy.sizes = Sizes::new(size(2), vec![size(8), size(16)]).unwrap();
    desk.see_sizes(machines, jobs, parts);
    desk
}

impl Desk {
    fn see_sizes(&mut self, machines: &[(u32, Phase, Life, u32)], jobs: u64, parts: u64) {
        let of_one_size: Vec<(u32, Phase, Life)> =
            machines.iter().map(|(slot, phase, life, _)| (*slot, phase.clone(), *life)).collect();
        self.see(&of_one_size, jobs + parts);
        for (machine, (.., cpus)) in self.list().iter_mut().zip(machines) {
            machine.size = Some(size(*cpus));
        }
        self.waiting().parts = parts;
    }

    /// The planned operations in short; a create with the CPUs of the machine.
    fn sized_steps(&mut self) -> Vec<String> {
        let about = |act: Operation| match act {
            Operation::Create { slot, size, .. } => format!("create {slot} {}x", size.cpus),
            act => format!("{} {}", act.kind(), act.machine().unwrap()),
        };
        self.acts().into_iter().map(about).collect()
    }

    fn created_cpus(&mut self) -> Vec<u32> {
        let cpus = |act| if let Operation::Create { size, .. } = act { Some(size.cpus) } else { None };
        self.acts().into_iter().filter_map(cpus).collect()
    }
}

#[test]
fn new_machines_for_parts_have_the_largest_size_that_the_parts_fill() {
    for (parts, created) in [
        (1, vec![2]),
        (7, vec![2, 2, 2, 2]),
        (8, vec![8]),
        (15, vec![8, 2, 2, 2, 2]),
        (16, vec![16]),
        (60, vec![16, 16, 16, 8, 2, 2]),
    ] {
        let mut desk = desk(&[], 0, parts);
        assert_eq!(desk.created_cpus(), created, "{parts} parts");
        assert_eq!(desk.plan().desired.machines as usize, created.len(), "{parts} parts");
    }
}

#[test]
fn size_that_the_provider_does_not_have_is_replaced_by_smaller_ones_for_a_while() {
    for refused in [Outcome::NoCapacity, Outcome::Quota] {
        let mut desk = desk(&[], 0, 16);
        assert_eq!(desk.created_cpus(), [16]);
        desk.first_ends(refused.clone());
        assert_eq!(desk.created_cpus(), [8, 8], "{refused:?}");
        desk.first_ends(refused.clone());
        assert_eq!(desk.created_cpus(), [2; 8], "{refused:?}");
        desk.now += desk.policy.deadlines.region;
        desk.see_sizes(&[], 0, 16);
        assert_eq!(desk.created_cpus(), [16], "{refused:?}");
    }
}

#[test]
fn new_machines_for_jobs_have_the_base_size_and_are_created_first() {
    assert_eq!(desk(&[], 1, 0).created_cpus(), [2]);
    assert_eq!(desk(&[], 40, 0).created_cpus(), [2; 20]);
    assert_eq!(desk(&[], 2, 20).created_cpus(), [2, 2, 16, 2, 2]);
    let mut few = desk(&[], 2, 64);
    few.policy.max = 4;
    assert_eq!(few.created_cpus(), [2, 2, 16, 16], "MAX_MACHINES is a number of machines");
}

#[test]
fn worker_chunks_is_what_fills_a_machine_if_it_is_set() {
    let mut desk = desk(&[], 0, 9);
    desk.policy.chunks = std::num::NonZeroU32::new(4);
    assert_eq!(desk.created_cpus(), [16, 16, 2]);
}

#[test]
fn machines_that_wait_for_work_count_with_their_own_size() {
    let there = [(1, Started, Idle, 16), (2, Started, Nobody, 8), (3, Started, Busy, 16)];
    let mut desk = desk(&there, 0, 24);
    assert_eq!((desk.acts(), desk.plan().desired.machines), (vec![], 3));
    // The smaller one is for the job.
    desk.see_sizes(&there, 1, 24);
    assert_eq!((desk.created_cpus(), desk.plan().desired.machines), (vec![8], 4));
    desk.see_sizes(&there, 0, 8);
    assert_eq!(desk.plan().desired.machines, 2, "the largest alone encodes eight parts");
}

#[test]
fn machine_that_no_list_shows_yet_counts_with_the_size_that_was_asked_for() {
    for outcome in [Outcome::Unknown, Outcome::Done(Some(MachineId("m1".into())))] {
        let mut desk = desk(&[], 0, 32);
        assert_eq!(desk.created_cpus(), [16, 16]);
        desk.first_ends(outcome);
        assert_eq!(desk.sized_steps(), ["create 02 16x"]);
        let kept = serde_json::to_string(&desk.memory).unwrap();
        desk.memory = serde_json::from_str(&kept).unwrap();
        assert_eq!(desk.sized_steps(), ["create 02 16x"], "a successor knows it");
        let older = kept.replace("\"size\":", "\"former\":");
        desk.memory = serde_json::from_str(&older).unwrap();
        assert_eq!(desk.created_cpus(), [16, 8, 2, 2, 2], "an older version stored no size");
    }
}

#[test]
fn machine_whose_host_cannot_be_reached_keeps_the_size_that_it_had() {
    let mut desk = desk(&[(1, Started, Busy, 16)], 0, 0);
    desk.policy.budget = Some(MicroDollars(price(18)));
    desk.plan();
    desk.see_sizes(&[(1, Started, Busy, 16)], 0, 8);
    let machine = &mut desk.list()[0];
    (machine.host_reachable, machine.launch, machine.size) = (false, None, None);
    assert_eq!(desk.created_cpus(), [2]);
    assert_eq!(desk.plan().cost, Some(MicroDollars(price(16))));
}

#[test]
fn machine_at_rest_of_the_wanted_size_is_started_before_one_is_created() {
    let rest = [(1, Stopped, Nobody, 2), (2, Stopped, Nobody, 16), (3, Stopped, Nobody, 8)];
    assert_eq!(desk(&rest, 0, 16).sized_steps(), ["start m2"]);
    assert_eq!(desk(&rest, 0, 8).sized_steps(), ["start m3"]);
    assert_eq!(desk(&rest, 1, 0).sized_steps(), ["start m1"]);
    assert_eq!(desk(&rest, 0, 34).sized_steps(), ["start m2", "start m1", "create 04 16x"]);
}

#[test]
fn larger_machine_at_rest_is_not_started_for_a_job_while_a_small_one_can_be_created() {
    let rest = [(1, Stopped, Nobody, 16), (2, Stopped, Nobody, 16)];
    let mut desk = desk(&rest, 1, 0);
    assert_eq!(desk.sized_steps(), ["create 03 2x"]);
    desk.policy.max = 2;
    assert_eq!(desk.sized_steps(), ["destroy m1"], "it makes room");
    desk.first_ends(Outcome::Done(None));
    assert!(desk.acts().is_empty(), "one suffices");
    desk.now += s(10);
    desk.see_sizes(&rest[1..], 1, 0);
    assert_eq!(desk.sized_steps(), ["create 01 2x"]);
}

#[test]
fn small_machines_at_rest_make_room_for_larger_ones() {
    let rest = [(1, Stopped, Nobody, 2), (2, Stopped, Nobody, 2)];
    let mut desk = desk(&rest, 0, 18);
    desk.policy.max = 2;
    assert_eq!(desk.sized_steps(), ["start m1", "destroy m2"]);
}

#[test]
fn machine_at_rest_of_another_size_is_started_if_none_can_be_created() {
    let rest = [(1, Stopped, Nobody, 16), (2, Stopped, Nobody, 8)];
    for outcome in [Outcome::NoCapacity, Outcome::Quota, Outcome::Billing] {
        let mut desk = desk(&rest, 1, 0);
        desk.first_ends(outcome.clone());
        assert_eq!(desk.sized_steps(), ["start m2"], "{outcome:?}: the size is nearest");
        desk.policy.budget = Some(MicroDollars(price(7)));
        assert!(desk.acts().is_empty(), "{outcome:?}: it is too expensive");
    }
}

#[test]
fn budget_allows_the_largest_size_that_it_pays_for() {
    for (cpus, created, limited) in [
        (40, vec![16, 16, 8], false),
        (32, vec![16, 16], true),
        (28, vec![16, 8, 2, 2], true),
        (15, vec![8, 2, 2, 2], true),
        (7, vec![2, 2, 2], true),
    ] {
        let mut desk = desk(&[], 0, 40);
        desk.policy.budget = Some(MicroDollars(price(cpus)));
        assert_eq!((desk.created_cpus(), desk.says("BUDGET")), (created, limited), "{cpus} CPUs");
    }
    // Machines that run count with their own price, and jobs come first.
    let mut some = desk(&[(1, Started, Busy, 16)], 1, 16);
    some.policy.budget = Some(MicroDollars(price(28)));
    assert_eq!(some.created_cpus(), [2, 8, 2]);
}

#[test]
fn machines_of_the_minimum_have_the_base_size() {
    let mut desk = desk(&[], 0, 0);
    desk.policy.min = 2;
    assert_eq!(desk.created_cpus(), [2, 2]);
    desk.see_sizes(&[], 0, 48);
    assert_eq!(desk.created_cpus(), [2, 2, 16]);
}

#[test]
fn machine_of_a_size_that_is_no_longer_configured_is_replaced_like_one_with_an_old_image() {
    assert_eq!(desk(&[(1, Stopped, Nobody, 8)], 0, 0).acts(), []);
    assert_eq!(desk(&[(1, Stopped, Nobody, 4)], 0, 0).sized_steps(), ["destroy m1"]);
    assert!(matches!(desk(&[(1, Started, Idle, 4)], 0, 0).acts()[..], [Operation::Retire { .. }]));
    assert_eq!(desk(&[(1, Started, Busy, 4)], 0, 0).acts(), []);
    let mut unknown = desk(&[(1, Stopped, Nobody, 4)], 1, 0);
    unknown.list()[0].size = None;
    assert_eq!(unknown.sized_steps(), ["start m1"], "the list does not show its size");
}

proptest! {
    /// Whatever waits for work: what is created fits what waits, and nothing smaller than it could be.
    #[test]
    fn created_machines_encode_all_waiting_parts_and_the_larger_ones_are_full(
        free in vec(prop::sample::select(vec![2_u32, 4, 8, 16]), 0..6),
        (jobs, parts) in (0..6_u64, 0..200_u64),
        larger in prop::sample::subsequence(vec![4_u32, 8, 16], 0..=3),
    ) {
        let there: Vec<_> = (1..).zip(&free).map(|(slot, cpus)| (slot, Started, Idle, *cpus)).collect();
        let mut desk = desk(&there, jobs, parts);
        desk.policy.max = 1000;
        desk.policy.sizes = Sizes::new(size(2), larger.iter().map(|cpus| size(*cpus)).collect()).unwrap();
        let created = desk.created_cpus();
        prop_assert_eq!(desk.plan().desired.need() as usize, created.len());
        let jobs = usize::try_from(jobs).unwrap();
        let (for_jobs, for_parts) = created.split_at(jobs.saturating_sub(free.len()));
        prop_assert!(for_jobs.iter().all(|cpus| *cpus == 2), "{:?}", created);
        let mut free = free;
        free.sort_unstable();
        let spare: u32 = free.iter().skip(jobs).sum();
        let mut left = i64::try_from(parts).unwrap() - i64::from(spare);
        for cpus in for_parts {
            prop_assert!(left > 0, "{:?} are too many for {} parts", created, parts);
            let largest = larger.iter().copied().filter(|cpus| i64::from(*cpus) <= left).max().unwrap_or(2);
            prop_assert_eq!(*cpus, largest);
            left -= i64::from(*cpus);
        }
        prop_assert!(left <= 0, "{:?} are too few for {} parts", created, parts);
    }
}
