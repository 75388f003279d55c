//! An unusable file ends its job at once with one clear sentence, and leaves nothing behind.

use serde_json::{Value, json};

use crate::support::clips::clip;
use crate::support::system::Setup;

fn is_one_sentence(error: &Value) -> bool {
    let message = error.as_str().unwrap();
    (10..=300).contains(&message.chars().count()) && !message.contains('\n') && !message.contains("/")
}

#[tokio::test]
async fn bad_files_fail_once_and_leave_no_outputs() {
    let system = Setup::default().start().await;
    let whole = std::fs::read(clip()).unwrap();
    let files: [(&str, Vec<u8>); 7] = [
        ("empty.mp4", Vec::new()),
        ("text.mp4", b"this is a letter and no film\n".repeat(100)),
        ("playlist.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n".to_vec()),
        ("concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n".to_vec()),
        ("cut.mp4", whole[..whole.len() / 3].to_vec()),
        ("zeros.mp4", vec![0; 100_000]),
        (
            "picture.svg",
            b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>".to_vec(),
        ),
    ];
    let mut ids = Vec::new();
    for (name, bytes) in &files {
        let options = json!({"fileName": name, "preset": "web-optimized", "outputQualities": ["144p"]});
        ids.push((name, system.upload_bytes(bytes.clone(), &options).await));
    }
    for (name, id) in ids {
        let job = system.ended(&id).await;
        assert_eq!((&job["status"], &job["attempt"]), (&json!("failed"), &json!(1)), "{name}: {job:#}");
        let code = job["errorCode"].as_str().unwrap();
        assert!(matches!(code, "invalidMedia" | "unsupportedMedia"), "{name}: {job:#}");
        assert!(is_one_sentence(&job["error"]), "{name}: {}", job["error"]);
        assert!(job["outputs"].is_null() && job["timestamps"]["retryAt"].is_null(), "{name}: {job:#}");
    }
    let missing = system.submit(&json!({"inputKey": "inputs/nobody/missing.mp4"})).await;
    let job = system.ended(&missing).await;
    assert_eq!((&job["errorCode"], &job["attempt"]), (&json!("inputNotFound"), &json!(1)), "{job:#}");
    assert!(job["error"].as_str().unwrap().contains("missing.mp4"), "{job:#}");

    // Only what shuts out attempts that may be on their way.
    let left = system.objects("output", "outputs").await;
    assert!(left.iter().all(|key| key.ends_with("/manifest.json")), "{left:?}");
    system.stop().await;
}

#[tokio::test]
async fn failed_job_leaves_no_files_on_the_worker() {
    let system = Setup::default().workers(0).start().await;
    let mut worker = system.worker("clean", &[("WORKER_MAX_JOBS", "1")]);
    let job =
        system.ended(&system.upload_bytes(b"no film".to_vec(), &json!({"fileName": "a.mp4"})).await).await;
    assert_eq!(job["status"], "failed");
    assert!(worker.over().await.success());
    assert_eq!(std::fs::read_dir(&worker.scratch).unwrap().count(), 0);
}
