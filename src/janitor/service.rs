//! The janitor as a service that runs for the lifetime of a process.
//!
//! It sleeps until the next task is due and learns of new ones from the event bus, so an idle installation costs a
//! handful of Redis commands every five minutes.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Agenda, JanitorTasks, SubrequestBudget};
use crate::event_bus::EventBus;
use crate::job::{JobEvent, Millis, State};
use crate::queue::{Delivery, DeliveryState, Outbox, QueueError, backoff};
use crate::webhook;

/// After this long, the outputs of an attempt that ended are deleted; a little more than in `lib.lua`.
const CLEANUP_AFTER: Duration = Duration::from_secs(125);
/// Longest sleep.
const MAX_SLEEP: Duration = Duration::from_secs(300);

type ClaimedDelivery = (Delivery, DeliveryState);

/// Runs the maintenance tasks of an installation when they are due. Several may run at the same time.
pub struct Janitor {
    /// What the tasks need.
    pub tasks: JanitorTasks,
    /// Events of jobs.
    pub event_bus: EventBus,
}

impl Janitor {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(self.sweep_loop(), self.deliver_webhooks()) } => {}
        }
    }

    /// Sweeps whenever a lease, a retry, an upload or a record may be due.
    async fn sweep_loop(&self) {
        let mut events = self.event_bus.subscribe();
        let lease = self.tasks.queue.policy().lease;
        let mut agenda = Agenda::of_process();
        let mut failures = 0;
        loop {
            let pause = match self.sweep_once(&mut agenda).await {
                Ok(pause) => {
                    failures = 0;
                    pause.min(MAX_SLEEP)
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "janitor sweep failed; retrying");
                    backoff::full_jitter(failures, Duration::from_secs(1), Duration::from_secs(30))
                }
            };
            let mut until = Instant::now() + pause;
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    event = events.recv() => match event {
                        // A lease that begins now ends no sooner than this.
                        Ok(JobEvent { status: State::Running, progress: None, .. }) => {
                            until = until.min(Instant::now() + lease);
                        }
                        Ok(JobEvent { status: State::Queued, .. }) => {
                            until = until.min(Instant::now() + Duration::from_secs(5));
                        }
                        Ok(JobEvent { status: State::Failed | State::Cancelled, .. }) => {
                            until = until.min(Instant::now() + CLEANUP_AFTER);
                        }
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    /// Runs each task once; returns the time until the next one is due. If there are more uploads than one batch, the
    /// next run follows shortly.
    async fn sweep_once(&self, agenda: &mut Agenda) -> Result<Duration, QueueError> {
        let mut unlimited = SubrequestBudget::UNLIMITED;
        let Some(sweep) = self.tasks.sweep(&mut unlimited).await? else { return Ok(Duration::ZERO) };
        self.tasks.check_uploads(agenda, sweep.now, &mut unlimited).await?;
        self.tasks.prune(sweep.now, &mut unlimited).await?;
        self.tasks.clean_up(sweep.cleanups, sweep.now, &mut unlimited).await?;
        let next = [sweep.next_due, sweep.next_cleanup, agenda.next_due()].into_iter().flatten().min();
        Ok(next.map_or(MAX_SLEEP, |due| until(due, sweep.now)))
    }

    /// Delivers webhooks, each independently, so that a slow receiver does not delay the others.
    async fn deliver_webhooks(&self) {
        let Some(webhooks) = &self.tasks.webhooks else { return std::future::pending().await };
        let mut events = self.event_bus.subscribe();
        let mut deliveries = FuturesUnordered::new();
        let mut failures = 0;
        let mut next = Instant::now();
        loop {
            tokio::select! {
                Some(outcome) = deliveries.next() => match outcome {
                    Ok(Some(again)) => next = next.min(Instant::now() + again),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "could not record a webhook delivery; it is retried in a minute"),
                },
                () = tokio::time::sleep_until(next), if deliveries.len() < webhook::MAX_CONCURRENT_DELIVERIES => {
                    match self.claim_due(webhooks.outbox, webhook::MAX_CONCURRENT_DELIVERIES - deliveries.len()).await {
                        Ok((now, taken, pause)) => {
                            failures = 0;
                            next = Instant::now() + pause;
                            deliveries.extend(taken.into_iter().map(|(delivery, state)| {
                                webhook::deliver(&self.tasks.queue, webhooks, &self.tasks.links, now, delivery, state)
                            }));
                        }
                        Err(error) => {
                            failures += 1;
                            tracing::warn!(%error, "could not read pending webhook deliveries; retrying");
                            let pause =
                                backoff::full_jitter(failures, Duration::from_secs(1), Duration::from_secs(30));
                            next = Instant::now() + pause;
                        }
                    }
                }
                event = events.recv() => match event {
                    Ok(event) if !event.status.is_terminal() => {}
                    // While Redis is unavailable, the back-off holds.
                    Ok(_) | Err(RecvError::Lagged(_)) if failures > 0 => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => next = Instant::now(),
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Claims the deliveries that are due; also returns the time until others are due.
    async fn claim_due(
        &self,
        outbox: Outbox,
        room: usize,
    ) -> Result<(Millis, Vec<ClaimedDelivery>, Duration), QueueError> {
        let now = self.tasks.queue.clock().await?.now();
        let (taken, next) = webhook::take(&self.tasks.queue, outbox, now, room).await?;
        // More may be due than fit.
        let pause =
            if taken.is_empty() { next.map_or(MAX_SLEEP, |due| until(due, now)) } else { Duration::ZERO };
        Ok((now, taken, pause.min(MAX_SLEEP)))
    }
}

fn until(due: Millis, now: Millis) -> Duration {
    Duration::from_millis(u64::try_from(due.0 - now.0).unwrap_or(0))
}
