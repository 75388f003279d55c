//! Upstash's REST interface in front of a real Redis: the shapes of its requests and answers, and no more.
//! <https://upstash.com/docs/redis/features/restapi>

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use redis::aio::MultiplexedConnection;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tcoder::config::RedisConfig;

use super::system::serve;

/// The token that is asked for.
pub const TOKEN: &str = "token-of-the-rest-front";

struct Front {
    redis: MultiplexedConnection,
}

/// Starts one in front of this Redis; answers its address. Ends with the test's runtime.
pub async fn front(config: &RedisConfig) -> String {
    let client = redis::Client::open(config.url.expose_secret()).unwrap();
    let front = Arc::new(Front { redis: client.get_multiplexed_async_connection().await.unwrap() });
    let router = Router::new()
        .route("/", post(one))
        .route("/pipeline", post(pipeline))
        .route("/multi-exec", post(multi_exec))
        .with_state(front);
    serve(router).await
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
    match run(&front, &command).await {
        Ok(result) => (StatusCode::OK, Json(json!({"result": result}))),
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
    let mut answers = Vec::new();
    for command in commands {
        answers.push(match run(&front, command).await {
            Ok(result) => json!({"result": result}),
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
