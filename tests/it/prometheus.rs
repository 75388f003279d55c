//! Prometheus and its tool read the metrics: each format, names and help texts by its linter, the alerts, and
//! the expressions of the dashboard.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tcoder::controller::reconciler::admin;
use tcoder::job::{JobEvent, JobId, State};
use tcoder::metrics::{ExpositionFormat, Metrics};
use tcoder::queue::{FleetCondition, FleetMachine, FleetStatus, Queue, Stats};
use tokio::sync::watch;

use crate::manifests::{MONITORING, kind, rendered};
use crate::support::kube::free_port;
use crate::support::process::spawn;
use crate::support::redis::shared as redis;
use crate::support::system::{self, PATIENCE, folder, serve};

const NOT_THERE: &str = "promtool and prometheus are needed; `make test` installs them (Debian: prometheus)";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The complaints of promtool; empty if there are none.
fn promtool(args: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect(NOT_THERE);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.success(), output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Metrics with all series that can be exported.
fn everything() -> std::sync::Arc<Metrics> {
    let metrics = Metrics::new();
    metrics.queue(&Stats { oldest_pending_ms: Some(1), ..Stats::default() });
    let parsed = |value: Value| serde_json::from_value::<FleetMachine>(value).unwrap();
    let machine = json!({"name": "a", "role": "busy", "state": "started", "ranSeconds": 1.0});
    let condition: FleetCondition =
        serde_json::from_value(json!({"reason": "Quota", "message": "full"})).unwrap();
    metrics.fleet(Some(&FleetStatus {
        machines: vec![parsed(machine)],
        conditions: vec![condition],
        machine_usd_per_hour: Some(0.1),
        ..FleetStatus::default()
    }));
    metrics.provider_call("list", "done", Duration::from_millis(70));
    metrics.provider_throttled();
    metrics.fleet_action("start", "done");
    metrics.fleet_spent(0.5);
    metrics.operator_leader(true);
    metrics.reconciled(true);
    let id = JobId::new();
    for (ms, status) in [(1000, State::Queued), (2000, State::Running), (4000, State::Completed)] {
        let event_id = format!("{ms}-0");
        metrics.job_event(&JobEvent { event_id, job_id: id, status, progress: None, epoch: None });
    }
    metrics
}

#[test]
fn metrics_pass_promtool() {
    let text = everything().encode(ExpositionFormat::Prometheus);
    for name in ["tcoder_jobs_finished_total", "tcoder_job_running_seconds_bucket", "tcoder_fleet_condition"]
    {
        assert!(text.contains(name), "{text}");
    }
    assert_eq!(promtool(&["check", "metrics"], &text), "", "{text}");
    // The linter can fail.
    assert_ne!(promtool(&["check", "metrics"], "tcoder_jobs_total 1\n"), "");
    assert_ne!(promtool(&["check", "metrics"], &everything().encode(ExpositionFormat::OpenMetrics)), "");
}

#[tokio::test]
async fn metrics_format_follows_accept_in_api_and_controller() {
    let api = system::shared().await;
    let queue = Queue::connect(&redis()).await.unwrap();
    let ready = watch::channel(Ok(())).1;
    let controller = serve(admin::router(queue, Metrics::new(), ready)).await;
    for url in [&api.url, &controller] {
        for (accept, expected) in [
            (None, TEXT),
            (Some("*/*"), TEXT),
            (Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), TEXT),
            (Some("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"), OPEN),
        ] {
            let mut request = api.http.get(format!("{url}/metrics"));
            if let Some(token) = &api.token {
                request = request.bearer_auth(token);
            }
            if let Some(accept) = accept {
                request = request.header("accept", accept);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], expected, "{accept:?} of {url}");
            assert_eq!(answer.headers()["vary"], "accept");
            let text = answer.text().await.unwrap();
            assert!(text.contains("\ntcoder_redis_up 1\n"), "{text}");
            assert_eq!(text.ends_with("# EOF\n"), expected == OPEN, "{text}");
            if expected == TEXT {
                assert_eq!(promtool(&["check", "metrics"], &text), "", "{text}");
            }
        }
    }
}

/// The alerts in Prometheus's format, and the queries of the dashboard.
fn rules_and_questions() -> (Value, Vec<String>) {
    let monitoring = rendered(MONITORING);
    let rules = monitoring.iter().find(|d| kind(d) == "PrometheusRule").unwrap()["spec"].clone();
    let map = monitoring.iter().find(|d| kind(d) == "ConfigMap").unwrap();
    let map: ConfigMap = serde_json::from_value(map.clone()).unwrap();
    let board: Value = serde_json::from_str(&map.data.unwrap()["tcoder.json"]).unwrap();
    let targets = board["panels"].as_array().unwrap().iter().flat_map(|p| p["targets"].as_array().unwrap());
    let questions = targets.map(|target| target["expr"].as_str().unwrap().replace("$namespace", ".*"));
    (rules, questions.collect())
}

/// The tests of the alerts about controllers, which promtool runs in a time of its own: of two installations one is no
/// longer scraped, and in the other no controller has the Lease. Later there is none at all.
#[test]
fn alerts_name_the_namespace_whose_controllers_are_gone() {
    let rules = rules_and_questions().0;
    let dir = folder("alerts");
    std::fs::write(dir.join("rules.yml"), rules.to_string()).unwrap();
    let series = |name: &str, namespace: &str, values: &str| json!({"series": format!("{name}{{job=\"tcoder-controller\",namespace=\"{namespace}\"}}"), "values": values});
    let alerts = |name: &str, at: &str, namespaces: &[&str]| {
        let summaries: Vec<Value> = namespaces
            .iter()
            .map(|namespace| match (name, *namespace) {
                ("TcoderNoLeader", of) => (of, format!("No controller in {of} reconciles TranscodeJobs")),
                (_, "") => ("", "Prometheus cannot scrape any tcoder controller".to_owned()),
                (_, of) => (of, format!("Prometheus cannot scrape any tcoder controller in {of}")),
            })
            .map(|(namespace, summary)| {
                let rule = rules["groups"][0]["rules"].as_array().unwrap();
                let rule = rule.iter().find(|rule| rule["alert"] == name).unwrap();
                let mut labels = json!({"severity": "critical"});
                if !namespace.is_empty() {
                    labels["namespace"] = json!(namespace);
                }
                let annotations = json!({
                    "summary": summary, "description": rule["annotations"]["description"],
                });
                json!({"exp_labels": labels, "exp_annotations": annotations})
            })
            .collect();
        json!({"eval_time": at, "alertname": name, "exp_alerts": summaries})
    };
    let test = json!({
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": [
                // Ten minutes up, then it does not answer, and after an hour it is no longer listed.
                series("up", "films", "1x10 0x50 stale"),
                series("up", "clips", "1x120 stale"),
                series("tcoder_operator_leader", "films", "1x10 stale"),
                series("tcoder_operator_leader", "clips", "1x60 0x60 stale"),
            ],
            "alert_rule_test": [
                alerts("TcoderControllerDown", "9m", &[]),
                alerts("TcoderControllerDown", "20m", &["films"]),
                alerts("TcoderControllerDown", "90m", &["films"]),
                alerts("TcoderControllerDown", "140m", &["films", "clips"]),
                alerts("TcoderControllerDown", "30h", &[""]),
                alerts("TcoderNoLeader", "50m", &[]),
                alerts("TcoderNoLeader", "90m", &["clips"]),
            ],
        }],
    });
    let tests = dir.join("tests.yml");
    std::fs::write(&tests, test.to_string()).unwrap();
    let run = Command::new("promtool").args(["test", "rules"]).arg(&tests).output().expect(NOT_THERE);
    assert!(
        run.status.success(),
        "{}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
}

/// A Prometheus server scrapes all metrics with its own `Accept` header.
#[tokio::test]
async fn prometheus_accepts_metrics_alerts_and_dashboard_queries() {
    let (rules, questions) = rules_and_questions();
    let dir = folder("prometheus");
    let file = |name: &str, content: &Value| {
        // JSON is valid YAML.
        std::fs::write(dir.join(name), content.to_string()).unwrap();
        dir.join(name).to_str().unwrap().to_owned()
    };
    let rule_file = file("rules.yml", &rules);
    assert_eq!(promtool(&["check", "rules", &rule_file], ""), "");

    let queue = Queue::connect(&redis()).await.unwrap();
    let shown = serve(admin::router(queue, everything(), watch::channel(Ok(())).1)).await;
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [rule_file],
        "scrape_configs": [{
            "job_name": "tcoder-controller",
            "static_configs": [{"targets": [shown.trim_start_matches("http://")], "labels": {"namespace": "films"}}],
        }],
    });
    let config = file("prometheus.yml", &config);
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = tokio::process::Command::new("prometheus");
    command
        .args(["--config.file", &config, "--web.listen-address", &address])
        .arg("--storage.tsdb.path")
        .arg(dir.join("data"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log")).unwrap());
    let _prometheus = spawn(command);
    let ask = async |question: &str| -> Value {
        let url = format!("http://{address}/api/v1/query");
        let url = url::Url::parse_with_params(&url, [("query", question)]).unwrap();
        match system::http().get(url).send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    };
    let value = async |question: &str| {
        let answer = ask(question).await;
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let scraped = async {
        while value("up").await.as_deref() != Some("1") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, scraped).await.is_err() {
        panic!("{}", std::fs::read_to_string(dir.join("log")).unwrap());
    }
    for (question, expected) in [
        ("tcoder_redis_up", "1"),
        ("tcoder_jobs_finished_total{outcome=\"completed\"}", "1"),
        ("tcoder_job_running_seconds_sum", "2"),
        ("tcoder_fleet_spent_dollars_total", "0.5"),
        ("tcoder_build_info", "1"),
    ] {
        // A scrape that takes longer than its interval leaves a gap.
        let shows = async {
            while value(question).await.as_deref() != Some(expected) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, shows).await.is_err() {
            panic!("{question}: {}", ask(question).await);
        }
    }
    assert!(questions.len() > 10, "{questions:?}");
    for question in questions {
        let answer = ask(&question).await;
        assert_eq!(answer["status"], "success", "{question}: {answer}");
    }
}
