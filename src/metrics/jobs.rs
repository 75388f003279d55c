//! What the changes of jobs tell: ends, and the times between changes.
//!
//! An event's id is its place in a Redis stream, and its first part is Redis's time in milliseconds: ids
//! only grow, so times between them are never negative, and no clock of ours matters.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::job::{JobEvent, JobId, State};

/// How an attempt can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptEnd {
    Completed,
    Failed,
    Cancelled,
    /// It failed, was lost or was handed back, and another one is due.
    Requeued,
}

pub(super) const ATTEMPT_ENDS: [AttemptEnd; 4] =
    [AttemptEnd::Completed, AttemptEnd::Failed, AttemptEnd::Cancelled, AttemptEnd::Requeued];

impl AttemptEnd {
    pub(super) const fn name(self) -> &'static str {
        match self.of_job() {
            Some(state) => state,
            None => "requeued",
        }
    }

    /// The state in which it leaves a job that ends with it.
    pub(super) const fn of_job(self) -> Option<&'static str> {
        match self {
            Self::Completed => Some(State::Completed.name()),
            Self::Failed => Some(State::Failed.name()),
            Self::Cancelled => Some(State::Cancelled.name()),
            Self::Requeued => None,
        }
    }
}

/// Place in the stream: milliseconds, and the number within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    ms: u64,
    n: u64,
}

impl At {
    fn parse(id: &str) -> Option<Self> {
        let (ms, n) = id.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, n: n.parse().ok()? })
    }

    fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.ms.saturating_sub(earlier.ms))
    }
}

/// What one change tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// The job ended in this state.
    pub ended: Option<&'static str>,
    /// An attempt began after so long.
    pub waited: Option<Duration>,
    /// An attempt ended; with how long it took, where its beginning was heard.
    pub attempt: Option<(AttemptEnd, Option<Duration>)>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: At,
    state: State,
}

impl Last {
    /// Jobs that have ended are forgotten first.
    const fn key(self, id: JobId) -> (bool, At, JobId) {
        (!self.state.is_terminal(), self.at, id)
    }
}

/// The last change of each job, of so many jobs.
#[derive(Debug)]
pub(super) struct Ledger {
    limit: usize,
    jobs: HashMap<JobId, Last>,
    /// The same in the order in which they are forgotten.
    order: BTreeSet<(bool, At, JobId)>,
    /// The newest change that was forgotten. Of jobs not on record, nothing up to here is heard (again).
    forgotten: At,
}

impl Ledger {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, jobs: HashMap::new(), order: BTreeSet::new(), forgotten: At::default() }
    }

    /// Takes a change in. One that was taken in before, or one older than what is known of its job,
    /// tells nothing.
    pub(super) fn hear(&mut self, event: &JobEvent) -> Heard {
        let Some(at) = At::parse(&event.event_id) else { return Heard::default() };
        // How far an encode is, is no change of state.
        if event.progress.is_some() {
            return Heard::default();
        }
        let last = self.jobs.get(&event.job_id).copied();
        if at <= last.map_or(self.forgotten, |last| last.at) {
            return Heard::default();
        }
        self.note(event.job_id, last, Last { at, state: event.status });
        tell(last, at, event.status)
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.jobs.len().max(self.order.len())
    }

    fn note(&mut self, id: JobId, old: Option<Last>, new: Last) {
        if let Some(old) = old {
            self.order.remove(&old.key(id));
        }
        self.order.insert(new.key(id));
        self.jobs.insert(id, new);
        while self.jobs.len() > self.limit {
            let Some((_, at, id)) = self.order.pop_first() else { return };
            self.jobs.remove(&id);
            self.forgotten = self.forgotten.max(at);
        }
    }
}

/// What it tells that a job is in this state now, and was last heard of like that.
fn tell(last: Option<Last>, at: At, state: State) -> Heard {
    let since = |from: State| last.filter(|last| last.state == from).map(|last| at.since(last.at));
    let ran = since(State::Running);
    let end = match state {
        State::Completed => Some(AttemptEnd::Completed),
        State::Failed => Some(AttemptEnd::Failed),
        State::Cancelled => Some(AttemptEnd::Cancelled),
        State::Queued | State::Running => Some(AttemptEnd::Requeued),
        State::Uploading => None,
    };
    // Only a running job completes, so that was an attempt though its beginning was not heard. One that
    // runs twice in a row was queued in between; for how long each lasted is not known then.
    let attempt = match (state, ran) {
        (State::Uploading, _) => None,
        (State::Running, Some(_)) => end.map(|end| (end, None)),
        (State::Completed, None) => end.map(|end| (end, None)),
        (_, None) => None,
        (_, ran) => end.map(|end| (end, ran)),
    };
    Heard {
        ended: state.is_terminal().then(|| state.name()),
        waited: if state == State::Running { since(State::Queued) } else { None },
        attempt,
    }
}
