//! The janitor as a service that runs for the lifetime of a process.
//!
//! It sleeps until the next task is due and learns of new ones from the event bus, so an idle installation costs a
//! handful of Redis commands every five minutes.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cleanup::MAX_CLEANUPS;
use super::{Agenda, JanitorTasks, SubrequestBudget};
use crate::event_bus::EventBus;
use crate::job::{JobEvent, JobId, Millis, State};
use crate::queue::{Cleanup, Delivery, DeliveryState, Outbox, QueueError, backoff};
use crate::webhook;

/// After this long, the outputs of an attempt that ended are deleted; a little more than in `lib.lua`.
const CLEANUP_AFTER: Duration = Duration::from_secs(125);
/// Longest sleep.
const MAX_SLEEP: Duration = Duration::from_secs(300);
/// How long a queued job may stay unclaimed before a sweep finds out whether it has to wait for its time.
const CLAIM_TIME: Duration = Duration::from_secs(5);
/// Pause between two searches for dead workers and old records.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

type ClaimedDelivery = (Delivery, DeliveryState);
/// Cleanups, and Redis's time when they were claimed.
type ClaimedCleanups = (Vec<Cleanup>, Millis);

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
            ((), (), ()) = async {
                let (claimed, cleanups) = mpsc::channel(1);
                tokio::join!(self.sweep_loop(&claimed), self.clean_up(cleanups), self.deliver_webhooks())
            } => {}
        }
    }

    /// Performs the cleanups that sweeps have claimed. Slow storage must not delay sweeps.
    async fn clean_up(&self, mut claimed: mpsc::Receiver<ClaimedCleanups>) {
        while let Some((cleanups, now)) = claimed.recv().await {
            let mut unlimited = SubrequestBudget::UNLIMITED;
            if let Err(error) = self.tasks.clean_up(cleanups, now, &mut unlimited).await {
                tracing::warn!(%error, "could not record a cleanup; it is repeated in ten minutes");
            }
        }
    }

    /// Sweeps whenever a lease, a retry, an upload or a record may be due.
    async fn sweep_loop(&self, claimed: &mpsc::Sender<ClaimedCleanups>) {
        let mut events = self.event_bus.subscribe();
        let lease = self.tasks.queue.policy().lease;
        let mut agenda = Agenda::of_process();
        let mut pruned: Option<Instant> = None;
        let mut failures = 0;
        loop {
            let prunes = pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY);
            let swept = self.sweep_once(&mut agenda, prunes, claimed).await;
            if prunes && swept.is_ok() {
                pruned = Some(Instant::now());
            }
            let pause = match swept {
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
            let mut unclaimed = Unclaimed::default();
            loop {
                let next = unclaimed.sweep_at.map_or(until, |at| at.min(until));
                tokio::select! {
                    () = tokio::time::sleep_until(next) => break,
                    event = events.recv() => match event {
                        Ok(JobEvent { progress: Some(_), .. }) => {}
                        Ok(JobEvent { status: State::Queued, job_id, .. }) => {
                            unclaimed.queued(job_id, Instant::now());
                        }
                        Ok(JobEvent { status, job_id, .. }) => {
                            unclaimed.left(job_id);
                            match status {
                                // A lease that begins now ends no sooner than this.
                                State::Running => until = until.min(Instant::now() + lease),
                                State::Failed | State::Cancelled => {
                                    until = until.min(Instant::now() + CLEANUP_AFTER);
                                }
                                _ => {}
                            }
                        }
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    /// Runs each task once; dead workers and old records are only removed if `prunes`. Returns the time until the next
    /// task is due. If there are more uploads than one batch, the next run follows shortly.
    async fn sweep_once(
        &self,
        agenda: &mut Agenda,
        prunes: bool,
        claimed: &mpsc::Sender<ClaimedCleanups>,
    ) -> Result<Duration, QueueError> {
        let mut unlimited = SubrequestBudget::UNLIMITED;
        // No further ones while those of the last sweep wait for their turn.
        let room = claimed.try_reserve().ok();
        let cleanups = if room.is_some() { MAX_CLEANUPS } else { 0 };
        let Some(sweep) = self.tasks.sweep(cleanups, &mut unlimited).await? else {
            return Ok(Duration::ZERO);
        };
        if let Some(room) = room.filter(|_| !sweep.cleanups.is_empty()) {
            room.send((sweep.cleanups, sweep.now));
        }
        self.tasks.check_uploads(agenda, sweep.now, &mut unlimited).await?;
        if prunes {
            self.tasks.prune(sweep.now, &mut unlimited).await?;
        }
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

/// Jobs that were queued since the last sweep and have not been claimed. Most are claimed within milliseconds, and need
/// no sweep; the time of a retry or of a delayed job is only known to Redis.
#[derive(Default)]
struct Unclaimed {
    jobs: HashSet<JobId>,
    /// When to sweep because of them.
    sweep_at: Option<Instant>,
    /// Whether there were more jobs than are stored, so that the sweep takes place in any case.
    overflowed: bool,
}

impl Unclaimed {
    const MAX: usize = 1000;

    fn queued(&mut self, id: JobId, now: Instant) {
        self.sweep_at.get_or_insert(now + CLAIM_TIME);
        if self.jobs.len() < Self::MAX {
            self.jobs.insert(id);
        } else {
            self.overflowed = true;
        }
    }

    /// The job was claimed, or has ended.
    fn left(&mut self, id: JobId) {
        self.jobs.remove(&id);
        if self.jobs.is_empty() && !self.overflowed {
            self.sweep_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unclaimed_job_causes_a_sweep_until_it_is_claimed() {
        let (first, second, now) = (JobId::new(), JobId::new(), Instant::now());
        let mut unclaimed = Unclaimed::default();
        unclaimed.queued(first, now);
        unclaimed.queued(second, now + Duration::from_secs(1));
        assert_eq!(unclaimed.sweep_at, Some(now + CLAIM_TIME));
        unclaimed.left(first);
        assert!(unclaimed.sweep_at.is_some());
        unclaimed.left(second);
        assert_eq!(unclaimed.sweep_at, None);
    }

    #[test]
    fn unclaimed_jobs_beyond_the_maximum_cause_a_sweep_in_any_case() {
        let jobs: Vec<JobId> = (0..=Unclaimed::MAX).map(|_| JobId::new()).collect();
        let mut unclaimed = Unclaimed::default();
        for id in &jobs {
            unclaimed.queued(*id, Instant::now());
        }
        for id in &jobs {
            unclaimed.left(*id);
        }
        assert!(unclaimed.jobs.is_empty() && unclaimed.sweep_at.is_some());
    }
}
