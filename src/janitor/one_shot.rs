//! Housekeeping by the visit: as many errands as there is room for, the most urgent first. What is left
//! over is seen to at the next one.

use super::{BATCH, JanitorTasks};
use crate::job::{JobId, Millis};
use crate::queue::QueueError;
use crate::webhook;

/// Uploads looked up, to choose from.
const AWAITED: u32 = 1000;
/// Round trips for an upload: its job, and what became of it. The bucket is asked by its binding.
const UPLOAD_TRIPS: u32 = 2;
/// For a webhook: its job, the receiver, and that it is done.
const WEBHOOK_TRIPS: u32 = 3;

/// Round trips that are left to an invocation; the platform counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance(pub u32);

impl Allowance {
    /// Takes so many, if there are as many.
    pub const fn take(&mut self, trips: u32) -> bool {
        let enough = self.0 >= trips;
        if enough {
            self.0 -= trips;
        }
        enough
    }

    /// How many things that take `each` trips fit, at most `most`; takes what they need.
    pub fn take_some(&mut self, each: u32, most: u32) -> u32 {
        let fit = (self.0 / each.max(1)).min(most);
        self.0 -= fit * each.max(1);
        fit
    }
}

/// What a visit saw to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Redis's time.
    pub now: Millis,
    /// Jobs that became ready.
    pub ready: u32,
    /// Uploads looked for.
    pub uploads: u32,
    /// Webhooks tried.
    pub webhooks: u32,
    /// When the next lease, retry or delayed job is due.
    pub next_due: Option<Millis>,
    /// When the next webhook is.
    pub next_webhook: Option<Millis>,
}

/// Which uploads to look for: those whose time is up, then the others in turn, so that each is looked for
/// again and again though there are more than fit. `turn` counts the visits.
fn choose(awaited: &[(JobId, Millis)], now: Millis, turn: u64, most: usize) -> Vec<(JobId, bool)> {
    let is_overdue = |due: &Millis| *due <= now;
    let mut chosen: Vec<(JobId, bool)> =
        awaited.iter().filter(|(_, due)| is_overdue(due)).take(most).map(|(id, _)| (*id, true)).collect();
    let others: Vec<JobId> = awaited.iter().filter(|(_, due)| !is_overdue(due)).map(|(id, _)| *id).collect();
    let room = (most - chosen.len()).min(others.len());
    if room > 0 {
        let length = others.len() as u64;
        let start = usize::try_from(turn.wrapping_mul(room as u64) % length).unwrap_or(0);
        chosen.extend(others.iter().cycle().skip(start).take(room).map(|id| (*id, false)));
    }
    chosen
}

impl JanitorTasks {
    /// Leases, retries, delayed jobs, webhooks; each `turn` some uploads; now and then, `all` the rest:
    /// dead workers, and records that are old.
    ///
    /// # Errors
    /// When Redis fails. The next visit goes on.
    pub async fn visit(
        &self,
        turn: u64,
        all: bool,
        allowance: &mut Allowance,
    ) -> Result<SweepReport, QueueError> {
        let mut report = SweepReport::default();
        for _ in 0..3 {
            if !allowance.take(1) {
                return Ok(report);
            }
            let sweep = self.queue.sweep(BATCH).await?;
            (report.now, report.next_due) = (sweep.now, sweep.next_due);
            report.ready += sweep.ready;
            if sweep.next_due.is_none_or(|due| due > sweep.now) {
                break;
            }
        }
        self.tell(&mut report, allowance).await?;
        if allowance.take(1) {
            let awaited = self.queue.uploading(AWAITED).await?;
            let most = u32::try_from(awaited.len()).unwrap_or(AWAITED);
            let fit = allowance.take_some(UPLOAD_TRIPS, most) as usize;
            // Side by side, so that a bucket that takes its time does not take everybody's.
            let looks = choose(&awaited, report.now, turn, fit);
            let looks = looks.into_iter().map(|(id, overdue)| self.check_upload(id, overdue));
            let looked = futures::future::try_join_all(looks).await?;
            report.uploads = u32::try_from(looked.len()).unwrap_or(u32::MAX);
        }
        if all && allowance.take(4) {
            for worker in self.queue.prune_dead_workers(report.now).await? {
                tracing::warn!(%worker, "removed a worker without a heartbeat");
            }
            self.queue.prune_index(report.now).await?;
        }
        Ok(report)
    }

    /// Webhooks that are due, side by side.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn tell(&self, report: &mut SweepReport, allowance: &mut Allowance) -> Result<(), QueueError> {
        let Some(webhooks) = &self.webhooks else { return Ok(()) };
        if !allowance.take(1) {
            return Ok(());
        }
        let now = report.now;
        let most = u32::try_from(webhook::AT_ONCE).unwrap_or(u32::MAX);
        // A third of what is left, lest many that are owed keep everything else waiting.
        let mut share = Allowance(allowance.0 / 3);
        let room = share.take_some(WEBHOOK_TRIPS, most);
        if room == 0 {
            return Ok(());
        }
        let (taken, next) = webhook::take(&self.queue, webhooks.outbox, now, room as usize).await?;
        let count = u32::try_from(taken.len()).unwrap_or(room);
        allowance.take(count * WEBHOOK_TRIPS);
        let tried = taken.into_iter().map(|(delivery, state)| {
            webhook::deliver(&self.queue, webhooks, &self.links, now, delivery, state)
        });
        for tried in futures::future::join_all(tried).await {
            if let Err(error) = tried {
                tracing::warn!(%error, "could not record a webhook delivery; it is retried in a minute");
            }
        }
        report.webhooks += count;
        report.next_webhook = if count == room { Some(now) } else { next };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_allowance_never_gives_more_than_it_has() {
        let mut left = Allowance(10);
        assert!(left.take(3) && left == Allowance(7));
        assert!(!left.take(8) && left == Allowance(7));
        assert_eq!(left.take_some(3, 5), 2);
        assert_eq!(left, Allowance(1));
        assert_eq!(left.take_some(0, 9), 1);
        assert_eq!(left.take_some(1, 9), 0);
    }

    #[test]
    fn overdue_uploads_come_first_and_every_other_gets_its_turn() {
        let ids: Vec<JobId> = (0..10).map(|_| JobId::new()).collect();
        let awaited: Vec<_> = ids.iter().enumerate().map(|(n, id)| (*id, Millis(n as i64 * 10))).collect();
        let now = Millis(10);
        assert_eq!(choose(&awaited, now, 7, 2), [(ids[0], true), (ids[1], true)]);
        let mut seen = BTreeSet::new();
        for turn in 0..8 {
            let chosen = choose(&awaited, now, turn, 4);
            assert_eq!(chosen[..2], [(ids[0], true), (ids[1], true)]);
            assert_eq!(chosen.len(), 4);
            seen.extend(chosen.iter().map(|(id, _)| id.to_string()));
        }
        assert_eq!(seen.len(), 10, "some are never looked for");
        assert_eq!(choose(&awaited, now, 3, 100).len(), 10);
        assert!(choose(&[], now, 3, 100).is_empty());
        assert!(choose(&awaited, now, u64::MAX, 0).is_empty());
    }
}
