//! Commands, answers, and the two ways they travel: over TCP, and over HTTP to Upstash's REST interface,
//! which is all that there is at the edge. The same commands get the same answers.

mod rest;
#[cfg(not(target_arch = "wasm32"))]
mod tcp;

#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

pub use rest::Rest;
#[cfg(not(target_arch = "wasm32"))]
pub use tcp::Tcp;

/// One Redis command.
#[derive(Clone, Debug)]
pub struct Command(Vec<String>);

impl Command {
    /// A command without arguments yet.
    #[must_use]
    pub fn new(verb: &str) -> Self {
        Self(vec![verb.to_owned()])
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.0.push(arg.into());
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<String>>>(mut self, args: I) -> Self {
        self.0.extend(args.into_iter().map(Into::into));
        self
    }
}

/// One answer, the same whichever way it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Reply>),
}

impl Reply {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one or a text that reads as one.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            // Scores come as texts, and large ones with an exponent.
            Self::Text(text) => text.parse().ok().or_else(|| {
                #[allow(clippy::cast_possible_truncation)]
                text.parse::<f64>().ok().map(|f| f as i64)
            }),
            _ => None,
        }
    }

    /// The list, if it is one.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

/// Where Redis is, in the words of the setting that says so.
#[cfg(not(target_arch = "wasm32"))]
pub const WHERE: &str = "Redis at REDIS_URL";
/// Where Redis is, in the words of the setting that says so.
#[cfg(target_arch = "wasm32")]
pub const WHERE: &str = "Redis at UPSTASH_REDIS_REST_URL";
/// What is wrong where the login is.
#[cfg(not(target_arch = "wasm32"))]
const LOGIN: &str = "the user name and password in it";
#[cfg(target_arch = "wasm32")]
const LOGIN: &str = "UPSTASH_REDIS_REST_TOKEN";

/// A call on the queue failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No connection, or no answer in time. What was asked may or may not have happened.
    #[error("{where_} does not answer ({0}); check that it runs and that the address is right", where_ = WHERE)]
    Connection(String),
    /// Wrong password or user.
    #[error("{where_} refuses the login; check {login}", where_ = WHERE, login = LOGIN)]
    Auth,
    /// Redis will not do it.
    #[error("Redis refuses the command: {0}")]
    Refused(String),
    /// Redis has no memory left for writes.
    #[error("Redis is out of memory; give it more, or wait until ended jobs are a week old")]
    OutOfMemory,
    /// The script is not cached there. Handled by sending its text.
    #[error("Redis does not know the script")]
    NoScript,
    /// Keys may be evicted.
    #[error("Redis has maxmemory-policy {0}, which deletes jobs under memory pressure; set it to noeviction")]
    Evicts(String),
    /// What stands in Redis is not what this version writes.
    #[error("unexpected data in Redis: {0}; was it written by something else?")]
    Data(String),
}

impl QueueError {
    /// Whether the connection is at fault, so that the same call may work later.
    #[must_use]
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Connection(_))
    }

    pub(super) fn data(what: impl Into<String>) -> Self {
        Self::Data(what.into())
    }
}

/// A server's own word for what went wrong, `CODE text`; nothing where it is no special case.
fn of_code(code: Option<&str>, text: &str) -> Option<QueueError> {
    match code {
        Some("NOSCRIPT") => return Some(QueueError::NoScript),
        Some("OOM") => return Some(QueueError::OutOfMemory),
        Some("WRONGPASS" | "NOAUTH") => return Some(QueueError::Auth),
        // Both pass by themselves: Redis reads its files, or a replica takes over.
        Some("LOADING" | "READONLY" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN") => {
            return Some(QueueError::Connection(text.to_owned()));
        }
        _ => {}
    }
    // A script's inner error keeps its code only inside the text.
    text.contains("OOM command not allowed").then_some(QueueError::OutOfMemory)
}

/// The way to a Redis.
#[derive(Clone)]
pub enum Transport {
    /// A connection.
    #[cfg(not(target_arch = "wasm32"))]
    Tcp(Box<Tcp>),
    /// A request each.
    Rest(Rest),
}

impl Transport {
    /// One command.
    pub async fn run(&self, command: Command) -> Result<Reply, QueueError> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Tcp(tcp) => tcp.run(command).await,
            Self::Rest(rest) => rest.run(command).await,
        }
    }

    /// Several, in one round trip.
    pub async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Reply>, QueueError> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Tcp(tcp) => tcp.pipeline(commands).await,
            Self::Rest(rest) => rest.pipeline(commands).await,
        }
    }

    /// One that blocks at the server for up to `block`.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn run_blocking(&self, command: Command, block: Duration) -> Result<Reply, QueueError> {
        match self {
            Self::Tcp(tcp) => tcp.run_blocking(command, block).await,
            Self::Rest(_) => {
                Err(QueueError::Refused("nothing can be waited for over REST; use REDIS_URL".into()))
            }
        }
    }

    /// A second way to the same server.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn again(&self) -> Result<Self, QueueError> {
        Ok(match self {
            Self::Tcp(tcp) => Self::Tcp(Box::new(tcp.again().await?)),
            Self::Rest(rest) => Self::Rest(rest.clone()),
        })
    }
}
