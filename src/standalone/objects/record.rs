//! The metadata of an object, an upload and a part.

use std::collections::BTreeMap;

use s3s::dto::{Expires, Metadata};
use serde::{Deserialize, Serialize};

use super::blobs::BlobId;
use super::checksum::{Algorithm, Checksum, Kind};

/// An object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Object {
    /// The size in bytes.
    pub size: u64,
    /// The entity tag, without quotes.
    pub etag: String,
    /// In milliseconds since 1970.
    pub modified: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    pub headers: Headers,
    pub data: Data,
}

/// Where an object's bytes are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Data {
    /// In one file.
    Blob(BlobId),
    /// In the parts of this upload, one file each: completing an upload copies nothing.
    Parts {
        upload: String,
        /// The number of parts.
        count: u32,
    },
}

/// The headers that a client stores with an object and gets back with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Headers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Expires>,
    /// `x-amz-meta-*`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// The headers in the fields of a request.
macro_rules! headers_of {
    ($from:expr) => {
        $crate::standalone::objects::record::Headers {
            content_type: $from.content_type.clone(),
            content_encoding: $crate::standalone::objects::record::stored_encoding(
                $from.content_encoding.as_deref(),
            ),
            content_disposition: $from.content_disposition.clone(),
            content_language: $from.content_language.clone(),
            cache_control: $from.cache_control.clone(),
            expires: $from.expires.clone(),
            metadata: $from.metadata.clone().unwrap_or_default().into_iter().collect(),
        }
    };
}

pub(super) use headers_of;

/// `aws-chunked` describes the transfer of a body, not the object.
pub(super) fn stored_encoding(given: Option<&str>) -> Option<String> {
    let encodings = given?.split(',').map(str::trim);
    let kept: Vec<_> = encodings.filter(|encoding| !encoding.eq_ignore_ascii_case("aws-chunked")).collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

impl Headers {
    /// The metadata in the format of s3s.
    pub(crate) fn metadata(&self) -> Option<Metadata> {
        (!self.metadata.is_empty())
            .then(|| self.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Upload {
    /// In milliseconds since 1970.
    pub initiated: u64,
    pub headers: Headers,
    /// The checksum of each part, and therefore of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<(Algorithm, Kind)>,
}

/// A part of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub blob: BlobId,
    /// The size in bytes.
    pub size: u64,
    /// The MD5 in hexadecimal.
    pub etag: String,
    /// In milliseconds since 1970.
    pub modified: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}
