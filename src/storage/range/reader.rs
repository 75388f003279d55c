//! Reads an input for the connections of a server: windows ahead of each connection, through shared blocks, resumed
//! after interruptions.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::blocks::{Assembly, Blocks};
use super::source::RangeSource;
use super::window::{BLOCK, block_of, is_next_due, window};
use crate::storage::download::{Patience, SLOW_WINDOW, STALL, too_slow};
use crate::storage::error::StorageError;

/// Number of bytes that a connection is given at once: what it holds besides is what FFmpeg may never read.
const PIECE: usize = 16 << 10;

/// What was read and served so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeCounts {
    /// Number of requests for the input, with the one that opened it.
    pub requests: u64,
    /// Number of bytes of the input that were received.
    pub bytes_read: u64,
    /// Number of bytes that were passed to the connections of the server.
    pub bytes_served: u64,
}

/// An input and what its readers share.
#[derive(Debug)]
pub(super) struct Reader {
    source: Arc<dyn RangeSource>,
    blocks: Mutex<Blocks>,
    failure: Mutex<Option<StorageError>>,
    requests: AtomicU64,
    bytes_read: AtomicU64,
    bytes_served: AtomicU64,
}

impl Reader {
    pub(super) fn new(source: Arc<dyn RangeSource>) -> Self {
        let head = source.head();
        Self {
            blocks: Mutex::new(Blocks::starting_with(&head, source.size())),
            failure: Mutex::default(),
            requests: AtomicU64::new(1),
            bytes_read: AtomicU64::new(head.len() as u64),
            bytes_served: AtomicU64::new(0),
            source,
        }
    }

    pub(super) fn source(&self) -> &dyn RangeSource {
        &*self.source
    }

    pub(super) fn counts(&self) -> RangeCounts {
        RangeCounts {
            requests: self.requests.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_served: self.bytes_served.load(Ordering::Relaxed),
        }
    }

    pub(super) fn take_failure(&self) -> Option<StorageError> {
        lock(&self.failure).take()
    }

    /// The bytes of `range`, which is not beyond the end of the input. Nothing is read that the stream is not asked
    /// for, except one window ahead; when it is dropped, reading stops.
    pub(super) fn stream(
        self: Arc<Self>,
        range: Range<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let reading = Reading {
            reader: self,
            from: range.start,
            at: range.start,
            end: range.end,
            block: Bytes::new(),
            current: None,
            next: None,
        };
        stream::try_unfold(reading, |mut reading| async {
            match reading.next().await {
                Ok(bytes) => Ok(bytes.map(|bytes| (bytes, reading))),
                Err(error) => {
                    tracing::warn!(%error, "could not read a range of the input");
                    let told = io::Error::other("the input could not be read");
                    // The first one is the cause of the others.
                    lock(&reading.reader.failure).get_or_insert(error);
                    Err(told)
                }
            }
        })
    }

    /// Requests the window at `at`, unless its first block is kept.
    fn request(self: &Arc<Self>, at: u64, read: u64, end: u64) -> Option<Window> {
        let range = {
            let blocks = lock(&self.blocks);
            if blocks.contains(block_of(at)) {
                return None;
            }
            window(at, read, end, self.source.size(), |block| blocks.contains(block))
        };
        // There is room for every block, so that the response is read at once however slowly the connection takes it.
        let room = usize::try_from((range.end - range.start).div_ceil(BLOCK)).unwrap_or(1);
        let (sender, blocks) = mpsc::channel(room);
        let task = Arc::clone(self).read(range.clone(), sender);
        Some(Window { range, blocks, _task: AbortOnDropHandle::new(tokio::spawn(task)) })
    }

    /// Reads a window and sends its blocks, or the error that ended it.
    async fn read(self: Arc<Self>, range: Range<u64>, sender: mpsc::Sender<Result<Bytes, StorageError>>) {
        let mut patience = Patience::default();
        let mut assembly = Assembly::new(range);
        loop {
            let before = assembly.rest().start;
            let Err(error) = self.read_once(&mut assembly, &sender).await else { return };
            let came = assembly.rest().start - before;
            let pause = if error.is_retryable() { patience.after_break(came, true) } else { None };
            let Some(pause) = pause else {
                // If nobody receives it, nobody needs the window any more.
                let _ = sender.send(Err(error)).await;
                return;
            };
            tracing::warn!(bytes = assembly.rest().start, %error, "the transfer was interrupted; resuming");
            sleep(pause).await;
        }
    }

    /// Reads the rest of a window from one response.
    async fn read_once(
        &self,
        assembly: &mut Assembly,
        sender: &mpsc::Sender<Result<Bytes, StorageError>>,
    ) -> Result<(), StorageError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut body = self.source.read(assembly.rest()).await?;
        let mut since = (Instant::now(), 0);
        let mut came = 0;
        while !assembly.rest().is_empty() {
            if let Some(why) = too_slow(since.0.elapsed(), came - since.1) {
                return Err(self.source.broken(why));
            }
            if since.0.elapsed() >= SLOW_WINDOW {
                since = (Instant::now(), came);
            }
            let chunk = match timeout(STALL, body.next()).await {
                Err(_) => {
                    return Err(self.source.broken(format!("no data received for {} s", STALL.as_secs())));
                }
                Ok(None) => {
                    let Range { start, end } = assembly.rest();
                    let why = format!("the response ended at byte {start} of {end}");
                    return Err(self.source.broken(why));
                }
                Ok(Some(Err(why))) => return Err(self.source.broken(why)),
                Ok(Some(Ok(chunk))) => chunk,
            };
            came += chunk.len() as u64;
            self.bytes_read.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            for (at, block) in assembly.push(chunk) {
                lock(&self.blocks).keep(at, block.clone());
                // If nobody receives it, this task is about to be aborted.
                let _ = sender.send(Ok(block)).await;
            }
        }
        Ok(())
    }
}

/// A poisoned lock is as good as another: nothing is left half done under it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A window that is being read. Dropping it ends its request.
struct Window {
    range: Range<u64>,
    blocks: mpsc::Receiver<Result<Bytes, StorageError>>,
    _task: AbortOnDropHandle<()>,
}

/// A range that is being read by one connection.
struct Reading {
    reader: Arc<Reader>,
    from: u64,
    /// The position of the next byte.
    at: u64,
    end: u64,
    /// The rest of the block that contains the next byte.
    block: Bytes,
    current: Option<Window>,
    /// The window after the current one.
    next: Option<Window>,
}

impl Reading {
    /// The next bytes, or `None` at the end of the range.
    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.at >= self.end {
            return Ok(None);
        }
        self.request_ahead();
        while self.block.is_empty() {
            if self.current.as_ref().is_none_or(|current| self.at >= current.range.end) {
                self.current = self.next.take();
            }
            let block = if let Some(current) = &mut self.current {
                let aborted = || Err(self.reader.source.broken("reading it was aborted".to_owned()));
                current.blocks.recv().await.unwrap_or_else(aborted)?
            } else {
                let kept = lock(&self.reader.blocks).get(block_of(self.at));
                let Some(block) = kept else {
                    self.current = self.reader.request(self.at, self.at - self.from, self.end);
                    continue;
                };
                block
            };
            self.block = self.wanted_of(&block);
        }
        let piece = self.block.split_to(self.block.len().min(PIECE));
        self.at += piece.len() as u64;
        self.reader.bytes_served.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok(Some(piece))
    }

    /// Requests the next window if it is due, so that the connection need not wait for it.
    fn request_ahead(&mut self) {
        let Some(current) = &self.current else { return };
        let (after, read) = (current.range.end, self.at - self.from);
        if self.next.is_none() && after < self.end && is_next_due(&current.range, self.at, read) {
            self.next = self.reader.request(after, read, self.end);
        }
    }

    /// The wanted part of the block that contains the next byte.
    fn wanted_of(&self, block: &Bytes) -> Bytes {
        let start = block_of(self.at);
        let index = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX).min(block.len());
        block.slice(index(self.at)..index(self.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::range::source::{HEAD_BYTES, RangeBody};
    use tokio::sync::Notify;

    const SIZE: u64 = 8 << 20;

    /// Zeroes, and a record of the requests for them.
    #[derive(Debug, Default)]
    struct Zeroes {
        requests: Mutex<Vec<Range<u64>>>,
        /// The number of bytes after which each response breaks off, if it does.
        breaks_after: Option<u64>,
        /// Responses never end, and this is notified when one is dropped.
        dropped: Option<Arc<Notify>>,
        is_gone: bool,
    }

    struct NotifyOnDrop(Arc<Notify>);

    impl Drop for NotifyOnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    #[async_trait::async_trait]
    impl RangeSource for Zeroes {
        fn size(&self) -> u64 {
            SIZE
        }

        fn etag(&self) -> &str {
            "\"zeroes\""
        }

        fn head(&self) -> Bytes {
            Bytes::from(vec![0; usize::try_from(HEAD_BYTES).unwrap()])
        }

        async fn read(&self, range: Range<u64>) -> Result<RangeBody, StorageError> {
            self.requests.lock().unwrap().push(range.clone());
            if self.is_gone {
                return Err(StorageError::NotFound { what: "x".into() });
            }
            if let Some(dropped) = &self.dropped {
                let guard = NotifyOnDrop(Arc::clone(dropped));
                let silence = async move {
                    let _guard = guard;
                    std::future::pending().await
                };
                return Ok(stream::once(silence).boxed());
            }
            let length = (range.end - range.start).min(self.breaks_after.unwrap_or(u64::MAX));
            let bytes = Bytes::from(vec![0; usize::try_from(length).unwrap()]);
            Ok(stream::iter([Ok(bytes), Err("reset".to_owned())]).boxed())
        }

        fn broken(&self, why: String) -> StorageError {
            StorageError::Unavailable { what: "x".into(), why }
        }
    }

    fn reader(source: Zeroes) -> (Arc<Zeroes>, Arc<Reader>) {
        let source = Arc::new(source);
        let shared: Arc<dyn RangeSource> = source.clone();
        (source, Arc::new(Reader::new(shared)))
    }

    #[tokio::test]
    async fn stream_is_at_most_two_windows_ahead_and_reads_nothing_twice() {
        let (source, reader) = reader(Zeroes::default());
        let start = HEAD_BYTES + 5;
        let mut stream = Box::pin(Arc::clone(&reader).stream(start..SIZE));
        let mut at = start;
        while let Some(piece) = stream.next().await {
            at += piece.unwrap().len() as u64;
            // The last request may be that of a task which has not begun yet.
            let requested = source.requests.lock().unwrap().last().unwrap().end;
            let allowed = if at - start < 60_000 { BLOCK } else { 1 << 20 };
            assert!(requested <= at + allowed, "{requested} is requested at {at}");
        }
        assert_eq!(at, SIZE);
        let asked = source.requests.lock().unwrap().clone();
        assert!(asked.is_sorted_by(|a, b| a.end == b.start), "{asked:?}");
        let again = Arc::clone(&reader).stream(0..SIZE).map(|piece| piece.unwrap().len() as u64);
        assert_eq!(again.fold(0, async |sum, length| sum + length).await, SIZE);
        assert_eq!(source.requests.lock().unwrap().len(), asked.len());
        let counts = reader.counts();
        assert_eq!((counts.bytes_read, counts.bytes_served), (SIZE, 2 * SIZE - start));
        assert_eq!(counts.requests, 1 + asked.len() as u64);
    }

    #[tokio::test]
    async fn dropped_stream_ends_its_request() {
        let dropped = Arc::new(Notify::new());
        let (source, reader) = reader(Zeroes { dropped: Some(Arc::clone(&dropped)), ..Zeroes::default() });
        let mut stream = Box::pin(reader.stream(SIZE / 2..SIZE));
        while source.requests.lock().unwrap().is_empty() {
            assert!(timeout(std::time::Duration::from_millis(1), stream.next()).await.is_err());
        }
        drop(stream);
        timeout(STALL, dropped.notified()).await.expect("the request goes on");
    }

    #[tokio::test]
    async fn interrupted_window_is_resumed_at_the_next_byte() {
        let (source, reader) = reader(Zeroes { breaks_after: Some(40_000), ..Zeroes::default() });
        let end = HEAD_BYTES + BLOCK;
        let pieces = Arc::clone(&reader).stream(HEAD_BYTES..end).map(|piece| piece.unwrap().len() as u64);
        assert_eq!(pieces.fold(0, async |sum, length| sum + length).await, BLOCK);
        assert_eq!(*source.requests.lock().unwrap(), [HEAD_BYTES..end, HEAD_BYTES + 40_000..end]);
        assert!(reader.take_failure().is_none());
    }

    #[tokio::test]
    async fn failed_stream_ends_with_an_error_and_leaves_the_reason() {
        let (source, reader) = reader(Zeroes { is_gone: true, ..Zeroes::default() });
        let mut stream = Box::pin(Arc::clone(&reader).stream(HEAD_BYTES - 9..SIZE));
        assert_eq!(stream.next().await.unwrap().unwrap().len(), 9);
        assert!(stream.next().await.unwrap().is_err());
        assert_eq!(source.requests.lock().unwrap().len(), 1);
        assert!(matches!(reader.take_failure(), Some(StorageError::NotFound { .. })));
        assert!(reader.take_failure().is_none());
    }
}
