//! The whole system on one machine. Each part is the very one that runs in production, or, where
//! production is somebody else's service, a server that speaks the same protocol.

pub mod objects;
