//! Serves the API and the storage at one address, so that both are behind one certificate, or one proxy. The path tells them
//! apart: that of an object begins with the name of its bucket.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use hyper::body::{Frame, Incoming, SizeHint};
use tower::{BoxError, Service, ServiceExt as _};

use crate::keyed_semaphore::{KeyedPermit, KeyedSemaphore};

/// Maximum number of requests to the storage at once: a quarter of the connections of a server. Uploads and downloads of
/// whole films take long, and must not keep the API from answering.
const MAX_STORAGE_REQUESTS: usize = 128;

/// The service of the address.
#[derive(Clone)]
pub(super) struct PublicPort<S> {
    api: Router,
    storage: S,
    buckets: [String; 2],
    storage_requests: KeyedSemaphore<()>,
}

impl<S> PublicPort<S> {
    /// Serves the API, and the storage below the names of its buckets.
    pub(super) fn new(api: Router, storage: S, buckets: [String; 2]) -> Self {
        Self { api, storage, buckets, storage_requests: KeyedSemaphore::new(MAX_STORAGE_REQUESTS) }
    }
}

/// The body of a response of the storage, which counts until it has been sent.
struct CountedBody {
    body: Body,
    _permit: KeyedPermit<()>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The response of a storage that has too many requests, as S3 gives it.
fn slow_down() -> Response<Body> {
    let text = "<Error><Code>SlowDown</Code><Message>Too many requests at once; try again.</Message></Error>";
    let headers = [
        (header::CONTENT_TYPE, "application/xml"),
        (header::RETRY_AFTER, "1"),
        // The body of the request was not read.
        (header::CONNECTION, "close"),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, headers, text).into_response()
}

impl<S, B> Service<Request<Incoming>> for PublicPort<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Each call waits until its service is ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        if is_of_bucket(request.uri().path(), &self.buckets) {
            let Some(permit) = self.storage_requests.try_acquire(()) else {
                return Box::pin(async { Ok(slow_down()) });
            };
            let storage = self.storage.clone();
            return Box::pin(async move {
                let response = storage.oneshot(request).await.map_err(Into::into)?;
                let counted = |body| Body::new(CountedBody { body: Body::new(body), _permit: permit });
                Ok(as_a_file(response.map(counted)))
            });
        }
        let api = self.api.clone();
        Box::pin(async move { Ok(api.oneshot(request).await?) })
    }
}

/// Whether the path is that of a bucket, or of an object in it.
fn is_of_bucket(path: &str, buckets: &[String]) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    path.starts_with('/') && !path.starts_with("//") && buckets.iter().any(|bucket| bucket == first)
}

/// A response that browsers never take for a page of the API: objects come from strangers, and a page of the same address
/// could use the token that somebody has entered there.
fn as_a_file(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_an_object_begins_with_its_bucket() {
        let buckets = ["input".to_owned(), "output".to_owned()];
        for path in ["/input", "/input/", "/input/a.mp4", "/output/outputs/a/b"] {
            assert!(is_of_bucket(path, &buckets), "{path}");
        }
        for path in ["", "/", "input", "//input/a", "/inputs/a", "/api/input", "/api/jobs/input", "/INPUT/a"]
        {
            assert!(!is_of_bucket(path, &buckets), "{path}");
        }
    }
}
