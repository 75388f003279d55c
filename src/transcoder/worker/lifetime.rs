//! Decides when a worker exits, and how long it waits for the next job. Pure: the time is a parameter.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use super::attempt::AttemptOutcome;
use crate::config::{IDLE_AFTER_PARTS, WorkerConfig};
use crate::job::{FailureCode, JobId};

/// Why a worker exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It received SIGTERM or SIGINT.
    Stopped,
    /// It reached its maximum age (`WORKER_TTL`).
    Ttl,
    /// It processed its maximum number of jobs (`WORKER_MAX_JOBS`).
    MaxJobs,
    /// Too many jobs in a row failed, not because of the files (`WORKER_MAX_FAILURES`).
    TooManyFailures,
    /// It was idle for too long (`WORKER_IDLE_TIMEOUT`).
    Idle,
    /// The fleet retired it.
    Retired,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "told to stop",
            Self::Ttl => "lived as long as WORKER_TTL lets it",
            Self::MaxJobs => "did as many jobs as WORKER_MAX_JOBS lets it",
            Self::TooManyFailures => "failed at WORKER_MAX_FAILURES jobs in a row, not because of the files",
            Self::Idle => "had nothing to do for WORKER_IDLE_TIMEOUT, or 2 s after parts of a split video",
            Self::Retired => "told by the fleet to leave",
        })
    }
}

/// What to do if no job is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdleAction {
    /// Wait for a wake-up, at most this long.
    For(Duration),
    /// Exit.
    Leave(ExitReason),
}

/// The history of a worker, and its limits.
#[derive(Clone, Debug)]
pub(crate) struct WorkerLifetime {
    ends: Option<Instant>,
    idle_timeout: Option<Duration>,
    max_jobs: Option<u32>,
    max_failures: Option<u32>,
    jobs: u32,
    /// The jobs that have failed here since the last one that did not.
    failed: BTreeSet<JobId>,
    idle_since: Instant,
    /// Whether its last work were parts.
    did_parts: bool,
}

impl WorkerLifetime {
    pub(crate) fn new(config: &WorkerConfig, now: Instant) -> Self {
        let some = |d: Duration| (!d.is_zero()).then_some(d);
        Self {
            ends: some(config.ttl).map(|ttl| now + ttl),
            idle_timeout: some(config.idle_timeout),
            max_jobs: Some(config.max_jobs).filter(|n| *n > 0),
            max_failures: Some(config.max_failures).filter(|n| *n > 0),
            jobs: 0,
            failed: BTreeSet::new(),
            idle_since: now,
            did_parts: false,
        }
    }

    /// The reason to exit instead of claiming another job, if there is one.
    pub(crate) fn reason_to_leave(&self, now: Instant) -> Option<ExitReason> {
        if self.max_failures.is_some_and(|most| self.failed.len() >= most as usize) {
            Some(ExitReason::TooManyFailures)
        } else if self.max_jobs.is_some_and(|most| self.jobs >= most) {
            Some(ExitReason::MaxJobs)
        } else if self.ends.is_some_and(|ends| now >= ends) {
            Some(ExitReason::Ttl)
        } else {
            None
        }
    }

    /// Takes note of a job.
    pub(crate) fn did_a_job(&mut self, job: JobId, outcome: AttemptOutcome, now: Instant) {
        self.did(&[(job, outcome)], now);
        self.did_parts = false;
    }

    /// Takes note of several parts of jobs, which count as one job.
    pub(crate) fn did_parts(&mut self, outcomes: &[(JobId, AttemptOutcome)], now: Instant) {
        self.did(outcomes, now);
        self.did_parts = true;
    }

    fn did(&mut self, outcomes: &[(JobId, AttemptOutcome)], now: Instant) {
        self.idle_since = now;
        // To split a job is only the beginning of one.
        if !matches!(outcomes, [(_, AttemptOutcome::Split)]) {
            self.jobs += 1;
        }
        for (job, outcome) in outcomes {
            match outcome {
                // A job that is too large for this disk says nothing about the next one.
                AttemptOutcome::Failed(FailureCode::DiskFull) => {}
                AttemptOutcome::Failed(code) if is_ours(*code) => {
                    self.failed.insert(*job);
                }
                AttemptOutcome::Completed | AttemptOutcome::Failed(_) => self.failed.clear(),
                AttemptOutcome::Lost | AttemptOutcome::Released | AttemptOutcome::Split => {}
            }
        }
    }

    /// How long to wait for a wake-up: at most until a job is due or the worker exits.
    pub(crate) fn wait(&self, bell: Duration, due: Option<Duration>, now: Instant) -> IdleAction {
        let longest = if self.did_parts { IDLE_AFTER_PARTS } else { Duration::MAX };
        let idle_left = self
            .idle_timeout
            .map(|limit| limit.min(longest).saturating_sub(now.saturating_duration_since(self.idle_since)));
        if idle_left.is_some_and(|left| left.is_zero()) {
            return IdleAction::Leave(ExitReason::Idle);
        }
        let life_left = self.ends.map(|ends| ends.saturating_duration_since(now));
        let least = [Some(bell), due, idle_left, life_left].into_iter().flatten().min();
        IdleAction::For(least.unwrap_or(bell))
    }
}

/// Whether a failure is the fault of this worker rather than of the file or its sender.
const fn is_ours(code: FailureCode) -> bool {
    matches!(
        code,
        FailureCode::Worker | FailureCode::Storage | FailureCode::EncodeFailed | FailureCode::Stalled
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;

    const SECOND: Duration = Duration::from_secs(1);
    const BELL: Duration = Duration::from_secs(75);

    fn life(pairs: &[(&str, &str)], now: Instant) -> WorkerLifetime {
        let env = Env::of(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()));
        WorkerLifetime::new(&WorkerConfig::read(&env).unwrap(), now)
    }

    #[test]
    fn leaves_after_its_time_to_live_but_never_when_that_is_zero() {
        let now = Instant::now();
        let mortal = life(&[("WORKER_TTL", "10")], now);
        assert_eq!(mortal.reason_to_leave(now + 9 * SECOND), None);
        assert_eq!(mortal.reason_to_leave(now + 10 * SECOND), Some(ExitReason::Ttl));
        assert_eq!(mortal.wait(BELL, None, now + 7 * SECOND), IdleAction::For(3 * SECOND));
        let immortal = life(&[("WORKER_TTL", "0"), ("WORKER_IDLE_TIMEOUT", "0")], now);
        assert_eq!(immortal.reason_to_leave(now + 1_000_000 * SECOND), None);
        assert_eq!(immortal.wait(BELL, None, now + 1_000_000 * SECOND), IdleAction::For(BELL));
    }

    #[test]
    fn leaves_when_idle_too_long_counted_from_its_last_job() {
        let now = Instant::now();
        let mut life = life(&[("WORKER_TTL", "0"), ("WORKER_IDLE_TIMEOUT", "60")], now);
        assert_eq!(life.wait(BELL, None, now + 20 * SECOND), IdleAction::For(40 * SECOND));
        life.did_a_job(JobId::new(), AttemptOutcome::Completed, now + 50 * SECOND);
        assert_eq!(life.wait(BELL, None, now + 109 * SECOND), IdleAction::For(SECOND));
        assert_eq!(life.wait(BELL, None, now + 110 * SECOND), IdleAction::Leave(ExitReason::Idle));
    }

    #[test]
    fn leaves_soon_after_parts_unless_it_has_done_a_job_since_or_never_leaves() {
        let now = Instant::now();
        let parts = [(JobId::new(), AttemptOutcome::Completed); 2];
        let mut some = life(&[("WORKER_TTL", "0"), ("WORKER_IDLE_TIMEOUT", "60")], now);
        some.did_parts(&parts, now);
        assert_eq!(some.wait(BELL, None, now + SECOND), IdleAction::For(SECOND));
        assert_eq!(some.wait(BELL, None, now + 2 * SECOND), IdleAction::Leave(ExitReason::Idle));
        some.did_a_job(JobId::new(), AttemptOutcome::Completed, now);
        assert_eq!(some.wait(BELL, None, now + 2 * SECOND), IdleAction::For(58 * SECOND));
        let mut keeper = life(&[("WORKER_TTL", "0"), ("WORKER_IDLE_TIMEOUT", "0")], now);
        keeper.did_parts(&parts, now);
        assert_eq!(keeper.wait(BELL, None, now + 100 * SECOND), IdleAction::For(BELL));
    }

    #[test]
    fn waits_no_longer_than_until_something_is_due() {
        let now = Instant::now();
        let life = life(&[("WORKER_TTL", "0"), ("WORKER_IDLE_TIMEOUT", "0")], now);
        assert_eq!(life.wait(BELL, Some(2 * SECOND), now), IdleAction::For(2 * SECOND));
        assert_eq!(life.wait(BELL, Some(Duration::ZERO), now), IdleAction::For(Duration::ZERO));
        assert_eq!(life.wait(BELL, Some(300 * SECOND), now), IdleAction::For(BELL));
    }

    #[test]
    fn leaves_after_its_jobs() {
        let now = Instant::now();
        let mut life = life(&[("WORKER_MAX_JOBS", "2")], now);
        life.did_a_job(JobId::new(), AttemptOutcome::Completed, now);
        assert_eq!(life.reason_to_leave(now), None);
        life.did_a_job(JobId::new(), AttemptOutcome::Failed(FailureCode::InvalidMedia), now);
        assert_eq!(life.reason_to_leave(now), Some(ExitReason::MaxJobs));
    }

    #[test]
    fn only_its_own_failures_in_a_row_count() {
        let now = Instant::now();
        let mut life = life(&[("WORKER_MAX_FAILURES", "2")], now);
        for outcome in [
            AttemptOutcome::Failed(FailureCode::Storage),
            AttemptOutcome::Failed(FailureCode::InvalidMedia),
            AttemptOutcome::Failed(FailureCode::Worker),
            AttemptOutcome::Lost,
            AttemptOutcome::Failed(FailureCode::DiskFull),
        ] {
            life.did_a_job(JobId::new(), outcome, now);
            assert_eq!(life.reason_to_leave(now), None);
        }
        life.did_a_job(JobId::new(), AttemptOutcome::Failed(FailureCode::Stalled), now);
        assert_eq!(life.reason_to_leave(now), Some(ExitReason::TooManyFailures));
    }

    #[test]
    fn several_failures_of_one_job_count_once() {
        let now = Instant::now();
        let mut life = life(&[("WORKER_MAX_FAILURES", "2")], now);
        let failed = AttemptOutcome::Failed(FailureCode::EncodeFailed);
        let (one, other) = (JobId::new(), JobId::new());
        life.did_parts(&[(one, failed), (one, failed), (one, failed)], now);
        assert_eq!(life.reason_to_leave(now), None);
        life.did_parts(&[(other, failed)], now);
        assert_eq!(life.reason_to_leave(now), Some(ExitReason::TooManyFailures));
    }
}
