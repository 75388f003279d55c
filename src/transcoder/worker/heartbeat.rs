//! Renews the leases of a worker's tasks from a separate thread, so that heartbeats are on time even if all cores
//! encode or the runtime is busy.

use std::collections::BTreeMap;
use std::io;
use std::thread;

use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::job::{LeaseId, WorkerId};
use crate::queue::{Queue, ServerClock};

/// Interval of the heartbeats of a worker with a task.
const ALIVE_EVERY: Duration = Duration::from_secs(60);
/// Delay after a failed heartbeat.
const HURRY: Duration = Duration::from_secs(1);

/// The leases that a worker holds, with the tokens that tell that one is lost.
type Held = BTreeMap<LeaseId, CancellationToken>;

/// The heartbeats of one worker.
pub(crate) struct Heartbeat {
    held: watch::Sender<Held>,
}

/// The task's lease is renewed until this is dropped.
pub(crate) struct Lease<'a> {
    heartbeat: &'a Heartbeat,
    id: LeaseId,
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
        self.heartbeat.held.send_modify(|held| drop(held.remove(&self.id)));
    }
}

impl Heartbeat {
    /// Starts the thread. It ends with [`Heartbeat::stop`] or when the value is dropped.
    pub(crate) fn start(queue: &Queue, worker: WorkerId, clock: ServerClock) -> io::Result<Self> {
        let (held, watched) = watch::channel(Held::new());
        let queue = queue.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("heartbeat".into()).spawn(move || {
            runtime.block_on(beat(queue, worker, clock, watched));
        })?;
        Ok(Self { held })
    }

    /// Renews this lease from now on.
    pub(crate) fn hold(&self, id: LeaseId) -> Lease<'_> {
        let lost = CancellationToken::new();
        self.held.send_modify(|held| drop(held.insert(id, lost.clone())));
        Lease { heartbeat: self, id, lost }
    }

    /// Stops the thread.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

async fn beat(shared: Queue, worker: WorkerId, clock: ServerClock, mut held: watch::Receiver<Held>) {
    let policy = shared.policy();
    // A connection on this thread's runtime, opened when it is first needed.
    let mut own: Option<Queue> = None;
    // When each lease is to be renewed; one that is lost is not renewed any more.
    let mut due: BTreeMap<LeaseId, Option<Instant>> = BTreeMap::new();
    let mut alive = Instant::now() + ALIVE_EVERY;
    loop {
        let current = held.borrow_and_update().clone();
        if due.is_empty() && !current.is_empty() {
            alive = Instant::now() + ALIVE_EVERY;
        }
        due.retain(|lease, _| current.contains_key(lease));
        for lease in current.keys() {
            due.entry(*lease).or_insert_with(|| Some(Instant::now() + policy.heartbeat));
        }
        let Some((lease, at)) =
            due.iter().filter_map(|(lease, at)| Some((*lease, (*at)?))).min_by_key(|d| d.1)
        else {
            match held.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        tokio::select! {
            changed = held.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = tokio::time::sleep_until(at) => {}
        }
        let queue = match &own {
            Some(queue) => queue.clone(),
            None => match shared.reconnect().await {
                Ok(queue) => own.insert(queue).clone(),
                Err(error) => {
                    tracing::warn!(job = %lease.job, %error, "could not renew the worker's heartbeat; retrying");
                    due.insert(lease, Some(Instant::now() + HURRY));
                    continue;
                }
            },
        };
        // The lease counts as held until Redis says otherwise: while Redis is unreachable, nobody else can
        // claim the task.
        match queue.keep(lease, &clock).await {
            Ok(true) => {
                due.insert(lease, Some(Instant::now() + policy.heartbeat));
            }
            Ok(false) => {
                if let Some(lost) = current.get(&lease) {
                    lost.cancel();
                }
                due.insert(lease, None);
                continue;
            }
            Err(error) => {
                tracing::warn!(job = %lease.job, %error, "could not renew the worker's heartbeat; retrying");
                due.insert(lease, Some(Instant::now() + HURRY));
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
