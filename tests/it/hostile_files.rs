//! Files that are made to hurt: each ends its job in a clear failure that blames the file, or in outputs that were verified,
//! and nothing else is read, called or left. The damage at random places is in `mutations`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_RANGE;
use axum::http::{Response, StatusCode};
use axum::routing::get;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::support::clips::{made, made_by};
use crate::support::system::{Setup, System, serve};

const VIDEO: &str = "-f lavfi -i testsrc2=s=160x90:r=25:d=1 -c:v libx264 -preset ultrafast -pix_fmt yuv420p";

const SMALL_AV1: &str =
    "-f lavfi -i testsrc2=s=160x90:r=25:d=0.2 -c:v libaom-av1 -cpu-used 8 -pix_fmt yuv420p";

/// How a job may end.
enum End {
    /// In a failure with this code, whose sentence contains these words.
    Failed(&'static str, &'static str),
    /// In a failure that blames the file.
    FailedSomehow,
    /// In a failure that blames the file, or in outputs.
    FailedOrVerified,
    Verified,
}

fn check(name: &str, job: &Value, end: &End) {
    let is_verified = job["status"] == "completed" && !job["outputs"].as_array().unwrap().is_empty();
    let (code, error) =
        (job["errorCode"].as_str().unwrap_or_default(), job["error"].as_str().unwrap_or_default());
    let blames_the_file =
        ["invalidMedia", "unsupportedMedia", "inputTooLarge", "encodeFailed", "ffmpegCrashed"]
            .contains(&code);
    let is_sentence = (10..=300).contains(&error.chars().count()) && !error.contains(['\n', '/']);
    let is_failed = job["status"] == "failed" && job["attempt"] == 1 && is_sentence;
    let is_right = match end {
        End::Verified => is_verified,
        End::Failed(wanted, words) => is_failed && code == *wanted && error.contains(words),
        End::FailedSomehow => is_failed && blames_the_file,
        End::FailedOrVerified => is_verified || is_failed && blames_the_file,
    };
    assert!(is_right, "{name}: {job:#}");
}

async fn start() -> System {
    let setup = Setup::default().workers(2).env("ALLOW_PRIVATE_URLS", "true");
    setup.env("WORKER_MAX_INPUT_BYTES", "20000000").start().await
}

/// Uploads the files, and checks how their jobs end and that failed ones leave nothing.
async fn all_end(files: Vec<(&str, Vec<u8>, End)>) {
    let system = start().await;
    let mut jobs = Vec::new();
    for (name, bytes, end) in files {
        let options = json!({"fileName": name, "preset": "web-optimized", "outputQualities": ["144p"], "maxAttempts": 1});
        jobs.push((name, system.upload_bytes(bytes, &options).await, end));
    }
    let mut kept = Vec::new();
    for (name, id, end) in jobs {
        let job = system.ended(&id).await;
        check(name, &job, &end);
        let outputs = job["outputs"].as_array().into_iter().flatten();
        kept.extend(outputs.map(|output| output["key"].as_str().unwrap().to_owned()));
    }
    let left = system.objects("output", "outputs").await;
    let more: Vec<_> = left
        .iter()
        .filter(|key| !key.ends_with("/manifest.json") && !kept.iter().any(|kept| kept.ends_with(*key)))
        .collect();
    assert!(more.is_empty(), "{more:?} beside {kept:?}");
    system.stop().await;
}

/// An MP4 with its index at the end, so that a longer index moves nothing.
fn clip() -> Vec<u8> {
    std::fs::read(made("hostile-base.mp4", VIDEO)).unwrap()
}

/// A new payload for a box of this kind with this payload, if it changes.
type Change<'a> = &'a dyn Fn(&[u8], &[u8]) -> Option<Vec<u8>>;

/// A copy of the boxes of an MP4, some of them changed.
fn rebuilt(bytes: &[u8], change: Change<'_>) -> Vec<u8> {
    let (mut rest, mut made) = (bytes, Vec::new());
    while let Some((head, _)) = rest.split_first_chunk::<8>() {
        let size = u32::from_be_bytes(*head.first_chunk().unwrap()) as usize;
        let (this, after) = rest.split_at(size);
        let (kind, payload) = (&this[4..8], &this[8..]);
        let is_container =
            [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"].iter().any(|known| *known == kind);
        let payload = match change(kind, payload) {
            Some(payload) => payload,
            None if is_container => rebuilt(payload, change),
            None => payload.to_owned(),
        };
        made.extend(u32::try_from(payload.len() + 8).unwrap().to_be_bytes());
        made.extend(kind);
        made.extend(payload);
        rest = after;
    }
    made
}

/// The clip without its samples, which it says are in another file.
fn elsewhere(entry: &[u8]) -> Vec<u8> {
    rebuilt(&clip(), &|kind, payload| match kind {
        b"mdat" => Some(vec![0; payload.len()]),
        b"dref" => Some([&[0, 0, 0, 0, 0, 0, 0, 1], entry].concat()),
        _ => None,
    })
}

/// An entry of `dref`: an address.
fn address(url: &str) -> Vec<u8> {
    let size = u32::try_from(url.len() + 13).unwrap();
    [&size.to_be_bytes()[..], b"url \0\0\0\0", url.as_bytes(), b"\0"].concat()
}

/// An entry of `dref` with the alias record of a Macintosh: a path.
fn alias(path: &Path) -> Vec<u8> {
    let path = path.to_str().unwrap().as_bytes();
    let mut record = vec![0; 10 + 28 + 12 + 64 + 16];
    // One folder up and down, so that the path counts.
    record.extend([0, 1, 0, 1]);
    record.resize(record.len() + 16, 0);
    let length = u16::try_from(path.len().next_multiple_of(2)).unwrap();
    record.extend([&[0, 2], &length.to_be_bytes()[..], path].concat());
    record.resize(record.len() + usize::from(length) - path.len(), 0);
    record.extend([0xff, 0xff, 0, 0]);
    let size = u32::try_from(record.len() + 12).unwrap();
    [&size.to_be_bytes()[..], b"alis\0\0\0\0", &record].concat()
}

/// Counts the requests that it gets, each of which it answers with a good video.
async fn trap() -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move || {
        count.fetch_add(1, Ordering::Relaxed);
        async { clip() }
    };
    (serve(Router::new().route("/film.mp4", get(answer))).await, asked)
}

#[tokio::test]
async fn samples_in_other_files_are_not_read() {
    let good = made("hostile-base.mp4", VIDEO);
    let by_path = elsewhere(&alias(&good));
    // FFmpeg can do it, if it is asked to.
    let file = made_by("hostile-alias.mov", &format!("alias {}", good.display()), |path| {
        std::fs::write(path, &by_path).unwrap();
    });
    let follows = |file: PathBuf| async move {
        let mut ffmpeg = tokio::process::Command::new("ffmpeg");
        ffmpeg
            .args(["-v", "error", "-xerror", "-enable_drefs", "1", "-use_absolute_path", "1", "-i"])
            .arg(file);
        ffmpeg.args(["-f", "null", "-"]).output().await.unwrap()
    };
    let followed = follows(file).await;
    assert!(followed.status.success() && followed.stderr.is_empty(), "{followed:?}");

    let (url, asked) = trap().await;
    let files = vec![
        ("alias.mov", by_path, End::FailedSomehow),
        ("passwd.mov", elsewhere(&alias(Path::new("/etc/passwd"))), End::FailedSomehow),
        ("file.mp4", elsewhere(&address(&format!("file://{}", good.display()))), End::FailedSomehow),
        ("http.mp4", elsewhere(&address(&format!("{url}/film.mp4"))), End::FailedSomehow),
    ];
    all_end(files).await;
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// Replaces what follows each place that `at` finds.
fn patched(mut bytes: Vec<u8>, sign: &[u8], offset: usize, new: &[u8]) -> Vec<u8> {
    let found: Vec<usize> = bytes
        .windows(sign.len())
        .enumerate()
        .filter(|(_, window)| *window == sign)
        .map(|(at, _)| at)
        .collect();
    assert!(!found.is_empty(), "{sign:?} is not in the file");
    for at in found {
        bytes[at + offset..at + offset + new.len()].copy_from_slice(new);
    }
    bytes
}

/// An MP4 whose track says that its pictures are of the largest size.
fn enlarged_entry(mut bytes: Vec<u8>, kind: &[u8; 4]) -> Vec<u8> {
    // The first one is a brand of the file.
    let at = bytes.windows(4).rposition(|window| window == kind).unwrap();
    bytes[at + 28..at + 32].fill(0xff);
    bytes
}

/// The check sum of PNG.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

/// The sequence header of AV1 (5.5.1 of its specification) with a picture of 65536x65536 pixels.
fn enlarged_av1(header: &[u8]) -> Vec<u8> {
    let mut bits: Vec<u8> = header.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0_usize, |number, bit| number << 1 | usize::from(*bit));
    // Profile, still picture, reduced header, no timing, no delay, one operating point and its level.
    assert_eq!((number(&bits[3..12]), number(&bits[12..24])), (0, 0), "another encoder's header");
    let tier = usize::from(number(&bits[24..29]) > 7);
    let at = 29 + tier;
    let (width, height) = (number(&bits[at..at + 4]) + 1, number(&bits[at + 4..at + 8]) + 1);
    let end = at + 8 + width + height;
    bits.splice(at..end, std::iter::repeat_n(1, 40));
    // The bits behind the last one are padding.
    bits.resize(bits.len().next_multiple_of(8), 0);
    bits.chunks(8).map(|byte| number(byte) as u8).collect()
}

/// An IVF file of AV1 whose sequence header says another size than its frames have.
fn gigantic_av1() -> Vec<u8> {
    let bytes = std::fs::read(made("hostile-base.ivf", SMALL_AV1)).unwrap();
    let (head, mut rest) = bytes.split_at(32);
    let mut made = head.to_owned();
    while !rest.is_empty() {
        let size = u32::from_le_bytes(*rest.first_chunk().unwrap()) as usize;
        let (frame, after) = rest.split_at(12 + size);
        let mut units = &frame[12..];
        let mut body: Vec<u8> = Vec::new();
        while let [kind, length, ..] = *units {
            assert!(kind & 2 != 0 && units.len() > 2, "each unit has a size");
            // LEB128 of one or two bytes.
            let (size, start) = match length {
                0..0x80 => (usize::from(length), 2),
                _ => (usize::from(length & 0x7f) | usize::from(units[2]) << 7, 3),
            };
            let (unit, others) = units.split_at(start + size);
            if kind >> 3 & 15 == 1 {
                let enlarged = enlarged_av1(&unit[start..]);
                body.extend([kind, u8::try_from(enlarged.len()).unwrap()]);
                body.extend(enlarged);
            } else {
                body.extend(unit);
            }
            units = others;
        }
        made.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        made.extend(&frame[4..12]);
        made.extend(body);
        rest = after;
    }
    made
}

#[tokio::test]
async fn pictures_of_gigantic_size_are_not_decoded() {
    let source = "-f lavfi -i testsrc2=s=160x90:r=25:d=0.4";
    let of = |name: &str, codec: &str| std::fs::read(made(name, &format!("{source} -c:v {codec}"))).unwrap();
    // A zip bomb: the pixels of one colour take no space.
    let mut ihdr = b"IHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0".to_vec();
    ihdr.extend(crc32(&ihdr).to_be_bytes());
    let png = patched(of("hostile-base-png.mov", "png -pix_fmt rgb24"), b"IHDR", 0, &ihdr);
    let jpeg = of("hostile-base.avi", "mjpeg -pix_fmt yuvj420p");
    let jpeg = patched(jpeg, b"\xff\xc0\0\x11\x08", 5, &[0xff, 0xdc, 0xff, 0xdc]);
    let vp8 = of("hostile-base.webm", "libvpx -deadline realtime");
    let vp8 = patched(vp8, &[0x9d, 0x01, 0x2a], 3, &[0xff, 0x3f, 0xff, 0x3f]);
    let small = made("hostile-base.ivf", SMALL_AV1);
    let av1_mp4 = made_by("hostile-base-av1.mp4", "small av1", |path| {
        let mut ffmpeg = std::process::Command::new("ffmpeg");
        let done =
            ffmpeg.args(["-v", "error", "-i"]).arg(small).args(["-c", "copy"]).arg(path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    });
    let files = vec![
        ("bomb.mov", png, End::FailedOrVerified),
        ("bomb.avi", jpeg, End::FailedOrVerified),
        ("bomb.webm", vp8, End::FailedOrVerified),
        ("bomb.mp4", enlarged_entry(clip(), b"avc1"), End::FailedOrVerified),
        ("bomb.ivf", gigantic_av1(), End::FailedSomehow),
        ("bomb-av1.mp4", enlarged_entry(std::fs::read(av1_mp4).unwrap(), b"av01"), End::FailedOrVerified),
    ];
    all_end(files).await;
}

#[tokio::test]
async fn broken_boxes_end_in_a_failure_or_in_verified_outputs() {
    let clip = clip();
    let at = |kind: &[u8; 4]| clip.windows(4).position(|window| window == kind).unwrap() - 4;
    let with = |kind: &[u8; 4], new: &[u8]| {
        let mut bytes = clip.clone();
        let at = at(kind);
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let large =
        |kind: &[u8; 4], size: u64| with(kind, &[&[0, 0, 0, 1], &kind[..], &size.to_be_bytes()].concat());
    // The number of entries of a table, after its version and flags.
    let many = |kind: &[u8; 4]| patched(clip.clone(), kind, 8, &[0xff; 4]);
    let files = vec![
        ("index-0.mp4", with(b"moov", &[0; 4]), End::FailedOrVerified),
        ("track-0.mp4", with(b"trak", &[0; 4]), End::FailedOrVerified),
        ("samples-0.mp4", with(b"mdat", &[0; 4]), End::FailedOrVerified),
        ("track-7.mp4", with(b"trak", &[0, 0, 0, 7]), End::FailedOrVerified),
        ("index-2-63.mp4", large(b"moov", 1 << 63), End::FailedOrVerified),
        ("index-2-64.mp4", large(b"moov", u64::MAX), End::FailedOrVerified),
        ("samples-2-63.mp4", large(b"mdat", 1 << 63), End::FailedOrVerified),
        ("samples-1.mp4", large(b"mdat", 1), End::FailedOrVerified),
        ("times.mp4", many(b"stts"), End::FailedOrVerified),
        ("sizes.mp4", patched(clip.clone(), b"stsz", 12, &[0xff; 4]), End::FailedOrVerified),
        ("chunks.mp4", many(b"stsc"), End::FailedOrVerified),
        ("places.mp4", many(b"stco"), End::FailedOrVerified),
        ("kinds.mp4", many(b"stsd"), End::FailedOrVerified),
    ];
    all_end(files).await;
}

#[tokio::test]
async fn streams_without_number_and_attachments_stay_within_limits() {
    let tracks = format!("-f lavfi -i sine=d=1 {VIDEO} -c:a pcm_s16le -map 1:v {}", "-map 0:a ".repeat(100));
    let tracks = std::fs::read(made("hostile-tracks.mkv", &tracks)).unwrap();
    let font = made_by("hostile-font.ttf", "a font", |path| std::fs::write(path, [7; 4_000]).unwrap());
    let name = "-metadata:s:t filename=../../../../../../tmp/tcoder-was-here -metadata:s:t mimetype=font/ttf";
    let attached = made_by("hostile-attached.mkv", name, |path| {
        let mut ffmpeg = std::process::Command::new("ffmpeg");
        ffmpeg.args(["-v", "error"]).args(VIDEO.split(' ')).arg("-attach").arg(font).args(name.split(' '));
        let done = ffmpeg.arg(path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    });
    let files = vec![
        ("tracks.mkv", tracks, End::Failed("unsupportedMedia", "101 streams; at most 64")),
        ("attached.mkv", std::fs::read(attached).unwrap(), End::Verified),
    ];
    all_end(files).await;
    assert!(!Path::new("/tmp/tcoder-was-here").exists());
}

/// A server whose files never end: as fast as they are read, slowly, and of a size that no disk has.
async fn endless() -> String {
    let zeros = || futures::stream::repeat(Bytes::from_static(&[0; 1 << 16])).map(Ok::<_, std::io::Error>);
    let fast = move || async move { Body::from_stream(zeros()) };
    let slow = move || async move {
        Body::from_stream(zeros().then(|zeros| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            zeros.map(|zeros| zeros.slice(..10))
        }))
    };
    let large = move || async move {
        let range = format!("bytes 0-65535/{}", 1_u64 << 62);
        let answer = Response::builder().status(StatusCode::PARTIAL_CONTENT).header("etag", "\"a\"");
        answer.header(CONTENT_RANGE, range).body(Body::from_stream(zeros())).unwrap()
    };
    let router = Router::new().route("/fast.mp4", get(fast)).route("/slow.mp4", get(slow));
    serve(router.route("/large.mp4", get(large))).await
}

#[tokio::test]
async fn addresses_without_end_are_given_up() {
    let (system, url) = (start().await, endless().await);
    let mut jobs = Vec::new();
    let cases =
        [("fast", 600, "inputTooLarge"), ("slow", 2, "deadlineExceeded"), ("large", 600, "inputRefused")];
    for (file, seconds, code) in cases {
        let url = format!("{url}/{file}.mp4");
        let id = system.submit(&json!({"inputUrl": url, "deadlineSeconds": seconds, "maxAttempts": 1})).await;
        jobs.push((file, id, code));
    }
    for (file, id, code) in jobs {
        check(file, &system.ended(&id).await, &End::Failed(code, ""));
    }
    system.stop().await;
}
