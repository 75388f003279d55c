//! Finds the key that signs the webhook of a TranscodeJob.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::Client;

use super::secrets::read;
use super::transcode_job::{Context, Webhook, WebhookRequest};
use crate::job::Job;
use crate::webhook::{Key, KeyUnavailable, SigningKeys};

/// Signs webhooks with the Secrets that TranscodeJobs refer to. Whoever can write to Redis can write a job that names any
/// Secret, so that only what the API server knows of the TranscodeJob counts.
pub(crate) struct SecretKeys {
    /// The client of the API server.
    pub client: Client,
    /// The TranscodeJobs.
    pub objects: Arc<Context>,
}

impl SecretKeys {
    async fn find(&self, job: &Job) -> Result<Arc<Key>, KeyUnavailable> {
        let (Some(secret), Some(url)) = (&job.spec.webhook_key, &job.spec.webhook_url) else {
            return Err(KeyUnavailable::Never("the job names no Secret".to_owned()));
        };
        let requested = WebhookRequest { url: url.clone(), secret: secret.clone() };
        match self.objects.webhook_of(job.job_id) {
            Webhook::Unread => {
                Err(KeyUnavailable::NotNow("the TranscodeJobs are being read for the first time".to_owned()))
            }
            Webhook::Of(there) if there == requested => {
                read(&self.client, secret).await.map(Arc::new).map_err(|error| KeyUnavailable::NotNow(error.to_string()))
            }
            // Another controller on the same Redis may know the object.
            Webhook::None => Err(KeyUnavailable::NotNow(
                "no TranscodeJob of this controller has the uid that is the job's id; its webhook is not signed".to_owned(),
            )),
            Webhook::Of(_) => Err(KeyUnavailable::NotNow(
                "the job's webhook is not that of its TranscodeJob, so it is not signed".to_owned(),
            )),
        }
    }
}

impl SigningKeys for SecretKeys {
    fn key<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Result<Arc<Key>, KeyUnavailable>> {
        self.find(job).boxed()
    }
}
