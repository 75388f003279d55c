//! Renews the lease of the job in work from a thread of its own, so that a machine whose every core
//! encodes, or a runtime that is busy, still sends its heartbeats in time.

use std::io;
use std::thread;

use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::job::{AttemptId, WorkerId};
use crate::queue::{Queue, ServerClock};

/// A busy worker tells the pool that it lives this often.
const ALIVE_EVERY: Duration = Duration::from_secs(60);
/// After a heartbeat that went wrong the next one comes this soon.
const HURRY: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Held {
    attempt: AttemptId,
    lost: CancellationToken,
}

/// The heartbeats of one worker.
pub struct Heartbeat {
    held: watch::Sender<Option<Held>>,
}

/// While it lives, the job's lease is renewed.
pub struct Lease<'a> {
    heartbeat: &'a Heartbeat,
    lost: CancellationToken,
}

impl Lease<'_> {
    /// Waits until the lease is lost: reaped, or the job was cancelled.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.heartbeat.held.send_replace(None);
    }
}

impl Heartbeat {
    /// Starts the thread. It ends with [`Heartbeat::stop`] or when this is dropped.
    pub fn start(queue: &Queue, worker: WorkerId, clock: ServerClock) -> io::Result<Self> {
        let (held, watched) = watch::channel(None);
        let queue = queue.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("heartbeat".into()).spawn(move || {
            runtime.block_on(beat(queue, worker, clock, watched));
        })?;
        Ok(Self { held })
    }

    /// Renews this attempt's lease from now on.
    pub fn hold(&self, attempt: AttemptId) -> Lease<'_> {
        let lost = CancellationToken::new();
        self.held.send_replace(Some(Held { attempt, lost: lost.clone() }));
        Lease { heartbeat: self, lost }
    }

    /// Ends the thread.
    pub fn stop(self) {
        drop(self);
    }
}

async fn beat(shared: Queue, worker: WorkerId, clock: ServerClock, mut held: watch::Receiver<Option<Held>>) {
    let policy = shared.policy();
    // A connection that lives on this thread's runtime; made when it is first needed.
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
        // Ours until Redis says otherwise: while Redis is away nobody else can get the job either.
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
                // One that went dead without a word would use up the lease, time-out by time-out.
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
