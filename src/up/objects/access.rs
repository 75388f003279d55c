//! Who may do what, decided before a request comes near the file system.

use s3s::access::{S3Access, S3AccessContext};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

use super::Buckets;
use crate::job::{InvalidKey, ObjectKey};

pub(super) struct Access(Buckets);

impl Access {
    pub fn new(buckets: Buckets) -> Self {
        Self(buckets)
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let (bucket, key) = match cx.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(bucket.as_ref()), None),
            S3Path::Object { bucket, key } => (Some(bucket.as_ref()), Some(key.as_ref())),
        };
        judge(&self.0, cx.credentials().is_some(), cx.s3_op().name(), bucket, key)
    }
}

/// The rule. A signed request may do anything to the two buckets; an unsigned one may read an object
/// of the output bucket; nobody may name a key that is none of ours.
fn judge(
    buckets: &Buckets,
    signed: bool,
    operation: &str,
    bucket: Option<&str>,
    key: Option<&str>,
) -> S3Result<()> {
    let public =
        bucket == Some(&buckets.output) && key.is_some() && matches!(operation, "GetObject" | "HeadObject");
    if !signed && !public {
        return Err(s3_error!(AccessDenied));
    }
    if bucket.is_some_and(|name| name != buckets.input && name != buckets.output) {
        return Err(s3_error!(NoSuchBucket));
    }
    key.map_or(Ok(()), |key| check_key(key).map(|_| ()))
}

/// The key, if it is one that stays inside its bucket when it becomes a path.
pub(super) fn check_key(key: &str) -> S3Result<ObjectKey> {
    key.parse().map_err(|error| match error {
        InvalidKey::Length(_) => s3_error!(KeyTooLongError, "{error}"),
        InvalidKey::Segment | InvalidKey::Control => s3_error!(InvalidURI, "{error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(signed: bool, operation: &str, bucket: Option<&str>, key: Option<&str>) -> String {
        let buckets = Buckets { input: "input".into(), output: "output".into() };
        match judge(&buckets, signed, operation, bucket, key) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    #[test]
    fn without_a_signature_only_objects_of_the_output_bucket_are_read() {
        for operation in ["GetObject", "HeadObject"] {
            assert_eq!(code(false, operation, Some("output"), Some("a/b.ts")), "ok");
            assert_eq!(code(false, operation, Some("input"), Some("a/b.ts")), "AccessDenied");
            assert_eq!(code(false, operation, Some("other"), Some("a/b.ts")), "AccessDenied");
            assert_eq!(code(false, operation, Some("output"), Some("../input/a")), "InvalidURI");
        }
        for operation in ["PutObject", "DeleteObject", "CopyObject", "GetObjectAcl", "CreateMultipartUpload"]
        {
            assert_eq!(code(false, operation, Some("output"), Some("a")), "AccessDenied", "{operation}");
        }
        assert_eq!(code(false, "ListObjectsV2", Some("output"), None), "AccessDenied");
        assert_eq!(code(false, "ListBuckets", None, None), "AccessDenied");
    }

    #[test]
    fn a_signature_opens_both_buckets_and_no_other() {
        for bucket in ["input", "output"] {
            assert_eq!(code(true, "PutObject", Some(bucket), Some("a")), "ok");
            assert_eq!(code(true, "ListObjectsV2", Some(bucket), None), "ok");
        }
        assert_eq!(code(true, "ListBuckets", None, None), "ok");
        assert_eq!(code(true, "PutObject", Some("other"), Some("a")), "NoSuchBucket");
    }

    #[test]
    fn no_signature_opens_a_key_that_leaves_its_bucket() {
        for key in ["..", "../evil", "a/../../evil", "./a", "a//b", "a/", "a\\..\\..\\b", "a\u{0}b"] {
            assert_eq!(code(true, "PutObject", Some("input"), Some(key)), "InvalidURI", "{key:?}");
        }
        assert_eq!(code(true, "PutObject", Some("input"), Some(&"a".repeat(1025))), "KeyTooLongError");
    }
}
