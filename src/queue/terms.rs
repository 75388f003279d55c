//! What a worker needs to know about a job beside what it claims: for how long things are kept, and what a part has in
//! common with its job.

use std::sync::{Arc, Mutex, PoisonError};

use super::codec::parse_spec;
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::job::{AttemptId, JobId, JobSpec, LeaseId, Millis, Part};
use crate::trace::TraceParent;

/// For how many milliseconds a job's record, its input and its outputs are kept after its end, as the submitter wrote it
/// into the record. Empty: for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keep {
    pub record: String,
    pub input: String,
    pub outputs: String,
}

impl Keep {
    /// The arguments of scripts that end a job.
    pub(super) fn args(&self) -> Vec<String> {
        vec![self.record.clone(), self.input.clone(), self.outputs.clone()]
    }
}

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

impl Queue {
    /// The key of the plan and the reports of a split job.
    pub(super) fn reports_key(&self, job: JobId) -> String {
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
        let terms = self.newest_terms(by, part).await?;
        if let Some(terms) = &terms {
            self.last_split.put(by, terms.clone());
        }
        Ok(terms)
    }

    /// The same, as Redis has them at the moment.
    pub(super) async fn newest_terms(
        &self,
        by: AttemptId,
        part: Option<Part>,
    ) -> Result<Option<PartTerms>, QueueError> {
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
        Ok(Some(PartTerms {
            spec: parse_spec(text(0))?,
            born: Millis(text(1).parse().map_err(|_| QueueError::data("a job's time of submission"))?),
            trace: TraceParent::parse(text(2)),
            keep: Keep { record: text(3).to_owned(), input: text(4).to_owned(), outputs: text(5).to_owned() },
            plan: Some(plan.into()),
        }))
    }

    /// Removes a part that is left of a job which has ended, or was split anew.
    pub(super) async fn drop_part(&self, lease: LeaseId, by: AttemptId) -> Result<(), QueueError> {
        let args = vec![lease.task(), lease.epoch.to_string(), by.epoch.to_string()];
        self.eval_idempotent(&scripts::DROP_PART, args).await.map(drop)
    }
}
