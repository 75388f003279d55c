//! The remaining round trips of an invocation.

/// The remaining subrequests (round trips) of an invocation; the platform counts and limits them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubrequestBudget(pub u32);

impl SubrequestBudget {
    /// The budget of a process, whose round trips are not limited.
    pub const UNLIMITED: Self = Self(u32::MAX);

    /// Takes `trips` from the budget if it has that many; returns whether it did.
    pub const fn take(&mut self, trips: u32) -> bool {
        let enough = self.0 >= trips;
        if enough {
            self.0 -= trips;
        }
        enough
    }

    /// Takes the round trips for as many items as fit, at most `most`, if each item needs `each`; returns the number of
    /// items.
    pub fn take_some(&mut self, each: u32, most: u32) -> u32 {
        let fit = (self.0 / each.max(1)).min(most);
        self.0 -= fit * each.max(1);
        fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subrequest_budget_take_never_exceeds_what_is_left() {
        let mut left = SubrequestBudget(10);
        assert!(left.take(3) && left == SubrequestBudget(7));
        assert!(!left.take(8) && left == SubrequestBudget(7));
        assert_eq!(left.take_some(3, 5), 2);
        assert_eq!(left, SubrequestBudget(1));
        assert_eq!(left.take_some(0, 9), 1);
        assert_eq!(left.take_some(1, 9), 0);
    }
}
