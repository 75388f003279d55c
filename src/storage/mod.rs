//! Objects in R2/S3: where they lie ([`layout`]), addresses to put and get them ([`presign`]), moving
//! them ([`Storage`]), fetching an input from elsewhere ([`fetch`]), and the events that tell of new
//! ones ([`event`]).
//!
//! Not here: what a job does with them, and the S3 server of `tcoder up`. `layout`, `presign` and
//! `event` are pure; the rest needs sockets and files.

mod client;
mod error;
pub mod event;
pub mod fetch;
pub mod layout;
pub mod links;
pub mod presign;
mod save;
mod transfer;

pub use client::{Listing, ObjectInfo, Put, Storage};
pub use error::{CheckError, StorageError};
pub use save::Progress;
pub use transfer::content_type;

/// One of the two buckets of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// Where uploads go.
    Input,
    /// Where results go.
    Output,
}
