//! What was seen of the machines and of the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use super::machine::{Machine, MachineId};
use crate::job::WorkerId;

/// A point in time, as the time since the reconciler began: monotonic, so that no clock's jump matters.
pub type Moment = Duration;

/// What was seen. The list may be older than the rest: what was done since stands in the memory.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The app's machines.
    pub machines: Result<MachineList, ListUnavailable>,
    /// The queue and the pool; nothing when Redis failed.
    pub queue: Option<QueueView>,
}

/// An answered list.
#[derive(Clone, Debug, Default)]
pub struct MachineList {
    /// When it was asked for.
    pub at: Moment,
    /// The answer.
    pub machines: Vec<Machine>,
}

/// There is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListUnavailable {
    /// Why.
    pub why: ListFailure,
    /// Since when that is known.
    pub at: Moment,
}

impl ListUnavailable {
    /// Nobody asked yet.
    pub const NOT_YET: Self = Self { why: ListFailure::NotYet, at: Moment::ZERO };
}

/// Why there is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFailure {
    /// Nobody asked yet.
    NotYet,
    /// 401 or 403.
    Unauthorized,
    /// The provider refuses until the account's payment is in order.
    Billing,
    /// 404: there is no such app.
    NoSuchApp,
    /// Anything else.
    Failed,
}

/// The queue and the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueView {
    /// Jobs ready for a worker.
    pub pending: u64,
    /// Delayed jobs whose time has come, and running ones whose lease ran out: ready as soon as
    /// anybody looks, and with no worker up nobody does.
    pub due: u64,
    /// Until the next of those.
    pub next_due: Option<Duration>,
    /// Every registered worker, and every holder of a lease even if it is registered no more.
    pub workers: Vec<WorkerView>,
    /// When a worker last registered on a machine, also where that worker has left since.
    pub heard: BTreeMap<MachineId, Moment>,
}

/// A worker in the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its name.
    pub worker: WorkerId,
    /// The machine it says it runs on.
    pub machine: MachineId,
    /// Its heartbeat is fresh.
    pub fresh: bool,
    /// It holds a lease that has not run out.
    pub busy: bool,
    /// It was told to leave: its claims are refused.
    pub retired: bool,
}
