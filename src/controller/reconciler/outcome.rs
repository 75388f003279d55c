//! What Fly answered -> what it means to the plan. Pure.

use crate::controller::fleet::{ListFailure, Outcome};
use crate::flyprovider::{FlyError, Scope};

/// How a step ended.
pub fn outcome_of(error: &FlyError) -> Outcome {
    match error {
        FlyError::RateLimited { retry_after } => Outcome::RateLimited { retry_after: *retry_after },
        // Nothing was done, and asking at once would end the same: wait as after a refusal.
        FlyError::Unavailable { .. } => Outcome::RateLimited { retry_after: None },
        FlyError::Capacity { scope: Scope::Quota, .. } => Outcome::Quota,
        FlyError::Capacity { scope: Scope::Host | Scope::Region, .. } => Outcome::NoCapacity,
        FlyError::NameTaken { by } => Outcome::NameTaken(by.clone()),
        FlyError::Precondition { .. } => Outcome::Precondition,
        FlyError::Auth { .. } => Outcome::Unauthorized,
        FlyError::Billing { .. } => Outcome::Billing,
        FlyError::NoSuchApp | FlyError::NotFound(_) => Outcome::NotFound,
        FlyError::UnknownOutcome { .. } => Outcome::Unknown,
        FlyError::Other { .. } => Outcome::Rejected,
    }
}

/// Why there is no list.
pub const fn list_failure_of(error: &FlyError) -> ListFailure {
    match error {
        FlyError::Auth { .. } => ListFailure::Unauthorized,
        FlyError::Billing { .. } => ListFailure::Billing,
        FlyError::NoSuchApp => ListFailure::NoSuchApp,
        _ => ListFailure::Failed,
    }
}

/// The outcome in a word, for metrics.
pub const fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_) => "done",
        Outcome::Unknown => "unknown",
        Outcome::NameTaken(_) => "name_taken",
        Outcome::NoCapacity => "no_capacity",
        Outcome::Quota => "quota",
        Outcome::Precondition => "precondition",
        Outcome::RateLimited { .. } => "rate_limited",
        Outcome::Unauthorized => "unauthorized",
        Outcome::Billing => "billing",
        Outcome::NotFound => "not_found",
        Outcome::Rejected => "rejected",
        Outcome::Refused => "busy",
        Outcome::Fenced => "fenced",
    }
}
