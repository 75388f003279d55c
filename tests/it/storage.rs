//! Objects are uploaded, downloaded, reported and kept: the real client with the real server, over sockets.

mod object_server;
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use tcoder::config::{BaseUrl, StorageConfig};
use tcoder::job::{AttemptId, Epoch, JobId, Millis, ObjectKey};
use tcoder::net::{self, EgressPolicy, UrlRefused};
use tcoder::storage::event::{Action, ObjectEvent};
use tcoder::storage::fetch::Fetcher;
use tcoder::storage::presign::{ObjectRequest, Presigner};
use tcoder::storage::urls::UPLOAD_WINDOW;
use tcoder::storage::{
    Bucket, CHANGING, ContentHeaders, Progress, PutCondition, PutOutcome, SmallObject, Storage, StorageError,
    layout,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::support::objects::{
    ObjectServer, breaking_line, client, hash, keys_below, marked_file, put_input, raw,
};

const MIB: u64 = 1 << 20;

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn now() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond())
}

fn http() -> reqwest::Client {
    net::install_crypto();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

impl ObjectServer {
    fn presigner(&self) -> Presigner {
        Presigner::new(&self.config).unwrap()
    }

    fn put_url(&self, name: &str) -> Url {
        self.put_url_for(name, None)
    }

    fn put_url_for(&self, name: &str, size: Option<u64>) -> Url {
        let put = ObjectRequest::Put { size, media_type: None };
        self.presigner().sign(put, Bucket::Input, &key(name), now(), UPLOAD_WINDOW).unwrap()
    }

    fn get_url(&self, bucket: Bucket, name: &str) -> Url {
        self.presigner().sign(ObjectRequest::Get, bucket, &key(name), now(), UPLOAD_WINDOW).unwrap()
    }

    /// The files with the contents of objects, parts, and running writes.
    fn data(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("objects/_data")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Number of multipart uploads that are neither completed nor aborted.
    async fn uploads(&self, bucket: &str) -> usize {
        let listed = client(&self.config).list_multipart_uploads().bucket(bucket).send().await;
        listed.unwrap().uploads().len()
    }

    async fn next_event(&mut self) -> Vec<u8> {
        let next = tokio::time::timeout(Duration::from_secs(30), self.events.recv()).await;
        next.expect("no message came").unwrap()
    }

    /// Writes an output object like a worker.
    async fn output(&self, name: &str, bytes: &[u8]) {
        let from = self.scratch("output-source");
        std::fs::write(&from, bytes).unwrap();
        let done = self.storage().upload(&key(name), &from, "text/plain", &Progress::none(), &never()).await;
        assert_eq!(done.unwrap(), bytes.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_addresses_put_and_get() {
    let server = ObjectServer::start().await;
    let name = "inputs/a b/Film (1) ü.mp4";
    let put = http().put(server.put_url(name)).header("content-type", "video/mp4").body("0123456789");
    let put = put.send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    assert!(put.headers().contains_key("etag"));

    let get = http().get(server.get_url(Bucket::Input, name)).send().await.unwrap();
    assert_eq!(get.headers()["content-type"], "video/mp4");
    assert_eq!(get.text().await.unwrap(), "0123456789");

    let part =
        http().get(server.get_url(Bucket::Input, name)).header("range", "bytes=3-5").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 3-5/10");
    assert_eq!(part.text().await.unwrap(), "345");

    let named = client(&server.config)
        .get_object()
        .bucket("input")
        .key(name)
        .response_content_disposition("attachment; filename=\"x.mp4\"")
        .presigned(aws_sdk_s3::presigning::PresigningConfig::expires_in(UPLOAD_WINDOW).unwrap());
    let named = http().get(named.await.unwrap().uri()).send().await.unwrap();
    assert_eq!(named.headers()["content-disposition"], "attachment; filename=\"x.mp4\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_address_for_a_size_takes_no_other() {
    let server = ObjectServer::start().await;
    let url = server.put_url_for("inputs/a/film.mp4", Some(10));
    for (body, expected) in
        [("01234567890", StatusCode::FORBIDDEN), ("", StatusCode::FORBIDDEN), ("0123456789", StatusCode::OK)]
    {
        let put = http().put(url.clone()).header("content-length", body.len()).body(body);
        assert_eq!(put.send().await.unwrap().status(), expected, "{body:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_address_for_a_type_takes_no_other() {
    let server = ObjectServer::start().await;
    let video = "video/mp4".parse().unwrap();
    let put = ObjectRequest::Put { size: None, media_type: Some(&video) };
    let name = key("inputs/a/film.mp4");
    let url = server.presigner().sign(put, Bucket::Input, &name, now(), UPLOAD_WINDOW).unwrap();
    for (kind, expected) in [
        (Some("text/html"), StatusCode::FORBIDDEN),
        (None, StatusCode::FORBIDDEN),
        (Some("video/mp4"), StatusCode::OK),
    ] {
        let mut put = http().put(url.clone()).body("0123456789");
        if let Some(kind) = kind {
            put = put.header("content-type", kind);
        }
        assert_eq!(put.send().await.unwrap().status(), expected, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn download_of_a_version_takes_no_other() {
    let server = ObjectServer::start().await;
    let name = key("inputs/a/film.mp4");
    put_input(&server.config, name.as_str(), vec![1; 1000]).await;
    let (storage, to, version) = (server.storage(), server.scratch("to"), OnceLock::new());
    let download = async || {
        let (none, stop) = (Progress::none(), never());
        storage.download_version(Bucket::Input, &name, &version, &to, 10_000, &none, &stop).await
    };
    assert_eq!(download().await.unwrap(), 1000);
    let stored = storage.head(Bucket::Input, &name).await.unwrap().unwrap();
    assert_eq!(version.get(), stored.etag.as_ref());
    assert_eq!(download().await.unwrap(), 1000);
    put_input(&server.config, name.as_str(), vec![2; 1000]).await;
    let refused = download().await;
    assert!(matches!(refused, Err(StorageError::OtherVersion)), "{refused:?}");
    assert!(!to.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_and_expired_addresses_are_refused() {
    let server = ObjectServer::start().await;
    let good = server.put_url("inputs/a/b.mp4");
    let other_key = good.as_str().replace("b.mp4", "c.mp4");
    let longer = good.as_str().replace("Expires=3600", "Expires=36000");
    let expired = server
        .presigner()
        .sign(
            ObjectRequest::Put { size: None, media_type: None },
            Bucket::Input,
            &key("inputs/a/b.mp4"),
            now().plus(-7_200_000),
            UPLOAD_WINDOW,
        )
        .unwrap();
    for url in [other_key, longer, expired.to_string()] {
        let answer = http().put(&url).body("x").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{url}");
    }
    // A URL for PUT does not permit GET.
    assert_eq!(http().get(good).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(server.data(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_upload_sets_content_types_and_delete_prefix_removes_it() {
    let server = ObjectServer::start().await;
    let job = JobId::new();
    let dir = server.scratch("made");
    std::fs::create_dir_all(dir.join("720p")).unwrap();
    let mut files = vec![PathBuf::from("master.m3u8"), PathBuf::from("empty.vtt")];
    files.extend((0..30).map(|n| PathBuf::from(format!("720p/{n:03}.ts"))));
    for file in &files {
        std::fs::write(dir.join(file), if file.ends_with("empty.vtt") { "" } else { "data" }).unwrap();
    }
    let storage = server.storage();
    for epoch in [1, 10] {
        let prefix = layout::attempt_prefix(AttemptId { job, epoch: Epoch(epoch) }).unwrap();
        let bytes = storage.upload_all(&prefix, &dir, &files, &Progress::none(), &never()).await.unwrap();
        assert_eq!(bytes, 31 * 4);
    }
    let first = layout::attempt_prefix(AttemptId { job, epoch: Epoch(1) }).unwrap();
    let listing = storage.list(Bucket::Output, &first, 1000).await.unwrap();
    assert_eq!((listing.objects.len(), listing.complete), (32, true));
    let few = storage.list(Bucket::Output, &first, 5).await.unwrap();
    assert_eq!((few.objects.len(), few.complete), (5, false));

    let at = server.config.public_url.clone().unwrap().join(&format!("{first}/720p/000.ts")).unwrap();
    let segment = http().get(at).send().await.unwrap();
    assert_eq!(segment.headers()["content-type"], "video/mp2t");
    assert!(segment.headers()["cache-control"].to_str().unwrap().contains("immutable"));

    // Deletes only the folder of the first attempt, not that of the tenth, whose name starts with the same
    // characters.
    assert!(!storage.delete_prefix(Bucket::Output, &first, 20).await.unwrap());
    assert_eq!(storage.list(Bucket::Output, &first, 1000).await.unwrap().objects.len(), 12);
    assert!(storage.delete_prefix(Bucket::Output, &first, 20).await.unwrap());
    let left = storage.list(Bucket::Output, &key(&format!("outputs/{job}")), 1000).await.unwrap();
    assert_eq!(left.objects.len(), 32);
    assert!(left.objects.iter().all(|(key, _)| key.as_str().contains("/10/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_commits_have_one_winner() {
    const ABSENT: PutCondition<'_> = PutCondition::Absent;
    let server = ObjectServer::start().await;
    let storage = server.storage();
    let manifest = layout::manifest_key(JobId::new()).unwrap();
    let tries = (0..12).map(|n| {
        let (storage, manifest) = (storage.clone(), manifest.clone());
        async move {
            let bytes = format!("{{\"epoch\":{n}}}").into_bytes();
            let put = storage.put_if(ABSENT, Bucket::Output, &manifest, bytes, "application/json").await;
            (n, put.unwrap())
        }
    });
    let results = futures::future::join_all(tries).await;
    let winners: Vec<_> =
        results.iter().filter(|(_, put)| *put == PutOutcome::Written).map(|(n, _)| *n).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    let SmallObject { bytes, etag, .. } =
        storage.get_small(Bucket::Output, &manifest, 100).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), format!("{{\"epoch\":{}}}", winners[0]));

    let put = |condition, text: &str| {
        storage.put_if(condition, Bucket::Output, &manifest, text.as_bytes().to_vec(), "application/json")
    };
    assert_eq!(put(ABSENT, "").await.unwrap(), PutOutcome::ConditionFailed);
    // Who has read it may replace it, until somebody else has.
    let etag = etag.unwrap();
    let unchanged = PutCondition::Unchanged(&etag);
    assert_eq!(put(unchanged, "{}").await.unwrap(), PutOutcome::Written);
    assert_eq!(put(unchanged, "{ }").await.unwrap(), PutOutcome::ConditionFailed);
    let stands = storage.get_small(Bucket::Output, &manifest, 100).await.unwrap().unwrap();
    assert_eq!(stands.bytes, b"{}");
    let small = storage.get_small(Bucket::Output, &manifest, 1).await;
    assert!(matches!(small, Err(StorageError::TooLarge { limit: 1 })));
    storage.delete(Bucket::Output, &manifest).await.unwrap();
    assert_eq!(put(unchanged, "{}").await.unwrap(), PutOutcome::ConditionFailed);
    storage.delete(Bucket::Output, &manifest).await.unwrap();
    assert_eq!(storage.get_small(Bucket::Output, &manifest, 100).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn object_keeps_the_headers_it_was_written_with() {
    let server = ObjectServer::start().await;
    let storage = server.storage();
    for (name, cache_control) in [("a.m3u8", Some(CHANGING)), ("b.m3u8", None)] {
        let (name, text) = (key(name), b"#EXTM3U".to_vec());
        let headers = ContentHeaders { content_type: "application/vnd.apple.mpegurl", cache_control };
        let put = storage.put_if(PutCondition::Absent, Bucket::Output, &name, text, headers).await;
        assert_eq!(put.unwrap(), PutOutcome::Written);
        let found = storage.get_small(Bucket::Output, &name, 100).await.unwrap().unwrap();
        assert_eq!(found.cache_control.as_deref(), cache_control);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_with_wrong_settings_names_the_variable() {
    let server = ObjectServer::start().await;
    server.storage().check().await.unwrap();
    let with = |change: fn(&mut StorageConfig)| {
        let mut config = server.config.clone();
        change(&mut config);
        Storage::new(&config)
    };
    let secret = with(|config| config.secret_access_key = "not-the-secret".into());
    for (storage, variable) in [
        (secret.clone(), "R2_SECRET_ACCESS_KEY"),
        (with(|config| config.access_key_id = "nobody".into()), "R2_ACCESS_KEY_ID"),
        (with(|config| config.input_bucket = "no-such-bucket".into()), "R2_INPUT_BUCKET_NAME"),
        (with(|config| config.output_bucket = "no-such-bucket".into()), "R2_OUTPUT_BUCKET_NAME"),
    ] {
        let error = storage.check().await.unwrap_err();
        assert_eq!(error.variable, variable, "{error}");
    }
    // A port without a listener: bound, read, and closed again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = server.config.clone();
    config.endpoint = format!("http://{free}").parse().unwrap();
    assert_eq!(Storage::new(&config).check().await.unwrap_err().variable, "R2_ENDPOINT");

    let denied = secret.put_if(PutCondition::Absent, Bucket::Output, &key("a"), vec![], "text/plain").await;
    let denied = denied.unwrap_err();
    assert!(matches!(denied, StorageError::Denied { .. }), "{denied:?}");
    let text = denied.to_string();
    assert!(text.contains("R2_SECRET_ACCESS_KEY") && !text.contains("not-the-secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_rejects_private_addresses_in_every_spelling() {
    let server = ObjectServer::start().await;
    server.output("a", b"x").await;
    let (fetcher, to) = (Fetcher::new(EgressPolicy::PublicOnly).unwrap(), server.scratch("to"));
    let port = server.address.port();
    for host in
        ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "localhost", "0"]
    {
        let url: Url = format!("http://{host}:{port}/output/a").parse().unwrap();
        let error = fetcher.fetch(&url, &to, 9, &Progress::none(), &never()).await.unwrap_err();
        assert!(matches!(error, StorageError::Address(UrlRefused::Private(_))), "{host}: {error:?}");
        assert!(error.to_string().contains("private network"), "{error}");
    }
    // A client with permission can read the same address.
    let url: Url = format!("http://127.1:{port}/output/a").parse().unwrap();
    let fetcher = Fetcher::new(EgressPolicy::AllowPrivate).unwrap();
    assert_eq!(fetcher.fetch(&url, &to, 9, &Progress::none(), &never()).await.unwrap(), 1);
}
