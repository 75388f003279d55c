//! Tokens with a name: what each permits, and what is counted of it.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{is_problem, waiting};
use crate::support::system::{Answer, Api, PATIENCE, http};

/// Creates a token with these permissions, and returns its name.
async fn create(api: &Api, permissions: &Value) -> (String, Api) {
    let name = format!("t{}", &Uuid::new_v4().simple().to_string()[..16]);
    let mut body = permissions.clone();
    body["name"] = name.clone().into();
    let created = api.post("/api/tokens", &body).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.body["name"], name);
    (name, with(api, created.body["token"].as_str().unwrap()))
}

/// The same API, called with this token.
fn with(api: &Api, token: &str) -> Api {
    Api { url: api.url.clone(), token: Some(token.to_owned()), http: http(), log: api.log.clone() }
}

fn kind(answer: &Answer) -> &str {
    answer.body["type"].as_str().unwrap_or_default().trim_start_matches("/problems/")
}

fn ids(list: &Answer) -> Vec<&str> {
    assert_eq!(list.status, 200, "{list:?}");
    list.body["jobs"].as_array().unwrap().iter().map(|job| job["jobId"].as_str().unwrap()).collect()
}

async fn put(api: &Api, path: &str, body: &Value) -> Answer {
    api.answer(api.request(Method::PUT, path).json(body)).await
}

pub async fn tokens_are_created_changed_replaced_and_deleted_at_once(api: &Api) {
    let (name, holder) = create(api, &json!({"scopes": ["read"], "jobsPerHour": 7})).await;
    assert_eq!(holder.get("/api/stats").await.status, 200);
    let path = format!("/api/tokens/{name}");

    // The list has everything but the secret.
    let list = api.get("/api/tokens").await;
    let listed = list.body["tokens"].as_array().unwrap().iter().find(|token| token["name"] == *name).unwrap();
    assert_eq!((&listed["scopes"], &listed["jobsPerHour"]), (&json!(["read"]), &json!(7)), "{listed}");
    assert!(!list.body.to_string().contains(&holder.token.as_ref().unwrap()[7..]));

    let twice = api.post("/api/tokens", &json!({"name": name, "scopes": ["submit"]})).await;
    is_problem(&twice, 409, None);

    // What it permits changes from the next request on, and what is left out is gone.
    let changed = put(api, &path, &json!({"scopes": ["submit"]})).await;
    assert_eq!((changed.status, &changed.body["scopes"]), (200, &json!(["submit"])), "{changed:?}");
    assert_eq!(changed.body.get("jobsPerHour"), None, "{changed:?}");
    is_problem(&holder.get("/api/stats").await, 403, None);

    let rotated = api.answer(api.request(Method::POST, &format!("{path}/rotate"))).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let successor = with(api, rotated.body["token"].as_str().unwrap());
    is_problem(&holder.get("/api/jobs").await, 401, None);
    assert_eq!(successor.get("/api/jobs").await.status, 200);

    assert_eq!(api.delete(&path).await.status, 204);
    is_problem(&successor.get("/api/jobs").await, 401, None);
    is_problem(&api.delete(&path).await, 404, None);
    is_problem(&put(api, &path, &json!({"scopes": ["submit"]})).await, 404, None);
    is_problem(&api.answer(api.request(Method::POST, &format!("{path}/rotate"))).await, 404, None);
}

pub async fn token_sees_and_changes_only_its_own_jobs_without_further_scopes(api: &Api) {
    let submits = json!({"scopes": ["submit"], "keyPrefix": "inputs/"});
    let ((name, films), (_, news)) = (create(api, &submits).await, create(api, &submits).await);
    let (_, reader) = create(api, &json!({"scopes": ["read"]})).await;
    let (_, operator) = create(api, &json!({"scopes": ["operate"]})).await;
    let (mine, others) = (films.submit(&waiting()).await, news.submit(&waiting()).await);
    let upload = news.post("/api/upload", &json!({"fileSize": 100_000_000})).await;
    let upload = upload.body["jobId"].as_str().unwrap();

    assert_eq!(films.job(&mine).await["owner"], *name);
    assert_eq!(ids(&films.get("/api/jobs?limit=100").await), [&mine]);
    assert_eq!(ids(&films.get("/api/jobs?limit=100&status=completed").await), [""; 0]);
    let (job, events) = (format!("/api/jobs/{others}"), format!("/api/jobs/{others}/events"));
    let parts = format!("/api/jobs/{upload}/parts");
    let hidden = [
        films.get(&job).await,
        films.get(&events).await,
        films.delete(&job).await,
        films.post(&format!("{job}/retry"), &json!({})).await,
        films.post(&parts, &json!({"uploadId": "a", "partNumbers": [1]})).await,
        films.post(&format!("/api/jobs/{upload}/uploaded"), &json!({})).await,
    ];
    for answer in &hidden {
        is_problem(answer, 404, None);
        assert_eq!(kind(answer), "no-such-job");
    }
    // A chosen id could be that of another's job, or of the files that one has left.
    let mut chosen = waiting();
    chosen["jobId"] = others.clone().into();
    is_problem(&films.post("/api/jobs", &chosen).await, 422, Some("jobId"));
    is_problem(&films.post("/api/upload", &json!({"jobId": Uuid::now_v7()})).await, 422, Some("jobId"));

    // Who may read everything changes nothing.
    assert!(ids(&reader.get("/api/jobs?limit=100").await).contains(&&*others));
    assert_eq!(reader.get(&job).await.status, 200);
    for answer in [reader.delete(&job).await, reader.post(&parts, &json!({"uploadId": "a"})).await] {
        is_problem(&answer, 403, None);
        assert_eq!(kind(&answer), "missing-scope");
    }
    assert_eq!(operator.delete(&job).await.body["status"], "cancelled");
    // A worker may claim it at once.
    let retried = operator.post(&format!("{job}/retry"), &json!({})).await;
    assert_eq!(retried.status, 200, "{retried:?}");
    assert_eq!(films.delete(&format!("/api/jobs/{mine}")).await.body["status"], "cancelled");
}

pub async fn token_names_only_objects_of_its_folder(api: &Api) {
    let (_, films) = create(api, &json!({"scopes": ["submit"], "keyPrefix": "films/"})).await;
    let (_, plain) = create(api, &json!({"scopes": ["submit"]})).await;
    let (_, reads) = create(api, &json!({"scopes": ["submit", "read"]})).await;
    let named = |key: &str| json!({"inputKey": key, "delaySeconds": 3600});
    for (holder, key, status) in [
        (&films, "films/a.mp4", 201),
        (&films, "films2/a.mp4", 403),
        (&films, "inputs/01890a5d-ac96-774b-bcce-b302099a8057/a.mp4", 403),
        (&plain, "films/a.mp4", 403),
        (&reads, "films/a.mp4", 201),
    ] {
        let answer = holder.post("/api/jobs", &named(key)).await;
        assert_eq!(answer.status, status, "{key}: {answer:?}");
        if status == 403 {
            assert_eq!(kind(&answer), "foreign-key");
        }
    }
    // What a token uploads needs no folder.
    assert_eq!(plain.post("/api/upload", &json!({})).await.status, 201);
}

pub async fn event_stream_ends_when_its_token_is_deleted(api: &Api) {
    let (name, holder) = create(api, &json!({"scopes": ["submit"], "keyPrefix": "inputs/"})).await;
    let id = holder.submit(&waiting()).await;
    let mut stream = holder.request(Method::GET, &format!("/api/jobs/{id}/events")).send().await.unwrap();
    let first = String::from_utf8(stream.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.contains("id: 0-queued"), "{first}");
    assert_eq!(api.delete(&format!("/api/tokens/{name}")).await.status, 204);
    // It is checked now and then. Nothing but comments comes before the end.
    let rest = async {
        while let Some(rest) = stream.chunk().await.unwrap() {
            let rest = String::from_utf8(rest.to_vec()).unwrap();
            assert!(rest.lines().all(|line| line.is_empty() || line.starts_with(':')), "{rest}");
        }
    };
    tokio::time::timeout(PATIENCE, rest).await.expect("the stream does not end");
    assert_eq!(api.job(&id).await["status"], "queued");
}

/// Every operation of the API is here, so that none is added without a decision about who may call it.
pub async fn operations_need_the_scopes_that_they_name(api: &Api) {
    const JOB: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    let holders = [
        ("submit", create(api, &json!({"scopes": ["submit"], "keyPrefix": "inputs/"})).await.1),
        ("read", create(api, &json!({"scopes": ["read"]})).await.1),
        ("operate", create(api, &json!({"scopes": ["operate"]})).await.1),
    ];
    let document = api.get("/openapi.json").await.body;
    let mut seen = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let needed = match (method.as_str(), path.as_str()) {
                ("post", "/api/upload" | "/api/jobs") => "submit",
                ("get", "/api/stats" | "/api/status" | "/api/fleet") => "read operate",
                ("post", "/api/fleet/pause" | "/api/fleet/resume") => "operate",
                (_, path) if path.starts_with("/api/tokens") => "",
                // Whose job it is decides, and this one does not exist.
                (_, path) if path.starts_with("/api/jobs") => "submit read operate",
                other => panic!("nobody has decided who may call {other:?}"),
            };
            seen += 1;
            for (scope, holder) in &holders {
                // To pause the fleet of a shared system would disturb other tests.
                if path.ends_with("/pause") && *scope == "operate" {
                    continue;
                }
                let url = path.replace("{id}", JOB).replace("{name}", "nobody");
                let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
                let request = holder.request(method.clone(), &url);
                let body = if url == "/api/jobs" { waiting() } else { json!({}) };
                let request = if method == Method::GET { request } else { request.json(&body) };
                let answer = holder.answer(request).await;
                assert_ne!(answer.status, 401, "{method} {path} with {scope}");
                let is_refused = matches!(kind(&answer), "missing-scope" | "administrators-only");
                let is_permitted = needed.split(' ').any(|needed| needed == *scope);
                assert_eq!(is_refused, !is_permitted, "{method} {path} with {scope}: {answer:?}");
            }
        }
    }
    assert!(seen >= 19, "{seen}");
    for (scope, holder) in &holders {
        let metrics = holder.get("/metrics").await;
        assert_eq!(metrics.status, if *scope == "submit" { 403 } else { 200 }, "{scope}");
    }
}

pub async fn limits_of_a_token_are_answered_429_with_the_time_to_wait(api: &Api) {
    // Requests: as many as belong to a minute come at once, and the next must wait for its turn.
    let (_, holder) = create(api, &json!({"scopes": ["read"], "requestsPerMinute": 3})).await;
    for _ in 0..3 {
        assert_eq!(holder.get("/api/stats").await.status, 200);
    }
    let refused = holder.request(Method::GET, "/api/stats").send().await.unwrap();
    assert_eq!(refused.status(), 429);
    let pause: u32 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&pause), "{pause}");
    // Other tokens are not affected, and neither is an administrator.
    assert_eq!(api.get("/api/stats").await.status, 200);

    // Jobs that have not ended: the end of one makes room.
    let permissions = json!({"scopes": ["submit"], "keyPrefix": "inputs/", "openJobs": 2, "jobsPerHour": 4});
    let (name, holder) = create(api, &permissions).await;
    let first = holder.submit(&waiting()).await;
    holder.submit(&waiting()).await;
    let third = holder.post("/api/jobs", &waiting()).await;
    is_problem(&third, 429, None);
    assert_eq!(kind(&third), "limit-reached");
    assert_eq!(holder.delete(&format!("/api/jobs/{first}")).await.status, 200);
    holder.submit(&waiting()).await;
    is_problem(&holder.post(&format!("/api/jobs/{first}/retry"), &json!({})).await, 429, None);

    // Jobs of an hour: a retry counts, and a change of the limit applies at once.
    let wider = json!({"scopes": ["submit"], "keyPrefix": "inputs/", "jobsPerHour": 4});
    assert_eq!(put(api, &format!("/api/tokens/{name}"), &wider).await.status, 200);
    assert_eq!(holder.post(&format!("/api/jobs/{first}/retry"), &json!({})).await.status, 200);
    let request = holder.request(Method::POST, "/api/jobs").json(&waiting());
    let refused = request.send().await.unwrap();
    assert_eq!(refused.status(), 429);
    let pause: u32 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3600).contains(&pause), "{pause}");
}
