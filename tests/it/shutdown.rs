//! `tcoder up` can be stopped or killed at any moment: no process keeps running and no job is lost.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::clips::{self, half_minute};
use crate::support::process::{self, all_gone, descendants, eventually};
use crate::support::system::{self, Setup, System, TOKEN};

async fn in_the_middle_of_an_encode() -> (System, String, Value) {
    let system = Setup::default().start().await;
    let job_request: Value =
        json!({"preset": "web-optimized", "outputQualities": ["720p"], "fileName": "long.mp4"});
    let id = system.upload(half_minute(), &job_request).await;
    // It ends with its worker.
    let (job, _) = system.pause_encode(&id).await;
    (system, id, job)
}

fn has_all_parts(family: &[process::Process]) {
    for part in ["redis-server", " worker", "ffmpeg "] {
        assert!(family.iter().any(|p| p.command.contains(part)), "no {part} in {family:?}");
    }
}

#[tokio::test]
async fn ctrl_c_during_an_encode_releases_the_job() {
    let (system, id, before) = in_the_middle_of_an_encode().await;
    let (family, data) = (descendants(system.pid), system.data.clone());
    has_all_parts(&family);
    let said = system.stop().await;
    assert!(said.contains("nothing is lost"), "{said}");
    all_gone(&family).await;

    let system = Setup::over(&data).start().await;
    let job = system.completed(&id).await;
    // The attempt that was released does not count.
    assert_eq!(job["attempt"], 1, "{job:#}");
    assert!(job["epoch"].as_u64() > before["epoch"].as_u64(), "{job:#}");
    assert_eq!(system.scratch(), [""; 0]);
    system.stop().await;
}

#[tokio::test]
async fn second_ctrl_c_exits_at_once() {
    let mut system = Setup::default().start().await;
    let has_worker = || descendants(system.pid).iter().any(|p| p.command.contains(" worker"));
    eventually("a worker runs", has_worker).await;
    let family = descendants(system.pid);
    let worker = family.iter().find(|p| p.command.contains(" worker")).unwrap();
    // A stopped process cannot react to signals; it must not delay the shutdown forever.
    process::send(worker.pid, Signal::SIGSTOP);
    system.signal(Signal::SIGINT);
    system.says("stopping").await;
    system.signal(Signal::SIGINT);
    let (status, said) = system.over().await;
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(!said.contains("nothing is lost"), "{said}");
    all_gone(&family).await;
}

#[tokio::test]
async fn up_killed_during_an_encode_loses_nothing() {
    let (system, id, _) = in_the_middle_of_an_encode().await;
    let (family, data) = (descendants(system.pid), system.data.clone());
    has_all_parts(&family);
    system.signal(Signal::SIGKILL);
    system.over().await;
    all_gone(&family).await;

    let system = Setup::over(&data).start().await;
    let job = system.completed(&id).await;
    assert_eq!(job["attempt"], 2, "{job:#}");
    assert_eq!(system.scratch(), [""; 0], "what the killed worker left");
    system.stop().await;
}

#[tokio::test]
async fn roles_run_as_separate_processes() {
    let system = Setup::default().workers(0).start().await;
    let (mut api, url) = system.api().await;
    let _worker = system.worker("apart", &[]);
    let dir = system::folder("cli");
    let film = clips::clip().to_str().unwrap();
    let arguments = ["submit", film, "--quality", "144p", "--output", "out", "--server", &url];
    let done = process::run(&arguments, &[], &dir).await;
    assert!(done.status.success(), "{}", process::err(&done));
    assert!(dir.join("out/144p.mp4").exists());
    // Without a key for signatures, webhooks are rejected.
    let arguments = ["submit", film, "--webhook", "https://example.com/", "--server", &url];
    let refused = process::run(&arguments, &[], &dir).await;
    assert_eq!(refused.status.code(), Some(4));
    assert!(process::err(&refused).contains("webhookUrl: this installation has no WEBHOOK_SECRET"));
    process::send(api.id().unwrap(), Signal::SIGTERM);
    let ended = tokio::time::timeout(system::PATIENCE, api.wait()).await.expect("the API does not end");
    assert!(ended.unwrap().success());
    system.stop().await;
}

#[tokio::test]
async fn up_reports_a_data_folder_or_port_in_use() {
    let system = Setup::default().workers(0).start().await;
    let (code, said) = Setup::over(&system.data).fails().await;
    assert_eq!(code, 5);
    assert!(said.contains("another `tcoder up` uses the data folder") && said.contains("--data"), "{said}");

    let taken = Setup { listen: system.url.replace("http://", ""), ..Setup::default() };
    let data = taken.data.clone();
    let (code, said) = taken.fails().await;
    assert_eq!(code, 5);
    assert!(said.contains("cannot listen on 127.0.0.1") && said.contains("--listen"), "{said}");
    let left = process::processes().into_iter().filter(|p| p.command.contains(data.to_str().unwrap()));
    assert_eq!(left.count(), 0);
    // The folder can be used again.
    Setup::over(&data).workers(0).start().await.stop().await;
    system.stop().await;
}

#[tokio::test]
async fn up_without_tokens_on_a_public_address_is_refused() {
    let (code, said) = Setup { listen: "0.0.0.0:0".into(), ..Setup::default() }.fails().await;
    assert_eq!(code, 5);
    assert!(said.contains("API_TOKENS") && said.contains("127.0.0.1"), "{said}");
    let everywhere = || Setup { listen: "0.0.0.0:0".into(), ..Setup::default() };
    let (code, said) = everywhere().env("API_TOKENS", TOKEN).fails().await;
    assert_eq!(code, 5);
    assert!(said.contains("--public-host"), "{said}");
    let named = everywhere().env("API_TOKENS", TOKEN).env("TCODER_PUBLIC_HOST", "films.example");
    let (code, said) = named.fails().await;
    assert_eq!(code, 5);
    assert!(said.contains("without encryption") && said.contains("--tls-cert"), "{said}");
    let proxied = Setup::default().env("API_PUBLIC_URL", "https://films.example").fails().await;
    assert!(proxied.0 == 5 && proxied.1.contains("set API_TOKENS"), "{}", proxied.1);
    let (code, said) = Setup::default().env("API_TOKENS", "short").fails().await;
    assert_eq!(code, 5);
    assert!(said.contains("API_TOKENS") && !said.contains("\"short\""), "{said}");
    let (code, said) = Setup::default().env("WEBHOOK_SECRET", "hush-hush").fails().await;
    assert_eq!(code, 5);
    assert!(said.contains("WEBHOOK_SECRET") && !said.contains("hush-hush"), "{said}");
}

#[tokio::test]
async fn up_on_all_addresses_uses_its_public_host() {
    let system = Setup { listen: "0.0.0.0:0".into(), ..Setup::default() };
    let system = system.env("API_TOKENS", TOKEN).env("TCODER_PUBLIC_HOST", "localhost");
    let system = system.env("TCODER_PLAIN_HTTP", "true").start().await;
    assert!(system.url.starts_with("http://localhost:"), "{}", system.url);
    assert_eq!(system.storage, system.url);
    // The signature is for the public name; the worker can read the input nevertheless.
    let id = system.upload(clips::clip(), &json!({"outputQualities": ["144p"], "fileName": "a.mp4"})).await;
    let job = system.completed(&id).await;
    let output = job["outputs"][0]["url"].as_str().unwrap();
    assert!(output.starts_with(&system.storage), "{output}");
    assert_eq!(system.http.get(output).send().await.unwrap().status(), 200);
    system.stop().await;
}
