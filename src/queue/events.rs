//! Reads the event stream for all subscribers of a process.

use std::time::Duration;

use super::{Command, Queue, QueueError, Reply};
use crate::job::{Epoch, FORMAT_VERSION, JobEvent};

/// An entry of the event stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A job changed.
    Job(JobEvent),
    /// A worker registered or left, or somebody paused or resumed the fleet.
    Fleet,
}

/// Reads `jobs:events` from the time at which it was opened, on its own connection.
pub struct EventFeed {
    queue: Queue,
    after: String,
}

impl EventFeed {
    /// Opens a feed of the events from now on.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn open(queue: &Queue) -> Result<Self, QueueError> {
        let queue = queue.reconnect().await?;
        let last = Command::new("XREVRANGE").arg(queue.key("jobs:events")).args(["+", "-", "COUNT", "1"]);
        let reply = queue.run(last).await?;
        let after = reply
            .list()
            .and_then(|l| l.first()?.list()?.first()?.text())
            .map_or_else(|| "0-0".to_owned(), str::to_owned);
        Ok(Self { queue, after })
    }

    /// Returns the next events, oldest first; none if nothing happened for `limit`. No event between two calls is
    /// skipped, even if one of them failed, as long as the stream still contains it.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn next(&mut self, limit: Duration) -> Result<Vec<JobEvent>, QueueError> {
        let jobs = |change| match change {
            Change::Job(event) => Some(event),
            Change::Fleet => None,
        };
        Ok(self.changes(limit).await?.into_iter().filter_map(jobs).collect())
    }

    /// Like [`EventFeed::next`], including changes of the fleet.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn changes(&mut self, limit: Duration) -> Result<Vec<Change>, QueueError> {
        let command = Command::new("XREAD")
            .args(["COUNT", "500", "BLOCK"])
            .arg(limit.as_millis().max(1).to_string())
            .arg("STREAMS")
            .arg(self.queue.key("jobs:events"))
            .arg(&*self.after);
        let reply = self.queue.run_blocking(command, limit).await?;
        let entries = reply.list().and_then(|l| l.first()?.list()?.get(1)?.list()).unwrap_or_default();
        let mut events = Vec::with_capacity(entries.len());
        for entry in entries {
            if let Some((id, event)) = parse_entry(entry) {
                id.clone_into(&mut self.after);
                events.extend(event);
            }
        }
        Ok(events)
    }
}

/// The id of an entry, and the event in it, if it is one that tcoder writes.
pub(super) fn parse_entry(entry: &Reply) -> Option<(&str, Option<Change>)> {
    let [id, fields] = entry.list()? else { return None };
    let event_id = id.text()?;
    let fields = fields.list()?;
    let field = |name: &str| {
        fields.chunks_exact(2).find(|pair| pair[0].text() == Some(name)).and_then(|pair| pair[1].text())
    };
    let event = || {
        // What a newer version tells, a worker or a poll of that version acts on.
        if field("v").is_some_and(|v| v.parse::<u32>().map_or(true, |v| v > FORMAT_VERSION)) {
            return None;
        }
        if field("fleet").is_some() {
            return Some(Change::Fleet);
        }
        Some(Change::Job(JobEvent {
            event_id: event_id.to_owned(),
            job_id: field("id")?.parse().ok()?,
            status: field("state")?.parse().ok()?,
            progress: field("progress").and_then(|p| p.parse().ok()),
            epoch: field("epoch").and_then(|epoch| epoch.parse().ok()).map(Epoch),
        }))
    };
    Some((event_id, event()))
}
