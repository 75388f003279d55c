//! Which fleets the WorkerPools of a cluster configure, and what each pool is to them. Pure.
//!
//! Each pool of pods has a fleet of its own. All machines on Fly belong to one app, so that one fleet manages them: the
//! oldest pool of Fly configures it or, if there is none, the environment. If a pool did so that is gone while others are
//! left, the fleet is emptied.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;

use super::policy::{FleetTarget, emptied_fly_policy, target};
use super::status::PoolRole;
use crate::config::Env;
use crate::crd::WorkerPool;
use crate::queue::FleetName;

/// The fleets that are to be managed.
pub(crate) type WantedFleets = BTreeMap<FleetName, FleetTarget>;

/// What is known when the fleets are chosen.
pub(super) struct Known<'a> {
    /// The pools that can be read, the oldest first.
    pub pools: &'a [&'a WorkerPool],
    /// The uids of those that cannot.
    pub unreadable: &'a BTreeSet<String>,
    /// The fleets that were chosen before.
    pub before: &'a WantedFleets,
    /// Why no machines on Fly can be managed, if so.
    pub no_fly: Option<&'a str>,
    /// The pool that last configured the machines on Fly, as their last status says.
    pub last_fly_pool: Option<&'a str>,
    /// The environment.
    pub env: &'a Env<'a>,
}

impl Known<'_> {
    /// The fleets to manage, and what each of the pools that can be read is to them. A pool that cannot be read, or whose
    /// spec cannot be used, keeps the fleet that it has.
    pub(super) fn assign(&self) -> (WantedFleets, Vec<PoolRole>) {
        let keeps = |name: &FleetName| {
            // It is not known whether one that cannot be read is one of Fly.
            let may_be_fly = *name == FleetName::default() && !self.unreadable.is_empty();
            may_be_fly || self.unreadable.contains(name.as_str())
        };
        let kept = self.before.iter().filter(|(name, _)| keeps(name));
        let mut fleets: WantedFleets = kept.map(|(name, target)| (name.clone(), target.clone())).collect();
        let mut keep = |name: FleetName, wanted: Result<FleetTarget, String>| {
            let (target, role) = match wanted {
                Ok(target) => (Some(target), PoolRole::Acts),
                Err(why) => (self.before.get(&name).cloned(), PoolRole::Refused(why)),
            };
            fleets.extend(target.map(|target| (name, target)));
            role
        };
        let of_fly = self.pools.iter().find(|pool| !has_pods(pool));
        let mut roles = Vec::new();
        for pool in self.pools {
            let wanted = || target(Some(pool), self.env);
            roles.push(match (has_pods(pool), of_fly) {
                (true, _) => keep(name(pool), wanted()),
                (false, Some(first)) if first.uid() != pool.uid() => PoolRole::Behind(first.name_any()),
                (false, _) => match self.no_fly {
                    Some(why) => PoolRole::NoFleet(why.to_owned()),
                    None => keep(name(pool), wanted()),
                },
            });
        }
        if self.no_fly.is_none() && of_fly.is_none() && self.unreadable.is_empty() {
            match self.last_fly_pool.filter(|_| !self.pools.is_empty()) {
                Some(pool) => {
                    let policy = emptied_fly_policy(pool, self.env);
                    fleets.extend(policy.map(|policy| (FleetName::default(), FleetTarget::Fly(policy))));
                }
                None => drop(keep(FleetName::default(), target(None, self.env))),
            }
        }
        (fleets, roles)
    }
}

/// The name of the fleet of a pool.
pub(super) fn name(pool: &WorkerPool) -> FleetName {
    if has_pods(pool) { FleetName::of_pool(&pool.uid().unwrap_or_default()) } else { FleetName::default() }
}

/// Whether the machines of a pool are pods.
fn has_pods(pool: &WorkerPool) -> bool {
    pool.spec.provider.as_ref().is_some_and(|provider| provider.pods.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Millis;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "FLY_WORKER_APP" => "clips",
            "FLY_WORKER_IMAGE" => "registry.fly.io/clips:1",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn pool(name: &str, spec: serde_json::Value) -> WorkerPool {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "tcoder.dev/v1alpha1", "kind": "WorkerPool",
            "metadata": {"name": name, "namespace": "films", "uid": format!("uid-{name}"),
                         "creationTimestamp": "2026-11-29T10:00:00Z"},
            "spec": spec,
        }))
        .unwrap()
    }

    fn pods(name: &str) -> WorkerPool {
        pool(name, serde_json::json!({"image": "a", "priority": 3, "provider": {"pods": {}}}))
    }

    fn fly(name: &str) -> WorkerPool {
        pool(name, serde_json::json!({"max": 4}))
    }

    fn known<'a>(pools: &'a [&'a WorkerPool], before: &'a WantedFleets, env: &'a Env<'a>) -> Known<'a> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        Known { pools, unreadable: &NONE, before, no_fly: None, last_fly_pool: None, env }
    }

    fn assigned(pools: &[&WorkerPool]) -> (WantedFleets, Vec<PoolRole>) {
        known(pools, &WantedFleets::new(), &Env::of(env)).assign()
    }

    fn names(fleets: &WantedFleets) -> Vec<&str> {
        fleets.keys().map(FleetName::as_str).collect()
    }

    #[test]
    fn every_pool_of_pods_and_the_oldest_of_fly_have_a_fleet() {
        let pools = [pods("a"), fly("b"), pods("c"), fly("d")];
        let (fleets, roles) = assigned(&pools.each_ref());
        assert_eq!(names(&fleets), ["", "uid-a", "uid-c"]);
        assert!(matches!(
            &roles[..],
            [PoolRole::Acts, PoolRole::Acts, PoolRole::Acts, PoolRole::Behind(first)] if first == "b"
        ));
        let policy = fleets[&FleetName::of_pool("uid-a")].policy();
        assert_eq!((policy.priority, policy.pool.as_deref()), (3, Some("films/a")));
        assert_eq!(policy.since, Millis(1_795_946_400_000));
        let of_fly = fleets[&FleetName::default()].policy();
        assert_eq!((of_fly.max, of_fly.pool.as_deref(), of_fly.since), (4, Some("films/b"), policy.since));
    }

    #[test]
    fn environment_configures_the_machines_on_fly_where_no_pool_does() {
        for pools in [&[][..], &[&pods("a")]] {
            let policy = assigned(pools).0[&FleetName::default()].policy().clone();
            assert_eq!((policy.max, policy.pool, policy.since), (10, None, Millis(i64::MAX)));
        }
    }

    #[test]
    fn machines_of_a_pool_of_fly_that_is_gone_are_removed_if_others_are_left() {
        let image_only_in_pools = |name: &str| env(name).filter(|_| name != "FLY_WORKER_IMAGE");
        let (before, env) = (WantedFleets::new(), Env::of(image_only_in_pools));
        let pods = pods("a");
        let pools = [&pods];
        let gone = Known { last_fly_pool: Some("films/b"), ..known(&pools, &before, &env) };
        let policy = gone.assign().0[&FleetName::default()].policy().clone();
        assert_eq!((policy.min, policy.max, policy.pool.as_deref()), (0, 0, Some("films/b")));
        assert_eq!(policy.priority, i32::MIN, "it takes jobs from no other fleet");
    }

    #[test]
    fn pool_of_fly_has_no_fleet_where_fly_is_not_configured() {
        let pools = [fly("a"), pods("b")];
        let (pools, before, env) = (pools.each_ref(), WantedFleets::new(), Env::of(env));
        let (fleets, roles) = Known { no_fly: Some("no token"), ..known(&pools, &before, &env) }.assign();
        assert_eq!(names(&fleets), ["uid-b"]);
        assert!(matches!(&roles[..], [PoolRole::NoFleet(why), PoolRole::Acts] if why == "no token"));
    }

    #[test]
    fn fleet_of_a_spec_that_cannot_be_used_remains_unless_its_pool_is_gone() {
        let (good, other) = (pods("a"), pods("b"));
        let (before, _) = assigned(&[&good, &other]);
        let mut bad = good.clone();
        bad.spec.image = None;
        let (pools, complete) = ([&bad], Env::of(env));
        let (fleets, roles) = known(&pools, &before, &complete).assign();
        assert_eq!(fleets.get(&FleetName::of_pool("uid-a")), before.get(&FleetName::of_pool("uid-a")));
        assert!(matches!(&roles[..], [PoolRole::Refused(why)] if why.contains("spec.image")));
        assert_eq!(names(&fleets), ["", "uid-a"]);
        // Without a fleet before there is none.
        let none = WantedFleets::new();
        let (fleets, _) = Known { no_fly: Some("no token"), ..known(&pools, &none, &complete) }.assign();
        assert!(fleets.is_empty());
        // Without the environment there is no fleet on Fly, but the one before remains.
        let (fleets, _) = known(&[], &before, &Env::of(|_| None)).assign();
        assert_eq!(names(&fleets), [""]);
    }

    #[test]
    fn fleet_of_a_pool_that_cannot_be_read_remains() {
        let pools = [fly("a"), pods("b"), pods("c")];
        let (before, env) = (assigned(&pools.each_ref()).0, Env::of(env));
        let remain = |unreadable: &str| {
            let unreadable = [unreadable.to_owned()].into();
            let left = [&pools[1]];
            let (fleets, _) = Known { unreadable: &unreadable, ..known(&left, &before, &env) }.assign();
            names(&fleets).join(" ")
        };
        // Whether it is one of Fly is not known; a pool that is gone keeps nothing.
        assert_eq!(remain("uid-a"), " uid-b");
        assert_eq!(remain("uid-c"), " uid-b uid-c");
    }
}
