//! Which fleets the WorkerPools of a cluster configure, and what each pool is to them. Pure.
//!
//! Each pool of pods has a fleet of its own. All machines on Fly belong to one app, so that one fleet manages them: the
//! oldest pool of Fly configures it. Without any pool the environment does. If there are only pools of pods, that fleet is
//! emptied: its machines were those of a pool that is gone.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use super::policy::{FleetTarget, emptied_fly_policy, target};
use super::status::PoolRole;
use crate::config::Env;
use crate::crd::WorkerPool;
use crate::job::Millis;
use crate::queue::FleetName;

/// A fleet that is to be managed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WantedFleet {
    /// Its provider and policy.
    pub target: FleetTarget,
    /// When its pool was made; of two fleets with the same priority the older one makes machines first.
    pub since: Millis,
}

/// The fleets that are to be managed.
pub(crate) type WantedFleets = BTreeMap<FleetName, WantedFleet>;

/// The fleets to manage, and what each of `pools` is to them. `pools` are those that can be read, the oldest first; some
/// are missing if not `complete`. A pool whose spec cannot be used keeps the fleet that it has in `before`. `no_fly` says
/// why no machines on Fly can be managed, if so.
pub(super) fn assign(
    pools: &[&WorkerPool],
    complete: bool,
    before: &WantedFleets,
    no_fly: Option<&str>,
    env: &Env<'_>,
) -> (WantedFleets, Vec<PoolRole>) {
    let mut fleets = if complete { WantedFleets::new() } else { before.clone() };
    let mut keep = |name: FleetName, since, wanted: Result<FleetTarget, String>| {
        let (fleet, role) = match wanted {
            Ok(target) => (Some(WantedFleet { target, since }), PoolRole::Acts),
            Err(why) => (before.get(&name).cloned(), PoolRole::Refused(why)),
        };
        fleets.extend(fleet.map(|fleet| (name, fleet)));
        role
    };
    let of_fly = pools.iter().find(|pool| !has_pods(pool));
    let mut roles = Vec::new();
    for pool in pools {
        let since = Millis(pool.creation_timestamp().map_or(0, |at| at.0.as_millisecond()));
        let wanted = || target(Some(pool), env);
        roles.push(match (has_pods(pool), of_fly) {
            (true, _) => keep(name(pool), since, wanted()),
            (false, Some(first)) if first.uid() != pool.uid() => PoolRole::Behind(first.name_any()),
            (false, _) => match no_fly {
                Some(why) => PoolRole::NoFleet(why.to_owned()),
                None => keep(name(pool), since, wanted()),
            },
        });
    }
    if no_fly.is_none() && of_fly.is_none() {
        if pools.is_empty() {
            keep(FleetName::default(), Millis(0), target(None, env));
        } else if let (true, Some(policy)) = (complete, emptied_fly_policy(env)) {
            let target = FleetTarget::Fly(policy);
            fleets.insert(FleetName::default(), WantedFleet { target, since: Millis(0) });
        }
    }
    (fleets, roles)
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

    fn assigned(pools: &[&WorkerPool]) -> (WantedFleets, Vec<PoolRole>) {
        assign(pools, true, &WantedFleets::new(), None, &Env::of(env))
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
        let of_a = &fleets[&FleetName::of_pool("uid-a")];
        let policy = of_a.target.policy();
        assert_eq!((policy.priority, policy.pool.as_deref()), (3, Some("films/a")));
        assert_eq!(of_a.since, Millis(1_795_946_400_000));
        assert_eq!(fleets[&FleetName::default()].target.policy().max, 4);
    }

    #[test]
    fn environment_configures_a_fleet_on_fly_only_without_pools() {
        let (fleets, _) = assigned(&[]);
        assert_eq!(fleets[&FleetName::default()].target.policy().max, 10);
        // The machines of a pool that is gone are removed.
        let image_only_in_pools = |name: &str| env(name).filter(|_| name != "FLY_WORKER_IMAGE");
        let (fleets, _) =
            assign(&[&pods("a")], true, &WantedFleets::new(), None, &Env::of(image_only_in_pools));
        let policy = fleets[&FleetName::default()].target.policy();
        assert_eq!((names(&fleets), policy.min, policy.max), (vec!["", "uid-a"], 0, 0));
    }

    #[test]
    fn pool_of_fly_has_no_fleet_where_fly_is_not_configured() {
        let pools = [fly("a"), pods("b")];
        let (fleets, roles) =
            assign(&pools.each_ref(), true, &WantedFleets::new(), Some("no token"), &Env::of(env));
        assert_eq!(names(&fleets), ["uid-b"]);
        assert!(matches!(&roles[..], [PoolRole::NoFleet(why), PoolRole::Acts] if why == "no token"));
    }

    #[test]
    fn fleet_of_a_spec_that_cannot_be_used_remains_unless_its_pool_is_gone() {
        let (good, other) = (pods("a"), pods("b"));
        let (before, _) = assigned(&[&good, &other]);
        let mut bad = good.clone();
        bad.spec.image = None;
        let after = |pools: &[&WorkerPool]| assign(pools, true, &before, None, &Env::of(env));
        let (fleets, roles) = after(&[&bad]);
        assert_eq!(fleets.get(&FleetName::of_pool("uid-a")), before.get(&FleetName::of_pool("uid-a")));
        assert!(matches!(&roles[..], [PoolRole::Refused(why)] if why.contains("spec.image")));
        assert_eq!(names(&fleets), ["", "uid-a"]);
        // Without a fleet before there is none.
        let (fleets, _) = assign(&[&bad], true, &WantedFleets::new(), Some("no token"), &Env::of(env));
        assert!(fleets.is_empty());
        // Without the environment there is no fleet on Fly, but the one before remains.
        let (fleets, _) = assign(&[], true, &before, None, &Env::of(|_| None));
        assert_eq!(names(&fleets), [""]);
    }

    #[test]
    fn fleets_remain_while_a_pool_cannot_be_read() {
        let pools = [fly("a"), pods("b")];
        let (before, _) = assigned(&pools.each_ref());
        let (fleets, _) = assign(&[&pools[1]], false, &before, None, &Env::of(env));
        assert_eq!(fleets, before);
    }
}
