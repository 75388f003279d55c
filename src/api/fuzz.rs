//! What the parsers of requests promise, for `crate::fuzz`.

use std::sync::OnceLock;

use axum::http::{HeaderName, HeaderValue, Method, Request, header};

use super::RequestOrigin;
use super::client_address::public_address;
use super::extract::parse;
use super::fleet::PauseFleet;
use super::request_origin::request_origin;
use super::requests::{CreateJobRequest, CreateUploadRequest, SubmissionLimits};
use super::{CreateTokenRequest, SignPartsRequest, TokenPermissions, web_origin};
use crate::config::{ApiConfig, Env};
use crate::http_server::PeerAddress;
use crate::job::{Input, JobLimits, JobSpec, ObjectKey};
use crate::net::{self, EgressPolicy};

const RULES: SubmissionLimits =
    SubmissionLimits { guard: EgressPolicy::PublicOnly, webhooks: true, limits: JobLimits::HIGHEST };

/// A body of any of the requests.
pub(crate) fn request(bytes: &[u8]) {
    if let Ok((spec, delay)) = parse::<CreateJobRequest>(bytes).and_then(|request| request.spec(RULES)) {
        assert!(delay.as_secs() <= 30 * 24 * 3600);
        check_spec(&spec);
    }
    let key = "inputs/a/b.mp4".parse::<ObjectKey>().ok();
    if let Ok(request) = parse::<CreateUploadRequest>(bytes)
        && let Some(Ok(spec)) = key.map(|key| request.spec(key, RULES))
    {
        check_spec(&spec);
    }
    let _ = parse::<SignPartsRequest>(bytes);
    let _ = parse::<PauseFleet>(bytes);
    let _ = parse::<CreateTokenRequest>(bytes);
    let _ = parse::<TokenPermissions>(bytes);
}

fn check_spec(spec: &JobSpec) {
    assert!((1..=20).contains(&spec.max_attempts) && (1..=604_800).contains(&spec.deadline_seconds));
    assert!((-100..=100).contains(&spec.priority.get()));
    let input = match &spec.input {
        Input::Url(url) => Some(url),
        Input::Key(_) => None,
    };
    for url in input.into_iter().chain(&spec.webhook_url) {
        assert_eq!(net::check_url(EgressPolicy::PublicOnly, url), Ok(()));
        assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    }
    // As Redis keeps it.
    let json = serde_json::to_string(spec).unwrap_or_default();
    assert_eq!(serde_json::from_str::<JobSpec>(&json).ok().as_ref(), Some(spec), "{json}");
}

/// An installation without tokens.
fn open() -> Option<&'static ApiConfig> {
    static OPEN: OnceLock<Option<ApiConfig>> = OnceLock::new();
    OPEN.get_or_init(|| ApiConfig::read(&Env::of(|_| None)).ok()).as_ref()
}

/// The headers of a request that may change something, a line each.
pub(crate) fn headers(bytes: &[u8]) {
    let Some(config) = open() else { unreachable!("the settings are complete") };
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    request.extensions_mut().insert(PeerAddress([10, 0, 0, 7].into()));
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    let origin = request_origin(request.uri(), request.headers(), false);
    if web_origin::check(config, &RequestOrigin(origin.clone()), &request).is_ok() {
        let of = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // A page cannot have a name that ends so, nor these addresses.
        let host = origin.as_ref().and_then(|origin| origin.as_url().host_str()).unwrap_or_default();
        let is_own = host == "localhost" || host.ends_with(".localhost") || host.starts_with("127.");
        assert!(
            is_own || host == "[::1]" || host.starts_with("[::ffff:7f"),
            "{host:?} is not of this machine"
        );
        let page = of(header::ORIGIN);
        // Some addresses have several spellings.
        let host_of_page = page.parse::<url::Url>().ok().and_then(|url| url.host_str().map(str::to_owned));
        let is_same = host_of_page.as_deref() == Some(host);
        assert!(
            page.is_empty()
                || is_same
                || of("sec-fetch-site".parse().unwrap_or(header::HOST)) == "same-origin"
        );
    }
    let address = public_address(&request.into_parts().0, None);
    assert!(address.is_none_or(net::is_public), "{address:?}");
}
