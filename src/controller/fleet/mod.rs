//! The fleet of worker machines: how many there should be, and the next steps towards that.
//!
//! All decisions are functions of plain values. The module reads no clock, calls no provider, and knows
//! neither Redis nor Kubernetes nor any provider by name. The caller observes, passes the result to
//! [`FleetState::observe`], calls [`plan`], carries out the first operation, reports its outcome to
//! [`FleetState::record`], and plans again.
//!
//! | part | what it does |
//! |---|---|
//! | `policy` | the configuration of the fleet, from the environment |
//! | `machine` | a machine as its provider lists it |
//! | `provider` | the trait of a machine provider, and how its errors affect the plan |
//! | `price` | prices and costs |
//! | `launch` | names and launch configurations of machines |
//! | `observation` | the observed state of the machines and of the queue |
//! | `state` | what is remembered between two observations |
//! | `observe` | updates the state from a list of machines and the worker pool |
//! | `classify` | determines the role of each machine |
//! | `desired` | computes the desired and the permitted number of machines |
//! | `plan` | the next steps, each with its reason |
//! | `repair` | operations for machines that are broken or no longer needed |
//! | `simulation` | a simulated fleet in virtual time, for tests and figures; native only |

mod classify;
mod desired;
mod launch;
mod machine;
mod observation;
mod observe;
mod operation;
mod plan;
mod policy;
mod price;
mod provider;
mod repair;
#[cfg(not(target_arch = "wasm32"))]
pub mod simulation;
mod state;

#[cfg(test)]
mod tests;

pub use classify::{MachineRole, MachineView};
pub use desired::Desired;
pub use launch::{IDLE_TIMEOUT, Launch, MAX_INPUT_BYTES, Slot};
pub use machine::{Exit, Machine, MachineDisk, MachineId, MachineSize, Phase, Start};
pub use observation::{
    ListFailure, ListUnavailable, MachineList, Moment, Observation, QueueView, WorkerView,
};
pub use operation::{Condition, Operation, Outcome, Plan, PlannedOperation};
pub use plan::plan;
pub use policy::{ANY_REGION, Deadlines, FleetPolicy};
pub use price::MicroDollars;
pub use provider::{
    Capabilities, MachineOrder, MachineProvider, ProviderError, ProviderFailure, ProviderWords, carry_out,
};
pub use state::FleetState;
