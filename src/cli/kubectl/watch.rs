//! Follows a TranscodeJob by its status.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use indicatif::ProgressBar;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::time::timeout;
use url::Url;

use super::refused;
use crate::cli::{CliError, output};
use crate::crd::{JobPhase, TranscodeJob, TranscodeJobStatus, condition, reason};

/// How long an operator that runs may need for the address of an upload.
const URL_WITHIN: Duration = Duration::from_secs(60);
/// Maximum number of consecutive failures of the watch.
const FAILURES: u32 = 10;

/// Shows the progress until the job has ended, then its outputs. A failed job is an error.
pub(super) async fn to_the_end(jobs: &Api<TranscodeJob>, name: &str, json: bool) -> Result<(), CliError> {
    let bar = output::percent_bar();
    let ended = tokio::select! {
        ended = until(jobs, name, |status| {
            show(&bar, name, status);
            is_over(status).then(|| status.clone())
        }) => ended,
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
    };
    bar.finish_and_clear();
    if let Err(CliError::Interrupted) = ended {
        eprintln!(
            "\nthe job continues; follow it with `kubectl tcoder watch {name}`, \
                   or cancel it with `kubectl delete tj {name}`"
        );
    }
    let status = ended?;
    if json {
        output::json(&status)?;
    }
    if status.phase != Some(JobPhase::Complete) {
        return Err(CliError::Failed(failure(&status)));
    }
    if !json {
        print(&status);
    }
    Ok(())
}

/// Waits for the address of the upload.
pub(super) async fn upload_url(jobs: &Api<TranscodeJob>, name: &str) -> Result<Url, CliError> {
    let found = until(jobs, name, |status| {
        let url = status.upload_url.as_deref().and_then(|url| url.parse::<Url>().ok());
        url.map(Ok).or_else(|| is_over(status).then(|| Err(CliError::Failed(failure(status)))))
    });
    timeout(URL_WITHIN, found).await.unwrap_or_else(|_| {
        let seconds = URL_WITHIN.as_secs();
        Err(CliError::Local(format!(
            "the TranscodeJob {name} got no address for its upload within {seconds} s; see `kubectl describe tj {name}`, and \
             whether the controller of tcoder runs"
        )))
    })?
}

/// Whether the job has ended, or never begins.
fn is_over(status: &TranscodeJobStatus) -> bool {
    status.phase.is_some_and(JobPhase::is_terminal)
        || held(status, condition::STALLED).is_some_and(|(reason, _)| reason == reason::INVALID_SPEC)
}

/// The reason and the message of a condition that is true.
fn held<'a>(status: &'a TranscodeJobStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let held =
        status.conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")?;
    Some((&held.reason, &held.message))
}

fn failure(status: &TranscodeJobStatus) -> String {
    let held = held(status, condition::FAILED).or_else(|| held(status, condition::STALLED));
    held.map_or_else(|| "the job failed".to_owned(), |(reason, message)| format!("{message} ({reason})"))
}

/// Follows an object until `pick` finds what it looks for in its status.
async fn until<T>(
    jobs: &Api<TranscodeJob>,
    name: &str,
    mut pick: impl FnMut(&TranscodeJobStatus) -> Option<T>,
) -> Result<T, CliError> {
    let mut changes = pin!(watcher::watch_object(jobs.clone(), name).default_backoff());
    let (mut failures, mut was_there) = (0, false);
    loop {
        match changes.next().await {
            Some(Ok(Some(job))) => {
                (failures, was_there) = (0, true);
                if let Some(found) = pick(&job.status.unwrap_or_default()) {
                    return Ok(found);
                }
            }
            Some(Ok(None)) => {
                let what = if was_there { "was deleted" } else { "does not exist in this namespace" };
                return Err(CliError::Failed(format!("the TranscodeJob {name} {what}")));
            }
            Some(Err(error)) => {
                failures += 1;
                let watcher::Error::InitialListFailed(cause) = &error else { continue };
                if failures > FAILURES || matches!(cause, kube::Error::Api(_)) {
                    return Err(refused(cause, "show the TranscodeJob"));
                }
            }
            None => return Err(CliError::Failed("the watch of the TranscodeJob ended".to_owned())),
        }
    }
}

fn show(bar: &ProgressBar, name: &str, status: &TranscodeJobStatus) {
    let words = match status.phase {
        None | Some(JobPhase::Pending) => "waiting for the controller",
        Some(JobPhase::Uploading) => "waiting for the upload",
        Some(JobPhase::Queued) if status.last_failure.is_some() => "waiting for another attempt",
        Some(JobPhase::Queued) => "waiting for a worker",
        Some(JobPhase::Running) => "encoding",
        Some(JobPhase::Suspended) => "suspended",
        Some(JobPhase::Complete | JobPhase::Failed) => "",
    };
    bar.set_position(status.progress_percent.and_then(|percent| percent.try_into().ok()).unwrap_or(0));
    // If no bar can be drawn, each change is printed as a line.
    if bar.is_hidden() && bar.message() != words && !words.is_empty() {
        eprintln!("{name} {words}");
    }
    bar.set_message(words);
}

fn print(status: &TranscodeJobStatus) {
    for output in &status.outputs {
        let place = output.url.as_deref().unwrap_or(&output.key);
        output::outln!("{} {}x{} {}", output.quality, output.width, output.height, place);
    }
    for entry in &status.entries {
        output::outln!("{} {}", entry.kind, entry.url.as_deref().unwrap_or(&entry.key));
    }
    for (what, file) in [("poster", &status.poster), ("storyboard", &status.storyboard)] {
        if let Some(file) = file {
            output::outln!("{what} {}", file.url.as_deref().unwrap_or(&file.key));
        }
    }
}
