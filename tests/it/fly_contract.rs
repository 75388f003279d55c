//! Compares the emulator of Fly's API and our client with third-party sources: Fly's OpenAPI document,
//! published clients of Fly, and Fly's error messages.

use std::time::Duration;

use crate::support::process::node;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tcoder::flyprovider::emulator::{EmulatorHandle, Options, Transitions};
use tcoder::flyprovider::{Fly, FlyError, MachineId, MachineState, StopSignal};

use crate::support::fly::{self, CONTRACT, FlyGuard};

const MOMENT: Duration = Duration::from_millis(20);
const APP: &str = "tcoder-workers";

fn options() -> Options {
    Options {
        transitions: Transitions { create: MOMENT, start: MOMENT, destroy: MOMENT, launch_failed: MOMENT },
        limits: None,
        ..Options::new(["sleep", "1000"])
    }
}

/// An emulator that is called by plain HTTP, also with requests that it must reject. Its responses are
/// validated.
struct Api {
    emulator: EmulatorHandle,
    guard: FlyGuard,
    http: reqwest::Client,
}

impl Api {
    async fn start() -> Self {
        Self::start_with(options()).await
    }

    async fn start_with(options: Options) -> Self {
        let (emulator, guard) = fly::start_for_strangers(options).await;
        tcoder::net::install_crypto();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { emulator, guard, http }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.ask_with(method, path, body, None).await
    }

    async fn ask_with(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        nonce: Option<&str>,
    ) -> (StatusCode, Value) {
        let url = self.emulator.url().join(&format!("v1/apps/{APP}/machines{path}")).unwrap();
        let mut request = self.http.request(method, url).bearer_auth(self.emulator.token().expose_secret());
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(nonce) = nonce {
            request = request.header("fly-machine-lease-nonce", nonce);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap();
        (status, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// Creates a machine and waits until it runs.
    async fn started(&self, name: &str) -> MachineId {
        let (_, made) =
            self.ask(Method::POST, "", Some(json!({"name": name, "config": {"image": "i"}}))).await;
        let id = MachineId(made["id"].as_str().unwrap().to_owned());
        self.reaches(&id, MachineState::Started).await;
        id
    }

    async fn reaches(&self, id: &MachineId, state: MachineState) {
        let reached = self.emulator.until_state(id, &state);
        let in_time = tokio::time::timeout(Duration::from_secs(60), reached).await;
        in_time.unwrap_or_else(|_| panic!("not {state} within 60 s"));
    }

    /// The emulator's response to a request that it rejects.
    async fn refusal(&self, order: Value) -> (u16, String) {
        let (status, body) = self.ask(Method::POST, "", Some(order)).await;
        (status.as_u16(), body["error"].as_str().unwrap_or_default().to_owned())
    }
}

fn with_config(field: &str, value: Value) -> Value {
    json!({"config": {"image": "registry.fly.io/clips:1", field: value}})
}

#[test]
fn contract_check_finds_requests_not_in_the_document() {
    let request = |method: Method, path: &str, body: &str| {
        let uri = format!("/v1/apps/clips/machines{path}").parse().unwrap();
        CONTRACT.request(&method, &uri, &reqwest::header::HeaderMap::new(), body.as_bytes())
    };
    let right = r#"{"name":"a","region":"iad","skip_launch":true,"config":{"image":"i","env":{"A":"b"},
        "guest":{"cpu_kind":"performance","cpus":2,"memory_mb":4096},"rootfs":{"size_gb":50}}}"#;
    for (method, path, body) in [
        (Method::POST, "", right),
        (Method::GET, "?include_deleted=true&state=started,stopped&metadata.pool=a&metadata.x=", ""),
        (Method::GET, "/m1/wait?state=started,settled&timeout=60", ""),
        (Method::POST, "/m1/stop", r#"{"signal":"SIGTERM","timeout":"30s"}"#),
        (Method::POST, "/m1/stop", ""),
        (Method::DELETE, "/m1?force=true", ""),
    ] {
        assert_eq!(request(method, path, body), Vec::<String>::new(), "{path} {body}");
    }
    for (method, path, body) in [
        (Method::POST, "", ""),
        (Method::POST, "", "{"),
        (Method::POST, "", r#"{"name":1}"#),
        (Method::POST, "", r#"{"name":"a","regions":"iad"}"#),
        (Method::POST, "", r#"{"config":{"image":"i","guest":{"memory":4096}}}"#),
        (Method::POST, "", r#"{"config":{"image":"i","guest":{"memory_mb":"4096"}}}"#),
        (Method::POST, "", r#"{"config":{"image":"i","env":{"A":1}}}"#),
        (Method::POST, "", r#"{"config":{"image":"i","restart":{"policy":"never"}}}"#),
        (Method::POST, "", r#"{"config":{"image":"i","rootfs":{"size":50}}}"#),
        (Method::POST, "", r#"{"config":{"image":"i","stop_config":{"signal":"SIGWINCH"}}}"#),
        (Method::GET, "?include_destroyed=true", ""),
        (Method::GET, "?include_deleted=yes", ""),
        (Method::GET, "/m1/wait?state=starting", ""),
        (Method::GET, "/m1/wait?timeout=60s", ""),
        (Method::POST, "/m1/stop", r#"{"signal":"SIGWINCH"}"#),
        (Method::POST, "/m1/stop", r#"{"timeout":30}"#),
        (Method::DELETE, "/m1/lease", ""),
        (Method::DELETE, "/m1?kill=true", ""),
        (Method::GET, "/m1/logs", ""),
    ] {
        assert!(!request(method.clone(), path, body).is_empty(), "{method} {path} {body}");
    }
}

#[test]
fn contract_check_finds_responses_not_in_the_document() {
    let answer = |method: Method, path: &str, status: u16, body: &str| {
        let path = format!("/v1/apps/clips/machines{path}");
        CONTRACT.answer(&method, &path, StatusCode::from_u16(status).unwrap(), body.as_bytes())
    };
    let lease = r#"{"status":"success","data":{"nonce":"n","expires_at":1,"owner":"o"}}"#;
    for (method, path, status, body) in [
        (Method::GET, "", 200, r#"[{"id":"m1","state":"started","host_status":"ok","events":[{"id":"e"}]}]"#),
        (Method::GET, "/m1/wait", 200, r#"{"ok":true,"state":"started"}"#),
        (Method::GET, "/m1/wait", 408, r#"{"error":"deadline_exceeded: ..."}"#),
        (Method::POST, "", 422, r#"{"error":"no room","status":"insufficient_capacity"}"#),
        (Method::POST, "/m1/lease", 201, lease),
    ] {
        assert_eq!(answer(method, path, status, body), Vec::<String>::new(), "{path} {body}");
    }
    for (method, path, status, body) in [
        (Method::GET, "", 200, r#"{"machines":[]}"#),
        (Method::GET, "", 200, r#"[{"id":1}]"#),
        (Method::GET, "", 200, r#"[{"host_status":"fine"}]"#),
        (Method::GET, "", 200, r#"[{"state":"started","zone":"a"}]"#),
        (Method::GET, "", 200, ""),
        (Method::GET, "", 206, "[]"),
        (Method::POST, "", 422, r#"{"error":"no room","status":"no_room"}"#),
        (Method::POST, "", 422, r#"{"message":"no room"}"#),
        (Method::POST, "/m1/lease", 201, r#"{"status":"success","data":{"nonce":1}}"#),
        (Method::POST, "/m1/lease", 201, r#"{"nonce":"n"}"#),
    ] {
        assert!(!answer(method.clone(), path, status, body).is_empty(), "{method} {path} {status} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_check_fails_a_test_that_violates_the_document() {
    let (emulator, guard) = fly::start(options()).await;
    let client = Fly::new(&emulator.fly_config()).unwrap();
    client.list().await.unwrap();
    assert_eq!((guard.exchanges(), guard.violations()), (1, Vec::new()));
    // Our client cannot send this request.
    let url = emulator.url().join(&format!("v1/apps/{APP}/machines/m1/stop")).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let wrong =
        http.post(url).bearer_auth(emulator.token().expose_secret()).json(&json!({"signal": "SIGWINCH"}));
    assert_eq!(wrong.send().await.unwrap().status(), 500);
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(guard)));
    let said = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("SIGWINCH") && said.contains("/m1/stop"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_rejects_sizes_that_fly_does_not_sell() {
    let api = Api::start().await;
    let guest = |kind: &str, cpus: u32, memory: u32| {
        with_config("guest", json!({"cpu_kind": kind, "cpus": cpus, "memory_mb": memory}))
    };
    for (order, words) in [
        (guest("performance", 3, 6144), "invalid config.guest.cpus, must be one of [1 2 4 6 8 10 12 14 16]"),
        (guest("performance", 2, 512), "invalid config.guest.memory_mb, minimum required 4096 MiB"),
        (guest("shared", 1, 4096), "invalid config.guest.memory_mb, cannot exceed 2048 MiB"),
        (guest("shared", 5, 2048), "invalid config.guest.cpus, must be one of [1 2 4 6 8]"),
        (guest("performance", 2, 4352), "invalid config.guest.memory_mb, must be in 1024 MiB increment"),
        (guest("dedicated", 2, 4096), "invalid config.guest.cpu_kind"),
        (with_config("guest", json!({"cpus": 2, "memory_mb": 512})), "invalid config.guest.cpu_kind"),
        (with_config("size", json!("performance-3x")), "invalid config.size \"performance-3x\""),
    ] {
        assert_eq!(api.refusal(order).await, (400, words.to_owned()));
    }
    for order in [
        guest("performance", 2, 4096),
        guest("shared", 4, 1024),
        with_config("size", json!("performance-2x")),
        json!({"config": {"image": "i"}}),
    ] {
        assert_eq!(api.ask(Method::POST, "", Some(order.clone())).await.0, StatusCode::OK, "{order}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_rejects_machines_that_fly_cannot_create() {
    let api = Api::start().await;
    for (order, words) in [
        (json!({"config": {}}), "config.image"),
        (json!({"region": "xyz", "config": {"image": "i"}}), "invalid region \"xyz\""),
        (json!({"region": "iad,xyz", "config": {"image": "i"}}), "invalid region \"xyz\""),
        (json!({"name": "Clips 1", "config": {"image": "i"}}), "invalid name"),
        (json!({"name": "a".repeat(64), "config": {"image": "i"}}), "invalid name"),
        (json!({"name": 1, "config": {"image": "i"}}), "invalid_argument"),
        (with_config("stop_config", json!({"signal": "SIGWINCH"})), "invalid signal \"SIGWINCH\""),
        (with_config("stop_config", json!({"timeout": "301s"})), "invalid timeout"),
        (with_config("restart", json!({"policy": "never"})), "config.restart.policy"),
        (with_config("rootfs", json!({"size_gb": 51})), "config.rootfs.size_gb, cannot exceed 50 GB"),
        (with_config("rootfs", json!({"size_gb": "20"})), "invalid_argument"),
        (with_config("rootfs", json!({"persist": "sometimes"})), "config.rootfs.persist"),
        (with_config("env", json!({"A": 1})), "invalid_argument"),
    ] {
        let (status, said) = api.refusal(order.clone()).await;
        assert!(status == 400 && said.contains(words), "{order}: {status} {said}");
    }
    let rootfs = with_config("rootfs", json!({"size_gb": 50, "persist": "never"}));
    let (status, made) = api.ask(Method::POST, "", Some(rootfs)).await;
    assert_eq!((status, &made["config"]["rootfs"]["size_gb"]), (StatusCode::OK, &json!(50)));
    let area = json!({"region": "sa,eu", "config": {"image": "i"}});
    assert_eq!(api.ask(Method::POST, "", Some(area)).await.1["region"], "gru");
    let id = api.started("one").await;
    for (body, words) in [
        (json!({"signal": "SIGWINCH"}), "invalid signal"),
        (json!({"timeout": "10m"}), "invalid timeout"),
        (json!({"timeout": "soon"}), "invalid timeout"),
    ] {
        let (status, said) = api.ask(Method::POST, &format!("/{id}/stop"), Some(body)).await;
        let said = said["error"].as_str().unwrap();
        assert!(status == 400 && said.contains(words), "{status} {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_lists_machines_by_state_region_and_metadata() {
    let api = Api::start().await;
    let made = async |name: &str, region: &str| {
        let order = json!({"name": name, "region": region, "skip_launch": true,
            "config": {"image": "registry.fly.io/clips:1", "metadata": {"pool": name}}});
        let (_, made) = api.ask(Method::POST, "", Some(order)).await;
        let id = MachineId(made["id"].as_str().unwrap().to_owned());
        api.reaches(&id, MachineState::Stopped).await;
        id
    };
    let (one, two) = (made("one", "ams").await, made("two", "fra").await);
    let running = api.started("three").await;
    let names = async |query: &str| {
        let list = api.get(query).await;
        let mut names: Vec<String> =
            list.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(names("?state=stopped").await, "one two");
    assert_eq!(names("?state=started,stopped").await, "one three two");
    assert_eq!(names("?state=suspended").await, "");
    assert_eq!(names("?region=ams,fra").await, "one two");
    assert_eq!(names("?metadata.pool=two").await, "two");
    let summary = &api.get("?summary=true&metadata.pool=one").await[0];
    assert!(summary.get("config").is_none() && summary.get("events").is_none(), "{summary}");
    assert_eq!(summary["id"], one.0);
    let whole = api.get(&format!("/{one}")).await;
    assert_eq!(whole["image_ref"]["repository"], "clips");
    assert_eq!(whole["image_ref"]["tag"], "1");
    assert_eq!(whole["version"], whole["instance_id"]);
    assert_eq!(whole["version"].as_str().unwrap().len(), 26);
    assert!(whole["private_ip"].as_str().unwrap().parse::<std::net::Ipv6Addr>().is_ok(), "{whole}");
    // Newest first, each with a unique id.
    let events = api.get(&format!("/{running}/events")).await;
    let ids: Vec<&str> = events.as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert!(ids.len() == 3 && ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    assert_eq!(events[2]["source"], "user");
    assert_eq!(api.get(&format!("/{running}/events?limit=1")).await.as_array().unwrap().len(), 1);
    assert_eq!(api.ask(Method::GET, "?limit=10", None).await.0, StatusCode::BAD_REQUEST);
    let (status, refused) = api.ask(Method::DELETE, &format!("/{running}"), None).await;
    assert!(
        status == 412 && refused["error"].as_str().unwrap().starts_with("failed_precondition: "),
        "{refused}"
    );
    assert_eq!(api.ask(Method::DELETE, &format!("/{two}"), None).await.0, StatusCode::OK);
    api.reaches(&two, MachineState::Destroyed).await;
    assert_eq!(names("").await, "one three");
    assert_eq!(names("?include_deleted=true").await, "one three two");
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_wait_ends_with_the_state_or_408() {
    let api = Api::start().await;
    let id = api.started("one").await;
    let wait = async |query: &str| api.ask(Method::GET, &format!("/{id}/wait{query}"), None).await;
    let (status, reached) = wait("").await;
    assert_eq!(
        (status, &reached["state"], &reached["ok"]),
        (StatusCode::OK, &json!("started"), &json!(true))
    );
    for query in ["?state=stopped,started", "?state=stopped&state=started", "?state=settled"] {
        assert_eq!(wait(query).await.1["state"], "started", "{query}");
    }
    let (status, late) = wait("?state=stopped&timeout=1").await;
    let words = "deadline_exceeded: machine failed to reach desired state, stopped, currently started";
    assert_eq!((status.as_u16(), late["error"].as_str().unwrap()), (408, words));
    for query in ["?state=starting", "?timeout=0", "?timeout=61", "?timeout=1s"] {
        assert_eq!(wait(query).await.0, StatusCode::BAD_REQUEST, "{query}");
    }
    // The wait started before the stop, which is a new event.
    let from = reached["event_id"].as_str().unwrap();
    let stopped = format!("?state=stopped&from_event_id={from}&timeout=60");
    let stop = format!("/{id}/stop");
    let (waited, stop) = tokio::join!(wait(&stopped), api.ask(Method::POST, &stop, None));
    assert_eq!((stop.0, waited.0, &waited.1["state"]), (StatusCode::OK, StatusCode::OK, &json!("stopped")));
    assert!(waited.1["event_id"].as_str().unwrap() > from, "{waited:?}");
    let path = format!("/{id}");
    let (gone, destroyed) = tokio::join!(wait("?state=destroyed"), api.ask(Method::DELETE, &path, None));
    assert_eq!((gone.0, destroyed.0), (StatusCode::OK, StatusCode::OK));
    assert_eq!(api.ask(Method::GET, "/nobody/wait", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_update_makes_a_new_version_of_the_machine() {
    let api = Api::start().await;
    let id = api.started("one").await;
    let first = api.get(&format!("/{id}")).await;
    let version = first["version"].as_str().unwrap().to_owned();
    let order = |image: &str| json!({"config": {"image": image, "stop_config": {"signal": "SIGKILL"}}});
    let pid = api.emulator.pid(&id).unwrap();
    let (status, updated) = api.ask(Method::POST, &format!("/{id}"), Some(order("worker:2"))).await;
    assert_eq!((status, updated["id"].as_str()), (StatusCode::OK, Some(id.0.as_str())), "{updated}");
    assert!(updated["version"].as_str().unwrap() > version.as_str(), "{updated}");
    let new = updated["version"].as_str().unwrap();
    let waited = api.get(&format!("/{id}/wait?state=started&version={new}&timeout=60")).await;
    assert_eq!(waited["version"], new);
    assert_ne!(api.emulator.pid(&id).unwrap(), pid);
    assert_eq!(api.get(&format!("/{id}")).await["image_ref"]["tag"], "2");
    let old = api.get(&format!("/{id}?version={version}")).await;
    assert_eq!((&old["state"], &old["config"]["image"]), (&json!("replaced"), &json!("i")));
    let versions = api.get(&format!("/{id}/versions")).await;
    assert_eq!(
        (versions[0]["version"].as_str(), versions[1]["version"].as_str()),
        (Some(new), Some(&*version))
    );
    // A client with an outdated version changes nothing.
    let mut stale = order("worker:3");
    stale["current_version"] = json!(version);
    assert_eq!(api.ask(Method::POST, &format!("/{id}"), Some(stale)).await.0, StatusCode::CONFLICT);
    let mut wrong = order("worker:3");
    wrong["config"]["guest"] = json!({"cpu_kind": "performance", "cpus": 3, "memory_mb": 6144});
    assert_eq!(api.ask(Method::POST, &format!("/{id}"), Some(wrong)).await.0, StatusCode::BAD_REQUEST);
    let (_, restarted) = api.ask(Method::POST, &format!("/{id}/restart"), None).await;
    assert_eq!(restarted, json!({"ok": true}));
    api.reaches(&id, MachineState::Started).await;
    assert_eq!(api.get(&format!("/{id}")).await["version"], new, "a restart is no new version");
    let mut rests = order("worker:4");
    rests["skip_launch"] = json!(true);
    assert_eq!(api.ask(Method::POST, &format!("/{id}"), Some(rests)).await.0, StatusCode::OK);
    api.reaches(&id, MachineState::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_lease_protects_a_machine_from_other_clients() {
    let api = Api::start().await;
    let id = api.started("one").await;
    let lease = format!("/{id}/lease");
    assert_eq!(api.ask(Method::GET, &lease, None).await.0, StatusCode::NOT_FOUND);
    let (status, taken) =
        api.ask(Method::POST, &lease, Some(json!({"ttl": 600, "description": "deploy"}))).await;
    assert_eq!((status, taken["status"].as_str()), (StatusCode::CREATED, Some("success")), "{taken}");
    let nonce = taken["data"]["nonce"].as_str().unwrap();
    let expires = taken["data"]["expires_at"].as_i64().unwrap();
    for other in [None, Some("0123456789ab")] {
        for (method, path) in [
            (Method::POST, format!("/{id}/start")),
            (Method::POST, format!("/{id}/stop")),
            (Method::POST, format!("/{id}/restart")),
            (Method::DELETE, format!("/{id}?force=true")),
            (Method::POST, lease.clone()),
            (Method::DELETE, lease.clone()),
        ] {
            let (status, said) = api.ask_with(method.clone(), &path, None, other).await;
            let said = said["error"].as_str().unwrap();
            let words = format!("aborted: machine ID {id} lease currently held by ");
            assert!(
                status == 409 && said.starts_with(&words) && said.contains(", expires at 20"),
                "{path}: {said}"
            );
        }
        let order = json!({"config": {"image": "worker:2"}});
        assert_eq!(
            api.ask_with(Method::POST, &format!("/{id}"), Some(order), other).await.0,
            StatusCode::CONFLICT
        );
    }
    let ours = Fly::new(&api.emulator.fly_config()).unwrap();
    let refused = ours.stop(&id, StopSignal::Terminate, Duration::from_secs(1)).await;
    assert!(
        matches!(&refused, Err(FlyError::Precondition { message }) if message.contains("lease")),
        "{refused:?}"
    );
    let shown = api.get(&format!("/{id}?include_leases=true")).await;
    assert_eq!((&shown["lease"]["description"], shown["lease"].get("nonce")), (&json!("deploy"), None));
    // The holder of a lease may extend it, change the machine, and release it.
    let (_, longer) = api.ask_with(Method::POST, &format!("{lease}?ttl=1200"), None, Some(nonce)).await;
    assert_eq!(longer["data"]["nonce"], nonce);
    assert!(longer["data"]["expires_at"].as_i64().unwrap() > expires, "{longer}");
    let (status, _) = api.ask_with(Method::POST, &format!("/{id}/stop"), None, Some(nonce)).await;
    assert_eq!(status, StatusCode::OK);
    api.reaches(&id, MachineState::Stopped).await;
    assert_eq!(api.ask_with(Method::DELETE, &lease, None, Some(nonce)).await.0, StatusCode::OK);
    ours.start(&id).await.unwrap();
    // An expired lease belongs to nobody.
    let (_, short) = api.ask(Method::POST, &lease, Some(json!({"ttl": 1}))).await;
    let until = short["data"]["expires_at"].as_i64().unwrap();
    assert!(until <= expires, "{short}");
    let made = json!({"name": "leased", "lease_ttl": 60, "config": {"image": "i"}});
    let (_, made) = api.ask(Method::POST, "", Some(made)).await;
    let path = format!("/{}?force=true", made["id"].as_str().unwrap());
    assert_eq!(api.ask(Method::DELETE, &path, None).await.0, StatusCode::CONFLICT);
    let nonce = made["nonce"].as_str().unwrap();
    assert_eq!(api.ask_with(Method::DELETE, &path, None, Some(nonce)).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn emulator_metadata_changes_without_a_new_version() {
    let api = Api::start().await;
    let id = api.started("one").await;
    let version = api.get(&format!("/{id}")).await["version"].clone();
    let metadata = format!("/{id}/metadata");
    let (status, _) = api.ask(Method::POST, &format!("{metadata}/pool"), Some(json!({"value": "a"}))).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let patch = json!({"metadata": {"x": "1", "y": "2"}, "machine_version": version});
    assert_eq!(api.ask(Method::PATCH, &metadata, Some(patch)).await.0, StatusCode::NO_CONTENT);
    assert_eq!(api.get(&metadata).await, json!({"pool": "a", "x": "1", "y": "2"}));
    assert_eq!(api.get(&format!("{metadata}/x")).await, json!({"value": "1"}));
    assert_eq!(api.ask(Method::DELETE, &format!("{metadata}/x"), None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(api.ask(Method::GET, &format!("{metadata}/x"), None).await.0, StatusCode::NOT_FOUND);
    let removes = json!({"metadata": {"y": ""}});
    assert_eq!(api.ask(Method::PATCH, &metadata, Some(removes)).await.0, StatusCode::NO_CONTENT);
    let stale = json!({"metadata": {"z": "1"}, "machine_version": "01JC1W3CW1VEKNMHX7MJ70DE1D"});
    assert_eq!(api.ask(Method::PATCH, &metadata, Some(stale)).await.0, StatusCode::PRECONDITION_FAILED);
    let machine = api.get(&format!("/{id}")).await;
    assert_eq!((&machine["config"]["metadata"], &machine["version"]), (&json!({"pool": "a"}), &version));
    assert_eq!(api.get("?metadata.pool=a").await.as_array().unwrap().len(), 1);
}

/// The clients are `fly-admin`, by Supabase, and `@distilled.cloud/fly-io`, which is generated from Fly's
/// OpenAPI document and observations of Fly itself. Fly's own client, fly-go, is not available where these
/// tests run.
#[tokio::test(flavor = "multi_thread")]
async fn third_party_fly_clients_run_machines_on_the_emulator() {
    // Slow enough that a client sees a machine that does not run yet.
    let mut options = options();
    options.transitions.create = Duration::from_millis(500);
    let api = Api::start_with(options).await;
    let url = api.emulator.url();
    let token = api.emulator.token();
    let args = [url.as_str().trim_end_matches('/'), APP, token.expose_secret()];
    let run = node("tests/fly/clients.mjs", args).await;
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("fly-admin: passed") && said.contains("distilled: passed"), "{said}");
    assert!(api.guard.exchanges() > 30, "{said}");
}
