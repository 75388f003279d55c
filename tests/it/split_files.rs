//! Videos that are encoded in parts become files and playlists, and what is missing or does not fit is an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tcoder::job::{FailureCode, InputLimits, Preset};
use tcoder::transcoder::input::MediaInput;
use tcoder::transcoder::split::{SplitDecision, encode_chunk, playing_documents};
use tcoder::transcoder::{TranscodeError, probe};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::media::with_stills;
use crate::split_exact::{
    Parts, STILLS, assert_same_times, decided, frame_times, open_gop, output, packet_times, part, planned,
    sound_hash,
};
use crate::support::clips::{files_in, made, made_by};

async fn files_of_both(preset: Preset) {
    let input = open_gop();
    let parts =
        Parts::encode(planned(&input, preset, "360p,144p").await, MediaInput::File(&input)).await.unwrap();
    let (out, unsplit) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let split = parts.finish_into(out.path()).await.unwrap();
    let whole = with_stills(&input, unsplit.path(), preset, "360p,144p", STILLS).await.unwrap();
    let mut listed: Vec<&str> = split.files.iter().map(|file| file.to_str().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(files_in(out.path()), listed);
    assert_eq!(files_in(out.path()), files_in(unsplit.path()));
    for (ours, theirs) in split.outputs.iter().zip(&whole.outputs) {
        assert_eq!((&ours.file, ours.info.container), (&theirs.file, theirs.info.container));
        let (one, other) = (out.path().join(&ours.file), unsplit.path().join(&theirs.file));
        assert_same_times(&packet_times(&one, "v:0"), &frame_times(&input), &ours.file);
        assert_eq!(sound_hash(&one), sound_hash(&other));
        let start = |path: &Path| packet_times(path, "v:0")[0] - packet_times(path, "a:0")[0];
        assert!((start(&one) - start(&other)).abs() < 0.022, "{} {}", start(&one), start(&other));
        assert!((ours.info.duration - theirs.info.duration).abs() < 0.1);
        let (_, words) = output("ffmpeg", &["-nostdin", "-v", "warning", "-i"], &one, &["-f", "null", "-"]);
        assert_eq!(words, "");
    }
    assert_eq!(split.storyboard.unwrap().count, whole.storyboard.unwrap().count);
}

#[tokio::test(flavor = "multi_thread")]
async fn mp4_of_chunks_is_that_of_the_whole() {
    files_of_both(Preset::WebOptimized).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transport_stream_playlists_of_chunks_are_those_of_the_whole() {
    files_of_both(Preset::Hls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_without_exact_seeking_are_encoded_as_a_whole() {
    let open = open_gop();
    for (name, word) in [("split.ts", "MPEG transport stream"), ("split.avi", "container")] {
        let clip = made(name, &format!("-i {} -c:v copy -c:a mp3", open.display()));
        let SplitDecision::Whole { because } = decided(&clip, Preset::Hls, "144p").await else {
            panic!("{name} is split")
        };
        assert!(because.as_ref().unwrap().contains(word), "{because:?}");
    }
}

fn failure<T>(result: Result<T, TranscodeError>) -> tcoder::job::Failure {
    match result {
        Err(TranscodeError::Failed(failure)) => failure,
        Err(TranscodeError::Cancelled) => panic!("cancelled"),
        Ok(_) => panic!("no error"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_make_a_whole_are_errors() {
    let input = open_gop();
    let mut parts =
        Parts::encode(planned(&input, Preset::HlsAdaptive, "144p").await, MediaInput::File(&input))
            .await
            .unwrap();
    let out = TempDir::new().unwrap();
    let chunks = parts.chunks.clone();
    let error = async |parts: &Parts| failure(parts.finish_into(out.path()).await);

    parts.chunks.remove(1);
    assert!(error(&parts).await.message.contains("chunk 1 is missing"));
    parts.chunks.push(chunks[0].clone());
    assert!(error(&parts).await.message.contains("chunk 1 is missing"));
    parts.chunks = chunks.clone();
    parts.chunks[0].rungs[0].init_sha256 = "0".repeat(64);
    assert!(error(&parts).await.message.contains("header of chunk 2"));
    parts.chunks = chunks.clone();
    parts.chunks[2].rungs[0].frames = 1;
    let damaged = error(&parts).await;
    assert!(damaged.message.contains("frames could be decoded"), "{damaged}");
    assert_eq!(damaged.code, FailureCode::InvalidMedia);
    parts.chunks = chunks.clone();
    parts.chunks[1].rungs[0].first -= 5.0;
    assert!(error(&parts).await.message.contains("out of order"));
    parts.chunks = chunks;
    let audio = parts.audio.take();
    assert!(error(&parts).await.message.contains("sound is missing"));
    parts.audio = audio;
    parts.finish_into(out.path()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_source_is_an_error() {
    let open = open_gop();
    let fast = made("split-fast.mp4", &format!("-i {} -c copy -movflags +faststart", open.display()));
    let cut = made_by("split-cut.mp4", "60 percent of split-fast", |path| {
        let bytes = std::fs::read(&fast).unwrap();
        std::fs::write(path, &bytes[..bytes.len() * 6 / 10]).unwrap();
    });
    let plan = planned(&cut, Preset::HlsAdaptive, "144p").await;
    let parts = match Parts::encode(plan, MediaInput::File(&cut)).await {
        Ok(parts) => failure(parts.finish_into(TempDir::new().unwrap().path()).await),
        Err(error) => failure::<()>(Err(error)),
    };
    assert_eq!(parts.code, FailureCode::InvalidMedia, "{parts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_source_is_noticed_from_the_reports_of_its_chunks() {
    let input = open_gop();
    let plan = planned(&input, Preset::HlsAdaptive, "144p").await;
    let mut parts = Parts::encode(plan, MediaInput::File(&input)).await.unwrap();
    // As if the last chunk had ended early.
    let json = serde_json::to_value(&parts.chunks[0]).unwrap();
    let mut short = json.clone();
    short["rungs"][0]["segments"].as_array_mut().unwrap().truncate(1);
    parts.chunks[0] = serde_json::from_value(short).unwrap();
    parts.chunks[0].rungs[0].last = parts.chunks[0].rungs[0].first + 1.0;
    let error = failure(parts.finish_into(TempDir::new().unwrap().path()).await);
    assert!(error.message.contains("ends early"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_chunk_leaves_no_files() {
    let input = open_gop();
    let plan = planned(&input, Preset::HlsAdaptive, "144p").await;
    let (out, cancel) = (TempDir::new().unwrap(), CancellationToken::new());
    cancel.cancel();
    let result = encode_chunk(1, &part(&plan, MediaInput::File(&input), out.path(), &cancel)).await;
    assert_eq!(result, Err(TranscodeError::Cancelled));
    assert_eq!(files_in(out.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn playlists_before_the_end_name_every_segment() {
    let input = open_gop();
    let plan = planned(&input, Preset::HlsAdaptive, "360p,144p").await;
    let documents = playing_documents(&plan).unwrap();
    let parts = Parts::encode(plan, MediaInput::File(&input)).await.unwrap();
    let names: Vec<&str> = documents.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(names, ["360p/index.m3u8", "144p/index.m3u8", "audio/index.m3u8", "master.m3u8"]);
    for (file, text) in &documents {
        // A file has no query.
        std::fs::write(parts.stored.path().join(file), text.replace("?awaited", "")).unwrap();
    }
    // The segments that the playlists name are those that the parts made.
    let named: Vec<String> = documents[..3]
        .iter()
        .flat_map(|(file, text)| {
            let folder = file.split('/').next().unwrap();
            // The query asks the API to wait for the segment.
            let names = text.lines().filter_map(|line| line.strip_suffix("?awaited"));
            names.map(move |name| format!("{folder}/{name}"))
        })
        .collect();
    let mut made: Vec<String> = files_in(parts.stored.path());
    made.retain(|file| file.ends_with("m4s"));
    let mut sorted = named.clone();
    sorted.sort();
    assert_eq!(sorted, made);
    let master = parts.stored.path().join("master.m3u8");
    let frames = frame_times(&input).len();
    assert_eq!(packet_times(&master, "v:0").len(), frames);
    assert!(
        documents[3].1.contains("RESOLUTION=320x180,AUDIO=\"audio\",FRAME-RATE=23.976,CLOSED-CAPTIONS=NONE")
    );
}

/// Answers requests for ranges of one file.
async fn ranges(State(bytes): State<Arc<Vec<u8>>>, headers: HeaderMap) -> Response {
    let all = bytes.len();
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        return ([(header::ACCEPT_RANGES, "bytes".to_owned())], bytes.to_vec()).into_response();
    };
    let from: usize = from.parse().unwrap();
    let to = to.parse().map_or(all, |to: usize| (to + 1).min(all));
    if from >= to {
        return (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, format!("bytes */{all}"))])
            .into_response();
    }
    let described = format!("bytes {from}-{}/{all}", to - 1);
    let headers = [(header::CONTENT_RANGE, described), (header::ACCEPT_RANGES, "bytes".to_owned())];
    (StatusCode::PARTIAL_CONTENT, headers, bytes[from..to].to_vec()).into_response()
}

async fn served(file: &Path) -> Url {
    let bytes = Arc::new(std::fs::read(file).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/video", listener.local_addr().unwrap());
    let router = Router::new().fallback(ranges).with_state(bytes);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_read_from_a_server_are_those_read_from_a_file() {
    // With the index at the end, and in a container that seeks by cues.
    let open = open_gop();
    let mkv: PathBuf = made("split-open.mkv", &format!("-i {} -c copy", open.display()));
    for input in [open, mkv] {
        let url = served(&input).await;
        let size = std::fs::metadata(&input).unwrap().len();
        let plan = planned(&input, Preset::HlsAdaptive, "144p").await;
        assert_eq!(
            probe::probe_loopback(&url, size, &[], &InputLimits::default()).await.unwrap(),
            plan.source
        );
        let remote = Parts::encode(plan.clone(), MediaInput::Loopback(&url)).await.unwrap();
        let local = Parts::encode(plan, MediaInput::File(&input)).await.unwrap();
        for file in files_in(local.stored.path()) {
            let bytes = |parts: &Parts| std::fs::read(parts.stored.path().join(&file)).unwrap();
            assert!(bytes(&local) == bytes(&remote), "{file}");
        }
        for (local, remote) in local.chunks.iter().zip(&remote.chunks) {
            assert_eq!(local.rungs, remote.rungs);
        }
        remote.finish_into(TempDir::new().unwrap().path()).await.unwrap();
    }
}
