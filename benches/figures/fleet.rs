//! Measures how soon machines are requested, and what that costs: the reconciler with the emulator of Fly's
//! API, whose machines only sleep, so that no job is claimed.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use tcoder::config::RedisConfig;
use tcoder::controller::fleet::{Deadlines, FleetPolicy, Moment, plan};
use tcoder::controller::reconciler::{Reconciler, ReconcilerDeps, simulation};
use tcoder::flyprovider::emulator::{self, EmulatedCall, Emulator, EmulatorHandle, Request};
use tcoder::flyprovider::{self, Fly, MachineState};
use tcoder::job::{JobId, JobSpec, Ladder, Preset};
use tcoder::metrics::Metrics;
use tcoder::queue::{Queue, RequestRate, SubmitMode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::command_count::CommandCount;
use crate::redis_server::{PrivateRedis, private_redis};
use crate::{Figures, median};

const REQUESTS: [&str; 3] = [
    "enqueue_to_provider_request_ms_p50",
    "enqueue_to_provider_request_ms_p99",
    "enqueue_to_create_request_ms_p50",
];
const CONVERGE: [&str; 2] = ["converge_calls_over_minimum", "converge_0_to_10_over_floor"];
const PLAN: &str = "reconcile_10k_machines_ms";
const IDLE: &str = "idle_commands_per_reconciler_minute";

const ROUNDS: u32 = 40;
/// Maximum age of a list that writes are based on: half a minute in production, less here, so that a list is
/// soon too old in the quiet state. Longer than the second of the rate limit.
const LIST: Duration = Duration::from_secs(2);
/// After this time the last list is too old, and the rate limit permits a request.
const QUIET: Duration = Duration::from_millis(2_200);
/// The minimum time for ten requests at one per second.
const FLOOR: Duration = Duration::from_secs(10);
/// One blocking read of a reconciler without events, and the observation after it.
const IDLE_FOR: Duration = Duration::from_secs(600);

pub async fn measure(figures: &mut Figures) {
    if wants(figures, &REQUESTS) {
        let (mut first, mut create) = (Vec::new(), Vec::new());
        let server = private_redis(&[]);
        for round in 0..ROUNDS {
            let prefix = format!("{{round-{round}}}:");
            let (to_first, to_create) =
                requests_after_submit(RedisConfig { prefix, ..server.config() }).await;
            first.push(to_first);
            create.push(to_create);
        }
        first.sort_by(f64::total_cmp);
        figures.put(REQUESTS[0], first[first.len() / 2], "ms");
        figures.put(REQUESTS[1], first[first.len() * 99 / 100], "ms");
        figures.put(REQUESTS[2], median(create), "ms");
    }
    if wants(figures, &CONVERGE) {
        let (over_floor, calls) = converge_to_ten().await;
        let simulated = [1, 2, 5, 10, 20].map(|n| simulation::converge_calls_over_minimum(n).unwrap());
        let most = simulated.into_iter().chain([calls - 10]).max().unwrap();
        figures.put(CONVERGE[0], f64::from(most), "calls");
        figures.put(CONVERGE[1], over_floor, "ratio");
    }
    if wants(figures, &[PLAN]) {
        figures.put(PLAN, plan_of_ten_thousand(), "ms");
    }
}

/// All figures also match the name of this part: `-- fleet`.
pub fn wants(figures: &Figures, names: &[&str]) -> bool {
    figures.wants(names) || figures.wants(&["fleet"])
}

/// An installation with a reconciler but without workers.
struct Cloud {
    queue: Queue,
    fly: EmulatorHandle,
    /// The start of the emulator's clock.
    began: Instant,
    reconciler: JoinHandle<()>,
    stop_reconciler: CancellationToken,
    stop_fly: CancellationToken,
}

impl Cloud {
    async fn start(redis: &RedisConfig, deadlines: Deadlines) -> Self {
        let queue = Queue::connect(redis).await.unwrap();
        let policy = FleetPolicy { deadlines, ..flyprovider::policy::defaults("bench", "worker:1") };
        let options =
            emulator::Options { app: policy.app.clone(), ..emulator::Options::new(["sleep", "600"]) };
        let (stop_reconciler, stop_fly) = (CancellationToken::new(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let began = Instant::now();
        let fly = Emulator::start(options, listener, stop_fly.clone()).unwrap();
        let parts = ReconcilerDeps {
            queue: queue.clone(),
            provider: Fly::new(&fly.fly_config()).unwrap(),
            rate: RequestRate::default(),
            policy: watch::channel(policy).1,
            status: watch::Sender::new(None),
            environment: BTreeMap::new(),
            holder: "bench".into(),
            metrics: Metrics::new(),
        };
        let reconciler = tokio::spawn(Reconciler::new(parts).run(stop_reconciler.clone()));
        let cloud = Self { queue, fly, began, reconciler, stop_reconciler, stop_fly };
        cloud.request(0, |request| request.action == EmulatedCall::List).await;
        cloud
    }

    async fn submit(&self) {
        let input = tcoder::job::Input::Key("inputs/video.mp4".parse().unwrap());
        let spec = JobSpec::new(input, Preset::Hls, Ladder::default());
        self.queue.submit(JobId::new(), &spec, SubmitMode::Now).await.unwrap();
    }

    /// The first request after the first `after` ones for which `is` holds, once it has arrived.
    async fn request(&self, after: usize, is: impl Fn(&Request) -> bool) -> Request {
        loop {
            if let Some(found) = self.fly.requests().into_iter().skip(after).find(&is) {
                return found;
            }
            // The request contains its time of arrival, so polling does not affect the figure.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop_reconciler.cancel();
        self.reconciler.await.unwrap();
        self.stop_fly.cancel();
        self.fly.stopped().await;
    }
}

/// Milliseconds from before the submit to the arrival of the first request to Fly, and to that of the create.
/// The first is a list, because the last list is too old for a write; the create has to wait for the rate
/// limit's second. The network latency to Fly is not included.
///
/// Each round has its own installation: a machine without a worker would count as booting for minutes, and
/// the next job would cause no request.
async fn requests_after_submit(redis: RedisConfig) -> (f64, f64) {
    let cloud = Cloud::start(&redis, Deadlines { list: LIST, ..Deadlines::default() }).await;
    tokio::time::sleep(QUIET).await;
    let before = cloud.fly.requests().len();
    let submitted = cloud.began.elapsed();
    cloud.submit().await;
    let first = cloud.request(before, |_| true).await;
    let create = cloud.request(before, |request| request.action == EmulatedCall::Create).await;
    assert_eq!((before, first.action), (1, EmulatedCall::List));
    cloud.stop().await;
    let ms = |request: Request| (request.at - submitted).as_secs_f64() * 1000.0;
    (ms(first), ms(create))
}

/// Ten jobs at once in an empty app: the time from the first submit until ten machines run, relative to the
/// minimum by the rate limit; and the number of requests.
async fn converge_to_ten() -> (f64, u32) {
    let server = private_redis(&[]);
    let cloud = Cloud::start(&server.config(), Deadlines { list: LIST, ..Deadlines::default() }).await;
    tokio::time::sleep(QUIET).await;
    let before = cloud.fly.requests().len();
    let began = Instant::now();
    for _ in 0..10 {
        cloud.submit().await;
    }
    let run = |n: usize| {
        cloud.fly.until(move |all| all.iter().filter(|m| m.state == MachineState::Started).count() == n)
    };
    tokio::time::timeout(Duration::from_secs(60), run(10)).await.expect("ten machines run");
    let took = began.elapsed();
    let calls = cloud.fly.requests().len() - before;
    cloud.stop().await;
    (took.as_secs_f64() / FLOOR.as_secs_f64(), u32::try_from(calls).unwrap())
}

fn plan_of_ten_thousand() -> f64 {
    let (seen, policy, memory) = simulation::crowd(10_000);
    let times = (0..21).map(|_| {
        let began = Instant::now();
        let plan = plan(black_box(&seen), &policy, &memory, Moment::ZERO);
        let took = began.elapsed();
        assert!(!plan.actions.is_empty());
        took.as_secs_f64() * 1000.0
    });
    median(times.collect())
}

/// An idle reconciler with its own Redis, which runs for ten minutes while other figures are measured.
pub struct Idle {
    commands: JoinHandle<u64>,
    /// Kept until the figure is read: the CPU time of a child that exits would count for an encode.
    _server: PrivateRedis,
}

impl Idle {
    pub fn begin(figures: &Figures) -> Option<Self> {
        wants(figures, &[IDLE]).then(|| {
            let server = private_redis(&[]);
            let (config, mut raw) = (server.config(), server.raw());
            let commands = tokio::spawn(async move {
                let cloud = Cloud::start(&config, Deadlines::default()).await;
                tokio::time::sleep(QUIET).await;
                CommandCount::reset(&mut raw);
                tokio::time::sleep(IDLE_FOR).await;
                let count = CommandCount::read(&mut raw);
                cloud.stop().await;
                count.total()
            });
            Self { commands, _server: server }
        })
    }

    pub async fn end(self, figures: &mut Figures) {
        #[allow(clippy::cast_precision_loss)]
        let commands = self.commands.await.unwrap() as f64;
        figures.put(IDLE, commands / (IDLE_FOR.as_secs_f64() / 60.0), "commands");
    }
}
