//! Objects are uploaded, downloaded, reported and kept: the real client with the real server, over sockets.

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
async fn large_file_survives_multipart_upload_and_download() {
    let server = ObjectServer::start().await;
    let (from, to) = (server.scratch("from"), server.scratch("to"));
    marked_file(&from, 70 * MIB + 12_345);
    let sent = Arc::new(AtomicU64::new(0));
    let progress = Progress::new({
        let sent = Arc::clone(&sent);
        move |bytes| {
            sent.fetch_max(bytes, Ordering::Relaxed);
        }
    });
    let name = key("outputs/a/1/720p.mp4");
    let storage = server.storage();
    let bytes = storage.upload(&name, &from, "video/mp4", &progress, &never()).await.unwrap();
    assert_eq!(bytes, 70 * MIB + 12_345);
    assert_eq!(sent.load(Ordering::Relaxed), bytes);
    let info = storage.head(Bucket::Output, &name).await.unwrap().unwrap();
    assert_eq!(info.size, bytes);
    // With parts of 16 MiB; the entity tag of a multipart upload ends with the number of parts.
    assert!(info.etag.as_deref().unwrap().ends_with("-5"), "{info:?}");

    let got = storage.download(Bucket::Output, &name, &to, bytes, &progress, &never()).await.unwrap();
    assert_eq!(got, bytes);
    assert_eq!(hash(&to), hash(&from));
    assert_eq!(server.uploads("output").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_upload_leaves_no_object_and_no_parts() {
    let server = ObjectServer::start().await;
    let from = server.scratch("from");
    marked_file(&from, 130 * MIB);
    let cancel = never();
    let progress = Progress::new({
        let cancel = cancel.clone();
        move |_| cancel.cancel()
    });
    let name = key("outputs/a/1/720p.mp4");
    let done = server.storage().upload(&name, &from, "video/mp4", &progress, &cancel).await;
    assert!(matches!(done, Err(StorageError::Cancelled)));
    assert_eq!(server.storage().head(Bucket::Output, &name).await.unwrap(), None);
    assert_eq!(server.uploads("output").await, 0);
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
async fn cors_permits_uploads_from_other_origins() {
    let server = ObjectServer::start().await;
    let url = server.put_url("inputs/a/b.mp4");
    let preflight = http()
        .request(Method::OPTIONS, url.clone())
        .header("origin", "https://example.com")
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "content-type")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), StatusCode::OK);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    assert!(preflight.headers()["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
    assert_eq!(preflight.headers()["access-control-allow-headers"], "content-type");

    let put = http().put(url).header("origin", "https://example.com").body("x").send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    assert_eq!(put.headers()["access-control-allow-origin"], "*");
    let exposed = put.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    assert!(exposed.contains("etag"), "{exposed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_requests_read_outputs_only() {
    let server = ObjectServer::start().await;
    server.output("outputs/a/1/a.txt", b"made").await;
    http().put(server.put_url("inputs/a/b.mp4")).body("secret").send().await.unwrap();
    let at = |path: &str| server.config.endpoint.join(path).unwrap();
    let output = at("output/outputs/a/1/a.txt");

    let read = http().get(output.clone()).header("range", "bytes=1-2").send().await.unwrap();
    assert_eq!(read.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(read.text().await.unwrap(), "ad");
    assert_eq!(http().head(output.clone()).send().await.unwrap().status(), StatusCode::OK);

    for (method, url) in [
        (Method::GET, at("input/inputs/a/b.mp4")),
        (Method::HEAD, at("input/inputs/a/b.mp4")),
        (Method::GET, at("output")),
        (Method::GET, at("output?list-type=2")),
        (Method::GET, at("")),
        (Method::PUT, output.clone()),
        (Method::PUT, at("output/new.txt")),
        (Method::DELETE, output.clone()),
        (Method::POST, at("output/new.txt?uploads")),
    ] {
        let answer = http().request(method.clone(), url.clone()).body("").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {url}");
    }
    assert_eq!(http().get(output).send().await.unwrap().text().await.unwrap(), "made");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_cannot_escape_their_bucket() {
    let server = ObjectServer::start().await;
    let client = client(&server.config);
    for evil in ["../../evil", "../output/evil", "a/../../../evil", "./evil"] {
        let url = client
            .put_object()
            .bucket("input")
            .key(evil)
            .presigned(aws_sdk_s3::presigning::PresigningConfig::expires_in(UPLOAD_WINDOW).unwrap())
            .await
            .unwrap();
        let start = url.uri().find("/input/").unwrap();
        let target = &url.uri()[start..];
        let (path, query) = target.split_once('?').unwrap();
        for path in [
            path.to_owned(),
            path.replace('.', "%2e"),
            path.replace('.', "%2E").replace('/', "%2F").replacen("%2Finput%2F", "/input/", 1),
        ] {
            let request = format!(
                "PUT {path}?{query} HTTP/1.1\r\nhost: {}\r\ncontent-length: 4\r\nconnection: close\r\n\r\nevil",
                server.address
            );
            let answer = raw(server.address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("InvalidURI"), "{path}: {answer}");
        }
    }
    // Through the header of a copy and through a list in a body, too.
    server.output("a", b"x").await;
    for source in ["output/../../../Cargo.toml", "output/%2e%2e/input/x", "elsewhere/a"] {
        let copy = client.copy_object().copy_source(source).bucket("input").key("stolen").send().await;
        assert!(copy.is_err(), "{source}");
    }
    use aws_sdk_s3::types::{Delete, ObjectIdentifier};
    std::fs::write(server.scratch("precious"), "x").unwrap();
    let evil = ObjectIdentifier::builder().key("../../precious").build().unwrap();
    let delete = Delete::builder().objects(evil).build().unwrap();
    assert!(client.delete_objects().bucket("input").delete(delete).send().await.is_err());
    assert!(server.scratch("precious").exists());
    // Keys that look like paths are not special.
    let strange = ["a//evil", "..\\evil", "/evil", "evil/", "C:evil"];
    for key in strange {
        client.put_object().bucket("input").key(key).body(b"x".to_vec().into()).send().await.unwrap();
    }
    let mut stored = keys_below(&server.config, "input", "").await;
    stored.sort();
    let mut expected = strange.map(str::to_owned);
    expected.sort();
    assert_eq!(stored, expected);
    assert_eq!(keys_below(&server.config, "output", "").await, ["a"]);
    assert_eq!(server.files(|name| name.contains("evil") || name.contains("stolen")), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_inputs_send_messages_in_r2_format() {
    let mut server = ObjectServer::start().await;
    let client = client(&server.config);
    http().put(server.put_url("inputs/a/b.mp4")).body("12345").send().await.unwrap();
    let message: serde_json::Value = serde_json::from_slice(&server.next_event().await).unwrap();
    let time = message["eventTime"].as_str().unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z') && time.len() == 24, "{time}");
    assert_eq!(
        message,
        serde_json::json!({
            "account": "local",
            "action": "PutObject",
            "bucket": "input",
            "object": {"key": "inputs/a/b.mp4", "size": 5, "eTag": "827ccb0eea8a706c4c34a16891f84e7b"},
            "eventTime": time,
        })
    );

    let copy = client.copy_object().copy_source("input/inputs/a/b.mp4").bucket("input").key("inputs/a/c.mp4");
    copy.send().await.unwrap();
    let bytes = server.next_event().await;
    let message: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(message["copySource"], serde_json::json!({"bucket": "input", "object": "inputs/a/b.mp4"}));
    let event = ObjectEvent::parse(&bytes).unwrap();
    assert_eq!(
        (&event.action, event.key.as_str(), event.size),
        (&Action::CopyObject, "inputs/a/c.mp4", Some(5))
    );

    let create = client.create_multipart_upload().bucket("input").key("inputs/a/d.mp4");
    let id = create.send().await.unwrap().upload_id.unwrap();
    let part = client.upload_part().bucket("input").key("inputs/a/d.mp4").upload_id(&id).part_number(1);
    let tag = part.body(vec![7; 100].into()).send().await.unwrap().e_tag.unwrap();
    use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
    let parts = CompletedMultipartUpload::builder()
        .parts(CompletedPart::builder().part_number(1).e_tag(tag).build())
        .build();
    let complete = client.complete_multipart_upload().bucket("input").key("inputs/a/d.mp4").upload_id(&id);
    complete.multipart_upload(parts).send().await.unwrap();
    let event = ObjectEvent::parse(&server.next_event().await).unwrap();
    assert_eq!(event.action, Action::CompleteMultipartUpload);
    let created = event.created_object().unwrap();
    assert_eq!((created.bucket, created.key, created.size), ("input", "inputs/a/d.mp4", 100));
    assert!(created.etag.unwrap().ends_with("-1"), "{created:?}");

    // Deletions, failures and outputs cause no event: the next event is that of the next upload.
    client.delete_object().bucket("input").key("inputs/a/d.mp4").send().await.unwrap();
    server.output("outputs/a", b"x").await;
    http().put(server.put_url("inputs/a/b.mp4")).header("if-none-match", "*").body("x").send().await.unwrap();
    let empty = http().put(server.put_url("inputs/a/e.mp4")).body("").send().await.unwrap();
    assert_eq!(empty.status(), StatusCode::OK, "{}", empty.text().await.unwrap());
    let event = ObjectEvent::parse(&server.next_event().await).unwrap();
    assert_eq!((event.key.as_str(), event.size), ("inputs/a/e.mp4", Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_upload_leaves_no_object_and_sends_no_message() {
    let mut server = ObjectServer::start().await;
    let url = server.put_url("inputs/a/b.mp4");
    let head = format!(
        "PUT {}?{} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000\r\n\r\n",
        url.path(),
        url.query().unwrap(),
        server.address
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[1; 500_000]).await.unwrap();
    let begun = || !server.data().is_empty();
    let until = async |wanted: bool| {
        while begun() != wanted {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, until(true)).await.expect("the server never began to write");
    drop(stream);
    tokio::time::timeout(limit, until(false)).await.expect("the half of an object stays");
    // The next event is that of the next upload.
    http().put(server.put_url("inputs/a/c.mp4")).body("x").send().await.unwrap();
    let event = ObjectEvent::parse(&server.next_event().await).unwrap();
    assert_eq!(event.key, "inputs/a/c.mp4");
}

#[tokio::test(flavor = "multi_thread")]
async fn object_server_stops_and_closes_its_channel() {
    let mut server = ObjectServer::start().await;
    server.output("a", b"x").await;
    server.cancel.cancel();
    server.handle.take().unwrap().stopped().await;
    assert_eq!(server.events.recv().await, None);
    assert!(TcpStream::connect(server.address).await.is_err());
}

async fn through(
    server: &ObjectServer,
    budgets: Vec<u64>,
) -> (Storage, BaseUrl, tokio::sync::mpsc::Receiver<()>) {
    let (line, connections) = breaking_line(server.address, budgets).await;
    let endpoint: BaseUrl = format!("http://{line}").parse().unwrap();
    let config = StorageConfig { endpoint: endpoint.clone(), ..server.config.clone() };
    (Storage::new(&config), endpoint, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn download_resumes_after_an_interruption() {
    let server = ObjectServer::start().await;
    let (from, to) = (server.scratch("from"), server.scratch("to"));
    marked_file(&from, 8 * MIB);
    let name = key("outputs/a/1/720p.mp4");
    server.storage().upload(&name, &from, "video/mp4", &Progress::none(), &never()).await.unwrap();

    let (storage, _, mut connections) = through(&server, vec![3 * MIB, 2 * MIB, 100]).await;
    let seen = Arc::new(AtomicU64::new(0));
    let progress = Progress::new({
        let seen = Arc::clone(&seen);
        // Starting over would decrease the number.
        move |bytes| assert!(seen.swap(bytes, Ordering::Relaxed) < bytes)
    });
    let bytes = storage.download(Bucket::Output, &name, &to, 8 * MIB, &progress, &never()).await.unwrap();
    assert_eq!(bytes, 8 * MIB);
    assert_eq!(hash(&to), hash(&from));
    for connection in 1..=4 {
        assert!(connections.try_recv().is_ok(), "connection {connection}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_resumes_after_an_interruption() {
    let server = ObjectServer::start().await;
    let (from, to) = (server.scratch("from"), server.scratch("to"));
    marked_file(&from, 8 * MIB);
    let name = key("outputs/a/1/720p.mp4");
    server.storage().upload(&name, &from, "video/mp4", &Progress::none(), &never()).await.unwrap();
    let (_, endpoint, mut connections) = through(&server, vec![3 * MIB, 2 * MIB]).await;
    let url = endpoint.join(&format!("output/{name}")).unwrap();
    let fetcher = Fetcher::new(EgressPolicy::AllowPrivate).unwrap();
    let bytes = fetcher.fetch(&url, &to, 8 * MIB, &Progress::none(), &never()).await.unwrap();
    assert_eq!(bytes, 8 * MIB);
    assert_eq!(hash(&to), hash(&from));
    for connection in 1..=3 {
        assert!(connections.try_recv().is_ok(), "connection {connection}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_report_too_large_and_missing_objects() {
    let server = ObjectServer::start().await;
    server.output("outputs/a", b"0123456789").await;
    let (storage, to) = (server.storage(), server.scratch("to"));
    let fetcher = Fetcher::new(EgressPolicy::AllowPrivate).unwrap();
    let public = |name: &str| server.config.public_url.clone().unwrap().join(name).unwrap();
    let none = Progress::none();

    let (name, missing) = (key("outputs/a"), key("outputs/b"));
    let large = storage.download(Bucket::Output, &name, &to, 9, &none, &never()).await;
    assert!(matches!(large, Err(StorageError::TooLarge { limit: 9 })));
    let large = fetcher.fetch(&public("outputs/a"), &to, 9, &none, &never()).await;
    assert!(matches!(large, Err(StorageError::TooLarge { limit: 9 })));
    let absent = storage.download(Bucket::Output, &missing, &to, 9, &none, &never()).await;
    assert!(matches!(absent, Err(StorageError::NotFound { .. })));
    let absent = fetcher.fetch(&public("outputs/b"), &to, 9, &none, &never()).await;
    assert!(matches!(absent, Err(StorageError::NotFound { .. })));
    // A folder is not an object.
    let folder = storage.download(Bucket::Output, &key("outputs"), &to, 9, &none, &never()).await;
    assert!(matches!(folder, Err(StorageError::NotFound { .. })));
    assert_eq!(storage.head(Bucket::Output, &missing).await.unwrap(), None);

    let cancelled = never();
    cancelled.cancel();
    let stopped = storage.download(Bucket::Output, &name, &to, 99, &none, &cancelled).await;
    assert!(matches!(stopped, Err(StorageError::Cancelled)));
    let nowhere = server.scratch("no/such/folder");
    let disk = storage.download(Bucket::Output, &name, &nowhere, 99, &none, &never()).await;
    assert!(matches!(disk, Err(StorageError::Disk { doing: "write", .. })));
    let disk = storage.upload(&name, &nowhere, "text/plain", &none, &never()).await;
    assert!(matches!(disk, Err(StorageError::Disk { doing: "read", .. })));
    assert!(!to.exists());
    assert_eq!(storage.download(Bucket::Output, &name, &to, 10, &none, &never()).await.unwrap(), 10);
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

/// The peak memory of this process in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs itself in a separate process, so that the memory of other tests does not count.
#[tokio::test(flavor = "multi_thread")]
async fn gigabyte_transfer_uses_little_memory() {
    const INSIDE: &str = "TCODER_TEST_MEMORY";
    if std::env::var_os(INSIDE).is_none() {
        let name = "storage::gigabyte_transfer_uses_little_memory";
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let mut server = ObjectServer::start().await;
    let size = 1024 * MIB;
    let (from, to) = (server.scratch("from"), server.scratch("to"));
    marked_file(&from, size);
    server.output("small", b"x").await;
    let before = peak_memory();

    // Uploads like a browser, in one request; downloads like a worker.
    let file = tokio::fs::File::open(&from).await.unwrap();
    let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(file, 1 << 18));
    let put = http().put(server.put_url("inputs/a/b.mp4")).header("content-length", size).body(body);
    assert_eq!(put.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(ObjectEvent::parse(&server.next_event().await).unwrap().size, Some(size));
    let name = key("inputs/a/b.mp4");
    let none = Progress::none();
    assert_eq!(
        server.storage().download(Bucket::Input, &name, &to, size, &none, &never()).await.unwrap(),
        size
    );

    let grown = (peak_memory() - before) / 1024;
    assert!(grown < 100, "memory grew by {grown} MiB");
    assert!(same_size(&from, &to));
}

fn same_size(a: &Path, b: &Path) -> bool {
    std::fs::metadata(a).unwrap().len() == std::fs::metadata(b).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn object_server_delays_uploads_while_the_event_queue_is_full() {
    let mut server = ObjectServer::start().await;
    for n in 0..64 {
        let put = http().put(server.put_url(&format!("inputs/a/{n}.mp4"))).body("x").send().await.unwrap();
        assert_eq!(put.status(), StatusCode::OK);
    }
    let waiting = tokio::spawn(http().put(server.put_url("inputs/a/64.mp4")).body("x").send());
    let mut told = Vec::new();
    while told.len() < 65 {
        let bytes = server.next_event().await;
        told.push(ObjectEvent::parse(&bytes).unwrap().key);
    }
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(told[64], "inputs/a/64.mp4");
}
