//! Whether a queue of Kueue holds a job back, and what to do about the job's Workload. Pure.

use kube::Resource as _;

use super::refusal::Refusal;
use super::workload::workload_condition::{ADMITTED, EVICTED, FINISHED, PODS_READY, QUOTA_RESERVED};
use super::workload::{Workload, conditions_of, is, is_free, is_of};
use crate::controller::conditions::{find, holds};
use crate::crd::reason;

/// What is known of Kueue in this cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has not been looked for, or the Workloads are not all known yet.
    #[default]
    Unknown,
    /// Its Workloads are known.
    Usable,
    /// It cannot be used.
    Missing {
        /// The reason in CamelCase, for programs.
        reason: &'static str,
        /// What is wrong, and what to do.
        message: String,
    },
}

/// Why a job is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// The reason in CamelCase, for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// Whether it also stops a job that was started.
    pub stops: bool,
    /// Whether somebody has to do something about it.
    pub is_stalled: bool,
}

/// What decisions about the queue of a job are based on.
pub(crate) struct QueueView<'a> {
    /// The queue that the job names.
    pub queue: Option<&'a str>,
    /// Whether `spec.suspend` is true.
    pub suspend: bool,
    /// The uid of the job's object.
    pub uid: &'a str,
    /// Whether somebody else made the job's Workload.
    pub is_prebuilt: bool,
    /// Whether the job runs in another cluster, to which MultiKueue copies it.
    pub is_elsewhere: bool,
    /// Why the last step could not be carried out.
    pub refusal: Option<&'a Refusal>,
    /// What is known of Kueue.
    pub presence: &'a Presence,
    /// The Workload with the name of the job's.
    pub workload: Option<&'a Workload>,
}

/// What is known of the job itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobView {
    /// Whether it has succeeded, if it has ended.
    pub ended: Option<bool>,
    /// Whether it is in the queue of workers, or one of them has it.
    pub is_active: bool,
    /// Whether a worker has it.
    pub is_running: bool,
    /// Whether it cannot be queued until its spec or its Secret is changed.
    pub is_refused: bool,
    /// A sentence about its end.
    pub message: String,
}

/// What to do about the job's Workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Nothing,
    /// Create it.
    Create,
    /// Look for the one that somebody else created. It is not watched before it is the job's own.
    Find,
    /// Make the one that somebody else created the job's own.
    Adopt,
    /// Move it to the queue that the job names now.
    Move(String),
    /// Say that the job runs.
    Start,
    /// Give back the quota of a job that was evicted and does not run any more.
    Release,
    /// Say that the job has ended.
    Finish(bool, String),
    /// Delete it.
    Delete,
}

/// Why the job is held back, by its user or by its queue.
#[must_use]
pub(crate) fn hold(view: &QueueView<'_>) -> Option<Hold> {
    if view.suspend {
        return Some(Hold {
            reason: reason::SUSPENDED,
            message: "spec.suspend is true; set it to false to let the job run".to_owned(),
            stops: true,
            is_stalled: false,
        });
    }
    let queue = view.queue?;
    let waits = |message: String| Hold {
        reason: reason::AWAITING_ADMISSION,
        message,
        stops: true,
        is_stalled: false,
    };
    match view.presence {
        Presence::Unknown => Some(Hold {
            // The controller may have started a moment ago; jobs that were admitted before run on.
            stops: false,
            ..waits(format!(
                "the controller looks for Kueue, which has to admit the job in the queue {queue}"
            ))
        }),
        Presence::Missing { reason, message } => Some(Hold {
            reason,
            message: format!("the job waits for its admission in the queue {queue} of Kueue, but {message}"),
            stops: false,
            is_stalled: true,
        }),
        Presence::Usable => {
            let hold = match view.workload {
                None if view.is_prebuilt => Some(waits(format!(
                    "the job waits for the Workload that its label prebuilt-workload-name names, in the queue {queue} of Kueue"
                ))),
                None => Some(waits(format!("the job waits for its Workload in the queue {queue} of Kueue"))),
                Some(workload) => of_workload(view, queue, workload),
            };
            hold.map(|hold| refused(hold, view.refusal))
        }
    }
}

/// Says what prevents the end of a wait: a job that is admitted runs, whatever else about its Workload is refused.
fn refused(hold: Hold, refusal: Option<&Refusal>) -> Hold {
    match refusal {
        Some(Refusal { reason, message }) if !hold.is_stalled => {
            Hold { reason, message: message.clone(), is_stalled: true, ..hold }
        }
        _ => hold,
    }
}

fn of_workload(view: &QueueView<'_>, queue: &str, workload: &Workload) -> Option<Hold> {
    let name = workload.meta().name.as_deref().unwrap_or_default();
    let because =
        |reason: &'static str, message: String| Hold { reason, message, stops: true, is_stalled: false };
    let is_to_be_adopted = view.is_prebuilt && is_free(workload);
    if !is_of(workload, view.uid) && !is_to_be_adopted {
        let Refusal { reason, message } = Refusal::not_owned(name);
        return Some(Hold { is_stalled: true, ..because(reason, message) });
    }
    // One of this controller's own is made anew when the job is retried.
    if view.is_prebuilt && !view.is_elsewhere && is(workload, FINISHED) {
        let message = format!(
            "the Workload {name}, which was made for the job, has ended, and is not made anew here; \
             delete this TranscodeJob and create another"
        );
        return Some(Hold { is_stalled: true, ..because(reason::WORKLOAD_FINISHED, message) });
    }
    if let Some(evicted) = holds(conditions_of(workload), EVICTED) {
        let message = format!(
            "Kueue evicted the Workload {name} ({}): {}; the job starts over when it is admitted again",
            evicted.reason, evicted.message
        );
        return Some(because(reason::WORKLOAD_EVICTED, message));
    }
    if workload.spec.active == Some(false) {
        let message = format!("the Workload {name} is deactivated; it waits until its spec.active is true");
        return Some(because(reason::WORKLOAD_EVICTED, message));
    }
    let is_over = is(workload, FINISHED) || workload.meta().deletion_timestamp.is_some();
    if is(workload, ADMITTED) && !is_over {
        return None;
    }
    let message = match find(conditions_of(workload), QUOTA_RESERVED) {
        Some(reserved) if reserved.status == "True" => {
            format!("the job has quota in the queue {queue} of Kueue, and waits for its admission checks")
        }
        Some(refused) => {
            format!("the job waits for its admission in the queue {queue} of Kueue: {}", refused.message)
        }
        None => format!("the job waits for its admission in the queue {queue} of Kueue"),
    };
    Some(because(reason::AWAITING_ADMISSION, message))
}

/// What to do about the Workload, once the job is as [`hold`] wants it.
#[must_use]
pub(crate) fn step(view: &QueueView<'_>, job: &JobView) -> Step {
    let is_wanted = view.queue.is_some() && !view.suspend && !job.is_refused && job.ended.is_none();
    let Some(workload) = view.workload else {
        return match is_wanted && *view.presence == Presence::Usable {
            true if view.is_prebuilt => Step::Find,
            true => Step::Create,
            false => Step::Nothing,
        };
    };
    if workload.meta().deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    if !is_of(workload, view.uid) {
        let is_ours = view.is_prebuilt && is_free(workload) && is_wanted;
        return if is_ours { Step::Adopt } else { Step::Nothing };
    }
    if let Some(succeeded) = job.ended {
        let is_said = is(workload, FINISHED);
        return if is_said { Step::Nothing } else { Step::Finish(succeeded, job.message.clone()) };
    }
    // A job that was suspended gives its quota back once it does not run any more, and one that cannot run at once. One that
    // was retried after its end has to be admitted again.
    let is_retried = is(workload, FINISHED) && !view.is_elsewhere;
    let is_obsolete =
        view.queue.is_none() || (view.suspend || is_retried || job.is_refused) && !job.is_active;
    if is_obsolete && !view.is_prebuilt {
        return Step::Delete;
    }
    let has_quota = is(workload, QUOTA_RESERVED);
    // Also of one that is not deleted because somebody else made it: nobody but this controller answers its eviction.
    if is(workload, EVICTED) {
        let needs_none = !job.is_active || view.queue.is_none();
        let is_due = has_quota && needs_none && !is(workload, FINISHED);
        return if is_due { Step::Release } else { Step::Nothing };
    }
    if is_obsolete {
        return Step::Nothing;
    }
    match view.queue {
        Some(queue) if !has_quota && !view.is_prebuilt && workload.spec.queue_name != queue => {
            Step::Move(queue.to_owned())
        }
        _ if job.is_running && !view.suspend && is(workload, ADMITTED) && !is(workload, PODS_READY) => {
            Step::Start
        }
        _ => Step::Nothing,
    }
}
