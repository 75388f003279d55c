//! Presigned addresses, which permit their holder to PUT or GET one object for a limited time. Pure: the time is a
//! parameter, so this compiles for targets without a clock and sockets.

use std::time::Duration;

use rusty_s3::actions::{
    AbortMultipartUpload, CompleteMultipartUpload, CreateMultipartUpload, GetObject, HeadObject, PutObject,
    S3Action, UploadPart,
};
use rusty_s3::{Bucket as Host, Credentials, UrlStyle};
use rusty_s3_jiff::Timestamp;
use secrecy::ExposeSecret;
use url::Url;

use super::Bucket;
use crate::config::StorageConfig;
use crate::job::{Millis, ObjectKey, safe_file_name};

/// Default validity of an upload address.
pub const UPLOAD_EXPIRY: Duration = Duration::from_secs(3600);

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

/// Makes presigned path-style addresses, which every S3 server accepts.
#[derive(Clone, Debug)]
pub struct Presigner {
    input: Host,
    output: Host,
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
            Host::new(endpoint, UrlStyle::Path, bucket.clone(), config.region.clone())
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

    /// An address for a PUT of the object. `expires` is limited to between a second and a week.
    ///
    /// # Errors
    /// If `now` is outside the range of dates.
    pub fn put(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        now: Millis,
        expires: Duration,
    ) -> Result<Url, PresignError> {
        let action = PutObject::new(self.host(bucket), Some(&self.credentials), key.as_str());
        signed(&action, now, expires)
    }

    /// An address for a GET of the object. With `save_as`, a browser saves it under that name instead of showing it.
    ///
    /// # Errors
    /// If `now` is outside the range of dates.
    pub fn get(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        now: Millis,
        expires: Duration,
        save_as: Option<&str>,
    ) -> Result<Url, PresignError> {
        let mut action = GetObject::new(self.host(bucket), Some(&self.credentials), key.as_str());
        if let Some(name) = save_as {
            let value = format!("attachment; filename=\"{}\"", safe_file_name(name));
            action.query_mut().insert("response-content-disposition", value);
        }
        signed(&action, now, expires)
    }

    /// An address for a HEAD of the object. The signature includes the method, so the address of a GET does not work.
    ///
    /// # Errors
    /// If `now` is outside the range of dates.
    pub fn head(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        now: Millis,
        expires: Duration,
    ) -> Result<Url, PresignError> {
        let action = HeadObject::new(self.host(bucket), Some(&self.credentials), key.as_str());
        signed(&action, now, expires)
    }

    /// An address for the POST that starts a multipart upload.
    ///
    /// # Errors
    /// If `now` is outside the range of dates.
    pub fn start_parts(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        now: Millis,
        expires: Duration,
    ) -> Result<Url, PresignError> {
        let action = CreateMultipartUpload::new(self.host(bucket), Some(&self.credentials), key.as_str());
        signed(&action, now, expires)
    }

    /// An address for a PUT of part `number` of the multipart upload `upload`.
    ///
    /// # Errors
    /// If `now` is outside the range of dates.
    pub fn put_part(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        upload: &str,
        number: u16,
        now: Millis,
        expires: Duration,
    ) -> Result<Url, PresignError> {
        let credentials = Some(&self.credentials);
        let action = UploadPart::new(self.host(bucket), credentials, key.as_str(), number, upload);
        signed(&action, now, expires)
    }

    /// The address of the multipart upload `upload`: a POST completes it, and a DELETE aborts it.
    ///
    /// # Errors
    /// If `now` is outside the range of dates.
    pub fn end_parts(
        &self,
        bucket: Bucket,
        key: &ObjectKey,
        upload: &str,
        now: Millis,
        expires: Duration,
    ) -> Result<(Url, Url), PresignError> {
        let (host, credentials, key) = (self.host(bucket), Some(&self.credentials), key.as_str());
        let parts: [&str; 0] = [];
        let complete = CompleteMultipartUpload::new(host, credentials, key, upload, parts.into_iter());
        let abort = AbortMultipartUpload::new(host, credentials, key, upload);
        Ok((signed(&complete, now, expires)?, signed(&abort, now, expires)?))
    }

    const fn host(&self, bucket: Bucket) -> &Host {
        match bucket {
            Bucket::Input => &self.input,
            Bucket::Output => &self.output,
        }
    }
}

fn signed<'a>(action: &impl S3Action<'a>, now: Millis, expires: Duration) -> Result<Url, PresignError> {
    Ok(action.sign_with_time(bounded(expires), &timestamp(now)?))
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
        let url = presigner().put(Bucket::Input, &key, NOW, UPLOAD_EXPIRY).unwrap();
        assert_eq!(url.host_str(), Some("abc.r2.cloudflarestorage.com"));
        assert_eq!(url.path(), "/in-bucket/inputs/a%20b/%C3%BC%252e.mp4");
        let query = query(&url);
        assert_eq!(query["X-Amz-Date"], "20231114T221320Z");
        assert_eq!(query["X-Amz-Expires"], "3600");
        assert!(query["X-Amz-Credential"].starts_with("AKID/20231114/auto/s3/"));
        assert!(!url.as_str().contains("hush-hush"));
        let get = presigner().get(Bucket::Output, &key, NOW, UPLOAD_EXPIRY, None).unwrap();
        assert!(get.path().starts_with("/out-bucket/"));
    }

    #[test]
    fn presigner_endpoint_path_needs_no_final_slash() {
        let key: ObjectKey = "a.mp4".parse().unwrap();
        for endpoint in ["http://127.0.0.1:9000/r2/s3", "http://127.0.0.1:9000/r2/s3/"] {
            let config = StorageConfig { endpoint: endpoint.parse().unwrap(), ..config() };
            let url = Presigner::new(&config).unwrap().put(Bucket::Input, &key, NOW, UPLOAD_EXPIRY).unwrap();
            assert_eq!(url.path(), "/r2/s3/in-bucket/a.mp4", "{endpoint}");
        }
    }

    #[test]
    fn presigned_address_depends_only_on_the_time() {
        let key: ObjectKey = "a.mp4".parse().unwrap();
        let at = |ms: i64| presigner().put(Bucket::Input, &key, NOW.plus(ms), UPLOAD_EXPIRY).unwrap();
        assert_eq!(at(0), at(0));
        assert_ne!(at(0), at(1000));
        assert_eq!(
            presigner().put(Bucket::Input, &key, Millis(i64::MAX), UPLOAD_EXPIRY),
            Err(PresignError::Time(i64::MAX))
        );
    }

    #[test]
    fn presigned_expiry_is_limited_to_what_s3_accepts() {
        let key: ObjectKey = "a.mp4".parse().unwrap();
        for (asked, got) in [(0, "1"), (60, "60"), (604_801, "604800"), (u64::MAX, "604800")] {
            let url = presigner().put(Bucket::Input, &key, NOW, Duration::from_secs(asked)).unwrap();
            assert_eq!(query(&url)["X-Amz-Expires"], got);
        }
    }

    #[test]
    fn presigned_file_name_cannot_break_out_of_its_header() {
        let key: ObjectKey = "a.mp4".parse().unwrap();
        let name = Some("my \"film\"\r\nx: y.mp4");
        let url = presigner().get(Bucket::Output, &key, NOW, UPLOAD_EXPIRY, name).unwrap();
        assert_eq!(
            query(&url)["response-content-disposition"],
            "attachment; filename=\"my--film---x--y.mp4\""
        );
    }
}
