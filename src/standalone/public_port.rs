//! Serves the API and the storage at one address, so that both are behind one certificate, or one proxy. The path tells them
//! apart: that of an object begins with the name of its bucket.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use tower::{BoxError, Service, ServiceExt as _};

/// The service of the address.
#[derive(Clone)]
pub(super) struct PublicPort<S> {
    /// The API.
    pub api: Router,
    /// The storage.
    pub storage: S,
    /// The names of the buckets.
    pub buckets: [String; 2],
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
            let storage = self.storage.clone();
            return Box::pin(async move {
                let response = storage.oneshot(request).await.map_err(Into::into)?;
                Ok(as_a_file(response.map(Body::new)))
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
