//! Selects the text format for a scraper from its `Accept` header:
//! <https://prometheus.io/docs/instrumenting/content_negotiation/>. Pure.

use prometheus_client::encoding::prometheus_text;

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// Prometheus's text format 0.0.4, which all scrapers can read.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// A media range of the header, with its weight in thousandths.
struct Range<'a> {
    kind: &'a str,
    version: Option<&'a str>,
    weight: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Range { kind: parts.next()?, version: None, weight: 1000 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            if name.trim().eq_ignore_ascii_case("q") {
                let weight: f32 = value.parse().ok().filter(|q| (0.0..=1.0).contains(q))?;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
                let thousandths = (weight * 1000.0).round() as u16;
                range.weight = thousandths;
            } else if name.trim().eq_ignore_ascii_case("version") {
                range.version = Some(value);
            }
        }
        Some(range)
    }

    /// How specifically the range names this media type, of which `versions` are served; `None` if it does not match.
    fn matches(&self, kind: &str, versions: &[&str]) -> Option<u8> {
        let any_of_kind = format!("{}/*", kind.split('/').next()?);
        match self.version {
            Some(version) if self.kind.eq_ignore_ascii_case(kind) => versions.contains(&version).then_some(3),
            None if self.kind.eq_ignore_ascii_case(kind) => Some(2),
            _ if self.kind.eq_ignore_ascii_case(&any_of_kind) => Some(1),
            _ => (self.kind == "*/*").then_some(0),
        }
    }
}

/// The weight of the most specific range that matches the media type, and its specificity.
fn weight(ranges: &[Range<'_>], kind: &str, versions: &[&str]) -> Option<(u8, u16)> {
    ranges.iter().filter_map(|range| Some((range.matches(kind, versions)?, range.weight))).max()
}

impl ExpositionFormat {
    /// Selects the format for this `Accept` header: OpenMetrics only if the header names it; the text format if the
    /// header prefers neither, or accepts nothing that is served.
    #[must_use]
    pub fn negotiate(accept: &str) -> Self {
        let ranges: Vec<_> = accept.split(',').filter_map(Range::parse).collect();
        let open = weight(&ranges, "application/openmetrics-text", &["1.0.0", "0.0.1"]);
        let text = weight(&ranges, "text/plain", &["0.0.4"]).map_or(0, |(_, weight)| weight);
        match open {
            Some((2.., weight)) if weight > 0 && weight >= text => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// The `Content-Type` of the response.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiate_selects_openmetrics_only_if_preferred() {
        use ExpositionFormat::{OpenMetrics, Prometheus};
        for (accept, format) in [
            // Prometheus 2.
            (
                "application/openmetrics-text; version=1.0.0,application/openmetrics-text; version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            // Prometheus 3.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                OpenMetrics,
            ),
            // The same, with the target restricted to the text format.
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Prometheus),
            // curl, a browser, and an empty header.
            ("*/*", Prometheus),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Prometheus),
            ("", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", OpenMetrics),
            ("application/openmetrics-text;q=0.4, text/plain;q=0.5", Prometheus),
            ("application/openmetrics-text;q=0.5, text/plain;q=0.5", OpenMetrics),
            ("application/openmetrics-text;q=0, */*", Prometheus),
            ("application/openmetrics-text; version=2.0.0", Prometheus),
            ("application/openmetrics-text;q=2, text/plain;q=x", Prometheus),
            ("application/*", Prometheus),
            ("application/json", Prometheus),
            ("text/*;q=0.9, application/openmetrics-text;q=0.8", Prometheus),
            (";;=,,q=;version", Prometheus),
        ] {
            assert_eq!(ExpositionFormat::negotiate(accept), format, "{accept}");
        }
    }
}
