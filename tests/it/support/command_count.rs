//! How many commands Redis ran, those inside scripts counted too: what hosted ones bill.
//!
//! Knows nothing but the `redis` crate, so that a benchmark can take this file as it is
//! (`#[path = "../tests/it/support/command_count.rs"]`).

use std::collections::BTreeMap;

/// Calls by command since a moment.
#[derive(Debug)]
pub struct CommandCount(pub BTreeMap<String, u64>);

/// Part of every connection's greeting, or of the counting itself; none of them is the queue's work.
const NOT_WORK: [&str; 6] = ["config|resetstat", "info", "client|setinfo", "hello", "select", "auth"];

impl CommandCount {
    /// Starts to count at zero. Counts all clients of the server, so use one of your own.
    pub fn reset(connection: &mut redis::Connection) {
        redis::cmd("CONFIG").arg("RESETSTAT").exec(connection).unwrap();
    }

    /// What was called since the reset.
    pub fn read(connection: &mut redis::Connection) -> Self {
        let info: String = redis::cmd("INFO").arg("commandstats").query(connection).unwrap();
        Self(info.lines().filter_map(Self::line).filter(|(name, _)| !NOT_WORK.contains(&&**name)).collect())
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// `cmdstat_zadd:calls=3,usec=...`
    fn line(line: &str) -> Option<(String, u64)> {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    }
}
