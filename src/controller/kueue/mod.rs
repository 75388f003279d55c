//! Admission of TranscodeJobs by the queues of Kueue, <https://kueue.sigs.k8s.io>.
//!
//! A TranscodeJob with the label `kueue.x-k8s.io/queue-name` has a `Workload`, which Kueue admits when the queue has quota for
//! it, and evicts when it must give the quota back. `decide` says what that means for the job, `workload` is the part of
//! Kueue's API that is used, and this module watches the Workloads and carries out what was decided.
//!
//! `spec.suspend` is never written: it belongs to the users. A job runs if its user and its queue let it.
//!
//! Kueue is optional. Where it can be used, its Workloads are watched from the start, since a job may have lost its label while
//! no controller ran, and its Workload has to go. Where it cannot, nothing is said until a TranscodeJob names a queue.

mod decide;
mod refusal;
#[cfg(test)]
mod tests;
mod workload;

pub(crate) use decide::{Hold, JobView, Presence, QueueView, Step, hold, step};
pub(crate) use refusal::Refusal;
use refusal::{Refusals, tells_refusal};
pub(crate) use workload::{Workload, prebuilt, queue, workload_name, workloads};

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::crd::{TranscodeJob, reason};
use crate::job::Millis;
use workload::{PRIORITY_CLASS_LABEL, WorkloadPriority};

/// Time limit of a request to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval in which a missing Kueue is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Objects in one page of a list.
const PAGE: u32 = 500;

/// A namespace and a name in it.
pub(crate) type Name = (String, String);

/// What is known of Kueue and its Workloads.
pub(crate) struct Kueue {
    client: Client,
    /// The Workloads that are watched.
    watched: Api<Workload>,
    state: Mutex<State>,
    /// A job names a queue.
    is_wanted: Notify,
    /// There are jobs to reconcile.
    is_woken: Notify,
}

#[derive(Default)]
struct State {
    presence: Presence,
    workloads: HashMap<Name, Workload>,
    /// The jobs to which what is known of Kueue matters.
    jobs: HashSet<Name>,
    /// The jobs to reconcile because of what became known. A set, so that repeats merge.
    woken: BTreeSet<Name>,
    refusals: Refusals,
}

/// What is known of Kueue, and of the Workload of one job.
#[derive(Default)]
pub(crate) struct Seen {
    /// What is known of Kueue.
    pub presence: Presence,
    /// The Workload.
    pub workload: Option<Workload>,
    /// Why the last step could not be carried out.
    pub refusal: Option<Refusal>,
    /// Whether that is all that is to be known: a controller that has just started knows neither Kueue nor what is refused.
    pub is_known: bool,
}

/// Why a watch has ended.
enum Ended {
    /// Kueue cannot be used any more.
    Unusable,
    /// The controller stops.
    Stopped,
}

fn conditions_of_job(job: &TranscodeJob) -> &[Condition] {
    job.status.as_ref().map_or(&[], |status| &status.conditions)
}

fn name_of<K: kube::Resource>(object: &K) -> Name {
    (object.meta().namespace.clone().unwrap_or_default(), object.meta().name.clone().unwrap_or_default())
}

impl Kueue {
    /// Knows nothing yet.
    #[must_use]
    pub(crate) fn new(client: Client, watched: Api<Workload>) -> Self {
        Self { client, watched, state: Mutex::default(), is_wanted: Notify::new(), is_woken: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs to reconcile because of what became known here. Of several such streams, one gets each job.
    pub(crate) fn woken(self: &Arc<Self>) -> impl Stream<Item = Name> + use<> {
        futures::stream::unfold(Arc::clone(self), |kueue| async {
            loop {
                let next = kueue.state().woken.pop_first();
                if let Some(name) = next {
                    return Some((name, kueue));
                }
                kueue.is_woken.notified().await;
            }
        })
    }

    /// What is known of Kueue, and the Workload of this job. From now on the job is reconciled when that changes.
    pub(crate) fn look(&self, job: &TranscodeJob) -> Seen {
        let name = name_of(job);
        let mut state = self.state();
        let workload = state.workloads.get(&(name.0.clone(), workload_name(job))).cloned();
        let (uid, tells) = (job.uid().unwrap_or_default(), tells_refusal(conditions_of_job(job)));
        let refusal = state.refusals.get(&name, &uid).cloned();
        let is_known = match state.presence {
            Presence::Unknown => false,
            Presence::Usable => !tells || state.refusals.knows(&name, &uid),
            Presence::Missing { .. } => true,
        };
        if queue(job).is_some() || tells {
            state.jobs.insert(name);
            self.is_wanted.notify_one();
        }
        Seen { presence: state.presence.clone(), workload, refusal, is_known }
    }

    /// Forgets a job that was deleted.
    pub(crate) fn forget(&self, namespace: String, name: String) {
        let (mut state, name) = (self.state(), (namespace, name));
        state.jobs.remove(&name);
        state.refusals.remove(&name);
    }

    /// Forgets all jobs but these, after all were listed anew: the deletion of the others was not seen.
    pub(crate) fn keep(&self, there: &HashSet<Name>) {
        let mut state = self.state();
        state.jobs.retain(|name| there.contains(name));
        state.refusals.retain(|name| there.contains(name));
    }

    /// Records whether the last step was refused, and has the job reconciled if that is new, since its status says it.
    fn remember(&self, job: &TranscodeJob, refusal: Option<Refusal>) {
        let (name, uid) = (name_of(job), job.uid().unwrap_or_default());
        let tells = tells_refusal(conditions_of_job(job));
        if !self.state().refusals.note(&name, &uid, tells, refusal.clone(), Instant::now()) {
            return;
        }
        if let (Some(Refusal { reason, message }), (namespace, name)) = (&refusal, &name) {
            tracing::warn!(namespace, name, reason, "a Workload is refused: {message}");
        }
        self.wake(name);
    }

    async fn class_value(&self, class: &str) -> Result<Option<i32>, kube::Error> {
        let classes: Api<DynamicObject> = Api::all_with(self.client.clone(), &workload::priority_classes());
        let found = bounded(classes.get_opt(class)).await?;
        let value = found.as_ref().map(|found| found.data["value"].as_i64().unwrap_or_default());
        Ok(value.map(|value| i32::try_from(value).unwrap_or_default()))
    }

    /// Carries out a step. What is refused is no error: [`Kueue::look`] shows it from then on.
    ///
    /// # Errors
    /// If the Workload has changed, or the API server does not answer.
    pub(crate) async fn carry_out(
        &self,
        job: &TranscodeJob,
        seen: &Seen,
        step: Step,
        now: Millis,
    ) -> Result<(), kube::Error> {
        let done = match seen.workload.as_ref() {
            None if step == Step::Create => self.create(job).await,
            None if step == Step::Find => self.find_prebuilt(job).await,
            None => Ok(None),
            Some(workload) => self.change(job, workload, step, now).await.map(|()| None),
        };
        let refusal = match done {
            Ok(refusal) => refusal,
            Err(error) => Some(Refusal::of(&error).ok_or(error)?),
        };
        // Before the Workloads are known, it is not known whether there is something to do.
        if seen.presence != Presence::Unknown {
            self.remember(job, refusal);
        }
        Ok(())
    }

    async fn change(
        &self,
        job: &TranscodeJob,
        workload: &Workload,
        step: Step,
        now: Millis,
    ) -> Result<(), kube::Error> {
        let ((namespace, _), name) = (name_of(job), workload_name(job));
        let api: Api<Workload> = Api::namespaced_with(self.client.clone(), &namespace, &workloads());
        let log = |what: &str| tracing::info!(namespace, name = job.name_any(), workload = name, what);
        let spec = |patch: Value| api_patch(&api, &name, patch);
        let status = async |patch: Value| {
            let params = PatchParams::default();
            bounded(api.patch_status(&name, &params, &Patch::Merge(patch))).await.map(drop)
        };
        match step {
            Step::Nothing | Step::Create | Step::Find => Ok(()),
            Step::Adopt => {
                log("adopted a Workload that was made for the job");
                spec(workload::adoption(job, workload)).await
            }
            Step::Move(queue) => {
                log("moved the Workload to another queue");
                spec(json!({"spec": {"queueName": queue}})).await
            }
            Step::Start => status(workload::started(workload, now)).await,
            Step::Release => {
                log("gave the quota of an evicted job back");
                status(workload::released(workload, now)).await
            }
            Step::Finish(succeeded, message) => {
                status(workload::finished(workload, succeeded, &message, now)).await
            }
            Step::Delete => {
                log("deleted the Workload, which the job does not need");
                let only_this = Preconditions { uid: workload.uid(), ..Preconditions::default() };
                let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::background() };
                match bounded(api.delete(&name, &params)).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    other => other.map(drop),
                }
            }
        }
    }

    /// Creates the Workload, unless the job names a WorkloadPriorityClass that does not exist.
    async fn create(&self, job: &TranscodeJob) -> Result<Option<Refusal>, kube::Error> {
        let Some(queue) = queue(job) else { return Ok(None) };
        let (namespace, _) = name_of(job);
        let priority = match job.labels().get(PRIORITY_CLASS_LABEL) {
            None => WorkloadPriority { class: None, value: job.spec.priority },
            Some(class) => {
                let Some(value) = self.class_value(class).await? else {
                    return Ok(Some(Refusal::no_class(class)));
                };
                WorkloadPriority { class: Some(class.clone()), value }
            }
        };
        let body: DynamicObject = serde_json::from_value(workload::to_workload(job, queue, &priority))
            .map_err(kube::Error::SerdeError)?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &workloads());
        let name = body.name_any();
        match bounded(api.create(&PostParams::default(), &body)).await {
            // The watch shows it soon.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            made => {
                made?;
                tracing::info!(
                    namespace,
                    name = job.name_any(),
                    workload = name,
                    queue,
                    "created a Workload"
                );
                Ok(None)
            }
        }
    }

    /// Makes the Workload that somebody made for the job the job's own. The watch shows it then, by the label that it gets.
    async fn find_prebuilt(&self, job: &TranscodeJob) -> Result<Option<Refusal>, kube::Error> {
        let ((namespace, _), name) = (name_of(job), workload_name(job));
        let api: Api<Workload> = Api::namespaced_with(self.client.clone(), &namespace, &workloads());
        let found = bounded(api.get_opt(&name)).await?;
        // One that is being deleted makes room for another.
        let Some(found) = found.filter(|found| found.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        if !workload::is_free(&found) && !workload::is_of(&found, &job.uid().unwrap_or_default()) {
            return Ok(Some(Refusal::not_owned(&name)));
        }
        self.change(job, &found, Step::Adopt, Millis(0)).await.map(|()| None)
    }

    /// Watches the Workloads until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut found = tokio::select! {
            () = self.is_wanted.notified() => None,
            () = self.until_usable_at_the_start() => Some(Presence::Usable),
            () = stop.cancelled() => return,
        };
        while !stop.is_cancelled() {
            let presence = match found.take() {
                Some(presence) => Some(presence),
                None => self.find().await,
            };
            match presence {
                Some(Presence::Usable) => {
                    if let Ended::Stopped = self.watch(&stop).await {
                        return;
                    }
                    if let Some(missing @ Presence::Missing { .. }) = self.find().await {
                        self.now(missing);
                    }
                }
                Some(missing) => self.now(missing),
                // It is not known whether Kueue is there.
                None => {}
            }
            tokio::select! {
                () = sleep(LOOK_AGAIN) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Waits until it is known that Kueue can be used; for ever if it cannot.
    async fn until_usable_at_the_start(&self) {
        loop {
            match self.find().await {
                Some(Presence::Usable) => return,
                Some(_) => std::future::pending().await,
                None => sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Records what is known of Kueue, and has the jobs that name queues reconciled if it is new.
    fn now(&self, presence: Presence) {
        let jobs = {
            let mut state = self.state();
            if state.presence == presence {
                return;
            }
            if let Presence::Missing { message, .. } = &presence {
                tracing::warn!("jobs that name a queue of Kueue wait: {message}");
                state.workloads.clear();
            }
            state.presence = presence;
            // They register again when they are reconciled.
            std::mem::take(&mut state.jobs)
        };
        for job in jobs {
            self.wake(job);
        }
    }

    fn wake(&self, job: Name) {
        self.state().woken.insert(job);
        self.is_woken.notify_one();
    }

    /// Looks for Kueue; `None` if the API server does not answer.
    async fn find(&self) -> Option<Presence> {
        let missing = |reason, message: String| Some(Presence::Missing { reason, message });
        let (group, version) = (workload::GROUP, workload::VERSION);
        let served = bounded(self.client.list_api_group_resources(&format!("{group}/{version}"))).await;
        match served {
            Ok(list) if list.resources.iter().any(|resource| resource.name == "workloads") => {}
            Ok(_) => return missing(reason::KUEUE_NOT_INSTALLED, not_installed()),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return missing(reason::KUEUE_NOT_INSTALLED, not_installed());
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return missing(
                    reason::KUEUE_FORBIDDEN,
                    "the controller may not ask which APIs there are; bind the ClusterRole system:discovery to its account"
                        .to_owned(),
                );
            }
            Err(error) => {
                tracing::warn!(%error, "could not look for Kueue; trying again");
                return None;
            }
        }
        let first = kube::api::ListParams::default().labels(&workload::selector()).limit(1);
        match bounded(self.watched.list_metadata(&first)).await {
            Ok(_) => Some(Presence::Usable),
            Err(kube::Error::Api(status)) if status.code == 403 => missing(
                reason::KUEUE_FORBIDDEN,
                "the controller may not use its Workloads; apply manifests/overlays/kueue, or set kueue=true in the Helm chart"
                    .to_owned(),
            ),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                missing(reason::KUEUE_NOT_INSTALLED, not_installed())
            }
            Err(error) => {
                tracing::warn!(%error, "could not list the Workloads of Kueue; trying again");
                None
            }
        }
    }

    async fn watch(&self, stop: &CancellationToken) -> Ended {
        let config = watcher::Config::default().labels(&workload::selector()).page_size(PAGE);
        let mut events = std::pin::pin!(watcher(self.watched.clone(), config).default_backoff());
        let mut listed = HashMap::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = stop.cancelled() => return Ended::Stopped,
            };
            match event {
                Some(Ok(Event::Init)) => listed = HashMap::new(),
                Some(Ok(Event::InitApply(workload))) => {
                    listed.insert(name_of(&workload), workload);
                }
                Some(Ok(Event::InitDone)) => {
                    let all = std::mem::take(&mut listed);
                    self.replace(all);
                    self.now(Presence::Usable);
                }
                Some(Ok(Event::Apply(workload))) => {
                    self.state().workloads.insert(name_of(&workload), workload.clone());
                    self.wake_owner(&workload);
                }
                Some(Ok(Event::Delete(workload))) => {
                    self.state().workloads.remove(&name_of(&workload));
                    self.wake_owner(&workload);
                }
                // Its definitions or its permissions are gone: asking again at once would not help.
                Some(Err(error)) if is_refusal(&error) => return Ended::Unusable,
                Some(Err(error)) => tracing::warn!(%error, "the watch of Workloads broke; retrying"),
                None => return Ended::Unusable,
            }
        }
    }

    /// Replaces all Workloads by those of a new list, and wakes the jobs of those that have changed.
    fn replace(&self, all: HashMap<Name, Workload>) {
        let before = std::mem::replace(&mut self.state().workloads, all.clone());
        for (name, workload) in &before {
            let is_same = |now: &Workload| now.resource_version() == workload.resource_version();
            if !all.get(name).is_some_and(is_same) {
                self.wake_owner(workload);
            }
        }
        for (name, workload) in &all {
            if !before.contains_key(name) {
                self.wake_owner(workload);
            }
        }
    }

    fn wake_owner(&self, workload: &Workload) {
        if let Some(job) = workload::job_of(workload) {
            self.wake((workload.namespace().unwrap_or_default(), job.to_owned()));
        }
    }
}

fn not_installed() -> String {
    format!(
        "the API server does not know Kueue's Workload in {}/{}; install Kueue 0.15 or newer, or remove the label",
        workload::GROUP,
        workload::VERSION
    )
}

async fn api_patch(api: &Api<Workload>, name: &str, patch: Value) -> Result<(), kube::Error> {
    bounded(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

/// A request with a time limit.
async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let slow =
        || std::io::Error::new(std::io::ErrorKind::TimedOut, "the API server did not answer within 20 s");
    timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err(kube::Error::Service(Box::new(slow()))))
}

/// Whether the API server says that there are no Workloads, or none for this controller.
fn is_refusal(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => [403, 404].contains(&status.code),
        _ => false,
    }
}
