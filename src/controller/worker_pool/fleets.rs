//! Which fleets the WorkerPools of a cluster configure, and what each pool is to them. Pure.
//!
//! Each pool of pods has a fleet of its own. All machines on Fly belong to one app, so that one fleet manages them: the
//! oldest pool of Fly configures it or, if there is none, the environment. If a pool did so that is gone, and others are
//! left or the environment says too little, the fleet is emptied.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use super::policy::{FleetTarget, emptied, emptied_fly_policy, full_name, target};
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
    /// The uids of those that cannot, with their namespaces and names.
    pub unreadable: &'a BTreeMap<String, String>,
    /// The fleets that were chosen before.
    pub before: &'a WantedFleets,
    /// Why no machines on Fly can be managed, if so.
    pub no_fly: Option<&'a str>,
    /// The pool that last configured the machines on Fly, as their last status says.
    pub last_fly_pool: Option<&'a str>,
    /// The namespace of these pools; none for all. Nothing is known of pools in others.
    pub namespace: Option<&'a str>,
    /// The environment.
    pub env: &'a Env<'a>,
}

/// What is managed.
pub(super) struct Assigned {
    /// The fleets to manage.
    pub fleets: WantedFleets,
    /// What each of the pools that can be read is to them.
    pub roles: Vec<PoolRole>,
    /// What becomes of the machines on Fly of a pool that is gone, for people.
    pub note: Option<String>,
}

impl Known<'_> {
    /// Decides what is managed. A pool that cannot be read, or whose spec cannot be used, keeps the fleet that it has.
    pub(super) fn assign(&self) -> Assigned {
        let keeps = |name: &FleetName| {
            let is_of_fly = *name == FleetName::default() && self.may_be_of_unreadable();
            is_of_fly || self.unreadable.contains_key(name.as_str())
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
        let ahead = |pool: &WorkerPool| match (self.kept_fly_pool(), of_fly) {
            (Some(kept), _) => (kept != full_name(pool)).then(|| kept.to_owned()),
            (None, first) => first.filter(|first| first.uid() != pool.uid()).map(|first| first.name_any()),
        };
        let mut roles = Vec::new();
        for pool in self.pools {
            let wanted = || target(Some(pool), self.env);
            roles.push(match (has_pods(pool), self.no_fly) {
                (true, _) => keep(name(pool), wanted()),
                (false, no_fly) => match (ahead(pool), no_fly) {
                    (Some(other), _) => PoolRole::Behind(other),
                    (None, Some(why)) => PoolRole::NoFleet(why.to_owned()),
                    (None, None) => keep(name(pool), wanted()),
                },
            });
        }
        let mut note = None;
        if self.no_fly.is_none() && of_fly.is_none() && !fleets.contains_key(&FleetName::default()) {
            let (target, said) = self.fly_without_a_pool();
            fleets.extend(target.map(|target| (FleetName::default(), target)));
            note = said;
        }
        Assigned { fleets, roles, note }
    }

    /// The fleet of the machines on Fly that was chosen before.
    fn fly_before(&self) -> Option<&FleetTarget> {
        self.before.get(&FleetName::default())
    }

    /// The pool that configured it, if one did.
    fn fly_pool_before(&self) -> Option<&str> {
        self.fly_before()?.policy().pool.as_deref()
    }

    /// Whether a pool with this namespace and name cannot be read.
    fn is_unreadable(&self, pool: &str) -> bool {
        self.unreadable.values().any(|unreadable| unreadable == pool)
    }

    /// Whether the machines on Fly are those of a pool that cannot be read now. It is not known whether it is one of Fly, if
    /// none was before.
    fn may_be_of_unreadable(&self) -> bool {
        match self.fly_pool_before() {
            Some(pool) => self.is_unreadable(pool),
            None => !self.unreadable.is_empty(),
        }
    }

    /// The pool that configured the machines on Fly before, if it cannot be read now.
    fn kept_fly_pool(&self) -> Option<&str> {
        self.fly_pool_before().filter(|pool| self.is_unreadable(pool))
    }

    /// The fleet of the machines on Fly where no pool configures them, and what people should know of it.
    fn fly_without_a_pool(&self) -> (Option<FleetTarget>, Option<String>) {
        let before = self.fly_before();
        // One in a namespace that is not watched may be there.
        let is_in_scope = |pool: &&str| {
            self.namespace.is_none_or(|namespace| pool.split_once('/').is_some_and(|(of, _)| of == namespace))
        };
        let gone = self.last_fly_pool.filter(is_in_scope).or_else(|| self.fly_pool_before());
        let (pool, left) = match (gone, target(None, self.env)) {
            // It is there, or may be.
            (Some(pool), _) if self.is_unreadable(pool) => return (before.cloned(), None),
            (None, _) if !self.unreadable.is_empty() => return (before.cloned(), None),
            (None, wanted) => return (wanted.ok().or_else(|| before.cloned()), None),
            (Some(_), Ok(wanted)) if self.pools.is_empty() => return (Some(wanted), None),
            (Some(pool), Ok(_)) => (pool, "other pools are left".to_owned()),
            (Some(pool), Err(why)) => (pool, format!("the environment configures none ({why})")),
        };
        let remaining = |why: String| {
            before.map(|before| emptied(before.policy().clone())).ok_or_else(|| {
                format!(
                    "its machines are not known ({why}); correct that, or remove them with `fly machine destroy`"
                )
            })
        };
        let policy = emptied_fly_policy(pool, self.env).or_else(remaining);
        let end = policy.as_ref().err().map_or("its machines are removed", String::as_str);
        let note = format!(
            "the WorkerPool {pool}, which configured the machines on Fly, is gone, and {left}: {end}"
        );
        (policy.ok().map(FleetTarget::Fly), Some(note))
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
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        Known { pools, unreadable: &NONE, before, no_fly: None, last_fly_pool: None, namespace: None, env }
    }

    /// The pool with this name, which cannot be read.
    fn unreadable(name: &str) -> BTreeMap<String, String> {
        [(format!("uid-{name}"), format!("films/{name}"))].into()
    }

    fn assigned(pools: &[&WorkerPool]) -> (WantedFleets, Vec<PoolRole>) {
        let Assigned { fleets, roles, note } = known(pools, &WantedFleets::new(), &Env::of(env)).assign();
        assert_eq!(note, None);
        (fleets, roles)
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
        let policy = gone.assign().fleets[&FleetName::default()].policy().clone();
        assert_eq!((policy.min, policy.max, policy.pool.as_deref()), (0, 0, Some("films/b")));
        assert_eq!(policy.priority, i32::MIN, "it takes jobs from no other fleet");
    }

    #[test]
    fn machines_of_the_only_pool_of_fly_are_removed_with_it_unless_the_environment_configures_them() {
        let named = |name: &str| (name == "FLY_WORKER_APP").then(|| "clips".to_owned());
        let (before, none) = (assigned(&[&fly("b")]).0, WantedFleets::new());
        let (named, nothing, complete) = (Env::of(named), Env::of(|_| None), Env::of(env));
        let of_fly = |assigned: &Assigned| {
            let policy = assigned.fleets[&FleetName::default()].policy();
            (policy.max, policy.pool.clone())
        };
        // What was managed in this process says as much as the last status.
        for (before, last_fly_pool, env) in
            [(&before, None, &named), (&none, Some("films/b"), &named), (&before, None, &nothing)]
        {
            let gone = Known { last_fly_pool, ..known(&[], before, env) }.assign();
            assert_eq!(of_fly(&gone), (0, Some("films/b".to_owned())));
            let note = gone.note.unwrap();
            assert!(note.contains("films/b") && note.contains("FLY_WORKER_IMAGE"), "{note}");
        }
        // Nobody knows which machines they are.
        let gone = Known { last_fly_pool: Some("films/b"), ..known(&[], &none, &nothing) }.assign();
        assert!(gone.fleets.is_empty() && gone.note.unwrap().contains("FLY_WORKER_APP"));
        let taken_over = Known { last_fly_pool: Some("films/b"), ..known(&[], &before, &complete) }.assign();
        assert_eq!((of_fly(&taken_over), taken_over.note), ((10, None), None));
        let left = pods("a");
        let emptied = known(&[&left], &before, &complete).assign();
        assert_eq!(of_fly(&emptied), (0, Some("films/b".to_owned())));
    }

    #[test]
    fn pool_of_fly_has_no_fleet_where_fly_is_not_configured() {
        let pools = [fly("a"), pods("b")];
        let (pools, before, env) = (pools.each_ref(), WantedFleets::new(), Env::of(env));
        let Assigned { fleets, roles, .. } =
            Known { no_fly: Some("no token"), ..known(&pools, &before, &env) }.assign();
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
        let Assigned { fleets, roles, .. } = known(&pools, &before, &complete).assign();
        assert_eq!(fleets.get(&FleetName::of_pool("uid-a")), before.get(&FleetName::of_pool("uid-a")));
        assert!(matches!(&roles[..], [PoolRole::Refused(why)] if why.contains("spec.image")));
        assert_eq!(names(&fleets), ["", "uid-a"]);
        // Without a fleet before there is none.
        let none = WantedFleets::new();
        let without = Known { no_fly: Some("no token"), ..known(&pools, &none, &complete) }.assign();
        assert!(without.fleets.is_empty());
    }

    #[test]
    fn fleet_of_a_pool_that_cannot_be_read_remains() {
        let pools = [fly("a"), pods("b"), pods("c")];
        let (before, env) = (assigned(&pools.each_ref()).0, Env::of(env));
        let remain = |name: &str| {
            let unreadable = unreadable(name);
            let left = [&pools[1]];
            let known = Known { unreadable: &unreadable, ..known(&left, &before, &env) };
            let fleets = known.assign().fleets;
            (names(&fleets).join(" "), fleets[&FleetName::default()].policy().max)
        };
        assert_eq!(remain("a"), (" uid-b".to_owned(), 4));
        // The pool of Fly is gone, so that its machines are removed.
        assert_eq!(remain("c"), (" uid-b uid-c".to_owned(), 0));
    }

    #[test]
    fn no_other_pool_takes_over_the_machines_of_a_pool_of_fly_that_cannot_be_read() {
        let (first, second) = (fly("a"), fly("b"));
        let (before, env) = (assigned(&[&first, &second]).0, Env::of(env));
        let (a, c) = (unreadable("a"), unreadable("c"));
        let pools = [&second];
        let Assigned { fleets, roles, .. } =
            Known { unreadable: &a, ..known(&pools, &before, &env) }.assign();
        assert_eq!(fleets[&FleetName::default()].policy().pool.as_deref(), Some("films/a"));
        assert!(matches!(&roles[..], [PoolRole::Behind(other)] if other == "films/a"));
        // If it is another one that cannot be read, the pool goes on.
        let pools = [&first, &second];
        let others = Known { unreadable: &c, ..known(&pools, &before, &env) }.assign();
        assert!(matches!(&others.roles[..], [PoolRole::Acts, PoolRole::Behind(_)]));
        // Once it is known to be gone, the next one is the first, whichever else cannot be read.
        for unreadable in [&c, &BTreeMap::new()] {
            let next = Known { unreadable, ..known(&pools[1..], &before, &env) }.assign();
            assert!(matches!(&next.roles[..], [PoolRole::Acts]));
            assert_eq!(next.fleets[&FleetName::default()].policy().pool.as_deref(), Some("films/b"));
        }
    }

    #[test]
    fn machines_of_a_pool_that_may_still_be_there_are_left_alone() {
        let named = |name: &str| (name == "FLY_WORKER_APP").then(|| "clips".to_owned());
        let (none, env) = (WantedFleets::new(), Env::of(named));
        let last = Known { last_fly_pool: Some("films/a"), ..known(&[], &none, &env) };
        assert_eq!(names(&last.assign().fleets), [""]);
        // It is in a namespace that is not watched, or cannot be read.
        let elsewhere =
            Known { namespace: Some("other"), last_fly_pool: Some("films/a"), ..known(&[], &none, &env) };
        let unreadable =
            Known { unreadable: &unreadable("a"), last_fly_pool: Some("films/a"), ..known(&[], &none, &env) };
        for known in [elsewhere, unreadable] {
            let assigned = known.assign();
            assert!(assigned.fleets.is_empty() && assigned.note.is_none());
        }
        let watched = Known { namespace: Some("films"), ..last };
        assert_eq!(names(&watched.assign().fleets), [""]);
    }
}
