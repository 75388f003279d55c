//! Authentication by bearer token, and what each caller may do. Without `API_TOKENS` everybody may do everything.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{AppState, Problem};
use crate::job::{Job, ObjectKey, Scope, Token, TokenName};
use crate::queue::{Authentication, Owner, Queue, QueueError, TokenHash};

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Somebody with one of `API_TOKENS`, whose hash this is; without `API_TOKENS`, anybody.
    Administrator([u8; 32]),
    /// Somebody with a token that has a name.
    Token {
        /// What the token permits.
        token: Arc<Token>,
        /// The secret that was sent.
        secret: TokenHash,
    },
}

impl Caller {
    /// The caller of a request with these headers.
    async fn of(tokens: &[SecretString], queue: &Queue, headers: &HeaderMap) -> Result<Self, Problem> {
        if tokens.is_empty() {
            return Ok(Self::Administrator([0; 32]));
        }
        let secret = bearer(headers).ok_or_else(Problem::unauthorized)?;
        if let Some(hash) = hash_if_known(tokens, secret) {
            return Ok(Self::Administrator(hash));
        }
        // Redis is not asked about what cannot be a token.
        if !is_secret(secret) {
            return Err(Problem::unauthorized());
        }
        let secret = TokenHash::of(secret);
        match queue.authenticate(&secret).await? {
            Authentication::Token(token) => Ok(Self::Token { token: token.into(), secret }),
            Authentication::TooManyRequests(pause) => Err(Problem::too_many_requests(pause)),
            Authentication::Unknown => Err(Problem::unauthorized()),
        }
    }

    /// The caller with what the token permits now; `None` if its secret is no longer that of a token.
    pub(super) async fn renewed(&self, queue: &Queue) -> Result<Option<Self>, QueueError> {
        let Self::Token { secret, .. } = self else { return Ok(Some(self.clone())) };
        let token = queue.token_with_secret(secret).await?;
        Ok(token.map(|token| Self::Token { token: token.into(), secret: secret.clone() }))
    }

    /// Distinguishes callers by the tokens that they have. A token keeps its identity when its secret is replaced.
    pub(super) fn identity(&self) -> [u8; 32] {
        match self {
            Self::Administrator(hash) => *hash,
            Self::Token { token, .. } => Sha256::digest(format!("token {}", token.name)).into(),
        }
    }

    fn permits(&self, scope: Scope) -> bool {
        match self {
            Self::Administrator(_) => true,
            Self::Token { token, .. } => token.permits(scope),
        }
    }

    /// Checks that the caller may do this.
    pub(super) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.permits(scope) { Ok(()) } else { Err(Problem::missing_scope(scope)) }
    }

    /// Checks that the caller has one of `API_TOKENS`.
    pub(super) fn require_administrator(&self) -> Result<(), Problem> {
        match self {
            Self::Administrator(_) => Ok(()),
            Self::Token { .. } => Err(Problem::administrators_only()),
        }
    }

    /// The token to which the jobs of the caller belong, and its limits.
    pub(super) fn owner(&self) -> Option<Owner<'_>> {
        match self {
            Self::Administrator(_) => None,
            Self::Token { token, .. } => Some(Owner { name: &token.name, limits: token.limits }),
        }
    }

    /// The token whose jobs are all that the caller may see; `None` if it may see those of others.
    pub(super) fn sees_only(&self) -> Option<TokenName> {
        match self {
            Self::Token { token, .. } if !token.permits(Scope::Read) => Some(token.name.clone()),
            _ => None,
        }
    }

    /// Checks that the caller may read this job. A caller who may not is told that it does not exist.
    pub(super) fn may_read(&self, job: &Job) -> Result<(), Problem> {
        match self.sees_only() {
            Some(own) if job.owner.as_ref() != Some(&own) => Err(Problem::no_such_job()),
            _ => Ok(()),
        }
    }

    /// Checks that the caller may cancel or retry this job, or upload its video.
    pub(super) fn may_change(&self, job: &Job) -> Result<(), Problem> {
        self.may_read(job)?;
        match self {
            Self::Token { token, .. } if job.owner.as_ref() == Some(&token.name) => {
                if token.permits(Scope::Operate) { Ok(()) } else { self.require(Scope::Submit) }
            }
            _ => self.require(Scope::Operate),
        }
    }

    /// Whether the caller may change every job, so that the job need not be read before.
    pub(super) fn may_change_all(&self) -> bool {
        self.permits(Scope::Operate)
    }

    /// Checks that the caller may choose the ids of its jobs. Ids are also the names of folders in the buckets, and those of a
    /// job whose record has expired may still be there, so that a chosen id could lead to the files of somebody else.
    pub(super) fn may_choose_id(&self) -> Result<(), Problem> {
        if self.sees_only().is_none() {
            return Ok(());
        }
        let detail = "this token may not choose the ids of its jobs; to repeat a request safely, send an Idempotency-Key";
        Err(Problem::field("jobId", detail))
    }

    /// Checks that the caller may submit a job for the object with this key.
    pub(super) fn may_name(&self, key: &ObjectKey) -> Result<(), Problem> {
        match self {
            Self::Token { token, .. } if !token.may_name(key) => {
                Err(Problem::foreign_key(token.key_prefix.as_ref()))
            }
            _ => Ok(()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().ok_or_else(Problem::unauthorized)
    }
}

/// Passes a request on with its [`Caller`], if it has a valid token or if no tokens are configured.
pub(crate) async fn authenticate(
    State(app): State<Arc<AppState>>,
    mut request: Request,
    next: Next,
) -> Response {
    match Caller::of(&app.config.tokens, &app.queue, request.headers()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Passes a request on if its caller has this scope.
pub(crate) async fn require_scope(
    State(scope): State<Scope>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match caller.require(scope) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Passes a request on if its caller has one of `API_TOKENS`.
pub(crate) async fn require_administrator(caller: Caller, request: Request, next: Next) -> Response {
    match caller.require_administrator() {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// What the secrets of tokens with a name begin with.
pub(super) const SECRET_PREFIX: &str = "tcoder_";

/// Whether the text has the form of the secret of a token with a name.
pub(super) fn is_secret(text: &str) -> bool {
    let digits = text.strip_prefix(SECRET_PREFIX).unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// The hash of the secret, if it is one of these tokens.
fn hash_if_known(tokens: &[SecretString], secret: &str) -> Option<[u8; 32]> {
    // All hashes have the same length and every token is compared, so the duration reveals nothing about a token.
    let given = Sha256::digest(secret);
    let matches = tokens.iter().map(|t| Sha256::digest(t.expose_secret()).ct_eq(&given).unwrap_u8());
    (matches.fold(0, |any, one| any | one) == 1).then(|| given.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, Millis, TokenLimits};

    #[test]
    fn bearer_is_the_token_of_the_scheme() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            bearer(&headers).map(str::to_owned)
        };
        for good in ["Bearer one", "bearer one", "BEARER  one "] {
            assert_eq!(of(good).as_deref(), Some("one"), "{good}");
        }
        for wrong in ["Bearer", "Basic one", "one"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn hash_is_that_of_a_configured_token() {
        let tokens = ["first-token-0001".into(), "second-token-002".into()];
        let hashes = ["first-token-0001", "second-token-002"].map(|token| hash_if_known(&tokens, token));
        assert!(hashes[0].is_some() && hashes[1].is_some() && hashes[0] != hashes[1]);
        for wrong in ["", "first-token-000", "first-token-00011"] {
            assert_eq!(hash_if_known(&tokens, wrong), None, "{wrong}");
        }
    }

    fn caller(name: &str, scopes: &[Scope]) -> Caller {
        let token = Token {
            name: name.parse().unwrap(),
            scopes: scopes.iter().copied().collect(),
            key_prefix: None,
            limits: TokenLimits::default(),
            created_at: Millis(0),
        };
        Caller::Token { token: token.into(), secret: TokenHash::of(name) }
    }

    fn job_of(owner: Option<&str>) -> Job {
        let mut job = serde_json::json!({
            "jobId": JobId::new(), "status": "running", "attempt": 1, "epoch": 1, "progress": 0.0, "timestamps": {},
            "inputKey": "inputs/a.mp4",
        });
        if let Some(owner) = owner {
            job["owner"] = owner.into();
        }
        serde_json::from_value(job).unwrap()
    }

    /// Whether a call is answered, refused (403) or denies that the job exists (404).
    fn outcome(result: Result<(), Problem>) -> &'static str {
        match result.map_err(|problem| format!("{problem:?}")) {
            Ok(()) => "yes",
            Err(text) if text.contains("no-such-job") => "unknown",
            Err(text) if text.contains("missing-scope") => "no",
            Err(text) => panic!("{text}"),
        }
    }

    #[test]
    fn jobs_of_others_are_read_and_changed_only_by_scope() {
        use Scope::{Operate, Read, Submit};
        for (scopes, own, others) in [
            (&[][..], ("yes", "no"), ("unknown", "unknown")),
            (&[Submit], ("yes", "yes"), ("unknown", "unknown")),
            (&[Read], ("yes", "no"), ("yes", "no")),
            (&[Submit, Read], ("yes", "yes"), ("yes", "no")),
            (&[Operate], ("yes", "yes"), ("yes", "yes")),
        ] {
            let caller = caller("films", scopes);
            for (job, expected) in [("films", own), ("news", others), ("", others)] {
                let job = job_of(Some(job).filter(|owner| !owner.is_empty()));
                let found = (outcome(caller.may_read(&job)), outcome(caller.may_change(&job)));
                assert_eq!(found, expected, "{scopes:?} {:?}", job.owner);
            }
        }
        let administrator = Caller::Administrator([1; 32]);
        assert_eq!(outcome(administrator.may_change(&job_of(Some("films")))), "yes");
    }

    #[test]
    fn identity_differs_between_tokens_and_not_between_their_secrets() {
        let identities =
            [caller("films", &[]), caller("news", &[Scope::Read]), Caller::Administrator([1; 32])];
        let identities = identities.map(|caller| caller.identity());
        assert!(identities[0] != identities[1] && identities[0] != identities[2]);
        assert_eq!(caller("films", &[Scope::Operate]).identity(), identities[0]);
    }
}
