//! The operations of split jobs and their parts.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tcoder::job::{JobId, Part, State};
use tcoder::queue::{self, Claimable, Claimed, NewPart, NextClaim, PartOutcome, PartsInfo};

use super::{Lockstep, PLAN};
use crate::queue::model::Task;

impl Lockstep<'_> {
    /// The number of parts of the job to which this part belongs; any number will do once it has ended.
    pub(super) fn parts_of(&self, c: &Claimed) -> usize {
        self.model.jobs[&c.attempt.job].parts.len()
    }

    /// When a task was queued, by its record.
    pub(super) fn queued(&mut self, task: Task) -> i64 {
        let key = self.key(&format!("jobs:status:{task}"));
        let queued: Option<String> = redis::cmd("HGET").arg(key).arg("queued").query(self.redis).unwrap();
        queued.and_then(|queued| queued.parse().ok()).unwrap_or(0)
    }

    pub(super) async fn split(&mut self, claim: u8, chunks: u32, at_once: u32) -> Result<(), TestCaseError> {
        let Some(c) = self.claim(claim).filter(|c| c.part.is_none()) else { return Ok(()) };
        let chunks = (0..chunks).map(|n| (Part::Chunk(n), i64::from(n) * 5000, n >= at_once));
        let parts: Vec<(Part, i64, bool)> = [(Part::Audio, 0, false)].into_iter().chain(chunks).collect();
        let new: Vec<NewPart> = parts
            .iter()
            .map(|&(part, behind_ms, is_held_back)| NewPart {
                part,
                behind_ms,
                segments: (part != Part::Audio).then_some(1),
                is_held_back,
            })
            .collect();
        let real = self.queue.split(c.attempt, PLAN, &new).await.unwrap();
        let now = self.queued(Task { job: c.attempt.job, part: Some(Part::Audio) });
        prop_assert_eq!(real, self.model.split(c.attempt, &parts, now));
        Ok(())
    }

    pub(super) async fn complete_and_claim(&mut self, claim: u8, worker: u8) -> Result<(), TestCaseError> {
        let Some(c) = self.claim(claim).filter(|c| c.part.is_some()) else { return Ok(()) };
        let (total, name) = (self.parts_of(&c), self.workers[worker as usize].clone());
        let now = crate::queue::now(&self.queue).await;
        let next =
            NextClaim { worker: &name, now, sweep: false, claimable: Claimable::Any, is_known_alive: true };
        let (real, next) = self.queues[worker as usize]
            .complete_part(&c, "report", PartsInfo { count: total, can_play: false }, Some(next))
            .await
            .unwrap();
        let outcome = self.model.complete_part(c.lease(), 0);
        prop_assert_eq!(real, outcome);
        if real == PartOutcome::Done {
            self.queued_by_event(c.attempt.job, next.as_ref());
        }
        match next {
            // The worker let a lease expire, and this call completed nothing.
            Some(queue::Claim::Unregistered) => {
                prop_assert!(real != PartOutcome::Done);
                crate::queue::worker(&self.queue, &name.0).await;
                Ok(())
            }
            Some(next) => self.compare_claim(worker, next),
            None => Err(TestCaseError::fail("nothing can be left to another claim")),
        }
    }

    /// A job whose last part is completed was queued at the time of an event, and may be claimed since.
    fn queued_by_event(&mut self, id: JobId, next: Option<&queue::Claim>) {
        let is_queued = self.model.jobs[&id].state == State::Queued;
        let at = match next {
            Some(queue::Claim::Job(job)) if job.attempt.job == id && job.part.is_none() => job.queued.0,
            _ => self.queued(id.into()),
        };
        if let Some(job) = self.model.jobs.get_mut(&id).filter(|_| is_queued) {
            job.queued = Some(at);
        }
    }
}
