//! The names machines get. A fleet of at most MAX machines has the slots 1 to MAX, each with one name, and a
//! provider lets a name exist once: whatever else goes wrong, creates can never make more than MAX.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in the fleet, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u32);

impl Slot {
    /// Its machine's name: `<app>-worker-07`.
    #[must_use]
    pub fn name(self, app: &str) -> String {
        format!("{app}-worker-{:02}", self.0)
    }

    /// The slot a machine's name stands for; nothing for machines that are not ours.
    #[must_use]
    pub fn parse(app: &str, name: &str) -> Option<Self> {
        let digits = name.strip_prefix(app)?.strip_prefix("-worker-")?;
        let number = digits.parse().ok().filter(|n| *n > 0)?;
        // `+7` and `007` are numbers too, but not names of ours.
        (Self(number).name(app) == name).then_some(Self(number))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_name_round_trips_and_foreign_names_are_rejected() {
        for n in [1, 7, 10, 99, 100, 12_345] {
            assert_eq!(Slot::parse("clips", &Slot(n).name("clips")), Some(Slot(n)));
        }
        assert_eq!(Slot(7).name("clips"), "clips-worker-07");
        for other in ["", "clips", "clips-worker-7", "clips-worker-007", "clips-worker-00", "clips-worker-+7"]
        {
            assert_eq!(Slot::parse("clips", other), None, "{other}");
        }
        assert_eq!(Slot::parse("clips", "other-worker-07"), None);
    }
}
