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

/// The text is no epoch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an epoch is a whole number without a sign or leading zeros")]
pub struct InvalidEpoch;

impl FromStr for Epoch {
    type Err = InvalidEpoch;
    fn from_str(text: &str) -> Result<Self, InvalidEpoch> {
        // One spelling, so that two keys of objects or leases never mean the same attempt.
        match text.parse() {
            Ok(number) if u64::to_string(&number) == text => Ok(Self(number)),
            _ => Err(InvalidEpoch),
        }
    }
}

/// An attempt at a job. What belongs to one attempt alone is stored under its name: the lease, the outputs and the
/// webhook delivery. So a late attempt cannot change anything of a newer one.
///
/// Its text form is `<job>:<epoch>`; keys of objects have a slash between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The job.
    pub job: JobId,
    /// The fencing number of the attempt; 0 if the job had no attempt yet.
    pub epoch: Epoch,
}

/// The text names no attempt.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidAttemptId {
    /// There is no colon between job and epoch.
    #[error("an attempt is named <job>:<epoch>")]
    Form,
    /// The part before the colon is no job id.
    #[error(transparent)]
    Job(#[from] InvalidJobId),
    /// The part after the colon is no epoch.
    #[error(transparent)]
    Epoch(#[from] InvalidEpoch),
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.job, self.epoch)
    }
}

impl FromStr for AttemptId {
    type Err = InvalidAttemptId;
    fn from_str(text: &str) -> Result<Self, InvalidAttemptId> {
        let (job, epoch) = text.split_once(':').ok_or(InvalidAttemptId::Form)?;
        Ok(Self { job: job.parse()?, epoch: epoch.parse()? })
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
    use proptest::prelude::*;

    use super::*;

    const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

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
        let upper = JOB.to_uppercase().parse::<JobId>().unwrap();
        assert_eq!(upper.to_string(), JOB);
    }

    #[test]
    fn attempt_id_is_the_job_and_the_epoch_with_a_colon_between() {
        let attempt = AttemptId { job: JOB.parse().unwrap(), epoch: Epoch(1_795_834_812_345) };
        assert_eq!(attempt.to_string(), format!("{JOB}:1795834812345"));
        assert_eq!(format!("{JOB}:0").parse(), Ok(AttemptId { epoch: Epoch(0), ..attempt }));
    }

    #[test]
    fn attempt_id_of_any_other_form_is_refused_by_the_part_that_is_wrong() {
        for (text, wrong) in [
            ("", InvalidAttemptId::Form),
            (JOB, InvalidAttemptId::Form),
            (":7", InvalidAttemptId::Job(InvalidJobId)),
            ("x:7", InvalidAttemptId::Job(InvalidJobId)),
            (&format!(" {JOB}:7"), InvalidAttemptId::Job(InvalidJobId)),
            (&format!("{JOB}:"), InvalidAttemptId::Epoch(InvalidEpoch)),
            (&format!("{JOB}:x"), InvalidAttemptId::Epoch(InvalidEpoch)),
            (&format!("{JOB}:+7"), InvalidAttemptId::Epoch(InvalidEpoch)),
            (&format!("{JOB}:-7"), InvalidAttemptId::Epoch(InvalidEpoch)),
            (&format!("{JOB}:07"), InvalidAttemptId::Epoch(InvalidEpoch)),
            (&format!("{JOB}:7:failed"), InvalidAttemptId::Epoch(InvalidEpoch)),
            (&format!("{JOB}:18446744073709551616"), InvalidAttemptId::Epoch(InvalidEpoch)),
        ] {
            assert_eq!(text.parse::<AttemptId>(), Err(wrong), "{text}");
        }
    }

    proptest! {
        #[test]
        fn attempt_id_survives_its_text(uuid in 1..u128::MAX, epoch in any::<u64>()) {
            let attempt = AttemptId { job: JobId::from_uuid(Uuid::from_u128(uuid)), epoch: Epoch(epoch) };
            prop_assert_eq!(attempt.to_string().parse(), Ok(attempt));
        }

        #[test]
        fn attempt_id_of_any_text_is_refused_or_is_that_text(text in "[0-9a-f:+-]{0,60}|\\PC{0,60}") {
            if let Ok(attempt) = text.parse::<AttemptId>() {
                prop_assert_eq!(attempt.to_string(), text);
            }
        }
    }
}
