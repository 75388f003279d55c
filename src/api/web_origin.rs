//! Keeps pages of other sites from using the API through the browser of somebody who can reach it.
//!
//! A browser sends some requests for any page: those that HTML forms could send, without asking the server first (cross-site
//! request forgery). And a page can have its own host name resolve to this machine (DNS rebinding), by which the browser lets
//! it read the responses. The first is refused by the headers `Origin` and `Sec-Fetch-Site`, which pages cannot change, the
//! second by the name in `Host`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use url::Url;

use super::request_origin::RequestOrigin;
use super::{AppState, Problem};
use crate::config::ApiConfig;

/// How the page that sends a request is related to the server: <https://www.w3.org/TR/fetch-metadata/>.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Passes a request on unless it comes from a page of another site, or by a name that others may control.
pub(crate) async fn refuse_cross_site(
    State(app): State<Arc<AppState>>,
    origin: RequestOrigin,
    request: Request,
    next: Next,
) -> Response {
    match check(&app.config, &origin, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

pub(super) fn check<B>(
    config: &ApiConfig,
    origin: &RequestOrigin,
    request: &axum::http::Request<B>,
) -> Result<(), Problem> {
    // With tokens, a page would have to know one.
    if config.tokens.is_empty() && !is_trusted_host(config, origin) {
        return Err(Problem::foreign_host());
    }
    if request.method().is_safe() || is_same_site(config, origin, request.headers()) {
        return Ok(());
    }
    Err(Problem::foreign_origin())
}

/// Whether the request names the server as its clients do: by a name of the loopback interface, which the system resolves
/// itself, or as `API_PUBLIC_URL` does.
fn is_trusted_host(config: &ApiConfig, RequestOrigin(named): &RequestOrigin) -> bool {
    let Some(named) = named else { return false };
    let public = config.public_url.as_ref().and_then(|url| url.as_url().host());
    named.is_loopback() || public.is_some_and(|public| named.as_url().host() == Some(public))
}

/// Whether a request comes from a page of this server or of a configured origin, or from no page at all.
fn is_same_site(config: &ApiConfig, RequestOrigin(named): &RequestOrigin, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    // The browser compares the origins itself, whatever a proxy does to the names.
    let site = text(SEC_FETCH_SITE);
    if site == Some("same-origin") {
        return true;
    }
    let Some(origin) = text(header::ORIGIN) else {
        // Browsers send `Origin` with every request that may change something. This is for those that do not.
        return !matches!(site, Some("cross-site" | "same-site"));
    };
    let configured = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
    if config.cors_origins.iter().any(configured) {
        return true;
    }
    let Ok(page) = Url::parse(origin) else { return false };
    // A proxy that ends TLS may not say so; thus the scheme is not compared.
    let authority = |url: &Url| (url.host().map(|host| host.to_owned()), url.port());
    let is_named = named.as_ref().is_some_and(|named| authority(named.as_url()) == authority(&page));
    is_named || config.public_url.as_ref().is_some_and(|public| public.as_url().origin() == page.origin())
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn config(variables: &[(&str, &str)]) -> ApiConfig {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
        ApiConfig::read(&crate::config::Env::of(|name| value(name).map(|(_, value)| (*value).to_owned())))
            .unwrap()
    }

    async fn verdict(config: &ApiConfig, method: Method, headers: &[(&str, &str)]) -> &'static str {
        use axum::extract::FromRequestParts as _;

        let mut request = axum::http::Request::builder().method(method).uri("/api/jobs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, body) = request.body(()).unwrap().into_parts();
        let Ok(origin) = RequestOrigin::from_request_parts(&mut parts, &()).await;
        match check(config, &origin, &axum::http::Request::from_parts(parts, body)) {
            Ok(()) => "passes",
            Err(problem) if format!("{problem:?}").contains("foreign-host") => "foreign host",
            Err(_) => "foreign origin",
        }
    }

    #[tokio::test]
    async fn host_without_tokens_must_be_of_this_machine() {
        let open = config(&[("API_PUBLIC_URL", "https://films.example/tcoder")]);
        for (host, expected) in [
            ("localhost:8080", "passes"),
            ("LocalHost", "passes"),
            ("films.localhost:8080", "passes"),
            ("127.0.0.1:8080", "passes"),
            ("127.8.8.8", "passes"),
            ("[::1]:8080", "passes"),
            ("films.example", "passes"),
            ("evil.example", "foreign host"),
            ("localhost.evil.example", "foreign host"),
            ("notlocalhost", "foreign host"),
            ("127.0.0.1.evil.example", "foreign host"),
            ("0.0.0.0:8080", "foreign host"),
            ("10.0.0.1", "foreign host"),
            ("a b", "foreign host"),
            ("", "foreign host"),
        ] {
            assert_eq!(verdict(&open, Method::GET, &[("host", host)]).await, expected, "{host}");
        }
        assert_eq!(verdict(&open, Method::GET, &[]).await, "foreign host");
        let guarded = config(&[("API_TOKENS", TOKEN)]);
        assert_eq!(verdict(&guarded, Method::GET, &[("host", "films.example")]).await, "passes");
    }

    #[tokio::test]
    async fn writes_of_foreign_pages_are_refused() {
        let config = config(&[
            ("API_TOKENS", TOKEN),
            ("API_PUBLIC_URL", "https://public.example/tcoder"),
            ("API_CORS_ORIGINS", "https://app.example"),
        ]);
        let own = ("host", "films.example:8080");
        for (headers, expected) in [
            (&[own][..], "passes"),
            (&[own, ("origin", "http://films.example:8080"), ("sec-fetch-site", "same-origin")], "passes"),
            (&[own, ("origin", "https://films.example:8080")], "passes"),
            (&[own, ("origin", "https://public.example"), ("sec-fetch-site", "same-origin")], "passes"),
            (&[own, ("origin", "https://app.example"), ("sec-fetch-site", "cross-site")], "passes"),
            (&[own, ("sec-fetch-site", "none")], "passes"),
            // Behind a proxy that changes `Host`.
            (&[own, ("origin", "https://other.example"), ("sec-fetch-site", "same-origin")], "passes"),
            (&[own, ("origin", "http://evil.example")], "foreign origin"),
            (&[own, ("origin", "http://films.example")], "foreign origin"),
            (
                &[own, ("origin", "http://films.example:8081"), ("sec-fetch-site", "same-site")],
                "foreign origin",
            ),
            (&[own, ("origin", "https://public.example.evil.example")], "foreign origin"),
            (&[own, ("origin", "null")], "foreign origin"),
            (&[own, ("origin", "")], "foreign origin"),
            (&[own, ("sec-fetch-site", "cross-site")], "foreign origin"),
            (&[own, ("sec-fetch-site", "same-site")], "foreign origin"),
            (&[("origin", "null")], "foreign origin"),
        ] {
            assert_eq!(verdict(&config, Method::POST, headers).await, expected, "{headers:?}");
            assert_eq!(verdict(&config, Method::DELETE, headers).await, expected, "{headers:?}");
            assert_eq!(verdict(&config, Method::GET, headers).await, "passes", "{headers:?}");
        }
    }

    #[tokio::test]
    async fn writes_of_any_page_pass_if_every_origin_is_allowed() {
        let config = config(&[("API_TOKENS", TOKEN), ("API_CORS_ORIGINS", "*")]);
        let headers = [("host", "films.example"), ("origin", "http://any.example")];
        assert_eq!(verdict(&config, Method::POST, &headers).await, "passes");
    }
}
