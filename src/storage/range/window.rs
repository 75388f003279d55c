//! Which part of an input to request next. Pure.

use std::ops::Range;

/// The unit of requests and of the cache, bytes. Every window starts and ends at a multiple, or at the end of the input.
pub(super) const BLOCK: u64 = 64 << 10;
/// The first window after a seek, bytes.
const FIRST: u64 = 64 << 10;
/// The window that sequential reading soon leads to, bytes.
const USUAL: u64 = 256 << 10;
/// The largest window, bytes.
const LARGEST: u64 = 4 << 20;
/// A larger window than the usual one is at most this fraction of what the connection has read, because the rest of it
/// is wasted when FFmpeg stops reading.
const SHARE: u64 = 16;
/// Number of bytes that a connection must have read before a window is requested ahead. The buffers between the server
/// and FFmpeg take fewer, so that FFmpeg does read on.
const AHEAD_FROM: u64 = 192 << 10;

/// Whether to request the window after `current`, for a connection that has `read` bytes in sequence up to `at`.
pub(super) const fn is_next_due(current: &Range<u64>, at: u64, read: u64) -> bool {
    let taken = at.saturating_sub(current.start);
    read >= AHEAD_FROM && taken.saturating_mul(2) >= current.end - current.start
}

/// The first byte of the block that contains `at`.
pub(super) const fn block_of(at: u64) -> u64 {
    at - at % BLOCK
}

/// The window that begins with the block of `at`, for a connection that has read `read` bytes in sequence and wants
/// those before `end`, which is not beyond the `size` of the input. It ends before the first block that `is_known`.
pub(super) fn window(at: u64, read: u64, end: u64, size: u64, is_known: impl Fn(u64) -> bool) -> Range<u64> {
    let start = block_of(at);
    let longest = block_of(read.clamp(FIRST, USUAL).max(read / SHARE).min(LARGEST));
    let limit = start.saturating_add(longest).min(end.next_multiple_of(BLOCK)).min(size);
    let mut stop = start.saturating_add(BLOCK).min(limit);
    while stop < limit && !is_known(stop) {
        stop = stop.saturating_add(BLOCK).min(limit);
    }
    start..stop
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn window_starts_small_and_grows_with_sequential_reading() {
        let length = |read| {
            let window = window(0, read, 1 << 40, 1 << 40, |_| false);
            window.end - window.start
        };
        assert_eq!(length(0), FIRST);
        assert_eq!(length(2 * FIRST), 2 * FIRST);
        assert_eq!(length(2 * MIB), USUAL);
        assert_eq!(length(16 * MIB), MIB);
        assert_eq!(length(1 << 39), LARGEST);
    }

    #[test]
    fn next_window_is_due_when_half_is_taken_but_not_after_a_seek() {
        let current = 0..MIB;
        assert!(!is_next_due(&current, MIB / 2 - 1, MIB));
        assert!(is_next_due(&current, MIB / 2, MIB));
        assert!(!is_next_due(&current, MIB, AHEAD_FROM - 1));
    }

    #[test]
    fn window_ends_at_known_blocks_at_the_wanted_end_and_at_the_end_of_the_input() {
        let known = |block| block == 2 * BLOCK;
        assert_eq!(window(5, MIB, MIB, MIB, known), 0..2 * BLOCK);
        assert_eq!(window(3 * BLOCK + 1, 0, 3 * BLOCK + 2, MIB, known), 3 * BLOCK..4 * BLOCK);
        assert_eq!(window(3 * BLOCK, 0, 3 * BLOCK + 9, 3 * BLOCK + 9, known), 3 * BLOCK..3 * BLOCK + 9);
    }

    proptest! {
        #[test]
        fn window_contains_its_position_and_whole_blocks_only(
            size in 1..20 * MIB, at in any::<prop::sample::Index>(), length in 1..20 * MIB, read in 0..99 * MIB,
        ) {
            let at = at.index(usize::try_from(size).unwrap()) as u64;
            let end = (at + length).min(size);
            let window = window(at, read, end, size, |block| block % (5 * BLOCK) == 0);
            prop_assert!(window.contains(&at));
            prop_assert_eq!(window.start % BLOCK, 0);
            prop_assert!(window.end % BLOCK == 0 || window.end == size);
            prop_assert!(window.end <= size && window.end < end + BLOCK);
            prop_assert!(window.end - window.start <= LARGEST);
        }
    }
}
