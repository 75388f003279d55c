//! Objects in R2/S3: where they lie ([`layout`]), addresses to put and get them ([`presign`]), moving
//! them ([`Storage`]), fetching an input from elsewhere ([`fetch`]), and the events that tell of new
//! ones ([`event`]).
//!
//! Not here: what a job does with them, and the S3 server of `tcoder up`. `layout`, `presign`, [`urls`],
//! [`media`] and `event` are pure. At the edge the buckets are read through their bindings, and nothing is moved.

#[cfg(not(target_arch = "wasm32"))]
mod client;
mod content_type;
#[cfg(not(target_arch = "wasm32"))]
mod download;
#[cfg(target_arch = "wasm32")]
mod edge;
mod error;
pub mod event;
#[cfg(not(target_arch = "wasm32"))]
pub mod fetch;
pub mod layout;
pub mod media;
#[cfg(not(target_arch = "wasm32"))]
mod objects;
pub mod presign;
#[cfg(not(target_arch = "wasm32"))]
mod span;
pub mod urls;

#[cfg(not(target_arch = "wasm32"))]
pub use client::{Listing, PutOutcome, Storage};
pub use content_type::{content_type, refers_to_others};
#[cfg(not(target_arch = "wasm32"))]
pub use download::{Limits, Progress};
#[cfg(target_arch = "wasm32")]
pub use edge::Storage;
pub use error::{CheckError, StorageError};

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// Its entity tag, without quotes.
    pub etag: Option<String>,
}

/// One of the two buckets of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// Where uploads go.
    Input,
    /// Where results go.
    Output,
}
