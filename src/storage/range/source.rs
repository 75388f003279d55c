//! What can be read by ranges, and what every kind of source shares when it is opened.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::{sleep, timeout};

use crate::storage::download::{Patience, SLOW_WINDOW, STALL};
use crate::storage::error::StorageError;

/// Number of bytes that are read when a source is opened.
pub(super) const HEAD_BYTES: u64 = 256 << 10;

/// The bytes of one range, or the reason why the connection broke.
pub type RangeBody = BoxStream<'static, Result<Bytes, String>>;

/// One version of an input, of which any range can be read. Reading fails when the input has been replaced.
#[async_trait]
pub trait RangeSource: fmt::Debug + Send + Sync {
    /// The size of the input in bytes, at least 1.
    fn size(&self) -> u64;

    /// A strong entity tag with its quotes. It is the same for everybody who reads the same version of the input.
    fn etag(&self) -> &str;

    /// The first bytes of the input, which were read when it was opened: 256 KiB, or all of a smaller input.
    fn head(&self) -> Bytes;

    /// Requests the bytes of `range`, which is neither empty nor beyond the end. The body may end early.
    ///
    /// # Errors
    /// [`StorageError::Replaced`] if the input is another one now, and others as they are defined.
    async fn read(&self, range: Range<u64>) -> Result<RangeBody, StorageError>;

    /// The error for an interrupted connection to this source.
    fn broken(&self, why: String) -> StorageError;
}

/// Whether an input can be read by ranges.
#[derive(Clone, Debug)]
pub enum RangeSupport {
    /// It can be, from this source.
    Supported(Arc<dyn RangeSource>),
    /// It cannot be, for this reason: it must be downloaded as a whole.
    Unsupported(&'static str),
}

/// The value of a `Range` header.
pub(super) fn header(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

/// Repeats `attempt` while its error is retryable, with the patience of a download.
pub(super) async fn patiently<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let mut patience = Patience::default();
    loop {
        let error = match attempt().await {
            Err(error) if error.is_retryable() => error,
            done => return done,
        };
        let Some(pause) = patience.after_break(0, true) else { return Err(error) };
        tracing::warn!(%error, "could not open the input; trying again");
        sleep(pause).await;
    }
}

/// Reads the first bytes of an input of `total` bytes; the error is the reason why the connection broke.
pub(super) async fn collect_head(mut body: RangeBody, total: u64) -> Result<Bytes, String> {
    let wanted = usize::try_from(HEAD_BYTES.min(total)).unwrap_or(usize::MAX);
    let mut head = BytesMut::with_capacity(wanted);
    let collect = async {
        while head.len() < wanted {
            match timeout(STALL, body.next()).await {
                Err(_) => return Err(format!("no data received for {} s", STALL.as_secs())),
                Ok(None) => return Err(format!("the response ended at byte {} of {wanted}", head.len())),
                Ok(Some(Err(why))) => return Err(why),
                Ok(Some(Ok(chunk))) => head.extend_from_slice(&chunk[..chunk.len().min(wanted - head.len())]),
            }
        }
        Ok(())
    };
    let too_slow = || Err(format!("the first bytes took longer than {} s", SLOW_WINDOW.as_secs()));
    timeout(SLOW_WINDOW, collect).await.unwrap_or_else(|_| too_slow())?;
    Ok(head.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(chunks: &[Result<&'static [u8], &str>]) -> RangeBody {
        let chunks = chunks.iter().map(|chunk| chunk.map(Bytes::from_static).map_err(str::to_owned));
        futures::stream::iter(chunks.collect::<Vec<_>>()).boxed()
    }

    #[tokio::test]
    async fn collect_head_takes_what_was_requested_and_nothing_less() {
        assert_eq!(collect_head(body(&[Ok(b"ab"), Ok(b"cd")]), 3).await, Ok(Bytes::from_static(b"abc")));
        assert_eq!(collect_head(body(&[Ok(b"ab"), Err("reset")]), 3).await, Err("reset".to_owned()));
        let short = collect_head(body(&[Ok(b"ab")]), 3).await;
        assert_eq!(short, Err("the response ended at byte 2 of 3".to_owned()));
    }

    #[test]
    fn header_names_the_last_byte() {
        assert_eq!(header(&(0..1)), "bytes=0-0");
        assert_eq!(header(&(5..10)), "bytes=5-9");
    }

    #[tokio::test]
    async fn patiently_repeats_only_what_may_succeed_later() {
        let mut tries = 0;
        let late = patiently(async || {
            tries += 1;
            if tries < 2 {
                return Err(StorageError::Unavailable { what: "x".into(), why: "y".into() });
            }
            Ok(tries)
        });
        assert_eq!(late.await.unwrap(), 2);
        let mut tries = 0;
        let never = patiently::<()>(async || {
            tries += 1;
            Err(StorageError::NotFound { what: "x".into() })
        });
        assert!(matches!(never.await, Err(StorageError::NotFound { .. })));
        assert_eq!(tries, 1);
    }
}
