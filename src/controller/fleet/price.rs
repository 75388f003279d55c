//! What a machine costs while it runs.

use std::fmt;

use crate::flyprovider::{CpuKind, Guest};

/// Millionths of a dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroDollars(pub u64);

impl MicroDollars {
    /// From dollars; nothing for what is negative, not finite or beyond a billion.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let fits = dollars.is_finite() && (0.0..=1e9).contains(&dollars);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        fits.then(|| Self((dollars * 1e6).round() as u64))
    }

    /// In dollars.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// As many of these as given.
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

/// Fly's list price of one hour in its cheapest region (captured in 2025): performance-1x with 2 GB at
/// $0.00001196 a second, shared-1x with 512 MB at $0.00000123, larger ones in proportion. Nothing for
/// sizes off that line, whose memory has a price of its own.
pub(super) fn list_price_per_hour(guest: Guest) -> Option<MicroDollars> {
    let micro_per_1000_hours = match guest.kind() {
        CpuKind::Performance => 43_056_000,
        CpuKind::Shared => 4_428_000,
    };
    guest.has_usual_memory().then(|| MicroDollars(micro_per_1000_hours * u64::from(guest.cpus()) / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_machines_cost_in_proportion_and_odd_ones_are_not_guessed() {
        let price = |size: &str| list_price_per_hour(size.parse().unwrap());
        assert_eq!(price("performance-1x"), Some(MicroDollars(43_056)));
        assert_eq!(price("performance-4x"), Some(MicroDollars(172_224)));
        assert_eq!(price("shared-cpu-1x"), Some(MicroDollars(4_428)));
        let odd = Guest::default().with_memory(8192).unwrap();
        assert_eq!(list_price_per_hour(odd), None);
    }

    #[test]
    fn dollars_are_read_and_shown() {
        assert_eq!(MicroDollars::from_dollars(0.5).unwrap().to_string(), "$0.5000");
        assert_eq!(MicroDollars::from_dollars(12.0456).unwrap().to_string(), "$12.0456");
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e10] {
            assert_eq!(MicroDollars::from_dollars(bad), None);
        }
    }
}
