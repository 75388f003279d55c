//! What to do about a TranscodeJob, from what is seen of it. Pure: the shell (`reconcile`) carries one
//! act out, looks again, and asks again, until there is nothing to do but to write the status.

use std::time::Duration;

use kube::Resource as _;

use super::status::StatusContext;
use super::submission::{Refusal, Rules, Submission, same, to_submission};
use crate::controller::conditions::{holds, millis};
use crate::crd::{Phase, TranscodeJobStatus, condition, reason};
use crate::job::{Failure, FailureCode, Input, Job, Millis, ObjectKey, SecretRef, State};
use crate::queue::CancelReason;

/// What Redis says of the job.
#[derive(Clone, Debug)]
pub enum Look {
    /// It was not asked.
    NotYet,
    /// There is none.
    Gone,
    /// This.
    Job(Box<Job>),
}

/// Everything a decision rests on.
pub struct Seen<'a> {
    /// The object, and what its status is made from.
    pub frame: StatusContext<'a>,
    /// Whether the job came from elsewhere, and the object only shows it.
    pub mirror: bool,
    /// What Redis says.
    pub job: Look,
    /// Whether the Secret that is to sign the webhook can be used, once it was looked at.
    pub secret: Option<Result<(), String>>,
    /// The input bucket was asked for the video a moment ago.
    pub looked_for_upload: bool,
    /// What jobs may ask for.
    pub rules: Rules,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Ask Redis for the job.
    Look,
    /// Look whether this Secret can sign.
    LookAtSecret(SecretRef),
    /// Ask the input bucket for the video, and queue the job if it is there.
    LookForUpload(ObjectKey),
    /// Put the job into the queue.
    Submit(Box<Submission>),
    /// Call the job off.
    Cancel(CancelReason),
    /// Let the job run again.
    Redrive,
    /// Delete the object: its time is over.
    Delete,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// This, and then another look.
    Act(Act),
    /// Nothing but to say so.
    Settle {
        /// The status.
        status: Box<TranscodeJobStatus>,
        /// Look again after this long, also when nothing happens.
        again: Option<Duration>,
    },
}

/// A job that is under way is looked at this often without an event: the stream may have been trimmed.
const SAFETY: Duration = Duration::from_secs(300);
/// How often the bucket is asked for a video that is awaited for so many milliseconds. Where object-created
/// events reach the API or the edge, the job is queued before that; a crowd that waits must stay cheap.
const fn upload_poll(waits_ms: i64) -> Duration {
    match waits_ms {
        ..120_000 => Duration::from_secs(5),
        120_000..3_600_000 => Duration::from_secs(30),
        _ => Duration::from_secs(120),
    }
}

/// A Secret that cannot be used is looked at again.
const SECRET_AGAIN: Duration = Duration::from_secs(30);

/// What to do.
#[must_use]
pub fn decide(seen: &Seen<'_>) -> Decision {
    let frame = &seen.frame;
    let ended = frame.before.phase.is_some_and(Phase::is_terminal);
    match &seen.job {
        // What has ended is not asked for again; an event of its job says when it lives again.
        Look::NotYet if ended => over(frame, frame.as_before()),
        Look::NotYet => Decision::Act(Act::Look),
        Look::Gone if seen.mirror => Decision::Act(Act::Delete),
        Look::Gone if ended => over(frame, frame.as_before()),
        Look::Gone if frame.object.spec.suspend => settle(frame.suspended(), None),
        Look::Gone => submit(seen),
        Look::Job(job) if seen.mirror => mirror(seen, job),
        Look::Job(job) => follow(seen, job),
    }
}

fn settle(status: TranscodeJobStatus, again: Option<Duration>) -> Decision {
    Decision::Settle { status: Box::new(status), again }
}

/// Into the queue, if it can be a job.
fn submit(seen: &Seen<'_>) -> Decision {
    let frame = &seen.frame;
    let to_submission = match to_submission(frame.object, frame.id, seen.rules) {
        Ok(to_submission) => to_submission,
        Err(Refusal { reason, message }) => return settle(frame.stalled(reason, &message), None),
    };
    match (&to_submission.spec.webhook_key, &seen.secret) {
        (Some(secret), None) => Decision::Act(Act::LookAtSecret(secret.clone())),
        (Some(_), Some(Err(why))) => {
            settle(frame.stalled(reason::SECRET_NOT_USABLE, why), Some(SECRET_AGAIN))
        }
        (None, _) | (Some(_), Some(Ok(()))) => Decision::Act(Act::Submit(Box::new(to_submission))),
    }
}

fn mirror(seen: &Seen<'_>, job: &Job) -> Decision {
    let status = seen.frame.of(job, false);
    if job.status.is_terminal() { over(&seen.frame, status) } else { settle(status, Some(SAFETY)) }
}

fn follow(seen: &Seen<'_>, job: &Job) -> Decision {
    let frame = &seen.frame;
    let suspend = frame.object.spec.suspend;
    match job.status {
        // One that waits for its video costs nothing; it is called off when the video comes.
        State::Queued | State::Running if suspend => {
            return Decision::Act(Act::Cancel(CancelReason::Suspended));
        }
        State::Cancelled if job.suspended && !suspend => return Decision::Act(Act::Redrive),
        _ => {}
    }
    let changed = !to_submission(frame.object, frame.id, seen.rules)
        .is_ok_and(|to_submission| same(&job.spec, &to_submission.spec));
    let status = frame.of(job, changed);
    if status.phase.is_some_and(Phase::is_terminal) {
        return over(frame, status);
    }
    let deadline = deadline(frame, &status);
    if let Some((due, seconds)) = deadline
        && due <= frame.now
    {
        let message = format!(
            "it ran longer than spec.activeDeadlineSeconds ({seconds} s); raise it and make the job anew"
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

/// When `spec.activeDeadlineSeconds` are over, and how many they are.
fn deadline(frame: &StatusContext<'_>, status: &TranscodeJobStatus) -> Option<(Millis, i64)> {
    let seconds = frame.object.spec.active_deadline_seconds.filter(|s| *s > 0)?;
    let start = status.start_time.as_ref()?;
    Some((millis(start).plus(seconds.saturating_mul(1000)), seconds))
}

/// The end: the object is deleted `ttlSecondsAfterFinished` later.
fn over(frame: &StatusContext<'_>, status: TranscodeJobStatus) -> Decision {
    let failed = holds(&status.conditions, condition::FAILED).map(|c| &c.last_transition_time);
    let ended = status.completion_time.as_ref().or(failed).map_or(frame.now, millis);
    let ttl = frame.object.spec.ttl_seconds_after_finished.max(0);
    let due = ended.plus(ttl.saturating_mul(1000));
    // The end is written before the object goes, so that whoever watches sees it.
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
