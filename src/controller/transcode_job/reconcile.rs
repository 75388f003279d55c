//! Carries out the decisions of `decide`: the imperative shell of the TranscodeJob reconciler.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Guarded;
use super::decide::{Act, Decision, DecisionInput, Look, decide};
use super::event_writer::EventWriter;
use super::events::{EventDraft, event_drafts};
use super::index::{Index, WebhookRequest, job_id, mirrored};
use super::queued::{Queued, follow_elsewhere, is_managed_elsewhere};
use super::status::StatusContext;
use super::submission::Rules;
use crate::controller::fleet::MachinePrice;
use crate::controller::kueue::Kueue;
use crate::controller::secrets::{self, SecretError};
use crate::crd::{FINALIZER, JobPhase, TranscodeJob, TranscodeJobStatus, reason};
use crate::job::{AttemptId, JobId, Millis, ObjectKey};
use crate::manifest::{ManifestError, ManifestStore, Verdict};
use crate::metrics::Metrics;
use crate::queue::{CancelReason, Queue, QueueError, UploadedInput};
use crate::storage::urls::{UrlSigner, now_millis};
use crate::storage::{Bucket, ObjectInfo, Storage, StorageError};

/// The field manager of statuses.
const STATUS_MANAGER: &str = "tcoder-status";
/// Time limit of a request to Redis, the API server or the bucket.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Delay before `Queued` is written, in case the job starts running by then.
const MOMENT: Duration = Duration::from_millis(200);
/// Maximum number of actions in one reconciliation; a job that is changed from two sides at once may need
/// several.
const ROUNDS: usize = 8;
/// How long a deleted object waits for Redis before its finalizer is removed anyway.
const LET_GO_MS: i64 = 300_000;

/// Why a TranscodeJob could not be reconciled; it is retried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// A call to Redis failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The API server refused a request or did not answer.
    #[error("the API server: {0}")]
    Kube(#[source] Box<kube::Error>),
    /// A call to object storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The job's manifest could not be read or written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A call took too long. Names the called service.
    #[error("{0} did not answer within 20 s")]
    Slow(&'static str),
    /// The Secret of the job's webhook could not be read.
    #[error("{0}")]
    Secret(String),
    /// The object changed faster than it could be reconciled.
    #[error("the job changed during reconciliation")]
    Unsettled,
    /// The object does not exist any more.
    #[error("the TranscodeJob was deleted")]
    Gone,
    /// The deadline of the job passed after one of its attempts had committed its result.
    #[error("the deadline passed, but the job's result stands; waiting for its completion")]
    Completes,
}

impl ReconcileError {
    /// Whether the decision was based on an outdated object.
    pub(crate) fn is_conflict(&self) -> bool {
        match self {
            Self::Kube(error) => {
                matches!(&**error, kube::Error::Api(status) if [409, 422].contains(&status.code))
            }
            _ => false,
        }
    }

    /// What the operator of the installation has to do, unless the failure passes by itself.
    const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Queue(error) => error.remedy(),
            _ => None,
        }
    }

    fn is_redis(&self) -> bool {
        matches!(self, Self::Queue(_) | Self::Slow("Redis"))
    }

    fn is_storage(&self) -> bool {
        matches!(
            self,
            Self::Storage(_) | Self::Manifest(ManifestError::Storage(_)) | Self::Slow("object storage")
        )
    }
}

impl From<kube::Error> for ReconcileError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

/// What the reconciler of TranscodeJobs needs.
pub(crate) struct ReconcilerHandles {
    /// The client of the API server.
    pub client: Client,
    /// The queue.
    pub queue: Queue,
    /// The buckets.
    pub storage: Storage,
    /// Signs URLs of objects.
    pub links: UrlSigner,
    /// The limits on what jobs may request.
    pub rules: Rules,
    /// The namespace of the mirrors, if there are any.
    pub mirrors: Option<String>,
    /// The price of one machine, if known.
    pub price: watch::Receiver<Option<MachinePrice>>,
    /// The queues of Kueue.
    pub kueue: Arc<Kueue>,
    /// Writes Events.
    pub events: EventWriter,
    /// Where metrics are recorded.
    pub metrics: Arc<Metrics>,
}

/// The webhook that the API server knows for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Webhook {
    /// The objects have not all been read yet.
    Unread,
    /// No object has this job and a webhook.
    None,
    /// The object of this job requests it.
    Of(WebhookRequest),
}

/// The handles, and what is known between two reconciliations.
pub(crate) struct Context {
    tools: ReconcilerHandles,
    index: Mutex<Index>,
    synced: CancellationToken,
}

impl Context {
    /// A context without any objects.
    #[must_use]
    pub(crate) fn new(tools: ReconcilerHandles) -> Self {
        Self { tools, index: Mutex::default(), synced: CancellationToken::new() }
    }

    /// The namespace of the mirrors, if there are any.
    #[must_use]
    pub(crate) fn mirrors(&self) -> Option<&str> {
        self.tools.mirrors.as_deref()
    }

    /// The queues of Kueue.
    #[must_use]
    pub(crate) fn kueue(&self) -> &Arc<Kueue> {
        &self.tools.kueue
    }

    /// The index of the objects.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The webhook of the object whose uid is this job's id.
    #[must_use]
    pub(crate) fn webhook_of(&self, id: JobId) -> Webhook {
        match self.index().webhook(id) {
            Some(webhook) => Webhook::Of(webhook.clone()),
            None if self.knows_all() => Webhook::None,
            None => Webhook::Unread,
        }
    }

    /// Records that the watch has listed all objects.
    pub(super) fn synced(&self) {
        self.synced.cancel();
    }

    /// Whether the watch has listed all objects.
    #[must_use]
    pub(crate) fn knows_all(&self) -> bool {
        self.synced.is_cancelled()
    }

    /// Waits until the watch has listed all objects.
    pub(crate) async fn until_synced(&self) {
        self.synced.cancelled().await;
    }

    pub(super) fn api(&self, object: &Guarded) -> Api<TranscodeJob> {
        Api::namespaced(self.tools.client.clone(), &object.namespace().unwrap_or_default())
    }
}

async fn redis<T>(call: impl Future<Output = Result<T, QueueError>>) -> Result<T, ReconcileError> {
    Ok(timeout(CALL_TIMEOUT, call).await.map_err(|_| ReconcileError::Slow("Redis"))??)
}

/// The answer of the API server; `None` if the object does not exist.
pub(super) async fn answer<T>(
    call: impl Future<Output = kube::Result<T>>,
) -> Result<Option<T>, ReconcileError> {
    match timeout(CALL_TIMEOUT, call).await.map_err(|_| ReconcileError::Slow("the API server"))? {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reconciles one object.
pub(crate) async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let Some(id) = job_id(&object, context.mirrors()) else { return Ok(Action::await_change()) };
    let dirty = context.index().take_dirty(id);
    let done = context.reconcile_object(&object, id, dirty).await;
    context.tools.metrics.reconciled(done.is_ok());
    match &done {
        Ok(_) => context.index().succeeded(id),
        Err(_) if dirty => context.index().mark_dirty(id),
        Err(_) => {}
    }
    done
}

impl Context {
    async fn reconcile_object(
        &self,
        object: &Guarded,
        id: JobId,
        dirty: bool,
    ) -> Result<Action, ReconcileError> {
        let mirror = mirrored(object, self.mirrors()).is_some();
        if object.meta().deletion_timestamp.is_some() {
            return self.cleanup(object, id).await;
        }
        match &object.0 {
            Ok(job) if !mirror && is_managed_elsewhere(job) => Ok(follow_elsewhere(self.kueue(), job).await?),
            Ok(job) => self.follow(object, job, id, mirror, dirty).await,
            Err(unreadable) => self.refuse(object, id, &unreadable.error).await,
        }
    }

    async fn follow(
        &self,
        object: &Guarded,
        job: &TranscodeJob,
        id: JobId,
        mirror: bool,
        dirty: bool,
    ) -> Result<Action, ReconcileError> {
        let written = self.index().written(id, job.status.as_ref());
        let before = written.or_else(|| job.status.clone()).unwrap_or_default();
        let price = *self.tools.price.borrow();
        let queued = match mirror {
            true => Queued::default(),
            false => Queued::look(self.kueue(), job),
        };
        let frame = || StatusContext {
            object: job,
            before: &before,
            id,
            links: &self.tools.links,
            price,
            now: now_millis(),
            hold: queued.hold.as_ref(),
            refusal: queued.refusal(),
            is_queue_known: queued.is_known(),
        };
        let seen = DecisionInput {
            frame: frame(),
            mirror,
            job: Look::NotYet,
            secret: None,
            looked_for_upload: false,
            storage_error: None,
            rules: self.tools.rules,
        };
        match self.settle(object, seen, &queued, &frame, dirty).await {
            Err(error) if error.is_redis() && !before.phase.is_some_and(JobPhase::is_terminal) => {
                self.write(object, id, &before, &frame().without_redis(error.remedy())).await?;
                Err(error)
            }
            // The watch shows its deletion soon.
            Err(ReconcileError::Gone) => Ok(Action::await_change()),
            other => other,
        }
    }

    /// Carries out actions until none is left, then writes the status.
    async fn settle<'a>(
        &self,
        object: &Guarded,
        mut seen: DecisionInput<'a>,
        queued: &Queued,
        frame: &(dyn Fn() -> StatusContext<'a> + Sync),
        dirty: bool,
    ) -> Result<Action, ReconcileError> {
        let id = seen.frame.id;
        let mut fresh = false;
        if dirty {
            seen.job = self.look(id).await?;
        }
        for _ in 0..ROUNDS {
            match decide(&seen) {
                // An idle worker claims the job within milliseconds, so that one write can report both.
                Decision::Settle { status, .. } if fresh && status.phase == Some(JobPhase::Queued) => {
                    return Ok(Action::requeue(MOMENT));
                }
                Decision::Settle { status, again } => {
                    let lives = matches!(&seen.job, Look::Job(job) if !job.status.is_terminal());
                    let ends = status.phase.is_some_and(JobPhase::is_terminal);
                    if lives && !seen.mirror {
                        self.hold(object, id).await?;
                    }
                    self.write(object, id, seen.frame.before, &status).await?;
                    let followed = queued.follow(self.kueue(), seen.frame.object, &seen.job, &status).await;
                    // The finalizer stays only while the job is active, so that an operator that was removed
                    // blocks nothing, and neither does Kueue: a Workload goes with its job.
                    if ends {
                        self.release(object, id).await?;
                    }
                    followed?;
                    let again = again.into_iter().chain(queued.again).min();
                    return Ok(again.map_or_else(Action::await_change, Action::requeue));
                }
                Decision::Act(Act::Delete) => {
                    self.delete(object).await?;
                    return Ok(Action::await_change());
                }
                Decision::Act(Act::LookAtSecret(secret)) => {
                    seen.secret = match secrets::usable(&self.tools.client, &secret).await {
                        Ok(()) => Some(Ok(())),
                        Err(SecretError::Unusable(why)) => Some(Err(why)),
                        // It says nothing about the Secret, for which the job keeps its place in a queue of Kueue.
                        Err(SecretError::Unreadable(why)) => return Err(ReconcileError::Secret(why)),
                    };
                }
                Decision::Act(Act::LookForUpload(key)) => {
                    seen.looked_for_upload = true;
                    match self.look_for_upload(id, key).await {
                        Err(error) if error.is_storage() => {
                            let (namespace, name) =
                                (object.namespace().unwrap_or_default(), object.name_any());
                            tracing::warn!(job = %id, namespace, name, %error, "could not look for an upload; looking again");
                            seen.storage_error = Some(error.to_string());
                        }
                        outcome => outcome?,
                    }
                    seen.job = self.look(id).await?;
                }
                Decision::Act(act) => {
                    fresh |= matches!(act, Act::Submit(_));
                    match self.act(object, id, act).await {
                        Err(error) if error.is_storage() => {
                            let (namespace, name) =
                                (object.namespace().unwrap_or_default(), object.name_any());
                            tracing::warn!(job = %id, namespace, name, %error, "could not look for a result after the deadline; looking again");
                            seen.storage_error = Some(error.to_string());
                        }
                        outcome => outcome?,
                    }
                    seen.job = self.look(id).await?;
                }
            }
            seen.frame = frame();
        }
        Err(ReconcileError::Unsettled)
    }

    async fn act(&self, object: &Guarded, id: JobId, act: Act) -> Result<(), ReconcileError> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        match act {
            Act::Submit(to_submission) => {
                // Before the submission, so that no job is left behind if the object is deleted a moment
                // later.
                self.hold(object, id).await?;
                let outcome =
                    redis(self.tools.queue.submit(id, &to_submission.spec, to_submission.start)).await?;
                tracing::info!(job = %id, namespace, name, ?outcome, "TranscodeJob queued");
            }
            Act::Cancel(how) => {
                if matches!(how, CancelReason::DeadlineExceeded(_)) && self.has_result(id).await? {
                    return Err(ReconcileError::Completes);
                }
                let outcome = redis(self.tools.queue.cancel_with(id, &how)).await?;
                tracing::info!(job = %id, namespace, name, ?how, ?outcome, "TranscodeJob cancelled");
            }
            Act::Redrive => {
                let outcome = redis(self.tools.queue.redrive(id)).await?;
                tracing::info!(job = %id, namespace, name, ?outcome, "TranscodeJob resumed");
            }
            Act::Look | Act::LookForUpload(_) | Act::LookAtSecret(_) | Act::Delete => {}
        }
        Ok(())
    }

    async fn look(&self, id: JobId) -> Result<Look, ReconcileError> {
        let job = redis(self.tools.queue.get(id)).await?;
        Ok(job.map_or(Look::Gone, |job| Look::Job(Box::new(job))))
    }

    /// Whether an attempt at the job has committed its result. If none has, none can any more: a job whose result stands
    /// must not fail.
    async fn has_result(&self, id: JobId) -> Result<bool, ReconcileError> {
        let Some(job) = redis(self.tools.queue.get(id)).await? else { return Ok(false) };
        let (Some(born), true) = (job.timestamps.created_at, job.attempt > 0) else { return Ok(false) };
        let attempt = AttemptId { job: id, epoch: job.epoch };
        let manifest = ManifestStore { storage: &self.tools.storage, attempt, born };
        let sealed = timeout(CALL_TIMEOUT, manifest.seal_failed()).await;
        let verdict = sealed.map_err(|_| ReconcileError::Slow("object storage"))?;
        Ok(matches!(verdict?, Verdict::Result(_)))
    }

    /// Reports the upload of a job if it is in the input bucket.
    async fn look_for_upload(&self, id: JobId, key: ObjectKey) -> Result<(), ReconcileError> {
        let found = timeout(CALL_TIMEOUT, self.tools.storage.head(Bucket::Input, &key)).await;
        let found = found.map_err(|_| ReconcileError::Slow("object storage"))??;
        if let Some(ObjectInfo { size, etag }) = found {
            let input = UploadedInput { job: id, key, size, etag };
            redis(self.tools.queue.uploaded(&input)).await?;
        }
        Ok(())
    }

    /// Writes the status if it has changed, and its Events.
    async fn write(
        &self,
        object: &Guarded,
        id: JobId,
        before: &TranscodeJobStatus,
        status: &TranscodeJobStatus,
    ) -> Result<(), ReconcileError> {
        if status == before {
            return Ok(());
        }
        let name = object.name_any();
        let patch = json!({
            "apiVersion": TranscodeJob::api_version(&()),
            "kind": TranscodeJob::kind(&()),
            "metadata": {"name": name, "uid": object.uid()},
            "status": status,
        });
        let params = PatchParams::apply(STATUS_MANAGER).force();
        let api = self.api(object);
        if answer(api.patch_status(&name, &params, &Patch::Apply(patch))).await?.is_none() {
            return Ok(());
        }
        self.index().wrote(id, status.clone());
        for draft in event_drafts(before, status) {
            self.tell(object, draft).await;
        }
        Ok(())
    }

    async fn tell(&self, object: &Guarded, draft: EventDraft) {
        let reason = draft.reason.clone();
        let told = timeout(CALL_TIMEOUT, self.tools.events.write(object.object_ref(&()), draft)).await;
        // Events are best effort: a namespace that is being deleted accepts none.
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!(reason, name = object.name_any(), ?told, "an Event could not be written");
        }
    }

    /// Reports an object that fails to deserialize: it bypassed the schema, or belongs to another version.
    async fn refuse(&self, object: &Guarded, id: JobId, error: &str) -> Result<Action, ReconcileError> {
        let written = self.index().written(id, None).unwrap_or_default();
        let said = crate::controller::conditions::ConditionUpdate::yes(
            crate::crd::condition::STALLED,
            reason::INVALID_SPEC,
            format!("it cannot be read ({error}); delete it and make another, by `kubectl explain tj.spec`"),
        );
        let generation = object.meta().generation;
        let now = now_millis();
        let status = TranscodeJobStatus {
            phase: Some(JobPhase::Pending),
            observed_generation: generation,
            conditions: crate::controller::conditions::conditions(
                &written.conditions,
                vec![said],
                generation,
                now,
            ),
            ..TranscodeJobStatus::default()
        };
        self.write(object, id, &written, &status).await?;
        Ok(Action::await_change())
    }

    /// The object is being deleted: cancels its job if the job is active.
    async fn cleanup(&self, object: &Guarded, id: JobId) -> Result<Action, ReconcileError> {
        if !object.finalizers().iter().any(|f| f == FINALIZER) {
            return Ok(Action::await_change());
        }
        match redis(self.tools.queue.cancel_with(id, &CancelReason::Cancelled)).await {
            Ok(outcome) => {
                tracing::info!(job = %id, name = object.name_any(), ?outcome, "TranscodeJob deleted");
            }
            Err(error) => {
                let since = object.meta().deletion_timestamp.as_ref().map(|t| Millis(t.0.as_millisecond()));
                if since.is_none_or(|at| now_millis().0.saturating_sub(at.0) < LET_GO_MS) {
                    return Err(error);
                }
                let message = "the finalizer was removed although Redis cannot be used: the job may still run; \
                               cancel it with `tcoder jobs cancel` when Redis is available";
                tracing::warn!(job = %id, name = object.name_any(), %error, message);
                let reason = reason::REDIS_UNAVAILABLE.to_owned();
                self.tell(object, EventDraft { warning: true, reason, message: message.to_owned() }).await;
            }
        }
        self.release(object, id).await?;
        Ok(Action::await_change())
    }

    async fn delete(&self, object: &Guarded) -> Result<(), ReconcileError> {
        let name = object.name_any();
        let only_this = Preconditions { uid: object.uid(), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::background() };
        answer(self.api(object).delete(&name, &params)).await?;
        tracing::info!(
            namespace = object.namespace(),
            name,
            "deleted a TranscodeJob: its time after the end is over"
        );
        Ok(())
    }
}
