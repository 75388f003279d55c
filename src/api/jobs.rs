//! Creates, reads, cancels and retries jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::auth::Caller;
use super::extract::{Body, parse_job_id};
use super::requests::{CreateJobRequest, CreateUploadRequest, CreateUploadResponse, SubmissionLimits};
use super::{AppState, Problem, RequestOrigin, caller_trace};
use crate::hex::hex;
use crate::job::{Input, Job, JobId, JobSpec, State as JobState, WorkerClass, space};
use crate::net::EgressPolicy;
use crate::queue::{CancelOutcome, Filter, Page, RedriveOutcome, SubmitMode, SubmitOutcome};
use crate::storage::urls::{UPLOAD_WINDOW, now_millis, upload_ends};
use crate::storage::{MAX_OBJECT_BYTES, layout};

/// How long a job waits for its upload beyond [`UPLOAD_WINDOW`]. Storage checks the address when a PUT starts, and a
/// PUT that started in time may end much later.
const UPLOAD_GRACE: Duration = Duration::from_secs(23 * 3600);

impl AppState {
    const fn rules(&self) -> SubmissionLimits {
        SubmissionLimits {
            guard: EgressPolicy::allow_private(self.config.allow_private_urls),
            webhooks: self.webhooks,
            limits: self.config.job_limits,
        }
    }

    /// The id of a new job: the client's, that of the job which its idempotency key made before, or a new one.
    async fn id_for(
        &self,
        caller: &Caller,
        asked: Option<JobId>,
        headers: &HeaderMap,
    ) -> Result<JobId, Problem> {
        if asked.is_some() {
            caller.may_choose_id()?;
        }
        let id = asked.unwrap_or_default();
        let Some(key) = headers.get("idempotency-key") else { return Ok(id) };
        let is_plain = key.as_bytes().iter().all(u8::is_ascii_graphic);
        if key.is_empty() || key.len() > 255 || !is_plain {
            let detail =
                "an idempotency key has 1 to 255 ASCII characters without spaces; a UUID is a good one";
            return Err(Problem::field("Idempotency-Key", detail));
        }
        // The same key from two callers means two jobs.
        let hash = Sha256::new().chain_update(caller.identity()).chain_update(key).finalize();
        let remembered = self.queue.bind_idempotency_key(&hex(&hash), id).await?;
        if asked.is_some_and(|asked| asked != remembered) {
            return Err(Problem::conflict("this Idempotency-Key was used for a job with another jobId"));
        }
        Ok(remembered)
    }

    /// Submits a job. An existing job with this id must have the same spec, and belong to the same token.
    async fn submit_job(
        &self,
        caller: &Caller,
        id: JobId,
        spec: &JobSpec,
        start: SubmitMode,
        headers: &HeaderMap,
        origin: &RequestOrigin,
    ) -> Result<(StatusCode, Job), Problem> {
        let trace = caller_trace(headers);
        let outcome = self.queue.submit_for(caller.owner(), trace.as_ref(), id, spec, start).await?;
        let status = match outcome {
            SubmitOutcome::Created => StatusCode::CREATED,
            SubmitOutcome::Same => StatusCode::OK,
            SubmitOutcome::LimitReached { limit, retry_after } => {
                return Err(Problem::limit_reached(limit, retry_after));
            }
            SubmitOutcome::Different(_) => {
                let detail = "a job with this jobId or Idempotency-Key exists and has other options; \
                              use a new one for a new job";
                return Err(Problem::conflict(detail));
            }
        };
        if outcome == SubmitOutcome::Created {
            let token = caller.owner().map(|owner| owner.name.as_str());
            tracing::info!(job = %id, preset = %spec.preset, token, "job submitted");
        }
        Ok((status, self.read(caller, id, origin).await?))
    }

    /// The job as this caller may read it.
    pub(super) async fn read(
        &self,
        caller: &Caller,
        id: JobId,
        origin: &RequestOrigin,
    ) -> Result<Job, Problem> {
        let job = self.queue.get(id).await?.ok_or_else(Problem::no_such_job)?;
        caller.may_read(&job)?;
        self.present(job, origin)
    }

    /// Checks that the caller may change this job. Who may change all of them costs no request to Redis.
    async fn may_change(&self, caller: &Caller, id: JobId) -> Result<(), Problem> {
        if caller.may_change_all() {
            return Ok(());
        }
        let job = self.queue.get(id).await?.ok_or_else(Problem::no_such_job)?;
        caller.may_change(&job)
    }

    /// The job as clients see it, with the addresses of its outputs. The queries of other addresses are left out: they
    /// may contain signatures, and another client sent them.
    pub(super) fn present(&self, mut job: Job, RequestOrigin(api): &RequestOrigin) -> Result<Job, Problem> {
        job.spec = job.spec.redacted();
        let filled = self.links.with_urls(job, now_millis(), api.as_ref());
        filled.map_err(|e| Problem::unavailable(e.to_string()))
    }
}

impl AppState {
    /// Rejects an upload that is larger than any worker accepts, if that limit is known.
    async fn refuse_too_large(&self, size: u64, class: &WorkerClass) -> Result<(), Problem> {
        if size > MAX_OBJECT_BYTES {
            return Err(Problem::field("fileSize", "an upload has at most 5 TiB"));
        }
        let limit = self.queue.input_limit(size, class).await?;
        match limit.and_then(|limit| space::check_input(size, limit).err()) {
            Some(too_large) => Err(Problem::field("fileSize", too_large.message)),
            None => Ok(()),
        }
    }
}

/// `POST /api/upload`
pub(crate) async fn upload(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    headers: HeaderMap,
    origin: RequestOrigin,
    Body(body): Body<CreateUploadRequest>,
) -> Result<(StatusCode, Json<CreateUploadResponse>), Problem> {
    let size = body.file_size;
    if let Some(size) = size {
        app.refuse_too_large(size, &body.options.worker_class).await?;
    }
    let asked = body.options.job_id;
    let spec_of = |id| {
        let key = layout::input_key(id, body.name());
        let key = key.map_err(|e| Problem::field("fileName", e.to_string()))?;
        Ok::<_, Problem>((key.clone(), body.clone().spec(key, app.rules())?))
    };
    // A request that is refused stores no idempotency key.
    spec_of(asked.unwrap_or_default())?;
    let id = app.id_for(&caller, asked, &headers).await?;
    let (key, spec) = spec_of(id)?;
    let media_type = body.signed_type();
    let start = SubmitMode::OnUpload(UPLOAD_WINDOW + UPLOAD_GRACE);
    let (code, job) = app.submit_job(&caller, id, &spec, start, &headers, &origin).await?;
    let mut ticket = CreateUploadResponse {
        job_id: id,
        status: job.status,
        input_key: key,
        upload_url: None,
        multipart: None,
        content_type: None,
        expires_at: None,
    };
    if job.status == JobState::Uploading {
        let now = now_millis();
        let url = app.links.upload(&ticket.input_key, size, media_type.as_ref(), now);
        ticket.multipart = app.multipart(&ticket.input_key, size, media_type.as_ref(), now)?;
        ticket.upload_url = Some(url.map_err(|e| Problem::unavailable(e.to_string()))?);
        ticket.content_type = media_type;
        ticket.expires_at = Some(upload_ends(now));
    }
    Ok((code, Json(ticket)))
}

/// `POST /api/jobs`
pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    headers: HeaderMap,
    origin: RequestOrigin,
    Body(body): Body<CreateJobRequest>,
) -> Result<(StatusCode, Json<Job>), Problem> {
    let asked = body.options.job_id;
    let (spec, delay) = body.spec(app.rules())?;
    if let Input::Key(key) = &spec.input {
        caller.may_name(key)?;
    }
    let id = app.id_for(&caller, asked, &headers).await?;
    if let Input::Key(key) = &spec.input
        && layout::job_of_input_key(key).is_some_and(|owner| owner != id)
    {
        // The upload of another job is allowed: this encodes the same video a second time.
        tracing::debug!(job = %id, %key, "job uses the upload of another job");
    }
    let (code, job) = app.submit_job(&caller, id, &spec, SubmitMode::After(delay), &headers, &origin).await?;
    Ok((code, Json(job)))
}

/// `GET /api/jobs/{id}`
pub(crate) async fn get_one(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    origin: RequestOrigin,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Job>, Problem> {
    Ok(Json(app.read(&caller, parse_job_id(id)?, &origin).await?))
}

/// The query parameters of `GET /api/jobs`.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    status: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/jobs`
pub(crate) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    origin: RequestOrigin,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(query) = query.map_err(|e| Problem::malformed(e.body_text()))?;
    let limit = match query.limit.as_deref() {
        None | Some("") => Some(20),
        Some(text) => text.parse().ok().filter(|n| (1..=100).contains(n)),
    };
    let limit = limit.ok_or_else(|| Problem::field("limit", "a page has 1 to 100 jobs"))?;
    let state = match query.status.as_deref() {
        None | Some("") => None,
        Some(name) => Some(name.parse().map_err(|e| Problem::field("status", format!("{e}")))?),
    };
    let cursor = query.cursor.as_deref().filter(|c| !c.is_empty());
    let filter = Filter { state, owner: caller.sees_only() };
    let mut page = app.queue.list(&filter, limit, cursor).await.map_err(|e| match e {
        crate::queue::QueueError::Refused(why) if cursor.is_some() => Problem::field("cursor", why),
        other => other.into(),
    })?;
    let jobs = std::mem::take(&mut page.jobs).into_iter();
    let jobs = jobs.map(|job| app.present(job, &origin)).collect::<Result<_, _>>()?;
    Ok(Json(Page { jobs, ..page }))
}

/// `DELETE /api/jobs/{id}`
pub(crate) async fn cancel(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    origin: RequestOrigin,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Job>, Problem> {
    let id = parse_job_id(id)?;
    app.may_change(&caller, id).await?;
    match app.queue.cancel(id).await? {
        CancelOutcome::Cancelled => tracing::info!(job = %id, "job cancelled"),
        CancelOutcome::Ended(JobState::Cancelled) => {}
        CancelOutcome::Ended(state) => {
            return Err(Problem::conflict(format!("the job is {state} already; there is nothing to cancel")));
        }
        CancelOutcome::Unknown => return Err(Problem::no_such_job()),
    }
    Ok(Json(app.read(&caller, id, &origin).await?))
}

/// `POST /api/jobs/{id}/retry`
pub(crate) async fn retry(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    origin: RequestOrigin,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Job>, Problem> {
    let id = parse_job_id(id)?;
    app.may_change(&caller, id).await?;
    match app.queue.redrive_for(caller.owner(), id).await? {
        RedriveOutcome::Queued => tracing::info!(job = %id, "job retried"),
        RedriveOutcome::NeverUploaded => {
            let detail = "no usable video was uploaded for it; ask for a new upload with POST /api/upload";
            return Err(Problem::conflict(detail));
        }
        RedriveOutcome::Wrong(state) => {
            let detail = format!("the job is {state}; only failed and cancelled jobs can be retried");
            return Err(Problem::conflict(detail));
        }
        RedriveOutcome::LimitReached { limit, retry_after } => {
            return Err(Problem::limit_reached(limit, retry_after));
        }
        RedriveOutcome::Unknown => return Err(Problem::no_such_job()),
    }
    Ok(Json(app.read(&caller, id, &origin).await?))
}
