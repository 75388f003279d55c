//! `tcoder jobs`: lists, shows, watches, cancels and retries jobs.

use super::args::{JobsArgs, JobsCommand};
use super::client::ApiClient;
use super::{CliError, output, watch};
use crate::job::{Job, State};

/// Maximum number of jobs per page of the API.
const PAGE: u32 = 100;

pub(crate) async fn run(args: JobsArgs) -> Result<(), CliError> {
    let client = ApiClient::new(&args.server)?;
    match args.command {
        JobsCommand::List { status, limit } => list(&client, status, limit, args.json).await,
        JobsCommand::Get { id } => one(&client.get(id).await?, args.json),
        JobsCommand::Cancel { id } => one(&client.cancel(id).await?, args.json),
        JobsCommand::Retry { id } => one(&client.retry(id).await?, args.json),
        JobsCommand::Watch { id, output } => {
            watch::to_the_end(&client, id, output.as_deref(), args.json).await
        }
    }
}

async fn list(client: &ApiClient, status: Option<State>, limit: u32, json: bool) -> Result<(), CliError> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut unreadable = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let left = limit - u32::try_from(jobs.len()).unwrap_or(limit);
        let page = client.list(status, left.min(PAGE), cursor.as_deref()).await?;
        jobs.extend(page.jobs);
        unreadable.extend(page.unreadable);
        cursor = page.next_cursor;
        if cursor.is_none() || jobs.len() >= limit as usize {
            break;
        }
    }
    if json {
        return output::json(&jobs);
    }
    output::jobs(&jobs);
    for job in unreadable {
        output::outln!("{}: the server cannot read this job: {}", job.job_id, job.error);
    }
    Ok(())
}

fn one(job: &Job, json: bool) -> Result<(), CliError> {
    if json {
        return output::json(job);
    }
    output::job(job);
    Ok(())
}
