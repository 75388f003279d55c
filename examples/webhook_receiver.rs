//! A receiver of tcoder's webhooks. It verifies the signature of each message by Standard Webhooks and prints
//! how the job ended.
//!
//! The receiver and the installation share one secret, and the installation needs `ALLOW_PRIVATE_URLS=true` to
//! call an address in a private network, as this one is:
//!
//! ```sh
//! export WEBHOOK_SECRET=whsec_$(openssl rand -base64 32)
//! ALLOW_PRIVATE_URLS=true target/debug/tcoder up &
//! cargo run --example webhook_receiver -- 127.0.0.1:8090
//! ```
//!
//! In another terminal, submit a job that names the receiver:
//!
//! ```sh
//! target/debug/tcoder submit film.mov --webhook http://127.0.0.1:8090/
//! ```

use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use standardwebhooks::{HEADER_WEBHOOK_ID, Webhook};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8090".to_owned());
    let secret = std::env::var("WEBHOOK_SECRET")
        .map_err(|_| "set WEBHOOK_SECRET to the installation's secret: whsec_ and the key in base64")?;
    let webhook = Arc::new(Webhook::new(&secret)?);
    let router = Router::new().route("/", post(receive)).with_state(webhook);
    let listener = tokio::net::TcpListener::bind(&listen).await?;
    println!("waiting for webhooks at http://{}/", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

/// Answers 2xx only for a message that was accepted: tcoder sends every other one again, for a day.
async fn receive(State(webhook): State<Arc<Webhook>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    // The signature covers the body byte for byte, so it is verified before the body is parsed.
    if let Err(error) = webhook.verify(&body, &headers) {
        eprintln!("refused a message: {error}");
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        eprintln!("refused a message: its body is not JSON");
        return StatusCode::BAD_REQUEST;
    };
    // The id is the same each time a message is sent. A real receiver remembers it and handles a message once.
    let id = headers.get(HEADER_WEBHOOK_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let job = &event["data"];
    println!("{id}: {} for job {}", event["type"], job["jobId"]);
    if let Some(error) = job["error"].as_str() {
        println!("  {error}");
    }
    for output in job["outputs"].as_array().into_iter().flatten() {
        println!("  {}: {}", output["quality"], output["url"]);
    }
    StatusCode::NO_CONTENT
}
