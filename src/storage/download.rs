//! Downloads bytes into a file: with bounded size and memory, resumed after an interrupted connection, and
//! cancellable.

use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _, BufWriter};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::StorageError;
use crate::job::space::Space;

/// The maximum size of a file.
#[derive(Clone, Copy, Debug)]
pub struct DownloadLimits {
    /// Maximum number of bytes.
    pub max_bytes: u64,
    /// The disk of the file, if its free space is known.
    pub space: Option<Space>,
}

impl From<u64> for DownloadLimits {
    fn from(max_bytes: u64) -> Self {
        Self { max_bytes, space: None }
    }
}

impl DownloadLimits {
    /// Checks whether this number of bytes is permitted.
    fn check(&self, bytes: u64) -> Result<(), StorageError> {
        if bytes > self.max_bytes {
            return Err(StorageError::TooLarge { limit: self.max_bytes });
        }
        self.space.map_or(Ok(()), |space| space.check(bytes)).map_err(Into::into)
    }

    /// Explains why writing `to` failed after `bytes` bytes.
    fn failed(&self, to: &Path, bytes: u64, error: io::Error) -> StorageError {
        match (self.space, error.kind()) {
            (Some(space), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) => {
                space.full(bytes).into()
            }
            _ => StorageError::disk("write", to)(error),
        }
    }
}

/// Receives the number of bytes transferred so far. The number decreases when a transfer starts over.
#[derive(Clone)]
pub struct Progress(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl Progress {
    /// Calls `tell` with the number.
    pub fn new(tell: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Ignores the number.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    pub(super) fn tell(&self, bytes: u64) {
        if let Some(tell) = &self.0 {
            tell(bytes);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Where to resume after an interruption, and what must not have changed since.
#[derive(Clone, Debug)]
pub(super) struct Resume {
    pub offset: u64,
    pub etag: String,
}

/// A response whose body is still to be read.
pub(super) struct OpenedSource {
    /// The position of its first byte in the whole.
    pub starts_at: u64,
    /// The size of the whole in bytes, if known.
    pub total: Option<u64>,
    /// A strong entity tag. Without it an interrupted transfer starts over.
    pub etag: Option<String>,
    /// The bytes, or the reason why the connection broke.
    pub body: BoxStream<'static, Result<Bytes, String>>,
}

/// A source of bytes.
pub(super) trait Source: Sync {
    /// Requests all bytes, or the rest after an interruption. A response that starts at zero is always valid; one
    /// that starts elsewhere only if it was requested.
    fn open(
        &self,
        resume: Option<&Resume>,
    ) -> impl Future<Output = Result<OpenedSource, StorageError>> + Send;

    /// The error for an interrupted connection to this source.
    fn broken(&self, why: String) -> StorageError;
}

/// Maximum number of consecutive interruptions without progress between them.
const MAX_BREAKS: u32 = 5;
/// Maximum number of times that the transfer starts over from the first byte.
const MAX_RESTARTS: u32 = 3;
/// Number of bytes that count as progress.
const HEADWAY: u64 = 1 << 20;
/// Time without any byte after which the connection counts as broken.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// Minimum rate of a source over [`SLOW_WINDOW`], bytes per second.
const SLOWEST: u64 = 10_000;
/// Time over which the rate of a source is measured.
pub(super) const SLOW_WINDOW: Duration = Duration::from_secs(120);
const BUFFER: usize = 1 << 20;

/// Decides how to continue after an interruption. Pure, and every transfer ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Patience {
    breaks: u32,
    restarts: u32,
}

impl Patience {
    /// How long to wait before the next attempt, or `None` to give up.
    pub(super) fn after_break(&mut self, headway: u64, resumable: bool) -> Option<Duration> {
        if resumable && headway >= HEADWAY {
            self.breaks = 0;
        }
        if !resumable && headway > 0 {
            self.restarts += 1;
        }
        self.breaks += 1;
        let over = self.breaks > MAX_BREAKS || self.restarts > MAX_RESTARTS;
        (!over).then(|| Duration::from_millis(100 << self.breaks.min(6)))
    }
}

/// Writes all bytes of `source` to the file `to`, within `limits`, and returns their number. If the source announces
/// its size and the file does not fit, the transfer is refused before it starts. On failure the file is removed.
pub(super) async fn save(
    source: &impl Source,
    to: &Path,
    limits: DownloadLimits,
    on_bytes: &Progress,
    cancel: &CancellationToken,
) -> Result<u64, StorageError> {
    let work = async {
        let file = File::create(to).await.map_err(|e| limits.failed(to, 0, e))?;
        let mut sink = Sink { file: BufWriter::with_capacity(BUFFER, file), to, limits, have: 0, came: 0 };
        sink.fill(source, on_bytes).await?;
        sink.file.flush().await.map_err(|e| limits.failed(to, sink.have, e))?;
        Ok(sink.have)
    };
    let done = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(StorageError::Cancelled),
        done = work => done,
    };
    if done.is_err() {
        // The caller removes the whole folder anyway; this only frees the space sooner.
        let _ = tokio::fs::remove_file(to).await;
    }
    done
}

/// Whether a resumed response belongs to a different version of the file. Not every server honours the condition of
/// the request.
fn changed(resume: Option<&Resume>, opened: &OpenedSource) -> bool {
    resume.is_some_and(|resume| opened.starts_at > 0 && opened.etag.as_ref() != Some(&resume.etag))
}

struct Sink<'a> {
    file: BufWriter<File>,
    to: &'a Path,
    limits: DownloadLimits,
    /// Number of bytes in the file.
    have: u64,
    /// Number of bytes of the current response.
    came: u64,
}

impl Sink<'_> {
    async fn fill(&mut self, source: &impl Source, on_bytes: &Progress) -> Result<(), StorageError> {
        let mut patience = Patience::default();
        let mut etag: Option<String> = None;
        loop {
            self.came = 0;
            let resume = match &etag {
                Some(etag) if self.have > 0 => Some(Resume { offset: self.have, etag: etag.clone() }),
                _ => None,
            };
            let broken = match source.open(resume.as_ref()).await {
                Ok(opened) if changed(resume.as_ref(), &opened) => {
                    etag = None;
                    source.broken("the file has changed in the meantime".into())
                }
                Ok(opened) => {
                    etag.clone_from(&opened.etag);
                    match self.take(source, opened, on_bytes).await {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if !broken.is_retryable() {
                return Err(broken);
            }
            let Some(pause) = patience.after_break(self.came, etag.is_some()) else {
                return Err(broken);
            };
            tracing::warn!(bytes = self.have, error = %broken, "the transfer was interrupted; resuming");
            sleep(pause).await;
        }
    }

    /// Reads one response until it ends or the connection breaks.
    async fn take(
        &mut self,
        source: &impl Source,
        mut opened: OpenedSource,
        on_bytes: &Progress,
    ) -> Result<(), StorageError> {
        if let Some(total) = opened.total {
            self.limits.check(total)?;
        }
        if opened.starts_at != self.have {
            if opened.starts_at != 0 {
                return Err(source.broken("the response starts at another position than requested".into()));
            }
            self.start_over().await?;
        }
        let mut window = (Instant::now(), self.came);
        loop {
            if let Some(why) = too_slow(window.0.elapsed(), self.came - window.1) {
                return Err(source.broken(why));
            }
            if window.0.elapsed() >= SLOW_WINDOW {
                window = (Instant::now(), self.came);
            }
            let chunk = match timeout(STALL, opened.body.next()).await {
                Err(_) => return Err(source.broken(format!("no data received for {} s", STALL.as_secs()))),
                Ok(None) => break,
                Ok(Some(Err(why))) => return Err(source.broken(why)),
                Ok(Some(Ok(chunk))) => chunk,
            };
            let have = self.have.saturating_add(chunk.len() as u64);
            self.limits.check(have)?;
            self.file.write_all(&chunk).await.map_err(|e| self.limits.failed(self.to, have, e))?;
            self.have = have;
            self.came += chunk.len() as u64;
            on_bytes.tell(have);
        }
        match opened.total {
            Some(total) if total != self.have => {
                Err(source.broken(format!("the response ended at byte {} of {total}", self.have)))
            }
            _ => Ok(()),
        }
    }

    async fn start_over(&mut self) -> Result<(), StorageError> {
        let disk = || StorageError::disk("write", self.to);
        self.file.flush().await.map_err(disk())?;
        self.file.get_mut().set_len(0).await.map_err(disk())?;
        self.file.rewind().await.map_err(disk())?;
        self.have = 0;
        Ok(())
    }
}

/// Why to give up on a source that sent `bytes` in this time. Without a minimum rate, a source that sends a byte now
/// and then would occupy a worker until the deadline of the job.
pub(super) fn too_slow(elapsed: Duration, bytes: u64) -> Option<String> {
    let least = SLOWEST * SLOW_WINDOW.as_secs();
    (elapsed >= SLOW_WINDOW && bytes < least)
        .then(|| format!("the transfer was slower than {} kB a second", SLOWEST / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::space::{Outputs, needed};
    use std::sync::Mutex;

    /// The behaviour of a source when it is opened: the bytes of one response, then its end or an interruption.
    struct Answer {
        from: u64,
        etag: Option<&'static str>,
        bytes: &'static [u8],
        breaks: bool,
    }

    /// Returns the prepared responses one after the other, repeats the last one, and records the requests.
    struct Script {
        total: Option<u64>,
        answers: Vec<Answer>,
        asked: Mutex<Vec<Option<u64>>>,
    }

    impl Script {
        fn new(total: Option<u64>, answers: Vec<Answer>) -> Self {
            Self { total, answers, asked: Mutex::default() }
        }

        fn asked(&self) -> Vec<Option<u64>> {
            self.asked.lock().unwrap().clone()
        }
    }

    impl Source for Script {
        async fn open(&self, resume: Option<&Resume>) -> Result<OpenedSource, StorageError> {
            let mut asked = self.asked.lock().unwrap();
            let answer = &self.answers[asked.len().min(self.answers.len() - 1)];
            asked.push(resume.map(|r| r.offset));
            let mut items = vec![Ok(Bytes::from_static(answer.bytes))];
            if answer.breaks {
                items.push(Err("reset".to_owned()));
            }
            Ok(OpenedSource {
                starts_at: answer.from,
                total: self.total,
                etag: answer.etag.map(str::to_owned),
                body: futures::stream::iter(items).boxed(),
            })
        }

        fn broken(&self, why: String) -> StorageError {
            StorageError::Unavailable { what: "x".into(), why }
        }
    }

    #[test]
    fn too_slow_rejects_a_trickle_but_not_a_slow_connection() {
        let s = Duration::from_secs;
        assert_eq!(too_slow(s(119), 0), None);
        assert!(too_slow(s(120), 1_199_999).is_some());
        assert_eq!(too_slow(s(120), 1_200_000), None);
    }

    const fn answer(from: u64, etag: Option<&'static str>, bytes: &'static [u8], breaks: bool) -> Answer {
        Answer { from, etag, bytes, breaks }
    }

    async fn run(
        script: &Script,
        limits: impl Into<DownloadLimits>,
    ) -> (Result<u64, StorageError>, Option<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        let done = save(script, &to, limits.into(), &Progress::none(), &CancellationToken::new()).await;
        (done, std::fs::read(&to).ok())
    }

    #[tokio::test]
    async fn save_resumes_after_an_interruption() {
        let script = Script::new(
            Some(6),
            vec![answer(0, Some("a"), b"abc", true), answer(3, Some("a"), b"def", false)],
        );
        let (done, file) = run(&script, 100).await;
        assert_eq!(done.unwrap(), 6);
        assert_eq!(file.unwrap(), b"abcdef");
        assert_eq!(script.asked(), [None, Some(3)]);
    }

    #[tokio::test]
    async fn save_starts_over_when_the_object_has_changed() {
        let script = Script::new(
            None,
            vec![answer(0, Some("a"), b"abcdef", true), answer(0, Some("b"), b"xyz", false)],
        );
        let (done, file) = run(&script, 100).await;
        assert_eq!(done.unwrap(), 3);
        assert_eq!(file.unwrap(), b"xyz");
    }

    #[tokio::test]
    async fn save_does_not_append_the_rest_of_another_object() {
        let script = Script::new(
            Some(6),
            vec![
                answer(0, Some("a"), b"abc", true),
                answer(3, Some("b"), b"xyz", false),
                answer(0, Some("b"), b"uvwxyz", false),
            ],
        );
        assert_eq!(run(&script, 100).await.1.unwrap(), b"uvwxyz");
        assert_eq!(script.asked(), [None, Some(3), None]);
    }

    #[tokio::test]
    async fn save_without_etag_starts_over_and_finally_fails() {
        let script = Script::new(Some(6), vec![answer(0, None, b"abc", true)]);
        let (done, file) = run(&script, 100).await;
        assert!(matches!(done, Err(StorageError::Unavailable { .. })));
        assert_eq!(file, None);
        assert_eq!(script.asked(), [None; 4]);
    }

    #[tokio::test]
    async fn save_resumes_a_response_that_ends_early() {
        let script = Script::new(
            Some(6),
            vec![answer(0, Some("a"), b"abc", false), answer(3, Some("a"), b"def", false)],
        );
        assert_eq!(run(&script, 100).await.1.unwrap(), b"abcdef");
    }

    #[tokio::test]
    async fn save_rejects_too_large_with_and_without_a_length() {
        let script = Script::new(Some(101), vec![answer(0, None, b"abc", false)]);
        assert!(matches!(run(&script, 100).await, (Err(StorageError::TooLarge { limit: 100 }), None)));
        let script = Script::new(None, vec![answer(0, None, b"abc", false)]);
        assert!(matches!(run(&script, 2).await, (Err(StorageError::TooLarge { limit: 2 }), None)));
        let script = Script::new(None, vec![answer(0, None, b"abc", false)]);
        assert_eq!(run(&script, 3).await.0.unwrap(), 3);
    }

    #[tokio::test]
    async fn save_rejects_what_does_not_fit_before_writing() {
        let free = 40 << 20;
        let limits =
            DownloadLimits { max_bytes: 1 << 30, space: Some(Space { free, outputs: Outputs::Copy }) };
        // The size is announced.
        let script = Script::new(Some(10 << 20), vec![answer(0, None, b"abc", false)]);
        let (done, file) = run(&script, limits).await;
        let Err(StorageError::DiskFull(full)) = done else { panic!("{done:?}") };
        assert_eq!((full.needed, full.free, file), (55_574_528, Some(free), None));
        // The size is not announced: the download continues until the space is used up.
        let space = Space { free: needed(2, 2), outputs: Outputs::Copy };
        let script = Script::new(None, vec![answer(0, None, b"abc", false)]);
        let done = run(&script, DownloadLimits { space: Some(space), ..limits }).await.0;
        assert!(matches!(done, Err(StorageError::DiskFull(_))), "{done:?}");
        let space = Space { free: needed(3, 3), ..space };
        assert_eq!(run(&script, DownloadLimits { space: Some(space), ..limits }).await.0.unwrap(), 3);
    }

    /// `/dev/full` is a disk without free space.
    #[tokio::test]
    async fn save_distinguishes_a_full_disk_from_other_errors() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        let space = Some(Space { free: 1 << 40, outputs: Outputs::Copy });
        let script = Script::new(Some(3), vec![answer(0, None, b"abc", false)]);
        let save = async |to: &Path| {
            let limits = DownloadLimits { max_bytes: 100, space };
            save(&script, to, limits, &Progress::none(), &CancellationToken::new()).await
        };
        std::os::unix::fs::symlink("/dev/full", &to).unwrap();
        let done = save(&to).await;
        let Err(StorageError::DiskFull(full)) = done else { panic!("{done:?}") };
        assert_eq!((full.needed, full.free), (needed(3, 3), Some(1 << 40)));
        let nowhere = save(&dir.path().join("no/file")).await;
        assert!(matches!(nowhere, Err(StorageError::Disk { .. })), "{nowhere:?}");
    }

    #[test]
    fn patience_gives_up_only_without_progress() {
        let mut stuck = Patience::default();
        let pauses: Vec<_> = std::iter::from_fn(|| stuck.after_break(0, true)).collect();
        assert_eq!(pauses.len(), 5);
        assert!(pauses.is_sorted());
        let mut moving = Patience::default();
        assert!((0..1000).all(|_| moving.after_break(HEADWAY, true).is_some()));
        let mut restarting = Patience::default();
        let tries = std::iter::from_fn(|| restarting.after_break(1 << 40, false)).count();
        assert_eq!(tries, 3);
    }
}
