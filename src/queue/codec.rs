//! Values as they stand in Redis, and the replies of scripts.

use std::time::Duration;

use super::{QueueError, Reply};
use crate::job::{Failure, JobSpec, Millis, State};

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

pub(super) fn parse_spec(json: &str) -> Result<JobSpec, QueueError> {
    serde_json::from_str(json).map_err(|e| QueueError::data(format!("a job's spec: {e}")))
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String, QueueError> {
    serde_json::to_string(value).map_err(|e| QueueError::data(e.to_string()))
}

/// The elements of a list that are text.
pub(super) fn text_items(reply: &Reply) -> impl Iterator<Item = &str> {
    reply.list().unwrap_or_default().iter().filter_map(Reply::text)
}
