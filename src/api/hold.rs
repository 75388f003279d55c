//! Holds requests for segments of a video that is still encoded, until they are in storage.
//!
//! The playlists of such a video are complete from the first second, so a player asks for segments that do not exist
//! yet. Their names carry a query ([`layout::AWAITED`]) in these early playlists only: a request for a file of a
//! completed job costs no look at Redis. The part that a request waits for is encoded next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{AppState, Problem};
use crate::job::{AttemptId, JobId};
use crate::queue::SegmentState;
use crate::storage::layout;
use crate::time::{sleep, timeout};

/// How long a request is held. Players give up on a segment that does not begin after about ten seconds, and repeat
/// requests that were answered with 503.
const LIMIT: Duration = Duration::from_secs(8);
/// Maximum time between two looks, in case the event about a part is missed.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// Maximum number of requests that are held for one job, and for all.
const MAX_OF_JOB: usize = 32;
const MAX_OF_ALL: usize = 1024;

/// The requests that are held at the moment, by job.
#[derive(Clone, Default)]
pub struct HeldRequests(Arc<Mutex<HashMap<JobId, usize>>>);

/// One of them. It ends when this is dropped.
struct HeldRequest {
    all: HeldRequests,
    job: JobId,
}

impl HeldRequests {
    /// The number of held requests.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Adds a request; `None` if there are too many.
    fn hold(&self, job: JobId) -> Option<HeldRequest> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_job = held.get(&job).copied().unwrap_or_default();
        if of_job >= MAX_OF_JOB || held.values().sum::<usize>() >= MAX_OF_ALL {
            return None;
        }
        held.insert(job, of_job + 1);
        Some(HeldRequest { all: self.clone(), job })
    }
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        let mut held = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.job) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.job);
            }
        }
    }
}

impl AppState {
    /// Waits until the file at `path` below the folder of this attempt is in storage, at most [`LIMIT`].
    pub(super) async fn hold(&self, attempt: AttemptId, path: &str) -> Result<(), Problem> {
        let segment = layout::stream_segment(path).ok_or_else(Problem::no_such_file)?;
        let Some(_held) = self.held.hold(attempt.job) else { return Err(Problem::too_many_waiting()) };
        let mut changes = self.feed.changes(attempt.job);
        let wait = async {
            loop {
                match self.queue.await_segment(attempt, segment).await? {
                    // What a job has stored before it ended may be there.
                    SegmentState::Ready | SegmentState::Ended(_) => return Ok(()),
                    SegmentState::Unknown => return Err(Problem::no_such_file()),
                    SegmentState::Waiting => {}
                }
                // A timer that runs out, and a feed that has ended, lead to the next look as well.
                if let Some(None) = timeout(LOOK_AFTER, changes.next()).await {
                    sleep(LOOK_AFTER).await;
                }
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|| Err(Problem::segment_not_ready()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_requests_are_limited_by_job_and_counted_until_they_end() {
        let all = HeldRequests::default();
        let (job, other) = (JobId::new(), JobId::new());
        let mut held: Vec<HeldRequest> = (0..MAX_OF_JOB).filter_map(|_| all.hold(job)).collect();
        assert_eq!((held.len(), all.count()), (MAX_OF_JOB, MAX_OF_JOB));
        assert!(all.hold(job).is_none());
        let one = all.hold(other).unwrap();
        assert_eq!(all.count(), MAX_OF_JOB + 1);
        held.pop();
        assert!(all.hold(job).is_some());
        drop((held, one));
        assert_eq!(all.count(), 0);
        assert!(all.0.lock().unwrap().is_empty());
    }

    #[test]
    fn held_requests_are_limited_over_all_jobs() {
        let all = HeldRequests::default();
        let held: Vec<HeldRequest> = (0..2 * MAX_OF_ALL).filter_map(|_| all.hold(JobId::new())).collect();
        assert_eq!(held.len(), MAX_OF_ALL);
    }
}
