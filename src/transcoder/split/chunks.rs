//! Cuts a video into chunks of whole segments (pure).
//!
//! The first chunk is one segment, so that a viewer can start; the next ones grow up to a maximum. A short chunk costs
//! more: measured with libx264, chunks of 4 s take 8 to 10 percent more CPU time than the whole, and of 8 s 5 percent.
//! Towards the end they become shorter again, so that workers that started one after the other end together. In the
//! simulation of an hour on machines of eight cores, of which one starts each second, chunks of 24 s take 72 s, and
//! chunks from 24 down to 12 s take 58 s and cost 3 percent more.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::job::{Parallelism, SEGMENT_SECONDS};

/// Maximum length of a chunk in segments, if the number of chunks at once is not given: 24 s, which take a core less than a
/// minute for the default ladder.
const AUTO_LONGEST: u32 = 6;
/// Maximum length of a chunk in segments, if it is: 64 s. A chunk that is lost is encoded again.
const LONGEST: u32 = 16;
/// Number of chunks of the maximum length for each that is encoded at once, so that nobody waits long for the last one.
const CHUNKS_PER_SLOT: u32 = 3;
/// Number of chunks that a short video has at least, if the number of chunks at once is not given.
const AUTO_CHUNKS: u32 = 8;
/// Maximum number of chunks; longer videos have longer chunks.
const MAX_CHUNKS: u32 = 900;

/// Maximum duration of a video that is split, seconds: 30 days. Workers take a day by default.
pub(super) const LONGEST_VIDEO: f64 = 30.0 * 86_400.0;

/// Frames whose times differ by less than this are the same frame, seconds.
pub(super) const TOLERANCE: f64 = 0.0005;

/// Length of a segment in seconds.
pub(super) const SEGMENT: f64 = SEGMENT_SECONDS as f64;

/// The chunks of a video. Chunks and segments are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ChunkPlanJson")]
pub struct ChunkPlan {
    /// Duration of the video in seconds.
    seconds: f64,
    /// Number of segments.
    segments: u32,
    /// Maximum length of a chunk in segments at the beginning; only the last chunk may have half as much again.
    longest: u32,
    /// The same at the end.
    shortest: u32,
}

/// A plan as it is stored.
#[derive(Deserialize)]
struct ChunkPlanJson {
    seconds: f64,
    segments: u32,
    longest: u32,
    shortest: u32,
}

/// The numbers contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its chunks do not make up a video")]
struct InvalidChunks;

impl TryFrom<ChunkPlanJson> for ChunkPlan {
    type Error = InvalidChunks;

    fn try_from(json: ChunkPlanJson) -> Result<Self, InvalidChunks> {
        let ChunkPlanJson { seconds, segments, longest, shortest } = json;
        let most = (seconds / SEGMENT).ceil() + 1.0;
        let fits = (0.0..=LONGEST_VIDEO).contains(&seconds) && (1.0..=most).contains(&f64::from(segments));
        let is_few = longest >= segments.div_ceil(MAX_CHUNKS * 2 / 3) && longest <= segments.max(LONGEST);
        let is_plan = fits && is_few && (longest.div_ceil(2)..=longest).contains(&shortest);
        is_plan.then_some(Self { seconds, segments, longest, shortest }).ok_or(InvalidChunks)
    }
}

impl ChunkPlan {
    /// Plans the chunks of a video of this duration in seconds and frame rate, 0 if unknown.
    #[must_use]
    pub fn new(seconds: f64, frame_rate: f64, parallelism: Parallelism) -> Self {
        // The last segment begins with a frame, which lasts until the end.
        let frame = if frame_rate > 0.0 { 1.0 / frame_rate } else { 0.0 };
        let last = ((seconds - frame + TOLERANCE) / SEGMENT).floor().max(0.0);
        let segments = (last as u32).saturating_add(1);
        let longest = match parallelism {
            Parallelism::Auto => (segments / AUTO_CHUNKS).clamp(2, AUTO_LONGEST),
            Parallelism::Chunks(at_once) => {
                let at_once = u32::from(at_once.max(1));
                let least = if segments >= 2 * at_once { 2 } else { 1 };
                (segments / (CHUNKS_PER_SLOT * at_once)).clamp(least, LONGEST)
            }
        };
        // As they become half as long towards the end, there are 1.4 times as many as if all had the maximum length.
        let longest = longest.max(segments.div_ceil(MAX_CHUNKS * 2 / 3));
        Self { seconds, segments, longest, shortest: longest.div_ceil(2).max(2).min(longest) }
    }

    /// Number of chunks.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.starts().len() as u32
    }

    /// Duration of the video in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Number of segments.
    #[must_use]
    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// The segments of a chunk; empty if there is no such chunk.
    #[must_use]
    pub fn segments_of(&self, chunk: u32) -> Range<u32> {
        let starts = self.starts();
        let at = |n: usize| starts.get(n).copied().unwrap_or(self.segments);
        at(chunk as usize)..at(chunk as usize + 1)
    }

    /// Duration of a segment in seconds, as planned.
    #[must_use]
    pub fn seconds_of(&self, segment: u32) -> f64 {
        let end = if segment + 1 == self.segments { self.seconds } else { f64::from(segment + 1) * SEGMENT };
        (end - f64::from(segment) * SEGMENT).max(0.0)
    }

    /// Maximum length of a chunk that begins with this segment.
    fn longest_at(&self, segment: u32) -> u32 {
        let less = f64::from(self.longest - self.shortest.min(self.longest));
        let place = f64::from(segment) / f64::from(self.segments.max(1));
        self.longest - (less * place).round() as u32
    }

    /// The first segment of each chunk.
    fn starts(&self) -> Vec<u32> {
        let (mut starts, mut next, mut length) = (vec![], 0, 1);
        while next < self.segments {
            starts.push(next);
            next += length.min(self.longest_at(next));
            length = length.saturating_mul(2);
        }
        // A chunk of a few frames costs a start of FFmpeg, and x264 may write other headers for it.
        if let [.., _, last] = starts[..] {
            let rest = self.seconds - f64::from(last) * SEGMENT;
            if rest < f64::from(self.shortest) * SEGMENT / 2.0 {
                starts.pop();
            }
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lengths(seconds: f64, parallelism: Parallelism) -> Vec<u32> {
        let plan = ChunkPlan::new(seconds, 25.0, parallelism);
        (0..plan.count()).map(|n| plan.segments_of(n).len() as u32).collect()
    }

    #[test]
    fn first_chunk_is_a_segment_and_the_others_grow_and_shrink() {
        assert_eq!(lengths(100.0, Parallelism::Auto), [1, 2, 3, 3, 3, 3, 2, 2, 2, 2, 2]);
        assert_eq!(lengths(20.0, Parallelism::Chunks(2)), [1, 2, 2]);
        assert_eq!(lengths(20.0, Parallelism::Chunks(8)), [1, 1, 1, 1, 1]);
        assert_eq!(lengths(9.0, Parallelism::Chunks(8)), [1, 2]);
    }

    #[test]
    fn hour_has_enough_chunks_for_many_workers_and_a_day_not_too_many() {
        let hour = lengths(3600.0, Parallelism::Auto);
        assert!((200..230).contains(&hour.len()), "{hour:?}");
        assert!(hour[3..].is_sorted_by(|a, b| a >= b) && hour[3] == 6 && hour.ends_with(&[3, 2]), "{hour:?}");
        let four = lengths(3600.0, Parallelism::Chunks(4));
        assert!((70..90).contains(&four.len()), "{four:?}");
        let day = lengths(86_400.0, Parallelism::Auto).len();
        assert!((700..=MAX_CHUNKS as usize).contains(&day), "{day}");
    }

    #[test]
    fn last_segment_has_a_frame() {
        let segments = |seconds| ChunkPlan::new(seconds, 25.0, Parallelism::Auto).segments();
        assert_eq!((segments(0.02), segments(4.0), segments(4.04), segments(8.0)), (1, 1, 2, 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chunks_hold_every_segment_once_and_in_order(
            seconds in 0.01..90_000.0f64, rate in 0.0..120.0f64, at_once in 0..=256u16,
        ) {
            let parallelism = if at_once == 0 { Parallelism::Auto } else { Parallelism::Chunks(at_once) };
            let plan = ChunkPlan::new(seconds, rate, parallelism);
            prop_assert!((1..=MAX_CHUNKS).contains(&plan.count()));
            let all: Vec<u32> = (0..plan.count()).flat_map(|n| plan.segments_of(n)).collect();
            prop_assert_eq!(&all, &(0..plan.segments()).collect::<Vec<_>>());
            for chunk in 0..plan.count() {
                prop_assert!(!plan.segments_of(chunk).is_empty());
            }
            prop_assert!(plan.segments_of(plan.count()).is_empty());
            let total: f64 = (0..plan.segments()).map(|n| plan.seconds_of(n)).sum();
            prop_assert!((total - seconds).abs() < 0.01 || seconds < 0.1);
            let json = serde_json::to_string(&plan).unwrap();
            prop_assert_eq!(serde_json::from_str::<ChunkPlan>(&json).unwrap().count(), plan.count());
        }
    }
}
