//! `GET /api/jobs/{id}/events`: a job's changes as server-sent events.
//!
//! Each event is named `job` and carries the whole job, so a client that missed some needs nothing
//! but the newest. The first comes at once; after a terminal one the stream ends.
//!
//! A browser's `EventSource` opens an ended stream again, for ever, unless it is answered 204. Its
//! `Last-Event-ID` tells what it has seen, so the id of an event is the job's attempt and state.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse as _, Response, Sse};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::jobs::id_of;
use super::{App, Problem};
use crate::job::{Job, JobEvent, JobId};

/// Between two looks at a job that cannot be read.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// `GET /api/jobs/{id}/events`
pub async fn job_events(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = id_of(id)?;
    // Listen first, look then: what changes in between is seen twice rather than not at all.
    let listener = app.hub.listen();
    let job = app.queue.get(id).await?.ok_or_else(Problem::no_such_job)?;
    if job.status.is_terminal() && headers.get("last-event-id").is_some_and(|id| *id == *event_id(&job)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let job = app.present(job)?;
    let stopping = app.stopping.clone();
    let watch = Watch { app, id, listener, first: Some(job), over: false };
    let changes = futures::stream::unfold(watch, |watch| async { watch.step().await });
    let changes = futures::StreamExt::take_until(changes, stopping.cancelled_owned());
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15)).text("still here");
    Ok(Sse::new(changes).keep_alive(keep_alive).into_response())
}

fn event_id(job: &Job) -> String {
    format!("{}-{}", job.epoch, job.status)
}

struct Watch {
    app: Arc<App>,
    id: JobId,
    listener: Receiver<JobEvent>,
    /// The job as it was at the beginning, until it is sent.
    first: Option<Job>,
    /// The end was sent.
    over: bool,
}

impl Watch {
    async fn step(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if self.over {
            return None;
        }
        let job = match self.first.take() {
            Some(job) => job,
            None => self.change().await?,
        };
        self.over = job.status.is_terminal();
        let event = Event::default().event("job").id(event_id(&job)).json_data(&job).unwrap_or_default();
        Some((Ok(event), self))
    }

    async fn change(&mut self) -> Option<Job> {
        loop {
            match self.listener.recv().await {
                Ok(event) if event.job_id != self.id => continue,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
            return self.look().await;
        }
    }

    /// The job as it is now. Tried until it can be read: this change may be the last one, and the
    /// listener is gone once the caller is or we stop.
    async fn look(&self) -> Option<Job> {
        loop {
            match self.app.queue.get(self.id).await {
                Ok(job) => return job.and_then(|job| self.app.present(job).ok()),
                Err(error) => tracing::warn!(job = %self.id, %error, "a change could not be read"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
