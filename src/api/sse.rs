//! `GET /api/jobs/{id}/events`: the changes of a job as server-sent events.
//!
//! Each event is named `job` and contains the whole job, so a client that missed some needs only the newest. The
//! first event is sent at once; the stream ends after an event with a terminal state.
//!
//! A browser's `EventSource` reopens an ended stream forever, unless the server answers 204. Its `Last-Event-ID`
//! shows what it has received, so the id of an event consists of the attempt and the state of the job.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};

use super::auth::Caller;
use super::client_address::ClientAddress;
use super::extract::parse_job_id;
use super::feed::{Changes, JobChange};
use super::{AppState, Problem, RequestOrigin};
use crate::job::{Epoch, Job, JobId, TokenName};
use crate::keyed_semaphore::{KeyedPermit, KeyedSemaphore};
use crate::queue::QueueError;
use crate::time::{Instant, sleep};

/// Pause before a job that could not be read is read again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often a stream checks that its token still permits it, also while nothing changes. On Cloudflare each check is a request
/// of the 50 that an invocation may send.
const CHECK_AGAIN: Duration = Duration::from_secs(20);
/// Maximum number of streams. Together with the requests that are held for segments (`hold`) and those to the storage of
/// `tcoder up`, they are fewer than the connections of a server, so that other requests are still answered.
const MAX_STREAMS: usize = 96;
/// The same for one client. A service may follow many jobs at once.
const MAX_OF_CLIENT: usize = 32;

/// The open streams. Their number is limited over all, and for each client: a token with a name, else a public address.
#[derive(Clone)]
pub struct EventStreams {
    of_all: KeyedSemaphore<()>,
    of_client: KeyedSemaphore<Client>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    Token(TokenName),
    Address(IpAddr),
}

/// A stream that counts. It ends when this is dropped.
struct OpenStream {
    _of_all: KeyedPermit<()>,
    _of_client: Option<KeyedPermit<Client>>,
}

impl Default for EventStreams {
    fn default() -> Self {
        Self { of_all: KeyedSemaphore::new(MAX_STREAMS), of_client: KeyedSemaphore::new(MAX_OF_CLIENT) }
    }
}

impl EventStreams {
    fn open(&self, caller: &Caller, ClientAddress(address): ClientAddress) -> Result<OpenStream, Problem> {
        let token = caller.owner().map(|owner| Client::Token(owner.name.clone()));
        let of_client = match token.or(address.map(Client::Address)) {
            Some(client) => Some(self.of_client.try_acquire(client).ok_or_else(Problem::too_many_streams)?),
            None => None,
        };
        let of_all = self.of_all.try_acquire(()).ok_or_else(Problem::too_many_streams)?;
        Ok(OpenStream { _of_all: of_all, _of_client: of_client })
    }
}

/// `GET /api/jobs/{id}/events`
pub(crate) async fn job_events(
    State(app): State<Arc<AppState>>,
    caller: Caller,
    address: ClientAddress,
    origin: RequestOrigin,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = parse_job_id(id)?;
    let stream = app.streams.open(&caller, address)?;
    // Subscribe first and read afterwards: a change in between is then sent twice rather than lost.
    let changes = app.feed.changes(id);
    let job = app.queue.get(id).await?.ok_or_else(Problem::no_such_job)?;
    caller.may_read(&job)?;
    if job.status.is_terminal() && headers.get("last-event-id").is_some_and(|id| *id == *event_id(&job)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let job = app.present(job, &origin)?;
    let watch = Watch {
        app: Arc::clone(&app),
        caller,
        checked: Instant::now(),
        origin,
        id,
        changes,
        first: Some(job),
        told: None,
        _stream: stream,
    };
    let changes = futures::stream::unfold(watch, |watch| async { watch.step().await });
    Ok(app.feed.answer(changes))
}

fn event_id(job: &Job) -> String {
    format!("{}-{}", job.epoch, job.status)
}

struct Watch {
    app: Arc<AppState>,
    caller: Caller,
    /// When it was last checked that the caller may read the job.
    checked: Instant,
    origin: RequestOrigin,
    id: JobId,
    changes: Changes,
    /// The job as it was when the stream started, until it is sent.
    first: Option<Job>,
    /// The job as it was last sent.
    told: Option<Job>,
    _stream: OpenStream,
}

impl Watch {
    async fn step(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if self.told.as_ref().is_some_and(|job| job.status.is_terminal()) {
            return None;
        }
        let job = match self.first.take() {
            Some(job) => job,
            None => self.change().await?,
        };
        let event = Event::default().event("job").id(event_id(&job)).json_data(&job).unwrap_or_default();
        self.told = Some(job);
        Some((Ok(event), self))
    }

    /// The job after its next visible change.
    async fn change(&mut self) -> Option<Job> {
        while let Some(change) = self.changes.next(CHECK_AGAIN).await {
            if !self.is_permitted().await {
                return None;
            }
            let job = match change {
                JobChange::Nothing => None,
                JobChange::Any => {
                    let job = self.look().await?;
                    Some(not_behind(self.told.as_ref(), job))
                }
                // Of a job that is encoded in parts, more can be played now.
                JobChange::Progress(..) if self.told.as_ref().is_some_and(Job::plays_early) => {
                    let job = self.look().await?;
                    Some(not_behind(self.told.as_ref(), job))
                }
                JobChange::Progress(epoch, percent) => with_progress(self.told.as_ref(), epoch, percent),
            };
            if let Some(job) = job
                && self.told.as_ref() != Some(&job)
            {
                return Some(job);
            }
        }
        None
    }

    /// Whether the caller may still read the job, as far as that was to be found out. A token may have been deleted, replaced
    /// or changed since the stream was opened.
    async fn is_permitted(&mut self) -> bool {
        if self.checked.elapsed() < CHECK_AGAIN {
            return true;
        }
        self.checked = Instant::now();
        match self.caller.renewed(&self.app.queue).await {
            Ok(Some(caller)) => self.told.as_ref().is_none_or(|job| caller.may_read(job).is_ok()),
            Ok(None) => false,
            // The client opens the stream again, and is authenticated.
            Err(error) => {
                tracing::warn!(job = %self.id, %error, "could not check the token of an event stream; it ends");
                false
            }
        }
    }

    /// Reads the job, and retries until it succeeds: this change may be the last one, and dropping the stream ends
    /// the retries.
    async fn look(&self) -> Option<Job> {
        loop {
            match self.app.queue.get(self.id).await {
                Ok(job) => return job.and_then(|job| self.app.present(job, &self.origin).ok()),
                // Another version has written it since; the stream ends.
                Err(error @ QueueError::Data(_)) => {
                    tracing::warn!(job = %self.id, %error, "could not read a job that is watched");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(job = %self.id, %error, "could not read a job after a change; retrying")
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// The job as it was last sent, with the progress that one of its attempts made since. Nothing if that attempt is not
/// the one that was last sent as running: its progress no longer matters, or the job's start is still to be sent.
fn with_progress(told: Option<&Job>, epoch: Epoch, progress: f64) -> Option<Job> {
    let told = told.filter(|told| told.status.is_active() && told.epoch == epoch)?;
    // An event that was on its way while the job was read says less than the record.
    Some(Job { progress: progress.max(told.progress), ..told.clone() })
}

/// A job as it was read. Its record has not every progress that was told.
fn not_behind(told: Option<&Job>, job: Job) -> Job {
    match told {
        Some(told) if job.status.is_active() && told.epoch == job.epoch => {
            Job { progress: job.progress.max(told.progress), ..job }
        }
        _ => job,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::State;

    fn running(epoch: u64, progress: f64) -> Job {
        let job = serde_json::json!({
            "jobId": JobId::new(), "status": "running", "attempt": 1, "epoch": epoch, "progress": progress,
            "timestamps": {}, "inputKey": "inputs/a.mp4",
        });
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn streams_are_limited_by_client_and_over_all() {
        let streams = EventStreams::default();
        let administrator = Caller::Administrator([0; 32]);
        let open = |host: u8| {
            let address = (host > 0).then(|| IpAddr::from([8, 8, 4, host]));
            streams.open(&administrator, ClientAddress(address))
        };
        let mut of_one: Vec<_> = (0..MAX_OF_CLIENT).map(|_| open(1).unwrap()).collect();
        let refused = open(1).err().map(|problem| format!("{problem:?}")).unwrap();
        assert!(refused.contains("too-many-streams"), "{refused}");
        let other = open(2).unwrap();
        of_one.pop();
        of_one.push(open(1).unwrap());
        // Those whose address is not known share what is left.
        let others: Vec<_> = (0..MAX_STREAMS).filter_map(|_| open(0).ok()).collect();
        assert_eq!(others.len(), MAX_STREAMS - MAX_OF_CLIENT - 1);
        assert!(open(3).is_err());
        drop((of_one, other, others));
        assert_eq!((streams.of_all.taken(), streams.of_client.taken()), (0, 0));
    }

    #[test]
    fn progress_is_that_of_the_attempt_which_runs() {
        let told = running(5, 10.0);
        let next = with_progress(Some(&told), Epoch(5), 15.0).unwrap();
        assert_eq!(next, Job { progress: 15.0, ..told.clone() });
        // An attempt that lost its lease, and one whose start has not been sent yet.
        for other in [4, 6] {
            assert_eq!(with_progress(Some(&told), Epoch(other), 15.0), None);
        }
        let queued = Job { status: State::Queued, ..told };
        assert_eq!(with_progress(Some(&queued), Epoch(5), 15.0), None);
        assert_eq!(with_progress(None, Epoch(5), 15.0), None);
    }

    #[test]
    fn progress_of_an_attempt_does_not_go_back_when_the_job_is_read() {
        let told = running(5, 40.0);
        let read = Job { progress: 20.0, ..told.clone() };
        assert_eq!(not_behind(Some(&told), read.clone()).progress, 40.0);
        let next_attempt = Job { epoch: Epoch(6), ..read.clone() };
        assert_eq!(not_behind(Some(&told), next_attempt).progress, 20.0);
        let queued = Job { status: State::Queued, progress: 0.0, ..read.clone() };
        assert_eq!(not_behind(Some(&told), queued).progress, 0.0);
        assert_eq!(not_behind(None, read).progress, 20.0);
    }
}
