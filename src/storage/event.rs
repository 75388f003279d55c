//! The message that R2 sends to a queue when an object is created or deleted.

use serde_json::Value;

/// The operation on the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The object was written in one request.
    PutObject,
    /// The object was copied from another one.
    CopyObject,
    /// The object was written in parts, and the upload was completed.
    CompleteMultipartUpload,
    /// Somebody deleted the object.
    DeleteObject,
    /// A lifecycle rule of the bucket deleted the object.
    LifecycleDeletion,
    /// An operation that R2 did not document when this was written.
    Other(String),
}

impl Action {
    fn of(name: &str) -> Self {
        match name {
            "PutObject" => Self::PutObject,
            "CopyObject" => Self::CopyObject,
            "CompleteMultipartUpload" => Self::CompleteMultipartUpload,
            "DeleteObject" => Self::DeleteObject,
            "LifecycleDeletion" => Self::LifecycleDeletion,
            other => Self::Other(other.chars().take(64).collect()),
        }
    }

    /// Whether the operation creates an object.
    #[must_use]
    pub const fn creates(&self) -> bool {
        matches!(self, Self::PutObject | Self::CopyObject | Self::CompleteMultipartUpload)
    }
}

/// An event about an object. The key is text and not an [`ObjectKey`](crate::job::ObjectKey), because others may
/// write to the bucket, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEvent {
    /// The operation.
    pub action: Action,
    /// The name of the bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// The size in bytes; absent if the object was deleted.
    pub size: Option<u64>,
    /// The entity tag; absent if the object was deleted.
    pub etag: Option<String>,
}

/// A created object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedObject<'a> {
    /// The name of the bucket.
    pub bucket: &'a str,
    /// The key as it is in the event.
    pub key: &'a str,
    /// The size in bytes.
    pub size: u64,
    /// The entity tag.
    pub etag: Option<&'a str>,
}

/// The bytes are not an object event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EventError {
    /// They are not a JSON object.
    #[error("the message is not a JSON object, so it is not an R2 event; check which queue it came from")]
    NotJson,
    /// A field is missing.
    #[error("the message has no {field}, so it is not an R2 event; check which queue it came from")]
    Missing {
        /// The path of the field.
        field: &'static str,
    },
    /// A field has a wrong type or value.
    #[error("{field} is not {wanted}, so the message is not an R2 event; check which queue it came from")]
    Wrong {
        /// The path of the field.
        field: &'static str,
        /// What it should contain.
        wanted: &'static str,
    },
}

impl ObjectEvent {
    /// Parses an event.
    ///
    /// # Errors
    /// Names the field that is missing or wrong. An unknown operation is not an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventError> {
        let message: Value = serde_json::from_slice(bytes).map_err(|_| EventError::NotJson)?;
        if !message.is_object() {
            return Err(EventError::NotJson);
        }
        let action = Action::of(&text(&message, "action", "/action")?);
        let size = match message.pointer("/object/size") {
            None | Some(Value::Null) => None,
            Some(n) => {
                let wrong = EventError::Wrong { field: "object.size", wanted: "a number of bytes" };
                Some(n.as_u64().ok_or(wrong)?)
            }
        };
        if size.is_none() && action.creates() {
            return Err(EventError::Missing { field: "object.size" });
        }
        let etag = match text(&message, "object.eTag", "/object/eTag") {
            Ok(tag) => Some(tag),
            Err(EventError::Missing { .. }) => None,
            Err(wrong) => return Err(wrong),
        };
        Ok(Self {
            action,
            bucket: text(&message, "bucket", "/bucket")?,
            key: text(&message, "object.key", "/object/key")?,
            size,
            etag,
        })
    }

    /// The created object, or `None` for all other events.
    #[must_use]
    pub fn created_object(&self) -> Option<CreatedObject<'_>> {
        let size = self.size.filter(|_| self.action.creates())?;
        Some(CreatedObject { bucket: &self.bucket, key: &self.key, size, etag: self.etag.as_deref() })
    }
}

fn text(message: &Value, field: &'static str, pointer: &str) -> Result<String, EventError> {
    match message.pointer(pointer) {
        None | Some(Value::Null) => Err(EventError::Missing { field }),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(EventError::Wrong { field, wanted: "text" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn put() -> Value {
        json!({
            "account": "3f4b7e3dcab231cbfdaa90a6a28bd548",
            "action": "PutObject",
            "bucket": "input",
            "object": {"key": "inputs/a/b.mp4", "size": 65536, "eTag": "c846ff7a18f28c2e262116d6e8719ef0"},
            "eventTime": "2024-05-24T19:36:44.379Z"
        })
    }

    fn parse(message: &Value) -> Result<ObjectEvent, EventError> {
        ObjectEvent::parse(message.to_string().as_bytes())
    }

    #[test]
    fn action_creates_for_put_copy_and_complete_only() {
        for action in ["PutObject", "CopyObject", "CompleteMultipartUpload"] {
            let mut message = put();
            message["action"] = action.into();
            let event = parse(&message).unwrap();
            let created = event.created_object().unwrap();
            assert_eq!((created.bucket, created.key, created.size), ("input", "inputs/a/b.mp4", 65536));
            assert_eq!(created.etag, Some("c846ff7a18f28c2e262116d6e8719ef0"));
        }
        for action in ["DeleteObject", "LifecycleDeletion", "ObjectBlessed", ""] {
            let mut message = put();
            message["action"] = action.into();
            assert_eq!(parse(&message).unwrap().created_object(), None, "{action}");
            message["object"] = json!({"key": "inputs/a/b.mp4"});
            assert_eq!(parse(&message).unwrap().created_object(), None, "{action}");
        }
    }

    #[test]
    fn event_error_names_the_field() {
        for (pointer, field) in [
            ("/action", "action"),
            ("/bucket", "bucket"),
            ("/object/key", "object.key"),
            ("/object/size", "object.size"),
        ] {
            let mut message = put();
            *message.pointer_mut(pointer).unwrap() = Value::Null;
            assert_eq!(parse(&message), Err(EventError::Missing { field }));
            *message.pointer_mut(pointer).unwrap() = json!([1]);
            let error = parse(&message).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{field} is not")), "{error}");
        }
        let mut message = put();
        message["object"]["size"] = json!(-1);
        assert!(matches!(parse(&message), Err(EventError::Wrong { field: "object.size", .. })));
        message = put();
        message["object"]["eTag"] = json!(7);
        assert!(matches!(parse(&message), Err(EventError::Wrong { field: "object.eTag", .. })));
    }

    #[test]
    fn event_parse_rejects_other_than_json_objects() {
        for bytes in ["", "{", "[]", "null", "\"PutObject\"", "\u{0}"] {
            assert_eq!(ObjectEvent::parse(bytes.as_bytes()), Err(EventError::NotJson), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn event_parse_never_panics(bytes in any::<Vec<u8>>()) {
            prop_assert!(ObjectEvent::parse(&bytes).is_err());
        }
    }
}
