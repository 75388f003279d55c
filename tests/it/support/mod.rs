//! What the tests share: servers, clips, and small helpers.

pub mod command_count;
pub mod redis;
pub mod system;
