//! Webhooks report the end of a job: signed, at least once, with one id.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use futures::future::join_all;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;

use crate::support::clips::clip;
use crate::support::process::{eventually, spawn};
use crate::support::system::{PATIENCE, Setup, System, WEBHOOK_SECRET, guarded, serve, shared};

/// A receiver that responds with a given status and passes on the messages.
pub struct Receiver {
    pub url: String,
    answer: Arc<AtomicU16>,
    inbox: mpsc::UnboundedReceiver<(HeaderMap, Bytes)>,
}

type Shared = (Arc<AtomicU16>, mpsc::UnboundedSender<(HeaderMap, Bytes)>);

async fn receive(State((answer, out)): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    out.send((headers, body)).unwrap();
    // The first message gets the given status, all others 204.
    StatusCode::from_u16(answer.swap(204, Ordering::SeqCst)).unwrap()
}

fn router(first_answer: u16) -> (Router, Arc<AtomicU16>, mpsc::UnboundedReceiver<(HeaderMap, Bytes)>) {
    let (out, inbox) = mpsc::unbounded_channel();
    let answer = Arc::new(AtomicU16::new(first_answer));
    (Router::new().route("/hook", post(receive)).with_state((answer.clone(), out)), answer, inbox)
}

impl Receiver {
    pub async fn start(first_answer: u16) -> Self {
        let (router, answer, inbox) = router(first_answer);
        Self { url: format!("{}/hook", serve(router).await), answer, inbox }
    }

    /// The next message, after its signature was verified.
    pub async fn next(&mut self) -> (String, Value) {
        let got = tokio::time::timeout(PATIENCE, self.inbox.recv()).await.expect("no webhook comes");
        checked(&got.unwrap())
    }
}

fn checked((headers, body): &(HeaderMap, Bytes)) -> (String, Value) {
    Webhook::new(WEBHOOK_SECRET).unwrap().verify(body, headers).expect("the signature is wrong");
    assert_eq!(headers["content-type"], "application/json");
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    (id, serde_json::from_slice(body).unwrap())
}

fn job_request(url: &str) -> Value {
    json!({"webhookUrl": url, "preset": "web-optimized", "outputQualities": ["144p"], "fileName": "a.mp4"})
}

async fn pending_webhooks(system: &System) -> u64 {
    system.get("/api/stats").await.body["pendingWebhooks"].as_u64().unwrap()
}

#[tokio::test]
async fn rejected_webhook_is_retried_with_the_same_id() {
    let (system, mut receiver) = (shared().await, Receiver::start(500).await);
    let id = system.upload(clip(), &job_request(&receiver.url)).await;
    let (first, message) = receiver.next().await;
    let (second, again) = receiver.next().await;
    assert_eq!((&first, &message), (&second, &again));
    assert_eq!((&message["type"], &message["data"]["jobId"]), (&json!("job.completed"), &json!(id)));
    let output = &message["data"]["outputs"][0];
    assert_eq!(output["quality"], "144p");
    let fetched = system.http.get(output["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(fetched.status(), 200);
}

#[tokio::test]
async fn queries_of_addresses_are_used_but_not_shown() {
    let (system, mut receiver) = (shared().await, Receiver::start(204).await);
    let films = serve(Router::new().route("/film.mp4", axum::routing::get(|| async { "no film" }))).await;
    let secret = "signature=hush-hush";
    let id = system
        .submit(&json!({
            "inputUrl": format!("{films}/film.mp4?{secret}"),
            "webhookUrl": format!("{}?{secret}", receiver.url),
        }))
        .await;
    let (_, message) = receiver.next().await;
    let (read, list) = (system.job(&id).await, system.get("/api/jobs?limit=100").await.body);
    assert_eq!(message["data"]["inputUrl"], format!("{films}/film.mp4?redacted"));
    assert_eq!(read["webhookUrl"], format!("{}?redacted", receiver.url));
    for shown in [&message, &read, &list] {
        assert!(shown.to_string().contains(&id) && !shown.to_string().contains("hush-hush"), "{shown:#}");
    }
    for internal in ["worker", "machineId", "webhookKey"] {
        assert!(message["data"].get(internal).is_none(), "{message:#}");
    }
    assert!(read["worker"].is_string(), "{read:#}");
}

#[tokio::test]
async fn webhooks_are_sent_for_failed_and_cancelled_jobs() {
    let (system, mut receiver) = (shared().await, Receiver::start(204).await);
    system.upload_bytes(b"no film".to_vec(), &job_request(&receiver.url)).await;
    let (_, message) = receiver.next().await;
    assert_eq!((&message["type"], &message["data"]["status"]), (&json!("job.failed"), &json!("failed")));
    assert_eq!(message["data"]["errorCode"], "invalidMedia");

    let ticket = system.post("/api/upload", &job_request(&receiver.url)).await.body;
    let path = format!("/api/jobs/{}", ticket["jobId"].as_str().unwrap());
    assert_eq!(system.delete(&path).await.status, 200);
    let (_, message) = receiver.next().await;
    assert_eq!((&message["type"], &message["data"]["jobId"]), (&json!("job.cancelled"), &ticket["jobId"]));
}

#[tokio::test]
async fn pending_webhook_survives_a_restart() {
    let data = crate::support::system::folder("data");
    let start = || Setup::over(&data).env("ALLOW_PRIVATE_URLS", "true").start();
    let system = start().await;
    // Nobody listens yet, and nobody else can take the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let id = system.upload(clip(), &job_request(&format!("http://127.0.0.1:{port}/hook"))).await;
    system.completed(&id).await;
    let tried = || system.log().contains("webhook delivery failed; retrying later");
    eventually("a delivery was tried", tried).await;
    system.stop().await;

    let (router, _, mut inbox) = router(204);
    let listener = socket.listen(1024).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let system = start().await;
    let got = tokio::time::timeout(PATIENCE, inbox.recv()).await.expect("no webhook comes").unwrap();
    let (_, message) = checked(&got);
    assert_eq!((&message["type"], &message["data"]["jobId"]), (&json!("job.completed"), &json!(id)));
    let delivered = || system.log().contains("webhook delivered");
    eventually("it is off the books", delivered).await;
    system.stop().await;
}

#[tokio::test]
async fn webhook_answered_410_is_not_retried() {
    let system = Setup::default().workers(0).env("ALLOW_PRIVATE_URLS", "true").start().await;
    let mut receiver = Receiver::start(410).await;
    let ticket = system.post("/api/upload", &job_request(&receiver.url)).await.body;
    system.delete(&format!("/api/jobs/{}", ticket["jobId"].as_str().unwrap())).await;
    receiver.next().await;
    eventually("it is given up", || system.log().contains("webhook delivery abandoned")).await;
    eventually("the receiver was asked once", || receiver.answer.load(Ordering::SeqCst) == 204).await;
    while pending_webhooks(&system).await > 0 {
        tokio::task::yield_now().await;
    }
    assert!(receiver.inbox.try_recv().is_err());
    system.stop().await;
}

#[tokio::test]
async fn webhook_to_a_private_address_is_not_sent() {
    let system = guarded().await;
    let answer = system.post("/api/upload", &job_request("http://127.0.0.1:9/hook")).await;
    assert_eq!((answer.status, &answer.body["field"]), (422, &json!("webhookUrl")), "{answer:?}");
    // A name is checked when it is resolved: no request is sent, and the delivery is removed.
    let mut receiver = Receiver::start(204).await;
    let url = receiver.url.replace("127.0.0.1", "localhost");
    let ticket = system.post("/api/upload", &job_request(&url)).await.body;
    let id = ticket["jobId"].as_str().unwrap();
    system.delete(&format!("/api/jobs/{id}")).await;
    let given_up =
        || system.log().lines().any(|l| l.contains("webhook delivery abandoned") && l.contains(id));
    eventually("it is given up", given_up).await;
    assert!(receiver.inbox.try_recv().is_err());
}

/// Submits a job that ends at once, with a webhook to this URL.
async fn tell(system: &System, url: &str) -> String {
    let ticket = system.post("/api/upload", &job_request(url)).await.body;
    let id = ticket["jobId"].as_str().unwrap().to_owned();
    system.delete(&format!("/api/jobs/{id}")).await;
    id
}

/// An official library of Standard Webhooks accepts tcoder's messages, and rejects all others.
async fn an_official_library_verifies_each_message(kind: &str) {
    const WRONG: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let system = shared().await;
    let mut command = crate::api_clients::script(&["receiver", kind, WEBHOOK_SECRET, WRONG]).await;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut receiver = spawn(command);
    let mut lines = BufReader::new(receiver.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the receiver is silent");
        line.unwrap().expect("the receiver ended")
    };
    let url = next().await;
    let id = tell(system, &url).await;
    let mut sent = Vec::new();
    // The first message is answered with 500 and is sent again.
    for _ in 0..2 {
        let verdicts: Value = serde_json::from_str(&next().await).unwrap();
        let message = &verdicts["valid"]["accepted"];
        assert_eq!(message["type"], "job.cancelled", "{verdicts:#}");
        assert_eq!(
            (&message["data"]["jobId"], &message["data"]["status"]),
            (&json!(id), &json!("cancelled"))
        );
        for changed in ["tamperedBody", "tamperedId", "tamperedTimestamp", "wrongSecret"] {
            assert_eq!(verdicts[changed], json!({"refused": "No matching signature found"}), "{changed}");
        }
        assert_eq!(verdicts["tooOld"], json!({"refused": "Message timestamp too old"}));
        assert_eq!(verdicts["tooNew"], json!({"refused": "Message timestamp too new"}));
        sent.push((verdicts["id"].clone(), verdicts["timestamp"].as_i64().unwrap()));
    }
    // The same message with a new signature, so that a retry on the next day is not too old.
    assert_eq!(sent[0].0, sent[1].0);
    assert!(sent[0].1 < sent[1].1, "{sent:?}");
    receiver.kill().await.unwrap();
}

#[tokio::test]
async fn official_javascript_library_verifies_webhooks() {
    an_official_library_verifies_each_message("node").await;
}

#[tokio::test]
async fn official_python_library_verifies_webhooks() {
    an_official_library_verifies_each_message("python").await;
}

#[tokio::test]
async fn webhook_redirect_is_not_followed() {
    let (system, mut receiver) = (shared().await, Receiver::start(204).await);
    let there = receiver.url.clone();
    let lead_on = move || async move { axum::response::Redirect::temporary(&there) };
    let url = serve(Router::new().route("/", post(lead_on))).await;
    let id = tell(system, &url).await;
    let tried = |l: &str| {
        l.contains("webhook delivery failed; retrying later") && l.contains(&id) && l.contains("307")
    };
    eventually("it was tried", || system.log().lines().any(tried)).await;
    assert!(receiver.inbox.try_recv().is_err(), "the signed message went elsewhere");
}

#[tokio::test]
async fn slow_webhook_receiver_does_not_delay_others() {
    let (system, mut quick) = (shared().await, Receiver::start(204).await);
    let (asked, mut askings) = mpsc::unbounded_channel();
    let slow = move || {
        let asked = asked.clone();
        async move {
            asked.send(()).unwrap();
            std::future::pending::<()>().await;
        }
    };
    let url = serve(Router::new().route("/", post(slow))).await;
    // More than are delivered at once, of all receivers together.
    let waiting = join_all((0..40).map(|_| tell(system, &url))).await;
    tokio::time::timeout(PATIENCE, askings.recv()).await.expect("the slow one is not asked");
    let id = tell(system, &quick.url).await;
    assert_eq!(quick.next().await.1["data"]["jobId"], json!(id));
    let failed = |l: &&str| {
        l.contains("webhook delivery failed; retrying later") && waiting.iter().any(|id| l.contains(id))
    };
    let log = system.log();
    let failed: Vec<&str> = log.lines().filter(failed).collect();
    assert_eq!(failed, [""; 0], "the quick one came after the slow one's time was up");
    let mut asked = 1;
    while askings.try_recv().is_ok() {
        asked += 1;
    }
    assert!(asked <= 8, "{asked} deliveries to one receiver at once");
}
