//! The worker: claims and processes one job after the other, until there is a reason to exit.
//!
//! | part | what it does |
//! |---|---|
//! | here | the loop |
//! | `lifetime` | when to exit and how long to wait (pure) |
//! | `heartbeat` | renews the leases from a separate thread |
//! | `attempt` | one attempt at a job or a part of one: how it ends, and how that is reported |
//! | `deadline` | what to do about an attempt that took too long (pure) |
//! | `whole` | a job that one worker does alone: download, transcode, upload, commit |
//! | `split` | the attempts that split a job into parts, and that finish it |
//! | `parts` | the parts of split jobs, several at once |
//! | `preview` | the sound around a viewer's chunk, until the sound as a whole has come that far |
//! | `input` | the input of a split job, read by ranges |
//! | `progress` | reports the progress of the encode at a limited rate |
//! | `scratch` | folders for temporary files, and removal of those that dead workers left |

mod attempt;
mod deadline;
mod heartbeat;
mod input;
mod lifetime;
mod parts;
mod preview;
mod progress;
mod scratch;
mod split;
mod whole;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_semantic_conventions::attribute;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::config::WorkerConfig;
use crate::job::{AttemptId, Failure, WorkerId, space};
use crate::net::EgressPolicy;
use crate::queue::{
    Claim, Claimable, NextClaim, Queue, QueueError, ServerClock, WorkerRecord, WorkerSandbox, backoff,
};
use crate::storage::fetch::Fetcher;
use crate::storage::{CheckError, Storage};
use crate::trace;
use crate::transcoder::{check_tools, disk};
use attempt::{Attempt, AttemptOutcome};
use heartbeat::Heartbeat;
use input::OpenInputs;
use lifetime::{IdleAction, WorkerLifetime};

pub use lifetime::ExitReason;

/// Interval at which a busy worker reaps expired leases and promotes delayed jobs.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// A worker that said so within this time is known to be alive.
const KNOWN_ALIVE: Duration = Duration::from_secs(60);
/// Time within which a worker that was told to stop ends its attempt.
const LET_GO: Duration = Duration::from_millis(400);
/// Time for the cleanup of an attempt that lost its lease, for which nobody waits.
const CLEAR_UP: Duration = Duration::from_secs(10);

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// FFmpeg is missing or lacks a feature.
    #[error(transparent)]
    Tools(#[from] Failure),
    /// The buckets are not accessible.
    #[error(transparent)]
    Storage(#[from] CheckError),
    /// Redis is not accessible.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A problem of this machine.
    #[error("the worker cannot start: {0}")]
    Machine(String),
}

/// The claim that goes with the completion of a part.
#[derive(Clone, Copy)]
pub(super) struct ClaimNext<'a> {
    worker: &'a Worker,
    claimable: Claimable,
}

impl<'a> ClaimNext<'a> {
    fn as_of_now(self) -> NextClaim<'a> {
        let Self { worker, claimable } = self;
        NextClaim {
            worker: &worker.id,
            now: worker.clock.now(),
            sweep: worker.sweep_is_due(),
            claimable,
            is_known_alive: worker.is_known_alive(),
        }
    }
}

/// A worker whose requirements have been checked.
pub struct Worker {
    config: WorkerConfig,
    queue: Queue,
    storage: Storage,
    fetcher: Fetcher,
    id: WorkerId,
    clock: ServerClock,
    heartbeat: Heartbeat,
    inputs: OpenInputs,
    sandbox: WorkerSandbox,
    calls: Mutex<Calls>,
}

/// When a worker last made calls that are made only now and then.
struct Calls {
    /// When it last reaped leases and promoted tasks.
    swept: Option<Instant>,
    /// When it last said that it is alive.
    told_alive: Instant,
}

/// Logs what to do where two attempts at one job could both commit their result.
async fn check_conditional_writes(storage: &Storage) {
    match storage.ignored_condition().await {
        Ok(None) => {}
        Ok(Some(header)) => tracing::error!(
            "the output bucket ignores {header}, so two attempts at one job can both count; use storage that honours it, such as R2 or Amazon S3"
        ),
        Err(error) => {
            tracing::warn!(%error, "could not find out whether the output bucket honours conditions for writes")
        }
    }
}

impl Worker {
    /// Checks FFmpeg, the buckets and Redis, and registers the worker.
    ///
    /// # Errors
    /// Names what is missing and what to do.
    pub async fn start(config: WorkerConfig, queue: Queue, storage: Storage) -> Result<Self, WorkerError> {
        let (tools, ()) = tokio::try_join!(
            async { check_tools(config.sandbox).await.map_err(WorkerError::from) },
            async {
                storage.check().await?;
                check_conditional_writes(&storage).await;
                Ok(())
            },
        )?;
        for gap in &tools.missing_protections {
            tracing::warn!("{gap}");
        }
        scratch::sweep(&config.scratch);
        let fetcher = Fetcher::new(EgressPolicy::allow_private(config.allow_private_urls))
            .map_err(|e| WorkerError::Machine(e.to_string()))?;
        let queue = queue.for_classes(config.classes.clone());
        let clock = queue.clock().await?;
        let id = WorkerId::on(&config.machine);
        let heartbeat = Heartbeat::start(&queue, id.clone(), clock.clone())
            .map_err(|e| WorkerError::Machine(format!("no thread for heartbeats: {e}")))?;
        let sandbox = WorkerSandbox::new(config.sandbox, &tools.missing_protections);
        let worker = Self {
            config,
            queue,
            storage,
            fetcher,
            id,
            clock,
            heartbeat,
            inputs: OpenInputs::default(),
            sandbox,
            calls: Mutex::new(Calls { swept: None, told_alive: Instant::now() }),
        };
        // A worker that is refused learns the reason from its first claim.
        worker.register().await?;
        tracing::info!(worker = %worker.id, machine = worker.config.machine, classes = %worker.config.classes, ffmpeg = %tools.ffmpeg, "worker started");
        Ok(worker)
    }

    async fn register(&self) -> Result<bool, QueueError> {
        let now = self.clock.now();
        let record = WorkerRecord {
            worker_id: self.id.clone(),
            machine_id: self.config.machine.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: now,
            worker_classes: self.config.classes.clone(),
            sandbox: Some(self.sandbox.clone()),
        };
        self.queue.register(&record, now).await
    }

    /// Processes jobs until there is a reason to exit, then deregisters.
    pub async fn run(self, stop: CancellationToken) -> ExitReason {
        let reason = self.work(&stop).await;
        if let Err(error) = self.queue.deregister(&self.id).await {
            tracing::warn!(worker = %self.id, %error, "could not deregister the worker; its registration expires");
        }
        self.heartbeat.stop();
        tracing::info!(worker = %self.id, %reason, "worker exited");
        reason
    }

    async fn work(&self, stop: &CancellationToken) -> ExitReason {
        let mut life = WorkerLifetime::new(&self.config, Instant::now());
        let mut bell: Option<Queue> = None;
        let mut misses = 0;
        let mut full = false;
        loop {
            if stop.is_cancelled() {
                return ExitReason::Stopped;
            }
            if let Some(reason) = life.reason_to_leave(Instant::now()) {
                return reason;
            }
            let was_full = std::mem::replace(&mut full, self.is_full());
            if full {
                if !was_full {
                    tracing::warn!(worker = %self.id, "the worker's disk has no room for any job; it claims none until there is some");
                }
                match life.wait(SWEEP_EVERY, None, Instant::now()) {
                    IdleAction::Leave(reason) => return reason,
                    IdleAction::For(limit) => tokio::select! {
                        () = stop.cancelled() => return ExitReason::Stopped,
                        () = tokio::time::sleep(limit) => continue,
                    },
                }
            }
            let sweep = self.sweep_is_due();
            let claim = self.queue.claim(&self.id, self.clock.now(), sweep).await;
            if claim.is_err() {
                self.sweep_failed();
            }
            self.calls().told_alive = Instant::now();
            match claim {
                Ok(Claim::Job(job)) => {
                    misses = 0;
                    self.clock.set(job.at);
                    let id = job.attempt.job;
                    let is_released = if job.part.is_some() {
                        let outcomes = Box::pin(self.work_on_parts(*job, &life, stop)).await;
                        life.did_parts(&outcomes, Instant::now());
                        outcomes.iter().any(|(_, outcome)| *outcome == AttemptOutcome::Released)
                    } else {
                        let outcome = self.process(*job, stop, None).await.0;
                        life.did_a_job(id, outcome, Instant::now());
                        outcome == AttemptOutcome::Released
                    };
                    if is_released {
                        return ExitReason::Stopped;
                    }
                }
                Ok(Claim::Empty { next_due, now }) => {
                    misses = 0;
                    if let Some(now) = now {
                        self.clock.set(now);
                    }
                    let now = self.clock.now();
                    let due =
                        next_due.map(|at| Duration::from_millis(u64::try_from(at.0 - now.0).unwrap_or(0)));
                    // Without a sweep the next due time is unknown; ask again when a sweep is permitted.
                    let due = if sweep { due } else { Some(SWEEP_EVERY) };
                    let wait = life.wait(self.queue.policy().bell_wait, due, Instant::now());
                    if let IdleAction::Leave(reason) = wait {
                        return reason;
                    }
                    let IdleAction::For(limit) = wait else { continue };
                    self.inputs.close().await;
                    tokio::select! {
                        () = stop.cancelled() => return ExitReason::Stopped,
                        _ = self.wait_for(&mut bell, limit, async |queue| queue.wait_for_wakeup(limit).await) => {}
                    }
                }
                Ok(Claim::Unregistered) => match self.register().await {
                    Ok(true) => {
                        tracing::warn!(worker = %self.id, "the worker was no longer registered; registered it again");
                    }
                    Ok(false) => return ExitReason::Retired,
                    Err(error) => self.missed(&mut misses, &error, stop).await,
                },
                Ok(Claim::Retired) => return ExitReason::Retired,
                Err(error) => self.missed(&mut misses, &error, stop).await,
            }
        }
    }

    /// The times are consistent whenever the lock is free.
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this call is to reap expired leases and promote delayed tasks; if so, it counts as done.
    fn sweep_is_due(&self) -> bool {
        let mut calls = self.calls();
        let is_due = calls.swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY);
        if is_due {
            calls.swept = Some(Instant::now());
        }
        is_due
    }

    /// Has the next call sweep, because the last one did not.
    fn sweep_failed(&self) {
        self.calls().swept = None;
    }

    /// Whether Redis was told a moment ago that the worker is alive. If not, the call that asks tells it.
    fn is_known_alive(&self) -> bool {
        let mut calls = self.calls();
        let is_known = calls.told_alive.elapsed() < KNOWN_ALIVE;
        if !is_known {
            calls.told_alive = Instant::now();
        }
        is_known
    }

    /// Whether the disk is too full even for the smallest job. A worker that claimed nevertheless would fail one job
    /// after the other, faster than other workers could take them.
    fn is_full(&self) -> bool {
        let free = disk::free(&self.config.scratch, self.config.disk_bytes);
        free.is_some_and(|free| free < space::disk_for(1))
    }

    /// Waits for a wake-up on a separate connection, `bell`, because the call blocks. `None` if Redis does not answer.
    async fn wait_for<T>(
        &self,
        bell: &mut Option<Queue>,
        limit: Duration,
        wait: impl AsyncFnOnce(&Queue) -> Result<T, QueueError>,
    ) -> Option<T> {
        let waited = async {
            let queue = match bell.take() {
                Some(queue) => queue,
                None => self.queue.reconnect().await?,
            };
            let woken = wait(&queue).await?;
            *bell = Some(queue);
            Ok::<_, QueueError>(woken)
        };
        match waited.await {
            Ok(woken) => Some(woken),
            Err(error) => {
                tracing::warn!(worker = %self.id, %error, "could not wait for a wake-up; polling instead");
                tokio::time::sleep(limit.min(Duration::from_secs(1))).await;
                None
            }
        }
    }

    /// Waits after Redis did not answer, longer each time.
    async fn missed(&self, misses: &mut u32, error: &QueueError, stop: &CancellationToken) {
        *misses += 1;
        tracing::warn!(worker = %self.id, %error, misses, "could not claim a job; retrying");
        let pause = backoff::full_jitter(*misses, Duration::from_millis(200), Duration::from_secs(10));
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Runs one attempt while its lease is renewed. It ends early if the lease is lost or the worker has to
    /// stop. A part is completed together with the claim of the next one, if there is to be one.
    async fn process(
        &self,
        job: crate::queue::Claimed,
        stop: &CancellationToken,
        next: Option<ClaimNext<'_>>,
    ) -> (AttemptOutcome, Option<Claim>) {
        let held = job.lease();
        let AttemptId { job: id, epoch } = job.attempt;
        match job.part {
            Some(part) => {
                tracing::info!(job = %id, %part, %epoch, attempt = job.number, worker = %self.id, "part claimed");
            }
            None => {
                tracing::info!(job = %id, %epoch, attempt = job.number, worker = %self.id, "job claimed");
            }
        }
        let span = tracing::info_span!(
            "attempt",
            otel.name = "process jobs",
            otel.kind = "consumer",
            otel.status_code = Empty,
            otel.status_description = Empty,
            { attribute::MESSAGING_SYSTEM } = trace::QUEUE_SYSTEM,
            { attribute::MESSAGING_DESTINATION_NAME } = trace::QUEUE_NAME,
            { attribute::MESSAGING_OPERATION_NAME } = "process",
            { attribute::MESSAGING_OPERATION_TYPE } = "process",
            { attribute::MESSAGING_MESSAGE_ID } = %id,
            { attribute::MESSAGING_CLIENT_ID } = %self.id,
            { attribute::ERROR_TYPE } = Empty,
            tcoder.job.epoch = epoch.0,
            tcoder.job.attempt = job.number,
            tcoder.job.preset = job.spec.preset.name(),
            tcoder.job.part = Empty,
            tcoder.machine.id = self.id.machine(),
        );
        if let Some(part) = job.part {
            span.record("tcoder.job.part", part.to_string());
        }
        trace::follow(&span, job.trace.as_ref());
        trace::waited(job.trace.as_ref(), id, job.queued, job.at);
        let lease = self.heartbeat.hold(held);
        let cancel = CancellationToken::new();
        let attempt = Attempt::new(self, job, cancel.clone());
        let mut work = std::pin::pin!(attempt.run(next).instrument(span));
        let outcome = tokio::select! {
            biased;
            outcome = &mut work => Some(outcome),
            () = lease.lost() => None,
            () = stop.cancelled() => None,
        };
        if let Some(outcome) = outcome {
            return outcome;
        }
        // Let it clean up; if that takes too long it is dropped, which kills its FFmpeg.
        cancel.cancel();
        let limit = if lease.is_lost() { CLEAR_UP } else { LET_GO };
        let late = tokio::time::timeout(limit, work).await;
        if let Ok((outcome, claim)) = late {
            let has_ended = matches!(
                outcome,
                AttemptOutcome::Completed | AttemptOutcome::Failed(_) | AttemptOutcome::Split
            );
            // A part that was claimed meanwhile must not be forgotten.
            if has_ended || claim.is_some() {
                return (outcome, claim);
            }
        }
        if lease.is_lost() {
            tracing::warn!(job = %id, %epoch, worker = %self.id, "the attempt lost its lease and was stopped");
            return (AttemptOutcome::Lost, None);
        }
        drop(lease);
        let released = tokio::time::timeout(LET_GO, self.queue.release(held)).await;
        match released {
            Ok(Ok(true)) => tracing::info!(job = %id, worker = %self.id, "job released"),
            Ok(Ok(false)) => {}
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(job = %id, "could not release the job; it is requeued when its lease expires");
            }
        }
        (AttemptOutcome::Released, None)
    }
}
