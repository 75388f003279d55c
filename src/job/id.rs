//! Ids of jobs, attempts and workers.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a job: a UUID in its hyphenated lower-case form. New ones are version 7 (RFC 9562), so they sort
/// by time of creation; any other version is accepted as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Uuid);

/// The text is not a job id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a job id is a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057; leave it out to get a new one")]
pub struct InvalidJobId;

impl JobId {
    /// A new id, from the clock and random bits.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id with this UUID.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl Default for JobId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;
    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        if text.len() != 36 {
            return Err(InvalidJobId);
        }
        match Uuid::try_parse(text) {
            Ok(uuid) if !uuid.is_nil() => Ok(Self(uuid)),
            _ => Err(InvalidJobId),
        }
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;
    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

impl JsonSchema for JobId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JobId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "uuid"})
    }
}

/// The epoch of an attempt, a fencing token: it increases with each claim of a job and is never used twice
/// for one id.
///
/// It is Redis's time at the claim in milliseconds, or one more than the previous epoch if that is higher. A
/// counter from 1 would repeat numbers: if an id is used again after its job's record expired, and if a
/// failover of Redis loses a claim. Two attempts would then share a lease and a folder of outputs. 0 means
/// that no attempt has started.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a worker process, unique for its lifetime: `<machine>-<random>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct WorkerId(pub String);

impl WorkerId {
    /// A new id for a process on `machine`.
    #[must_use]
    pub fn on(machine: &str) -> Self {
        let tail = Uuid::new_v4().simple().to_string();
        Self(format!("{machine}-{}", &tail[..8]))
    }

    /// The machine that the worker runs on.
    #[must_use]
    pub fn machine(&self) -> &str {
        self.0.rsplit_once('-').map_or(&self.0, |(machine, _)| machine)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_sort_by_time_and_survive_text() {
        let ids: Vec<JobId> = (0..100).map(|_| JobId::new()).collect();
        assert!(ids.is_sorted());
        for id in ids {
            assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        }
    }

    #[test]
    fn refuses_what_is_no_hyphenated_uuid() {
        for text in [
            "",
            "x",
            "00000000-0000-0000-0000-000000000000",
            "01890a5dac96774bbcceb302099a8057",
            "{01890a5d-ac96-774b-bcce-b302099a8057}",
            "../../../../../../../../../../../etc/pa",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(InvalidJobId), "{text}");
        }
        let upper = "01890A5D-AC96-774B-BCCE-B302099A8057".parse::<JobId>().unwrap();
        assert_eq!(upper.to_string(), "01890a5d-ac96-774b-bcce-b302099a8057");
    }
}
