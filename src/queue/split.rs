//! Jobs that are encoded in parts on several workers: the split, the completion of a part, and what the parts report.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::claim::{Claim, ClaimReply, Claimed, Keep};
use super::codec::{ScriptReply, parse_spec, text_items};
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::job::{AttemptId, JobId, JobSpec, LeaseId, Millis, Part, State, WorkerId};
use crate::trace::TraceParent;

/// What a part has in common with its job.
#[derive(Clone)]
pub(super) struct PartTerms {
    pub spec: JobSpec,
    pub born: Millis,
    pub trace: Option<TraceParent>,
    pub keep: Keep,
    pub plan: Option<Arc<str>>,
}

/// The terms of the job whose parts this process claimed last: it mostly claims several of one job.
#[derive(Default)]
pub(super) struct LastSplit(Mutex<Option<(AttemptId, PartTerms)>>);

impl LastSplit {
    fn get(&self, by: AttemptId) -> Option<PartTerms> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(of, _)| *of == by).map(|(_, terms)| terms.clone())
    }

    fn put(&self, by: AttemptId, terms: PartTerms) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((by, terms));
    }
}

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

/// The claim that goes with the completion of a part.
#[derive(Clone, Copy, Debug)]
pub struct NextClaim<'a> {
    /// The worker.
    pub worker: &'a WorkerId,
    /// Its estimate of Redis's time.
    pub now: Millis,
    /// Whether to reap some expired leases and promote some delayed tasks first.
    pub sweep: bool,
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
    /// Splits a job into parts, each of which is ready for a worker this many milliseconds behind the job's own place
    /// in the queue. The attempt ends with that: when the last part is completed, the job is queued again, to be
    /// finished.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn split(
        &self,
        attempt: AttemptId,
        plan: &str,
        parts: &[(Part, i64)],
    ) -> Result<SplitOutcome, QueueError> {
        let mut args = vec![attempt.job.to_string(), attempt.epoch.to_string(), plan.to_owned()];
        args.extend(parts.iter().flat_map(|(part, behind)| [part.to_string(), behind.to_string()]));
        let reply = self.eval_idempotent(&scripts::SPLIT, args).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "SPLIT" => Ok(SplitOutcome::Split),
            "ALREADY" => Ok(SplitOutcome::Already),
            "LOST" => Ok(SplitOutcome::Lost(answer.found()?)),
            _ => Err(answer.unexpected()),
        }
    }

    /// Completes a part of a job that was split into `parts` parts, if the attempt still holds the lease, and claims the worker's
    /// next task with the same call. `None` means that the worker has to claim by another call.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn complete_part(
        &self,
        job: &Claimed,
        report: &str,
        parts: usize,
        next: Option<NextClaim<'_>>,
    ) -> Result<(PartOutcome, Option<Claim>), QueueError> {
        let lease = job.lease();
        let args = vec![
            lease.task(),
            lease.epoch.to_string(),
            report.to_owned(),
            job.split_epoch(),
            parts.to_string(),
        ];
        let Some(next) = next else {
            let reply = self.eval_idempotent(&scripts::COMPLETE_PART, args).await?;
            return Ok((part_outcome(&reply)?, None));
        };
        let mut call = self.claim_call(next.worker, next.now, next.sweep);
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

    /// The parts of a job that are not completed yet.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn open_parts(&self, job: JobId) -> Result<Vec<Part>, QueueError> {
        let all = Command::new("SMEMBERS").arg(self.key(&format!("jobs:parts:{job}")));
        let done = Command::new("HKEYS").arg(self.reports_key(job));
        let replies = self.pipeline(vec![all, done]).await?;
        let names = |at: usize| replies.get(at).map(|reply| text_items(reply).collect::<BTreeSet<_>>());
        let (all, done) = (names(0).unwrap_or_default(), names(1).unwrap_or_default());
        let mut open: Vec<Part> = all.difference(&done).filter_map(|part| part.parse().ok()).collect();
        open.sort();
        Ok(open)
    }

    fn reports_key(&self, job: JobId) -> String {
        self.key(&format!("jobs:reports:{job}"))
    }

    /// The terms of the tasks that follow from the split by this attempt; `None` if the job has ended, or was split
    /// anew.
    pub(super) async fn split_terms(
        &self,
        by: AttemptId,
        part: Option<Part>,
    ) -> Result<Option<PartTerms>, QueueError> {
        if let Some(terms) = self.last_split.get(by) {
            return Ok(Some(terms));
        }
        const FIELDS: [&str; 9] =
            ["spec", "created", "trace", "keep", "keep_input", "keep_outputs", "state", "split", "epoch"];
        let record = Command::new("HMGET").arg(self.status_key(by.job)).args(FIELDS);
        let plan = Command::new("HGET").arg(self.reports_key(by.job)).arg("plan");
        let replies = self.pipeline(vec![record, plan]).await?;
        let fields = replies.first().and_then(Reply::list).unwrap_or_default();
        let text = |at: usize| fields.get(at).and_then(Reply::text).unwrap_or_default();
        let plan = replies.get(1).and_then(Reply::text);
        let epoch = by.epoch.to_string();
        // While a job waits for its parts, its last attempt is the one that split it.
        let is_current = text(6) == "running" && text(7) == epoch && (part.is_none() || text(8) == epoch);
        let Some(plan) = plan.filter(|_| is_current) else { return Ok(None) };
        let terms = PartTerms {
            spec: parse_spec(text(0))?,
            born: Millis(text(1).parse().map_err(|_| QueueError::data("a job's time of submission"))?),
            trace: TraceParent::parse(text(2)),
            keep: Keep { record: text(3).to_owned(), input: text(4).to_owned(), outputs: text(5).to_owned() },
            plan: Some(plan.into()),
        };
        self.last_split.put(by, terms.clone());
        Ok(Some(terms))
    }

    /// Removes a part that is left of a job which has ended, or was split anew.
    pub(super) async fn drop_part(&self, lease: LeaseId, by: AttemptId) -> Result<(), QueueError> {
        let args = vec![lease.task(), lease.epoch.to_string(), by.epoch.to_string()];
        self.eval_idempotent(&scripts::DROP_PART, args).await.map(drop)
    }
}

fn part_outcome(reply: &Reply) -> Result<PartOutcome, QueueError> {
    let answer = ScriptReply::of(reply)?;
    match answer.word {
        "DONE" => Ok(PartOutcome::Done),
        "ALREADY" => Ok(PartOutcome::Already),
        "LOST" => Ok(PartOutcome::Lost),
        _ => Err(answer.unexpected()),
    }
}
