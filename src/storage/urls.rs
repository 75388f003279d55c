//! The addresses at which clients read outputs and upload inputs. They are made for every reader and never stored,
//! because a signed address is a secret that expires.
//!
//! | the output bucket | a file | a file that refers to others, such as a playlist |
//! |---|---|---|
//! | has a public address | below it | below it |
//! | is private | presigned | below the API ([`media`](super::media)); none if the address of the API is not known |

use std::time::Duration;

use url::Url;

use super::media::{MediaRefused, MediaSigner, media_end};
use super::presign::{ObjectRequest, PresignError, Presigner};
use super::{Bucket, MediaType, layout, refers_to_others};
use crate::config::{BaseUrl, StorageConfig};
use crate::job::{AttemptId, Job, Millis, ObjectKey};

/// Validity of a presigned upload address.
pub const UPLOAD_WINDOW: Duration = Duration::from_secs(3600);
/// Validity of a presigned download address.
const DOWNLOAD_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// The expiry of an upload address that is made at `now`.
#[must_use]
pub fn upload_ends(now: Millis) -> Millis {
    now.plus(i64::try_from(UPLOAD_WINDOW.as_millis()).unwrap_or(i64::MAX))
}

/// Minimum validity of the target of a redirect, even if the requested address expires earlier.
const LEAST_REDIRECT: Duration = Duration::from_secs(60);

/// Makes the addresses of objects.
#[derive(Clone, Debug)]
pub struct UrlSigner {
    presigner: Presigner,
    public_url: Option<Url>,
    media: MediaSigner,
    api: Option<BaseUrl>,
}

/// An address that its reader may keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The address.
    pub url: Url,
    /// When it expires; `None` if it does not expire.
    pub expires_at: Option<Millis>,
}

impl UrlSigner {
    /// A signer for the buckets of `config`. `api` is the public address of the API, if that is configured.
    ///
    /// # Errors
    /// If the endpoint is not an http or https address.
    pub fn new(config: &StorageConfig, api: Option<BaseUrl>) -> Result<Self, PresignError> {
        let (presigner, media) = (Presigner::new(config)?, MediaSigner::new(config));
        Ok(Self { presigner, public_url: config.public_url.clone(), media, api })
    }

    /// The address for the PUT of a video, valid for [`UPLOAD_WINDOW`]. If the `size` or the type is known, storage
    /// accepts no other.
    ///
    /// # Errors
    /// If the clock shows an impossible date.
    pub fn upload(
        &self,
        key: &ObjectKey,
        size: Option<u64>,
        media_type: Option<&MediaType>,
        now: Millis,
    ) -> Result<Url, PresignError> {
        self.sign_upload(ObjectRequest::Put { size, media_type }, key, now)
    }

    /// The address for the POST that starts a multipart upload. If the type is known, storage accepts no other.
    ///
    /// # Errors
    /// If the clock shows an impossible date.
    pub fn upload_start(
        &self,
        key: &ObjectKey,
        media_type: Option<&MediaType>,
        now: Millis,
    ) -> Result<Url, PresignError> {
        self.sign_upload(ObjectRequest::CreateMultipart { media_type }, key, now)
    }

    /// The address for the PUT of a part. If its `size` is known, storage accepts no other.
    ///
    /// # Errors
    /// If the clock shows an impossible date.
    pub fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: u16,
        size: Option<u64>,
        now: Millis,
    ) -> Result<Url, PresignError> {
        self.sign_upload(ObjectRequest::PutPart { upload, number, size }, key, now)
    }

    /// The addresses for the POST that completes a multipart upload, and for the DELETE that aborts it.
    ///
    /// # Errors
    /// If the clock shows an impossible date.
    pub fn upload_end(&self, key: &ObjectKey, upload: &str, now: Millis) -> Result<(Url, Url), PresignError> {
        let complete = self.sign_upload(ObjectRequest::CompleteMultipart { upload }, key, now)?;
        Ok((complete, self.sign_upload(ObjectRequest::AbortMultipart { upload }, key, now)?))
    }

    fn sign_upload(
        &self,
        request: ObjectRequest<'_>,
        key: &ObjectKey,
        now: Millis,
    ) -> Result<Url, PresignError> {
        self.presigner.sign(request, Bucket::Input, key, now, UPLOAD_WINDOW)
    }

    /// The address of an output for a client. `origin` is the address of the API in the client's request, which is
    /// used if none is configured. `None` if the output refers to other files and neither address is known: an
    /// address that works only for that file would be useless.
    ///
    /// # Errors
    /// If the clock shows an impossible date.
    pub fn output(
        &self,
        key: &ObjectKey,
        now: Millis,
        origin: Option<&BaseUrl>,
    ) -> Result<Option<Url>, PresignError> {
        if let Some(url) = self.public(key) {
            return Ok(Some(url));
        }
        if refers_to_others(key) {
            let api = self.api.as_ref().or(origin);
            return Ok(api.and_then(|api| self.media.sign(api, key, media_end(now))));
        }
        self.presigner.sign(ObjectRequest::Get, Bucket::Output, key, now, DOWNLOAD_WINDOW).map(Some)
    }

    /// Verifies a token for this attempt and returns its expiry.
    ///
    /// # Errors
    /// If the token is invalid, belongs to another attempt, or has expired.
    pub fn check(&self, token: &str, attempt: AttemptId, now: Millis) -> Result<Millis, MediaRefused> {
        self.media.check(token, attempt, now)
    }

    /// The target of a redirect for a request for an output that is permitted until `until`.
    ///
    /// # Errors
    /// If the clock shows an impossible date.
    pub fn redirect(
        &self,
        key: &ObjectKey,
        is_head: bool,
        now: Millis,
        until: Millis,
    ) -> Result<Url, PresignError> {
        if let Some(url) = self.public(key) {
            return Ok(url);
        }
        let left = u64::try_from(until.0.saturating_sub(now.0)).unwrap_or(0);
        let expires = Duration::from_millis(left).max(LEAST_REDIRECT);
        let request = if is_head { ObjectRequest::Head } else { ObjectRequest::Get };
        self.presigner.sign(request, Bucket::Output, key, now, expires)
    }

    /// The address of an output for readers that do not request it from the API: below the bucket's public address,
    /// or below the API's public address, if that is configured, valid until `end`.
    #[must_use]
    pub fn published(&self, key: &ObjectKey, end: Millis) -> Option<Published> {
        if let Some(url) = self.public(key) {
            return Some(Published { url, expires_at: None });
        }
        let url = self.media.sign(self.api.as_ref()?, key, end)?;
        Some(Published { url, expires_at: Some(end) })
    }

    /// The address of the master playlist of a job that is still encoded, valid until `end`. It is below the API's public
    /// address, if that is configured, because only the API waits for segments.
    #[must_use]
    pub fn published_early(&self, key: &ObjectKey, end: Millis) -> Option<Published> {
        let url = self.media.sign(self.api.as_ref()?, key, end)?;
        Some(Published { url, expires_at: Some(end) })
    }

    /// The permanent public address of an output, or `None` if the bucket has no public address.
    #[must_use]
    fn public(&self, key: &ObjectKey) -> Option<Url> {
        let mut url = self.public_url.clone()?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(key.as_str().split('/'));
        }
        Some(url)
    }

    /// The address of the master playlist of a job that is encoded in parts, before it has ended. It is below the API
    /// if that is known, even if the bucket is public: only the API waits for segments that are not encoded yet.
    fn early_entry(&self, job: &Job, now: Millis, origin: Option<&BaseUrl>) -> Option<Url> {
        let key = layout::early_entry(job)?;
        match self.api.as_ref().or(origin) {
            Some(api) => self.media.sign(api, &key, media_end(now)),
            None => self.public(&key),
        }
    }

    /// Fills in the addresses of a job's outputs; for `origin` see [`output`](Self::output).
    ///
    /// # Errors
    /// If the clock shows an impossible date.
    pub fn with_urls(
        &self,
        mut job: Job,
        now: Millis,
        origin: Option<&BaseUrl>,
    ) -> Result<Job, PresignError> {
        job.play_url = self.early_entry(&job, now, origin).map(String::from);
        let url = |key: &ObjectKey| self.output(key, now, origin).map(|url| url.map(String::from));
        if let Some(result) = &mut job.result {
            for output in &mut result.outputs {
                output.url = url(&output.key)?;
            }
            for entry in &mut result.entries.0 {
                entry.url = url(&entry.key)?;
            }
            if let Some(poster) = &mut result.poster {
                poster.url = url(&poster.key)?;
            }
            if let Some(storyboard) = &mut result.storyboard {
                storyboard.url = url(&storyboard.key)?;
                storyboard.image_url = url(&storyboard.image_key)?;
            }
        }
        Ok(job)
    }
}

/// The wall clock. Storage checks signatures against its own wall clock.
pub fn now_millis() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;

    const NOW: Millis = Millis(1_700_000_000_000);
    const FOLDER: &str = "outputs/01890a5d-ac96-774b-bcce-b302099a8057/7";

    fn links(public: Option<&'static str>, api: Option<&str>) -> UrlSigner {
        let env = Env::of(move |name| match name {
            "R2_ENDPOINT" => Some("http://127.0.0.1:9000".into()),
            "R2_PUBLIC_URL" => public.map(str::to_owned),
            "R2_INPUT_BUCKET_NAME" => Some("input".into()),
            "R2_OUTPUT_BUCKET_NAME" => Some("output".into()),
            _ => Some("some-text".into()),
        });
        UrlSigner::new(&StorageConfig::read(&env).unwrap(), api.map(|text| text.parse().unwrap())).unwrap()
    }

    fn key(path: &str) -> ObjectKey {
        format!("{FOLDER}/{path}").parse().unwrap()
    }

    fn here() -> BaseUrl {
        "http://127.0.0.1:8080".parse().unwrap()
    }

    #[test]
    fn output_url_of_a_public_bucket_has_no_signature() {
        let key: ObjectKey = "outputs/a b/720p.mp4".parse().unwrap();
        for base in ["https://cdn.example.com", "https://cdn.example.com/"] {
            let url = links(Some(base), None).output(&key, Millis(0), None).unwrap().unwrap();
            assert_eq!(url.as_str(), "https://cdn.example.com/outputs/a%20b/720p.mp4");
        }
        let links = links(Some("https://h.example/base/"), Some("https://films.example"));
        for key in [key, "outputs/a b/master.m3u8".parse().unwrap()] {
            let url = links.output(&key, Millis(0), Some(&here())).unwrap().unwrap();
            assert_eq!(url.path(), format!("/base/{}", key.as_str().replace(' ', "%20")));
            assert_eq!(links.redirect(&key, false, NOW, NOW).unwrap(), url);
            assert_eq!(links.published(&key, NOW), Some(Published { url, expires_at: None }));
        }
    }

    #[test]
    fn output_url_of_a_private_bucket_is_presigned() {
        let url = links(None, None).output(&key("720p.mp4"), NOW, None).unwrap().unwrap();
        assert_eq!(url.path(), format!("/output/{FOLDER}/720p.mp4"));
        assert!(url.query().unwrap().contains("X-Amz-Signature="));
        let url = links(None, None).upload(&key("720p.mp4"), None, None, NOW).unwrap();
        assert!(url.path().starts_with("/input/") && url.query().unwrap().contains("X-Amz-Expires=3600"));
    }

    #[test]
    fn output_url_of_a_private_playlist_is_below_the_api() {
        let here = here();
        for path in ["master.m3u8", "v0/720p.m3u8", "storyboard.vtt"] {
            let key = key(path);
            let at = |links: &UrlSigner, origin: Option<&BaseUrl>| {
                links.output(&key, NOW, origin).unwrap().map(String::from)
            };
            assert_eq!(at(&links(None, None), None), None);
            let asked = at(&links(None, None), Some(&here)).unwrap();
            assert!(asked.starts_with("http://127.0.0.1:8080/media/") && asked.ends_with(path), "{asked}");
            assert!(!asked.contains('?'), "{asked}");
            // The configured address takes precedence: the request may have come through another host.
            let configured = links(None, Some("https://films.example/tcoder"));
            let url = at(&configured, Some(&here)).unwrap();
            assert!(url.starts_with("https://films.example/tcoder/media/"), "{url}");
            assert_eq!(at(&configured, None).unwrap(), url);
        }
    }

    #[test]
    fn redirect_url_is_signed_for_its_method_and_inherits_the_expiry() {
        let links = links(None, None);
        let to = |is_head, left: i64| links.redirect(&key("a.m4s"), is_head, NOW, NOW.plus(left)).unwrap();
        assert!(to(false, 7_200_000).query().unwrap().contains("X-Amz-Expires=7200"));
        assert!(to(false, 1).query().unwrap().contains("X-Amz-Expires=60"));
        assert_ne!(to(false, 7_200_000), to(true, 7_200_000));
    }

    #[test]
    fn published_url_of_a_private_bucket_needs_a_public_api() {
        assert_eq!(links(None, None).published(&key("720p.mp4"), NOW), None);
        let links = links(None, Some("https://films.example"));
        let published = links.published(&key("720p.mp4"), NOW).unwrap();
        assert!(published.url.as_str().starts_with("https://films.example/media/"), "{published:?}");
        assert_eq!(published.expires_at, Some(NOW));
    }
}
