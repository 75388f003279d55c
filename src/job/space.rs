//! Computes how much disk space a job needs, and how large an input fits on a disk. This is the only place
//! for both. Pure.
//!
//! The files of a job are its input and its outputs, which exist at the same time until the outputs are
//! uploaded. Before the input is downloaded only its size is known, and the size of the outputs is estimated
//! from it; after probing, it is estimated from the duration and the bitrates of the renditions ([`needed`]
//! accepts either).

use super::failure::{Failure, FailureCode};
use super::preset::Preset;
use super::quality::Ladder;

/// Space for stills, playlists and the overhead of the file system, bytes.
const MARGIN: u64 = 32 << 20;
/// The outputs of an encode may exceed their estimate by one part in this many: a tenth, for container
/// overhead and the error of the estimate.
const MORE: u64 = 10;
/// Assumed bitrate in kbit/s of a source of which only the size is known: that of a camera's 1080p. A source
/// with a lower bitrate is longer, and so are its outputs, which is noticed after probing.
const USUAL_KBPS: u64 = 8000;
/// Maximum ratio of the size of a constant quality rendition to that of its source, for a source with a more
/// efficient codec (AV1, HEVC).
const WORST_GROWTH: f64 = 3.0;

/// Size in bytes of an input that fits on the smallest disk of a machine, so that no check is needed.
pub const ALWAYS_FITS: u64 = 300_000_000;

/// Checks the size of an input against the largest one in bytes that workers take.
///
/// # Errors
/// If it is larger.
pub fn check_input(size: u64, limit: u64) -> Result<(), Failure> {
    if size <= limit {
        return Ok(());
    }
    let message = format!(
        "the video has {size} bytes, and the workers take {limit} at most; send a smaller one, or have \
         WORKER_MAX_INPUT_BYTES raised"
    );
    Err(Failure::new(FailureCode::InputTooLarge, message))
}

/// Bytes of disk space for a job with this size of input and outputs.
#[must_use]
pub const fn needed(input: u64, outputs: u64) -> u64 {
    input.saturating_add(outputs).saturating_add(outputs / MORE).saturating_add(MARGIN)
}

/// Bytes of disk space for a job with an input of `input` bytes, whatever its outputs are: they are assumed
/// to be as large as the input.
#[must_use]
pub const fn disk_for(input: u64) -> u64 {
    needed(input, input)
}

/// The largest input that fits on `disk` bytes, whatever its outputs are: the inverse of [`disk_for`].
#[must_use]
pub const fn largest_input(disk: u64) -> u64 {
    let room = disk.saturating_sub(MARGIN);
    // Ten bytes of input need 21 of disk, and each remaining byte needs two.
    let (tens, rest) = (room / (2 * MORE + 1), room % (2 * MORE + 1));
    let ones = if rest / 2 < MORE { rest / 2 } else { MORE - 1 };
    tens * MORE + ones
}

/// The size of a job's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// The input's streams are copied.
    Copy,
    /// Renditions with this total bitrate, kbit/s.
    Encode {
        /// The sum over all renditions.
        kbps: u64,
    },
}

impl Outputs {
    /// The outputs of a job with this preset and ladder.
    #[must_use]
    pub fn of(preset: Preset, ladder: &Ladder) -> Self {
        let rungs = preset.rungs(ladder);
        if rungs.is_empty() {
            return Self::Copy;
        }
        let kbps = rungs.iter().map(|rung| u64::from(rung.video_kbps() + rung.audio_kbps())).sum();
        Self::Encode { kbps }
    }

    /// Size in bytes, if only the size of the input is known; at most that of the input.
    #[must_use]
    pub const fn bytes(self, input: u64) -> u64 {
        match self {
            Self::Copy => input,
            Self::Encode { kbps } if kbps >= USUAL_KBPS => input,
            Self::Encode { kbps } => {
                // Divide first, so that an input of many terabytes does not overflow.
                let (whole, rest) = (input / USUAL_KBPS, input % USUAL_KBPS);
                whole * kbps + rest * kbps / USUAL_KBPS
            }
        }
    }
}

/// Maximum bitrate of a constant quality rendition, kbit/s, with the maximum bitrate `cap` for a source with
/// the bitrate `source`.
#[must_use]
pub fn constant_quality_kbps(cap: f64, source: f64) -> f64 {
    cap.min(source * WORST_GROWTH)
}

/// The disk of a worker at the start of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free bytes.
    pub free: u64,
    /// The outputs of the job.
    pub outputs: Outputs,
}

/// The job does not fit on the worker's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job needs {needed} bytes of disk, which are not free")]
pub struct DiskFull {
    /// Bytes that the job needs.
    pub needed: u64,
    /// Free bytes at the start, if the file system reports them.
    pub free: Option<u64>,
}

impl Space {
    /// Checks whether an input of `input` bytes and its outputs fit.
    ///
    /// # Errors
    /// How much space is needed and how much there is.
    pub const fn check(self, input: u64) -> Result<(), DiskFull> {
        let full = self.full(input);
        if full.needed <= self.free { Ok(()) } else { Err(full) }
    }

    /// The error if the disk was nevertheless full after `input` bytes.
    #[must_use]
    pub const fn full(self, input: u64) -> DiskFull {
        DiskFull { needed: needed(input, self.outputs.bytes(input)), free: Some(self.free) }
    }
}

/// What an operator can do about a disk that is too small.
pub const REMEDY: &str = "on Fly raise FLY_WORKER_DISK_GB; elsewhere put WORKER_SCRATCH_DIR on a larger disk, or \
                      raise WORKER_DISK_BYTES if it is set";

impl From<DiskFull> for Failure {
    fn from(full: DiskFull) -> Self {
        let DiskFull { needed, free } = full;
        let message = match free {
            Some(free) if needed > free => {
                format!("the job needs {needed} bytes of disk for its files, and {free} are free; {REMEDY}")
            }
            Some(free) => format!(
                "the worker's disk is full: the job was reckoned to need {needed} bytes, and {free} were free when \
                 it began; is something else filling the disk? If not, {REMEDY}"
            ),
            None => format!(
                "the worker's disk is full; the job was reckoned to need {needed} bytes, and the file system does \
                 not tell how many are free; {REMEDY}"
            ),
        };
        Self::new(FailureCode::DiskFull, message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GB: u64 = 1_000_000_000;

    proptest! {
        #[test]
        fn a_disk_takes_its_largest_input_and_not_one_byte_more(disk in MARGIN..200 * GB) {
            let input = largest_input(disk);
            prop_assert!(disk_for(input) <= disk, "{input} bytes take {}", disk_for(input));
            prop_assert!(disk_for(input + 1) > disk, "{} bytes would fit, too", input + 1);
        }

        #[test]
        fn an_input_fits_on_the_disk_that_is_made_for_it(input in 0..u64::MAX / 4) {
            prop_assert_eq!(largest_input(disk_for(input)), input);
        }

        #[test]
        fn outputs_are_reckoned_no_larger_than_the_input(input in any::<u64>(), kbps in 0..100_000_u64) {
            for outputs in [Outputs::Copy, Outputs::Encode { kbps }] {
                prop_assert!(outputs.bytes(input) <= input);
            }
        }
    }

    #[test]
    fn no_disk_takes_no_input() {
        assert_eq!(largest_input(0), 0);
        assert_eq!(largest_input(MARGIN), 0);
        assert_eq!(needed(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_ladder_takes_as_much_as_its_bitrates_say() {
        let outputs = |preset, ladder: &str| Outputs::of(preset, &ladder.parse().unwrap());
        assert_eq!(outputs(Preset::Default, ""), Outputs::Copy);
        // 1500 + 128, 400 + 96, 100 + 64.
        assert_eq!(outputs(Preset::WebOptimized, "720p,360p,144p"), Outputs::Encode { kbps: 2288 });
        assert_eq!(outputs(Preset::WebOptimized, "720p,360p,144p").bytes(8 * GB), 2_288_000_000);
        assert_eq!(outputs(Preset::Default, "2160p").bytes(8 * GB), 8 * GB);
    }

    #[test]
    fn the_sentence_says_how_much_is_missing_and_what_to_change() {
        let space = Space { free: 3 * GB, outputs: Outputs::Copy };
        assert_eq!(space.check(GB), Ok(()));
        let full = space.check(2 * GB).unwrap_err();
        let failure = Failure::from(full);
        assert_eq!(failure.code, FailureCode::DiskFull);
        for words in ["4233554432 bytes", "3000000000 are free", "FLY_WORKER_DISK_GB", "WORKER_SCRATCH_DIR"] {
            assert!(failure.message.contains(words), "{failure}");
        }
        assert!(failure.message.len() < 500, "{failure}");
        // It should have fit.
        let failure = Failure::from(space.full(GB));
        assert!(failure.message.contains("something else"), "{failure}");
        assert!(failure.message.len() < 500, "{failure}");
        let failure = Failure::from(DiskFull { needed: 7000, free: None });
        assert!(failure.message.contains("7000 bytes, and the file system does not tell"), "{failure}");
        assert!(failure.message.len() < 500, "{failure}");
    }

    #[test]
    fn an_efficient_source_may_grow_but_never_beyond_the_cap() {
        assert_eq!(constant_quality_kbps(3000.0, 400.0), 1200.0);
        assert_eq!(constant_quality_kbps(3000.0, 8000.0), 3000.0);
    }
}
