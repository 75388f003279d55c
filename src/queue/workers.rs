//! Workers: registration, heartbeats, and wake-ups for idle workers.

#[cfg(not(target_arch = "wasm32"))]
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::codec::{text_items, to_versioned_json};
use super::{Command, Queue, QueueError, Reply, ServerClock, scripts};
use crate::config::SandboxMode;
use crate::job::{JobId, LeaseId, Millis, WorkerClass, WorkerClasses, WorkerId};

/// Added to the score of a retired worker in `machines:alive`; the same value as in `lib.lua`.
pub(super) const RETIRED: i64 = 1 << 52;

/// What a worker reports about itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRecord {
    /// The id of the worker.
    pub worker_id: WorkerId,
    /// The machine that it runs on.
    pub machine_id: String,
    /// The version of tcoder.
    pub version: String,
    /// Its process id on that machine.
    pub pid: u32,
    /// When it registered.
    pub started_at: Millis,
    /// The classes of the jobs that it takes. Older versions take those of the default class, and do not report it.
    #[serde(default, with = "class_list")]
    #[schemars(with = "Vec<WorkerClass>")]
    pub worker_classes: WorkerClasses,
    /// The sandbox of its FFmpeg. Older versions do not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<WorkerSandbox>,
}

/// The classes of a worker as a list of their names.
pub(super) mod class_list {
    use serde::de::{Deserialize, Deserializer, Error as _};
    use serde::ser::Serializer;

    use super::{WorkerClass, WorkerClasses};

    pub(in crate::queue) fn serialize<S: Serializer>(
        classes: &WorkerClasses,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(classes.iter())
    }

    pub(in crate::queue) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<WorkerClasses, D::Error> {
        WorkerClasses::new(Vec::<WorkerClass>::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// The sandbox in which the machine of a worker runs FFmpeg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSandbox {
    /// How much of it there is.
    pub state: SandboxState,
    /// What is missing, and what that means; most important first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// How much of the sandbox there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum SandboxState {
    /// All of it.
    Full,
    /// What the kernel offers.
    Partial,
    /// Nothing: it is switched off.
    Off,
}

impl WorkerSandbox {
    /// The sandbox in this mode, of which these protections are missing.
    pub fn new<T: ToString>(mode: SandboxMode, missing: impl IntoIterator<Item = T>) -> Self {
        let missing: Vec<String> = missing.into_iter().map(|missing| missing.to_string()).collect();
        let state = match mode {
            SandboxMode::Off => SandboxState::Off,
            _ if missing.is_empty() => SandboxState::Full,
            SandboxMode::Preferred | SandboxMode::Required => SandboxState::Partial,
        };
        Self { state, missing }
    }
}

impl std::fmt::Display for WorkerSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.state)?;
        if self.missing.is_empty() { Ok(()) } else { write!(f, ": {}", self.missing.join("; ")) }
    }
}

/// A registered worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Worker")]
pub struct PoolEntry {
    /// What it reported when it registered.
    #[serde(flatten)]
    pub record: WorkerRecord,
    /// `running` while it holds a job, otherwise `idle`.
    pub state: WorkerState,
    /// The job it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Until when it counts as alive without a further heartbeat.
    pub alive_until: Millis,
}

/// Whether a worker holds a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// The worker waits for a job.
    Idle,
    /// The worker holds a job.
    Running,
}

impl Queue {
    /// Reads Redis's time and returns a clock that extrapolates it.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn clock(&self) -> Result<ServerClock, QueueError> {
        let reply = self.run(Command::new("TIME")).await?;
        match reply.list().map(|l| l.iter().map(Reply::int).collect::<Vec<_>>()).as_deref() {
            Some([Some(seconds), Some(micros)]) => {
                Ok(ServerClock::at(Millis(seconds * 1000 + micros / 1000)))
            }
            _ => Err(QueueError::data(format!("TIME answered {reply:?}"))),
        }
    }

    fn alive_until(&self, now: Millis) -> String {
        now.plus(i64::try_from(self.policy.alive.as_millis()).unwrap_or(i64::MAX)).0.to_string()
    }

    /// Registers a worker. Returns `false` if its machine was retired; the worker must then exit.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn register(&self, record: &WorkerRecord, now: Millis) -> Result<bool, QueueError> {
        let args = vec![
            record.worker_id.to_string(),
            record.machine_id.clone(),
            to_versioned_json(record)?,
            self.alive_until(now),
        ];
        Ok(self.eval_idempotent(&scripts::REGISTER, args).await?.int() == Some(1))
    }

    /// Sends a heartbeat of a worker whose job takes long.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn report_alive(&self, worker: &WorkerId, now: Millis) -> Result<(), QueueError> {
        let command = Command::new("ZADD")
            .arg(self.key("machines:alive"))
            .args(["XX", "GT"])
            .arg(self.alive_until(now))
            .arg(worker.to_string());
        self.run(command).await.map(drop)
    }

    /// Removes a worker from the pool.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn deregister(&self, worker: &WorkerId) -> Result<(), QueueError> {
        self.pipeline(vec![
            Command::new("ZREM").arg(self.key("machines:alive")).arg(worker.to_string()),
            Command::new("HDEL").arg(self.key("machines:pool")).arg(worker.to_string()),
            // The role of its machine in the fleet has changed.
            self.fleet_event(),
        ])
        .await
        .map(drop)
    }

    /// Removes workers without a heartbeat. Their jobs return to the queue when their leases expire.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn prune_dead_workers(&self, now: Millis) -> Result<Vec<WorkerId>, QueueError> {
        let range = |from: &str, to: i64| {
            let command = Command::new("ZRANGE").arg(self.key("machines:alive"));
            command.args([from, &format!("({to}"), "BYSCORE", "LIMIT", "0", "100"])
        };
        let ranges = vec![range("-inf", now.0), range(&RETIRED.to_string(), RETIRED + now.0)];
        let replies = self.pipeline(ranges).await?;
        let dead: Vec<WorkerId> =
            replies.iter().flat_map(text_items).map(|name| WorkerId(name.to_owned())).collect();
        for worker in &dead {
            self.deregister(worker).await?;
        }
        Ok(dead)
    }

    /// Lists the registered workers, each with the job that it holds.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn workers(&self) -> Result<Vec<PoolEntry>, QueueError> {
        let answers = self
            .pipeline(vec![
                Command::new("HVALS").arg(self.key("machines:pool")),
                Command::new("ZRANGE").arg(self.key("machines:alive")).args(["0", "-1", "WITHSCORES"]),
                Command::new("ZRANGE").arg(self.key("jobs:leases")).args(["0", "999"]),
            ])
            .await?;
        let [records, alive, leases] = answers.as_slice() else {
            return Err(QueueError::data("the pool"));
        };
        let held: Vec<LeaseId> = text_items(leases).filter_map(|member| member.parse().ok()).collect();
        let record = |lease: &LeaseId| self.key(&format!("jobs:status:{}", lease.task()));
        let holders =
            held.iter().map(|lease| Command::new("HGET").arg(record(lease)).arg("worker")).collect();
        let holders = self.pipeline(holders).await?;
        let job_of = |worker: &WorkerId| {
            let at = holders.iter().position(|h| h.text() == Some(&worker.0))?;
            held.get(at).map(|lease| lease.job)
        };
        let alive = alive.list().unwrap_or_default();
        let until = |worker: &WorkerId| {
            let pair = alive.chunks_exact(2).find(|pair| pair[0].text() == Some(&worker.0))?;
            pair[1].int().map(|score| Millis(if score >= RETIRED { score - RETIRED } else { score }))
        };
        let mut workers: Vec<PoolEntry> = text_items(records)
            .filter_map(|json| serde_json::from_str::<WorkerRecord>(json).ok())
            .filter_map(|record| {
                let job_id = job_of(&record.worker_id);
                let state = if job_id.is_some() { WorkerState::Running } else { WorkerState::Idle };
                let alive_until = until(&record.worker_id)?;
                Some(PoolEntry { record, state, job_id, alive_until })
            })
            .collect();
        workers.sort_by_key(|worker| worker.record.started_at);
        Ok(workers)
    }

    /// Waits for a wake-up of a worker of the classes of this handle, at most `limit`. A wake-up is only a hint that claiming may succeed. The call blocks its
    /// connection, so use a separate one ([`Queue::reconnect`]).
    ///
    /// # Errors
    /// If Redis fails.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn wait_for_wakeup(&self, limit: Duration) -> Result<(), QueueError> {
        let bells = self.bells("jobs:bell", "jobs:bell:class:");
        self.wait_for_bell(&bells, limit).await.map(drop)
    }

    /// Waits, at most `limit`, until a viewer waits for a part that no worker has claimed. Otherwise it is the same.
    ///
    /// # Errors
    /// If Redis fails.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn wait_for_awaited_part(&self, limit: Duration) -> Result<(), QueueError> {
        let bells = self.bells("jobs:bell:awaited", "jobs:bell:awaited:");
        self.wait_for_bell(&bells, limit).await.map(drop)
    }

    /// The bells of the classes of this handle: the one of the default class, and those of others, by what stands in front of
    /// their names.
    #[cfg(not(target_arch = "wasm32"))]
    fn bells(&self, default: &str, others: &str) -> Vec<String> {
        let bell = |class: &WorkerClass| {
            if class.is_default() { default.to_owned() } else { format!("{others}{class}") }
        };
        self.classes.iter().map(bell).collect()
    }

    /// Waits until there is an entry of one of these bells, at most `limit`, and takes it.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) async fn wait_for_bell(
        &self,
        bells: &[String],
        limit: Duration,
    ) -> Result<Option<String>, QueueError> {
        // 0 would mean forever.
        let seconds = limit.as_secs_f64().max(0.01);
        let bells = bells.iter().map(|bell| self.key(bell));
        let command = Command::new("BZPOPMIN").args(bells).arg(format!("{seconds:.3}"));
        let reply = self.run_blocking(command, limit).await?;
        // The key, the entry and its score.
        Ok(reply.list().and_then(|list| list.get(1)?.text()).map(str::to_owned))
    }
}
