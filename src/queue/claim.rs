//! The claim of a job by a worker.

use std::time::Duration;

use super::codec::{ScriptReply, ms, parse_spec};
use super::{Queue, QueueError, scripts};
use crate::job::{AttemptId, Epoch, FORMAT_VERSION, Failure, JobSpec, Millis, WorkerId};
use crate::trace::TraceParent;

/// Pause before a job is claimed again that this version could not read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// How often a claim is repeated whose reply was lost.
const CLAIM_RETRIES: u32 = 4;
/// Number of jobs of a newer version after which a claim gives up.
const MAX_NEWER: u32 = 8;

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
    /// For how long what belongs to the job is kept after its end.
    pub(super) keep: Keep,
}

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

/// Names a claim, so that one whose reply was lost is found again.
fn new_token() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn claimed_attempt(answer: &ScriptReply<'_>) -> Result<AttemptId, QueueError> {
    let job = answer.text(0)?.parse().map_err(|_| answer.unexpected())?;
    let epoch = Epoch(answer.int(1)?.try_into().map_err(|_| answer.unexpected())?);
    Ok(AttemptId { job, epoch })
}

fn claimed(attempt: AttemptId, answer: &ScriptReply<'_>) -> Result<Claimed, QueueError> {
    let previous = answer.failure(9)?;
    let verifies = answer.int(10)? == 1;
    let keep = |at: usize| answer.text(at).map(str::to_owned);
    Ok(Claimed {
        attempt,
        number: answer.int(2)?.try_into().map_err(|_| answer.unexpected())?,
        spec: parse_spec(answer.text(3)?)?,
        at: Millis(answer.int(4)?),
        born: Millis(answer.int(5)?),
        earlier: answer.int(6)? == 1,
        queued: Millis(answer.int(7)?),
        trace: TraceParent::parse(answer.text(8)?),
        verify: previous.clone().filter(|_| verifies),
        previous,
        keep: Keep { record: keep(11)?, input: keep(12)?, outputs: keep(13)? },
    })
}

impl Queue {
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
        let (mut tries, mut newer) = (0, 0);
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
                FORMAT_VERSION.to_string(),
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
            return Ok(match answer.word {
                "JOB" => {
                    let attempt = claimed_attempt(&answer)?;
                    match claimed(attempt, &answer) {
                        Ok(claimed) => Claim::Job(Box::new(claimed)),
                        // Another version has written it, and a worker of that version can do it.
                        Err(error) => {
                            tracing::warn!(job = %attempt.job, %error, "handing back a job that this version cannot read");
                            self.release_after(attempt, UNREADABLE_PAUSE).await?;
                            (token, again) = (new_token(), false);
                            continue;
                        }
                    }
                }
                // The script has put it back; it costs the job no attempt.
                "NEWER" => {
                    tracing::warn!(
                        job = answer.text(0)?,
                        version = answer.int(1)?,
                        understood = FORMAT_VERSION,
                        "left a job to workers of a newer version; upgrade this one"
                    );
                    newer += 1;
                    if newer < MAX_NEWER {
                        (token, again) = (new_token(), false);
                        continue;
                    }
                    Claim::Empty { next_due: None, now: None }
                }
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
}
