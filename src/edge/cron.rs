//! Once a minute: what has to happen without anybody asking.

use std::time::Duration;

use super::pace::{Shares, is_seldom, room};
use super::works::Works;
use crate::controller::reconciler::{End, Visitor};
use crate::housekeeping::{Allowance, Errands, Visited};
use crate::job::Millis;
use crate::pace::{Instant, sleep};
use crate::queue::QueueError;

/// A machine that has to come is worth this long, however short the stay.
const LEAST_TIME: Duration = Duration::from_secs(15);
/// Between two rounds, while there is something to wait for.
const PAUSE: Duration = Duration::from_secs(12);
/// Round trips without which no further round begins: webhooks, and a step of the fleet.
const LEAST: u32 = 8;
/// The clock's invocation of `scheduled`, the minute it belongs to.
pub async fn cron(scheduled: Millis, env: worker::Env) {
    let works = match Works::new(&env) {
        Ok(works) => works,
        Err(incomplete) => {
            tracing::error!("{incomplete}");
            return;
        }
    };
    let turn = u64::try_from(scheduled.0 / 60_000).unwrap_or(0);
    let minute =
        Minute { began: Instant::now(), turn, errands: works.errands(), visitor: works.visitor(), works };
    if let Err(error) = minute.run().await {
        tracing::warn!(%error, "not everything was seen to; the next minute goes on");
    }
}

struct Minute {
    began: Instant,
    turn: u64,
    errands: Errands,
    visitor: Option<Visitor>,
    works: Works,
}

impl Minute {
    async fn run(&self) -> Result<(), QueueError> {
        let Shares { mut errands, mut rest } = Shares::of(self.works.settings.subrequests);
        let mut visited = self.errands.visit(self.turn, is_seldom(self.turn), &mut errands).await?;
        rest.0 += errands.0;
        let seen = Instant::now();
        let mut is_quiet = self.fleet(&mut rest, is_seldom(self.turn)).await?;
        tracing::info!(
            ready = visited.ready,
            uploads = visited.uploads,
            webhooks = visited.webhooks,
            subrequests_left = rest.0,
            "looked after the installation"
        );
        let at = visited.now;
        // Waiting costs nothing, and a job that ends meanwhile is told of at once.
        while !(is_quiet && visited.next_webhook.is_none_or(|due| due > at.plus(60_000))) {
            if self.began.elapsed() + PAUSE > self.works.settings.stay || rest.0 < LEAST {
                return Ok(());
            }
            sleep(PAUSE).await;
            let passed = i64::try_from(seen.elapsed().as_millis()).unwrap_or(0);
            visited = Visited { now: at.plus(passed), ..visited };
            self.errands.tell(&mut visited, &mut rest).await?;
            is_quiet = self.fleet(&mut rest, false).await?;
        }
        Ok(())
    }

    /// Takes the fleet's next steps. Says whether nothing goes on.
    async fn fleet(&self, left: &mut Allowance, insists: bool) -> Result<bool, QueueError> {
        if !left.take(1) {
            return Ok(true);
        }
        let view = self.works.queue.fleet_view().await?;
        let is_quiet = view.pending + view.due == 0 && view.workers.is_empty();
        let Some(visitor) = &self.visitor else { return Ok(is_quiet) };
        if is_quiet && visitor.policy.min == 0 && !insists {
            return Ok(true);
        }
        let time = self.works.settings.stay.saturating_sub(self.began.elapsed()).max(LEAST_TIME);
        let room = room(*left, time);
        if room.trips < 2 {
            return Ok(is_quiet);
        }
        let (_, end, trips) = visitor.visit(&[], room).await?;
        left.0 = left.0.saturating_sub(trips);
        Ok(is_quiet && end != End::NoRoom)
    }
}
