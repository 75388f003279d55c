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
use crate::controller::new_failure;
use crate::crd::{
    FailureStatus, JobPhase, TranscodeJobSpec, TranscodeJobStatus, WorkerPoolSpec, condition, reason,
};
use crate::job::WorkerClass;

/// How long an operator that runs may need for the address of an upload.
const URL_WITHIN: Duration = Duration::from_secs(60);
/// Maximum number of consecutive failures of the watch.
const FAILURES: u32 = 10;

/// Shows the progress until the job has ended, then its outputs. A failed job is an error.
pub(super) async fn to_the_end(jobs: &Jobs, name: &str, json: bool) -> Result<(), CliError> {
    let bar = output::percent_bar();
    let mut news = News::default();
    let (awaited, changes) = watch::channel(None);
    let ended = tokio::select! {
        ended = until(jobs, name, |job, status| {
            awaited.send_if_modified(|before| {
                let is_queued = status.phase == Some(JobPhase::Queued);
                let class = is_queued.then(|| job.worker_class.clone());
                std::mem::replace(before, class.clone()) != class
            });
            show(&bar, name, status);
            for line in news.of(status) {
                bar.suspend(|| eprintln!("{name}: {line}"));
            }
            is_over(status).then(|| status.clone())
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
            && let Some(why) = no_pool_of(&class, pools.iter().filter_map(|pool| Some(&pool.0.as_ref().ok()?.spec)))
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
    let is_made = pools.any(|pool| !pool.paused && pool.worker_classes.contains(class));
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

/// What was told about a job so far.
#[derive(Default)]
struct News {
    hindrances: Vec<String>,
    failure: Option<FailureStatus>,
}

impl News {
    /// What a status of the job says that was not told yet: why it cannot go on or is held back, and why an attempt failed. The end
    /// of the job is told otherwise.
    fn of(&mut self, status: &TranscodeJobStatus) -> Vec<String> {
        if is_over(status) {
            return Vec::new();
        }
        let failure = new_failure(self.failure.as_ref(), status.last_failure.as_ref());
        self.failure.clone_from(&status.last_failure);
        let now = hindrances(status);
        let before = std::mem::replace(&mut self.hindrances, now.clone());
        failure.into_iter().chain(now.into_iter().filter(|line| !before.contains(line))).collect()
    }
}

/// Why a job that has not ended cannot go on, or is held back.
fn hindrances(status: &TranscodeJobStatus) -> Vec<String> {
    let waits = held(status, condition::STALLED).or_else(|| held(status, condition::SUSPENDED));
    let is_away = |reason: &str| [reason::REDIS_UNAVAILABLE, reason::STORAGE_UNAVAILABLE].contains(&reason);
    let away = held(status, condition::RECONCILING).filter(|(reason, _)| is_away(reason));
    waits.into_iter().chain(away).map(|(reason, message)| format!("{message} ({reason})")).collect()
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
    use serde_json::{Value, json};

    use super::*;

    fn status(conditions: &[(&str, &str, &str)], rest: Value) -> TranscodeJobStatus {
        let condition = |(type_, reason, message): &(&str, &str, &str)| {
            json!({
                "type": type_, "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let mut all = rest;
        all["conditions"] = conditions.iter().map(condition).collect();
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn services_that_are_away_are_told_once_beside_what_a_job_waits_for() {
        let (redis, storage) = ("RedisUnavailable", "StorageUnavailable");
        let runs = || status(&[("Reconciling", "InProgress", "a worker is processing the job")], json!({}));
        let mut news = News::default();
        let mut told = |status: &TranscodeJobStatus| news.of(status);
        assert_eq!(told(&runs()), Vec::<String>::new());
        for reason in [redis, storage, redis] {
            let away = status(&[("Reconciling", reason, "it does not answer")], json!({}));
            assert_eq!(told(&away), [format!("it does not answer ({reason})")]);
            assert_eq!(told(&away), Vec::<String>::new());
        }
        let stalled = ("Stalled", "SecretNotUsable", "there is no Secret");
        let both = status(&[stalled, ("Reconciling", redis, "it does not answer")], json!({}));
        assert_eq!(told(&both), ["there is no Secret (SecretNotUsable)"]);
        // It comes again.
        assert_eq!(told(&runs()), Vec::<String>::new());
        assert_eq!(told(&both).len(), 2);
    }

    #[test]
    fn each_failed_attempt_is_told_once_with_its_message() {
        let failed = |attempt: i32, part: Option<&str>, conditions: &[(&str, &str, &str)]| {
            let failure =
                json!({"code": "inputUnreachable", "message": "no answer", "attempt": attempt, "part": part});
            status(conditions, json!({"lastFailure": failure}))
        };
        let mut news = News::default();
        let mut told = |status: TranscodeJobStatus| news.of(&status);
        assert_eq!(told(failed(1, None, &[])), ["attempt 1 failed (inputUnreachable): no answer"]);
        assert_eq!(told(failed(1, None, &[])), Vec::<String>::new());
        assert_eq!(told(failed(2, None, &[])), ["attempt 2 failed (inputUnreachable): no answer"]);
        let of_part = ["attempt 1 at the part chunk-3 failed (inputUnreachable): no answer"];
        assert_eq!(told(failed(1, Some("chunk-3"), &[])), of_part);
        // The last one is why the job failed, which is told as its end.
        let mut last = failed(3, None, &[("Failed", "BackoffLimitExceeded", "no answer")]);
        last.phase = Some(JobPhase::Failed);
        assert_eq!(told(last), Vec::<String>::new());
    }

    #[test]
    fn missing_pool_of_a_class_is_told() {
        let pool = |classes: &[&str]| -> WorkerPoolSpec {
            serde_json::from_value(json!({"workerClasses": classes})).unwrap()
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
