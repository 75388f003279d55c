//! The messages about new objects of a bucket, in R2's documented format.

use std::time::Duration;

use jiff::Timestamp;
use s3s::{S3Result, s3_error};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::record::Object;
use crate::job::Millis;

/// Maximum time that an upload waits for space in the queue of messages.
const WAIT: Duration = Duration::from_secs(10);

/// The queue for messages about one bucket.
#[derive(Clone, Debug)]
pub(super) struct Events {
    pub bucket: String,
    pub queue: mpsc::Sender<Vec<u8>>,
}

impl Events {
    /// Reserves a place in the queue before the object is written: an object without its message would be a job that
    /// waits forever. Other buckets need no place.
    pub(crate) async fn reserve(&self, bucket: &str) -> S3Result<Option<Place>> {
        if bucket != self.bucket {
            return Ok(None);
        }
        match timeout(WAIT, self.queue.clone().reserve_owned()).await {
            Ok(Ok(place)) => Ok(Some(Place(place))),
            _ => Err(s3_error!(SlowDown, "too many uploads wait to be recorded; try again")),
        }
    }
}

/// A place in the queue.
pub(super) struct Place(mpsc::OwnedPermit<Vec<u8>>);

/// The operation on an object.
pub(super) struct Change<'a> {
    /// S3's name of the operation.
    pub action: &'static str,
    pub bucket: &'a str,
    pub key: &'a str,
    /// For a copy, the bucket and key of the original.
    pub copy_source: Option<(&'a str, &'a str)>,
}

impl Place {
    /// Sends the message about an object that now exists.
    pub(crate) fn send(self, change: &Change<'_>, object: &Object) {
        let message = Message {
            account: "local",
            action: change.action,
            bucket: change.bucket,
            object: MessageObject { key: change.key, size: object.size, e_tag: &object.etag },
            event_time: Millis(Timestamp::now().as_millisecond()).to_string(),
            copy_source: change.copy_source.map(|(bucket, object)| CopySource { bucket, object }),
        };
        match serde_json::to_vec(&message) {
            Ok(message) => {
                self.0.send(message);
            }
            Err(error) => {
                tracing::error!(%error, key = change.key, "could not write an object-created event")
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    account: &'a str,
    action: &'a str,
    bucket: &'a str,
    object: MessageObject<'a>,
    event_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    copy_source: Option<CopySource<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageObject<'a> {
    key: &'a str,
    size: u64,
    e_tag: &'a str,
}

#[derive(Serialize)]
struct CopySource<'a> {
    bucket: &'a str,
    object: &'a str,
}
