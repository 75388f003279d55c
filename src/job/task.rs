//! The parts of a job whose video is encoded on several workers.
//!
//! A job that one worker does alone is one task. A job that is split is first planned by one worker, then its parts are
//! encoded, each with a lease, an epoch and attempts of its own, and at last one worker finishes it: it writes the
//! playlists or files and commits the manifest. The tasks that plan and finish a job have the lease of the job itself.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::id::{AttemptId, Epoch, InvalidAttemptId, JobId};

/// A part of a split job. Its text form is `audio` or `chunk-<number>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The sound of the whole video.
    Audio,
    /// All renditions of one stretch of the video; numbers start at 0.
    Chunk(u32),
}

/// The text names no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part of a job is `audio` or `chunk-<number>`")]
pub struct InvalidPart;

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Audio => f.write_str("audio"),
            Self::Chunk(number) => write!(f, "chunk-{number}"),
        }
    }
}

impl FromStr for Part {
    type Err = InvalidPart;
    fn from_str(text: &str) -> Result<Self, InvalidPart> {
        if text == "audio" {
            return Ok(Self::Audio);
        }
        let number = text.strip_prefix("chunk-").and_then(|number| number.parse().ok()).map(Self::Chunk);
        // One spelling, so that two leases never mean the same part.
        number.filter(|part| part.to_string() == text).ok_or(InvalidPart)
    }
}

/// What a worker holds: an attempt at a job, or at a part of one.
///
/// Its text form is `<job>:<epoch>` or `<job>/<part>:<epoch>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// The job.
    pub job: JobId,
    /// The part of a split job; `None` for the job itself.
    pub part: Option<Part>,
    /// The fencing number of the attempt.
    pub epoch: Epoch,
}

impl From<AttemptId> for LeaseId {
    fn from(AttemptId { job, epoch }: AttemptId) -> Self {
        Self { job, part: None, epoch }
    }
}

impl LeaseId {
    /// The name of the task: `<job>` or `<job>/<part>`.
    #[must_use]
    pub fn task(&self) -> String {
        match self.part {
            Some(part) => format!("{}/{part}", self.job),
            None => self.job.to_string(),
        }
    }

    /// The job and the part that a task's name stands for.
    ///
    /// # Errors
    /// If the text is not the name of a task.
    pub fn parse_task(text: &str) -> Result<(JobId, Option<Part>), InvalidAttemptId> {
        match text.split_once('/') {
            Some((job, part)) => Ok((job.parse()?, Some(part.parse().map_err(|_| InvalidAttemptId::Form)?))),
            None => Ok((text.parse()?, None)),
        }
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.task(), self.epoch)
    }
}

impl FromStr for LeaseId {
    type Err = InvalidAttemptId;
    fn from_str(text: &str) -> Result<Self, InvalidAttemptId> {
        let (task, epoch) = text.split_once(':').ok_or(InvalidAttemptId::Form)?;
        let (job, part) = Self::parse_task(task)?;
        Ok(Self { job, part, epoch: epoch.parse()? })
    }
}

/// How many chunks of a video are encoded at once, each of which uses about one core. In JSON it is `"auto"` or a number
/// from 1 to 256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ParallelismJson", into = "ParallelismJson")]
pub enum Parallelism {
    /// As many as there is room for; short videos are not split.
    #[default]
    Auto,
    /// At most this many, and one more that a viewer waits for. One means that the video is not split.
    Chunks(u16),
}

impl Parallelism {
    /// The maximum.
    pub const MAX: u16 = 256;

    /// Whether this is [`Parallelism::Auto`].
    #[must_use]
    pub const fn is_auto(&self) -> bool {
        matches!(self, Self::Auto)
    }
}

/// The value is not a parallelism.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parallelism is {0}; it must be `auto` or a number from 1 to 256")]
pub struct InvalidParallelism(String);

impl fmt::Display for Parallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Chunks(number) => number.fmt(f),
        }
    }
}

impl FromStr for Parallelism {
    type Err = InvalidParallelism;
    fn from_str(text: &str) -> Result<Self, InvalidParallelism> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.parse().ok().filter(|number| (1..=Self::MAX).contains(number));
        number.map(Self::Chunks).ok_or_else(|| InvalidParallelism(text.to_owned()))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ParallelismJson {
    Number(u64),
    Text(String),
}

impl TryFrom<ParallelismJson> for Parallelism {
    type Error = InvalidParallelism;
    fn try_from(json: ParallelismJson) -> Result<Self, InvalidParallelism> {
        match json {
            ParallelismJson::Number(number) => number.to_string().parse(),
            ParallelismJson::Text(text) if text == "auto" => Ok(Self::Auto),
            ParallelismJson::Text(text) => Err(InvalidParallelism(format!("{text:?}"))),
        }
    }
}

impl From<Parallelism> for ParallelismJson {
    fn from(parallelism: Parallelism) -> Self {
        match parallelism {
            Parallelism::Auto => Self::Text("auto".into()),
            Parallelism::Chunks(number) => Self::Number(number.into()),
        }
    }
}

impl JsonSchema for Parallelism {
    fn schema_name() -> Cow<'static, str> {
        "Parallelism".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let automatic = generator.subschema_for::<Automatic>();
        json_schema!({
            "description": "How many chunks of a long video are encoded at once: `auto` (as many as there is room \
                            for), or at most a number from 1 (not split) to 256.",
            "oneOf": [
                automatic,
                {"type": "integer", "format": "int32", "minimum": 1, "maximum": 256},
            ],
        })
    }
}

/// The word `auto`, which generators of clients want as a type with a name.
struct Automatic;

impl JsonSchema for Automatic {
    fn schema_name() -> Cow<'static, str> {
        "Automatic".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "By the length of the video.", "type": "string", "enum": ["auto"]})
    }
}

/// Length of a segment of HLS and DASH, seconds. Chunks are made of whole segments.
pub const SEGMENT_SECONDS: u32 = 4;

/// A segment of a video that is encoded in parts; numbers start at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamSegment {
    /// The one with this number in each rendition.
    Video(u32),
    /// The one with this number of the sound.
    Audio(u32),
}

/// A stretch of a video that players can play already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyRange {
    /// Its start in the video, seconds.
    pub start: u32,
    /// Its end, seconds; the last one may be behind the end of the video.
    pub end: u32,
}

impl ReadyRange {
    /// The stretches that these chunks make up, of a video whose chunks have these numbers of segments.
    #[must_use]
    pub fn of(segments: &[u32], done: impl Fn(u32) -> bool) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        let mut start = 0_u32;
        for (chunk, count) in (0..).zip(segments) {
            let end = start.saturating_add(count.saturating_mul(SEGMENT_SECONDS));
            match ranges.last_mut() {
                _ if !done(chunk) => {}
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(Self { start, end }),
            }
            start = end;
        }
        ranges
    }
}

/// How many parts the video of a job was encoded in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SplitInfo")]
pub struct SplitInfo {
    /// The number of chunks, each encoded by one worker; 1 if the video was encoded as a whole.
    pub chunks: u32,
    /// Why it was encoded as a whole, as a sentence; absent if it was split, or was not to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_because: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn lease_id_is_the_text_of_its_parts_and_back() {
        let job: JobId = JOB.parse().unwrap();
        for (part, text) in [
            (None, format!("{JOB}:7")),
            (Some(Part::Audio), format!("{JOB}/audio:7")),
            (Some(Part::Chunk(0)), format!("{JOB}/chunk-0:7")),
            (Some(Part::Chunk(4_294_967_295)), format!("{JOB}/chunk-4294967295:7")),
        ] {
            let lease = LeaseId { job, part, epoch: Epoch(7) };
            assert_eq!(lease.to_string(), text);
            assert_eq!(text.parse(), Ok(lease));
        }
        for part in [
            "",
            "chunk-",
            "chunk-01",
            "chunk-+1",
            "chunk--1",
            "chunk-x",
            "Audio",
            "audio/",
            "chunk-4294967296",
        ] {
            assert_eq!(part.parse::<Part>(), Err(InvalidPart), "{part}");
            assert!(format!("{JOB}/{part}:7").parse::<LeaseId>().is_err(), "{part}");
        }
    }

    #[test]
    fn ready_ranges_join_neighbours() {
        let of = |done: &[u32]| {
            let ranges = ReadyRange::of(&[1, 2, 4, 4], |chunk| done.contains(&chunk));
            ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[0]), [(0, 4)]);
        assert_eq!(of(&[3, 0, 1]), [(0, 12), (28, 44)]);
        assert_eq!(of(&[0, 1, 2, 3, 9]), [(0, 44)]);
    }

    #[test]
    fn parallelism_is_auto_or_a_number_in_text_and_json() {
        for (json, value) in [
            ("\"auto\"", Parallelism::Auto),
            ("1", Parallelism::Chunks(1)),
            ("256", Parallelism::Chunks(256)),
        ] {
            assert_eq!(serde_json::from_str::<Parallelism>(json).unwrap(), value);
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(value.to_string().parse(), Ok(value));
        }
        for json in ["0", "257", "-1", "\"8\"", "\"many\"", "1.5", "null"] {
            assert!(serde_json::from_str::<Parallelism>(json).is_err(), "{json}");
        }
        assert!("0".parse::<Parallelism>().unwrap_err().to_string().contains("from 1 to 256"));
    }
}
