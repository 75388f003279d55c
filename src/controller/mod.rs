//! Controllers: what is wished for against what there is.
//!
//! What lives here: the fleet's plan. What does not: talking to Fly (`flyprovider`) or Redis (`queue`).

pub mod fleet;
