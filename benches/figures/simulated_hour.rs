//! Simulates how long the fleet takes for an hour of video in parts, and what that costs, in virtual time. What a chunk
//! costs is measured in the same run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tcoder::controller::fleet::{FleetPolicy, MachineSize};
use tcoder::controller::reconciler::simulation::{Parts, Report, Scenario, run};
use tcoder::flyprovider;
use tcoder::job::{Parallelism, Preset, Stills};
use tcoder::transcoder::input::MediaInput;
use tcoder::transcoder::split::{
    ChunkPlan, PartRequest, SplitDecision, SplitPlan, decide, encode_audio, encode_chunk,
};
use tcoder::transcoder::{EncodeProgress, probe};
use tokio_util::sync::CancellationToken;

use crate::{Figures, TCODER, encode};

const FIGURES: [&str; 2] = ["simulated_hour_s_8_core_guests", "simulated_hour_cost_over_one_machine"];
const HOUR: f64 = 3600.0;
/// The length of the clip, and its frame rate.
const CLIP_SECONDS: f64 = 30.0;
const RATE: f64 = 25.0;
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
    let policy = FleetPolicy { max: MACHINES, size, ..flyprovider::policy::defaults("bench", "worker:1") };
    let chunks = ChunkPlan::new(HOUR, RATE, Parallelism::Auto);
    let lengths = (0..chunks.count()).map(|chunk| costs.of_chunk(chunks.segments_of(chunk).len()));
    let sound = costs.sound * HOUR / CLIP_SECONDS;
    let lengths = std::iter::once(sound).chain(lengths).map(millis).collect();
    let split =
        run(&Scenario::split(policy.clone(), PLANNING_MS, Parts { lengths, finish: FINISH_MS })).unwrap();
    // One machine whose cores are all busy all the time, which FFmpeg alone does not achieve.
    let alone = millis(whole * HOUR / CLIP_SECONDS / f64::from(CPUS));
    let one = run(&Scenario::whole(FleetPolicy { max: 1, ..policy }, alone)).unwrap();
    eprintln!(
        "a chunk of n segments costs {:.2} + {:.2} n CPU seconds; {split:?}; alone {one:?}",
        costs.start, costs.segment
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

/// What parts cost, CPU seconds. A chunk has one thread, so that it takes about as long on a core of its own.
struct Costs {
    /// What a chunk costs whatever its length is.
    start: f64,
    /// What each of its segments costs.
    segment: f64,
    /// The sound of the clip.
    sound: f64,
}

impl Costs {
    /// Encodes every part of the clip.
    async fn measure(clip: &Path, scratch: &Path) -> Self {
        let source = probe::probe(clip).await.unwrap();
        let ladder = encode::LADDER.parse().unwrap();
        let decision =
            decide(&source, Preset::HlsAdaptive, &ladder, Stills::default(), Parallelism::Auto).unwrap();
        let SplitDecision::Split(plan) = decision else { panic!("the clip is not split: {decision:?}") };
        let mut points = Vec::new();
        for chunk in 0..plan.chunks.count() {
            let cancel = CancellationToken::new();
            let out = scratch.join(format!("hour-{chunk}"));
            let report = encode_chunk(chunk, &part(&plan, clip, &out, &cancel)).await.unwrap();
            points.push((plan.chunks.segments_of(chunk).len() as f64, report.cpu_seconds));
        }
        let cancel = CancellationToken::new();
        let sound = encode_audio(&part(&plan, clip, &scratch.join("hour-sound"), &cancel)).await.unwrap();
        let (start, segment) = line(&points);
        Self { start, segment, sound: sound.cpu_seconds }
    }

    fn of_chunk(&self, segments: usize) -> f64 {
        self.start + self.segment * segments as f64
    }
}

/// The line `a + b x` with the least squares of the distances.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (mut xy, mut xx) = (0.0, 0.0);
    for point in points {
        xy += (point.0 - x) * (point.1 - y);
        xx += (point.0 - x).powi(2);
    }
    let slope = xy / xx;
    ((y - slope * x).max(0.0), slope)
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
        cancel,
        on_progress: &|_: EncodeProgress| {},
        sink: None,
    }
}
