//! Redis over TCP, TLS or a Unix socket.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::IntoConnectionInfo as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Command, QueueError, Reply, of_code};

impl From<&Command> for redis::Cmd {
    fn from(command: &Command) -> Self {
        let mut cmd = Self::new();
        for part in &command.0 {
            cmd.arg(part.as_bytes());
        }
        cmd
    }
}

impl From<redis::RedisError> for QueueError {
    fn from(error: redis::RedisError) -> Self {
        use redis::ErrorKind;
        if let Some(special) = of_code(error.code(), error.detail().unwrap_or_default()) {
            return match special {
                Self::Connection(_) => Self::Connection(error.to_string()),
                Self::NotPrimary(_) => Self::NotPrimary(error.to_string()),
                other => other,
            };
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Auth(String::new()),
            ErrorKind::InvalidClientConfig => Self::Refused("REDIS_URL is not a Redis address".into()),
            _ if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
                Self::Connection(error.kind_and_io())
            }
            _ => Self::Refused(error.detail().map_or_else(|| error.to_string(), str::to_owned)),
        }
    }
}

/// Describes a broken connection without the address, which may contain a password.
trait KindAndIo {
    fn kind_and_io(&self) -> String;
}

impl KindAndIo for redis::RedisError {
    fn kind_and_io(&self) -> String {
        if self.is_timeout() {
            TIME_OUT.into()
        } else if self.is_connection_refusal() {
            "connection refused".into()
        } else {
            "connection lost".into()
        }
    }
}

/// A connection over TCP, TLS or a Unix socket that reconnects by itself. Clones share it.
#[derive(Clone)]
pub(crate) struct Tcp {
    client: redis::Client,
    current: Arc<Mutex<Current>>,
}

/// The connection in use. The manager opens a lost one again by itself, but keeps one to a primary that was demoted, and
/// one whose other side no longer answers.
#[derive(Clone)]
struct Current {
    manager: ConnectionManager,
    /// How often it was replaced.
    generation: u64,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without a packet from the other side, a TCP connection is considered dead.
const GONE: Duration = Duration::from_secs(15);
/// The message of a call without an answer in time.
const TIME_OUT: &str = "time-out";

impl Tcp {
    pub(crate) async fn connect(url: &SecretString) -> Result<Self, QueueError> {
        let info = url.expose_secret().into_connection_info()?.set_tcp_settings(tcp_settings());
        Self::open(redis::Client::open(info)?).await
    }

    /// Opens another connection to the same server.
    pub(crate) async fn again(&self) -> Result<Self, QueueError> {
        Self::open(self.client.clone()).await
    }

    async fn open(client: redis::Client) -> Result<Self, QueueError> {
        let manager = manager(&client).await?;
        Ok(Self { client, current: Arc::new(Mutex::new(Current { manager, generation: 0 })) })
    }

    fn current(&self) -> Current {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After a call that the connection of this generation can serve no longer, opens another one. One call does it for
    /// all; whether it succeeds shows at the next call.
    async fn replace_if_useless<T>(&self, outcome: &Result<T, QueueError>, generation: u64) {
        let is_useless = match outcome {
            Err(QueueError::NotPrimary(_)) => true,
            Err(QueueError::Connection(why)) => why == TIME_OUT,
            _ => false,
        };
        if !is_useless || self.current().generation != generation {
            return;
        }
        let Ok(Ok(manager)) = tokio::time::timeout(CONNECT_TIMEOUT, manager(&self.client)).await else {
            return;
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation == generation {
            *current = Current { manager, generation: generation + 1 };
        }
    }

    pub(crate) async fn run(&self, command: Command) -> Result<Reply, QueueError> {
        self.run_within(command, ANSWER_TIMEOUT).await
    }

    /// Like `run`, for commands that block at the server for up to `block`.
    pub(crate) async fn run_blocking(&self, command: Command, block: Duration) -> Result<Reply, QueueError> {
        self.run_within(command, block + ANSWER_TIMEOUT).await
    }

    async fn run_within(&self, command: Command, limit: Duration) -> Result<Reply, QueueError> {
        let Current { mut manager, generation } = self.current();
        let cmd = redis::Cmd::from(&command);
        let reply = bounded(limit, manager.send_packed_command(&cmd)).await.and_then(to_reply);
        self.replace_if_useless(&reply, generation).await;
        reply
    }

    pub(crate) async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Reply>, QueueError> {
        let mut pipe = redis::Pipeline::with_capacity(commands.len());
        for command in &commands {
            pipe.add_command(command.into());
        }
        let Current { mut manager, generation } = self.current();
        let answers = bounded(ANSWER_TIMEOUT, manager.send_packed_commands(&pipe, 0, commands.len())).await;
        let replies = answers.and_then(|answers| answers.into_iter().map(to_reply).collect());
        self.replace_if_useless(&replies, generation).await;
        replies
    }
}

async fn manager(client: &redis::Client) -> Result<ConnectionManager, QueueError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        // `bounded` limits the duration of calls, because a blocking command may take longer.
        .set_response_timeout(None)
        .set_number_of_retries(2)
        .set_max_delay(Duration::from_millis(500));
    bounded(CONNECT_TIMEOUT * 3, ConnectionManager::new_with_config(client.clone(), config)).await
}

/// Detects within seconds that the other side has disappeared, even on a connection that only waits.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(GONE).with_interval(Duration::from_secs(5));
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(GONE);
    settings
}

async fn bounded<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, redis::RedisError>>,
) -> Result<T, QueueError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(QueueError::Connection(TIME_OUT.into())),
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
