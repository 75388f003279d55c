//! Once a minute: what has to happen without anybody asking.

use std::time::Duration;

use super::budget::{BudgetSplit, cron_budget, is_full_sweep};
use super::context::EdgeContext;
use crate::controller::reconciler::{InvocationOutcome, OneShotReconciler};
use crate::flyprovider::Fly;
use crate::janitor::{Allowance, JanitorTasks, SweepReport};
use crate::job::Millis;
use crate::queue::QueueError;
use crate::time::{Instant, sleep};

/// A machine that has to come is worth this long, however short the stay.
const LEAST_TIME: Duration = Duration::from_secs(15);
/// Between two rounds, while there is something to wait for.
const PAUSE: Duration = Duration::from_secs(12);
/// Round trips without which no further round begins: webhooks, and a step of the fleet.
const LEAST: u32 = 8;
/// The clock's invocation of `scheduled`, the minute it belongs to.
pub async fn scheduled(scheduled: Millis, env: worker::Env) {
    let context = match EdgeContext::new(&env) {
        Ok(context) => context,
        Err(incomplete) => {
            tracing::error!("{incomplete}");
            return;
        }
    };
    let turn = u64::try_from(scheduled.0 / 60_000).unwrap_or(0);
    let minute =
        Minute { began: Instant::now(), turn, tasks: context.tasks(), one_shot: context.one_shot(), context };
    if let Err(error) = minute.run().await {
        tracing::warn!(%error, "subrequest limit reached; the next scheduled run continues");
    }
}

struct Minute {
    began: Instant,
    turn: u64,
    tasks: JanitorTasks,
    one_shot: Option<OneShotReconciler<Fly>>,
    context: EdgeContext,
}

impl Minute {
    async fn run(&self) -> Result<(), QueueError> {
        let BudgetSplit { mut tasks, mut rest } = BudgetSplit::of(self.context.settings.subrequests);
        let mut report = self.tasks.visit(self.turn, is_full_sweep(self.turn), &mut tasks).await?;
        rest.0 += tasks.0;
        let seen = Instant::now();
        let mut is_quiet = self.fleet(&mut rest, is_full_sweep(self.turn)).await?;
        tracing::info!(
            ready = report.ready,
            uploads = report.uploads,
            webhooks = report.webhooks,
            subrequests_left = rest.0,
            "looked after the installation"
        );
        let at = report.now;
        // Waiting costs nothing, and a job that ends meanwhile is told of at once.
        while !(is_quiet && report.next_webhook.is_none_or(|due| due > at.plus(60_000))) {
            if self.began.elapsed() + PAUSE > self.context.settings.stay || rest.0 < LEAST {
                return Ok(());
            }
            sleep(PAUSE).await;
            let passed = i64::try_from(seen.elapsed().as_millis()).unwrap_or(0);
            report = SweepReport { now: at.plus(passed), ..report };
            self.tasks.tell(&mut report, &mut rest).await?;
            is_quiet = self.fleet(&mut rest, false).await?;
        }
        Ok(())
    }

    /// Takes the fleet's next steps. Says whether nothing goes on.
    async fn fleet(&self, left: &mut Allowance, insists: bool) -> Result<bool, QueueError> {
        if !left.take(1) {
            return Ok(true);
        }
        let view = self.context.queue.fleet_view().await?;
        let is_quiet = view.pending + view.due == 0 && view.workers.is_empty();
        let Some(one_shot) = &self.one_shot else { return Ok(is_quiet) };
        if is_quiet && one_shot.policy.min == 0 && !insists {
            return Ok(true);
        }
        let time = self.context.settings.stay.saturating_sub(self.began.elapsed()).max(LEAST_TIME);
        let cron_budget = cron_budget(*left, time);
        if cron_budget.trips < 2 {
            return Ok(is_quiet);
        }
        let (_, end, trips) = one_shot.visit(&[], cron_budget).await?;
        left.0 = left.0.saturating_sub(trips);
        Ok(is_quiet && end != InvocationOutcome::OutOfBudget)
    }
}
