//! Classifies Fly's error responses. Pure: depends only on the request and the response.

use std::time::Duration;

use serde::Deserialize;

use crate::controller::fleet::MachineId;

/// A request to Fly failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlyError {
    /// Too many requests; nothing was done.
    #[error("Fly says there are too many requests; the next ones are made later")]
    RateLimited {
        /// The delay that Fly asks for, if any.
        retry_after: Option<Duration>,
    },
    /// There is no capacity for the machine; nothing was done.
    #[error("Fly has no room in this {scope}: {message}")]
    Capacity {
        /// What has no capacity.
        scope: CapacityScope,
        /// Fly's error message.
        message: String,
    },
    /// A machine with this name already exists; nothing was done.
    #[error("a machine of this name exists already{}", by.as_ref().map(|id| format!(": {id}")).unwrap_or_default())]
    NameTaken {
        /// The id of that machine, if Fly reports it.
        by: Option<MachineId>,
    },
    /// The machine is in a state that does not permit the request, or another client is changing it; read it
    /// again.
    #[error("Fly does not do this to the machine as it is now: {message}")]
    Precondition {
        /// Fly's error message.
        message: String,
    },
    /// The token was rejected.
    #[error(
        "Fly refuses the token ({status}); check that FLY_API_TOKEN is a current token for the app in FLY_WORKER_APP"
    )]
    Auth {
        /// 401 or 403.
        status: u16,
    },
    /// The organization has to pay first: it has no payment method, its trial has ended, or a bill is unpaid.
    /// The token is valid, and nothing was done.
    #[error("Fly refuses until the organisation's payment is in order: {message}")]
    Billing {
        /// Fly's error message.
        message: String,
    },
    /// The app does not exist.
    #[error("Fly has no such app; check FLY_WORKER_APP, or make it with `fly apps create`")]
    NoSuchApp,
    /// The machine does not exist, or no longer.
    #[error("Fly has no machine {0}")]
    NotFound(MachineId),
    /// The response to a write is missing or unintelligible: it may or may not have been carried out.
    #[error("it is not known whether Fly did it ({message}); the next list will show")]
    UnknownOutcome {
        /// What is known about the response.
        message: String,
    },
    /// Fly is unreachable or cannot answer; nothing was done.
    #[error("Fly does not answer ({message}); trying again later")]
    Unavailable {
        /// What happened.
        message: String,
    },
    /// Any other error; a retry will not help.
    #[error("Fly refuses ({status}): {message}")]
    Other {
        /// The HTTP status.
        status: u16,
        /// Fly's error message.
        message: String,
    },
}

/// What has no capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CapacityScope {
    /// The host that Fly chose; a retry may use another one.
    Host,
    /// The region.
    Region,
    /// The quota of the organization.
    Quota,
}

impl std::fmt::Display for CapacityScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Region => "region",
            Self::Quota => "organisation's quota",
        })
    }
}

/// Whether a request changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// The request changes nothing and can be repeated.
    Read,
    /// The request changes something.
    Write,
}

/// An error response.
#[derive(Clone, Debug)]
pub(super) struct FlyResponse<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The delay in `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: &'a str,
}

/// The fields of Fly's error bodies.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    error: Option<String>,
    message: Option<String>,
    status: Option<serde_json::Value>,
}

/// Messages about a host without capacity (fly-go, `flydResourcePhrases`; flyctl, `restartBuilderMachine`).
const HOST_FULL: &[&str] = &[
    "could not reserve resource",
    "insufficient resources",
    "not enough resources",
    "insufficient cpus available",
    "insufficient memory available",
    "insufficient ips available",
];

/// Messages about a host that accepts no machines for now, though it may have capacity (flyctl, pull request
/// 3732).
const HOST_CLOSED: &[&str] =
    &["deploys to this host are temporarily disabled", "governor policy blocked start"];

/// Messages about missing payment, as reported by users of Fly: "please add a payment method", "trial has
/// ended, please add a credit card", "We need your payment information to continue". Single words are not
/// enough: an app or an image may be called `payments`.
const UNPAID: &[&str] = &[
    "payment method",
    "payment information",
    "billing information",
    "billing issue",
    "credit card",
    "buy credit",
    "trial has ended",
    "past due",
    "unpaid invoice",
];

/// Classifies the response to a request about `machine`, or about the app if it is `None`.
#[must_use]
pub(super) fn classify(kind: RequestKind, machine: Option<&MachineId>, answer: &FlyResponse<'_>) -> FlyError {
    let body: ErrorBody = serde_json::from_str(answer.body).unwrap_or_default();
    let text = body.error.or(body.message).unwrap_or_else(|| answer.body.trim().to_owned());
    let message = words(&text);
    let lower = text.to_lowercase();
    // Some responses contain the code in a field, others only as a prefix of the text.
    let code = match body.status {
        Some(serde_json::Value::String(code)) => code,
        _ => lower.split_once(':').map(|(code, _)| code.to_owned()).unwrap_or_default(),
    };
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
    let host_full = code == "volume_placement_capacity" || says(HOST_FULL) || says(HOST_CLOSED);
    let region_full = says(&["insufficient_capacity"])
        || code == "insufficient_capacity"
        || lower.trim_end().ends_with("no capacity");
    let over_quota = says(&["quota"]);
    let unpaid = answer.status == 402 || says(UNPAID);
    let capacity = |scope| FlyError::Capacity { scope, message: message.clone() };

    // Fly's response to an id that is not in its own format.
    if let Some(id) = machine
        && answer.status == 400
        && says(&["invalid machine id"])
    {
        return FlyError::NotFound(id.clone());
    }
    match (answer.status, kind) {
        (429, _) => FlyError::RateLimited { retry_after: answer.retry_after },
        (400 | 402 | 403 | 422, _) if over_quota => capacity(CapacityScope::Quota),
        (400..=403 | 422, _) if unpaid => FlyError::Billing { message },
        (status @ (401 | 403), _) => FlyError::Auth { status },
        (404, _) => match machine {
            Some(id) if !says(&["could not find app", "app not found"]) => FlyError::NotFound(id.clone()),
            _ => FlyError::NoSuchApp,
        },
        (409, _) if code == "already_exists" || says(&["unique machine name violation"]) => {
            FlyError::NameTaken { by: taken_by(&text) }
        }
        (409 | 412 | 422, _) if region_full => capacity(CapacityScope::Region),
        (409 | 412 | 422, _) if host_full => capacity(CapacityScope::Host),
        // The text begins with the code `unavailable`, which is a 503 in Fly's API. It says that nothing was
        // done, which no other server error does.
        (503, RequestKind::Write) if says(HOST_CLOSED) => capacity(CapacityScope::Host),
        // The remaining 409s are concurrent updates and leases; both require reading the machine again.
        (409 | 412, _) => FlyError::Precondition { message },
        (408 | 500..=599, RequestKind::Read) => {
            FlyError::Unavailable { message: with_status(answer, &message) }
        }
        (408 | 500..=599, RequestKind::Write) => {
            FlyError::UnknownOutcome { message: with_status(answer, &message) }
        }
        (status, _) => FlyError::Other { status, message },
    }
}

fn with_status(answer: &FlyResponse<'_>, message: &str) -> String {
    if message.is_empty() { answer.status.to_string() } else { format!("{}: {message}", answer.status) }
}

/// Fly's message as one line of a log.
fn words(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CHARS).collect();
    clean.trim().to_owned()
}

/// The id in a message such as `..., machine ID 1234 already exists`.
fn taken_by(text: &str) -> Option<MachineId> {
    let (_, rest) = text.split_once("machine ID ")?;
    let id: String = rest.chars().take_while(char::is_ascii_alphanumeric).take(64).collect();
    (!id.is_empty()).then_some(MachineId(id))
}

/// The delay in a `Retry-After` header: a number of seconds, or a date.
#[must_use]
pub(super) fn retry_after(text: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(kind: RequestKind, machine: bool, status: u16, body: &str) -> FlyError {
        let id = MachineId("m1".into());
        classify(kind, machine.then_some(&id), &FlyResponse { status, retry_after: None, body })
    }

    fn write(status: u16, body: &str) -> FlyError {
        read(RequestKind::Write, true, status, body)
    }

    fn scope(error: FlyError) -> CapacityScope {
        match error {
            FlyError::Capacity { scope, .. } => scope,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn error_for_a_taken_name_contains_the_machine_id() {
        let body =
            r#"{"error":"already_exists: unique machine name violation, machine ID 3d8d41 already exists"}"#;
        assert_eq!(write(409, body), FlyError::NameTaken { by: Some(MachineId("3d8d41".into())) });
        let body = r#"{"error":"taken","status":"already_exists"}"#;
        assert_eq!(write(409, body), FlyError::NameTaken { by: None });
    }

    #[test]
    fn error_409_is_capacity_or_precondition() {
        let body =
            r#"{"error":"aborted: could not reserve resource for machine: insufficient CPUs available"}"#;
        assert_eq!(scope(write(409, body)), CapacityScope::Host);
        for body in [r#"{"error":"aborted: concurrent update"}"#, r#"{"error":"lease currently held"}"#, ""] {
            assert!(matches!(write(409, body), FlyError::Precondition { .. }), "{body}");
        }
        assert_eq!(
            scope(write(409, r#"{"error":"x","status":"insufficient_capacity"}"#)),
            CapacityScope::Region
        );
    }

    #[test]
    fn error_412_is_capacity_or_precondition() {
        let body = r#"{"error":"failed_precondition: machine is stopping"}"#;
        assert!(matches!(write(412, body), FlyError::Precondition { .. }));
        let body = r#"{"error":"insufficient resources available to fulfil request"}"#;
        assert_eq!(scope(write(412, body)), CapacityScope::Host);
    }

    #[test]
    fn error_of_capacity_has_the_scope_region_or_quota() {
        let body =
            r#"{"error":"insufficient_capacity: no capacity in region","status":"insufficient_capacity"}"#;
        assert_eq!(scope(write(422, body)), CapacityScope::Region);
        let body = r#"{"error":"organization is over the allowed quota"}"#;
        assert_eq!(scope(write(403, body)), CapacityScope::Quota);
        assert_eq!(scope(write(422, body)), CapacityScope::Quota);
        assert!(matches!(write(422, r#"{"error":"invalid config"}"#), FlyError::Other { status: 422, .. }));
    }

    #[test]
    fn error_for_a_disabled_host_has_the_scope_host_for_every_status() {
        let closed = r#"{"error":"unavailable: deploys to this host are temporarily disabled, please try again later or check the status page: https://status.flyio.net/"}"#;
        for status in [409, 412, 422, 503] {
            assert_eq!(scope(write(status, closed)), CapacityScope::Host, "{status}");
        }
        // After any other server error the outcome is unknown.
        for (status, body) in [(500, closed), (503, r#"{"error":"unavailable: try again later"}"#)] {
            assert!(matches!(write(status, body), FlyError::UnknownOutcome { .. }), "{status} {body}");
        }
        assert!(matches!(read(RequestKind::Read, true, 503, closed), FlyError::Unavailable { .. }));
    }

    #[test]
    fn error_bodies_of_fly_go_are_classified_as_capacity() {
        // The bodies of fly-go's `TestCapacityScopeOf`.
        for (status, body, expected) in [
            (
                422,
                r#"{"error":"could not find a candidate host","status":"insufficient_capacity"}"#,
                CapacityScope::Region,
            ),
            (409, r#"{"error":"aborted: no capacity"}"#, CapacityScope::Region),
            (
                412,
                r#"{"error":"insufficient resources to create new machine with existing volume id '123'","status":"volume_placement_capacity"}"#,
                CapacityScope::Host,
            ),
            (
                409,
                r#"{"error":"aborted: could not reserve resource for machine: insufficient memory available to fulfill request on the current host"}"#,
                CapacityScope::Host,
            ),
            (
                409,
                r#"{"error":"aborted: insufficient IPs available to fulfill request"}"#,
                CapacityScope::Host,
            ),
            (409, "insufficient CPUs available to fulfill request", CapacityScope::Host),
        ] {
            assert_eq!(scope(write(status, body)), expected, "{body}");
        }
        let update = r#"{"error":"aborted: machine update failed due to concurrent update"}"#;
        assert!(matches!(write(409, update), FlyError::Precondition { .. }));
    }

    #[test]
    fn error_for_missing_payment_is_billing_and_not_auth() {
        for (status, text) in [
            (
                403,
                "To create more than 1 machine per app please add a payment method. https://fly.io/dashboard/personal/billing",
            ),
            (403, "trial has ended, please add a credit card by visiting https://fly.io/trial"),
            (422, "We need your payment information to continue! Add a credit card or buy credit"),
            (402, "no"),
        ] {
            let body = serde_json::json!({ "error": text }).to_string();
            let error = read(RequestKind::Write, false, status, &body);
            assert_eq!(error, FlyError::Billing { message: text.to_owned() });
            assert!(!error.to_string().contains("token"), "{error}");
            assert!(
                matches!(read(RequestKind::Read, false, status, &body), FlyError::Billing { .. }),
                "{text}"
            );
        }
        let named = r#"{"error":"not authorized for app payments-and-billing-unpaid"}"#;
        assert_eq!(read(RequestKind::Write, false, 403, named), FlyError::Auth { status: 403 });
    }

    #[test]
    fn error_400_for_an_invalid_machine_id_is_not_found() {
        let body = r#"{"error":"invalid machine ID, '12345'"}"#;
        assert_eq!(write(400, body), FlyError::NotFound(MachineId("m1".into())));
    }

    #[test]
    fn error_403_without_quota_is_auth() {
        assert_eq!(write(403, r#"{"error":"unauthorized"}"#), FlyError::Auth { status: 403 });
        assert_eq!(read(RequestKind::Read, false, 401, "nope"), FlyError::Auth { status: 401 });
    }

    #[test]
    fn error_404_is_no_such_app_or_not_found() {
        assert_eq!(read(RequestKind::Read, false, 404, ""), FlyError::NoSuchApp);
        assert_eq!(read(RequestKind::Read, true, 404, ""), FlyError::NotFound(MachineId("m1".into())));
        let body = r#"{"error":"Could not find App \"x\""}"#;
        assert_eq!(read(RequestKind::Write, true, 404, body), FlyError::NoSuchApp);
    }

    #[test]
    fn error_5xx_is_unknown_outcome_for_writes_and_unavailable_for_reads() {
        for status in [408, 500, 502, 503, 504, 599] {
            assert!(matches!(write(status, "<html>"), FlyError::UnknownOutcome { .. }), "{status}");
            let error = read(RequestKind::Read, false, status, "<html>");
            assert!(matches!(error, FlyError::Unavailable { .. }), "{status}");
        }
    }

    #[test]
    fn error_429_contains_retry_after() {
        let wait = Some(Duration::from_secs(7));
        let answer = FlyResponse { status: 429, retry_after: wait, body: "" };
        assert_eq!(classify(RequestKind::Write, None, &answer), FlyError::RateLimited { retry_after: wait });
    }

    #[test]
    fn retry_after_parses_seconds_or_a_date() {
        let now: jiff::Timestamp = "2015-10-21T07:28:00Z".parse().unwrap();
        let seconds = |text| retry_after(text, now).map(|d| d.as_secs());
        assert_eq!(seconds(" 12 "), Some(12));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:30 GMT"), Some(30));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:27:30 GMT"), Some(0));
        assert_eq!((seconds("soon"), seconds("-1"), seconds("")), (None, None, None));
    }

    #[test]
    fn error_message_is_one_line_of_bounded_length() {
        let FlyError::Other { message, .. } = write(400, &format!("a\nb\u{1b}[31m{}", "x".repeat(5000)))
        else {
            panic!("not other")
        };
        assert!(message.starts_with("a b [31mxx") && message.chars().count() <= 300, "{message}");
    }

    proptest! {
        /// A 5xx response to a write never counts as not done, and no response causes a panic.
        #[test]
        fn error_for_a_write_is_unknown_outcome_only_for_408_and_5xx(status in 300u16..700, body in ".{0,80}", app in any::<bool>()) {
            let error = read(RequestKind::Write, !app, status, &body);
            let doubtful = matches!(error, FlyError::UnknownOutcome { .. });
            prop_assert_eq!(doubtful, status == 408 || (500..600).contains(&status));
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
