//! Fly Machines: the client of their API, the limit on calling it, and an emulator of it.

pub mod machine;

pub use machine::{
    Guest, HostStatus, Machine, MachineConfig, MachineEvent, MachineId, MachineState, Restart, StopConfig,
};
