//! Redis over TCP, TLS or a Unix socket.

mod client;
mod cluster;
mod error;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::select_ok;
use redis::Client;
use redis::aio::{ConnectionLike as _, ConnectionManager, ConnectionManagerConfig};

use self::cluster::Node;
use super::{Command, QueueError, Reply};
use crate::config::RedisConfig;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::cluster::check_cluster_reply;

impl From<&Command> for redis::Cmd {
    fn from(command: &Command) -> Self {
        let mut cmd = Self::new();
        for part in &command.0 {
            cmd.arg(part.as_bytes());
        }
        cmd
    }
}

/// A connection over TCP, TLS or a Unix socket that reconnects by itself, in a cluster to the node that has the keys.
/// Clones share it.
#[derive(Clone)]
pub(crate) struct Tcp {
    /// The client of the configured address.
    home: Client,
    /// The nodes of the cluster as one of them listed them last; none if it is no cluster.
    nodes: Arc<Mutex<Vec<Client>>>,
    current: Arc<Mutex<Current>>,
}

/// The connection in use. The manager opens a lost one again by itself, but keeps one to a primary that was demoted, one
/// whose other side no longer answers, and one to a node that has left the cluster.
#[derive(Clone)]
struct Current {
    client: Client,
    manager: ConnectionManager,
    /// How often it was replaced.
    generation: u64,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many redirections of a cluster one call follows.
const MAX_REDIRECTIONS: usize = 3;

impl Tcp {
    pub(crate) async fn connect(config: &RedisConfig) -> Result<Self, QueueError> {
        let home = client::of(config).await?;
        let manager = open(&home, CONNECT_TIMEOUT * 3).await?;
        Ok(Self::over(home, manager))
    }

    /// Like [`Self::connect`], but the connection is opened by the first call.
    pub(crate) async fn connect_lazily(config: &RedisConfig) -> Result<Self, QueueError> {
        let home = client::of(config).await?;
        let manager = ConnectionManager::new_lazy_with_config(home.clone(), manager_config())?;
        Ok(Self::over(home, manager))
    }

    fn over(home: Client, manager: ConnectionManager) -> Self {
        let current = Current { client: home.clone(), manager, generation: 0 };
        Self { home, nodes: Arc::default(), current: Arc::new(Mutex::new(current)) }
    }

    /// Opens another connection to the same server, or to another node of the cluster if that one is gone.
    pub(crate) async fn again(&self) -> Result<Self, QueueError> {
        let client = self.current().client;
        let (client, manager) = match open(&client, CONNECT_TIMEOUT * 3).await {
            Ok(manager) => (client, manager),
            Err(error) if error.is_connection() && self.is_cluster() => self.open_another(&client).await?,
            Err(error) => return Err(error),
        };
        let current = Current { client, manager, generation: 0 };
        Ok(Self { current: Arc::new(Mutex::new(current)), ..self.clone() })
    }

    fn current(&self) -> Current {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_cluster(&self) -> bool {
        !self.nodes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Asks a cluster for its nodes, any of which leads to the keys after a failover. If it does not tell, those that
    /// are known remain.
    pub(crate) async fn learn_nodes(&self) {
        let Current { client, mut manager, .. } = self.current();
        let slots = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
        let answer = bounded(ANSWER_TIMEOUT, manager.req_packed_command(&slots)).await.and_then(to_reply);
        let nodes: Vec<Node> = answer.as_ref().map(cluster::parse_slots).unwrap_or_default();
        let nodes: Vec<Client> = nodes.iter().filter_map(|node| client::at(&client, node)).collect();
        if !nodes.is_empty() {
            *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        }
    }

    /// Opens a connection to whichever node answers first, other than this one if there are others.
    async fn open_another(&self, than: &Client) -> Result<(Client, ConnectionManager), QueueError> {
        let mut clients = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = |client: &Client| client.get_connection_info().addr().clone();
        clients.retain(|client| address(client) != address(than));
        if clients.is_empty() || address(&self.home) != address(than) {
            clients.push(self.home.clone());
        }
        let connect = |client: Client| async move {
            let manager = open(&client, CONNECT_TIMEOUT).await?;
            Ok::<_, QueueError>((client, manager))
        };
        let (opened, _) = select_ok(clients.into_iter().map(|client| connect(client).boxed())).await?;
        Ok(opened)
    }

    /// Takes a new connection into use, unless another call has done so since this one was used.
    fn replace(&self, used: &Current, client: Client, manager: ConnectionManager) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation == used.generation {
            *current = Current { client, manager, generation: used.generation + 1 };
        }
    }

    /// After a call that its connection can serve no longer, opens another one. One call does it for all; whether it
    /// succeeds shows at the next call.
    async fn replace_if_useless<T>(&self, outcome: &Result<T, QueueError>, used: &Current) {
        let is_useless = match outcome {
            Err(QueueError::NotPrimary(_) | QueueError::TimedOut) => true,
            // The node may be gone for good, or may have lost touch with the others.
            Err(QueueError::Connection(_)) => self.is_cluster(),
            _ => false,
        };
        if !is_useless || self.current().generation != used.generation {
            return;
        }
        if let Ok((client, manager)) = self.open_another(&used.client).await {
            self.replace(used, client, manager);
        }
    }

    /// Connects to the node that a redirection names, unless another call has done so.
    async fn follow(&self, redirection: &str, used: &Current) -> Result<(), QueueError> {
        if self.current().generation != used.generation {
            return Ok(());
        }
        let node = cluster::parse_redirection(redirection).and_then(|node| client::at(&used.client, &node));
        let client = node.ok_or_else(|| QueueError::Moved(redirection.to_owned()))?;
        let manager = open(&client, CONNECT_TIMEOUT).await?;
        self.replace(used, client, manager);
        self.learn_nodes().await;
        Ok(())
    }

    pub(crate) async fn run(&self, command: Command) -> Result<Reply, QueueError> {
        self.run_within(command, ANSWER_TIMEOUT).await
    }

    /// Like `run`, for commands that block at the server for up to `block`.
    pub(crate) async fn run_blocking(&self, command: Command, block: Duration) -> Result<Reply, QueueError> {
        self.run_within(command, block + ANSWER_TIMEOUT).await
    }

    async fn run_within(&self, command: Command, limit: Duration) -> Result<Reply, QueueError> {
        let mut replies = self.call(&[command], limit).await?;
        replies.pop().ok_or_else(|| QueueError::data("no answer"))
    }

    pub(crate) async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Reply>, QueueError> {
        self.call(&commands, ANSWER_TIMEOUT).await
    }

    async fn call(&self, commands: &[Command], limit: Duration) -> Result<Vec<Reply>, QueueError> {
        let mut pipe = redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            pipe.add_command(command.into());
        }
        let mut redirections = 0;
        loop {
            let used = self.current();
            let answers =
                bounded(limit, used.manager.clone().send_packed_commands(&pipe, 0, commands.len())).await;
            let answers: Result<Vec<_>, _> = answers.map(|all| all.into_iter().map(to_reply).collect());
            // A redirected command has not run.
            let is_repeatable = answers.as_ref().is_ok_and(|answers| {
                commands
                    .iter()
                    .zip(answers)
                    .all(|(command, answer)| command.is_read() || matches!(answer, Err(QueueError::Moved(_))))
            });
            let outcome = answers.and_then(|answers| answers.into_iter().collect());
            match outcome {
                Err(QueueError::Moved(node)) => {
                    self.follow(&node, &used).await?;
                    if !is_repeatable || redirections == MAX_REDIRECTIONS {
                        return Err(QueueError::Moved(node));
                    }
                    redirections += 1;
                }
                outcome => {
                    self.replace_if_useless(&outcome, &used).await;
                    return outcome;
                }
            }
        }
    }
}

fn manager_config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        // `bounded` limits the duration of calls, because a blocking command may take longer.
        .set_response_timeout(None)
        .set_number_of_retries(2)
        .set_max_delay(Duration::from_millis(500))
}

async fn open(client: &Client, limit: Duration) -> Result<ConnectionManager, QueueError> {
    bounded(limit, ConnectionManager::new_with_config(client.clone(), manager_config())).await
}

async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, redis::RedisError>>,
) -> Result<T, QueueError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(QueueError::TimedOut),
    }
}

fn to_reply(value: redis::Value) -> Result<Reply, QueueError> {
    use redis::Value;
    Ok(match value {
        Value::Nil => Reply::Nil,
        Value::Int(n) => Reply::Int(n),
        Value::BulkString(bytes) => Reply::Text(String::from_utf8_lossy(&bytes).into_owned()),
        Value::SimpleString(text) => Reply::Text(text),
        Value::Okay => Reply::Text("OK".into()),
        Value::Array(list) => Reply::List(list.into_iter().map(to_reply).collect::<Result<_, _>>()?),
        Value::ServerError(error) => return Err(QueueError::from(redis::RedisError::from(error))),
        other => return Err(QueueError::data(format!("an answer of an unknown kind: {other:?}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_used_up_quota_is_recognised() {
        let refusal = |line: &[u8]| to_reply(redis::parse_redis_value(line).unwrap()).unwrap_err();
        let quota = refusal(b"-ERR max requests limit exceeded. Limit: 500000, Usage: 500001.\r\n");
        assert!(matches!(&quota, QueueError::Quota(_)) && !quota.is_transient(), "{quota:?}");
        assert!(quota.to_string().contains("Usage: 500001") && quota.remedy().is_some(), "{quota}");
        assert!(matches!(refusal(b"-ERR max daily request limit exceeded\r\n"), QueueError::Quota(_)));
        assert!(matches!(refusal(b"-ERR DB capacity quota exceeded\r\n"), QueueError::OutOfMemory));
        assert!(matches!(refusal(b"-ERR syntax error\r\n"), QueueError::Refused(_)));
    }
}
