//! Fly Machines: the provider of the fleet's machines, with the client of their API and an emulator of it.
//!
//! What lives here: what a machine is, how one is asked for, what an answer means. What does not: which
//! machines there should be. At the edge there is the client; how it differs there stands in `edge`, against
//! `native`.

mod client;
mod disk;
mod error;
mod events;
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
pub use error::{FlyError, Scope};
pub use guest::{CpuKind, Guest, GuestError};
pub use machine::{
    ExitEvent, HostStatus, Machine, MachineConfig, MachineEvent, MachineState, ROOTFS_MAX_GB, Restart,
    Rootfs, StopConfig,
};

pub use crate::controller::fleet::MachineId;
