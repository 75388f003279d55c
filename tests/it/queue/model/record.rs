//! What the model knows about a job, or a part of one.

use std::collections::{BTreeMap, BTreeSet};

use tcoder::job::{Epoch, FailureCode, JobId, LeaseId, Part, State};

/// The parts of a job's spec that the protocol uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub max: u32,
    pub boost: i64,
    pub hook: bool,
    /// Whether its input is an object that was there before the job, and may be replaced.
    pub from_storage: bool,
    /// The class of the workers that may run it; 0 is the default one.
    pub class: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Begin {
    Now,
    After(i64),
    OnUpload(i64),
}

/// A job, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    pub job: JobId,
    pub part: Option<Part>,
}

impl From<JobId> for Task {
    fn from(job: JobId) -> Self {
        Self { job, part: None }
    }
}

impl From<LeaseId> for Task {
    fn from(LeaseId { job, part, .. }: LeaseId) -> Self {
        Self { job, part }
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        LeaseId { job: self.job, part: self.part, epoch: Epoch(0) }.task().fmt(f)
    }
}

/// A job, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    pub terms: Terms,
    pub state: State,
    pub attempt: u32,
    pub epoch: Epoch,
    pub rank: i64,
    pub created: i64,
    pub uploaded: Option<i64>,
    /// Whether the version of its input is fixed.
    pub pinned: bool,
    pub queued: Option<i64>,
    pub retry: Option<i64>,
    pub started: Option<i64>,
    pub finished: Option<i64>,
    pub worker: Option<u8>,
    pub progress: u32,
    pub error: Option<FailureCode>,
    /// The last failure of one of its parts, as in its record, with the code instead of the whole failure.
    pub failed_part: Option<String>,
    /// The epoch of the manifest with which the job was completed.
    pub result: Option<Epoch>,
    /// Whether its next claim only verifies.
    pub verify: bool,
    /// Whether it is cancelled because it is suspended.
    pub suspended: bool,
    /// The state in which it exceeded its deadline.
    pub overdue: Option<State>,
    /// The attempt that split it.
    pub split: Option<Epoch>,
    /// The parts of a split job that has not ended.
    pub parts: BTreeMap<Part, Job>,
    /// Those of them that are completed.
    pub reports: BTreeSet<Part>,
    /// Those of them that are not in the queue yet, by their places there.
    pub held_back: BTreeSet<(i64, Part)>,
    /// Whether some were, when the job was split.
    pub limited: bool,
    /// Whether it is a part that left them for a viewer.
    pub extra: bool,
    /// Whether a viewer waited for it when it was last claimed.
    pub awaited: bool,
}
