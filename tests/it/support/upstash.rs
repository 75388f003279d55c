//! An emulation of Upstash's REST interface in front of a real Redis: the format of requests and responses,
//! the headers, and a read region that lags behind. `upstash_client` compares it with the official client.
//! <https://upstash.com/docs/redis/features/restapi>
//!
//! `cargo run --example upstash` runs it for `wrangler dev`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, watch};

/// The required access token.
pub const TOKEN: &str = "token-of-the-rest-front";
/// The header in requests and responses.
const SYNC_TOKEN: &str = "upstash-sync-token";
/// Commands that need a connection for blocking, subscribing or watching.
const NOT_OVER_REST: [&str; 17] = [
    "AUTH",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "DISCARD",
    "EXEC",
    "HELLO",
    "MULTI",
    "SELECT",
    "SUBSCRIBE",
    "UNWATCH",
    "WATCH",
];

/// Counts requests, and holds prepared responses.
#[derive(Debug, Default)]
pub struct Count {
    requests: AtomicU64,
    commands: AtomicU64,
    planned: Mutex<VecDeque<(StatusCode, &'static str)>>,
    held: Mutex<Option<LockOutcome>>,
}

/// A response that is ready but held back.
#[derive(Debug)]
struct LockOutcome {
    verb: &'static str,
    ready: watch::Sender<bool>,
    release: Arc<Semaphore>,
}

/// Holds back the next response to a command with one verb.
pub struct Held {
    ready: watch::Receiver<bool>,
    release: Arc<Semaphore>,
}

impl Held {
    /// Waits until that response is ready.
    pub async fn ready(&mut self) {
        self.ready.wait_for(|ready| *ready).await.unwrap();
    }

    /// Sends the response.
    pub fn release(self) {
        self.release.add_permits(1);
    }
}

impl Count {
    /// The number of requests, and of commands in them.
    pub fn so_far(&self) -> (u64, u64) {
        (self.requests.load(Ordering::SeqCst), self.commands.load(Ordering::SeqCst))
    }

    /// Answers the next requests with these responses, one after the other, without forwarding them to Redis.
    pub fn answer(&self, answers: &[(u16, &'static str)]) {
        let answers = answers.iter().map(|(status, body)| (StatusCode::from_u16(*status).unwrap(), *body));
        self.planned.lock().unwrap().extend(answers);
    }

    /// Whether all prepared responses were sent.
    pub fn all_answered(&self) -> bool {
        self.planned.lock().unwrap().is_empty()
    }

    /// Holds back the next response to this verb.
    pub fn hold(&self, verb: &'static str) -> Held {
        let (ready, is_ready) = watch::channel(false);
        let release = Arc::new(Semaphore::new(0));
        *self.held.lock().unwrap() = Some(LockOutcome { verb, ready, release: Arc::clone(&release) });
        Held { ready: is_ready, release }
    }

    async fn hold_back(&self, commands: &[Vec<Vec<u8>>]) -> Option<OwnedSemaphorePermit> {
        let asked = |verb: &str| commands.iter().any(|c| c[0].eq_ignore_ascii_case(verb.as_bytes()));
        let hold = {
            let mut held = self.held.lock().unwrap();
            held.take_if(|hold| asked(hold.verb))?
        };
        hold.ready.send_replace(true);
        hold.release.acquire_owned().await.ok()
    }
}

struct Front {
    client: redis::Client,
    primary: ConnectionManager,
    /// The commands that a replica may answer, according to the server.
    reads: HashMap<String, bool>,
    replica: Option<Replica>,
    count: Arc<Count>,
}

/// An emulation in front of this Redis, with its counter.
pub async fn router(redis_url: &str) -> redis::RedisResult<(Router, Arc<Count>)> {
    router_with(redis_url, None).await
}

/// Like [`router`], with a replica that answers reads.
pub async fn router_with(
    redis_url: &str,
    replica: Option<Replica>,
) -> redis::RedisResult<(Router, Arc<Count>)> {
    let client = redis::Client::open(redis_url)?;
    let mut primary = connect(&client).await?;
    let commands: Vec<(String, redis::Value, Vec<String>)> = redis::cmd("COMMAND")
        .query_async::<Vec<redis::Value>>(&mut primary)
        .await?
        .into_iter()
        .map(|command| match command {
            redis::Value::Array(mut parts) => {
                parts.truncate(3);
                redis::from_redis_value(redis::Value::Array(parts))
            }
            other => panic!("{other:?} describes no command"),
        })
        .collect::<Result<_, _>>()?;
    let reads = commands
        .into_iter()
        .map(|(name, _, flags)| (name.to_ascii_uppercase(), flags.iter().any(|flag| flag == "readonly")))
        .collect();
    let count = Arc::<Count>::default();
    let front = Arc::new(Front { client, primary, reads, replica, count: Arc::clone(&count) });
    Ok((Router::new().fallback(answer).with_state(front), count))
}

async fn connect(client: &redis::Client) -> redis::RedisResult<ConnectionManager> {
    let quick = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_millis(100))
        .set_response_timeout(None);
    ConnectionManager::new_with_config(client.clone(), quick).await
}

/// Why there is no result.
enum Failure {
    /// Redis refused a command: its code and text.
    Refused(String),
    /// Redis is unreachable.
    Away,
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() {
            return Self::Away;
        }
        // In Redis's format: the code and the text.
        let detail = error.detail().unwrap_or_default().to_owned();
        Self::Refused(format!("{} {detail}", error.code().unwrap_or("ERR")))
    }
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, axum::Json(json!({"error": why}))).into_response()
}

/// The response of a load balancer in front of such a service.
fn away() -> Response {
    let page = Html("<html><head><title>503 Service Temporarily Unavailable</title></head></html>");
    (StatusCode::SERVICE_UNAVAILABLE, page).into_response()
}

async fn answer(
    State(front): State<Arc<Front>>,
    method: Method,
    uri: axum::http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if ![Method::HEAD, Method::GET, Method::POST, Method::PUT].contains(&method) {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "ERR method not allowed");
    }
    let asked_by = headers.get(header::AUTHORIZATION).and_then(|given| given.to_str().ok());
    if asked_by != Some(&format!("Bearer {TOKEN}")) {
        return refused(StatusCode::UNAUTHORIZED, "WRONGPASS invalid or missing auth token");
    }
    let base64 = match headers.get("upstash-encoding").map(|value| value.as_bytes()) {
        None => false,
        Some(b"base64") => true,
        Some(_) => return refused(StatusCode::BAD_REQUEST, "ERR Invalid response encoding"),
    };
    front.count.requests.fetch_add(1, Ordering::SeqCst);
    let planned = front.count.planned.lock().unwrap().pop_front();
    if let Some((status, body)) = planned {
        return (status, body).into_response();
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "ERR failed to parse command");
    };
    let commands = match uri.path() {
        "/" => command(&body).map(|command| vec![command]),
        "/pipeline" | "/multi-exec" => body.as_array().into_iter().flatten().map(command).collect(),
        _ => None,
    };
    let Some(commands) = commands.filter(|commands| !commands.is_empty()) else {
        return refused(StatusCode::BAD_REQUEST, "ERR failed to parse command");
    };
    front.count.commands.fetch_add(commands.len() as u64, Ordering::SeqCst);
    let token = headers.get(SYNC_TOKEN).and_then(|token| token.to_str().ok()).unwrap_or_default();
    let reads = front.are_reads(&commands);
    let mut response = match uri.path() {
        "/" => match front.run(&commands[0], reads, token).await {
            Ok(result) => axum::Json(json!({"result": to_json(result, base64, true)})).into_response(),
            Err(Failure::Refused(why)) => refused(StatusCode::BAD_REQUEST, &why),
            Err(Failure::Away) => return away(),
        },
        "/pipeline" => {
            let mut answers = Vec::new();
            for command in &commands {
                answers.push(match front.run(command, reads, token).await {
                    Ok(result) => json!({"result": to_json(result, base64, true)}),
                    Err(Failure::Refused(why)) => json!({"error": why}),
                    Err(Failure::Away) => return away(),
                });
            }
            axum::Json(answers).into_response()
        }
        _ => match front.transaction(&commands).await {
            Ok(values) => {
                let answers = values.into_iter().map(|value| match value {
                    redis::Value::ServerError(error) => json!({"error": words(&error)}),
                    value => json!({"result": to_json(value, base64, true)}),
                });
                axum::Json(answers.collect::<Vec<_>>()).into_response()
            }
            Err(Failure::Refused(why)) => refused(StatusCode::BAD_REQUEST, &why),
            Err(Failure::Away) => return away(),
        },
    };
    match front.sync_token(&commands, token).await {
        Ok(token) => {
            response.headers_mut().insert(SYNC_TOKEN, token.parse().unwrap());
        }
        Err(_) => return away(),
    }
    front.count.hold_back(&commands).await;
    response
}

/// The parts of a command: a list of strings, numbers and booleans.
fn command(body: &Value) -> Option<Vec<Vec<u8>>> {
    let part = |part: &Value| match part {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Number(_) | Value::Bool(_) => Some(part.to_string().into_bytes()),
        _ => None,
    };
    body.as_array()?.iter().map(part).collect::<Option<Vec<_>>>().filter(|parts| !parts.is_empty())
}

fn to_cmd(parts: &[Vec<u8>]) -> redis::Cmd {
    let mut cmd = redis::Cmd::new();
    for part in parts {
        cmd.arg(part);
    }
    cmd
}

fn words(error: &redis::ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default())
}

/// Encodes strings as base64 if requested, except for the result `OK`.
fn to_json(value: redis::Value, base64: bool, is_result: bool) -> Value {
    use redis::Value as Redis;
    let encoded = |bytes: Vec<u8>| match base64 {
        true if is_result && bytes == b"OK" => "OK".into(),
        true => STANDARD.encode(bytes).into(),
        false => String::from_utf8_lossy(&bytes).into_owned().into(),
    };
    match value {
        Redis::Nil => Value::Null,
        Redis::Int(n) => n.into(),
        Redis::BulkString(bytes) => encoded(bytes),
        Redis::SimpleString(text) => encoded(text.into_bytes()),
        Redis::Okay => encoded(b"OK".to_vec()),
        Redis::Array(list) => list.into_iter().map(|value| to_json(value, base64, false)).collect(),
        other => panic!("an answer of an unknown kind: {other:?}"),
    }
}

impl Front {
    fn verb(&self, command: &[Vec<u8>]) -> Result<String, Failure> {
        let verb = String::from_utf8_lossy(&command[0]).to_ascii_uppercase();
        let blocks =
            verb.starts_with("XREAD") && command.iter().any(|part| part.eq_ignore_ascii_case(b"BLOCK"));
        if blocks || NOT_OVER_REST.contains(&&*verb) || !self.reads.contains_key(&verb) {
            return Err(Failure::Refused(format!(
                "ERR Command is not available: '{verb}'. See \
                 https://upstash.com/docs/redis/overall/rediscompatibility for details"
            )));
        }
        Ok(verb)
    }

    /// Runs one command of a request; `reads` says whether all its commands are reads.
    async fn run(&self, command: &[Vec<u8>], reads: bool, token: &str) -> Result<redis::Value, Failure> {
        self.verb(command)?;
        let mut connection = match &self.replica {
            Some(replica) if reads => replica.at(token).await?,
            _ => self.primary.clone(),
        };
        match connection.send_packed_command(&to_cmd(command)).await? {
            redis::Value::ServerError(error) => Err(Failure::Refused(words(&error))),
            value => Ok(value),
        }
    }

    /// Runs all commands as a transaction.
    async fn transaction(&self, commands: &[Vec<Vec<u8>>]) -> Result<Vec<redis::Value>, Failure> {
        for command in commands {
            self.verb(command)?;
        }
        // A separate connection, because MULTI affects the whole connection.
        let mut own = self.client.get_multiplexed_async_connection().await?;
        own.send_packed_command(&redis::cmd("MULTI")).await?;
        for command in commands {
            // A command that is refused here discards the transaction, which EXEC reports.
            let _queued = own.send_packed_command(&to_cmd(command)).await;
        }
        match own.send_packed_command(&redis::cmd("EXEC")).await? {
            redis::Value::Array(values) => Ok(values),
            redis::Value::ServerError(error) => Err(Failure::Refused(words(&error))),
            other => panic!("EXEC answered {other:?}"),
        }
    }

    /// Whether none of these commands writes. A read region forwards a request with a write as a whole.
    fn are_reads(&self, commands: &[Vec<Vec<u8>>]) -> bool {
        commands.iter().all(|command| self.verb(command).is_ok_and(|verb| self.reads[&verb]))
    }

    /// The token of the state that these commands were answered from: the primary's, or the replica's for
    /// reads.
    async fn sync_token(&self, commands: &[Vec<Vec<u8>>], token: &str) -> Result<String, Failure> {
        let offset = match &self.replica {
            Some(replica) if self.are_reads(commands) => {
                offset(&mut replica.at(token).await?, "slave_repl_offset").await?
            }
            _ => offset(&mut self.primary.clone(), "master_repl_offset").await?,
        };
        Ok(STANDARD.encode(format!("offset={offset}")))
    }
}

/// The offset of a server's replication stream.
async fn offset(connection: &mut ConnectionManager, field: &str) -> Result<u64, Failure> {
    let info: String = redis::cmd("INFO").arg("replication").query_async(connection).await?;
    let found = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.parse().ok());
    found.ok_or_else(|| Failure::Refused(format!("ERR no {field} in {info}")))
}

/// A read region: a replica whose replication stream is paused until a sync token requires more.
pub struct Replica {
    connection: ConnectionManager,
    /// Opens the stream.
    gate: AsyncMutex<watch::Sender<bool>>,
}

/// The connection from the primary to its replica, which can be paused.
pub struct Stream {
    /// The port that the replica connects to.
    pub port: u16,
    gate: watch::Sender<bool>,
}

/// Opens a stream to the primary that listens on this Unix socket. It ends with the runtime.
pub async fn stream(primary: std::path::PathBuf) -> Stream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let gate = watch::Sender::new(true);
    let is_open = gate.subscribe();
    tokio::spawn(async move {
        while let Ok((replica, _)) = listener.accept().await {
            let (primary, mut is_open) = (primary.clone(), is_open.clone());
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let primary = tokio::net::UnixStream::connect(primary).await?;
                let ((mut from_replica, mut to_replica), (mut from_primary, mut to_primary)) =
                    (replica.into_split(), primary.into_split());
                let forward = async {
                    let mut bytes = vec![0; 64 * 1024];
                    loop {
                        let read = from_primary.read(&mut bytes).await?;
                        let is_over = is_open.wait_for(|open| *open).await.is_err();
                        if read == 0 || is_over {
                            return Ok::<_, std::io::Error>(());
                        }
                        to_replica.write_all(&bytes[..read]).await?;
                    }
                };
                let back = async { tokio::io::copy(&mut from_replica, &mut to_primary).await.map(drop) };
                tokio::try_join!(forward, back).map(drop)
            });
        }
    });
    Stream { port, gate }
}

impl Replica {
    /// A replica at `url` that follows `stream`. It has caught up with the primary and is paused from now on.
    pub async fn new(url: &str, stream: Stream) -> redis::RedisResult<Self> {
        let mut connection = connect(&redis::Client::open(url)?).await?;
        loop {
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
            if info.contains("master_link_status:up") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stream.gate.send_replace(false);
        Ok(Self { connection, gate: AsyncMutex::new(stream.gate) })
    }

    /// A connection to it, once it has reached the state of this token.
    async fn at(&self, token: &str) -> Result<ConnectionManager, Failure> {
        let mut connection = self.connection.clone();
        let Some(wanted) = STANDARD
            .decode(token)
            .ok()
            .and_then(|text| String::from_utf8(text).ok()?.strip_prefix("offset=")?.parse::<u64>().ok())
        else {
            return Ok(connection);
        };
        let gate = self.gate.lock().await;
        while offset(&mut connection, "slave_repl_offset").await? < wanted {
            gate.send_replace(true);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gate.send_replace(false);
        Ok(connection)
    }
}
