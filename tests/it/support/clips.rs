//! Short clips that are made once by FFmpeg, and ffprobe's reports about files.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use serde_json::Value;

static MADE: LazyLock<Mutex<HashMap<PathBuf, Arc<OnceLock<()>>>>> = LazyLock::new(Mutex::default);

/// The clip that `ffmpeg <arguments> <file>` makes. It is cached in Cargo's folder for test files under a
/// name with the recipe's hash, so that a changed recipe makes a new clip.
pub fn made(name: &str, arguments: &str) -> PathBuf {
    made_by(name, arguments, |path| {
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-y"])
            .args(arguments.split_whitespace())
            .arg(path)
            .output()
            .unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    })
}

/// The file that `make` writes, made once for each `recipe`.
pub fn made_by(name: &str, recipe: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clips");
    let path = folder.join(format!("{:016x}-{name}", hasher.finish()));
    let once = MADE.lock().unwrap().entry(path.clone()).or_default().clone();
    once.get_or_init(|| {
        if path.exists() {
            return;
        }
        std::fs::create_dir_all(&folder).unwrap();
        // Written under a temporary name first, because a killed run must not leave an incomplete clip.
        let work = tempfile::tempdir_in(&folder).unwrap();
        let draft = work.path().join(name);
        make(&draft);
        std::fs::rename(draft, &path).unwrap();
    });
    path
}

/// 640x360, 25 frames per second, 3 s, stereo AAC, index at the front.
pub fn normal() -> PathBuf {
    made(
        "normal.mp4",
        "-f lavfi -i testsrc2=s=640x360:r=25:d=3 -f lavfi -i sine=f=440:d=3 -ac 2 -c:v libx264 \
         -preset ultrafast -pix_fmt yuv420p -c:a aac -metadata title=Secret -movflags +faststart",
    )
}

/// 320x180, 25 frames per second, 9 s: three segments.
pub fn three_segments() -> PathBuf {
    made(
        "three.mp4",
        "-f lavfi -i testsrc2=s=320x180:r=25:d=9 -f lavfi -i sine=d=9 -c:v libx264 -preset ultrafast \
         -pix_fmt yuv420p -c:a aac",
    )
}

/// 640x360, 25 frames per second, 150 s with a tone: 38 segments, which take a worker a while.
pub fn minutes() -> PathBuf {
    made(
        "minutes.mp4",
        "-f lavfi -i testsrc2=s=640x360:r=25:d=150 -f lavfi -i sine=d=150 -c:v libx264 -preset ultrafast \
         -pix_fmt yuv420p -c:a aac",
    )
}

/// The same in 1280x720, whose encode to several qualities takes longer than a page needs to play and seek.
pub fn large_minutes() -> PathBuf {
    made(
        "large-minutes.mp4",
        "-f lavfi -i testsrc2=s=1280x720:r=25:d=150 -f lavfi -i sine=d=150 -c:v libx264 -preset ultrafast \
         -pix_fmt yuv420p -c:a aac",
    )
}

/// Two minutes of 1280x720: takes longer to encode than any test waits, but is concatenated quickly.
pub fn long() -> PathBuf {
    let part = made(
        "part.mp4",
        "-f lavfi -i testsrc2=s=1280x720:r=25:d=2 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    made_by("long.mp4", "60 x part", |path| {
        let done = Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-stream_loop", "59", "-i"])
            .arg(part)
            .args(["-c", "copy"])
            .arg(path)
            .status();
        assert!(done.unwrap().success());
    })
}

/// Half a second of noise in 1280x720, about 24 MB: more than one part of an upload.
pub fn heavy() -> PathBuf {
    made(
        "heavy.mp4",
        "-f lavfi -i color=gray:s=1280x720:r=25:d=0.5,noise=alls=90:allf=t -c:v libx264 -preset ultrafast -qp 4 \
         -pix_fmt yuv420p",
    )
}

/// A copy of an MP4 with a clockwise rotation of 90 degrees. The display matrix in the first track's header
/// is overwritten, which works with every version of FFmpeg.
pub fn turned(clip: &Path, name: &str) -> PathBuf {
    made_by(name, &format!("turned {}", clip.display()), |path| {
        let mut bytes = std::fs::read(clip).unwrap();
        let header = bytes.windows(4).position(|w| w == b"tkhd").unwrap();
        assert_eq!(bytes[header + 4], 0, "version 0 of the header");
        let matrix: [i32; 9] = [0, 0x10000, 0, -0x10000, 0, 0, 360 << 16, 0, 0x4000_0000];
        for (n, value) in matrix.into_iter().enumerate() {
            let at = header + 44 + n * 4;
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        std::fs::write(path, bytes).unwrap();
    })
}

/// ffprobe's report about a file, with packets counted.
pub fn probed(path: &Path) -> Value {
    let answer = Command::new("ffprobe")
        .args(["-v", "error", "-count_packets", "-show_streams", "-show_format", "-of", "json"])
        .arg(path)
        .output()
        .unwrap();
    assert!(answer.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&answer.stderr));
    serde_json::from_slice(&answer.stdout).unwrap()
}

/// The first stream of this type.
pub fn stream(probed: &Value, kind: &str) -> Option<Value> {
    probed["streams"].as_array().unwrap().iter().find(|s| s["codec_type"] == kind).cloned()
}

/// Presentation times in seconds of the video packets, in order, and whether each is a keyframe.
pub fn shown_at(path: &Path) -> Vec<(f64, bool)> {
    let answer = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-show_entries", "packet=pts_time,flags"])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    let mut times: Vec<(f64, bool)> = text
        .lines()
        .filter_map(|line| {
            let (time, flags) = line.split_once(',')?;
            Some((time.parse().unwrap(), flags.starts_with('K')))
        })
        .collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    times
}

/// All files below a folder, relative to it, sorted.
pub fn files_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Two seconds of 320x180 with a tone.
pub fn clip() -> &'static Path {
    static CLIP: LazyLock<PathBuf> = LazyLock::new(|| {
        let input = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=2 -f lavfi -i sine=duration=2";
        made("clip.mp4", &format!("{input} -c:v libx264 -preset ultrafast -c:a aac"))
    });
    &CLIP
}

/// A clip whose encode to 720p takes some seconds, for faults during an encode.
pub fn long_clip() -> &'static Path {
    static CLIP: LazyLock<PathBuf> = LazyLock::new(|| {
        let input = "-f lavfi -i testsrc2=size=1280x720:rate=25:duration=16";
        made("long.mp4", &format!("{input} -c:v mpeg4 -q:v 8"))
    });
    &CLIP
}

/// The same for what happens after the first progress of the encode, on a machine of any speed. It is too short to be split.
pub fn half_minute() -> &'static Path {
    static CLIP: LazyLock<PathBuf> = LazyLock::new(|| {
        let input = "-f lavfi -i testsrc2=size=1280x720:rate=25:duration=28";
        made("half-minute.mp4", &format!("{input} -c:v mpeg4 -q:v 8"))
    });
    &CLIP
}

/// ffprobe's report about a file or a URL.
pub fn probe(what: &str) -> Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_format", "-show_streams", what])
        .output()
        .unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
