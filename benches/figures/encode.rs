//! Compares the cost of the encode with that of the usual recipe, and measures the pipeline's overhead over
//! FFmpeg.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use secrecy::ExposeSecret as _;
use tcoder::flyprovider;
use tcoder::job::{InputLimits, Ladder, Preset, Quality, Stills};
use tcoder::transcoder::{plan, probe};

use crate::command_count::CommandCount;
use crate::ffmpeg::ffmpeg;
use crate::page::below;
use crate::redis_server::private_redis;
use crate::support::clips::made;
use crate::up::Up;
use crate::{Figures, TCODER, fleet, median};

pub const LADDER: &str = "720p,360p,144p";
const SECONDS: &str = "30";
const CLIPS_PER_MINUTE: f64 = 2.0;
/// Number of rounds, in each of which both sides of a pair are measured.
const ROUNDS: usize = 3;

const COST: [&str; 3] =
    ["cost_per_source_minute_usd", "coconut_usd_per_source_minute", "mediaconvert_usd_per_source_minute"];
/// Coconut's list price, $0.015 per output minute, for three outputs.
pub const COCONUT: f64 = 3.0 * 0.015;
/// AWS Elemental MediaConvert's list prices of 2021, about $0.015 per output minute in SD and $0.03 in HD:
/// 360p and 144p are SD, 720p is HD.
const MEDIACONVERT: f64 = 2.0 * 0.015 + 0.03;

pub async fn measure(figures: &mut Figures, scratch: &Path) {
    let ladder = [
        "ladder_cpu_vs_recipe",
        "ladder_bits_vs_recipe",
        "ladder_psnr_minus_recipe_db",
        "ladder_ssim_minus_recipe",
    ];
    let pipeline = ["pipeline_wall_vs_ffmpeg", "upload_to_completed_overhead", "commands_per_watched_job"];
    let cost = fleet::wants(figures, &COST);
    let stills = figures.wants(&["stills_cpu_vs_ladder"]);
    if figures.wants(&["copied_rung_cpu_vs_encoded"]) {
        compare_copy(figures, scratch);
    }
    if !figures.wants(&ladder) && !figures.wants(&pipeline) && !cost && !stills {
        return;
    }
    let clip = clip();
    let mut cpu = None;
    if figures.wants(&ladder) {
        cpu = Some(compare_with_recipe(figures, scratch, &clip));
    }
    if cost {
        let dir = scratch.join("ours");
        let alone = || {
            let round = |_| {
                let _ = std::fs::remove_dir_all(&dir);
                cpu_of(|| ours(&clip, &dir, &[]))
            };
            median((0..ROUNDS).map(round).collect())
        };
        put_cost(figures, cpu.unwrap_or_else(alone));
    }
    if stills {
        compare_stills(figures, scratch, &clip);
    }
    if figures.wants(&pipeline) {
        compare_pipeline(figures, scratch, &clip).await;
    }
}

/// A clip of 30 s in 1080p with motion, fine detail and some grain at 12 Mbit/s: less than a phone records
/// (about 16), more than downloads have (about 5). The higher the bitrate, the more a single decode saves.
pub fn clip() -> PathBuf {
    made(
        "source.mp4",
        &format!(
            "-f lavfi -i testsrc2=size=1920x1080:rate=25:duration={SECONDS} \
             -f lavfi -i mandelbrot=size=960x540:rate=25:end_pts=750,trim=duration={SECONDS} \
             -f lavfi -i sine=frequency=330:beep_factor=4:duration={SECONDS} -filter_complex \
             [1:v]scale=1920:1080[m];[0:v][m]blend=all_mode=average,noise=alls=3:allf=t,format=yuv420p[v] \
             -map [v] -map 2:a -t {SECONDS} -c:v libx264 -preset medium -b:v 12M -c:a aac"
        ),
    )
}

/// CPU seconds of all children that have exited, including their children.
pub fn children_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    #[allow(clippy::cast_precision_loss)]
    let micros = (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64;
    micros / 1e6
}

pub fn cpu_of(work: impl FnOnce()) -> f64 {
    let before = children_cpu();
    work();
    children_cpu() - before
}

/// The recipe: three runs of FFmpeg, one per quality, at the qualities and bit rates of the ladder, with x264's `fast` and
/// FFmpeg's usual coder of AAC.
fn recipe(clip: &Path, out: &Path) {
    for quality in LADDER.parse::<Ladder>().unwrap().rungs() {
        let (fit, cap) = (quality.fit(), quality.video_kbps());
        ffmpeg([
            "-i",
            &clip.display().to_string(),
            "-vf",
            &format!("scale={}:{}", fit.width, fit.height),
            "-c:v",
            "libx264",
            "-preset",
            "fast",
            "-crf",
            "23",
            "-maxrate",
            &format!("{cap}k"),
            "-bufsize",
            &format!("{}k", cap * 2),
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "aac",
            "-b:a",
            &format!("{}k", quality.audio_kbps()),
            "-movflags",
            "+faststart",
            &out.join(format!("{quality}.mp4")).display().to_string(),
        ]);
    }
}

/// Encodes the ladder with tcoder, including probing and verifying; `more` is added to the command line.
fn ours(clip: &Path, out: &Path, more: &[&str]) {
    let done = Command::new(TCODER)
        .args(["transcode", &clip.display().to_string(), "--preset", "web-optimized"])
        .args(["--quality", LADDER, "--output", &out.display().to_string()])
        .args(more)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(done.success());
}

/// Measures the CPU seconds of the ladder of a source that its largest rung already is, relative to the same streams in
/// Matroska, which are always encoded.
fn compare_copy(figures: &mut Figures, scratch: &Path) {
    let source = made(
        "copied.mp4",
        &format!(
            "-i {} -vf scale=1280:720 -c:v libx264 -preset medium -b:v 1300k -maxrate 1500k -bufsize 3000k -c:a aac -b:a 128k",
            clip().display()
        ),
    );
    let encoded = made("copied.mkv", &format!("-i {} -c copy", source.display()));
    let dir = scratch.join("copied");
    let once = |clip: &Path| {
        let _ = std::fs::remove_dir_all(&dir);
        cpu_of(|| ours(clip, &dir, &[]))
    };
    let round = |_| once(&source) / once(&encoded);
    figures.put("copied_rung_cpu_vs_encoded", median((0..ROUNDS).map(round).collect()), "ratio");
}

/// Measures the CPU seconds of the ladder with poster and storyboard, relative to the ladder without.
fn compare_stills(figures: &mut Figures, scratch: &Path, clip: &Path) {
    let dir = scratch.join("stills");
    let once = |more: &[&str]| {
        let _ = std::fs::remove_dir_all(&dir);
        cpu_of(|| ours(clip, &dir, more))
    };
    let round = |_| {
        let without = once(&[]);
        once(&["--poster", "--storyboard"]) / without
    };
    figures.put("stills_cpu_vs_ladder", median((0..ROUNDS).map(round).collect()), "ratio");
}

/// The bit rates of the video streams of a ladder, added up. The sound is left out: its sample rates differ.
fn video_bit_rate(folder: &Path) -> f64 {
    let of = |quality: &Quality| -> f64 {
        let entries = ["-v", "error", "-select_streams", "v:0", "-show_entries", "stream=bit_rate"];
        let output = Command::new("ffprobe")
            .args(entries)
            .args(["-of", "csv=p=0"])
            .arg(folder.join(format!("{quality}.mp4")))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    };
    LADDER.parse::<Ladder>().unwrap().rungs().iter().map(of).sum()
}

/// Returns the CPU seconds of tcoder.
fn compare_with_recipe(figures: &mut Figures, scratch: &Path, clip: &Path) -> f64 {
    let (mut ratios, mut ours_took) = (Vec::new(), Vec::new());
    let (theirs_dir, ours_dir) = (scratch.join("recipe"), scratch.join("ours"));
    for _ in 0..ROUNDS {
        for dir in [&theirs_dir, &ours_dir] {
            let _ = std::fs::remove_dir_all(dir);
        }
        std::fs::create_dir_all(&theirs_dir).unwrap();
        let theirs_cpu = cpu_of(|| recipe(clip, &theirs_dir));
        let ours_cpu = cpu_of(|| ours(clip, &ours_dir, &[]));
        ratios.push(ours_cpu / theirs_cpu);
        ours_took.push(ours_cpu);
    }
    figures.put("ladder_cpu_vs_recipe", median(ratios), "ratio");
    let bits = video_bit_rate(&ours_dir) / video_bit_rate(&theirs_dir);
    figures.put("ladder_bits_vs_recipe", bits, "ratio");
    let (mut psnr, mut ssim) = (f64::INFINITY, f64::INFINITY);
    for quality in LADDER.parse::<Ladder>().unwrap().rungs() {
        let name = format!("{quality}.mp4");
        let (ours, theirs) = (ours_dir.join(&name), theirs_dir.join(&name));
        psnr = psnr.min(
            score("psnr", "average:", clip, &ours, *quality)
                - score("psnr", "average:", clip, &theirs, *quality),
        );
        ssim = ssim.min(
            score("ssim", "All:", clip, &ours, *quality) - score("ssim", "All:", clip, &theirs, *quality),
        );
    }
    figures.put("ladder_psnr_minus_recipe_db", psnr, "dB");
    figures.put("ladder_ssim_minus_recipe", ssim, "ssim");
    median(ours_took)
}

/// The cost of encoding the ladder of one minute of 1080p on the fleet's machines, which are billed by the
/// second. Assumes that the encode uses all cores. The time to start and the time to wait for the next job
/// are not included.
fn put_cost(figures: &mut Figures, cpu_of_a_clip: f64) {
    let policy = flyprovider::policy::defaults("bench", "worker:1");
    let core_second = policy.price.unwrap().dollars() / 3600.0 / f64::from(policy.sizes.base().cpus);
    figures.put(COST[0], cpu_of_a_clip * CLIPS_PER_MINUTE * core_second, "USD");
    figures.put(COST[1], COCONUT, "USD");
    figures.put(COST[2], MEDIACONVERT, "USD");
}

/// How similar a rendition is to the source scaled to its size.
fn score(filter: &str, label: &str, clip: &Path, rendition: &Path, quality: Quality) -> f64 {
    let fit = quality.fit();
    let graph = format!("[1:v]scale={}:{}:flags=bicubic[r];[0:v][r]{filter}", fit.width, fit.height);
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-loglevel", "info"])
        .args(["-i", &rendition.display().to_string(), "-i", &clip.display().to_string()])
        .args(["-filter_complex", &graph, "-an", "-f", "null", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let after = text.rsplit(label).next().unwrap();
    after.split_whitespace().next().unwrap().parse().unwrap_or_else(|_| panic!("no {filter} in {text}"))
}

/// Two times through `tcoder up`, relative to the same FFmpeg run by hand: from the start of `tcoder submit` until it
/// knows that the job is completed, and from the end of its upload until then. The job is encoded as a whole, as by hand.
async fn compare_pipeline(figures: &mut Figures, scratch: &Path, clip: &Path) {
    let source = probe::probe(clip, &InputLimits::default()).await.unwrap();
    let plan =
        plan::plan(&source, Preset::WebOptimized, &LADDER.parse().unwrap(), Stills::default()).unwrap();
    let by_hand = || {
        let dir = scratch.join("by-hand");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let began = Instant::now();
        let done = Command::new("ffmpeg")
            .args(plan.arguments(clip))
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success());
        began.elapsed().as_secs_f64()
    };
    let server_redis = private_redis(&[]);
    let redis_url = server_redis.config().url;
    let data = scratch.join("up");
    let up = Up::start(&data, &[], &[("REDIS_URL", redis_url.expose_secret())]).await;
    let (mut ratios, mut overheads, mut commands) = (Vec::new(), Vec::new(), Vec::new());
    let mut raw = server_redis.raw();
    for _ in 0..ROUNDS {
        let alone = by_hand();
        CommandCount::reset(&mut raw);
        let began = Instant::now();
        let done = Command::new(TCODER)
            .args(["submit", &clip.display().to_string(), "--preset", "web-optimized"])
            .args(["--quality", LADDER, "--parallelism", "1", "--wait", "--server", &up.api])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success());
        let (took, completed) = (began.elapsed().as_secs_f64(), SystemTime::now());
        let since_upload = completed.duration_since(uploaded(&data, clip)).unwrap().as_secs_f64();
        ratios.push(took / alone);
        overheads.push(since_upload / alone);
        #[allow(clippy::cast_precision_loss)]
        commands.push(CommandCount::read(&mut raw).total() as f64);
    }
    figures.put("pipeline_wall_vs_ffmpeg", median(ratios), "ratio");
    figures.put("upload_to_completed_overhead", median(overheads), "ratio");
    // All commands: the API, its feed and janitor, a watching client, heartbeats and progress of a 30 s
    // encode.
    figures.put("commands_per_watched_job", median(commands), "commands");
}

/// When the last byte of the newest copy of the clip was written to the storage below this folder, which is shortly
/// before the client had the answer to its upload.
fn uploaded(data: &Path, clip: &Path) -> SystemTime {
    let size = std::fs::metadata(clip).unwrap().len();
    let mut files = Vec::new();
    below(&data.join("objects"), &mut files);
    let about = files.iter().filter_map(|file| std::fs::metadata(file).ok());
    let copies = about.filter(|about| about.len() == size).map(|about| about.modified().unwrap());
    copies.max().expect("the storage keeps the clip as one file")
}
