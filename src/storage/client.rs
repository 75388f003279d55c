//! The S3 client of an installation, and all operations that need only one small request.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use secrecy::ExposeSecret;

use super::error::{CheckError, StorageError, classify};
use super::span::Spans;
use super::{Bucket, ContentHeaders, ObjectInfo, PutCondition, PutOutcome, SmallObject, layout};
use crate::config::StorageConfig;
use crate::job::{InvalidKey, ObjectKey};

/// Few attempts, with growing pauses, because the callers retry, too.
const ATTEMPTS: u32 = 4;
const CONNECT: Duration = Duration::from_secs(5);
/// Time limit for one attempt of a small request.
const SMALL: Duration = Duration::from_secs(20);
/// Time limit for one attempt of an upload: 64 MiB at 220 kB a second.
const LARGE: Duration = Duration::from_secs(300);
/// Time without any byte after which an attempt is aborted.
const STILL: Duration = Duration::from_secs(30);
/// Number of attempts to write an object that somebody else is writing at the same time.
const CONFLICTS: u32 = 5;

/// The two buckets of an installation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage {
    small: Client,
    large: Client,
    names: Arc<Names>,
}

#[derive(Debug)]
struct Names {
    input: String,
    output: String,
}

/// The objects below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The keys and sizes in bytes, ordered by key.
    pub objects: Vec<(ObjectKey, u64)>,
    /// Whether the listing is complete.
    pub complete: bool,
}

impl Storage {
    /// A client for the buckets of `config`. Does not connect yet.
    #[must_use]
    pub fn new(config: &StorageConfig) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let credentials = Credentials::new(
            config.access_key_id.clone(),
            config.secret_access_key.expose_secret(),
            None,
            None,
            "config",
        );
        let with = |attempt: Duration| {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(CONNECT)
                .operation_attempt_timeout(attempt)
                .operation_timeout(attempt.saturating_mul(ATTEMPTS))
                .build();
            let config = Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .http_client(http.clone())
                .endpoint_url(config.endpoint.as_str())
                .region(Region::new(config.region.clone()))
                .credentials_provider(credentials.clone())
                .force_path_style(true)
                // R2 did not always accept the newer defaults.
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
                .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
                .timeout_config(timeouts)
                .interceptor(Spans)
                .stalled_stream_protection(
                    StalledStreamProtectionConfig::enabled().grace_period(STILL).build(),
                )
                .build();
            Client::from_conf(config)
        };
        let names = Names { input: config.input_bucket.clone(), output: config.output_bucket.clone() };
        Self { small: with(SMALL), large: with(LARGE), names: Arc::new(names) }
    }

    /// The client for small requests.
    pub(super) const fn small(&self) -> &Client {
        &self.small
    }

    /// The client for requests that transfer a whole object.
    pub(super) const fn large(&self) -> &Client {
        &self.large
    }

    pub(super) fn name(&self, bucket: Bucket) -> &str {
        match bucket {
            Bucket::Input => &self.names.input,
            Bucket::Output => &self.names.output,
        }
    }

    /// Checks that both buckets can be reached and read.
    ///
    /// # Errors
    /// Names the environment variable to check.
    pub async fn check(&self) -> Result<(), CheckError> {
        let buckets = [(Bucket::Input, "R2_INPUT_BUCKET_NAME"), (Bucket::Output, "R2_OUTPUT_BUCKET_NAME")];
        for (bucket, variable) in buckets {
            let name = self.name(bucket);
            // Unlike HeadBucket, a listing explains in the body of the response why it was refused.
            let asked = self.small.list_objects_v2().bucket(name).max_keys(1).send().await;
            if let Err(error) = asked {
                return Err(CheckError::of(&classify(name, &error), variable, name));
            }
        }
        Ok(())
    }

    /// Finds out whether the output bucket honours the conditions by which attempts commit their results; returns the
    /// header that it ignores. On such storage two attempts at one job can both commit.
    ///
    /// # Errors
    /// If storage does not answer, or refuses to write an object.
    pub async fn ignored_condition(&self) -> Result<Option<&'static str>, StorageError> {
        let unusable = |error: InvalidKey| StorageError::Unavailable {
            what: "the probe of the output bucket".to_owned(),
            why: error.to_string(),
        };
        let key = layout::probe_key().map_err(unusable)?;
        let put = |condition| self.put_if(condition, Bucket::Output, &key, b"probe".to_vec(), "text/plain");
        // The object stays: one that came and went would be left where a worker dies in between, and its deletion
        // would mislead another worker.
        if put(PutCondition::Absent).await? == PutOutcome::Written
            && put(PutCondition::Absent).await? == PutOutcome::Written
        {
            return Ok(Some("If-None-Match"));
        }
        match put(PutCondition::Unchanged("of-no-object")).await {
            Ok(PutOutcome::Written) => Ok(Some("If-Match")),
            // Attempts do without it on such a server.
            Ok(PutOutcome::ConditionFailed) | Err(StorageError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the size and the entity tag of an object, or `None` if it does not exist.
    ///
    /// # Errors
    /// Every other failure.
    pub async fn head(&self, bucket: Bucket, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let request = self.small.head_object().bucket(self.name(bucket)).key(key.as_str());
        match request.send().await {
            Ok(found) => {
                // A weak tag does not identify the bytes.
                let etag = found.e_tag().filter(|etag| !etag.starts_with("W/")).map(unquoted);
                let size = found.content_length().and_then(|size| size.try_into().ok());
                let size = size.ok_or_else(|| StorageError::Unavailable {
                    what: key.to_string(),
                    why: "it answered without the size of the object".to_owned(),
                })?;
                Ok(Some(ObjectInfo { size, etag }))
            }
            Err(error) => absent(classify(key.as_str(), &error)),
        }
    }

    /// Returns a small object, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] if it has more than `limit` bytes, and every other failure.
    pub async fn get_small(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        limit: u64,
    ) -> Result<Option<SmallObject>, StorageError> {
        let request = self.small.get_object().bucket(self.name(bucket)).key(key.as_str());
        let mut found = match request.send().await {
            Ok(found) => found,
            Err(error) => return absent(classify(key.as_str(), &error)),
        };
        let etag = found.e_tag().map(unquoted);
        let cache_control = found.cache_control().map(str::to_owned);
        let mut bytes = Vec::new();
        let mut read = async || {
            while let Some(chunk) = found.body.try_next().await.map_err(|e| unavailable(key, &e))? {
                if (bytes.len() + chunk.len()) as u64 > limit {
                    return Err(StorageError::TooLarge { limit });
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(())
        };
        match tokio::time::timeout(SMALL, read()).await {
            Ok(done) => done.map(|()| Some(SmallObject { bytes, etag, cache_control })),
            Err(late) => Err(unavailable(key, &late)),
        }
    }

    /// Writes an object if the condition holds.
    ///
    /// # Errors
    /// If it is unknown whether the object was written.
    pub async fn put_if(
        &self,
        condition: PutCondition<'_>,
        bucket: Bucket,
        key: &ObjectKey,
        bytes: Vec<u8>,
        headers: impl Into<ContentHeaders<'_>>,
    ) -> Result<PutOutcome, StorageError> {
        let headers = headers.into();
        let bytes = bytes::Bytes::from(bytes);
        let mut conflicts = 0;
        loop {
            let request = self
                .small
                .put_object()
                .bucket(self.name(bucket))
                .key(key.as_str())
                .content_type(headers.content_type)
                .set_cache_control(headers.cache_control.map(str::to_owned))
                .body(ByteStream::from(bytes.clone()));
            let request = match condition {
                PutCondition::Absent => request.if_none_match("*"),
                PutCondition::Unchanged(etag) => request.if_match(format!("\"{etag}\"")),
            };
            let Err(error) = request.send().await else { return Ok(PutOutcome::Written) };
            match error.raw_response().map(|raw| raw.status().as_u16()) {
                // S3 answers 404 if the object that must be unchanged is gone.
                Some(412 | 404) => return Ok(PutOutcome::ConditionFailed),
                // Another writer is writing the object right now; its outcome is not known yet.
                Some(409) if conflicts < CONFLICTS => {
                    conflicts += 1;
                    tokio::time::sleep(Duration::from_millis(100 << conflicts)).await;
                }
                Some(409) => {
                    return Err(StorageError::Unavailable {
                        what: key.to_string(),
                        why: "another writer keeps changing it".to_owned(),
                    });
                }
                _ => return Err(classify(key.as_str(), &error)),
            }
        }
    }

    /// Lists at most `limit` objects in the folder `prefix`.
    ///
    /// # Errors
    /// If storage does not answer.
    pub async fn list(
        &self,
        bucket: Bucket,
        prefix: &ObjectKey,
        limit: usize,
    ) -> Result<Listing, StorageError> {
        let mut listing = Listing { objects: Vec::new(), complete: true };
        let mut token: Option<String> = None;
        loop {
            let left = limit - listing.objects.len();
            let page = self
                .small
                .list_objects_v2()
                .bucket(self.name(bucket))
                // Without the slash, `outputs/a/1` would include `outputs/a/10`, too.
                .prefix(format!("{prefix}/"))
                .set_continuation_token(token.take())
                .max_keys(i32::try_from(left.clamp(1, 1000)).unwrap_or(1000))
                .send()
                .await
                .map_err(|error| classify(prefix.as_str(), &error))?;
            for object in page.contents() {
                // An object whose name is not a valid key was not written by tcoder.
                if let Some(key) = object.key().and_then(|key| key.parse().ok()) {
                    listing.objects.push((key, size(object.size())));
                }
            }
            token = page.next_continuation_token().map(str::to_owned);
            let more = page.is_truncated() == Some(true) && token.is_some();
            if !more || listing.objects.len() >= limit {
                listing.complete = !more && listing.objects.len() <= limit;
                listing.objects.truncate(limit);
                return Ok(listing);
            }
        }
    }

    /// Deletes an object. It is not an error if it does not exist.
    ///
    /// # Errors
    /// If storage does not answer or refuses.
    pub async fn delete(&self, bucket: Bucket, key: &ObjectKey) -> Result<(), StorageError> {
        let request = self.small.delete_object().bucket(self.name(bucket)).key(key.as_str());
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => absent::<()>(classify(key.as_str(), &error)).map(|_| ()),
        }
    }
}

/// An entity tag as it is compared, without quotes.
pub(super) fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

/// Converts `Content-Length` and similar values, which S3 defines as signed.
pub(super) fn size(bytes: Option<i64>) -> u64 {
    bytes.and_then(|n| u64::try_from(n).ok()).unwrap_or_default()
}

fn absent<T>(error: StorageError) -> Result<Option<T>, StorageError> {
    match error {
        StorageError::NotFound { .. } => Ok(None),
        error => Err(error),
    }
}

fn unavailable(key: &ObjectKey, error: &(dyn std::error::Error + 'static)) -> StorageError {
    StorageError::Unavailable { what: key.to_string(), why: super::error::root(error) }
}
