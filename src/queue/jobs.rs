//! The transitions of a job. Each is one script, so it is atomic.

use std::time::Duration;

use opentelemetry_semantic_conventions::attribute;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::codec::{ScriptReply, parse_spec, to_json};
use super::outbox::Outbox;
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::job::{AttemptId, Epoch, Failure, JobId, JobResult, JobSpec, Millis, Priority, State, WorkerId};
use crate::trace::{self, TraceParent};

/// How a job starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitMode {
    /// The job is ready for a worker at once.
    Now,
    /// The job is ready after this delay.
    After(Duration),
    /// The job is ready when its input is in storage. It fails if that takes longer than this.
    OnUpload(Duration),
}

/// The outcome of a submit.
#[derive(Clone, Debug, PartialEq)]
pub enum SubmitOutcome {
    /// The job is new.
    Created,
    /// A job with this id and the same spec exists already.
    Same,
    /// A job with this id but another spec exists already.
    Different(Box<JobSpec>),
}

/// The outcome of reporting an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadedOutcome {
    /// The job is now ready for a worker.
    Queued,
    /// The job no longer waits for an upload: the report is a duplicate, or the job ended in the meantime.
    Already(State),
    /// The job does not exist.
    Unknown,
}

/// A job that a worker holds for as long as it renews the lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The attempt that the worker makes.
    pub attempt: AttemptId,
    /// Which attempt of the job it is, from 1.
    pub number: u32,
    /// What to encode, and how.
    pub spec: JobSpec,
    /// Redis's time at the claim.
    pub at: Millis,
    /// When the job was submitted. It distinguishes the job from an older one with the same id, whose record has
    /// expired.
    pub born: Millis,
    /// Whether an earlier attempt of this job has started.
    pub earlier: bool,
    /// When the job became ready.
    pub queued: Millis,
    /// The trace of the submitter.
    pub trace: Option<TraceParent>,
    /// Why the attempt before failed.
    pub previous: Option<Failure>,
    /// The job's attempts are used up, and this claim only finds out whether one of them has committed its result.
    /// If none has, the job fails with this failure.
    pub verify: Option<Failure>,
}

impl Claimed {
    /// Whether no further attempt follows one that fails like this.
    #[must_use]
    pub fn is_last(&self, failure: &Failure) -> bool {
        let is_final = !failure.code.is_retryable() || failure.recurs(self.previous.as_ref());
        is_final || self.number >= self.spec.max_attempts
    }
}

/// The outcome of a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// The worker now holds this job.
    Job(Box<Claimed>),
    /// No job is ready.
    Empty {
        /// When the next one is due, if the claim swept.
        next_due: Option<Millis>,
        /// Redis's time, if the claim swept.
        now: Option<Millis>,
    },
    /// The worker is not registered, or no longer.
    Unregistered,
    /// The worker was retired; it gets no further job.
    Retired,
}

/// The outcome of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompleteOutcome {
    /// The job is completed by this attempt.
    Done,
    /// This attempt completed the job before; the call was repeated.
    Already,
    /// The attempt had lost its lease. Contains the job's state, if the job still exists.
    Lost(Option<State>),
}

/// The outcome of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailOutcome {
    /// The job is retried at this time.
    Retry(Millis),
    /// The job has failed; there is no further attempt.
    Failed,
    /// This attempt reported the failure before; the call was repeated.
    Already,
    /// The attempt had lost its lease.
    Lost(Option<State>),
}

/// Why a job is cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// A user cancelled it.
    Cancelled,
    /// A user suspended it: no webhook is sent, and a redrive resumes it.
    Suspended,
    /// All attempts together took longer than permitted: the job fails with this failure.
    DeadlineExceeded(Failure),
}

/// The outcome of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The job is cancelled.
    Cancelled,
    /// The job had already ended in this state.
    Ended(State),
    /// The job does not exist.
    Unknown,
}

/// The outcome of a redrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedriveOutcome {
    /// The job is ready for a worker again.
    Queued,
    /// Its upload never arrived, so there is nothing to retry. If the input arrives later, the job is queued
    /// nevertheless.
    NeverUploaded,
    /// Only failed and cancelled jobs can be retried. Contains the job's state.
    Wrong(State),
    /// The job does not exist.
    Unknown,
}

/// The outcome of expiring an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireOutcome {
    /// The job failed.
    Failed,
    /// The job no longer waits for an upload.
    Already(State),
    /// The job does not exist.
    Unknown,
}

/// The outcome of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The number of jobs that became ready.
    pub ready: u32,
    /// When the next lease or delay expires.
    pub next_due: Option<Millis>,
    /// Redis's time.
    pub now: Millis,
}

/// First pause before a retry; it is doubled each time up to [`RETRY_CAP`].
pub const RETRY_BASE: Duration = Duration::from_secs(5);
/// Pause before a job is claimed again that this version could not read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// How often a claim is repeated whose reply was lost.
const CLAIM_RETRIES: u32 = 4;
/// Maximum pause before a retry.
pub const RETRY_CAP: Duration = Duration::from_secs(300);

/// Names a claim, so that one whose reply was lost is found again.
fn new_token() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn claimed_attempt(answer: &ScriptReply<'_>) -> Result<AttemptId, QueueError> {
    let job = answer.text(0)?.parse().map_err(|_| answer.unexpected())?;
    let epoch = Epoch(answer.int(1)?.try_into().map_err(|_| answer.unexpected())?);
    Ok(AttemptId { job, epoch })
}

fn ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

impl UploadedOutcome {
    pub(super) fn parse(reply: &Reply) -> Result<Self, QueueError> {
        let answer = ScriptReply::of(reply)?;
        match answer.word {
            "QUEUED" => Ok(Self::Queued),
            "ALREADY" => Ok(Self::Already(answer.state()?)),
            "UNKNOWN" => Ok(Self::Unknown),
            _ => Err(answer.unexpected()),
        }
    }
}

impl Queue {
    /// Submits a job. Submitting the same job again changes nothing.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn submit(
        &self,
        id: JobId,
        spec: &JobSpec,
        start: SubmitMode,
    ) -> Result<SubmitOutcome, QueueError> {
        self.submit_with_trace(None, id, spec, start).await
    }

    /// Like [`Queue::submit`], with a span that becomes the parent of the job's attempts. If no spans are exported,
    /// `caller` becomes their parent.
    ///
    /// # Errors
    /// If Redis fails.
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
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
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

    /// Reports that the input of a job is in storage. This also revives a job whose upload had expired.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn uploaded(&self, id: JobId) -> Result<UploadedOutcome, QueueError> {
        UploadedOutcome::parse(&self.eval_idempotent(&scripts::UPLOADED, vec![id.to_string()]).await?)
    }

    /// Claims a job. With `sweep`, first reaps some expired leases and promotes some delayed jobs.
    ///
    /// `now` is the worker's estimate of Redis's time ([`super::ServerClock`]). It only determines until when the
    /// worker counts as alive; a sweep uses Redis's own clock and returns it.
    ///
    /// If the reply may be lost, the call is repeated, and finds the job that it claimed by a token.
    ///
    /// # Errors
    /// If Redis fails. A job that was claimed without the worker's knowledge returns to the queue when its lease
    /// expires.
    pub async fn claim(&self, worker: &WorkerId, now: Millis, sweep: bool) -> Result<Claim, QueueError> {
        const FEW: &str = "8";
        let mut token = new_token();
        let mut again = false;
        let mut tries = 0;
        loop {
            let args = vec![
                worker.to_string(),
                now.0.to_string(),
                ms(self.policy.lease),
                ms(self.policy.alive),
                if sweep { FEW } else { "0" }.to_owned(),
                ms(self.policy.grace),
                ms(self.grace_left()),
                token.clone(),
                if again { "1" } else { "0" }.to_owned(),
            ];
            let reply = match self.eval(&scripts::CLAIM, args).await {
                Err(error) if error.is_transient() && tries < CLAIM_RETRIES => {
                    (again, tries) = (true, tries + 1);
                    let pause = super::backoff::full_jitter(
                        tries,
                        Duration::from_millis(100),
                        Duration::from_secs(2),
                    );
                    crate::time::sleep(pause).await;
                    continue;
                }
                reply => reply?,
            };
            let answer = ScriptReply::of(&reply)?;
            if answer.word == "JOB"
                && let Err(error) = parse_spec(answer.text(3)?)
            {
                // Another version submitted it, and a worker of that version can do it.
                let attempt = claimed_attempt(&answer)?;
                tracing::warn!(job = %attempt.job, %error, "handing back a job that this version cannot read");
                self.release_after(attempt, UNREADABLE_PAUSE).await?;
                (token, again) = (new_token(), false);
                continue;
            }
            return Ok(match answer.word {
                "JOB" => Claim::Job(Box::new(Claimed {
                    attempt: claimed_attempt(&answer)?,
                    number: answer.int(2)?.try_into().map_err(|_| answer.unexpected())?,
                    spec: parse_spec(answer.text(3)?)?,
                    at: Millis(answer.int(4)?),
                    born: Millis(answer.int(5)?),
                    earlier: answer.int(6)? == 1,
                    queued: Millis(answer.int(7)?),
                    trace: TraceParent::parse(answer.text(8)?),
                    previous: answer.failure(9)?,
                    verify: answer.failure(9)?.filter(|_| answer.int(10).is_ok_and(|verifies| verifies == 1)),
                })),
                "EMPTY" => Claim::Empty { next_due: answer.time(0)?, now: answer.time(1)? },
                "UNREGISTERED" => Claim::Unregistered,
                "RETIRED" => Claim::Retired,
                // A leftover of a job that no longer waits. The script removed it from the queue.
                "STRAY" => {
                    tracing::warn!(job = answer.text(0)?, "dropped an unreadable entry of jobs:pending");
                    continue;
                }
                _ => return Err(answer.unexpected()),
            });
        }
    }

    /// Renews a lease until `deadline`, with one plain command while the worker holds it. Returns `false` if the
    /// lease is lost and the attempt must stop.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn renew(&self, attempt: AttemptId, deadline: Millis) -> Result<bool, QueueError> {
        // The lease is lost, or its deadline is later than requested, for example because this renewal was repeated.
        Ok(self.extend(attempt, deadline).await? || self.holds(attempt).await?)
    }

    /// Renews a lease for the duration in the policy, counted from `clock`. A lease with a later deadline shows that
    /// the clock is slow (the machine slept, or Redis's clock was set): the call then corrects the clock and renews
    /// the lease with it. Returns `false` if the lease is lost and the attempt must stop.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn keep(&self, attempt: AttemptId, clock: &super::ServerClock) -> Result<bool, QueueError> {
        let lease = i64::try_from(self.policy.lease.as_millis()).unwrap_or(i64::MAX);
        if self.extend(attempt, clock.now().plus(lease)).await? {
            return Ok(true);
        }
        if !self.holds(attempt).await? {
            return Ok(false);
        }
        clock.set(self.clock().await?.now());
        self.renew(attempt, clock.now().plus(lease)).await
    }

    async fn extend(&self, attempt: AttemptId, deadline: Millis) -> Result<bool, QueueError> {
        let command = Command::new("ZADD")
            .arg(self.key("jobs:leases"))
            .args(["XX", "GT", "CH"])
            .arg(deadline.0.to_string())
            .arg(attempt.to_string());
        Ok(self.run(command).await?.int() == Some(1))
    }

    async fn holds(&self, attempt: AttemptId) -> Result<bool, QueueError> {
        let command = Command::new("ZSCORE").arg(self.key("jobs:leases")).arg(attempt.to_string());
        Ok(self.run(command).await? != Reply::Nil)
    }

    /// Reports the progress of an encode. Returns `false` if the lease is lost.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn progress(&self, attempt: AttemptId, percent: f64) -> Result<bool, QueueError> {
        let args = vec![attempt.job.to_string(), attempt.epoch.to_string(), format!("{percent:.1}")];
        let reply = self.eval(&scripts::PROGRESS, args).await?;
        Ok(ScriptReply::of(&reply)?.word == "OK")
    }

    /// Completes the job with the result that the attempt `committed` has committed, if the calling attempt still
    /// holds the lease.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn complete(
        &self,
        job: &Claimed,
        result: &JobResult,
        committed: Epoch,
    ) -> Result<CompleteOutcome, QueueError> {
        let args = vec![
            job.attempt.job.to_string(),
            job.attempt.epoch.to_string(),
            to_json(result)?,
            Outbox::delivery_kind(&job.spec),
            ms(self.policy.retention),
            committed.to_string(),
        ];
        let reply = self.eval_idempotent(&scripts::COMPLETE, args).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "DONE" => Ok(CompleteOutcome::Done),
            "ALREADY" => Ok(CompleteOutcome::Already),
            "LOST" => Ok(CompleteOutcome::Lost(answer.found()?)),
            _ => Err(answer.unexpected()),
        }
    }

    /// Reports that an attempt failed. If the failure can be retried and attempts are left, another attempt follows
    /// after a random pause.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn fail(&self, job: &Claimed, failure: &Failure) -> Result<FailOutcome, QueueError> {
        self.report_failure(job, failure, !job.is_last(failure), false).await
    }

    /// Reports that an attempt failed and could not find out whether the job's manifest stands. After a random pause
    /// the job is claimed once more, only to find that out; if none does, it fails with this failure.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn fail_unverified(&self, job: &Claimed, failure: &Failure) -> Result<FailOutcome, QueueError> {
        self.report_failure(job, failure, true, true).await
    }

    async fn report_failure(
        &self,
        job: &Claimed,
        failure: &Failure,
        again: bool,
        verify: bool,
    ) -> Result<FailOutcome, QueueError> {
        let wait = super::backoff::full_jitter(job.number, RETRY_BASE, RETRY_CAP);
        let args = vec![
            job.attempt.job.to_string(),
            job.attempt.epoch.to_string(),
            to_json(failure)?,
            if again { ms(wait) } else { "-1".to_owned() },
            Outbox::delivery_kind(&job.spec),
            ms(self.policy.retention),
            if verify { "1" } else { "" }.to_owned(),
        ];
        let reply = self.eval_idempotent(&scripts::FAIL, args).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "RETRY" => Ok(FailOutcome::Retry(Millis(answer.int(0)?))),
            "FAILED" => Ok(FailOutcome::Failed),
            "ALREADY" => Ok(FailOutcome::Already),
            "LOST" => Ok(FailOutcome::Lost(answer.found()?)),
            _ => Err(answer.unexpected()),
        }
    }

    /// Returns a job to the queue without counting the attempt. Returns `false` if the lease was already lost.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn release(&self, attempt: AttemptId) -> Result<bool, QueueError> {
        self.release_after(attempt, Duration::ZERO).await
    }

    async fn release_after(&self, attempt: AttemptId, delay: Duration) -> Result<bool, QueueError> {
        let args = vec![attempt.job.to_string(), attempt.epoch.to_string(), ms(delay)];
        let reply = self.eval(&scripts::RELEASE, args).await?;
        Ok(ScriptReply::of(&reply)?.word == "RELEASED")
    }

    /// Cancels a job at a user's request.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn cancel(&self, id: JobId) -> Result<CancelOutcome, QueueError> {
        self.cancel_with(id, &CancelReason::Cancelled).await
    }

    /// Cancels, suspends or fails a job. A suspended job can still be cancelled.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn cancel_with(&self, id: JobId, why: &CancelReason) -> Result<CancelOutcome, QueueError> {
        let (how, failure) = match why {
            CancelReason::Cancelled => ("cancelled", String::new()),
            CancelReason::Suspended => ("suspended", String::new()),
            CancelReason::DeadlineExceeded(failure) => ("overdue", to_json(failure)?),
        };
        let args = vec![id.to_string(), how.to_owned(), failure];
        let reply = self.eval_idempotent(&scripts::CANCEL, args).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "CANCELLED" => Ok(CancelOutcome::Cancelled),
            "ENDED" => Ok(CancelOutcome::Ended(answer.state()?)),
            "UNKNOWN" => Ok(CancelOutcome::Unknown),
            _ => Err(answer.unexpected()),
        }
    }

    /// Queues a failed or cancelled job again, with its attempts counted from zero.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn redrive(&self, id: JobId) -> Result<RedriveOutcome, QueueError> {
        let reply = self.eval(&scripts::REDRIVE, vec![id.to_string()]).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "QUEUED" => Ok(RedriveOutcome::Queued),
            "NEVER_UPLOADED" => Ok(RedriveOutcome::NeverUploaded),
            "WRONG" => Ok(RedriveOutcome::Wrong(answer.state()?)),
            "UNKNOWN" => Ok(RedriveOutcome::Unknown),
            _ => Err(answer.unexpected()),
        }
    }

    /// Fails a job whose upload has not arrived, if the job still waits for it.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn expire_upload(&self, id: JobId, failure: &Failure) -> Result<ExpireOutcome, QueueError> {
        let reply = self.eval_idempotent(&scripts::EXPIRE, vec![id.to_string(), to_json(failure)?]).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "FAILED" => Ok(ExpireOutcome::Failed),
            "ALREADY" => Ok(ExpireOutcome::Already(answer.state()?)),
            "UNKNOWN" => Ok(ExpireOutcome::Unknown),
            _ => Err(answer.unexpected()),
        }
    }

    /// Reaps expired leases and promotes delayed jobs, at most `limit` of each.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn sweep(&self, limit: u32) -> Result<Sweep, QueueError> {
        let args = vec![limit.to_string(), ms(self.policy.grace), ms(self.grace_left())];
        let reply = self.eval_idempotent(&scripts::SWEEP, args).await?;
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
