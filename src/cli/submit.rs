//! `tcoder submit`: a video goes in.

use std::path::Path;

use futures::StreamExt as _;
use reqwest::{Body, header};
use tokio_util::io::ReaderStream;
use url::Url;

use super::args::SubmitArgs;
use super::client::{Client, ClientError};
use super::show::say;
use super::{CliError, show, watch};
use crate::api::{FromInput, Upload, Wishes};
use crate::job::{Job, JobId};

pub async fn run(args: SubmitArgs) -> Result<(), CliError> {
    let client = Client::new(&args.server)?;
    let wishes = Wishes {
        // Chosen here, so that a repeated request cannot make a second job.
        job_id: Some(JobId::new()),
        preset: args.wishes.preset,
        output_qualities: args.wishes.quality.clone(),
        webhook_url: args.webhook.clone(),
        priority: args.priority,
        ..Wishes::default()
    };
    let id = match web_address(&args.input) {
        Some(url) => {
            let body = FromInput { input_url: Some(url), wishes, ..FromInput::default() };
            client.submit(&body).await?.job_id
        }
        None => send_file(&client, Path::new(&args.input), wishes).await?,
    };
    if !args.wait && args.output.is_none() {
        return report_submitted(&client, id, args.json).await;
    }
    watch::to_the_end(&client, id, args.output.as_deref(), args.json).await
}

fn web_address(input: &str) -> Option<Url> {
    let looks = input.starts_with("http://") || input.starts_with("https://");
    looks.then(|| input.parse().ok()).flatten()
}

async fn report_submitted(client: &Client, id: JobId, json: bool) -> Result<(), CliError> {
    if json {
        let job: Job = client.get(id).await?;
        return show::json(&job);
    }
    say!("{id}");
    eprintln!("submitted; follow it with `tcoder jobs watch {id}`");
    Ok(())
}

async fn send_file(client: &Client, path: &Path, wishes: Wishes) -> Result<JobId, CliError> {
    let cannot = |e: std::io::Error| CliError::Local(format!("cannot read {}: {e}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(|error| match path.to_str() {
        Some(text) if text.contains("://") => {
            CliError::Local(format!("{text} is neither a file nor an http or https address"))
        }
        _ => cannot(error),
    })?;
    let about = file.metadata().await.map_err(cannot)?;
    if !about.is_file() {
        return Err(CliError::Local(format!("{} is not a file", path.display())));
    }
    if about.len() == 0 {
        return Err(CliError::Local(format!("{} is empty", path.display())));
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    let ticket = client.upload(&Upload { file_name: name, wishes }).await?;
    let Some(url) = ticket.upload_url else { return Ok(ticket.job_id) };
    put(client, url, file, about.len()).await?;
    Ok(ticket.job_id)
}

async fn put(client: &Client, url: Url, file: tokio::fs::File, size: u64) -> Result<(), CliError> {
    let bar = show::bytes_bar("upload", size);
    let told = bar.clone();
    let stream = ReaderStream::with_capacity(file, 256 * 1024).inspect(move |piece| {
        if let Ok(piece) = piece {
            told.inc(piece.len() as u64);
        }
    });
    let request = client.http().put(url).header(header::CONTENT_LENGTH, size).body(Body::wrap_stream(stream));
    let sent = request.send().await.map_err(|e| {
        // Without the address: it is a key to the bucket for an hour.
        ClientError::Storage(format!("the upload broke off: {}; submit it again", e.without_url()))
    })?;
    bar.finish_and_clear();
    if sent.status().is_success() {
        return Ok(());
    }
    Err(ClientError::Storage(format!("storage refused the upload ({}); submit it again", sent.status()))
        .into())
}
