//! What the tests share: servers, clips, and small helpers.

pub mod clips;
pub mod command_count;
pub mod edge;
pub mod kube;
pub mod objects;
pub mod redis;
pub mod system;
pub mod upstash;
