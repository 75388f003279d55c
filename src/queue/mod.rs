//! Jobs and workers in Redis.
//!
//! This module contains the queue's protocol, as Lua scripts (`scripts/*.lua`) and typed calls of them, and the
//! connection to Redis. It does not know what a job means to FFmpeg or to HTTP.
//!
//! | key | type | contents |
//! |---|---|---|
//! | `jobs:status:<id>` | hash | the job; expires only after the job has ended |
//! | `jobs:uploading` | zset | jobs that wait for their input, by the end of the upload window |
//! | `jobs:status:<id>/<part>` | hash | a part of a split job: `chunk-<number>` or `audio` |
//! | `jobs:split` | set | split jobs that wait for their parts |
//! | `jobs:parts:<id>` | set | the names of all parts of a split job |
//! | `jobs:heldback:<id>` | zset | the parts of a split job that are not in `jobs:pending` yet, by their places there |
//! | `jobs:reports:<id>` | hash | the plan of a split job, and the report of each completed part |
//! | `jobs:pending` | zset | jobs and parts that are ready for a worker, by time of arrival minus a minute per point of priority |
//! | `jobs:pending:<class>` | zset | the same of those that only workers of a class may run |
//! | `jobs:classes` | set | the classes that have such a queue, and some that had one |
//! | `jobs:scheduled` | zset | delayed jobs, and retries of jobs and parts, by due time |
//! | `jobs:leases` | zset | `<id>:<epoch>` or `<id>/<part>:<epoch>` of running attempts, by deadline |
//! | `jobs:dead` | zset | failed jobs, by time of failure |
//! | `jobs:index` | zset | every job, by time of submission, for listings |
//! | `jobs:cancelled` | zset | cancelled jobs, by time of cancellation |
//! | `jobs:events` | stream | all changes; about the newest 10,000 are kept |
//! | `jobs:bell` | zset | wake-ups for idle workers; a hint only |
//! | `jobs:bell:class:<class>` | zset | the same for those of a class; expires after 10 minutes |
//! | `jobs:bell:awaited` | zset | wake-ups for busy workers, when a viewer waits for a part; a hint only |
//! | `jobs:bell:awaited:<class>` | zset | the same for those of a class; expires after 10 minutes |
//! | `jobs:bell:sound` | zset | `<id>:<epoch>:<chunk>`: chunks whose sound a viewer waits for, by the time at which it was asked for; a hint to busy workers |
//! | `jobs:asked:<id>:<epoch>:<chunk>` | string | exists for 5 s after a worker was asked for the sound of a chunk |
//! | `jobs:cleanup` | zset | objects that are to be deleted, by due time |
//! | `jobs:clock` | hash | the time of the last sweep, and the newest event whose step of Redis's clock was followed |
//! | `machines:pool` | hash | registered workers |
//! | `machines:alive` | zset | the same, by the time until which they count as alive; 2^52 is added for a retired worker |
//! | `machines:retired` | zset | machines whose new workers are refused as well, by the time until which they are |
//! | `machines:heard` | zset | machines on which a worker has registered within a day, by the time of the last registration |
//! | `webhooks:outbox`, `:kubernetes` | zset | pending deliveries, by due time; one set for each signing key's owner |
//! | `webhooks:tries` | hash | previous attempts of these deliveries |
//! | `tokens` | hash | the hash of each token's secret, by the token's name |
//! | `tokens:secret:<hash>` | hash | a token: its name, its record as JSON, and its requests a minute |
//! | `tokens:rate:<name>` | string | the time at which the requests of a token will have been spread evenly |
//! | `tokens:jobs:<name>:<hour>` | string | the number of jobs that were submitted or retried with a token in an hour |
//! | `tokens:seconds:<name>:<day>` | string | the duration of the inputs of a token's jobs that were completed in a day |
//! | `tokens:open:<name>` | set | the jobs of a token that have not ended, and some that have |
//! | `tokens:index:<name>` | zset | the jobs that were submitted with a token, by time of submission, for listings |
//! | `provider:limit` | hash | when the next request to the provider is permitted, and which callers wait; expires after an idle hour |
//! | `fleet:lock` | hash | the reconciler that may change machines, until when, and the epoch that fences off the others |
//! | `fleet:lock:<uid>`, `provider:limit:<uid>` | hash | the same for the fleet of a WorkerPool |
//! | `fleet:pools` | hash | the statuses of the fleets of WorkerPools, JSON, by the uids of the pools |
//! | `fleet:status` | string | the fleet's status as the reconciler last published it, JSON |
//! | `fleet:memory` | string | the state that one-shot reconcilers hand to the next one, JSON |
//! | `fleet:paused` | string | exists while the fleet is paused |
//!
//! All times are Redis's own clock in milliseconds. A worker reads it with each claim that returns a job or sweeps,
//! and extrapolates it with its monotonic clock, so no machine's wall clock matters. An epoch is the time of the
//! claim, or one more than the previous epoch if that is higher. No number occurs twice, even if an id is used again
//! or a failover loses a claim.
//!
//! A job that one worker does alone has no parts. The attempt that splits a job (`split.lua`) ends with that, and nobody
//! waits for the parts: the job stays `running` without a lease, and the completion of its last part queues it again,
//! to be finished. Whether it was the last one shows the number of reports, of which each part has one however often
//! it is completed, and the state of the job guards against a second time. A part that cannot be encoded by itself queues the job at once, to be encoded as a whole; one whose workers are lost
//! fails the job. Both remove the others, as do a cancellation and a deadline.
//! All keys of the parts are gone when the job has ended. A version that knows no parts leaves them when it ends a job;
//! this one removes them when it comes across one of the parts, or retries the job.
//!
//! The class of the workers that may run a job is a lane of the queue: a queue and bells of its own. A worker claims what
//! stands first in all lanes of its classes, and waits at all of their bells. With its claim it rings for what is next in its
//! other lanes, because it may have taken the wake-up for that, while workers that wait only there sleep on. Versions that
//! know no classes leave jobs of a class alone, by the version of their records, and may put them into the queue of the
//! default class; a claim or a sweep moves them from there.
//!
//! Because the lease's name contains the epoch, a heartbeat is a single `ZADD XX GT CH`. It returns 1 if the lease
//! was extended. It returns 0 if the lease was reaped, cancelled or given to another worker, or if the stored
//! deadline is already as late; a `ZSCORE` tells these cases apart.

mod awaited;
pub mod backoff;
mod claim;
mod cleanup;
mod clock;
mod codec;
#[cfg(not(target_arch = "wasm32"))]
mod events;
mod fleet;
mod fleet_session;
mod fleet_status;
mod fleets;
#[cfg(all(any(test, feature = "fuzzing"), not(target_arch = "wasm32")))]
pub(crate) mod fuzz;
mod jobs;
mod outbox;
mod outcomes;
mod query;
mod rate_limit;
mod scripts;
#[cfg(not(target_arch = "wasm32"))]
mod server;
mod split;
mod terms;
mod tokens;
mod transport;
mod workers;

#[cfg(not(target_arch = "wasm32"))]
pub use awaited::AwaitedSound;
pub use awaited::SegmentState;
use claim::Unanswered;
pub use claim::{Claim, Claimable, Claimed};
pub use cleanup::Cleanup;
pub use clock::ServerClock;
pub use codec::{from_versioned_json, to_versioned_json};
#[cfg(not(target_arch = "wasm32"))]
pub use events::{Change, EventFeed};
pub use fleet::{ClassView, FencingToken, FleetView, LockOutcome, PoolWorker, RetireOutcome};
pub use fleet_session::{Checkpoint, LockRequest, LockState, Snapshot};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use fleet_status::count;
pub use fleet_status::{FleetCondition, FleetDesired, FleetMachine, FleetStatus, FleetStep, Paused};
pub use fleets::{FleetName, Fleets};
pub use outbox::{Delivery, DeliveryState, Outbox};
pub use outcomes::{
    CancelOutcome, CancelReason, CompleteOutcome, ExpireOutcome, FailOutcome, RedriveOutcome, SubmitMode,
    SubmitOutcome, Sweep, UploadedInput, UploadedOutcome,
};
pub use query::{Filter, Page, Stats, UnreadableJob};
pub use rate_limit::{Permit, RequestClass, RequestRate};
pub use split::{NewPart, NextClaim, PartOutcome, PartReports, PartsInfo, SplitOutcome};
pub use tokens::{Authentication, Owner, TokenHash};
pub use transport::{Command, QueueError, Reply, Rest, SyncToken};
pub use workers::{PoolEntry, SandboxState, WorkerRecord, WorkerSandbox, WorkerState};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use crate::config::RedisConfig;
use crate::config::Retention;
use crate::job::WorkerClasses;
use crate::time::Instant;
use scripts::Script;
use terms::LastSplit;
use transport::Transport;

/// Settings of the queue. They are the same for all processes of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Duration of a lease without a heartbeat.
    pub lease: Duration,
    /// Interval at which a worker renews its lease.
    pub heartbeat: Duration,
    /// Maximum time that an idle worker waits for a wake-up before it polls.
    pub bell_wait: Duration,
    /// Time after which a registered worker without a heartbeat counts as dead.
    pub alive: Duration,
    /// For how long what belongs to a job is kept after its end.
    pub retention: Retention,
    /// For how long expired leases are spared after Redis was out of reach, so that their holders can renew them.
    pub grace: Duration,
    /// The largest input in bytes that workers take, if it is configured. Otherwise a fleet may have published it.
    pub max_input_bytes: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
            bell_wait: Duration::from_secs(75),
            alive: Duration::from_secs(180),
            retention: Retention::default(),
            grace: Duration::from_secs(30),
            max_input_bytes: None,
        }
    }
}

/// A handle to the queue. Clones are cheap and share the connection.
#[derive(Clone)]
pub struct Queue {
    transport: Transport,
    prefix: Arc<str>,
    policy: Policy,
    contact: Arc<Contact>,
    unanswered: Arc<Unanswered>,
    last_split: Arc<LastSplit>,
    /// The fleet that this handle is for.
    fleet: FleetName,
    /// The classes of the tasks that are claimed with this handle.
    classes: Arc<WorkerClasses>,
}

/// When Redis was last out of reach, as the clones of a handle found it.
#[derive(Default)]
struct Contact(Mutex<Option<Instant>>);

impl Contact {
    /// Takes note of the outcome of a call. A Redis without memory refuses heartbeats, too.
    fn note<T>(&self, outcome: &Result<T, QueueError>) {
        let is_away = |error: &QueueError| error.is_transient() || matches!(error, QueueError::OutOfMemory);
        if outcome.as_ref().is_err_and(is_away) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// What is left of `grace` since then.
    fn grace_left(&self, grace: Duration) -> Duration {
        let lost = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.map_or(Duration::ZERO, |at| grace.saturating_sub(at.elapsed()))
    }
}

impl Queue {
    /// Connects to Redis, and checks that it can hold a queue.
    ///
    /// # Errors
    /// If Redis does not answer, rejects the login, is configured to evict keys, or is a cluster that would spread the
    /// keys over its nodes.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn connect(config: &RedisConfig) -> Result<Self, QueueError> {
        Self::connect_with(config, Policy::default()).await
    }

    /// Like [`Queue::connect`], with other settings.
    ///
    /// # Errors
    /// The same as those of [`Queue::connect`].
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn connect_with(config: &RedisConfig, policy: Policy) -> Result<Self, QueueError> {
        let queue = Self::over_tcp(transport::Tcp::connect(config).await?, config, policy);
        queue.check_server().await?;
        // To be compared if workers and a controller do not find each other.
        tracing::info!(redis = config.address(), prefix = config.prefix, "connected to Redis");
        Ok(queue)
    }

    /// A queue whose first call opens the connection, for a process that has something to say while Redis is away. Whether
    /// the server can hold a queue has to be checked later: [`Self::check_server`].
    ///
    /// # Errors
    /// If the settings cannot be used.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn connect_lazily(config: &RedisConfig) -> Result<Self, QueueError> {
        Ok(Self::over_tcp(transport::Tcp::connect_lazily(config).await?, config, Policy::default()))
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn over_tcp(transport: transport::Tcp, config: &RedisConfig, policy: Policy) -> Self {
        Self {
            transport: Transport::Tcp(Box::new(transport)),
            prefix: config.prefix.as_str().into(),
            policy,
            contact: Arc::default(),
            unanswered: Arc::default(),
            last_split: Arc::default(),
            fleet: FleetName::default(),
            classes: Arc::default(),
        }
    }

    /// A queue over a REST interface, as the Worker uses it. Makes no request yet.
    #[must_use]
    pub fn over_rest(rest: Rest, prefix: &str) -> Self {
        let transport = Transport::Rest(rest);
        Self {
            transport,
            prefix: prefix.into(),
            policy: Policy::default(),
            contact: Arc::default(),
            unanswered: Arc::default(),
            last_split: Arc::default(),
            fleet: FleetName::default(),
            classes: Arc::default(),
        }
    }

    /// Opens another connection to the same Redis, for a thread with its own runtime or for calls that block.
    ///
    /// # Errors
    /// If Redis does not answer.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn reconnect(&self) -> Result<Self, QueueError> {
        let transport = self.transport.again().await;
        self.contact.note(&transport);
        Ok(Self { transport: transport?, ..self.clone() })
    }

    /// The same queue, whose jobs are kept for another time after their end.
    #[must_use]
    pub fn with_retention(mut self, retention: Retention) -> Self {
        self.policy.retention = retention;
        self
    }

    /// The same queue for a worker that takes tasks of these classes.
    #[must_use]
    pub fn for_classes(mut self, classes: WorkerClasses) -> Self {
        self.classes = Arc::new(classes);
        self
    }

    /// The same queue, which refuses uploads of more than this number of bytes, if it is known.
    #[must_use]
    pub const fn with_max_input_bytes(mut self, most: Option<u64>) -> Self {
        self.policy.max_input_bytes = most;
        self
    }

    /// The timing settings.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Checks that Redis answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ping(&self) -> Result<(), QueueError> {
        self.run(Command::new("PING")).await.map(drop)
    }

    /// Checks that Redis serves the keys and takes writes: that it is the primary, and has loaded its data. Where it does
    /// not say which it is, that it serves the keys.
    ///
    /// # Errors
    /// If it does not answer, loads its data, or is a replica.
    pub async fn check_primary(&self) -> Result<(), QueueError> {
        // A cluster redirects this to the node that has the keys, and a server that loads its data refuses it.
        let exists = Command::new("EXISTS").arg(self.key("jobs"));
        match self.pipeline(vec![exists.clone(), Command::new("ROLE")]).await {
            Ok(replies) => match replies.get(1).and_then(|role| role.list()?.first()?.text()) {
                Some(role @ ("slave" | "replica")) => {
                    Err(QueueError::NotPrimary(format!("its role is {role}")))
                }
                _ => Ok(()),
            },
            Err(QueueError::Refused(_)) => self.run(exists).await.map(drop),
            Err(error) => Err(error),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The command that appends an event, without its fields; the same as `event` in `lib.lua`.
    fn append_event(&self) -> Command {
        Command::new("XADD").arg(self.key("jobs:events")).args(["MAXLEN", "~", "10000", "*"])
    }

    fn status_key(&self, id: crate::job::JobId) -> String {
        format!("{}jobs:status:{id}", self.prefix)
    }

    async fn run(&self, command: Command) -> Result<Reply, QueueError> {
        let reply = self.transport.run(command).await;
        self.contact.note(&reply);
        reply
    }

    /// Runs a command that blocks at the server for up to `block`.
    #[cfg(not(target_arch = "wasm32"))]
    async fn run_blocking(&self, command: Command, block: Duration) -> Result<Reply, QueueError> {
        let reply = self.transport.run_blocking(command, block).await;
        self.contact.note(&reply);
        reply
    }

    /// For how long leases are to be spared, because this process could not reach Redis a moment ago.
    fn grace_left(&self) -> Duration {
        self.contact.grace_left(self.policy.grace)
    }

    /// Runs several commands in one round trip, and returns the replies in their order.
    async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Reply>, QueueError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let replies = self.transport.pipeline(commands).await;
        self.contact.note(&replies);
        replies
    }

    /// Runs a script by its hash, or by its text if the server does not have it cached.
    async fn eval(&self, script: &Script, args: Vec<String>) -> Result<Reply, QueueError> {
        let call = |verb: &'static str, what: &str| {
            let anchor = self.key("jobs");
            Command::new(verb).arg(what).arg("1").arg(anchor).arg(&*self.prefix).args(&args)
        };
        match self.run(call("EVALSHA", script.sha1())).await {
            Err(QueueError::NoScript) => self.run(call("EVAL", script.text())).await,
            other => other,
        }
    }

    /// Like [`Self::eval`], but retries if the connection broke or the server could not serve it. Only for idempotent
    /// scripts.
    async fn eval_idempotent(&self, script: &Script, args: Vec<String>) -> Result<Reply, QueueError> {
        let mut tries = 0;
        loop {
            match self.eval(script, args.clone()).await {
                Err(error) if error.is_transient() && tries < 4 => {
                    tries += 1;
                    let pause =
                        backoff::full_jitter(tries, Duration::from_millis(100), Duration::from_secs(2));
                    crate::time::sleep(pause).await;
                }
                other => return other,
            }
        }
    }
}
