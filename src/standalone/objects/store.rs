//! The store: the folder with the files of bytes, and the index that describes them.

use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use tokio_util::task::TaskTracker;

use super::blobs::{BlobId, Blobs, Draft, Hold};
use super::error::OpenError;
use super::events::Events;
use super::index::{Freed, Index};
use super::record::Object;
use super::{Buckets, internal, old};

/// Parts of an upload that was not completed are removed at the next start after this time. (R2 removes them after a
/// week.)
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The objects, and the queue for messages about them.
#[derive(Clone)]
pub(super) struct Store {
    pub index: Index,
    pub blobs: Blobs,
    pub events: Events,
    tasks: TaskTracker,
}

/// An object with its files, which are protected from removal while this exists.
pub(super) struct Found {
    pub object: Object,
    pub files: Vec<(BlobId, u64)>,
    pub hold: Hold,
}

impl Store {
    /// Opens the folder, and removes what a crash or an abandoned upload left there.
    pub(crate) fn open(
        dir: &Path,
        buckets: &Buckets,
        events: Events,
        tasks: TaskTracker,
    ) -> Result<Self, OpenError> {
        fs::create_dir_all(dir)?;
        // Neither name can be that of a bucket: earlier versions stored the objects of each bucket in a folder with
        // its name.
        let now = now();
        let index = Index::open(&dir.join("index.redb"), [&buckets.input, &buckets.output], now)?;
        let store = Self { index, blobs: Blobs::open(dir.join("_data"))?, events, tasks };
        for bucket in [&buckets.input, &buckets.output] {
            old::import(dir, bucket, &store.index, &store.blobs)?;
        }
        store.clean(now).map_err(OpenError::Read)?;
        Ok(store)
    }

    fn clean(&self, now: u64) -> S3Result<()> {
        let stale = u64::try_from(STALE.as_millis()).unwrap_or(u64::MAX);
        for (bucket, key, id) in self.index.uploads_before(now.saturating_sub(stale))? {
            let Freed(files) = self.index.abort_upload(&bucket, &key, &id)?;
            self.blobs.remove(&files);
        }
        let removed = self.blobs.remove_leftovers(&self.index.named_files()?).map_err(internal)?;
        if removed > 0 {
            tracing::info!(files = removed, "removed files of interrupted writes");
        }
        Ok(())
    }

    /// Finds an object.
    pub(crate) async fn find(&self, bucket: &str, key: &str) -> S3Result<Found> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.blocking(move |store| {
            let look_up = || {
                let object = store.index.object(&bucket, &key)?;
                let object =
                    object.ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))?;
                let files = store.index.files(&object)?;
                Ok::<_, S3Error>((object, files))
            };
            let ids =
                |(_, files): &(Object, Vec<(BlobId, u64)>)| files.iter().map(|(blob, _)| *blob).collect();
            let ((object, files), hold) = store.blobs.hold(look_up, ids)?;
            Ok(Found { object, files, hold })
        })
        .await
    }

    /// Applies a change to the index. The files written for it are kept, and those that it no longer names are
    /// removed.
    pub(crate) async fn commit<T: Send + 'static>(
        &self,
        drafts: Vec<Draft>,
        change: impl FnOnce(&Index) -> S3Result<(T, Freed)> + Send + 'static,
    ) -> S3Result<T> {
        self.blocking(move |store| match change(&store.index) {
            Ok((done, Freed(files))) => {
                drafts.into_iter().for_each(Draft::keep);
                store.blobs.remove(&files);
                Ok(done)
            }
            Err(error) => {
                if *error.code() == S3ErrorCode::InternalError {
                    // It is unknown whether the change is on the disk: the next start cleans up.
                    drafts.into_iter().for_each(Draft::keep);
                }
                Err(error)
            }
        })
        .await
    }

    /// Runs a blocking disk operation on a thread where it delays nothing else.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(done) => done,
            Err(error) => Err(internal(io::Error::other(error))),
        }
    }

    /// Runs to completion even if the client disconnects: nothing may interrupt the steps from storing the object to
    /// sending its message.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = S3Result<T>> + Send + 'static,
    ) -> S3Result<T> {
        match self.tasks.spawn(work).await {
            Ok(done) => done,
            Err(error) => Err(internal(io::Error::other(error))),
        }
    }
}

/// The current time in milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
