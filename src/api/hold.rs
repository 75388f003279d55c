//! Holds requests for segments of a video that is still encoded, until they are in storage.
//!
//! The playlists of such a video are complete from the first second, so a player asks for segments that do not exist
//! yet. Their names carry a query ([`layout::AWAITED`]) in these early playlists only: a request for a file of a
//! completed job costs no look at Redis. The part that a request waits for is encoded next.
//!
//! The number of held requests is limited by job, by client and over all. There is no limit by API token, because no
//! player has one: who may read an address has only its signature, which all viewers of a job share, so that the limit
//! by job is the one by signature, too. The limit by client keeps one viewer from taking all places of a job.
//!
//! However many requests wait for the same segment, a process looks for it once in an interval, on behalf of all of them.
//!
//! The limits and the number apply to one process; in the Cloudflare Worker to one isolate, whose counter of outcomes
//! starts at zero with each request.

#[cfg(not(target_arch = "wasm32"))]
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use futures::future::{BoxFuture, FutureExt as _, Shared, WeakShared};

use super::client_address::ClientAddress;
use super::{AppState, Problem};
use crate::job::{AttemptId, JobId, ObjectKey, StreamSegment};
use crate::keyed_semaphore::{KeyedPermit, KeyedSemaphore};
use crate::metrics::{Metrics, SegmentRequest};
use crate::queue::{QueueError, SegmentState};
use crate::storage::{Bucket, layout};
use crate::time::{sleep, timeout};

/// How long a request is held. Players give up on a segment that does not begin after about ten seconds, and repeat
/// requests that were answered with 503.
const LIMIT: Duration = Duration::from_secs(8);
/// Maximum time between two looks: nothing tells of a segment that is stored before its chunk is complete.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Minimum time between two looks.
const REST: Duration = Duration::from_millis(200);
/// Maximum number of requests that are held for one job.
const MAX_OF_JOB: usize = 32;
/// The same for one client. A player loads two or three segments at a time, and several viewers may share an address.
const MAX_OF_CLIENT: usize = 16;
/// The same over all: half the connections of a server. Those that are left are enough for what else may take long (`sse`).
const MAX_OF_ALL: usize = 256;

/// The requests that are held at the moment.
#[derive(Clone)]
pub struct HeldRequests {
    of_all: KeyedSemaphore<()>,
    of_job: KeyedSemaphore<JobId>,
    of_client: KeyedSemaphore<IpAddr>,
    #[cfg(not(target_arch = "wasm32"))]
    watches: Arc<Mutex<HashMap<ObjectKey, WeakShared<Watch>>>>,
}

impl Default for HeldRequests {
    fn default() -> Self {
        Self {
            of_all: KeyedSemaphore::new(MAX_OF_ALL),
            of_job: KeyedSemaphore::new(MAX_OF_JOB),
            of_client: KeyedSemaphore::new(MAX_OF_CLIENT),
            #[cfg(not(target_arch = "wasm32"))]
            watches: Arc::default(),
        }
    }
}

/// One of them. It ends when this is dropped.
struct HeldRequest {
    _of_all: KeyedPermit<()>,
    _of_job: KeyedPermit<JobId>,
    _of_client: Option<KeyedPermit<IpAddr>>,
}

impl HeldRequests {
    /// The number of held requests.
    #[must_use]
    pub fn count(&self) -> usize {
        self.of_all.taken()
    }

    /// Adds a request; `None` if there are too many. A client whose address is unknown has no limit of its own.
    fn hold(&self, job: JobId, client: Option<IpAddr>) -> Option<HeldRequest> {
        let of_client = match client {
            Some(client) => Some(self.of_client.try_acquire(client)?),
            None => None,
        };
        Some(HeldRequest {
            _of_client: of_client,
            _of_job: self.of_job.try_acquire(job)?,
            _of_all: self.of_all.try_acquire(())?,
        })
    }
}

/// Counts the outcome of a request when it is dropped, as the request is with its connection.
struct Counted<'a> {
    metrics: &'a Metrics,
    outcome: SegmentRequest,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.segment_request(self.outcome);
    }
}

/// The outcome of a watch. All requests that share it share its error.
type Watched = Result<SegmentRequest, Arc<QueueError>>;

/// Waits for one segment, on behalf of all requests for it.
#[cfg(not(target_arch = "wasm32"))]
type Watch = BoxFuture<'static, Watched>;

#[cfg(not(target_arch = "wasm32"))]
impl HeldRequests {
    /// The watch for this file. Requests that are held at the same time share one, which ends with the last of them.
    fn watch(&self, key: &ObjectKey, begin: impl FnOnce() -> Watch) -> Shared<Watch> {
        // A panic elsewhere leaves it consistent.
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watches.get(key).and_then(WeakShared::upgrade) {
            return watch;
        }
        // There are no more of them than held requests, apart from those that have ended since the last one began.
        watches.retain(|_, watch| watch.upgrade().is_some());
        let watch = begin().shared();
        if let Some(weak) = watch.downgrade() {
            watches.insert(key.clone(), weak);
        }
        watch
    }
}

impl AppState {
    /// Waits until the output at this key is in storage, at most [`LIMIT`].
    pub(super) async fn hold(
        &self,
        key: &ObjectKey,
        ClientAddress(client): ClientAddress,
    ) -> Result<(), Problem> {
        let mut counted = Counted { metrics: &self.metrics, outcome: SegmentRequest::Abandoned };
        let outcome = self.await_file(key, client).await;
        counted.outcome = *outcome.as_ref().unwrap_or(&SegmentRequest::Failed);
        match outcome.map_err(|error| Problem::from(&*error))? {
            SegmentRequest::Ready => Ok(()),
            SegmentRequest::Refused => Err(Problem::too_many_waiting()),
            SegmentRequest::NotFound => Err(Problem::no_such_file()),
            _ => Err(Problem::segment_not_ready()),
        }
    }

    async fn await_file(&self, key: &ObjectKey, client: Option<IpAddr>) -> Watched {
        let segment = layout::attempt_of_output_key(key)
            .and_then(|(attempt, path)| Some((attempt, layout::stream_segment(path)?)));
        let Some((attempt, segment)) = segment else { return Ok(SegmentRequest::NotFound) };
        let Some(_held) = self.held.hold(attempt.job, client) else { return Ok(SegmentRequest::Refused) };
        timeout(LIMIT, self.watch(attempt, segment, key)).await.unwrap_or(Ok(SegmentRequest::TimedOut))
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn watch(&self, attempt: AttemptId, segment: StreamSegment, key: &ObjectKey) -> Shared<Watch> {
        let begin = || self.look_until_ready(attempt, segment, key.clone()).boxed();
        self.held.watch(key, begin)
    }

    /// Requests of an isolate cannot wait for each other's calls.
    #[cfg(target_arch = "wasm32")]
    fn watch(
        &self,
        attempt: AttemptId,
        segment: StreamSegment,
        key: &ObjectKey,
    ) -> impl Future<Output = Watched> + Send + 'static {
        self.look_until_ready(attempt, segment, key.clone())
    }

    /// Looks for a segment until it is in storage, or will never be.
    fn look_until_ready(
        &self,
        attempt: AttemptId,
        segment: StreamSegment,
        key: ObjectKey,
    ) -> impl Future<Output = Watched> + Send + 'static {
        let (queue, storage) = (self.queue.clone(), self.storage.clone());
        let mut changes = self.feed.changes(attempt.job);
        async move {
            loop {
                match queue.await_segment(attempt, segment).await? {
                    // What a job has stored before it ended may be there.
                    SegmentState::Ready | SegmentState::Ended(_) => return Ok(SegmentRequest::Ready),
                    SegmentState::Unknown => return Ok(SegmentRequest::NotFound),
                    SegmentState::Waiting => {}
                }
                // The first segments of a chunk are stored while later ones are encoded.
                match storage.head(Bucket::Output, &key).await {
                    Ok(Some(_)) => return Ok(SegmentRequest::Ready),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%key, %error, "could not look for a segment"),
                }
                // A timer that runs out, and a feed that has ended, lead to the next look as well.
                if let Some(None) = timeout(LOOK_AFTER, changes.next(LOOK_AFTER)).await {
                    sleep(LOOK_AFTER).await;
                }
                // Many chunks may be completed in a second.
                sleep(REST).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_requests_are_limited_by_job_and_counted_until_they_end() {
        let all = HeldRequests::default();
        let (job, other) = (JobId::new(), JobId::new());
        let mut held: Vec<HeldRequest> = (0..MAX_OF_JOB).filter_map(|_| all.hold(job, None)).collect();
        assert_eq!((held.len(), all.count()), (MAX_OF_JOB, MAX_OF_JOB));
        assert!(all.hold(job, None).is_none());
        let one = all.hold(other, None).unwrap();
        assert_eq!(all.count(), MAX_OF_JOB + 1);
        held.pop();
        assert!(all.hold(job, None).is_some());
        drop((held, one));
        assert_eq!((all.count(), all.of_job.taken()), (0, 0));
    }

    #[test]
    fn held_requests_are_limited_by_client_over_all_jobs() {
        let all = HeldRequests::default();
        let (client, other) = (Some([8, 8, 4, 4].into()), Some([1, 1, 1, 1].into()));
        let mut held: Vec<HeldRequest> =
            (0..2 * MAX_OF_CLIENT).filter_map(|_| all.hold(JobId::new(), client)).collect();
        assert_eq!((held.len(), all.count()), (MAX_OF_CLIENT, MAX_OF_CLIENT));
        let job = JobId::new();
        // A request that is refused takes no place of its job.
        assert!(all.hold(job, client).is_none());
        assert_eq!(all.of_job.taken(), MAX_OF_CLIENT);
        let others = [all.hold(job, other).unwrap(), all.hold(job, None).unwrap()];
        held.pop();
        assert!(all.hold(job, client).is_some());
        drop((held, others));
        assert_eq!((all.count(), all.of_client.taken()), (0, 0));
    }

    #[test]
    fn held_requests_are_limited_over_all_jobs() {
        let all = HeldRequests::default();
        let held: Vec<HeldRequest> =
            (0..2 * MAX_OF_ALL).filter_map(|_| all.hold(JobId::new(), None)).collect();
        assert_eq!(held.len(), MAX_OF_ALL);
    }

    #[tokio::test]
    async fn requests_for_the_same_segment_share_a_watch_until_the_last_of_them_ends() {
        let all = HeldRequests::default();
        let key = |name: &str| name.parse::<ObjectKey>().unwrap();
        let (one, other) =
            (key("outputs/job/1/360p/segment_00001.m4s"), key("outputs/job/1/360p/segment_00002.m4s"));
        let begun = Mutex::new(Vec::new());
        let (ready, _) = tokio::sync::broadcast::channel::<()>(1);
        let watch = |key: &ObjectKey| {
            all.watch(key, || {
                begun.lock().unwrap().push(key.clone());
                let mut wait = ready.subscribe();
                async move {
                    wait.recv().await.unwrap();
                    Ok(SegmentRequest::Ready)
                }
                .boxed()
            })
        };
        let (first, second, third) = (watch(&one), watch(&one), watch(&other));
        assert_eq!(*begun.lock().unwrap(), [one.clone(), other.clone()]);
        // The one that began it may go away.
        drop(first);
        let fourth = watch(&one);
        assert_eq!((begun.lock().unwrap().len(), all.watches.lock().unwrap().len()), (2, 2));
        ready.send(()).unwrap();
        for waiting in [second, third, fourth] {
            assert_eq!(waiting.await.unwrap(), SegmentRequest::Ready);
        }
        let again = watch(&one);
        assert_eq!((begun.lock().unwrap().len(), all.watches.lock().unwrap().len()), (3, 1));
        drop(again);
    }
}
