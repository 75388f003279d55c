//! Interprets responses of Upstash's REST interface, first by the HTTP status and then by the text. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::super::{QueueError, Reply, is_quota, of_code};

/// Maximum length of a text of the service in an error message, characters.
const WORDS: usize = 300;

/// The reply to one command.
#[derive(Deserialize)]
pub(super) struct RestResponse {
    #[serde(default)]
    result: Value,
    error: Option<String>,
}

impl RestResponse {
    pub(super) fn reply(self, redaction: &Redaction) -> Result<Reply, QueueError> {
        match self.error {
            None => reply(self.result),
            Some(text) => Err(refused(&text, redaction)),
        }
    }
}

/// Strings that must not appear in error messages.
pub(super) struct Redaction {
    token: SecretString,
    host: Option<String>,
}

impl Redaction {
    pub(super) fn new(url: &Url, token: &SecretString) -> Self {
        Self { token: token.clone(), host: url.host_str().map(str::to_owned) }
    }

    /// The text of the service as one short line, without the token and the address.
    fn quote(&self, text: &str) -> String {
        let secrets = [Some(self.token.expose_secret()), self.host.as_deref()];
        let mut text = text.to_owned();
        for secret in secrets.into_iter().flatten().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "[…]");
        }
        let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        let line = line.collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(WORDS) {
            None => line,
            Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        }
    }
}

/// The text of a body: `{"error": …}`, or the body itself if it is plain text. An HTML page, which a proxy sends
/// instead of the service, is not used.
fn words(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    if let Ok(Refusal { error }) = serde_json::from_slice(body) {
        return Some(error);
    }
    let text = std::str::from_utf8(body).ok()?.trim();
    (!text.is_empty() && !text.starts_with(['<', '{', '['])).then(|| text.to_owned())
}

/// The error for a status other than 2xx.
pub(super) fn refusal(status: StatusCode, body: &[u8], redaction: &Redaction) -> QueueError {
    let text = words(body);
    let code = status.as_u16();
    let said = |text: Option<&str>| match text {
        Some(text) => format!("HTTP {code}: {}", redaction.quote(text)),
        None => format!("HTTP {code}"),
    };
    match (code, text.as_deref()) {
        (401 | 403, text) => QueueError::Auth(said(text)),
        // A used-up plan may be reported with several statuses.
        (402, text) => QueueError::Quota(said(text)),
        (400..=599, Some(text)) if is_quota(text) => QueueError::Quota(redaction.quote(text)),
        (408 | 425 | 429 | 500..=599, text) => QueueError::Unavailable(said(text)),
        (400..=499, Some(text)) if serde_json::from_slice::<RestResponse>(body).is_ok() => {
            refused(text, redaction)
        }
        _ => QueueError::Connection(format!("HTTP {code}, which is no answer of Upstash's REST interface")),
    }
}

/// The error for a command that Redis refused with `CODE text`.
fn refused(text: &str, redaction: &Redaction) -> QueueError {
    match of_code(text.split(' ').next(), text) {
        Some(QueueError::Quota(text)) => QueueError::Quota(redaction.quote(&text)),
        Some(QueueError::Connection(text)) => QueueError::Connection(redaction.quote(&text)),
        Some(special) => special,
        None => QueueError::Refused(redaction.quote(text)),
    }
}

/// Decodes a result. All strings are base64, except the status `OK`. Upstash's own client accepts a string that is
/// not base64 as it is. Here it is an error, because a service that does not encode strings would be misread whenever
/// a text happens to look like base64.
fn reply(value: Value) -> Result<Reply, QueueError> {
    Ok(match value {
        Value::Null => Reply::Nil,
        Value::String(text) if text == "OK" => Reply::Text(text),
        Value::String(text) => {
            let bytes = STANDARD.decode(&text).map_err(|_| {
                QueueError::data("an answer that is not base64, which Upstash's REST interface was asked for")
            })?;
            Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Reply::Int(whole),
            None => Reply::Text(number.to_string()),
        },
        Value::Bool(is) => Reply::Int(is.into()),
        Value::Array(list) => Reply::List(list.into_iter().map(reply).collect::<Result<_, _>>()?),
        Value::Object(_) => return Err(QueueError::data("an answer of an unknown kind")),
    })
}

/// What this parser promises, for `crate::fuzz`. The first two bytes are the status, the rest is the body.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_rest_answer(bytes: &[u8]) {
    let Some((status, body)) = bytes.split_first_chunk() else { return };
    let status = StatusCode::from_u16(u16::from_be_bytes(*status) % 1000).unwrap_or(StatusCode::OK);
    let Ok(url) = "https://name.upstash.example".parse() else { return };
    let redaction = Redaction::new(&url, &"hush-0815".to_owned().into());
    let check = |error: QueueError| {
        let said = error.to_string();
        assert!(said.len() < 2_000 && !said.chars().any(char::is_control), "{said:?}");
        assert!(!said.contains("hush-0815") && !said.contains("name.upstash.example"), "{said:?}");
    };
    if !status.is_success() {
        check(refusal(status, body, &redaction));
    }
    let answers: Vec<RestResponse> = match serde_json::from_slice(body) {
        Ok(one) => vec![one],
        Err(_) => serde_json::from_slice(body).unwrap_or_default(),
    };
    answers.into_iter().filter_map(|answer| answer.reply(&redaction).err()).for_each(check);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const QUOTA: &str = "ERR max requests limit exceeded. Limit: 500000, Usage: 500001. See \
                         https://upstash.com/docs/redis/troubleshooting/max_requests_limit for details";

    fn redaction() -> Redaction {
        Redaction::new(&"https://name.upstash.io".parse().unwrap(), &"hush".to_owned().into())
    }

    fn of(status: u16, body: &str) -> QueueError {
        refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &redaction())
    }

    fn error(text: &str) -> String {
        json!({"error": text}).to_string()
    }

    #[test]
    fn rest_answer_status_takes_precedence_over_the_body() {
        let html = "<html><body>502 Bad Gateway</body></html>";
        for status in [408, 425, 429, 500, 502, 503, 504, 520, 599] {
            for body in
                ["", html, "upstream error", &error("ERR upstream is away"), &error("NOSCRIPT x"), "[]"]
            {
                let found = of(status, body);
                assert!(matches!(found, QueueError::Unavailable(_)), "{status} {body}: {found:?}");
                assert!(found.is_transient() && found.to_string().contains(&format!("HTTP {status}")));
            }
        }
        for status in [401, 403] {
            let found = of(status, &error("WRONGPASS invalid or missing auth token"));
            assert!(matches!(found, QueueError::Auth(_)) && !found.is_transient(), "{found:?}");
            assert!(found.to_string().contains("WRONGPASS invalid or missing auth token"), "{found}");
            assert!(matches!(of(status, html), QueueError::Auth(_)));
        }
        // Another server answers at this address.
        for status in [301, 400, 404, 405, 418] {
            assert!(matches!(of(status, html), QueueError::Connection(_)), "{status}");
        }
    }

    #[test]
    fn rest_answer_used_up_quota_is_recognised_with_any_status() {
        let daily = "ERR max daily request limit exceeded";
        for status in [400, 402, 429, 500, 503] {
            for text in [QUOTA, daily] {
                for body in [error(text), text.to_owned()] {
                    let found = of(status, &body);
                    assert!(matches!(found, QueueError::Quota(_)) && !found.is_transient(), "{found:?}");
                    let said = found.to_string();
                    assert!(said.contains(text) && said.contains("raise the limit of its plan"), "{said}");
                }
            }
        }
        assert!(matches!(of(402, ""), QueueError::Quota(_)));
        // One command of a pipeline.
        let answer: RestResponse = serde_json::from_str(&error(QUOTA)).unwrap();
        assert!(matches!(answer.reply(&redaction()), Err(QueueError::Quota(_))));
        // This error passes within a second.
        let rate = of(429, &error("ERR max commands per second limit exceeded"));
        assert!(matches!(rate, QueueError::Unavailable(_)), "{rate:?}");
    }

    #[test]
    fn rest_answer_keeps_code_and_text_of_redis_errors() {
        assert!(matches!(of(400, &error("NOSCRIPT No matching script.")), QueueError::NoScript));
        assert!(matches!(of(400, &error("WRONGPASS invalid password")), QueueError::Auth(_)));
        assert!(matches!(of(400, &error("OOM command not allowed")), QueueError::OutOfMemory));
        assert!(matches!(of(400, &error("ERR DB capacity quota exceeded")), QueueError::OutOfMemory));
        assert!(of(400, &error("LOADING Redis is loading the dataset in memory")).is_not_ready());
        let syntax = of(400, &error("ERR wrong number of arguments for 'get' command"));
        assert!(matches!(&syntax, QueueError::Refused(text) if text.contains("wrong number")), "{syntax:?}");
        let long = of(413, &error("ERR max request size exceeded"));
        assert!(matches!(&long, QueueError::Refused(text) if text.contains("size exceeded")), "{long:?}");
    }

    #[test]
    fn rest_answer_quote_is_one_short_line_without_secrets() {
        let text = format!("{}\r\nhush of\u{1b} name.upstash.io", "long ".repeat(200));
        for found in [of(503, &text), of(400, &error(&text)), of(401, &error(&text))] {
            let said = found.to_string();
            assert!(said.len() < 600 && !said.chars().any(char::is_control), "{said}");
        }
        for found in [of(503, "hush at\nname.upstash.io"), of(400, &error("ERR hush at\nname.upstash.io"))] {
            let said = found.to_string();
            assert!(!said.contains("hush") && !said.contains("name.upstash.io"), "{said}");
            assert!(said.contains("[…] at […]"), "{said}");
        }
    }

    #[test]
    fn rest_answer_decodes_strings_only() {
        let text = |text: &str| Reply::Text(text.into());
        for (value, expected) in [
            (json!(null), Reply::Nil),
            (json!("OK"), text("OK")),
            (json!("T0s="), text("OK")),
            (json!(""), text("")),
            (json!("MTM3"), text("137")),
            (json!("ZsO8bmYg8J+OrA=="), text("fünf 🎬")),
            (json!("/wBh"), text("\u{fffd}\u{0}a")),
            (json!(-7), Reply::Int(-7)),
            (json!(["YQ==", null, [1, "Yg=="]]), {
                let inner = Reply::List(vec![Reply::Int(1), text("b")]);
                Reply::List(vec![text("a"), Reply::Nil, inner])
            }),
        ] {
            assert_eq!(reply(value.clone()).unwrap(), expected, "{value}");
        }
        for bad in [json!("not base64"), json!("YQ"), json!({"a": 1})] {
            assert!(matches!(reply(bad.clone()), Err(QueueError::Data(_))), "{bad}");
        }
    }
}
