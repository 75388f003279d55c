//! Renews the lease of the current job from a separate thread, so that heartbeats are on time even if all
//! cores encode or the runtime is busy.

use std::io;
use std::thread;

use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::job::{AttemptId, WorkerId};
use crate::queue::{Queue, ServerClock};

/// Interval of the heartbeats of a worker with a job.
const ALIVE_EVERY: Duration = Duration::from_secs(60);
/// Delay after a failed heartbeat.
const HURRY: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Held {
    attempt: AttemptId,
    lost: CancellationToken,
}

/// The heartbeats of one worker.
pub(crate) struct Heartbeat {
    held: watch::Sender<Option<Held>>,
}

/// The job's lease is renewed until this is dropped.
pub(crate) struct Lease<'a> {
    heartbeat: &'a Heartbeat,
    lost: CancellationToken,
}

impl Lease<'_> {
    /// Waits until the lease is lost because it was reaped or the job was cancelled.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.heartbeat.held.send_replace(None);
    }
}

impl Heartbeat {
    /// Starts the thread. It ends with [`Heartbeat::stop`] or when the value is dropped.
    pub(crate) fn start(queue: &Queue, worker: WorkerId, clock: ServerClock) -> io::Result<Self> {
        let (held, watched) = watch::channel(None);
        let queue = queue.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("heartbeat".into()).spawn(move || {
            runtime.block_on(beat(queue, worker, clock, watched));
        })?;
        Ok(Self { held })
    }

    /// Renews the lease of this attempt from now on.
    pub(crate) fn hold(&self, attempt: AttemptId) -> Lease<'_> {
        let lost = CancellationToken::new();
        self.held.send_replace(Some(Held { attempt, lost: lost.clone() }));
        Lease { heartbeat: self, lost }
    }

    /// Stops the thread.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

async fn beat(shared: Queue, worker: WorkerId, clock: ServerClock, mut held: watch::Receiver<Option<Held>>) {
    let policy = shared.policy();
    // A connection on this thread's runtime, opened when it is first needed.
    let mut own: Option<Queue> = None;
    let mut next = Instant::now();
    let mut alive = Instant::now() + ALIVE_EVERY;
    loop {
        let current = held.borrow_and_update().clone();
        let Some(current) = current else {
            match held.changed().await {
                Ok(()) => {
                    next = Instant::now() + policy.heartbeat;
                    alive = Instant::now() + ALIVE_EVERY;
                    continue;
                }
                Err(_) => return,
            }
        };
        tokio::select! {
            changed = held.changed() => match changed {
                Ok(()) => {
                    next = Instant::now() + policy.heartbeat;
                    continue;
                }
                Err(_) => return,
            },
            () = tokio::time::sleep_until(next) => {}
        }
        let queue = match &own {
            Some(queue) => queue.clone(),
            None => match shared.reconnect().await {
                Ok(queue) => own.insert(queue).clone(),
                Err(error) => {
                    tracing::warn!(job = %current.attempt.job, %error, "could not renew the worker's heartbeat; retrying");
                    next = Instant::now() + HURRY;
                    continue;
                }
            },
        };
        // The lease counts as held until Redis says otherwise: while Redis is unreachable, nobody else can
        // claim the job.
        match queue.keep(current.attempt, &clock).await {
            Ok(true) => next = Instant::now() + policy.heartbeat,
            Ok(false) => {
                current.lost.cancel();
                if held.changed().await.is_err() {
                    return;
                }
                next = Instant::now() + policy.heartbeat;
                continue;
            }
            Err(error) => {
                tracing::warn!(job = %current.attempt.job, %error, "could not renew the worker's heartbeat; retrying");
                next = Instant::now() + HURRY;
                // A connection that died silently would consume the lease with one timeout after another.
                if error.is_connection() {
                    own = None;
                }
                continue;
            }
        }
        if Instant::now() >= alive && queue.report_alive(&worker, clock.now()).await.is_ok() {
            alive = Instant::now() + ALIVE_EVERY;
        }
    }
}
