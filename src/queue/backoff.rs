//! The pause before a retry.

use std::time::Duration;

/// The maximum pause before retry number `retry` (1 for the first): `base`, doubled each time, at most `cap`.
#[must_use]
pub fn ceiling(retry: u32, base: Duration, cap: Duration) -> Duration {
    let factor = 1_u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX);
    base.checked_mul(factor).map_or(cap, |d| d.min(cap))
}

/// A random pause between zero and the maximum ("full jitter"), so that calls which failed together are not retried
/// together.
#[must_use]
pub fn full_jitter(retry: u32, base: Duration, cap: Duration) -> Duration {
    let most = u64::try_from(ceiling(retry, base, cap).as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(draw(most))
}

/// A random number from 0 to `most`, uniformly distributed.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn draw(most: u64) -> u64 {
    use rand::RngExt as _;
    rand::rng().random_range(0..=most)
}

/// The Worker takes its random bits from a UUID. The remainder slightly favours small numbers, which does not matter
/// for a pause.
#[cfg(target_arch = "wasm32")]
pub(super) fn draw(most: u64) -> u64 {
    let (bits, _) = uuid::Uuid::new_v4().as_u64_pair();
    bits.checked_rem(most.saturating_add(1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(5);
    const CAP: Duration = Duration::from_secs(300);

    #[test]
    fn ceiling_doubles_up_to_the_cap_without_overflow() {
        let secs: Vec<u64> = (1..=9).map(|n| ceiling(n, BASE, CAP).as_secs()).collect();
        assert_eq!(secs, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(ceiling(u32::MAX, BASE, CAP), CAP);
        assert_eq!(ceiling(0, BASE, CAP), BASE);
    }

    #[test]
    fn full_jitter_covers_the_whole_range() {
        let draws: Vec<u128> = (0..2000).map(|_| full_jitter(2, BASE, CAP).as_millis()).collect();
        assert!(draws.iter().all(|ms| *ms <= 10_000));
        assert!(draws.iter().any(|ms| *ms < 1_000) && draws.iter().any(|ms| *ms > 9_000));
    }
}
