//! S3's multipart upload for large videos: parts are sent in parallel, and each can be retried alone. The client
//! talks to storage directly; the API only signs its requests, so it makes no request to storage, and the Worker does
//! the same as a process. Storage's event, or the client, reports the end of the upload.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html>

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::auth::Caller;
use super::extract::{Body, Fields, parse_job_id};
use super::{AppState, Problem, RequestOrigin};
use crate::job::{Input, Job, JobId, Millis, ObjectKey, State as JobState};
use crate::queue::UploadedInput;
use crate::storage::urls::{now_millis, upload_ends};
use crate::storage::{Bucket, MediaType, ObjectInfo, layout};

/// Minimum size of a part, bytes. S3 accepts parts from 5 MiB on, and R2 wants all parts but the last to have one
/// size.
const LEAST_PART: u64 = 16 << 20;
/// Maximum number of parts of an upload. S3 and R2 accept 10,000.
const MOST_PARTS: u64 = 10_000;
/// Maximum number of addresses per request.
const MAX_ADDRESSES: usize = 100;
/// Maximum length of an upload id, characters. R2's have about 350.
const LONGEST_ID: usize = 2048;

/// How to upload the video in parts, as an alternative to the single `uploadUrl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MultipartUpload")]
pub struct Multipart {
    /// POST to this URL without a body to start; the XML of the response contains the `UploadId`.
    pub start_url: Url,
    /// Size in bytes of each part but the last.
    pub part_size: u64,
}

/// `POST /api/jobs/{id}/parts`
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "PartsRequest", extend("required" = ["uploadId"]))]
pub struct SignPartsRequest {
    /// The `UploadId` from storage.
    #[schemars(length(min = 1, max = LONGEST_ID))]
    pub upload_id: String,
    /// The numbers of the parts, counted from 1, at most 100 per request.
    #[schemars(length(max = MAX_ADDRESSES), inner(range(min = 1, max = MOST_PARTS)))]
    pub part_numbers: Vec<u16>,
}

impl Fields for SignPartsRequest {
    const OWN: &'static [&'static str] = &["uploadId", "partNumbers"];
    const COMMON: &'static [&'static str] = &[];
}

/// The URL of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartAddress {
    /// The number of the part.
    #[schemars(range(min = 1, max = MOST_PARTS))]
    pub part_number: u16,
    /// PUT the part to this URL; the `ETag` of the response is needed to complete the upload.
    pub url: Url,
}

/// The URLs of parts, and those that complete or abort the upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PartsResponse")]
pub struct SignedParts {
    /// The parts, in the order of the request.
    pub parts: Vec<PartAddress>,
    /// POST the XML of S3's `CompleteMultipartUpload` to this URL once all parts are uploaded.
    pub complete_url: Url,
    /// DELETE this URL to abort the upload.
    pub abort_url: Url,
    /// When these URLs expire.
    pub expires_at: Millis,
}

/// The size of the parts of a video of `size` bytes, or `None` if one part is enough.
fn part_size(size: u64) -> Option<u64> {
    const MIB: u64 = 1 << 20;
    let size_of_parts = LEAST_PART.max(size.div_ceil(MOST_PARTS).div_ceil(MIB) * MIB);
    (size > size_of_parts).then_some(size_of_parts)
}

/// The sizes of the parts of a video, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PartSizes {
    total: u64,
    /// The size of each but the last.
    each: u64,
}

impl PartSizes {
    /// Those of a video of `total` bytes, which may be so small that one part is enough.
    fn of(total: u64) -> Self {
        Self { total, each: part_size(total).unwrap_or(LEAST_PART) }
    }

    /// The number of parts.
    const fn count(self) -> u64 {
        self.total.div_ceil(self.each)
    }

    /// The size of part `number`, counted from 1; `None` if there is no such part.
    fn get(self, number: u16) -> Option<u64> {
        let from = u64::from(number).checked_sub(1)? * self.each;
        self.total.checked_sub(from).filter(|rest| *rest > 0).map(|rest| rest.min(self.each))
    }
}

impl AppState {
    /// How to send a video of `size` bytes in parts, or `None` if one part is enough.
    pub(super) fn multipart(
        &self,
        key: &ObjectKey,
        size: Option<u64>,
        media_type: Option<&MediaType>,
        now: Millis,
    ) -> Result<Option<Multipart>, Problem> {
        let Some(part_size) = size.and_then(part_size) else { return Ok(None) };
        let start_url = self.links.upload_start(key, media_type, now);
        let start_url = start_url.map_err(|e| Problem::unavailable(e.to_string()))?;
        Ok(Some(Multipart { start_url, part_size }))
    }

    /// The job, and the key of its upload, if the job is one that waits for an upload or did, and the caller may upload it.
    async fn awaited_upload(&self, caller: &Caller, id: JobId) -> Result<(ObjectKey, Job), Problem> {
        let job = self.queue.get(id).await?.ok_or_else(Problem::no_such_job)?;
        caller.may_change(&job)?;
        match &job.spec.input {
            Input::Key(key) if layout::job_of_input_key(key) == Some(id) => Ok((key.clone(), job)),
            _ => Err(Problem::conflict("this job was created for an existing video; it needs no upload")),
        }
    }
}

/// `POST /api/jobs/{id}/parts`
pub(crate) async fn sign(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    Body(wanted): Body<SignPartsRequest>,
) -> Result<Json<SignedParts>, Problem> {
    let id = parse_job_id(id)?;
    if wanted.upload_id.is_empty() || wanted.upload_id.len() > LONGEST_ID {
        let detail = "send the UploadId from the XML that storage returned for the POST to startUrl";
        return Err(Problem::field("uploadId", detail));
    }
    if wanted.part_numbers.len() > MAX_ADDRESSES {
        return Err(Problem::field("partNumbers", "at most 100 at a time; request the others separately"));
    }
    if let Some(at) = wanted.part_numbers.iter().position(|n| !(1..=MOST_PARTS).contains(&u64::from(*n))) {
        return Err(Problem::field(format!("partNumbers[{at}]"), "part numbers range from 1 to 10000"));
    }
    let (key, job) = app.awaited_upload(&caller, id).await?;
    if job.status != JobState::Uploading {
        return Err(Problem::conflict(format!("the job is {} and does not wait for an upload", job.status)));
    }
    let now = now_millis();
    let unsigned = |e: crate::storage::presign::PresignError| Problem::unavailable(e.to_string());
    let part = |(at, number): (usize, &u16)| {
        let size = match job.spec.file_size {
            Some(total) => {
                let parts = PartSizes::of(total);
                let beyond = || {
                    let detail = format!("the video has {} parts of {} bytes", parts.count(), parts.each);
                    Problem::field(format!("partNumbers[{at}]"), detail)
                };
                Some(parts.get(*number).ok_or_else(beyond)?)
            }
            None => None,
        };
        let url = app.links.upload_part(&key, &wanted.upload_id, *number, size, now).map_err(unsigned)?;
        Ok(PartAddress { part_number: *number, url })
    };
    let parts = wanted.part_numbers.iter().enumerate().map(part).collect::<Result<_, Problem>>()?;
    let (complete_url, abort_url) = app.links.upload_end(&key, &wanted.upload_id, now).map_err(unsigned)?;
    Ok(Json(SignedParts { parts, complete_url, abort_url, expires_at: upload_ends(now) }))
}

/// `POST /api/jobs/{id}/uploaded`: the client reports its upload, if storage does not.
pub(crate) async fn uploaded(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    origin: RequestOrigin,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Job>, Problem> {
    let id = parse_job_id(id)?;
    let (key, job) = app.awaited_upload(&caller, id).await?;
    if job.status == JobState::Uploading || job.status == JobState::Failed {
        let found = app.storage.head(Bucket::Input, &key).await;
        match found.map_err(|e| Problem::unavailable(e.to_string()))? {
            Some(ObjectInfo { size, etag }) => {
                app.queue.uploaded(&UploadedInput { job: id, key, size, etag }).await?;
            }
            None if job.status == JobState::Failed => {}
            None => {
                let detail = "its video is not in the bucket; PUT it to the uploadUrl first, or complete the \
                              upload of its parts";
                return Err(Problem::conflict(detail));
            }
        }
    }
    Ok(Json(app.read(&caller, id, &origin).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MAX_OBJECT_BYTES;

    #[test]
    fn part_sizes_add_up_to_the_video() {
        for total in [1, LEAST_PART, LEAST_PART + 1, 5 * LEAST_PART, (160_000 << 20) + 1] {
            let parts = PartSizes::of(total);
            let count = u16::try_from(parts.count()).unwrap();
            let sizes: Vec<u64> = (1..=count).filter_map(|number| parts.get(number)).collect();
            assert_eq!((sizes.len(), sizes.iter().sum::<u64>()), (usize::from(count), total));
            let (last, others) = sizes.split_last().unwrap();
            assert!(others.iter().all(|size| *size == parts.each) && *last <= parts.each, "{total}");
            assert_eq!((parts.get(0), parts.get(count + 1)), (None, None), "{total}");
        }
        assert_eq!(PartSizes::of(0).get(1), None);
    }

    #[test]
    fn part_size_respects_minimum_and_number_of_parts() {
        assert_eq!(part_size(0), None);
        assert_eq!(part_size(LEAST_PART), None);
        assert_eq!(part_size(LEAST_PART + 1), Some(LEAST_PART));
        for size in
            [1 << 30, 100 << 30, 160_000 << 20, (160_000 << 20) + 1, MAX_OBJECT_BYTES - 1, MAX_OBJECT_BYTES]
        {
            let part = part_size(size).unwrap();
            assert!(size.div_ceil(part) <= MOST_PARTS, "{size}: {part}");
            assert!(part >= LEAST_PART && part.is_multiple_of(1 << 20) && part <= 5 << 30, "{size}: {part}");
        }
    }
}
