//! Operations on one object: put, get, head, copy and delete.

use std::ops::Range;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::access::check_key;
use super::body;
use super::checksum::{Announced, checksum_of, set_checksum};
use super::conditions::{ReadConditions, Unmet, WriteConditions};
use super::events::Change;
use super::record::{self, Data, Headers, Part, headers_of};
use super::store::{Found, Store, now};

/// Maximum size of user metadata that R2 accepts, bytes of names and values.
const METADATA: usize = 8192;
/// The content type of an object without one.
const NO_TYPE: &str = "application/octet-stream";

/// The fields of a response that describe an object.
macro_rules! describe {
    ($into:expr, $object:expr) => {
        let headers = &$object.headers;
        $into.accept_ranges = Some("bytes".to_owned());
        $into.e_tag = Some(ETag::Strong($object.etag.clone()));
        $into.last_modified = Some(date($object.modified));
        $into.content_type = headers.content_type.clone().or_else(|| Some(NO_TYPE.to_owned()));
        $into.content_encoding = headers.content_encoding.clone();
        $into.content_disposition = headers.content_disposition.clone();
        $into.content_language = headers.content_language.clone();
        $into.cache_control = headers.cache_control.clone();
        $into.expires = headers.expires.clone();
        $into.metadata = headers.metadata();
    };
}
pub(super) async fn put(
    store: &Store,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let input = &mut request.input;
    refuse_encryption(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    if input.write_offset_bytes.is_some() {
        return Err(s3_error!(NotImplemented, "an object cannot be appended to"));
    }
    let headers = headers_of!(input);
    check_metadata(&headers)?;
    let announced = Announced::new(
        md5_header(&request.headers)?,
        checksum_of!(input)?,
        input.checksum_algorithm.as_ref(),
    )?;
    let length = body::announced_length(input.content_length, &request.headers)?;
    let conditions =
        WriteConditions { if_match: input.if_match.take(), if_none_match: input.if_none_match.take() };
    let (bucket, key, incoming) = (input.bucket.clone(), input.key.clone(), input.body.take());
    let place = store.events.reserve(&bucket).await?;
    let (trailers, working) = (request.trailing_headers, store.clone());
    let object = store
        .to_the_end(async move {
            let store = working;
            let (draft, digests) = body::receive(&store.blobs, incoming, length, announced.algorithm).await?;
            announced.verify(&digests, trailers.as_ref())?;
            let object = record::Object {
                size: length,
                etag: digests.etag(),
                modified: now(),
                checksum: digests.checksum,
                headers,
                data: Data::Blob(draft.id()),
            };
            commit(&store, vec![draft], &bucket, &key, &object, conditions).await?;
            if let Some(place) = place {
                let change = Change { action: "PutObject", bucket: &bucket, key: &key, copy_source: None };
                place.send(&change, &object);
            }
            Ok(object)
        })
        .await?;
    let mut output = PutObjectOutput { e_tag: Some(ETag::Strong(object.etag)), ..Default::default() };
    set_checksum!(output, &object.checksum);
    output.checksum_type = object.checksum.map(|checksum| checksum.kind.dto());
    Ok(S3Response::new(output))
}

async fn commit(
    store: &Store,
    drafts: Vec<super::blobs::Draft>,
    bucket: &str,
    key: &str,
    object: &record::Object,
    conditions: WriteConditions,
) -> S3Result<()> {
    let (bucket, key, object) = (bucket.to_owned(), key.to_owned(), object.clone());
    store.commit(drafts, move |index| Ok(((), index.put(&bucket, &key, &object, &conditions)?))).await
}

/// The requested part of an object.
struct Selected {
    range: Range<u64>,
    /// For example `bytes 3-5/6`; `None` if it is the whole object.
    content_range: Option<String>,
    parts_count: Option<i32>,
}

pub(super) async fn get(
    store: &Store,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = &request.input;
    if request.credentials.is_none() && overrides_headers(input) {
        // Only the holder of the key may set the headers of a response, not everybody who follows a public link.
        let text = "Request specific response headers cannot be used for anonymous GET requests.";
        return Err(s3_error!(InvalidRequest, "{text}"));
    }
    check_version(input.version_id.as_deref())?;
    let found = store.find(&input.bucket, &input.key).await?;
    let conditions = ReadConditions {
        if_match: input.if_match.clone(),
        if_none_match: input.if_none_match.clone(),
        if_modified_since: input.if_modified_since.clone(),
        if_unmodified_since: input.if_unmodified_since.clone(),
    };
    conditions
        .check(&found.object.etag, found.object.modified)
        .map_err(|unmet| answer_to(unmet, &found.object))?;
    let range = input.range.filter(|_| if_range_holds(&request.headers, &found.object));
    let selected = select(&found, range, input.part_number)?;
    let Found { object, files, hold } = found;
    let whole = selected.content_range.is_none();
    let body = body::read(&store.blobs, hold, files, selected.range.clone()).await?;
    let mut output = GetObjectOutput {
        body: Some(StreamingBlob::wrap(body)),
        content_length: Some(length(&selected.range)),
        content_range: selected.content_range,
        parts_count: selected.parts_count,
        ..Default::default()
    };
    describe!(output, object);
    if whole && input.checksum_mode.is_some() {
        set_checksum!(output, &object.checksum);
        output.checksum_type = object.checksum.map(|checksum| checksum.kind.dto());
    }
    Ok(S3Response::new(output))
}

pub(super) async fn head(
    store: &Store,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = request.input;
    check_version(input.version_id.as_deref())?;
    let found = store.find(&input.bucket, &input.key).await?;
    let conditions = ReadConditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    conditions
        .check(&found.object.etag, found.object.modified)
        .map_err(|unmet| answer_to(unmet, &found.object))?;
    // A range applies only to GET (RFC 9110, 14.2).
    let selected = select(&found, None, input.part_number)?;
    let object = found.object;
    let mut output = HeadObjectOutput {
        content_length: Some(length(&selected.range)),
        parts_count: selected.parts_count,
        ..Default::default()
    };
    describe!(output, object);
    if input.checksum_mode.is_some() {
        set_checksum!(output, &object.checksum);
        output.checksum_type = object.checksum.map(|checksum| checksum.kind.dto());
    }
    Ok(S3Response::new(output))
}

fn overrides_headers(input: &GetObjectInput) -> bool {
    input.response_cache_control.is_some()
        || input.response_content_disposition.is_some()
        || input.response_content_encoding.is_some()
        || input.response_content_language.is_some()
        || input.response_content_type.is_some()
        || input.response_expires.is_some()
}

/// Whether the object is still the one of which the client has a part (RFC 9110, 13.1.5).
fn if_range_holds(headers: &HeaderMap, object: &record::Object) -> bool {
    let Some(value) = headers.get(header::IF_RANGE).map(|value| value.to_str().unwrap_or_default()) else {
        return true;
    };
    match value.parse() {
        Ok(ETag::Strong(tag)) if value.starts_with('"') => tag == object.etag,
        _ => http_date(object.modified).as_deref() == Some(value),
    }
}

fn select(found: &Found, range: Option<s3s::dto::Range>, part: Option<i32>) -> S3Result<Selected> {
    let size = found.object.size;
    let (range, parts_count) = match (range, part) {
        (Some(_), Some(_)) => {
            return Err(s3_error!(
                InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter"
            ));
        }
        (None, None) => return Ok(Selected { range: 0..size, content_range: None, parts_count: None }),
        (Some(range), None) => {
            let range = range.check(size).ok().filter(|range| !range.is_empty());
            (range.ok_or_else(|| out_of_range(size))?, None)
        }
        (None, Some(number)) => {
            let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            let part = index.and_then(|index| Some((index, found.files.get(index)?.1)));
            let (index, length) = part.ok_or_else(no_such_part)?;
            let start: u64 = found.files.iter().take(index).map(|(_, size)| size).sum();
            let count = match found.object.data {
                Data::Blob(_) => None,
                Data::Parts { count, .. } => i32::try_from(count).ok(),
            };
            if length == size {
                return Ok(Selected { range: 0..size, content_range: None, parts_count: count });
            }
            (start..start + length, count)
        }
    };
    let content_range = Some(format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)));
    Ok(Selected { range, content_range, parts_count })
}

fn length(range: &Range<u64>) -> i64 {
    i64::try_from(range.end - range.start).unwrap_or(i64::MAX)
}

fn no_such_part() -> S3Error {
    let code = S3ErrorCode::Custom("InvalidPartNumber".into());
    let mut error = S3Error::with_message(code, "The requested partnumber is not satisfiable");
    error.set_status_code(axum::http::StatusCode::RANGE_NOT_SATISFIABLE);
    error
}

fn out_of_range(size: u64) -> S3Error {
    let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
    error.set_headers(headers([
        (header::CONTENT_RANGE, Some(format!("bytes */{size}"))),
        (header::CONTENT_TYPE, Some("application/xml".to_owned())),
    ]));
    error
}

fn answer_to(unmet: Unmet, object: &record::Object) -> S3Error {
    match unmet {
        Unmet::PreconditionFailed => {
            s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
        }
        Unmet::NotModified => {
            let mut error = s3_error!(NotModified);
            error.set_headers(headers([
                (header::ETAG, Some(format!("\"{}\"", object.etag))),
                (header::LAST_MODIFIED, http_date(object.modified)),
                (header::CACHE_CONTROL, object.headers.cache_control.clone()),
            ]));
            error
        }
    }
}

fn headers<const N: usize>(values: [(HeaderName, Option<String>); N]) -> HeaderMap {
    let set =
        values.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value?).ok()?)));
    set.collect()
}

pub(super) fn date(milliseconds: u64) -> Timestamp {
    (std::time::UNIX_EPOCH + std::time::Duration::from_millis(milliseconds)).into()
}

fn http_date(milliseconds: u64) -> Option<String> {
    let mut text = Vec::new();
    date(milliseconds).format(TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

/// The original of a copy, if it meets the conditions of the copy.
pub(super) async fn copy_source(
    store: &Store,
    source: &CopySource,
    conditions: &ReadConditions,
) -> S3Result<(String, String, Found)> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(s3_error!(NotImplemented, "the source of a copy must be bucket/key"));
    };
    check_version(version_id.as_deref())?;
    check_key(key)?;
    if !store.index.has_bucket(bucket)? {
        return Err(s3_error!(NoSuchBucket));
    }
    let found = store.find(bucket, key).await?;
    let unmet = conditions.check(&found.object.etag, found.object.modified);
    unmet.map_err(|_| answer_to(Unmet::PreconditionFailed, &found.object))?;
    Ok((bucket.to_string(), key.to_string(), found))
}

pub(super) async fn copy(
    store: &Store,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let input = request.input;
    refuse_encryption(
        input.sse_customer_algorithm.is_some() || input.copy_source_sse_customer_algorithm.is_some(),
    )?;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match.clone(),
        if_none_match: input.copy_source_if_none_match.clone(),
        if_modified_since: input.copy_source_if_modified_since.clone(),
        if_unmodified_since: input.copy_source_if_unmodified_since.clone(),
    };
    let (from, source, found) = copy_source(store, &input.copy_source, &conditions).await?;
    let replaces = input
        .metadata_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    if !replaces && from == bucket && source == key {
        let text = "This copy request is illegal because it is trying to copy an object to itself without \
                    changing the object's metadata.";
        return Err(s3_error!(InvalidRequest, "{text}"));
    }
    let headers = if replaces { headers_of!(input) } else { found.object.headers.clone() };
    check_metadata(&headers)?;
    let place = store.events.reserve(&bucket).await?;
    let working = store.clone();
    let object = store
        .to_the_end(async move {
            let store = working;
            let object = duplicate(&store, &bucket, &key, found, headers).await?;
            if let Some(place) = place {
                let copy_source = Some((&*from, &*source));
                place
                    .send(&Change { action: "CopyObject", bucket: &bucket, key: &key, copy_source }, &object);
            }
            Ok(object)
        })
        .await?;
    let mut result = CopyObjectResult {
        e_tag: Some(ETag::Strong(object.etag)),
        last_modified: Some(date(object.modified)),
        ..Default::default()
    };
    set_checksum!(result, &object.checksum);
    result.checksum_type = object.checksum.map(|checksum| checksum.kind.dto());
    Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
}

/// Stores a second object with the same bytes.
async fn duplicate(
    store: &Store,
    bucket: &str,
    key: &str,
    found: Found,
    headers: Headers,
) -> S3Result<record::Object> {
    let Found { object: original, files, hold } = found;
    let (blobs, index) = (store.blobs.clone(), store.index.clone());
    let old_parts = match &original.data {
        Data::Blob(_) => Vec::new(),
        Data::Parts { upload, .. } => index.parts(upload, 0)?,
    };
    let drafts = body::on_disk(move || {
        let mut drafts = Vec::new();
        for (blob, _) in files {
            let draft = blobs.duplicate(blob)?;
            draft.sync()?;
            drafts.push(draft);
        }
        drop(hold);
        Ok(drafts)
    })
    .await?;
    let parts: Vec<Part> = old_parts
        .into_iter()
        .zip(&drafts)
        .map(|((_, part), draft)| Part { blob: draft.id(), ..part })
        .collect();
    let data = match (&original.data, drafts.first()) {
        (Data::Blob(_), Some(draft)) => Data::Blob(draft.id()),
        (Data::Parts { count, .. }, _) => {
            Data::Parts { upload: uuid::Uuid::now_v7().simple().to_string(), count: *count }
        }
        (Data::Blob(_), None) => return Err(s3_error!(InternalError)),
    };
    let object = record::Object { modified: now(), headers, data, ..original };
    let (bucket, key, put) = (bucket.to_owned(), key.to_owned(), object.clone());
    store.commit(drafts, move |index| Ok(((), index.put_with_parts(&bucket, &key, &put, &parts)?))).await?;
    Ok(object)
}

pub(super) async fn delete(
    store: &Store,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let DeleteObjectInput { bucket, key, if_match, version_id, .. } = request.input;
    check_version(version_id.as_deref())?;
    let conditions = WriteConditions { if_match, if_none_match: None };
    let mut results = store
        .commit(Vec::new(), move |index| index.delete(&bucket, [(&*key, conditions)].into_iter()))
        .await?;
    results.pop().unwrap_or(Ok(()))?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

pub(super) async fn delete_many(
    store: &Store,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let DeleteObjectsInput { bucket, delete, .. } = request.input;
    if delete.objects.is_empty() || delete.objects.len() > 1000 {
        return Err(s3_error!(MalformedXML, "a request must delete 1 to 1000 objects"));
    }
    for object in &delete.objects {
        check_key(&object.key)?;
        check_version(object.version_id.as_deref())?;
    }
    let objects = delete.objects.clone();
    let results = store
        .commit(Vec::new(), move |index| {
            let keys = objects.iter().map(|object| {
                let if_match = object.e_tag.clone().map(ETagCondition::ETag);
                (&*object.key, WriteConditions { if_match, if_none_match: None })
            });
            index.delete(&bucket, keys)
        })
        .await?;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (object, result) in delete.objects.into_iter().zip(results) {
        let key = Some(object.key);
        match result {
            Ok(()) if delete.quiet == Some(true) => {}
            Ok(()) => deleted.push(DeletedObject { key, ..Default::default() }),
            Err(error) => errors.push(Error {
                key,
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
                version_id: None,
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        ..Default::default()
    }))
}

/// The header Content-MD5; s3s ignores an empty one.
pub(super) fn md5_header(headers: &HeaderMap) -> S3Result<Option<&str>> {
    match headers.get("content-md5").map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid.")),
    }
}

pub(super) fn check_metadata(headers: &Headers) -> S3Result<()> {
    let bytes: usize = headers.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA {
        return Err(s3_error!(MetadataTooLarge, "user metadata is {METADATA} bytes at most"));
    }
    Ok(())
}

/// Storing unencrypted what a client wants encrypted would be worse than refusing it.
pub(super) fn refuse_encryption(asked: bool) -> S3Result<()> {
    if asked {
        Err(s3_error!(NotImplemented, "objects are not encrypted with a client's keys"))
    } else {
        Ok(())
    }
}

/// Buckets have no versions; S3 calls the only version "null".
fn check_version(id: Option<&str>) -> S3Result<()> {
    match id {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "buckets have no versions here")),
    }
}
