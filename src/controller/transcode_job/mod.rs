//! The reconciler of TranscodeJobs. Each TranscodeJob is one job in the queue, and its status mirrors that
//! job.
//!
//! | part | what it does |
//! |---|---|
//! | `submission` | converts a spec into a submission for the queue (pure) |
//! | `decide` | observation -> next action, or the status (pure) |
//! | `status` | a job -> the status (pure) |
//! | `events` | two statuses -> the Events for their difference (pure) |
//! | `event_writer` | writes these Events |
//! | `queued` | what Kueue says about a job, and the job's Workload |
//! | `index` | maps jobs to objects, filters job events |
//! | `finalizer` | adds and removes the finalizer |
//! | `reconcile` | carries out the actions: Redis, the API server, the bucket |
//! | here | the watch, and the triggers of reconciliations |

mod decide;
mod event_writer;
mod events;
mod finalizer;
mod index;
mod queued;
mod reconcile;
mod status;
mod submission;

#[cfg(test)]
mod tests;

pub(crate) use event_writer::EventWriter;
pub(crate) use events::new_failure;
pub(crate) use index::{Room, WebhookRequest};
use index::{job_id, mirrored};
pub(crate) use reconcile::{Context, ReconcilerHandles, Webhook};
pub(crate) use submission::Rules;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use submission::to_submission;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, ResourceExt as _};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::controller::kueue;
use crate::crd::{JobPhase, TranscodeJob};
use crate::job::{JobEvent, JobId};
use crate::queue::backoff;
use reconcile::ReconcileError;

/// A TranscodeJob that may fail to deserialize: one such object must not stop the others.
pub(crate) type Guarded = DeserializeGuard<TranscodeJob>;

/// Maximum number of concurrent reconciliations.
const MAX_CONCURRENT_RECONCILIATIONS: u16 = 32;
/// Objects in one page of a list.
const PAGE: u32 = 500;
/// Time that running reconciliations have to finish after the process is told to stop.
const LAST: Duration = Duration::from_secs(20);
/// A failed reconciliation is retried after up to one second; the delay doubles with each failure ...
const RETRY_BASE: Duration = Duration::from_secs(1);
/// ... up to this maximum.
const RETRY_CAP: Duration = Duration::from_secs(300);

/// Reconciles all TranscodeJobs behind `api` until `stop`. Running reconciliations are then allowed to
/// finish.
pub(crate) async fn run(
    context: Arc<Context>,
    api: Api<Guarded>,
    events: broadcast::Receiver<JobEvent>,
    stop: CancellationToken,
) {
    let (store, writer) = reflector::store();
    let watched = Arc::clone(&context);
    let mut listed: Option<Listed> = None;
    let objects = watcher(api, watcher::Config::default().page_size(PAGE))
        .inspect_err(|error| tracing::warn!(%error, "the watch of TranscodeJobs broke; retrying"))
        .default_backoff()
        .modify(slim)
        .inspect_ok(move |event| watched.note(event, &mut listed))
        .reflect(writer)
        .applied_objects();
    let (known, over) = (Arc::clone(&context), stop.clone());
    let run = Controller::for_stream(objects, store)
        .with_config(Config::default().concurrency(MAX_CONCURRENT_RECONCILIATIONS))
        .reconcile_on(woken(Arc::clone(&context), events))
        .reconcile_on(queue_changes(&context))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile::reconcile, on_error, context)
        // Failures are logged where they happen.
        .for_each(|_| std::future::ready(()));
    // Nothing is reconciled before all objects are known, and kube's own shutdown would wait for that
    // forever.
    let at_last = async {
        over.cancelled().await;
        if known.knows_all() {
            tokio::time::sleep(LAST).await;
        }
    };
    tokio::select! {
        () = run => {}
        () = at_last => {}
    }
}

/// Drops the parts of an object that the controller does not read, to save memory.
fn slim(object: &mut Guarded) {
    object.managed_fields_mut().clear();
    object.annotations_mut().clear();
}

/// The objects whose jobs had events.
fn woken(
    context: Arc<Context>,
    events: broadcast::Receiver<JobEvent>,
) -> impl Stream<Item = ObjectRef<Guarded>> {
    let batches = futures::stream::unfold((context, events), |(context, mut events)| async move {
        let batch = loop {
            let due = context.index().next_due();
            let event = tokio::select! {
                event = events.recv() => event,
                () = sleep_until(due) => break context.index().take_due(Instant::now()),
            };
            match event {
                Ok(event) => {
                    if let Some(object) = context.index().heard(&event, Instant::now()) {
                        break vec![object];
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "event stream lagged; reading every job again");
                    break context.index().missed();
                }
                Err(RecvError::Closed) => return None,
            }
        };
        Some((batch, (context, events)))
    });
    batches.flat_map(futures::stream::iter)
}

/// Waits until then, or for ever.
async fn sleep_until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}

/// The objects whose queues of Kueue have news for them.
fn queue_changes(context: &Context) -> impl Stream<Item = ObjectRef<Guarded>> + use<> {
    context.kueue().woken().map(|(namespace, name)| ObjectRef::new(&name).within(&namespace))
}

/// What a list of all objects has contained so far.
#[derive(Default)]
struct Listed {
    ids: HashSet<JobId>,
    names: HashSet<kueue::Name>,
}

impl Context {
    /// Keeps the index in step with the watch. `listed` collects an initial list until it is complete.
    fn note(&self, event: &Event<Guarded>, listed: &mut Option<Listed>) {
        let id_of = |object: &Guarded| job_id(object, self.mirrors());
        match event {
            Event::Init => *listed = Some(Listed::default()),
            Event::InitApply(object) | Event::Apply(object) => {
                if let Some(listed) = listed {
                    listed.names.insert((object.namespace().unwrap_or_default(), object.name_any()));
                }
                let Some(id) = id_of(object) else { return };
                let reference = ObjectRef::from_obj(object);
                if mirrored(object, self.mirrors()).is_some() {
                    self.index().put_mirror(id, reference, ended(object));
                } else {
                    self.index().put(id, reference, WebhookRequest::of(object));
                }
                if let Some(listed) = listed {
                    listed.ids.insert(id);
                }
                // No controller may have heard that the job was retried, and a finished job is not read without an event.
                if !self.knows_all() && phase(object) == Some(JobPhase::Failed) {
                    self.index().mark_dirty(id);
                }
            }
            Event::Delete(object) => {
                if let Some(id) = id_of(object) {
                    self.index().remove(id);
                }
                self.kueue().forget(object.namespace().unwrap_or_default(), object.name_any());
            }
            Event::InitDone => {
                if let Some(there) = listed.take() {
                    self.index().keep(&there.ids);
                    self.kueue().keep(&there.names);
                }
                self.synced();
            }
        }
    }
}

fn phase(object: &Guarded) -> Option<JobPhase> {
    object.0.as_ref().ok()?.status.as_ref()?.phase
}

fn ended(object: &Guarded) -> bool {
    phase(object).is_some_and(JobPhase::is_terminal)
}

fn on_error(object: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let Some(id) = job_id(&object, context.mirrors()) else { return Action::await_change() };
    let failures = context.index().failed(id);
    let wait = backoff::full_jitter(failures, RETRY_BASE, RETRY_CAP);
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    // A conflict means that the object was outdated; the newer version is on its way.
    if failures > 1 || !error.is_conflict() {
        tracing::warn!(job = %id, namespace, name, %error, failures, "reconcile failed");
    }
    Action::requeue(wait)
}
