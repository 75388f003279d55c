//! The plugin of kubectl: a real kubectl runs the program under its other name.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{Site, condition, site};
use crate::support::clips::clip;
use crate::support::kube::free_port;
use crate::support::process::{err, out, spawn};
use crate::support::system::{PATIENCE, WEBHOOK_SECRET, folder};

/// A folder with the program under the name of the plugin.
fn programs() -> PathBuf {
    let programs = folder("kubectl-plugin");
    symlink(env!("CARGO_BIN_EXE_tcoder"), programs.join("kubectl-tcoder")).unwrap();
    programs
}

/// Runs `kubectl tcoder`.
async fn plugin(site: &Site, args: &[&str]) -> Output {
    let programs = programs();
    site.cluster.kubectl_in(&[&["tcoder"], args].concat(), programs.as_os_str()).await
}

async fn submit(site: &Site, args: &[&str]) -> Output {
    plugin(site, &[&["submit", "-n", &site.namespace, "--quality", "144p"], args].concat()).await
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn plugin_uploads_a_file_and_waits_for_its_outputs() {
    let site = site("plugin").await;
    let submitted = submit(&site, &[text(clip()), "--poster", "--wait"]).await;
    assert!(submitted.status.success(), "{}", err(&submitted));
    let printed = out(&submitted);
    assert!(printed.lines().any(|line| line.starts_with("144p 256x144 ")), "{printed}");
    assert!(printed.lines().any(|line| line.starts_with("poster ")), "{printed}");
    // The upload is bound to the file, and the object has a name made of that of the file.
    let jobs = site.jobs().list(&Default::default()).await.unwrap().items;
    let [job] = jobs.as_slice() else { panic!("{jobs:#?}") };
    let upload = job.spec.input.upload.as_ref().unwrap();
    let size = std::fs::metadata(clip()).unwrap().len();
    assert_eq!((upload.file_size, upload.content_type.as_deref()), (size.try_into().ok(), Some("video/mp4")));
    let name = job.metadata.name.as_deref().unwrap();
    assert!(name.starts_with(clip().file_stem().unwrap().to_str().unwrap()), "{name}");

    let watched = plugin(&site, &["watch", name, "--json", "--namespace", &site.namespace]).await;
    assert!(watched.status.success(), "{}", err(&watched));
    let status: Value = serde_json::from_str(&out(&watched)).unwrap();
    assert_eq!(status["phase"], "Complete");
}

#[tokio::test]
async fn plugin_tells_why_a_job_failed_or_was_refused() {
    let site = site("plugin-failed").await;
    let broken = folder("broken").join("notes.mp4");
    std::fs::write(&broken, "this is no film").unwrap();
    let failed = submit(&site, &[text(&broken), "--name", "notes", "--wait"]).await;
    assert_eq!((failed.status.code(), out(&failed)), (Some(1), String::new()), "{}", err(&failed));
    let (job, _, message) = site.condition("notes", "Failed").await;
    assert!(err(&failed).contains(&format!("kubectl-tcoder: {message} (InvalidMedia)")), "{}", err(&failed));
    assert!(condition(&job, "Complete").is_none());

    // The key leads out of the bucket, which the API server refuses.
    let refused = submit(&site, &["--key", "../secrets", "--name", "secrets"]).await;
    assert_eq!(refused.status.code(), Some(4), "{}", err(&refused));
    assert!(err(&refused).contains("spec.input.key"), "{}", err(&refused));

    let unknown = plugin(&site, &["watch", "nobody", "-n", &site.namespace]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(err(&unknown).contains("nobody does not exist in this namespace"), "{}", err(&unknown));

    let absent = folder("no-cluster").join("config");
    let nowhere = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "users": [{"name": "a"}],
    });
    std::fs::write(&absent, nowhere.to_string()).unwrap();
    let unreachable = submit(&site, &["--key", "a.mp4", "--kubeconfig", text(&absent)]).await;
    assert_eq!(unreachable.status.code(), Some(3), "{}", err(&unreachable));
}

#[tokio::test]
async fn plugin_follows_a_job_whose_submission_did_not_wait() {
    let site = site("plugin-key").await;
    let key = site.input(clip()).await;
    let submitted = submit(&site, &["--key", &key, "--name", "film"]).await;
    assert_eq!(out(&submitted), "transcodejob.tcoder.dev/film created\n", "{}", err(&submitted));
    let follow = format!("`kubectl tcoder watch film -n {}`", site.namespace);
    assert!(err(&submitted).contains(&follow), "{}", err(&submitted));
    let watched = plugin(&site, &["watch", "film", "-n", &site.namespace]).await;
    assert!(watched.status.success() && out(&watched).contains("144p"), "{}", err(&watched));
}

/// Follows the job `film` with the plugin until it prints such a line. The rest of its output is discarded.
async fn watch_until(site: &Site, is_it: impl Fn(&str) -> bool) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(programs().join("kubectl-tcoder"));
    command.args(["watch", "film", "-n", &site.namespace]).env("KUBECONFIG", site.cluster.kubeconfig());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut watch = spawn(command);
    let mut lines = BufReader::new(watch.stderr.take().unwrap()).lines();
    let printed = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if is_it(&line) {
                return;
            }
        }
        panic!("the command ends without saying so");
    };
    tokio::time::timeout(PATIENCE, printed).await.expect("the command does not say so");
    // It must still be able to write.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    watch
}

#[tokio::test]
async fn plugin_says_what_a_job_waits_for() {
    let site = site("plugin-stalled").await;
    let key = site.input(clip()).await;
    let webhook = json!({"url": "https://example.com/", "secretRef": {"name": "hook"}});
    site.make("film", json!({"input": {"key": key}, "qualities": ["144p"], "webhook": webhook})).await;
    let (_, reason, message) = site.condition("film", "Stalled").await;
    let mut watch = watch_until(&site, |line| line == format!("film: {message} ({reason})")).await;
    // The Secret is all that is missing.
    site.kubectl_ok(&[
        "create",
        "secret",
        "generic",
        "hook",
        &format!("--from-literal=secret={WEBHOOK_SECRET}"),
    ])
    .await;
    let ended =
        tokio::time::timeout(PATIENCE, watch.wait()).await.expect("the command does not end").unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn plugin_says_why_each_attempt_failed() {
    let site = site("plugin-attempts").await;
    let nowhere = format!("http://127.0.0.1:{}/film.mp4", free_port());
    let spec = json!({"input": {"url": nowhere}, "qualities": ["144p"], "backoffLimit": 1});
    site.make("film", spec).await;
    let watched = plugin(&site, &["watch", "film", "-n", &site.namespace]).await;
    assert_eq!(watched.status.code(), Some(1), "{}", err(&watched));
    let told = err(&watched);
    let first = "film: attempt 1 failed (inputUnreachable): ";
    assert_eq!(told.lines().filter(|line| line.starts_with(first)).count(), 1, "{told}");
    assert!(told.contains("(BackoffLimitExceeded)"), "{told}");
}

#[tokio::test]
async fn plugin_says_when_no_pool_makes_workers_of_the_class_of_a_job() {
    let site = site("plugin-class").await;
    let key = site.input(clip()).await;
    let class = ["--worker-class", "class-of-nobody"];
    let submitted = submit(&site, &[&["--key", &key, "--name", "film"], &class[..]].concat()).await;
    assert!(submitted.status.success(), "{}", err(&submitted));
    let no_pool = "film: no WorkerPool makes workers of the class class-of-nobody;";
    let mut watch = watch_until(&site, |line| line.starts_with(no_pool)).await;
    site.kubectl_ok(&["delete", "tj", "film", "--wait=false"]).await;
    let ended =
        tokio::time::timeout(PATIENCE, watch.wait()).await.expect("the command does not end").unwrap();
    assert_eq!(ended.code(), Some(1));
}

/// Somebody who may list TranscodeJobs and not watch them gets an answer instead of a command that never ends.
#[tokio::test]
async fn plugin_ends_when_it_may_not_watch() {
    let site = site("plugin-reader").await;
    site.make("film", json!({"input": {"key": "films/film.mp4"}, "suspend": true})).await;
    let reader = site.cluster.kubeconfig_of(&site.namespace, "reader").await;
    let subject = format!("--serviceaccount={}:reader", site.namespace);
    site.kubectl_ok(&["create", "role", "reader", "--verb=get,list", "--resource=transcodejobs.tcoder.dev"])
        .await;
    site.kubectl_ok(&["create", "rolebinding", "reader", "--role=reader", &subject]).await;
    let watched =
        plugin(&site, &["watch", "film", "-n", &site.namespace, "--kubeconfig", text(&reader)]).await;
    assert_eq!(watched.status.code(), Some(4), "{}", err(&watched));
    assert!(err(&watched).contains("cannot show the TranscodeJob"), "{}", err(&watched));
    // With the permission it would follow the job.
    let verbs = ["--verb=get,list,watch", "--resource=transcodejobs.tcoder.dev"];
    let role = site
        .kubectl_ok(&[&["create", "role", "reader", "--dry-run=client", "-o", "yaml"], &verbs[..]].concat())
        .await;
    site.apply(&role).await;
    site.kubectl_ok(&["delete", "tj", "film", "--wait=false"]).await;
    site.gone("film").await;
    let gone = plugin(&site, &["watch", "film", "-n", &site.namespace, "--kubeconfig", text(&reader)]).await;
    assert_eq!(gone.status.code(), Some(1), "{}", err(&gone));
}
