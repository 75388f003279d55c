//! What a user would say of tcoder, one file a capability, on the real parts: redis-server, FFmpeg,
//! an S3 server, the binary itself. One test binary, so that it links once and shares its servers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod queue;
mod support;
