//! One trace over the API, the queue and the worker, as a collector gets it: told by OTLP, read by its own types.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;
use reqwest::Method;
use serde_json::json;
use tokio::sync::mpsc;

use crate::support::system::{PATIENCE, Setup, clip, err, folder, run};

/// A span, in plain words.
#[derive(Clone, Debug)]
struct Told {
    service: String,
    name: String,
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
        let service = pairs(&of_resource.resource.unwrap().attributes)["service.name"].clone();
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let told = Told {
                service: service.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                from: span.start_time_unix_nano,
                to: span.end_time_unix_nano,
                attributes: pairs(&span.attributes),
                failed: span.status.is_some_and(|status| status.code == 2),
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

    /// The span of this name in this trace, once it was told.
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

#[tokio::test]
async fn a_job_is_one_trace_from_the_caller_to_the_worker() {
    let mut collector = Collector::start().await;
    let system = Setup::default()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await;
    let (trace, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let ask = json!({"preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"});
    let request =
        system.request(Method::POST, "/api/upload").header("traceparent", format!("00-{trace}-{caller}-01"));
    let ticket = system.answer(request.json(&ask)).await.body;
    let id = ticket["jobId"].as_str().unwrap();
    let film = std::fs::read(clip()).unwrap();
    system.http.put(ticket["uploadUrl"].as_str().unwrap()).body(film).send().await.unwrap();
    let job = system.completed(id).await;

    let asked = collector.span(trace, "POST /api/upload").await;
    assert_eq!((&*asked.service, &*asked.parent, &*asked.attributes["status"]), ("tcoder-up", caller, "201"));
    let waited = collector.span(trace, "wait for a worker").await;
    assert_eq!((&waited.parent, &*waited.attributes["job"]), (&asked.id, id));
    let work = collector.span(trace, "transcode").await;
    assert_eq!((&*work.service, &work.parent), ("tcoder-worker", &asked.id));
    assert_eq!(
        (&*work.attributes["job"], work.attributes.get("machine").map(String::as_str)),
        (id, job["machineId"].as_str())
    );
    let millis = |name: &str| job["timestamps"][name].as_u64().unwrap() * 1_000_000;
    assert_eq!((waited.from, waited.to), (millis("queuedAt"), millis("startedAt")));
    let mut before = work.from;
    for step in ["fetch", "encode", "store", "commit"] {
        let step = collector.span(trace, step).await;
        assert_eq!((&step.parent, step.failed), (&work.id, false));
        assert!(before <= step.from && step.from <= step.to && step.to <= work.to, "{step:?} of {work:?}");
        before = step.to;
    }

    // One that fails says so, in a trace of its own where the caller has none.
    let id = system.submit(&json!({"inputKey": "inputs/nobody/missing.mp4"})).await;
    let job = system.ended(&id).await;
    let failed = loop {
        let told = tokio::time::timeout(PATIENCE, collector.inbox.recv()).await.unwrap().unwrap();
        if told.name == "transcode" && told.attributes["job"] == id {
            break told;
        }
        collector.told.push(told);
    };
    assert!(failed.failed && failed.trace != trace, "{failed:?}\n{job:#}");
    let asked = collector.span(&failed.trace, "POST /api/jobs").await;
    assert_eq!((&failed.parent, &*asked.parent), (&asked.id, ""));

    // Nothing secret is told: no query of an address, where signatures stand.
    system.stop().await;
    while let Ok(Some(told)) = tokio::time::timeout(Duration::from_millis(1), collector.inbox.recv()).await {
        collector.told.push(told);
    }
    let all = format!("{:?}", collector.told);
    assert!(!all.contains("X-Amz") && !all.contains("Signature"), "{all}");
}

#[tokio::test]
async fn a_collector_that_is_away_stops_nothing_and_a_wrong_address_is_told() {
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
