//! A TranscodeJob that is deleted while it is being submitted: nobody would cancel its job.

use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use super::{Site, has_phase};
use crate::support::clips::clip;
use crate::support::kube as cluster;
use crate::support::system::{self, PATIENCE};

/// A way to Redis that holds the first request with certain words back, until it is let through.
struct HeldRequest {
    url: String,
    is_held: watch::Sender<bool>,
    may_pass: watch::Sender<bool>,
}

impl HeldRequest {
    /// In front of the Redis at this address of a socket.
    async fn with(words: &str, redis: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (is_held, may_pass) = (watch::Sender::new(false), watch::Sender::new(false));
        let socket = redis.strip_prefix("redis+unix://").unwrap().to_owned();
        let (words, held, passes) = (words.to_owned(), is_held.clone(), may_pass.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&socket).await.unwrap();
                tokio::spawn(carry(client, server, words.clone(), held.clone(), passes.subscribe()));
            }
        });
        Self { url, is_held, may_pass }
    }

    async fn is_held(&self) {
        let mut held = self.is_held.subscribe();
        let waits = held.wait_for(|is| *is);
        tokio::time::timeout(PATIENCE, waits).await.expect("the request does not come").unwrap();
    }

    fn let_through(&self) {
        self.may_pass.send_replace(true);
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: UnixStream,
    words: String,
    held: watch::Sender<bool>,
    mut passes: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_client.read(&mut buffer).await.unwrap_or(0);
            if read == 0 {
                return;
            }
            if buffer[..read].windows(words.len()).any(|part| part == words.as_bytes()) {
                held.send_replace(true);
                if passes.wait_for(|may| *may).await.is_err() {
                    return;
                }
            }
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

#[tokio::test]
async fn job_that_is_deleted_while_it_is_submitted_is_not_submitted() {
    let site = Site::on(cluster::bare().await, system::shared().await, "deleted").await;
    let key = site.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"]});
    for is_made_anew in [false, true] {
        let first = site.make("film", spec.clone()).await;
        let id = first.uid().unwrap();
        let redis = HeldRequest::with(&id, &site.system.redis_url()).await;
        let controller = site.controller(&[("REDIS_URL", redis.url.as_str())]);
        // The controller asks for the job, and will submit it, because there is none.
        redis.is_held().await;
        site.jobs().delete("film", &DeleteParams::default()).await.unwrap();
        site.gone("film").await;
        if is_made_anew {
            site.make("film", spec.clone()).await;
        }
        redis.let_through();
        if is_made_anew {
            let second = site.until("film", "complete", |job| has_phase(job, "Complete")).await;
            assert_ne!(second.uid().unwrap(), id);
        }
        // It finishes what it has begun.
        let log = controller.stop().await;
        assert_eq!(site.system.get(&format!("/api/jobs/{id}")).await.status, 404, "{log}");
    }
}
