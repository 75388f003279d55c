//! Objects in R2 and S3: their keys ([`layout`]), presigned addresses ([`presign`]), transfers ([`Storage`]),
//! downloads of inputs from elsewhere ([`fetch`]), and object-created events ([`event`]).
//!
//! This module does not know what a job does with objects, and does not contain the S3 server of `tcoder up`.
//! `layout`, `presign`, [`urls`], [`media`] and `event` are pure. The Worker reads the buckets through their bindings
//! and transfers no objects.

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
pub use download::{DownloadLimits, Progress};
#[cfg(target_arch = "wasm32")]
pub use edge::Storage;
pub use error::{CheckError, StorageError};

/// The metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The size in bytes.
    pub size: u64,
    /// The entity tag, without quotes.
    pub etag: Option<String>,
}

/// Maximum size of an object that S3 accepts in parts, bytes.
pub const MAX_OBJECT_BYTES: u64 = 5 << 40;

/// One of the two buckets of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// The bucket for uploads.
    Input,
    /// The bucket for results.
    Output,
}
