//! Simulates how long the fleet takes for an hour of video in parts, and what that costs, in virtual time. What a chunk
//! costs is measured in the same run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use tcoder::controller::fleet::{FleetPolicy, MachineSize, Sizes};
use tcoder::controller::reconciler::simulation::{Parts, Report, Scenario, run};
use tcoder::flyprovider;
use tcoder::job::{InputLimits, Parallelism, Preset, Stills};
use tcoder::transcoder::input::MediaInput;
use tcoder::transcoder::probe;
use tcoder::transcoder::split::{
    ChunkPlan, PartRequest, SplitDecision, SplitPlan, decide, encode_audio, encode_chunk,
};
use tokio_util::sync::CancellationToken;

use crate::support::clips::made;
use crate::{Figures, TCODER, encode};

const FIGURES: [&str; 2] = ["simulated_hour_s_8_core_guests", "simulated_hour_cost_over_one_machine"];
const HOUR: f64 = 3600.0;
/// The length of the clip, and its frame rate.
const CLIP_SECONDS: f64 = 30.0;
const RATE: f64 = 25.0;
const SOUND_SECONDS: u32 = 300;
const CPUS: u32 = 8;
/// As many machines as Fly starts in a minute.
const MACHINES: u32 = 60;
/// The time to read the header and to write the parts into the queue, and the time to write the playlists and the result.
const PLANNING_MS: u64 = 1_000;
const FINISH_MS: u64 = 1_000;

pub async fn measure(figures: &mut Figures, scratch: &Path) {
    if !figures.wants(&FIGURES) {
        return;
    }
    let clip = encode::clip();
    let whole = cpu_of_whole(&clip, &scratch.join("hour-whole"));
    let costs = Costs::measure(&clip, scratch).await;
    let size = MachineSize { cpus: CPUS, memory_mb: 16_384, ..MachineSize::default() };
    // The time that the last worker waits for another job is no cost of this one.
    let idle_timeout = Duration::from_secs(2);
    let policy = FleetPolicy {
        max: MACHINES,
        sizes: Sizes::one(size),
        idle_timeout,
        ..flyprovider::policy::defaults("bench", "worker:1")
    };
    let chunks = ChunkPlan::new(HOUR, RATE, Parallelism::Auto);
    let seconds_of = |chunk| chunks.segments_of(chunk).map(|segment| chunks.seconds_of(segment)).sum::<f64>();
    let lengths = (0..chunks.count()).map(|chunk| costs.chunks * seconds_of(chunk));
    let lengths = std::iter::once(costs.sound * HOUR).chain(lengths).map(millis).collect();
    let split =
        run(&Scenario::split(policy.clone(), PLANNING_MS, Parts { lengths, finish: FINISH_MS })).unwrap();
    // One machine whose cores are all busy all the time, which FFmpeg alone does not achieve.
    let alone = millis(whole * HOUR / CLIP_SECONDS / f64::from(CPUS));
    let one = run(&Scenario::whole(FleetPolicy { max: 1, ..policy }, alone)).unwrap();
    eprintln!(
        "an hour costs {:.0} CPU seconds as a whole and {:.0} in parts; its sound takes {:.0} s; {split:?}, one machine: {one:?}",
        whole * HOUR / CLIP_SECONDS,
        costs.chunks * HOUR,
        costs.sound * HOUR
    );
    figures.put(FIGURES[0], seconds(&split), "s");
    figures.put(FIGURES[1], split.billed as f64 / one.billed as f64, "ratio");
}

/// The CPU seconds of an encode of the clip that is not split.
fn cpu_of_whole(clip: &Path, out: &Path) -> f64 {
    encode::cpu_of(|| {
        let done = Command::new(TCODER)
            .args(["transcode", "--preset", "hls-adaptive", "--quality", encode::LADDER, "--output"])
            .args([out, clip])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success());
    })
}

/// From the arrival of the job to its end.
fn seconds(report: &Report) -> f64 {
    (report.drained_at - Scenario::ARRIVAL) as f64 / 1000.0
}

fn millis(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX)
}

/// What parts cost. A chunk has one thread, so that it takes about as long on a core of its own.
struct Costs {
    /// CPU seconds of the chunks for a second of video. Those of the clip are shorter than most of the hour's, so that
    /// they cost more.
    chunks: f64,
    /// CPU seconds of the sound for a second of video.
    sound: f64,
}

impl Costs {
    /// Encodes every part of the clip, as many chunks at once as there are cores: two threads that share a core take
    /// longer than one that has it alone.
    async fn measure(clip: &Path, scratch: &Path) -> Self {
        let plan = planned(clip).await;
        let chunk = async |chunk: u32| {
            let cancel = CancellationToken::new();
            let out = scratch.join(format!("hour-{chunk}"));
            encode_chunk(chunk, &part(&plan, clip, &out, &cancel)).await.unwrap().cpu_seconds
        };
        let cores = std::thread::available_parallelism().unwrap().get();
        let chunks = futures::stream::iter(0..plan.chunks.count()).map(chunk).buffer_unordered(cores);
        let chunks: f64 = chunks.collect::<Vec<f64>>().await.iter().sum();
        let cancel = CancellationToken::new();
        let sound = sound();
        let plan = planned(&sound).await;
        let sound = encode_audio(&part(&plan, &sound, &scratch.join("hour-sound"), &cancel)).await.unwrap();
        Self { chunks: chunks / CLIP_SECONDS, sound: sound.cpu_seconds / f64::from(SOUND_SECONDS) }
    }
}

/// Five minutes of stereo with noise and a tone. The beeps of the clip take FFmpeg's coder twice as long as music does
/// (the sound of Big Buck Bunny), and its 30 s little longer than the start.
fn sound() -> PathBuf {
    made(
        "hour-sound.mp4",
        &format!(
            "-f lavfi -i testsrc2=size=1280x720:rate=10:duration={SOUND_SECONDS} \
             -f lavfi -i anoisesrc=d={SOUND_SECONDS}:c=pink:a=0.3:seed=1 -f lavfi -i sine=f=220:b=4:d={SOUND_SECONDS} \
             -filter_complex [1][2]amix,aformat=channel_layouts=stereo:sample_rates=48000[a] -map 0:v -map [a] \
             -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac -b:a 192k"
        ),
    )
}

async fn planned(clip: &Path) -> SplitPlan {
    let source = probe::probe(clip, &InputLimits::default()).await.unwrap();
    let ladder = encode::LADDER.parse().unwrap();
    let decision =
        decide(&source, Preset::HlsAdaptive, &ladder, Stills::default(), Parallelism::Auto).unwrap();
    let SplitDecision::Split(plan) = decision else { panic!("the clip is not split: {decision:?}") };
    *plan
}

fn part<'a>(
    plan: &'a SplitPlan,
    clip: &'a Path,
    out_dir: &'a Path,
    cancel: &'a CancellationToken,
) -> PartRequest<'a> {
    let hour = Duration::from_secs(3600);
    PartRequest {
        plan,
        input: MediaInput::File(clip),
        out_dir,
        disk_bytes: None,
        stall_timeout: hour,
        deadline: hour,
        is_urgent: false,
        cancel,
        sink: None,
    }
}
