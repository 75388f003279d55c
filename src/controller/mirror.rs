//! Shows jobs that were submitted through the API or by uploads as TranscodeJobs, so that `kubectl get tj`
//! lists all jobs.
//!
//! A mirror is created at the first event of its job. From then on it is treated like any other TranscodeJob:
//! its status is updated and its TTL applies. Redis remains the source of truth: deleting a mirror does not
//! delete the job. The number of mirrors is limited; the oldest ones of finished jobs are deleted first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::transcode_job::{Context, Room};
use crate::crd::{InputSpec, JOB_ID_LABEL, ORIGIN_LABEL, TranscodeJob, TranscodeJobSpec};
use crate::job::{Input, Job, JobEvent, JobId, Origin};
use crate::queue::{Filter, Queue, QueueError};

/// Time limit of a request to the API server or Redis.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// TTL of the mirror of a finished job: an hour. The job itself can be read from the API for a week.
const TTL_SECONDS: i64 = 3600;

/// Creates mirrors.
pub(crate) struct Mirror {
    client: Client,
    queue: Queue,
    context: Arc<Context>,
    namespace: String,
    most: usize,
    full: bool,
}

impl Mirror {
    /// Creates at most `most` mirrors, in `namespace`.
    #[must_use]
    pub(crate) fn new(
        client: Client,
        queue: Queue,
        context: Arc<Context>,
        namespace: String,
        most: usize,
    ) -> Self {
        Self { client, queue, context, namespace, most, full: false }
    }

    /// Mirrors the jobs of all events until `stop`.
    pub(crate) async fn run(mut self, mut events: broadcast::Receiver<JobEvent>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(&mut events) => {}
        }
    }

    async fn follow(&mut self, events: &mut broadcast::Receiver<JobEvent>) {
        // Wait until all objects are known.
        self.context.until_synced().await;
        self.catch_up().await;
        loop {
            match events.recv().await {
                Ok(event) if event.progress.is_none() => self.show(event.job_id).await,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.catch_up().await,
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Mirrors unfinished jobs whose events were missed.
    async fn catch_up(&mut self) {
        match timeout(CALL_TIMEOUT, self.queue.list(&Filter::default(), self.most, None)).await {
            Ok(Ok(page)) => {
                for job in page.jobs.iter().rev().filter(|job| !job.status.is_terminal()) {
                    self.show_job(job).await;
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "jobs could not be listed for their mirrors"),
            Err(_) => tracing::warn!("jobs could not be listed for their mirrors in time"),
        }
    }

    async fn show(&mut self, id: JobId) {
        if self.context.index().has(id) {
            return;
        }
        match timeout(CALL_TIMEOUT, self.queue.get(id)).await {
            Ok(Ok(Some(job))) => self.show_job(&job).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => warn(id, &error),
            Err(_) => tracing::warn!(job = %id, "a job could not be read for its mirror in time"),
        }
    }

    async fn show_job(&mut self, job: &Job) {
        let Some(object) = mirror_of(job, &self.namespace) else { return };
        let name = object.metadata.name.clone().unwrap_or_default();
        let reference = ObjectRef::new(&name).within(&self.namespace);
        let room = self.context.index().make_room(job.job_id, reference, self.most);
        let api: Api<TranscodeJob> = Api::namespaced(self.client.clone(), &self.namespace);
        match room {
            Room::There => return,
            Room::Free => {}
            Room::InPlaceOf(name) => {
                let gone = timeout(CALL_TIMEOUT, api.delete(&name, &DeleteParams::background())).await;
                tracing::debug!(name, ok = matches!(gone, Ok(Ok(_))), "a mirror gave way to a newer one");
            }
            Room::None => {
                if !std::mem::replace(&mut self.full, true) {
                    let most = self.most;
                    tracing::warn!(
                        most,
                        "as many jobs are mirrored as may be (MIRROR_MAX); further ones are not"
                    );
                }
                return;
            }
        }
        self.full = false;
        let made = timeout(CALL_TIMEOUT, api.create(&PostParams::default(), &object)).await;
        match made {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => return,
            Ok(Err(error)) => tracing::warn!(job = %job.job_id, %error, "a mirror could not be made"),
            Err(_) => tracing::warn!(job = %job.job_id, "a mirror could not be made in time"),
        }
        self.context.index().remove(job.job_id);
    }
}

fn warn(id: JobId, error: &QueueError) {
    tracing::warn!(job = %id, %error, "could not read a job to mirror it");
}

/// The mirror of a job; `None` if a TranscodeJob created the job. The webhook is left out: it is signed with
/// the installation's key, which is in no Secret here.
fn mirror_of(job: &Job, namespace: &str) -> Option<TranscodeJob> {
    let origin = match job.spec.origin {
        Origin::Kubernetes => return None,
        Origin::Api => "api",
        Origin::Storage => "storage",
    };
    // Everybody who may read TranscodeJobs sees it.
    let input = match &job.spec.clone().redacted().input {
        Input::Key(key) => InputSpec { key: Some(key.to_string()), ..InputSpec::default() },
        Input::Url(url) => InputSpec { url: Some(url.to_string()), ..InputSpec::default() },
    };
    let rungs = job.spec.output_qualities.rungs();
    let labels = [(ORIGIN_LABEL, origin.to_owned()), (JOB_ID_LABEL, job.job_id.to_string())];
    let spec = TranscodeJobSpec {
        preset: job.spec.preset,
        qualities: (!rungs.is_empty()).then(|| rungs.to_vec()),
        stills: (!job.spec.stills.is_empty()).then(|| job.spec.stills.into()),
        priority: i32::try_from(job.spec.priority.get()).unwrap_or(0),
        worker_class: job.spec.worker_class.clone(),
        backoff_limit: i32::try_from(job.spec.max_attempts.saturating_sub(1)).unwrap_or(0),
        parallelism: (!job.spec.parallelism.is_auto()).then_some(job.spec.parallelism),
        ttl_seconds_after_finished: TTL_SECONDS,
        ..TranscodeJobSpec::new(input)
    };
    let mut object = TranscodeJob::new(&format!("{origin}-{}", job.job_id), spec);
    object.metadata = ObjectMeta {
        namespace: Some(namespace.to_owned()),
        labels: Some(
            labels.map(|(name, value)| (name.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>(),
        ),
        ..object.metadata
    };
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobSpec, Preset};

    fn job(origin: Origin) -> Job {
        let mut spec =
            JobSpec::new(Input::Key("a.mp4".parse().unwrap()), Preset::Hls, "360p".parse().unwrap());
        spec.origin = origin;
        spec.worker_class = "large".parse().unwrap();
        let job = serde_json::json!({
            "jobId": "01890a5d-ac96-774b-bcce-b302099a8057", "status": "queued", "attempt": 0, "epoch": 0,
            "progress": 0.0, "timestamps": {}, "inputKey": "a.mp4",
        });
        Job { spec, ..serde_json::from_value(job).unwrap() }
    }

    #[test]
    fn a_job_from_elsewhere_has_a_picture_and_a_transcode_jobs_own_has_none() {
        assert!(mirror_of(&job(Origin::Kubernetes), "tcoder").is_none());
        for (origin, name) in [(Origin::Api, "api"), (Origin::Storage, "storage")] {
            let object = mirror_of(&job(origin), "tcoder").unwrap();
            let meta = object.metadata;
            assert_eq!(meta.name.unwrap(), format!("{name}-01890a5d-ac96-774b-bcce-b302099a8057"));
            assert_eq!(meta.namespace.as_deref(), Some("tcoder"));
            let labels = meta.labels.unwrap();
            assert_eq!(labels[ORIGIN_LABEL], name);
            assert_eq!(labels[JOB_ID_LABEL], "01890a5d-ac96-774b-bcce-b302099a8057");
            assert_eq!(object.spec.input.key.as_deref(), Some("a.mp4"));
            assert_eq!((object.spec.backoff_limit, object.spec.worker_class.as_str()), (2, "large"));
        }
    }
}
