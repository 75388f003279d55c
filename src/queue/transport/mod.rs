//! Commands, replies and their two transports: TCP, and HTTP to Upstash's REST interface, which is the only one
//! available to the Worker. The same command gets the same reply over both.

mod rest;
mod sync;
#[cfg(not(target_arch = "wasm32"))]
mod tcp;

#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

pub use rest::Rest;
pub use sync::SyncToken;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use tcp::Tcp;
#[cfg(all(any(test, feature = "fuzzing"), not(target_arch = "wasm32")))]
pub(crate) use {rest::check_rest_answer, tcp::check_cluster_reply};

/// A Redis command.
#[derive(Clone, Debug)]
pub struct Command(Vec<String>);

impl Command {
    /// A command without arguments.
    #[must_use]
    pub fn new(verb: &str) -> Self {
        Self(vec![verb.to_owned()])
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.0.push(arg.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<String>>>(mut self, args: I) -> Self {
        self.0.extend(args.into_iter().map(Into::into));
        self
    }

    /// Whether the command changes nothing, so that it may be repeated. Unknown commands and all scripts count as
    /// writes.
    #[must_use]
    pub fn is_read(&self) -> bool {
        const READS: [&str; 22] = [
            "EXISTS",
            "GET",
            "HGET",
            "HGETALL",
            "HKEYS",
            "HLEN",
            "HMGET",
            "HVALS",
            "MGET",
            "PING",
            "ROLE",
            "SCARD",
            "SMEMBERS",
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

/// A reply, the same over both transports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No value.
    Nil,
    /// A number.
    Int(i64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Reply>),
}

impl Reply {
    /// The text, if the reply is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if the reply is one or a text that can be parsed as one.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            // Scores are returned as texts, and large ones contain an exponent.
            Self::Text(text) => text.parse().ok().or_else(|| {
                #[allow(clippy::cast_possible_truncation)]
                text.parse::<f64>().ok().map(|f| f as i64)
            }),
            _ => None,
        }
    }

    /// The list, if the reply is one.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

/// Names Redis in error messages by the setting that contains its address.
#[cfg(not(target_arch = "wasm32"))]
const WHERE: &str = "Redis at REDIS_URL";
/// Names Redis in error messages by the setting that contains its address.
#[cfg(target_arch = "wasm32")]
const WHERE: &str = "Redis at UPSTASH_REDIS_REST_URL";
/// What to check if the login fails.
#[cfg(not(target_arch = "wasm32"))]
const LOGIN: &str = "the user name and password in it";
#[cfg(target_arch = "wasm32")]
const LOGIN: &str = "UPSTASH_REDIS_REST_TOKEN";

/// An error of a call to the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// There is no connection. The command may or may not have run.
    #[error("{where_} does not answer ({0}); check that it runs and that the address is right", where_ = WHERE)]
    Connection(String),
    /// There was no reply in time. The command may or may not have run.
    #[error("{where_} does not answer (time-out); check that it runs and that the address is right", where_ = WHERE)]
    TimedOut,
    /// The certificate of the server, or that of its authority, cannot be used.
    #[error("there is no TLS connection to {where_}: {0}", where_ = WHERE)]
    Certificate(String),
    /// A cluster says that another node has the keys, with its address. The command has not run.
    #[error("{where_} moves keys to another node ({0}); this passes by itself", where_ = WHERE)]
    Moved(String),
    /// In a cluster, the keys would be on several nodes. Contains their prefix.
    #[error(
        "{where_} is a cluster, where keys with the prefix {0:?} would be on several nodes; set REDIS_KEY_PREFIX to a text \
         in braces, such as {{tcoder}}:, for all processes", where_ = WHERE
    )]
    NoHashTag(String),
    /// The reply says that Redis cannot serve requests at the moment: HTTP 5xx or 429, or it loads its data. The command
    /// may or may not have run.
    #[error(
        "{where_} cannot serve requests now ({0}); this passes by itself: if it lasts, see the status page of \
         its provider", where_ = WHERE
    )]
    Unavailable(String),
    /// The server is a replica, or one whose primary is away: it refuses writes. The command has not run.
    #[error(
        "{where_} is a replica at the moment ({0}); a failover passes by itself: if it lasts, check that the \
         address is that of the primary", where_ = WHERE
    )]
    NotPrimary(String),
    /// A hosted Redis has run as many commands as its plan permits, and refuses all others.
    #[error(
        "the request quota of {where_} is used up ({0}); raise the limit of its plan at its provider, or wait \
         until the quota is renewed", where_ = WHERE
    )]
    Quota(String),
    /// The password, user or token is wrong. Contains the server's text, if it sent any.
    #[error("{where_} refuses the login{said}; check {login}", where_ = WHERE, said = in_parentheses(.0), login = LOGIN)]
    Auth(String),
    /// Redis refuses the command.
    #[error("Redis refuses the command: {0}")]
    Refused(String),
    /// Redis has no memory left for writes.
    #[error("Redis is out of memory; give it more, or wait until ended jobs are a week old")]
    OutOfMemory,
    /// The script is not cached. The caller then sends its text.
    #[error("Redis does not know the script")]
    NoScript,
    /// Redis is configured to evict keys.
    #[error("Redis has maxmemory-policy {0}, which deletes jobs under memory pressure; set it to noeviction")]
    Evicts(String),
    /// The data in Redis is not in the format of this version.
    #[error("unexpected data in Redis: {0}; was it written by something else?")]
    Data(String),
}

fn in_parentheses(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" ({words})") }
}

impl QueueError {
    /// Whether the connection failed, so that a new one may help.
    #[must_use]
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::TimedOut | Self::Moved(_) | Self::NotPrimary(_))
    }

    /// Whether Redis itself answers, that it cannot serve yet and that this passes.
    #[must_use]
    pub const fn is_not_ready(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::NotPrimary(_) | Self::Moved(_))
    }

    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.is_connection() || matches!(self, Self::Unavailable(_))
    }

    /// The kind of failure, in one word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::TimedOut => "timeout",
            Self::Certificate(_) => "certificate",
            Self::Moved(_) => "moved",
            Self::NoHashTag(_) => "no_hash_tag",
            Self::Unavailable(_) => "unavailable",
            Self::NotPrimary(_) => "not_primary",
            Self::Quota(_) => "quota",
            Self::Auth(_) => "auth",
            Self::Refused(_) => "refused",
            Self::OutOfMemory => "out_of_memory",
            Self::NoScript => "no_script",
            Self::Evicts(_) => "evicts",
            Self::Data(_) => "data",
        }
    }

    /// What the operator has to do, in a text that is always the same; `None` if the failure passes by itself, or if
    /// the log has the details.
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
            Self::Certificate(_) => {
                Some("its certificate is not accepted; check REDIS_CA_CERT and the host in REDIS_URL")
            }
            _ => None,
        }
    }

    pub(super) fn data(what: impl Into<String>) -> Self {
        Self::Data(what.into())
    }
}

/// Maps a server's error, `CODE text`, to a special case; `None` if it is not one.
fn of_code(code: Option<&str>, text: &str) -> Option<QueueError> {
    match code {
        Some("NOSCRIPT") => return Some(QueueError::NoScript),
        Some("OOM") => return Some(QueueError::OutOfMemory),
        Some("WRONGPASS" | "NOAUTH") => return Some(QueueError::Auth(String::new())),
        // A command that blocked at a primary gets UNBLOCKED when that is demoted.
        Some("READONLY" | "MASTERDOWN" | "UNBLOCKED") => {
            return Some(QueueError::NotPrimary(text.to_owned()));
        }
        Some("MOVED") => return Some(QueueError::Moved(text.to_owned())),
        Some("CLUSTERDOWN") => return Some(QueueError::Connection(text.to_owned())),
        // These pass by themselves: Redis loads its files, waits for its disk or for replicas, or runs a long script. A
        // cluster moves the slot: ASK names the node that gets it, and is not followed, because a script there would
        // find only the keys that have arrived. So no script runs while the slot is moved.
        Some("LOADING" | "MISCONF" | "NOREPLICAS" | "BUSY" | "TRYAGAIN" | "ASK") => {
            return Some(QueueError::Unavailable(text.to_owned()));
        }
        _ => {}
    }
    // The error of a command inside a script has its code only in the text. An Upstash database that is full refuses
    // writes: <https://upstash.com/docs/redis/troubleshooting/db_capacity_quota_exceeded>.
    if text.contains("OOM command not allowed") || text.contains("DB capacity quota exceeded") {
        return Some(QueueError::OutOfMemory);
    }
    is_quota(text).then(|| QueueError::Quota(text.to_owned()))
}

/// Recognises Upstash's errors for a used-up plan, `ERR max requests limit exceeded. Limit: 500000, Usage: 500001.`
/// or `ERR max daily request limit exceeded`: <https://upstash.com/docs/redis/troubleshooting/max_requests_limit>.
fn is_quota(text: &str) -> bool {
    text.contains("max ") && text.contains("limit exceeded") && !text.contains("per second")
}

/// The transport to a Redis.
#[derive(Clone)]
pub(crate) enum Transport {
    /// A persistent connection.
    #[cfg(not(target_arch = "wasm32"))]
    Tcp(Box<Tcp>),
    /// One HTTP request per call.
    Rest(Rest),
}

impl Transport {
    /// Runs a command.
    pub(crate) async fn run(&self, command: Command) -> Result<Reply, QueueError> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Tcp(tcp) => tcp.run(command).await,
            Self::Rest(rest) => rest.run(command).await,
        }
    }

    /// Runs several commands in one round trip.
    pub(crate) async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Reply>, QueueError> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Tcp(tcp) => tcp.pipeline(commands).await,
            Self::Rest(rest) => rest.pipeline(commands).await,
        }
    }

    /// Whether a replica that lacks the latest writes of other clients may answer reads.
    pub(crate) const fn may_lag(&self) -> bool {
        matches!(self, Self::Rest(_))
    }

    /// Runs a command that blocks at the server for up to `block`.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) async fn run_blocking(&self, command: Command, block: Duration) -> Result<Reply, QueueError> {
        match self {
            Self::Tcp(tcp) => tcp.run_blocking(command, block).await,
            Self::Rest(_) => {
                Err(QueueError::Refused("blocking commands do not work over REST; use REDIS_URL".into()))
            }
        }
    }

    /// Opens another connection to the same server.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) async fn again(&self) -> Result<Self, QueueError> {
        Ok(match self {
            Self::Tcp(tcp) => Self::Tcp(Box::new(tcp.again().await?)),
            Self::Rest(rest) => Self::Rest(rest.clone()),
        })
    }

    /// Asks a cluster for its nodes, to find the keys through another one when one is gone.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) async fn learn_nodes(&self) {
        if let Self::Tcp(tcp) = self {
            tcp.learn_nodes().await;
        }
    }
}
