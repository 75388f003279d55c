//! How many subrequests each part of an invocation may make. Pure.

use std::time::Duration;

use crate::controller::reconciler::InvocationBudget;
use crate::janitor::SubrequestBudget;

/// Requests to the provider in one round of the `scheduled` handler.
const CRON_REQUESTS: u32 = 8;
/// Round trips that a reconciliation may need in excess of its budget: the rate limit refuses a request, or
/// an operation has to be undone.
const SLACK: u32 = 3;

/// How the subrequests of the `scheduled` handler are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BudgetSplit {
    /// For the janitor.
    pub tasks: SubrequestBudget,
    /// For the reconciler, and for webhooks that become due later in the same minute.
    pub rest: SubrequestBudget,
}

impl BudgetSplit {
    /// Reserves 40 % of `subrequests` for the janitor: until expired leases are reaped, nothing else can make progress.
    #[must_use]
    pub(crate) const fn of(subrequests: u32) -> Self {
        let tasks = subrequests * 2 / 5;
        Self { tasks: SubrequestBudget(tasks), rest: SubrequestBudget(subrequests - tasks) }
    }
}

/// The reconciler's budget in the `queue` handler: list the machines and start those that are wanted, one a second,
/// at two round trips each. The next message or the next scheduled run does the rest.
pub(crate) fn event_budget(left: SubrequestBudget) -> InvocationBudget {
    InvocationBudget {
        requests: 8,
        trips: left.0.saturating_sub(SLACK).min(16),
        time: Duration::from_secs(20),
    }
}

/// The reconciler's budget in one round of the `scheduled` handler.
pub(crate) fn cron_budget(left: SubrequestBudget, time: Duration) -> InvocationBudget {
    InvocationBudget { requests: CRON_REQUESTS, trips: left.0.saturating_sub(SLACK), time }
}

/// Whether the run number `turn` is one of those, every tenth, that also remove dead workers and old records.
pub(crate) const fn is_full_sweep(turn: u64) -> bool {
    turn.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_split_adds_up_to_the_subrequests() {
        for all in [0, 1, 20, 50, 1000] {
            let split = BudgetSplit::of(all);
            assert_eq!(split.tasks.0 + split.rest.0, all);
        }
        assert!(cron_budget(SubrequestBudget(2), Duration::ZERO).trips == 0);
        let free = BudgetSplit::of(50);
        assert!(cron_budget(free.rest, Duration::ZERO).trips >= 20, "a machine needs four round trips");
    }

    #[test]
    fn is_full_sweep_is_true_every_ten_minutes() {
        assert_eq!((0..60).filter(|turn| is_full_sweep(*turn)).count(), 6);
    }

    #[test]
    fn event_budget_leaves_subrequests_for_jobs_to_be_created() {
        let all = SubrequestBudget(50);
        let first = event_budget(all).trips + SLACK;
        assert!(first + 10 < all.0 && first > 4);
        let rest = SubrequestBudget(all.0 - first - 10);
        assert!(event_budget(rest).trips + SLACK <= rest.0);
        assert_eq!(event_budget(SubrequestBudget(2)).trips, 0);
    }
}
