//! Videos that are encoded in parts: the parts together have the frames, the times and the sound of an encode of the
//! whole.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tcoder::job::{InputLimits, Ladder, Parallelism, Preset, Stills};
use tcoder::transcoder::copied::with_keyframes;
use tcoder::transcoder::input::MediaInput;
use tcoder::transcoder::split::{
    AudioReport, ChunkReport, FinishRequest, PartFiles, PartRequest, SplitDecision, SplitPlan, decide,
    encode_audio, encode_chunk, encode_sound_around, finish,
};
use tcoder::transcoder::{Encoded, TranscodeError, probe};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::media::with_stills;
use crate::support::clips::{files_in, made, turned};

const MINUTE: Duration = Duration::from_secs(60);
pub const STILLS: Stills = Stills { poster: true, storyboard: true };

/// What `decide` says about a file.
pub async fn decided(input: &Path, preset: Preset, qualities: &str) -> SplitDecision {
    let ladder: Ladder = qualities.parse().unwrap();
    let source = probe::probe(input, &InputLimits::default()).await.unwrap();
    let source = with_keyframes(source, MediaInput::File(input), preset, &ladder).await;
    decide(&source, preset, &ladder, STILLS, Parallelism::Chunks(2)).unwrap()
}

pub async fn planned(input: &Path, preset: Preset, qualities: &str) -> SplitPlan {
    match decided(input, preset, qualities).await {
        // As another worker reads it.
        SplitDecision::Split(plan) => serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap(),
        SplitDecision::Whole { because } => panic!("{}: {because:?}", input.display()),
    }
}

pub fn part<'a>(
    plan: &'a SplitPlan,
    input: MediaInput<'a>,
    out_dir: &'a Path,
    cancel: &'a CancellationToken,
) -> PartRequest<'a> {
    PartRequest {
        plan,
        input,
        out_dir,
        disk_bytes: None,
        stall_timeout: MINUTE,
        deadline: MINUTE,
        is_urgent: false,
        cancel,
        sink: None,
    }
}

/// The parts of a video and the folder in which they are stored together.
pub struct Parts {
    pub plan: SplitPlan,
    pub chunks: Vec<ChunkReport>,
    pub audio: Option<AudioReport>,
    pub stored: TempDir,
}

impl PartFiles for Parts {
    fn fetch<'a>(&'a self, file: &'a str, to: &'a Path) -> BoxFuture<'a, Result<(), TranscodeError>> {
        async move {
            std::fs::copy(self.stored.path().join(file), to).unwrap();
            Ok(())
        }
        .boxed()
    }
}

impl Parts {
    /// Encodes every part in a folder of its own, the last chunk first, and stores their files.
    pub async fn encode(plan: SplitPlan, input: MediaInput<'_>) -> Result<Self, TranscodeError> {
        let (stored, cancel) = (TempDir::new().unwrap(), CancellationToken::new());
        let mut chunks = Vec::new();
        for number in (0..plan.chunks.count()).rev() {
            let out = TempDir::new().unwrap();
            let report = encode_chunk(number, &part(&plan, input, out.path(), &cancel)).await?;
            let json = serde_json::to_string(&report).unwrap();
            let report: ChunkReport = serde_json::from_str(&json).unwrap();
            store(&report.files(), out.path(), stored.path());
            chunks.push(report);
        }
        let out = TempDir::new().unwrap();
        let audio = encode_audio(&part(&plan, input, out.path(), &cancel)).await?;
        store(&audio.files(), out.path(), stored.path());
        let audio = plan.has_streams().then_some(audio);
        Ok(Self { plan, chunks, audio, stored })
    }

    pub async fn finish_into(&self, out_dir: &Path) -> Result<Encoded, TranscodeError> {
        finish(FinishRequest {
            plan: &self.plan,
            chunks: &self.chunks,
            audio: self.audio.as_ref(),
            files: self,
            out_dir,
            elapsed: Duration::ZERO,
            disk_bytes: None,
            stall_timeout: MINUTE,
            deadline: MINUTE,
            cancel: &CancellationToken::new(),
        })
        .await
    }
}

fn store(files: &[PathBuf], from: &Path, to: &Path) {
    for file in files {
        std::fs::create_dir_all(to.join(file).parent().unwrap()).unwrap();
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

pub fn output(program: &str, arguments: &[&str], input: &Path, rest: &[&str]) -> (String, String) {
    let done = Command::new(program).args(arguments).arg(input).args(rest).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(done.stdout), text(done.stderr));
    assert!(done.status.success(), "{}: {err}", input.display());
    (out, err)
}

/// The times at which the frames of a source are shown, seconds.
pub fn frame_times(input: &Path) -> Vec<f64> {
    let arguments =
        ["-v", "fatal", "-select_streams", "v:0", "-show_entries", "frame=best_effort_timestamp_time"];
    numbers(&output("ffprobe", &[&arguments[..], &["-of", "csv=p=0"]].concat(), input, &[]).0)
}

/// The times of the packets of a file in order, seconds.
pub fn packet_times(input: &Path, kind: &str) -> Vec<f64> {
    let arguments =
        ["-v", "fatal", "-select_streams", kind, "-show_entries", "packet=pts_time", "-of", "csv=p=0"];
    numbers(&output("ffprobe", &arguments, input, &[]).0)
}

fn numbers(text: &str) -> Vec<f64> {
    let values = text.lines().filter_map(|line| line.split(',').next().unwrap().parse().ok());
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The hash of the sound's packets, without their times.
pub fn sound_hash(input: &Path) -> String {
    output(
        "ffmpeg",
        &["-nostdin", "-v", "error", "-i"],
        input,
        &["-map", "0:a", "-c", "copy", "-f", "streamhash", "-"],
    )
    .0
}

/// The structural similarity of each frame of two pictures or videos, which the graph compares.
fn similarities(one: &Path, other: &Path, graph: &str) -> Vec<f64> {
    let rest = ["-i", other.to_str().unwrap(), "-lavfi", graph, "-f", "null", "-"];
    let (text, _) = output("ffmpeg", &["-nostdin", "-v", "error", "-i"], one, &rest);
    text.lines().filter_map(|line| line.split_once("All:")?.1.split(' ').next()?.parse().ok()).collect()
}

pub fn assert_same_times(found: &[f64], expected: &[f64], name: &str) {
    assert_eq!(found.len(), expected.len(), "{name}: frames");
    let offset = found[0] - expected[0];
    let far = |(a, b): (&f64, &f64)| (a - b - offset).abs();
    let worst = found.iter().zip(expected).map(far).fold(0.0, f64::max);
    assert!(worst < 0.001, "{name}: a frame is {worst} s off");
}

/// Encodes a file in parts and as a whole with one rung, and compares them.
async fn compare(name: &str, input: &Path) {
    compare_ladder(name, input, "144p").await;
}

/// Encodes a file in parts and as a whole, and compares them.
async fn compare_ladder(name: &str, input: &Path, ladder: &str) {
    let parts = Parts::encode(planned(input, Preset::HlsAdaptive, ladder).await, MediaInput::File(input));
    let parts = parts.await.unwrap_or_else(|e| panic!("{name}: {e}"));
    let joined = parts.stored.path();
    let finished = TempDir::new().unwrap();
    let split = parts.finish_into(finished.path()).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(files_in(finished.path()).len(), split.files.len(), "{name}");
    store(&split.files, finished.path(), joined);
    let out = TempDir::new().unwrap();
    let whole = with_stills(input, out.path(), Preset::HlsAdaptive, ladder, STILLS).await.unwrap();

    let of = |encoded: &Encoded| -> Vec<_> {
        let outputs = encoded.outputs.iter();
        outputs
            .map(|o| (o.quality, o.file.clone(), o.info.width, o.info.height, o.info.codec.clone()))
            .collect()
    };
    assert_eq!(of(&split), of(&whole), "{name}");
    assert_eq!(
        (&split.entries, &split.skipped, &split.source),
        (&whole.entries, &whole.skipped, &whole.source)
    );
    let times = frame_times(input);
    for output in &split.outputs {
        let (playlist, unsplit) = (joined.join(&output.file), out.path().join(&output.file));
        assert_same_times(&packet_times(&playlist, "v:0"), &times, name);
        // Without the option, frames whose distance varies would be rounded to the average frame rate.
        let rest = ["-enc_time_base", "-1", "-f", "null", "-"];
        let (_, complaints) = self::output("ffmpeg", &["-nostdin", "-v", "warning", "-i"], &playlist, &rest);
        assert_eq!(complaints, "", "{name}");
        let found = packet_times(&unsplit, "v:0");
        if found.len() == times.len() {
            // The same times in the same units, so that the filter compares each frame with its counterpart.
            let graph =
                "[0:v]settb=1/1000,setpts=N*40[a];[1:v]settb=1/1000,setpts=N*40[b];[a][b]ssim=stats_file=-";
            let similar = similarities(&playlist, &unsplit, graph);
            assert_eq!(similar.len(), times.len(), "{name}");
            let borders: Vec<f64> = (1..parts.plan.chunks.count())
                .map(|chunk| times[0] + f64::from(parts.plan.chunks.segments_of(chunk).start) * 4.0)
                .collect();
            let least = |near: bool| {
                let is_near = |time: f64| borders.iter().any(|border| (border - time).abs() < 0.2) == near;
                let values = times.iter().zip(&similar).filter(|(time, _)| is_near(**time));
                values.map(|(_, value)| *value).fold(1.0, f64::min)
            };
            assert!(least(true) > least(false) - 0.02, "{name}: {} {}", least(true), least(false));
        }
        let length = times.last().unwrap() - times[0];
        let after = output.info.duration - length;
        assert!((0.0..0.3).contains(&after), "{name}: {} s of {length}", output.info.duration);
    }
    if parts.plan.has_audio() {
        let (sound, unsplit) = (joined.join("audio/index.m3u8"), out.path().join("audio/index.m3u8"));
        assert_eq!(sound_hash(&sound), sound_hash(&unsplit), "{name}");
        let lead = |folder: &Path, file: &str, audio: &Path| {
            packet_times(&folder.join(file), "v:0")[0] - packet_times(audio, "a:0")[0]
        };
        let file = &split.outputs[0].file;
        let (ours, theirs) = (lead(joined, file, &sound), lead(out.path(), file, &unsplit));
        assert!(
            (ours - theirs).abs() < 0.022,
            "{name}: picture {ours} s after the sound, unsplit {theirs} s"
        );
    }
    let board = |encoded: &Encoded| encoded.storyboard.as_ref().map(|board| (board.count, board.interval));
    assert_eq!((board(&split), split.poster.is_some()), (board(&whole), whole.poster.is_some()), "{name}");
    // Not the last stills: an encode of the whole leaves out one that is due when the video ends.
    let graph = "[0:v]crop=iw*0.8:ih[a];[1:v]crop=iw*0.8:ih[b];[a][b]ssim=stats_file=-";
    let boards = [joined, out.path()].map(|folder| folder.join("storyboard.jpg"));
    let differ = similarities(&boards[0], &boards[1], graph);
    assert!(differ[0] > 0.95, "{name}: the storyboards differ, {differ:?}");
}

/// Two rungs, of which the second is scaled from the first.
const LADDER: &str = "360p,144p";
const SOUND: &str = "-f lavfi -i anoisesrc=d=18:a=0.1:seed=1";
const X264: &str = "-c:v libx264 -preset veryfast -pix_fmt yuv420p";

fn clip(name: &str, rate: &str, options: &str) -> PathBuf {
    made(name, &format!("-f lavfi -i testsrc2=s=320x180:r={rate}:d=18 {SOUND} {options}"))
}

/// A copy of a clip whose streams are put together differently.
fn remade(name: &str, clip: &Path, before: &str, after: &str) -> PathBuf {
    let path = clip.to_str().unwrap();
    made(name, &format!("{before} -i {path} {after}"))
}

pub fn open_gop() -> PathBuf {
    let options = "-x264-params open-gop=1:bframes=3:b-pyramid=normal:keyint=120 -c:a aac";
    clip("split-open.mp4", "24000/1001", &format!("{X264} {options}"))
}

/// A clip of three segments.
fn short(name: &str, rate: &str, options: &str) -> PathBuf {
    let source = format!("-f lavfi -i testsrc2=s=320x180:r={rate}:d=9");
    made(name, &format!("{source} -f lavfi -i anoisesrc=d=9:a=0.1:seed=1 {options}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_chunk_has_the_same_bytes() {
    let (input, cancel) = (open_gop(), CancellationToken::new());
    let plan = planned(&input, Preset::HlsAdaptive, LADDER).await;
    for number in 0..2 {
        let encode = async |is_urgent: bool| {
            let out = TempDir::new().unwrap();
            let request = part(&plan, MediaInput::File(&input), out.path(), &cancel);
            let report = encode_chunk(number, &PartRequest { is_urgent, ..request }).await.unwrap();
            let files = files_in(out.path()).into_iter();
            let bytes: Vec<_> =
                files.map(|f| (f.clone(), std::fs::read(out.path().join(f)).unwrap())).collect();
            (report.rungs, bytes)
        };
        let (usual, urgent) = (encode(false).await, encode(true).await);
        assert_eq!(usual.0.len(), 2);
        assert!(usual == urgent, "chunk {number} has other bytes if it is urgent");
    }
}

/// The ratio of signal to distortion of one sound beside another, decibels.
fn sound_ratio(one: &Path, other: &Path) -> f64 {
    let graph = "[0:a]aformat=fltp[a];[1:a]aformat=fltp[b];[a][b]asdr";
    let rest = ["-i", other.to_str().unwrap(), "-lavfi", graph, "-f", "null", "-"];
    let (_, text) = output("ffmpeg", &["-nostdin", "-v", "info", "-i"], one, &rest);
    text.lines()
        .find_map(|line| line.split_once("SDR ch0:")?.1.trim().split(' ').next()?.parse().ok())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_around_a_chunk_stands_in_for_that_of_the_whole() {
    let pulses = "-f lavfi -i anoisesrc=d=18:a=0.5:c=pink:seed=1,tremolo=f=3:d=0.9";
    let picture = "-f lavfi -i testsrc2=s=320x180:r=25:d=18";
    let input = made("split-pulses.mp4", &format!("{picture} {pulses} {X264} -c:a aac"));
    let cancel = CancellationToken::new();
    let plan = planned(&input, Preset::HlsAdaptive, "144p").await;
    assert_eq!(plan.chunks.segments_of(2), 3..5);
    let whole = TempDir::new().unwrap();
    let audio = encode_audio(&part(&plan, MediaInput::File(&input), whole.path(), &cancel)).await.unwrap();
    let files: Vec<PathBuf> = audio.files();
    let joined = |segments: &dyn Fn(&Path) -> PathBuf| {
        // Fragmented MP4: the header and the segments one after the other.
        let path = TempDir::new().unwrap();
        let bytes: Vec<u8> = files.iter().flat_map(|file| std::fs::read(segments(file)).unwrap()).collect();
        std::fs::write(path.path().join("sound.mp4"), bytes).unwrap();
        path
    };
    let around = TempDir::new().unwrap();
    let request = part(&plan, MediaInput::File(&input), around.path(), &cancel);
    let early = encode_sound_around(2, &request).await.unwrap();
    let names: Vec<_> = early.iter().map(|file| file.to_str().unwrap().to_owned()).collect();
    let expected: Vec<_> = (1..5).map(|n| format!("audio/segment_0000{n}.m4s")).collect();
    assert_eq!(names, expected);
    let usual = joined(&|file| whole.path().join(file));
    let mixed =
        joined(&|file| if early.iter().any(|f| f == file) { &around } else { &whole }.path().join(file));
    let sound = |folder: &TempDir| folder.path().join("sound.mp4");
    assert_eq!(packet_times(&sound(&mixed), "a:0"), packet_times(&sound(&usual), "a:0"));
    let ratio = sound_ratio(&sound(&usual), &sound(&mixed));
    assert!(ratio > 15.0, "{ratio}");
    // At the beginning, nobody waits for the sound as a whole.
    assert!(encode_sound_around(0, &request).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_whose_sound_overlaps_where_they_were_joined_are_exact() {
    let one = short("split-recording.mp4", "25", &format!("{X264} -c:a aac -ar 44100"));
    compare("joined recordings", &remade("split-recordings.mp4", &one, "-stream_loop 1", "-c copy")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn high_rates_are_exact() {
    compare("120 fps", &short("split-120.mp4", "120", &format!("{X264} -c:a aac"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_before_zero_are_those_of_the_whole() {
    let coded = format!("{X264} -c:a aac");
    // An edit list hides what is before zero.
    let early = short("split-early.mp4", "25", &format!("{coded} -output_ts_offset -1.3"));
    compare("picture and sound before zero in MP4", &early).await;
    // The sound begins before zero, and with it the file.
    let base = short("split-short.mp4", "25", &coded);
    let twice = format!("-itsoffset -0.5 -i {}", base.display());
    let sound = "-map 1:v -map 0:a -c copy -avoid_negative_ts disabled";
    compare("sound before zero in MKV", &remade("split-early-sound.mkv", &base, &twice, sound)).await;
    // Opus has priming samples, whose times are before zero.
    let primed = short("split-primed.mkv", "25", &format!("{X264} -c:a libopus"));
    compare("priming before zero in MKV", &primed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constant_rates_are_exact() {
    for rate in ["24000/1001", "30000/1001", "60000/1001"] {
        let name = format!("split-{}.mp4", rate.replace('/', "-"));
        compare(&name, &clip(&name, rate, &format!("{X264} -c:a aac"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_and_long_groups_of_pictures_are_exact() {
    compare_ladder("open GOP", &open_gop(), LADDER).await;
    let long = clip("split-long.mp4", "25", &format!("{X264} -g 1000 -sc_threshold 0 -c:a aac"));
    compare("long GOP", &long).await;
    compare("MKV", &remade("split-open.mkv", &open_gop(), "", "-c copy")).await;
    compare("MOV", &remade("split-open.mov", &open_gop(), "", "-c:v copy -c:a pcm_s16le")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variable_rates_are_exact() {
    let varied = "-vf select='if(lt(mod(t,3),1),1,not(mod(n,4+mod(floor(t),5))))' -fps_mode passthrough \
                  -enc_time_base 1:90000";
    let vfr = clip("split-vfr.mp4", "60", &format!("{varied} {X264} -c:a aac"));
    compare_ladder("VFR", &vfr, LADDER).await;
    compare("VFR in MKV", &remade("split-vfr.mkv", &vfr, "", "-c copy")).await;
    let jitter = "-vf setpts='PTS+0.004*sin(N)/TB' -fps_mode passthrough -enc_time_base 1:90000";
    compare("jitter", &clip("split-jitter.mp4", "25", &format!("{jitter} {X264} -an"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_picture_and_sound_are_those_of_the_whole() {
    let late = "-map 0:v -map 1:a -c copy";
    let open = open_gop();
    let twice = |offset: &str| format!("-itsoffset {offset} -i {} ", open.display());
    compare("late picture", &remade("split-late.mp4", &open, &twice("1.5"), late)).await;
    let sound_late = "-map 1:v -map 0:a -c copy";
    compare("late sound", &remade("split-sound-late.mp4", &open, &twice("0.7"), sound_late)).await;
    compare("edit list", &remade("split-edit.mp4", &open, "-ss 1.3", "-c copy")).await;
    let both = "-c copy -output_ts_offset 5";
    compare("both late", &remade("split-both.mp4", &open, "", both)).await;
    compare("no sound", &remade("split-mute.mp4", &open, "", "-c copy -an")).await;
    let longer = "-map 0:v -map 1:a -c:v copy -af apad=whole_dur=21 -c:a aac";
    compare("longer sound", &remade("split-longer.mp4", &open, &twice("0"), longer)).await;
    let shorter = "-map 0:v -map 1:a -c:v copy -af atrim=end=11 -c:a aac";
    compare("shorter sound", &remade("split-shorter.mp4", &open, &twice("0"), shorter)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_are_converted_are_exact() {
    compare("turned", &turned(&open_gop(), "split-turned.mp4")).await;
    let interlaced = "-vf tinterlace=interleave_top,setfield=tff -flags +ilme+ildct -x264-params tff=1";
    let interlaced = clip("split-interlaced.mp4", "50", &format!("{interlaced} {X264} -c:a aac"));
    compare_ladder("interlaced", &interlaced, LADDER).await;
    let hdr = "-c:v libx265 -preset ultrafast -pix_fmt yuv420p10le -x265-params \
               log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc -tag:v hvc1 -c:a aac";
    compare("HDR", &clip("split-hdr.mp4", "25", hdr)).await;
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 500k -g 100 -c:a libopus";
    compare("WebM", &clip("split-vp9.webm", "25", vp9)).await;
}
