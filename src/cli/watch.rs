//! Follows a job until it ends: by its event stream, or by polling if the stream is not available.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use indicatif::ProgressBar;

use super::client::ApiClient;
use super::{CliError, fetch, output};
use crate::job::{Job, JobId, State};

/// Maximum number of consecutive interruptions of the stream.
const BREAKS: u32 = 10;

/// Shows the progress until the job has ended, then its outputs, and downloads them to `output`.
///
/// A failed or cancelled job is an error.
pub(crate) async fn to_the_end(
    client: &ApiClient,
    id: JobId,
    output: Option<&Path>,
    json: bool,
) -> Result<(), CliError> {
    let job = tokio::select! {
        job = follow(client, id) => job?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\nthe job continues; follow it with `tcoder jobs watch {id}`, \
                       or cancel it with `tcoder jobs cancel {id}`");
            return Err(CliError::Interrupted);
        }
    };
    if let (State::Completed, Some(dir)) = (job.status, output) {
        fetch::outputs(client, &job, dir).await?;
    }
    if json {
        output::json(&job)?;
    } else if job.status == State::Completed {
        output::outputs(&job, output);
    }
    match job.status {
        State::Completed => Ok(()),
        State::Cancelled => Err(CliError::Failed("the job was cancelled".into())),
        _ => {
            let why = job.error.map_or_else(|| "the job failed".into(), |failure| failure.message);
            Err(CliError::Failed(why))
        }
    }
}

async fn follow(client: &ApiClient, id: JobId) -> Result<Job, CliError> {
    let bar = output::percent_bar();
    let mut breaks = 0;
    let mut last: Option<State> = None;
    loop {
        // An interrupted stream is opened again; its first event is the current state of the job.
        let broken = match client.events(id).await {
            Err(error) => error,
            Ok(events) => {
                let mut events = std::pin::pin!(events);
                loop {
                    match events.next().await {
                        Some(Ok(job)) => {
                            breaks = 0;
                            tell(&bar, &job, &mut last);
                            if job.status.is_terminal() {
                                bar.finish_and_clear();
                                return Ok(job);
                            }
                        }
                        Some(Err(error)) => break error,
                        // The server ends the stream when it stops.
                        None => break client.get(id).await.err().unwrap_or_else(|| client.gone()),
                    }
                }
            }
        };
        breaks += 1;
        if breaks > BREAKS || !broken.is_passing() {
            bar.finish_and_clear();
            return Err(broken.into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn tell(bar: &ProgressBar, job: &Job, last: &mut Option<State>) {
    let words = match job.status {
        State::Uploading => "waiting for the upload",
        State::Queued if job.error.is_some() => "waiting for another attempt",
        State::Queued => "waiting for a worker",
        State::Running => "encoding",
        State::Playable => "encoding, and playable already",
        State::Completed | State::Failed | State::Cancelled => "",
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    bar.set_position(job.progress.clamp(0.0, 100.0) as u64);
    bar.set_message(words);
    // If no bar can be drawn, each change is printed as a line.
    if bar.is_hidden() && *last != Some(job.status) && !words.is_empty() {
        eprintln!("{} {words}", job.job_id);
    }
    *last = Some(job.status);
}
