//! The fleet as people and programs see it: `tcoder fleet` and `/api/fleet`, with a reconciler that the test
//! simulates.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tcoder::config::RedisConfig;
use tcoder::job::{Millis, WorkerClasses};
use tcoder::queue::{
    FencingToken, FleetCondition, FleetDesired, FleetMachine, FleetStatus, FleetStep, LockOutcome, Queue,
};

use crate::support::process::{err, out, run};
use crate::support::system::{Answer, Setup, System, TOKEN, folder, guarded, http};

const MINUTE: i64 = 60_000;

/// A system without workers, and therefore without its own fleet.
async fn without_fleet() -> System {
    Setup::default().workers(0).start().await
}

async fn queue(system: &System) -> Queue {
    let config = RedisConfig::new(system.redis_url(), "");
    Queue::connect(&config).await.unwrap()
}

async fn now(queue: &Queue) -> Millis {
    queue.clock().await.unwrap().now()
}

/// Acquires the fleet lock for `time`.
async fn fence(queue: &Queue, time: Duration) -> FencingToken {
    match queue.acquire_fleet_lock("reconciler-of-the-test", time, false, true).await.unwrap() {
        LockOutcome::Mine(fence) => fence,
        other => panic!("{other:?}"),
    }
}

fn machine(name: &str, role: &str) -> FleetMachine {
    FleetMachine {
        name: name.into(),
        id: None,
        region: None,
        state: None,
        role: role.into(),
        job_id: None,
        created_at: None,
        ran_seconds: 0.0,
        running_since: None,
        usd_per_hour: None,
    }
}

const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A status with two machines, one of them busy, and a third to be created.
fn busy(now: Millis) -> FleetStatus {
    let at_work = FleetMachine {
        id: Some("148ed123c45678".into()),
        region: Some("fra".into()),
        state: Some("started".into()),
        job_id: Some(JOB.parse().unwrap()),
        created_at: Some(now.plus(-125 * MINUTE).to_string()),
        ran_seconds: 1800.0,
        running_since: Some(now.plus(-30 * MINUTE)),
        ..machine("films-worker-01", "busy")
    };
    FleetStatus {
        at: now,
        reconciler: "reconciler-of-the-test".into(),
        epoch: 1,
        pool: None,
        app: "films".into(),
        paused: false,
        desired: FleetDesired {
            machines: 3,
            busy: 1,
            idle: 0,
            booting: 1,
            waiting: 2,
            existing: 2,
            billed: 2,
            max: 10,
            ..FleetDesired::default()
        },
        machines: vec![at_work, machine("films-worker-02", "booting")],
        conditions: vec![FleetCondition {
            reason: "NoCapacity".into(),
            message: "no region has capacity now; add regions to FLY_WORKER_REGIONS".into(),
        }],
        plan: vec![
            FleetStep {
                action: "create".into(),
                machine: "films-worker-03".into(),
                reason: "2 jobs wait, 1 machine boots".into(),
            },
            FleetStep { action: "list".into(), machine: "all".into(), reason: "to see it come up".into() },
        ],
        machine_usd_per_hour: Some(0.25),
        billed_usd_per_hour: Some(0.5),
        worker_classes: WorkerClasses::default(),
        max_input_bytes: Some(10_000_000_000),
    }
}

fn is_problem(answer: &Answer, status: u16, field: Option<&str>) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.kind, "application/problem+json", "{answer:?}");
    assert_eq!(answer.body["field"].as_str(), field, "{answer:?}");
}

/// The output of `tcoder fleet ...`, which must succeed.
async fn said(system: &System, args: &[&str]) -> String {
    let done = system.cli(&[&["fleet"], args].concat(), &folder("cli")).await;
    assert_eq!((done.status.code(), err(&done).as_str()), (Some(0), ""), "{args:?}: {}", out(&done));
    out(&done)
}

/// The JSON output of `tcoder fleet ...`.
async fn json_of(system: &System, args: &[&str]) -> Value {
    let text = said(system, &[args, &["--json"]].concat()).await;
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[tokio::test]
async fn fleet_commands_without_a_reconciler_say_what_to_start() {
    let system = without_fleet().await;
    let answer = system.get("/api/fleet").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let fields = answer.body.as_object().unwrap();
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["now", "pending", "silent"], "{answer:?}");
    assert_eq!((&answer.body["pending"], &answer.body["silent"]), (&json!(0), &json!(false)));
    system.submit(&json!({"inputKey": "inputs/a.mp4"})).await;
    for word in ["status", "plan", "resume"] {
        let text = said(&system, &[word]).await;
        has(&text, &["No reconciler has reported yet", "1 job waits", "`tcoder controller`", "`tcoder up`"]);
    }
    assert_eq!(json_of(&system, &["plan"]).await["pending"], 1);
    system.stop().await;
}

#[tokio::test]
async fn fleet_status_and_plan_are_shown_as_text_and_json() {
    let system = without_fleet().await;
    let queue = queue(&system).await;
    let fence = fence(&queue, Duration::from_secs(600)).await;
    let status = busy(now(&queue).await);
    assert!(queue.publish_fleet_status(&fence, &status).await.unwrap());

    let answer = system.get("/api/fleet").await.body;
    assert_eq!(answer["fleet"], serde_json::to_value(&status).unwrap());
    assert_eq!((&answer["silent"], answer.get("pause")), (&json!(false), None));
    let at: Millis = serde_json::from_value(answer["now"].clone()).unwrap();
    assert!((status.at..=now(&queue).await).contains(&at), "{answer}");

    let text = said(&system, &["status"]).await;
    has(&text, &["3 machines wanted: 1 busy + 2 jobs wait; 1 runs, 1 boots; at most 10\n"]);
    let line =
        |name: &str| text.lines().find(|l| l.contains(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(
        line("machine  "),
        ["machine", "state", "role", "region", "job", "age", "up", "cost", "so", "far"]
    );
    assert_eq!(
        line("films-worker-01")[..11],
        ["films-worker-01", "started", "busy", "fra", JOB, "2", "h", "05", "min", "30", "min"]
    );
    // It costs more with each second.
    has(line("films-worker-01")[11], &["$0.25"]);
    assert_eq!(line("films-worker-02"), ["films-worker-02", "-", "booting", "-", "-", "-", "-", "$0.0000"]);
    has(&text, &["cost so far $0.25", "per hour $0.5000", "2 billed machines", "app films"]);
    has(&text, &["NoCapacity: no region has capacity now; add regions to FLY_WORKER_REGIONS.\n"]);

    let text = said(&system, &["plan"]).await;
    let steps: Vec<&str> = text.lines().filter(|l| l.trim_start().starts_with(char::is_numeric)).collect();
    has(steps[1], &["1. create films-worker-03", "2 jobs wait, 1 machine boots"]);
    has(steps[2], &["2. list all machines", "to see it come up"]);
    has(&text, &["the reconciler carries them out", "NoCapacity:"]);
    for word in ["status", "plan"] {
        assert_eq!(json_of(&system, &[word]).await["fleet"], answer["fleet"]);
    }

    let quiet = FleetStatus { plan: Vec::new(), conditions: Vec::new(), ..status };
    let quiet = FleetStatus { desired: FleetDesired { machines: 2, waiting: 1, ..quiet.desired }, ..quiet };
    assert!(queue.publish_fleet_status(&fence, &quiet).await.unwrap());
    has(&said(&system, &["plan"]).await, &["nothing to do: as many machines as wanted", "2 machines wanted"]);
    system.stop().await;
}

#[tokio::test]
async fn fleet_pause_is_a_dry_run_until_resumed() {
    let system = without_fleet().await;
    let queue = queue(&system).await;
    let fence = fence(&queue, Duration::from_secs(600)).await;
    let status = busy(now(&queue).await);
    assert!(queue.publish_fleet_status(&fence, &status).await.unwrap());

    let text = said(&system, &["pause", "--reason", "a new image"]).await;
    has(&text, &["Paused for 0 s", ": a new image.", "continue with their jobs", "`tcoder fleet resume`"]);
    let first = system.get("/api/fleet").await.body["pause"].clone();
    assert_eq!(first["reason"], "a new image");
    assert_eq!(
        queue.fleet_view(&WorkerClasses::default()).await.unwrap().paused.unwrap().reason.as_deref(),
        Some("a new image")
    );
    // Without a body, with an empty body, and with a new reason: it remains the same pause.
    let bare = system.answer(system.request(Method::POST, "/api/fleet/pause")).await;
    let empty = system.post("/api/fleet/pause", &json!({})).await;
    assert_eq!((bare.status, empty.status), (200, 200), "{bare:?} {empty:?}");
    assert_eq!((&bare.body["pause"], &empty.body["pause"]), (&first, &first));
    let other = system.post("/api/fleet/pause", &json!({"reason": "lunch"})).await.body;
    assert_eq!(other["pause"], json!({"since": first["since"], "reason": "lunch"}));
    assert_eq!(other["fleet"], serde_json::to_value(&status).unwrap(), "the whole answer");

    has(&said(&system, &["status"]).await, &["Paused for", "lunch", "3 machines wanted"]);
    let plan = said(&system, &["plan"]).await;
    has(&plan, &["1. create films-worker-03", "nothing is carried out until `tcoder fleet resume`"]);

    assert_eq!(json_of(&system, &["resume"]).await.get("pause"), None);
    let again = system.answer(system.request(Method::POST, "/api/fleet/resume")).await;
    assert_eq!((again.status, again.body.get("pause")), (200, None));
    assert_eq!(queue.fleet_view(&WorkerClasses::default()).await.unwrap().paused, None);
    has(&said(&system, &["resume"]).await, &["Not paused", "`tcoder fleet plan`"]);
    // A pause after a resume is a new one.
    let anew = json_of(&system, &["pause"]).await;
    assert!(anew["pause"]["since"].as_i64() > first["since"].as_i64(), "{anew}");
    assert_eq!(anew["pause"].get("reason"), None);
    system.stop().await;
}

#[tokio::test]
async fn fleet_status_reports_a_dead_reconciler_when_jobs_wait() {
    let system = without_fleet().await;
    let queue = queue(&system).await;
    let long_ago = FleetStatus { at: now(&queue).await.plus(-12 * MINUTE), ..busy(now(&queue).await) };
    let held = fence(&queue, Duration::from_secs(600)).await;
    assert!(queue.publish_fleet_status(&held, &long_ago).await.unwrap());
    let silent = async || system.get("/api/fleet").await.body["silent"].as_bool().unwrap();
    assert!(!silent().await, "nobody waits for it");

    let id = system.submit(&json!({"inputKey": "inputs/a.mp4"})).await;
    let waits_since = now(&queue).await.plus(-2 * MINUTE);
    let key = format!("jobs:status:{id}");
    redis::cmd("HSET").arg(key).arg("queued").arg(waits_since.0).exec(&mut system.redis()).unwrap();
    assert!(!silent().await, "it renews its hold: it lives, and has nothing new to say");
    fence(&queue, Duration::ZERO).await;
    assert!(silent().await);
    for word in ["status", "plan", "resume"] {
        let text = said(&system, &[word]).await;
        has(
            &text,
            &["1 job waits", "reconciler-of-the-test", "not reported for 12 min", "`tcoder controller`"],
        );
    }
    assert_eq!(json_of(&system, &["status"]).await["silent"], true);
    // A paused reconciler is not reported as missing.
    queue.fleet_pause(None).await.unwrap();
    assert!(!silent().await);
    system.stop().await;
}

#[tokio::test]
async fn fleet_pause_works_with_a_status_of_another_version() {
    let system = without_fleet().await;
    redis::cmd("SET").arg("fleet:status").arg("{\"of\": \"another\"}").exec(&mut system.redis()).unwrap();
    let dir = folder("cli");
    for (word, paused) in [("status", false), ("pause", true), ("resume", false)] {
        let told = system.cli(&["fleet", word], &dir).await;
        assert_eq!((told.status.code(), out(&told).as_str()), (Some(4), ""), "{word}");
        has(&err(&told), &["another version of tcoder"]);
        assert_eq!(
            queue(&system).await.fleet_view(&WorkerClasses::default()).await.unwrap().paused.is_some(),
            paused,
            "{word}"
        );
    }
    is_problem(&system.get("/api/fleet").await, 503, None);
    system.stop().await;
}

#[tokio::test]
async fn fleet_api_rejects_bad_requests_and_missing_tokens() {
    let system = guarded().await;
    let pause = |body: &Value| {
        let request = system.request(Method::POST, "/api/fleet/pause").json(body);
        system.answer(request)
    };
    for (body, field) in [
        (json!({"reason": 7}), "reason"),
        (json!({"reason": ["a"]}), "reason"),
        (json!({"reason": "x".repeat(201)}), "reason"),
        (json!({"reason": "two\nlines"}), "reason"),
        (json!({"reason": "\u{1b}[31mred"}), "reason"),
        (json!({"reasons": "why"}), "reasons"),
        (json!({"preset": "hls"}), "preset"),
    ] {
        is_problem(&pause(&body).await, 422, Some(field));
    }
    for body in [json!([]), json!(7), json!("why")] {
        is_problem(&pause(&body).await, 400, None);
    }
    let text =
        system.request(Method::POST, "/api/fleet/pause").header("content-type", "text/plain").body("why");
    is_problem(&system.answer(text).await, 415, None);
    for (method, path) in
        [(Method::POST, ""), (Method::DELETE, ""), (Method::GET, "/pause"), (Method::GET, "/resume")]
    {
        let request = system.request(method, &format!("/api/fleet{path}"));
        is_problem(&system.answer(request).await, 405, None);
    }
    let (dir, long) = (folder("cli"), "x".repeat(201));
    let refused = system.cli(&["fleet", "pause", "--reason", &long], &dir).await;
    assert_eq!((refused.status.code(), out(&refused).as_str()), (Some(4), ""));
    has(&err(&refused), &["reason: ", "200 characters and has 201"]);

    let http = http();
    for (method, path) in [(Method::GET, ""), (Method::POST, "/pause"), (Method::POST, "/resume")] {
        let plain = || http.request(method.clone(), format!("{}/api/fleet{path}", system.url));
        for request in [plain(), plain().bearer_auth("a-wrong-token"), plain().basic_auth("u", Some(TOKEN))] {
            is_problem(&system.answer(request).await, 401, None);
        }
    }
    assert_eq!(system.get("/api/fleet").await.body.get("pause"), None, "none of it paused anything");
    for word in ["status", "plan", "pause", "resume"] {
        let stranger = run(&["fleet", word], &[("TCODER_URL", &system.url)], &dir).await;
        assert_eq!((stranger.status.code(), out(&stranger).as_str()), (Some(4), ""));
        has(&err(&stranger), &["--token"]);
        let nobody = run(&["fleet", word, "--server", "http://127.0.0.1:9"], &[], &dir).await;
        assert_eq!(nobody.status.code(), Some(3));
    }
}

#[tokio::test]
async fn fleet_help_explains_the_commands() {
    let dir = folder("cli");
    for (command, words) in [
        (vec!["fleet", "--help"], vec!["Examples:", "tcoder fleet pause --reason", "dry run", "--json"]),
        (vec!["fleet", "status", "--help"], vec!["cost so far", "`role`", "--server"]),
        (vec!["fleet", "plan", "--help"], vec!["without carrying them out"]),
        (vec!["fleet", "pause", "--help"], vec!["--reason", "tcoder fleet resume"]),
        (vec!["fleet", "resume", "--help"], vec!["Resume scaling"]),
    ] {
        let done = run(&command, &[], &dir).await;
        assert!(done.status.success());
        has(&out(&done), &words);
    }
    for wrong in [vec!["fleet"], vec!["fleet", "stop"], vec!["fleet", "status", "--reason", "x"]] {
        assert_eq!(run(&wrong, &[], &dir).await.status.code(), Some(2), "{wrong:?}");
    }
}
