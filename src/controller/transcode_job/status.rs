//! Derives the status of a TranscodeJob from its job. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Resource as _;

use super::submission::signed_type;
use crate::controller::conditions::{ConditionUpdate, conditions, cut, find, holds, millis, time};
use crate::controller::fleet::MachinePrice;
use crate::controller::kueue::{Hold, Refusal};
use crate::crd::{
    CostStatus, EntryStatus, FailureStatus, FileStatus, JobPhase, OutputStatus, TranscodeJob,
    TranscodeJobSpec, TranscodeJobStatus, condition, reason,
};
use crate::job::{
    EntryDocument, EntryKind, Failure, FailureAction, FailureCode, Input, Job, JobId, JobResult, Millis,
    ObjectKey, PartFailure, State,
};
use crate::storage::layout;
use crate::storage::media::media_end;
use crate::storage::urls::{UrlSigner, upload_ends};

/// Maximum number of reported renditions; there are eight qualities.
const OUTPUTS: usize = 16;
/// Maximum length of a failure's message, characters.
const FAILURE_MESSAGE: usize = 4096;

/// What a status is derived from besides the job.
pub(crate) struct StatusContext<'a> {
    /// The object.
    pub object: &'a TranscodeJob,
    /// Its last status.
    pub before: &'a TranscodeJobStatus,
    /// The job's id.
    pub id: JobId,
    /// Signs URLs of uploads and outputs.
    pub links: &'a UrlSigner,
    /// The price of one machine, if known.
    pub price: Option<MachinePrice>,
    /// The wall clock.
    pub now: Millis,
    /// Why the job is held back, by its user or by its queue.
    pub hold: Option<&'a Hold>,
    /// What was refused about its Workload.
    pub refusal: Option<&'a Refusal>,
    /// Whether that is all that is to be known; a controller that has just started knows neither Kueue nor what it refuses.
    pub is_queue_known: bool,
}

impl StatusContext<'_> {
    fn bare(&self, phase: JobPhase) -> TranscodeJobStatus {
        TranscodeJobStatus {
            phase: Some(phase),
            observed_generation: self.object.meta().generation,
            job_id: Some(self.id.to_string()),
            ..TranscodeJobStatus::default()
        }
    }

    fn say(&self, status: &mut TranscodeJobStatus, mut said: Vec<ConditionUpdate>) {
        said.extend(self.outdated_workload());
        let generation = self.object.meta().generation;
        status.conditions = conditions(&self.before.conditions, said, generation, self.now);
    }

    /// What was refused about the job's Workload, unless it is also why the job is held back.
    fn outdated_workload(&self) -> Option<ConditionUpdate> {
        let type_ = condition::WORKLOAD_OUTDATED;
        match self.refusal {
            Some(Refusal { reason, .. })
                if self.hold.is_some_and(|hold| hold.is_stalled && hold.reason == *reason) =>
            {
                None
            }
            Some(Refusal { reason, message }) => Some(ConditionUpdate::yes(type_, *reason, &**message)),
            None if self.is_queue_known => None,
            None => repeat(&self.before.conditions, type_),
        }
    }

    /// What to say of a job that is held back. Until Kueue is known, what was known before stands: otherwise each start of a
    /// controller would write the status of every job that waits in a queue, twice.
    fn hold_conditions(&self, hold: &Hold) -> Vec<ConditionUpdate> {
        let before = &self.before.conditions;
        if !self.is_queue_known
            && hold.reason != reason::SUSPENDED
            && let Some(suspended) =
                holds(before, condition::SUSPENDED).filter(|c| c.reason != reason::SUSPENDED)
        {
            let is_same = |stalled: &ConditionUpdate| stalled.reason == suspended.reason;
            let stalled = repeat(before, condition::STALLED).filter(is_same);
            return repeat(before, condition::SUSPENDED).into_iter().chain(stalled).collect();
        }
        let mut said = vec![ConditionUpdate::yes(condition::SUSPENDED, hold.reason, &*hold.message)];
        if hold.is_stalled {
            said.push(ConditionUpdate::yes(condition::STALLED, hold.reason, &*hold.message));
        }
        said
    }

    /// The status of an object that is not queued until its spec is changed.
    #[must_use]
    pub(crate) fn stalled(&self, reason: &str, message: &str) -> TranscodeJobStatus {
        let mut status = self.bare(JobPhase::Pending);
        self.say(&mut status, vec![ConditionUpdate::yes(condition::STALLED, reason, message)]);
        status
    }

    /// The status while Redis cannot be used; it keeps what was known. `remedy` is what the operator of the
    /// installation has to do, unless the failure passes by itself.
    #[must_use]
    pub(crate) fn without_redis(&self, remedy: Option<&str>) -> TranscodeJobStatus {
        let mut status = self.before.clone();
        status.phase.get_or_insert(JobPhase::Pending);
        let message = match remedy {
            None => {
                "Redis (REDIS_URL of the controller) cannot be used; reconciliation continues when Redis is \
                 available"
                    .into()
            }
            Some(remedy) => {
                format!(
                    "Redis (REDIS_URL of the controller) cannot be used: {remedy}; reconciliation continues then"
                )
            }
        };
        let mut said = keep(&self.before.conditions);
        said.push(ConditionUpdate::yes(condition::RECONCILING, reason::REDIS_UNAVAILABLE, message));
        self.say(&mut status, said);
        status
    }

    /// The status while the job is held back before it was queued.
    #[must_use]
    pub(crate) fn held(&self, hold: &Hold) -> TranscodeJobStatus {
        let mut status = self.bare(JobPhase::Suspended);
        status.attempts = self.before.attempts;
        let said = self.hold_conditions(hold);
        self.say(&mut status, said);
        status
    }

    /// The status of a finished job without news: only the mutable fields of the spec may have changed.
    #[must_use]
    pub(crate) fn as_before(&self) -> TranscodeJobStatus {
        let mut status =
            TranscodeJobStatus { observed_generation: self.object.meta().generation, ..self.before.clone() };
        self.addresses(&mut status);
        status.conditions.retain(|c| c.type_ != condition::WORKLOAD_OUTDATED);
        let outdated = self.outdated_workload().into_iter().collect();
        let generation = self.object.meta().generation;
        status.conditions.extend(conditions(&self.before.conditions, outdated, generation, self.now));
        status
    }

    /// When signed URLs in `status` must be renewed.
    #[must_use]
    pub(crate) fn renewal(status: &TranscodeJobStatus) -> Option<Millis> {
        status.urls_expire_at.as_ref().map(|until| millis(until).plus(-REFRESH_MS))
    }

    /// The status that mirrors `job`. `changed` says that the spec no longer matches the job.
    #[must_use]
    pub(crate) fn of(&self, job: &Job, changed: bool) -> TranscodeJobStatus {
        let phase = phase(job, self.hold.is_some_and(|hold| hold.stops));
        let mut status = self.bare(phase);
        status.attempts = i32::try_from(job.attempt).ok();
        status.last_failure = last_failure(job, self.now);
        status.machine = job.worker.as_ref().map(|w| w.machine().to_owned());
        status.start_time = match job.status {
            State::Uploading => None,
            State::Cancelled if job.suspended => None,
            _ => self.start_in(phase).or_else(|| {
                let times = &job.timestamps;
                Some(time(times.queued_at.or(times.started_at).unwrap_or(self.now)))
            }),
        };
        if job.status.is_active() || job.status == State::Completed {
            status.progress_percent = Some(percent(job.progress));
        }
        if let (State::Completed, Some(result)) = (job.status, &job.result) {
            self.result(&mut status, job, result);
        }
        if job.status == State::Uploading {
            self.upload(&mut status, job);
        }
        if let (State::Playable, Some(key)) = (job.status, layout::early_entry(job)) {
            let kind = EntryKind::Hls.name().to_owned();
            status.entries = vec![EntryStatus { kind, key: key.to_string(), url: None }];
            self.addresses(&mut status);
        }
        let mut said = self.said(job);
        // A job that has ended does not continue, and one that failed is stalled already.
        if changed && !job.status.is_terminal() {
            let message = "an immutable field of the spec was changed; the job continues with its original spec. \
                           To apply the change, delete this TranscodeJob and create another";
            said.push(ConditionUpdate::yes(condition::STALLED, reason::IMMUTABLE_FIELD, message));
        }
        self.say(&mut status, said);
        status
    }

    /// When the job was queued, as far as that is known. A job that has ended and was retried was queued anew.
    fn start_in(&self, phase: JobPhase) -> Option<Time> {
        let ended_as = self.before.phase.filter(|phase| phase.is_terminal());
        let is_retried = ended_as.is_some_and(|before| before != phase);
        self.before.start_time.clone().filter(|_| !is_retried)
    }

    fn said(&self, job: &Job) -> Vec<ConditionUpdate> {
        let before = &self.before.conditions;
        let mut said = of_state(job, &self.object.spec);
        // A job that was started is held back only by what also stops it.
        let holds_it = |hold: &&Hold| hold.stops || job.suspended;
        let may_be_held = !job.status.is_terminal() || job.suspended;
        match self.hold.filter(holds_it) {
            Some(hold) if may_be_held => said.extend(self.hold_conditions(hold)),
            // It is resumed next.
            None if job.suspended => {}
            _ if find(before, condition::SUSPENDED).is_some() => {
                let message = "nothing holds the job back any more";
                said.push(ConditionUpdate::no(condition::SUSPENDED, reason::RESUMED, message));
            }
            _ => {}
        }
        if !job.status.is_terminal() && find(before, condition::FAILED).is_some() {
            let message = "the job was retried";
            said.push(ConditionUpdate::no(condition::FAILED, reason::RETRIED, message));
        }
        said
    }

    fn result(&self, status: &mut TranscodeJobStatus, job: &Job, result: &JobResult) {
        let ended = job.timestamps.completed_at.unwrap_or(self.now);
        status.completion_time = Some(time(ended));
        status.outputs = result.outputs.iter().take(OUTPUTS).map(OutputStatus::from).collect();
        let file = |key: &ObjectKey| FileStatus { key: key.to_string(), url: None };
        let entry = |e: &EntryDocument| EntryStatus {
            kind: e.kind.name().to_owned(),
            key: e.key.to_string(),
            url: None,
        };
        status.entries = result.entries.iter().map(entry).collect();
        status.poster = result.poster.as_ref().map(|p| file(&p.key));
        status.storyboard = result.storyboard.as_ref().map(|b| file(&b.key));
        self.addresses(status);
        let timings = &result.timings;
        // Of a job that several machines have encoded, only the CPU time is known, not on which of them it was spent.
        let is_split = result.split.as_ref().is_some_and(|split| split.chunks > 1);
        let (seconds, usd) = if is_split {
            (result.cpu_seconds, self.price.map(|price| price.of_cpu(result.cpu_seconds)))
        } else {
            let seconds = timings.download_seconds + timings.transcode_seconds + timings.upload_seconds;
            (seconds, self.price.map(|price| price.of_machine(seconds)))
        };
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a job, rounded up")]
        let machine_seconds = seconds.ceil() as i64;
        let usd = usd.map(|usd| format!("{usd:.6}"));
        status.cost = Some(CostStatus { machine_seconds, usd });
    }

    /// Adds the URLs of the outputs in `status`. Reuses the expiry time of the previous URLs while they
    /// remain valid: the same expiry gives the same URL, so that the status is not written without need.
    fn addresses(&self, status: &mut TranscodeJobStatus) {
        let written = self.before.urls_expire_at.as_ref().map(millis);
        let is_good = Self::renewal(self.before).is_some_and(|due| due > self.now);
        let end = written.filter(|_| is_good).unwrap_or_else(|| media_end(self.now));
        status.urls_expire_at = None;
        let entries = status.entries.iter_mut().map(|entry| (&entry.key, &mut entry.url));
        let files = [&mut status.poster, &mut status.storyboard];
        let files = files.into_iter().flatten().map(|file| (&file.key, &mut file.url));
        for (key, url) in status.outputs.iter_mut().map(|o| (&o.key, &mut o.url)).chain(entries).chain(files)
        {
            let published = key.parse().ok().and_then(|key| match status.phase {
                Some(JobPhase::Complete) => self.links.published(&key, end),
                _ => self.links.published_early(&key, end),
            });
            if let Some(end) = published.as_ref().and_then(|p| p.expires_at) {
                status.urls_expire_at = Some(time(end));
            }
            *url = published.map(|p| p.url.into());
        }
    }

    /// Adds the URL for the upload, renewed if the previous one expires soon.
    fn upload(&self, status: &mut TranscodeJobStatus, job: &Job) {
        let Input::Key(key) = &job.spec.input else { return };
        let still_good = |until: &&Time| millis(until) > self.now.plus(REFRESH_MS);
        if let (Some(url), Some(until)) =
            (&self.before.upload_url, self.before.upload_expires_at.as_ref().filter(still_good))
        {
            (status.upload_url, status.upload_expires_at) = (Some(url.clone()), Some(until.clone()));
            return;
        }
        // One that cannot be read was refused before the job was submitted.
        let media_type = signed_type(&self.object.spec).ok().flatten();
        if let Ok(url) = self.links.upload(key, job.spec.file_size, media_type.as_ref(), self.now) {
            (status.upload_url, status.upload_expires_at) =
                (Some(url.into()), Some(time(upload_ends(self.now))));
        }
    }
}

/// Signed URLs that expire within this time are renewed: ten minutes.
pub(crate) const REFRESH_MS: i64 = 600_000;

#[expect(clippy::cast_possible_truncation, reason = "clamped before")]
fn percent(progress: f64) -> i32 {
    progress.clamp(0.0, 100.0) as i32
}

fn phase(job: &Job, is_held: bool) -> JobPhase {
    match job.status {
        State::Uploading if is_held => JobPhase::Suspended,
        State::Uploading => JobPhase::Uploading,
        State::Queued => JobPhase::Queued,
        State::Running | State::Playable => JobPhase::Running,
        State::Completed => JobPhase::Complete,
        State::Cancelled if job.suspended => JobPhase::Suspended,
        State::Failed | State::Cancelled => JobPhase::Failed,
    }
}

/// The conditions that stand while Redis cannot be used: what is in storage can still be played, and what has to be done still
/// has to be done.
fn keep(before: &[Condition]) -> Vec<ConditionUpdate> {
    let types = [
        condition::COMPLETE,
        condition::FAILED,
        condition::SUSPENDED,
        condition::PLAYABLE,
        condition::STALLED,
    ];
    types.into_iter().filter_map(|type_| repeat(before, type_)).collect()
}

/// A condition as it was, if it held.
fn repeat(before: &[Condition], type_: &'static str) -> Option<ConditionUpdate> {
    holds(before, type_).map(|c| ConditionUpdate::yes(type_, &*c.reason, &*c.message))
}

/// The worker that a job waits for.
fn worker_of(job: &Job) -> String {
    match &job.spec.worker_class {
        class if class.is_default() => "a worker".to_owned(),
        class => format!("a worker of the class {class}"),
    }
}

/// What the state of a job says.
fn of_state(job: &Job, spec: &TranscodeJobSpec) -> Vec<ConditionUpdate> {
    match job.status {
        State::Uploading => {
            let media_type = spec.input.upload.as_ref().and_then(|upload| upload.content_type.as_ref());
            let header = media_type.map(|name| format!(" with the header Content-Type: {name}"));
            let message = format!(
                "the job waits for its video: PUT it to status.uploadUrl{}",
                header.unwrap_or_default()
            );
            vec![ConditionUpdate::yes(condition::RECONCILING, reason::AWAITING_UPLOAD, message)]
        }
        State::Queued => {
            let message = match (&job.error, job.timestamps.retry_at) {
                // Which kind the last failure was is not known, only how many there were of each.
                (Some(error), Some(at)) if job.ignored > 0 => {
                    format!(
                        "the last attempt failed: {error}; the next is at {at}; {} of {} attempts are counted, \
                         and {} failure(s) are not",
                        job.attempt, job.spec.max_attempts, job.ignored
                    )
                }
                (Some(error), Some(at)) => {
                    format!(
                        "attempt {} of {} failed: {error}; the next is at {at}",
                        job.attempt, job.spec.max_attempts
                    )
                }
                (Some(error), None) => {
                    format!("the job waits for {} again; the last attempt failed: {error}", worker_of(job))
                }
                (None, _) => format!("the job waits for {}", worker_of(job)),
            };
            vec![ConditionUpdate::yes(condition::RECONCILING, reason::IN_PROGRESS, message)]
        }
        State::Running => {
            let message = match (&job.part_failure, &job.error) {
                (Some(failure), _) => format!("workers encode the parts of the job; {}", of_part(failure)),
                (None, Some(error)) => {
                    let (attempt, most) = (job.attempt, job.spec.max_attempts);
                    format!("a worker makes attempt {attempt} of {most}; the one before failed: {error}")
                }
                (None, None) => "a worker is processing the job".to_owned(),
            };
            vec![ConditionUpdate::yes(condition::RECONCILING, reason::IN_PROGRESS, message)]
        }
        State::Playable => {
            let message = "the video can be played already; its later parts are still encoded";
            let failure = job.part_failure.as_ref();
            let progress = failure
                .map_or_else(|| message.to_owned(), |failure| format!("{message}; {}", of_part(failure)));
            vec![
                ConditionUpdate::yes(condition::RECONCILING, reason::IN_PROGRESS, progress),
                ConditionUpdate::yes(condition::PLAYABLE, reason::PLAYABLE, message),
            ]
        }
        State::Completed => {
            let renditions = job.result.as_ref().map_or(0, |r| r.outputs.len());
            let message = format!("{renditions} rendition(s) are in storage; see status.outputs");
            let mut said = vec![ConditionUpdate::yes(condition::COMPLETE, reason::COMPLETED, message)];
            if job.timestamps.playable_at.is_some() {
                // It may have been playable for a moment only, which somebody may wait for.
                let message = "the video could be played before the job was completed";
                said.push(ConditionUpdate::yes(condition::PLAYABLE, reason::PLAYABLE, message));
            }
            said
        }
        State::Cancelled if job.suspended => vec![],
        State::Cancelled => {
            let message = "the job was cancelled outside Kubernetes; retry it there, or delete this \
                           TranscodeJob and create another";
            vec![ConditionUpdate::yes(condition::FAILED, reason::CANCELLED, message)]
        }
        State::Failed => {
            let unknown = || Failure::new(FailureCode::Worker, "the job failed; the reason was not recorded");
            let failure = job.error.clone().unwrap_or_else(unknown);
            let (reason, message) = (failed(&failure, job), failure.message);
            // Also Stalled, for tools that read kstatus, such as Argo CD and Flux.
            let words = "the job has failed and is not retried; see the condition Failed";
            vec![
                ConditionUpdate::yes(condition::FAILED, reason.clone(), message),
                ConditionUpdate::yes(condition::STALLED, reason, words),
            ]
        }
    }
}

fn of_part(failure: &PartFailure) -> String {
    let PartFailure { part, failures, retry_at, failure } = failure;
    let failed = format!("attempt {failures} at the part {part} failed: {failure}");
    retry_at.map_or_else(|| failed.clone(), |at| format!("{failed}; the next is at {at}"))
}

/// Says in the status of a job that is not over that the controller cannot see something in storage.
pub(crate) fn tell_storage_error(status: &mut TranscodeJobStatus, message: String) {
    let reconciling = status.conditions.iter_mut().find(|c| c.type_ == condition::RECONCILING);
    if let Some(condition) = reconciling {
        condition.reason = reason::STORAGE_UNAVAILABLE.to_owned();
        condition.message = cut(message);
    }
}

/// The failure of the last attempt: of a job that is retried, or that has failed, or at a part of a job.
fn last_failure(job: &Job, now: Millis) -> Option<FailureStatus> {
    if let Some(PartFailure { part, failures, retry_at, failure }) = &job.part_failure {
        return Some(FailureStatus {
            code: failure.code.name().to_owned(),
            message: failure.message.chars().take(FAILURE_MESSAGE).collect(),
            attempt: i32::try_from(*failures).unwrap_or(i32::MAX),
            part: Some(part.clone()),
            ignored: None,
            retry_time: retry_at.filter(|at| *at > now).map(time),
        });
    }
    let failed = match job.status {
        State::Queued | State::Failed => job.attempt,
        // The attempt that runs has not failed yet.
        State::Running | State::Playable => job.attempt.saturating_sub(1),
        State::Uploading | State::Completed | State::Cancelled => return None,
    };
    let failure = job.error.as_ref()?;
    let retry = job.timestamps.retry_at.filter(|_| job.status == State::Queued);
    Some(FailureStatus {
        code: failure.code.name().to_owned(),
        message: failure.message.chars().take(FAILURE_MESSAGE).collect(),
        attempt: i32::try_from(failed).unwrap_or(i32::MAX),
        part: None,
        ignored: (job.ignored > 0).then(|| i32::try_from(job.ignored).unwrap_or(i32::MAX)),
        retry_time: retry.map(time),
    })
}

/// The reason of a failure: the one of batch/v1 if it has one, else the failure's code.
fn failed(failure: &Failure, job: &Job) -> String {
    if failure.code == FailureCode::DeadlineExceeded {
        return reason::DEADLINE_EXCEEDED.to_owned();
    }
    // The job's own rule decided, also at the last attempt, as `podFailurePolicy` does for a Job.
    let is_by_rule = job.spec.failure_policy.action(failure.code) == Some(FailureAction::FailJob);
    if !is_by_rule && failure.code.is_retryable() && job.attempt >= job.spec.max_attempts {
        return reason::BACKOFF_LIMIT_EXCEEDED.to_owned();
    }
    // Reasons are in CamelCase, codes in camelCase.
    let mut letters = failure.code.name().chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}
