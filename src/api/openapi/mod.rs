//! The API's OpenAPI 3.1 document, generated from the types that the handlers read and write.
//! <https://spec.openapis.org/oas/v3.1.0>
//!
//! `web/openapi.json` contains it, where both servers of the web page find it; `make openapi` regenerates it. Client
//! generators read it: `tests/api_clients` shows why it has this shape. It omits `/media/`, because the paths contain
//! slashes, which OpenAPI's parameters cannot have, and because clients never build these addresses themselves.

mod examples;
mod operations;
mod schemas;

use std::collections::BTreeSet;

use axum::http::StatusCode;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::problem::{self, ProblemBody};
use crate::webhook::Message;
use operations::{OPERATIONS, TAGS};
use schemas::of;

/// Requests and responses need separate generators: they differ in their optional fields, even for the same type.
struct Generators {
    requests: SchemaGenerator,
    responses: SchemaGenerator,
}

/// The name of a problem's response among the components, such as `NotFound`.
fn response_name(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.map_or_else(|| status.to_string(), |reason| reason.replace(' ', ""))
}

/// The responses that contain a problem, by name.
fn problem_responses(generators: &mut Generators) -> Map<String, Value> {
    let used: BTreeSet<u16> = OPERATIONS.iter().flat_map(|operation| operation.problems).copied().collect();
    let schema = of::<ProblemBody>(&mut generators.responses);
    let mut responses = Map::new();
    for (status, kinds) in problem::CATALOGUE.iter().filter(|(status, _)| used.contains(status)) {
        let kinds: Vec<String> =
            kinds.iter().map(|(kind, title, _)| format!("`/problems/{kind}`: {title}")).collect();
        let mut response = json!({
            "description": kinds.join("; "),
            "content": {"application/problem+json": {"schema": schema, "example": examples::problem(*status)}},
        });
        if matches!(*status, 429 | 503) {
            response["headers"] = json!({
                "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "format": "int32"}},
            });
        }
        responses.insert(response_name(*status), response);
    }
    responses
}

/// The webhooks, as their receivers see them.
fn webhooks(generators: &mut Generators) -> Value {
    let header = |name: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": true, "description": description, "schema": {"type": "string"},
        })
    };
    json!({
        "jobEnded": {
            "post": {
                "operationId": "jobEnded",
                "tags": ["webhooks"],
                "summary": "A job has ended",
                "description": "Sent to the job's `webhookUrl`, signed as Standard Webhooks \
                    (<https://www.standardwebhooks.com>) says. It is sent again under the same `webhook-id` until it \
                    is answered 2xx, for a day.",
                "security": [],
                "parameters": [
                    header("webhook-id", "The same each time this message is sent"),
                    header("webhook-timestamp", "When it was signed, seconds since 1970"),
                    header("webhook-signature", "`v1,` and the base64 of the HMAC-SHA256"),
                ],
                "requestBody": {
                    "required": true,
                    "content": {"application/json": {
                        "schema": of::<Message<'static>>(&mut generators.responses),
                        "example": examples::message(),
                    }},
                },
                "responses": {
                    "204": {"description": "The message has been received; any 2xx will do."},
                    "410": {"description": "The receiver wants no more of this message."},
                },
            },
        },
    })
}

/// Builds the document.
#[must_use]
pub fn document() -> Value {
    let mut generators = Generators { requests: schemas::of_requests(), responses: schemas::of_responses() };
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let described = operation.describe(&mut generators);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    let responses = problem_responses(&mut generators);
    let webhooks = webhooks(&mut generators);
    // Types that are both sent and received are the same in both.
    let mut schemas = generators.responses.take_definitions(true);
    schemas.extend(generators.requests.take_definitions(true));
    let tag = |(name, description): &(&str, &str)| json!({"name": name, "description": description});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tcoder",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Upload a video, get MP4, HLS and DASH back. Errors are RFC 9457 problem documents that \
                say what to do. Times are milliseconds since 1970.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The installation that serves this document"}],
        "security": [{"token": []}, {}],
        "tags": TAGS.iter().map(tag).collect::<Vec<_>>(),
        "paths": paths,
        "webhooks": webhooks,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer",
                    "description": "One of API_TOKENS, or a token that was created with a name; needed where the installation has API_TOKENS",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::extract::Fields as _;
    use super::super::{
        CreateJobRequest, CreateTokenRequest, CreateUploadRequest, PauseFleet, SignPartsRequest,
        TokenPermissions,
    };
    use super::*;

    /// Calls `seen` for every schema below this value, with its path.
    fn walk(value: &Value, way: &str, seen: &mut dyn FnMut(&Map<String, Value>, &str)) {
        match value {
            Value::Object(map) => {
                seen(map, way);
                for (key, inner) in
                    map.iter().filter(|(key, _)| !matches!(key.as_str(), "example" | "examples"))
                {
                    walk(inner, &format!("{way}/{key}"), seen);
                }
            }
            Value::Array(list) => {
                for (n, inner) in list.iter().enumerate() {
                    walk(inner, &format!("{way}/{n}"), seen);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn openapi_operations_match_the_routes() {
        // The router's source, so that no route can be added without a description.
        let source = include_str!("../mod.rs");
        let routed: BTreeSet<(String, String)> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".route(\"")?.split_once("\", "))
            .filter(|(path, _)| path.starts_with("/api/"))
            .flat_map(|(path, methods)| {
                ["get", "post", "put", "delete"]
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
    fn openapi_file_matches_the_types() {
        let file: Value = serde_json::from_str(include_str!("../../../web/openapi.json")).unwrap();
        assert_eq!(file, document(), "run `make openapi`");
    }

    #[test]
    fn openapi_request_schemas_have_exactly_the_parsed_fields() {
        let document = document();
        let bodies: [(&str, &[&str], &[&str]); 6] = [
            ("UploadRequest", CreateUploadRequest::OWN, CreateUploadRequest::COMMON),
            ("JobRequest", CreateJobRequest::OWN, CreateJobRequest::COMMON),
            ("PauseFleetRequest", PauseFleet::OWN, PauseFleet::COMMON),
            ("PartsRequest", SignPartsRequest::OWN, SignPartsRequest::COMMON),
            ("CreateTokenRequest", CreateTokenRequest::OWN, CreateTokenRequest::COMMON),
            ("TokenPermissions", TokenPermissions::OWN, TokenPermissions::COMMON),
        ];
        for (name, own, common) in bodies {
            let schema = &document["components"]["schemas"][name];
            assert_eq!(schema["additionalProperties"], false, "{name}");
            let fields: BTreeSet<&str> =
                schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(fields, own.iter().chain(common).copied().collect(), "{name}");
        }
    }

    #[test]
    fn openapi_types_used_both_ways_have_one_schema() {
        let mut generators =
            Generators { requests: schemas::of_requests(), responses: schemas::of_responses() };
        for operation in OPERATIONS {
            operation.describe(&mut generators);
        }
        let requests = generators.requests.take_definitions(true);
        let responses = generators.responses.take_definitions(true);
        let both: Vec<&String> = requests.keys().filter(|name| responses.contains_key(*name)).collect();
        assert!(both.len() > 3, "{both:?}");
        for name in both {
            assert_eq!(requests[name], responses[name], "{name}");
        }
    }

    #[test]
    fn openapi_schemas_use_only_what_client_generators_support() {
        let document = document();
        let mut seen = 0;
        walk(&document["components"]["schemas"], "", &mut |schema, way| {
            seen += 1;
            if schema.contains_key("properties") {
                for composition in ["oneOf", "anyOf", "allOf"] {
                    assert!(!schema.contains_key(composition), "{way} has properties and {composition}");
                }
            }
            // The value of a keyword, not a field of that name.
            if !way.ends_with("/properties") {
                assert!(!schema.contains_key("default"), "{way} has a default");
                assert!(!schema.contains_key("const"), "{way} is a constant");
            }
            if let Some(Value::String(format)) =
                schema.get("format").filter(|_| !way.ends_with("/properties"))
            {
                let known = ["uuid", "uri", "uri-reference", "date-time", "int32", "int64", "double"];
                assert!(known.contains(&format.as_str()), "{way} has the format {format}");
            }
            if schema.get("enum").is_some_and(Value::is_array) {
                assert_eq!(way.matches('/').count(), 1, "{way} is an enum without a name");
            }
        });
        assert!(seen > 200, "{seen}");
        // Only a request may contain null.
        let requests = [
            "UploadRequest",
            "JobRequest",
            "PauseFleetRequest",
            "PartsRequest",
            "CreateTokenRequest",
            "TokenPermissions",
        ];
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            if !requests.contains(&name.as_str()) {
                assert!(!schema.to_string().contains("\"null\""), "{name} may be null somewhere");
            }
        }
    }

    #[test]
    fn openapi_bodies_have_examples() {
        walk(&document(), "", &mut |media, way| {
            if way.ends_with("/application/json") {
                assert!(media["example"].is_object(), "{way}");
            }
        });
        let document = document();
        for (name, response) in document["components"]["responses"].as_object().unwrap() {
            let example = &response["content"]["application/problem+json"]["example"];
            assert!(example["detail"].is_string(), "{name}");
        }
    }

    #[test]
    fn openapi_references_resolve() {
        let document = document();
        let mut references = Vec::new();
        walk(&document, "", &mut |schema, _| {
            references.extend(schema.get("$ref").and_then(Value::as_str).map(str::to_owned));
        });
        assert!(references.len() > 20);
        for to in references {
            let pointer = to.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{to}");
        }
    }

    #[test]
    fn openapi_problems_of_operations_are_in_the_catalogue() {
        for operation in OPERATIONS {
            for status in operation.problems {
                assert!(problem::CATALOGUE.iter().any(|(known, _)| known == status), "{status}");
            }
        }
    }
}
