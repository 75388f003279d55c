//! Keys of objects in a bucket.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An object key that is safe as an S3 key and as a relative path: 1 to 1024 bytes (the limit of S3), no
/// control characters, and no empty, `.` or `..` segment. A key with dot segments escapes its bucket on
/// servers that map keys to files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

/// The text is not a valid object key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidKey {
    /// Empty, or longer than S3 permits.
    #[error("an object key has 1 to 1024 bytes, this one has {0}")]
    Length(usize),
    /// An empty, `.` or `..` segment, as in `a//b`, `/a` or `a/../b`.
    #[error("an object key has no empty, '.' or '..' part between its slashes")]
    Segment,
    /// A control character, such as a newline or NUL.
    #[error("an object key has no control characters")]
    Control,
}

impl ObjectKey {
    /// The key as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of `name` below this one.
    ///
    /// # Errors
    /// If the result is not a valid key.
    pub fn join(&self, name: &str) -> Result<Self, InvalidKey> {
        format!("{}/{name}", self.0).parse()
    }

    /// The part after the last slash.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        if text.is_empty() || text.len() > 1024 {
            return Err(InvalidKey::Length(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidKey::Control);
        }
        let unsafe_part = |part: &str| matches!(part, "" | "." | "..");
        if text.split(['/', '\\']).any(unsafe_part) {
            return Err(InvalidKey::Segment);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = InvalidKey;
    fn try_from(text: String) -> Result<Self, InvalidKey> {
        text.parse()
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for ObjectKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ObjectKey".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": 1024})
    }
}

/// Sanitizes a file name for the last part of a key: letters, digits, `.`, `-` and `_` are kept, all other
/// characters become `-`. The result has at most 100 characters and keeps the extension.
#[must_use]
pub fn safe_file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mapped: Vec<char> = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' })
        .collect();
    let tail: String = mapped[mapped.len().saturating_sub(100)..].iter().collect();
    let trimmed = tail.trim_start_matches(['.', '-']);
    if trimmed.is_empty() { "video".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_never_become_keys() {
        for text in ["../evil", "a/../../evil", "a/./b", "/a", "a//b", "a/", "..", "a\\..\\b"] {
            assert_eq!(text.parse::<ObjectKey>(), Err(InvalidKey::Segment), "{text}");
        }
        assert_eq!("a\nb".parse::<ObjectKey>(), Err(InvalidKey::Control));
        assert_eq!("".parse::<ObjectKey>(), Err(InvalidKey::Length(0)));
        assert!("inputs/My film (1) 'x' \"y\".mp4".parse::<ObjectKey>().is_ok());
    }

    #[test]
    fn any_file_name_becomes_a_safe_one() {
        assert_eq!(safe_file_name("holiday.mp4"), "holiday.mp4");
        assert_eq!(safe_file_name("a 'b' \"c\"\nd.mp4"), "a--b---c--d.mp4");
        assert_eq!(safe_file_name("../../etc/passwd"), "passwd");
        assert_eq!(safe_file_name(".."), "video");
        assert_eq!(safe_file_name(""), "video");
        assert_eq!(safe_file_name("фильм.mov"), "mov");
        let long = format!("{}.mp4", "x".repeat(500));
        assert!(safe_file_name(&long).len() == 100 && safe_file_name(&long).ends_with(".mp4"));
    }
}
