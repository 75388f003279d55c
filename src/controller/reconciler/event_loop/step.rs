//! Carries one step out: the shared limit, the lock, Redis where workers are told to leave, and the provider.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{HOLD, Next, RENEW, Reconciler};
use crate::controller::fleet::{
    FleetPolicy, ListUnavailable, MachineList, MachineProvider, Operation, Outcome, PlannedOperation,
    ProviderError, ProviderFailure, carry_out,
};
use crate::controller::reconciler::apply;
use crate::queue::{FencingToken, LockOutcome, Permit, QueueError, RequestClass};

/// How long a place in the line for requests is kept.
const BUDGET: Duration = Duration::from_secs(20);
/// Until another look at a machine that could not be told to leave.
const RECOVER: Duration = Duration::from_secs(1);
/// Leases looked at then.
const LEASES: u32 = 100;

impl<P: MachineProvider> Reconciler<P> {
    /// Asks the provider for its machines.
    pub(super) async fn list(&mut self, fence: &FencingToken) -> Result<Next, QueueError> {
        if let Some(wait) = self.slot(RequestClass::List).await? {
            return Ok(Next::Wait(Some(wait)));
        }
        let (asked, began) = (self.now(), Instant::now());
        let answer = self.holding(fence, self.parts.provider.list()).await;
        let said = answer.as_ref().err().map(ProviderError::outcome);
        self.note_call("list", said.as_ref().map_or("done", Outcome::word), began);
        self.seen.machines = match answer {
            Ok(machines) => {
                tracing::debug!(machines = machines.len(), "listed");
                self.made.clear();
                Ok(MachineList { at: asked, machines })
            }
            Err(error) => {
                self.heed(&error).await;
                tracing::debug!(%error, "no list");
                Err(ListUnavailable { why: error.list_failure(), at: self.now() })
            }
        };
        Ok(Next::Now)
    }

    /// Takes a step of the plan.
    pub(super) async fn step(
        &mut self,
        fence: &FencingToken,
        action: &PlannedOperation,
        policy: &FleetPolicy,
    ) -> Result<Next, QueueError> {
        let sent_at = self.now();
        let outcome = match &action.act {
            Operation::Retire { machine, workers } => {
                apply::retire(&self.parts.queue, fence, machine, workers).await?
            }
            act => {
                if let Operation::Stop { machine } | Operation::Destroy { machine, .. } = act
                    && let outcome @ (Outcome::Refused | Outcome::Fenced) = apply::retire(
                        &self.parts.queue,
                        fence,
                        machine,
                        &apply::workers_of(&self.seen, machine),
                    )
                    .await?
                {
                    return self.note(action, &outcome, policy, sent_at).await;
                }
                if let Some(wait) = self.slot(apply::priority(act)).await? {
                    return Ok(Next::Wait(Some(wait)));
                }
                // The last look before the write.
                match self.parts.queue.acquire_fleet_lock(&fence.holder, HOLD, false, false).await? {
                    LockOutcome::Mine(now) if now == *fence => self.ask(fence, act, policy).await?,
                    _ => Outcome::Fenced,
                }
            }
        };
        self.note(action, &outcome, policy, sent_at).await
    }

    async fn note(
        &mut self,
        action: &PlannedOperation,
        outcome: &Outcome,
        policy: &FleetPolicy,
        sent_at: Duration,
    ) -> Result<Next, QueueError> {
        let (kind, how) = (action.act.kind(), outcome.word());
        let machine = match (&action.act, outcome) {
            (Operation::Create { name, .. }, Outcome::Done(Some(id))) => format!("{name} ({id})"),
            (Operation::Create { name, .. }, _) => name.clone(),
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

    async fn ask(
        &mut self,
        fence: &FencingToken,
        act: &Operation,
        policy: &FleetPolicy,
    ) -> Result<Outcome, QueueError> {
        if let Operation::Start { machine } = act {
            self.parts.queue.readmit_machine(&machine.0).await?;
        }
        let began = Instant::now();
        let answer =
            self.holding(fence, carry_out(&self.parts.provider, act, policy, &self.parts.environment)).await;
        let outcome = match answer {
            Ok(made) => {
                let id = made.as_ref().map(|machine| machine.id.clone());
                self.made.extend(made.map(|machine| (machine.id.clone(), machine)));
                Outcome::Done(id)
            }
            Err(error) => {
                tracing::warn!(action = act.kind(), %error, "operation on a machine failed");
                self.heed(&error).await;
                error.outcome()
            }
        };
        self.note_call(act.kind(), outcome.word(), began);
        Ok(outcome)
    }

    /// The provider said that there are too many requests: everybody waits.
    async fn heed(&self, error: &ProviderError) {
        let ProviderFailure::RateLimited { retry_after } = &error.failure else { return };
        self.parts.metrics.provider_throttled();
        if let Err(error) = self.parts.queue.report_throttled(self.parts.rate, *retry_after).await {
            tracing::warn!(%error, "could not record that the provider throttled a request; other processes are not slowed down");
        }
    }

    fn note_call(&self, action: &'static str, outcome: &'static str, began: Instant) {
        self.parts.metrics.provider_call(action, outcome, began.elapsed());
    }

    /// Whether the provider may be asked now; else for how long not.
    async fn slot(&self, priority: RequestClass) -> Result<Option<Duration>, QueueError> {
        Ok(match self.parts.queue.acquire_permit(self.parts.rate, priority, BUDGET).await? {
            Permit::Go { .. } => None,
            Permit::Wait(wait) => Some(wait),
        })
    }

    /// Keeps the right to act while a request is under way.
    async fn holding<T>(&self, fence: &FencingToken, request: impl Future<Output = T>) -> T {
        let mut request = std::pin::pin!(request);
        loop {
            tokio::select! {
                done = &mut request => return done,
                () = sleep(RENEW) => {
                    if let Err(error) = self.parts.queue.acquire_fleet_lock(&fence.holder, HOLD, false, false).await {
                        tracing::debug!(%error, "could not renew the right to act");
                    }
                }
            }
        }
    }
}
