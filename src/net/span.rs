//! A span for each outgoing HTTP request, by OpenTelemetry's conventions for HTTP clients:
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client-span>.

use opentelemetry_semantic_conventions::attribute;
use tracing::Span;
use tracing::field::Empty;
use url::Url;

/// How much of an address a span shows. It never shows the query, which may contain signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Scheme and host: the path of a webhook's address may be secret.
    Host,
    /// The path as well.
    Path,
}

/// The span of one request. It ends when dropped.
#[derive(Debug)]
pub struct RequestSpan(Span);

/// Replaces hidden parts, as the conventions define.
const REDACTED: &str = "REDACTED";

fn shown_url(url: &Url, shown: Shown) -> String {
    let mut url = url.clone();
    // This fails for addresses without a host, which have no password either.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.set_fragment(None);
    if shown == Shown::Host && url.path() != "/" {
        url.set_path(REDACTED);
    }
    if url.query().is_some() {
        url.set_query((shown == Shown::Path).then_some(REDACTED));
    }
    url.into()
}

impl RequestSpan {
    /// Starts a span as a child of the current span. `resends` is the number of previous attempts of the same
    /// request.
    #[must_use]
    pub fn begin(method: &str, url: &Url, shown: Shown, resends: u32) -> Self {
        Self(tracing::debug_span!(
            "HTTP request",
            otel.name = method,
            otel.kind = "client",
            otel.status_code = Empty,
            { attribute::HTTP_REQUEST_METHOD } = method,
            { attribute::URL_FULL } = shown_url(url, shown),
            { attribute::SERVER_ADDRESS } = url.host_str(),
            { attribute::SERVER_PORT } = url.port_or_known_default(),
            { attribute::HTTP_REQUEST_RESEND_COUNT } = (resends > 0).then_some(resends),
            { attribute::HTTP_RESPONSE_STATUS_CODE } = Empty,
            { attribute::ERROR_TYPE } = Empty,
        ))
    }

    /// The span in which to run the request.
    #[must_use]
    pub const fn span(&self) -> &Span {
        &self.0
    }

    /// Records the status of the response.
    pub fn answered(&self, status: u16) {
        self.0.record(attribute::HTTP_RESPONSE_STATUS_CODE, status);
        if status >= 400 {
            self.failed(&status.to_string());
        }
    }

    /// Records that there was no response, or an error. `kind` must have few distinct values.
    pub fn failed(&self, kind: &str) {
        self.0.record(attribute::ERROR_TYPE, kind).record("otel.status_code", "ERROR");
    }
}

/// The kind of failure of a request.
pub(super) fn kind(error: &reqwest::Error) -> &'static str {
    match error {
        error if error.is_timeout() => "timeout",
        error if error.is_connect() => "connect",
        error if error.is_redirect() => "redirect",
        _ => "request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_url_hides_query_password_and_foreign_paths() {
        for (url, host, path) in [
            ("https://example.com", "https://example.com/", "https://example.com/"),
            ("https://example.com:8443/", "https://example.com:8443/", "https://example.com:8443/"),
            (
                "https://me:hush@example.com/a/b?X-Amz-Signature=hush#part",
                "https://example.com/REDACTED",
                "https://example.com/a/b?REDACTED",
            ),
            ("http://[::1]/?hush", "http://[::1]/", "http://[::1]/?REDACTED"),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(shown_url(&url, Shown::Host), host);
            assert_eq!(shown_url(&url, Shown::Path), path);
        }
    }
}
