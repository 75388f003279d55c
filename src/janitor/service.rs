//! Housekeeping for as long as a process lives.
//!
//! It sleeps until the next errand is due and learns of new ones from the event feed, so an idle
//! installation costs a handful of Redis commands every five minutes.

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
const QUIET: Duration = Duration::from_secs(300);
/// Uploads looked for at the start.
const LOOK_AT_ALL: u32 = 10_000;
/// After this long an upload that could not be looked for is looked for again.
const PUT_OFF_MS: i64 = 60_000;
/// Between two batches of overdue uploads.
const NEXT_BATCH_MS: i64 = 50;
/// Buckets asked for uploads at once.
const HEADS: usize = 8;

type Owed = (Delivery, DeliveryState);

/// Which uploads to look for now.
#[derive(Debug, PartialEq, Eq)]
struct Round {
    /// Each with whether its time is up.
    look: Vec<(JobId, bool)>,
    /// When one of the others has to be looked for.
    next: Option<Millis>,
}

impl Round {
    /// Of those `awaited`, with the ends of their windows, all that are overdue, or all there are; but
    /// not those that could not be looked for a moment ago, which are `put_off` until a time.
    fn plan(
        awaited: &[(JobId, Millis)],
        put_off: &mut HashMap<JobId, Millis>,
        now: Millis,
        all: bool,
    ) -> Self {
        put_off.retain(|_, until| *until > now);
        let mut round = Self { look: Vec::new(), next: None };
        for (id, due) in awaited {
            let overdue = *due <= now;
            let until = put_off.get(id).copied();
            if until.is_none() && (overdue || all) {
                round.look.push((*id, overdue));
            }
            if let Some(at) = until.or((!overdue).then_some(*due)) {
                round.next = Some(round.next.map_or(at, |next| next.min(at)));
            }
        }
        round
    }
}

/// Keeps an installation tidy for as long as it runs. Several may run side by side.
pub struct Janitor {
    /// What it needs.
    pub tasks: JanitorTasks,
    /// What happens.
    pub event_bus: EventBus,
}

impl Janitor {
    /// Works until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(self.sweep_loop(), self.tell()) } => {}
        }
    }

    /// Leases, retries, uploads, records.
    async fn sweep_loop(&self) {
        let mut events = self.event_bus.subscribe();
        let lease = self.tasks.queue.policy().lease;
        // An upload may have arrived while nobody listened: look once at all that are awaited.
        let mut look_at_all = true;
        let mut put_off = HashMap::new();
        let mut failures = 0;
        loop {
            let pause = match self.sweep_once(look_at_all, &mut put_off).await {
                Ok(pause) => {
                    (failures, look_at_all) = (0, false);
                    pause.min(QUIET)
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

    /// One round; says for how long nothing more is due.
    ///
    /// Of the uploads one batch is looked for; should there be more, the next round is near.
    async fn sweep_once(
        &self,
        look_at_all: bool,
        put_off: &mut HashMap<JobId, Millis>,
    ) -> Result<Duration, QueueError> {
        let queue = &self.tasks.queue;
        let mut sweep = queue.sweep(BATCH).await?;
        while sweep.next_due.is_some_and(|due| due <= sweep.now) {
            sweep = queue.sweep(BATCH).await?;
        }
        let limit = if look_at_all { LOOK_AT_ALL } else { BATCH + u32::try_from(put_off.len()).unwrap_or(0) };
        let awaited = queue.uploading(limit).await?;
        let full = awaited.len() >= limit as usize;
        let round = Round::plan(&awaited, put_off, sweep.now, look_at_all);
        let looked: Vec<(JobId, bool)> =
            futures::stream::iter(round.look)
                .map(|(id, overdue)| async move {
                    self.tasks.check_upload(id, overdue).await.map(|done| (id, done))
                })
                .buffer_unordered(HEADS)
                .collect::<Vec<_>>()
                .await
                .into_iter()
                .collect::<Result<_, _>>()?;
        let stuck = looked.iter().filter(|(_, done)| !done).map(|(id, _)| *id);
        put_off.extend(stuck.map(|id| (id, sweep.now.plus(PUT_OFF_MS))));
        let more = (full && !looked.is_empty()).then(|| sweep.now.plus(NEXT_BATCH_MS));
        for worker in queue.prune_dead_workers(sweep.now).await? {
            tracing::warn!(%worker, "removed a worker without a heartbeat");
        }
        queue.prune_index(sweep.now).await?;
        let next = [sweep.next_due, round.next, more].into_iter().flatten().min();
        Ok(next.map_or(QUIET, |due| until(due, sweep.now)))
    }

    /// Webhooks. Each goes its own way, so a receiver that takes its time delays nobody else's.
    async fn tell(&self) {
        let Some(webhooks) = &self.tasks.webhooks else { return std::future::pending().await };
        let mut events = self.event_bus.subscribe();
        let mut under_way = FuturesUnordered::new();
        let mut failures = 0;
        let mut look = Instant::now();
        loop {
            tokio::select! {
                Some(tried) = under_way.next() => match tried {
                    Ok(Some(again)) => look = look.min(Instant::now() + again),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "could not record a webhook delivery; it is retried in a minute"),
                },
                () = tokio::time::sleep_until(look), if under_way.len() < webhook::AT_ONCE => {
                    match self.claim_due(webhooks.outbox, webhook::AT_ONCE - under_way.len()).await {
                        Ok((now, taken, pause)) => {
                            failures = 0;
                            look = Instant::now() + pause;
                            under_way.extend(taken.into_iter().map(|(delivery, state)| {
                                webhook::deliver(&self.tasks.queue, webhooks, &self.tasks.links, now, delivery, state)
                            }));
                        }
                        Err(error) => {
                            failures += 1;
                            tracing::warn!(%error, "could not read pending webhook deliveries; retrying");
                            let pause =
                                backoff::full_jitter(failures, Duration::from_secs(1), Duration::from_secs(30));
                            look = Instant::now() + pause;
                        }
                    }
                }
                event = events.recv() => match event {
                    Ok(event) if !event.status.is_terminal() => {}
                    // While Redis is away the pause stands.
                    Ok(_) | Err(RecvError::Lagged(_)) if failures > 0 => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => look = Instant::now(),
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Takes what is due; says also for how long nothing more is.
    async fn claim_due(
        &self,
        outbox: Outbox,
        room: usize,
    ) -> Result<(Millis, Vec<Owed>, Duration), QueueError> {
        let now = self.tasks.queue.clock().await?.now();
        let (taken, next) = webhook::take(&self.tasks.queue, outbox, now, room).await?;
        // More may be due than there was room for.
        let pause = if taken.is_empty() { next.map_or(QUIET, |due| until(due, now)) } else { Duration::ZERO };
        Ok((now, taken, pause.min(QUIET)))
    }
}

fn until(due: Millis, now: Millis) -> Duration {
    Duration::from_millis(u64::try_from(due.0 - now.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overdue_uploads_are_looked_for_and_those_that_cannot_be_wait_their_turn() {
        let ids: Vec<JobId> = (0..4).map(|_| JobId::new()).collect();
        let dues = [Millis(10), Millis(20), Millis(100), Millis(300)];
        let awaited: Vec<_> = ids.iter().copied().zip(dues).collect();
        let mut put_off = HashMap::from([(ids[0], Millis(150))]);
        let round = Round::plan(&awaited, &mut put_off, Millis(100), false);
        assert_eq!(round.look, [(ids[1], true), (ids[2], true)]);
        assert_eq!(round.next, Some(Millis(150)));
        let round = Round::plan(&awaited, &mut put_off, Millis(150), false);
        assert_eq!(round.look, [(ids[0], true), (ids[1], true), (ids[2], true)]);
        assert_eq!(round.next, Some(Millis(300)));
        assert!(put_off.is_empty());
        let round = Round::plan(&awaited, &mut put_off, Millis(20), true);
        assert_eq!(round.look, [(ids[0], true), (ids[1], true), (ids[2], false), (ids[3], false)]);
        assert_eq!(round.next, Some(Millis(100)));
        assert_eq!(Round::plan(&[], &mut put_off, Millis(20), true), Round { look: vec![], next: None });
    }
}
