//! Closes the connection after refusing a request whose body the client did not send.
//!
//! A client that sends `Expect: 100-continue` and is refused need not send the body (RFC 9110, 10.1.1), and its next
//! request must not be mistaken for the body.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, Request, Response};
use tower::Service;

#[derive(Clone)]
pub(in crate::standalone) struct CloseAfterRefusal<S>(pub S);

impl<S, A, B> Service<Request<A>> for CloseAfterRefusal<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let waits = request.headers().contains_key(EXPECT);
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            if waits && !answer.status().is_success() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer)
        })
    }
}
