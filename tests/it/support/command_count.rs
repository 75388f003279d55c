//! Counts the commands that Redis ran, including those inside scripts: hosted Redis is billed by this number.
//!
//! The file depends only on the `redis` crate, so that a benchmark can include it (`#[path =
//! "../tests/it/support/command_count.rs"]`).

use std::collections::BTreeMap;

/// Number of calls by command since the last reset.
#[derive(Debug)]
pub struct CommandCount(pub BTreeMap<String, u64>);

/// Commands that belong to the setup of connections or to the counting, not to the queue.
const NOT_WORK: [&str; 6] = ["config|resetstat", "info", "client|setinfo", "hello", "select", "auth"];

impl CommandCount {
    /// Resets the counters. They count all clients of the server, so use a private one.
    pub fn reset(connection: &mut redis::Connection) {
        redis::cmd("CONFIG").arg("RESETSTAT").exec(connection).unwrap();
    }

    /// The calls since the reset.
    pub fn read(connection: &mut redis::Connection) -> Self {
        let info: String = redis::cmd("INFO").arg("commandstats").query(connection).unwrap();
        Self(info.lines().filter_map(Self::line).filter(|(name, _)| !NOT_WORK.contains(&&**name)).collect())
    }

    /// The total number of calls.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Parses a line such as `cmdstat_zadd:calls=3,usec=...`.
    fn line(line: &str) -> Option<(String, u64)> {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    }
}
