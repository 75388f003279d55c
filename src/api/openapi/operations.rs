//! The table of operations: the methods of each path, the types that they read and write, and their purpose.

use serde_json::{Map, Value, json};

use super::super::{
    CreateJobRequest, CreateTokenRequest, CreateUploadRequest, CreateUploadResponse, FleetAnswer,
    IssuedToken, PauseFleet, SignPartsRequest, SignedParts, SystemStatus, TokenList, TokenPermissions,
};
use super::examples;
use super::schemas::{SchemaOf, body, of};
use super::{Generators, response_name};
use crate::job::{Job, JobId, State, Token, TokenName};
use crate::queue::{Page, Stats};

/// A method of a path.
pub(super) struct Endpoint {
    pub method: &'static str,
    pub path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: &'static str,
    body: Option<SchemaOf>,
    /// Whether the body may be omitted.
    optional: bool,
    /// Whether it has the parameters of a listing.
    query: bool,
    idempotent: bool,
    /// Whether it is a stream that can be resumed after an interruption.
    stream: bool,
    answers: &'static [(u16, &'static str, Option<SchemaOf>)],
    pub problems: &'static [u16],
}

const PLAIN: Endpoint = Endpoint {
    method: "get",
    path: "",
    id: "",
    tag: "jobs",
    summary: "",
    description: "",
    body: None,
    optional: false,
    query: false,
    idempotent: false,
    stream: false,
    answers: &[],
    problems: &[401, 403, 429, 503],
};

/// The tags, each with a description of its operations.
pub(super) const TAGS: &[(&str, &str)] = &[
    ("uploads", "Sending videos from a client into storage"),
    ("jobs", "Creating, reading and controlling jobs"),
    ("fleet", "The machines that workers run on"),
    ("tokens", "The tokens with a name, which only holders of one of API_TOKENS may manage"),
    ("system", "The state of the installation"),
    ("webhooks", "What tcoder sends to the `webhookUrl` of a job"),
];

pub(super) const OPERATIONS: &[Endpoint] = &[
    Endpoint {
        method: "post",
        path: "/api/upload",
        id: "createUpload",
        tag: "uploads",
        summary: "Create a job and get an address to upload its video to",
        description: "PUT the video to the `uploadUrl` of the response; do not send a token with it. The job starts \
                      once the video has arrived. For a video of more than 16 MiB whose `fileSize` is given, \
                      `multipart` describes how to send it in parts.",
        body: Some(body::<CreateUploadRequest>),
        optional: true,
        idempotent: true,
        answers: &[
            (201, "The job waits for its video.", Some(of::<CreateUploadResponse>)),
            (200, "An earlier identical request created this job.", Some(of::<CreateUploadResponse>)),
        ],
        problems: &[400, 401, 403, 409, 413, 415, 422, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs",
        id: "submitJob",
        summary: "Create a job for a video that already exists",
        description: "The video is an object of the input bucket, `inputKey`, or is available at a public URL, \
                      `inputUrl`.",
        body: Some(body::<CreateJobRequest>),
        idempotent: true,
        answers: &[
            (201, "The job waits for a worker.", Some(of::<Job>)),
            (200, "An earlier identical request created this job.", Some(of::<Job>)),
        ],
        problems: &[400, 401, 403, 409, 413, 415, 422, 429, 503],
        ..PLAIN
    },
    Endpoint {
        path: "/api/jobs",
        id: "listJobs",
        summary: "List jobs, newest first, page by page",
        description: "A page that is not the last has a `nextCursor`: send it as `cursor` to get the next one. Jobs \
                      that have ended are kept for a week by default.",
        query: true,
        answers: &[(200, "A page of jobs.", Some(of::<Page>))],
        problems: &[400, 401, 403, 422, 429, 503],
        ..PLAIN
    },
    Endpoint {
        path: "/api/jobs/{id}",
        id: "getJob",
        summary: "Read a job",
        description: "The addresses in its outputs are made for this response and expire.",
        answers: &[(200, "The job.", Some(of::<Job>))],
        problems: &[401, 403, 404, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "delete",
        path: "/api/jobs/{id}",
        id: "cancelJob",
        summary: "Cancel a job that has not ended",
        description: "A running encode is stopped. The record of the job stays until it expires.",
        answers: &[(200, "The job, cancelled.", Some(of::<Job>))],
        problems: &[401, 403, 404, 409, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs/{id}/retry",
        id: "retryJob",
        summary: "Queue a job again that failed or was cancelled",
        description: "It starts with its full number of attempts. A job whose video never arrived cannot be retried.",
        answers: &[(200, "The job, queued.", Some(of::<Job>))],
        problems: &[401, 403, 404, 409, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs/{id}/parts",
        id: "signParts",
        tag: "uploads",
        summary: "Get addresses for the parts of a large video",
        description: "For an S3 multipart upload that was begun at the `startUrl` of the upload's response. The \
                      response also contains the addresses that complete and abort the upload.",
        body: Some(body::<SignPartsRequest>),
        answers: &[(200, "The addresses.", Some(of::<SignedParts>))],
        problems: &[400, 401, 403, 404, 409, 413, 415, 422, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs/{id}/uploaded",
        id: "confirmUpload",
        tag: "uploads",
        summary: "Report that the video has been uploaded",
        description: "Only needed where storage does not report new objects by itself. tcoder checks whether the \
                      video is in the bucket. Repeated reports have no effect.",
        answers: &[(200, "The job, queued or in a later state.", Some(of::<Job>))],
        problems: &[401, 403, 404, 409, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs/{id}/trigger-r2-event",
        id: "triggerR2Event",
        tag: "uploads",
        summary: "Report that the video has been uploaded, by the original TCoder's name",
        description: "The same as `POST /api/jobs/{id}/uploaded`.",
        answers: &[(200, "The job, queued or in a later state.", Some(of::<Job>))],
        problems: &[401, 403, 404, 409, 429, 503],
        ..PLAIN
    },
    Endpoint {
        path: "/api/jobs/{id}/events",
        id: "watchJob",
        summary: "Follow a job as server-sent events until it has ended",
        description: "Each event is named `job`, and its data is the job as `GET /api/jobs/{id}` answers it. The first \
                      comes at once.",
        stream: true,
        answers: &[
            (200, "The job after each of its changes.", None),
            (204, "The job has ended, and the client has received the last event.", None),
        ],
        problems: &[401, 403, 404, 429, 503],
        ..PLAIN
    },
    Endpoint {
        path: "/api/stats",
        id: "getStats",
        tag: "system",
        summary: "Count the jobs in each state",
        description: "Completed, failed and cancelled jobs are counted for as long as they are kept.",
        answers: &[(200, "The counts.", Some(of::<Stats>))],
        ..PLAIN
    },
    Endpoint {
        path: "/api/status",
        id: "getStatus",
        tag: "system",
        summary: "Read the version, the counts of jobs and the workers",
        description: "A worker is listed while its heartbeat is fresh.",
        answers: &[(200, "The installation.", Some(of::<SystemStatus>))],
        ..PLAIN
    },
    Endpoint {
        path: "/api/fleet",
        id: "getFleet",
        tag: "fleet",
        summary: "Read the desired and the actual number of machines, and the reasons",
        description: "`fleet` is absent until a controller has published a status for the first time.",
        answers: &[(200, "The fleet.", Some(of::<FleetAnswer>))],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/fleet/pause",
        id: "pauseFleet",
        tag: "fleet",
        summary: "Pause the starting and stopping of machines",
        description: "Running jobs continue, and existing machines take further jobs.",
        body: Some(body::<PauseFleet>),
        optional: true,
        answers: &[(200, "The fleet, paused.", Some(of::<FleetAnswer>))],
        problems: &[400, 401, 403, 413, 415, 422, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/fleet/resume",
        id: "resumeFleet",
        tag: "fleet",
        summary: "Resume the starting and stopping of machines",
        description: "Has no effect if the fleet is not paused.",
        answers: &[(200, "The fleet.", Some(of::<FleetAnswer>))],
        ..PLAIN
    },
    Endpoint {
        path: "/api/tokens",
        id: "listTokens",
        tag: "tokens",
        summary: "List the tokens that have a name",
        description: "Their secrets are not known: the installation keeps only the hash of each.",
        answers: &[(200, "The tokens, by name.", Some(of::<TokenList>))],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/tokens",
        id: "createToken",
        tag: "tokens",
        summary: "Create a token with a name, scopes and limits",
        description: "The response contains the secret, which cannot be read again. The token is valid at once.",
        body: Some(body::<CreateTokenRequest>),
        answers: &[(201, "The token and its secret.", Some(of::<IssuedToken>))],
        problems: &[400, 401, 403, 409, 413, 415, 422, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "put",
        path: "/api/tokens/{name}",
        id: "changeToken",
        tag: "tokens",
        summary: "Replace the scopes and limits of a token",
        description: "They apply from the next request on. What the body leaves out, the token no longer has.",
        body: Some(body::<TokenPermissions>),
        answers: &[(200, "The token.", Some(of::<Token>))],
        problems: &[400, 401, 403, 404, 413, 415, 422, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "delete",
        path: "/api/tokens/{name}",
        id: "deleteToken",
        tag: "tokens",
        summary: "Delete a token",
        description: "It is refused from the next request on. Its jobs stay.",
        answers: &[(204, "The token is deleted.", None)],
        problems: &[401, 403, 404, 429, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/tokens/{name}/rotate",
        id: "rotateToken",
        tag: "tokens",
        summary: "Replace the secret of a token",
        description: "The secret before is refused from the next request on. The response contains the new one.",
        answers: &[(200, "The token and its new secret.", Some(of::<IssuedToken>))],
        problems: &[401, 403, 404, 429, 503],
        ..PLAIN
    },
];

impl Endpoint {
    fn parameters(&self, generators: &mut Generators) -> Vec<Value> {
        let mut parameters = Vec::new();
        if self.path.contains("{id}") {
            parameters.push(json!({
                "name": "id", "in": "path", "required": true, "description": "The job's id",
                "schema": of::<JobId>(&mut generators.requests),
            }));
        }
        if self.path.contains("{name}") {
            parameters.push(json!({
                "name": "name", "in": "path", "required": true, "description": "The token's name",
                "schema": of::<TokenName>(&mut generators.requests),
            }));
        }
        if self.query {
            parameters.push(json!({
                "name": "status", "in": "query", "description": "Only jobs of this state",
                "schema": of::<State>(&mut generators.requests),
            }));
            parameters.push(json!({
                "name": "limit", "in": "query", "description": "Jobs on a page. Default: `20`.",
                "schema": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 100},
            }));
            parameters.push(json!({
                "name": "cursor", "in": "query", "description": "The start of the page: `nextCursor` of the previous page",
                "schema": {"type": "string"},
            }));
        }
        if self.idempotent {
            parameters.push(json!({
                "name": "Idempotency-Key", "in": "header",
                "description": "Identical requests with the same key create one job",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            }));
        }
        if self.stream {
            parameters.push(json!({
                "name": "Last-Event-ID", "in": "header",
                "description": "The id of the last event that was received; an `EventSource` sends it by itself",
                "schema": {"type": "string"},
            }));
        }
        parameters
    }

    pub(super) fn describe(&self, generators: &mut Generators) -> Value {
        let mut responses = Map::new();
        for (status, description, schema) in self.answers {
            let mut answer = json!({"description": description});
            if let Some(schema) = schema {
                let content = examples::media(&schema(&mut generators.responses));
                answer["content"] = json!({"application/json": content});
            } else if *status == 200 {
                let content = json!({"schema": {"type": "string"}, "example": examples::event()});
                answer["content"] = json!({"text/event-stream": content});
            }
            responses.insert(status.to_string(), answer);
        }
        for status in self.problems {
            let answer = json!({"$ref": format!("#/components/responses/{}", response_name(*status))});
            responses.insert(status.to_string(), answer);
        }
        let mut operation = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "description": self.description,
            "parameters": self.parameters(generators),
            "responses": responses,
        });
        if let Some(body) = self.body {
            operation["requestBody"] = json!({
                "required": !self.optional,
                "content": {"application/json": examples::media(&body(&mut generators.requests))},
            });
        }
        operation
    }
}
