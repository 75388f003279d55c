//! Values as they stand in Redis, and the replies of scripts.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{QueueError, Reply};
use crate::job::{CLASS_VERSION, FORMAT_VERSION, Failure, JobSpec, Millis, State, WorkerClass};

/// The reply of a script: a list whose first element is a word.
pub(super) struct ScriptReply<'a> {
    /// The word.
    pub word: &'a str,
    rest: &'a [Reply],
}

impl<'a> ScriptReply<'a> {
    pub(super) fn of(reply: &'a Reply) -> Result<Self, QueueError> {
        let list = reply.list().unwrap_or_default();
        match list.first().and_then(Reply::text) {
            Some(word) => Ok(Self { word, rest: &list[1..] }),
            None => Err(QueueError::data(format!("a script answered {reply:?}"))),
        }
    }

    pub(super) fn text(&self, at: usize) -> Result<&'a str, QueueError> {
        self.rest.get(at).and_then(Reply::text).ok_or_else(|| self.unexpected())
    }

    pub(super) fn int(&self, at: usize) -> Result<i64, QueueError> {
        self.rest.get(at).and_then(Reply::int).ok_or_else(|| self.unexpected())
    }

    /// A time, or `None` if it is -1.
    pub(super) fn time(&self, at: usize) -> Result<Option<Millis>, QueueError> {
        Ok(Some(self.int(at)?).filter(|ms| *ms >= 0).map(Millis))
    }

    pub(super) fn state(&self) -> Result<State, QueueError> {
        self.text(0)?.parse().map_err(|_| self.unexpected())
    }

    /// The state that the script found the job in, or `None` if the job does not exist.
    pub(super) fn found(&self) -> Result<Option<State>, QueueError> {
        if self.text(0)?.is_empty() { Ok(None) } else { self.state().map(Some) }
    }

    /// A failure, or `None` if the text is empty.
    pub(super) fn failure(&self, at: usize) -> Result<Option<Failure>, QueueError> {
        match self.text(at)? {
            "" => Ok(None),
            json => serde_json::from_str(json).map(Some).map_err(|_| self.unexpected()),
        }
    }

    pub(super) fn unexpected(&self) -> QueueError {
        QueueError::data(format!("a script answered {} {:?}", self.word, self.rest))
    }
}

/// A duration as an argument of a script, in milliseconds.
pub(super) fn ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// A class as an argument of a script: nothing if it is the default one.
pub(super) fn class_arg(class: &WorkerClass) -> String {
    if class.is_default() { String::new() } else { class.to_string() }
}

pub(super) fn parse_spec(json: &str) -> Result<JobSpec, QueueError> {
    serde_json::from_str(json).map_err(|e| QueueError::data(format!("a job's spec: {e}")))
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, QueueError> {
    serde_json::to_string(value).map_err(|e| QueueError::data(e.to_string()))
}

/// A value with the version of its format.
#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    value: &'a T,
}

/// The version of a stored value. The first one wrote none.
#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    v: u32,
}

/// Refuses the record of a job that a newer version of tcoder has written.
pub(super) fn check_record_version(what: &str, version: u32) -> Result<(), QueueError> {
    if version <= CLASS_VERSION { Ok(()) } else { check_version(what, version) }
}

/// Refuses a value that a newer version of tcoder has written, and this one does not understand.
pub(super) fn check_version(what: &str, version: u32) -> Result<(), QueueError> {
    if version <= FORMAT_VERSION {
        return Ok(());
    }
    Err(QueueError::data(format!(
        "{what} has version {version} of the format, and this tcoder knows {FORMAT_VERSION}; upgrade it"
    )))
}

/// A stored value as JSON, with the version of its format as `v`.
///
/// # Errors
/// If it cannot be written as a JSON object.
pub fn to_versioned_json(value: &impl Serialize) -> Result<String, QueueError> {
    to_json(&Versioned { v: FORMAT_VERSION, value })
}

/// Reads what [`to_versioned_json`] of this version or an older one has written.
///
/// # Errors
/// If a newer version has written it, or it is something else. `what` names it.
pub fn from_versioned_json<T: DeserializeOwned>(what: &str, json: &str) -> Result<T, QueueError> {
    let unexpected = |error: serde_json::Error| QueueError::data(format!("{what}: {error}"));
    let Version { v } = serde_json::from_str(json).map_err(unexpected)?;
    check_version(what, v)?;
    serde_json::from_str(json).map_err(unexpected)
}

/// The elements of a list that are text.
pub(super) fn text_items(reply: &Reply) -> impl Iterator<Item = &str> {
    reply.list().unwrap_or_default().iter().filter_map(Reply::text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Value {
        name: String,
    }

    #[test]
    fn versioned_json_is_read_by_its_version_and_later_ones_only() {
        let value = Value { name: "a".into() };
        let json = to_versioned_json(&value).unwrap();
        assert_eq!(json, r#"{"v":1,"name":"a"}"#);
        let read = |json: &str| from_versioned_json::<Value>("value", json);
        assert_eq!(read(&json).unwrap(), value);
        assert_eq!(read(r#"{"name":"a"}"#).unwrap(), value, "the first version wrote no number");
        let newer = read(r#"{"v":99,"names":["a"]}"#).unwrap_err();
        assert!(newer.to_string().contains("value has version 99 of the format"), "{newer}");
        assert!(read("[]").is_err() && read(r#"{"v":1}"#).is_err());
    }
}
