//! The transitions of a job. Each is one script, so it is atomic.

use std::time::Duration;

use opentelemetry_semantic_conventions::attribute;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::claim::Claimed;
use super::codec::{ScriptReply, class_arg, ms, parse_spec, to_json};
use super::outbox::Outbox;
use super::outcomes::{
    CancelOutcome, CancelReason, CompleteOutcome, ExpireOutcome, FailOutcome, RedriveOutcome, SubmitMode,
    SubmitOutcome, Sweep, UploadedOutcome,
};
use super::tokens::{Owner, reached};
use super::{Command, Queue, QueueError, Reply, UploadedInput, cleanup, scripts};
use crate::job::{
    AttemptId, Epoch, FORMAT_VERSION, Failure, JobId, JobResult, JobSpec, LeaseId, Millis, Priority, State,
};
use crate::trace::{self, TraceParent};

/// First pause before a retry; it is doubled each time up to [`RETRY_CAP`].
pub(crate) const RETRY_BASE: Duration = Duration::from_secs(5);
/// Maximum pause before a retry.
pub(crate) const RETRY_CAP: Duration = Duration::from_secs(300);

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
        self.submit_for(None, None, id, spec, start).await
    }

    /// Like [`Queue::submit`], with the token to which the job belongs, and with a span that becomes the parent of the job's
    /// attempts. If no spans are exported, `caller` becomes their parent.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn submit_for(
        &self,
        owner: Option<Owner<'_>>,
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
            self.call_submit(owner, here.as_ref().or(caller), id, spec, start).await
        };
        let outcome = submitted.instrument(span.clone()).await;
        if let Err(error) = &outcome {
            span.record(attribute::ERROR_TYPE, error.kind()).record("otel.status_code", "ERROR");
        }
        outcome
    }

    async fn call_submit(
        &self,
        owner: Option<Owner<'_>>,
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
        let retention = self.policy.retention;
        let args = vec![
            id.to_string(),
            how.to_owned(),
            ms(wait),
            to_json(spec)?,
            spec.max_attempts.to_string(),
            (spec.priority.get() * Priority::BOOST_MS).to_string(),
            Outbox::delivery_kind(spec),
            ms(retention.jobs),
            jiff::Timestamp::now().as_millisecond().to_string(),
            trace.map_or_else(String::new, |trace| trace.as_str().to_owned()),
            retention.inputs.map(ms).unwrap_or_default(),
            retention.outputs.map(ms).unwrap_or_default(),
            class_arg(&spec.worker_class),
        ];
        let reply = self.eval_idempotent(&scripts::SUBMIT, [args, Owner::args(owner)].concat()).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "CREATED" => Ok(SubmitOutcome::Created),
            "LIMIT" => {
                let (limit, retry_after) = reached(&answer)?;
                Ok(SubmitOutcome::LimitReached { limit, retry_after })
            }
            "EXISTS" => {
                let there = parse_spec(answer.text(0)?)?;
                let is_owners = answer.text(1)? == owner.map(|owner| owner.name.as_str()).unwrap_or_default();
                Ok(if there.is_same(spec) && is_owners {
                    SubmitOutcome::Same
                } else {
                    SubmitOutcome::Different(Box::new(there))
                })
            }
            _ => Err(answer.unexpected()),
        }
    }

    /// Reports that the input of a job is in storage. This also revives a job whose upload had expired. A job whose input
    /// has another size than it may have fails at once.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn uploaded(&self, input: &UploadedInput) -> Result<UploadedOutcome, QueueError> {
        let limit = self.input_limit_of(std::slice::from_ref(input)).await?;
        UploadedOutcome::parse(&self.eval_idempotent(&scripts::UPLOADED, input.args(limit)?).await?)
    }

    /// Renews a lease until `deadline`, with one plain command while the worker holds it. Returns `false` if the
    /// lease is lost and the attempt must stop.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn renew(&self, lease: impl Into<LeaseId>, deadline: Millis) -> Result<bool, QueueError> {
        // The lease is lost, or its deadline is later than requested, for example because this renewal was repeated.
        let lease = lease.into();
        Ok(self.extend(lease, deadline).await? || self.holds(lease).await?)
    }

    /// Renews a lease for the duration in the policy, counted from `clock`. A lease with a later deadline shows that
    /// the clock is slow (the machine slept, or Redis's clock was set): the call then corrects the clock and renews
    /// the lease with it. Returns `false` if the lease is lost and the attempt must stop.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn keep(
        &self,
        lease: impl Into<LeaseId>,
        clock: &super::ServerClock,
    ) -> Result<bool, QueueError> {
        let lease = lease.into();
        let duration = i64::try_from(self.policy.lease.as_millis()).unwrap_or(i64::MAX);
        if self.extend(lease, clock.now().plus(duration)).await? {
            return Ok(true);
        }
        if !self.holds(lease).await? {
            return Ok(false);
        }
        clock.set(self.clock().await?.now());
        self.renew(lease, clock.now().plus(duration)).await
    }

    async fn extend(&self, lease: LeaseId, deadline: Millis) -> Result<bool, QueueError> {
        let command = Command::new("ZADD")
            .arg(self.key("jobs:leases"))
            .args(["XX", "GT", "CH"])
            .arg(deadline.0.to_string())
            .arg(lease.to_string());
        Ok(self.run(command).await?.int() == Some(1))
    }

    async fn holds(&self, lease: LeaseId) -> Result<bool, QueueError> {
        let command = Command::new("ZSCORE").arg(self.key("jobs:leases")).arg(lease.to_string());
        Ok(self.run(command).await? != Reply::Nil)
    }

    /// Tells those who watch about the progress of an encode, with one plain command. Unlike [`Queue::progress`], it
    /// neither stores the progress in the job's record nor checks the lease: a reader of the event compares the
    /// attempt with the one that it knows.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn announce_progress(&self, attempt: AttemptId, percent: f64) -> Result<(), QueueError> {
        let command = self
            .append_event()
            .args(["v", &FORMAT_VERSION.to_string()])
            .args(["id", &attempt.job.to_string(), "state", State::Running.name()])
            .args(["progress", &format!("{percent:.1}"), "epoch", &attempt.epoch.to_string()]);
        self.run(command).await.map(drop)
    }

    /// Reports the progress of an encode: stores it in the job's record, and tells it to those who watch. What version of
    /// the input the attempt reads is stored, too, if it is known. Returns `false` if the lease is lost.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn progress(&self, job: &Claimed, percent: f64) -> Result<bool, QueueError> {
        let AttemptId { job: id, epoch } = job.attempt;
        let version = job.input_version.get().cloned().unwrap_or_default();
        let args = vec![id.to_string(), epoch.to_string(), format!("{percent:.1}"), version];
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
        self.complete_in(job, result, committed, committed).await
    }

    /// Like [`Queue::complete`], with outputs in the folder of the attempt `folder`.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn complete_in(
        &self,
        job: &Claimed,
        result: &JobResult,
        committed: Epoch,
        folder: Epoch,
    ) -> Result<CompleteOutcome, QueueError> {
        let args = vec![
            job.attempt.job.to_string(),
            job.attempt.epoch.to_string(),
            to_json(result)?,
            Outbox::delivery_kind(&job.spec),
            committed.to_string(),
        ];
        let owner = job.owner.as_ref().map_or_else(String::new, ToString::to_string);
        let of_owner =
            vec![owner, format!("{:.3}", result.source.duration), class_arg(&job.spec.worker_class)];
        let args = [args, job.keep.args(), vec![job.split_epoch(), folder.to_string()], of_owner].concat();
        let reply = self.eval_idempotent(&scripts::COMPLETE, args).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "DONE" => Ok(CompleteOutcome::Done),
            "ALREADY" => Ok(CompleteOutcome::Already),
            "LOST" => Ok(CompleteOutcome::Lost(answer.found()?)),
            _ => Err(answer.unexpected()),
        }
    }

    /// Reports that an attempt at a job or a part of one failed. If the failure can be retried and attempts are left,
    /// another attempt follows after a random pause.
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
        // The pauses grow with each failure, counted or not.
        let failures = job.number.saturating_add(job.ignored);
        let wait = super::backoff::full_jitter(failures, RETRY_BASE, RETRY_CAP);
        let is_ignored = again && !verify && job.is_ignored(failure);
        let lease = job.lease();
        let args = vec![
            lease.task(),
            lease.epoch.to_string(),
            to_json(failure)?,
            if again { ms(wait) } else { "-1".to_owned() },
            Outbox::delivery_kind(&job.spec),
            if verify { "1" } else { "" }.to_owned(),
        ];
        // The next attempt at a job reads the same version of its input.
        let version = job.input_version.get().filter(|_| job.part.is_none()).cloned().unwrap_or_default();
        let ignored = if is_ignored { "1" } else { "" }.to_owned();
        let args = [args, job.keep.args(), vec![job.split_epoch(), version, ignored]].concat();
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

    /// Returns a task to the queue without counting the attempt. Returns `false` if the lease was already lost.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn release(&self, lease: impl Into<LeaseId>) -> Result<bool, QueueError> {
        self.release_after(lease, Duration::ZERO).await
    }

    /// Like [`Queue::release`]; the task is ready again after `delay`.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn release_after(
        &self,
        lease: impl Into<LeaseId>,
        delay: Duration,
    ) -> Result<bool, QueueError> {
        let lease = lease.into();
        let args = vec![lease.task(), lease.epoch.to_string(), ms(delay)];
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
        self.redrive_for(None, id).await
    }

    /// Like [`Queue::redrive`], at the request of a token, whose limits apply.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn redrive_for(
        &self,
        owner: Option<Owner<'_>>,
        id: JobId,
    ) -> Result<RedriveOutcome, QueueError> {
        let args = [vec![id.to_string()], Owner::args(owner)].concat();
        let reply = self.eval(&scripts::REDRIVE, args).await?;
        let answer = ScriptReply::of(&reply)?;
        match answer.word {
            "QUEUED" => Ok(RedriveOutcome::Queued),
            "LIMIT" => {
                let (limit, retry_after) = reached(&answer)?;
                Ok(RedriveOutcome::LimitReached { limit, retry_after })
            }
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

    /// Reaps expired leases and promotes delayed jobs, at most `limit` of each, and claims as many due cleanups.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn sweep(&self, limit: u32, cleanups: u32) -> Result<Sweep, QueueError> {
        let args = vec![
            limit.to_string(),
            ms(self.policy.grace),
            ms(self.grace_left()),
            ms(self.policy.lease),
            ms(self.policy.alive),
            cleanups.to_string(),
            ms(cleanup::HOLD),
        ];
        Sweep::parse(&self.eval_idempotent(&scripts::SWEEP, args).await?)
    }
}
