//! Computes the desired number of machines and the sizes of those that are missing, and the counts both are computed
//! from.

use std::cmp::Reverse;

use super::classify::{MachineRole, MachineView};
use super::policy::FleetPolicy;
use super::price::MicroDollars;
use super::share::Waiting;
use super::size::{Offer, Purse};
use crate::queue::FleetDesired;

/// What is wanted of the fleet.
pub(super) struct Demand {
    pub desired: FleetDesired,
    /// The size of each machine still to be started or created, in the order in which they are launched.
    pub launches: Vec<Offer>,
}

/// Counts the machines and computes how many are wanted: one for each busy one, one for every `JOBS_PER_MACHINE`
/// waiting jobs, and as many as encode the waiting parts at once, between MIN and MAX.
///
/// Of the machines that wait for work, the smallest are for the jobs and the largest for the parts. What is missing
/// for the jobs has the base size, and what is missing for the parts the largest size that they fill and the budget
/// allows; a size of `too_large` CPUs or more, of which the provider had none, is left out.
pub(super) fn demand(
    units: &[MachineView],
    waiting: Waiting,
    policy: &FleetPolicy,
    too_large: Option<u32>,
) -> Demand {
    let count = |f: &dyn Fn(MachineRole) -> bool| {
        u32::try_from(units.iter().filter(|u| f(u.role)).count()).unwrap_or(u32::MAX)
    };
    let busy = count(&|r| r == MachineRole::Busy);
    let Waiting { jobs, parts } = waiting;
    let for_jobs = jobs.div_ceil(u64::from(policy.jobs_per_machine.get()));
    let there = free(units, policy);
    let spare = there.len() as u64;
    let mut left = parts;
    let mut for_parts = 0_u64;
    for chunks in there.into_iter().take(usize::try_from(spare.saturating_sub(for_jobs)).unwrap_or_default())
    {
        if left > 0 {
            left = left.saturating_sub(chunks.into());
            for_parts += 1;
        }
    }
    let mut missing = vec![(policy.offer(policy.sizes.base()), for_jobs.saturating_sub(spare))];
    let larger: Vec<Offer> = policy
        .sizes
        .larger()
        .filter(|size| too_large.is_none_or(|cpus| size.cpus < cpus))
        .map(|size| policy.offer(size))
        .collect();
    missing.extend(for_missing_parts(left, missing[0].1, &larger, units, policy));
    for_parts = missing[1..].iter().fold(for_parts, |sum, (_, n)| sum.saturating_add(*n));
    let wanted = for_jobs.saturating_add(for_parts).saturating_add(u64::from(busy));
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    let desired = FleetDesired {
        machines: wanted.min(policy.max).max(policy.min),
        busy,
        idle: count(&|r| r == MachineRole::Idle),
        booting: count(&|r| r == MachineRole::Booting),
        waiting: jobs.saturating_add(parts),
        waiting_parts: parts,
        existing: count(&|_| true),
        billed: count(&MachineRole::is_billed),
        ..unknown(policy)
    };
    let need = desired.need() as usize;
    let in_order = missing.iter().flat_map(|(offer, n)| {
        std::iter::repeat_n(*offer, usize::try_from(*n).unwrap_or(usize::MAX).min(need))
    });
    // Beyond what waits, machines are missing for MIN only.
    let launches = in_order.chain(std::iter::repeat(missing[0].0)).take(need).collect();
    Demand { desired, launches }
}

/// How many chunks each machine without work encodes at once, the most first.
fn free(units: &[MachineView], policy: &FleetPolicy) -> Vec<u32> {
    let free = units.iter().filter(|u| matches!(u.role, MachineRole::Idle | MachineRole::Booting));
    let mut chunks: Vec<u32> = free.map(|u| policy.chunks_on(u.size)).collect();
    chunks.sort_by_key(|chunks| Reverse(*chunks));
    chunks
}

/// The machines that encode `left` parts at once, the largest first, if `for_jobs` other ones are launched before them.
fn for_missing_parts(
    mut left: u64,
    for_jobs: u64,
    larger: &[Offer],
    units: &[MachineView],
    policy: &FleetPolicy,
) -> Vec<(Offer, u64)> {
    let base = policy.offer(policy.sizes.base());
    let mut purse = purse(units, policy);
    purse.pay(&base, for_jobs.min(policy.max.into()));
    let mut chosen = Vec::new();
    for offer in larger.iter().copied() {
        let n = (left / u64::from(offer.chunks)).min(purse.affords(&offer));
        purse.pay(&offer, n);
        left -= n * u64::from(offer.chunks);
        chosen.push((offer, n));
    }
    chosen.push((base, left.div_ceil(base.chunks.into())));
    chosen
}

/// What the billed machines cost an hour, if prices are known.
pub(super) fn cost(units: &[MachineView], policy: &FleetPolicy) -> Option<MicroDollars> {
    let billed = units.iter().filter(|u| u.role.is_billed());
    let prices = billed.filter_map(|u| policy.price_of(u.size));
    policy.price.map(|_| prices.fold(MicroDollars(0), MicroDollars::plus))
}

/// What the budget leaves for further machines.
pub(super) fn purse(units: &[MachineView], policy: &FleetPolicy) -> Purse {
    let spent = cost(units, policy).unwrap_or_default();
    Purse(policy.budget.map(|budget| MicroDollars(budget.0.saturating_sub(spent.0))))
}

/// The same while the machines or the queue are unknown.
pub(super) fn unknown(policy: &FleetPolicy) -> FleetDesired {
    FleetDesired { min: policy.min, max: policy.max, ..FleetDesired::default() }
}
