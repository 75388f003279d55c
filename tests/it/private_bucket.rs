//! HLS in a private bucket: R2 as workerd emulates it, which verifies signatures. The command line downloads
//! it, and the page and other players play it through the API, both the Worker and `tcoder api`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use reqwest::header::{self, HeaderMap};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tcoder::config::{BaseUrl, Env, StorageConfig};
use tcoder::job::{EntryKind, ObjectKey};
use tcoder::storage::media::MediaSigner;
use tcoder::storage::presign::{ObjectRequest, Presigner};
use tcoder::storage::urls::now_millis;
use tcoder::storage::{Bucket, PutCondition, PutOutcome, Storage};
use tcoder::transcoder::references;
use tokio::process::Child;
use tokio::sync::OnceCell;
use url::Url;

use crate::acceptance::is_problem;
use crate::support::clips::probe;
use crate::support::clips::three_segments;
use crate::support::edge::{Edge, Setup};
use crate::support::kube::free_port;
use crate::support::page;
use crate::support::process::{err, out, run, spawn, tcoder};
use crate::support::redis;
use crate::support::system::{Answer, Api, PATIENCE, TOKEN, folder, http};

/// A film that was uploaded to the Worker and downloaded by the command line, and a second API next to the
/// Worker.
struct Film {
    edge: Edge,
    native: Api,
    _api: Child,
    /// The job as the Worker returns it.
    job: Value,
    /// The folder that it was downloaded to.
    downloaded: PathBuf,
}

async fn film() -> &'static Film {
    static FILM: OnceCell<Film> = OnceCell::const_new();
    FILM.get_or_init(Film::make).await
}

impl Film {
    async fn make() -> Self {
        // Without the cron trigger, only requests make the Worker use Redis.
        let setup = Setup { notifies: true, ..Setup::over(redis::shared()) };
        let edge = setup.without("R2_PUBLIC_URL").start().await;
        let dir = folder("private");
        let film = three_segments();
        let wanted = ["--preset", "hls-adaptive", "--quality", "360p,144p", "--poster", "--storyboard"];
        let args = [&["submit", film.to_str().unwrap(), "--output", "hls", "--json"], &wanted[..]].concat();
        let done = run(&args, &[("TCODER_URL", &edge.url), ("TCODER_TOKEN", TOKEN)], &dir).await;
        assert!(done.status.success(), "{}\n{}", err(&done), edge.log());
        let job = serde_json::from_str(&out(&done)).unwrap();
        let (api, native) = native(&edge).await;
        Self { edge, native, _api: api, job, downloaded: dir.join("hls") }
    }

    fn id(&self) -> &str {
        self.job["jobId"].as_str().unwrap()
    }

    fn apis(&self) -> [&Api; 2] {
        [&self.edge, &self.native]
    }

    fn storage(&self) -> StorageConfig {
        storage_of(&self.edge)
    }
}

/// The settings of a process that uses the Worker's buckets.
fn storage_of(edge: &Edge) -> StorageConfig {
    let env = Env::of(|name| edge.role.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone()));
    StorageConfig::read(&env).unwrap()
}

/// Starts `tcoder api` with the Worker's Redis and buckets, and waits until it is ready.
async fn native(edge: &Edge) -> (Child, Api) {
    let address = format!("127.0.0.1:{}", free_port());
    let log = folder("private-api").join("log");
    let mut command = tcoder();
    command
        .args(["api", "--listen", &address])
        .envs(edge.role.iter().map(|(name, value)| (name, value)))
        .env("API_TOKENS", TOKEN)
        .env("RUST_LOG", "info,tcoder=trace,tower_http=debug")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap());
    let child = spawn(command);
    let api = Api { url: format!("http://{address}"), token: Some(TOKEN.into()), http: http(), log };
    let ready = async {
        let is_ready = async || {
            let answer = http().get(format!("{}/readyz", api.url)).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        };
        while !is_ready().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("the API does not become ready");
    (child, api)
}

/// A client that does not follow redirects.
fn unredirected() -> reqwest::Client {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

async fn fetch(url: &str) -> (StatusCode, String) {
    let answer = http().get(url).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

async fn refused(api: &Api, url: &str) -> Answer {
    api.answer(http().get(url)).await
}

/// The URL at this pointer in a job.
fn address<'a>(job: &'a Value, pointer: &str) -> &'a str {
    job.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer}: {job:#}"))
}

/// All files that a playlist in a folder refers to, recursively.
fn named(folder: &Path, playlist: &str, found: &mut Vec<String>) {
    let text = std::fs::read_to_string(folder.join(playlist)).unwrap();
    let below = playlist.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    for reference in references(EntryKind::Hls, &text) {
        let path = format!("{below}{}", reference.uri());
        if path.ends_with(".m3u8") {
            named(folder, &path, found);
        }
        found.push(path);
    }
}

/// The URL of the first segment that a master playlist leads to.
async fn first_segment(master: &str) -> Url {
    let mut url: Url = master.parse().unwrap();
    while url.path().ends_with(".m3u8") {
        let (status, text) = fetch(url.as_str()).await;
        assert_eq!(status, 200, "{url}: {text}");
        url = url.join(references(EntryKind::Hls, &text).last().unwrap().uri()).unwrap();
    }
    url
}

#[tokio::test]
async fn submit_downloads_playable_hls_from_a_private_bucket() {
    let film = film().await;
    let dir = &film.downloaded;
    let mut files = Vec::new();
    named(dir, "master.m3u8", &mut files);
    // Two renditions of three segments each and their audio, with playlists and initialization sections.
    assert!(files.len() >= 3 * (3 + 2), "{files:?}");
    for file in files.iter().map(String::as_str).chain(["poster.jpg", "storyboard.jpg", "storyboard.vtt"]) {
        assert!(dir.join(file).metadata().is_ok_and(|about| about.len() > 0), "{file}");
    }
    // FFmpeg cannot decode I-frame playlists alone; hls_playlists.rs plays them.
    for playlist in files.iter().filter(|file| file.ends_with(".m3u8") && !file.ends_with("iframes.m3u8")) {
        assert!(seconds(dir.join(playlist).to_str().unwrap()) > 8.5, "{playlist}");
    }
    assert!(seconds(dir.join("manifest.mpd").to_str().unwrap()) > 8.5);
    let played = probe(dir.join("master.m3u8").to_str().unwrap());
    let heights = played["streams"].as_array().unwrap().iter().filter_map(|stream| stream["height"].as_u64());
    assert_eq!(heights.collect::<std::collections::BTreeSet<_>>(), [144, 180].into(), "{played:#}");
}

/// Seconds that FFmpeg decodes of a file or a URL.
fn seconds(what: &str) -> f64 {
    let output = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-xerror", "-i", what, "-f", "null", "-progress", "-", "-"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{what}: {}", err(&output));
    let said = out(&output);
    let reached = said.lines().rev().find_map(|line| line.strip_prefix("out_time_us=")).unwrap();
    reached.parse::<f64>().unwrap() / 1e6
}

#[tokio::test]
async fn private_hls_plays_through_the_api_without_headers() {
    let film = film().await;
    for api in film.apis() {
        let job = api.job(film.id()).await;
        let master = address(&job, "/master/url");
        assert!(master.starts_with(&format!("{}/media/", api.url)), "{master}");
        assert!(seconds(master) > 8.5, "{master}");
        let manifest = address(&job, "/entries/1/url");
        assert!(manifest.starts_with(&format!("{}/media/", api.url)) && manifest.ends_with("/manifest.mpd"));
        assert!(seconds(manifest) > 8.5, "{manifest}");
        let answer = http().get(manifest).send().await.unwrap();
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/dash+xml", "{manifest}");
        for output in job["outputs"].as_array().unwrap() {
            assert!(seconds(address(output, "/url")) > 8.5, "{output}");
        }
        // The cues refer to their image by a relative name.
        let (status, cues) = fetch(address(&job, "/storyboard/url")).await;
        assert_eq!(status, 200, "{cues}");
        let cue = cues.lines().find(|line| line.contains("#xywh=")).unwrap();
        let picture = address(&job, "/storyboard/url").parse::<Url>().unwrap().join(cue).unwrap();
        let picture = http().get(picture).send().await.unwrap();
        assert_eq!(
            (picture.status(), &picture.headers()["content-type"]),
            (StatusCode::OK, &"image/jpeg".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn media_serves_playlists_and_redirects_segments() {
    let film = film().await;
    let config = film.storage();
    for api in film.apis() {
        let job = api.job(film.id()).await;
        let master = address(&job, "/master/url");
        let ask = async |method: Method, url: &str, headers: &[(&str, &str)]| {
            let request =
                headers.iter().fold(unredirected().request(method, url), |r, (n, v)| r.header(*n, *v));
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.headers().clone(), answer.text().await.unwrap())
        };
        let (status, headers, text) =
            ask(Method::GET, master, &[("origin", "https://elsewhere.example")]).await;
        assert_eq!((status, &text[..7]), (200, "#EXTM3U"));
        assert_eq!(headers["content-type"], "application/vnd.apple.mpegurl");
        assert_eq!(headers["access-control-allow-origin"], "*");
        let keep = headers["cache-control"].to_str().unwrap().strip_prefix("public, max-age=").unwrap();
        assert!((86_000..=90_000).contains(&keep.parse::<u64>().unwrap()), "{keep}");
        let length = text.len().to_string();
        // workerd sends the bodies of Workers in chunks without a length.
        let has_length =
            |headers: &HeaderMap| headers.get("content-length").map(|n| n.to_str().unwrap() == length);
        let expected = (api.url == film.native.url).then_some(true);
        assert_eq!(has_length(&headers), expected, "{headers:?}");
        let tag = headers["etag"].to_str().unwrap();
        assert_eq!(ask(Method::GET, master, &[("if-none-match", tag)]).await.0, 304);
        let (status, headers, body) = ask(Method::HEAD, master, &[]).await;
        assert_eq!((status, has_length(&headers).unwrap_or(true), &*body), (200, true, ""), "{headers:?}");
        let (status, headers, body) = ask(Method::GET, master, &[("range", "bytes=1-6")]).await;
        assert_eq!((status, &*body), (206, "EXTM3U"));
        assert_eq!(headers["content-range"], format!("bytes 1-6/{length}"));
        let asks = [
            ("origin", "https://elsewhere.example"),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "range"),
        ];
        let (status, headers, _) = ask(Method::OPTIONS, master, &asks).await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (200, &"*".parse().unwrap()));

        let segment = first_segment(master).await;
        let (status, headers, _) =
            ask(Method::GET, segment.as_str(), &[("origin", "https://elsewhere.example")]).await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (307, &"*".parse().unwrap()));
        assert!(headers["cache-control"].to_str().unwrap().starts_with("private, max-age=8"), "{headers:?}");
        let to = headers[header::LOCATION].to_str().unwrap();
        assert!(to.starts_with(config.endpoint.as_str()) && to.contains("X-Amz-Signature="), "{to}");
        // A client that follows the redirect gets the object, with GET, with HEAD and in ranges.
        let whole = http().get(segment.clone()).send().await.unwrap();
        assert_eq!(whole.status(), 200);
        let size = whole.bytes().await.unwrap().len();
        let head = http().head(segment.clone()).send().await.unwrap();
        assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &size.into()));
        let part = http().get(segment).header("range", "bytes=4-7").send().await.unwrap();
        assert_eq!(
            (part.status(), &*part.bytes().await.unwrap()),
            (StatusCode::PARTIAL_CONTENT, &b"styp"[..])
        );
        is_problem(&api.answer(http().post(master)).await, 405, None);
    }
}

#[tokio::test]
async fn media_address_is_valid_for_its_attempt_only() {
    let film = film().await;
    let signer = MediaSigner::new(&film.storage());
    for api in film.apis() {
        let job = api.job(film.id()).await;
        let master = address(&job, "/master/url");
        let key: ObjectKey = address(&job, "/master/key").parse().unwrap();
        let kind = |answer: &Answer| answer.body["type"].as_str().unwrap().to_owned();

        let base: BaseUrl = api.url.parse().unwrap();
        let ended = signer.sign(&base, &key, now_millis().plus(-1000)).unwrap();
        let answer = refused(api, ended.as_str()).await;
        is_problem(&answer, 403, None);
        assert_eq!(kind(&answer), "/problems/address-expired");
        let ends = signer.sign(&base, &key, now_millis().plus(60_000)).unwrap();
        let answer = http().get(ends).send().await.unwrap();
        let keep = answer.headers()["cache-control"].to_str().unwrap().rsplit_once('=').unwrap().1;
        assert!(answer.status() == 200 && keep.parse::<u64>().unwrap() <= 60, "{keep}");

        let parts: Vec<&str> = master.split('/').collect();
        let [.., token, id, epoch, name] = parts[..] else { panic!("{master}") };
        let with = |token: &str, id: &str, epoch: &str, name: &str| {
            format!("{}/media/{token}/{id}/{epoch}/{name}", api.url)
        };
        assert_eq!(with(token, id, epoch, name), master);
        let other_job = uuid::Uuid::now_v7().to_string();
        let (end, mac) = token.split_once('-').unwrap();
        let longer = format!("{}-{mac}", end.parse::<u64>().unwrap() + 3600);
        for url in [
            with(token, &other_job, epoch, name),
            with(token, id, "1", name),
            with(&longer, id, epoch, name),
            with(&token[..token.len() - 1], id, epoch, name),
            with("x", id, epoch, name),
        ] {
            let answer = refused(api, &url).await;
            is_problem(&answer, 403, None);
            assert_eq!(kind(&answer), "/problems/address-not-signed", "{url}");
        }
        // The manifest next to the attempts' folders exists but cannot be reached.
        let manifest = format!("outputs/{id}/manifest.json").parse().unwrap();
        let storage = Storage::new(&film.storage());
        assert!(storage.head(Bucket::Output, &manifest).await.unwrap().is_some());
        for path in [
            "nothing.m3u8",
            "%2e%2e/manifest.json",
            "..%2fmanifest.json",
            "a/..%2f..%2fmanifest.json",
            "%2fmanifest.json",
            "..%5cmanifest.json",
            "a%00.m3u8",
            "%ff.m3u8",
        ] {
            let answer = refused(api, &with(token, id, epoch, path)).await;
            // A URL parser converts `%2e%2e/` to `../` before the request is sent, so the path does not match
            // the route.
            assert!(matches!(answer.status, 403 | 404), "{path}: {answer:?}");
            is_problem(&answer, answer.status, None);
        }
        let (status, _) = fetch(&with(token, &id.to_uppercase(), epoch, name)).await;
        assert_eq!(status, 200, "an id is the same in capitals");
    }
}

#[tokio::test]
async fn media_uses_no_redis_and_logs_no_signatures() {
    let film = film().await;
    let job = film.edge.job(film.id()).await;
    let master = address(&job, "/master/url");
    // A request of another test may still be in progress; it would be counted, but ends soon.
    let quiet = async {
        loop {
            let before = film.edge.count.so_far().0;
            for _ in 0..5 {
                assert_eq!(http().get(first_segment(master).await).send().await.unwrap().status(), 200);
            }
            if film.edge.count.so_far().0 == before {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, quiet).await.expect("each request for media makes one to Redis");

    let job = film.native.job(film.id()).await;
    let master = address(&job, "/master/url");
    let token = master.split('/').nth(4).unwrap();
    let (_, mac) = token.split_once('-').unwrap();
    let segment = first_segment(master).await;
    assert_eq!(http().get(segment).send().await.unwrap().status(), 200);
    for url in
        [format!("{}/media/{token}/x", film.native.url), format!("{}/media/{token}/x/y/z", film.native.url)]
    {
        assert!(fetch(&url).await.0.is_client_error());
    }
    let log = film.native.log();
    assert!(log.contains("/media/{token}/"), "requests are not logged: {log}");
    let line = log.lines().find(|line| line.contains(mac) || line.contains("X-Amz-Signature"));
    assert!(line.is_none(), "{line:?}");
}

#[tokio::test]
async fn page_of_the_worker_plays_private_hls() {
    let film = film().await;
    let (well, said) = page::play(&film.edge.url, TOKEN, film.id(), &[180, 144]).await;
    assert!(well, "{said}\n{}", film.edge.log());
}

#[tokio::test]
async fn page_plays_private_hls_of_another_origin() {
    let film = film().await;
    let (well, said) = page::play(&film.native.url, TOKEN, film.id(), &[180, 144]).await;
    assert!(well, "{said}\n{}", film.native.log());
}

#[tokio::test]
async fn r2_endpoint_with_a_path_needs_no_final_slash() {
    let film = film().await;
    let config = film.storage();
    let endpoint = config.endpoint.as_str().trim_end_matches('/');
    assert!(endpoint.parse::<Url>().unwrap().path().len() > 1, "{endpoint} has no path");
    for (endpoint, name) in [(endpoint.to_owned(), "without"), (format!("{endpoint}/"), "with")] {
        let config = StorageConfig { endpoint: endpoint.parse().unwrap(), ..config.clone() };
        let key: ObjectKey = format!("outputs/slash/{name}").parse().unwrap();
        let storage = Storage::new(&config);
        storage.check().await.unwrap();
        let condition = PutCondition::Absent;
        let put = storage.put_if(condition, Bucket::Output, &key, b"film".to_vec(), "text/plain").await;
        assert_eq!(put.unwrap(), PutOutcome::Written, "{endpoint}");
        let presigner = Presigner::new(&config).unwrap();
        let url = presigner
            .sign(ObjectRequest::Get, Bucket::Output, &key, now_millis(), Duration::from_secs(60))
            .unwrap();
        assert_eq!(fetch(url.as_str()).await, (StatusCode::OK, "film".to_owned()), "{endpoint}");
    }
}
