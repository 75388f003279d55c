//! Measures what it brings to encode one video in parts: on workers that are each held to the same share of a core, and
//! for viewers who play it meanwhile.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tcoder::config::{RedisConfig, StorageConfig};
use tcoder::job::{Input, Job, JobId, JobSpec, Parallelism, Preset, State};
use tcoder::queue::{EventFeed, Queue, SubmitMode};
use tcoder::standalone::objects::{Buckets, Keys, Objects, ObjectsHandle};
use tcoder::storage::{Progress, Storage};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use crate::redis_server::{PrivateRedis, private_redis};
use crate::{Figures, TCODER};

/// Length of the source, seconds.
const SECONDS: u32 = 240;
/// The share of a core that each worker has, percent: sixteen of them fit on two cores.
const SHARE: u32 = 10;
const LADDER: &str = "240p,144p";
const FIGURES: [&str; 6] = [
    "split_speedup_8_workers",
    "split_speedup_16_workers",
    "split_cpu_overhead",
    "split_bits_overhead",
    "bytes_read_over_input",
    "worker_killed_costs_seconds",
];

pub async fn measure(figures: &mut Figures, scratch: &Path) {
    if !figures.wants(&FIGURES) {
        return;
    }
    let Some(shares) = Shares::new() else {
        eprintln!("left out: no control group can be made here, which needs root and a CPU controller");
        return;
    };
    let clip = clip(scratch);
    let installation = Installation::start(scratch).await;
    let key = installation.store(&clip).await;
    let one = installation.run(&shares, &key, 1, Parallelism::Workers(1), None).await;
    let eight = installation.run(&shares, &key, 8, Parallelism::Workers(8), None).await;
    let sixteen = installation.run(&shares, &key, 16, Parallelism::Workers(16), None).await;
    figures.put("split_speedup_8_workers", one.seconds / eight.seconds, "ratio");
    figures.put("split_speedup_16_workers", one.seconds / sixteen.seconds, "ratio");
    figures.put("split_cpu_overhead", eight.cpu_seconds() / one.cpu_seconds(), "ratio");
    figures.put("split_bits_overhead", eight.bytes() / one.bytes(), "ratio");
    #[allow(clippy::cast_precision_loss)]
    let size = std::fs::metadata(&clip).unwrap().len() as f64;
    let read = eight.bytes_read / size;
    assert!(read > 0.9, "the workers say that they read {read} of the input");
    figures.put("bytes_read_over_input", read, "ratio");
    let killed = installation.run(&shares, &key, 8, Parallelism::Workers(8), Some(3)).await;
    figures.put("worker_killed_costs_seconds", killed.seconds - eight.seconds, "s");
}

/// Four minutes with motion, detail and a tone.
fn clip(scratch: &Path) -> PathBuf {
    let path = scratch.join("four-minutes.mp4");
    let done = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y", "-f", "lavfi", "-i"])
        .arg(format!("testsrc2=size=640x360:rate=25:duration={SECONDS}"))
        .args(["-f", "lavfi", "-i", &format!("sine=frequency=330:beep_factor=4:duration={SECONDS}")])
        .args(["-vf", "noise=alls=5:allf=t", "-c:v", "libx264", "-preset", "veryfast", "-b:v", "1500k"])
        .args(["-pix_fmt", "yuv420p", "-c:a", "aac"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(done.success());
    path
}

/// A finished job.
struct Run {
    /// From the submit to the result.
    seconds: f64,
    job: Job,
    /// What the workers read of the input.
    bytes_read: f64,
}

impl Run {
    fn cpu_seconds(&self) -> f64 {
        self.job.result.as_ref().unwrap().cpu_seconds
    }

    #[allow(clippy::cast_precision_loss)]
    fn bytes(&self) -> f64 {
        self.job.result.as_ref().unwrap().outputs.iter().map(|output| output.info.size as f64).sum()
    }
}

/// Redis and object storage.
struct Installation {
    redis: PrivateRedis,
    config: RedisConfig,
    queue: Queue,
    storage: StorageConfig,
    scratch: PathBuf,
    stop: CancellationToken,
    _objects: ObjectsHandle,
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Installation {
    async fn start(scratch: &Path) -> Self {
        let redis = private_redis(&[]);
        let config = redis.config();
        let queue = Queue::connect(&config).await.unwrap();
        let stop = CancellationToken::new();
        let (events, mut unread) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move { while unread.recv().await.is_some() {} });
        let objects = Objects::start(
            scratch.join("split-objects"),
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
            Keys::generate(),
            Buckets { input: "input".into(), output: "output".into() },
            events,
            stop.clone(),
        )
        .unwrap();
        let storage = objects.storage_config();
        let scratch = scratch.join("split");
        std::fs::create_dir_all(&scratch).unwrap();
        Self { redis, config, queue, storage, scratch, stop, _objects: objects }
    }

    /// Stores the video as an input.
    async fn store(&self, clip: &Path) -> String {
        // The same server has both buckets; a client whose output bucket is the input bucket uploads to it.
        let config =
            StorageConfig { output_bucket: self.storage.input_bucket.clone(), ..self.storage.clone() };
        let storage = Storage::new(&config);
        let key = "inputs/film.mp4";
        let (quiet, never) = (Progress::none(), CancellationToken::new());
        storage.upload(&key.parse().unwrap(), clip, "video/mp4", &quiet, &never).await.unwrap();
        key.to_owned()
    }

    /// Encodes the video on this number of workers. Kills one of them once this number of parts is completed.
    async fn run(
        &self,
        shares: &Shares,
        key: &str,
        workers: usize,
        parallelism: Parallelism,
        kill_after: Option<usize>,
    ) -> Run {
        redis::cmd("FLUSHALL").exec(&mut self.redis.raw()).unwrap();
        let logs: Vec<PathBuf> = (0..workers).map(|n| self.scratch.join(format!("log-{n}"))).collect();
        let mut running: Vec<Child> =
            logs.iter().enumerate().map(|(n, log)| self.worker(shares, n, log)).collect();
        while self.queue.workers().await.unwrap().len() < workers {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut feed = EventFeed::open(&self.queue).await.unwrap();
        let id = JobId::new();
        let input = Input::Key(key.parse().unwrap());
        let spec =
            JobSpec { parallelism, ..JobSpec::new(input, Preset::HlsAdaptive, LADDER.parse().unwrap()) };
        let began = Instant::now();
        self.queue.submit(id, &spec, SubmitMode::Now).await.unwrap();
        let mut completed = 0;
        'ended: loop {
            for event in feed.next(Duration::from_secs(1)).await.unwrap() {
                completed += usize::from(event.progress.is_some());
                if event.status.is_terminal() {
                    break 'ended;
                }
            }
            if kill_after.is_some_and(|after| completed >= after) && running.len() == workers {
                running.pop().unwrap().kill().await.unwrap();
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        assert_eq!(running.len(), workers - usize::from(kill_after.is_some()), "a worker was to be killed");
        let job = self.queue.get(id).await.unwrap().unwrap();
        assert_eq!(job.status, State::Completed, "{job:?}");
        for worker in &mut running {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(worker.id().unwrap()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            worker.wait().await.unwrap();
        }
        Run { seconds, job, bytes_read: logs.iter().map(|log| bytes_read(log)).sum() }
    }

    fn worker(&self, shares: &Shares, n: usize, log: &Path) -> Child {
        let mut command = tokio::process::Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(shares.processes(n))
            .args([TCODER, "worker"])
            .env("REDIS_URL", self.config.url.expose_secret())
            .env("REDIS_KEY_PREFIX", &self.config.prefix)
            .env("R2_ENDPOINT", self.storage.endpoint.as_str())
            .env("R2_ACCESS_KEY_ID", &self.storage.access_key_id)
            .env("R2_SECRET_ACCESS_KEY", self.storage.secret_access_key.expose_secret())
            .env("R2_INPUT_BUCKET_NAME", &self.storage.input_bucket)
            .env("R2_OUTPUT_BUCKET_NAME", &self.storage.output_bucket)
            .env("HOSTNAME", format!("worker-{n}"))
            .env("WORKER_SCRATCH_DIR", &self.scratch)
            .env("WORKER_CHUNKS", "1")
            .env("WORKER_TTL", "0")
            .env("WORKER_IDLE_TIMEOUT", "0")
            .env("RUST_LOG", "warn,tcoder::transcoder::worker::input=debug")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(log).unwrap())
            .kill_on_drop(true);
        command.spawn().unwrap()
    }
}

/// What a worker read of its inputs, by its log.
fn bytes_read(log: &Path) -> f64 {
    let text = std::fs::read_to_string(log).unwrap();
    let read = |line: &str| -> Option<f64> {
        line.split_once("read=")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    text.lines().filter(|line| line.contains("closed the input")).filter_map(read).sum()
}

/// Control groups, each with the same share of a core.
struct Shares {
    base: PathBuf,
    /// The file with the limit, and the limit.
    limit: (&'static str, String),
}

impl Shares {
    const GROUPS: usize = 16;

    /// Makes the groups; `None` where that is not possible.
    fn new() -> Option<Self> {
        const PERIOD: u32 = 20_000;
        let quota = PERIOD * SHARE / 100;
        let name = format!("tcoder-bench-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/cpu");
        let this = if first.is_dir() {
            Self { base: first.join(name), limit: ("cpu.cfs_quota_us", quota.to_string()) }
        } else {
            Self {
                base: Path::new("/sys/fs/cgroup").join(name),
                limit: ("cpu.max", format!("{quota} {PERIOD}")),
            }
        };
        std::fs::create_dir_all(&this.base).ok()?;
        if this.limit.0 == "cpu.max" {
            std::fs::write(this.base.join("cgroup.subtree_control"), "+cpu").ok()?;
        }
        for n in 0..Self::GROUPS {
            std::fs::create_dir_all(this.group(n)).ok()?;
            if this.limit.0 != "cpu.max" {
                std::fs::write(this.group(n).join("cpu.cfs_period_us"), PERIOD.to_string()).ok()?;
            }
            std::fs::write(this.group(n).join(this.limit.0), &this.limit.1).ok()?;
        }
        Some(this)
    }

    fn group(&self, n: usize) -> PathBuf {
        self.base.join(n.to_string())
    }

    /// The file to which a process writes its id to join a group.
    fn processes(&self, n: usize) -> PathBuf {
        self.group(n).join("cgroup.procs")
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for n in 0..Self::GROUPS {
            let _ = std::fs::remove_dir(self.group(n));
        }
        let _ = std::fs::remove_dir(&self.base);
    }
}
