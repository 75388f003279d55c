//! Objects in R2 and S3: their keys ([`layout`]), presigned addresses ([`presign`]), transfers ([`Storage`]),
//! downloads of inputs from elsewhere ([`fetch`]), reading of inputs by byte ranges ([`range`]), and object-created
//! events ([`event`]).
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
#[cfg(all(any(test, feature = "fuzzing"), not(target_arch = "wasm32")))]
pub(crate) mod fuzz;
pub mod layout;
pub mod media;
#[cfg(not(target_arch = "wasm32"))]
mod objects;
pub mod presign;
#[cfg(not(target_arch = "wasm32"))]
pub mod range;
#[cfg(not(target_arch = "wasm32"))]
mod removal;
#[cfg(not(target_arch = "wasm32"))]
mod span;
pub mod urls;

#[cfg(not(target_arch = "wasm32"))]
pub use client::{Listing, Storage};
pub use content_type::{InvalidMediaType, MediaType, content_type, refers_to_others};
#[cfg(not(target_arch = "wasm32"))]
pub use download::{DownloadLimits, Progress};
#[cfg(target_arch = "wasm32")]
pub use edge::Storage;
pub use error::{CheckError, StorageError};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use objects::key_below;

/// The metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The size in bytes.
    pub size: u64,
    /// The entity tag, without quotes.
    pub etag: Option<String>,
}

/// A small object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallObject {
    /// What it contains.
    pub bytes: Vec<u8>,
    /// The entity tag, without quotes.
    pub etag: Option<String>,
    /// How long it may be cached, as it was written.
    pub cache_control: Option<String>,
}

/// `Cache-Control` of an object that is replaced later. Caches ask whether it was.
pub const CHANGING: &str = "no-cache";

/// The headers with which an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeaders<'a> {
    /// `Content-Type`.
    pub content_type: &'a str,
    /// `Cache-Control`.
    pub cache_control: Option<&'a str>,
}

impl<'a> From<&'a str> for ContentHeaders<'a> {
    fn from(content_type: &'a str) -> Self {
        Self { content_type, cache_control: None }
    }
}

/// When an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutCondition<'a> {
    /// Only if no object has the key.
    Absent,
    /// Only if the object has this entity tag still.
    Unchanged(&'a str),
}

/// The outcome of a conditional write. Exactly one of several concurrent ones with the same condition writes the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object was written.
    Written,
    /// The condition did not hold, and nothing was changed. The object that stands may be our own, written by an attempt
    /// whose response was lost: compare its contents.
    ConditionFailed,
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
