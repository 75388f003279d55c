//! Fly Machines: the client of their API, the limit on calling it, and an emulator of it.
//!
//! What lives here: what a machine is, how one is asked for, what an answer means. What does not: which
//! machines there should be.

mod client;
pub mod emulator;
mod error;
mod limit;
pub mod machine;

pub use client::{CreateMachine, Fly, ListFilter, Waited};
pub use error::{Answer, FlyError, Kind, Scope, classify, retry_after};
pub use limit::Limit;
pub use machine::{
    ExitEvent, Guest, HostStatus, Machine, MachineConfig, MachineEvent, MachineId, MachineState, Restart,
    StopConfig,
};
