//! Commands, answers, and the two ways they travel: over TCP, and over HTTP to Upstash's REST interface,
//! which is all that there is at the edge. The same commands get the same answers.

mod rest;
mod sync;
#[cfg(not(target_arch = "wasm32"))]
mod tcp;

#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

pub use rest::Rest;
pub use sync::SyncToken;
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

    /// Whether it changes nothing, so that it may be repeated. A command that is not known here counts as a
    /// write, and so does every script.
    #[must_use]
    pub fn is_read(&self) -> bool {
        const READS: [&str; 17] = [
            "EXISTS",
            "GET",
            "HGET",
            "HGETALL",
            "HMGET",
            "HVALS",
            "MGET",
            "PING",
            "TIME",
            "XLEN",
            "XRANGE",
            "XREAD",
            "XREVRANGE",
            "ZCARD",
            "ZCOUNT",
            "ZRANGE",
            "ZSCORE",
        ];
        self.0.first().is_some_and(|verb| READS.contains(&verb.as_str()))
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
const WHERE: &str = "Redis at REDIS_URL";
/// Where Redis is, in the words of the setting that says so.
#[cfg(target_arch = "wasm32")]
const WHERE: &str = "Redis at UPSTASH_REDIS_REST_URL";
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
    /// An answer that says it cannot serve requests now: HTTP 5xx or 429. What was asked may or may not have
    /// happened.
    #[error(
        "{where_} cannot serve requests now ({0}); this passes by itself: if it lasts, see the status page of \
         its provider", where_ = WHERE
    )]
    Unavailable(String),
    /// A hosted Redis has carried out as many commands as its plan allows, and refuses all others.
    #[error(
        "the request quota of {where_} is used up ({0}); raise the limit of its plan at its provider, or wait \
         until the quota is renewed", where_ = WHERE
    )]
    Quota(String),
    /// Wrong password, user or token; with the server's words where it has any.
    #[error("{where_} refuses the login{said}; check {login}", where_ = WHERE, said = in_parentheses(.0), login = LOGIN)]
    Auth(String),
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

fn in_parentheses(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" ({words})") }
}

impl QueueError {
    /// Whether the connection is at fault, so that a new one may help.
    #[must_use]
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Connection(_))
    }

    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Unavailable(_))
    }

    /// Which kind of failure, as one plain word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::Unavailable(_) => "unavailable",
            Self::Quota(_) => "quota",
            Self::Auth(_) => "auth",
            Self::Refused(_) => "refused",
            Self::OutOfMemory => "out_of_memory",
            Self::NoScript => "no_script",
            Self::Evicts(_) => "evicts",
            Self::Data(_) => "data",
        }
    }

    /// What somebody has to do about it, in words that are the same each time; nothing where it passes by itself,
    /// or where the words have to be looked up in the log.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Quota(_) => Some(
                "its request quota is used up; raise the limit of its plan at its provider, or wait until the \
                 quota is renewed",
            ),
            Self::Auth(_) => Some("it refuses the login; check the user name and password"),
            Self::OutOfMemory => Some("it is out of memory; give it more"),
            Self::Evicts(_) => Some("its maxmemory-policy deletes jobs; set it to noeviction"),
            _ => None,
        }
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
        Some("WRONGPASS" | "NOAUTH") => return Some(QueueError::Auth(String::new())),
        // Both pass by themselves: Redis reads its files, or a replica takes over.
        Some("LOADING" | "READONLY" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN") => {
            return Some(QueueError::Connection(text.to_owned()));
        }
        _ => {}
    }
    // A script's inner error keeps its code only inside the text. A database of Upstash's that is full takes
    // no writes: <https://upstash.com/docs/redis/troubleshooting/db_capacity_quota_exceeded>.
    if text.contains("OOM command not allowed") || text.contains("DB capacity quota exceeded") {
        return Some(QueueError::OutOfMemory);
    }
    is_quota(text).then(|| QueueError::Quota(text.to_owned()))
}

/// Upstash's words for a used-up plan, `ERR max requests limit exceeded. Limit: 500000, Usage: 500001.` or
/// `ERR max daily request limit exceeded`: <https://upstash.com/docs/redis/troubleshooting/max_requests_limit>.
fn is_quota(text: &str) -> bool {
    text.contains("max ") && text.contains("limit exceeded") && !text.contains("per second")
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

    /// Whether a replica may answer reads that does not have the latest writes of others yet.
    pub const fn may_lag(&self) -> bool {
        matches!(self, Self::Rest(_))
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
