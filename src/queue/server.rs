//! What Redis says about itself when a process connects: whether it can hold a queue, and what it may lose.

use super::{Command, Queue, QueueError};

/// Settings of the server, as its `INFO` shows them. Many hosted services forbid `CONFIG`, and permit this.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServerInfo {
    is_cluster: bool,
    maxmemory_policy: Option<String>,
    appends: Option<bool>,
}

/// Whether the server keeps jobs in memory and over a restart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// It evicts none and appends each change to a file.
    Durable,
    /// It evicts none, but a restart loses what its last snapshot lacks.
    Volatile,
    /// It does not say.
    Unknown,
}

impl ServerInfo {
    pub(super) fn parse(info: &str) -> Self {
        let field = |name: &str| {
            let fields = info.lines().filter_map(|line| line.trim().split_once(':'));
            fields.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
        };
        Self {
            is_cluster: field("cluster_enabled") == Some("1"),
            maxmemory_policy: field("maxmemory_policy").map(str::to_owned),
            appends: field("aof_enabled").map(|value| value == "1"),
        }
    }

    /// Whether a queue with this prefix can be kept here.
    pub(super) fn check(&self, prefix: &str) -> Result<Durability, QueueError> {
        if self.is_cluster && !has_hash_tag(prefix) {
            return Err(QueueError::NoHashTag(prefix.to_owned()));
        }
        match (self.maxmemory_policy.as_deref(), self.appends) {
            (Some(policy), _) if policy != "noeviction" => Err(QueueError::Evicts(policy.to_owned())),
            (Some(_), Some(true)) => Ok(Durability::Durable),
            (Some(_), Some(false)) => Ok(Durability::Volatile),
            (None, _) | (_, None) => Ok(Durability::Unknown),
        }
    }
}

/// Whether all keys with this prefix are in one slot of a cluster: whether it contains a text in braces.
fn has_hash_tag(prefix: &str) -> bool {
    let tag = prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.is_some_and(|(tag, _)| !tag.is_empty())
}

impl Queue {
    /// Checks that the server can hold the queue, and says in the log what it may lose.
    ///
    /// # Errors
    /// The same as those of [`Queue::connect`].
    pub async fn check_server(&self) -> Result<(), QueueError> {
        // A cluster redirects this to the node that has the keys, whose settings count.
        self.check_primary().await?;
        let info = match self.run(Command::new("INFO")).await {
            Ok(reply) => ServerInfo::parse(reply.text().unwrap_or_default()),
            Err(QueueError::Refused(_)) => ServerInfo::default(),
            Err(error) => return Err(error),
        };
        let durability = info.check(&self.prefix)?;
        if info.is_cluster {
            self.transport.learn_nodes().await;
        }
        match durability {
            Durability::Durable => {}
            Durability::Volatile => tracing::warn!(
                "Redis appends its changes to no file: a restart loses the jobs since its last snapshot, or all; set its \
                 appendonly to yes"
            ),
            Durability::Unknown => tracing::info!(
                "Redis does not say whether it evicts keys and keeps them over a restart; check at its provider that \
                 maxmemory-policy is noeviction and that persistence is on"
            ),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(info: &str, prefix: &str) -> Result<Durability, String> {
        ServerInfo::parse(info).check(prefix).map_err(|error| error.to_string())
    }

    #[test]
    fn server_is_judged_by_what_it_tells() {
        let durable = "# Memory\r\nmaxmemory_policy:noeviction\r\n# Persistence\r\naof_enabled:1\r\n";
        assert_eq!(checked(durable, ""), Ok(Durability::Durable));
        let volatile = "maxmemory_policy:noeviction\r\naof_enabled:0\r\n";
        assert_eq!(checked(volatile, ""), Ok(Durability::Volatile));
        for part in ["", "maxmemory_policy:noeviction\r\n", "aof_enabled:1\r\n"] {
            assert_eq!(checked(part, ""), Ok(Durability::Unknown), "{part}");
        }
        let evicts = checked("maxmemory_policy:volatile-lru\r\naof_enabled:1\r\n", "").unwrap_err();
        assert!(evicts.contains("set it to noeviction"), "{evicts}");
    }

    #[test]
    fn cluster_needs_a_prefix_with_a_hash_tag() {
        let cluster = "cluster_enabled:1\r\n";
        for prefix in ["{tcoder}:", "films:{a}", "{a}{b}", "a}{b}"] {
            assert_eq!(checked(cluster, prefix), Ok(Durability::Unknown), "{prefix}");
        }
        for prefix in ["", "tcoder:", "{}:", "{tcoder", "tcoder}:", "{}{a}:"] {
            let error = checked(cluster, prefix).unwrap_err();
            assert!(error.contains("REDIS_KEY_PREFIX") && error.contains("{tcoder}:"), "{prefix}: {error}");
            assert_eq!(checked("cluster_enabled:0\r\n", prefix), Ok(Durability::Unknown), "{prefix}");
        }
    }
}
