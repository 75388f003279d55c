//! Why the store cannot be opened.

use std::io;

use s3s::S3Error;

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Folder(#[from] io::Error),
    #[error("cannot open its index: {0}; if it is damaged, move the folder away and start with an empty one")]
    Index(#[from] redb::Error),
    #[error("cannot read its index: {0}")]
    Read(S3Error),
}
