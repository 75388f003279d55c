//! Addresses of servers, parsed once.

use std::fmt;
use std::str::FromStr;

use url::{Host, ParseError, Url};

/// An http or https address that is the base of other addresses. Its path ends with a slash, and it has no query,
/// fragment or credentials, so that all code that appends to it builds the same address.
///
/// The slash matters: the AWS SDK appends a bucket to the endpoint's path without a slash, and makes `/s3bucket`
/// of `/s3`, while rusty-s3 makes `/s3/bucket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

/// The text is not a valid base address. The message continues after the variable's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBaseUrl {
    /// It is not a web address.
    #[error("it must be an http or https address, such as https://films.example")]
    NotHttp,
    /// It contains `?` or `#`.
    #[error("it must end with its path: remove '?', '#' and what follows")]
    Query,
    /// It contains `user:password@`.
    #[error("it must not contain a user name or a password")]
    Credentials,
}

impl BaseUrl {
    /// The address as text, with its final slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The address.
    #[must_use]
    pub const fn as_url(&self) -> &Url {
        &self.0
    }

    /// Whether its host is this machine: a name or an address of the loopback interface, which the system resolves itself.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
            None => false,
        }
    }

    /// The address of the relative path `path` below this one.
    ///
    /// # Errors
    /// If `path` cannot be part of an address.
    pub fn join(&self, path: &str) -> Result<Url, ParseError> {
        self.0.join(path)
    }

    /// The address below this one with these path segments, which are percent-encoded if necessary.
    pub fn below<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.0.clone();
        // Every http address has path segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

impl TryFrom<Url> for BaseUrl {
    type Error = InvalidBaseUrl;

    fn try_from(mut url: Url) -> Result<Self, InvalidBaseUrl> {
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(InvalidBaseUrl::NotHttp);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidBaseUrl::Query);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidBaseUrl::Credentials);
        }
        // One slash: of two, code that appends a path would keep one or both.
        let path = format!("{}/", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl FromStr for BaseUrl {
    type Err = InvalidBaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBaseUrl> {
        text.parse::<Url>().map_err(|_| InvalidBaseUrl::NotHttp)?.try_into()
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_url_always_ends_with_a_slash() {
        for (text, parsed) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000/"),
            ("https://h.example/s3", "https://h.example/s3/"),
            ("https://h.example/s3/", "https://h.example/s3/"),
            ("https://h.example//", "https://h.example/"),
            ("https://h.example/s3//", "https://h.example/s3/"),
            ("HTTPS://H.example/a/../s3", "https://h.example/s3/"),
        ] {
            let base: BaseUrl = text.parse().unwrap();
            assert_eq!(base.as_str(), parsed, "{text}");
        }
    }

    #[test]
    fn base_url_with_query_fragment_or_credentials_is_rejected() {
        for (text, why) in [
            ("", InvalidBaseUrl::NotHttp),
            ("films.example", InvalidBaseUrl::NotHttp),
            ("ftp://h.example/", InvalidBaseUrl::NotHttp),
            ("data:text/plain,a", InvalidBaseUrl::NotHttp),
            ("https://h.example/?a=b", InvalidBaseUrl::Query),
            ("https://h.example/#a", InvalidBaseUrl::Query),
            ("https://user@h.example/", InvalidBaseUrl::Credentials),
            ("https://user:word@h.example/", InvalidBaseUrl::Credentials),
        ] {
            assert_eq!(text.parse::<BaseUrl>(), Err(why), "{text}");
        }
    }

    #[test]
    fn base_url_below_encodes_segments_and_keeps_the_path() {
        let base: BaseUrl = "https://h.example/api".parse().unwrap();
        assert_eq!(base.below(["a b", "c/d"]).as_str(), "https://h.example/api/a%20b/c%2Fd");
    }
}
