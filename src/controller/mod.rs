//! Controllers: what is wished for against what there is.
//!
//! What lives here: the fleet's plan (`fleet`, pure) and the loop that carries it out (`reconciler`). What
//! does not: how Fly (`flyprovider`) or Redis (`queue`) is spoken to.

#[cfg(not(target_arch = "wasm32"))]
mod conditions;
#[cfg(not(target_arch = "wasm32"))]
mod election;
pub mod fleet;
#[cfg(not(target_arch = "wasm32"))]
mod mirror;
#[cfg(not(target_arch = "wasm32"))]
pub mod operator;
#[cfg(not(target_arch = "wasm32"))]
pub mod reconciler;
#[cfg(not(target_arch = "wasm32"))]
mod secrets;
#[cfg(not(target_arch = "wasm32"))]
mod transcode_job;
#[cfg(not(target_arch = "wasm32"))]
mod worker_pool;
