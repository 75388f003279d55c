//! A receiver of webhooks with a log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::system::WEBHOOK_SECRET;

/// A message that a receiver accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The header `webhook-id`.
    pub id: String,
    pub job: String,
    /// The state in which the job ended.
    pub status: String,
    /// When the job was submitted; tells two jobs apart that had the same id.
    pub created: i64,
}

#[derive(Default)]
struct Inbox {
    log: Vec<Received>,
    refuses: Option<StatusCode>,
    /// Messages that were refused, for whatever reason.
    refused: usize,
}

type Shared = Arc<Mutex<Inbox>>;

fn open(inbox: &Shared) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A receiver on a port of its own.
pub struct Receiver {
    pub url: String,
    port: u16,
    inbox: Shared,
    serving: Option<JoinHandle<()>>,
}

fn read(headers: &HeaderMap, body: &Bytes) -> Option<Received> {
    // A message that was signed by a wrong clock is refused, as every receiver does.
    Webhook::new(WEBHOOK_SECRET).unwrap().verify(body, headers).ok()?;
    let message: Value = serde_json::from_slice(body).ok()?;
    let data = &message["data"];
    Some(Received {
        id: headers["webhook-id"].to_str().ok()?.to_owned(),
        job: data["jobId"].as_str()?.to_owned(),
        status: message["type"].as_str()?.strip_prefix("job.")?.to_owned(),
        created: data["timestamps"]["createdAt"].as_i64()?,
    })
}

async fn receive(State(inbox): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let read = read(&headers, &body);
    let mut inbox = open(&inbox);
    match (inbox.refuses, read) {
        (None, Some(message)) => {
            inbox.log.push(message);
            StatusCode::NO_CONTENT
        }
        (refuses, _) => {
            inbox.refused += 1;
            refuses.unwrap_or(StatusCode::BAD_REQUEST)
        }
    }
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}/hook");
        let mut receiver = Self { url, port, inbox: Shared::default(), serving: None };
        receiver.serve(listener);
        receiver
    }

    fn serve(&mut self, listener: TcpListener) {
        let router = Router::new().route("/hook", post(receive)).with_state(Arc::clone(&self.inbox));
        self.serving = Some(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
    }

    /// Stops listening.
    pub async fn go_down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Listens again.
    pub async fn come_up(&mut self) {
        while self.serving.is_none() {
            // Somebody else's connection may have this port for a moment.
            match TcpListener::bind(("127.0.0.1", self.port)).await {
                Ok(listener) => self.serve(listener),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }

    /// Answers with this status from now on, or accepts messages again.
    pub fn refuse(&self, status: Option<u16>) {
        open(&self.inbox).refuses = status.map(|status| StatusCode::from_u16(status).unwrap());
    }

    /// The messages that were accepted, and how many were refused.
    pub fn log(&self) -> (Vec<Received>, usize) {
        let inbox = open(&self.inbox);
        (inbox.log.clone(), inbox.refused)
    }
}
