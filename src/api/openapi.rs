//! The API as a contract: OpenAPI 3.1, made from the types that the handlers read and write.
//! <https://spec.openapis.org/oas/v3.1.0>
//!
//! It stands in `web/openapi.json`, where both servers of the page find it; `make openapi` writes it anew.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::problem::{self, ProblemBody};
use super::{
    FleetAnswer, FromInput, PartAddresses, PartsWanted, PauseFleet, SystemStatus, Upload, UploadTicket,
};
use crate::job::{Job, State};
use crate::queue::{Page, Stats};

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What stands under a path.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    body: Option<SchemaOf>,
    /// The body may be left out.
    optional: bool,
    query: bool,
    idempotent: bool,
    answers: &'static [(u16, &'static str, Option<SchemaOf>)],
    problems: &'static [u16],
}

const PLAIN: Operation = Operation {
    method: "get",
    path: "",
    id: "",
    summary: "",
    body: None,
    optional: false,
    query: false,
    idempotent: false,
    answers: &[],
    problems: &[401, 503],
};

const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/api/upload",
        id: "upload",
        summary: "Makes a job whose video is uploaded next: PUT it to the uploadUrl of the answer",
        body: Some(of::<Upload>),
        optional: true,
        idempotent: true,
        answers: &[
            (201, "The job waits for its video", Some(of::<UploadTicket>)),
            (200, "The same request made this job before", Some(of::<UploadTicket>)),
        ],
        problems: &[400, 401, 409, 413, 415, 422, 503],
        ..PLAIN
    },
    Operation {
        method: "post",
        path: "/api/jobs",
        id: "submitJob",
        summary: "Makes a job of a video that is there already",
        body: Some(of::<FromInput>),
        idempotent: true,
        answers: &[
            (201, "The job waits for a worker", Some(of::<Job>)),
            (200, "The same request made this job before", Some(of::<Job>)),
        ],
        problems: &[400, 401, 409, 413, 415, 422, 503],
        ..PLAIN
    },
    Operation {
        path: "/api/jobs",
        id: "listJobs",
        summary: "The jobs, newest first, page by page",
        query: true,
        answers: &[(200, "A page", Some(of::<Page>))],
        problems: &[400, 401, 422, 503],
        ..PLAIN
    },
    Operation {
        path: "/api/jobs/{id}",
        id: "getJob",
        summary: "A job",
        answers: &[(200, "The job", Some(of::<Job>))],
        problems: &[401, 404, 503],
        ..PLAIN
    },
    Operation {
        method: "delete",
        path: "/api/jobs/{id}",
        id: "cancelJob",
        summary: "Calls a job off; one that runs is stopped",
        answers: &[(200, "The job, cancelled", Some(of::<Job>))],
        problems: &[401, 404, 409, 503],
        ..PLAIN
    },
    Operation {
        method: "post",
        path: "/api/jobs/{id}/retry",
        id: "retryJob",
        summary: "Queues a job again that failed or was cancelled",
        answers: &[(200, "The job, queued", Some(of::<Job>))],
        problems: &[401, 404, 409, 503],
        ..PLAIN
    },
    Operation {
        method: "post",
        path: "/api/jobs/{id}/parts",
        id: "signParts",
        summary: "Addresses for parts of a large video, and to complete or give up its upload",
        body: Some(of::<PartsWanted>),
        answers: &[(200, "The addresses", Some(of::<PartAddresses>))],
        problems: &[400, 401, 404, 409, 413, 415, 422, 503],
        ..PLAIN
    },
    Operation {
        method: "post",
        path: "/api/jobs/{id}/uploaded",
        id: "uploaded",
        summary: "Says that the video is uploaded, for where storage itself does not; it is looked for",
        answers: &[(200, "The job, queued or further", Some(of::<Job>))],
        problems: &[401, 404, 409, 503],
        ..PLAIN
    },
    Operation {
        method: "post",
        path: "/api/jobs/{id}/trigger-r2-event",
        id: "triggerR2Event",
        summary: "The same, by its name in the original TCoder",
        answers: &[(200, "The job, queued or further", Some(of::<Job>))],
        problems: &[401, 404, 409, 503],
        ..PLAIN
    },
    Operation {
        path: "/api/jobs/{id}/events",
        id: "watchJob",
        summary: "A job's changes as server-sent events, each named `job` and holding the job, until it has ended",
        answers: &[
            (200, "The changes", None),
            (204, "The job has ended, and the Last-Event-ID is of its end: nothing more will come", None),
        ],
        problems: &[401, 404, 503],
        ..PLAIN
    },
    Operation {
        path: "/api/stats",
        id: "getStats",
        summary: "How many jobs stand where",
        answers: &[(200, "The counts", Some(of::<Stats>))],
        ..PLAIN
    },
    Operation {
        path: "/api/status",
        id: "getStatus",
        summary: "The counts, and the workers",
        answers: &[(200, "The installation", Some(of::<SystemStatus>))],
        ..PLAIN
    },
    Operation {
        path: "/api/fleet",
        id: "getFleet",
        summary: "The machines: how many are wanted, how many there are, and why",
        answers: &[(200, "The fleet", Some(of::<FleetAnswer>))],
        ..PLAIN
    },
    Operation {
        method: "post",
        path: "/api/fleet/pause",
        id: "pauseFleet",
        summary: "Stops starting and stopping machines; jobs that run go on",
        body: Some(of::<PauseFleet>),
        optional: true,
        answers: &[(200, "The fleet, paused", Some(of::<FleetAnswer>))],
        problems: &[400, 401, 413, 415, 422, 503],
        ..PLAIN
    },
    Operation {
        method: "post",
        path: "/api/fleet/resume",
        id: "resumeFleet",
        summary: "Lets machines be started and stopped again",
        answers: &[(200, "The fleet", Some(of::<FleetAnswer>))],
        ..PLAIN
    },
];

impl Operation {
    fn parameters(&self) -> Vec<Value> {
        let mut parameters = Vec::new();
        if self.path.contains("{id}") {
            parameters.push(json!({
                "name": "id", "in": "path", "required": true, "description": "The job's id",
                "schema": {"type": "string", "format": "uuid"},
            }));
        }
        if self.query {
            let states: Vec<&str> = State::ALL.iter().map(|state| state.name()).collect();
            parameters.push(json!({
                "name": "status", "in": "query", "description": "Only jobs of this state",
                "schema": {"type": "string", "enum": states},
            }));
            parameters.push(json!({
                "name": "limit", "in": "query", "description": "Jobs on a page",
                "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            }));
            parameters.push(json!({
                "name": "cursor", "in": "query", "description": "Where the page begins: nextCursor of the one before",
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
        parameters
    }

    fn describe(&self, generator: &mut SchemaGenerator) -> Value {
        let mut responses = Map::new();
        for (status, description, schema) in self.answers {
            let mut answer = json!({"description": description});
            if let Some(schema) = schema {
                answer["content"] = json!({"application/json": {"schema": schema(generator)}});
            } else if *status == 200 {
                answer["content"] = json!({"text/event-stream": {"schema": {"type": "string"}}});
            }
            responses.insert(status.to_string(), answer);
        }
        for status in self.problems {
            let answer = json!({"$ref": format!("#/components/responses/{status}")});
            responses.insert(status.to_string(), answer);
        }
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "parameters": self.parameters(),
            "responses": responses,
        });
        if let Some(body) = self.body {
            operation["requestBody"] = json!({
                "required": !self.optional,
                "content": {"application/json": {"schema": body(generator)}},
            });
        }
        operation
    }
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let described = operation.describe(&mut generator);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    let problem = of::<ProblemBody>(&mut generator);
    // What only addresses of outputs answer is no part of this contract.
    let answered = |status: &u16| OPERATIONS.iter().any(|operation| operation.problems.contains(status));
    let responses: Map<String, Value> = problem::CATALOGUE
        .iter()
        .filter(|(status, _)| answered(status))
        .map(|(status, kinds)| {
            let kinds: Vec<String> =
                kinds.iter().map(|(kind, title)| format!("`/problems/{kind}`: {title}")).collect();
            let answer = json!({
                "description": kinds.join("; "),
                "content": {"application/problem+json": {"schema": problem}},
            });
            (status.to_string(), answer)
        })
        .collect();
    let mut schemas = Value::Object(generator.take_definitions(true));
    // A misspelt field is refused.
    for name in ["Upload", "FromInput", "PauseFleet", "PartsWanted"] {
        if let Some(Value::Object(schema)) = schemas.get_mut(name) {
            schema.insert("additionalProperties".into(), false.into());
        }
    }
    // Browsers' code tends to send the type along; storage keeps what the PUT says.
    schemas["Upload"]["properties"]["contentType"] = json!({"type": "string", "description": "Not used"});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tcoder",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Upload a video, get MP4 and HLS back. Errors are RFC 9457 problem documents that say what to do.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer",
                    "description": "One of API_TOKENS; needed where the installation has any",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        // The router's own words, so that a route cannot be added without its contract.
        let source = include_str!("mod.rs");
        let routed: BTreeSet<(String, String)> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".route(\"")?.split_once("\", "))
            .filter(|(path, _)| path.starts_with("/api/"))
            .flat_map(|(path, methods)| {
                ["get", "post", "delete"]
                    .into_iter()
                    .filter(|method| methods.contains(&format!("{method}(")))
                    .map(|method| (path.to_owned(), method.to_owned()))
            })
            .collect();
        let described: BTreeSet<(String, String)> =
            OPERATIONS.iter().map(|op| (op.path.to_owned(), op.method.to_owned())).collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn the_file_is_as_the_types_are() {
        let file: Value = serde_json::from_str(include_str!("../../web/openapi.json")).unwrap();
        assert_eq!(file, document(), "run `make openapi`");
    }

    #[test]
    fn a_misspelt_field_is_against_the_contract() {
        let document = document();
        for name in ["Upload", "FromInput", "PauseFleet", "PartsWanted"] {
            assert_eq!(document["components"]["schemas"][name]["additionalProperties"], false, "{name}");
        }
    }

    #[test]
    fn references_lead_somewhere() {
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    for (key, inner) in map {
                        if let ("$ref", Value::String(to)) = (key.as_str(), inner) {
                            found.push(to.clone());
                        }
                        walk(inner, found);
                    }
                }
                Value::Array(list) => list.iter().for_each(|inner| walk(inner, found)),
                _ => {}
            }
        }
        let document = document();
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(references.len() > 20);
        for to in references {
            let pointer = to.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{to}");
        }
    }

    #[test]
    fn every_problem_of_an_operation_is_in_the_catalogue() {
        for operation in OPERATIONS {
            for status in operation.problems {
                assert!(problem::CATALOGUE.iter().any(|(known, _)| known == status), "{status}");
            }
        }
    }
}
