//! `tcoder submit`: submits a job and uploads its video.

use std::path::Path;

use super::args::SubmitArgs;
use super::client::{ApiClient, ClientError};
use super::multipart::MultipartUpload;
use super::output::outln;
use super::upload::{self, FileToPut, UploadTimeouts, put, web_address};
use super::{CliError, output, watch};
use crate::api::{CreateJobRequest, CreateUploadRequest, JobOptions};
use crate::job::{Job, JobId};
use crate::storage::content_type;

pub(crate) async fn run(args: SubmitArgs) -> Result<(), CliError> {
    let client = ApiClient::new(&args.server)?;
    let options = JobOptions {
        preset: args.encode.preset,
        output_qualities: args.encode.quality.clone(),
        stills: args.encode.stills(),
        webhook_url: args.webhook.clone(),
        priority: args.priority,
        parallelism: args.parallelism,
        worker_class: args.worker_class.clone(),
        ..JobOptions::default()
    };
    let id = match web_address(&args.input) {
        Some(url) => {
            let body = CreateJobRequest { input_url: Some(url), options, ..CreateJobRequest::default() };
            client.submit(&body).await?.job_id
        }
        None => send_file(&client, Path::new(&args.input), options).await?,
    };
    if !args.wait && args.output.is_none() {
        return report_submitted(&client, id, args.json).await;
    }
    watch::to_the_end(&client, id, args.output.as_deref(), args.json).await
}

async fn report_submitted(client: &ApiClient, id: JobId, json: bool) -> Result<(), CliError> {
    if json {
        let job: Job = client.get(id).await?;
        return output::json(&job);
    }
    outln!("{id}");
    eprintln!("submitted; follow it with `tcoder jobs watch {id}`");
    Ok(())
}

async fn send_file(client: &ApiClient, path: &Path, options: JobOptions) -> Result<JobId, CliError> {
    let (file, size) = upload::open(path).await?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    let media_type = name.as_deref().and_then(|name| content_type(name).parse().ok());
    let request = CreateUploadRequest {
        file_name: name,
        file_size: Some(size),
        content_type: media_type,
        options,
        ..CreateUploadRequest::default()
    };
    let ticket = client.upload(&request).await?;
    let Some(url) = ticket.upload_url else { return Ok(ticket.job_id) };
    let bar = output::bytes_bar("upload", size);
    let told = bar.clone();
    let on_bytes = move |more| told.inc(more);
    let sending = async {
        match &ticket.multipart {
            Some(multipart) => {
                let sending = MultipartUpload {
                    client,
                    id: ticket.job_id,
                    file: path,
                    size,
                    media_type: ticket.content_type.as_ref(),
                    bar: &bar,
                };
                sending.send(multipart).await
            }
            None => {
                let file = FileToPut { bytes: file, size, media_type: ticket.content_type.as_ref() };
                put(client.uploads(), url, file, UploadTimeouts::default(), on_bytes).await.map(drop)
            }
        }
    };
    let sent = tokio::select! {
        sent = sending => sent,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            eprintln!("{}", cancel_with(client, ticket.job_id).await);
            return Err(CliError::Interrupted);
        }
    };
    bar.finish_and_clear();
    match sent {
        Ok(()) => {
            // If storage reports the upload, too, this changes nothing. If neither report arrives, the janitor finds
            // the upload later.
            if let Err(error) = client.uploaded(ticket.job_id).await {
                tracing::debug!(job = %ticket.job_id, %error, "could not report the upload");
            }
            Ok(ticket.job_id)
        }
        Err(error) => {
            let then = cancel_with(client, ticket.job_id).await;
            Err(ClientError::Storage(format!("the upload failed: {error}; {then}")).into())
        }
    }
}

/// Cancels a job whose video was not uploaded, because it would otherwise wait for it. Returns what the user should
/// do.
async fn cancel_with(client: &ApiClient, id: JobId) -> String {
    match client.cancel(id).await {
        Ok(_) => format!("job {id} was cancelled; submit it again"),
        Err(_) => {
            format!(
                "cancel job {id} with `tcoder jobs cancel {id}` when the server answers again, and submit it again"
            )
        }
    }
}
