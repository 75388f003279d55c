//! The janitor as a service that runs for the lifetime of a process.
//!
//! It sleeps until the next task is due and learns of new ones from the event bus, so an idle installation costs a
//! handful of Redis commands every five minutes.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{BATCH, JanitorTasks};
use crate::event_bus::EventBus;
use crate::job::{JobEvent, JobId, Millis, State};
use crate::queue::{Delivery, DeliveryState, Outbox, QueueError, backoff};
use crate::webhook;

/// Longest sleep.
const MAX_SLEEP: Duration = Duration::from_secs(300);
/// Maximum number of uploads checked at the start.
const STARTUP_UPLOADS: u32 = 10_000;
/// An upload that could not be checked is checked again after this many milliseconds.
const RECHECK_MS: i64 = 60_000;
/// Pause between two batches of overdue uploads, milliseconds.
const NEXT_BATCH_MS: i64 = 50;
/// Maximum number of concurrent HEAD requests.
const CONCURRENT_HEADS: usize = 8;

type Claimed = (Delivery, DeliveryState);

/// The uploads to check now.
#[derive(Debug, PartialEq, Eq)]
struct UploadChecks {
    /// Each with whether it is overdue.
    due: Vec<(JobId, bool)>,
    /// When the next of the others is to be checked.
    next: Option<Millis>,
}

impl UploadChecks {
    /// Of the `awaited` uploads, each with the end of its window, those that are overdue, or all of them; but not those
    /// that could not be checked a moment ago, which are `deferred` until a time.
    fn plan(
        awaited: &[(JobId, Millis)],
        deferred: &mut HashMap<JobId, Millis>,
        now: Millis,
        all: bool,
    ) -> Self {
        deferred.retain(|_, until| *until > now);
        let mut checks = Self { due: Vec::new(), next: None };
        for (id, due) in awaited {
            let overdue = *due <= now;
            let until = deferred.get(id).copied();
            if until.is_none() && (overdue || all) {
                checks.due.push((*id, overdue));
            }
            if let Some(at) = until.or((!overdue).then_some(*due)) {
                checks.next = Some(checks.next.map_or(at, |next| next.min(at)));
            }
        }
        checks
    }
}

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
        // The event of an upload may have been lost while no janitor ran: check all awaited uploads once.
        let mut check_all = true;
        let mut deferred = HashMap::new();
        let mut failures = 0;
        loop {
            let pause = match self.sweep_once(check_all, &mut deferred).await {
                Ok(pause) => {
                    (failures, check_all) = (0, false);
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
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    /// Sweeps once; returns for how long nothing more is due.
    ///
    /// Checks one batch of uploads; if there are more, the next sweep follows shortly.
    async fn sweep_once(
        &self,
        check_all: bool,
        deferred: &mut HashMap<JobId, Millis>,
    ) -> Result<Duration, QueueError> {
        let queue = &self.tasks.queue;
        let mut sweep = queue.sweep(BATCH).await?;
        while sweep.next_due.is_some_and(|due| due <= sweep.now) {
            sweep = queue.sweep(BATCH).await?;
        }
        let limit =
            if check_all { STARTUP_UPLOADS } else { BATCH + u32::try_from(deferred.len()).unwrap_or(0) };
        let awaited = queue.uploading(limit).await?;
        let full = awaited.len() >= limit as usize;
        let checks = UploadChecks::plan(&awaited, deferred, sweep.now, check_all);
        let checked: Vec<(JobId, bool)> =
            futures::stream::iter(checks.due)
                .map(|(id, overdue)| async move {
                    self.tasks.check_upload(id, overdue).await.map(|done| (id, done))
                })
                .buffer_unordered(CONCURRENT_HEADS)
                .collect::<Vec<_>>()
                .await
                .into_iter()
                .collect::<Result<_, _>>()?;
        let undecided = checked.iter().filter(|(_, done)| !done).map(|(id, _)| *id);
        deferred.extend(undecided.map(|id| (id, sweep.now.plus(RECHECK_MS))));
        let more = (full && !checked.is_empty()).then(|| sweep.now.plus(NEXT_BATCH_MS));
        for worker in queue.prune_dead_workers(sweep.now).await? {
            tracing::warn!(%worker, "removed a worker without a heartbeat");
        }
        queue.prune_index(sweep.now).await?;
        let next = [sweep.next_due, checks.next, more].into_iter().flatten().min();
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
                () = tokio::time::sleep_until(next), if deliveries.len() < webhook::AT_ONCE => {
                    match self.claim_due(webhooks.outbox, webhook::AT_ONCE - deliveries.len()).await {
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

    /// Claims the deliveries that are due; also returns for how long no others are.
    async fn claim_due(
        &self,
        outbox: Outbox,
        room: usize,
    ) -> Result<(Millis, Vec<Claimed>, Duration), QueueError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_checks_plan_takes_overdue_uploads_and_defers_unreachable_ones() {
        let ids: Vec<JobId> = (0..4).map(|_| JobId::new()).collect();
        let dues = [Millis(10), Millis(20), Millis(100), Millis(300)];
        let awaited: Vec<_> = ids.iter().copied().zip(dues).collect();
        let mut deferred = HashMap::from([(ids[0], Millis(150))]);
        let checks = UploadChecks::plan(&awaited, &mut deferred, Millis(100), false);
        assert_eq!(checks.due, [(ids[1], true), (ids[2], true)]);
        assert_eq!(checks.next, Some(Millis(150)));
        let checks = UploadChecks::plan(&awaited, &mut deferred, Millis(150), false);
        assert_eq!(checks.due, [(ids[0], true), (ids[1], true), (ids[2], true)]);
        assert_eq!(checks.next, Some(Millis(300)));
        assert!(deferred.is_empty());
        let checks = UploadChecks::plan(&awaited, &mut deferred, Millis(20), true);
        assert_eq!(checks.due, [(ids[0], true), (ids[1], true), (ids[2], false), (ids[3], false)]);
        assert_eq!(checks.next, Some(Millis(100)));
        assert_eq!(
            UploadChecks::plan(&[], &mut deferred, Millis(20), true),
            UploadChecks { due: vec![], next: None }
        );
    }
}
