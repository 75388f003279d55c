//! The queue's protocol as pure functions of plain values, as simple as possible. Time is a parameter. The
//! random tests compare it with Redis; the lease model explores every interleaving of it.

mod invariants;
mod record;
mod split;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};

use tcoder::job::{AttemptId, Epoch, FailureCode, JobId, LeaseId, Millis, Part, State, Transition};
use tcoder::queue::{
    CancelOutcome, CompleteOutcome, ExpireOutcome, FailOutcome, RedriveOutcome, UploadedOutcome,
};

pub use record::{Begin, Job, Task, Terms};

/// Why a job is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    Cancelled,
    Suspended,
    Overdue,
}

/// A rule of the protocol that a mutant omits, to prove that the tests can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// No rule: the protocol as it is.
    Sound,
    /// Leases are identified by job only, so that any attempt counts as the latest.
    Unfenced,
    /// A reaped job is queued again, however often it was tried.
    Uncounted,
    /// A second manifest overwrites the first.
    Overwrites,
    /// A reaped job is not queued again.
    Forgets,
    /// A job whose last attempt was lost fails, without a look at its manifest.
    Unverified,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    pub attempt: AttemptId,
    pub part: Option<Part>,
    pub number: u32,
    /// Whether an earlier attempt has started.
    pub earlier: bool,
    /// Whether the job only has to be verified.
    pub verify: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Model {
    pub mutant: Mutant,
    pub jobs: BTreeMap<JobId, Job>,
    pub uploading: BTreeMap<JobId, i64>,
    pub pending: BTreeSet<(i64, Task)>,
    pub scheduled: BTreeMap<Task, i64>,
    pub leases: BTreeMap<LeaseId, i64>,
    pub dead: BTreeMap<JobId, i64>,
    pub cancelled: BTreeMap<JobId, i64>,
    pub outbox: BTreeSet<(AttemptId, &'static str)>,
    /// Object storage: the epoch of each job's manifest.
    pub manifests: BTreeMap<JobId, Epoch>,
    /// The epoch of the manifest without a result of a job that has failed.
    pub sealed: BTreeMap<JobId, Epoch>,
    /// Events since the list was last emptied.
    pub events: Vec<(JobId, State)>,
}

impl Model {
    pub fn new(mutant: Mutant) -> Self {
        Self {
            mutant,
            jobs: BTreeMap::new(),
            uploading: BTreeMap::new(),
            pending: BTreeSet::new(),
            scheduled: BTreeMap::new(),
            leases: BTreeMap::new(),
            dead: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            outbox: BTreeSet::new(),
            manifests: BTreeMap::new(),
            sealed: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// The identity of a lease.
    pub fn lease(&self, lease: impl Into<LeaseId>) -> LeaseId {
        let lease = lease.into();
        if self.mutant == Mutant::Unfenced { LeaseId { epoch: Epoch(0), ..lease } } else { lease }
    }

    pub fn state(&self, id: JobId) -> Option<State> {
        self.jobs.get(&id).map(|j| j.state)
    }

    fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs.get_mut(&id).expect("the job was looked up before")
    }

    fn task(&mut self, task: Task) -> &mut Job {
        let job = self.job(task.job);
        match task.part {
            Some(part) => job.parts.get_mut(&part).expect("the part was looked up before"),
            None => job,
        }
    }

    /// Tells of a change of a job. Those of parts are not told.
    fn tell(&mut self, task: Task, state: State) {
        if task.part.is_none() {
            self.events.push((task.job, state));
        }
    }

    /// The only way in which a task's state changes. A mutant breaks the rules of the queue, not those of
    /// states, but may do so for jobs in an unexpected state.
    fn change(&mut self, task: impl Into<Task>, how: Transition) {
        let task = task.into();
        let sound = self.mutant == Mutant::Sound;
        let job = self.task(task);
        match job.state.apply(how) {
            Ok(state) => job.state = state,
            Err(wrong) if sound => panic!("{task}: {wrong}"),
            Err(_) => {
                job.state = match how {
                    Transition::Complete => State::Completed,
                    Transition::Fail | Transition::DeadlineExceeded => State::Failed,
                    Transition::Cancel => State::Cancelled,
                    Transition::Claim => State::Running,
                    _ => State::Queued,
                }
            }
        }
    }

    /// Queues the task as of `now`.
    fn enqueue(&mut self, task: impl Into<Task>, now: i64) {
        let task = task.into();
        let job = self.task(task);
        (job.queued, job.rank) = (Some(now), now - job.terms.boost);
        let rank = job.rank;
        self.pending.insert((rank, task));
    }

    fn end(&mut self, id: JobId, how: Transition, now: i64) {
        self.change(id, how);
        self.drop_parts(id);
        let job = self.job(id);
        job.finished = Some(now);
        if job.state != State::Completed {
            job.split = None;
        }
        let (state, hook) = (job.state, job.terms.hook);
        // A completion is known by the attempt that committed the result.
        let committed = job.result.filter(|_| state == State::Completed);
        let attempt = AttemptId { job: id, epoch: committed.unwrap_or(job.epoch) };
        match state {
            State::Failed => self.dead.insert(id, now),
            State::Cancelled => self.cancelled.insert(id, now),
            _ => None,
        };
        if hook {
            self.outbox.insert((attempt, state.name()));
        }
        self.events.push((id, state));
    }

    /// Submits a job; returns whether it is new.
    pub fn submit(&mut self, id: JobId, terms: Terms, begin: Begin, now: i64) -> bool {
        if self.jobs.contains_key(&id) {
            return false;
        }
        let (state, queued, retry) = match begin {
            Begin::Now => (State::Queued, Some(now), None),
            Begin::After(delay) => (State::Queued, None, Some(now + delay)),
            Begin::OnUpload(_) => (State::Uploading, None, None),
        };
        let rank = now - terms.boost;
        let job = Job {
            terms,
            state,
            attempt: 0,
            epoch: Epoch(0),
            rank,
            created: now,
            uploaded: None,
            pinned: false,
            queued,
            retry,
            started: None,
            finished: None,
            worker: None,
            progress: 0,
            error: None,
            failed_part: None,
            result: None,
            verify: false,
            suspended: false,
            overdue: None,
            split: None,
            parts: BTreeMap::new(),
            reports: BTreeSet::new(),
            held_back: BTreeSet::new(),
            limited: false,
            extra: false,
            awaited: false,
        };
        self.jobs.insert(id, job);
        match begin {
            Begin::Now => drop(self.pending.insert((rank, id.into()))),
            Begin::After(delay) => drop(self.scheduled.insert(id.into(), now + delay)),
            Begin::OnUpload(window) => drop(self.uploading.insert(id, now + window)),
        }
        self.events.push((id, state));
        true
    }

    /// Whether the job ended because its upload never arrived: the upload expired, the deadline passed, or the job was
    /// cancelled before.
    fn never_uploaded(&self, id: JobId) -> bool {
        let waited = |j: &Job| {
            matches!(
                (j.state, j.overdue),
                (State::Failed, None) | (State::Failed | State::Cancelled, Some(State::Uploading))
            )
        };
        self.jobs.get(&id).is_some_and(|j| j.epoch == Epoch(0) && waited(j))
    }

    /// Whether a late upload revives the job.
    fn may_come_late(&self, id: JobId) -> bool {
        self.never_uploaded(id) && self.jobs.get(&id).is_some_and(|j| j.overdue.is_none())
    }

    pub fn uploaded(&mut self, id: JobId, fits: bool, now: i64) -> UploadedOutcome {
        match self.state(id) {
            None => UploadedOutcome::Unknown,
            Some(State::Uploading) if !fits => {
                self.uploading.remove(&id);
                self.job(id).error = Some(FailureCode::InputTooLarge);
                self.end(id, Transition::Fail, now);
                UploadedOutcome::Refused
            }
            Some(state) if !fits => UploadedOutcome::Already(state),
            Some(state) if state == State::Uploading || self.may_come_late(id) => {
                let late = state == State::Failed;
                self.change(id, if late { Transition::UploadedLate } else { Transition::Uploaded });
                self.uploading.remove(&id);
                self.dead.remove(&id);
                let job = self.job(id);
                (job.uploaded, job.pinned, job.error, job.finished) = (Some(now), true, None, None);
                if late {
                    job.epoch = Epoch(1);
                }
                self.enqueue(id, now);
                self.events.push((id, State::Queued));
                UploadedOutcome::Queued
            }
            Some(state) => UploadedOutcome::Already(state),
        }
    }

    /// Claims the task with the lowest place of all of these classes; of two with the same, the one of the first class.
    pub fn claim(&mut self, worker: u8, classes: &[u8], now: i64, lease: i64) -> Option<Claim> {
        let ready = self.pending.iter().filter_map(|&(place, task)| {
            let class = self.jobs[&task.job].terms.class;
            let at = classes.iter().position(|of| *of == class)?;
            Some((place, at, task))
        });
        let (place, _, task) = ready.min()?;
        self.pending.remove(&(place, task));
        self.change(task, Transition::Claim);
        let job = self.task(task);
        // The epochs of a part begin with that of the split.
        let earlier = job.epoch > job.split.filter(|_| task.part.is_some()).unwrap_or_default();
        // In the lease model time does not pass, so epochs are counted.
        job.epoch = Epoch((job.epoch.0 + 1).max(now.unsigned_abs()));
        // To verify is no attempt.
        job.attempt += u32::from(!job.verify);
        let verify = job.verify;
        (job.worker, job.started, job.progress) = (Some(worker), Some(now), 0);
        job.awaited = place < job.rank;
        let attempt = AttemptId { job: task.job, epoch: job.epoch };
        let claim = Claim { attempt, part: task.part, number: job.attempt, earlier, verify };
        let lease_name = self.lease(LeaseId { job: task.job, part: task.part, epoch: attempt.epoch });
        self.leases.insert(lease_name, now + lease);
        self.tell(task, State::Running);
        Some(claim)
    }

    pub fn renew(&mut self, lease: impl Into<LeaseId>, deadline: i64) -> bool {
        let name = self.lease(lease);
        let Some(there) = self.leases.get_mut(&name) else { return false };
        *there = deadline.max(*there);
        true
    }

    pub fn progress(&mut self, attempt: AttemptId, percent: u32) -> bool {
        let held = self.leases.contains_key(&self.lease(attempt));
        if held {
            self.job(attempt.job).progress = percent;
            self.events.push((attempt.job, State::Running));
        }
        held
    }

    /// Writes the attempt's manifest to storage unless one exists; returns the epoch of the existing one, or
    /// nothing if a later attempt has found that the job failed.
    pub fn commit(&mut self, AttemptId { job: id, epoch }: AttemptId) -> Option<Epoch> {
        if self.mutant == Mutant::Overwrites {
            self.manifests.insert(id, epoch);
        }
        if self.sealed.get(&id).is_some_and(|by| *by > epoch) {
            return None;
        }
        self.sealed.remove(&id);
        Some(*self.manifests.entry(id).or_insert(epoch))
    }

    /// Writes a manifest without a result unless one exists; returns the epoch of an existing result.
    pub fn seal(&mut self, AttemptId { job: id, epoch }: AttemptId) -> Option<Epoch> {
        let result = self.manifests.get(&id).copied();
        if result.is_none() {
            self.sealed.entry(id).or_insert(epoch);
        }
        result
    }

    pub fn complete(&mut self, attempt: AttemptId, manifest: Epoch, now: i64) -> CompleteOutcome {
        let AttemptId { job: id, epoch } = attempt;
        if self.leases.remove(&self.lease(attempt)).is_none() {
            let ours = |j: &Job| j.state == State::Completed && j.epoch == epoch;
            return match self.jobs.get(&id) {
                Some(job) if ours(job) => CompleteOutcome::Already,
                job => CompleteOutcome::Lost(job.map(|j| j.state)),
            };
        }
        let job = self.job(id);
        (job.result, job.progress, job.error) = (Some(manifest), 100, None);
        self.end(id, Transition::Complete, now);
        CompleteOutcome::Done
    }

    /// Fails an attempt. `retry_at` is when the next attempt would be due, if there is one; it may be one that only
    /// verifies.
    pub fn fail(
        &mut self,
        lease: impl Into<LeaseId>,
        code: FailureCode,
        retry_at: Option<i64>,
        verify: bool,
        now: i64,
    ) -> FailOutcome {
        let lease = lease.into();
        let (id, epoch, task) = (lease.job, lease.epoch, Task::from(lease));
        if self.leases.remove(&self.lease(lease)).is_none() {
            let stands = |s: State| matches!(s, State::Failed | State::Queued);
            let job = self.jobs.get(&id);
            let part = lease.part.and_then(|part| job?.parts.get(&part));
            // With the job, the records of its parts are gone.
            let is_gone = lease.part.is_some() && part.is_none();
            return match part.or(job) {
                Some(j) if stands(j.state) && (is_gone || j.epoch == epoch) && j.error == Some(code) => {
                    FailOutcome::Already
                }
                job => FailOutcome::Lost(job.map(|j| j.state)),
            };
        }
        if let Some(at) = retry_at {
            let job = self.task(task);
            job.error = Some(code);
            (job.retry, job.queued, job.verify) = (Some(at), None, verify);
            self.change(task, Transition::Retry);
            self.scheduled.insert(task, at);
            self.tell(task, State::Queued);
            self.tell_failed_part(lease, code, at);
            return FailOutcome::Retry(Millis(at));
        }
        self.job(id).error = Some(code);
        self.end(id, Transition::Fail, now);
        FailOutcome::Failed
    }

    pub fn release(&mut self, lease: impl Into<LeaseId>, now: i64) -> bool {
        let lease = lease.into();
        if self.leases.remove(&self.lease(lease)).is_none() {
            return false;
        }
        let task = Task::from(lease);
        let job = self.task(task);
        job.attempt -= u32::from(!job.verify);
        (job.queued, job.progress) = (Some(now), 0);
        let rank = job.rank;
        self.change(task, Transition::Release);
        self.pending.insert((rank, task));
        self.tell(task, State::Queued);
        true
    }

    pub fn cancel(&mut self, id: JobId, now: i64) -> CancelOutcome {
        self.cancel_with(id, Why::Cancelled, now)
    }

    pub fn cancel_with(&mut self, id: JobId, why: Why, now: i64) -> CancelOutcome {
        let Some(job) = self.jobs.get(&id) else { return CancelOutcome::Unknown };
        if job.suspended && why == Why::Cancelled {
            // The end is final now, and only now it is reported.
            let (hook, attempt) = (job.terms.hook, AttemptId { job: id, epoch: job.epoch });
            let job = self.job(id);
            (job.suspended, job.finished) = (false, Some(now));
            self.cancelled.insert(id, now);
            if hook {
                self.outbox.insert((attempt, State::Cancelled.name()));
            }
            self.events.push((id, State::Cancelled));
            return CancelOutcome::Cancelled;
        }
        if job.state.is_terminal() {
            return CancelOutcome::Ended(job.state);
        }
        let (from, hook) = (job.state, job.terms.hook);
        let (rank, lease) = (job.rank, self.lease(AttemptId { job: id, epoch: job.epoch }));
        self.pending.remove(&(rank, id.into()));
        self.scheduled.remove(&id.into());
        self.uploading.remove(&id);
        self.leases.remove(&lease);
        let job = self.job(id);
        job.retry = None;
        if from == State::Uploading {
            job.overdue = Some(from);
        }
        match why {
            Why::Cancelled => self.end(id, Transition::Cancel, now),
            Why::Suspended => {
                (job.suspended, job.terms.hook) = (true, false);
                self.end(id, Transition::Cancel, now);
                self.job(id).terms.hook = hook;
            }
            Why::Overdue => {
                (job.overdue, job.error) = (Some(from), Some(FailureCode::DeadlineExceeded));
                self.end(id, Transition::DeadlineExceeded, now);
            }
        }
        CancelOutcome::Cancelled
    }

    pub fn redrive(&mut self, id: JobId, now: i64) -> RedriveOutcome {
        match self.state(id) {
            None => RedriveOutcome::Unknown,
            Some(_) if self.never_uploaded(id) => RedriveOutcome::NeverUploaded,
            Some(State::Failed | State::Cancelled) => {
                self.change(id, Transition::Redrive);
                let job = self.job(id);
                (job.attempt, job.progress) = (0, 0);
                job.epoch.0 += 1;
                (job.error, job.finished, job.retry) = (None, None, None);
                (job.suspended, job.overdue, job.verify) = (false, None, false);
                // The object may have been replaced, to retry the job with it.
                job.pinned &= !job.terms.from_storage;
                self.dead.remove(&id);
                self.cancelled.remove(&id);
                self.enqueue(id, now);
                self.events.push((id, State::Queued));
                RedriveOutcome::Queued
            }
            Some(state) => RedriveOutcome::Wrong(state),
        }
    }

    pub fn expire_upload(&mut self, id: JobId, now: i64) -> ExpireOutcome {
        match self.state(id) {
            None => ExpireOutcome::Unknown,
            Some(State::Uploading) => {
                self.uploading.remove(&id);
                self.job(id).error = Some(FailureCode::UploadExpired);
                self.end(id, Transition::Fail, now);
                ExpireOutcome::Failed
            }
            Some(state) => ExpireOutcome::Already(state),
        }
    }
}
