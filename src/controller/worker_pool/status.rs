//! Derives a WorkerPool's status from the published status of the fleet. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource as _;

use crate::controller::conditions::{ConditionUpdate, conditions, find};
use crate::crd::{MachineCounts, WorkerPool, WorkerPoolStatus, condition, reason};
use crate::job::Millis;
use crate::queue::{FleetCondition, FleetStatus};

/// The relation of a pool to its fleet.
#[derive(Clone, Debug)]
pub(crate) enum PoolRole {
    /// The fleet follows its spec.
    Acts,
    /// The fleet on Fly follows the pool with this name instead.
    Behind(String),
    /// Its spec cannot be applied: why, and what to do.
    Refused(String),
    /// No fleet can be managed: why, and what to do.
    NoFleet(String),
}

/// Maximum length of `lastError`, characters.
const MAX_ERROR_CHARS: usize = 1000;

/// What is known of a pool's fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fleet<'a> {
    /// What was published of it, if anything.
    Published(Option<&'a FleetStatus>),
    /// Redis cannot be read, so that nothing is published.
    Unknown,
}

/// The status of `pool`.
#[must_use]
pub(crate) fn status(
    pool: &WorkerPool,
    standing: &PoolRole,
    fleet: Fleet<'_>,
    now: Millis,
) -> WorkerPoolStatus {
    let Fleet::Published(fleet) = fleet else { return without_redis(pool, standing, now) };
    let before = pool.status.clone().unwrap_or_default();
    let generation = pool.meta().generation;
    let fleet = fleet.filter(|_| matches!(standing, PoolRole::Acts | PoolRole::Refused(_)));
    let trouble = fleet.and_then(trouble);
    let error = match standing {
        PoolRole::Refused(why) | PoolRole::NoFleet(why) => Some(why.clone()),
        _ => trouble.map(|c| c.message.clone()),
    };
    let said = match fleet.filter(|_| matches!(standing, PoolRole::Acts)) {
        // A reconciler that has just started knows nothing yet.
        Some(fleet) if !is_listed(fleet) && is_told(&before, generation) => repeated(&before),
        _ => said(standing, fleet, trouble),
    };
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let new = WorkerPoolStatus {
        observed_generation: generation,
        desired: fleet.map(|f| number(f.desired.machines)),
        machines: fleet.map(|f| MachineCounts {
            total: number(f.desired.existing),
            busy: number(f.desired.busy),
            idle: number(f.desired.idle),
            booting: number(f.desired.booting),
            billed: number(f.desired.billed),
        }),
        pending: fleet.map(|f| i64::try_from(f.desired.waiting).unwrap_or(i64::MAX)),
        last_error: error.map(|text| text.chars().take(MAX_ERROR_CHARS).collect()),
        conditions: conditions(&before.conditions, said, generation, now),
    };
    if fleet.is_some_and(has_no_list) {
        // Its counts mean nothing. What they were is the best that is known.
        let WorkerPoolStatus { desired, machines, pending, .. } = before;
        return WorkerPoolStatus { desired, machines, pending, ..new };
    }
    new
}

/// The status of `pool` while Redis cannot be read: its counts are as they were, and whether the fleet is paused.
fn without_redis(pool: &WorkerPool, standing: &PoolRole, now: Millis) -> WorkerPoolStatus {
    let before = pool.status.clone().unwrap_or_default();
    let generation = pool.meta().generation;
    let why = "Redis cannot be read; nothing is changed until it can. See the controller's log";
    let (said, error) = match standing {
        PoolRole::Acts => {
            let paused = repeated(&before).into_iter().filter(|update| update.type_ == condition::PAUSED);
            let ready = ConditionUpdate::no(condition::READY, reason::REDIS_UNAVAILABLE, why);
            (std::iter::once(ready).chain(paused).collect(), Some(why.to_owned()))
        }
        PoolRole::Refused(why) | PoolRole::NoFleet(why) => (said(standing, None, None), Some(why.clone())),
        PoolRole::Behind(_) => (said(standing, None, None), None),
    };
    WorkerPoolStatus {
        observed_generation: generation,
        last_error: error,
        conditions: conditions(&before.conditions, said, generation, now),
        ..before
    }
}

/// The conditions of a pool that cannot be read.
#[must_use]
pub(crate) fn unreadable(why: &str, generation: Option<i64>, now: Millis) -> WorkerPoolStatus {
    let why: String = why.chars().take(MAX_ERROR_CHARS).collect();
    let said = said(&PoolRole::Refused(why.clone()), None, None);
    WorkerPoolStatus {
        observed_generation: generation,
        last_error: Some(why),
        conditions: conditions(&[], said, generation, now),
        ..WorkerPoolStatus::default()
    }
}

/// Whether the machines of the fleet are not known, because they were not listed yet or cannot be.
fn has_no_list(fleet: &FleetStatus) -> bool {
    let counts = fleet.desired;
    fleet.conditions.iter().any(|c| match &*c.reason {
        NOT_LISTED_YET | "ListFailed" | "NoSuchApp" => true,
        // A list, or a change.
        "Unauthorized" | "Billing" => (counts.existing, counts.machines, counts.waiting) == (0, 0, 0),
        _ => false,
    })
}

/// Whether the machines of the fleet were listed, or something prevents that.
fn is_listed(fleet: &FleetStatus) -> bool {
    trouble(fleet).is_some() || !fleet.conditions.iter().any(|c| c.reason == NOT_LISTED_YET)
}

/// Whether the status says of this generation whether the pool is ready.
fn is_told(before: &WorkerPoolStatus, generation: Option<i64>) -> bool {
    let ready = find(&before.conditions, condition::READY);
    ready.is_some_and(|ready| generation.is_some() && ready.observed_generation == generation)
}

/// The conditions as they were.
fn repeated(before: &WorkerPoolStatus) -> Vec<ConditionUpdate> {
    let types = [condition::READY, condition::RECONCILING, condition::PAUSED];
    let again = types.into_iter().filter_map(|type_| {
        let Condition { status, reason, message, .. } = find(&before.conditions, type_)?.clone();
        Some(ConditionUpdate { type_, holds: status == "True", reason, message })
    });
    again.collect()
}

/// The condition of a fleet whose machines were not listed yet.
const NOT_LISTED_YET: &str = "NotListedYet";

/// The most important problem of the fleet.
fn trouble(fleet: &FleetStatus) -> Option<&FleetCondition> {
    fleet.conditions.iter().find(|c| !matches!(&*c.reason, "Paused" | NOT_LISTED_YET))
}

fn said(
    standing: &PoolRole,
    fleet: Option<&FleetStatus>,
    trouble: Option<&FleetCondition>,
) -> Vec<ConditionUpdate> {
    let stalled = |reason: &str, why: &str| {
        vec![
            ConditionUpdate::no(condition::READY, reason, why),
            ConditionUpdate::yes(condition::STALLED, reason, why),
        ]
    };
    match standing {
        PoolRole::Refused(why) => return stalled(reason::INVALID_SPEC, why),
        PoolRole::NoFleet(why) => return stalled(reason::FLY_NOT_CONFIGURED, why),
        PoolRole::Behind(other) => {
            let why = format!(
                "the WorkerPool {other} is older and configures the machines on Fly; delete one of them, or make this one \
                 anew with spec.provider.pods"
            );
            return stalled(reason::ANOTHER_POOL, &why);
        }
        PoolRole::Acts => {}
    }
    let Some(fleet) = fleet.filter(|fleet| is_listed(fleet)) else {
        let why = "the fleet has not been looked at yet";
        return vec![
            ConditionUpdate::no(condition::READY, reason::NOT_OBSERVED, why),
            ConditionUpdate::yes(condition::RECONCILING, reason::NOT_OBSERVED, why),
        ];
    };
    let mut said = match trouble {
        Some(c) => vec![ConditionUpdate::no(condition::READY, &*c.reason, &*c.message)],
        None => vec![ConditionUpdate::yes(
            condition::READY,
            reason::AS_DESIRED,
            "the number of machines is reconciled",
        )],
    };
    let counts = fleet.desired;
    if fleet.paused {
        let why = "the machines are left as they are; `tcoder fleet plan` says what would be done";
        said.push(ConditionUpdate::yes(condition::PAUSED, reason::FLEET_PAUSED, why));
    } else if counts.machines != counts.busy + counts.idle {
        let why = format!("{} machine(s) should be up", counts.machines);
        said.push(ConditionUpdate::yes(condition::RECONCILING, reason::IN_PROGRESS, why));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::conditions::holds;
    use crate::queue::FleetDesired;

    fn pool() -> WorkerPool {
        let mut pool = WorkerPool::new("default", serde_json::from_str("{}").unwrap());
        pool.metadata.generation = Some(3);
        pool
    }

    fn fleet(conditions: &[&str]) -> FleetStatus {
        let condition = |reason: &&str| FleetCondition {
            reason: (*reason).to_owned(),
            message: format!("about {reason}"),
        };
        FleetStatus {
            desired: FleetDesired {
                machines: 3,
                busy: 2,
                idle: 0,
                booting: 1,
                waiting: 4,
                existing: 5,
                billed: 3,
                max: 10,
                ..FleetDesired::default()
            },
            conditions: conditions.iter().map(condition).collect(),
            ..FleetStatus::default()
        }
    }

    #[test]
    fn status_of_the_active_pool_contains_the_fleets_counts() {
        let status = status(&pool(), &PoolRole::Acts, Fleet::Published(Some(&fleet(&[]))), Millis(0));
        let machines = MachineCounts { total: 5, busy: 2, idle: 0, booting: 1, billed: 3 };
        assert_eq!((status.desired, status.machines, status.pending), (Some(3), Some(machines), Some(4)));
        assert_eq!((status.observed_generation, status.last_error), (Some(3), None));
        assert!(
            holds(&status.conditions, "Ready").is_some()
                && holds(&status.conditions, "Reconciling").is_some()
        );
    }

    #[test]
    fn status_of_a_pool_reports_errors_and_not_a_pause() {
        let status = |standing: PoolRole, fleet: Option<&FleetStatus>| {
            status(&pool(), &standing, Fleet::Published(fleet), Millis(0))
        };
        let wrong = status(PoolRole::Acts, Some(&fleet(&["NotListedYet", "Unauthorized"])));
        assert_eq!(wrong.last_error.as_deref(), Some("about Unauthorized"));
        let ready = find(&wrong.conditions, "Ready").unwrap();
        assert_eq!((&*ready.status, &*ready.reason), ("False", "Unauthorized"));

        let unlisted = status(PoolRole::Acts, Some(&fleet(&["NotListedYet"])));
        let ready = find(&unlisted.conditions, "Ready").unwrap();
        assert_eq!((&*ready.status, &*ready.reason), ("False", "NotObservedYet"));
        assert!(holds(&unlisted.conditions, "Reconciling").is_some());

        let paused = FleetStatus { paused: true, ..fleet(&["Paused"]) };
        let paused = status(PoolRole::Acts, Some(&paused));
        assert!(
            holds(&paused.conditions, "Paused").is_some() && holds(&paused.conditions, "Ready").is_some()
        );
        assert!(find(&paused.conditions, "Reconciling").is_none());

        let behind = status(PoolRole::Behind("first".into()), Some(&fleet(&[])));
        assert!(behind.desired.is_none());
        assert_eq!(holds(&behind.conditions, "Stalled").unwrap().reason, "PoolNotActive");

        let refused = status(PoolRole::Refused("spec.min: no".into()), Some(&fleet(&[])));
        assert_eq!((refused.desired, refused.last_error.as_deref()), (Some(3), Some("spec.min: no")));
        assert_eq!(holds(&refused.conditions, "Stalled").unwrap().reason, "InvalidSpec");
        assert!(holds(&status(PoolRole::Acts, None).conditions, "Reconciling").is_some());
    }

    #[test]
    fn counts_of_a_pool_remain_while_its_machines_cannot_be_listed() {
        let known = status(&pool(), &PoolRole::Acts, Fleet::Published(Some(&fleet(&[]))), Millis(0));
        let pool = WorkerPool { status: Some(known.clone()), ..pool() };
        for reason in ["NotListedYet", "ListFailed", "NoSuchApp", "Unauthorized", "Billing"] {
            let unknown = FleetStatus { desired: FleetDesired::default(), ..fleet(&[reason]) };
            let now = status(&pool, &PoolRole::Acts, Fleet::Published(Some(&unknown)), Millis(1));
            assert_eq!(
                (now.desired, now.machines, now.pending),
                (known.desired, known.machines, known.pending),
                "{reason}"
            );
            // Nothing is wrong while a reconciler starts.
            assert_eq!(now.conditions == known.conditions, reason == "NotListedYet", "{reason}");
        }
        // A refused change says nothing against the list.
        let counts = FleetDesired { machines: 1, ..FleetDesired::default() };
        let refused = FleetStatus { desired: counts, ..fleet(&["Unauthorized"]) };
        let now = status(&pool, &PoolRole::Acts, Fleet::Published(Some(&refused)), Millis(1));
        assert_eq!((now.desired, now.machines.unwrap().total, now.pending), (Some(1), 0, Some(0)));
    }

    #[test]
    fn pool_says_that_redis_is_away_and_keeps_its_counts() {
        let paused = FleetStatus { paused: true, ..fleet(&["Paused"]) };
        let known = status(&pool(), &PoolRole::Acts, Fleet::Published(Some(&paused)), Millis(0));
        let pool = WorkerPool { status: Some(known.clone()), ..pool() };
        let away = status(&pool, &PoolRole::Acts, Fleet::Unknown, Millis(1));
        assert_eq!(
            (away.desired, away.machines, away.pending),
            (known.desired, known.machines, known.pending)
        );
        let ready = find(&away.conditions, "Ready").unwrap();
        assert_eq!((&*ready.status, &*ready.reason), ("False", "RedisUnavailable"));
        assert!(holds(&away.conditions, "Paused").is_some() && away.last_error.is_some());

        let again = WorkerPool { status: Some(away), ..pool.clone() };
        let again = status(&again, &PoolRole::Acts, Fleet::Published(Some(&paused)), Millis(2));
        assert!(holds(&again.conditions, "Ready").is_some() && again.last_error.is_none());

        // What is wrong with its spec is known without Redis.
        let refused = status(&pool, &PoolRole::Refused("spec.min: no".into()), Fleet::Unknown, Millis(1));
        assert_eq!(holds(&refused.conditions, "Stalled").unwrap().reason, "InvalidSpec");
        assert_eq!(refused.last_error.as_deref(), Some("spec.min: no"));
    }
}
