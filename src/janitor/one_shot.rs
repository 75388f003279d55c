//! One bounded run of the janitor: as many tasks as the subrequest budget allows, the most urgent first. The next run
//! performs the remaining ones.

use super::{Agenda, JanitorTasks, SubrequestBudget};
use crate::job::Millis;
use crate::queue::QueueError;
use crate::webhook;

/// Round trips for one webhook delivery: read its job, send the request, record the outcome.
const WEBHOOK_TRIPS: u32 = 3;

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
    /// When the next webhook delivery is due.
    pub next_webhook: Option<Millis>,
}

impl JanitorTasks {
    /// Reaps expired leases, promotes delayed jobs and retries, delivers webhooks and checks some uploads. A `full` run
    /// also removes dead workers and old records. `turn` counts the runs.
    ///
    /// # Errors
    /// When Redis fails. The next run continues.
    pub async fn run_once(
        &self,
        turn: u64,
        full: bool,
        budget: &mut SubrequestBudget,
    ) -> Result<SweepReport, QueueError> {
        let Some(sweep) = self.sweep(budget).await? else { return Ok(SweepReport::default()) };
        let mut report = SweepReport { now: sweep.now, ready: sweep.ready, ..SweepReport::default() };
        self.deliver_webhooks(&mut report, budget).await?;
        self.clean_up(sweep.cleanups, report.now, budget).await?;
        let checked = self.check_uploads(&mut Agenda::of_run(turn), report.now, budget).await?;
        report.uploads = u32::try_from(checked).unwrap_or(u32::MAX);
        if full {
            self.prune(report.now, budget).await?;
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
        let most = u32::try_from(webhook::MAX_CONCURRENT_DELIVERIES).unwrap_or(u32::MAX);
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
