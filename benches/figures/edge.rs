//! Measures the size of the Worker, the cost of an upload's event, and its response times relative to `tcoder
//! api`.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use tcoder::flyprovider::MachineState;

use crate::Figures;
use crate::page::gzip_kb;
use crate::support::edge::{Edge, Fate, Setup};
use crate::support::process::descendants;
use crate::support::redis::shared;
use crate::support::system::{Api, guarded};

const SIZE: [&str; 1] = ["edge_wasm_gzip_kb"];
const EVENT: [&str; 6] = [
    "edge_subrequests_per_upload_event",
    "edge_redis_commands_per_upload_event",
    "edge_subrequests_per_batched_event",
    "edge_redis_commands_per_idle_hour",
    "edge_cpu_ms_per_idle_minute",
    "edge_cpu_ms_per_post_upload",
];
const LATENCY: [&str; 1] = ["edge_vs_native_post_upload"];

/// Number of requests to each whose times are compared.
const ASKED: usize = 300;
/// Number of events per batch, as in wrangler.toml.
const BATCH: usize = 10;

pub async fn measure(figures: &mut Figures) {
    let wants = |names: &[&str]| figures.wants(names) || figures.wants(&["edge"]);
    let (size, event, latency) = (wants(&SIZE), wants(&EVENT), wants(&LATENCY));
    if size {
        // The size that counts against Cloudflare's limit: all modules, compressed.
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("edge/build");
        figures.put(SIZE[0], gzip_kb(&[build.join("index.js"), build.join("index_bg.wasm")]), "KB");
    }
    if event {
        events(figures).await;
    }
    if latency {
        figures.put(LATENCY[0], compared().await, "ratio");
    }
}

struct Cost {
    subrequests: f64,
    commands: f64,
}

/// The cost of each of these events.
#[allow(clippy::cast_precision_loss)]
async fn cost(edge: &Edge, batch: &[Value]) -> Cost {
    let (before, subrequests) = (edge.count.so_far().1, edge.subrequests());
    assert!(edge.deliver(batch).await.iter().all(|fate| *fate == Fate::Acked));
    let each = |n: u64| n as f64 / batch.len() as f64;
    Cost {
        subrequests: each(edge.subrequests() - subrequests),
        commands: each(edge.count.so_far().1 - before),
    }
}

/// Uploads files, and returns their events.
async fn arrived(edge: &Edge, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    for _ in 0..count {
        let ticket = edge.post("/api/upload", &json!({"fileName": "film.mp4"})).await.body;
        let key = ticket["inputKey"].as_str().unwrap();
        events.push(edge.put(key, "not a film").await);
    }
    events
}

async fn idle(edge: &Edge) {
    let rest = edge.fly.until(|machines| machines.iter().all(|m| m.state == MachineState::Stopped));
    tokio::time::timeout(Duration::from_secs(120), rest).await.expect("machines stay up");
    // Wait until the fleet is quiet, so that the next event does not follow the previous one directly.
    let fleet = tcoder::queue::FleetName::default();
    let (now, until) = tokio::join!(edge.queue.clock(), edge.queue.fleet_locks_expiry([&fleet]));
    let left = until.unwrap().map_or(0, |until| until.0 - now.unwrap().now().0);
    tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0))).await;
}

#[allow(clippy::cast_precision_loss)]
async fn events(figures: &mut Figures) {
    let edge = Setup::over(shared()).start().await;
    // The scripts are cached from here on, and machines have existed.
    cost(&edge, &arrived(&edge, 1).await).await;
    idle(&edge).await;
    // Nothing is running, so a machine must be started: the most expensive case of an event.
    let one = cost(&edge, &arrived(&edge, 1).await).await;
    figures.put(EVENT[0], one.subrequests, "requests");
    figures.put(EVENT[1], one.commands, "commands");
    idle(&edge).await;
    let many = cost(&edge, &arrived(&edge, BATCH).await).await;
    figures.put(EVENT[2], many.subrequests, "requests");
    idle(&edge).await;
    // One hour, six minutes of which include the rare tasks.
    edge.tick(599).await;
    let (before, cpu) = (edge.count.so_far().1, cpu_ms());
    for minute in 600..660 {
        edge.tick(minute).await;
    }
    figures.put(EVENT[3], (edge.count.so_far().1 - before) as f64, "commands");
    figures.put(EVENT[4], (cpu_ms() - cpu) / 60.0, "ms");
    let cpu = cpu_ms();
    for _ in 0..ASKED {
        ask(&edge).await;
    }
    figures.put(EVENT[5], (cpu_ms() - cpu) / ASKED as f64, "ms");
}

/// The median of `POST /api/upload` in the Worker relative to `tcoder api`, measured alternately.
async fn compared() -> f64 {
    let edge = Setup::over(shared()).set("EDGE_FLEET", "disabled").start().await;
    let native = guarded().await;
    let mut times: [Vec<f64>; 2] = Default::default();
    for round in 0..ASKED + 20 {
        for (n, api) in [&*edge, &**native].into_iter().enumerate() {
            let took = ask(api).await;
            // The first requests warm both up.
            if round >= 20 {
                times[n].push(took);
            }
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let [edge, native] = &mut times;
    median(edge) / median(native)
}

async fn ask(api: &Api) -> f64 {
    let began = Instant::now();
    assert_eq!(api.post("/api/upload", &json!({"fileName": "film.mp4"})).await.status, 201);
    began.elapsed().as_secs_f64()
}

/// CPU time that workerd has used so far, milliseconds. It includes the simulation of R2 and the queues.
#[allow(clippy::cast_precision_loss)]
fn cpu_ms() -> f64 {
    let ours = descendants(std::process::id());
    let workerd = ours.into_iter().find(|p| p.command.contains("workerd serve")).expect("no workerd runs");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", workerd.pid)).unwrap();
    // utime and stime, the fields 14 and 15 of proc(5), in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 * 10.0
}
