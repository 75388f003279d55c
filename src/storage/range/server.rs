//! An HTTP server on this machine that offers one input to FFmpeg.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::service_fn;
use url::Url;

use super::reader::{RangeCounts, Reader};
use super::source::RangeSource;
use crate::hex::hex;
use crate::http_server::{ServerLimits, serve};
use crate::storage::error::StorageError;

/// Number of bytes that the kernel, and the server beside it, keep for a connection: what FFmpeg does not read any more
/// was fetched in vain.
const BUFFER: u32 = 16 << 10;
/// Time that running responses get at a shutdown. Their reader is gone then.
const GRACE: Duration = Duration::from_millis(50);

/// Serves one input at an address that cannot be guessed, to programs on this machine. Dropping it ends the server and
/// its connections.
pub struct RangeServer {
    url: Url,
    reader: Arc<Reader>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl fmt::Debug for RangeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the address, which gives access.
        f.debug_struct("RangeServer").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl RangeServer {
    /// Starts a server for `source` on a free port of the loopback interface, with at most `connections` at a time. Each of
    /// them holds at most two windows. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub fn start(source: Arc<dyn RangeSource>, connections: usize) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Accepted connections inherit it. By default the kernel would take several MB that FFmpeg may never read.
        socket.set_send_buffer_size(BUFFER)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let listener = socket.listen(u32::try_from(connections).unwrap_or(u32::MAX))?;
        let address = listener.local_addr()?;
        let token: [u8; 16] = rand::random();
        let url = format!("http://{address}/{}/input", hex(&token));
        let url: Url = url.parse().map_err(io::Error::other)?;
        let (path, reader): (Arc<str>, _) = (url.path().into(), Arc::new(Reader::new(source)));
        let service = service_fn({
            let reader = Arc::clone(&reader);
            move |request: Request<hyper::body::Incoming>| {
                let response = respond(&path, &reader, &request);
                async { Ok::<_, Infallible>(response) }
            }
        });
        let limits = ServerLimits {
            connections,
            grace: GRACE,
            buffer: Some(BUFFER as usize),
            ..ServerLimits::default()
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, service, limits, stop.clone()));
        Ok(Self { url, reader, stop, task: AbortOnDropHandle::new(task) })
    }

    /// The address for FFmpeg. Its path is a secret: a process that knows it can read the input.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// What was read and served so far.
    #[must_use]
    pub fn counts(&self) -> RangeCounts {
        self.reader.counts()
    }

    /// The first error that ended a response, once. FFmpeg treats such an end as the end of a damaged file, and may
    /// exit successfully: ask for the failure in any case.
    #[must_use]
    pub fn take_failure(&self) -> Option<StorageError> {
        self.reader.take_failure()
    }

    /// Ends the server and its connections, and returns when they are closed.
    pub async fn stop(self) {
        self.stop.cancel();
        // It fails only if the server panicked, and then it has ended, too.
        let _ = self.task.await;
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    /// The range is behind the end.
    Nothing,
}

/// Reads the range of a request for an input of `size` bytes with this entity tag. A header that cannot be parsed is
/// ignored, and several ranges are answered with the whole input, as RFC 9110 permits.
fn wanted(headers: &HeaderMap, size: u64, etag: &str) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(range) = text(header::RANGE) else { return Wanted::All };
    if headers.contains_key(header::IF_RANGE) && text(header::IF_RANGE) != Some(etag) {
        return Wanted::All;
    }
    let Ok(parsed) = http_range_header::parse_range_header(range) else { return Wanted::All };
    match parsed.validate(size).as_deref() {
        Ok([one]) => Wanted::Part(*one.start()..one.end().saturating_add(1)),
        Ok(_) => Wanted::All,
        Err(_) => Wanted::Nothing,
    }
}

fn respond<B>(path: &str, reader: &Arc<Reader>, request: &Request<B>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    if request.uri().path() != path {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let is_head = request.method() == Method::HEAD;
    if !is_head && request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (size, etag) = (reader.source().size(), reader.source().etag());
    // RFC 9110 defines ranges for GET only.
    let wanted = if is_head { Wanted::All } else { wanted(request.headers(), size, etag) };
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // FFmpeg then recognises the format by the bytes alone, as in a file.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    let (status, range, told) = match wanted {
        Wanted::All => (StatusCode::OK, 0..size, None),
        Wanted::Part(part) => {
            let told = format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1));
            (StatusCode::PARTIAL_CONTENT, part, Some(told))
        }
        Wanted::Nothing => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0, Some(format!("bytes */{size}"))),
    };
    headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    if let Some(told) = told.and_then(|told| HeaderValue::from_str(&told).ok()) {
        headers.insert(header::CONTENT_RANGE, told);
    }
    if !is_head && !range.is_empty() {
        *response.body_mut() = Body::from_stream(Arc::clone(reader).stream(range));
    }
    *response.status_mut() = status;
    response
}

/// What [`wanted`] promises, for `crate::fuzz`: the first eight bytes are the size, the rest are the lines
/// `Range` and `If-Range`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_range_request(bytes: &[u8]) {
    let Some((size, rest)) = bytes.split_first_chunk() else { return };
    let size = u64::from_be_bytes(*size);
    let mut lines = rest.splitn(2, |byte| *byte == b'\n').map(HeaderValue::from_bytes);
    let mut headers = HeaderMap::new();
    for name in [header::RANGE, header::IF_RANGE] {
        let Some(Ok(value)) = lines.next() else { break };
        headers.insert(name, value);
    }
    if let Wanted::Part(part) = wanted(&headers, size, "\"a\"") {
        assert!(part.start < part.end && part.end <= size, "{headers:?} of {size}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn range_header_single_range_is_served_and_several_are_ignored() {
        for (header, want) in [
            ("bytes=0-", Wanted::Part(0..100)),
            ("bytes=7-7", Wanted::Part(7..8)),
            ("bytes=90-500", Wanted::Part(90..100)),
            ("bytes=-10", Wanted::Part(90..100)),
            ("bytes=-500", Wanted::Part(0..100)),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=", Wanted::All),
            ("bytes=9-8", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("bytes=100-", Wanted::Nothing),
        ] {
            assert_eq!(wanted(&headers(&[("range", header)]), 100, "\"a\""), want, "{header}");
        }
        assert_eq!(wanted(&HeaderMap::new(), 100, "\"a\""), Wanted::All);
    }

    #[test]
    fn range_of_another_version_is_ignored() {
        for (tag, want) in [("\"a\"", Wanted::Part(1..3)), ("\"b\"", Wanted::All), ("W/\"a\"", Wanted::All)] {
            assert_eq!(wanted(&headers(&[("range", "bytes=1-2"), ("if-range", tag)]), 100, "\"a\""), want);
        }
    }

    proptest! {
        #[test]
        fn range_header_never_leads_outside_the_input(text in "bytes=[0-9]{0,4}-[0-9]{0,4}", size in 1..2000_u64) {
            if let Wanted::Part(part) = wanted(&headers(&[("range", &text)]), size, "\"a\"") {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
