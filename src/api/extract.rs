//! What handlers take out of a request: a JSON body, and the id of a job in the path.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request};
use axum::http::header;
use serde::de::DeserializeOwned;
use url::Url;

use super::Problem;
use crate::job::{
    JobId, KeyPrefix, Ladder, ObjectKey, Parallelism, Preset, Priority, Scope, Stills, TokenName, WorkerClass,
};
use crate::storage::MediaType;

/// Parses the id in the path. Anything that is not an id names no job.
pub(crate) fn parse_job_id(path: Result<Path<String>, PathRejection>) -> Result<JobId, Problem> {
    path.ok().and_then(|Path(text)| text.parse().ok()).ok_or_else(Problem::no_such_job)
}

/// The names of a request's fields. Unknown names are rejected, so that a misspelt field is not silently ignored.
pub(crate) trait Fields {
    /// The fields of this request.
    const OWN: &'static [&'static str];
    /// Fields in addition to these: those of [`JobOptions`](super::JobOptions), if the request creates a job.
    const COMMON: &'static [&'static str] = OPTION_NAMES;
}

const OPTION_NAMES: &[&str] = &[
    "jobId",
    "preset",
    "outputQualities",
    "stills",
    "webhookUrl",
    "priority",
    "maxAttempts",
    "deadlineSeconds",
    "parallelism",
    "workerClass",
];

/// A JSON body. Errors name the invalid field.
pub(crate) struct Body<T>(pub T);

impl<T: DeserializeOwned + Fields, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let mime = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let named = mime.map(|m| m.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        if named.as_deref().is_some_and(|m| m != "application/json" && !m.ends_with("+json")) {
            return Err(Problem::not_json());
        }
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                Problem::too_large()
            } else {
                Problem::malformed("the body could not be read; send it again")
            }
        })?;
        // A request without a body may omit the content type, because all fields have defaults. With a body it may not:
        // a browser sends one without it for any page and does not ask the server first.
        if named.is_none() && !bytes.is_empty() {
            return Err(Problem::not_json());
        }
        parse(&bytes).map(Self)
    }
}

pub(super) fn parse<T: DeserializeOwned + Fields>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    let value: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|e| Problem::malformed(format!("the body is not valid JSON: {e}")))?;
    let Some(object) = value.as_object() else {
        return Err(Problem::malformed("the body must be a JSON object, { ... }"));
    };
    // A misspelt field that is silently ignored costs its sender an hour.
    let known = |name: &str| T::OWN.contains(&name) || T::COMMON.contains(&name);
    if let Some(unknown) = object.keys().find(|name| !known(name)) {
        let shown: String = unknown.chars().take(60).collect();
        let fields = [T::OWN, T::COMMON].concat().join(", ");
        return Err(Problem::field(shown, format!("there is no such field; the fields are {fields}")));
    }
    // Each field is parsed separately: behind `flatten` serde no longer knows the name of the field.
    for (name, value) in object {
        check_field(name, value)?;
    }
    serde_json::from_value(value).map_err(|e| Problem::malformed(e.to_string()))
}

/// What serde says, in the words of the API.
fn reworded(text: &str) -> String {
    let choice = text.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "));
    match choice {
        Some((given, choices)) => {
            let choices = choices.trim_start_matches("one of ");
            format!("there is no {given}; use {}", choices.replace(" or ", ", "))
        }
        None => text.to_owned(),
    }
}

fn check_field(name: &str, value: &serde_json::Value) -> Result<(), Problem> {
    fn check<T: DeserializeOwned>(name: &str, value: &serde_json::Value) -> Result<(), Problem> {
        match serde_path_to_error::deserialize::<_, T>(value.clone()) {
            Ok(_) => Ok(()),
            Err(error) => {
                let inner = error.path().to_string();
                let field = if inner == "." { name.to_owned() } else { format!("{name}{inner}") };
                Err(Problem::field(field, reworded(&error.into_inner().to_string())))
            }
        }
    }
    match name {
        "jobId" => check::<Option<JobId>>(name, value),
        "preset" => check::<Preset>(name, value),
        "outputQualities" => check::<Ladder>(name, value),
        "webhookUrl" | "inputUrl" => check::<Option<Url>>(name, value),
        "inputKey" => check::<Option<ObjectKey>>(name, value),
        "priority" => check::<Priority>(name, value),
        "stills" => check::<Stills>(name, value),
        "parallelism" => check::<Parallelism>(name, value),
        "workerClass" => check::<WorkerClass>(name, value),
        "fileSize" => check::<Option<u64>>(name, value),
        "contentType" if value == "" => Ok(()),
        "contentType" => check::<Option<MediaType>>(name, value),
        "uploadId" => check::<String>(name, value),
        "partNumbers" => check::<Vec<u16>>(name, value),
        "maxAttempts" | "deadlineSeconds" | "delaySeconds" => check::<Option<u32>>(name, value),
        "requestsPerMinute" | "jobsPerHour" | "openJobs" | "sourceMinutesPerDay" => {
            check::<Option<u32>>(name, value)
        }
        "name" => check::<TokenName>(name, value),
        "scopes" => check::<Vec<Scope>>(name, value),
        "keyPrefix" => check::<Option<KeyPrefix>>(name, value),
        _ => check::<Option<String>>(name, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_named_in_the_words_of_the_api() {
        for (serde, api) in [
            ("unknown variant `a`, expected one of `b`, `c`, `d`", "there is no `a`; use `b`, `c`, `d`"),
            ("unknown variant `a`, expected `b` or `c`", "there is no `a`; use `b`, `c`"),
            ("unknown variant `a`, expected `b`", "there is no `a`; use `b`"),
            ("invalid type: integer `7`, expected a string", "invalid type: integer `7`, expected a string"),
        ] {
            assert_eq!(reworded(serde), api);
        }
        // serde still says it like this.
        let error = serde_json::from_value::<Scope>("a".into()).unwrap_err();
        assert_eq!(
            reworded(&error.to_string()),
            "there is no `a`; use `submit`, `read`, `operate`".to_owned()
        );
    }
}
