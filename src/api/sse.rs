//! `GET /api/jobs/{id}/events`: the changes of a job as server-sent events.
//!
//! Each event is named `job` and contains the whole job, so a client that missed some needs only the newest. The
//! first event is sent at once; the stream ends after an event with a terminal state.
//!
//! A browser's `EventSource` reopens an ended stream forever, unless the server answers 204. Its `Last-Event-ID`
//! shows what it has received, so the id of an event consists of the attempt and the state of the job.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};

use super::extract::parse_job_id;
use super::feed::Changes;
use super::{AppState, Problem, RequestOrigin};
use crate::job::{Job, JobId};
use crate::queue::QueueError;
use crate::time::sleep;

/// Pause before a job that could not be read is read again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// `GET /api/jobs/{id}/events`
pub(crate) async fn job_events(
    State(app): State<Arc<AppState>>,
    origin: RequestOrigin,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = parse_job_id(id)?;
    // Subscribe first and read afterwards: a change in between is then sent twice rather than lost.
    let changes = app.feed.changes(id);
    let job = app.queue.get(id).await?.ok_or_else(Problem::no_such_job)?;
    if job.status.is_terminal() && headers.get("last-event-id").is_some_and(|id| *id == *event_id(&job)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let job = app.present(job, &origin)?;
    let watch = Watch { app: Arc::clone(&app), origin, id, changes, first: Some(job), told: None };
    let changes = futures::stream::unfold(watch, |watch| async { watch.step().await });
    Ok(app.feed.answer(changes))
}

fn event_id(job: &Job) -> String {
    format!("{}-{}", job.epoch, job.status)
}

struct Watch {
    app: Arc<AppState>,
    origin: RequestOrigin,
    id: JobId,
    changes: Changes,
    /// The job as it was when the stream started, until it is sent.
    first: Option<Job>,
    /// The job as it was last sent.
    told: Option<Job>,
}

impl Watch {
    async fn step(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if self.told.as_ref().is_some_and(|job| job.status.is_terminal()) {
            return None;
        }
        let job = match self.first.take() {
            Some(job) => job,
            None => self.change().await?,
        };
        let event = Event::default().event("job").id(event_id(&job)).json_data(&job).unwrap_or_default();
        self.told = Some(job);
        Some((Ok(event), self))
    }

    /// The job after its next visible change.
    async fn change(&mut self) -> Option<Job> {
        while self.changes.next().await {
            let job = self.look().await?;
            if self.told.as_ref() != Some(&job) {
                return Some(job);
            }
        }
        None
    }

    /// Reads the job, and retries until it succeeds: this change may be the last one, and dropping the stream ends
    /// the retries.
    async fn look(&self) -> Option<Job> {
        loop {
            match self.app.queue.get(self.id).await {
                Ok(job) => return job.and_then(|job| self.app.present(job, &self.origin).ok()),
                // Another version has written it since; the stream ends.
                Err(error @ QueueError::Data(_)) => {
                    tracing::warn!(job = %self.id, %error, "could not read a job that is watched");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(job = %self.id, %error, "could not read a job after a change; retrying")
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
