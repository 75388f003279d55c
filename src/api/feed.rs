//! The source of the live feed: tells a connection when a job may have changed. In a process this is the event
//! stream; the Cloudflare Worker cannot wait for one and polls instead.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::Event;
use axum::response::{IntoResponse, Response, Sse};
use futures::Stream;

use crate::job::{Epoch, JobId};

/// A change of a job, as far as the source knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum JobChange {
    /// Anything may have changed.
    Any,
    /// Nothing but the progress of this attempt, in percent.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "a poll does not know what has changed"))]
    Progress(Epoch, f64),
    /// Nothing, for some time.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "a poll does not know what has changed"))]
    Nothing,
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use process::Changes;
#[cfg(not(target_arch = "wasm32"))]
pub use process::Feed;

#[cfg(target_arch = "wasm32")]
pub(crate) use edge::Changes;
#[cfg(target_arch = "wasm32")]
pub use edge::Feed;

#[cfg(not(target_arch = "wasm32"))]
mod process {
    use axum::response::sse::KeepAlive;
    use tokio::sync::broadcast::Receiver;
    use tokio::sync::broadcast::error::RecvError;
    use tokio_util::sync::CancellationToken;

    use super::{Duration, Event, Infallible, IntoResponse, JobChange, JobId, Response, Sse, Stream};
    use crate::event_bus::EventBus;
    use crate::job::JobEvent;

    /// The source of the feed: the event stream.
    pub struct Feed {
        event_bus: EventBus,
        /// Ends the connections at a shutdown, which they would otherwise outlast.
        stopping: CancellationToken,
    }

    /// The changes of one job.
    pub(crate) struct Changes {
        listener: Receiver<JobEvent>,
        id: JobId,
    }

    impl Feed {
        pub(in crate::api) const fn new(event_bus: EventBus, stopping: CancellationToken) -> Self {
            Self { event_bus, stopping }
        }

        pub(in crate::api) const fn event_bus(&self) -> &EventBus {
            &self.event_bus
        }

        /// Subscribes to all changes of this job from now on.
        pub(in crate::api) fn changes(&self, id: JobId) -> Changes {
            Changes { listener: self.event_bus.subscribe(), id }
        }

        pub(in crate::api) fn answer(
            &self,
            events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
        ) -> Response {
            let events = futures::StreamExt::take_until(events, self.stopping.clone().cancelled_owned());
            let keep_alive = KeepAlive::new().interval(Duration::from_secs(15)).text("still here");
            Sse::new(events).keep_alive(keep_alive).into_response()
        }
    }

    impl Changes {
        /// Waits for the next change, and returns [`JobChange::Nothing`] if there is none within this time. Returns `None` when
        /// there will be none.
        pub(crate) async fn next(&mut self, within: Duration) -> Option<JobChange> {
            let quiet = tokio::time::Instant::now() + within;
            loop {
                let Ok(event) = tokio::time::timeout_at(quiet, self.listener.recv()).await else {
                    return Some(JobChange::Nothing);
                };
                match event {
                    Ok(event) if event.job_id != self.id => {}
                    Ok(JobEvent { progress: Some(percent), epoch: Some(epoch), .. }) => {
                        return Some(JobChange::Progress(epoch, percent));
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => return Some(JobChange::Any),
                    Err(RecvError::Closed) => return None,
                }
            }
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod edge {
    use super::{Duration, Event, Infallible, IntoResponse, JobChange, JobId, Response, Sse, Stream};
    use crate::time::sleep;

    /// Pause between two polls.
    const PAUSE: Duration = Duration::from_secs(2);
    /// Maximum number of polls per connection: each is a request to Redis, of which an invocation has 50 on the free
    /// plan.
    const LOOKS: u32 = 40;

    /// The source of the feed: a timer.
    pub struct Feed;

    /// The number of polls that are left.
    pub(crate) struct Changes(u32);

    impl Feed {
        pub(in crate::api) const fn changes(&self, _: JobId) -> Changes {
            Changes(LOOKS)
        }

        /// The stream ends after some time. The client opens it again, as after every interruption.
        pub(in crate::api) fn answer(
            &self,
            events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
        ) -> Response {
            Sse::new(events).into_response()
        }
    }

    impl Changes {
        /// Waits until the next poll is due. Returns nothing when there will be none.
        pub(crate) async fn next(&mut self, _: Duration) -> Option<JobChange> {
            self.0 = self.0.checked_sub(1)?;
            sleep(PAUSE).await;
            Some(JobChange::Any)
        }
    }
}
