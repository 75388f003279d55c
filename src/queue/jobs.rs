//! The life of a job, call by call. Each is one script, so each happens whole or not at all.

use std::time::Duration;

use opentelemetry_semantic_conventions::attribute;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::outbox::Outbox;
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::job::{Epoch, Failure, JobId, JobResult, JobSpec, Millis, Priority, State, WorkerId};
use crate::trace::{self, TraceParent};

/// How a job begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitMode {
    /// Ready for a worker at once.
    Now,
    /// Ready after this long.
    After(Duration),
    /// Ready once its input stands in storage, which must happen within this long.
    OnUpload(Duration),
}

/// What became of a submit.
#[derive(Clone, Debug, PartialEq)]
pub enum SubmitOutcome {
    /// A new job.
    Created,
    /// A job with this id and the same spec stands there already.
    Same,
    /// A job with this id but another spec stands there already.
    Different(Box<JobSpec>),
}

/// What became of an object's arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadedOutcome {
    /// The job is ready for a worker.
    Queued,
    /// The job did not wait for an upload any more: a second event, or it ended meanwhile.
    Already(State),
    /// No such job.
    Unknown,
}

/// A job in a worker's hands, for as long as its lease is renewed.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// Which job.
    pub id: JobId,
    /// The attempt's fencing number.
    pub epoch: Epoch,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// What is asked for.
    pub spec: JobSpec,
    /// Redis's time at the claim.
    pub at: Millis,
    /// When the job was submitted: tells it from an older job of the same id, whose record expired.
    pub born: Millis,
    /// Whether an attempt at it began before this one.
    pub earlier: bool,
    /// When it became ready.
    pub queued: Millis,
    /// The trace of whoever submitted it.
    pub trace: Option<TraceParent>,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// A job.
    Job(Box<Claimed>),
    /// None is ready.
    Empty {
        /// When the next one is due, if the claim swept.
        next_due: Option<Millis>,
        /// Redis's time, if the claim swept.
        now: Option<Millis>,
    },
    /// The pool does not know this worker (any more).
    Unregistered,
    /// This worker was told to leave; it gets no further job.
    Retired,
}

/// What became of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompleteOutcome {
    /// The job is completed by this attempt.
    Done,
    /// It was already, by this very attempt (a repeated call).
    Already,
    /// The attempt had lost its lease; the job's state, if it still exists.
    Lost(Option<State>),
}

/// What became of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailOutcome {
    /// Another attempt is due then.
    Retry(Millis),
    /// The job failed for good.
    Failed,
    /// It was already, by this very attempt (a repeated call).
    Already,
    /// The attempt had lost its lease.
    Lost(Option<State>),
}

/// Why a job is called off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// Somebody wants it no more.
    Cancelled,
    /// Somebody wants it later: nobody is told, and a redrive lets it go on.
    Suspended,
    /// It took longer than it may over all its attempts: it has failed with this.
    DeadlineExceeded(Failure),
}

/// What became of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// Called off.
    Cancelled,
    /// It had ended before.
    Ended(State),
    /// No such job.
    Unknown,
}

/// What became of a redrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedriveOutcome {
    /// Ready for a worker again.
    Queued,
    /// Its upload expired, so there is nothing to try. Should the input come after all, that revives it.
    NeverUploaded,
    /// Only failed and cancelled jobs can be tried again.
    Wrong(State),
    /// No such job.
    Unknown,
}

/// What became of an upload's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireOutcome {
    /// The job failed.
    Failed,
    /// The job did not wait for an upload any more.
    Already(State),
    /// No such job.
    Unknown,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Jobs that became ready.
    pub ready: u32,
    /// When the next lease or delay runs out.
    pub next_due: Option<Millis>,
    /// Redis's time.
    pub now: Millis,
}

/// First wait before a retry, doubled each time up to [`RETRY_CAP`].
pub const RETRY_BASE: Duration = Duration::from_secs(5);
/// Longest wait before a retry.
pub const RETRY_CAP: Duration = Duration::from_secs(300);

fn ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// The answers of scripts: a list that begins with a word.
struct Answer<'a>(&'a str, &'a [Reply]);

impl<'a> Answer<'a> {
    fn of(reply: &'a Reply) -> Result<Self, QueueError> {
        let list = reply.list().unwrap_or_default();
        match list.first().and_then(Reply::text) {
            Some(word) => Ok(Self(word, &list[1..])),
            None => Err(QueueError::data(format!("a script answered {reply:?}"))),
        }
    }

    fn text(&self, at: usize) -> Result<&'a str, QueueError> {
        self.1.get(at).and_then(Reply::text).ok_or_else(|| self.unexpected())
    }

    fn int(&self, at: usize) -> Result<i64, QueueError> {
        self.1.get(at).and_then(Reply::int).ok_or_else(|| self.unexpected())
    }

    /// A time; nothing where it is -1.
    fn time(&self, at: usize) -> Result<Option<Millis>, QueueError> {
        Ok(Some(self.int(at)?).filter(|ms| *ms >= 0).map(Millis))
    }

    fn state(&self) -> Result<State, QueueError> {
        self.text(0)?.parse().map_err(|_| self.unexpected())
    }

    /// The state a job was found in; nothing where it is gone.
    fn found(&self) -> Result<Option<State>, QueueError> {
        if self.text(0)?.is_empty() { Ok(None) } else { self.state().map(Some) }
    }

    fn unexpected(&self) -> QueueError {
        QueueError::data(format!("a script answered {} {:?}", self.0, self.1))
    }
}

pub(super) fn parse_spec(json: &str) -> Result<JobSpec, QueueError> {
    serde_json::from_str(json).map_err(|e| QueueError::data(format!("a job's spec: {e}")))
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String, QueueError> {
    serde_json::to_string(value).map_err(|e| QueueError::data(e.to_string()))
}

impl UploadedOutcome {
    pub(super) fn parse(reply: &Reply) -> Result<Self, QueueError> {
        let answer = Answer::of(reply)?;
        match answer.0 {
            "QUEUED" => Ok(Self::Queued),
            "ALREADY" => Ok(Self::Already(answer.state()?)),
            "UNKNOWN" => Ok(Self::Unknown),
            _ => Err(answer.unexpected()),
        }
    }
}

impl Queue {
    /// Puts in a job. A second submit of the same job changes nothing.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn submit(
        &self,
        id: JobId,
        spec: &JobSpec,
        start: SubmitMode,
    ) -> Result<SubmitOutcome, QueueError> {
        self.submit_with_trace(None, id, spec, start).await
    }

    /// The same, in a span that the job's attempts become children of. Where no spans are sent, they become those of
    /// `caller`.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn submit_with_trace(
        &self,
        caller: Option<&TraceParent>,
        id: JobId,
        spec: &JobSpec,
        start: SubmitMode,
    ) -> Result<SubmitOutcome, QueueError> {
        let span = tracing::debug_span!(
            "submit",
            otel.name = "submit jobs",
            otel.kind = "producer",
            otel.status_code = Empty,
            { attribute::MESSAGING_SYSTEM } = trace::QUEUE_SYSTEM,
            { attribute::MESSAGING_DESTINATION_NAME } = trace::QUEUE_NAME,
            { attribute::MESSAGING_OPERATION_NAME } = "submit",
            { attribute::MESSAGING_OPERATION_TYPE } = "send",
            { attribute::MESSAGING_MESSAGE_ID } = %id,
            { attribute::ERROR_TYPE } = Empty,
        );
        let submitted = async {
            let here = trace::current();
            self.submit_as(here.as_ref().or(caller), id, spec, start).await
        };
        let outcome = submitted.instrument(span.clone()).await;
        if let Err(error) = &outcome {
            span.record(attribute::ERROR_TYPE, error.kind()).record("otel.status_code", "ERROR");
        }
        outcome
    }

    async fn submit_as(
        &self,
        trace: Option<&TraceParent>,
        id: JobId,
        spec: &JobSpec,
        start: SubmitMode,
    ) -> Result<SubmitOutcome, QueueError> {
        let (how, wait) = match start {
            SubmitMode::Now => ("queued", Duration::ZERO),
            SubmitMode::After(delay) if delay.is_zero() => ("queued", delay),
            SubmitMode::After(delay) => ("delayed", delay),
            SubmitMode::OnUpload(window) => ("uploading", window),
        };
        let args = vec![
            id.to_string(),
            how.to_owned(),
            ms(wait),
            to_json(spec)?,
            spec.max_attempts.to_string(),
            (spec.priority.get() * Priority::BOOST_MS).to_string(),
            Outbox::delivery_kind(spec),
            ms(self.policy.retention),
            jiff::Timestamp::now().as_millisecond().to_string(),
            trace.map_or_else(String::new, |trace| trace.as_str().to_owned()),
        ];
        let reply = self.eval_idempotent(&scripts::SUBMIT, args).await?;
        let answer = Answer::of(&reply)?;
        match answer.0 {
            "CREATED" => Ok(SubmitOutcome::Created),
            "EXISTS" => {
                let there = parse_spec(answer.text(0)?)?;
                Ok(if there == *spec {
                    SubmitOutcome::Same
                } else {
                    SubmitOutcome::Different(Box::new(there))
                })
            }
            _ => Err(answer.unexpected()),
        }
    }

    /// The input of a job stands in storage. That also revives a job whose upload had expired.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn uploaded(&self, id: JobId) -> Result<UploadedOutcome, QueueError> {
        UploadedOutcome::parse(&self.eval_idempotent(&scripts::UPLOADED, vec![id.to_string()]).await?)
    }

    /// Asks for a job. With `sweep`, expired leases and delayed jobs are seen to first (a few of them).
    ///
    /// `now` is Redis's time as the worker reckons it ([`super::ServerClock`]). It only says until when
    /// the worker counts as alive; a sweep goes by Redis's own clock, and tells it.
    ///
    /// Not repeated when the answer is lost: a job that was claimed unheard comes back when its lease
    /// runs out.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn claim(&self, worker: &WorkerId, now: Millis, sweep: bool) -> Result<Claim, QueueError> {
        const FEW: &str = "8";
        loop {
            let args = vec![
                worker.to_string(),
                now.0.to_string(),
                ms(self.policy.lease),
                ms(self.policy.alive),
                if sweep { FEW } else { "0" }.to_owned(),
            ];
            let reply = self.eval(&scripts::CLAIM, args).await?;
            let answer = Answer::of(&reply)?;
            return Ok(match answer.0 {
                "JOB" => Claim::Job(Box::new(Claimed {
                    id: answer.text(0)?.parse().map_err(|_| answer.unexpected())?,
                    epoch: Epoch(answer.int(1)?.try_into().map_err(|_| answer.unexpected())?),
                    attempt: answer.int(2)?.try_into().map_err(|_| answer.unexpected())?,
                    spec: parse_spec(answer.text(3)?)?,
                    at: Millis(answer.int(4)?),
                    born: Millis(answer.int(5)?),
                    earlier: answer.int(6)? == 1,
                    queued: Millis(answer.int(7)?),
                    trace: TraceParent::parse(answer.text(8)?),
                })),
                "EMPTY" => Claim::Empty { next_due: answer.time(0)?, now: answer.time(1)? },
                "UNREGISTERED" => Claim::Unregistered,
                "RETIRED" => Claim::Retired,
                // A leftover of a job that no longer waits; it is out of the queue now.
                "STRAY" => {
                    tracing::warn!(job = answer.text(0)?, "dropped an unreadable entry of jobs:pending");
                    continue;
                }
                _ => return Err(answer.unexpected()),
            });
        }
    }

    /// Renews a lease until `deadline`: one plain command while it is held. `false`: the lease is lost,
    /// the attempt must stop.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn renew(&self, id: JobId, epoch: Epoch, deadline: Millis) -> Result<bool, QueueError> {
        // Lost, or held until later than asked for, as when this very renewal is repeated.
        Ok(self.extend(id, epoch, deadline).await? || self.holds(id, epoch).await?)
    }

    /// Renews a lease for as long as the policy says from now on, by `clock`. A lease that is held until
    /// later than that shows that the clock is behind (the machine slept, or Redis's clock was set): then
    /// it is set right, and the lease renewed by it. `false`: the lease is lost, the attempt must stop.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn keep(
        &self,
        id: JobId,
        epoch: Epoch,
        clock: &super::ServerClock,
    ) -> Result<bool, QueueError> {
        let lease = i64::try_from(self.policy.lease.as_millis()).unwrap_or(i64::MAX);
        if self.extend(id, epoch, clock.now().plus(lease)).await? {
            return Ok(true);
        }
        if !self.holds(id, epoch).await? {
            return Ok(false);
        }
        clock.set(self.clock().await?.now());
        self.renew(id, epoch, clock.now().plus(lease)).await
    }

    async fn extend(&self, id: JobId, epoch: Epoch, deadline: Millis) -> Result<bool, QueueError> {
        let command = Command::new("ZADD")
            .arg(self.key("jobs:leases"))
            .args(["XX", "GT", "CH"])
            .arg(deadline.0.to_string())
            .arg(format!("{id}:{epoch}"));
        Ok(self.run(command).await?.int() == Some(1))
    }

    async fn holds(&self, id: JobId, epoch: Epoch) -> Result<bool, QueueError> {
        let command = Command::new("ZSCORE").arg(self.key("jobs:leases")).arg(format!("{id}:{epoch}"));
        Ok(self.run(command).await? != Reply::Nil)
    }

    /// Tells how far the encode is. `false`: the lease is lost.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn progress(&self, id: JobId, epoch: Epoch, percent: f64) -> Result<bool, QueueError> {
        let args = vec![id.to_string(), epoch.to_string(), format!("{percent:.1}")];
        let reply = self.eval(&scripts::PROGRESS, args).await?;
        Ok(Answer::of(&reply)?.0 == "OK")
    }

    /// The attempt's outputs are committed: the job is completed, if the attempt still holds it.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn complete(&self, job: &Claimed, result: &JobResult) -> Result<CompleteOutcome, QueueError> {
        let args = vec![
            job.id.to_string(),
            job.epoch.to_string(),
            to_json(result)?,
            Outbox::delivery_kind(&job.spec),
            ms(self.policy.retention),
        ];
        let reply = self.eval_idempotent(&scripts::COMPLETE, args).await?;
        let answer = Answer::of(&reply)?;
        match answer.0 {
            "DONE" => Ok(CompleteOutcome::Done),
            "ALREADY" => Ok(CompleteOutcome::Already),
            "LOST" => Ok(CompleteOutcome::Lost(answer.found()?)),
            _ => Err(answer.unexpected()),
        }
    }

    /// The attempt failed. Another one is due after a drawn wait, if the failure allows it and
    /// attempts are left.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn fail(&self, job: &Claimed, failure: &Failure) -> Result<FailOutcome, QueueError> {
        let again = failure.code.is_retryable() && job.attempt < job.spec.max_attempts;
        let wait = super::backoff::full_jitter(job.attempt, RETRY_BASE, RETRY_CAP);
        let args = vec![
            job.id.to_string(),
            job.epoch.to_string(),
            to_json(failure)?,
            if again { ms(wait) } else { "-1".to_owned() },
            Outbox::delivery_kind(&job.spec),
            ms(self.policy.retention),
        ];
        let reply = self.eval_idempotent(&scripts::FAIL, args).await?;
        let answer = Answer::of(&reply)?;
        match answer.0 {
            "RETRY" => Ok(FailOutcome::Retry(Millis(answer.int(0)?))),
            "FAILED" => Ok(FailOutcome::Failed),
            "ALREADY" => Ok(FailOutcome::Already),
            "LOST" => Ok(FailOutcome::Lost(answer.found()?)),
            _ => Err(answer.unexpected()),
        }
    }

    /// Hands a job back unharmed, its attempt not counted. `false`: the lease was lost already.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn release(&self, id: JobId, epoch: Epoch) -> Result<bool, QueueError> {
        let reply = self.eval(&scripts::RELEASE, vec![id.to_string(), epoch.to_string()]).await?;
        Ok(Answer::of(&reply)?.0 == "RELEASED")
    }

    /// Calls a job off because somebody wants it no more.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn cancel(&self, id: JobId) -> Result<CancelOutcome, QueueError> {
        self.cancel_with(id, &CancelReason::Cancelled).await
    }

    /// Calls a job off. One that is only suspended can still be cancelled.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn cancel_with(&self, id: JobId, why: &CancelReason) -> Result<CancelOutcome, QueueError> {
        let (how, failure) = match why {
            CancelReason::Cancelled => ("cancelled", String::new()),
            CancelReason::Suspended => ("suspended", String::new()),
            CancelReason::DeadlineExceeded(failure) => ("overdue", to_json(failure)?),
        };
        let args = vec![id.to_string(), how.to_owned(), failure];
        let reply = self.eval_idempotent(&scripts::CANCEL, args).await?;
        let answer = Answer::of(&reply)?;
        match answer.0 {
            "CANCELLED" => Ok(CancelOutcome::Cancelled),
            "ENDED" => Ok(CancelOutcome::Ended(answer.state()?)),
            "UNKNOWN" => Ok(CancelOutcome::Unknown),
            _ => Err(answer.unexpected()),
        }
    }

    /// Gives a failed or cancelled job a fresh set of attempts.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn redrive(&self, id: JobId) -> Result<RedriveOutcome, QueueError> {
        let reply = self.eval(&scripts::REDRIVE, vec![id.to_string()]).await?;
        let answer = Answer::of(&reply)?;
        match answer.0 {
            "QUEUED" => Ok(RedriveOutcome::Queued),
            "NEVER_UPLOADED" => Ok(RedriveOutcome::NeverUploaded),
            "WRONG" => Ok(RedriveOutcome::Wrong(answer.state()?)),
            "UNKNOWN" => Ok(RedriveOutcome::Unknown),
            _ => Err(answer.unexpected()),
        }
    }

    /// An upload never came: the job fails, if it still waits for it.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn expire_upload(&self, id: JobId, failure: &Failure) -> Result<ExpireOutcome, QueueError> {
        let reply = self.eval_idempotent(&scripts::EXPIRE, vec![id.to_string(), to_json(failure)?]).await?;
        let answer = Answer::of(&reply)?;
        match answer.0 {
            "FAILED" => Ok(ExpireOutcome::Failed),
            "ALREADY" => Ok(ExpireOutcome::Already(answer.state()?)),
            "UNKNOWN" => Ok(ExpireOutcome::Unknown),
            _ => Err(answer.unexpected()),
        }
    }

    /// Reaps expired leases and promotes delayed jobs, at most `limit` of each.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn sweep(&self, limit: u32) -> Result<Sweep, QueueError> {
        let reply = self.eval_idempotent(&scripts::SWEEP, vec![limit.to_string()]).await?;
        match reply.list().map(|l| l.iter().map(Reply::int).collect::<Vec<_>>()).as_deref() {
            Some([Some(ready), Some(due), Some(now)]) => Ok(Sweep {
                ready: u32::try_from(*ready).unwrap_or(0),
                next_due: Some(*due).filter(|due| *due >= 0).map(Millis),
                now: Millis(*now),
            }),
            _ => Err(QueueError::data(format!("sweep answered {reply:?}"))),
        }
    }
}
