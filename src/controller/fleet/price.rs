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
