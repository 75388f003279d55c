//! Upstash's REST interface in front of a real Redis: the shapes of its requests and answers, and no more.
//! <https://upstash.com/docs/redis/features/restapi>
//!
//! `cargo run --example upstash` runs it for `wrangler dev`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde_json::{Value, json};

/// Redis itself is away.
const AWAY: &str = "the server behind is away";

/// The token that is asked for.
pub const TOKEN: &str = "token-of-the-rest-front";

struct Front {
    redis: ConnectionManager,
    count: Arc<Count>,
}

/// What came in.
#[derive(Debug, Default)]
pub struct Count {
    requests: AtomicU64,
    commands: AtomicU64,
}

impl Count {
    /// Requests, and the commands in them.
    pub fn so_far(&self) -> (u64, u64) {
        (self.requests.load(Ordering::SeqCst), self.commands.load(Ordering::SeqCst))
    }

    fn add(&self, commands: usize) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.commands.fetch_add(commands as u64, Ordering::SeqCst);
    }
}

/// One in front of this Redis, and what comes in.
pub async fn router(redis_url: &str) -> redis::RedisResult<(Router, Arc<Count>)> {
    let client = redis::Client::open(redis_url)?;
    let quick = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_millis(100))
        .set_response_timeout(None);
    let count = Arc::<Count>::default();
    let redis = ConnectionManager::new_with_config(client, quick).await?;
    let front = Arc::new(Front { redis, count: Arc::clone(&count) });
    let router = Router::new()
        .route("/", post(one))
        .route("/pipeline", post(pipeline))
        .route("/multi-exec", post(multi_exec))
        .with_state(front);
    Ok((router, count))
}

type Answer = (StatusCode, Json<Value>);

fn refused(status: StatusCode, why: &str) -> Answer {
    (status, Json(json!({"error": why})))
}

fn is_let_in(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|given| given == &format!("Bearer {TOKEN}"))
}

async fn run(front: &Front, command: &Value) -> Result<Value, String> {
    let parts = command.as_array().filter(|parts| !parts.is_empty()).ok_or("ERR a command is a list")?;
    let mut cmd = redis::Cmd::new();
    for part in parts {
        match part {
            Value::String(text) => cmd.arg(text),
            other => cmd.arg(other.to_string()),
        };
    }
    let value = front.redis.clone().send_packed_command(&cmd).await.map_err(|error| {
        if error.is_io_error() || error.is_connection_dropped() {
            return AWAY.to_owned();
        }
        // As Redis says it: the code, and the words.
        let detail = error.detail().unwrap_or_default().to_owned();
        format!("{} {detail}", error.code().unwrap_or("ERR"))
    })?;
    to_json(value)
}

fn to_json(value: redis::Value) -> Result<Value, String> {
    use redis::Value as Redis;
    Ok(match value {
        Redis::Nil => Value::Null,
        Redis::Int(n) => n.into(),
        Redis::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        Redis::SimpleString(text) => text.into(),
        Redis::Okay => "OK".into(),
        Redis::Array(list) => list.into_iter().map(to_json).collect::<Result<Vec<_>, _>>()?.into(),
        Redis::ServerError(error) => {
            return Err(format!("{} {}", error.code(), error.details().unwrap_or_default()));
        }
        other => panic!("an answer of an unknown kind: {other:?}"),
    })
}

async fn one(State(front): State<Arc<Front>>, headers: HeaderMap, Json(command): Json<Value>) -> Answer {
    if !is_let_in(&headers) {
        return refused(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    front.count.add(1);
    match run(&front, &command).await {
        Ok(result) => (StatusCode::OK, Json(json!({"result": result}))),
        Err(why) if why == AWAY => refused(StatusCode::BAD_GATEWAY, AWAY),
        Err(why) => refused(StatusCode::BAD_REQUEST, &why),
    }
}

async fn pipeline(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    Json(commands): Json<Value>,
) -> Answer {
    if !is_let_in(&headers) {
        return refused(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let Some(commands) = commands.as_array() else {
        return refused(StatusCode::BAD_REQUEST, "ERR a pipeline is a list of commands");
    };
    front.count.add(commands.len());
    let mut answers = Vec::new();
    for command in commands {
        answers.push(match run(&front, command).await {
            Ok(result) => json!({"result": result}),
            Err(why) if why == AWAY => return refused(StatusCode::BAD_GATEWAY, AWAY),
            Err(why) => json!({"error": why}),
        });
    }
    (StatusCode::OK, Json(answers.into()))
}

/// All or none; here each command by itself inside MULTI and EXEC.
async fn multi_exec(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    Json(commands): Json<Value>,
) -> Answer {
    if !is_let_in(&headers) {
        return refused(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let mut pipe = redis::pipe();
    pipe.atomic();
    for command in commands.as_array().into_iter().flatten() {
        let mut cmd = redis::Cmd::new();
        for part in command.as_array().into_iter().flatten() {
            cmd.arg(part.as_str().map_or_else(|| part.to_string(), str::to_owned));
        }
        pipe.add_command(cmd);
    }
    match pipe.query_async::<Vec<redis::Value>>(&mut front.redis.clone()).await {
        Ok(values) => {
            let answers = values.into_iter().map(|value| match to_json(value) {
                Ok(result) => json!({"result": result}),
                Err(why) => json!({"error": why}),
            });
            (StatusCode::OK, Json(answers.collect::<Vec<_>>().into()))
        }
        Err(error) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}
