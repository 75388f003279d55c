//! Redis over Upstash's REST interface: a command is a JSON array, so is a pipeline of them.
//! <https://upstash.com/docs/redis/features/restapi>

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{Command, QueueError, Reply, of_code};
use crate::pace::within;

/// Until the whole answer is there.
const LIMIT: Duration = Duration::from_secs(10);

/// Redis behind a REST interface. Cheap to clone.
#[derive(Clone)]
pub struct Rest(Arc<Inside>);

struct Inside {
    http: reqwest::Client,
    one: Url,
    many: Url,
    authorization: HeaderValue,
}

/// The answer to one command.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Value,
    error: Option<String>,
}

impl Answer {
    fn reply(self) -> Result<Reply, QueueError> {
        match self.error {
            None => to_reply(self.result),
            Some(text) => {
                let code = text.split(' ').next();
                Err(of_code(code, &text).unwrap_or(QueueError::Refused(text)))
            }
        }
    }
}

impl Rest {
    /// At this address, with this token.
    ///
    /// # Errors
    /// When the token is none, or the machine's certificates cannot be loaded.
    pub fn new(url: &Url, token: &SecretString) -> Result<Self, QueueError> {
        #[cfg(not(target_arch = "wasm32"))]
        crate::net::install_crypto();
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| QueueError::Auth)?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .user_agent(concat!("tcoder/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| QueueError::Connection("no HTTP client could be made".into()))?;
        let mut base = url.clone();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let many = base.join("pipeline").map_err(|_| QueueError::Refused("the address is none".into()))?;
        Ok(Self(Arc::new(Inside { http, one: base, many, authorization })))
    }

    /// One command.
    pub async fn run(&self, command: Command) -> Result<Reply, QueueError> {
        let answer: Answer = self.post(&self.0.one, &command.0).await?;
        answer.reply()
    }

    /// Several. Each is carried out though one before it failed, as over TCP.
    pub async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Reply>, QueueError> {
        let bodies: Vec<&Vec<String>> = commands.iter().map(|command| &command.0).collect();
        let answers: Vec<Answer> = self.post(&self.0.many, &bodies).await?;
        if answers.len() != commands.len() {
            return Err(QueueError::data("a pipeline has another number of answers than of commands"));
        }
        answers.into_iter().map(Answer::reply).collect()
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        url: &Url,
        body: &impl serde::Serialize,
    ) -> Result<T, QueueError> {
        let exchange = async {
            let request = self.0.http.post(url.clone()).header(AUTHORIZATION, self.0.authorization.clone());
            let answer = request.json(body).send().await.map_err(|error| lost(&error))?;
            let status = answer.status();
            let bytes = answer.bytes().await.map_err(|error| lost(&error))?;
            Ok::<_, QueueError>((status, bytes))
        };
        let Some(answered) = within(LIMIT, exchange).await else {
            return Err(QueueError::Connection("time-out".into()));
        };
        let (status, bytes) = answered?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(QueueError::Auth);
        }
        // A command that Redis refuses comes as 400, with the reason in the body.
        match serde_json::from_slice(&bytes) {
            Ok(answer) => Ok(answer),
            Err(_) if status.is_success() => Err(QueueError::data("an answer that is no JSON of Upstash's")),
            Err(_) => Err(match serde_json::from_slice::<Answer>(&bytes).map(Answer::reply) {
                Ok(Err(error)) => error,
                _ => QueueError::Connection(format!("HTTP {}", status.as_u16())),
            }),
        }
    }
}

/// Words for a broken connection that never hold the address.
fn lost(error: &reqwest::Error) -> QueueError {
    QueueError::Connection(if error.is_timeout() { "time-out" } else { "connection lost" }.into())
}

fn to_reply(value: Value) -> Result<Reply, QueueError> {
    Ok(match value {
        Value::Null => Reply::Nil,
        Value::String(text) => Reply::Text(text),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Reply::Int(whole),
            None => Reply::Text(number.to_string()),
        },
        Value::Bool(is) => Reply::Int(is.into()),
        Value::Array(list) => Reply::List(list.into_iter().map(to_reply).collect::<Result<_, _>>()?),
        Value::Object(_) => return Err(QueueError::data("an answer of an unknown kind")),
    })
}
