//! Sweeps: expired leases, and delays that have passed.

use tcoder::job::{FailureCode, LeaseId, State, Transition};

use super::{Model, Mutant, Task};

impl Model {
    /// Ends an expired lease; returns whether the task became ready.
    pub fn reap(&mut self, lease: LeaseId, now: i64) -> bool {
        self.leases.remove(&lease);
        let task = Task::from(lease);
        let mutant = self.mutant;
        let job = self.task(task);
        let is_new = !job.verify;
        if is_new {
            job.error = Some(FailureCode::WorkerLost);
            job.verify = job.attempt >= job.terms.max && mutant != Mutant::Uncounted;
        }
        if job.verify && mutant == Mutant::Unverified {
            self.end(task.job, Transition::Fail, now);
            return false;
        }
        let job = self.task(task);
        job.queued = Some(now);
        let rank = job.rank;
        self.change(task, Transition::Retry);
        if mutant != Mutant::Forgets {
            self.pending.insert((rank, task));
        }
        self.tell(task, State::Queued);
        if is_new {
            self.tell_failed_part(lease, FailureCode::WorkerLost, 0);
        }
        true
    }

    /// Queues a task whose delay has passed.
    pub fn promote(&mut self, task: Task, now: i64) {
        self.scheduled.remove(&task);
        self.task(task).retry = None;
        self.enqueue(task, now);
    }

    /// Reaps and promotes what is due, at most `limit` of each. Returns how many jobs became ready, and when
    /// the next is due (`now` if the limit was reached).
    pub fn sweep(&mut self, now: i64, limit: usize) -> (u32, Option<i64>) {
        let mut leases: Vec<(i64, String, LeaseId)> =
            self.leases.iter().map(|(name, at)| (*at, name.to_string(), *name)).collect();
        leases.sort();
        leases.truncate(limit);
        let mut delays: Vec<(i64, Task)> = self.scheduled.iter().map(|(task, at)| (*at, *task)).collect();
        delays.sort();
        delays.truncate(limit);
        let next = |dues: Vec<i64>| {
            let left = (dues.len() == limit).then_some(now);
            dues.into_iter().find(|at| *at > now).or(left)
        };
        let dues = [next(leases.iter().map(|l| l.0).collect()), next(delays.iter().map(|d| d.0).collect())];
        let mut ready = 0;
        for (_, _, name) in leases.iter().filter(|l| l.0 <= now) {
            ready += u32::from(self.reap(*name, now));
        }
        for (_, task) in delays.iter().filter(|d| d.0 <= now) {
            self.promote(*task, now);
            ready += 1;
        }
        (ready, dues.into_iter().flatten().min())
    }
}
