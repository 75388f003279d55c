//! Serves the API: the router of `tcoder api`.

use axum::body::Body;
use axum::http::Response;
use axum::response::IntoResponse as _;
use tower::ServiceExt as _;

use super::works::Works;
use crate::api::{self, Problem};

/// Answers a request.
pub async fn fetch(request: worker::HttpRequest, env: worker::Env) -> Response<Body> {
    match Works::new(&env) {
        Ok(works) => match api::router(works.app()).oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        },
        Err(incomplete) => {
            tracing::error!("{incomplete}");
            match request.uri().path() {
                "/healthz" => "ok\n".into_response(),
                "/readyz" => Problem::unavailable(incomplete.to_string()).into_response(),
                _ => Problem::unavailable(
                    "this installation is not complete; GET /readyz says what is missing",
                )
                .into_response(),
            }
        }
    }
}
