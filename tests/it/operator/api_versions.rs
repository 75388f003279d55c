//! The versions of the API beside each other: each object is the same in both.

use std::path::Path;

use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::{Site, site};
use crate::manifests::minor_version;
use crate::support::clips::clip;
use crate::support::{kube as cluster, system};

const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];

/// The object as this version shows it: its uid, spec and status.
async fn shown(site: &Site, kind: &str, name: &str, version: &str) -> Value {
    let resource = format!("{kind}.{version}.tcoder.dev/{name}");
    let json = site.kubectl_ok(&["get", &resource, "-o", "json"]).await;
    let mut object: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(object["apiVersion"], format!("tcoder.dev/{version}"));
    let uid = object["metadata"]["uid"].take();
    json!({"uid": uid, "spec": object["spec"].take(), "status": object["status"].take()})
}

/// Otherwise all these tests would say nothing about the versions that the documents name.
#[tokio::test]
async fn api_server_is_of_a_supported_version() {
    let info = cluster::bare().await.client().await.apiserver_version().await.unwrap();
    let minor = |version: &str| version.split('.').next_back().unwrap().parse::<u32>().unwrap();
    let (oldest, newest) =
        (minor(&minor_version("hack/envtest/oldest/go.mod")), minor(&minor_version("hack/envtest/go.mod")));
    let supported = if std::env::var("KUBERNETES").is_ok_and(|which| which == "oldest") {
        oldest..=oldest
    } else {
        oldest..=newest
    };
    let served = minor(&info.minor);
    assert!(info.major == "1" && supported.contains(&served), "{info:?} is not in {supported:?}");
}

#[tokio::test]
async fn job_of_either_version_is_completed_and_shown_alike_in_both() {
    let site = site("versions").await;
    let key = site.input(clip()).await;
    for version in VERSIONS {
        let name = format!("film-{version}");
        site.apply(
            &json!({
                "apiVersion": format!("tcoder.dev/{version}"), "kind": "TranscodeJob", "metadata": {"name": name},
                "spec": {"input": {"key": key}, "qualities": ["144p"], "stills": ["poster"]},
            })
            .to_string(),
        )
        .await;
        let job = site.phase(&name, "Complete").await;
        assert!(job.uid().is_some());
        let seen = [
            shown(&site, "transcodejobs", &name, VERSIONS[0]).await,
            shown(&site, "transcodejobs", &name, VERSIONS[1]).await,
        ];
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0]["status"]["outputs"][0]["quality"], "144p");
        // A change in the other version keeps everything else.
        for (n, other) in VERSIONS.iter().enumerate() {
            let resource = format!("transcodejobs.{other}.tcoder.dev/{name}");
            let patch = json!({"spec": {"ttlSecondsAfterFinished": 1_000_000 + n}}).to_string();
            site.kubectl_ok(&["patch", &resource, "--type=merge", "-p", &patch]).await;
            let now = shown(&site, "transcodejobs", &name, VERSIONS[1 - n]).await;
            let expected = with_ttl(&seen[0]["spec"], 1_000_000 + n);
            assert_eq!(now["spec"], expected, "{other}");
        }
        let patch = json!({"spec": {"preset": "hls"}}).to_string();
        for version in VERSIONS {
            let resource = format!("transcodejobs.{version}.tcoder.dev/{name}");
            let refused = site.kubectl(&["patch", &resource, "--type=merge", "-p", &patch]).await;
            let why = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && why.contains("cannot be changed"), "{version}: {why}");
        }
    }
}

fn with_ttl(spec: &Value, seconds: usize) -> Value {
    let mut spec = spec.clone();
    spec["ttlSecondsAfterFinished"] = seconds.into();
    spec
}

/// Objects with many fields: those of the documentation.
#[tokio::test]
async fn samples_survive_the_way_through_the_other_version() {
    // No controller acts on the pools here.
    let site = Site::on(cluster::bare().await, system::shared().await, "round-trip").await;
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/samples");
    let files = std::fs::read_dir(samples).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    let mut objects = 0;
    for file in files {
        let file = file.to_str().unwrap();
        let read = site.cluster.kubectl_ok(&["create", "--dry-run=client", "-o", "json", "-f", file]).await;
        for object in serde_json::Deserializer::from_str(&read).into_iter::<Value>() {
            let mut object = object.unwrap();
            let kind = object["kind"].as_str().unwrap().to_owned();
            if !["TranscodeJob", "WorkerPool"].contains(&kind.as_str()) {
                continue;
            }
            let plural = format!("{}s", kind.to_lowercase());
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            object["metadata"] = json!({"name": name});
            if kind == "TranscodeJob" {
                // No worker begins with it.
                object["spec"]["suspend"] = true.into();
            } else {
                object["spec"]["paused"] = true.into();
            }
            site.apply(&object.to_string()).await;
            let first = shown(&site, &plural, &name, VERSIONS[0]).await["spec"].clone();
            let mut beta = shown(&site, &plural, &name, VERSIONS[1]).await;
            assert_eq!(beta["spec"], first, "{file}");
            // Written back as the other version shows it.
            let written = json!({
                "apiVersion": format!("tcoder.dev/{}", VERSIONS[1]), "kind": kind, "metadata": {"name": name},
                "spec": beta["spec"].take(),
            });
            site.apply(&written.to_string()).await;
            assert_eq!(shown(&site, &plural, &name, VERSIONS[0]).await["spec"], first, "{file}");
            site.kubectl_ok(&["delete", &plural, &name, "--wait=false"]).await;
            objects += 1;
        }
    }
    assert!(objects >= 5, "{objects} samples");
}
