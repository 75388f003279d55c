//! Exports spans to a collector, by OTLP over HTTP: <https://opentelemetry.io/docs/specs/otlp/>.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, global};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use opentelemetry_semantic_conventions::{SCHEMA_URL, attribute};
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::TraceParent;
use crate::config::Env;
use crate::job::{JobId, Millis};

/// Maximum time that exporting the last spans delays the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Maximum time for a collector to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error(
    "OTEL_EXPORTER_OTLP_ENDPOINT cannot be used ({0}); give the address of an OTLP/HTTP collector, such as http://127.0.0.1:4318"
)]
pub(crate) struct NotExported(String);

/// Exports the spans of this process.
pub(crate) struct Export {
    provider: SdkTracerProvider,
}

impl Export {
    /// An exporter to the collector at `OTEL_EXPORTER_OTLP_ENDPOINT`, or `None` if that is not set.
    /// `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER` and
    /// `OTEL_BSP_*` have the meaning of the specification:
    /// <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.
    ///
    /// Must be called on a runtime.
    ///
    /// # Errors
    /// If the address is not valid.
    pub(crate) fn of(env: &Env<'_>, role: &str) -> Result<Option<Self>, NotExported> {
        let base = env.text("OTEL_EXPORTER_OTLP_ENDPOINT");
        let traces = env.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let Some(address) = traces.or_else(|| Some(format!("{}/v1/traces", base?.trim_end_matches('/'))))
        else {
            return Ok(None);
        };
        let unusable = |e: &dyn std::fmt::Display| NotExported(e.to_string());
        let url: url::Url = address.parse().map_err(|e: url::ParseError| unusable(&e))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(NotExported("it is not an http or https address".into()));
        }
        crate::net::install_crypto();
        let http = reqwest::Client::builder().timeout(ANSWER).build().map_err(|e| unusable(&e))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(url.as_str())
            .with_http_client(Collector { http, runtime: Handle::current() })
            .build()
            .map_err(|e| unusable(&e))?;
        let resource = Resource::builder()
            .with_attributes(service(env, role))
            .with_schema_url(std::iter::empty::<KeyValue>(), SCHEMA_URL)
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        global::set_tracer_provider(provider.clone());
        Ok(Some(Self { provider }))
    }

    /// Creates spans from those of `tracing`.
    #[must_use]
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer_with_scope(scope())
    }

    /// Exports the remaining spans and stops.
    pub(crate) async fn finish(self) {
        // The call waits for a thread that waits for this runtime.
        let ended =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(LAST_WORDS)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not export the last spans; some may be lost"),
            Err(error) => tracing::warn!(%error, "could not export the last spans; they are lost"),
        }
    }
}

/// The instrumentation scope of all spans.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("tcoder")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(SCHEMA_URL)
        .build()
}

/// The resource attributes of the service: <https://opentelemetry.io/docs/specs/semconv/resource/service/>. Values
/// from the environment take precedence.
fn service(env: &Env<'_>, role: &str) -> Vec<KeyValue> {
    let given = env.text("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let is_given =
        |key: &str| given.split(',').any(|pair| pair.split('=').next().is_some_and(|k| k.trim() == key));
    let named = env.text("OTEL_SERVICE_NAME").is_some();
    let instance = env.text("FLY_MACHINE_ID").or_else(|| env.text("HOSTNAME"));
    let mut all = Vec::new();
    let mut say = |key: &'static str, value: String| {
        if !is_given(key) {
            all.push(KeyValue::new(key, value));
        }
    };
    if !named {
        say(attribute::SERVICE_NAME, format!("tcoder-{role}"));
    }
    say(attribute::SERVICE_VERSION, env!("CARGO_PKG_VERSION").to_owned());
    say(attribute::SERVICE_INSTANCE_ID, instance.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()));
    all
}

/// The collector. The exporter's thread calls it outside of any runtime.
#[derive(Debug)]
struct Collector {
    http: reqwest::Client,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let work = self.runtime.spawn(async move {
            let answer = http.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let (status, body) = work.await??;
        Ok(Response::builder().status(status).body(body)?)
    }
}

/// The context of the current span, or `None` if no spans are exported.
#[must_use]
pub(crate) fn current() -> Option<TraceParent> {
    let context = Span::current().context();
    let span = context.span();
    let here = span.span_context();
    let flags = here.trace_flags().to_u8();
    here.is_valid().then(|| TraceParent(format!("00-{}-{}-{flags:02x}", here.trace_id(), here.span_id())))
}

fn context_of(parent: &TraceParent) -> Option<Context> {
    let mut parts = parent.as_str().split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    let remote = SpanContext::new(trace, span, flags, true, TraceState::default());
    Some(Context::new().with_remote_span_context(remote))
}

/// Makes `span` a child of `parent`.
pub(crate) fn follow(span: &Span, parent: Option<&TraceParent>) {
    if let Some(context) = parent.and_then(context_of) {
        // This fails if no spans are exported.
        let _ = span.set_parent(context);
    }
}

/// Records a span for the time that a job waited for a worker.
pub(crate) fn waited(parent: Option<&TraceParent>, job: JobId, from: Millis, to: Millis) {
    let Some(context) = parent.and_then(context_of) else { return };
    let time =
        |at: Millis| -> SystemTime { UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or(0)) };
    let tracer = global::tracer_with_scope(scope());
    let builder = tracer
        .span_builder("wait for a worker")
        .with_kind(SpanKind::Internal)
        .with_start_time(time(from))
        .with_attributes([
            KeyValue::new(attribute::MESSAGING_SYSTEM, super::QUEUE_SYSTEM),
            KeyValue::new(attribute::MESSAGING_DESTINATION_NAME, super::QUEUE_NAME),
            KeyValue::new(attribute::MESSAGING_MESSAGE_ID, job.to_string()),
        ]);
    tracer.build_with_context(builder, &context).end_with_timestamp(time(to));
}
