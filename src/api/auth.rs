//! Authentication by bearer token. Without configured tokens everybody may call.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{AppState, Problem};

/// Passes a request on if it has a valid token, or if no tokens are configured.
pub(crate) async fn require_token(
    State(app): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    if allowed(&app.config.tokens, request.headers()) {
        next.run(request).await
    } else {
        Problem::unauthorized().into_response()
    }
}

fn allowed(tokens: &[SecretString], headers: &HeaderMap) -> bool {
    tokens.is_empty() || caller(tokens, headers).is_some()
}

/// Returns the hash of the configured token that the request carries, which identifies the caller.
pub(crate) fn caller(tokens: &[SecretString], headers: &HeaderMap) -> Option<[u8; 32]> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, given) = given.and_then(|value| value.split_once(' '))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    // All hashes have the same length and every token is compared, so the duration reveals nothing about a token.
    let given = Sha256::digest(given.trim());
    let matches = tokens.iter().map(|t| Sha256::digest(t.expose_secret()).ct_eq(&given).unwrap_u8());
    (matches.fold(0, |any, one| any | one) == 1).then(|| given.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn auth_without_tokens_admits_everybody() {
        assert!(allowed(&[], &HeaderMap::new()));
    }

    #[test]
    fn auth_with_tokens_admits_only_their_bearers() {
        let tokens = ["first-token-0001".into(), "second-token-002".into()];
        assert!(allowed(&tokens, &header("Bearer first-token-0001")));
        assert!(allowed(&tokens, &header("bearer second-token-002")));
        for wrong in
            ["Bearer", "Bearer ", "Bearer first-token-000", "Basic first-token-0001", "first-token-0001"]
        {
            assert!(!allowed(&tokens, &header(wrong)), "{wrong}");
        }
        assert!(!allowed(&tokens, &HeaderMap::new()));
    }
}
