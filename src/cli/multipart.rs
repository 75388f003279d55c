//! Uploads a large file to storage in parts, some at a time. A part that fails is sent again alone.

use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::ProgressBar;
use quick_xml::Reader;
use quick_xml::escape::{escape, unescape};
use quick_xml::events::Event;
use reqwest::{StatusCode, header};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use url::Url;

use super::client::ApiClient;
use super::upload::{FileToPut, PutError, UploadTimeouts, put, root_cause};
use crate::api::{Multipart, SignPartsRequest};
use crate::job::JobId;
use crate::queue::backoff;
use crate::storage::MediaType;

/// Maximum number of concurrent parts.
const MAX_CONCURRENT_PARTS: usize = 4;
/// Number of addresses per request: they are valid for an hour, and a slow connection takes time.
const BATCH: usize = 16;
/// Number of attempts to send a part before the upload is abandoned.
const TRIES: u32 = 6;
/// Maximum time for storage to start or complete an upload. Completing one can take S3 minutes.
const ANSWER: Duration = Duration::from_secs(300);

/// The upload of a file.
pub(crate) struct MultipartUpload<'a> {
    pub client: &'a ApiClient,
    pub id: JobId,
    pub file: &'a Path,
    pub size: u64,
    pub media_type: Option<&'a MediaType>,
    pub bar: &'a ProgressBar,
}

impl MultipartUpload<'_> {
    /// Uploads the file in parts.
    pub(crate) async fn send(&self, multipart: &Multipart) -> Result<(), PutError> {
        let upload_id = self.begin(multipart.start_url.clone()).await?;
        let count = self.size.div_ceil(multipart.part_size.max(1));
        let numbers: Vec<u16> = (1..=count).map_while(|n| u16::try_from(n).ok()).collect();
        let mut tags: Vec<(u16, String)> = Vec::new();
        for batch in numbers.chunks(BATCH) {
            let addresses = self.addresses(&upload_id, batch).await?.parts;
            let sent = futures::stream::iter(addresses.into_iter().map(|part| async move {
                let tag = self.part(part.part_number, part.url, multipart.part_size).await?;
                Ok::<_, PutError>((part.part_number, tag))
            }));
            tags.extend(sent.buffer_unordered(MAX_CONCURRENT_PARTS).try_collect::<Vec<_>>().await?);
        }
        tags.sort_unstable();
        let complete = self.addresses(&upload_id, &[]).await?.complete_url;
        let answer = Self::answer(self.client.uploads().post(complete).body(complete_body(&tags))).await?;
        // Storage may detect an error only after it has started to answer 200.
        if answer.contains("<Error>") {
            Err(PutError::Broken("storage could not join the parts".into()))
        } else {
            Ok(())
        }
    }

    async fn begin(&self, url: Url) -> Result<String, PutError> {
        let mut request = self.client.uploads().post(url);
        if let Some(media_type) = self.media_type {
            request = request.header(header::CONTENT_TYPE, media_type.as_str());
        }
        let answer = Self::answer(request).await?;
        upload_id(&answer).ok_or_else(|| PutError::Broken("storage returned no id for the upload".into()))
    }

    async fn addresses(&self, upload_id: &str, parts: &[u16]) -> Result<crate::api::SignedParts, PutError> {
        let wanted = SignPartsRequest { upload_id: upload_id.to_owned(), part_numbers: parts.to_vec() };
        self.client.parts(self.id, &wanted).await.map_err(|e| PutError::Broken(e.to_string()))
    }

    async fn answer(request: reqwest::RequestBuilder) -> Result<String, PutError> {
        let broken = |error: reqwest::Error| PutError::Broken(root_cause(error));
        let answer = request.timeout(ANSWER).send().await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(PutError::Refused(answer.status()));
        }
        answer.text().await.map_err(broken)
    }

    async fn part(&self, number: u16, url: Url, part_size: u64) -> Result<String, PutError> {
        let from = u64::from(number - 1) * part_size;
        let size = part_size.min(self.size - from);
        let unreadable = |e: std::io::Error| PutError::Broken(format!("cannot read the file: {e}"));
        let mut tries = 0;
        loop {
            let mut file = tokio::fs::File::open(self.file).await.map_err(unreadable)?;
            file.seek(SeekFrom::Start(from)).await.map_err(unreadable)?;
            let told = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
            let (sum, bar) = (told.clone(), self.bar.clone());
            let on_bytes = move |more| {
                sum.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
                bar.inc(more);
            };
            // The type is that of the whole, named when the upload was started.
            let part = FileToPut { bytes: file.take(size), size, media_type: None };
            let sent = put(self.client.uploads(), url.clone(), part, UploadTimeouts::default(), on_bytes);
            let error = match sent.await {
                Ok(Some(tag)) => return Ok(tag),
                Ok(None) => return Err(PutError::Broken("storage returned no entity tag for a part".into())),
                Err(error) => error,
            };
            tries += 1;
            if tries == TRIES
                || matches!(error, PutError::Refused(StatusCode::FORBIDDEN | StatusCode::NOT_FOUND))
            {
                return Err(error);
            }
            tracing::debug!(part = number, %error, tries, "could not send a part; retrying");
            self.bar.dec(told.load(std::sync::atomic::Ordering::Relaxed));
            tokio::time::sleep(backoff::full_jitter(
                tries,
                Duration::from_millis(500),
                Duration::from_secs(20),
            ))
            .await;
        }
    }
}

/// The id in an `InitiateMultipartUploadResult`.
///
/// Not by rusty-s3's `parse_response`, which requires the namespace of S3 and that name of the root: Backblaze B2 and
/// versitygw leave the namespace out, and LocalStack and moto have had releases with another root. Its `body` of the
/// request that completes an upload needs a bucket, of which a client of presigned addresses knows nothing.
pub(super) fn upload_id(xml: &str) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) if element.local_name().as_ref() == b"UploadId" => {
                let text = reader.read_text(element.name()).ok()?.decode().ok()?.into_owned();
                let id = unescape(&text).ok()?.trim().to_owned();
                return Some(id).filter(|id| !id.is_empty());
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html>
fn complete_body(tags: &[(u16, String)]) -> String {
    let parts = tags.iter().map(|(number, tag)| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", escape(tag))
    });
    let parts: String = parts.collect();
    format!(
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipart_xml_is_parsed_and_written_as_s3_defines() {
        let of = |namespace: &str, id: &str| {
            upload_id(&format!(
                "<?xml version=\"1.0\"?>\n<InitiateMultipartUploadResult{namespace}><Bucket>input</Bucket>\
                 <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ))
        };
        for namespace in ["", " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""] {
            assert_eq!(of(namespace, "a&amp;b").as_deref(), Some("a&b"));
            assert_eq!(of(namespace, " a&#43;b\n").as_deref(), Some("a+b"));
            assert_eq!(of(namespace, ""), None);
        }
        for other in ["<Error/>", "<UploadId>a", "", "hello"] {
            assert_eq!(upload_id(other), None, "{other}");
        }
        let body = complete_body(&[(1, "\"x\"".into()), (2, "y".into())]);
        assert!(body.contains(
            "<Part><PartNumber>1</PartNumber><ETag>&quot;x&quot;</ETag></Part><Part><PartNumber>2<"
        ));
    }
}
