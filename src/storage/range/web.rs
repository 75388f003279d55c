//! Files at web addresses that are read by ranges.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LAST_MODIFIED};
use url::Url;

use super::source::{HEAD_BYTES, RangeBody, RangeSource, RangeSupport, collect_head, header, patiently};
use crate::hex::hex;
use crate::net::Client;
use crate::storage::error::StorageError;
use crate::storage::fetch::{Fetcher, Web, body, span, strong_etag};

impl Fetcher {
    /// Opens the file at `url` for reading by ranges and reads its first bytes. All reads are of the version that the
    /// file has now, which its server must name by a strong entity tag or the time of the last modification.
    ///
    /// # Errors
    /// [`StorageError::Address`] if the address, or a redirect of it, is not permitted; [`StorageError::NotFound`] or
    /// [`StorageError::Unreachable`] as they are defined.
    pub async fn open_ranges(&self, url: &Url) -> Result<RangeSupport, StorageError> {
        patiently(async || self.try_open_ranges(url).await).await
    }

    async fn try_open_ranges(&self, url: &Url) -> Result<RangeSupport, StorageError> {
        let web = Web { client: self.client(), url };
        let answer = web.send(Some(&header(&(0..HEAD_BYTES))), None).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => {
                return Ok(RangeSupport::Unsupported("the server does not honour ranges"));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Ok(RangeSupport::Unsupported("the server refuses the range: the file may be empty"));
            }
            status => return Err(web.by_status(status)),
        }
        let span = span(answer.headers()).filter(|span| span.starts_at == 0);
        let Some(size) = span.and_then(|span| span.total) else {
            return Ok(RangeSupport::Unsupported("the server does not say the size of the file"));
        };
        let Some(version) = Version::of(answer.headers()) else {
            return Ok(RangeSupport::Unsupported(
                "the server names neither a strong entity tag nor the time of the last modification",
            ));
        };
        let broken = |why| web.unreachable(why, true);
        let head = collect_head(body(answer), size).await.map_err(broken)?;
        let (client, url) = (self.client().clone(), url.clone());
        Ok(RangeSupport::Supported(Arc::new(File { client, url, size, version, head })))
    }
}

/// What identifies a version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    /// The value of `If-Range`: an entity tag, or the time of the last modification.
    validator: String,
    etag: String,
}

impl Version {
    fn of(headers: &HeaderMap) -> Option<Self> {
        if let Some(etag) = strong_etag(headers) {
            return Some(Self { validator: etag.clone(), etag });
        }
        let time = headers.get(LAST_MODIFIED)?.to_str().ok()?.to_owned();
        let etag = format!("\"{}\"", hex(time.as_bytes()));
        Some(Self { validator: time, etag })
    }
}

/// One version of the file at an address.
struct File {
    client: Client,
    url: Url,
    size: u64,
    version: Version,
    head: Bytes,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contains only the host, because the rest of the address may contain a signature.
        let mut shown = f.debug_struct("File");
        shown.field("host", &self.url.host_str()).field("size", &self.size).field("version", &self.version);
        shown.finish_non_exhaustive()
    }
}

#[async_trait]
impl RangeSource for File {
    fn size(&self) -> u64 {
        self.size
    }

    fn etag(&self) -> &str {
        &self.version.etag
    }

    fn head(&self) -> Bytes {
        self.head.clone()
    }

    async fn read(&self, range: Range<u64>) -> Result<RangeBody, StorageError> {
        let web = Web { client: &self.client, url: &self.url };
        let answer = web.send(Some(&header(&range)), Some(&self.version.validator)).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT | StatusCode::OK
                if Version::of(answer.headers()).as_ref() != Some(&self.version) =>
            {
                return Err(self.replaced());
            }
            StatusCode::PARTIAL_CONTENT => {}
            // A server behind the same name that does not honour ranges; another one may answer next.
            StatusCode::OK => return Err(self.broken("it sent the whole file instead of a range".to_owned())),
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.replaced());
            }
            status => return Err(web.by_status(status)),
        }
        let span = span(answer.headers());
        if span.is_none_or(|span| span.starts_at != range.start || span.total != Some(self.size)) {
            return Err(self.broken("the response is another range than requested".to_owned()));
        }
        Ok(body(answer))
    }

    fn broken(&self, why: String) -> StorageError {
        Web { client: &self.client, url: &self.url }.unreachable(why, true)
    }
}

impl File {
    fn replaced(&self) -> StorageError {
        StorageError::Replaced { what: "the file at the input's address".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_a_strong_entity_tag_or_the_last_modification() {
        let of = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            Version::of(&headers.collect()).map(|version| (version.validator, version.etag))
        };
        let (time, hex) = ("Tue, 1", "\"5475652c2031\"");
        assert_eq!(of(&[("etag", "\"a\""), ("last-modified", time)]), Some(("\"a\"".into(), "\"a\"".into())));
        assert_eq!(of(&[("etag", "W/\"a\""), ("last-modified", time)]), Some((time.into(), hex.into())));
        assert_eq!(of(&[("etag", "W/\"a\"")]), None);
    }
}
