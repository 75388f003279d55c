//! A WorkerPool's status from what the acting reconciler says of the fleet. Pure.

use kube::Resource as _;

use crate::controller::conditions::{Said, conditions};
use crate::crd::{MachineCounts, WorkerPool, WorkerPoolStatus, condition, reason};
use crate::job::Millis;
use crate::queue::{FleetCondition, FleetStatus};

/// What a pool is to the fleet.
#[derive(Clone, Copy, Debug)]
pub enum Standing<'a> {
    /// It is carried out.
    Acts,
    /// Another one is, of this name.
    Behind(&'a str),
    /// It cannot be carried out: why, and what to do.
    Refused(&'a str),
    /// No fleet can be looked after: why, and what to do.
    NoFleet(&'a str),
}

/// Longest `lastError`, characters.
const MOST: usize = 1000;

/// What to say of `pool`.
#[must_use]
pub fn status(
    pool: &WorkerPool,
    standing: Standing<'_>,
    fleet: Option<&FleetStatus>,
    now: Millis,
) -> WorkerPoolStatus {
    let before = pool.status.clone().unwrap_or_default();
    let generation = pool.meta().generation;
    let fleet = fleet.filter(|_| matches!(standing, Standing::Acts | Standing::Refused(_)));
    let trouble = fleet.and_then(trouble);
    let error = match standing {
        Standing::Refused(why) | Standing::NoFleet(why) => Some(why.to_owned()),
        _ => trouble.map(|c| c.message.clone()),
    };
    let said = said(standing, fleet, trouble);
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    WorkerPoolStatus {
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
        last_error: error.map(|text| text.chars().take(MOST).collect()),
        conditions: conditions(&before.conditions, said, generation, now),
    }
}

/// The first thing a person should see to.
fn trouble(fleet: &FleetStatus) -> Option<&FleetCondition> {
    fleet.conditions.iter().find(|c| !matches!(&*c.reason, "Paused" | "NotListedYet"))
}

fn said(standing: Standing<'_>, fleet: Option<&FleetStatus>, trouble: Option<&FleetCondition>) -> Vec<Said> {
    let stalled = |reason: &str, why: &str| {
        vec![Said::no(condition::READY, reason, why), Said::yes(condition::STALLED, reason, why)]
    };
    match standing {
        Standing::Refused(why) => return stalled(reason::INVALID_SPEC, why),
        Standing::NoFleet(why) => return stalled(reason::FLY_NOT_CONFIGURED, why),
        Standing::Behind(other) => {
            let why = format!("the WorkerPool {other} is older and is the one that acts; delete one of them");
            return stalled(reason::ANOTHER_POOL, &why);
        }
        Standing::Acts => {}
    }
    let Some(fleet) = fleet else {
        let why = "the fleet has not been looked at yet";
        return vec![
            Said::no(condition::READY, reason::NOT_OBSERVED, why),
            Said::yes(condition::RECONCILING, reason::NOT_OBSERVED, why),
        ];
    };
    let mut said = match trouble {
        Some(c) => vec![Said::no(condition::READY, &*c.reason, &*c.message)],
        None => vec![Said::yes(condition::READY, reason::AS_DESIRED, "the fleet is looked after")],
    };
    let counts = fleet.desired;
    if fleet.paused {
        let why = "the machines are left as they are; `tcoder fleet plan` says what would be done";
        said.push(Said::yes(condition::PAUSED, reason::FLEET_PAUSED, why));
    } else if counts.machines != counts.busy + counts.idle {
        let why = format!("{} machine(s) should be up", counts.machines);
        said.push(Said::yes(condition::RECONCILING, reason::IN_PROGRESS, why));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::conditions::{find, holds};
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
                min: 0,
                max: 10,
            },
            conditions: conditions.iter().map(condition).collect(),
            ..FleetStatus::default()
        }
    }

    #[test]
    fn the_pool_shows_the_fleets_counts() {
        let status = status(&pool(), Standing::Acts, Some(&fleet(&[])), Millis(0));
        let machines = MachineCounts { total: 5, busy: 2, idle: 0, booting: 1, billed: 3 };
        assert_eq!((status.desired, status.machines, status.pending), (Some(3), Some(machines), Some(4)));
        assert_eq!((status.observed_generation, status.last_error), (Some(3), None));
        assert!(
            holds(&status.conditions, "Ready").is_some()
                && holds(&status.conditions, "Reconciling").is_some()
        );
    }

    #[test]
    fn what_is_wrong_is_said_and_a_pause_is_nothing_wrong() {
        let status = |standing, fleet: Option<&FleetStatus>| status(&pool(), standing, fleet, Millis(0));
        let wrong = status(Standing::Acts, Some(&fleet(&["NotListedYet", "Unauthorised"])));
        assert_eq!(wrong.last_error.as_deref(), Some("about Unauthorised"));
        let ready = find(&wrong.conditions, "Ready").unwrap();
        assert_eq!((&*ready.status, &*ready.reason), ("False", "Unauthorised"));

        let paused = FleetStatus { paused: true, ..fleet(&["Paused"]) };
        let paused = status(Standing::Acts, Some(&paused));
        assert!(
            holds(&paused.conditions, "Paused").is_some() && holds(&paused.conditions, "Ready").is_some()
        );
        assert!(find(&paused.conditions, "Reconciling").is_none());

        let behind = status(Standing::Behind("first"), Some(&fleet(&[])));
        assert!(behind.desired.is_none());
        assert_eq!(holds(&behind.conditions, "Stalled").unwrap().reason, "AnotherPoolActs");

        let refused = status(Standing::Refused("spec.min: no"), Some(&fleet(&[])));
        assert_eq!((refused.desired, refused.last_error.as_deref()), (Some(3), Some("spec.min: no")));
        assert_eq!(holds(&refused.conditions, "Stalled").unwrap().reason, "InvalidSpec");
        assert!(holds(&status(Standing::Acts, None).conditions, "Reconciling").is_some());
    }
}
