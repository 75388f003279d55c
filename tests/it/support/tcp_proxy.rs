//! A TCP proxy in front of a server: it can lead new connections elsewhere, lose an answer, and go silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// The next answer to a call is lost, and its connection with it.
    loses: Arc<AtomicBool>,
}

impl TcpProxy {
    /// A proxy in front of the server at this port. It ends with the test's runtime.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (leads_to, target) = watch::channel(server);
        let (silences, silenced) = watch::channel(0);
        let loses = Arc::new(AtomicBool::new(false));
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

    /// Loses the next answer, and the connection with it.
    pub fn lose_answer(&self) {
        self.loses.store(true, Ordering::SeqCst);
    }

    /// Whether the answer that is to be lost was not sent yet.
    pub fn will_lose(&self) -> bool {
        self.loses.load(Ordering::SeqCst)
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    loses: Arc<AtomicBool>,
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
                if read == 0 || loses.swap(false, Ordering::SeqCst) {
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
