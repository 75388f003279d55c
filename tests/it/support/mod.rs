//! What the tests share: servers, clips, and small helpers.

pub mod clips;
