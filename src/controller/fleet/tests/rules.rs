//! Rules that every plan must follow.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::sizes::size;
use super::*;
use crate::controller::fleet::{Capabilities, Sizes};

/// The phases that the plan distinguishes.
const STATES: [Phase; 12] = [
    Phase::Created,
    Phase::Unschedulable,
    Phase::Creating,
    Phase::Starting,
    Phase::Started,
    Phase::Stopping,
    Phase::Stopped,
    Phase::Updating,
    Phase::LaunchFailed,
    Phase::Failed,
    Phase::Destroying,
    Phase::Gone,
];
const LIVES: [Life; 6] = [Life::None, Life::Idle, Life::Busy, Life::Fading, Life::Dead, Life::Retired];

/// Checks one plan against its inputs.
fn check(desk: &mut Desk) -> Result<(), String> {
    let plan = desk.plan();
    let memory = desk.memory.clone();
    if desk.plan() != plan || desk.memory != memory {
        return Err("planning twice gives different plans".into());
    }
    let machines = desk.list().clone();
    let queue = desk.seen.queue.clone().unwrap();
    let has = |id: &MachineId, f: &dyn Fn(&WorkerView) -> bool| {
        queue.workers.iter().any(|w| w.machine == *id && f(w))
    };
    let existing = machines.iter().filter(|m| !m.phase.is_gone()).count();
    let (mut creates, mut starts) = (0, 0);
    let mut cost = plan.cost.unwrap_or_default();
    let mut created_sizes = Vec::new();
    let mut touched = BTreeSet::new();
    let names: BTreeSet<&str> =
        machines.iter().filter(|m| !m.phase.is_gone()).map(|m| m.name.as_str()).collect();
    for action in &plan.actions {
        if action.reason.is_empty() {
            return Err("an operation has no reason".into());
        }
        if let Some(id) = action.act.machine() {
            if has(id, &|w| w.busy) {
                return Err(format!("{action:?} although its worker holds a lease"));
            }
            if !touched.insert(id.clone()) {
                return Err(format!("two operations for {id}"));
            }
        }
        match &action.act {
            Operation::Start { .. } | Operation::Stop { .. }
                if !desk.policy.capabilities.can_stop_and_start =>
            {
                return Err(format!("{action:?}, which the provider cannot do"));
            }
            Operation::Start { machine } if has(machine, &|w| w.fresh) => {
                return Err(format!("{machine} is started twice"));
            }
            Operation::Start { machine } => {
                starts += 1;
                let unit = plan.units.iter().find(|u| u.id.as_ref() == Some(machine)).unwrap();
                cost = cost.plus(desk.policy.price_of(unit.size).unwrap());
            }
            Operation::Create { slot, name, size, .. } => {
                creates += 1;
                cost = cost.plus(desk.policy.price_of(*size).unwrap());
                if slot.0 > desk.policy.min {
                    created_sizes.push(Some(*size));
                } else if *size != desk.policy.sizes.base() {
                    return Err(format!("a machine of MIN_MACHINES has {} CPUs", size.cpus));
                }
                if !desk.policy.sizes.contains(*size) {
                    return Err(format!("no machine has {} CPUs", size.cpus));
                }
                if names.contains(name.as_str()) || slot.0 == 0 || slot.0 > desk.policy.max {
                    return Err(format!("{slot} is not free"));
                }
                if !touched.insert(MachineId(name.clone())) {
                    return Err(format!("{slot} twice"));
                }
            }
            _ => {}
        }
    }
    let max = desk.policy.max as usize;
    if creates > 0 && existing + creates > max {
        return Err(format!("{existing} machines exist, {creates} more are created"));
    }
    let launches = u32::try_from(starts + creates).unwrap();
    if launches > plan.desired.need() {
        return Err(format!("{launches} launches, {:?}", plan.desired));
    }
    if launches > 0 && desk.policy.budget.is_some_and(|budget| budget < cost) {
        return Err(format!("{launches} launches are beyond the budget"));
    }
    let larger = created_sizes.iter().flatten().filter(|size| **size != desk.policy.sizes.base());
    let chunks: u32 = larger.map(|size| desk.policy.chunks_on(*size)).sum();
    let waiting = queue.waiting.get(&WorkerClass::default()).copied().unwrap_or_default();
    if u64::from(chunks) > waiting.parts {
        return Err(format!("larger machines for {chunks} parts are created, {} wait", waiting.parts));
    }
    if creates > 0 && waiting.pending > 0 && desk.policy.capabilities.can_stop_and_start {
        let left = machines.iter().find(|m| {
            let rests = m.phase == Phase::Stopped;
            let usable = m.launch.as_ref().is_some_and(|launch| launch.image == desk.policy.image);
            let untouched = memory.machines.get(&m.id).is_none_or(|seen| {
                seen.sent.is_none() && seen.blocked_until.is_none_or(|until| until <= desk.now)
            });
            let same = created_sizes.contains(&m.size);
            rests
                && usable
                && same
                && untouched
                && m.host_reachable
                && !has(&m.id, &|w| w.fresh || w.busy)
                && !touched.contains(&m.id)
        });
        if let Some(left) = left {
            return Err(format!("a machine is created although {} is stopped", left.name));
        }
    }
    if !plan.actions.iter().map(|a| a.act.rank()).is_sorted() {
        return Err("the operations are out of order".into());
    }
    Ok(())
}

/// Checks every fleet of up to three machines with each of these numbers of pending jobs. Returns the numbers
/// of cases and operations.
fn check_every_case(pending: &[u64]) -> (u32, usize) {
    let kinds: Vec<(&Phase, Life)> =
        STATES.iter().flat_map(|state| LIVES.map(|life| (state, life))).collect();
    let mut cases = 0;
    let mut busy_steps = 0;
    let mut try_all = |machines: &[(u32, Phase, Life)]| {
        for &pending in pending {
            let mut desk = Desk::new(machines, pending);
            check(&mut desk).unwrap_or_else(|e| panic!("{e}: {machines:?}, {pending} pending"));
            if machines.len() < 3 {
                // The provider can only create and destroy.
                desk.policy.capabilities.can_stop_and_start = false;
                check(&mut desk).unwrap_or_else(|e| panic!("{e}: {machines:?} once, {pending} pending"));
                desk.policy.capabilities.can_stop_and_start = true;
            }
            // Nothing has changed for so long that every deadline has passed.
            desk.now = s(5_000);
            desk.see(machines, pending);
            check(&mut desk).unwrap_or_else(|e| panic!("{e}: {machines:?} for long, {pending} pending"));
            busy_steps += desk.plan().actions.len();
            cases += 1;
        }
    };
    let of = |slot: u32, (state, life): (&Phase, Life)| (slot, state.clone(), life);
    try_all(&[]);
    for (i, a) in kinds.iter().enumerate() {
        try_all(&[of(1, *a)]);
        for (j, b) in kinds.iter().enumerate().skip(i) {
            try_all(&[of(1, *a), of(2, *b)]);
            for c in &kinds[j..] {
                try_all(&[of(1, *a), of(2, *b), of(3, *c)]);
            }
        }
    }
    (cases, busy_steps)
}

// Two tests, so that they run in parallel.

#[test]
fn plan_follows_the_rules_for_up_to_three_machines_and_two_jobs() {
    let (cases, operations) = check_every_case(&[0, 1, 2]);
    assert!(cases > 150_000 && operations > 40_000, "{cases} cases, {operations} operations");
}

#[test]
fn plan_follows_the_rules_for_up_to_three_machines_and_more_jobs() {
    let (cases, operations) = check_every_case(&[3, 4]);
    assert!(cases > 100_000 && operations > 40_000, "{cases} cases, {operations} operations");
}

fn any_machine() -> impl Strategy<Value = (Machine, Life)> {
    let state =
        prop_oneof![9 => prop::sample::select(STATES.to_vec()), 1 => Just(Phase::Unknown("odd".into()))];
    let host = prop::bool::weighted(0.8);
    let cpus = prop::sample::select(vec![2, 2, 4, 8]);
    let old = prop::bool::weighted(0.2);
    (1..14_u32, state, host, prop::sample::select(LIVES.to_vec()), old, cpus).prop_map(
        |(slot, state, host, life, old, cpus)| {
            let mut machine = machine(slot, state);
            machine.host_reachable = host;
            machine.size = host.then(|| size(cpus));
            machine.launch = host.then(|| launch(if old { "image:0" } else { "image:1" }));
            (machine, life)
        },
    )
}

#[test]
fn desired_number_has_a_machine_for_as_many_parts_as_one_encodes_at_once() {
    let mut desk = Desk::new(&[], 11);
    desk.policy.max = 20;
    desk.waiting().parts = 9;
    // A machine has two CPUs.
    let desired = desk.plan().desired;
    assert_eq!((desired.machines, desired.waiting, desired.waiting_parts), (7, 11, 9));
    assert_eq!(desired.waits(), "2 jobs and 9 parts of split videos wait");
    desk.policy.chunks = std::num::NonZeroU32::new(4);
    assert_eq!(desk.plan().desired.machines, 5);
}

fn distinct(machines: Vec<(Machine, Life)>) -> Vec<(Machine, Life)> {
    let mut names = BTreeSet::new();
    machines.into_iter().filter(|(m, _)| names.insert(m.name.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random observations, with operations of random outcomes in between.
    #[test]
    fn plan_follows_the_rules_after_random_histories(
        looks in vec(
            (vec(any_machine(), 0..12).prop_map(distinct), 0..15_u64, 0..30_u64, 0..400_u64, 0..7_usize),
            1..6,
        ),
        (min, max, per, budget, stops) in
            (0..3_u32, 3..12_u32, 1..4_u32, prop::option::of(1..12_u64), prop::bool::weighted(0.7)),
        larger in prop::sample::subsequence(vec![4_u32, 8], 0..=2),
    ) {
        let mut desk = Desk::new(&[], 0);
        desk.policy = FleetPolicy {
            min,
            max,
            jobs_per_machine: per.try_into().unwrap(),
            budget: budget.map(|n| MicroDollars(n * 86_112)),
            sizes: Sizes::new(size(2), larger.into_iter().map(size).collect()).unwrap(),
            capabilities: Capabilities { can_stop_and_start: stops },
            ..policy()
        };
        for (machines, jobs, parts, later, end) in looks {
            desk.now += s(later);
            desk.see(&[], jobs + parts);
            desk.waiting().parts = parts;
            for (machine, life) in machines {
                let slot = Slot::parse("app", &machine.name).unwrap();
                desk.seen.queue.as_mut().unwrap().workers.extend(worker(slot.0, life));
                desk.list().push(machine);
            }
            for _ in 0..4 {
                check(&mut desk).map_err(TestCaseError::fail)?;
                if desk.plan().actions.is_empty() {
                    break;
                }
                let ends = [
                    Outcome::Done(None),
                    Outcome::Unknown,
                    Outcome::NameTaken(None),
                    Outcome::NoCapacity,
                    Outcome::RateLimited { retry_after: None },
                    Outcome::NotFound,
                    Outcome::Refused,
                ];
                desk.first_ends(ends[end].clone());
            }
        }
    }
}
