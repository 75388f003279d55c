//! A step of the plan -> a request to a provider.

use std::collections::BTreeMap;

use super::machine::{Launch, Machine};
use super::operation::Operation;
use super::policy::FleetPolicy;
use super::provider::{MachineOrder, MachineProvider, ProviderError};

/// Asks a provider for a step; answers the machine that was made, where one was. Costs a request, but for a
/// retire, which is none of the provider's business.
///
/// # Errors
/// Why it was not done.
pub async fn carry_out<P: MachineProvider>(
    provider: &P,
    act: &Operation,
    policy: &FleetPolicy,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Machine>, ProviderError> {
    match act {
        Operation::Create { slot, name, region, size } => {
            let launch = Launch::of(policy, *slot);
            let environment = launch.environment(*size, policy, environment);
            let order = MachineOrder { name, region, size: *size, launch, environment };
            provider.create(&order).await.map(Some)
        }
        Operation::Start { machine } => provider.start(machine).await.map(|()| None),
        Operation::Stop { machine } => provider.stop(machine).await.map(|()| None),
        Operation::Destroy { machine, force } => provider.destroy(machine, *force).await.map(|()| None),
        Operation::Retire { .. } => Ok(None),
    }
}
