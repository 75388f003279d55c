//! Uploads a video, follows the job to its end and prints the addresses of the outputs.
//!
//! With `tcoder up` running on this machine:
//!
//! ```sh
//! cargo run --example submit_and_follow -- holiday.mov
//! ```
//!
//! `TCODER_URL` names another server, and `TCODER_TOKEN` one of its `API_TOKENS`.

use std::error::Error;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use eventsource_stream::Eventsource as _;
use futures::StreamExt as _;
use reqwest::{Body, Client, Method, RequestBuilder, header::CONTENT_LENGTH};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

struct Api {
    http: Client,
    server: String,
    token: Option<String>,
}

impl Api {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: submit_and_follow FILE")?;
    // reqwest is built without a TLS provider. An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = std::env::var("TCODER_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
    let api = Api { http: Client::builder().build()?, server, token: std::env::var("TCODER_TOKEN").ok() };

    let file = tokio::fs::File::open(&path).await?;
    let size = file.metadata().await?.len();
    let name = Path::new(&path).file_name().and_then(|name| name.to_str()).unwrap_or("video");
    let order = json!({ "fileName": name, "fileSize": size, "preset": "hls-adaptive" });
    let ticket = answer(api.request(Method::POST, "/api/upload").json(&order)).await?;
    let id = ticket["jobId"].as_str().ok_or("the answer names no job")?;

    // The video is sent directly to storage. The URL permits anybody to write there, so no error may contain
    // it.
    let address = ticket["uploadUrl"].as_str().ok_or("the answer has no upload address")?;
    let body = Body::wrap_stream(ReaderStream::new(file));
    let stored = api.http.put(address).header(CONTENT_LENGTH, size).body(body).send().await;
    stored.and_then(reqwest::Response::error_for_status).map_err(reqwest::Error::without_url)?;
    // Storage reports new objects only if that is set up; reporting an upload twice does no harm.
    answer(api.request(Method::POST, &format!("/api/jobs/{id}/uploaded"))).await?;

    let job = loop {
        // A broken stream is opened again, and starts with the current state of the job.
        if let Err(error) = follow(&api, id).await {
            eprintln!("the event stream broke: {error}");
        }
        let job = answer(api.request(Method::GET, &format!("/api/jobs/{id}"))).await?;
        if matches!(job["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
            break job;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    if job["status"] != "completed" {
        return Err(format!("the job is {}: {}", job["status"], job["error"]).into());
    }
    for entry in job["entries"].as_array().into_iter().flatten() {
        println!("{}: {}", entry["kind"], entry["url"]);
    }
    for output in job["outputs"].as_array().into_iter().flatten() {
        println!("{}: {} bytes, {}", output["quality"], output["size"], output["url"]);
    }
    Ok(())
}

/// Prints each change of the job until the stream ends, which is when the job ends.
async fn follow(api: &Api, id: &str) -> Result<(), Box<dyn Error>> {
    let request = api.request(Method::GET, &format!("/api/jobs/{id}/events"));
    let mut events = pin!(request.send().await?.error_for_status()?.bytes_stream().eventsource());
    while let Some(event) = events.next().await {
        let job: Value = serde_json::from_str(&event?.data)?;
        println!("{} {}%", job["status"], job["progress"]);
    }
    Ok(())
}

/// The JSON of a response. An error is a problem document, whose `detail` says what is wrong.
async fn answer(request: RequestBuilder) -> Result<Value, Box<dyn Error>> {
    let response = request.send().await?;
    let status = response.status();
    let body: Value = response.json().await?;
    if status.is_success() { Ok(body) } else { Err(format!("{status}: {}", body["detail"]).into()) }
}
