//! Answers, as Fly words them.

use axum::http::StatusCode;
use serde_json::{Value, json};

/// What is answered.
pub(crate) type Reply = (StatusCode, Value);

/// The codes that Fly answers in a field of their own (`main.statusCode` of its OpenAPI document). All others
/// stand in front of the text only.
const CODES: [&str; 4] = ["unknown", "insufficient_capacity", "volume_placement_capacity", "name_taken"];

/// A refusal in Fly's words.
pub(crate) fn refuse(status: u16, code: &str, text: impl std::fmt::Display) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut body = json!({ "error": format!("{code}: {text}") });
    if CODES.contains(&code) {
        body["status"] = json!(code);
    }
    (status, body)
}

pub(crate) fn ok(value: Value) -> Reply {
    (StatusCode::OK, value)
}

pub(crate) fn no_machine() -> Reply {
    refuse(404, "not_found", "machine not found")
}
