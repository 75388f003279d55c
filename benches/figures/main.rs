//! The figures with limits, one line each (`name value unit`), also written to `target/bench.json`.
//!
//! The machines are shared and noisy, so times are ratios of two things that are measured alternately in the
//! same run; CPU seconds and numbers of Redis commands are absolute. Give names of figures, or parts of them,
//! on the command line to measure only those. `fleet` selects the figures of the fleet, `operator` those of
//! the operator, `edge` those of the Worker.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod edge;
mod encode;
mod ffmpeg;
mod fleet;
mod memory;
mod operator;
mod page;
mod playing;
mod pods;
mod queue;
mod redelivery;
mod sandbox;
mod shares;
mod simulated_hour;
mod split;
mod up;
mod worker;

#[path = "../../tests/it/support/mod.rs"]
#[allow(dead_code)]
mod support;

use support::{command_count, redis as redis_server};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The measured program, built with the same profile as this one.
pub const TCODER: &str = env!("CARGO_BIN_EXE_tcoder");

/// The maximum of each figure. The run fails at its end if a figure exceeds it.
const LIMITS: [(&str, f64); 33] = [
    ("ladder_cpu_vs_recipe", 0.62),
    ("ladder_bits_vs_recipe", 1.0),
    ("simulated_hour_s_8_core_guests", 60.0),
    ("simulated_hour_cost_over_one_machine", 1.15),
    ("pipeline_wall_vs_ffmpeg", 1.05),
    ("upload_to_completed_overhead", 1.03),
    ("split_cpu_overhead", 1.04),
    ("split_bits_overhead", 1.005),
    ("bytes_read_over_input", 1.10),
    ("first_play_ms_1_min", 5_000.0),
    ("first_play_ms_10_min", 5_000.0),
    ("first_play_ms_120_min", 5_000.0),
    ("first_play_120_over_1_min", 1.2),
    ("sandbox_cpu_overhead", 1.01),
    ("queue_commands_per_job", 21.0),
    ("queue_commands_per_upload", 28.0),
    ("commands_per_watched_job", 120.0),
    // A lease, and a second to notice its end.
    ("redelivery_p99_s", 31.0),
    ("redis_bytes_per_job", 5_000.0),
    ("redis_mb_million_jobs", 5_000.0),
    ("idle_commands_per_worker_minute", 6.0),
    ("idle_commands_per_reconciler_minute", 2.0),
    ("converge_calls_over_minimum", 1.0),
    ("converge_0_to_10_over_floor", 1.2),
    ("cost_per_source_minute_usd", encode::COCONUT / 10.0),
    ("apply_to_running_ms_p50", 200.0),
    ("apply_to_running_ms_p99", 200.0),
    ("controller_rss_mb_10k", 150.0),
    ("api_writes_per_job", 6.0),
    ("page_axe_violations", 0.0),
    ("page_gzip_kb", 300.0),
    ("edge_wasm_gzip_kb", 1000.0),
    ("edge_subrequests_per_upload_event", 4.0),
];

/// The minimum of each of these figures. The run fails at its end if a figure is less.
const MINIMA: [(&str, f64); 3] = [
    ("ladder_ssim_minus_recipe", -0.001),
    ("split_speedup_8_workers", 7.2),
    ("split_speedup_16_workers", 13.5),
];

/// Collects the figures.
pub struct Figures {
    wanted: Vec<String>,
    taken: BTreeMap<String, (f64, &'static str)>,
}

impl Figures {
    /// Whether any of these figures is requested.
    pub fn wants(&self, names: &[&str]) -> bool {
        let asked = |name: &&str| self.wanted.iter().any(|w| name.contains(w.as_str()));
        self.wanted.is_empty() || names.iter().any(asked)
    }

    pub fn put(&mut self, name: &str, value: f64, unit: &'static str) {
        // Fractions of a cent need more decimals.
        let digits = if value.abs() < 0.01 { 6 } else { 4 };
        println!("{name} {value:.digits$} {unit}");
        self.taken.insert(name.to_owned(), (value, unit));
    }

    /// The figures that exceed their maximum, or are less than their minimum.
    fn missed(&self) -> Vec<String> {
        let over = |(name, most): &(&str, f64)| {
            let (value, unit) = self.taken.get(*name)?;
            (value > most).then(|| format!("{name} is {value:.4} {unit}, at most {most} is the goal"))
        };
        let under = |(name, least): &(&str, f64)| {
            let (value, unit) = self.taken.get(*name)?;
            (value < least).then(|| format!("{name} is {value:.4} {unit}, at least {least} is the goal"))
        };
        LIMITS.iter().filter_map(over).chain(MINIMA.iter().filter_map(under)).collect()
    }

    fn write(&self, path: &Path) {
        let figure = |(name, (value, unit)): (&String, &(f64, &str))| {
            (name.clone(), serde_json::json!({ "value": value, "unit": unit }))
        };
        let all: serde_json::Map<_, _> = self.taken.iter().map(figure).collect();
        std::fs::write(path, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    }
}

/// The median of the values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn target_dir() -> PathBuf {
    // The path is .../target/release/deps/figures-..., or that of another profile.
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().find(|d| d.join("CACHEDIR.TAG").exists()).unwrap_or(Path::new("target")).to_owned()
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    tcoder::net::install_crypto();
    let wanted = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let mut figures = Figures { wanted, taken: BTreeMap::new() };
    let scratch = tempfile::tempdir().unwrap();
    let idle_reconciler = fleet::Idle::begin(&figures);
    queue::measure(&mut figures).await;
    memory::measure(&mut figures).await;
    redelivery::measure(&mut figures).await;
    worker::measure(&mut figures).await;
    operator::measure(&mut figures).await;
    page::measure(&mut figures).await;
    edge::measure(&mut figures).await;
    fleet::measure(&mut figures).await;
    pods::measure(&mut figures);
    encode::measure(&mut figures, scratch.path()).await;
    sandbox::measure(&mut figures, scratch.path()).await;
    simulated_hour::measure(&mut figures, scratch.path()).await;
    playing::measure(&mut figures, scratch.path()).await;
    split::measure(&mut figures).await;
    if let Some(idle) = idle_reconciler {
        idle.end(&mut figures).await;
    }
    figures.write(&target_dir().join("bench.json"));
    let missed = figures.missed();
    for line in &missed {
        eprintln!("{line}");
    }
    if missed.is_empty() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
