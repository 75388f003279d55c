//! What the parsers of this module promise, for `crate::fuzz`.

use super::multipart::upload_id;

/// The answer of a storage to the start of an upload in parts.
pub(crate) fn multipart_answer(bytes: &[u8]) {
    if let Some(id) = upload_id(&String::from_utf8_lossy(bytes)) {
        assert!(!id.is_empty() && id.trim() == id, "{id:?}");
    }
}
