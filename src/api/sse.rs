//! `GET /api/jobs/{id}/events`: a job's changes as server-sent events.
//!
//! Each event is named `job` and carries the whole job, so a client that missed some needs nothing
//! but the newest. The first comes at once; after a terminal one the stream ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
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
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let id = id_of(id)?;
    // Listen first, look then: what changes in between is seen twice rather than not at all.
    let listener = app.hub.listen();
    let job = app.queue.get(id).await?.ok_or_else(Problem::no_such_job)?;
    let job = app.present(job)?;
    let stopping = app.stopping.clone();
    let watch = Watch { app, id, listener, first: Some(job), over: false };
    let changes = futures::stream::unfold(watch, |watch| async { watch.step().await });
    let changes = futures::StreamExt::take_until(changes, stopping.cancelled_owned());
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15)).text("still here");
    Ok(Sse::new(changes).keep_alive(keep_alive))
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
        let event = Event::default().event("job").json_data(&job).unwrap_or_default();
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
