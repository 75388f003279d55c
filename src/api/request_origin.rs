//! The address of the API, as the client addressed it.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};

use crate::config::BaseUrl;

/// The address of the API, taken from the request; `None` if the request contains no valid one. It is the base of
/// addresses below the API if `API_PUBLIC_URL` is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestOrigin(pub Option<BaseUrl>);

impl<S: Sync> FromRequestParts<S> for RequestOrigin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(request_origin(&parts.uri, &parts.headers, is_over_tls(parts))))
    }
}

/// Whether this server itself speaks TLS with the client.
#[cfg(not(target_arch = "wasm32"))]
fn is_over_tls(parts: &Parts) -> bool {
    parts.extensions.get::<crate::http_server::OverTls>().is_some()
}

/// In the Worker, the URI contains the scheme.
#[cfg(target_arch = "wasm32")]
const fn is_over_tls(_: &Parts) -> bool {
    false
}

/// A request names its server either in its absolute URI (in the Worker, and through a forward proxy) or in the
/// header `Host`. Behind a proxy that terminates TLS, only `X-Forwarded-Proto` tells that clients use https. A client
/// that sends wrong headers misleads only itself, because the response goes to no one else.
pub(super) fn request_origin(uri: &Uri, headers: &HeaderMap, is_over_tls: bool) -> Option<BaseUrl> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = uri.authority().map(|host| host.as_str()).or_else(|| text(header::HOST.as_str()))?;
    // Several proxies append values with commas; the first is the one that clients talk to.
    let forwarded = || text("x-forwarded-proto")?.split(',').next();
    let scheme = match uri.scheme_str().or_else(forwarded) {
        Some(scheme) if scheme.trim().eq_ignore_ascii_case("https") => "https",
        None if is_over_tls => "https",
        _ => "http",
    };
    let url: BaseUrl = format!("{scheme}://{host}").parse().ok()?;
    // The caller could have invented anything behind the host.
    (url.as_url().path() == "/").then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_without_a_proxy_is_that_of_the_connection() {
        let headers = HeaderMap::from_iter([(header::HOST, "films.example:8443".parse().unwrap())]);
        for (is_over_tls, expected) in
            [(true, "https://films.example:8443/"), (false, "http://films.example:8443/")]
        {
            let origin = request_origin(&Uri::from_static("/api/jobs"), &headers, is_over_tls);
            assert_eq!(origin.unwrap().as_str(), expected);
        }
    }

    fn read(uri: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        request_origin(&uri.parse().unwrap(), &headers.collect(), false).map(|url| url.to_string())
    }

    #[test]
    fn request_origin_is_taken_from_uri_or_host_header() {
        for (uri, headers, named) in [
            ("/api/jobs", &[("host", "127.0.0.1:8080")][..], Some("http://127.0.0.1:8080/")),
            ("/api/jobs", &[("host", "[::1]:8080")], Some("http://[::1]:8080/")),
            ("/a", &[("host", "h.example"), ("x-forwarded-proto", "https")], Some("https://h.example/")),
            (
                "/a",
                &[("host", "h.example"), ("x-forwarded-proto", "https, http")],
                Some("https://h.example/"),
            ),
            ("/a", &[("host", "h.example"), ("x-forwarded-proto", "gopher")], Some("http://h.example/")),
            ("https://edge.example/api/jobs", &[("host", "other.example")], Some("https://edge.example/")),
            ("https://edge.example/a", &[("x-forwarded-proto", "http")], Some("https://edge.example/")),
            ("/a", &[], None),
            ("/a", &[("host", "")], None),
            ("/a", &[("host", "user@h.example")], None),
            ("/a", &[("host", "h.example/elsewhere")], None),
            ("/a", &[("host", "h.example?a=b")], None),
        ] {
            assert_eq!(read(uri, headers).as_deref(), named, "{uri} {headers:?}");
        }
    }
}
