//! Inputs are read by byte ranges: the real object server, HTTP and FFmpeg.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use reqwest::{Method, Response};
use tcoder::config::StorageConfig;
use tcoder::job::Failure;
use tcoder::net::{self, EgressPolicy, UrlRefused};
use tcoder::storage::fetch::Fetcher;
use tcoder::storage::presign::{ObjectRequest, Presigner};
use tcoder::storage::range::{RangeServer, RangeSource, RangeSupport};
use tcoder::storage::urls::UPLOAD_WINDOW;
use tcoder::storage::{Bucket, Storage, StorageError};
use tokio::net::TcpListener;
use tokio::process::Command;
use url::Url;

use crate::support::clips::made;
use crate::support::objects::{ObjectServer, breaking_line, put_input};

const MIB: u64 = 1 << 20;
const NAME: &str = "inputs/film.mp4";

fn http() -> reqwest::Client {
    net::install_crypto();
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

/// Bytes without a short period.
fn noise(length: u64) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn supported(opened: RangeSupport) -> Arc<dyn RangeSource> {
    match opened {
        RangeSupport::Supported(source) => source,
        RangeSupport::Unsupported(why) => panic!("{why}"),
    }
}

async fn open(storage: &Storage) -> Arc<dyn RangeSource> {
    supported(storage.open_ranges(Bucket::Input, &NAME.parse().unwrap()).await.unwrap())
}

/// A server for an object with these bytes.
async fn serving(bytes: Vec<u8>) -> (ObjectServer, RangeServer) {
    let objects = ObjectServer::start().await;
    put_input(&objects.config, NAME, bytes).await;
    let ranges = RangeServer::start(open(&objects.storage()).await, 16).unwrap();
    (objects, ranges)
}

/// The storage of `objects`, reached through `breaking_line` with these budgets.
async fn through(objects: &ObjectServer, budgets: Vec<u64>) -> Storage {
    let (line, _) = breaking_line(objects.address, budgets).await;
    let endpoint = format!("http://{line}").parse().unwrap();
    Storage::new(&StorageConfig { endpoint, ..objects.config.clone() })
}

async fn asked(url: &Url, range: &str) -> Response {
    http().get(url.clone()).header("range", range).send().await.unwrap()
}

/// A web server with this application.
async fn web(app: Router) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/film.mp4?signature=secret", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_range_gives_exactly_its_bytes() {
    let size = 3 * MIB + 12_345;
    let bytes = noise(size);
    let (_objects, server) = serving(bytes.clone()).await;
    let last = size - 1;
    let block = 64 << 10;
    let cases = [
        ("bytes=0-".to_owned(), 0, last),
        ("bytes=0-0".to_owned(), 0, 0),
        (format!("bytes={last}-"), last, last),
        (format!("bytes={}-{}", block - 1, block), block - 1, block),
        (format!("bytes={}-{}", block, 2 * block - 1), block, 2 * block - 1),
        (format!("bytes={}-{}", 256 * 1024 - 7, 2 * MIB + 1), 256 * 1024 - 7, 2 * MIB + 1),
        (format!("bytes={}-", 2 * MIB + 99), 2 * MIB + 99, last),
        (format!("bytes=5-{}", size * 9), 5, last),
        ("bytes=-1".to_owned(), last, last),
        ("bytes=-70000".to_owned(), size - 70_000, last),
    ];
    for (range, first, last) in cases {
        let response = asked(server.url(), &range).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(response.headers()["content-range"], format!("bytes {first}-{last}/{size}"), "{range}");
        assert_eq!(response.headers()["content-length"], (last - first + 1).to_string(), "{range}");
        let got = response.bytes().await.unwrap();
        assert!(got == bytes[first as usize..=last as usize], "{range}");
    }
    let whole = http().get(server.url().clone()).send().await.unwrap();
    assert_eq!(
        (whole.status(), &whole.headers()["accept-ranges"]),
        (StatusCode::OK, &"bytes".parse().unwrap())
    );
    let etag = whole.headers()["etag"].to_str().unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.len() > 10, "{etag}");
    assert!(whole.bytes().await.unwrap() == bytes);
    let head = http().head(server.url().clone()).send().await.unwrap();
    assert_eq!(
        (head.status(), head.headers()["content-length"].to_str().unwrap()),
        (StatusCode::OK, "3158073")
    );
    let behind = asked(server.url(), &format!("bytes={size}-")).await;
    assert_eq!(behind.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(behind.headers()["content-range"], format!("bytes */{size}"));
    // All of it fits into the cache, and nothing was read twice.
    assert_eq!(server.counts().bytes_read, size);
    assert!(server.take_failure().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_secret_path_and_reading_methods_are_served() {
    let (_objects, server) = serving(noise(100)).await;
    let path = server.url().path().to_owned();
    // The path with another first character. It is not always the same one: the secret may begin with it.
    let other_first = format!("/{}{}", if path.starts_with("/0") { '1' } else { '0' }, &path[2..]);
    for wrong in ["/", "/input", &path[..path.len() - 1], &format!("{path}/"), &other_first] {
        let url = server.url().join(wrong).unwrap();
        assert_eq!(http().get(url).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{wrong}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let response = http().request(method, server.url().clone()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
    assert!(server.url().host_str() == Some("127.0.0.1") && path.len() > 32, "{path}");
    assert!(!format!("{server:?}").contains(&path[1..33]));
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_connections_to_storage_are_resumed() {
    let objects = ObjectServer::start().await;
    let bytes = noise(9 * MIB);
    put_input(&objects.config, NAME, bytes.clone()).await;
    // The first connection breaks while the input is opened.
    let storage = through(&objects, vec![100_000, 400_000, 700_000, 100, 300_000]).await;
    let server = RangeServer::start(open(&storage).await, 16).unwrap();
    let got = asked(server.url(), "bytes=0-").await.bytes().await.unwrap();
    assert!(got == bytes);
    assert_eq!(server.counts().bytes_served, 9 * MIB);
    assert!(server.take_failure().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_ends_when_the_client_leaves() {
    let (_objects, server) = serving(noise(64 * MIB)).await;
    for _ in 0..4 {
        let mut response = asked(server.url(), &format!("bytes={}-", 40 * MIB)).await;
        response.chunk().await.unwrap().unwrap();
    }
    // The kernel's buffers and one window take more than the client read, but far from all.
    let counts = server.counts();
    assert!(counts.bytes_read < 8 * MIB, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_input_ends_the_response_and_is_the_failure() {
    let objects = ObjectServer::start().await;
    put_input(&objects.config, NAME, noise(4 * MIB)).await;
    let presigner = Presigner::new(&objects.config).unwrap();
    let now = tcoder::job::Millis(jiff::Timestamp::now().as_millisecond());
    let key = NAME.parse().unwrap();
    let url = presigner.sign(ObjectRequest::Get, Bucket::Input, &key, now, UPLOAD_WINDOW).unwrap();
    let fetcher = Fetcher::new(EgressPolicy::AllowPrivate).unwrap();
    let sources = [open(&objects.storage()).await, supported(fetcher.open_ranges(&url).await.unwrap())];
    assert_eq!(sources[0].etag(), sources[1].etag());
    put_input(&objects.config, NAME, noise(5 * MIB)).await;
    for source in sources {
        let server = RangeServer::start(source, 16).unwrap();
        // What was read before remains readable.
        assert_eq!(asked(server.url(), "bytes=0-999").await.bytes().await.unwrap(), noise(1000));
        let broken = asked(server.url(), &format!("bytes={}-", 2 * MIB)).await.bytes().await;
        assert!(broken.is_err());
        let failure = server.take_failure().unwrap();
        assert!(matches!(failure, StorageError::Replaced { .. }), "{failure:?}");
        let failure = Failure::from(failure);
        assert!(failure.message.contains("was replaced while it was read"), "{failure}");
        assert!(failure.code.is_retryable() && !failure.message.contains("X-Amz"), "{failure}");
        assert!(server.take_failure().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_input_is_not_found_before_and_while_it_is_read() {
    let (objects, server) = serving(noise(2 * MIB)).await;
    let storage = objects.storage();
    let key = NAME.parse().unwrap();
    storage.delete(Bucket::Input, &key).await.unwrap();
    assert!(asked(server.url(), "bytes=-9").await.bytes().await.is_err());
    assert!(matches!(server.take_failure(), Some(StorageError::NotFound { .. })));
    let absent = storage.open_ranges(Bucket::Input, &key).await;
    assert!(matches!(absent, Err(StorageError::NotFound { .. })));
    put_input(&objects.config, NAME, Vec::new()).await;
    let empty = storage.open_ranges(Bucket::Input, &key).await.unwrap();
    assert!(matches!(empty, RangeSupport::Unsupported("the object is empty")), "{empty:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn web_servers_without_ranges_or_a_version_are_refused_with_a_reason() {
    let partial = |headers: &'static [(&'static str, &'static str)]| {
        Router::new().route(
            "/film.mp4",
            get(move || async move {
                let headers =
                    headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
                (StatusCode::PARTIAL_CONTENT, headers.collect::<HeaderMap>(), "0123456789")
            }),
        )
    };
    let whole = Router::new().route("/film.mp4", get(|| async { "0123456789" }));
    let fetcher = Fetcher::new(EgressPolicy::AllowPrivate).unwrap();
    for (app, reason) in [
        (whole, "does not honour ranges"),
        (partial(&[("content-range", "bytes 0-9/*"), ("etag", "\"a\"")]), "does not say the size"),
        (partial(&[("content-range", "bytes 0-9/10"), ("etag", "W/\"a\"")]), "neither a strong entity tag"),
    ] {
        match fetcher.open_ranges(&web(app).await).await.unwrap() {
            RangeSupport::Unsupported(why) => assert!(why.contains(reason), "{why}"),
            RangeSupport::Supported(source) => panic!("{reason}: {source:?}"),
        }
    }
    let dated = [("content-range", "bytes 0-9/10"), ("last-modified", "Sat, 01 Nov 2025 10:00:00 GMT")];
    let source =
        supported(fetcher.open_ranges(&web(partial(Box::leak(Box::new(dated)))).await).await.unwrap());
    assert_eq!((source.size(), source.head()), (10, "0123456789".into()));
    assert!(!format!("{source:?}").contains("secret"));
    let url = web(Router::new()).await;
    assert!(matches!(fetcher.open_ranges(&url).await, Err(StorageError::NotFound { .. })));
    let refused = Fetcher::new(EgressPolicy::PublicOnly).unwrap().open_ranges(&url).await;
    assert!(matches!(refused, Err(StorageError::Address(UrlRefused::Private(_)))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_readers_each_get_their_bytes() {
    let bytes = Arc::new(noise(12 * MIB));
    let (_objects, server) = serving(bytes.to_vec()).await;
    let mut readers = tokio::task::JoinSet::new();
    for n in 0..10 {
        let (url, bytes) = (server.url().clone(), Arc::clone(&bytes));
        readers.spawn(async move {
            let (first, last) = (n * MIB + n * 1000, (n + 2) * MIB);
            let got = asked(&url, &format!("bytes={first}-{last}")).await.bytes().await.unwrap();
            assert!(got == bytes[first as usize..=last as usize], "reader {n}");
        });
    }
    while let Some(done) = readers.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_or_dropped_server_closes_its_connections() {
    for is_dropped in [false, true] {
        let (_objects, server) = serving(noise(64 * MIB)).await;
        let url = server.url().clone();
        let mut response = asked(&url, "bytes=0-").await;
        response.chunk().await.unwrap().unwrap();
        if is_dropped {
            drop(server);
        } else {
            tokio::time::timeout(Duration::from_secs(10), server.stop()).await.expect("it does not stop");
        }
        let rest = async {
            while response.chunk().await?.is_some() {}
            Ok::<_, reqwest::Error>(())
        };
        assert!(rest.await.is_err(), "the response went on to its end");
        assert!(http().get(url).send().await.unwrap_err().is_connect());
    }
}

/// 70 s of 640x360 and a tone, 10 MB or more.
fn clip(name: &str, muxer: &str) -> PathBuf {
    made(
        name,
        &format!(
            "-f lavfi -i testsrc2=s=640x360:r=25:d=70 -f lavfi -i sine=d=70 -c:v libx264 -preset ultrafast -qp 20 \
             -g 50 -pix_fmt yuv420p -c:a aac {muxer}"
        ),
    )
}

async fn output(program: &str, arguments: &str, input: &str) -> String {
    let arguments = arguments.split_whitespace().map(|word| if word == "INPUT" { input } else { word });
    let run = Command::new(program).args(["-v", "error"]).args(arguments).kill_on_drop(true).output();
    let done = tokio::time::timeout(Duration::from_secs(120), run).await.expect("it hangs").unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && errors.is_empty(), "{program} {input}: {errors}");
    String::from_utf8(done.stdout).unwrap()
}

/// What a program prints about the file and about its copy on the server, which must be the same; returns the fraction
/// of the file that was read for it.
async fn read_alike(server: &RangeServer, file: &Path, program: &str, before: &str, after: &str) -> f64 {
    let earlier = server.counts().bytes_read;
    let there = format!("-protocol_whitelist http,tcp -seekable 1 {before} INPUT {after}");
    let there = output(program, &there, server.url().as_str()).await;
    let here = output(program, &format!("{before} INPUT {after}"), file.to_str().unwrap()).await;
    assert!(here.lines().count() > 3, "{here}");
    assert_eq!(there, here);
    let size = std::fs::metadata(file).unwrap().len();
    (server.counts().bytes_read - earlier) as f64 / size as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_reads_a_stretch_as_from_the_file_and_little_else() {
    for (name, muxer) in
        [("ranges-end.mp4", ""), ("ranges-front.mp4", "-movflags +faststart"), ("ranges.mkv", "-f matroska")]
    {
        let file = clip(name, muxer);
        let bytes = std::fs::read(&file).unwrap();
        assert!(bytes.len() as u64 > 10 * MIB, "{name} has {} bytes", bytes.len());
        let (_objects, server) = serving(bytes).await;
        let show = "-show_entries stream=codec_name,duration,nb_frames,time_base:format=duration,size -i";
        let probe = read_alike(&server, &file, "ffprobe", show, "").await;
        let copy = "-map 0:v -c copy -f framemd5 -";
        let copied = read_alike(&server, &file, "ffmpeg", "-ss 60 -t 2 -i", copy).await;
        let decoded = read_alike(&server, &file, "ffmpeg", "-ss 30 -t 2 -i", "-an -f framemd5 -").await;
        assert!(probe < 0.2 && copied < 0.2 && decoded < 0.2, "{name}: {probe:.3} {copied:.3} {decoded:.3}");
        assert!(server.take_failure().is_none());
    }
}

/// FFmpeg takes the end of the response for the end of the file, so that only the server knows what happened.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_input_is_the_failure_whatever_ffmpeg_says() {
    let bytes = std::fs::read(clip("ranges-front.mp4", "-movflags +faststart")).unwrap();
    let (objects, server) = serving(bytes).await;
    put_input(&objects.config, NAME, noise(12 * MIB)).await;
    let run = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-protocol_whitelist", "http,tcp", "-i", server.url().as_str()])
        .args(["-map", "0:v", "-c", "copy", "-f", "null", "-"])
        .kill_on_drop(true)
        .output();
    let done = tokio::time::timeout(Duration::from_secs(120), run).await.expect("it hangs").unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!said.is_empty(), "{}", done.status);
    assert!(matches!(server.take_failure(), Some(StorageError::Replaced { .. })), "{said}");
}
