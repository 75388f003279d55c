//! The index of objects, uploads and buckets: tables of an embedded database, ordered by the bytes of the keys.
//!
//! Each change is one transaction, which is on the disk when the call returns. Conditions are evaluated inside the
//! transaction, so only one of several conditional writes succeeds. A change returns the files that the index no
//! longer names, so that they can be removed.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable, Table, TableDefinition, WriteTransaction};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::blobs::BlobId;
use super::conditions::WriteConditions;
use super::listing::{self, Page, Query, Row};
use super::record::{Data, Object, Part, Upload};

/// Maps a bucket to its creation time, in milliseconds since 1970.
const BUCKETS: TableDefinition<'_, &str, u64> = TableDefinition::new("buckets");
/// Maps bucket and key to [`Object`].
const OBJECTS: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("objects");
/// Maps bucket and [`upload_key`] to [`Upload`].
const UPLOADS: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("uploads");
/// Maps upload id and part number to [`Part`]. The rows remain when the upload has become an object.
const PARTS: TableDefinition<'_, (&str, u16), &[u8]> = TableDefinition::new("parts");

/// Size of the database's page cache, bytes.
const CACHE: usize = 16 << 20;

type Rows<'txn> = Table<'txn, (&'static str, &'static [u8]), &'static [u8]>;
type Parts<'txn> = Table<'txn, (&'static str, u16), &'static [u8]>;

/// The database.
#[derive(Clone, Debug)]
pub(super) struct Index(Arc<Database>);

/// The files that a change no longer needs.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Freed(pub Vec<BlobId>);

/// The completion of a multipart upload.
pub(super) struct Completion {
    pub object: Object,
    /// The numbers of the parts that make up the object.
    pub parts: Vec<u16>,
}

/// The outcome of completing an upload.
#[derive(Debug)]
pub(super) enum Completed {
    /// The upload has become an object.
    Now(Object, Freed),
    /// The upload was completed before: the response was lost, and the client repeats the request.
    Before(Object),
}

/// An object or an upload in a listing.
pub(super) struct Listed<V> {
    pub key: String,
    /// The id of an upload.
    pub id: String,
    pub value: V,
}

impl Index {
    /// Opens the database, and creates it with these buckets if it does not exist.
    pub(crate) fn open(path: &Path, buckets: [&str; 2], now: u64) -> Result<Self, redb::Error> {
        let database = Database::builder().set_cache_size(CACHE).create(path)?;
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(BUCKETS)?;
            for bucket in buckets {
                if table.get(bucket)?.is_none() {
                    table.insert(bucket, now)?;
                }
            }
            transaction.open_table(OBJECTS)?;
            transaction.open_table(UPLOADS)?;
            transaction.open_table(PARTS)?;
        }
        transaction.commit()?;
        Ok(Self(Arc::new(database)))
    }

    pub(crate) fn has_bucket(&self, bucket: &str) -> S3Result<bool> {
        Ok(self.read(BUCKETS)?.get(bucket).map_err(broken)?.is_some())
    }

    /// The names of the buckets and their creation times.
    pub(crate) fn buckets(&self) -> S3Result<Vec<(String, u64)>> {
        let table = self.read(BUCKETS)?;
        let rows = table.iter().map_err(broken)?;
        rows.map(|row| row.map(|(name, made)| (name.value().to_owned(), made.value())).map_err(broken))
            .collect()
    }

    pub(crate) fn create_bucket(&self, bucket: &str, now: u64) -> S3Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BUCKETS).map_err(broken)?;
            if table.get(bucket).map_err(broken)?.is_some() {
                return Err(s3_error!(BucketAlreadyOwnedByYou));
            }
            table.insert(bucket, now).map_err(broken)?;
            Ok(())
        })
    }

    /// Deletes an empty bucket, and aborts its uploads.
    pub(crate) fn delete_bucket(&self, bucket: &str) -> S3Result<Freed> {
        self.write(|transaction| {
            let removed =
                transaction.open_table(BUCKETS).map_err(broken)?.remove(bucket).map_err(broken)?.is_some();
            if !removed {
                return Err(s3_error!(NoSuchBucket));
            }
            let objects = transaction.open_table(OBJECTS).map_err(broken)?;
            if objects.range(all_of(bucket)).map_err(broken)?.next().is_some() {
                return Err(s3_error!(BucketNotEmpty));
            }
            let mut uploads = transaction.open_table(UPLOADS).map_err(broken)?;
            let mut ids = Vec::new();
            for row in uploads.range(all_of(bucket)).map_err(broken)? {
                ids.push(row.map_err(broken)?.0.value().1.to_vec());
            }
            let mut parts = transaction.open_table(PARTS).map_err(broken)?;
            let mut freed = Freed::default();
            for row in ids {
                uploads.remove((bucket, &*row)).map_err(broken)?;
                freed.0.extend(remove_parts(&mut parts, split_upload_key(&row).1)?);
            }
            Ok(freed)
        })
    }

    pub(crate) fn object(&self, bucket: &str, key: &str) -> S3Result<Option<Object>> {
        let table = self.read(OBJECTS)?;
        let found = table.get((bucket, key.as_bytes())).map_err(broken)?;
        found.map(|row| decode(row.value())).transpose()
    }

    /// The files of an object, in order, with their sizes in bytes.
    pub(crate) fn files(&self, object: &Object) -> S3Result<Vec<(BlobId, u64)>> {
        match &object.data {
            Data::Blob(blob) => Ok(vec![(*blob, object.size)]),
            Data::Parts { upload, .. } => {
                Ok(self.parts(upload, 0)?.into_iter().map(|(_, part)| (part.blob, part.size)).collect())
            }
        }
    }

    /// Stores an object if its conditions are met.
    pub(crate) fn put(
        &self,
        bucket: &str,
        key: &str,
        object: &Object,
        conditions: &WriteConditions,
    ) -> S3Result<Freed> {
        self.write(|transaction| put(transaction, bucket, key, object, conditions))
    }

    /// Stores an object that consists of parts.
    pub(crate) fn put_with_parts(
        &self,
        bucket: &str,
        key: &str,
        object: &Object,
        parts: &[Part],
    ) -> S3Result<Freed> {
        self.write(|transaction| {
            if let Data::Parts { upload, .. } = &object.data {
                let mut table = transaction.open_table(PARTS).map_err(broken)?;
                for (number, part) in (1_u16..).zip(parts) {
                    table.insert((&**upload, number), &*encode(part)?).map_err(broken)?;
                }
            }
            put(transaction, bucket, key, object, &WriteConditions::default())
        })
    }

    /// Deletes objects, each if its conditions are met. A missing object counts as deleted.
    pub(crate) fn delete<'a>(
        &self,
        bucket: &str,
        keys: impl Iterator<Item = (&'a str, WriteConditions)>,
    ) -> S3Result<(Vec<S3Result<()>>, Freed)> {
        self.write(|transaction| {
            let mut objects = transaction.open_table(OBJECTS).map_err(broken)?;
            let mut parts = transaction.open_table(PARTS).map_err(broken)?;
            let (mut results, mut freed) = (Vec::new(), Freed::default());
            for (key, conditions) in keys {
                let old = get::<Object>(&objects, (bucket, key.as_bytes()))?;
                let allowed = conditions.check(old.as_ref().map(|old| &*old.etag));
                if let (Ok(()), Some(old)) = (&allowed, old) {
                    objects.remove((bucket, key.as_bytes())).map_err(broken)?;
                    freed.0.extend(files_of(&mut parts, old)?);
                }
                results.push(allowed);
            }
            Ok((results, freed))
        })
    }

    /// One page of a bucket's objects.
    pub(crate) fn list_objects(&self, bucket: &str, query: Query<'_>) -> S3Result<Page<Listed<Object>>> {
        self.list(OBJECTS, bucket, query)
    }

    /// One page of a bucket's uploads.
    pub(crate) fn list_uploads(&self, bucket: &str, query: Query<'_>) -> S3Result<Page<Listed<Upload>>> {
        self.list(UPLOADS, bucket, query)
    }

    fn list<V: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, (&'static str, &'static [u8]), &'static [u8]>,
        bucket: &str,
        query: Query<'_>,
    ) -> S3Result<Page<Listed<V>>> {
        let table = self.read(table)?;
        let rows = |from: &[u8]| {
            let rows = table.range_owned((bucket, from)..(&*after_bucket(bucket), b"")).map_err(broken)?;
            Ok(rows.map(|row| {
                let (key, value) = row.map_err(broken)?;
                Ok(Stored { key: key.value().1.to_vec(), value })
            }))
        };
        let read = |row: Stored<redb::OwnedAccessGuard<&'static [u8]>>| {
            let (key, id) = split_upload_key(&row.key);
            let key = String::from_utf8_lossy(key).into_owned();
            Ok(Listed { key, id: id.to_owned(), value: decode(row.value.value())? })
        };
        listing::page(query, rows, read)
    }

    pub(crate) fn create_upload(&self, bucket: &str, key: &str, id: &str, upload: &Upload) -> S3Result<()> {
        self.write(|transaction| {
            require_bucket(transaction, bucket)?;
            let mut table = transaction.open_table(UPLOADS).map_err(broken)?;
            table.insert((bucket, &*upload_key(key, id)), &*encode(upload)?).map_err(broken)?;
            Ok(())
        })
    }

    pub(crate) fn upload(&self, bucket: &str, key: &str, id: &str) -> S3Result<Upload> {
        let table = self.read(UPLOADS)?;
        let found = table.get((bucket, &*upload_key(key, id))).map_err(broken)?;
        found.map(|row| decode(row.value())).transpose()?.ok_or_else(no_such_upload)
    }

    /// The parts of an upload with higher numbers than this.
    pub(crate) fn parts(&self, id: &str, after: u16) -> S3Result<Vec<(u16, Part)>> {
        let table = self.read(PARTS)?;
        parts(&table, id, after)
    }

    pub(crate) fn put_part(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        number: u16,
        part: &Part,
    ) -> S3Result<Freed> {
        self.write(|transaction| {
            let uploads = transaction.open_table(UPLOADS).map_err(broken)?;
            get::<Upload>(&uploads, (bucket, &upload_key(key, id)))?.ok_or_else(no_such_upload)?;
            let mut parts = transaction.open_table(PARTS).map_err(broken)?;
            let old = parts.insert((id, number), &*encode(part)?).map_err(broken)?;
            let old: Option<Part> = old.map(|row| decode(row.value())).transpose()?;
            Ok(Freed(old.into_iter().map(|part| part.blob).collect()))
        })
    }

    pub(crate) fn abort_upload(&self, bucket: &str, key: &str, id: &str) -> S3Result<Freed> {
        self.write(|transaction| {
            let mut uploads = transaction.open_table(UPLOADS).map_err(broken)?;
            let removed = uploads.remove((bucket, &*upload_key(key, id))).map_err(broken)?.is_some();
            if !removed {
                return Err(no_such_upload());
            }
            Ok(Freed(remove_parts(&mut transaction.open_table(PARTS).map_err(broken)?, id)?))
        })
    }

    /// Turns an upload into the object that `assemble` returns, if the conditions are met.
    pub(crate) fn complete(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        conditions: &WriteConditions,
        assemble: impl FnOnce(Upload, &[(u16, Part)]) -> S3Result<Completion>,
    ) -> S3Result<Completed> {
        self.write(|transaction| {
            let mut uploads = transaction.open_table(UPLOADS).map_err(broken)?;
            let upload = get::<Upload>(&uploads, (bucket, &upload_key(key, id)))?;
            let Some(upload) = upload else {
                let objects = transaction.open_table(OBJECTS).map_err(broken)?;
                let object = get::<Object>(&objects, (bucket, key.as_bytes()))?;
                let made = object
                    .filter(|object| matches!(&object.data, Data::Parts { upload, .. } if upload == id));
                return made.map(Completed::Before).ok_or_else(no_such_upload);
            };
            let mut table = transaction.open_table(PARTS).map_err(broken)?;
            let stored = parts(&table, id, 0)?;
            let completion = assemble(upload, &stored)?;
            let used: HashSet<u16> = completion.parts.into_iter().collect();
            let mut freed = Vec::new();
            for (number, part) in stored.iter().filter(|(number, _)| !used.contains(number)) {
                table.remove((id, *number)).map_err(broken)?;
                freed.push(part.blob);
            }
            drop(table);
            uploads.remove((bucket, &*upload_key(key, id))).map_err(broken)?;
            drop(uploads);
            freed.extend(put(transaction, bucket, key, &completion.object, conditions)?.0);
            Ok(Completed::Now(completion.object, Freed(freed)))
        })
    }

    /// Uploads that were started before this time, in milliseconds since 1970: bucket, key and id.
    pub(crate) fn uploads_before(&self, time: u64) -> S3Result<Vec<(String, String, String)>> {
        let table = self.read(UPLOADS)?;
        let mut found = Vec::new();
        for row in table.iter().map_err(broken)? {
            let (row, upload) = row.map_err(broken)?;
            if decode::<Upload>(upload.value())?.initiated < time {
                let (bucket, row) = row.value();
                let (key, id) = split_upload_key(row);
                found.push((bucket.to_owned(), String::from_utf8_lossy(key).into_owned(), id.to_owned()));
            }
        }
        Ok(found)
    }

    /// All files that belong to an object or a part.
    pub(crate) fn named_files(&self) -> S3Result<HashSet<BlobId>> {
        let mut named = HashSet::new();
        for row in self.read(OBJECTS)?.iter().map_err(broken)? {
            if let Data::Blob(blob) = decode::<Object>(row.map_err(broken)?.1.value())?.data {
                named.insert(blob);
            }
        }
        for row in self.read(PARTS)?.iter().map_err(broken)? {
            named.insert(decode::<Part>(row.map_err(broken)?.1.value())?.blob);
        }
        Ok(named)
    }

    fn read<K: redb::Key, V: redb::Value>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> S3Result<redb::ReadOnlyTable<K, V>> {
        self.0.begin_read().map_err(broken)?.open_table(table).map_err(broken)
    }

    /// Runs a change in a transaction.
    fn write<T>(&self, change: impl FnOnce(&WriteTransaction) -> S3Result<T>) -> S3Result<T> {
        let transaction = self.0.begin_write().map_err(broken)?;
        match change(&transaction) {
            Ok(done) => transaction.commit().map(|()| done).map_err(broken),
            Err(error) => {
                transaction.abort().map_err(broken)?;
                Err(error)
            }
        }
    }
}

struct Stored<V> {
    key: Vec<u8>,
    value: V,
}

impl<V> Row for Stored<V> {
    fn sort_key(&self) -> &[u8] {
        &self.key
    }

    fn key(&self) -> &[u8] {
        split_upload_key(&self.key).0
    }
}

/// Orders uploads by key, and those of one key by id, which means by time. Keys contain no zero byte.
pub(super) fn upload_key(key: &str, id: &str) -> Vec<u8> {
    [key.as_bytes(), id.as_bytes()].join(&0)
}

/// Splits a row into key and id; the row of an object has no id.
pub(super) fn split_upload_key(row: &[u8]) -> (&[u8], &str) {
    match row.iter().position(|byte| *byte == 0) {
        Some(at) => (&row[..at], std::str::from_utf8(&row[at + 1..]).unwrap_or_default()),
        None => (row, ""),
    }
}

fn put(
    transaction: &WriteTransaction,
    bucket: &str,
    key: &str,
    object: &Object,
    conditions: &WriteConditions,
) -> S3Result<Freed> {
    require_bucket(transaction, bucket)?;
    let mut objects = transaction.open_table(OBJECTS).map_err(broken)?;
    let old = get::<Object>(&objects, (bucket, key.as_bytes()))?;
    conditions.check(old.as_ref().map(|old| &*old.etag))?;
    objects.insert((bucket, key.as_bytes()), &*encode(object)?).map_err(broken)?;
    match old {
        Some(old) => Ok(Freed(files_of(&mut transaction.open_table(PARTS).map_err(broken)?, old)?)),
        None => Ok(Freed::default()),
    }
}

/// The files of a deleted object, whose parts are deleted, too.
fn files_of(parts: &mut Parts<'_>, object: Object) -> S3Result<Vec<BlobId>> {
    match object.data {
        Data::Blob(blob) => Ok(vec![blob]),
        Data::Parts { upload, .. } => remove_parts(parts, &upload),
    }
}

fn remove_parts(table: &mut Parts<'_>, id: &str) -> S3Result<Vec<BlobId>> {
    let mut freed = Vec::new();
    for (number, part) in parts(table, id, 0)? {
        table.remove((id, number)).map_err(broken)?;
        freed.push(part.blob);
    }
    Ok(freed)
}

fn parts(
    table: &impl ReadableTable<(&'static str, u16), &'static [u8]>,
    id: &str,
    after: u16,
) -> S3Result<Vec<(u16, Part)>> {
    let rows = table.range((id, after.saturating_add(1))..=(id, u16::MAX)).map_err(broken)?;
    rows.map(|row| {
        let (key, part) = row.map_err(broken)?;
        Ok((key.value().1, decode(part.value())?))
    })
    .collect()
}

fn get<V: DeserializeOwned>(table: &Rows<'_>, key: (&str, &[u8])) -> S3Result<Option<V>> {
    table.get(key).map_err(broken)?.map(|row| decode(row.value())).transpose()
}

fn require_bucket(transaction: &WriteTransaction, bucket: &str) -> S3Result<()> {
    let table = transaction.open_table(BUCKETS).map_err(broken)?;
    let found = table.get(bucket).map_err(broken)?;
    found.map(|_| ()).ok_or_else(|| s3_error!(NoSuchBucket))
}

/// Names of buckets contain no zero byte.
fn after_bucket(bucket: &str) -> String {
    format!("{bucket}\0")
}

fn all_of(bucket: &str) -> std::ops::RangeInclusive<(&str, &[u8])> {
    // A key is UTF-8, which never contains the byte 255.
    (bucket, b"")..=(bucket, &[255])
}

fn encode<V: Serialize>(value: &V) -> S3Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(broken)
}

fn decode<V: DeserializeOwned>(bytes: &[u8]) -> S3Result<V> {
    serde_json::from_slice(bytes).map_err(broken)
}

fn no_such_upload() -> S3Error {
    s3_error!(NoSuchUpload)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> S3Error {
    tracing::error!(error = &error as &dyn std::error::Error, "the object store cannot use its index");
    S3Error::with_source(S3ErrorCode::InternalError, error.into())
}
