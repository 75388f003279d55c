//! Distributed traces over the API, the queue and the worker. A job carries the context of its trace.
//!
//! This module contains W3C's `traceparent`, and the export of spans to an OpenTelemetry collector for processes that
//! have one configured. The spans themselves are created where the work is done. The Worker exports no spans and only
//! propagates a caller's `traceparent`.

#[cfg(not(target_arch = "wasm32"))]
mod export;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use export::{Export, current, follow, waited};

/// `messaging.system` of the queue's spans. There is no well-known value for a queue in Redis, so this is Redis's
/// name.
pub(crate) const QUEUE_SYSTEM: &str = "redis";
/// `messaging.destination.name` of the queue's spans.
pub(crate) const QUEUE_NAME: &str = "jobs";

/// A caller's position in its trace: <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// The name of the header.
    pub const HEADER: &'static str = "traceparent";

    /// Parses a header of version 00. Everything else is ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let some = |part: &str| part.bytes().any(|b| b != b'0');
        let good = version == "00" && parts.next().is_none() && hex(flags, 2);
        (good && hex(trace, 32) && some(trace) && hex(span, 16) && some(span)).then(|| Self(text.to_owned()))
    }

    /// The value of the header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// This target has no spans.
#[cfg(target_arch = "wasm32")]
#[must_use]
pub(crate) const fn current() -> Option<TraceParent> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_parse_accepts_only_complete_headers() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(good).unwrap().as_str(), good);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bü-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
