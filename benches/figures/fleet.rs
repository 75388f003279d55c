//! How soon machines are asked for, and what that costs: the reconciler on the emulator of Fly's API,
//! whose machines only sleep here, so that nothing takes a job away.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use tcoder::config::RedisConfig;
use tcoder::controller::fleet::{Deadlines, FleetPolicy, Moment, plan};
use tcoder::controller::reconciler::{Reconciler, ReconcilerDeps, simulation};
use tcoder::flyprovider::emulator::{self, Action, Emulator, EmulatorHandle, Request};
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
/// A list older than this is read anew before a write: half a minute in production, here less, so that
/// the quiet state, in which it is older, is soon reached. More than the limiter's second.
const LIST: Duration = Duration::from_secs(2);
/// By then the last list is old, and the limiter's slot is free.
const QUIET: Duration = Duration::from_millis(2_200);
/// For ten requests at one a second.
const FLOOR: Duration = Duration::from_secs(10);
/// One blocking read of a reconciler that nothing wakes, and the look after it.
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

/// All of them have the name of this part too: `-- fleet`.
pub fn wants(figures: &Figures, names: &[&str]) -> bool {
    figures.wants(names) || figures.wants(&["fleet"])
}

/// An installation with a reconciler and without workers.
struct Cloud {
    queue: Queue,
    fly: EmulatorHandle,
    /// The emulator's zero.
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
            told: watch::Sender::new(None),
            environment: BTreeMap::new(),
            holder: "bench".into(),
            metrics: Metrics::new(),
        };
        let reconciler = tokio::spawn(Reconciler::new(parts).run(stop_reconciler.clone()));
        let cloud = Self { queue, fly, began, reconciler, stop_reconciler, stop_fly };
        cloud.request(0, |request| request.action == Action::List).await;
        cloud
    }

    async fn submit(&self) {
        let input = tcoder::job::Input::Key("inputs/video.mp4".parse().unwrap());
        let spec = JobSpec::new(input, Preset::Hls, Ladder::default());
        self.queue.submit(JobId::new(), &spec, SubmitMode::Now).await.unwrap();
    }

    /// The first such request after so many of any kind, once it came.
    async fn request(&self, after: usize, is: impl Fn(&Request) -> bool) -> Request {
        loop {
            if let Some(found) = self.fly.requests().into_iter().skip(after).find(&is) {
                return found;
            }
            // When it came stands in the request, however late this look is.
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

/// From before the submit to the arrival of the first request to Fly, and to that of the create, in
/// milliseconds. The first is a list: what was seen before the quiet is no ground for a write; the
/// create has to wait for the limiter's second. The way to Fly itself is not in it.
///
/// Each round has an installation of its own: a machine that is made and never gets a worker would count
/// as booting for minutes, and the next job would cause no request.
async fn requests_after_submit(redis: RedisConfig) -> (f64, f64) {
    let cloud = Cloud::start(&redis, Deadlines { list: LIST, ..Deadlines::default() }).await;
    tokio::time::sleep(QUIET).await;
    let before = cloud.fly.requests().len();
    let submitted = cloud.began.elapsed();
    cloud.submit().await;
    let first = cloud.request(before, |_| true).await;
    let create = cloud.request(before, |request| request.action == Action::Create).await;
    assert_eq!((before, first.action), (1, Action::List));
    cloud.stop().await;
    let ms = |request: Request| (request.at - submitted).as_secs_f64() * 1000.0;
    (ms(first), ms(create))
}

/// Ten jobs at once in an empty app: from the first submit until ten machines run, over the limiter's
/// floor; and how many requests it took.
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

/// A reconciler without anything to do, on a Redis of its own, beside the other figures: it takes ten
/// minutes.
pub struct Idle {
    commands: JoinHandle<u64>,
    /// Until it is asked for: the CPU time of a child that ends is taken for that of an encode.
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
