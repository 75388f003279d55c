//! Measures what it brings to encode one video in parts, on workers that are each held to the same share of a core.
//!
//! The quota of the control groups limits the workers, and not the machine. So one worker encodes the whole video while
//! teams of sixteen and eight encode it in parts several times. Cores that share their units are slower when all are in
//! use; as the machine is in use to the same degree all the time, that slows both sides down alike.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tcoder::job::{Input, Job, JobId, JobSpec, Parallelism, Preset, State};
use tcoder::queue::{EventFeed, SubmitMode};
use tokio::process::Child;

use crate::shares::Shares;
use crate::support::clips::made;
use crate::support::installation::Installation;
use crate::support::objects::put_input;
use crate::support::process::{send, spawn};
use crate::{Figures, median};

/// The share of a core that each worker has, percent: seventeen of them fit on two cores.
const SHARE: u32 = 10;
/// The worker that encodes alone, and the largest team.
const GROUPS: usize = 1 + 16;
const LADDER: &str = "240p,144p";
const KEY: &str = "inputs/film.mp4";
/// The progress in percent at which a worker is killed.
const KILLED_AT: f64 = 40.0;
const FIGURES: [&str; 6] = [
    "split_speedup_8_workers",
    "split_speedup_16_workers",
    "split_cpu_overhead",
    "split_bits_overhead",
    "bytes_read_over_input",
    "worker_killed_costs_seconds",
];

pub async fn measure(figures: &mut Figures) {
    if !figures.wants(&FIGURES) {
        return;
    }
    let Some(shares) = Shares::new(GROUPS, SHARE) else {
        eprintln!("left out: no control group can be made here, which needs root and a CPU controller");
        return;
    };
    let clip = four_minutes();
    let alone = Team::new(&shares, 0, &clip).await;
    let (first, second) = (Team::new(&shares, 1, &clip).await, Team::new(&shares, 9, &clip).await);
    let mut rounds = Rounds::default();
    // The round that is not over when the single worker is, is given up.
    let one = tokio::select! {
        one = alone.run(1, false) => one,
        never = rounds.repeat(&first, &second) => match never {},
    };
    assert!(!rounds.eight.is_empty(), "the single worker was faster than one round");
    let seconds = |runs: &[Run]| median(runs.iter().map(|run| run.seconds).collect());
    let eight = seconds(&rounds.eight);
    figures.put(FIGURES[0], one.seconds / eight, "ratio");
    figures.put(FIGURES[1], one.seconds / seconds(&rounds.sixteen), "ratio");
    let cpu = median(rounds.eight.iter().map(|run| run.cpu_seconds).collect());
    figures.put(FIGURES[2], cpu / one.cpu_seconds, "ratio");
    figures.put(FIGURES[3], rounds.eight[0].bytes() / one.bytes(), "ratio");
    #[allow(clippy::cast_precision_loss)]
    let size = std::fs::metadata(&clip).unwrap().len() as f64;
    let read = median(rounds.eight.iter().map(|run| run.bytes_read / size).collect());
    assert!(read > 0.9, "the workers say that they read {read} of the input");
    figures.put(FIGURES[4], read, "ratio");
    figures.put(FIGURES[5], seconds(&rounds.killed) - eight, "s");
}

/// Four minutes with motion, some grain and a tone, with a key frame every two seconds, as cameras record them. The one
/// worker needs 8 to 10 minutes for its encode.
fn four_minutes() -> PathBuf {
    made(
        "four-minutes.mp4",
        "-f lavfi -i testsrc2=size=640x360:rate=20:duration=240 \
         -f lavfi -i sine=frequency=330:beep_factor=4:duration=240 -vf noise=alls=5:allf=t -c:v libx264 \
         -preset veryfast -b:v 1500k -g 40 -pix_fmt yuv420p -c:a aac -movflags +faststart",
    )
}

/// What the teams did while the single worker encoded.
#[derive(Default)]
struct Rounds {
    sixteen: Vec<Run>,
    eight: Vec<Run>,
    /// A team of eight of which one worker was killed.
    killed: Vec<Run>,
}

impl Rounds {
    /// Always keeps sixteen workers busy.
    async fn repeat(&mut self, first: &Team<'_>, second: &Team<'_>) -> Infallible {
        loop {
            self.sixteen.push(first.run(16, false).await);
            let (eight, beside) = tokio::join!(first.run(8, false), second.run(8, self.killed.is_empty()));
            self.eight.push(eight);
            if self.killed.is_empty() { self.killed.push(beside) } else { self.eight.push(beside) }
        }
    }
}

/// A finished job.
struct Run {
    /// From the submit to the result.
    seconds: f64,
    /// What the workers used meanwhile, FFmpeg and tcoder.
    cpu_seconds: f64,
    /// What the workers read of the input.
    bytes_read: f64,
    job: Job,
}

impl Run {
    #[allow(clippy::cast_precision_loss)]
    fn bytes(&self) -> f64 {
        self.job.result.as_ref().unwrap().outputs.iter().map(|output| output.info.size as f64).sum()
    }
}

/// Workers with their own Redis and storage, which contains the video.
struct Team<'a> {
    installation: Installation,
    shares: &'a Shares,
    /// The control group of its first worker. The others have the next ones.
    first_group: usize,
}

impl<'a> Team<'a> {
    async fn new(shares: &'a Shares, first_group: usize, clip: &Path) -> Self {
        let installation = Installation::new(&[]).await;
        put_input(&installation.storage.config, KEY, std::fs::read(clip).unwrap()).await;
        Self { installation, shares, first_group }
    }

    /// Encodes the video on this number of workers, and kills one of them in the middle if `kill`.
    async fn run(&self, workers: usize, kill: bool) -> Run {
        let Installation { redis, queue, .. } = &self.installation;
        redis.tell(&["FLUSHALL"]);
        let logged = self.installation.log().len();
        let groups = self.first_group..self.first_group + workers;
        let mut running: Vec<Child> = groups.clone().map(|group| self.worker(group)).collect();
        while queue.workers().await.unwrap().len() < workers {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut feed = EventFeed::open(queue).await.unwrap();
        let id = JobId::new();
        // One worker encodes the video as a whole.
        let parallelism = Parallelism::Chunks(u16::try_from(workers).unwrap());
        let input = Input::Key(KEY.parse().unwrap());
        let spec =
            JobSpec { parallelism, ..JobSpec::new(input, Preset::HlsAdaptive, LADDER.parse().unwrap()) };
        let used = || groups.clone().map(|group| self.shares.cpu_seconds(group)).sum::<f64>();
        let (used_before, began) = (used(), Instant::now());
        queue.submit(id, &spec, SubmitMode::Now).await.unwrap();
        let mut killed = None;
        'ended: loop {
            for event in feed.next(Duration::from_secs(1)).await.unwrap() {
                if event.status.is_terminal() {
                    break 'ended;
                }
                if kill && killed.is_none() && event.progress.is_some_and(|percent| percent >= KILLED_AT) {
                    let mut worker = running.pop().unwrap();
                    worker.kill().await.unwrap();
                    killed = Some(worker);
                }
            }
        }
        let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), used() - used_before);
        assert_eq!(killed.is_some(), kill, "a worker was to be killed");
        let job = queue.get(id).await.unwrap().unwrap();
        assert_eq!(job.status, State::Completed, "{job:?}\n{}", self.installation.log());
        for worker in &mut running {
            send(worker.id().unwrap(), Signal::SIGTERM);
            worker.wait().await.unwrap();
        }
        #[allow(clippy::cast_precision_loss)]
        let share = cpu_seconds / seconds / workers as f64 * 100.0;
        eprintln!(
            "{workers} workers{}: {seconds:.1} s, {cpu_seconds:.1} CPU-s, {share:.1} % of a core each",
            if kill { ", one killed" } else { "" }
        );
        let bytes_read = bytes_read(&self.installation.log()[logged..]);
        Run { seconds, cpu_seconds, bytes_read, job }
    }

    fn worker(&self, group: usize) -> Child {
        let mut command = self.installation.worker_command(&format!("worker-{group}"));
        command.env("WORKER_CHUNKS", "1").env("RUST_LOG", "warn,tcoder::transcoder::worker::input=debug");
        let worker = spawn(command);
        self.shares.enter(group, worker.id().unwrap());
        worker
    }
}

/// What workers read of their inputs, by their log.
fn bytes_read(log: &str) -> f64 {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let closed = lines.filter(|line| line["message"] == "closed the input");
    closed.filter_map(|line| line["read"].as_f64()).sum()
}
