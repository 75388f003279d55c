//! Where certificates are: in a value, or in a file.

use std::path::PathBuf;

/// Certificates in PEM format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// The certificates themselves.
    Pem(String),
    /// A file that contains them.
    File(PathBuf),
}
