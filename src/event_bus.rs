//! One reader of the Redis event stream for the whole process, which everything that watches jobs subscribes to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::job::JobEvent;
use crate::metrics::Metrics;
use crate::queue::{EventFeed, Queue, QueueError, backoff};

/// How many events a slow subscriber may lag behind before it has to read its job again.
const BACKLOG: usize = 1024;
/// How long one blocking read of the stream waits.
const READ_WAIT: Duration = Duration::from_secs(60);

/// Broadcasts the events of all jobs to its subscribers.
#[derive(Clone)]
pub struct EventBus(broadcast::Sender<JobEvent>);

impl EventBus {
    /// Reads the stream until `stop`. `metrics` receive each event before the subscribers and never lag, so a
    /// subscriber that has seen the end of a job finds it counted.
    ///
    /// # Errors
    /// If Redis does not answer at the start. Later failures are retried.
    pub async fn start(
        queue: &Queue,
        metrics: Option<Arc<Metrics>>,
        stop: CancellationToken,
    ) -> Result<Self, QueueError> {
        let (sender, _) = broadcast::channel(BACKLOG);
        let feed = EventFeed::open(queue).await?;
        let event_bus = Self(sender.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = forward_events(feed, metrics.as_deref(), sender) => {}
            }
        });
        Ok(event_bus)
    }

    /// Receives every event from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<JobEvent> {
        self.0.subscribe()
    }
}

async fn forward_events(mut feed: EventFeed, metrics: Option<&Metrics>, sender: broadcast::Sender<JobEvent>) {
    let mut failures = 0;
    loop {
        match feed.next(READ_WAIT).await {
            Ok(events) => {
                failures = 0;
                for event in events {
                    if let Some(metrics) = metrics {
                        metrics.job_event(&event);
                    }
                    // An error means that there is no subscriber, which is fine.
                    let _ = sender.send(event);
                }
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(%error, "the event stream broke; reconnecting");
                }
                let pause =
                    backoff::full_jitter(failures, Duration::from_millis(200), Duration::from_secs(5));
                tokio::time::sleep(pause).await;
            }
        }
    }
}
