//! What the parsers of this module promise, for `crate::fuzz`.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::claim::claimed;
use super::codec::{ScriptReply, from_versioned_json, parse_spec, to_versioned_json};
use super::{
    Authentication, Delivery, FleetStatus, Outbox, Reply, Sweep, UploadedOutcome, WorkerRecord, events,
    fleet, fleet_session, query, rate_limit, server, split,
};
use crate::job::{Epoch, Input, JobId, LeaseId};

pub(crate) use super::transport::check_rest_answer as rest_answer;

/// A reply as JSON, whose texts are not encoded.
fn reply_of(value: Value) -> Reply {
    match value {
        Value::Null | Value::Object(_) => Reply::Nil,
        Value::Bool(is) => Reply::Int(is.into()),
        Value::Number(number) => number.as_i64().map_or_else(|| Reply::Text(number.to_string()), Reply::Int),
        Value::String(text) => Reply::Text(text),
        Value::Array(list) => Reply::List(list.into_iter().map(reply_of).collect()),
    }
}

/// Checks that a stored value that is written again is read as the same value.
fn round_trip<T: Serialize + DeserializeOwned + Debug + PartialEq>(value: &T) {
    let json = to_versioned_json(value).unwrap_or_default();
    assert_eq!(from_versioned_json::<T>("value", &json).ok().as_ref(), Some(value), "{json}");
}

/// The replies of all scripts and commands.
pub(crate) fn reply(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice(bytes) else { return };
    let reply = reply_of(json);
    let _ = Sweep::parse(&reply);
    let _ = UploadedOutcome::parse(&reply);
    let _ = split::part_outcome(&reply);
    let _ = fleet::parse_lock(&reply, "me");
    let _ = fleet::parse_view(&reply);
    let _ = fleet_session::parse_lock_state(&reply, "me");
    let _ = rate_limit::parse_permit(&reply);
    let _ = events::parse_entry(&reply);
    super::transport::check_cluster_reply(&reply);
    if let Ok(Authentication::Token(token)) = Authentication::parse(&reply) {
        round_trip(&*token);
    }
    if let Ok(answer) = ScriptReply::of(&reply) {
        let _ = (answer.found(), answer.failure(0), answer.time(0));
        let lease = LeaseId { job: JobId::default(), part: None, epoch: Epoch(1) };
        if let Ok(job) = claimed(lease, None, &answer, None) {
            assert!(job.verify.is_none() || job.verify == job.previous);
        }
    }
    if let Some(text) = reply.text() {
        if let Ok(status) = from_versioned_json::<FleetStatus>("fleet:status", text) {
            let json = to_versioned_json(&status).unwrap_or_default();
            assert!(from_versioned_json::<FleetStatus>("fleet:status", &json).is_ok(), "{json}");
        }
        if let Ok(record) = from_versioned_json::<WorkerRecord>("machines:pool", text) {
            round_trip(&record);
        }
        let _ = server::ServerInfo::parse(text).check("jobs");
        if let Some(delivery) = Delivery::parse(text, Outbox::Installation) {
            assert_eq!(Delivery::parse(&delivery.to_string(), Outbox::Installation), Some(delivery));
        }
        if let Some(position) = query::Position::parse(text) {
            let again = query::Position::parse(&position.to_string());
            assert!(again.is_some_and(|again| (again.at, again.id) == (position.at, position.id)));
        }
    }
}

/// A job's record: a JSON object of the fields of its hash.
pub(crate) fn job_record(bytes: &[u8]) {
    let Ok(fields) = serde_json::from_slice::<std::collections::BTreeMap<String, Value>>(bytes) else {
        return;
    };
    let text = |value: Value| match value {
        Value::String(text) => text,
        value => value.to_string(),
    };
    if let Some(spec) = fields.get("spec")
        && let Ok(spec) = parse_spec(&text(spec.clone()))
    {
        let json = serde_json::to_string(&spec).unwrap_or_default();
        assert_eq!(parse_spec(&json).ok(), Some(spec.clone()), "{json}");
        let shown = spec.redacted();
        let input = match shown.input {
            Input::Url(url) => Some(url),
            Input::Key(_) => None,
        };
        for url in input.into_iter().chain(shown.webhook_url) {
            assert!(url.query().is_none_or(|query| query == "redacted") && url.fragment().is_none(), "{url}");
        }
    }
    let flat = fields.into_iter().flat_map(|(name, value)| [Reply::Text(name), Reply::Text(text(value))]);
    if let Ok(Some(job)) = query::parse_job(JobId::default(), &Reply::List(flat.collect())) {
        assert!(serde_json::to_string(&job).is_ok());
    }
}
