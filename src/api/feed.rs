//! Where the live feed learns that a job may have changed: from the stream of changes in a process; at the
//! edge, where nothing can be waited for, by looking now and then.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::Event;
use axum::response::{IntoResponse, Response, Sse};
use futures::Stream;

use crate::job::JobId;

#[cfg(not(target_arch = "wasm32"))]
pub use process::{Changes, Feed};

#[cfg(target_arch = "wasm32")]
pub use edge::{Changes, Feed};

#[cfg(not(target_arch = "wasm32"))]
mod process {
    use axum::response::sse::KeepAlive;
    use tokio::sync::broadcast::Receiver;
    use tokio::sync::broadcast::error::RecvError;
    use tokio_util::sync::CancellationToken;

    use super::{Duration, Event, Infallible, IntoResponse, JobId, Response, Sse, Stream};
    use crate::event_bus::EventBus;
    use crate::job::JobEvent;

    /// The stream of changes.
    pub struct Feed {
        event_bus: EventBus,
        /// Ends the connections, which would otherwise outlast a shutdown.
        stopping: CancellationToken,
    }

    /// What happens to one job.
    pub struct Changes {
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

        /// Everything that happens to this job from now on.
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
        /// Waits for the next; false when there will be none.
        pub async fn next(&mut self) -> bool {
            loop {
                match self.listener.recv().await {
                    Ok(event) if event.job_id != self.id => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => return false,
                }
            }
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod edge {
    use super::{Duration, Event, Infallible, IntoResponse, JobId, Response, Sse, Stream};
    use crate::time::sleep;

    /// Between two looks.
    const PAUSE: Duration = Duration::from_secs(2);
    /// Looks of one connection: each is a request to Redis, of which an invocation has 50 on the free plan.
    const LOOKS: u32 = 40;

    /// Nothing but time.
    pub struct Feed;

    /// Looks that are left.
    pub struct Changes(u32);

    impl Feed {
        pub(in crate::api) const fn changes(&self, _: JobId) -> Changes {
            Changes(LOOKS)
        }

        /// The stream ends after some time. Whoever watches opens it again, as after every break.
        pub(in crate::api) fn answer(
            &self,
            events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
        ) -> Response {
            Sse::new(events).into_response()
        }
    }

    impl Changes {
        /// Waits until it is time for a look; false when there were enough.
        pub async fn next(&mut self) -> bool {
            let goes_on = self.0 > 0;
            if goes_on {
                self.0 -= 1;
                sleep(PAUSE).await;
            }
            goes_on
        }
    }
}
