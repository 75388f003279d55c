//! Jobs that are encoded in parts on several workers: the split, the completion of a part, and what the parts report.

use std::sync::Arc;

use super::claim::{Claim, ClaimReply, Claimable, Claimed};
use super::codec::ScriptReply;
use super::outbox::Outbox;
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::job::{AttemptId, Millis, Part, State, WorkerId};

/// The outcome of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitOutcome {
    /// The parts are ready for workers, and the calling worker no longer holds the job.
    Split,
    /// This attempt split the job before; the call was repeated.
    Already,
    /// The attempt had lost its lease. Contains the job's state, if the job still exists.
    Lost(Option<State>),
}

/// The outcome of the completion of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartOutcome {
    /// The part is completed.
    Done,
    /// It was completed before; the call was repeated, or the lease was lost to an attempt that has completed it.
    Already,
    /// The attempt had lost its lease.
    Lost,
}

/// A part of a job that is to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPart {
    /// Which part.
    pub part: Part,
    /// By how many milliseconds its place in the queue is behind that of the job.
    pub behind_ms: i64,
    /// The number of segments of a chunk.
    pub segments: Option<u32>,
    /// Whether it enters the queue only when a chunk before it is completed, or a viewer waits for it.
    pub is_held_back: bool,
}

/// What is to be known about all parts of a job when one is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsInfo {
    /// Their number.
    pub count: usize,
    /// Whether players can play the job once its sound and its first chunk are there.
    pub can_play: bool,
}

/// The claim that goes with the completion of a part.
#[derive(Clone, Copy, Debug)]
pub struct NextClaim<'a> {
    /// The worker.
    pub worker: &'a WorkerId,
    /// Its estimate of Redis's time.
    pub now: Millis,
    /// Whether to reap some expired leases and promote some delayed tasks first.
    pub sweep: bool,
    /// What may be claimed.
    pub claimable: Claimable,
    /// Whether the worker said within the last minute that it is alive, so that it need not be stored again.
    pub is_known_alive: bool,
}

/// What the parts of a job have reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReports {
    /// The plan, as the attempt wrote it that split the job.
    pub plan: Arc<str>,
    /// The report of each part, in the order of the parts.
    pub reports: Vec<(Part, String)>,
}

impl Queue {
    /// Splits a job into parts, the chunks in their order. The attempt ends with that: when the last part is completed,
    /// the job is queued again, to be finished.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn split(
        &self,
        attempt: AttemptId,
        plan: &str,
        parts: &[NewPart],
    ) -> Result<SplitOutcome, QueueError> {
        let segments: Vec<String> =
            parts.iter().filter_map(|part| part.segments).map(|count| count.to_string()).collect();
        let mut args =
            vec![attempt.job.to_string(), attempt.epoch.to_string(), plan.to_owned(), segments.join(",")];
        let flag = |new: &NewPart| if new.is_held_back { "1" } else { "0" }.to_owned();
        args.extend(
            parts.iter().flat_map(|new| [new.part.to_string(), new.behind_ms.to_string(), flag(new)]),
        );
        let reply = self.eval_idempotent(&scripts::SPLIT, args).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "SPLIT" => Ok(SplitOutcome::Split),
            "ALREADY" => Ok(SplitOutcome::Already),
            "LOST" => Ok(SplitOutcome::Lost(answer.found()?)),
            _ => Err(answer.unexpected()),
        }
    }

    /// Completes a part of a job, if the attempt still holds the lease, and claims the worker's
    /// next task with the same call. `None` means that the worker has to claim by another call.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn complete_part(
        &self,
        job: &Claimed,
        report: &str,
        parts: PartsInfo,
        next: Option<NextClaim<'_>>,
    ) -> Result<(PartOutcome, Option<Claim>), QueueError> {
        let lease = job.lease();
        let args = vec![
            lease.task(),
            lease.epoch.to_string(),
            report.to_owned(),
            job.split_epoch(),
            parts.count.to_string(),
            if parts.can_play { "1" } else { "0" }.to_owned(),
            Outbox::delivery_kind(&job.spec),
        ];
        let Some(next) = next else {
            let reply = self.eval_idempotent(&scripts::COMPLETE_PART, args).await?;
            return Ok((part_outcome(&reply)?, None));
        };
        let mut call = self.claim_call(next.worker, next.now, next.sweep, next.claimable);
        let known = if next.is_known_alive { "1" } else { "0" };
        let reply = self
            .answered(&scripts::COMPLETE_PART, &mut call, |queue, call| {
                [args.clone(), queue.claim_args(call), vec![known.to_owned()]].concat()
            })
            .await?;
        let outcome = part_outcome(&reply)?;
        let Some(claim) = reply.list().and_then(|list| list.get(1)) else {
            return Err(QueueError::data(format!("complete_part answered {reply:?}")));
        };
        // The part is completed, whatever becomes of the claim; the worker's next one finds what this one has claimed.
        match self.claim_reply(call, claim).await {
            Ok(ClaimReply::Claim(claim)) => Ok((outcome, Some(claim))),
            Ok(ClaimReply::Again | ClaimReply::Newer) => Ok((outcome, None)),
            Err(error) => {
                tracing::warn!(job = %lease.job, %error, "could not claim the next task with the completion of a part");
                Ok((outcome, None))
            }
        }
    }

    /// Reports that a part cannot be encoded by itself. The job is queued at once, to be encoded as a whole, and the other
    /// parts are dropped. Returns `false` if the attempt had lost its lease.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn give_up_part(&self, job: &Claimed, report: &str) -> Result<bool, QueueError> {
        let lease = job.lease();
        let args = vec![lease.task(), lease.epoch.to_string(), report.to_owned(), job.split_epoch()];
        let reply = self.eval_idempotent(&scripts::GIVE_UP_PART, args).await?;
        Ok(ScriptReply::of(&reply)?.word == "DONE")
    }

    /// What the parts have reported into which this attempt split its job; `None` if the job has ended, or was split
    /// anew.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn part_reports(&self, by: AttemptId) -> Result<Option<PartReports>, QueueError> {
        let reports = Command::new("HGETALL").arg(self.reports_key(by.job));
        // Read afterwards: the reports are those of this split if it is still the newest one then.
        let newest = Command::new("HGET").arg(self.status_key(by.job)).arg("split");
        let replies = self.pipeline(vec![reports, newest]).await?;
        let [reply, newest] = replies.as_slice() else {
            return Err(QueueError::data("the reports of a job"));
        };
        if newest.text() != Some(&*by.epoch.to_string()) {
            return Ok(None);
        }
        let mut plan = None;
        let mut reports = Vec::new();
        for pair in reply.list().unwrap_or_default().chunks_exact(2) {
            let (Some(name), Some(text)) = (pair[0].text(), pair[1].text()) else { continue };
            match name.parse::<Part>() {
                Ok(part) => reports.push((part, text.to_owned())),
                Err(_) if name == "plan" => plan = Some(text.into()),
                Err(_) => return Err(QueueError::data(format!("a report of the part {name:?}"))),
            }
        }
        reports.sort_by_key(|(part, _)| *part);
        Ok(plan.map(|plan| PartReports { plan, reports }))
    }

    /// Has the outputs of a split deleted, if the job knows nothing of it any more. A worker calls this that has lost the
    /// lease of a part: if a failover has forgotten the split, nobody else knows of its outputs.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn abandon_split(&self, by: AttemptId) -> Result<(), QueueError> {
        let args = vec![by.job.to_string(), by.epoch.to_string()];
        self.eval_idempotent(&scripts::ABANDON_SPLIT, args).await.map(drop)
    }

    /// Reports how many segments of the sound are in storage, while it is encoded. Returns `false` if the lease is lost.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn report_sound(&self, job: &Claimed, segments: u32) -> Result<bool, QueueError> {
        let lease = job.lease();
        let args = vec![
            lease.task(),
            lease.epoch.to_string(),
            job.split_epoch(),
            segments.to_string(),
            Outbox::delivery_kind(&job.spec),
        ];
        let reply = self.eval_idempotent(&scripts::SOUND, args).await?;
        Ok(ScriptReply::of(&reply)?.word == "OK")
    }
}

pub(super) fn part_outcome(reply: &Reply) -> Result<PartOutcome, QueueError> {
    let answer = ScriptReply::of(reply)?;
    match answer.word {
        "DONE" => Ok(PartOutcome::Done),
        "ALREADY" => Ok(PartOutcome::Already),
        "LOST" => Ok(PartOutcome::Lost),
        _ => Err(answer.unexpected()),
    }
}
