//! One bounded run of the janitor: as many tasks as the subrequest budget allows, the most urgent first. The next run
//! does what is left over.

use super::{BATCH, JanitorTasks};
use crate::job::{JobId, Millis};
use crate::queue::QueueError;
use crate::webhook;

/// Maximum number of awaited uploads read from Redis, from which the ones to check are chosen.
const AWAITED: u32 = 1000;
/// Round trips for one upload: read its job, record the outcome. The bucket is reached through its binding, which does
/// not count.
const UPLOAD_TRIPS: u32 = 2;
/// Round trips for one webhook delivery: read its job, send the request, record the outcome.
const WEBHOOK_TRIPS: u32 = 3;

/// The subrequests (round trips) an invocation may still make; the platform counts and limits them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubrequestBudget(pub u32);

impl SubrequestBudget {
    /// Takes `trips` from the budget if it has that many; returns whether it did.
    pub const fn take(&mut self, trips: u32) -> bool {
        let enough = self.0 >= trips;
        if enough {
            self.0 -= trips;
        }
        enough
    }

    /// Takes the round trips of as many items as fit, at most `most`, each of which needs `each`; returns how many.
    pub fn take_some(&mut self, each: u32, most: u32) -> u32 {
        let fit = (self.0 / each.max(1)).min(most);
        self.0 -= fit * each.max(1);
        fit
    }
}

/// What one run of the janitor did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Time of the sweep, by Redis's clock.
    pub now: Millis,
    /// Number of jobs that became ready for a worker.
    pub ready: u32,
    /// Number of uploads checked in the input bucket.
    pub uploads: u32,
    /// Number of webhook deliveries attempted.
    pub webhooks: u32,
    /// When the next lease, retry or delayed job is due.
    pub next_due: Option<Millis>,
    /// When the next webhook delivery is due.
    pub next_webhook: Option<Millis>,
}

/// Chooses the uploads to check: all that are overdue, then the others in rotation, so that each of them is checked
/// again and again even if they do not all fit into one run. `turn` counts the runs.
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
    /// Reaps expired leases, promotes delayed jobs and retries, delivers webhooks and checks some uploads. A `full` run
    /// also removes dead workers and old records.
    ///
    /// # Errors
    /// When Redis fails. The next run continues.
    pub async fn run_once(
        &self,
        turn: u64,
        full: bool,
        budget: &mut SubrequestBudget,
    ) -> Result<SweepReport, QueueError> {
        let mut report = SweepReport::default();
        for _ in 0..3 {
            if !budget.take(1) {
                return Ok(report);
            }
            let sweep = self.queue.sweep(BATCH).await?;
            (report.now, report.next_due) = (sweep.now, sweep.next_due);
            report.ready += sweep.ready;
            if sweep.next_due.is_none_or(|due| due > sweep.now) {
                break;
            }
        }
        self.deliver_webhooks(&mut report, budget).await?;
        if budget.take(1) {
            let awaited = self.queue.uploading(AWAITED).await?;
            let most = u32::try_from(awaited.len()).unwrap_or(AWAITED);
            let fit = budget.take_some(UPLOAD_TRIPS, most) as usize;
            // Concurrently, so that one slow answer does not delay the others.
            let checks = choose(&awaited, report.now, turn, fit);
            let checks = checks.into_iter().map(|(id, overdue)| self.check_upload(id, overdue));
            let checked = futures::future::try_join_all(checks).await?;
            report.uploads = u32::try_from(checked.len()).unwrap_or(u32::MAX);
        }
        if full && budget.take(4) {
            for worker in self.queue.prune_dead_workers(report.now).await? {
                tracing::warn!(%worker, "removed a worker without a heartbeat");
            }
            self.queue.prune_index(report.now).await?;
        }
        Ok(report)
    }

    /// Delivers the webhooks that are due, concurrently.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn deliver_webhooks(
        &self,
        report: &mut SweepReport,
        budget: &mut SubrequestBudget,
    ) -> Result<(), QueueError> {
        let Some(webhooks) = &self.webhooks else { return Ok(()) };
        if !budget.take(1) {
            return Ok(());
        }
        let now = report.now;
        let most = u32::try_from(webhook::AT_ONCE).unwrap_or(u32::MAX);
        // At most a third of the budget, so that a backlog of webhooks does not starve everything else.
        let mut share = SubrequestBudget(budget.0 / 3);
        let room = share.take_some(WEBHOOK_TRIPS, most);
        if room == 0 {
            return Ok(());
        }
        let (taken, next) = webhook::take(&self.queue, webhooks.outbox, now, room as usize).await?;
        let count = u32::try_from(taken.len()).unwrap_or(room);
        budget.take(count * WEBHOOK_TRIPS);
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
    fn subrequest_budget_take_never_exceeds_what_is_left() {
        let mut left = SubrequestBudget(10);
        assert!(left.take(3) && left == SubrequestBudget(7));
        assert!(!left.take(8) && left == SubrequestBudget(7));
        assert_eq!(left.take_some(3, 5), 2);
        assert_eq!(left, SubrequestBudget(1));
        assert_eq!(left.take_some(0, 9), 1);
        assert_eq!(left.take_some(1, 9), 0);
    }

    #[test]
    fn choose_takes_overdue_uploads_first_and_rotates_the_others() {
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
