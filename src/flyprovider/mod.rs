//! Fly Machines: the provider of the fleet's machines, with the client of their API and an emulator of it.
//!
//! This module defines what a machine of Fly is, how it is created, and what responses mean. How many
//! machines there should be is decided elsewhere. Only the client is available in the Worker; its differences
//! are in `edge` and `native`.

mod client;
mod disk;
mod error;
mod events;
#[cfg(all(any(test, feature = "fuzzing"), not(target_arch = "wasm32")))]
pub(crate) mod fuzz;
pub mod guest;
pub mod machine;
pub mod policy;
mod price;
mod provider;

#[cfg(not(target_arch = "wasm32"))]
pub mod emulator;
#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(not(target_arch = "wasm32"))]
use native as host;

#[cfg(target_arch = "wasm32")]
mod edge;
#[cfg(target_arch = "wasm32")]
use edge as host;

pub use client::{CreateMachine, Fly, StopSignal};
pub use error::{CapacityScope, FlyError};
pub use guest::{CpuKind, Guest, GuestError};
pub use machine::{
    ExitEvent, FlyMachine, HostStatus, MachineConfig, MachineEvent, MachineState, ROOTFS_MAX_GB, Restart,
    Rootfs, StopConfig,
};

pub use crate::controller::fleet::MachineId;
