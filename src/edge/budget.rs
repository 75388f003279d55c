//! How much an invocation may do. Pure.

use std::time::Duration;

use crate::controller::reconciler::InvocationBudget;
use crate::janitor::Allowance;

/// Requests to Fly in a round of the clock.
const CRON_REQUESTS: u32 = 8;
/// A visit to the fleet may take so many round trips more than it plans for: Fly's limit says no, a step has
/// to be taken back.
const SLACK: u32 = 3;

/// How the clock's round trips are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSplit {
    /// For the errands.
    pub tasks: Allowance,
    /// For the rest of the minute.
    pub rest: Allowance,
}

impl BudgetSplit {
    /// Of so many in all: two fifths for the errands, since everything else is asked for in vain while
    /// leases have run out.
    #[must_use]
    pub const fn of(subrequests: u32) -> Self {
        let tasks = subrequests * 2 / 5;
        Self { tasks: Allowance(tasks), rest: Allowance(subrequests - tasks) }
    }
}

/// What a batch of R2's messages lets the fleet do, where so much is left of the invocation: look at the
/// machines, and start those that are wanted, one a second. Where one is, that is two round trips to each.
/// Whatever more is needed the next message does, or the clock.
pub fn event_budget(left: Allowance) -> InvocationBudget {
    InvocationBudget {
        requests: 8,
        trips: left.0.saturating_sub(SLACK).min(16),
        time: Duration::from_secs(20),
    }
}

/// What the fleet may do in a round of the clock, where so much is left of the invocation.
pub fn cron_budget(left: Allowance, time: Duration) -> InvocationBudget {
    InvocationBudget { requests: CRON_REQUESTS, trips: left.0.saturating_sub(SLACK), time }
}

/// Whether the errands that are seldom due are.
pub const fn is_full_sweep(turn: u64) -> bool {
    turn.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_no_more_than_there_is() {
        for all in [0, 1, 20, 50, 1000] {
            let shares = BudgetSplit::of(all);
            assert_eq!(shares.tasks.0 + shares.rest.0, all);
        }
        assert!(cron_budget(Allowance(2), Duration::ZERO).trips == 0);
        let free = BudgetSplit::of(50);
        assert!(cron_budget(free.rest, Duration::ZERO).trips >= 20, "a machine needs four round trips");
    }

    #[test]
    fn what_is_seldom_due_is_so_every_ten_minutes() {
        assert_eq!((0..60).filter(|turn| is_full_sweep(*turn)).count(), 6);
    }

    #[test]
    fn a_message_leaves_room_for_jobs_that_have_to_be_made() {
        let all = Allowance(50);
        let first = event_budget(all).trips + SLACK;
        assert!(first + 10 < all.0 && first > 4);
        let rest = Allowance(all.0 - first - 10);
        assert!(event_budget(rest).trips + SLACK <= rest.0);
        assert_eq!(event_budget(Allowance(2)).trips, 0);
    }
}
