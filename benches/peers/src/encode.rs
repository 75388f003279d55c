//! Measures ways to encode the same ladder with the same settings of x264: what each costs, and what it loses.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tcoder::job::{Ladder, Quality};

use crate::figures::Figures;
use crate::{Failure, Scale, tcoder_program};

const LADDER: &str = "720p,360p,144p";

/// A way to encode the ladder.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One run of FFmpeg for each rendition, one after another.
    Recipe,
    /// One run of FFmpeg for all renditions.
    OneProcess,
    /// The file is cut into pieces without encoding it, each piece is encoded, and the results are joined.
    SegmentConcat,
    /// `tcoder transcode`.
    Tcoder,
}

impl Way {
    pub const ALL: [Self; 4] = [Self::Recipe, Self::OneProcess, Self::SegmentConcat, Self::Tcoder];

    /// The name in figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recipe => "recipe",
            Self::OneProcess => "one_process",
            Self::SegmentConcat => "segment_concat",
            Self::Tcoder => "tcoder",
        }
    }

    /// Encodes the clip into `<quality>.mp4` in the folder.
    fn run(self, clip: &Path, out: &Path, scale: &Scale) -> Result<(), Failure> {
        match self {
            Self::Recipe => recipe(clip, out),
            Self::OneProcess => one_process(clip, out),
            Self::SegmentConcat => segment_concat(clip, out, scale),
            Self::Tcoder => tcoder(clip, out),
        }
    }
}

/// What the outputs lack or have too much, compared with the source.
struct Difference {
    /// Frames of the picture that the worst rendition lacks.
    frames_lost: f64,
    /// Milliseconds of sound that the worst rendition has too much.
    audio_added: f64,
}

pub fn measure(figures: &mut Figures, scale: &Scale) -> Result<(), Failure> {
    let scratch = tempfile::Builder::new().prefix("tcoder-peers-").tempdir()?;
    let ladder: Ladder = LADDER.parse()?;
    figures.note("FFmpeg", &ffmpeg_version()?);
    let closed = clip(scratch.path(), "closed.mp4", scale, 0)?;
    let mut cpu: Vec<Vec<f64>> = vec![Vec::new(); Way::ALL.len()];
    let mut wall = cpu.clone();
    for round in 0..scale.rounds {
        for (index, way) in Way::ALL.into_iter().enumerate() {
            let out = fresh(scratch.path(), way)?;
            let (began, before) = (Instant::now(), children_cpu()?);
            way.run(&closed, &out, scale)?;
            wall[index].push(began.elapsed().as_secs_f64());
            cpu[index].push(children_cpu()? - before);
            if round + 1 == scale.rounds {
                let name = format!("peer_encode_{}", way.name());
                let found = compare(&closed, &out, ladder.rungs())?;
                figures.put(&format!("{name}_frames_lost"), vec![found.frames_lost], "frames");
                figures.put(&format!("{name}_audio_added"), vec![found.audio_added], "ms");
            }
        }
    }
    for (way, (cpu, wall)) in Way::ALL.into_iter().zip(cpu.into_iter().zip(wall)) {
        let name = format!("peer_encode_{}", way.name());
        figures.put(&format!("{name}_cpu"), cpu, "s");
        figures.put(&format!("{name}_wall"), wall, "s");
    }
    // Frames at the start of an open group of pictures refer to the group before.
    let open = clip(scratch.path(), "open.mp4", scale, 1)?;
    for way in [Way::SegmentConcat, Way::Tcoder] {
        let out = fresh(scratch.path(), way)?;
        way.run(&open, &out, scale)?;
        let found = compare(&open, &out, ladder.rungs())?;
        let name = format!("peer_encode_{}_frames_lost_open_gop", way.name());
        figures.put(&name, vec![found.frames_lost], "frames");
    }
    Ok(())
}

fn fresh(scratch: &Path, way: Way) -> Result<PathBuf, Failure> {
    let folder = scratch.join(way.name());
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir(&folder)?;
    Ok(folder)
}

/// A clip in 1080p with motion, some grain and a tone, at 12 Mbit/s.
fn clip(scratch: &Path, name: &str, scale: &Scale, open_gop: u8) -> Result<PathBuf, Failure> {
    let path = scratch.join(name);
    let seconds = scale.clip_seconds;
    let picture = format!("testsrc2=size=1920x1080:rate=25:duration={seconds}");
    let tone = format!("sine=frequency=330:beep_factor=4:duration={seconds}");
    let x264 = format!("open-gop={open_gop}:keyint=50:min-keyint=50:scenecut=0");
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &tone]);
    ffmpeg.args(["-filter_complex", "[0:v]noise=alls=3:allf=t,format=yuv420p[v]"]);
    ffmpeg.args(["-map", "[v]", "-map", "1:a", "-t", &seconds.to_string()]);
    ffmpeg.args(["-c:v", "libx264", "-preset", "veryfast", "-b:v", "12M", "-x264-params", &x264]);
    succeed(ffmpeg.args(["-c:a", "aac"]).arg(&path))?;
    Ok(path)
}

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y"]);
    command
}

fn succeed(command: &mut Command) -> Result<(), Failure> {
    let status = command.stdout(Stdio::null()).status();
    let status = status.map_err(|e| format!("{:?} cannot be run: {e}", command.get_program()))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}

/// What FFmpeg prints.
fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| format!("{:?} cannot be run: {e}", command.get_program()))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn ffmpeg_version() -> Result<String, Failure> {
    let text = output(Command::new("ffmpeg").arg("-version"))?;
    Ok(text.split_whitespace().nth(2).unwrap_or("of an unknown version").to_owned())
}

/// CPU seconds of all children that have exited, including their children.
#[allow(clippy::cast_precision_loss)]
fn children_cpu() -> Result<f64, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
}

/// The arguments of a rendition's encoder, the same for all ways.
fn encoder(quality: Quality) -> Vec<String> {
    let cap = quality.video_kbps();
    let (maximum, buffer) = (format!("{cap}k"), format!("{}k", cap * 2));
    let audio = format!("{}k", quality.audio_kbps());
    let args = [
        ["-c:v", "libx264"],
        ["-preset", "fast"],
        ["-crf", "23"],
        ["-maxrate", &maximum],
        ["-bufsize", &buffer],
        ["-pix_fmt", "yuv420p"],
        ["-c:a", "aac"],
        ["-b:a", &audio],
        ["-movflags", "+faststart"],
    ];
    args.concat().into_iter().map(str::to_owned).collect()
}

fn recipe(clip: &Path, out: &Path) -> Result<(), Failure> {
    for quality in LADDER.parse::<Ladder>()?.rungs() {
        let fit = quality.fit();
        let mut ffmpeg = ffmpeg();
        ffmpeg.arg("-i").arg(clip);
        ffmpeg.args(["-vf", &format!("scale={}:{}", fit.width, fit.height)]).args(encoder(*quality));
        succeed(ffmpeg.arg(out.join(format!("{quality}.mp4"))))?;
    }
    Ok(())
}

fn one_process(clip: &Path, out: &Path) -> Result<(), Failure> {
    let ladder: Ladder = LADDER.parse()?;
    let rungs = ladder.rungs();
    let inputs: String = (0..rungs.len()).map(|index| format!("[s{index}]")).collect();
    let mut graph = format!("[0:v:0]split={}{inputs}", rungs.len());
    for (index, quality) in rungs.iter().enumerate() {
        let fit = quality.fit();
        graph += &format!(";[s{index}]scale={}:{}[v{index}]", fit.width, fit.height);
    }
    let mut ffmpeg = ffmpeg();
    ffmpeg.arg("-i").arg(clip).args(["-filter_complex", &graph]);
    for (index, quality) in rungs.iter().enumerate() {
        ffmpeg.args(["-map", &format!("[v{index}]"), "-map", "0:a:0"]).args(encoder(*quality));
        ffmpeg.arg(out.join(format!("{quality}.mp4")));
    }
    succeed(&mut ffmpeg)
}

fn segment_concat(clip: &Path, out: &Path, scale: &Scale) -> Result<(), Failure> {
    let pieces = out.join("pieces");
    std::fs::create_dir(&pieces)?;
    let mut split = ffmpeg();
    split.arg("-i").arg(clip).args(["-map", "0", "-c", "copy", "-f", "segment"]);
    split.args(["-segment_time", &scale.piece_seconds.to_string(), "-reset_timestamps", "1"]);
    succeed(split.arg(pieces.join("%04d.mp4")))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&pieces)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for piece in &paths {
        let encoded = piece.with_extension("");
        std::fs::create_dir(&encoded)?;
        one_process(piece, &encoded)?;
    }
    for quality in LADDER.parse::<Ladder>()?.rungs() {
        let name = format!("{quality}.mp4");
        let files = paths.iter().map(|piece| piece.with_extension("").join(&name));
        let list: String = files.map(|file| format!("file '{}'\n", file.display())).collect();
        let list_path = pieces.join(format!("{quality}.txt"));
        std::fs::write(&list_path, list)?;
        let mut join = ffmpeg();
        join.args(["-f", "concat", "-safe", "0", "-i"]).arg(&list_path);
        succeed(join.args(["-c", "copy", "-movflags", "+faststart"]).arg(out.join(&name)))?;
    }
    Ok(())
}

fn tcoder(clip: &Path, out: &Path) -> Result<(), Failure> {
    let mut command = Command::new(tcoder_program()?);
    command.arg("transcode").arg(clip).args(["--preset", "web-optimized", "--quality", LADDER]);
    succeed(command.arg("--output").arg(out))
}

fn compare(clip: &Path, out: &Path, rungs: &[Quality]) -> Result<Difference, Failure> {
    let (frames, sound) = (frames(clip)?, sound_ms(clip)?);
    let mut worst = Difference { frames_lost: 0.0, audio_added: 0.0 };
    let farther = |a: f64, b: f64| if b.abs() > a.abs() { b } else { a };
    for quality in rungs {
        let path = out.join(format!("{quality}.mp4"));
        worst.frames_lost = farther(worst.frames_lost, frames - self::frames(&path)?);
        worst.audio_added = farther(worst.audio_added, sound_ms(&path)? - sound);
    }
    Ok(worst)
}

fn ffprobe(path: &Path, stream: &str, entries: &str, more: &[&str]) -> Result<Vec<f64>, Failure> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", stream, "-show_entries", entries]);
    command.args(["-of", "default=noprint_wrappers=1:nokey=1"]).args(more).arg(path);
    output(&mut command)?.split_whitespace().map(|value| Ok(value.parse()?)).collect()
}

/// The frames that can be decoded.
fn frames(path: &Path) -> Result<f64, Failure> {
    let found = ffprobe(path, "v:0", "stream=nb_read_frames", &["-count_frames"])?;
    found.first().copied().ok_or_else(|| format!("{} has no picture", path.display()).into())
}

/// The duration of the sound's packets.
fn sound_ms(path: &Path) -> Result<f64, Failure> {
    const SAMPLES_PER_PACKET: f64 = 1024.0;
    let found = ffprobe(path, "a:0", "stream=sample_rate,nb_read_packets", &["-count_packets"])?;
    let [sample_rate, packets] = found[..] else {
        return Err(format!("{} has no sound", path.display()).into());
    };
    Ok(packets * SAMPLES_PER_PACKET / sample_rate * 1000.0)
}
