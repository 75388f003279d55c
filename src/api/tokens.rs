//! Creates, lists, changes and deletes the tokens that have a name. Only callers with one of `API_TOKENS` may.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::extract::{Body, Fields};
use super::{AppState, Problem, auth};
use crate::job::{KeyPrefix, Scope, Token, TokenLimits, TokenName};
use crate::queue::TokenHash;
use crate::storage::urls::now_millis;

/// What a token permits: the body of `PUT /api/tokens/{name}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "TokenPermissions", extend("required" = ["scopes"]))]
pub struct TokenPermissions {
    /// The scopes, at least one.
    pub scopes: BTreeSet<Scope>,
    /// The folder of the input bucket whose objects may be named as `inputKey`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<KeyPrefix>,
    /// How much the token may do.
    #[serde(flatten)]
    pub limits: TokenLimits,
}

/// The body of `POST /api/tokens`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "CreateTokenRequest", extend("required" = ["name", "scopes"]))]
pub struct CreateTokenRequest {
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<TokenName>,
    /// What it permits.
    #[serde(flatten)]
    pub permissions: TokenPermissions,
}

/// A token with its secret, which is shown only once.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// The text to send in the header `Authorization: Bearer <token>`. The installation keeps only its hash.
    pub token: String,
    /// What is known about it.
    #[serde(flatten)]
    pub about: Token,
}

/// Without the secret.
impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.fmt(f)
    }
}

/// The response to `GET /api/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TokenList {
    /// The tokens, by name.
    pub tokens: Vec<Token>,
}

const PERMISSIONS: &[&str] =
    &["scopes", "keyPrefix", "requestsPerMinute", "jobsPerHour", "openJobs", "sourceMinutesPerDay"];

impl Fields for TokenPermissions {
    const OWN: &'static [&'static str] = PERMISSIONS;
    const COMMON: &'static [&'static str] = &[];
}

impl Fields for CreateTokenRequest {
    const OWN: &'static [&'static str] = &["name"];
    const COMMON: &'static [&'static str] = PERMISSIONS;
}

impl TokenPermissions {
    fn checked(self) -> Result<Self, Problem> {
        if self.scopes.is_empty() {
            return Err(Problem::field("scopes", "name at least one of submit, read and operate"));
        }
        for (name, limit, most) in self.limits.named() {
            if limit.is_some_and(|limit| limit == 0 || limit > most) {
                let detail = format!("it must be a number from 1 to {most}; leave it out for no limit");
                return Err(Problem::field(name, detail));
            }
        }
        Ok(self)
    }

    fn of(self, name: TokenName, token: Option<&Token>) -> Token {
        Token {
            name,
            scopes: self.scopes,
            key_prefix: self.key_prefix,
            limits: self.limits,
            created_at: token.map_or_else(now_millis, |token| token.created_at),
        }
    }
}

/// A new secret: 244 random bits behind a word by which scanners of secrets can find it.
fn new_secret() -> String {
    format!("{}{}{}", auth::SECRET_PREFIX, Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The response with a secret, which nothing may store on its way.
fn issued(status: StatusCode, token: String, about: Token) -> Response {
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, no_store, Json(IssuedToken { token, about })).into_response()
}

/// Parses the name in the path. Anything that is not a name names no token.
fn parse_name(path: Result<Path<String>, PathRejection>) -> Result<TokenName, Problem> {
    path.ok().and_then(|Path(text)| text.parse().ok()).ok_or_else(Problem::no_such_token)
}

impl AppState {
    async fn token(&self, name: &TokenName) -> Result<Token, Problem> {
        self.queue.token(name).await?.ok_or_else(Problem::no_such_token)
    }
}

/// `GET /api/tokens`
pub(crate) async fn list(State(app): State<Arc<AppState>>) -> Result<Json<TokenList>, Problem> {
    Ok(Json(TokenList { tokens: app.queue.tokens().await? }))
}

/// `POST /api/tokens`
pub(crate) async fn create(
    State(app): State<Arc<AppState>>,
    Body(body): Body<CreateTokenRequest>,
) -> Result<Response, Problem> {
    if app.config.tokens.is_empty() {
        let detail = "without API_TOKENS everybody may do everything, and a token would change nothing; set \
                      API_TOKENS first";
        return Err(Problem::conflict(detail));
    }
    let name = body.name.ok_or_else(|| Problem::field("name", "give the token a name"))?;
    let token = body.permissions.checked()?.of(name, None);
    let secret = new_secret();
    if !app.queue.create_token(&token, &TokenHash::of(&secret)).await? {
        let detail =
            "there is a token with this name; change it with PUT /api/tokens/{name}, or choose another name";
        return Err(Problem::conflict(detail));
    }
    tracing::info!(token = %token.name, "token created");
    Ok(issued(StatusCode::CREATED, secret, token))
}

/// `PUT /api/tokens/{name}`
pub(crate) async fn change(
    State(app): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
    Body(body): Body<TokenPermissions>,
) -> Result<Json<Token>, Problem> {
    let before = app.token(&parse_name(name)?).await?;
    let token = body.checked()?.of(before.name.clone(), Some(&before));
    if !app.queue.change_token(&token).await? {
        return Err(Problem::no_such_token());
    }
    tracing::info!(token = %token.name, "token changed");
    Ok(Json(token))
}

/// `POST /api/tokens/{name}/rotate`
pub(crate) async fn rotate(
    State(app): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let (name, secret) = (parse_name(name)?, new_secret());
    let token = app.queue.rotate_token(&name, &TokenHash::of(&secret)).await?;
    let token = token.ok_or_else(Problem::no_such_token)?;
    tracing::info!(token = %token.name, "secret of a token replaced");
    Ok(issued(StatusCode::OK, secret, token))
}

/// `DELETE /api/tokens/{name}`
pub(crate) async fn delete(
    State(app): State<Arc<AppState>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let name = parse_name(name)?;
    if !app.queue.delete_token(&name).await? {
        return Err(Problem::no_such_token());
    }
    tracing::info!(token = %name, "token deleted");
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::super::extract::parse;
    use super::*;

    #[test]
    fn create_token_request_names_the_field_that_cannot_be_used() {
        let of = |body: &str| {
            let body = parse::<CreateTokenRequest>(body.as_bytes())?;
            body.permissions.checked().map(drop)
        };
        for (body, field) in [
            (r#"{"name":"a","scopes":["submit"],"openJobs":1000,"keyPrefix":"films/"}"#, None),
            (r#"{"name":"A","scopes":["submit"]}"#, Some("name")),
            (r#"{"name":"a"}"#, Some("scopes")),
            (r#"{"name":"a","scopes":["admin"]}"#, Some("scopes[0]")),
            (r#"{"name":"a","scopes":["read"],"openJobs":1001}"#, Some("openJobs")),
            (r#"{"name":"a","scopes":["read"],"jobsPerHour":0}"#, Some("jobsPerHour")),
            (r#"{"name":"a","scopes":["read"],"jobsPerHour":-1}"#, Some("jobsPerHour")),
            (r#"{"name":"a","scopes":["read"],"keyPrefix":"/"}"#, Some("keyPrefix")),
            (r#"{"name":"a","scopes":["read"],"token":"x"}"#, Some("token")),
        ] {
            let problem = of(body).err().map(super::super::ProblemBody::from);
            assert_eq!(problem.and_then(|problem| problem.field).as_deref(), field, "{body}");
        }
    }

    #[test]
    fn secrets_are_long_and_never_the_same() {
        let (one, other) = (new_secret(), new_secret());
        assert!(one != other && auth::is_secret(&one) && auth::is_secret(&other));
    }
}
