//! The fleets of a process that take from the same queue: each says what it can take, so that the others make no machines
//! for the same jobs.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::controller::fleet::{FleetCapacity, FleetPolicy, OtherFleets};
use crate::job::{Millis, WorkerClasses};
use crate::queue::FleetName;

/// The fleets of a process, in the order in which they make machines.
#[derive(Clone, Default)]
pub(crate) struct FleetTable(Arc<watch::Sender<Capacities>>);

type Capacities = BTreeMap<Rank, FleetCapacity>;

/// The place of a fleet: the higher priority first, then the older one, then the one whose name comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: Reverse<i32>,
    since: Millis,
    /// The name of its pool: times of objects have no fractions of a second.
    pool: Option<String>,
    fleet: FleetName,
}

impl Rank {
    fn of(fleet: FleetName, policy: &FleetPolicy) -> Self {
        let FleetPolicy { priority, since, pool, .. } = policy;
        Self { priority: Reverse(*priority), since: *since, pool: pool.clone(), fleet }
    }
}

impl FleetTable {
    /// Adds a fleet. It is assumed to be able to take what its policy allows, until it publishes what it can take.
    pub(crate) fn join(&self, fleet: FleetName, policy: &FleetPolicy) -> FleetMembership {
        let rank = Rank::of(fleet, policy);
        let capacity = FleetCapacity::unknown(policy);
        self.0.send_modify(|fleets| fleets.extend([(rank.clone(), capacity)]));
        FleetMembership {
            table: self.clone(),
            changes: self.0.subscribe(),
            rank,
            classes: policy.classes.clone(),
            others: OtherFleets::default(),
        }
    }
}

/// The place of a fleet among the others. Its end removes the fleet.
pub(crate) struct FleetMembership {
    table: FleetTable,
    changes: watch::Receiver<Capacities>,
    rank: Rank,
    /// The classes of the jobs that this fleet takes.
    classes: WorkerClasses,
    /// The others that matter to it, as they were last read.
    others: OtherFleets,
}

impl FleetMembership {
    /// The other fleets now, as far as they matter to a fleet of these classes.
    pub(super) fn others(&mut self, classes: &WorkerClasses) -> OtherFleets {
        self.classes.clone_from(classes);
        self.others = others(&self.changes.borrow_and_update(), &self.rank, classes);
        self.others.clone()
    }

    /// The number of machines of the others whose worker takes jobs of this fleet's classes, and was idle when they were last
    /// read.
    pub(super) fn idle(&self) -> u32 {
        self.others.idle(&self.classes)
    }

    /// Publishes what this fleet can take, and its place by its policy.
    pub(super) fn publish(&mut self, capacity: FleetCapacity, policy: &FleetPolicy) {
        let rank = Rank::of(self.rank.fleet.clone(), policy);
        let before = std::mem::replace(&mut self.rank, rank.clone());
        self.table.0.send_if_modified(|fleets| {
            let moved = before != rank && fleets.remove(&before).is_some();
            let changed = fleets.insert(rank, capacity.clone()) != Some(capacity);
            moved || changed
        });
    }

    /// Waits until the other fleets differ from what was last read.
    pub(super) async fn changed(&mut self) {
        loop {
            // The table holds the sender, so this does not fail.
            if self.changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            if others(&self.changes.borrow_and_update(), &self.rank, &self.classes) != self.others {
                return;
            }
        }
    }
}

impl Drop for FleetMembership {
    fn drop(&mut self) {
        self.table.0.send_if_modified(|fleets| fleets.remove(&self.rank).is_some());
    }
}

fn others(fleets: &Capacities, own: &Rank, classes: &WorkerClasses) -> OtherFleets {
    let others = OtherFleets {
        before: fleets.range(..own).map(|(_, capacity)| capacity.clone()).collect(),
        after: fleets.iter().filter(|(rank, _)| *rank > own).map(|(_, capacity)| capacity.clone()).collect(),
    };
    others.connected_to(classes)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn policy(since: i64, priority: i32) -> FleetPolicy {
        FleetPolicy { priority, since: Millis(since), ..FleetPolicy::new("app", "image") }
    }

    fn capacity(free: u32) -> FleetCapacity {
        FleetCapacity { free, ..FleetCapacity::none(&policy(0, 0)) }
    }

    fn join(table: &FleetTable, name: &str, policy: &FleetPolicy) -> FleetMembership {
        table.join(FleetName::of_pool(name), policy)
    }

    /// How many machines the fleets before and after this one have.
    fn places(member: &mut FleetMembership) -> (Vec<u32>, Vec<u32>) {
        let others = member.others(&member.classes.clone());
        let free = |fleets: &[FleetCapacity]| fleets.iter().map(|fleet| fleet.free).collect();
        (free(&others.before), free(&others.after))
    }

    #[test]
    fn fleets_are_ordered_by_priority_and_age() {
        let table = FleetTable::default();
        let policies = [policy(1, 0), policy(2, 5), policy(2, 0)];
        let [mut old, mut first, mut young] =
            [("c", 0), ("b", 1), ("a", 2)].map(|(name, n)| join(&table, name, &policies[n]));
        old.publish(capacity(0), &policies[0]);
        first.publish(capacity(1), &policies[1]);
        young.publish(capacity(2), &policies[2]);
        assert_eq!(places(&mut old), (vec![1], vec![2]));
        assert_eq!(places(&mut first), (vec![], vec![0, 2]));
        assert_eq!(places(&mut young), (vec![1, 0], vec![]));
        // A changed policy changes the place, and the end of a fleet removes it.
        young.publish(capacity(7), &policy(2, 9));
        drop(first);
        assert_eq!(places(&mut old), (vec![7], vec![]));
        old.publish(capacity(0), &policy(1, 10));
        assert_eq!(places(&mut young), (vec![0], vec![]));
    }

    #[test]
    fn fleet_of_the_environment_comes_after_the_pools_with_its_priority() {
        let table = FleetTable::default();
        let mut environment = join(&table, "", &FleetPolicy::new("app", "image"));
        let mut pool = join(&table, "a", &policy(5, 0));
        pool.publish(capacity(3), &policy(5, 0));
        assert_eq!(places(&mut environment), (vec![3], vec![]));
    }

    #[test]
    fn member_is_woken_by_changes_of_others_only() {
        let table = FleetTable::default();
        let own = policy(1, 0);
        let (mut one, mut other) = (join(&table, "one", &own), join(&table, "other", &policy(2, 0)));
        assert_eq!(one.others(&own.classes).after, [FleetCapacity::unknown(&own)]);
        one.publish(capacity(3), &own);
        assert!(one.changed().now_or_never().is_none(), "its own change wakes it");
        other.publish(capacity(1), &policy(2, 0));
        assert!(one.changed().now_or_never().is_some());
        assert_eq!(one.others(&own.classes).after, [capacity(1)]);
        other.publish(capacity(1), &policy(2, 0));
        assert!(one.changed().now_or_never().is_none(), "nothing has changed");
        drop(other);
        assert!(one.changed().now_or_never().is_some());
        assert_eq!(one.others(&own.classes), OtherFleets::default());
    }

    #[test]
    fn member_knows_only_the_fleets_that_matter_to_its_classes() {
        let table = FleetTable::default();
        let of = |since, classes: &str| FleetPolicy { classes: classes.parse().unwrap(), ..policy(since, 0) };
        let (own, both, large, apart) =
            (of(1, "default"), of(2, "default,large"), of(3, "large"), of(4, "team"));
        let mut member = join(&table, "own", &own);
        let _both = join(&table, "both", &both);
        let mut of_large = join(&table, "large", &large);
        let mut of_team = join(&table, "apart", &apart);
        // What the second one takes of the class large, it does not take of the default one.
        let others = member.others(&own.classes);
        assert_eq!(others.after, [FleetCapacity::unknown(&both), FleetCapacity::unknown(&large)]);
        let classes: Vec<String> =
            others.with_classes(&own.classes).iter().map(ToString::to_string).collect();
        assert_eq!(classes, ["default", "large"]);
        assert_eq!(of_team.others(&apart.classes), OtherFleets::default());
        let idle = |n| FleetCapacity { idle: n, ..FleetCapacity::none(&large) };
        of_team.publish(FleetCapacity { idle: 4, ..FleetCapacity::none(&apart) }, &apart);
        assert!(member.changed().now_or_never().is_none(), "it is woken by a fleet that does not matter");
        of_large.publish(idle(3), &large);
        assert!(member.changed().now_or_never().is_some());
        member.others(&own.classes);
        assert_eq!((member.idle(), of_large.idle()), (0, 0), "no idle machine takes a job of its class");
    }
}
