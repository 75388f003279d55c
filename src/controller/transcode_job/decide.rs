//! Decides what to do about a TranscodeJob. Pure: the caller (`reconcile`) carries out one action, observes
//! again, and asks again, until only the status remains to be written.

use std::time::Duration;

use kube::Resource as _;

use super::status::{StatusContext, tell_storage_error};
use super::submission::{Refusal, Rules, Submission, same, to_submission};
use crate::controller::conditions::{holds, millis};
use crate::crd::{JobPhase, TranscodeJobStatus, condition, reason};
use crate::job::{Failure, FailureCode, Input, Job, Millis, ObjectKey, SecretRef, State};
use crate::queue::CancelReason;

/// The job in Redis.
#[derive(Clone, Debug)]
pub(crate) enum Look {
    /// Redis has not been read yet.
    NotYet,
    /// The job does not exist.
    Gone,
    /// The job exists.
    Job(Box<Job>),
}

/// Everything that a decision is based on.
pub(crate) struct DecisionInput<'a> {
    /// The object, and the inputs of its status.
    pub frame: StatusContext<'a>,
    /// Whether the object mirrors a job that was submitted elsewhere.
    pub mirror: bool,
    /// The job in Redis.
    pub job: Look,
    /// Whether the Secret that signs the webhook is usable; `None` until it has been checked.
    pub secret: Option<Result<(), String>>,
    /// Whether the input bucket has just been checked for the upload.
    pub looked_for_upload: bool,
    /// Why a bucket could not be checked for it, or for a result when the deadline has passed.
    pub storage_error: Option<String>,
    /// The limits on what jobs may request.
    pub rules: Rules,
}

/// An action of the reconciler.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Act {
    /// Read the job from Redis.
    Look,
    /// Check whether this Secret can sign webhooks.
    LookAtSecret(SecretRef),
    /// Check the input bucket for the upload, and queue the job if the object exists.
    LookForUpload(ObjectKey),
    /// Submit the job to the queue.
    Submit(Box<Submission>),
    /// Cancel the job.
    Cancel(CancelReason),
    /// Redrive the job.
    Redrive,
    /// Delete the object: its TTL has expired.
    Delete,
}

/// The next step of a reconciliation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Carry out this action, then observe again.
    Act(Act),
    /// Nothing to do but to write the status.
    Settle {
        /// The status to write.
        status: Box<TranscodeJobStatus>,
        /// Reconcile again after this time, even without an event.
        again: Option<Duration>,
    },
}

/// Interval in which the job of an active object is read without an event: the event stream may have been
/// trimmed.
const SAFETY: Duration = Duration::from_secs(300);
/// Interval in which the bucket is checked for an upload that has been pending for `waits_ms`. Where
/// object-created events reach the API or the Worker, the job is queued before that; many pending uploads
/// must remain cheap.
const fn upload_poll(waits_ms: i64) -> Duration {
    match waits_ms {
        ..120_000 => Duration::from_secs(5),
        120_000..3_600_000 => Duration::from_secs(30),
        _ => Duration::from_secs(120),
    }
}

/// Interval in which an unusable Secret is checked again.
const SECRET_AGAIN: Duration = Duration::from_secs(30);

/// Interval in which the result of a job whose deadline has passed is looked for again.
const RESULT_AGAIN: Duration = Duration::from_secs(15);

/// Decides the next step.
#[must_use]
pub(crate) fn decide(seen: &DecisionInput<'_>) -> Decision {
    let frame = &seen.frame;
    let ended = frame.before.phase.is_some_and(JobPhase::is_terminal);
    match &seen.job {
        // A finished job is not read again; if it is redriven, an event says so.
        Look::NotYet if ended => over(frame, frame.as_before()),
        Look::NotYet => Decision::Act(Act::Look),
        Look::Gone if seen.mirror => Decision::Act(Act::Delete),
        Look::Gone if ended => over(frame, frame.as_before()),
        Look::Gone => submit(seen),
        Look::Job(job) if seen.mirror => mirror(seen, job),
        Look::Job(job) => follow(seen, job),
    }
}

fn settle(status: TranscodeJobStatus, again: Option<Duration>) -> Decision {
    Decision::Settle { status: Box::new(status), again }
}

/// Submits the job if it can run and nothing holds it back. Whether it can run comes first: otherwise it would wait for quota
/// that it cannot use, and keep it.
fn submit(seen: &DecisionInput<'_>) -> Decision {
    let frame = &seen.frame;
    let to_submission = match to_submission(frame.object, frame.id, seen.rules) {
        Ok(to_submission) => to_submission,
        Err(Refusal { reason, message }) => return settle(frame.stalled(reason, &message), None),
    };
    // The Secret of a job that its user suspends may still be made.
    if let Some(hold) = frame.hold.filter(|hold| hold.reason == reason::SUSPENDED) {
        return settle(frame.held(hold), None);
    }
    match (&to_submission.spec.webhook_key, &seen.secret) {
        (Some(secret), None) => Decision::Act(Act::LookAtSecret(secret.clone())),
        (Some(_), Some(Err(why))) => {
            settle(frame.stalled(reason::SECRET_NOT_USABLE, why), Some(SECRET_AGAIN))
        }
        (None, _) | (Some(_), Some(Ok(()))) => match frame.hold {
            Some(hold) => settle(frame.held(hold), None),
            None => Decision::Act(Act::Submit(Box::new(to_submission))),
        },
    }
}

fn mirror(seen: &DecisionInput<'_>, job: &Job) -> Decision {
    let status = seen.frame.of(job, false);
    if job.status.is_terminal() { over(&seen.frame, status) } else { settle(status, Some(SAFETY)) }
}

fn follow(seen: &DecisionInput<'_>, job: &Job) -> Decision {
    let frame = &seen.frame;
    match job.status {
        // A job that waits for its upload costs nothing; it is cancelled when the upload arrives.
        State::Queued | State::Running | State::Playable if frame.hold.is_some_and(|hold| hold.stops) => {
            return Decision::Act(Act::Cancel(CancelReason::Suspended));
        }
        State::Cancelled if job.suspended && frame.hold.is_none() => return Decision::Act(Act::Redrive),
        _ => {}
    }
    let is_the_same = |rules: Rules| {
        to_submission(frame.object, frame.id, rules)
            .is_ok_and(|to_submission| same(&job.spec, &to_submission.spec))
    };
    let changed = !seen.rules.of_queued().into_iter().any(is_the_same);
    let mut status = frame.of(job, changed);
    if status.phase.is_some_and(JobPhase::is_terminal) {
        return over(frame, status);
    }
    if let (State::Uploading, Some(error)) = (job.status, &seen.storage_error) {
        let message =
            format!("the controller cannot see whether the video has arrived: {error}; it looks again soon");
        tell_storage_error(&mut status, message);
    }
    let deadline = deadline(frame, &status);
    if let Some((due, seconds)) = deadline
        && due <= frame.now
    {
        if let Some(error) = &seen.storage_error {
            let message = format!(
                "spec.activeDeadlineSeconds ({seconds} s) have passed, but the controller cannot see whether the job has a \
                 result already: {error}; it looks again soon"
            );
            tell_storage_error(&mut status, message);
            return settle(status, Some(RESULT_AGAIN));
        }
        let message = format!(
            "it ran longer than spec.activeDeadlineSeconds ({seconds} s); raise it, and retry the job or create it anew"
        );
        let failure = Failure::new(FailureCode::DeadlineExceeded, message);
        return Decision::Act(Act::Cancel(CancelReason::DeadlineExceeded(failure)));
    }
    let mut again = match job.status {
        State::Cancelled => None,
        _ => Some(SAFETY),
    };
    if let Some((due, _)) = deadline {
        again = Some(again.map_or(until(due, frame.now), |a| a.min(until(due, frame.now))));
    }
    if job.status == State::Uploading {
        if let (false, Input::Key(key)) = (seen.looked_for_upload, &job.spec.input) {
            return Decision::Act(Act::LookForUpload(key.clone()));
        }
        let since = job.timestamps.created_at.unwrap_or(frame.now);
        again = Some(upload_poll(frame.now.0.saturating_sub(since.0)));
    }
    settle(status, again)
}

/// When `spec.activeDeadlineSeconds` elapse, with their number.
fn deadline(frame: &StatusContext<'_>, status: &TranscodeJobStatus) -> Option<(Millis, i64)> {
    let seconds = frame.object.spec.active_deadline_seconds.filter(|s| *s > 0)?;
    let start = status.start_time.as_ref()?;
    Some((millis(start).plus(seconds.saturating_mul(1000)), seconds))
}

/// The job is finished: the object is deleted after `ttlSecondsAfterFinished`.
fn over(frame: &StatusContext<'_>, status: TranscodeJobStatus) -> Decision {
    let failed = holds(&status.conditions, condition::FAILED).map(|c| &c.last_transition_time);
    let ended = status.completion_time.as_ref().or(failed).map_or(frame.now, millis);
    let ttl = frame.object.spec.ttl_seconds_after_finished.max(0);
    let due = ended.plus(ttl.saturating_mul(1000));
    // The final status is written before the object is deleted, so that watchers see it.
    let said = status == *frame.before;
    if due <= frame.now && said && frame.object.meta().deletion_timestamp.is_none() {
        return Decision::Act(Act::Delete);
    }
    let again = StatusContext::renewal(&status).map_or(due, |renewal| renewal.min(due));
    settle(status, Some(until(again, frame.now)))
}

fn until(due: Millis, now: Millis) -> Duration {
    Duration::from_millis(u64::try_from(due.0.saturating_sub(now.0)).unwrap_or(0))
}
