//! Jobs and workers in Redis.
//!
//! What lives here: the queue's protocol, as Lua scripts (`scripts/*.lua`) and typed calls on them, and
//! the connection to Redis. What does not: what a job means to FFmpeg or to HTTP.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `jobs:status:<id>` | hash | the job; expires only after its end |
//! | `jobs:uploading` | zset | jobs that wait for their input, by the end of the upload window |
//! | `jobs:pending` | zset | jobs ready for a worker, by time of arrival less priority x a minute |
//! | `jobs:scheduled` | zset | delayed jobs and retries, by due time |
//! | `jobs:leases` | zset | `<id>:<epoch>` of running attempts, by deadline |
//! | `jobs:dead` | zset | failed jobs, by time of failure |
//! | `jobs:index` | zset | every job, by time of submission, for listings |
//! | `jobs:cancelled` | zset | cancelled jobs, by time of cancellation |
//! | `jobs:events` | stream | every change, the newest 10,000 or so |
//! | `jobs:bell` | zset | wakes idle workers; a hint, never a truth |
//! | `machines:pool` | hash | workers that registered |
//! | `machines:alive` | zset | the same, by the time until which they count as alive; 2^52 more for one that was told to leave |
//! | `machines:retired` | zset | machines whose next workers are refused too, by until when |
//! | `machines:heard` | zset | machines on which a worker registered within a day, by when one last did |
//! | `webhooks:outbox`, `:kubernetes` | zset | deliveries, by due time, by who has the key that signs them |
//! | `webhooks:tries` | hash | what was tried of them |
//! | `provider:limit` | hash | when the provider may be asked next, and who waits to; gone after an idle hour |
//! | `fleet:lock` | hash | which reconciler acts, until when, and the epoch that fences the others |
//! | `fleet:status` | string | what it said last of the fleet, JSON |
//! | `fleet:memory` | string | what a reconciler that comes and goes must remember, JSON |
//! | `fleet:paused` | string | there while the fleet is left alone |
//!
//! All times are Redis's own clock in milliseconds. A worker learns it with each claim that brings a job
//! or sweeps, and carries it on by its monotonic clock, so no machine's wall clock matters. An epoch is
//! the claim's time, or one more than the one before where that is higher, so that no number comes
//! twice, also not when an id is used again or a failover forgot a claim. The epoch inside the lease's name is
//! what makes a heartbeat one plain `ZADD XX GT CH`: it answers 1 while the lease is held, 0 once it
//! was reaped, cancelled, or given to somebody else (or when it holds that long already, which a look
//! tells apart).

pub mod backoff;
mod clock;
#[cfg(not(target_arch = "wasm32"))]
mod events;
mod fleet;
mod fleet_session;
mod fleet_status;
mod jobs;
mod outbox;
mod query;
mod rate_limit;
mod scripts;
mod transport;
mod workers;

pub use clock::ServerClock;
#[cfg(not(target_arch = "wasm32"))]
pub use events::{Change, EventFeed};
pub use fleet::{FencingToken, FleetView, LockOutcome, PoolWorker, RetireOutcome};
pub use fleet_session::{Checkpoint, LockRequest, LockState, Snapshot};
pub use fleet_status::{FleetCondition, FleetDesired, FleetMachine, FleetStatus, FleetStep, Paused};
pub use jobs::{
    CancelOutcome, CancelReason, Claim, Claimed, CompleteOutcome, ExpireOutcome, FailOutcome, RedriveOutcome,
    SubmitMode, SubmitOutcome, Sweep, UploadedOutcome,
};
pub use outbox::{Delivery, DeliveryState, Outbox};
pub use query::{Filter, Page, Stats};
pub use rate_limit::{Permit, RequestClass, RequestRate};
pub use transport::{Command, QueueError, Reply, Rest, SyncToken};
pub use workers::{PoolEntry, WorkerRecord, WorkerState};

use std::sync::Arc;
use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use crate::config::RedisConfig;
use scripts::Script;
use transport::Transport;

/// The queue's settings that are the same for every caller of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a claim holds without a heartbeat.
    pub lease: Duration,
    /// How often a worker renews its lease.
    pub heartbeat: Duration,
    /// How long an idle worker waits for the bell before it looks by itself.
    pub bell_wait: Duration,
    /// How long a registered worker counts as alive without a sign.
    pub alive: Duration,
    /// How long an ended job can be read.
    pub retention: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
            bell_wait: Duration::from_secs(75),
            alive: Duration::from_secs(180),
            retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// A handle on the queue; cheap to clone.
#[derive(Clone)]
pub struct Queue {
    transport: Transport,
    prefix: Arc<str>,
    policy: Policy,
}

impl Queue {
    /// Connects, and checks that this Redis can be trusted with jobs.
    ///
    /// # Errors
    /// When Redis does not answer, refuses us, or is set to evict keys.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn connect(config: &RedisConfig) -> Result<Self, QueueError> {
        Self::connect_with(config, Policy::default()).await
    }

    /// The same, with other settings.
    ///
    /// # Errors
    /// As [`Queue::connect`].
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn connect_with(config: &RedisConfig, policy: Policy) -> Result<Self, QueueError> {
        let transport = Transport::Tcp(Box::new(transport::Tcp::connect(&config.url).await?));
        let queue = Self { transport, prefix: config.prefix.as_str().into(), policy };
        queue.refuse_evicting_server().await?;
        // What is compared where workers and a controller do not find each other.
        tracing::info!(redis = config.address(), prefix = config.prefix, "connected to Redis");
        Ok(queue)
    }

    /// A queue over a REST interface, as the edge has it. Nothing is asked yet.
    #[must_use]
    pub fn over_rest(rest: Rest, prefix: &str) -> Self {
        Self { transport: Transport::Rest(rest), prefix: prefix.into(), policy: Policy::default() }
    }

    /// A connection of its own to the same Redis, for a thread with its own runtime or for calls that block.
    ///
    /// # Errors
    /// When Redis does not answer.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn reconnect(&self) -> Result<Self, QueueError> {
        let transport = self.transport.again().await?;
        Ok(Self { transport, prefix: self.prefix.clone(), policy: self.policy })
    }

    /// The settings in force.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), QueueError> {
        self.run(Command::new("PING")).await.map(drop)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn status_key(&self, id: crate::job::JobId) -> String {
        format!("{}jobs:status:{id}", self.prefix)
    }

    async fn run(&self, command: Command) -> Result<Reply, QueueError> {
        self.transport.run(command).await
    }

    /// Several commands in one round trip; answers in their order.
    async fn pipeline(&self, commands: Vec<Command>) -> Result<Vec<Reply>, QueueError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.transport.pipeline(commands).await
    }

    /// Runs a script by its hash, and by its text where the server has not seen it or has forgotten it.
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

    /// As [`Self::eval`], tried again when the connection broke or the server could not serve it: only for
    /// scripts of which a second run changes nothing more.
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

    /// A Redis that evicts keys under memory pressure loses jobs. Where its setting cannot be read
    /// (many hosted ones forbid CONFIG), the operator is trusted.
    #[cfg(not(target_arch = "wasm32"))]
    async fn refuse_evicting_server(&self) -> Result<(), QueueError> {
        let reply = match self.run(Command::new("CONFIG").arg("GET").arg("maxmemory-policy")).await {
            Ok(reply) => reply,
            Err(QueueError::Refused(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        match reply.list().and_then(|l| l.get(1)?.text()) {
            Some(policy) if policy != "noeviction" => Err(QueueError::Evicts(policy.to_owned())),
            _ => Ok(()),
        }
    }
}
