//! What the parsers of this module promise, for `crate::fuzz`.

use super::error::{FlyResponse, RequestKind, classify, retry_after};
use super::{FlyError, FlyMachine};
use crate::controller::fleet::{Machine, MachineId, ProviderError, Slot};

/// The list of machines.
pub(crate) fn machines(bytes: &[u8]) {
    let Ok(listed) = serde_json::from_slice::<Vec<FlyMachine>>(bytes) else { return };
    for machine in listed {
        let json = serde_json::to_vec(&machine).unwrap_or_default();
        assert!(serde_json::from_slice::<FlyMachine>(&json).is_ok(), "{}", String::from_utf8_lossy(&json));
        let known = Machine::from(machine);
        assert!(known.ran_seconds.is_finite(), "{known:?}");
        let _ = Slot::parse("clips", &known.name);
    }
}

/// A response that is no success. The first two bytes are its status, the third whether something was to be written; the
/// first line is `Retry-After`, the rest is the body.
pub(crate) fn refusal(bytes: &[u8]) {
    let Some(([high, low, kind], rest)) = bytes.split_first_chunk() else { return };
    let status = 300 + u16::from_be_bytes([*high, *low]) % 400;
    let kind = if kind % 2 == 0 { RequestKind::Read } else { RequestKind::Write };
    let text = String::from_utf8_lossy(rest);
    let (wait, body) = text.split_once('\n').unwrap_or(("", &text));
    let now = jiff::Timestamp::UNIX_EPOCH;
    let machine = MachineId("m1".to_owned());
    let answer = FlyResponse { status, retry_after: retry_after(wait, now), body };
    let error = classify(kind, Some(&machine), &answer);
    let is_doubtful = matches!(error, FlyError::UnknownOutcome { .. });
    let may_be_done = kind == RequestKind::Write && (status == 408 || (500..600).contains(&status));
    // One refusal with the status 503 says that nothing was done.
    let is_refused = status == 503 && matches!(error, FlyError::Capacity { .. });
    assert_eq!(is_doubtful, may_be_done && !is_refused, "{error:?}");
    let said = ProviderError::from(error).to_string();
    assert!(said.len() < 2_000 && !said.chars().any(char::is_control), "{said:?}");
}
