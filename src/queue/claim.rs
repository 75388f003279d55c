//! The claim of a task by a worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::codec::{ScriptReply, ms, parse_spec};
use super::terms::{Keep, PartTerms};
use super::{Queue, QueueError, Reply, scripts};
use crate::job::{
    AttemptId, CLASS_VERSION, Epoch, Failure, FailureAction, IGNORED_FAILURES, JobId, JobSpec, LeaseId,
    Millis, Part, TokenName, WorkerId,
};
use crate::trace::TraceParent;

/// Pause before a job is claimed again that this version could not read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// How often a call is repeated whose reply was lost.
const CLAIM_RETRIES: u32 = 4;
/// Number of jobs of a newer version after which a claim gives up.
const MAX_NEWER: u32 = 8;

/// A job, or a part of one, that a worker holds for as long as it renews the lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The attempt that the worker makes.
    pub attempt: AttemptId,
    /// The part that it encodes; `None` if it holds the job itself.
    pub part: Option<Part>,
    /// The attempt that split the job, below whose prefix the parts store their outputs. It is there for a part, and
    /// for a job whose parts are all encoded, so that it is to be finished.
    pub split: Option<AttemptId>,
    /// Which attempt it is, from 1.
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
    /// The token by which the job was submitted; only of a job, not of a part.
    pub(super) owner: Option<TokenName>,
    /// The plan of a split job, as the attempt wrote it that split the job.
    pub plan: Option<Arc<str>>,
    /// Whether a viewer waits for the part.
    pub is_awaited: bool,
    /// How many of its failures were not counted.
    pub ignored: u32,
    /// The version of the input in the bucket that all attempts at the job read, as its entity tag without quotes. It is
    /// known from the upload, or from the first attempt that has read the input.
    pub input_version: OnceLock<String>,
}

/// What a claim may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimable {
    /// Any task.
    Any,
    /// A part of a split job.
    Part,
    /// A part that a viewer waits for.
    AwaitedPart,
}

impl Claimable {
    /// The argument of `claim.lua`.
    const fn arg(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Part => "part",
            Self::AwaitedPart => "awaited",
        }
    }
}

impl Claimed {
    /// The name of the lease.
    #[must_use]
    pub const fn lease(&self) -> LeaseId {
        LeaseId { job: self.attempt.job, part: self.part, epoch: self.attempt.epoch }
    }

    /// The argument of scripts that end an attempt.
    pub(super) fn split_epoch(&self) -> String {
        self.split.map_or_else(String::new, |split| split.epoch.to_string())
    }

    /// Whether a rule of the job says that it fails with this failure, whatever else could be tried.
    #[must_use]
    pub fn ends_job(&self, failure: &Failure) -> bool {
        self.spec.failure_policy.action(failure.code) == Some(FailureAction::FailJob)
    }

    /// Whether an attempt that fails like this is not counted, and another follows.
    #[must_use]
    pub fn is_ignored(&self, failure: &Failure) -> bool {
        self.spec.failure_policy.action(failure.code) == Some(FailureAction::Ignore)
            && self.ignored < IGNORED_FAILURES
    }

    /// Whether no further attempt follows one that fails like this.
    #[must_use]
    pub fn is_last(&self, failure: &Failure) -> bool {
        if self.is_ignored(failure) {
            return false;
        }
        let is_final = match self.spec.failure_policy.action(failure.code) {
            Some(FailureAction::FailJob) => true,
            Some(FailureAction::Count | FailureAction::Ignore) => false,
            None => !failure.code.is_retryable() || failure.recurs(self.previous.as_ref()),
        };
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

/// The tokens of claims whose reply was lost, by worker. Its next claims repeat the lost ones.
#[derive(Default)]
pub(super) struct Unanswered(Mutex<BTreeMap<WorkerId, Vec<String>>>);

impl Unanswered {
    fn take(&self, worker: &WorkerId) -> Option<String> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_worker = tokens.get_mut(worker)?;
        let token = of_worker.pop();
        if of_worker.is_empty() {
            tokens.remove(worker);
        }
        token
    }

    fn put(&self, worker: &WorkerId, token: String) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.entry(worker.clone()).or_default().push(token);
    }
}

/// Names a claim, so that one whose reply was lost is found again.
fn new_token() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn claimed_lease(answer: &ScriptReply<'_>) -> Result<LeaseId, QueueError> {
    let (job, part) = LeaseId::parse_task(answer.text(0)?).map_err(|_| answer.unexpected())?;
    let epoch = Epoch(answer.int(1)?.try_into().map_err(|_| answer.unexpected())?);
    Ok(LeaseId { job, part, epoch })
}

/// The attempt that split the job of a claimed task.
fn claimed_split(job: JobId, answer: &ScriptReply<'_>) -> Result<Option<AttemptId>, QueueError> {
    match answer.text(14)? {
        "" => Ok(None),
        epoch => Ok(Some(AttemptId { job, epoch: epoch.parse().map_err(|_| answer.unexpected())? })),
    }
}

/// The claimed task. What the record of a part lacks is in that of its job: `of_job`.
pub(super) fn claimed(
    lease: LeaseId,
    split: Option<AttemptId>,
    answer: &ScriptReply<'_>,
    of_job: Option<PartTerms>,
) -> Result<Claimed, QueueError> {
    let LeaseId { job, part, epoch } = lease;
    let previous = answer.failure(9)?;
    let verifies = answer.int(10)? == 1;
    let keep = |at: usize| answer.text(at).map(str::to_owned);
    let terms = match of_job {
        Some(terms) => terms,
        None => PartTerms {
            spec: parse_spec(answer.text(3)?)?,
            born: Millis(answer.int(5)?),
            trace: TraceParent::parse(answer.text(8)?),
            keep: Keep { record: keep(11)?, input: keep(12)?, outputs: keep(13)? },
            plan: None,
        },
    };
    Ok(Claimed {
        attempt: AttemptId { job, epoch },
        part,
        split,
        number: answer.int(2)?.try_into().map_err(|_| answer.unexpected())?,
        spec: terms.spec,
        at: Millis(answer.int(4)?),
        born: terms.born,
        earlier: answer.int(6)? == 1,
        queued: Millis(answer.int(7)?),
        trace: terms.trace,
        verify: previous.clone().filter(|_| verifies),
        previous,
        keep: terms.keep,
        plan: terms.plan,
        is_awaited: answer.int(15)? == 1,
        owner: Some(answer.text(16)?).filter(|owner| !owner.is_empty()).and_then(|owner| owner.parse().ok()),
        input_version: match answer.text(17)? {
            "" => OnceLock::new(),
            version => version.to_owned().into(),
        },
        ignored: answer.text(18)?.parse().unwrap_or_default(),
    })
}

/// What the reply of a claim comes to.
pub(super) enum ClaimReply {
    Claim(Claim),
    /// There was nothing for this worker at the front of the queue; another claim may find something.
    Again,
    /// There was a job of a newer version at the front of the queue.
    Newer,
}

/// A claim that may be repeated.
pub(super) struct ClaimCall<'a> {
    pub worker: &'a WorkerId,
    pub now: Millis,
    pub sweep: bool,
    pub claimable: Claimable,
    token: String,
    again: bool,
}

impl ClaimCall<'_> {
    /// The reply may be lost; from now on the call looks for what it has claimed.
    pub(super) const fn repeat(&mut self) {
        self.again = true;
    }
}

impl Queue {
    /// Claims a job, or a part of one. With `sweep`, first reaps some expired leases and promotes some delayed tasks.
    ///
    /// `now` is the worker's estimate of Redis's time ([`super::ServerClock`]). It only determines until when the
    /// worker counts as alive; a sweep uses Redis's own clock and returns it.
    ///
    /// If the reply may be lost, the call is repeated, and finds the job that it claimed by a token. So does the worker's
    /// next call, if this one fails.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn claim(&self, worker: &WorkerId, now: Millis, sweep: bool) -> Result<Claim, QueueError> {
        self.claim_next(worker, now, sweep, Claimable::Any).await
    }

    /// Like [`Queue::claim`] without a sweep, but only claims the next task in the queue if it is one of these.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn claim_only(
        &self,
        worker: &WorkerId,
        now: Millis,
        claimable: Claimable,
    ) -> Result<Claim, QueueError> {
        self.claim_next(worker, now, false, claimable).await
    }

    async fn claim_next(
        &self,
        worker: &WorkerId,
        now: Millis,
        sweep: bool,
        claimable: Claimable,
    ) -> Result<Claim, QueueError> {
        let mut newer = 0;
        loop {
            let mut call = self.claim_call(worker, now, sweep, claimable);
            let reply =
                self.answered(&scripts::CLAIM, &mut call, |queue, call| queue.claim_args(call)).await?;
            match self.claim_reply(call, &reply).await? {
                ClaimReply::Claim(claim) => return Ok(claim),
                ClaimReply::Again => {}
                ClaimReply::Newer => {
                    newer += 1;
                    if newer >= MAX_NEWER {
                        // Others may be ready behind them.
                        return Ok(Claim::Empty { next_due: Some(now), now: None });
                    }
                }
            }
        }
    }

    /// A claim; it repeats the worker's last one if the reply of that was lost.
    pub(super) fn claim_call<'a>(
        &self,
        worker: &'a WorkerId,
        now: Millis,
        sweep: bool,
        claimable: Claimable,
    ) -> ClaimCall<'a> {
        let (token, again) = match self.unanswered.take(worker) {
            Some(token) => (token, true),
            None => (new_token(), false),
        };
        ClaimCall { worker, now, sweep, claimable, token, again }
    }

    /// The arguments of `claim.lua`.
    pub(super) fn claim_args(&self, call: &ClaimCall<'_>) -> Vec<String> {
        const FEW: &str = "8";
        vec![
            call.worker.to_string(),
            call.now.0.to_string(),
            ms(self.policy.lease),
            ms(self.policy.alive),
            if call.sweep { FEW } else { "0" }.to_owned(),
            ms(self.policy.grace),
            ms(self.grace_left()),
            call.token.clone(),
            if call.again { "1" } else { "0" }.to_owned(),
            call.claimable.arg().to_owned(),
            self.classes.to_string(),
        ]
    }

    /// Calls a script that claims, and repeats it if the reply may be lost.
    pub(super) async fn answered<'a>(
        &self,
        script: &scripts::Script,
        call: &mut ClaimCall<'a>,
        args: impl Fn(&Self, &ClaimCall<'a>) -> Vec<String>,
    ) -> Result<Reply, QueueError> {
        let mut tries = 0;
        loop {
            match self.eval(script, args(self, call)).await {
                Err(error) if error.is_transient() && tries < CLAIM_RETRIES => {
                    call.repeat();
                    tries += 1;
                    let pause = super::backoff::full_jitter(
                        tries,
                        Duration::from_millis(100),
                        Duration::from_secs(2),
                    );
                    crate::time::sleep(pause).await;
                }
                Err(error) => {
                    if error.is_transient() {
                        self.unanswered.put(call.worker, call.token.clone());
                    }
                    return Err(error);
                }
                Ok(reply) => return Ok(reply),
            }
        }
    }

    /// Interprets the reply of `claim.lua`.
    pub(super) async fn claim_reply(
        &self,
        call: ClaimCall<'_>,
        reply: &Reply,
    ) -> Result<ClaimReply, QueueError> {
        let answer = ScriptReply::of(reply)?;
        Ok(ClaimReply::Claim(match answer.word {
            "JOB" => {
                let lease = claimed_lease(&answer)?;
                match self.claimed_task(lease, &answer).await {
                    Ok(Some(claimed)) => Claim::Job(Box::new(claimed)),
                    Ok(None) => return Ok(ClaimReply::Again),
                    Err(error) if error.is_transient() => {
                        self.unanswered.put(call.worker, call.token);
                        return Err(error);
                    }
                    // Another version has written it, and a worker of that version can do it.
                    Err(error) => {
                        tracing::warn!(job = %lease.job, %error, "handing back a job that this version cannot read");
                        if let Err(error) = self.release_after(lease, UNREADABLE_PAUSE).await {
                            self.unanswered.put(call.worker, call.token);
                            return Err(error);
                        }
                        return Ok(ClaimReply::Again);
                    }
                }
            }
            // The script has put it back; it costs the job no attempt.
            "NEWER" => {
                tracing::warn!(
                    job = answer.text(0)?,
                    version = answer.int(1)?,
                    understood = CLASS_VERSION,
                    "left a job to workers of a newer version; upgrade this one"
                );
                return Ok(ClaimReply::Newer);
            }
            // Jobs of other classes, which the script has moved to their own queues.
            "MOVED" => return Ok(ClaimReply::Again),
            "EMPTY" => Claim::Empty { next_due: answer.time(0)?, now: answer.time(1)? },
            "UNREGISTERED" => Claim::Unregistered,
            "RETIRED" => Claim::Retired,
            // A leftover of a job that no longer waits. The script removed it from the queue.
            "STRAY" => {
                tracing::warn!(job = answer.text(0)?, "dropped an unreadable entry of jobs:pending");
                return Ok(ClaimReply::Again);
            }
            _ => return Err(answer.unexpected()),
        }))
    }

    /// The task of a claim; `None` if it is a leftover of a job that has ended.
    async fn claimed_task(
        &self,
        lease: LeaseId,
        answer: &ScriptReply<'_>,
    ) -> Result<Option<Claimed>, QueueError> {
        let split = claimed_split(lease.job, answer)?;
        let Some(by) = split else { return claimed(lease, None, answer, None).map(Some) };
        match self.split_terms(by, lease.part).await? {
            Some(terms) => claimed(lease, split, answer, Some(terms)).map(Some),
            // The parts of this job are lost: it is planned anew.
            None if lease.part.is_none() => claimed(lease, None, answer, None).map(Some),
            None => {
                tracing::warn!(job = %lease.job, "dropped a part of a job that has ended");
                self.drop_part(lease, by).await?;
                Ok(None)
            }
        }
    }
}
