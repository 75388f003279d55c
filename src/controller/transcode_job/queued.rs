//! TranscodeJobs and the queues of Kueue: what holds a job back, and its Workload. `controller::kueue` decides; this passes
//! on what is known of the job, and carries the decisions out.

use std::time::Duration;

use kube::runtime::controller::Action;

use super::decide::Look;
use crate::controller::conditions::holds;
use crate::controller::kueue::{self, Hold, JobView, Kueue, QueueView, Refusal, Seen, hold, prebuilt, step};
use crate::crd::{CONTROLLER_NAME, JobPhase, TranscodeJob, TranscodeJobStatus, condition};
use crate::job::State;
use crate::storage::urls::now_millis;

/// The value of `spec.managedBy` of a job that MultiKueue runs in another cluster.
const MULTIKUEUE: &str = "kueue.x-k8s.io/multikueue";
/// Interval in which what no watch shows is tried again: what was refused, or a Workload that somebody else makes.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What is known of a job's queue.
#[derive(Default)]
pub(super) struct Queued {
    /// Why the job is held back, by its user or by its queue.
    pub hold: Option<Hold>,
    /// Look again after this time, even without an event.
    pub again: Option<Duration>,
    seen: Seen,
}

impl Queued {
    /// Why the last step could not be carried out.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.seen.refusal.as_ref()
    }

    /// Whether what is known of Kueue is all that is to be known.
    pub(super) fn is_known(&self) -> bool {
        self.seen.is_known
    }

    fn view<'a>(&'a self, job: &'a TranscodeJob) -> QueueView<'a> {
        QueueView {
            queue: kueue::queue(job),
            suspend: job.spec.suspend,
            uid: job.metadata.uid.as_deref().unwrap_or_default(),
            is_prebuilt: prebuilt(job).is_some(),
            is_elsewhere: is_managed_elsewhere(job),
            refusal: self.seen.refusal.as_ref(),
            presence: &self.seen.presence,
            workload: self.seen.workload.as_ref(),
        }
    }
}

/// Whether another controller is responsible for the job.
#[must_use]
pub(super) fn is_managed_elsewhere(job: &TranscodeJob) -> bool {
    job.spec.managed_by.as_deref().is_some_and(|name| name != CONTROLLER_NAME)
}

impl Queued {
    /// What is known of the queue of a job. It asks nobody, so that no failure of Kueue hides what else there is to do.
    pub(super) fn look(queues: &Kueue, job: &TranscodeJob) -> Self {
        let seen = queues.look(job);
        let is_awaited = seen.workload.is_none() && prebuilt(job).is_some();
        let waits = kueue::queue(job).is_some() && !job.spec.suspend;
        let again = (waits && is_awaited || seen.refusal.is_some()).then_some(LOOK_AGAIN);
        let queued = Self { seen, again, hold: None };
        Self { hold: hold(&queued.view(job)), ..queued }
    }

    /// Brings the Workload of a job up to date with the job, whose status has been written.
    pub(super) async fn follow(
        &self,
        queues: &Kueue,
        job: &TranscodeJob,
        look: &Look,
        status: &TranscodeJobStatus,
    ) -> Result<(), kube::Error> {
        let state = match look {
            Look::Job(job) => Some(job.status),
            Look::NotYet | Look::Gone => None,
        };
        let is_running = matches!(state, Some(State::Running | State::Playable));
        let is_active = is_running || state == Some(State::Queued);
        let is_refused = status.phase == Some(JobPhase::Pending);
        self.take_step(queues, job, &JobView { is_active, is_running, is_refused, ..ended(status) }).await
    }

    async fn take_step(&self, queues: &Kueue, job: &TranscodeJob, seen: &JobView) -> Result<(), kube::Error> {
        let step = step(&self.view(job), seen);
        queues.carry_out(job, &self.seen, step, now_millis()).await
    }
}

/// Follows a job for which another controller is responsible. One that MultiKueue runs in another cluster has a Workload here,
/// which nobody else makes; everything else about it is not this controller's.
pub(super) async fn follow_elsewhere(queues: &Kueue, job: &TranscodeJob) -> Result<Action, kube::Error> {
    if job.spec.managed_by.as_deref() != Some(MULTIKUEUE) {
        return Ok(Action::await_change());
    }
    let status = job.status.clone().unwrap_or_default();
    let queued = Queued::look(queues, job);
    queued.take_step(queues, job, &ended(&status)).await?;
    Ok(queued.again.map_or_else(Action::await_change, Action::requeue))
}

/// Whether and how a job with this status has ended.
fn ended(status: &TranscodeJobStatus) -> JobView {
    let message = |type_| holds(&status.conditions, type_).map(|condition| condition.message.clone());
    let (ended, message) = match status.phase {
        Some(JobPhase::Complete) => (Some(true), message(condition::COMPLETE)),
        Some(JobPhase::Failed) => (Some(false), message(condition::FAILED)),
        _ => (None, None),
    };
    JobView { ended, message: message.unwrap_or_default(), ..JobView::default() }
}
