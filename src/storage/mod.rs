//! Objects in R2/S3: where they lie ([`layout`]), addresses to put and get them ([`presign`]), moving
//! them ([`Storage`]), fetching an input from elsewhere ([`fetch`]), and the events that tell of new
//! ones ([`event`]).
//!
//! Not here: what a job does with them, and the S3 server of `tcoder up`. `layout`, `presign`, [`links`]
//! and `event` are pure and compile for the edge; the rest needs sockets and files.

#[cfg(not(target_arch = "wasm32"))]
mod client;
#[cfg(not(target_arch = "wasm32"))]
mod error;
pub mod event;
#[cfg(not(target_arch = "wasm32"))]
pub mod fetch;
pub mod layout;
pub mod links;
pub mod presign;
#[cfg(not(target_arch = "wasm32"))]
mod save;
#[cfg(not(target_arch = "wasm32"))]
mod transfer;

#[cfg(not(target_arch = "wasm32"))]
pub use client::{Listing, ObjectInfo, Put, Storage};
#[cfg(not(target_arch = "wasm32"))]
pub use error::{CheckError, StorageError};
#[cfg(not(target_arch = "wasm32"))]
pub use save::Progress;
#[cfg(not(target_arch = "wasm32"))]
pub use transfer::content_type;

/// One of the two buckets of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// Where uploads go.
    Input,
    /// Where results go.
    Output,
}
