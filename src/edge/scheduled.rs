//! The `scheduled` handler: once a minute it runs the janitor and the fleet's reconciler.

use std::time::Duration;

use super::budget::{BudgetSplit, cron_budget, is_full_sweep};
use super::context::EdgeContext;
use crate::controller::reconciler::{InvocationOutcome, OneShotReconciler};
use crate::flyprovider::Fly;
use crate::janitor::{JanitorTasks, SubrequestBudget, SweepReport};
use crate::job::Millis;
use crate::queue::QueueError;
use crate::time::{Instant, sleep};

/// Minimum time given to the reconciler, however little is left: a machine that jobs wait for is worth it.
const MIN_RECONCILE_TIME: Duration = Duration::from_secs(15);
/// Pause between two rounds while jobs run.
const PAUSE: Duration = Duration::from_secs(12);
/// No further round begins with fewer round trips left: webhooks, and one operation on the fleet.
const MIN_ROUND_TRIPS: u32 = 8;
/// Handles the cron trigger of the minute `at`.
pub async fn scheduled(at: Millis, env: worker::Env) {
    let context = match EdgeContext::new(&env) {
        Ok(context) => context,
        Err(incomplete) => {
            tracing::error!("{incomplete}");
            return;
        }
    };
    let turn = u64::try_from(at.0 / 60_000).unwrap_or(0);
    let minute = Minute {
        began: Instant::now(),
        turn,
        tasks: context.janitor(),
        reconciler: context.reconciler(),
        context,
    };
    if let Err(error) = minute.run().await {
        tracing::warn!(%error, "the scheduled run failed; the next one continues");
    }
}

struct Minute {
    began: Instant,
    turn: u64,
    tasks: JanitorTasks,
    reconciler: Option<OneShotReconciler<Fly>>,
    context: EdgeContext,
}

impl Minute {
    async fn run(&self) -> Result<(), QueueError> {
        let BudgetSplit { mut tasks, mut rest } = BudgetSplit::of(self.context.settings.subrequests);
        let mut report = self.tasks.run_once(self.turn, is_full_sweep(self.turn), &mut tasks).await?;
        rest.0 += tasks.0;
        let seen = Instant::now();
        let mut is_quiet = self.reconcile(&mut rest, is_full_sweep(self.turn)).await?;
        // After the fleet, because nothing waits for it.
        self.tasks.clean_up(std::mem::take(&mut report.cleanups), report.now, &mut rest).await?;
        tracing::info!(
            ready = report.ready,
            uploads = report.uploads,
            webhooks = report.webhooks,
            subrequests_left = rest.0,
            "scheduled run finished its first round"
        );
        let at = report.now;
        // Waiting costs nothing, and the webhook of a job that ends meanwhile is sent at once.
        while !(is_quiet && report.next_webhook.is_none_or(|due| due > at.plus(60_000))) {
            if self.began.elapsed() + PAUSE > self.context.settings.stay || rest.0 < MIN_ROUND_TRIPS {
                return Ok(());
            }
            sleep(PAUSE).await;
            let passed = i64::try_from(seen.elapsed().as_millis()).unwrap_or(0);
            report = SweepReport { now: at.plus(passed), ..report };
            self.tasks.deliver_webhooks(&mut report, &mut rest).await?;
            is_quiet = self.reconcile(&mut rest, false).await?;
        }
        Ok(())
    }

    /// Reconciles the fleet. Returns whether it is idle.
    async fn reconcile(&self, left: &mut SubrequestBudget, full: bool) -> Result<bool, QueueError> {
        if !left.take(1) {
            return Ok(true);
        }
        let policy = self.reconciler.as_ref().map(|reconciler| &reconciler.policy);
        let classes = policy.map(|policy| policy.classes.clone()).unwrap_or_default();
        let view = self.context.queue.fleet_view(&classes).await?;
        let is_quiet = !view.has_work() && view.workers.is_empty();
        let Some(reconciler) = &self.reconciler else { return Ok(is_quiet) };
        if is_quiet && reconciler.policy.min == 0 && !full {
            return Ok(true);
        }
        let time = self.context.settings.stay.saturating_sub(self.began.elapsed()).max(MIN_RECONCILE_TIME);
        let budget = cron_budget(*left, time);
        if budget.trips < 2 {
            return Ok(is_quiet);
        }
        let (_, end, trips) = reconciler.run(&[], budget).await?;
        left.0 = left.0.saturating_sub(trips);
        Ok(is_quiet && end != InvocationOutcome::OutOfBudget)
    }
}
