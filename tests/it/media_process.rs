//! FFmpeg as a process: it ends when it must, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use tcoder::job::{FailureCode, InputLimits, Ladder, Preset, Stills};
use tcoder::transcoder::{EncodeProgress, Encoded, TranscodeError, TranscodeRequest, transcode};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::clips::long;

struct Limits {
    stall: Duration,
    deadline: Duration,
    cancel: CancellationToken,
}

impl Default for Limits {
    fn default() -> Self {
        let long = Duration::from_secs(600);
        Self { stall: long, deadline: long, cancel: CancellationToken::new() }
    }
}

async fn run(
    input: &Path,
    out: &Path,
    limits: Limits,
    on_progress: &(dyn Fn(EncodeProgress) + Send + Sync),
) -> Result<Encoded, TranscodeError> {
    let ladder: Ladder = "720p,144p".parse().unwrap();
    transcode(TranscodeRequest {
        input,
        out_dir: out,
        preset: Preset::HlsAdaptive,
        ladder: &ladder,
        stills: Stills::default(),
        input_limits: InputLimits::default(),
        disk_bytes: None,
        stall_timeout: limits.stall,
        deadline: limits.deadline,
        cancel: limits.cancel,
        on_progress,
    })
    .await
}

/// A copy of the long clip with a unique name, by which its FFmpeg can be identified.
fn own_copy(folder: &TempDir) -> std::path::PathBuf {
    let path = folder.path().join("long.mp4");
    std::fs::hard_link(long(), &path).or_else(|_| std::fs::copy(long(), &path).map(|_| ())).unwrap();
    path
}

/// Ids of the processes with this file among their arguments.
fn processes_on(input: &Path) -> Vec<i32> {
    let input = input.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process may end after it was listed, and a zombie has no arguments.
    let arguments = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.filter(|pid| String::from_utf8_lossy(&arguments(pid)).contains(input)).collect()
}

#[tokio::test]
async fn cancelled_encode_leaves_no_process_and_no_files() {
    let folder = TempDir::new().unwrap();
    let input = own_copy(&folder);
    let out = folder.path().join("out");
    let cancel = CancellationToken::new();
    let running = std::sync::atomic::AtomicUsize::new(0);
    let at_first_headway = |_: EncodeProgress| {
        running.fetch_max(processes_on(&input).len(), std::sync::atomic::Ordering::Relaxed);
        cancel.cancel();
    };
    let limits = Limits { cancel: cancel.clone(), ..Limits::default() };
    let error = run(&input, &out, limits, &at_first_headway).await.unwrap_err();
    assert_eq!(error, TranscodeError::Cancelled);
    assert_eq!(running.into_inner(), 1, "it was running");
    assert!(processes_on(&input).is_empty(), "it is killed and reaped");
    assert!(!out.exists(), "the folder that was made for it is gone");
}

#[tokio::test]
async fn encode_cancelled_before_its_start_does_not_start() {
    let folder = TempDir::new().unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let limits = Limits { cancel, ..Limits::default() };
    let error = run(&long(), &folder.path().join("out"), limits, &|_| ()).await.unwrap_err();
    assert_eq!(error, TranscodeError::Cancelled);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn dropped_encode_leaves_no_process_and_no_files() {
    let folder = TempDir::new().unwrap();
    let input = own_copy(&folder);
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let (tell, hear) = tokio::sync::oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let at_first_headway = |_: EncodeProgress| {
        if let Some(tell) = tell.lock().unwrap().take() {
            tell.send(()).unwrap();
        }
    };
    tokio::select! {
        result = run(&input, &out, Limits::default(), &at_first_headway) => panic!("{result:?}"),
        heard = hear => heard.unwrap(),
    }
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}

#[tokio::test]
async fn encode_past_its_deadline_fails() {
    let folder = TempDir::new().unwrap();
    let input = own_copy(&folder);
    let out = folder.path().join("out");
    let limits = Limits { deadline: Duration::from_secs(1), ..Limits::default() };
    let error = run(&input, &out, limits, &|_| ()).await.unwrap_err();
    let TranscodeError::Failed(failure) = error else { panic!("{error:?}") };
    assert_eq!(failure.code, FailureCode::DeadlineExceeded, "{failure}");
    assert!(processes_on(&input).is_empty());
    assert!(!out.exists());
}

#[tokio::test]
async fn ffmpeg_without_progress_is_killed() {
    let folder = TempDir::new().unwrap();
    let input = own_copy(&folder);
    let out = folder.path().join("out");
    let freeze_at_first_headway = |_: EncodeProgress| {
        for id in processes_on(&input) {
            let id = nix::unistd::Pid::from_raw(id);
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP).unwrap();
        }
    };
    let limits = Limits { stall: Duration::from_secs(2), ..Limits::default() };
    let error = run(&input, &out, limits, &freeze_at_first_headway).await.unwrap_err();
    let TranscodeError::Failed(failure) = error else { panic!("{error:?}") };
    assert_eq!(failure.code, FailureCode::Stalled, "{failure}");
    assert!(failure.message.contains("no headway for 2 s"), "{failure}");
    assert!(processes_on(&input).is_empty(), "a stopped process dies too");
    assert!(!out.exists());
}

#[tokio::test]
async fn ffmpeg_killed_by_others_is_not_blamed_on_the_file() {
    let folder = TempDir::new().unwrap();
    let input = own_copy(&folder);
    let out = folder.path().join("out");
    let kill_at_first_headway = |_: EncodeProgress| {
        for id in processes_on(&input) {
            // It may already be dead.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL);
        }
    };
    let error = run(&input, &out, Limits::default(), &kill_at_first_headway).await.unwrap_err();
    let TranscodeError::Failed(failure) = error else { panic!("{error:?}") };
    assert_eq!(failure.code, FailureCode::Worker, "{failure}");
    assert!(failure.message.contains("signal 9"), "{failure}");
    assert!(!out.exists());
}
