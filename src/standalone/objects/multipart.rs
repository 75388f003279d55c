//! Multipart uploads.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use uuid::Uuid;

use super::blobs::Draft;
use super::body;
use super::checksum::{
    Algorithm, Announced, Digests, Kind, bad_checksum, checksum_of, checksum_of_parts, etag_of_parts,
    set_checksum,
};
use super::conditions::{ReadConditions, WriteConditions};
use super::events::Change;
use super::index::{Completed, Completion};
use super::internal;
use super::object::{check_metadata, copy_source, date, md5_header, refuse_encryption};
use super::record::{self, Data, Upload, headers_of};
use super::store::{Store, now};

/// Minimum size of all parts but the last one, bytes.
const SMALLEST: u64 = 5 << 20;
const MOST_PARTS: u16 = 10_000;

pub(super) async fn create(
    store: &Store,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = request.input;
    refuse_encryption(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let headers = headers_of!(input);
    check_metadata(&headers)?;
    let checksum = match &input.checksum_algorithm {
        None => None,
        Some(algorithm) => {
            let algorithm = Algorithm::parse(algorithm)?;
            Some((algorithm, Kind::parse(input.checksum_type.as_ref(), algorithm)?))
        }
    };
    let upload = Upload { initiated: now(), headers, checksum };
    // These ids sort by the time of their creation.
    let id = Uuid::now_v7().simple().to_string();
    let (bucket, key, upload_id) = (input.bucket.clone(), input.key.clone(), id.clone());
    store.blocking(move |store| store.index.create_upload(&bucket, &key, &upload_id, &upload)).await?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm: checksum.map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: checksum.map(|(_, kind)| kind.dto()),
        ..Default::default()
    }))
}

pub(super) async fn upload_part(
    store: &Store,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let input = &mut request.input;
    refuse_encryption(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let number = part_number(input.part_number)?;
    let mut announced = Announced::new(
        md5_header(&request.headers)?,
        checksum_of!(input)?,
        input.checksum_algorithm.as_ref(),
    )?;
    let length = body::announced_length(input.content_length, &request.headers)?;
    let upload = upload_of(store, &input.bucket, &input.key, &input.upload_id).await?;
    announced.algorithm = algorithm_of_part(&upload, announced.algorithm)?;
    let incoming = input.body.take();
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
    let (trailers, working) = (request.trailing_headers, store.clone());
    let part = store
        .to_the_end(async move {
            let store = working;
            let (draft, digests) = body::receive(&store.blobs, incoming, length, announced.algorithm).await?;
            announced.verify(&digests, trailers.as_ref())?;
            put_part(&store, (bucket, key, id, number), draft, digests, length).await
        })
        .await?;
    let mut output = UploadPartOutput { e_tag: Some(ETag::Strong(part.etag)), ..Default::default() };
    set_checksum!(output, &part.checksum);
    Ok(S3Response::new(output))
}

/// Stores the bytes of `draft` as part `number` of the upload `id`.
async fn put_part(
    store: &Store,
    (bucket, key, id, number): (String, String, String, u16),
    draft: Draft,
    digests: Digests,
    size: u64,
) -> S3Result<record::Part> {
    let part = record::Part {
        blob: draft.id(),
        size,
        etag: digests.etag(),
        modified: now(),
        checksum: digests.checksum,
    };
    let put = part.clone();
    store
        .commit(vec![draft], move |index| Ok(((), index.put_part(&bucket, &key, &id, number, &put)?)))
        .await?;
    Ok(part)
}

pub(super) async fn upload_part_copy(
    store: &Store,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    refuse_encryption(
        input.sse_customer_algorithm.is_some() || input.copy_source_sse_customer_algorithm.is_some(),
    )?;
    let number = part_number(input.part_number)?;
    let upload = upload_of(store, &input.bucket, &input.key, &input.upload_id).await?;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let (_, _, found) = copy_source(store, &input.copy_source, &conditions).await?;
    let size = found.object.size;
    let range = match &input.copy_source_range {
        None => 0..size,
        Some(text) => match Range::parse(text) {
            Ok(Range::Int { first, last: Some(last) }) if last < size => first..last + 1,
            Ok(Range::Int { last: Some(_), .. }) => {
                return Err(s3_error!(
                    InvalidRange,
                    "the range {text} is not in the {size} bytes of the source"
                ));
            }
            _ => {
                return Err(s3_error!(
                    InvalidArgument,
                    "The x-amz-copy-source-range value must be of the form bytes=first-last"
                ));
            }
        },
    };
    let algorithm = algorithm_of_part(&upload, None)?;
    let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
    let working = store.clone();
    let part = store
        .to_the_end(async move {
            let store = working;
            let length = range.end - range.start;
            let bytes = body::read(&store.blobs, found.hold, found.files, range).await?;
            let (draft, digests) = body::write(&store.blobs, bytes.map_err(internal), algorithm).await?;
            put_part(&store, (bucket, key, id, number), draft, digests, length).await
        })
        .await?;
    let mut result = CopyPartResult {
        e_tag: Some(ETag::Strong(part.etag)),
        last_modified: Some(date(part.modified)),
        ..Default::default()
    };
    set_checksum!(result, &part.checksum);
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
}

pub(super) async fn complete(
    store: &Store,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    let asked = Asked {
        checksum: checksum_of!(input)?,
        size: input.mpu_object_size.and_then(|size| u64::try_from(size).ok()),
        parts: input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default(),
    };
    let conditions = WriteConditions { if_match: input.if_match, if_none_match: input.if_none_match };
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id);
    let place = store.events.reserve(&bucket).await?;
    let working = store.clone();
    let object = store
        .to_the_end(async move {
            let store = working;
            let (to_bucket, to_key) = (bucket.clone(), key.clone());
            let done = store
                .blocking(move |store| {
                    let assembled = |upload: Upload, stored: &[(u16, record::Part)]| {
                        assemble(&id, upload, stored, &asked, now())
                    };
                    let done = store.index.complete(&to_bucket, &to_key, &id, &conditions, assembled)?;
                    if let Completed::Now(_, freed) = &done {
                        store.blobs.remove(&freed.0);
                    }
                    Ok(done)
                })
                .await?;
            let object = match done {
                Completed::Before(object) => return Ok(object),
                Completed::Now(object, _) => object,
            };
            if let Some(place) = place {
                let action = "CompleteMultipartUpload";
                place.send(&Change { action, bucket: &bucket, key: &key, copy_source: None }, &object);
            }
            Ok(object)
        })
        .await?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(ETag::Strong(object.etag)),
        ..Default::default()
    };
    set_checksum!(output, &object.checksum);
    output.checksum_type = object.checksum.map(|checksum| checksum.kind.dto());
    Ok(S3Response::new(output))
}

/// The object that the client expects.
struct Asked {
    checksum: Option<(Algorithm, String)>,
    /// The size in bytes.
    size: Option<u64>,
    parts: Vec<CompletedPart>,
}

/// Builds the object from the parts, if they match the client's request.
fn assemble(
    id: &str,
    upload: Upload,
    stored: &[(u16, record::Part)],
    asked: &Asked,
    now: u64,
) -> S3Result<Completion> {
    if asked.parts.is_empty() {
        return Err(s3_error!(MalformedXML, "completing an upload requires a list of its parts"));
    }
    let stored: BTreeMap<u16, &record::Part> = stored.iter().map(|(number, part)| (*number, part)).collect();
    let mut parts: Vec<(u16, &record::Part)> = Vec::new();
    for listed in &asked.parts {
        let number = listed.part_number.ok_or_else(|| s3_error!(MalformedXML, "a part has no number"))?;
        let number = part_number(number)?;
        if parts.last().is_some_and(|(last, _)| *last >= number) {
            return Err(s3_error!(InvalidPartOrder, "the list of parts was not in ascending order"));
        }
        let part = stored
            .get(&number)
            .filter(|part| listed.e_tag.as_ref().is_some_and(|tag| tag.value() == part.etag));
        let part = part.ok_or_else(|| {
            s3_error!(InvalidPart, "part {number} was not uploaded, or its entity tag differs")
        })?;
        if let (Some((algorithm, value)), Some(checksum)) = (checksum_of!(listed)?, &part.checksum)
            && (algorithm != checksum.algorithm || value != checksum.value)
        {
            return Err(s3_error!(InvalidPart, "the checksum of part {number} differs"));
        }
        parts.push((number, part));
    }
    if let Some((number, part)) = parts.iter().rev().skip(1).find(|(_, part)| part.size < SMALLEST) {
        return Err(s3_error!(
            EntityTooSmall,
            "part {number} has {} bytes; all parts but the last need at least 5 MiB",
            part.size
        ));
    }
    let size = parts.iter().map(|(_, part)| part.size).sum();
    if asked.size.is_some_and(|asked| asked != size) {
        return Err(s3_error!(
            InvalidRequest,
            "the parts have {size} bytes together, not as many as announced"
        ));
    }
    let checksum = upload.checksum.and_then(|(algorithm, kind)| {
        let sums: Vec<_> = parts.iter().map(|(_, part)| (part.checksum.as_ref(), part.size)).collect();
        checksum_of_parts(algorithm, kind, &sums)
    });
    if let (Some((algorithm, value)), Some(checksum)) = (&asked.checksum, &checksum) {
        // A composite checksum may lack the number of parts.
        let same = *value == checksum.value || checksum.value.starts_with(&format!("{value}-"));
        if *algorithm != checksum.algorithm || !same {
            return Err(bad_checksum(*algorithm));
        }
    }
    let etags: Vec<&str> = parts.iter().map(|(_, part)| &*part.etag).collect();
    let object = record::Object {
        size,
        etag: etag_of_parts(etags.into_iter()),
        modified: now,
        checksum,
        headers: upload.headers,
        data: Data::Parts { upload: id.to_owned(), count: u32::try_from(parts.len()).unwrap_or(u32::MAX) },
    };
    Ok(Completion { object, parts: parts.into_iter().map(|(number, _)| number).collect() })
}

pub(super) async fn abort(
    store: &Store,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let AbortMultipartUploadInput { bucket, key, upload_id, .. } = request.input;
    store.commit(Vec::new(), move |index| Ok(((), index.abort_upload(&bucket, &key, &upload_id)?))).await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) async fn upload_of(store: &Store, bucket: &str, key: &str, id: &str) -> S3Result<Upload> {
    let (bucket, key, id) = (bucket.to_owned(), key.to_owned(), id.to_owned());
    store.blocking(move |store| store.index.upload(&bucket, &key, &id)).await
}

fn part_number(number: i32) -> S3Result<u16> {
    let number = u16::try_from(number).ok().filter(|number| (1..=MOST_PARTS).contains(number));
    number.ok_or_else(|| {
        s3_error!(InvalidArgument, "Part number must be an integer between 1 and {MOST_PARTS}, inclusive")
    })
}

/// The algorithm of a part's checksum: that of its upload.
fn algorithm_of_part(upload: &Upload, given: Option<Algorithm>) -> S3Result<Option<Algorithm>> {
    match (upload.checksum, given) {
        (Some((wanted, _)), Some(given)) if wanted != given => Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            wanted.name(),
            given.name()
        )),
        (Some((wanted, _)), _) => Ok(Some(wanted)),
        (None, given) => Ok(given),
    }
}

#[cfg(test)]
mod tests {
    use s3s::S3ErrorCode;

    use super::*;
    use crate::standalone::objects::blobs::BlobId;

    fn blob() -> BlobId {
        serde_json::from_value(Uuid::now_v7().to_string().into()).unwrap()
    }

    fn part(size: u64, etag: &str) -> record::Part {
        record::Part { blob: blob(), size, etag: etag.into(), modified: 0, checksum: None }
    }

    fn listed(number: i32, etag: &str) -> CompletedPart {
        let e_tag = Some(ETag::Strong(etag.into()));
        CompletedPart { part_number: Some(number), e_tag, ..Default::default() }
    }

    fn outcome(stored: &[(u16, record::Part)], parts: Vec<CompletedPart>) -> Result<Completion, S3ErrorCode> {
        let upload = Upload { initiated: 0, headers: record::Headers::default(), checksum: None };
        let asked = Asked { checksum: None, size: None, parts };
        assemble("id", upload, stored, &asked, 7).map_err(|error| error.code().clone())
    }

    const A: &str = "0cc175b9c0f1b6a831c399e269772661";
    const B: &str = "92eb5ffee6ae2fec3ad71c777531578f";

    #[test]
    fn assemble_accepts_gaps_in_part_numbers() {
        let stored = [(2, part(SMALLEST, A)), (5, part(1, B)), (10_000, part(3, B))];
        let done = outcome(&stored, vec![listed(2, A), listed(10_000, B)]).ok().unwrap();
        assert_eq!(done.parts, [2, 10_000]);
        assert_eq!(done.object.size, SMALLEST + 3);
        // md5sum of the bytes of the two tags, one after the other.
        assert_eq!(done.object.etag, "96e024ba2074fe77e8e965ba43a704be-2");
        assert_eq!(done.object.data, Data::Parts { upload: "id".into(), count: 2 });
    }

    #[test]
    fn assemble_rejects_invalid_part_lists_with_s3_codes() {
        let stored = [(1, part(SMALLEST, A)), (2, part(SMALLEST - 1, B)), (3, part(1, A))];
        for (parts, code) in [
            (vec![], S3ErrorCode::MalformedXML),
            (vec![listed(0, A)], S3ErrorCode::InvalidArgument),
            (vec![listed(10_001, A)], S3ErrorCode::InvalidArgument),
            (vec![listed(4, A)], S3ErrorCode::InvalidPart),
            (vec![listed(1, B)], S3ErrorCode::InvalidPart),
            (vec![CompletedPart { e_tag: None, ..listed(1, A) }], S3ErrorCode::InvalidPart),
            (vec![listed(2, B), listed(1, A)], S3ErrorCode::InvalidPartOrder),
            (vec![listed(1, A), listed(1, A)], S3ErrorCode::InvalidPartOrder),
            (vec![listed(1, A), listed(2, B), listed(3, A)], S3ErrorCode::EntityTooSmall),
        ] {
            assert_eq!(outcome(&stored, parts.clone()).err(), Some(code), "{parts:?}");
        }
    }
}
