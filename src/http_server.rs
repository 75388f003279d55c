//! An HTTP/1 server, with TLS or without, and with limits: the number of connections, the time for a request's head, and the time that running
//! requests get at a shutdown.

mod tls;

use std::net::IpAddr;
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, ServiceExt as _};

pub(crate) use tls::{TlsError, acceptor};

use crate::keyed_semaphore::KeyedSemaphore;
use crate::net::client_network;

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLimits {
    /// Maximum number of connections; more wait until one is closed.
    pub connections: usize,
    /// Maximum number of them from one client with a public address; further ones are closed at once.
    pub connections_of_client: usize,
    /// The same from one address of a private network, which may be that of a proxy with many clients behind it.
    pub connections_of_proxy: usize,
    /// Maximum time from the connection, or from the last response on it, to the end of a request's head. A TLS handshake
    /// may take as long.
    pub head: Duration,
    /// Maximum time for running requests to finish when the server stops.
    pub grace: Duration,
    /// Maximum number of bytes of a response that a connection keeps before they are sent; `None` leaves it to hyper.
    pub buffer: Option<usize>,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_of_client: 128,
            connections_of_proxy: 384,
            head: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            buffer: None,
        }
    }
}

/// The address at the other end of a connection, among the extensions of each request on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub IpAddr);

/// Among the extensions of requests that came over TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverTls;

/// Where connections come in.
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Accepts connections, with TLS if there is an acceptor.
    pub(crate) const fn new(tcp: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        Self { tcp, tls }
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None }
    }
}

/// Serves `service` on `listener` until `stop` is cancelled, and returns when the last connection is closed.
pub(crate) async fn serve<S, B>(
    listener: impl Into<Listener>,
    service: S,
    limits: ServerLimits,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let Listener { tcp: listener, tls } = listener.into();
    let mut connections = JoinSet::new();
    let of_client = KeyedSemaphore::new(limits.connections_of_client);
    let of_proxy = KeyedSemaphore::new(limits.connections_of_proxy);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, peer)) => {
                    let permit = match client_network(peer.ip()) {
                        Some(client) => of_client.try_acquire(client),
                        None => of_proxy.try_acquire(peer.ip()),
                    };
                    let Some(permit) = permit else {
                        tracing::debug!(%peer, "a connection was closed, because its client has too many");
                        continue;
                    };
                    let (peer, is_tls) = (PeerAddress(peer.ip()), tls.is_some());
                    let service = service.clone().map_request(move |mut request: Request<Incoming>| {
                        request.extensions_mut().insert(peer);
                        if is_tls {
                            request.extensions_mut().insert(OverTls);
                        }
                        request
                    });
                    let connection = connection(stream, tls.clone(), service, limits, stop.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // The process has usually run out of file descriptors: a connection must be closed first.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    // Each connection ends within its grace period.
    while connections.join_next().await.is_some() {}
}

async fn connection<S, B>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    service: S,
    limits: ServerLimits,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    let Some(tls) = tls else { return exchange(stream, service, limits, stop).await };
    let handshake = timeout(limits.head, tls.accept(stream));
    match stop.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => exchange(stream, service, limits, stop).await,
        Some(Ok(Err(error))) => tracing::debug!(%error, "a TLS handshake failed"),
        Some(Err(_)) => tracing::debug!("a TLS handshake took too long"),
        None => {}
    }
}

/// Answers the requests on a connection.
async fn exchange<S, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    limits: ServerLimits,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head);
    if let Some(bytes) = limits.buffer {
        builder.http1().max_buf_size(bytes);
    }
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(limits.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use axum::{Extension, Router};
    use std::net::SocketAddr;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    async fn start(router: Router, limits: ServerLimits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        (address, stop.clone(), tokio::spawn(serve(listener, router, limits, stop)))
    }

    fn hello() -> Router {
        Router::new().route("/", get(|| async { "hello" }))
    }

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    async fn said(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        let all = timeout(Duration::from_secs(60), stream.read_to_string(&mut text));
        all.await.expect("the connection stays open").unwrap();
        text
    }

    #[tokio::test]
    async fn serve_closes_connections_with_an_incomplete_head() {
        let limits = ServerLimits { head: Duration::from_millis(100), ..ServerLimits::default() };
        let (address, stop, server) = start(hello(), limits).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        assert!(!said(&mut stream).await.contains("hello"));
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn serve_tells_handlers_the_address_of_the_peer() {
        let peer = |Extension(PeerAddress(peer)): Extension<PeerAddress>| async move { peer.to_string() };
        let router = Router::new().route("/", get(peer));
        let (address, stop, server) = start(router, ServerLimits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(ASK).await.unwrap();
        let answer = said(&mut stream).await;
        assert!(answer.ends_with("\r\n127.0.0.1"), "{answer}");
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn serve_delays_connections_beyond_the_limit() {
        let (address, stop, server) =
            start(hello(), ServerLimits { connections: 1, ..ServerLimits::default() }).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        // Half a response shows that the first connection was accepted.
        first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut piece = [0; 8];
        first.read_exact(&mut piece).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(ASK).await.unwrap();
        let early = timeout(Duration::from_millis(200), second.read_u8()).await;
        assert!(early.is_err(), "the second was answered while the first was open");
        drop(first);
        assert!(said(&mut second).await.contains("hello"));
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn serve_closes_connections_of_a_client_that_has_too_many() {
        let limits = ServerLimits { connections_of_proxy: 2, ..ServerLimits::default() };
        let (address, stop, server) = start(hello(), limits).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            // An answer shows that it was accepted.
            stream.read_exact(&mut [0; 8]).await.unwrap();
            open.push(stream);
        }
        let refused = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(ASK).await;
            let mut text = String::new();
            let all = timeout(Duration::from_secs(60), stream.read_to_string(&mut text)).await;
            // It may be reset while the request is under way.
            all.expect("the connection stays open").map_or(true, |_| text.is_empty())
        };
        assert!(refused().await);
        drop(open.pop());
        // The end of the other one is noticed a moment later.
        let answered = async { while refused().await {} };
        timeout(Duration::from_secs(60), answered).await.expect("its place is not given back");
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn serve_lets_running_requests_finish_within_the_grace_period() {
        for (grace, answered) in [(Duration::from_secs(60), true), (Duration::from_millis(50), false)] {
            let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (tell, wait) = (begun.clone(), go_on.clone());
            let handler = || async move {
                tell.notify_one();
                wait.notified().await;
                "hello"
            };
            let router = Router::new().route("/", get(handler));
            let (address, stop, server) =
                start(router, ServerLimits { grace, ..ServerLimits::default() }).await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(ASK).await.unwrap();
            begun.notified().await;
            stop.cancel();
            if answered {
                go_on.notify_one();
            }
            server.await.unwrap();
            assert_eq!(said(&mut stream).await.contains("hello"), answered);
        }
    }
}
