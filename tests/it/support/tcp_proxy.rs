//! A TCP proxy in front of a server: it can lead new connections elsewhere, lose an answer, and go silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A port that leads to one server and later to another. Connections that are open stay where they are, as behind a
/// name that is resolved anew, or a proxy that balances connections.
pub struct TcpProxy {
    pub port: u16,
    leads_to: watch::Sender<u16>,
    /// How often it went silent.
    silences: watch::Sender<u64>,
    /// How many of the next answers are lost, each with its connection.
    loses: Arc<AtomicU32>,
}

impl TcpProxy {
    /// A proxy in front of the server at this port. It ends with the test's runtime.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (leads_to, target) = watch::channel(server);
        let (silences, silenced) = watch::channel(0);
        let loses = Arc::new(AtomicU32::new(0));
        let lossy = Arc::clone(&loses);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let port = *target.borrow();
                // Where no server listens, the client's connection is closed.
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                tokio::spawn(carry(client, server, Arc::clone(&lossy), silenced.clone()));
            }
        });
        Self { port, leads_to, silences, loses }
    }

    /// Leads new connections to the server at this port.
    pub fn lead_to(&self, server: u16) {
        self.leads_to.send_replace(server);
    }

    /// Forwards nothing more on the connections that are open, and closes none of them: they are half open.
    pub fn silence(&self) {
        self.silences.send_modify(|times| *times += 1);
    }

    /// Loses this many of the next answers, each with its connection.
    pub fn lose_answers(&self, count: u32) {
        self.loses.store(count, Ordering::SeqCst);
    }

    /// How many of the answers that are to be lost were not sent yet.
    pub fn will_lose(&self) -> u32 {
        self.loses.load(Ordering::SeqCst)
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    loses: Arc<AtomicU32>,
    mut silences: watch::Receiver<u64>,
) {
    let before = *silences.borrow();
    let carries = async {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let answers = async {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let read = from_server.read(&mut buffer).await.unwrap_or(0);
                let take = |left: u32| left.checked_sub(1);
                let is_lost = loses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
                if read == 0 || is_lost {
                    return;
                }
                if to_client.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
            () = answers => {}
        }
    };
    let is_silent = tokio::select! {
        () = carries => false,
        silence = silences.wait_for(|times| *times > before) => silence.is_ok(),
    };
    if is_silent {
        // Both sides stay connected to this process, whose kernel acknowledges what they send.
        std::future::pending::<()>().await;
    }
}
