//! The blocks of an input: those that were read last are kept, and a response is cut into them.

use std::num::NonZeroUsize;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use lru::LruCache;

use super::window::{BLOCK, block_of};

/// Number of blocks that are kept: 16 MiB.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The blocks that were used last, by the position of their first byte.
#[derive(Debug)]
pub(super) struct Blocks(LruCache<u64, Bytes>);

impl Blocks {
    /// Keeps the complete blocks of `head`, the first bytes of an input of `size` bytes.
    pub(super) fn starting_with(head: &Bytes, size: u64) -> Self {
        let mut blocks = Self(LruCache::new(KEPT));
        let mut assembly = Assembly::new(0..size);
        for (at, block) in assembly.push(head.clone()) {
            blocks.keep(at, block);
        }
        blocks
    }

    /// Keeps the block that starts at `at`.
    pub(super) fn keep(&mut self, at: u64, block: Bytes) {
        self.0.put(at, block);
    }

    /// The block that starts at `at`, which counts as used.
    pub(super) fn get(&mut self, at: u64) -> Option<Bytes> {
        self.0.get(&at).cloned()
    }

    /// Whether the block that starts at `at` is kept.
    pub(super) fn contains(&self, at: u64) -> bool {
        self.0.contains(&at)
    }
}

/// Cuts the bytes of a window into blocks.
#[derive(Debug)]
pub(super) struct Assembly {
    /// The position of the next byte.
    at: u64,
    end: u64,
    block: BytesMut,
}

impl Assembly {
    /// The window starts at a block, and ends at one or at the end of the input.
    pub(super) fn new(window: Range<u64>) -> Self {
        Self { at: window.start, end: window.end, block: BytesMut::new() }
    }

    /// What is still missing.
    pub(super) const fn rest(&self) -> Range<u64> {
        self.at..self.end
    }

    /// Adds the next bytes, and returns the blocks that are complete now with their positions. Bytes after the end of
    /// the window are ignored.
    pub(super) fn push(&mut self, mut chunk: Bytes) -> Vec<(u64, Bytes)> {
        let mut complete = Vec::new();
        while !chunk.is_empty() && self.at < self.end {
            let start = block_of(self.at);
            let stop = start.saturating_add(BLOCK).min(self.end);
            let missing = usize::try_from(stop - self.at).unwrap_or(usize::MAX);
            let piece = chunk.split_to(chunk.len().min(missing));
            // Copied, because a slice would keep the whole buffer of the connection alive.
            self.block.reserve(missing);
            self.block.extend_from_slice(&piece);
            self.at += piece.len() as u64;
            if self.at == stop {
                complete.push((start, self.block.split().freeze()));
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn assembly_returns_every_byte_once_however_it_arrives(
            length in 1..4 * BLOCK, cuts in prop::collection::vec(1..100_000_usize, 1..20),
        ) {
            let all: Bytes = (0..length).map(|n| (n / 7) as u8).collect();
            let mut assembly = Assembly::new(BLOCK..BLOCK + length);
            let (mut rest, mut got, mut cuts) = (all.clone(), Vec::new(), cuts.iter().cycle());
            while !rest.is_empty() {
                let chunk = rest.split_to(rest.len().min(*cuts.next().unwrap()));
                for (at, block) in assembly.push(chunk) {
                    prop_assert_eq!(at, BLOCK + got.len() as u64);
                    prop_assert!(block.len() as u64 <= BLOCK);
                    got.extend_from_slice(&block);
                }
            }
            prop_assert_eq!(Bytes::from(got), all);
            prop_assert!(assembly.rest().is_empty());
            prop_assert!(assembly.push(Bytes::from_static(b"more")).is_empty());
        }
    }

    #[test]
    fn blocks_keep_complete_blocks_of_the_head_and_the_end_of_a_small_input() {
        let head = Bytes::from(vec![1; 100_000]);
        let blocks = Blocks::starting_with(&head, 1 << 20);
        assert!(blocks.contains(0) && !blocks.contains(BLOCK));
        let mut whole = Blocks::starting_with(&head, 100_000);
        assert_eq!(whole.get(BLOCK).unwrap().len(), 100_000 - 65_536);
    }

    #[test]
    fn blocks_forget_the_one_that_was_not_used_for_longest() {
        let mut blocks = Blocks::starting_with(&Bytes::new(), 1);
        for n in 0..KEPT.get() as u64 {
            blocks.keep(n * BLOCK, Bytes::new());
        }
        assert!(blocks.get(0).is_some());
        blocks.keep(1 << 40, Bytes::new());
        assert!(blocks.contains(0) && !blocks.contains(BLOCK) && blocks.contains(2 * BLOCK));
    }
}
