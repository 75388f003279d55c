//! The fleet of worker machines: how many there should be, and the next steps towards that.
//!
//! What lives here: decisions only, as functions of plain values. Nothing here reads a clock, calls
//! a provider, or knows Redis, Kubernetes or any provider by name. The shell around it observes, lets [`FleetState::observe`] take note, asks [`plan`],
//! carries out the first action, tells [`FleetState::record`] how it ended, and plans anew.
//!
//! | part | what it does |
//! |---|---|
//! | `policy` | what the operator wants, from the environment |
//! | `machine` | a machine as its provider lists it |
//! | `provider` | the trait of a machine provider, and what its answers mean to the plan |
//! | `price` | money |
//! | `size` | the sizes that machines may have |
//! | `slot` | the names machines get |
//! | `launch` | how the machine of a slot is made |
//! | `operation` | a step, and how it ended |
//! | `condition` | what a person should know |
//! | `capacity` | what fleets that take from the same queue say to each other |
//! | `observation` | what was seen of the machines and of the queue |
//! | `state` | what must be remembered between two looks |
//! | `observe` | how memory takes in a list of machines and the pool |
//! | `classify` | a machine and its worker -> what it is to us |
//! | `limits` | what limits the machines that can be started or created |
//! | `share` | how what waits is divided among several fleets |
//! | `desired` | how many machines are wanted, of which sizes, and how many are allowed |
//! | `plan` | the next steps, each with its reason |
//! | `planner` | a plan in the making |
//! | `repair` | the steps for machines that went astray or are no longer wanted |
//! | `carry_out` | a step -> a request to a provider |

mod capacity;
mod carry_out;
mod classify;
mod condition;
mod desired;
mod launch;
mod limits;
mod machine;
mod observation;
mod observe;
mod operation;
mod plan;
mod planner;
mod policy;
mod price;
mod provider;
mod repair;
mod share;
mod size;
mod slot;
mod state;

#[cfg(test)]
mod tests;

pub use capacity::{FleetCapacity, OtherFleets};
pub use carry_out::carry_out;
pub use classify::{MachineRole, MachineView};
pub use condition::Condition;
pub use launch::{CLASSES, IDLE_TIMEOUT, MAX_INPUT_BYTES};
pub use machine::{Exit, Launch, Machine, MachineDisk, MachineId, Phase, Start};
pub use observation::{
    ListFailure, ListUnavailable, MachineList, Moment, Observation, QueueView, WorkerView,
};
pub use operation::{Operation, Outcome, PlannedOperation};
pub use plan::{Plan, plan};
pub use policy::{ANY_REGION, Deadlines, FleetPolicy};
pub use price::{MachinePrice, MicroDollars};
pub use provider::{
    Capabilities, MachineOrder, MachineProvider, ProviderError, ProviderFailure, ProviderWords,
};
pub use size::{MachineSize, Sizes, SizesError};
pub use slot::Slot;
pub use state::FleetState;
