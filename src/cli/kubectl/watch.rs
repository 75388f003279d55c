//! Follows a TranscodeJob by its status.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use indicatif::ProgressBar;
use kube::ResourceExt as _;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;
use tokio::time::timeout;
use url::Url;

use super::{ANSWERS_WITHIN, Call, Jobs, refused};
use crate::cli::{CliError, output};
use crate::crd::{JobPhase, TranscodeJobSpec, TranscodeJobStatus, WorkerPoolSpec, condition, reason};
use crate::job::WorkerClass;

/// How long an operator that runs may need for the address of an upload.
const URL_WITHIN: Duration = Duration::from_secs(60);
/// Maximum number of consecutive failures of the watch.
const FAILURES: u32 = 10;

/// Shows the progress until the job has ended, then its outputs. A failed job is an error.
pub(super) async fn to_the_end(jobs: &Jobs, name: &str, json: bool) -> Result<(), CliError> {
    let bar = output::percent_bar();
    let mut told = None;
    let (awaited, changes) = watch::channel(None);
    let ended = tokio::select! {
        ended = until(jobs, name, |job, status| {
            awaited.send_if_modified(|before| {
                let is_queued = status.phase == Some(JobPhase::Queued);
                let class = is_queued.then(|| job.worker_class.clone());
                std::mem::replace(before, class.clone()) != class
            });
            show(&bar, name, status);
            let is_over = is_over(status);
            let hindrance = hindrance(status).filter(|_| !is_over);
            if let Some((reason, message)) = hindrance && told.as_deref() != Some(message) {
                bar.suspend(|| eprintln!("{name}: {message} ({reason})"));
            }
            told = hindrance.map(|(_, message)| message.to_owned());
            is_over.then(|| status.clone())
        }) => ended,
        never = explain_wait(jobs, name, &bar, changes) => match never {},
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
    };
    bar.finish_and_clear();
    if let Err(CliError::Interrupted) = ended {
        let options = &jobs.options;
        eprintln!(
            "\nthe job continues; follow it with `kubectl tcoder watch {name}{options}`, \
                   or cancel it with `kubectl delete tj {name}{options}`"
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
pub(super) async fn upload_url(jobs: &Jobs, name: &str) -> Result<Url, CliError> {
    let found = until(jobs, name, |_, status| {
        let url = status.upload_url.as_deref().and_then(|url| url.parse::<Url>().ok());
        url.map(Ok).or_else(|| is_over(status).then(|| Err(CliError::Failed(failure(status)))))
    });
    timeout(URL_WITHIN, found).await.unwrap_or_else(|_| {
        let (seconds, options) = (URL_WITHIN.as_secs(), &jobs.options);
        Err(CliError::Local(format!(
            "the TranscodeJob {name} got no address for its upload within {seconds} s; see `kubectl describe tj {name}{options}`, and \
             whether the controller of tcoder runs"
        )))
    })?
}

/// Says each time that the job begins to wait for a worker if no WorkerPool makes one that takes it.
async fn explain_wait(
    jobs: &Jobs,
    name: &str,
    bar: &ProgressBar,
    mut awaited: watch::Receiver<Option<WorkerClass>>,
) -> Infallible {
    loop {
        let class = awaited.borrow_and_update().clone();
        if let Some(class) = class
            // Not everybody may read the pools.
            && let Ok(Ok(pools)) = timeout(ANSWERS_WITHIN, jobs.pools.list(&ListParams::default())).await
            && let Some(why) = no_pool_of(&class, pools.items.iter().map(|pool| &pool.spec))
        {
            bar.suspend(|| eprintln!("{name}: {why}"));
        }
        if awaited.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What to know if none of these pools makes workers of this class.
fn no_pool_of<'a>(
    class: &WorkerClass,
    pools: impl IntoIterator<Item = &'a WorkerPoolSpec>,
) -> Option<String> {
    let mut pools = pools.into_iter().peekable();
    // Without any pool the environment of the controller may configure machines, or they are run by hand.
    let is_usual = class.is_default() && pools.peek().is_none();
    let is_made = pools.any(|pool| pool.worker_classes.contains(class));
    (!is_usual && !is_made).then(|| {
        format!(
            "no WorkerPool makes workers of the class {class}; unless there are others, the job waits until a pool names the \
             class in spec.workerClasses"
        )
    })
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

/// Why a job that has not ended cannot go on, or is held back.
fn hindrance(status: &TranscodeJobStatus) -> Option<(&str, &str)> {
    held(status, condition::STALLED).or_else(|| held(status, condition::SUSPENDED))
}

fn failure(status: &TranscodeJobStatus) -> String {
    let held = held(status, condition::FAILED).or_else(|| held(status, condition::STALLED));
    held.map_or_else(|| "the job failed".to_owned(), |(reason, message)| format!("{message} ({reason})"))
}

/// Follows an object until `pick` finds what it looks for in its status.
async fn until<T>(
    jobs: &Jobs,
    name: &str,
    mut pick: impl FnMut(&TranscodeJobSpec, &TranscodeJobStatus) -> Option<T>,
) -> Result<T, CliError> {
    let mut changes = pin!(watcher::watch_object(jobs.api.clone(), name).default_backoff());
    let (mut failures, mut followed) = (0, None);
    loop {
        match changes.next().await {
            Some(Ok(Some(job))) => {
                failures = 0;
                let uid = job.uid();
                if followed.is_some() && followed != uid {
                    return Err(CliError::Failed(format!(
                        "the TranscodeJob {name} was deleted and created anew"
                    )));
                }
                followed = uid;
                if let Some(found) = pick(&job.spec, &job.status.unwrap_or_default()) {
                    return Ok(found);
                }
            }
            Some(Ok(None)) => {
                let what =
                    if followed.is_some() { "was deleted" } else { "does not exist in this namespace" };
                return Err(CliError::Failed(format!("the TranscodeJob {name} {what}")));
            }
            Some(Err(error)) => {
                failures += 1;
                let call = failed_call(&error);
                if failures > FAILURES || call.is_some_and(is_final) {
                    let other = || CliError::Local(format!("cannot show the TranscodeJob: {error}"));
                    return Err(call.map_or_else(other, |error| refused(error, Call::Watch)));
                }
            }
            None => return Err(CliError::Failed("the watch of the TranscodeJob ended".to_owned())),
        }
    }
}

/// The call that failed; `None` if the API server ended the watch, for example because its version is too old, so that the object
/// is read anew.
const fn failed_call(error: &watcher::Error) -> Option<&kube::Error> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Some(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => None,
    }
}

/// Whether a retry would fail, too.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_pool_of_a_class_is_told() {
        let pool = |classes: &[&str]| -> WorkerPoolSpec {
            serde_json::from_value(serde_json::json!({"workerClasses": classes})).unwrap()
        };
        let large: WorkerClass = "large".parse().unwrap();
        let pools = [pool(&["default"]), pool(&["default", "large"])];
        assert_eq!(no_pool_of(&large, &pools), None);
        let why = no_pool_of(&large, &pools[..1]).unwrap();
        assert!(why.starts_with("no WorkerPool makes workers of the class large;"), "{why}");
        assert!(no_pool_of(&large, &[]).is_some());
        assert_eq!(no_pool_of(&WorkerClass::default(), &[]), None, "the environment may configure machines");
        assert!(no_pool_of(&WorkerClass::default(), &[pool(&["large"])]).is_some());
    }
}
