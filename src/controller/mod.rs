//! Controllers: what is wished for against what there is.
//!
//! What lives here: the fleet's plan (`fleet`, pure) and the loop that carries it out (`reconciler`). What
//! does not: how Fly (`flyprovider`) or Redis (`queue`) is spoken to.

pub mod fleet;
#[cfg(not(target_arch = "wasm32"))]
pub mod reconciler;
