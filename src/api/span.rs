//! A span for each request, by OpenTelemetry's conventions for HTTP servers:
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server-span>.
//!
//! `url.query` is omitted: a misconfigured client may have put a token there.

use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::uri::Authority;
use axum::http::{HeaderName, Method, StatusCode, Version, header};
use axum::response::Response;
use opentelemetry_semantic_conventions::attribute;
use tower_http::classify::ServerErrorsFailureClass;
use tower_http::trace::TraceLayer;
use tracing::Span;
use tracing::field::Empty;

use super::{caller_trace, media};
use crate::trace;

/// Wraps the routes so that each request has a span.
pub(crate) fn with_tracing(router: Router) -> Router {
    router.layer(TraceLayer::new_for_http().make_span_with(begin).on_response(end).on_failure(failed))
}

fn begin(request: &Request) -> Span {
    let text = |name: HeaderName| request.headers().get(name)?.to_str().ok();
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let (method, name) = method(request.method());
    let host = text(header::HOST).and_then(|host| host.parse::<Authority>().ok());
    let scheme =
        text(HeaderName::from_static("x-forwarded-proto")).filter(|s| matches!(*s, "http" | "https"));
    let span = tracing::debug_span!(
        "request",
        otel.name = route.map_or_else(|| name.to_owned(), |route| format!("{name} {route}")),
        otel.kind = "server",
        otel.status_code = Empty,
        { attribute::HTTP_REQUEST_METHOD } = method,
        { attribute::HTTP_REQUEST_METHOD_ORIGINAL } = (method == OTHER).then(|| request.method().as_str()),
        { attribute::HTTP_ROUTE } = route,
        { attribute::URL_PATH } = path_without_secrets(request.uri().path()),
        { attribute::URL_SCHEME } = scheme.unwrap_or("http"),
        { attribute::SERVER_ADDRESS } = host.as_ref().map(Authority::host),
        { attribute::SERVER_PORT } = host.as_ref().and_then(Authority::port_u16),
        { attribute::NETWORK_PROTOCOL_VERSION } = version(request.version()),
        { attribute::USER_AGENT_ORIGINAL } = text(header::USER_AGENT),
        { attribute::HTTP_RESPONSE_STATUS_CODE } = Empty,
        { attribute::ERROR_TYPE } = Empty,
    );
    trace::follow(&span, caller_trace(request.headers()).as_ref());
    span
}

/// The path of a request without the signature that the address of an output contains.
fn path_without_secrets(path: &str) -> &str {
    if path.starts_with("/media/") { media::ROUTE } else { path }
}

fn end(response: &Response, _: Duration, span: &Span) {
    let status = response.status();
    span.record(attribute::HTTP_RESPONSE_STATUS_CODE, status.as_u16());
    // An error of the client is not an error of the server.
    if status.is_server_error() {
        span.record(attribute::ERROR_TYPE, status.as_str()).record("otel.status_code", "ERROR");
    }
}

/// Logs a failed request. An answer that asks the client to come back is expected, and where it has a cause to be mended,
/// that is logged where it is known.
fn failed(class: ServerErrorsFailureClass, latency: Duration, _: &Span) {
    let ms = latency.as_millis();
    match class {
        ServerErrorsFailureClass::StatusCode(StatusCode::SERVICE_UNAVAILABLE) => {
            tracing::debug!(%class, ms, "the client was asked to come back");
        }
        class => tracing::error!(%class, ms, "response failed"),
    }
}

/// Replaces methods that HTTP does not define, because clients can invent any number of them.
const OTHER: &str = "_OTHER";

/// The method, and its name in the span's name.
fn method(method: &Method) -> (&str, &str) {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    if known.contains(method) { (method.as_str(), method.as_str()) } else { (OTHER, "HTTP") }
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}
