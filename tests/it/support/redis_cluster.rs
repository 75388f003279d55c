//! A Redis Cluster on this machine, made by redis-cli.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Value;
use tcoder::config::RedisConfig;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::kube::free_port;
use super::redis::{PrivateRedis, private_redis};
use super::system::PATIENCE;

/// The nodes of a cluster by their ports. They end when dropped.
pub struct RedisCluster {
    pub nodes: BTreeMap<u16, PrivateRedis>,
}

/// The primary of a slot, and its replicas, by their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotOwners {
    pub slot: u16,
    pub primary: u16,
    pub replicas: Vec<u16>,
}

impl RedisCluster {
    /// Three primaries, each with this many replicas.
    pub async fn start(replicas: usize) -> Self {
        let mut nodes = BTreeMap::new();
        let mut addresses = Vec::new();
        for _ in 0..3 * (1 + replicas) {
            let (port, bus) = (free_port(), free_port());
            let args = [
                ["--port", &port.to_string()],
                ["--bind", "127.0.0.1"],
                ["--cluster-enabled", "yes"],
                ["--cluster-port", &bus.to_string()],
                // On a busy machine, nodes that must answer within a second never come together.
                ["--cluster-node-timeout", "5000"],
                ["--appendonly", "yes"],
                ["--repl-diskless-sync-delay", "0"],
            ];
            nodes.insert(port, private_redis(args.as_flattened()));
            addresses.push(format!("127.0.0.1:{port}@{bus}"));
        }
        let create = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output();
        let created = timeout(PATIENCE, create).await.expect("redis-cli does not end").unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { nodes };
        for port in cluster.nodes.keys() {
            cluster
                .until(*port, "it takes part", |info| {
                    info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
                })
                .await;
        }
        cluster
    }

    /// Waits until a node's `CLUSTER INFO` is like this.
    async fn until(&self, port: u16, what: &str, like: impl Fn(&str) -> bool) {
        let waits = async {
            let ask = || redis::cmd("CLUSTER").arg("INFO").query::<String>(&mut self.nodes[&port].raw());
            while !like(&ask().unwrap()) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("node {port}: not so: {what}"));
    }

    /// The settings of a process that is told the address of this node.
    pub fn config(&self, port: u16, prefix: &str) -> RedisConfig {
        RedisConfig::new(format!("redis://127.0.0.1:{port}"), prefix)
    }

    /// Who has the keys with this prefix, as the node at `port` sees it.
    pub fn owners(&self, port: u16, prefix: &str) -> SlotOwners {
        let mut redis = self.nodes[&port].raw();
        let slot: u16 =
            redis::cmd("CLUSTER").arg("KEYSLOT").arg(format!("{prefix}jobs")).query(&mut redis).unwrap();
        let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query(&mut redis).unwrap();
        let number = |value: &Value| <u16 as redis::FromRedisValue>::from_redis_value_ref(value).unwrap();
        let port = |server: &Value| match server {
            Value::Array(parts) => number(&parts[1]),
            other => panic!("{other:?}"),
        };
        let range =
            ranges.iter().find(|range| (number(&range[0])..=number(&range[1])).contains(&slot)).unwrap();
        SlotOwners { slot, primary: port(&range[2]), replicas: range[3..].iter().map(port).collect() }
    }

    /// The id of a node.
    pub fn id(&self, port: u16) -> String {
        redis::cmd("CLUSTER").arg("MYID").query(&mut self.nodes[&port].raw()).unwrap()
    }

    /// Waits until the replica of this primary has all its writes. `WAIT` counts only those of its own connection.
    pub async fn replicated(&self, primary: u16) {
        let mut redis = self.nodes[&primary].raw();
        let waits = async {
            loop {
                let info: String = redis::cmd("INFO").arg("replication").query(&mut redis).unwrap();
                let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
                let offset = format!("offset={},", field("master_repl_offset:").unwrap());
                if field("slave0:").is_some_and(|it| it.contains("state=online") && it.contains(&offset)) {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waits).await.expect("the replica does not get the writes");
    }
}
