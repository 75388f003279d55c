//! The price of running machines.

use std::fmt;

/// An amount of money in millionths of a dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroDollars(pub u64);

impl MicroDollars {
    /// Converts from dollars; `None` if negative, not finite, or above a billion.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let fits = dollars.is_finite() && (0.0..=1e9).contains(&dollars);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        fits.then(|| Self((dollars * 1e6).round() as u64))
    }

    /// Converts to dollars.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Adds another amount.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Multiplies the amount by `n`.
    #[must_use]
    pub const fn times(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }
}

impl fmt::Display for MicroDollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}.{:04}", self.0 / 1_000_000, self.0 % 1_000_000 / 100)
    }
}

/// The price of one running machine of the size for jobs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachinePrice {
    /// Dollars an hour.
    pub usd_per_hour: f64,
    /// The number of its CPUs, at least 1.
    pub cpus: u32,
}

impl MachinePrice {
    /// The price of this many seconds of a machine, dollars.
    #[must_use]
    pub fn of_machine(self, seconds: f64) -> f64 {
        seconds / 3600.0 * self.usd_per_hour
    }

    /// The price of this many seconds of a CPU, dollars. It is the same on machines of all sizes of a fleet, which are paid
    /// in proportion to their CPUs.
    #[must_use]
    pub fn of_cpu(self, seconds: f64) -> f64 {
        self.of_machine(seconds) / f64::from(self.cpus.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_dollars_displays_four_decimals_and_rejects_invalid_amounts() {
        assert_eq!(MicroDollars::from_dollars(0.5).unwrap().to_string(), "$0.5000");
        assert_eq!(MicroDollars::from_dollars(12.0456).unwrap().to_string(), "$12.0456");
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e10] {
            assert_eq!(MicroDollars::from_dollars(bad), None);
        }
    }
}
