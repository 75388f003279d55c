//! Errors as RFC 9457 problem documents that say what to do.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::{KeyPrefix, Millis, ReachedLimit, Scope};
use crate::queue::QueueError;

/// The body of an error (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemBody {
    /// The kind of problem, as a stable relative URL, such as `/problems/invalid-field`.
    #[serde(rename = "type")]
    #[schemars(extend("format" = "uri-reference"))]
    pub kind: String,
    /// The title of the kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, and what to do.
    pub detail: String,
    /// The invalid field of the request, such as `outputQualities[1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// A kind of problem: its path, its title, and what to do about it.
type Kind = (&'static str, &'static str, &'static str);

/// All kinds of problems, by HTTP status.
pub(crate) const CATALOGUE: &[(u16, &[Kind])] = &[
    (
        400,
        &[(
            "malformed",
            "The request cannot be read",
            "Send a JSON object; the detail says where it is wrong.",
        )],
    ),
    (
        401,
        &[(
            "unauthorized",
            "A valid token is needed",
            "Send the header `Authorization: Bearer <token>`. The token is one of the server's API_TOKENS, or one that \
             `tcoder tokens create` made; ask whoever runs the server for one.",
        )],
    ),
    (
        403,
        &[
            (
                "address-expired",
                "The address has expired",
                "Addresses of outputs are valid for at least a day. Read the job again to get new ones.",
            ),
            (
                "address-not-signed",
                "The address is not signed",
                "Use the address as the job has it, whole and unchanged.",
            ),
            (
                "foreign-origin",
                "The request comes from a page of another site",
                "If the page is yours, add its origin to API_CORS_ORIGINS.",
            ),
            (
                "foreign-host",
                "The request names another host",
                "Set API_TOKENS, or name the server by localhost or by the host of API_PUBLIC_URL.",
            ),
            (
                "missing-scope",
                "The token does not permit this",
                "Use a token with the scope that the detail names, or have it added with `tcoder tokens change`.",
            ),
            (
                "administrators-only",
                "Only one of API_TOKENS permits this",
                "Use one of the server's API_TOKENS; no scope of another token permits it.",
            ),
            (
                "foreign-key",
                "The token does not permit this object",
                "Name an object below the key prefix of the token, or upload the video with POST /api/upload.",
            ),
        ],
    ),
    (
        404,
        &[
            (
                "no-such-job",
                "No such job",
                "Look at the id. Ended jobs are deleted after a while, by default a week, and a token without the scope \
                 `read` sees only its own.",
            ),
            ("no-such-token", "No such token", "`tcoder tokens list` shows the tokens that there are."),
            ("no-such-route", "No such route", "See /reference for the routes of the API."),
            (
                "no-such-file",
                "No such file",
                "Use the addresses that the job has. The file may also have been deleted from the bucket.",
            ),
        ],
    ),
    (405, &[("method-not-allowed", "Method not allowed", "Use one of the methods in the header `Allow`.")]),
    (
        409,
        &[(
            "conflict",
            "The job does not allow that",
            "Read the job: its state may have changed. For a new job, use a new jobId and Idempotency-Key.",
        )],
    ),
    (
        413,
        &[(
            "too-large",
            "The request is too large",
            "A body has at most 64 KiB. Upload the video itself to the uploadUrl of POST /api/upload.",
        )],
    ),
    (415, &[("not-json", "The request is not JSON", "Send the header `Content-Type: application/json`.")]),
    (
        422,
        &[(
            "invalid-field",
            "A field of the request cannot be used",
            "Correct the field that `field` names. /reference shows what each field takes.",
        )],
    ),
    (
        429,
        &[
            (
                "too-many-requests",
                "The token has sent too many requests",
                "Wait as many seconds as the header `Retry-After` says. To follow a job, use its event stream or a webhook \
                 instead of asking again and again.",
            ),
            (
                "limit-reached",
                "A limit of the token is reached",
                "Wait as many seconds as the header `Retry-After` says, or have the limit raised with `tcoder tokens change`.",
            ),
        ],
    ),
    (
        500,
        &[(
            "file-too-large",
            "The file is too large to be answered",
            "Fetch the playlist from the bucket itself.",
        )],
    ),
    (
        503,
        &[
            (
                "unavailable",
                "tcoder cannot answer now",
                "Try again after as many seconds as `Retry-After` says.",
            ),
            (
                "not-ready",
                "The segment is not encoded yet",
                "Ask for it again after a second, as players do by themselves.",
            ),
            (
                "too-many-waiting",
                "Too many requests wait for this video",
                "Ask again after as many seconds as `Retry-After` says, as players do by themselves.",
            ),
            (
                "too-many-streams",
                "Too many event streams are open",
                "Close some, or read the job with GET /api/jobs/{id} instead.",
            ),
        ],
    ),
];

/// An error response.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    field: Option<String>,
    /// Seconds after which the client may retry; only with the statuses 429 and 503.
    retry_after: u32,
}

/// For failures that pass within seconds, seconds.
const SOON: u32 = 5;
/// For failures that an operator has to fix, seconds.
const LATER: u32 = 600;

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), field: None, retry_after: SOON }
    }

    /// A field of the request is invalid.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let title = "A field of the request cannot be used";
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", title, detail);
        problem.field = Some(field.into());
        problem
    }

    /// The body is not valid JSON.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request cannot be read", detail)
    }

    /// The body is too large.
    pub fn too_large() -> Self {
        let detail = "the request body may have 64 KiB; upload the video itself to the uploadUrl";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large", detail)
    }

    /// The body has the wrong content type.
    pub fn not_json() -> Self {
        let detail = "send the body as JSON, with the header `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", "The request is not JSON", detail)
    }

    /// No job has this id.
    pub fn no_such_job() -> Self {
        let detail = "no job has this id; ended jobs are deleted after a while, by default a week";
        Self::new(StatusCode::NOT_FOUND, "no-such-job", "No such job", detail)
    }

    /// The signed address of an output expired at this time.
    pub fn address_expired(at: Millis) -> Self {
        let detail = format!("the address expired at {at}; read the job again to get new addresses");
        Self::new(StatusCode::FORBIDDEN, "address-expired", "The address has expired", detail)
    }

    /// The signature in the address of an output is missing or wrong.
    pub fn address_not_signed() -> Self {
        let detail = "use the address as the job has it, whole and unchanged; where R2_SECRET_ACCESS_KEY was \
                      changed since, read the job again; all parts of an installation that give addresses must \
                      have the same R2_SECRET_ACCESS_KEY";
        Self::new(StatusCode::FORBIDDEN, "address-not-signed", "The address is not signed", detail)
    }

    /// A page of another site sent a request that may change something.
    pub fn foreign_origin() -> Self {
        let detail = "a page of another site sent this request; if the page is yours, add its origin to API_CORS_ORIGINS, or, \
                      behind a proxy that changes the header Host, set API_PUBLIC_URL";
        let title = "The request comes from a page of another site";
        Self::new(StatusCode::FORBIDDEN, "foreign-origin", title, detail)
    }

    /// The API needs no token, and the request names it by a host that others may control.
    pub fn foreign_host() -> Self {
        let detail = "without API_TOKENS this API answers only at localhost, 127.0.0.1, [::1] and the host of \
                      API_PUBLIC_URL: otherwise a web page could read it by a name of its own; set one of the two, or use one \
                      of these names";
        Self::new(StatusCode::FORBIDDEN, "foreign-host", "The request names another host", detail)
    }

    /// The attempt has no such file.
    pub fn no_such_file() -> Self {
        let detail = "the job has no file of this name, or it was deleted from the bucket";
        Self::new(StatusCode::NOT_FOUND, "no-such-file", "No such file", detail)
    }

    /// The segment is still encoded; players repeat the request.
    pub fn segment_not_ready() -> Self {
        let detail = "this part of the video is being encoded; ask for it again";
        let mut problem =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "The segment is not encoded yet", detail);
        problem.retry_after = 1;
        problem
    }

    /// Too many requests wait for segments already. Players repeat a request after this status, and not after 429.
    pub fn too_many_waiting() -> Self {
        let detail = "too many requests wait for parts of videos that are not encoded yet: for this video, from this client, or \
                      altogether; ask again in a few seconds";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-waiting",
            "Too many requests wait for this video",
            detail,
        )
    }

    /// Too many event streams are open, of this client or altogether.
    pub fn too_many_streams() -> Self {
        let detail = "too many event streams are open, of this client or altogether; close some, or read the job with \
                      GET /api/jobs/{id} instead";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-streams",
            "Too many event streams are open",
            detail,
        )
    }

    /// The API does not serve this playlist, because it has more than `limit` bytes.
    pub fn file_too_large(limit: u64) -> Self {
        let detail = format!("this playlist has more than {limit} bytes; fetch it from the bucket itself");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "file-too-large",
            "The file is too large to be answered",
            detail,
        )
    }

    /// The request contradicts the state of the job.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "The job does not allow that", detail)
    }

    /// The token is missing or wrong.
    pub fn unauthorized() -> Self {
        let detail = "send a valid token in the header `Authorization: Bearer <token>`: one of API_TOKENS, or one that \
                      `tcoder tokens create` made";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed", detail)
    }

    /// The token does not have the scope that the request needs.
    pub fn missing_scope(scope: Scope) -> Self {
        let detail =
            format!("the token does not have the scope `{scope}`, which this needs; use one that has it");
        Self::new(StatusCode::FORBIDDEN, "missing-scope", "The token does not permit this", detail)
    }

    /// The request needs one of `API_TOKENS`.
    pub fn administrators_only() -> Self {
        let detail = "only one of API_TOKENS permits this, whatever the scopes of another token";
        let title = "Only one of API_TOKENS permits this";
        Self::new(StatusCode::FORBIDDEN, "administrators-only", title, detail)
    }

    /// The token may not name this object.
    pub fn foreign_key(prefix: Option<&KeyPrefix>) -> Self {
        let detail = match prefix {
            Some(prefix) => format!("the token may name objects below {prefix} only; upload the video instead"),
            None => "the token may name no objects of the bucket, because it has no key prefix; upload the video instead"
                .into(),
        };
        Self::new(StatusCode::FORBIDDEN, "foreign-key", "The token does not permit this object", detail)
    }

    /// No token has this name.
    pub fn no_such_token() -> Self {
        let detail = "no token has this name; `tcoder tokens list` shows those that there are";
        Self::new(StatusCode::NOT_FOUND, "no-such-token", "No such token", detail)
    }

    /// The token may send no request for the moment.
    pub fn too_many_requests(pause: Duration) -> Self {
        let detail = "the token has sent all the requests that it may send in a minute; wait as long as Retry-After says";
        let title = "The token has sent too many requests";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", title, detail).after(pause)
    }

    /// The token may submit and retry no job for the moment.
    pub fn limit_reached(limit: ReachedLimit, pause: Duration) -> Self {
        let detail = match limit {
            ReachedLimit::JobsPerHour => "all the jobs that the token may submit in an hour are submitted",
            ReachedLimit::OpenJobs => "as many jobs of the token have not ended as it may have at once",
            ReachedLimit::SourceMinutesPerDay => "the token has used its minutes of video of this day",
        };
        let detail = format!("{detail}; wait as long as Retry-After says");
        let title = "A limit of the token is reached";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "limit-reached", title, detail).after(pause)
    }

    /// The same, to be repeated after this pause.
    fn after(mut self, pause: Duration) -> Self {
        let seconds = u32::try_from(pause.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        self.retry_after = seconds.max(1);
        self
    }

    /// tcoder cannot serve the request at the moment.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let title = "tcoder cannot answer now";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", title, detail)
    }
}

impl From<Problem> for ProblemBody {
    fn from(problem: Problem) -> Self {
        Self {
            kind: format!("/problems/{}", problem.kind),
            title: problem.title.to_owned(),
            status: problem.status.as_u16(),
            detail: problem.detail,
            field: problem.field,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after);
        let mut response = (status, Json(ProblemBody::from(self))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
        }
        response
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        Self::from(&error)
    }
}

impl From<&QueueError> for Problem {
    fn from(error: &QueueError) -> Self {
        // The logged error may name parts of the installation; the caller needs only the essence.
        tracing::error!(%error, "the queue failed");
        match error {
            QueueError::Quota(_) => Self {
                retry_after: LATER,
                ..Self::unavailable(
                    "the request quota of the job queue's Redis is used up; the operator of this installation has \
                     to raise the limit of its plan at the Redis provider, or to wait until the quota is renewed",
                )
            },
            QueueError::Data(_) => Self::unavailable(
                "what the job queue holds about this cannot be read here: it is of another version of tcoder; run the \
                 same one everywhere",
            ),
            _ => Self::unavailable("the job queue does not answer; try again in a few seconds"),
        }
    }
}

/// `GET /problems/{kind}`: the page that the `type` of a problem points to.
pub(crate) async fn explain(uri: Uri) -> Result<String, Problem> {
    match described(uri.path().rsplit('/').next().unwrap_or_default()) {
        Some(text) => Ok(text),
        None => Err(no_such_route(uri).await),
    }
}

fn described(asked: &str) -> Option<String> {
    CATALOGUE.iter().find_map(|(status, kinds)| {
        let (_, title, advice) = kinds.iter().find(|(kind, ..)| *kind == asked)?;
        Some(format!(
            "{title} (HTTP {status})\n\n{advice}\n\nThe `detail` of the answer says what happened in this case.\n"
        ))
    })
}

/// The response for unknown paths.
pub(crate) async fn no_such_route(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}; the API's routes begin with /api/", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no-such-route", "No such route", detail)
}

/// The response if the path exists but does not support the method.
pub(crate) async fn method_not_allowed() -> Problem {
    let detail = "this path takes other methods; see the Allow header";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_constructors_match_the_catalogue() {
        let all = [
            Problem::field("a", "b"),
            Problem::malformed("a"),
            Problem::too_large(),
            Problem::not_json(),
            Problem::no_such_job(),
            Problem::address_expired(Millis(0)),
            Problem::address_not_signed(),
            Problem::foreign_origin(),
            Problem::foreign_host(),
            Problem::no_such_file(),
            Problem::file_too_large(1),
            Problem::conflict("a"),
            Problem::unauthorized(),
            Problem::missing_scope(Scope::Read),
            Problem::administrators_only(),
            Problem::foreign_key(None),
            Problem::no_such_token(),
            Problem::too_many_requests(Duration::ZERO),
            Problem::limit_reached(ReachedLimit::OpenJobs, Duration::ZERO),
            Problem::unavailable("a"),
            Problem::too_many_streams(),
            Problem::too_many_waiting(),
            Problem::segment_not_ready(),
        ];
        for problem in all {
            let kinds = CATALOGUE.iter().find(|(status, _)| *status == problem.status.as_u16()).unwrap().1;
            let is_known =
                kinds.iter().any(|(kind, title, _)| (*kind, *title) == (problem.kind, problem.title));
            assert!(is_known, "{problem:?}");
        }
    }
}
