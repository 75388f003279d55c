//! The prices of running machines.

use super::guest::{CpuKind, Guest};
use crate::controller::fleet::MicroDollars;

/// Fly's list price per hour in its cheapest region (as of 2025): performance-1x with 2 GB costs $0.00001196
/// a second, shared-1x with 512 MB $0.00000123, and larger sizes are proportional. `None` for sizes with
/// other memory, which is priced separately.
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
    fn price_scales_with_the_size_and_is_absent_for_other_sizes() {
        let price = |size: &str| list_price_per_hour(size.parse().unwrap());
        assert_eq!(price("performance-1x"), Some(MicroDollars(43_056)));
        assert_eq!(price("performance-4x"), Some(MicroDollars(172_224)));
        assert_eq!(price("shared-cpu-1x"), Some(MicroDollars(4_428)));
        let odd = Guest::default().with_memory(8192).unwrap();
        assert_eq!(list_price_per_hour(odd), None);
    }
}
