//! One trace across the API, the queue and the worker, as a collector receives it by OTLP. Names follow
//! OpenTelemetry's semantic conventions, whose registry is a crate.
//! <https://opentelemetry.io/docs/specs/semconv/>

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_semantic_conventions::{SCHEMA_URL, attribute as key};
use prost::Message as _;
use reqwest::Method;
use serde_json::json;
use tokio::sync::mpsc;

use crate::support::clips::clip;
use crate::support::process::{err, run};
use crate::support::system::{PATIENCE, Setup, folder};

/// The attributes of the registry that spans have. All others start with `tcoder.`.
const KNOWN: [&str; 19] = [
    key::ERROR_TYPE,
    key::HTTP_REQUEST_METHOD,
    key::HTTP_REQUEST_METHOD_ORIGINAL,
    key::HTTP_REQUEST_RESEND_COUNT,
    key::HTTP_RESPONSE_STATUS_CODE,
    key::HTTP_ROUTE,
    key::MESSAGING_CLIENT_ID,
    key::MESSAGING_DESTINATION_NAME,
    key::MESSAGING_MESSAGE_ID,
    key::MESSAGING_OPERATION_NAME,
    key::MESSAGING_OPERATION_TYPE,
    key::MESSAGING_SYSTEM,
    key::NETWORK_PROTOCOL_VERSION,
    key::SERVER_ADDRESS,
    key::SERVER_PORT,
    key::URL_FULL,
    key::URL_PATH,
    key::URL_SCHEME,
    key::USER_AGENT_ORIGINAL,
];

/// A span as plain data.
#[derive(Clone, Debug)]
struct Told {
    service: String,
    name: String,
    kind: SpanKind,
    trace: String,
    id: String,
    parent: String,
    from: u64,
    to: u64,
    attributes: BTreeMap<String, String>,
    failed: bool,
}

struct Collector {
    url: String,
    inbox: mpsc::UnboundedReceiver<Told>,
    told: Vec<Told>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(n)) => n.to_string(),
        other => format!("{other:?}"),
    }
}

fn pairs(list: &[KeyValue]) -> BTreeMap<String, String> {
    list.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref()))).collect()
}

async fn take(State(outbox): State<mpsc::UnboundedSender<Told>>, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for of_resource in request.resource_spans {
        let resource = pairs(&of_resource.resource.unwrap().attributes);
        let service = resource[key::SERVICE_NAME].clone();
        assert_eq!(resource[key::SERVICE_VERSION], env!("CARGO_PKG_VERSION"));
        assert!(resource[key::SERVICE_INSTANCE_ID].len() > 10, "{resource:?}");
        assert_eq!(of_resource.schema_url, SCHEMA_URL);
        for scope in &of_resource.scope_spans {
            let of = scope.scope.as_ref().unwrap();
            assert_eq!(
                (&*of.name, &*of.version, &*scope.schema_url),
                ("tcoder", env!("CARGO_PKG_VERSION"), SCHEMA_URL)
            );
        }
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let kind = span.kind();
            assert!(span.events.is_empty(), "{:?}", span.events);
            let told = Told {
                service: service.clone(),
                name: span.name,
                kind,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                from: span.start_time_unix_nano,
                to: span.end_time_unix_nano,
                attributes: pairs(&span.attributes),
                failed: span.status.is_some_and(|status| status.code() == SpanStatus::Error),
            };
            let _ = outbox.send(told);
        }
    }
    StatusCode::OK
}

impl Collector {
    async fn start() -> Self {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let router = axum::Router::new().route("/v1/traces", post(take)).with_state(outbox);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, inbox, told: Vec::new() }
    }

    /// All spans received so far.
    fn all(&mut self) -> &[Told] {
        while let Ok(told) = self.inbox.try_recv() {
            self.told.push(told);
        }
        &self.told
    }

    /// Waits for the span with this name in this trace.
    async fn span(&mut self, trace: &str, name: &str) -> Told {
        loop {
            if let Some(found) = self.told.iter().find(|s| s.trace == trace && s.name == name) {
                return found.clone();
            }
            match tokio::time::timeout(PATIENCE, self.inbox.recv()).await {
                Ok(told) => self.told.push(told.unwrap()),
                Err(_) => panic!("no {name} in {trace}: {:#?}", self.told),
            }
        }
    }
}

/// Checks that the span has these attributes.
fn says(span: &Told, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(span.attributes.get(*name).map(String::as_str), Some(*value), "{name} of {span:#?}");
    }
}

#[tokio::test]
async fn job_is_one_trace_from_caller_to_worker() {
    let mut collector = Collector::start().await;
    let system = Setup::default()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("ALLOW_PRIVATE_URLS", "true")
        .start()
        .await;
    let (trace, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let ask = json!({"preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"});
    let request =
        system.request(Method::POST, "/api/upload").header("traceparent", format!("00-{trace}-{caller}-01"));
    let ticket = system.answer(request.header("user-agent", "films/1").json(&ask)).await.body;
    let id = ticket["jobId"].as_str().unwrap();
    let film = std::fs::read(clip()).unwrap();
    system.http.put(ticket["uploadUrl"].as_str().unwrap()).body(film).send().await.unwrap();
    let job = system.completed(id).await;

    let asked = collector.span(trace, "POST /api/upload").await;
    assert_eq!((&*asked.service, &*asked.parent, asked.kind), ("tcoder-up", caller, SpanKind::Server));
    let port = system.url.rsplit(':').next().unwrap();
    says(
        &asked,
        &[
            (key::HTTP_REQUEST_METHOD, "POST"),
            (key::HTTP_ROUTE, "/api/upload"),
            (key::HTTP_RESPONSE_STATUS_CODE, "201"),
            (key::URL_PATH, "/api/upload"),
            (key::URL_SCHEME, "http"),
            (key::SERVER_ADDRESS, "127.0.0.1"),
            (key::SERVER_PORT, port),
            (key::NETWORK_PROTOCOL_VERSION, "1.1"),
            (key::USER_AGENT_ORIGINAL, "films/1"),
        ],
    );
    let queue = [
        (key::MESSAGING_SYSTEM, "redis"),
        (key::MESSAGING_DESTINATION_NAME, "jobs"),
        (key::MESSAGING_MESSAGE_ID, id),
    ];
    let sent = collector.span(trace, "submit jobs").await;
    assert_eq!((&sent.parent, sent.kind, sent.failed), (&asked.id, SpanKind::Producer, false));
    says(&sent, &[(key::MESSAGING_OPERATION_NAME, "submit"), (key::MESSAGING_OPERATION_TYPE, "send")]);
    says(&sent, &queue);
    let waited = collector.span(trace, "wait for a worker").await;
    assert_eq!((&waited.parent, waited.kind), (&sent.id, SpanKind::Internal));
    says(&waited, &queue);
    let work = collector.span(trace, "process jobs").await;
    assert_eq!((&*work.service, &work.parent, work.kind), ("tcoder-worker", &sent.id, SpanKind::Consumer));
    let machine = job["machineId"].as_str().unwrap();
    says(&work, &queue);
    says(
        &work,
        &[
            (key::MESSAGING_OPERATION_NAME, "process"),
            (key::MESSAGING_OPERATION_TYPE, "process"),
            ("tcoder.machine.id", machine),
            ("tcoder.job.attempt", "1"),
            ("tcoder.job.preset", "web-optimized"),
        ],
    );
    assert!(work.attributes[key::MESSAGING_CLIENT_ID].starts_with(machine), "{work:?}");
    let millis = |name: &str| job["timestamps"][name].as_u64().unwrap() * 1_000_000;
    assert_eq!((waited.from, waited.to), (millis("queuedAt"), millis("startedAt")));
    let mut before = work.from;
    for step in ["fetch", "encode", "store", "commit"] {
        let step = collector.span(trace, step).await;
        assert_eq!((&step.parent, step.kind, step.failed), (&work.id, SpanKind::Internal, false));
        assert!(before <= step.from && step.from <= step.to && step.to <= work.to, "{step:?} of {work:?}");
        before = step.to;
    }
    let commit = collector.span(trace, "commit").await.id;
    let requests: Vec<_> = collector.all().iter().filter(|span| span.parent == commit).cloned().collect();
    let put = requests.iter().find(|span| span.name == "PUT").unwrap_or_else(|| panic!("{requests:#?}"));
    assert_eq!((put.kind, put.failed), (SpanKind::Client, false));
    says(put, &[(key::HTTP_REQUEST_METHOD, "PUT"), (key::HTTP_RESPONSE_STATUS_CODE, "200")]);
    let full: url::Url = put.attributes[key::URL_FULL].parse().unwrap();
    assert!(full.path().ends_with(&format!("outputs/{id}/manifest.json")), "{full}");
    says(put, &[(key::SERVER_ADDRESS, full.host_str().unwrap())]);
    says(put, &[(key::SERVER_PORT, &full.port().unwrap().to_string())]);

    // A failed attempt records its failure, in a new trace if the caller has none.
    let input = format!("{}/films/hush.mp4?X-Amz-Signature=hush", collector.url);
    let id = system.submit(&json!({"inputUrl": input})).await;
    let job = system.ended(&id).await;
    let failed = loop {
        let told = tokio::time::timeout(PATIENCE, collector.inbox.recv()).await.unwrap().unwrap();
        let is_it = told.name == "process jobs" && told.attributes[key::MESSAGING_MESSAGE_ID] == id;
        collector.told.push(told.clone());
        if is_it {
            break told;
        }
    };
    assert!(failed.failed && failed.trace != trace, "{failed:?}\n{job:#}");
    says(&failed, &[(key::ERROR_TYPE, "inputNotFound")]);
    let sent = collector.span(&failed.trace, "submit jobs").await;
    let asked = collector.span(&failed.trace, "POST /api/jobs").await;
    assert_eq!((&failed.parent, &sent.parent, &*asked.parent), (&sent.id, &asked.id, ""));
    let fetch = collector.span(&failed.trace, "fetch").await;
    let get = collector.span(&failed.trace, "GET").await;
    assert_eq!((&get.parent, get.kind, get.failed), (&fetch.id, SpanKind::Client, true));
    says(&get, &[(key::HTTP_RESPONSE_STATUS_CODE, "404"), (key::ERROR_TYPE, "404")]);
    says(&get, &[(key::URL_FULL, &format!("{}/REDACTED", collector.url))]);

    // An error of the client is not one of the server, and an unknown method is not used in a name.
    assert_eq!(system.get("/api/jobs/nothing").await.status, 404);
    let odd = Method::from_bytes(b"BREW").unwrap();
    assert_eq!(system.answer(system.request(odd, "/api/stats")).await.status, 405);
    let of_route = async |collector: &mut Collector, name: &str| loop {
        let found = collector.all().iter().find(|span| span.name == name).cloned();
        match found {
            Some(span) => break span,
            None => {
                let told = tokio::time::timeout(PATIENCE, collector.inbox.recv()).await.unwrap().unwrap();
                collector.told.push(told);
            }
        }
    };
    let brewed = of_route(&mut collector, "HTTP /api/stats").await;
    says(&brewed, &[(key::HTTP_REQUEST_METHOD, "_OTHER"), (key::HTTP_REQUEST_METHOD_ORIGINAL, "BREW")]);
    system.stop().await;
    let of_jobs = |span: &&Told| span.name == "GET /api/jobs/{id}";
    let missing = |span: &&Told| span.attributes[key::HTTP_RESPONSE_STATUS_CODE] == "404";
    let all = collector.all();
    assert!(!all.iter().filter(of_jobs).find(missing).expect("no span of a 404").failed);
    for span in all {
        for name in span.attributes.keys() {
            assert!(KNOWN.contains(&&**name) || name.starts_with("tcoder."), "{name} of {span:#?}");
        }
    }
    // No secret is exported: URLs have no query, which may contain a signature.
    let all = format!("{all:?}");
    assert!(!all.contains("X-Amz") && !all.contains("Signature") && !all.contains("hush"), "{all}");
}

#[tokio::test]
async fn missing_collector_is_harmless_and_a_wrong_address_is_reported() {
    let system = Setup::default().env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").start().await;
    let ask = json!({"preset": "web-optimized", "outputQualities": ["144p"]});
    let id = system.upload(clip(), &ask).await;
    assert_eq!(system.completed(&id).await["status"], "completed");
    system.stop().await;

    let dir = folder("traces");
    let wrong = run(&["worker"], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")], &dir).await;
    assert_eq!(wrong.status.code(), Some(5), "{}", err(&wrong));
    assert!(err(&wrong).contains("OTEL_EXPORTER_OTLP_ENDPOINT cannot be used"), "{}", err(&wrong));
}
