//! The answers of the API server, as the failures that the plan knows.
//!
//! Most refusals of a create are `403 Forbidden` with a text: by RBAC, by the admission plugins ResourceQuota, LimitRanger
//! and PodSecurity, and by webhooks. The texts are those of Kubernetes 1.33 to 1.37
//! (`apiserver/pkg/admission/plugin/resourcequota/controller.go`, `plugin/pkg/admission/limitranger/admission.go`,
//! `pod-security-admission/admission/admission.go`); the integration tests compare them with the answers of a server.

use std::time::Duration;

use kube::core::Status;

use crate::controller::fleet::{ProviderError, ProviderFailure};

/// Whether a request changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A list.
    Read,
    /// A create.
    Create,
    /// A delete.
    Delete,
}

/// The error of a request that ended with this error.
pub(super) fn from_kube(error: &kube::Error, kind: Kind) -> ProviderError {
    match error {
        kube::Error::Api(status) => from_status(status, kind),
        // The request may have been received before the connection broke.
        error => {
            let failure = match kind {
                Kind::Read => ProviderFailure::Unavailable,
                Kind::Create | Kind::Delete => ProviderFailure::UnknownOutcome,
            };
            ProviderError { failure, message: format!("the API server cannot be used: {error}") }
        }
    }
}

/// The error of a request that was not answered in time.
pub(super) fn timed_out(kind: Kind) -> ProviderError {
    let failure = match kind {
        Kind::Read => ProviderFailure::Unavailable,
        Kind::Create | Kind::Delete => ProviderFailure::UnknownOutcome,
    };
    ProviderError { failure, message: "the API server does not answer in time".to_owned() }
}

/// The error of a request that the API server answered with this status.
fn from_status(status: &Status, kind: Kind) -> ProviderError {
    let failure = match (status.code, status.reason.as_str()) {
        (_, "AlreadyExists") => ProviderFailure::NameTaken(None),
        (404, _) => ProviderFailure::NotFound,
        (409, _) => match kind {
            // The pod of this name has another uid: the one that was meant is gone.
            Kind::Delete => ProviderFailure::NotFound,
            // Another request has changed the same quota at the same time.
            Kind::Read | Kind::Create => ProviderFailure::RateLimited { retry_after: None },
        },
        (429, _) => ProviderFailure::RateLimited { retry_after: retry_after(status) },
        (401, _) => ProviderFailure::Unauthorized,
        (403, _) => refusal(&status.message),
        // No webhook, no pod: the API server asks them before it stores the object.
        (500.., _) if kind == Kind::Create && status.message.contains("failed calling webhook") => {
            ProviderFailure::Rejected
        }
        (500.., _) => match kind {
            Kind::Read => ProviderFailure::Unavailable,
            // The request may have been carried out nevertheless.
            Kind::Create | Kind::Delete => ProviderFailure::UnknownOutcome,
        },
        _ => ProviderFailure::Rejected,
    };
    let message = if status.message.is_empty() {
        format!("the API server answered {} {}", status.code, status.reason)
    } else {
        status.message.clone()
    };
    ProviderError { failure, message }
}

fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// Who refused a request with `403 Forbidden`, by the text.
fn refusal(message: &str) -> ProviderFailure {
    // "failed quota: a: must specify limits.cpu for: worker" is said of a quota for resources that the pod does not name.
    let quotas = ["exceeded quota:", "failed quota:", "status unknown for quota:"];
    let is_quota = quotas.iter().any(|text| message.contains(text));
    // "maximum cpu usage per Container is 1, but limit is 2", and likewise for the minimum and the ratio.
    let is_limit_range =
        message.contains(" usage per ") || message.contains(" max limit to request ratio per ");
    if is_quota {
        ProviderFailure::Quota
    } else if is_limit_range {
        ProviderFailure::NoCapacity
    } else if message.contains(" cannot ") && message.contains(" resource ") {
        ProviderFailure::Unauthorized
    } else {
        ProviderFailure::Rejected
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::fleet::{ListFailure, Outcome};

    fn error(code: u16, reason: &str, message: &str, kind: Kind) -> ProviderError {
        let status = json!({"status": "Failure", "code": code, "reason": reason, "message": message});
        from_status(&serde_json::from_value(status).unwrap(), kind)
    }

    #[test]
    fn refusals_of_a_pod_are_told_apart() {
        let outcome = |message: &str| error(403, "Forbidden", message, Kind::Create).outcome();
        for (message, expected) in [
            (
                "pods \"a\" is forbidden: exceeded quota: pods, requested: pods=1, used: pods=2, limited: pods=2",
                Outcome::Quota,
            ),
            ("pods \"a\" is forbidden: status unknown for quota: q, resources: pods", Outcome::Quota),
            ("pods \"a\" is forbidden: failed quota: q: must specify limits.cpu for: worker", Outcome::Quota),
            (
                "pods \"a\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
                Outcome::NoCapacity,
            ),
            (
                "pods \"a\" is forbidden: [minimum memory usage per Pod is 1Gi.  No request is specified, x]",
                Outcome::NoCapacity,
            ),
            (
                "pods \"a\" is forbidden: cpu max limit to request ratio per Container is 2, but no limit is specified \
                 or limit is 0",
                Outcome::NoCapacity,
            ),
            (
                "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": privileged (container \
                 \"worker\" must not set securityContext.privileged=true)",
                Outcome::Rejected,
            ),
            (
                "pods is forbidden: User \"system:serviceaccount:a:b\" cannot create resource \"pods\" in API group \
                 \"\" in the namespace \"a\"",
                Outcome::Unauthorized,
            ),
            ("admission webhook \"x\" denied the request: no", Outcome::Rejected),
        ] {
            assert_eq!(outcome(message), expected, "{message}");
        }
    }

    #[test]
    fn statuses_of_the_api_server_are_translated() {
        let outcome = |code, reason, kind| error(code, reason, "why", kind).outcome();
        assert_eq!(outcome(409, "AlreadyExists", Kind::Create), Outcome::NameTaken(None));
        assert_eq!(outcome(409, "Conflict", Kind::Delete), Outcome::NotFound);
        let later = Outcome::RateLimited { retry_after: None };
        assert_eq!(outcome(409, "Conflict", Kind::Create), later);
        assert_eq!(outcome(404, "NotFound", Kind::Create), Outcome::NotFound);
        assert_eq!(outcome(401, "Unauthorized", Kind::Create), Outcome::Unauthorized);
        assert_eq!(outcome(422, "Invalid", Kind::Create), Outcome::Rejected);
        assert_eq!(outcome(500, "InternalError", Kind::Create), Outcome::Unknown);
        let webhook =
            "Internal error occurred: failed calling webhook \"a.example.com\": failed to call webhook: x";
        assert_eq!(error(500, "InternalError", webhook, Kind::Create).outcome(), Outcome::Rejected);
        assert_eq!(
            outcome(503, "ServiceUnavailable", Kind::Read),
            Outcome::RateLimited { retry_after: None }
        );
        let refused = error(403, "Forbidden", "User \"a\" cannot list resource \"pods\"", Kind::Read);
        assert_eq!(refused.list_failure(), ListFailure::Unauthorized);
        assert_eq!(error(410, "Expired", "", Kind::Read).message, "the API server answered 410 Expired");
    }

    #[test]
    fn throttled_request_waits_as_long_as_the_server_asks() {
        let status = json!({
            "code": 429, "reason": "TooManyRequests", "message": "later", "details": {"retryAfterSeconds": 7},
        });
        let error = from_status(&serde_json::from_value(status).unwrap(), Kind::Create);
        assert_eq!(error.outcome(), Outcome::RateLimited { retry_after: Some(Duration::from_secs(7)) });
    }
}
