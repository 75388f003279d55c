//! Derives counters and durations from the event stream of jobs.
//!
//! The id of an event is its position in a Redis stream, and its first part is Redis's time in milliseconds. Ids only
//! grow, so durations between them are never negative, and the clock of this process does not matter.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::job::{JobEvent, JobId, State};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptEnd {
    Completed,
    Failed,
    Cancelled,
    /// The attempt failed, was lost or was released, and another one follows.
    Requeued,
}

pub(super) const ATTEMPT_ENDS: [AttemptEnd; 4] =
    [AttemptEnd::Completed, AttemptEnd::Failed, AttemptEnd::Cancelled, AttemptEnd::Requeued];

impl AttemptEnd {
    pub(super) fn name(self) -> &'static str {
        match self.of_job() {
            Some(state) => state,
            None => "requeued",
        }
    }

    /// The final state of a job that ends with this attempt.
    pub(super) fn of_job(self) -> Option<&'static str> {
        match self {
            Self::Completed => Some(State::Completed.name()),
            Self::Failed => Some(State::Failed.name()),
            Self::Cancelled => Some(State::Cancelled.name()),
            Self::Requeued => None,
        }
    }
}

/// A position in the stream: milliseconds, and a sequence number.
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

/// The information in one event.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// The job ended in this state.
    pub ended: Option<&'static str>,
    /// An attempt started after this waiting time.
    pub waited: Option<Duration>,
    /// An attempt ended, with its duration, if its start was seen.
    pub attempt: Option<(AttemptEnd, Option<Duration>)>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: At,
    state: State,
}

impl Last {
    /// Finished jobs are evicted first.
    const fn key(self, id: JobId) -> (bool, At, JobId) {
        (!self.state.is_terminal(), self.at, id)
    }
}

/// The last event of each job, for a limited number of jobs.
#[derive(Debug)]
pub(super) struct Ledger {
    limit: usize,
    jobs: HashMap<JobId, Last>,
    /// The same in the order of their eviction.
    order: BTreeSet<(bool, At, JobId)>,
    /// The newest evicted event. Events up to this one are ignored for jobs that are not stored.
    forgotten: At,
}

impl Ledger {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, jobs: HashMap::new(), order: BTreeSet::new(), forgotten: At::default() }
    }

    /// Processes an event. An event that was processed before, or that is older than the stored one of its job,
    /// returns no information.
    pub(super) fn hear(&mut self, event: &JobEvent) -> Heard {
        let Some(at) = At::parse(&event.event_id) else { return Heard::default() };
        // The progress of an encode is not a change of state.
        if event.progress.is_some() {
            return Heard::default();
        }
        let last = self.jobs.get(&event.job_id).copied();
        if at <= last.map_or(self.forgotten, |last| last.at) {
            return Heard::default();
        }
        // It changes nothing about the attempts.
        if event.status == State::Playable {
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

/// The information in a change to this state, given the last known event of the job.
fn tell(last: Option<Last>, at: At, state: State) -> Heard {
    let since = |from: State| last.filter(|last| last.state == from).map(|last| at.since(last.at));
    let ran = since(State::Running);
    let end = match state {
        State::Completed => Some(AttemptEnd::Completed),
        State::Failed => Some(AttemptEnd::Failed),
        State::Cancelled => Some(AttemptEnd::Cancelled),
        State::Queued | State::Running => Some(AttemptEnd::Requeued),
        State::Uploading | State::Playable => None,
    };
    // Only a running job can complete, so there was an attempt even if its start was not seen. A job that runs twice
    // in a row was queued in between; the duration of neither attempt is known.
    let attempt = match (state, ran) {
        (State::Uploading | State::Playable, _) => None,
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
