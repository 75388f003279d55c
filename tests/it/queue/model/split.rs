//! The parts of split jobs.

use std::collections::{BTreeMap, BTreeSet};

use tcoder::job::{AttemptId, FailureCode, JobId, LeaseId, Part, State, StreamSegment, Transition};
use tcoder::queue::{PartOutcome, SegmentState, SplitOutcome};

use super::{Job, Model, Task};

impl Job {
    /// Whether it waits for its parts.
    pub fn waits(&self) -> bool {
        self.state == State::Running && self.split == Some(self.epoch)
    }
}

impl Model {
    /// Splits a job into parts, each this many milliseconds behind its place in the queue.
    pub fn split(&mut self, by: AttemptId, parts: &[(Part, i64, bool)], now: i64) -> SplitOutcome {
        let AttemptId { job: id, epoch } = by;
        if !self.leases.contains_key(&self.lease(by)) {
            return match self.jobs.get(&id) {
                Some(job) if job.split == Some(epoch) => SplitOutcome::Already,
                job => SplitOutcome::Lost(job.map(|j| j.state)),
            };
        }
        self.leases.remove(&self.lease(by));
        self.drop_parts(id);
        let job = self.job(id);
        // The attempts at finishing it are counted anew.
        (job.split, job.attempt, job.error, job.verify) = (Some(epoch), 0, None, false);
        job.limited = parts.iter().any(|(.., is_held_back)| *is_held_back);
        let mut ready = Vec::new();
        for (part, behind, is_held_back) in parts {
            let record = Job {
                terms: job.terms,
                state: State::Queued,
                attempt: 0,
                epoch,
                rank: job.rank + behind,
                created: now,
                uploaded: None,
                pinned: false,
                queued: Some(now),
                retry: None,
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
                split: Some(epoch),
                parts: BTreeMap::new(),
                reports: BTreeSet::new(),
                held_back: BTreeSet::new(),
                limited: false,
                extra: false,
                awaited: false,
            };
            if *is_held_back {
                job.held_back.insert((record.rank, *part));
            } else {
                ready.push((record.rank, Task { job: id, part: Some(*part) }));
            }
            job.parts.insert(*part, record);
        }
        self.pending.extend(ready);
        SplitOutcome::Split
    }

    /// Says in the record of a job that an attempt at one of its parts failed, and when the next is due (0: at once).
    pub(super) fn tell_failed_part(&mut self, lease: LeaseId, code: FailureCode, retry: i64) {
        let Some(part) = lease.part else { return };
        let job = self.job(lease.job);
        let (Some(split), true) = (job.split, job.waits()) else { return };
        let tries = job.parts[&part].attempt;
        job.failed_part = Some(format!("{split} {part} {tries} {retry} {code:?}"));
        self.events.push((lease.job, State::Running));
    }

    /// Completes a part; the last one queues the job again.
    pub fn complete_part(&mut self, lease: LeaseId, now: i64) -> PartOutcome {
        let (id, part) = (lease.job, lease.part.expect("it is a part"));
        if self.leases.remove(&self.lease(lease)).is_none() {
            let is_done = self.jobs.get(&id).is_some_and(|job| job.reports.contains(&part));
            return if is_done { PartOutcome::Already } else { PartOutcome::Lost };
        }
        let job = self.job(id);
        assert!(job.waits(), "{id} has a part that is leased, and does not wait for it");
        assert!(job.reports.insert(part), "{id}/{part} was completed twice");
        let of_part = job.split.map(|split| format!("{split} {part} ")).unwrap_or_default();
        job.failed_part = job.failed_part.take().filter(|failed| !failed.starts_with(&of_part));
        let (done, all) = (job.reports.len(), job.parts.len());
        if done < all {
            // A quarter of the parts is worth a write to the record.
            if 4 * done / all > 4 * (done - 1) / all {
                job.progress = u32::try_from(4 * done / all * 25).unwrap();
            }
            let lets_in = part != Part::Audio && !job.parts[&part].extra;
            let next = if lets_in { job.held_back.pop_first() } else { None };
            self.pending.extend(next.map(|(rank, part)| (rank, Task { job: id, part: Some(part) })));
            self.events.push((id, State::Running));
        } else {
            (job.queued, job.progress) = (Some(now), 99);
            let rank = job.rank;
            self.change(id, Transition::Retry);
            self.pending.insert((rank, id.into()));
            self.events.push((id, State::Queued));
        }
        PartOutcome::Done
    }

    /// A viewer waits for a segment of a job that waits for its parts; each chunk has one, and nothing is known of those of
    /// the sound before it is completed.
    pub fn await_segment(&mut self, id: JobId, segment: StreamSegment) -> SegmentState {
        let part = match segment {
            StreamSegment::Video(number) => Part::Chunk(number),
            StreamSegment::Audio(_) => Part::Audio,
        };
        let job = self.job(id);
        if !job.parts.contains_key(&part) {
            return SegmentState::Unknown;
        }
        if job.reports.contains(&part) {
            return SegmentState::Ready;
        }
        let (front, task) = (job.rank - 1_000_000_000_000, Task { job: id, part: Some(part) });
        let held_back = job.held_back.iter().find(|(_, there)| *there == part).copied();
        if let Some(held_back) = held_back {
            job.held_back.remove(&held_back);
            self.task(task).extra = true;
            self.pending.insert((front, task));
        }
        let place = self.pending.iter().find(|(_, there)| *there == task).copied();
        if let Some(place) = place {
            self.pending.remove(&place);
            self.pending.insert((front.min(place.0), task));
        }
        SegmentState::Waiting
    }

    /// Removes what is left of a job's parts.
    pub(super) fn drop_parts(&mut self, id: JobId) {
        if self.job(id).parts.is_empty() {
            return;
        }
        let of_a_part = |task: Task| task.job == id && task.part.is_some();
        self.pending.retain(|(_, task)| !of_a_part(*task));
        self.scheduled.retain(|task, _| !of_a_part(*task));
        self.leases.retain(|lease, _| !of_a_part((*lease).into()));
        let job = self.job(id);
        job.parts.clear();
        job.reports.clear();
        job.held_back.clear();
    }

    pub(super) fn leases_of(&self, task: Task) -> Vec<LeaseId> {
        self.leases.keys().filter(|lease| Task::from(**lease) == task).copied().collect()
    }

    /// Whether a task waits for its upload, is ready, is delayed, is leased.
    pub(super) fn places(&self, task: Task) -> [bool; 4] {
        [
            task.part.is_none() && self.uploading.contains_key(&task.job),
            self.pending.iter().any(|(_, there)| *there == task),
            self.scheduled.contains_key(&task),
            !self.leases_of(task).is_empty(),
        ]
    }

    /// Each open part of a job that waits is in exactly one place; there are no others.
    pub(super) fn violation_of_parts(&self, id: JobId, job: &Job) -> Option<String> {
        let open = job.parts.keys().filter(|part| !job.reports.contains(*part)).count();
        if job.waits() == (open == 0) || job.state.is_terminal() && !job.parts.is_empty() {
            return Some(format!("{id} is {} and has {open} open parts", job.state));
        }
        let is_held_back = |part: &Part| job.held_back.iter().any(|(_, there)| there == part);
        let lets_in = |(part, record): (&Part, &Job)| {
            *part != Part::Audio && !record.extra && !job.reports.contains(part) && !is_held_back(part)
        };
        if !job.held_back.is_empty() && !job.parts.iter().any(lets_in) {
            return Some(format!("{id} has nobody who lets the next chunk into the queue"));
        }
        for (part, record) in &job.parts {
            let places = self.places(Task { job: id, part: Some(*part) });
            let expected = match record.state {
                _ if job.reports.contains(part) => [false; 4],
                State::Queued if job.held_back.iter().any(|(_, there)| there == part) => [false; 4],
                State::Queued => [false, places[1], !places[1], false],
                State::Running => [false, false, false, true],
                other => return Some(format!("{id}/{part} is {other}")),
            };
            if places != expected {
                return Some(format!("{id}/{part} is {} and stands in {places:?}", record.state));
            }
            if record.attempt > record.terms.max {
                return Some(format!("{id}/{part} was tried {} times", record.attempt));
            }
        }
        // The lease model, which is large, has no parts.
        if job.parts.is_empty() && job.split.is_none() {
            return None;
        }
        let all = self.pending.iter().map(|(_, task)| *task);
        let all = all.chain(self.scheduled.keys().copied()).chain(self.leases.keys().map(|l| (*l).into()));
        let stray =
            |task: &Task| task.job == id && task.part.is_some_and(|part| !job.parts.contains_key(&part));
        all.into_iter().find(stray).map(|task| format!("{task} is left of a job that is {}", job.state))
    }
}
