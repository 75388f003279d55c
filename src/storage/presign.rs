//! Presigned addresses, which permit their holder to PUT or GET one object for a limited time. Pure: the time is a
//! parameter, so this compiles for targets without a clock and sockets.

use std::time::Duration;

use rusty_s3::actions::{
    AbortMultipartUpload, CompleteMultipartUpload, CreateMultipartUpload, GetObject, HeadObject, PutObject,
    S3Action, UploadPart,
};
use rusty_s3::{Bucket as S3Bucket, Credentials, UrlStyle};
use rusty_s3_jiff::Timestamp;
use secrecy::ExposeSecret;
use url::Url;

use super::{Bucket, MediaType};
use crate::config::StorageConfig;
use crate::job::{Millis, ObjectKey};

/// The maximum validity that S3 accepts.
const MAX_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// The storage settings do not permit presigned addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PresignError {
    /// The endpoint is not valid as the base of an address.
    #[error("R2_ENDPOINT cannot be used: it must be an http or https address with a host")]
    Endpoint,
    /// The time is outside the range of dates.
    #[error("the time {0} ms is not a valid date; check the clock of this machine")]
    Time(i64),
}

/// What an address permits. The signature includes the method, so the address of a GET does not work for a HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectRequest<'a> {
    /// A PUT that writes the object.
    Put {
        /// The only size that storage accepts, bytes; `None` means any. It is a signed header, `Content-Length`.
        size: Option<u64>,
        /// The only type that storage accepts; `None` means any. It is a signed header, `Content-Type`.
        media_type: Option<&'a MediaType>,
    },
    /// A GET of the object.
    Get,
    /// A HEAD of the object.
    Head,
    /// A POST that starts a multipart upload.
    CreateMultipart {
        /// The type of the object, as for a PUT.
        media_type: Option<&'a MediaType>,
    },
    /// A PUT of a part of the multipart upload `upload`.
    PutPart {
        /// The id that storage gave the upload.
        upload: &'a str,
        /// The number of the part, from 1.
        number: u16,
        /// The only size of the part that storage accepts, bytes; `None` means any.
        size: Option<u64>,
    },
    /// A POST that completes the multipart upload `upload`.
    CompleteMultipart {
        /// The id that storage gave the upload.
        upload: &'a str,
    },
    /// A DELETE that aborts the multipart upload `upload`.
    AbortMultipart {
        /// The id that storage gave the upload.
        upload: &'a str,
    },
}

/// Makes presigned path-style addresses, which every S3 server accepts.
#[derive(Clone, Debug)]
pub struct Presigner {
    input: S3Bucket,
    output: S3Bucket,
    credentials: Credentials,
}

impl Presigner {
    /// A presigner for the buckets of `config`.
    ///
    /// # Errors
    /// If the endpoint is not an http or https address.
    pub fn new(config: &StorageConfig) -> Result<Self, PresignError> {
        let host = |bucket: &String| {
            let endpoint = config.endpoint.as_url().clone();
            S3Bucket::new(endpoint, UrlStyle::Path, bucket.clone(), config.region.clone())
                .map_err(|_| PresignError::Endpoint)
        };
        Ok(Self {
            input: host(&config.input_bucket)?,
            output: host(&config.output_bucket)?,
            credentials: Credentials::new(
                config.access_key_id.clone(),
                config.secret_access_key.expose_secret(),
            ),
        })
    }

    /// An address that permits this request for the object. `expires` is limited to between a second and a week.
    ///
    /// # Errors
    /// If `now` is outside the range of dates.
    pub fn sign(
        &self,
        request: ObjectRequest<'_>,
        bucket: Bucket,
        key: &ObjectKey,
        now: Millis,
        expires: Duration,
    ) -> Result<Url, PresignError> {
        let (host, credentials, key) = (self.host(bucket), Some(&self.credentials), key.as_str());
        let until = Validity { now: timestamp(now)?, expires: bounded(expires) };
        Ok(match request {
            ObjectRequest::Put { size, media_type } => {
                let mut put = PutObject::new(host, credentials, key);
                if let Some(size) = size {
                    put.headers_mut().insert("content-length", size.to_string());
                }
                if let Some(media_type) = media_type {
                    put.headers_mut().insert("content-type", media_type.as_str());
                }
                until.sign(&put)
            }
            ObjectRequest::Get => until.sign(&GetObject::new(host, credentials, key)),
            ObjectRequest::Head => until.sign(&HeadObject::new(host, credentials, key)),
            ObjectRequest::CreateMultipart { media_type } => {
                let mut start = CreateMultipartUpload::new(host, credentials, key);
                if let Some(media_type) = media_type {
                    start.headers_mut().insert("content-type", media_type.as_str());
                }
                until.sign(&start)
            }
            ObjectRequest::PutPart { upload, number, size } => {
                let mut put = UploadPart::new(host, credentials, key, number, upload);
                if let Some(size) = size {
                    put.headers_mut().insert("content-length", size.to_string());
                }
                until.sign(&put)
            }
            ObjectRequest::CompleteMultipart { upload } => {
                let parts: [&str; 0] = [];
                until.sign(&CompleteMultipartUpload::new(host, credentials, key, upload, parts.into_iter()))
            }
            ObjectRequest::AbortMultipart { upload } => {
                until.sign(&AbortMultipartUpload::new(host, credentials, key, upload))
            }
        })
    }

    const fn host(&self, bucket: Bucket) -> &S3Bucket {
        match bucket {
            Bucket::Input => &self.input,
            Bucket::Output => &self.output,
        }
    }
}

/// From when an address is valid, and for how long.
struct Validity {
    now: Timestamp,
    expires: Duration,
}

impl Validity {
    fn sign<'a>(&self, action: &impl S3Action<'a>) -> Url {
        action.sign_with_time(self.expires, &self.now)
    }
}

fn bounded(expires: Duration) -> Duration {
    expires.clamp(Duration::from_secs(1), MAX_EXPIRY)
}

fn timestamp(now: Millis) -> Result<Timestamp, PresignError> {
    Timestamp::from_millisecond(now.0).map_err(|_| PresignError::Time(now.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const PUT: ObjectRequest<'_> = ObjectRequest::Put { size: None, media_type: None };
    const HOUR: Duration = Duration::from_secs(3600);

    fn config() -> StorageConfig {
        StorageConfig {
            endpoint: "https://abc.r2.cloudflarestorage.com".parse().unwrap(),
            region: "auto".into(),
            access_key_id: "AKID".into(),
            secret_access_key: "hush-hush".into(),
            input_bucket: "in-bucket".into(),
            output_bucket: "out-bucket".into(),
            public_url: None,
        }
    }

    fn presigner() -> Presigner {
        Presigner::new(&config()).unwrap()
    }

    fn query(url: &Url) -> HashMap<String, String> {
        url.query_pairs().into_owned().collect()
    }

    const NOW: Millis = Millis(1_700_000_000_123);

    #[test]
    fn presigned_addresses_are_path_style_and_contain_no_secret() {
        let key: ObjectKey = "inputs/a b/ü%2e.mp4".parse().unwrap();
        let url = presigner().sign(PUT, Bucket::Input, &key, NOW, HOUR).unwrap();
        assert_eq!(url.host_str(), Some("abc.r2.cloudflarestorage.com"));
        assert_eq!(url.path(), "/in-bucket/inputs/a%20b/%C3%BC%252e.mp4");
        let query = query(&url);
        assert_eq!(query["X-Amz-Date"], "20231114T221320Z");
        assert_eq!(query["X-Amz-Expires"], "3600");
        assert!(query["X-Amz-Credential"].starts_with("AKID/20231114/auto/s3/"));
        assert!(!url.as_str().contains("hush-hush"));
        let get = presigner().sign(ObjectRequest::Get, Bucket::Output, &key, NOW, HOUR).unwrap();
        assert!(get.path().starts_with("/out-bucket/"));
    }

    #[test]
    fn presigner_endpoint_path_needs_no_final_slash() {
        let key: ObjectKey = "a.mp4".parse().unwrap();
        for endpoint in ["http://127.0.0.1:9000/r2/s3", "http://127.0.0.1:9000/r2/s3/"] {
            let config = StorageConfig { endpoint: endpoint.parse().unwrap(), ..config() };
            let url = Presigner::new(&config).unwrap().sign(PUT, Bucket::Input, &key, NOW, HOUR).unwrap();
            assert_eq!(url.path(), "/r2/s3/in-bucket/a.mp4", "{endpoint}");
        }
    }

    #[test]
    fn presigned_address_depends_only_on_the_time() {
        let key: ObjectKey = "a.mp4".parse().unwrap();
        let at = |ms: i64| presigner().sign(PUT, Bucket::Input, &key, NOW.plus(ms), HOUR).unwrap();
        assert_eq!(at(0), at(0));
        assert_ne!(at(0), at(1000));
        assert_eq!(
            presigner().sign(PUT, Bucket::Input, &key, Millis(i64::MAX), HOUR),
            Err(PresignError::Time(i64::MAX))
        );
    }

    #[test]
    fn presigned_expiry_is_limited_to_what_s3_accepts() {
        let key: ObjectKey = "a.mp4".parse().unwrap();
        for (asked, got) in [(0, "1"), (60, "60"), (604_801, "604800"), (u64::MAX, "604800")] {
            let url = presigner().sign(PUT, Bucket::Input, &key, NOW, Duration::from_secs(asked)).unwrap();
            assert_eq!(query(&url)["X-Amz-Expires"], got);
        }
    }

    #[test]
    fn presigned_uploads_have_their_size_and_type_as_signed_headers() {
        let key: ObjectKey = "a.mp4".parse().unwrap();
        let video: MediaType = "video/mp4".parse().unwrap();
        let (size, media_type) = (Some(7), Some(&video));
        for (request, headers) in [
            (ObjectRequest::Put { size, media_type: None }, "content-length;host"),
            (ObjectRequest::Put { size, media_type }, "content-length;content-type;host"),
            (ObjectRequest::CreateMultipart { media_type }, "content-type;host"),
            (ObjectRequest::CreateMultipart { media_type: None }, "host"),
            (ObjectRequest::PutPart { upload: "u", number: 1, size }, "content-length;host"),
            (ObjectRequest::PutPart { upload: "u", number: 1, size: None }, "host"),
        ] {
            let url = presigner().sign(request, Bucket::Input, &key, NOW, HOUR).unwrap();
            assert_eq!(query(&url)["X-Amz-SignedHeaders"], headers, "{request:?}");
        }
    }
}
