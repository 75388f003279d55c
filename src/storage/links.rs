//! Addresses at which a client reads outputs and writes inputs. They are made anew for every reader
//! and stored nowhere, since a presigned one is a secret with an end.

use std::time::Duration;

use url::Url;

use super::Bucket;
use super::presign::{PresignError, Presigner};
use crate::config::StorageConfig;
use crate::job::{Job, Millis, ObjectKey};

/// How long a presigned upload address is good.
pub const UPLOAD_WINDOW: Duration = Duration::from_secs(3600);
/// How long a presigned download address is good.
const DOWNLOAD_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Until when an upload address that is made now is good.
#[must_use]
pub fn upload_ends(now: Millis) -> Millis {
    now.plus(i64::try_from(UPLOAD_WINDOW.as_millis()).unwrap_or(i64::MAX))
}

/// Makes addresses of objects.
#[derive(Clone, Debug)]
pub struct Links {
    presigner: Presigner,
    public_url: Option<Url>,
}

impl Links {
    /// For the buckets of `config`.
    ///
    /// # Errors
    /// When the endpoint is no http(s) address.
    pub fn new(config: &StorageConfig) -> Result<Self, PresignError> {
        Ok(Self { presigner: Presigner::new(config)?, public_url: config.public_url.clone() })
    }

    /// Where a client PUTs its video, good for [`UPLOAD_WINDOW`].
    ///
    /// # Errors
    /// When the clock is out of this world.
    pub fn upload(&self, key: &ObjectKey, now: Millis) -> Result<Url, PresignError> {
        self.presigner.put(Bucket::Input, key, now, UPLOAD_WINDOW)
    }

    /// Where a client POSTs to begin an upload in parts.
    ///
    /// # Errors
    /// When the clock is out of this world.
    pub fn upload_start(&self, key: &ObjectKey, now: Millis) -> Result<Url, PresignError> {
        self.presigner.start_parts(Bucket::Input, key, now, UPLOAD_WINDOW)
    }

    /// Where a client PUTs a part.
    ///
    /// # Errors
    /// When the clock is out of this world.
    pub fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: u16,
        now: Millis,
    ) -> Result<Url, PresignError> {
        self.presigner.put_part(Bucket::Input, key, upload, number, now, UPLOAD_WINDOW)
    }

    /// Where a client POSTs the list of its parts, to complete the upload; where it DELETEs, to give it up.
    ///
    /// # Errors
    /// When the clock is out of this world.
    pub fn upload_end(&self, key: &ObjectKey, upload: &str, now: Millis) -> Result<(Url, Url), PresignError> {
        self.presigner.end_parts(Bucket::Input, key, upload, now, UPLOAD_WINDOW)
    }

    /// Where a client reads an output: below the bucket's public address where it has one, else
    /// presigned. Segments of HLS lie beside their playlist, so HLS plays only from a public address.
    ///
    /// # Errors
    /// When the clock is out of this world.
    pub fn output(&self, key: &ObjectKey, now: Millis) -> Result<Url, PresignError> {
        match self.public(key) {
            Some(url) => Ok(url),
            None => self.presigner.get(Bucket::Output, key, now, DOWNLOAD_WINDOW, None),
        }
    }

    /// Where anybody can read an output for as long as it stands there; nothing where the bucket has no
    /// public address.
    #[must_use]
    pub fn public(&self, key: &ObjectKey) -> Option<Url> {
        let mut url = self.public_url.clone()?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(key.as_str().split('/'));
        }
        Some(url)
    }

    /// The job with the addresses of its outputs filled in.
    ///
    /// # Errors
    /// When the clock is out of this world.
    pub fn fill(&self, mut job: Job, now: Millis) -> Result<Job, PresignError> {
        if let Some(result) = &mut job.result {
            for output in &mut result.outputs {
                output.url = Some(self.output(&output.key, now)?.into());
            }
            if let Some(master) = &mut result.master {
                master.url = Some(self.output(&master.key, now)?.into());
            }
            if let Some(poster) = &mut result.poster {
                poster.url = Some(self.output(&poster.key, now)?.into());
            }
            if let Some(storyboard) = &mut result.storyboard {
                storyboard.url = Some(self.output(&storyboard.key, now)?.into());
                storyboard.image_url = Some(self.output(&storyboard.image_key, now)?.into());
            }
        }
        Ok(job)
    }
}

/// The wall clock. Signatures are checked against the wall clock of the storage.
pub fn wall_clock() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;

    fn links(public: Option<&'static str>) -> Links {
        let env = Env::of(move |name| match name {
            "R2_ENDPOINT" => Some("http://127.0.0.1:9000".into()),
            "R2_PUBLIC_URL" => public.map(str::to_owned),
            "R2_INPUT_BUCKET_NAME" => Some("input".into()),
            "R2_OUTPUT_BUCKET_NAME" => Some("output".into()),
            _ => Some("some-text".into()),
        });
        Links::new(&StorageConfig::read(&env).unwrap()).unwrap()
    }

    #[test]
    fn a_public_bucket_is_read_without_a_signature() {
        let key: ObjectKey = "outputs/a b/720p.mp4".parse().unwrap();
        for base in ["https://cdn.example.com", "https://cdn.example.com/"] {
            let url = links(Some(base)).output(&key, Millis(0)).unwrap();
            assert_eq!(url.as_str(), "https://cdn.example.com/outputs/a%20b/720p.mp4");
        }
        let url = links(Some("https://h.example/base/")).output(&key, Millis(0)).unwrap();
        assert_eq!(url.path(), "/base/outputs/a%20b/720p.mp4");
    }

    #[test]
    fn a_private_one_by_a_presigned_address() {
        let key: ObjectKey = "outputs/720p.mp4".parse().unwrap();
        let url = links(None).output(&key, Millis(1_700_000_000_000)).unwrap();
        assert_eq!(url.path(), "/output/outputs/720p.mp4");
        assert!(url.query().unwrap().contains("X-Amz-Signature="));
        let url = links(None).upload(&key, Millis(1_700_000_000_000)).unwrap();
        assert!(url.path().starts_with("/input/") && url.query().unwrap().contains("X-Amz-Expires=3600"));
    }
}
