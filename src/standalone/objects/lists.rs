//! Listings of objects (both versions), uploads, parts of an upload, and buckets.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::checksum::set_checksum;
use super::index::{Listed, split_upload_key, upload_key};
use super::listing::{Entry, Page, Query};
use super::multipart::upload_of;
use super::object::date;
use super::record;
use super::store::Store;

/// Maximum number of entries per page.
const PAGE: i32 = 1000;
/// The characters that `encoding-type=url` does not encode.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The encoding of keys in a response: XML cannot contain all of them unencoded.
#[derive(Clone, Copy)]
struct Encoding {
    url: bool,
}

impl Encoding {
    fn parse(given: Option<&EncodingType>) -> S3Result<Self> {
        match given.map(EncodingType::as_str) {
            None => Ok(Self { url: false }),
            Some(EncodingType::URL) => Ok(Self { url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    fn of(self, text: String) -> String {
        if self.url { utf8_percent_encode(&text, PLAIN).to_string() } else { text }
    }

    fn of_optional(self, text: Option<String>) -> Option<String> {
        text.map(|text| self.of(text))
    }

    fn dto(self) -> Option<EncodingType> {
        self.url.then(|| EncodingType::from_static(EncodingType::URL))
    }
}

fn limit(given: Option<i32>) -> S3Result<(i32, usize)> {
    let max = given.unwrap_or(PAGE).min(PAGE);
    let entries = usize::try_from(max);
    Ok((max, entries.map_err(|_| s3_error!(InvalidArgument, "the number of entries must not be negative"))?))
}

fn owner() -> Owner {
    Owner { id: Some("tcoder".to_owned()), display_name: Some("tcoder".to_owned()) }
}

async fn objects(
    store: &Store,
    bucket: String,
    prefix: String,
    delimiter: String,
    after: Vec<u8>,
    max: usize,
) -> S3Result<Page<Listed<record::Object>>> {
    store
        .blocking(move |store| {
            let query = Query { prefix: &prefix, delimiter: &delimiter, after: &after, marker: &after, max };
            store.index.list_objects(&bucket, query)
        })
        .await
}

fn entries(
    page: Page<Listed<record::Object>>,
    encoding: Encoding,
    with_owner: bool,
) -> (Vec<Object>, Vec<CommonPrefix>) {
    let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
    for entry in page.entries {
        match entry {
            Entry::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoding.of(prefix)) }),
            Entry::Row(Listed { key, value, .. }) => contents.push(Object {
                key: Some(encoding.of(key)),
                size: i64::try_from(value.size).ok(),
                e_tag: Some(ETag::Strong(value.etag)),
                last_modified: Some(date(value.modified)),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                owner: with_owner.then(owner),
                checksum_algorithm: value
                    .checksum
                    .as_ref()
                    .map(|checksum| vec![ChecksumAlgorithm::from_static(checksum.algorithm.name())]),
                checksum_type: value.checksum.map(|checksum| checksum.kind.dto()),
                ..Default::default()
            }),
        }
    }
    (contents, prefixes)
}

pub(super) async fn list_objects(
    store: &Store,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = request.input;
    let encoding = Encoding::parse(input.encoding_type.as_ref())?;
    let (max_keys, max) = limit(input.max_keys)?;
    let (prefix, delimiter) =
        (input.prefix.unwrap_or_default(), input.delimiter.filter(|text| !text.is_empty()));
    let marker = input.marker.unwrap_or_default();
    let page = objects(
        store,
        input.bucket.clone(),
        prefix.clone(),
        delimiter.clone().unwrap_or_default(),
        marker.clone().into_bytes(),
        max,
    )
    .await?;
    let next = page.next.clone().map(|next| String::from_utf8_lossy(&next).into_owned());
    let (contents, common_prefixes) = entries(page, encoding, true);
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoding.of(prefix)),
        marker: Some(encoding.of(marker)),
        max_keys: Some(max_keys),
        is_truncated: Some(next.is_some()),
        // Without a delimiter, the last key is the marker of the next page.
        next_marker: encoding.of_optional(next.filter(|_| delimiter.is_some())),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        delimiter: encoding.of_optional(delimiter),
        encoding_type: encoding.dto(),
        ..Default::default()
    }))
}

pub(super) async fn list_objects_v2(
    store: &Store,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    let encoding = Encoding::parse(input.encoding_type.as_ref())?;
    let (max_keys, max) = limit(input.max_keys)?;
    let (prefix, delimiter) =
        (input.prefix.unwrap_or_default(), input.delimiter.filter(|text| !text.is_empty()));
    let after = match &input.continuation_token {
        Some(token) => {
            let wrong = |_| s3_error!(InvalidArgument, "The continuation token provided is incorrect");
            URL_SAFE_NO_PAD.decode(token).map_err(wrong)?
        }
        None => input.start_after.clone().unwrap_or_default().into_bytes(),
    };
    let page = objects(
        store,
        input.bucket.clone(),
        prefix.clone(),
        delimiter.clone().unwrap_or_default(),
        after,
        max,
    )
    .await?;
    let next = page.next.as_ref().map(|next| URL_SAFE_NO_PAD.encode(next));
    let key_count = i32::try_from(page.entries.len()).unwrap_or(PAGE);
    let (contents, common_prefixes) = entries(page, encoding, input.fetch_owner == Some(true));
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoding.of(prefix)),
        max_keys: Some(max_keys),
        key_count: Some(key_count),
        continuation_token: input.continuation_token,
        is_truncated: Some(next.is_some()),
        next_continuation_token: next,
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        delimiter: encoding.of_optional(delimiter),
        encoding_type: encoding.dto(),
        start_after: encoding.of_optional(input.start_after),
        ..Default::default()
    }))
}

pub(super) async fn list_uploads(
    store: &Store,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    let encoding = Encoding::parse(input.encoding_type.as_ref())?;
    let (max_uploads, max) = limit(input.max_uploads)?;
    let (prefix, delimiter) =
        (input.prefix.unwrap_or_default(), input.delimiter.filter(|text| !text.is_empty()));
    let key_marker = input.key_marker.unwrap_or_default();
    let id_marker = input.upload_id_marker.filter(|_| !key_marker.is_empty());
    let after = match &id_marker {
        Some(id) => upload_key(&key_marker, id),
        None if key_marker.is_empty() => Vec::new(),
        // After all uploads of that key.
        None => [key_marker.as_bytes(), &[0, 255]].concat(),
    };
    let (bucket, of, by, marker) =
        (input.bucket.clone(), prefix.clone(), delimiter.clone().unwrap_or_default(), key_marker.clone());
    let page = store
        .blocking(move |store| {
            let marker = marker.as_bytes();
            store
                .index
                .list_uploads(&bucket, Query { prefix: &of, delimiter: &by, after: &after, marker, max })
        })
        .await?;
    let next = page.next.as_deref().map(split_upload_key);
    let next = next.map(|(key, id)| (String::from_utf8_lossy(key).into_owned(), id.to_owned()));
    let (next_key, next_id) = next.unzip();
    let (mut uploads, mut prefixes) = (Vec::new(), Vec::new());
    for entry in page.entries {
        match entry {
            Entry::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoding.of(prefix)) }),
            Entry::Row(Listed { key, id, value }) => uploads.push(MultipartUpload {
                key: Some(encoding.of(key)),
                upload_id: Some(id),
                initiated: Some(date(value.initiated)),
                owner: Some(owner()),
                storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                checksum_algorithm: value
                    .checksum
                    .map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
                checksum_type: value.checksum.map(|(_, kind)| kind.dto()),
                ..Default::default()
            }),
        }
    }
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: Some(encoding.of(prefix)),
        delimiter: encoding.of_optional(delimiter),
        key_marker: Some(encoding.of(key_marker)),
        upload_id_marker: id_marker,
        max_uploads: Some(max_uploads),
        is_truncated: Some(next_key.is_some()),
        next_key_marker: encoding.of_optional(next_key),
        next_upload_id_marker: next_id,
        uploads: Some(uploads),
        common_prefixes: Some(prefixes),
        encoding_type: encoding.dto(),
        ..Default::default()
    }))
}

pub(super) async fn list_parts(
    store: &Store,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    let (max_parts, max) = limit(input.max_parts)?;
    let after = input.part_number_marker.unwrap_or_default();
    let after = u16::try_from(after)
        .map_err(|_| s3_error!(InvalidArgument, "part-number-marker is not a part number"))?;
    let upload = upload_of(store, &input.bucket, &input.key, &input.upload_id).await?;
    let id = input.upload_id.clone();
    let mut stored = store.blocking(move |store| store.index.parts(&id, after)).await?;
    let truncated = stored.len() > max;
    stored.truncate(max);
    let next = stored.last().map(|(number, _)| i32::from(*number));
    let parts = stored.into_iter().map(|(number, part)| {
        let mut listed = Part {
            part_number: Some(i32::from(number)),
            size: i64::try_from(part.size).ok(),
            e_tag: Some(ETag::Strong(part.etag)),
            last_modified: Some(date(part.modified)),
            ..Default::default()
        };
        set_checksum!(listed, &part.checksum);
        listed
    });
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        part_number_marker: Some(i32::from(after)),
        next_part_number_marker: next,
        max_parts: Some(max_parts),
        is_truncated: Some(truncated),
        parts: Some(parts.collect()),
        owner: Some(owner()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        checksum_algorithm: upload
            .checksum
            .map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
        checksum_type: upload.checksum.map(|(_, kind)| kind.dto()),
        ..Default::default()
    }))
}

pub(super) async fn list_buckets(
    store: &Store,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let prefix = request.input.prefix;
    let all = store.blocking(|store| store.index.buckets()).await?;
    let begins = |name: &String| prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix.as_str()));
    let buckets = all.into_iter().filter(|(name, _)| begins(name)).map(|(name, made)| Bucket {
        name: Some(name),
        creation_date: Some(date(made)),
        ..Default::default()
    });
    let buckets = Some(buckets.collect());
    Ok(S3Response::new(ListBucketsOutput { buckets, owner: Some(owner()), prefix, ..Default::default() }))
}
