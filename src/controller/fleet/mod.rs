//! The fleet of worker machines: how many there should be, and the next steps towards that.
//!
//! What lives here: decisions only, as functions of plain values. Nothing here reads a clock, calls
//! Fly or knows Redis. The shell around it observes, lets [`FleetState::observe`] take note, asks [`plan`],
//! carries out the first action, tells [`FleetState::record`] how it ended, and plans anew.
//!
//! | part | what it does |
//! |---|---|
//! | `policy` | what the operator wants, from the environment |
//! | `price` | what a machine costs |
//! | `disk` | the disk of a machine, and the largest input that fits on it |
//! | `slot` | the names machines get |
//! | `observation` | what was seen of Fly and of the queue |
//! | `state` | what must be remembered between two looks |
//! | `observe` | how memory takes in a list of machines and the pool |
//! | `launches` | what Fly's events say of a machine's launch |
//! | `classify` | a machine and its worker -> what it is to us |
//! | `desired` | how many machines are wanted, and how many are allowed |
//! | `plan` | the next steps, each with its reason |
//! | `repair` | the steps for machines that went astray or are no longer wanted |
//! | `simulation` | a world in virtual time, for tests and figures; native only |

mod classify;
mod desired;
mod disk;
mod launches;
mod observation;
mod observe;
mod operation;
mod plan;
mod policy;
mod price;
mod repair;
#[cfg(not(target_arch = "wasm32"))]
pub mod simulation;
mod slot;
mod state;

#[cfg(test)]
mod tests;

pub use classify::{MachinePhase, MachineView};
pub use desired::Desired;
pub use disk::MachineDisk;
pub use observation::{
    ListFailure, ListUnavailable, MachineList, Moment, Observation, QueueView, WorkerView,
};
pub use operation::{Condition, Operation, Outcome, Plan, PlannedOperation};
pub use plan::plan;
pub use policy::{Deadlines, FleetPolicy};
pub use price::MicroDollars;
pub use slot::{Slot, launch_config};
pub use state::FleetState;
