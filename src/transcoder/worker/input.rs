//! The input of a split job, which FFmpeg reads by ranges. It is opened once for all parts of a job that a worker
//! encodes, so that they share the container's index.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::config::WorkerConfig;
use crate::job::{Failure, FailureCode, Input, InputLimits, JobId, Ladder, Preset};
use crate::storage::fetch::Fetcher;
use crate::storage::range::{RangeServer, RangeSupport};
use crate::storage::{Bucket, Storage, StorageError};
use crate::transcoder::copied;
use crate::transcoder::input::MediaInput;
use crate::transcoder::probe::{self, Probe};

/// The maximum number of connections of FFmpeg and ffprobe to an open input: two for each run, for a seek. There are up to
/// two runs for each part, and one for a preview of the sound.
pub(super) const fn connections(config: &WorkerConfig) -> usize {
    4 * (config.chunks + 1) + 4
}

/// An input that FFmpeg can read.
pub(crate) struct OpenInput {
    server: RangeServer,
    size: u64,
    etag: String,
    head: Bytes,
    failure: OnceLock<Failure>,
}

/// The outcome of opening an input.
pub(crate) enum Opened {
    Input(Arc<OpenInput>),
    /// It cannot be read by ranges, for this reason.
    Whole(&'static str),
}

/// The input that was opened last.
#[derive(Default)]
pub(crate) struct OpenInputs(Mutex<Option<(JobId, Arc<OpenInput>)>>);

impl OpenInputs {
    /// Opens the input of a job, unless it is open. It serves at most this number of connections at a time.
    pub(crate) async fn open(
        &self,
        storage: &Storage,
        fetcher: &Fetcher,
        job: JobId,
        input: &Input,
        connections: usize,
    ) -> Result<Opened, Failure> {
        // Parts that begin at the same time wait here for the one that opens it.
        let mut last = self.0.lock().await;
        if let Some((of, open)) = last.as_ref()
            && *of == job
            && open.check_complete().is_ok()
        {
            return Ok(Opened::Input(Arc::clone(open)));
        }
        let source = match input {
            Input::Key(key) => storage.open_ranges(Bucket::Input, key).await?,
            Input::Url(url) => fetcher.open_ranges(url).await?,
        };
        let source = match source {
            RangeSupport::Supported(source) => source,
            RangeSupport::Unsupported(why) => return Ok(Opened::Whole(why)),
        };
        let (size, etag, head) = (source.size(), source.etag().to_owned(), source.head());
        let server = RangeServer::start(source, connections).map_err(|e| {
            Failure::new(FailureCode::Worker, format!("cannot listen on the loopback interface: {e}"))
        })?;
        let open = Arc::new(OpenInput { server, size, etag, head, failure: OnceLock::new() });
        *last = Some((job, Arc::clone(&open)));
        Ok(Opened::Input(open))
    }

    /// Closes the input of a job that no part is encoded of any more, so that an idle worker holds no connection.
    pub(crate) async fn close(&self) {
        if let Some((job, open)) = self.0.lock().await.take() {
            let counts = open.server.counts();
            tracing::debug!(
                %job, size = open.size, read = counts.bytes_read, requests = counts.requests, served = counts.bytes_served,
                "closed the input"
            );
        }
    }
}

impl OpenInput {
    /// The input for FFmpeg.
    pub(crate) const fn media(&self) -> MediaInput<'_> {
        MediaInput::Loopback(self.server.url())
    }

    /// The properties of the video, as far as these renditions depend on them.
    pub(crate) async fn probe(
        &self,
        limits: &InputLimits,
        preset: Preset,
        ladder: &Ladder,
    ) -> Result<Probe, Failure> {
        let source = probe::probe_loopback(self.server.url(), self.size, &self.head, limits).await?;
        Ok(copied::with_keyframes(source, self.media(), preset, ladder).await)
    }

    /// The size in bytes.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The entity tag, which is that of one version of the input.
    pub(crate) fn etag(&self) -> &str {
        &self.etag
    }

    /// The entity tag without quotes, which is that of one version of the input.
    pub(crate) fn version(&self) -> &str {
        self.etag.trim_matches('"')
    }

    /// Checks that everything could be read so far. FFmpeg takes an input that breaks off for its end, and succeeds; what
    /// several parts read at the same time all counts as broken.
    pub(crate) fn check_complete(&self) -> Result<(), Failure> {
        if let Some(error) = self.server.take_failure() {
            // The first failure stays.
            let _ = self.failure.set(error.into());
        }
        self.failure.get().cloned().map_or(Ok(()), Err)
    }

    /// Checks that this is the version of the input that the job was planned for.
    pub(crate) fn check_version(&self, version: &str) -> Result<(), Failure> {
        // A plan contains the tag with its quotes.
        if self.version() == version.trim_matches('"') {
            return Ok(());
        }
        Err(StorageError::OtherVersion.into())
    }
}
