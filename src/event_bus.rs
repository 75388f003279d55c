//! One reader of the Redis event stream for the whole process, which everything that watches jobs subscribes to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::job::JobEvent;
use crate::metrics::Metrics;
use crate::queue::{Change, EventFeed, Queue, QueueError, backoff};

/// How many events a slow subscriber may lag behind before it has to read its job again.
const BACKLOG: usize = 1024;
/// How long one blocking read of the stream waits. Each costs a command, even if nothing happens.
const READ_WAIT: Duration = Duration::from_secs(300);

/// Broadcasts the events of all jobs, and the changes of the fleet, to its subscribers.
#[derive(Clone)]
pub struct EventBus {
    jobs: broadcast::Sender<JobEvent>,
    changes: broadcast::Sender<Change>,
}

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
        let feed = EventFeed::open(queue).await?;
        let event_bus = Self { jobs: broadcast::channel(BACKLOG).0, changes: broadcast::channel(BACKLOG).0 };
        let senders = event_bus.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = forward_events(feed, metrics.as_deref(), &senders) => {}
            }
        });
        Ok(event_bus)
    }

    /// Like [`Self::start`], where Redis need not answer yet. Until it does, and has been found to be able to hold a queue,
    /// there are no events.
    #[must_use]
    pub fn start_when_reachable(
        queue: &Queue,
        metrics: Option<Arc<Metrics>>,
        stop: CancellationToken,
    ) -> Self {
        let event_bus = Self { jobs: broadcast::channel(BACKLOG).0, changes: broadcast::channel(BACKLOG).0 };
        let (senders, queue) = (event_bus.clone(), queue.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let feed = open_when_reachable(&queue).await;
            forward_events(feed, metrics.as_deref(), &senders).await;
        }));
        event_bus
    }

    /// Receives every event of a job from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<JobEvent> {
        self.jobs.subscribe()
    }

    /// Receives every event of a job and every change of the fleet from now on.
    #[must_use]
    pub fn subscribe_to_all(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

async fn open_when_reachable(queue: &Queue) -> EventFeed {
    let mut last = None;
    for failures in 1.. {
        let opened = match queue.check_server().await {
            Ok(()) => EventFeed::open(queue).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(feed) => {
                if last.is_some() {
                    tracing::info!("Redis can be used now");
                }
                return feed;
            }
            Err(error) => {
                let text = error.to_string();
                if last.as_ref() != Some(&text) {
                    tracing::warn!(%error, "Redis cannot be used; retrying");
                }
                last = Some(text);
            }
        }
        tokio::time::sleep(backoff::full_jitter(failures, Duration::from_secs(1), Duration::from_secs(30)))
            .await;
    }
    // There are always more numbers.
    std::future::pending().await
}

async fn forward_events(mut feed: EventFeed, metrics: Option<&Metrics>, senders: &EventBus) {
    let mut failures = 0;
    loop {
        match feed.changes(READ_WAIT).await {
            Ok(changes) => {
                failures = 0;
                for change in changes {
                    // An error of a sender means that it has no subscriber, which is fine.
                    if let Change::Job(event) = &change {
                        if let Some(metrics) = metrics {
                            metrics.job_event(event);
                        }
                        let _ = senders.jobs.send(event.clone());
                    }
                    let _ = senders.changes.send(change);
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
