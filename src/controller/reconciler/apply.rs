//! Performs the effects that are the same for all hosts of the driver.

use std::collections::BTreeMap;

use super::driver::Driver;
use super::effect::{Effect, EffectResult};
use super::{LEASES, PERMIT_BUDGET, REFUSAL};
use crate::controller::fleet::{MachineProvider, carry_out};
use crate::queue::{Queue, QueueError, RequestRate, RetireOutcome};

/// What an effect is performed on.
pub(crate) struct Targets<'a, P> {
    pub queue: &'a Queue,
    pub provider: &'a P,
    pub environment: &'a BTreeMap<String, String>,
    pub rate: RequestRate,
}

/// Performs an effect of this driver. The host itself handles views, the lock, the status and pauses.
pub(crate) async fn apply<P: MachineProvider>(
    effect: Effect,
    driver: &Driver,
    targets: &Targets<'_, P>,
) -> Result<EffectResult, QueueError> {
    let Targets { queue, provider, environment, rate } = targets;
    Ok(match effect {
        Effect::AcquirePermit(class) => {
            EffectResult::Permit(queue.acquire_permit(*rate, class, PERMIT_BUDGET).await?)
        }
        Effect::Retire { machine, workers } => EffectResult::Retired(match driver.fence() {
            Some(fence) => queue.retire(fence, &machine.0, &workers, REFUSAL).await?,
            None => RetireOutcome::Fenced,
        }),
        Effect::Readmit(machine) => {
            queue.readmit_machine(&machine.0).await?;
            EffectResult::Done
        }
        Effect::List => EffectResult::Listed(provider.list().await),
        Effect::Call(operation) => {
            EffectResult::Called(carry_out(*provider, &operation, driver.policy(), environment).await)
        }
        Effect::ReportThrottled(retry_after) => {
            if let Err(error) = queue.report_throttled(*rate, retry_after).await {
                tracing::warn!(%error, "could not record that the provider throttled a request; other processes are not slowed down");
            }
            EffectResult::Done
        }
        Effect::Sweep => {
            queue.sweep(LEASES, 0).await?;
            EffectResult::Done
        }
        Effect::Observe
        | Effect::AcquireLock { .. }
        | Effect::CheckLock
        | Effect::Publish(_)
        | Effect::Wait { .. } => EffectResult::Done,
    })
}
