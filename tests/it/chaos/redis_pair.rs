//! Two Redis servers, a primary and its replica, behind one address.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use tcoder::config::RedisConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::roles::signal;
use crate::support::kube::free_port;
use crate::support::redis::{PrivateRedis, private_redis};

pub const PREFIX: &str = "{chaos}:";
/// A limit against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    redis: PrivateRedis,
    port: u16,
    pid: u32,
}

pub struct RedisPair {
    servers: [Server; 2],
    primary: usize,
    /// Connections to it stay where they are after a failover.
    address: Address,
    /// Connections to it are closed by a failover, as those of Upstash's REST interface to its Redis.
    closing_address: Address,
}

impl Server {
    fn start() -> Self {
        let port = free_port();
        let at = port.to_string();
        let durable = ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"];
        let redis = private_redis(&[&["--port", at.as_str()][..], &durable].concat());
        let mut server = Self { redis, port, pid: 0 };
        server.pid = server.info("server")["process_id"].parse().unwrap();
        server
    }

    async fn kill(&mut self) {
        self.redis.kill().await;
    }

    fn start_again(&mut self) {
        self.redis.start();
        self.pid = self.info("server")["process_id"].parse().unwrap();
    }

    fn tell(&self, command: &[&str]) -> redis::RedisResult<()> {
        redis::cmd(command[0]).arg(&command[1..]).exec(&mut self.redis.raw())
    }

    fn info(&self, section: &str) -> BTreeMap<String, String> {
        let text: String = redis::cmd("INFO").arg(section).query(&mut self.redis.raw()).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Waits until this section of `INFO` is like this.
    async fn until(&self, what: &str, section: &str, is: impl Fn(&BTreeMap<String, String>) -> bool) {
        let look = async {
            while !is(&self.info(section)) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, look).await;
        told.unwrap_or_else(|_| panic!("{what}: {:#?}", self.info(section)));
    }

    /// Starts it after a kill, and waits until it has loaded its data: until then it refuses everything but `INFO`.
    async fn start_and_load(&mut self) {
        self.start_again();
        self.until("the server has loaded its data", "persistence", |info| has(info, "loading", "0")).await;
    }
}

fn has(info: &BTreeMap<String, String>, name: &str, value: &str) -> bool {
    info.get(name).is_some_and(|found| found == value)
}

impl RedisPair {
    pub async fn start() -> Self {
        let servers = [Server::start(), Server::start()];
        let address = Address::of(servers[0].port, false).await;
        let closing_address = Address::of(servers[0].port, true).await;
        let mut pair = Self { servers, primary: 0, address, closing_address };
        pair.replicate().await;
        pair
    }

    /// How clients reach the primary.
    pub fn config(&self) -> RedisConfig {
        self.address.config()
    }

    /// How a REST interface reaches it.
    pub fn rest_config(&self) -> RedisConfig {
        self.closing_address.config()
    }

    fn primary(&mut self) -> &mut Server {
        &mut self.servers[self.primary]
    }

    fn replica(&mut self) -> &mut Server {
        &mut self.servers[1 - self.primary]
    }

    /// Makes the other server a replica, and waits until it has everything.
    async fn replicate(&mut self) {
        let port = self.primary().port.to_string();
        self.replica().tell(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
        self.in_step().await;
    }

    async fn in_step(&mut self) {
        let linked = |info: &BTreeMap<_, _>| has(info, "master_link_status", "up");
        self.replica().until("the replica is linked", "replication", linked).await;
        redis::cmd("WAIT").arg(&["1", "60000"]).exec(&mut self.primary().redis.raw()).unwrap();
    }

    /// Kills the primary, and starts it again after `time`.
    pub async fn kill(&mut self, time: Duration) {
        self.primary().kill().await;
        sleep(time).await;
        self.primary().start_and_load().await;
    }

    pub async fn freeze(&mut self, time: Duration) {
        let pid = self.primary().pid;
        signal(pid, Signal::SIGSTOP);
        sleep(time).await;
        signal(pid, Signal::SIGCONT);
    }

    pub fn flush_scripts(&mut self) {
        self.primary().tell(&["SCRIPT", "FLUSH"]).unwrap();
    }

    fn swap(&mut self) {
        self.primary = 1 - self.primary;
        let port = self.primary().port;
        self.address.leads_to.send_replace(port);
        self.closing_address.leads_to.send_replace(port);
    }

    /// Fails over without a loss. Clients keep their connections to the old primary, which is a replica then.
    pub async fn fail_over(&mut self) {
        self.in_step().await;
        let port = self.replica().port.to_string();
        self.primary().tell(&["FAILOVER", "TO", "127.0.0.1", &port]).unwrap();
        let promoted = |info: &BTreeMap<_, _>| has(info, "role", "master");
        self.replica().until("the replica is promoted", "replication", promoted).await;
        self.swap();
        self.in_step().await;
    }

    /// Promotes the replica, without the writes of the `time` before. Returns when it was cut off, by the clock of
    /// this machine.
    pub async fn fail_over_forgetting(&mut self, time: Duration) -> i64 {
        self.in_step().await;
        let cut = now();
        self.replica().tell(&["REPLICAOF", "NO", "ONE"]).unwrap();
        sleep(time).await;
        self.primary().kill().await;
        self.swap();
        self.replica().start_and_load().await;
        self.replicate().await;
        cut
    }
}

/// The time in milliseconds, which is Redis's, too.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// An address that leads to the primary.
struct Address {
    port: u16,
    leads_to: watch::Sender<u16>,
}

impl Address {
    async fn of(server: u16, closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (leads_to, mut target) = watch::channel(server);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let port = *target.borrow_and_update();
                let mut target = target.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, port) => {}
                        _ = target.changed(), if closes => {}
                    }
                });
            }
        });
        Self { port, leads_to }
    }

    fn config(&self) -> RedisConfig {
        RedisConfig::new(format!("redis://127.0.0.1:{}", self.port), PREFIX)
    }
}

/// Carries a connection to its end, which is now if there is no server.
async fn carry(mut client: TcpStream, port: u16) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = server.set_nodelay(true);
    let _ = client.set_nodelay(true);
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
