//! Access control, before a request reaches an object.

use s3s::access::{S3Access, S3AccessContext};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

use super::index::Index;

pub(super) struct Access {
    /// The bucket whose objects everybody may read.
    pub public: String,
    pub index: Index,
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let (bucket, key) = match cx.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(bucket.as_ref()), None),
            S3Path::Object { bucket, key } => (Some(bucket.as_ref()), Some(key.as_ref())),
        };
        let operation = cx.s3_op().name();
        judge(&self.public, cx.credentials().is_some(), operation, bucket, key)?;
        match bucket {
            Some(bucket) if operation != "CreateBucket" && !self.index.has_bucket(bucket)? => {
                Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"))
            }
            _ => Ok(()),
        }
    }
}

/// The rule: a signed request may do anything; an unsigned one may read an object of the public bucket; no request
/// may name an invalid key.
fn judge(
    public: &str,
    signed: bool,
    operation: &str,
    bucket: Option<&str>,
    key: Option<&str>,
) -> S3Result<()> {
    let open = bucket == Some(public) && key.is_some() && matches!(operation, "GetObject" | "HeadObject");
    if !signed && !open {
        return Err(s3_error!(AccessDenied));
    }
    key.map_or(Ok(()), check_key)
}

/// Refuses a key that clients or proxies would change, or that XML cannot contain. s3s checks the length, except in
/// headers and bodies.
pub(super) fn check_key(key: &str) -> S3Result<()> {
    if key.is_empty() || key.len() > 1024 {
        return Err(s3_error!(KeyTooLongError, "a key has 1 to 1024 bytes"));
    }
    if key.contains('\0') || key.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(s3_error!(
            InvalidURI,
            "a key must not contain a segment \".\" or \"..\", or a zero byte"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(signed: bool, operation: &str, bucket: Option<&str>, key: Option<&str>) -> String {
        match judge("output", signed, operation, bucket, key) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    #[test]
    fn access_without_signature_only_reads_the_output_bucket() {
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
        assert_eq!(code(false, "CreateBucket", Some("new"), None), "AccessDenied");
        assert_eq!(code(false, "ListBuckets", None, None), "AccessDenied");
    }

    #[test]
    fn access_with_signature_permits_every_bucket() {
        for bucket in ["input", "output", "other"] {
            assert_eq!(code(true, "PutObject", Some(bucket), Some("a")), "ok");
            assert_eq!(code(true, "ListObjectsV2", Some(bucket), None), "ok");
        }
        assert_eq!(code(true, "ListBuckets", None, None), "ok");
    }

    #[test]
    fn check_key_rejects_dot_segments_only() {
        for key in ["..", "../evil", "a/../../evil", "./a", "a/.", "a\u{0}b"] {
            assert_eq!(code(true, "PutObject", Some("input"), Some(key)), "InvalidURI", "{key:?}");
        }
        for key in ["a/", "/a", "a//b", "a\\..\\b", "...", "a..b/.c", " ", &"a".repeat(1024)] {
            assert_eq!(code(true, "PutObject", Some("input"), Some(key)), "ok", "{key:?}");
        }
        assert_eq!(code(true, "PutObject", Some("input"), Some(&"a".repeat(1025))), "KeyTooLongError");
    }
}
