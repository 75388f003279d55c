//! Writes the bodies of requests to files, and streams files to responses.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::TRANSFER_ENCODING;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::blobs::{BlobId, Blobs, Draft, Hold};
use super::checksum::{Algorithm, Digests, Hasher};
use super::internal;

/// A request is aborted after this time without any byte of its body.
const STALL: Duration = Duration::from_secs(60);
/// Number of bytes that are read from or written to a file at once.
const CHUNK: usize = 256 * 1024;
/// The maximum size of a request's body that S3 and R2 accept: 5 GiB.
const LARGEST: u64 = 5 << 30;

/// The size of a body according to the headers: a request with neither length nor encoding has none (RFC 9112, 6.3).
pub(super) fn announced_length(length: Option<i64>, headers: &HeaderMap) -> S3Result<u64> {
    // A body in aws-chunked encoding is longer than its contents.
    let decoded =
        headers.get("x-amz-decoded-content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    let length = match decoded.or(length) {
        None if headers.contains_key(TRANSFER_ENCODING) => return Err(s3_error!(MissingContentLength)),
        None => 0,
        Some(n) => u64::try_from(n).map_err(|_| s3_error!(InvalidRequest))?,
    };
    if length > LARGEST {
        return Err(s3_error!(EntityTooLarge, "one request carries 5 GiB at most; upload in parts"));
    }
    Ok(length)
}

/// Writes a body of this length to a new file, which is on the disk when this returns.
pub(super) async fn receive(
    blobs: &Blobs,
    body: Option<StreamingBlob>,
    length: u64,
    algorithm: Option<Algorithm>,
) -> S3Result<(Draft, Digests)> {
    let incoming = body.into_iter().map(|body| whole(body, length));
    write(blobs, futures::stream::iter(incoming).flatten(), algorithm).await
}

/// Writes these bytes to a new file, which is on the disk when this returns.
pub(super) async fn write(
    blobs: &Blobs,
    incoming: impl Stream<Item = S3Result<Bytes>>,
    algorithm: Option<Algorithm>,
) -> S3Result<(Draft, Digests)> {
    let mut incoming = std::pin::pin!(incoming);
    let blobs = blobs.clone();
    let mut state = on_disk(move || Ok((blobs.create()?, Hasher::new(algorithm)))).await?;
    loop {
        let (mut chunks, mut size, mut ended) = (Vec::new(), 0, false);
        while size < CHUNK {
            match incoming.next().await {
                Some(bytes) => {
                    let bytes = bytes?;
                    size += bytes.len();
                    chunks.push(bytes);
                }
                None => {
                    ended = true;
                    break;
                }
            }
        }
        let (mut draft, mut hasher) = state;
        state = on_disk(move || {
            for bytes in chunks {
                hasher.update(&bytes);
                draft.append(&bytes)?;
            }
            if ended {
                draft.sync()?;
            }
            Ok((draft, hasher))
        })
        .await?;
        if ended {
            return Ok((state.0, state.1.finish()));
        }
    }
}

/// The body, with an error if it is shorter than announced: a broken connection looks like the end of the body.
fn whole(body: StreamingBlob, length: u64) -> impl Stream<Item = S3Result<Bytes>> {
    futures::stream::try_unfold((body, length), |(mut body, left)| async move {
        match timeout(STALL, body.next()).await {
            Err(_) => {
                Err(s3_error!(RequestTimeout, "no byte of the body came for {} seconds", STALL.as_secs()))
            }
            Ok(None) if left == 0 => Ok(None),
            Ok(None) => Err(s3_error!(IncompleteBody)),
            Ok(Some(Err(error))) => Err(body_error(&*error)),
            Ok(Some(Ok(bytes))) => match left.checked_sub(bytes.len() as u64) {
                Some(left) => Ok(Some((bytes, (body, left)))),
                None => Err(s3_error!(IncompleteBody)),
            },
        }
    })
}

/// s3s verifies signatures over a body while it is read, and does not export the types of its errors.
fn body_error(error: &(dyn std::error::Error + Send + Sync)) -> S3Error {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
        let mut error = S3Error::with_message(
            code,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        );
        error.set_status_code(axum::http::StatusCode::BAD_REQUEST);
        error
    } else if text.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch)
    } else {
        s3_error!(IncompleteBody)
    }
}

/// A range of the bytes in these files, as a stream. The first file is open when this returns.
pub(super) async fn read(
    blobs: &Blobs,
    hold: Hold,
    files: Vec<(BlobId, u64)>,
    range: Range<u64>,
) -> S3Result<impl Stream<Item = io::Result<Bytes>> + Send + Sync + use<>> {
    let mut pieces: Vec<(PathBuf, u64, u64)> = Vec::new();
    let mut start = 0;
    for (blob, size) in files {
        let (from, to) = (range.start.max(start), range.end.min(start + size));
        if from < to {
            pieces.push((blobs.path(blob), from - start, to - from));
        }
        start += size;
    }
    let mut pieces = pieces.into_iter();
    let first = match pieces.next() {
        Some(piece) => Some(open(piece).await.map_err(internal)?),
        None => None,
    };
    let rest = futures::stream::iter(pieces).then(open);
    let bytes = futures::stream::iter(first.map(Ok)).chain(rest).try_flatten();
    // The files are protected until the last byte is sent.
    Ok(bytes.inspect(move |_| {
        let _ = &hold;
    }))
}

async fn open(
    (path, start, length): (PathBuf, u64, u64),
) -> io::Result<ReaderStream<tokio::io::Take<tokio::fs::File>>> {
    let mut file = tokio::fs::File::open(path).await?;
    if start > 0 {
        file.seek(io::SeekFrom::Start(start)).await?;
    }
    Ok(ReaderStream::with_capacity(file.take(length), CHUNK))
}

/// Runs a blocking disk operation on a thread where it delays nothing else.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> S3Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(internal),
        Err(error) => Err(internal(io::Error::other(error))),
    }
}
