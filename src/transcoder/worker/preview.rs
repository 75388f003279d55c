//! Previews of the sound: what is played with a chunk that a viewer has come to, while the sound as a whole has not come that
//! far.
//!
//! A preview is no task of the queue: it has no lease, and no attempts are counted. It is made once a viewer waits for it,
//! and if it fails, the viewer's next request asks for it again. It never replaces a segment of the sound as a whole, which
//! replaces it. So it does not matter by whom it is made, nor how often. A worker that is busy with parts makes one at a
//! time beside them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::attempt::AttemptError;
use super::input::{self, Opened};
use super::split::StoredPlan;
use super::{Worker, scratch};
use crate::job::ObjectKey;
use crate::queue::AwaitedSound;
use crate::storage::{Bucket, PutCondition, content_type, key_below, layout};
use crate::transcoder::disk;
use crate::transcoder::split::{self, PartRequest};

/// Maximum duration of the encode of a preview. It mostly takes less than a second.
const DEADLINE: Duration = Duration::from_secs(60);
/// Number of segments that are stored at the same time.
const UPLOADS: usize = 4;

impl Worker {
    /// Makes the previews that viewers wait for, one after the other, until the parts have ended.
    pub(super) async fn make_previews(&self, stop: &CancellationToken, parts_have_ended: &CancellationToken) {
        let (mut bell, limit) = (None, self.queue.policy().bell_wait);
        loop {
            let awaited = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = parts_have_ended.cancelled() => return,
                awaited = self.wait_for(&mut bell, limit, async |queue| queue.wait_for_awaited_sound(limit).await) => awaited,
            };
            let Some(sound) = awaited.flatten() else { continue };
            let (job, chunk) = (sound.split.job, sound.chunk);
            let made = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                made = self.make_preview(&sound, stop) => made,
            };
            match made {
                Ok(segments) => {
                    tracing::info!(%job, chunk, segments, worker = %self.id, "stored the sound around a viewer's chunk");
                }
                Err(AttemptError::Failed(failure)) => {
                    tracing::warn!(%job, chunk, %failure, "could not encode the sound around a viewer's chunk; viewers wait for the sound as a whole");
                }
                Err(_) => {}
            }
        }
    }

    /// Encodes and stores the sound that is played with a chunk, if it is not there. Returns the number of segments that
    /// were stored.
    async fn make_preview(
        &self,
        sound: &AwaitedSound,
        cancel: &CancellationToken,
    ) -> Result<usize, AttemptError> {
        let AwaitedSound { split, chunk, ref spec, ref plan } = *sound;
        let StoredPlan { etag, plan } = StoredPlan::read(Some(plan))?;
        let prefix = layout::attempt_prefix(split)?;
        if self.are_stored(&prefix, &split::sound_played_with(chunk, &plan)).await? {
            return Ok(0);
        }
        let connections = input::connections(&self.config);
        let opened =
            self.inputs.open(&self.storage, &self.fetcher, split.job, &spec.input, connections).await?;
        // Its parts fail for the same reason.
        let Opened::Input(input) = opened else { return Ok(0) };
        input.check_version(&etag)?;
        let folder = scratch::folder(&self.config.scratch)
            .map_err(|e| disk::trouble("make a folder for the sound around a chunk", &e))?;
        let out_dir = folder.path().join("out");
        let files = split::encode_sound_around(
            chunk,
            &PartRequest {
                plan: &plan,
                input: input.media(),
                out_dir: &out_dir,
                disk_bytes: scratch::share_of_a_part(&self.config),
                stall_timeout: self.config.stall_timeout,
                deadline: DEADLINE,
                is_urgent: true,
                cancel,
                sink: None,
            },
        )
        .await?;
        let count = files.len();
        let store = |file: PathBuf| self.store_preview(&prefix, &out_dir, file);
        stream::iter(files).map(store).buffer_unordered(UPLOADS).try_collect::<()>().await?;
        Ok(count)
    }

    async fn are_stored(&self, prefix: &ObjectKey, files: &[PathBuf]) -> Result<bool, AttemptError> {
        for file in files {
            if self.storage.head(Bucket::Output, &key_below(prefix, file)?).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stores a segment of a preview, unless that of the sound as a whole is there.
    async fn store_preview(
        &self,
        prefix: &ObjectKey,
        folder: &Path,
        file: PathBuf,
    ) -> Result<(), AttemptError> {
        let bytes = tokio::fs::read(folder.join(&file))
            .await
            .map_err(|e| disk::trouble("read a segment of the sound", &e))?;
        let key = key_below(prefix, &file)?;
        let kind = content_type(key.as_str());
        self.storage.put_if(PutCondition::Absent, Bucket::Output, &key, bytes, kind).await?;
        Ok(())
    }
}
