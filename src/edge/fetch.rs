//! The `fetch` handler: serves the API by the router of `tcoder api`.

use axum::body::Body;
use axum::http::Response;
use axum::response::IntoResponse as _;
use tower::ServiceExt as _;

use super::context::EdgeContext;
use crate::api::{self, Problem};

/// Answers an HTTP request.
pub async fn fetch(request: worker::HttpRequest, env: worker::Env) -> Response<Body> {
    match EdgeContext::new(&env) {
        Ok(context) => match api::router(context.app()).oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        },
        Err(incomplete) => {
            tracing::error!("{incomplete}");
            match request.uri().path() {
                "/livez" => "ok\n".into_response(),
                "/readyz" => Problem::unavailable(incomplete.to_string()).into_response(),
                _ => Problem::unavailable(
                    "this installation is not complete; GET /readyz says what is missing",
                )
                .into_response(),
            }
        }
    }
}
