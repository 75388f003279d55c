//! Carries one step out: the shared limit, the lock, Redis where workers are told to leave, and Fly.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{HOLD, Next, RENEW, Reconciler};
use crate::controller::fleet::{Act, Action, FleetPolicy, Listed, NoList, Outcome};
use crate::controller::reconciler::carry;
use crate::controller::reconciler::outcome::{list_failure_of, outcome_of, word};
use crate::flyprovider::{FlyError, ListFilter};
use crate::queue::{Fence, FlyPriority, FlySlot, Hold, QueueError};

/// How long a place in the line for Fly is kept.
const BUDGET: Duration = Duration::from_secs(20);
/// Until another look at a machine that could not be told to leave.
const RECOVER: Duration = Duration::from_secs(1);
/// Leases looked at then.
const LEASES: u32 = 100;

impl Reconciler {
    /// Asks Fly for its machines.
    pub(super) async fn list(&mut self, fence: &Fence) -> Result<Next, QueueError> {
        if let Some(wait) = self.slot(FlyPriority::List).await? {
            return Ok(Next::Wait(Some(wait)));
        }
        let (asked, began) = (self.now(), Instant::now());
        let answer = self.holding(fence, self.parts.fly.list(&ListFilter::default())).await;
        let said = answer.as_ref().err().map(outcome_of);
        self.note_call("list", said.as_ref().map_or("done", word), began);
        self.seen.machines = match answer {
            Ok(machines) => {
                tracing::debug!(machines = machines.len(), "listed");
                self.made.clear();
                Ok(Listed { at: asked, machines })
            }
            Err(error) => {
                self.heed(&error).await;
                tracing::debug!(%error, "no list");
                Err(NoList { why: list_failure_of(&error), at: self.now() })
            }
        };
        Ok(Next::Now)
    }

    /// Takes a step of the plan.
    pub(super) async fn step(
        &mut self,
        fence: &Fence,
        action: &Action,
        policy: &FleetPolicy,
    ) -> Result<Next, QueueError> {
        let sent_at = self.now();
        let outcome = match &action.act {
            Act::Retire { machine, workers } => {
                carry::retire(&self.parts.queue, fence, machine, workers).await?
            }
            act => {
                if let Act::Stop { machine } | Act::Destroy { machine, .. } = act
                    && let outcome @ (Outcome::Refused | Outcome::Fenced) = carry::retire(
                        &self.parts.queue,
                        fence,
                        machine,
                        &carry::workers_of(&self.seen, machine),
                    )
                    .await?
                {
                    return self.note(action, &outcome, policy, sent_at).await;
                }
                if let Some(wait) = self.slot(carry::priority(act)).await? {
                    return Ok(Next::Wait(Some(wait)));
                }
                // The last look before the write.
                match self.parts.queue.fleet_hold(&fence.holder, HOLD, false, false).await? {
                    Hold::Mine(now) if now == *fence => self.ask(fence, act, policy).await?,
                    _ => Outcome::Fenced,
                }
            }
        };
        self.note(action, &outcome, policy, sent_at).await
    }

    async fn note(
        &mut self,
        action: &Action,
        outcome: &Outcome,
        policy: &FleetPolicy,
        sent_at: Duration,
    ) -> Result<Next, QueueError> {
        let (kind, how) = (action.act.kind(), word(outcome));
        let machine = match (&action.act, outcome) {
            (Act::Create { name, .. }, Outcome::Done(Some(id))) => format!("{name} ({id})"),
            (Act::Create { name, .. }, _) => name.clone(),
            (act, _) => act.machine().map(ToString::to_string).unwrap_or_default(),
        };
        if matches!(outcome, Outcome::Done(_)) {
            tracing::info!(action = kind, machine, reason = action.reason, "done");
        } else {
            tracing::warn!(action = kind, machine, outcome = how, reason = action.reason, "not done");
        }
        self.parts.metrics.fleet_action(kind, how);
        let now = self.now();
        self.memory.record(action, outcome, policy, sent_at, now);
        if *outcome != Outcome::Refused {
            return Ok(Next::Now);
        }
        // What keeps it busy may be a lease that ran out, and nobody else may be there to reap it.
        self.parts.queue.sweep(LEASES).await?;
        Ok(Next::Wait(Some(RECOVER)))
    }

    async fn ask(&mut self, fence: &Fence, act: &Act, policy: &FleetPolicy) -> Result<Outcome, QueueError> {
        let fly = &self.parts.fly;
        if let Act::Start { machine } = act {
            self.parts.queue.welcome(&machine.0).await?;
        }
        let began = Instant::now();
        let answer = self.holding(fence, carry::ask(fly, act, policy, &self.parts.environment)).await;
        let outcome = match answer {
            Ok(made) => {
                let id = made.as_ref().map(|machine| machine.id.clone());
                self.made.extend(made.map(|machine| (machine.id.clone(), machine)));
                Outcome::Done(id)
            }
            Err(error) => {
                tracing::warn!(action = act.kind(), %error, "Fly did not do it");
                self.heed(&error).await;
                outcome_of(&error)
            }
        };
        self.note_call(act.kind(), word(&outcome), began);
        Ok(outcome)
    }

    /// Fly said that there are too many requests: everybody waits.
    async fn heed(&self, error: &FlyError) {
        let FlyError::RateLimited { retry_after } = error else { return };
        self.parts.metrics.fly_rate_limited();
        if let Err(error) = self.parts.limit.penalty(*retry_after).await {
            tracing::warn!(%error, "the others could not be told that Fly wants fewer requests");
        }
    }

    fn note_call(&self, action: &'static str, outcome: &'static str, began: Instant) {
        self.parts.metrics.fly_call(action, outcome, began.elapsed());
    }

    /// Whether Fly may be asked now; else for how long not.
    async fn slot(&self, priority: FlyPriority) -> Result<Option<Duration>, QueueError> {
        Ok(match self.parts.limit.slot(priority, BUDGET).await? {
            FlySlot::Go { .. } => None,
            FlySlot::Wait(wait) => Some(wait),
        })
    }

    /// Keeps the right to act while a request is under way.
    async fn holding<T>(&self, fence: &Fence, request: impl Future<Output = T>) -> T {
        let mut request = std::pin::pin!(request);
        loop {
            tokio::select! {
                done = &mut request => return done,
                () = sleep(RENEW) => {
                    if let Err(error) = self.parts.queue.fleet_hold(&fence.holder, HOLD, false, false).await {
                        tracing::debug!(%error, "could not renew the right to act");
                    }
                }
            }
        }
    }
}
