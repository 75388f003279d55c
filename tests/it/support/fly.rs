//! Compares the emulator of Fly with Fly's OpenAPI document: every request of a test and every response is
//! validated. A violation is answered with 500, and the test fails when it ends.
//!
//! The document permits fields and parameters that it does not name; here they are errors. There is one
//! exception: the document shows a lease itself where Fly returns it as `data` next to a `status`, as its
//! clients and its prose say.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use jsonschema::Validator;
use serde_json::{Value, json};
use tcoder::flyprovider::emulator::{Emulator, EmulatorHandle, Options};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const DOCUMENT: &str = include_str!("../../contract/fly-machines-openapi.json");
/// Larger than any message of these tests.
const BODY_MAX: usize = 16 << 20;

/// Fly's document, prepared for validation.
pub struct Contract {
    operations: Vec<Operation>,
    error: Validator,
}

struct Operation {
    id: String,
    method: Method,
    path: Vec<String>,
    /// The location, the name and the schema of each parameter.
    parameters: Vec<(String, String, Value)>,
    required_headers: Vec<String>,
    /// Whether the body is required, and its schema.
    body: Option<(bool, Validator)>,
    /// The schema for each status, if the document has one.
    answers: BTreeMap<u16, Option<Validator>>,
}

pub static CONTRACT: LazyLock<Contract> = LazyLock::new(|| Contract::read(DOCUMENT));

impl Contract {
    fn read(document: &str) -> Self {
        let mut document: Value = serde_json::from_str(document).unwrap();
        document["components"]["schemas"].as_object_mut().unwrap().values_mut().for_each(close);
        let components = document["components"].clone();
        let validator = |schema: &Value| {
            let mut whole = schema.clone();
            whole["components"] = components.clone();
            jsonschema::validator_for(&whole).unwrap()
        };
        let content = |message: &Value| message["content"]["application/json"].get("schema").map(validator);
        let mut operations = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let parameters = operation["parameters"].as_array().unwrap();
                let text = |parameter: &Value, name: &str| parameter[name].as_str().unwrap().to_owned();
                operations.push(Operation {
                    id: text(operation, "operationId"),
                    method: method.to_uppercase().parse().unwrap(),
                    path: path.split('/').map(str::to_owned).collect(),
                    parameters: parameters
                        .iter()
                        .map(|p| (text(p, "in"), text(p, "name"), p["schema"].clone()))
                        .collect(),
                    required_headers: parameters
                        .iter()
                        .filter(|p| p["in"] == "header" && p["required"] == true)
                        .map(|p| text(p, "name"))
                        .collect(),
                    body: operation
                        .get("requestBody")
                        .map(|body| (body["required"] == true, content(body).unwrap())),
                    answers: operation["responses"]
                        .as_object()
                        .unwrap()
                        .iter()
                        .map(|(status, answer)| (status.parse().unwrap(), content(answer)))
                        .collect(),
                });
            }
        }
        Self { operations, error: validator(&json!({ "$ref": "#/components/schemas/ErrorResponse" })) }
    }

    fn operation(&self, method: &Method, path: &str) -> Option<&Operation> {
        let parts: Vec<&str> = path.split('/').collect();
        self.operations.iter().find(|operation| {
            operation.method == *method
                && operation.path.len() == parts.len()
                && operation.path.iter().zip(&parts).all(|(said, is)| said == is || said.starts_with('{'))
        })
    }

    /// The violations in a request.
    pub fn request(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
        let Some(operation) = self.operation(method, uri.path()) else {
            return vec![format!("the document has no {method} {}", uri.path())];
        };
        let mut wrong = Vec::new();
        for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            wrong.extend(operation.parameter(&name, &value).err());
        }
        for name in &operation.required_headers {
            if !headers.contains_key(name) {
                wrong.push(format!("{} needs the header {name}", operation.id));
            }
        }
        match &operation.body {
            None if body.is_empty() => {}
            None => wrong.push(format!("{} takes no body", operation.id)),
            Some((false, _)) if body.is_empty() => {}
            Some((_, schema)) => wrong.extend(against(schema, body)),
        }
        wrong
    }

    /// The violations in a response.
    pub fn answer(&self, method: &Method, path: &str, status: StatusCode, body: &[u8]) -> Vec<String> {
        let Some(operation) = self.operation(method, path) else { return Vec::new() };
        match operation.answers.get(&status.as_u16()) {
            Some(None) => Vec::new(),
            Some(Some(schema)) if operation.id.ends_with("_lease") && status.is_success() => {
                let envelope: Value = serde_json::from_slice(body).unwrap_or_default();
                against(schema, envelope["data"].to_string().as_bytes())
            }
            Some(Some(schema)) => against(schema, body),
            None if status.is_client_error() || status.is_server_error() => against(&self.error, body),
            None => vec![format!("{} does not answer {status}", operation.id)],
        }
    }
}

impl Operation {
    fn parameter(&self, name: &str, value: &str) -> Result<(), String> {
        let known = self.parameters.iter().find(|(place, known, _)| {
            let prefix = known.strip_suffix("{key}").unwrap_or("\u{0}");
            place == "query" && (known == name || name.starts_with(prefix))
        });
        let Some((.., schema)) = known else { return Err(format!("{} takes no {name}", self.id)) };
        let of_type = match schema["type"].as_str() {
            Some("boolean") => value.parse::<bool>().is_ok(),
            Some("integer") => value.parse::<i64>().is_ok(),
            _ => true,
        };
        // The description of `state`: "supports repeated or comma-separated values".
        let named =
            |value: &str| schema["enum"].as_array().is_none_or(|all| all.iter().any(|one| one == value));
        if of_type && value.split(',').all(named) {
            return Ok(());
        }
        Err(format!("{}: {name}={value} is not of {schema}", self.id))
    }
}

/// Rejects fields that the schema does not name.
fn close(schema: &mut Value) {
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
        schema["additionalProperties"] = json!(false);
    }
}

fn against(schema: &Validator, body: &[u8]) -> Vec<String> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => {
            schema.iter_errors(&value).map(|error| format!("{error} at {}", error.instance_path())).collect()
        }
        Err(error) => vec![format!("no JSON: {error}")],
    }
}

/// The violations so far.
#[derive(Default)]
struct Seen {
    exchanges: Mutex<usize>,
    violations: Mutex<Vec<String>>,
    /// Whether requests are from a foreign client and are not checked; responses always are.
    foreign: bool,
}

impl Seen {
    /// Records violations; returns whether there were any.
    fn note(&self, what: &str, wrong: Vec<String>) -> bool {
        let is_wrong = !wrong.is_empty();
        for violation in wrong {
            eprintln!("not as Fly's document says: {what}: {violation}");
            let mut violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
            violations.push(format!("{what}: {violation}"));
        }
        is_wrong
    }
}

async fn watch(State(seen): State<Arc<Seen>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = whole(body).await;
    let Parts { method, uri, headers, .. } = &parts;
    let (method, uri) = (method.clone(), uri.clone());
    let is_fly = uri.path().starts_with("/v1/");
    if is_fly && !seen.foreign {
        let wrong = CONTRACT.request(&method, &uri, headers, &body);
        if seen.note(&format!("request {method} {uri}"), wrong) {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    }
    let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (parts, body) = answer.into_parts();
    let body = whole(body).await;
    if is_fly {
        let wrong = CONTRACT.answer(&method, uri.path(), parts.status, &body);
        *seen.exchanges.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        if seen.note(&format!("answer {} to {method} {uri}", parts.status), wrong) {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    }
    Response::from_parts(parts, Body::from(body))
}

async fn whole(body: Body) -> Bytes {
    to_bytes(body, BODY_MAX).await.unwrap_or_default()
}

/// Stops the emulator when dropped, and fails the test if there were violations of Fly's document.
pub struct FlyGuard {
    _stop: DropGuard,
    seen: Arc<Seen>,
}

impl FlyGuard {
    /// Takes the violations so far.
    pub fn violations(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.violations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Number of answered requests.
    pub fn exchanges(&self) -> usize {
        *self.seen.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FlyGuard {
    fn drop(&mut self) {
        let violations = self.violations();
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "not as Fly's document says: {violations:#?}");
        }
    }
}

/// Starts an emulator of Fly whose requests and responses are validated.
pub async fn start(options: Options) -> (EmulatorHandle, FlyGuard) {
    start_for(options, false).await
}

/// Like [`start`], without validating requests: for third-party clients, and for tests of what Fly refuses.
pub async fn start_for_strangers(options: Options) -> (EmulatorHandle, FlyGuard) {
    start_for(options, true).await
}

async fn start_for(options: Options, foreign: bool) -> (EmulatorHandle, FlyGuard) {
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let seen = Arc::new(Seen { foreign, ..Seen::default() });
    let layer = from_fn_with_state(seen.clone(), watch);
    let emulator =
        Emulator::start_with(options, listener, stop.clone(), |router: Router| router.layer(layer)).unwrap();
    (emulator, FlyGuard { _stop: stop.drop_guard(), seen })
}
