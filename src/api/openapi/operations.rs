//! The table of operations: the methods of each path, the types that they read and write, and their purpose.

use serde_json::{Map, Value, json};

use super::super::{
    CreateJobRequest, CreateUploadRequest, CreateUploadResponse, FleetAnswer, PauseFleet, SignPartsRequest,
    SignedParts, SystemStatus,
};
use super::examples;
use super::schemas::{SchemaOf, body, of};
use super::{Generators, response_name};
use crate::job::{Job, JobId, State};
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
    problems: &[401, 503],
};

/// The tags, each with a description of its operations.
pub(super) const TAGS: &[(&str, &str)] = &[
    ("uploads", "Sending videos from a client into storage"),
    ("jobs", "Making, reading and steering jobs"),
    ("fleet", "The machines that workers run on"),
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
        description: "PUT the video to the `uploadUrl` of the response; no token goes there. The job starts once the \
                      video has arrived. For a video of more than 16 MiB whose `fileSize` is given, `multipart` says \
                      how to send it in parts.",
        body: Some(body::<CreateUploadRequest>),
        optional: true,
        idempotent: true,
        answers: &[
            (201, "The job waits for its video.", Some(of::<CreateUploadResponse>)),
            (200, "The same request made this job before.", Some(of::<CreateUploadResponse>)),
        ],
        problems: &[400, 401, 409, 413, 415, 422, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs",
        id: "submitJob",
        summary: "Create a job for a video that is there already",
        description: "The video is an object of the input bucket, `inputKey`, or stands at a public address, `inputUrl`.",
        body: Some(body::<CreateJobRequest>),
        idempotent: true,
        answers: &[
            (201, "The job waits for a worker.", Some(of::<Job>)),
            (200, "The same request made this job before.", Some(of::<Job>)),
        ],
        problems: &[400, 401, 409, 413, 415, 422, 503],
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
        problems: &[400, 401, 422, 503],
        ..PLAIN
    },
    Endpoint {
        path: "/api/jobs/{id}",
        id: "getJob",
        summary: "Read a job",
        description: "The addresses in its outputs are made for this response and expire.",
        answers: &[(200, "The job.", Some(of::<Job>))],
        problems: &[401, 404, 503],
        ..PLAIN
    },
    Endpoint {
        method: "delete",
        path: "/api/jobs/{id}",
        id: "cancelJob",
        summary: "Cancel a job that has not ended",
        description: "An encode that runs is stopped. The record of the job stays until it expires.",
        answers: &[(200, "The job, cancelled.", Some(of::<Job>))],
        problems: &[401, 404, 409, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs/{id}/retry",
        id: "retryJob",
        summary: "Queue a job again that failed or was cancelled",
        description: "It gets as many attempts again. A job whose video never arrived cannot be retried.",
        answers: &[(200, "The job, queued.", Some(of::<Job>))],
        problems: &[401, 404, 409, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs/{id}/parts",
        id: "signParts",
        tag: "uploads",
        summary: "Get addresses for the parts of a large video",
        description: "For an S3 multipart upload that was begun at the `startUrl` of the upload's response. The \
                      addresses that complete and abort the upload come along.",
        body: Some(body::<SignPartsRequest>),
        answers: &[(200, "The addresses.", Some(of::<SignedParts>))],
        problems: &[400, 401, 404, 409, 413, 415, 422, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs/{id}/uploaded",
        id: "confirmUpload",
        tag: "uploads",
        summary: "Report that the video has been uploaded",
        description: "Only needed where storage does not report new objects by itself. tcoder looks whether the video \
                      is in the bucket. Reporting it again does nothing more.",
        answers: &[(200, "The job, queued or further on.", Some(of::<Job>))],
        problems: &[401, 404, 409, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/jobs/{id}/trigger-r2-event",
        id: "triggerR2Event",
        tag: "uploads",
        summary: "Report that the video has been uploaded, by the original TCoder's name",
        description: "The same as `POST /api/jobs/{id}/uploaded`.",
        answers: &[(200, "The job, queued or further on.", Some(of::<Job>))],
        problems: &[401, 404, 409, 503],
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
            (204, "The job has ended and `Last-Event-ID` is of its end: nothing more will come.", None),
        ],
        problems: &[401, 404, 503],
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
        description: "A worker is listed for as long as it gives signs of life.",
        answers: &[(200, "The installation.", Some(of::<SystemStatus>))],
        ..PLAIN
    },
    Endpoint {
        path: "/api/fleet",
        id: "getFleet",
        tag: "fleet",
        summary: "Read how many machines are wanted, how many there are, and why",
        description: "`fleet` is absent until a controller has acted for the first time.",
        answers: &[(200, "The fleet.", Some(of::<FleetAnswer>))],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/fleet/pause",
        id: "pauseFleet",
        tag: "fleet",
        summary: "Pause the starting and stopping of machines",
        description: "Jobs that run go on, and machines that exist take further ones.",
        body: Some(body::<PauseFleet>),
        optional: true,
        answers: &[(200, "The fleet, paused.", Some(of::<FleetAnswer>))],
        problems: &[400, 401, 413, 415, 422, 503],
        ..PLAIN
    },
    Endpoint {
        method: "post",
        path: "/api/fleet/resume",
        id: "resumeFleet",
        tag: "fleet",
        summary: "Resume the starting and stopping of machines",
        description: "Does nothing where the fleet is not paused.",
        answers: &[(200, "The fleet.", Some(of::<FleetAnswer>))],
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
                "name": "cursor", "in": "query", "description": "Where the page begins: `nextCursor` of the one before",
                "schema": {"type": "string"},
            }));
        }
        if self.idempotent {
            parameters.push(json!({
                "name": "Idempotency-Key", "in": "header",
                "description": "The same request under the same key makes one job, also when it is sent twice",
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
