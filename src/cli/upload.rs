//! Uploads a file to storage.
//!
//! The duration depends on the connection: an upload is aborted if it makes no progress, not if it takes long.

use std::error::Error as StdError;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Body, Response, StatusCode, header};
use tokio::fs::File;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;
use url::Url;

use super::CliError;
use crate::storage::MediaType;

/// The http or https address that a user names instead of a file.
pub(super) fn web_address(input: &str) -> Option<Url> {
    let url: Url = input.parse().ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// Opens a file to upload. Also returns its size in bytes.
pub(super) async fn open(path: &Path) -> Result<(File, u64), CliError> {
    let cannot = |e: std::io::Error| CliError::Local(format!("cannot read {}: {e}", path.display()));
    let file = File::open(path).await.map_err(|error| match path.to_str() {
        Some(text) if text.contains("://") => {
            CliError::Local(format!("{text} is neither a file nor an http or https address"))
        }
        _ => cannot(error),
    })?;
    let about = file.metadata().await.map_err(cannot)?;
    if !about.is_file() {
        return Err(CliError::Local(format!("{} is not a file", path.display())));
    }
    if about.len() == 0 {
        return Err(CliError::Local(format!("{} is empty", path.display())));
    }
    Ok((file, about.len()))
}

/// A client for uploads to storage. It has no read timeout, because that counts from the start of the request instead of
/// its last byte, and would abort every upload that takes longer.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    builder().build()
}

/// What all clients of the command line have in common.
pub(super) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .user_agent(concat!("tcoder/", env!("CARGO_PKG_VERSION")))
}

/// Time limits of an upload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadTimeouts {
    /// Maximum time without progress.
    pub stall: Duration,
    /// Maximum time from the last byte to the response, in which the system also sends its buffers.
    pub answer: Duration,
}

impl Default for UploadTimeouts {
    fn default() -> Self {
        Self { stall: Duration::from_secs(60), answer: Duration::from_secs(300) }
    }
}

/// The file was not uploaded. No variant contains the address, because it gives access to the bucket.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PutError {
    /// The upload makes no progress.
    #[error("no progress for {} s, after {taken} of {size} bytes", after.as_secs())]
    Stalled {
        /// Number of bytes sent so far.
        taken: u64,
        /// The size of the file in bytes.
        size: u64,
        /// The time without progress.
        after: Duration,
    },
    /// All bytes were sent, but there was no response.
    #[error("storage did not answer within {} s of the last byte", .0.as_secs())]
    Silent(Duration),
    /// The connection broke, or the file could not be read.
    #[error("{0}")]
    Broken(String),
    /// Storage rejected the upload.
    #[error("storage refused it ({0})")]
    Refused(StatusCode),
}

/// What is uploaded.
pub(crate) struct FileToPut<'a, R> {
    /// The bytes.
    pub bytes: R,
    /// Their number.
    pub size: u64,
    /// The content type, if the address was signed for one.
    pub media_type: Option<&'a MediaType>,
}

/// PUTs a file. Calls `on_bytes` for every piece that is sent, and returns the entity tag.
pub(crate) async fn put(
    http: &reqwest::Client,
    url: Url,
    file: FileToPut<'_, impl AsyncRead + Send + 'static>,
    patience: UploadTimeouts,
    on_bytes: impl Fn(u64) + Send + 'static,
) -> Result<Option<String>, PutError> {
    let FileToPut { bytes, size, media_type } = file;
    let (progress, taken) = watch::channel(0);
    let stream = ReaderStream::with_capacity(bytes, 256 * 1024).inspect(move |piece| {
        if let Ok(piece) = piece {
            let more = piece.len() as u64;
            progress.send_modify(|sum| *sum += more);
            on_bytes(more);
        }
    });
    let mut request = http.put(url).header(header::CONTENT_LENGTH, size).body(Body::wrap_stream(stream));
    if let Some(media_type) = media_type {
        request = request.header(header::CONTENT_TYPE, media_type.as_str());
    }
    let answer = answer(request, taken, size, patience).await?;
    if !answer.status().is_success() {
        return Err(PutError::Refused(answer.status()));
    }
    Ok(answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned))
}

async fn answer(
    request: reqwest::RequestBuilder,
    mut taken: watch::Receiver<u64>,
    size: u64,
    patience: UploadTimeouts,
) -> Result<Response, PutError> {
    let broken = |error: reqwest::Error| PutError::Broken(root_cause(error));
    let mut sending = std::pin::pin!(request.send());
    loop {
        let so_far = *taken.borrow_and_update();
        if so_far >= size {
            break;
        }
        tokio::select! {
            sent = &mut sending => return sent.map_err(broken),
            moved = timeout(patience.stall, taken.changed()) => match moved {
                Ok(Ok(())) => {}
                // The body was dropped: there is a response, or the connection broke.
                Ok(Err(_)) => break,
                Err(_) => return Err(PutError::Stalled { taken: so_far, size, after: patience.stall }),
            },
        }
    }
    match timeout(patience.answer, sending).await {
        Ok(sent) => sent.map_err(broken),
        Err(_) => Err(PutError::Silent(patience.answer)),
    }
}

/// The innermost cause of an error, such as `connection reset by peer`.
pub(crate) fn root_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn StdError = &error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    /// More than the buffers of the system hold unread.
    const SIZE: u64 = 32 << 20;

    /// A listener whose connections buffer little unread data.
    fn listener() -> TcpListener {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(1).unwrap()
    }

    async fn upload(
        listener: &TcpListener,
        patience: UploadTimeouts,
        receive: impl AsyncFnOnce(&mut TcpStream),
    ) -> Result<Option<String>, PutError> {
        crate::net::install_crypto();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        let url = format!("http://{}/input/film.mp4?X-Amz-Signature=hush", listener.local_addr().unwrap());
        let file = FileToPut { bytes: File::from(file), size: SIZE, media_type: None };
        let sent = put(&http, url.parse().unwrap(), file, patience, |_| {});
        let received = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            receive(&mut stream).await;
            // Held open until the sender has decided.
            stream
        };
        tokio::pin!(sent);
        let mut held = None;
        tokio::select! {
            sent = &mut sent => return sent,
            stream = received => held.replace(stream),
        };
        let sent = sent.await;
        drop(held);
        sent
    }

    async fn read_head(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    }

    async fn read_all(stream: &mut TcpStream, pause: Duration) {
        read_head(stream).await;
        let mut piece = vec![0; 1 << 20];
        let mut left = SIZE;
        while left > 0 {
            let want = piece.len().min(usize::try_from(left).unwrap());
            left -= stream.read_exact(&mut piece[..want]).await.unwrap() as u64;
            tokio::time::sleep(pause).await;
        }
    }

    const LONG: Duration = Duration::from_secs(120);
    const SHORT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn put_over_a_slow_connection_succeeds() {
        let stall = Duration::from_millis(1500);
        let sent = upload(&listener(), UploadTimeouts { stall, answer: LONG }, async |stream| {
            // Longer than the limit without progress, but it makes progress.
            read_all(stream, Duration::from_millis(70)).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        })
        .await;
        assert_eq!(sent, Ok(None));
    }

    #[tokio::test]
    async fn put_without_progress_is_aborted() {
        let sent = upload(&listener(), UploadTimeouts { stall: SHORT, answer: LONG }, async |stream| {
            read_head(stream).await
        })
        .await;
        let error = sent.unwrap_err();
        assert!(matches!(error, PutError::Stalled { taken, .. } if taken < SIZE), "{error}");
    }

    #[tokio::test]
    async fn put_without_a_response_is_aborted() {
        let patience = UploadTimeouts { stall: LONG, answer: SHORT };
        let sent = upload(&listener(), patience, async |stream| read_all(stream, Duration::ZERO).await).await;
        assert_eq!(sent, Err(PutError::Silent(SHORT)));
    }

    #[tokio::test]
    async fn put_error_names_the_cause_without_the_address() {
        let listener = listener();
        let patience = UploadTimeouts { stall: LONG, answer: LONG };
        let sent = upload(&listener, patience, async |stream| {
            read_head(stream).await;
            stream.shutdown().await.unwrap();
        })
        .await;
        let error = sent.unwrap_err().to_string();
        assert!(!error.contains("hush") && !error.contains("127.0.0.1") && error.len() > 5, "{error}");

        let closed = listener.local_addr().unwrap();
        drop(listener);
        crate::net::install_crypto();
        let url: Url = format!("http://{closed}/?X-Amz-Signature=hush").parse().unwrap();
        let error = reqwest::Client::builder().no_proxy().build().unwrap().put(url).send().await.unwrap_err();
        let error = root_cause(error);
        assert!(error.to_lowercase().contains("connection refused") && !error.contains("hush"), "{error}");
    }
}
