//! The plan, tried.

mod simulated;
