//! Conditional requests, decided from an object's entity tag and date (RFC 9110, section 13, as S3 applies it). Pure.

use std::time::{Duration, UNIX_EPOCH};

use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

/// The conditions of a GET, a HEAD, or the source of a copy.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    pub if_modified_since: Option<Timestamp>,
    pub if_unmodified_since: Option<Timestamp>,
}

/// Why a conditional read does not return the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmet {
    /// Status 412.
    PreconditionFailed,
    /// Status 304: the client's copy is current.
    NotModified,
}

impl ReadConditions {
    /// Whether an object with this entity tag and this date, in milliseconds since 1970, meets the conditions.
    pub(crate) fn check(&self, etag: &str, modified: u64) -> Result<(), Unmet> {
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(wanted), _) if !matches(wanted, etag) => return Err(Unmet::PreconditionFailed),
            (None, Some(date)) if date_of(modified) > *date => return Err(Unmet::PreconditionFailed),
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(known), _) if matches(known, etag) => Err(Unmet::NotModified),
            (None, Some(date)) if date_of(modified) <= *date => Err(Unmet::NotModified),
            _ => Ok(()),
        }
    }
}

/// The conditions of a write.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
}

impl WriteConditions {
    /// Whether the write may replace the existing object, which has this entity tag, or create a new one.
    pub(crate) fn check(&self, current: Option<&str>) -> S3Result<()> {
        if let Some(wanted) = &self.if_match {
            match current {
                None => return Err(s3_error!(NoSuchKey, "there is no object that If-Match could match")),
                Some(etag) if !matches(wanted, etag) => return Err(s3_error!(PreconditionFailed)),
                Some(_) => {}
            }
        }
        match (&self.if_none_match, current) {
            (Some(known), Some(etag)) if matches(known, etag) => Err(s3_error!(PreconditionFailed)),
            _ => Ok(()),
        }
    }
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == etag,
    }
}

/// HTTP dates have a resolution of a second.
fn date_of(milliseconds: u64) -> Timestamp {
    (UNIX_EPOCH + Duration::from_secs(milliseconds / 1000)).into()
}

#[cfg(test)]
mod tests {
    use s3s::S3ErrorCode;

    use super::*;

    /// In milliseconds, between two HTTP dates.
    const MODIFIED: u64 = 1_700_000_000_400;

    fn tag(text: &str) -> Option<ETagCondition> {
        Some(text.parse().unwrap())
    }

    fn date(offset: i64) -> Option<Timestamp> {
        Some(date_of(MODIFIED.saturating_add_signed(offset * 1000)))
    }

    #[test]
    fn read_conditions_prefer_entity_tags_over_dates() {
        use Unmet::{NotModified, PreconditionFailed};
        let none = ReadConditions::default;
        for (conditions, expected) in [
            (none(), Ok(())),
            (ReadConditions { if_match: tag("\"a\""), ..none() }, Ok(())),
            (ReadConditions { if_match: tag("*"), ..none() }, Ok(())),
            (ReadConditions { if_match: tag("\"b\""), ..none() }, Err(PreconditionFailed)),
            (ReadConditions { if_none_match: tag("\"a\""), ..none() }, Err(NotModified)),
            (ReadConditions { if_none_match: tag("W/\"a\""), ..none() }, Err(NotModified)),
            (ReadConditions { if_none_match: tag("\"b\""), ..none() }, Ok(())),
            (ReadConditions { if_modified_since: date(-1), ..none() }, Ok(())),
            (ReadConditions { if_modified_since: date(0), ..none() }, Err(NotModified)),
            (ReadConditions { if_unmodified_since: date(-1), ..none() }, Err(PreconditionFailed)),
            (ReadConditions { if_unmodified_since: date(0), ..none() }, Ok(())),
            (ReadConditions { if_match: tag("\"a\""), if_unmodified_since: date(-1), ..none() }, Ok(())),
            (ReadConditions { if_none_match: tag("\"b\""), if_modified_since: date(0), ..none() }, Ok(())),
            (
                ReadConditions { if_none_match: tag("\"a\""), if_modified_since: date(-1), ..none() },
                Err(NotModified),
            ),
        ] {
            assert_eq!(conditions.check("a", MODIFIED), expected, "{conditions:?}");
        }
    }

    #[test]
    fn write_conditions_permit_only_the_named_object() {
        for (if_match, if_none_match, current, expected) in [
            (None, None, None, None),
            (None, None, Some("a"), None),
            (None, tag("*"), None, None),
            (None, tag("*"), Some("a"), Some(S3ErrorCode::PreconditionFailed)),
            (None, tag("\"a\""), Some("a"), Some(S3ErrorCode::PreconditionFailed)),
            (None, tag("\"b\""), Some("a"), None),
            (tag("\"a\""), None, Some("a"), None),
            (tag("*"), None, Some("a"), None),
            (tag("\"b\""), None, Some("a"), Some(S3ErrorCode::PreconditionFailed)),
            (tag("\"a\""), None, None, Some(S3ErrorCode::NoSuchKey)),
        ] {
            let conditions = WriteConditions { if_match, if_none_match };
            let code = conditions.check(current).err().map(|error| error.code().clone());
            assert_eq!(code, expected, "{conditions:?} {current:?}");
        }
    }
}
