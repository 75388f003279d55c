//! What a user would say of tcoder, one file a capability, on the real parts: redis-server, FFmpeg,
//! an S3 server, the binary itself. One test binary, so that it links once and shares its servers.
#![allow(missing_docs)]

mod media;
mod media_process;
mod media_refused;
mod support;
