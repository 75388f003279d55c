//! The errors of object storage, classified by how to react to them.

#[cfg(not(target_arch = "wasm32"))]
use std::error::Error as StdError;
use std::io;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;
use std::path::PathBuf;

#[cfg(not(target_arch = "wasm32"))]
use aws_sdk_s3::config::http::HttpResponse;
#[cfg(not(target_arch = "wasm32"))]
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::job::space::DiskFull;
use crate::job::{Failure, FailureCode, InvalidKey};
use crate::net;

/// An object could not be transferred.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The object, or the file at an address, does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// The object or address.
        what: String,
    },
    /// The bucket does not exist.
    #[error("the bucket of {what} does not exist; check R2_INPUT_BUCKET_NAME and R2_OUTPUT_BUCKET_NAME")]
    NoBucket {
        /// The object or address.
        what: String,
    },
    /// The object, or the file at an address, is no longer the one whose reading began.
    #[error("{what} was replaced while it was read")]
    Replaced {
        /// The object or address.
        what: String,
    },
    /// The object is no longer the one that the job is about.
    #[error("the input was replaced after the job was queued; submit a job for the new file")]
    OtherVersion,
    /// The access key was rejected.
    #[error(
        "object storage denied access to {what} ({code}); \
         check R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY and what the token may do"
    )]
    Denied {
        /// The object or address.
        what: String,
        /// The server's error code.
        code: String,
    },
    /// The object has more bytes than permitted.
    #[error(
        "the input is larger than the {limit} bytes this installation accepts; send a smaller file, or have \
         WORKER_MAX_INPUT_BYTES raised"
    )]
    TooLarge {
        /// The maximum number of bytes.
        limit: u64,
    },
    /// The transfer was cancelled.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// The file on this machine could not be read or written.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Disk {
        /// `read` or `write`.
        doing: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The disk of this machine has no space for the input and the outputs.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// Object storage did not answer, or asked to retry later.
    #[error("object storage could not serve {what}: {why}; the request is retried")]
    Unavailable {
        /// The object or address.
        what: String,
        /// The reason.
        why: String,
    },
    /// Object storage refuses the request; a retry does not help.
    #[error("object storage refused {what}: {why}")]
    Refused {
        /// The object or address.
        what: String,
        /// The server's explanation.
        why: String,
    },
    /// The name is not valid for an object.
    #[error("{name:?} cannot be an object's name: {source}")]
    Key {
        /// The name.
        name: String,
        /// Why it is not valid.
        source: InvalidKey,
    },
    /// The address of an input was refused.
    #[error(transparent)]
    Address(#[from] net::UrlRefused),
    /// The host of an input did not provide it.
    #[error("{host} did not provide the input: {why}")]
    Unreachable {
        /// The host.
        host: String,
        /// The reason.
        why: String,
        /// Whether a retry may help.
        passing: bool,
    },
}

impl StorageError {
    /// Whether a retry may succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Unreachable { passing: true, .. })
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { doing, path, source }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let code = match &error {
            StorageError::NotFound { .. } | StorageError::OtherVersion => FailureCode::InputNotFound,
            StorageError::TooLarge { .. } => FailureCode::InputTooLarge,
            StorageError::DiskFull(full) => return (*full).into(),
            StorageError::Address(_) | StorageError::Unreachable { passing: false, .. } => {
                FailureCode::InputRefused
            }
            StorageError::Unreachable { .. } | StorageError::Replaced { .. } => FailureCode::InputUnreachable,
            StorageError::Cancelled | StorageError::Disk { .. } | StorageError::Key { .. } => {
                FailureCode::Worker
            }
            StorageError::NoBucket { .. }
            | StorageError::Denied { .. }
            | StorageError::Unavailable { .. }
            | StorageError::Refused { .. } => FailureCode::Storage,
        };
        // The path on the worker is of no use to users.
        let message = match &error {
            StorageError::Disk { doing, source, .. } => {
                format!("the worker could not {doing} a file on its disk: {source}")
            }
            other => other.to_string(),
        };
        Self::new(code, message)
    }
}

/// The storage settings do not work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{variable}: {why}")]
pub struct CheckError {
    /// The environment variable to check first.
    pub variable: &'static str,
    /// What is wrong.
    pub why: String,
}

#[cfg(not(target_arch = "wasm32"))]
impl CheckError {
    /// Maps a failure to a setting; the request was for the bucket `name`, which `variable` names.
    pub(super) fn of(error: &StorageError, variable: &'static str, name: &str) -> Self {
        let (variable, why) = match error {
            StorageError::NotFound { .. } | StorageError::NoBucket { .. } => {
                (variable, format!("there is no bucket {name:?}; create it or correct the name"))
            }
            StorageError::Denied { code, .. } => denied(code, variable, name),
            StorageError::Unavailable { why, .. } => {
                ("R2_ENDPOINT", format!("object storage does not answer at this address: {why}"))
            }
            other => ("R2_ENDPOINT", format!("the server at this address is not an S3 server: {other}")),
        };
        Self { variable, why }
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn denied(code: &str, bucket_variable: &'static str, name: &str) -> (&'static str, String) {
    match code {
        "SignatureDoesNotMatch" => (
            "R2_SECRET_ACCESS_KEY",
            "it does not belong to R2_ACCESS_KEY_ID; copy both again from the same token".to_owned(),
        ),
        "InvalidAccessKeyId" | "NotSignedUp" | "Unauthorized" => (
            "R2_ACCESS_KEY_ID",
            format!("object storage does not know this key ({code}); copy it again from the token"),
        ),
        "RequestTimeTooSkewed" => (
            "R2_ENDPOINT",
            "the clock of this machine and the server's differ too much; set this machine's clock".to_owned(),
        ),
        _ => (
            bucket_variable,
            format!("the token may not use the bucket {name:?} ({code}); let it read and write there"),
        ),
    }
}

/// Classifies an error of the SDK for a request about `what`.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn classify<E>(what: &str, error: &SdkError<E, HttpResponse>) -> StorageError
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or_default();
            by_answer(what, service.raw().status().as_u16(), code)
        }
        SdkError::TimeoutError(_) => {
            StorageError::Unavailable { what: what.to_owned(), why: "it took too long".to_owned() }
        }
        SdkError::ConstructionFailure(_) => StorageError::Refused { what: what.to_owned(), why: root(error) },
        _ => StorageError::Unavailable { what: what.to_owned(), why: root(error) },
    }
}

/// Classifies a response about `what` by its status and S3's error code.
#[cfg(not(target_arch = "wasm32"))]
fn by_answer(what: &str, status: u16, code: &str) -> StorageError {
    let what = what.to_owned();
    let said = if code.is_empty() { format!("status {status}") } else { format!("{code}, status {status}") };
    match (status, code) {
        (_, "NoSuchBucket") => StorageError::NoBucket { what },
        (404, _) | (_, "NoSuchKey") => StorageError::NotFound { what },
        (401 | 403, "") => StorageError::Denied { what, code: said },
        (401 | 403, _) => StorageError::Denied { what, code: code.to_owned() },
        // It does not know the request, and never will.
        (501, _) => StorageError::Refused { what, why: said },
        (408 | 425 | 429 | 500.., _) | (_, "SlowDown" | "RequestTimeout") => {
            StorageError::Unavailable { what, why: said }
        }
        _ => StorageError::Refused { what, why: said },
    }
}

/// The innermost cause of an error: the outer ones only say that there was one.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn root(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_answer_classifies_status_and_code() {
        let name = |status, code| match by_answer("x", status, code) {
            StorageError::NotFound { .. } => "not found",
            StorageError::NoBucket { .. } => "no bucket",
            StorageError::Denied { .. } => "denied",
            StorageError::Unavailable { .. } => "unavailable",
            StorageError::Refused { .. } => "refused",
            _ => "other",
        };
        for (status, code, want) in [
            (404, "NoSuchKey", "not found"),
            (404, "", "not found"),
            (404, "NoSuchBucket", "no bucket"),
            (403, "SignatureDoesNotMatch", "denied"),
            (403, "", "denied"),
            (401, "Unauthorized", "denied"),
            (429, "TooManyRequests", "unavailable"),
            (500, "InternalError", "unavailable"),
            (503, "SlowDown", "unavailable"),
            (503, "", "unavailable"),
            (400, "SlowDown", "unavailable"),
            (400, "EntityTooLarge", "refused"),
            (412, "PreconditionFailed", "refused"),
            (416, "InvalidRange", "refused"),
        ] {
            assert_eq!(name(status, code), want, "{status} {code}");
        }
    }

    fn every_error() -> Vec<(StorageError, FailureCode, bool)> {
        let what = || "inputs/a".to_owned();
        let disk = || io::Error::from(io::ErrorKind::PermissionDenied);
        vec![
            (StorageError::NotFound { what: what() }, FailureCode::InputNotFound, false),
            (StorageError::NoBucket { what: what() }, FailureCode::Storage, false),
            (StorageError::Replaced { what: what() }, FailureCode::InputUnreachable, false),
            (StorageError::OtherVersion, FailureCode::InputNotFound, false),
            (StorageError::Denied { what: what(), code: "X".into() }, FailureCode::Storage, false),
            (StorageError::TooLarge { limit: 5 }, FailureCode::InputTooLarge, false),
            (StorageError::Cancelled, FailureCode::Worker, false),
            (StorageError::DiskFull(DiskFull { needed: 2, free: Some(1) }), FailureCode::DiskFull, false),
            (StorageError::disk("write", Path::new("/secret/a"))(disk()), FailureCode::Worker, false),
            (StorageError::Unavailable { what: what(), why: "X".into() }, FailureCode::Storage, true),
            (StorageError::Refused { what: what(), why: "X".into() }, FailureCode::Storage, false),
            (StorageError::Key { name: what(), source: InvalidKey::Segment }, FailureCode::Worker, false),
            (StorageError::Address(net::UrlRefused::Scheme), FailureCode::InputRefused, false),
            (
                StorageError::Unreachable { host: "h".into(), why: "X".into(), passing: true },
                FailureCode::InputUnreachable,
                true,
            ),
            (
                StorageError::Unreachable { host: "h".into(), why: "X".into(), passing: false },
                FailureCode::InputRefused,
                false,
            ),
        ]
    }

    #[test]
    fn storage_error_converts_to_the_matching_failure() {
        for (error, code, retryable) in every_error() {
            assert_eq!(error.is_retryable(), retryable, "{error}");
            let failure = Failure::from(error);
            assert_eq!(failure.code, code, "{failure}");
            assert!(!failure.message.contains("/secret"), "{failure}");
        }
    }

    #[test]
    fn check_error_names_the_variable_to_check() {
        let denied = |code: &str| StorageError::Denied { what: "x".into(), code: code.into() };
        let cases = [
            (denied("SignatureDoesNotMatch"), "R2_SECRET_ACCESS_KEY"),
            (denied("InvalidAccessKeyId"), "R2_ACCESS_KEY_ID"),
            (denied("AccessDenied"), "R2_INPUT_BUCKET_NAME"),
            (denied("RequestTimeTooSkewed"), "R2_ENDPOINT"),
            (StorageError::NoBucket { what: "x".into() }, "R2_INPUT_BUCKET_NAME"),
            (StorageError::NotFound { what: "x".into() }, "R2_INPUT_BUCKET_NAME"),
            (StorageError::Unavailable { what: "x".into(), why: "refused".into() }, "R2_ENDPOINT"),
            (StorageError::Refused { what: "x".into(), why: "refused".into() }, "R2_ENDPOINT"),
        ];
        for (error, variable) in cases {
            let found = CheckError::of(&error, "R2_INPUT_BUCKET_NAME", "in-bucket");
            assert_eq!(found.variable, variable, "{error}");
            assert!(found.to_string().starts_with(variable), "{found}");
        }
    }
}
