//! Invalid objects are rejected at admission if the schema can express it, and otherwise reported in a
//! condition. Actions that cannot succeed are not retried.

use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tcoder::crd::TranscodeJob;

use super::{Controller, Site, condition, object, site, status, until};
use crate::support::clips::{self, clip};
use crate::support::kube as cluster;
use crate::support::objects::put_input;
use crate::support::process::err;
use crate::support::system::{self, Setup};

#[tokio::test]
async fn schema_rejects_invalid_transcode_jobs() {
    let site = site("admission").await;
    const URL: &str = "url must be an http or https address";
    const KEY: &str = "key must be a path in the input bucket";
    const CLASS: &str = "workerClass must be the name of a class of workers: 1 to 40 lower-case letters";
    let key = json!({"key": "a.mp4"});
    let hook = |name: &str, key: &str| {
        let secret = json!({"name": name, "key": key});
        json!({"input": {"key": "a.mp4"}, "webhook": {"url": "https://example.com/", "secretRef": secret}})
    };
    let cases = [
        ("preset", json!({"input": key, "preset": "best"})),
        ("qualities", json!({"input": key, "qualities": []})),
        ("qualities", json!({"input": key, "qualities": ["360p", "360p"]})),
        ("qualities", json!({"input": key, "qualities": ["361p"]})),
        ("priority", json!({"input": key, "priority": 101})),
        ("backoffLimit", json!({"input": key, "backoffLimit": 20})),
        ("activeDeadlineSeconds", json!({"input": key, "activeDeadlineSeconds": 0})),
        ("workerClass", json!({"input": key, "workerClass": "a".repeat(41)})),
        ("input", json!({})),
        ("secretRef", json!({"input": key, "webhook": {"url": "https://example.com/"}})),
    ];
    let by_rules = [
        (URL, json!({"input": {"url": "https://user:hush@example.com/a.mp4"}})),
        (URL, json!({"input": {"url": "ftp://example.com/a.mp4"}})),
        (URL, json!({"input": {"url": "https://example.com:99999/a.mp4"}})),
        (URL, json!({"input": {"url": "https://example.com:65536"}})),
        (URL, json!({"input": key, "webhook": {"url": "example.com", "secretRef": {"name": "hook"}}})),
        (KEY, json!({"input": {"key": "../secrets"}})),
        (KEY, json!({"input": {"key": "films/../secrets"}})),
        (KEY, json!({"input": {"key": "/films/a.mp4"}})),
        (KEY, json!({"input": {"key": "films//a.mp4"}})),
        (KEY, json!({"input": {"key": "films/"}})),
        (KEY, json!({"input": {"key": "films/a\n.mp4"}})),
        ("key must not be longer than 1024 bytes", json!({"input": {"key": "é".repeat(513)}})),
        ("name must be that of a Secret", hook("../hook", "secret")),
        ("name must be that of a Secret", hook("My Hook", "secret")),
        ("key must be one of a Secret", hook("hook", "a/b")),
        ("exactly one of", json!({"input": {}})),
        ("exactly one of", json!({"input": {"key": "a.mp4", "url": "https://a.example"}})),
        ("exactly one of", json!({"input": {"key": "a.mp4", "upload": {}}})),
        (CLASS, json!({"input": key, "workerClass": "Large"})),
        (CLASS, json!({"input": key, "workerClass": "-large"})),
        (CLASS, json!({"input": key, "workerClass": ""})),
        ("parallelism is auto or a number", json!({"input": key, "parallelism": 0})),
        ("parallelism is auto or a number", json!({"input": key, "parallelism": "many"})),
    ];
    for (field, spec) in cases.into_iter().chain(by_rules) {
        let object = json!({
            "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob",
            "metadata": {"name": "film"}, "spec": spec,
        });
        let file = site.file(&object.to_string());
        let output = site.kubectl(&["create", "--validate=false", "-f", file.to_str().unwrap()]).await;
        let said = err(&output);
        assert!(!output.status.success() && said.contains(field), "{field} {spec}: {said}");
    }
    assert_eq!(site.jobs().list(&Default::default()).await.unwrap().items.len(), 0);
    // What looks similar is admitted.
    for (name, input) in [
        ("scheme", json!({"url": "HTTPS://example.com:65535/A.mp4?a=b"})),
        ("address", json!({"url": "https://[2606:4700::1111]:8443/a.mp4"})),
        ("key", json!({"key": "...films/.a/b..c/Äh 1.mp4"})),
        ("long", json!({"key": "é".repeat(512)})),
    ] {
        site.make(name, json!({"input": input, "suspend": true})).await;
    }
}

/// Rules that no schema can express.
#[tokio::test]
async fn transcode_job_beyond_the_schema_is_stalled_with_a_message() {
    let cluster = cluster::bare().await;
    let system = system::shared().await;
    let site = Site::on(cluster, system, "stalled").await;
    let arguments = ["--namespace", site.namespace.as_str()];
    let controller = Controller::start(system, &cluster.kubeconfig(), &arguments, &[("MIRROR_MAX", "0")]);
    let private = json!({"url": "http://169.254.169.254/latest/meta-data"});
    let hook = json!({"url": "http://10.0.0.1/", "secretRef": {"name": "hook"}});
    let cases: [(&str, &str, Value); 2] = [
        ("private", "private network", json!({"input": private})),
        ("hook", "spec.webhook.url", json!({"input": {"key": "a.mp4"}, "webhook": hook})),
    ];
    for (name, words, spec) in cases {
        let made = site.jobs().create(&PostParams::default(), &object(name, spec)).await.unwrap();
        let (job, reason, message) = site.condition(name, "Stalled").await;
        assert_eq!((reason.as_str(), &status(&job)["phase"]), ("InvalidSpec", &json!("Pending")));
        assert!(message.contains(words), "{name}: {message}");
        assert_eq!(system.get(&format!("/api/jobs/{}", made.uid().unwrap())).await.status, 404);
        assert!(job.finalizers().is_empty());
    }
    controller.stop().await;
}

/// Namespaces that share a bucket do not read each other's videos, and no job asks for more than the installation permits.
#[tokio::test]
async fn namespace_is_limited_to_its_prefix_and_to_the_limits_of_the_installation() {
    let cluster = cluster::bare().await;
    let system = Setup::default().start().await;
    let namespace = cluster.namespace("tenant").await;
    let jobs: Api<TranscodeJob> = Api::namespaced(cluster.client().await, &namespace);
    let arguments = ["--namespace", namespace.as_str(), "--tenant-prefixes"];
    let limits = [("JOB_MAX_ATTEMPTS", "2"), ("JOB_MAX_DEADLINE_SECONDS", "600"), ("JOB_MAX_PRIORITY", "5")];
    let env = [&[("MIRROR_MAX", "0"), ("ALLOW_PRIVATE_URLS", "true")][..], &limits].concat();
    let controller = Controller::start(&system, &cluster.kubeconfig(), &arguments, &env);
    let make = async |name: &str, spec: Value| {
        jobs.create(&PostParams::default(), &object(name, spec)).await.unwrap()
    };
    let own = format!("{namespace}/film.mp4");
    for name in ["elsewhere/film.mp4", own.as_str()] {
        put_input(&system.storage_config(), name, std::fs::read(clip()).unwrap()).await;
    }
    let key = json!({"key": own});
    for (name, words, spec) in [
        (
            "foreign",
            "spec.input.key: the key must begin with",
            json!({"input": {"key": "elsewhere/film.mp4"}}),
        ),
        ("attempts", "spec.backoffLimit", json!({"input": key, "backoffLimit": 5})),
        ("deadline", "spec.activeDeadlineSeconds", json!({"input": key, "activeDeadlineSeconds": 601})),
        ("priority", "spec.priority", json!({"input": key, "priority": 6})),
    ] {
        make(name, spec).await;
        let is_stalled = |job: &TranscodeJob| condition(job, "Stalled").is_some();
        let job = until(jobs.clone(), name, "Stalled", is_stalled).await;
        let (reason, message) = condition(&job, "Stalled").unwrap();
        assert_eq!(reason, "InvalidSpec", "{message}");
        assert!(message.contains(words), "{name}: {message}");
    }
    let quality = json!(["144p"]);
    make("own", json!({"input": key, "qualities": quality})).await;
    let ticket =
        make("upload", json!({"input": {"upload": {"fileName": "a.mp4"}}, "qualities": quality})).await;
    let waits = |job: &TranscodeJob| status(job)["uploadUrl"].is_string();
    let waiting = until(jobs.clone(), "upload", "waiting for its upload", waits).await;
    let address = status(&waiting)["uploadUrl"].as_str().unwrap().to_owned();
    let path = format!("/{namespace}/inputs/{}/a.mp4?", ticket.uid().unwrap());
    assert!(address.contains(&path), "{address}");
    let sent = system.http.put(&address).body(std::fs::read(clip()).unwrap()).send().await.unwrap();
    assert!(sent.status().is_success());
    for name in ["own", "upload"] {
        until(jobs.clone(), name, "Complete", |job| status(job)["phase"] == "Complete").await;
    }
    controller.stop().await;
    system.stop().await;
}

#[tokio::test]
async fn edit_of_an_immutable_field_is_rejected() {
    let site = site("immutable").await;
    let key = site.input(clip()).await;
    site.make("film", json!({"input": {"key": key}, "qualities": ["144p"], "suspend": false})).await;
    site.phase("film", "Complete").await;
    let other = site.input(clips::half_minute()).await;
    // No other job is ahead of it, so it is running soon.
    site.make("next", json!({"input": {"key": other}, "preset": "hls", "qualities": ["720p"]})).await;
    site.phase("next", "Running").await;
    for (field, value) in [("qualities", json!(["144p"])), ("workerClass", json!("large"))] {
        let change = Patch::Merge(json!({"spec": {field: value}}));
        let changed = site.jobs().patch("next", &PatchParams::default(), &change).await;
        let refused = changed.unwrap_err().to_string();
        let why = format!("{field} cannot be changed once the job is made");
        assert!(refused.contains(&why), "{refused}");
    }
    let job = site.phase("next", "Complete").await;
    let outputs = status(&job)["outputs"].as_array().unwrap().clone();
    assert_eq!((outputs.len(), &outputs[0]["quality"]), (1, &json!("720p")));
    assert!(condition(&job, "Complete").is_some());
}

#[tokio::test]
async fn controller_without_a_cluster_says_what_to_set() {
    let system = system::shared().await;
    let nowhere = [("KUBECONFIG", "/nonexistent/kubeconfig"), ("HOME", "/nonexistent")];
    let (code, said) = system.role_fails(&["controller", "--all-namespaces"], &nowhere).await;
    assert_eq!(code, Some(5));
    assert!(said.contains("KUBECONFIG"), "{said}");
}
