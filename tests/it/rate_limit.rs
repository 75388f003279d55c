//! One request to Fly per interval, whoever sends it: the script on real Redis in lockstep with a model, and
//! the model in virtual time.

use std::time::Duration;

use proptest::prelude::*;
use tcoder::queue::{Permit, Queue, RequestClass, RequestRate};

use crate::support::redis::{raw, shared};

/// The rule implemented again with plain values, in microseconds.
#[derive(Clone, Debug)]
struct Model {
    interval: u64,
    age: u64,
    next: u64,
    strikes: u32,
    calm: u64,
    /// When each class started to wait, and until when its place is kept.
    line: [Option<(u64, u64)>; 5],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Go,
    Wait(u64),
    Next(u64),
}

impl Model {
    fn new(interval: u64, age: u64) -> Self {
        Self { interval, age, next: 0, strikes: 0, calm: 0, line: [None; 5] }
    }

    fn longest(&self) -> u64 {
        300 * self.interval
    }

    fn tick(&mut self, now: u64) {
        self.next = self.next.min(now + self.longest());
        if now >= self.calm {
            self.strikes = 0;
        }
        for place in &mut self.line {
            *place = place.filter(|(_, until)| *until >= now);
        }
    }

    fn slot(&mut self, class: usize, budget: u64, now: u64) -> Told {
        self.tick(now);
        let since = self.line[class].map_or(now, |(since, _)| since);
        let mark = |class: usize, since: u64| (since + class as u64 * self.age, class);
        let ahead = (0..5)
            .filter(|other| *other != class)
            .filter_map(|other| Some((other, self.line[other]?.0)))
            .filter(|(other, theirs)| mark(*other, *theirs) < mark(class, since))
            .count() as u64;
        if now >= self.next && ahead == 0 {
            self.next = now + (self.interval << self.strikes.min(3));
            self.line[class] = None;
            return Told::Go;
        }
        let wait = self.next.max(now) - now + ahead * self.interval;
        if wait <= budget {
            let until = self.line[class].map_or(0, |(_, until)| until).max(now + wait + self.interval);
            self.line[class] = Some((since, until));
        }
        Told::Wait(wait)
    }

    fn penalty(&mut self, asked: Option<u64>, jitter: u64, now: u64) -> Told {
        self.tick(now);
        self.strikes = (self.strikes + 1).min(6);
        let own = (self.interval << self.strikes) * (1000 + jitter) / 2000;
        let hold = asked.unwrap_or(own).max(self.interval).min(self.longest());
        self.next = self.next.max(now + hold);
        self.calm = self.next + 60 * self.interval;
        Told::Next(self.next)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Slot { class: usize, budget: u64 },
    Penalty { asked: Option<u64>, jitter: u64 },
}

fn op(interval: u64) -> impl Strategy<Value = Op> {
    let slot = (0..5_usize, prop_oneof![Just(0), 0..interval * 4, Just(u64::from(u32::MAX))])
        .prop_map(|(class, budget)| Op::Slot { class, budget });
    let penalty = (proptest::option::of(0..interval * 3), 0..=1000_u64)
        .prop_map(|(asked, jitter)| Op::Penalty { asked, jitter });
    prop_oneof![30 => slot, 1 => penalty]
}

fn run() -> impl Strategy<Value = (u64, u64, Vec<Op>)> {
    (prop_oneof![50..300_u64, 300..3000_u64], 0..5000_u64).prop_flat_map(|(interval, age)| {
        (Just(interval), Just(age), proptest::collection::vec(op(interval), 1..80))
    })
}

const SCRIPT: &str = concat!(
    include_str!("../../src/queue/scripts/lib.lua"),
    include_str!("../../src/queue/scripts/rate_limit.lua")
);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Redis's own clock runs during a case, so the answers cover all branches of the rule.
    #[test]
    fn rate_limit_script_agrees_with_the_model((interval, age, ops) in run()) {
        let config = shared();
        let mut redis = raw(&config);
        let mut model = Model::new(interval, age);
        let mut last_go = None;
        for op in ops {
            let mut call = redis::cmd("EVAL");
            call.arg(SCRIPT).arg(1).arg(format!("{}jobs", config.prefix));
            call.arg(&config.prefix).arg("").arg(interval).arg(age);
            match &op {
                Op::Slot { class, budget } => call.arg("slot").arg(*class).arg(*budget),
                Op::Penalty { asked, jitter } => {
                    let asked = asked.map_or(-1, |us| i64::try_from(us).unwrap());
                    call.arg("penalty").arg(asked).arg(*jitter)
                }
            };
            let answer: Vec<redis::Value> = call.query(&mut redis).unwrap();
            let number = |at: usize| redis::from_redis_value::<u64>(answer[at].clone()).unwrap();
            let now = number(answer.len() - 1);
            let told = match redis::from_redis_value::<String>(answer[0].clone()).unwrap().as_str() {
                "GO" => Told::Go,
                "WAIT" => Told::Wait(number(1)),
                _ => Told::Next(number(1)),
            };
            let expected = match op {
                Op::Slot { class, budget } => model.slot(class, budget, now),
                Op::Penalty { asked, jitter } => model.penalty(asked, jitter, now),
            };
            prop_assert_eq!(told, expected);
            if told == Told::Go {
                prop_assert!(last_go.is_none_or(|last| now - last >= interval), "{:?} {}", last_go, now);
                last_go = Some(now);
            }
        }
    }

    /// However many other requests there are, each class gets its turn: at the latest after the maximum extra
    /// waits of the classes before it, plus one turn for each of them.
    #[test]
    fn rate_limit_starves_no_class(
        interval in 1000..2_000_000_u64,
        age in 0..10_000_000_u64,
        class in 0..5_usize,
        late in 0..1000_u64,
    ) {
        let mut model = Model::new(interval, age);
        let start = 1_000_000_000;
        let mut wakes = [start; 5];
        // Callers return a little later than they were told, because of network delays.
        let late = late.min(interval / 2);
        let bound = class as u64 * age + 6 * (interval + late);
        loop {
            let asks = (0..5).min_by_key(|c| (wakes[*c], *c)).unwrap();
            let now = wakes[asks];
            prop_assert!(now - start <= bound, "class {} has waited {} of {}", class, now - start, bound);
            match model.slot(asks, u64::MAX / 4, now) {
                Told::Go if asks == class => break,
                Told::Wait(wait) => wakes[asks] = now + wait.max(1) + late,
                _ => wakes[asks] = now + 1,
            }
        }
    }
}

const TEN_SECONDS: RequestRate =
    RequestRate { interval: Duration::from_secs(10), age: Duration::from_secs(50) };
const PATIENT: Duration = Duration::from_secs(1000);

async fn queue() -> Queue {
    Queue::connect(&shared()).await.unwrap()
}

async fn ask(queue: &Queue, priority: RequestClass, budget: Duration) -> Permit {
    queue.acquire_permit(TEN_SECONDS, priority, budget).await.unwrap()
}

async fn wait(queue: &Queue, priority: RequestClass, budget: Duration) -> Duration {
    match ask(queue, priority, budget).await {
        Permit::Wait(wait) => wait,
        go => panic!("{go:?}"),
    }
}

#[tokio::test]
async fn rate_limit_serves_urgent_classes_first() {
    let queue = queue().await;
    assert!(matches!(ask(&queue, RequestClass::Create, PATIENT).await, Permit::Go { .. }));
    let destroy = wait(&queue, RequestClass::Destroy, PATIENT).await;
    assert!(destroy <= TEN_SECONDS.interval);
    let list = wait(&queue, RequestClass::List, PATIENT).await;
    assert!(list <= TEN_SECONDS.interval);
    let destroy = wait(&queue, RequestClass::Destroy, PATIENT).await;
    assert!(destroy > list + TEN_SECONDS.interval / 2, "{destroy:?} after {list:?}");
}

#[tokio::test]
async fn rate_limit_impatient_caller_delays_nobody() {
    let queue = queue().await;
    assert!(matches!(ask(&queue, RequestClass::Create, PATIENT).await, Permit::Go { .. }));
    wait(&queue, RequestClass::List, Duration::ZERO).await;
    assert!(wait(&queue, RequestClass::Destroy, PATIENT).await <= TEN_SECONDS.interval);
}

#[tokio::test]
async fn rate_limit_after_429_pauses_everybody_for_a_bounded_time() {
    let config = shared();
    let (one, other) = (Queue::connect(&config).await.unwrap(), Queue::connect(&config).await.unwrap());
    let wait = async || match other
        .acquire_permit(RequestRate::default(), RequestClass::List, PATIENT)
        .await
        .unwrap()
    {
        Permit::Wait(wait) => wait,
        go => panic!("{go:?}"),
    };
    let rate = RequestRate::default();
    one.report_throttled(rate, Some(Duration::from_secs(100))).await.unwrap();
    let asked = wait().await;
    assert!(asked > Duration::from_secs(50) && asked <= Duration::from_secs(100), "{asked:?}");
    one.report_throttled(rate, None).await.unwrap();
    assert!(wait().await > Duration::from_secs(50), "a shorter pause does not undo a longer one");
    one.report_throttled(rate, Some(Duration::from_secs(365 * 86_400))).await.unwrap();
    let asked = wait().await;
    assert!(asked > Duration::from_secs(200) && asked <= Duration::from_secs(300), "{asked:?}");
}

#[tokio::test]
async fn rate_limit_key_expires_when_idle() {
    let config = shared();
    let queue = Queue::connect(&config).await.unwrap();
    queue.acquire_permit(RequestRate::default(), RequestClass::List, PATIENT).await.unwrap();
    let key = format!("{}provider:limit", config.prefix);
    let left: i64 = redis::cmd("PTTL").arg(key).query(&mut raw(&config)).unwrap();
    assert!((1..=3_600_000).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_permits_one_request_per_interval_under_load() {
    let config = shared();
    let interval = Duration::from_millis(50);
    let rate = RequestRate { interval, age: interval * 3 };
    let mut tasks = tokio::task::JoinSet::new();
    for priority in [RequestClass::List, RequestClass::Create, RequestClass::Destroy] {
        // Separate connections, like those of processes.
        let queue = Queue::connect(&config).await.unwrap();
        tasks.spawn(async move {
            let mut granted = Vec::new();
            while granted.len() < 6 {
                match queue.acquire_permit(rate, priority, PATIENT).await.unwrap() {
                    Permit::Go { at } => granted.push(at.0),
                    Permit::Wait(wait) => tokio::time::sleep(wait).await,
                }
            }
            granted
        });
    }
    let mut granted = tasks.join_all().await.concat();
    granted.sort_unstable();
    assert_eq!(granted.len(), 18);
    for pair in granted.windows(2) {
        assert!(pair[1] - pair[0] >= 50, "{granted:?}");
    }
}
