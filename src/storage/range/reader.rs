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
use super::window::{BLOCK, block_of, window};
use crate::storage::download::{Patience, SLOW_WINDOW, STALL, too_slow};
use crate::storage::error::StorageError;

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
    current: Option<Window>,
    /// The window after the current one.
    next: Option<Window>,
}

impl Reading {
    /// The next bytes, at most a block, or `None` at the end of the range.
    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        while self.at < self.end {
            let Some(current) = &mut self.current else {
                let kept = lock(&self.reader.blocks).get(block_of(self.at));
                match kept {
                    // A window that was requested ahead has its blocks in order, and ends where they do.
                    Some(block) if self.next.is_none() => return Ok(Some(self.cut(&block))),
                    _ => {
                        let next = self.next.take();
                        self.current = next.or_else(|| self.request(self.at));
                    }
                }
                continue;
            };
            if self.at >= current.range.end {
                self.current = None;
                continue;
            }
            let after = current.range.end;
            let is_half_taken =
                (self.at - current.range.start).saturating_mul(2) >= after - current.range.start;
            if self.next.is_none() && is_half_taken && after < self.end {
                self.next = self.reader.request(after, self.at - self.from, self.end);
            }
            match current.blocks.recv().await {
                Some(block) => return Ok(Some(self.cut(&block?))),
                None => return Err(self.reader.source.broken("reading it was aborted".to_owned())),
            }
        }
        Ok(None)
    }

    fn request(&self, at: u64) -> Option<Window> {
        self.reader.request(at, self.at - self.from, self.end)
    }

    /// The wanted part of the block that contains the next byte.
    fn cut(&mut self, block: &Bytes) -> Bytes {
        let start = block_of(self.at);
        let index = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX).min(block.len());
        let part = block.slice(index(self.at)..index(self.end));
        self.at += part.len() as u64;
        self.reader.bytes_served.fetch_add(part.len() as u64, Ordering::Relaxed);
        part
    }
}
