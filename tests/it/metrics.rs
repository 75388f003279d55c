//! /metrics of a running system, and of one whose Redis does not answer.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{MetricNumber, OpenMetricsValue};
use reqwest::Method;
use serde_json::{Value, json};
use tcoder::job::Millis;
use tcoder::queue::{FleetDesired, FleetStatus};

use crate::support::clips::clip;
use crate::support::process::send;
use crate::support::system::{Setup, System, TOKEN, http};

/// All series with their values; a histogram is represented by its count and its sum.
async fn scrape(system: &System) -> BTreeMap<String, f64> {
    let asked = system.request(Method::GET, "/metrics").header("accept", "application/openmetrics-text");
    let answer = system.answer(asked).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.body.as_str().unwrap();
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    // This parser wrongly rejects the unit of a histogram.
    let text: String = text.lines().filter(|l| !l.starts_with("# UNIT")).map(|l| format!("{l}\n")).collect();
    let read = parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut series = BTreeMap::new();
    for family in read.families.values() {
        for sample in family.iter_samples() {
            let labels = sample.get_labelset().unwrap();
            let labels: Vec<&str> = labels.iter_values().map(String::as_str).collect();
            let name = [&[&*family.family_name], &*labels].concat().join(" ");
            match &sample.value {
                OpenMetricsValue::Gauge(value) => drop(series.insert(name, value.as_f64())),
                OpenMetricsValue::Counter(counter) => drop(series.insert(name, counter.value.as_f64())),
                OpenMetricsValue::Histogram(histogram) => {
                    let sum = histogram.sum.as_ref().map_or(0.0, MetricNumber::as_f64);
                    series.insert(format!("{name} sum"), sum);
                    #[expect(clippy::cast_precision_loss)]
                    series.insert(format!("{name} count"), histogram.count.unwrap() as f64);
                }
                _ => {}
            }
        }
    }
    series
}

fn has(series: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        let seen = series.get(*name).copied().unwrap_or(f64::NAN);
        assert!((seen - value).abs() < 1e-6, "{name}: {seen}, not {value}\n{series:#?}");
    }
}

fn none(series: &BTreeMap<String, f64>, prefix: &str) {
    assert!(!series.keys().any(|name| name.starts_with(prefix)), "{prefix}: {series:#?}");
}

/// Seconds between two timestamps of a job.
#[expect(clippy::cast_precision_loss)]
fn between(job: &Value, from: &str, to: &str) -> f64 {
    let at = |name: &str| serde_json::from_value::<Millis>(job["timestamps"][name].clone()).unwrap().0;
    (at(to) - at(from)) as f64 / 1000.0
}

/// Cancels a job, and waits until that is counted: who sees the end of a job by its events finds it counted.
async fn cancel(system: &System, job: &str) {
    let mut feed = system.feed(job).await;
    feed.next().await.unwrap();
    assert_eq!(system.delete(&format!("/api/jobs/{job}")).await.status, 200);
    let mut last = Value::Null;
    while let Some(job) = feed.next().await {
        last = job;
    }
    assert_eq!(last["status"], "cancelled", "{last:#}");
}

#[tokio::test]
async fn scrape_counts_finished_jobs_and_their_durations() {
    let system = Setup::default().env("API_TOKENS", TOKEN).start().await;
    assert_eq!(http().get(format!("{}/metrics", system.url)).send().await.unwrap().status(), 401);
    let before = scrape(&system).await;
    has(
        &before,
        &[
            ("tcoder_redis_up", 1.0),
            ("tcoder_jobs_finished completed", 0.0),
            ("tcoder_job_waiting_seconds count", 0.0),
            ("tcoder_jobs completed", 0.0),
            ("tcoder_queue_oldest_pending_age_seconds", 0.0),
        ],
    );

    let film = system.upload(clip(), &json!({"preset": "hls", "outputQualities": ["144p"]})).await;
    let film = system.completed(&film).await;
    let wreck = system.submit(&json!({"inputKey": "inputs/not/there.mp4"})).await;
    let wreck = system.ended(&wreck).await;
    assert_eq!(wreck["status"], "failed");
    let later = system.submit(&json!({"inputKey": "inputs/later.mp4", "delaySeconds": 3600})).await;
    system.submit(&json!({"inputKey": "inputs/later.mp4", "delaySeconds": 3600})).await;
    cancel(&system, &later).await;

    let after = scrape(&system).await;
    has(
        &after,
        &[
            ("tcoder_jobs_finished completed", 1.0),
            ("tcoder_jobs_finished failed", 1.0),
            ("tcoder_jobs_finished cancelled", 1.0),
            ("tcoder_job_attempts completed", 1.0),
            ("tcoder_job_attempts failed", 1.0),
            ("tcoder_job_attempts requeued", 0.0),
            ("tcoder_job_attempts cancelled", 0.0),
            ("tcoder_jobs completed", 1.0),
            ("tcoder_jobs failed", 1.0),
            ("tcoder_jobs cancelled", 1.0),
            ("tcoder_jobs scheduled", 1.0),
            ("tcoder_jobs running", 0.0),
            ("tcoder_workers", 1.0),
            ("tcoder_fleet_machines_desired", 1.0),
            ("tcoder_job_waiting_seconds count", 2.0),
            (
                "tcoder_job_waiting_seconds sum",
                between(&film, "queuedAt", "startedAt") + between(&wreck, "queuedAt", "startedAt"),
            ),
            ("tcoder_job_running_seconds completed count", 1.0),
            ("tcoder_job_running_seconds completed sum", between(&film, "startedAt", "completedAt")),
            ("tcoder_job_running_seconds failed count", 1.0),
            ("tcoder_job_running_seconds failed sum", between(&wreck, "startedAt", "completedAt")),
        ],
    );
    assert!(between(&film, "startedAt", "completedAt") > 0.0, "{film:#}");
    system.stop().await;
}

#[tokio::test]
async fn scrape_shows_the_fleet_only_with_a_published_status() {
    let system = Setup::default().workers(0).start().await;
    let status = FleetStatus {
        at: Millis(1_700_000_000_000),
        desired: FleetDesired { machines: 2, billed: 3, max: 10, ..Default::default() },
        machine_usd_per_hour: Some(0.5),
        ..Default::default()
    };
    let mut redis = system.redis();
    let mut run = |command: &mut redis::Cmd| command.exec(&mut redis).unwrap();
    run(redis::cmd("SET").arg("fleet:status").arg(serde_json::to_string(&status).unwrap()));
    let fleet = [
        ("tcoder_fleet_machines_desired", 2.0),
        ("tcoder_fleet_machines_billed", 3.0),
        ("tcoder_fleet_dollars_per_hour", 1.5),
        ("tcoder_fleet_status_timestamp_seconds", 1_700_000_000.0),
        ("tcoder_fleet_paused", 0.0),
    ];
    has(&scrape(&system).await, &fleet);
    // Even before the reconciler has published it.
    run(redis::cmd("SET").arg("fleet:paused").arg("{}"));
    has(&scrape(&system).await, &[("tcoder_fleet_paused", 1.0)]);
    run(redis::cmd("SET").arg("fleet:status").arg("{\"of\": \"another version\"}"));
    let unreadable = scrape(&system).await;
    has(&unreadable, &[("tcoder_redis_up", 1.0), ("tcoder_jobs pending", 0.0)]);
    none(&unreadable, "tcoder_fleet_machines");
    run(redis::cmd("SET").arg("fleet:status").arg(serde_json::to_string(&status).unwrap()));
    has(&scrape(&system).await, &fleet[..4]);
    run(redis::cmd("DEL").arg("fleet:status"));
    none(&scrape(&system).await, "tcoder_fleet_machines");
}

#[tokio::test]
async fn scrape_without_redis_keeps_counters_and_omits_gauges() {
    let system = Setup::default().workers(0).start().await;
    let job = system.submit(&json!({"inputKey": "inputs/later.mp4", "delaySeconds": 3600})).await;
    cancel(&system, &job).await;
    has(&scrape(&system).await, &[("tcoder_redis_up", 1.0), ("tcoder_jobs cancelled", 1.0)]);
    let redis = system.redis_server().pid;
    send(redis, Signal::SIGSTOP);
    let silent = scrape(&system).await;
    send(redis, Signal::SIGCONT);
    has(&silent, &[("tcoder_redis_up", 0.0), ("tcoder_jobs_finished cancelled", 1.0)]);
    for gone in ["tcoder_jobs ", "tcoder_queue", "tcoder_workers", "tcoder_webhooks"] {
        none(&silent, gone);
    }
    has(&scrape(&system).await, &[("tcoder_redis_up", 1.0), ("tcoder_jobs cancelled", 1.0)]);
}
