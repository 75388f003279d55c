//! Downloads inputs from web addresses.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::download::{DownloadLimits, OpenedSource, Progress, Resume, Source, save};
use super::error::{StorageError, root};
use crate::net::{self, Client, EgressPolicy, Redirects, Timeouts, UrlRefused};

/// Downloads inputs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher(Client);

impl Fetcher {
    /// A fetcher that calls only the addresses which `guard` permits.
    ///
    /// # Errors
    /// If the machine's certificates cannot be loaded.
    pub fn new(guard: EgressPolicy) -> Result<Self, reqwest::Error> {
        let timeouts =
            Timeouts { connect: Duration::from_secs(10), read: Duration::from_secs(30), total: None };
        net::client(guard, timeouts, Redirects::Follow).map(Self)
    }

    /// The client, which calls only permitted addresses.
    pub(super) const fn client(&self) -> &Client {
        &self.0
    }

    /// Downloads `url` to the file `to`, within `limits`, and returns the number of bytes. An interrupted download is
    /// resumed if the server supports it.
    ///
    /// # Errors
    /// [`StorageError::Address`] if the address, or a redirect of it, is not permitted; [`StorageError::NotFound`],
    /// [`StorageError::TooLarge`], [`StorageError::DiskFull`], [`StorageError::Unreachable`], [`StorageError::Disk`]
    /// or [`StorageError::Cancelled`] as they are defined.
    pub async fn fetch(
        &self,
        url: &Url,
        to: &Path,
        limits: impl Into<DownloadLimits>,
        on_bytes: &Progress,
        cancel: &CancellationToken,
    ) -> Result<u64, StorageError> {
        save(&Web { client: &self.0, url }, to, limits.into(), on_bytes, cancel).await
    }
}

/// The file at an address.
pub(super) struct Web<'a> {
    pub client: &'a Client,
    pub url: &'a Url,
}

impl Web<'_> {
    /// The error for a host that does not provide the file.
    pub(super) fn unreachable(&self, why: String, passing: bool) -> StorageError {
        // Contains only the host, because the rest of the address may contain a signature.
        StorageError::Unreachable {
            host: self.url.host_str().unwrap_or("the address").to_owned(),
            why,
            passing,
        }
    }
}

impl Source for Web<'_> {
    async fn open(&self, resume: Option<&Resume>) -> Result<OpenedSource, StorageError> {
        let range = resume.map(|resume| format!("bytes={}-", resume.offset));
        let answer = self.send(range.as_deref(), resume.map(|resume| resume.etag.as_str())).await?;
        let span = match (answer.status(), resume) {
            (StatusCode::OK, _) => Span { starts_at: 0, total: answer.content_length() },
            (StatusCode::PARTIAL_CONTENT, Some(_)) => span(answer.headers())
                .ok_or_else(|| self.unreachable("its Content-Range header is invalid".into(), true))?,
            (status, _) => return Err(self.by_status(status)),
        };
        Ok(OpenedSource {
            starts_at: span.starts_at,
            total: span.total,
            etag: strong_etag(answer.headers()),
            body: body(answer),
        })
    }

    fn broken(&self, why: String) -> StorageError {
        self.unreachable(why, true)
    }
}

impl Web<'_> {
    /// Requests the file, or this range of it, on the condition that the file is still the one with this validator.
    pub(super) async fn send(
        &self,
        range: Option<&str>,
        if_range: Option<&str>,
    ) -> Result<Response, StorageError> {
        // With a compressed transfer, lengths and ranges would not be those of the file.
        let mut request = self.client.request(Method::GET, self.url)?.header(ACCEPT_ENCODING, "identity");
        for (name, value) in [(RANGE, range), (IF_RANGE, if_range)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        self.client.send(request).await.map_err(|error| match UrlRefused::find(&error) {
            Some(refused) => StorageError::Address(refused.clone()),
            None => self.unreachable(root(&error), true),
        })
    }

    /// The error for a response with this status.
    pub(super) fn by_status(&self, status: StatusCode) -> StorageError {
        match status.as_u16() {
            404 | 410 => StorageError::NotFound { what: "the file at the input's address".to_owned() },
            code @ (408 | 416 | 425 | 429 | 500..) => {
                self.unreachable(format!("it answers with status {code}"), true)
            }
            code => self.unreachable(format!("it answers with status {code}"), false),
        }
    }
}

/// The bytes of a response, or the reason why the connection broke.
pub(super) fn body(answer: Response) -> BoxStream<'static, Result<Bytes, String>> {
    answer.bytes_stream().map(|chunk| chunk.map_err(|error| root(&error))).boxed()
}

/// A strong entity tag, which identifies exactly these bytes.
pub(super) fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    (tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"')).then(|| tag.to_owned())
}

/// The part of a file that a response contains.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The position of its first byte.
    pub starts_at: u64,
    /// The size of the whole file in bytes, if the server says it.
    pub total: Option<u64>,
}

/// The part that the `Content-Range` header names.
pub(super) fn span(headers: &HeaderMap) -> Option<Span> {
    content_range(headers.get(CONTENT_RANGE)?.to_str().ok()?)
}

/// Parses `bytes 3-5/6` or `bytes 3-5/*`.
pub(super) fn content_range(header: &str) -> Option<Span> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        n => Some(n.parse().ok()?),
    };
    (first <= last && total.is_none_or(|n| last < n)).then_some(Span { starts_at: first, total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn content_range_is_parsed_or_rejected() {
        let read = content_range;
        assert_eq!(read("bytes 3-5/6"), Some(Span { starts_at: 3, total: Some(6) }));
        assert_eq!(read("bytes 3-5/*"), Some(Span { starts_at: 3, total: None }));
        for text in
            ["", "bytes */6", "bytes 5-3/6", "bytes 3-6/6", "lines 3-5/6", "bytes -1-5/6", "bytes a-b/c"]
        {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(span(&HeaderMap::new()), None);
    }

    #[test]
    fn strong_etag_ignores_weak_tags() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ETAG, HeaderValue::from_str(text).unwrap());
            strong_etag(&headers)
        };
        assert_eq!(read("\"abc\"").as_deref(), Some("\"abc\""));
        for text in ["W/\"abc\"", "\"\"", "abc", "", "\""] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(strong_etag(&HeaderMap::new()), None);
    }
}
