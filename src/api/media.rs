//! `GET /media/{token}/{jobId}/{epoch}/{path}`: serves the outputs of an attempt to everybody who has a signed
//! address.
//!
//! This lets any player read a private bucket: it needs no header, and addresses that are relative to a playlist
//! contain the signature, too ([`storage::media`](crate::storage::media)). The API itself serves files that refer to
//! others, because players resolve their names against the address that answered. It redirects all other requests to
//! storage, so no video passes through it. It does not query Redis, except for a segment of a video that is still encoded
//! (`hold`).

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};
use tower_http::cors::{Any, CorsLayer};

use super::client_address::ClientAddress;
use super::{AppState, Problem, problem, request_timeout};
use crate::hex::hex;
use crate::job::{AttemptId, Epoch, JobId, Millis, ObjectKey};
use crate::storage::media::MediaRefused;
use crate::storage::urls::now_millis;
use crate::storage::{Bucket, CHANGING, StorageError, content_type, layout, refers_to_others};

/// The route. Logs and traces show it instead of the path, which contains a signature.
pub(crate) const ROUTE: &str = "/media/{token}/{jobId}/{epoch}/{*path}";

/// Maximum size of a playlist that the API serves, bytes. A playlist of 24 hours with segments of one second has 4
/// MB.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// A browser may cache a redirect until this many seconds before its target expires.
const MARGIN: i64 = 60;

/// The route. Web pages of any origin may read the responses: an address may be used anywhere, and no cookies are
/// involved.
pub(crate) fn routes() -> Router<Arc<AppState>> {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD])
        .allow_headers(Any)
        .expose_headers([header::CONTENT_LENGTH, header::CONTENT_RANGE, header::ACCEPT_RANGES, header::ETAG])
        .max_age(Duration::from_secs(24 * 3600));
    Router::new()
        .route(ROUTE, get(media))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(axum::middleware::from_fn(request_timeout))
        .layer(cors)
}

/// `GET /media/{token}/{jobId}/{epoch}/{path}`
async fn media(
    State(app): State<Arc<AppState>>,
    method: Method,
    headers: HeaderMap,
    path: Result<Path<(String, JobId, Epoch, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    client: ClientAddress,
) -> Result<Response, Problem> {
    let Path((token, job, epoch, path)) = path.map_err(|_| Problem::no_such_file())?;
    let attempt = AttemptId { job, epoch };
    let now = now_millis();
    let until = app.links.check(&token, attempt, now)?;
    // A key has no dot segments, so this one is below the attempt's folder.
    let key = layout::attempt_prefix(attempt).and_then(|folder| folder.join(&path));
    let key = key.map_err(|_| Problem::no_such_file())?;
    if refers_to_others(&key) {
        app.document(&key, &headers, seconds(now, until)).await
    } else {
        // The playlists of a video that is still encoded ask to wait.
        if query.as_deref() == Some(layout::AWAITED) {
            app.hold(&key, client).await?;
        }
        let to = app.links.redirect(&key, method == Method::HEAD, now, until);
        redirect(to.map_err(|e| Problem::unavailable(e.to_string()))?.as_str(), seconds(now, until))
    }
}

impl From<MediaRefused> for Problem {
    fn from(refused: MediaRefused) -> Self {
        match refused {
            MediaRefused::Unsigned => Self::address_not_signed(),
            MediaRefused::Expired(at) => Self::address_expired(at),
        }
    }
}

fn seconds(now: Millis, until: Millis) -> i64 {
    until.0.saturating_sub(now.0) / 1000
}

fn redirect(to: &str, seconds: i64) -> Result<Response, Problem> {
    let cannot = |_| Problem::unavailable("the address of this file could not be signed");
    let to = HeaderValue::try_from(to).map_err(cannot)?;
    // Shared caches must not store it: the address is signed either for GET or for HEAD.
    let keep = format!("private, max-age={}", seconds.saturating_sub(MARGIN).max(0));
    let keep = HeaderValue::try_from(keep).map_err(cannot)?;
    Ok((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to), (header::CACHE_CONTROL, keep)])
        .into_response())
}

impl AppState {
    /// Serves the file itself, which may be cached for `seconds`.
    async fn document(
        &self,
        key: &ObjectKey,
        headers: &HeaderMap,
        seconds: i64,
    ) -> Result<Response, Problem> {
        let found = self.storage.get_small(Bucket::Output, key, DOCUMENT_LIMIT).await.map_err(|error| {
            // The logged error may name parts of the installation; a viewer needs only the essence.
            tracing::error!(%key, %error, "could not read an output");
            match error {
                StorageError::TooLarge { limit } => Problem::file_too_large(limit),
                _ => Problem::unavailable(
                    "object storage could not provide this file; try again in a few seconds",
                ),
            }
        })?;
        let found = found.ok_or_else(Problem::no_such_file)?;
        // The playlists of a video that is still encoded are replaced in the end.
        let changes = found.cache_control.as_deref() == Some(CHANGING);
        let mut response = part(Bytes::from(found.bytes), headers);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(key.as_str())));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let keep = if changes { CHANGING.to_owned() } else { format!("public, max-age={seconds}") };
        if let Ok(keep) = HeaderValue::try_from(keep) {
            headers.insert(header::CACHE_CONTROL, keep);
        }
        Ok(response)
    }
}

/// The requested part of a file: nothing if the client has it already, one range, or all of it.
fn part(bytes: Bytes, headers: &HeaderMap) -> Response {
    let hash = Sha256::digest(&bytes);
    let tag = format!("\"{}\"", hex(&hash[..12]));
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let length = bytes.len() as u64;
    let known = text(header::IF_NONE_MATCH).is_some_and(|tags| {
        tags.split(',').map(str::trim).any(|t| t == "*" || t.trim_start_matches("W/") == tag)
    });
    let is_whole_wanted = text(header::IF_RANGE).is_some_and(|known| known != tag);
    let mut response = match text(header::RANGE).filter(|_| !is_whole_wanted).map(|text| range(text, length))
    {
        _ if known => StatusCode::NOT_MODIFIED.into_response(),
        Some(Wanted::Part(range)) => {
            let (first, last) = (*range.start(), *range.end());
            let told = [(header::CONTENT_RANGE, format!("bytes {first}-{last}/{length}"))];
            // Both are below the length, which is a usize.
            #[expect(clippy::cast_possible_truncation, reason = "below a length in memory")]
            let slice = bytes.slice(first as usize..=last as usize);
            (StatusCode::PARTIAL_CONTENT, told, slice).into_response()
        }
        Some(Wanted::Nothing) => {
            let told = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            (StatusCode::RANGE_NOT_SATISFIABLE, told).into_response()
        }
        Some(Wanted::All) | None => bytes.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// A header that cannot be parsed is ignored, and several ranges are answered with the whole file, as RFC 9110
    /// permits.
    All,
    Part(RangeInclusive<u64>),
    /// The range is behind the end of the file.
    Nothing,
}

/// Parses a `Range` header for a file of `length` bytes.
fn range(header: &str, length: u64) -> Wanted {
    let Ok(parsed) = http_range_header::parse_range_header(header) else { return Wanted::All };
    match parsed.validate(length).as_deref() {
        Ok([one]) => Wanted::Part(one.clone()),
        Ok(_) => Wanted::All,
        Err(_) => Wanted::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_header_single_range_is_served_and_several_are_ignored() {
        for (header, wanted) in [
            ("bytes=0-", Wanted::Part(0..=99)),
            ("bytes=0-1", Wanted::Part(0..=1)),
            ("bytes=90-500", Wanted::Part(90..=99)),
            ("bytes=-10", Wanted::Part(90..=99)),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("bytes=100-", Wanted::Nothing),
        ] {
            assert_eq!(range(header, 100), wanted, "{header}");
        }
        assert_eq!(range("bytes=0-", 0), Wanted::Nothing);
    }

    async fn answer(headers: &[(&'static str, &str)]) -> (u16, String, HeaderMap) {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let response = part(Bytes::from_static(b"#EXTM3U\n"), &headers.collect());
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 100).await.unwrap();
        (parts.status.as_u16(), String::from_utf8(body.into()).unwrap(), parts.headers)
    }

    #[tokio::test]
    async fn part_with_matching_etag_is_304_and_stale_if_range_is_whole() {
        let (status, body, headers) = answer(&[]).await;
        assert_eq!((status, body.as_str()), (200, "#EXTM3U\n"));
        let tag = headers["etag"].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("\"other\", {tag}"), format!("W/{tag}"), "*".into()] {
            assert_eq!(answer(&[("if-none-match", &known)]).await.0, 304, "{known}");
        }
        assert_eq!(answer(&[("if-none-match", "\"other\"")]).await.0, 200);
        let (status, body, headers) = answer(&[("range", "bytes=1-3"), ("if-range", &tag)]).await;
        assert_eq!((status, body.as_str()), (206, "EXT"));
        assert_eq!(headers["content-range"], "bytes 1-3/8");
        assert_eq!(answer(&[("range", "bytes=1-3"), ("if-range", "\"other\"")]).await.0, 200);
        let (status, _, headers) = answer(&[("range", "bytes=8-")]).await;
        assert_eq!((status, &headers["content-range"]), (416, &HeaderValue::from_static("bytes */8")));
    }
}
