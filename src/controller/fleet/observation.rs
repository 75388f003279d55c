//! The observed state of the machines and of the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use super::capacity::OtherFleets;
use super::machine::{Machine, MachineId};
use crate::job::{WorkerClass, WorkerClasses, WorkerId};
use crate::queue::ClassView;

/// A point in time as the duration since the reconciler started. It is monotonic, so that clock changes do
/// not matter.
pub type Moment = Duration;

/// An observation. The list may be older than the rest; [`super::FleetState`] knows which operations followed
/// it.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The machines of the app, or why they are unknown.
    pub machines: Result<MachineList, ListUnavailable>,
    /// The queue and the workers; `None` if Redis failed.
    pub queue: Option<QueueView>,
}

/// A list of machines that the provider returned.
#[derive(Clone, Debug, Default)]
pub struct MachineList {
    /// When the list was requested.
    pub at: Moment,
    /// The listed machines.
    pub machines: Vec<Machine>,
}

/// The provider returned no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListUnavailable {
    /// The reason.
    pub why: ListFailure,
    /// When this became known.
    pub at: Moment,
}

impl ListUnavailable {
    /// No list has been requested yet.
    pub const NOT_YET: Self = Self { why: ListFailure::NotYet, at: Moment::ZERO };
}

/// Why there is no list of machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFailure {
    /// No list has been requested yet.
    NotYet,
    /// 401 or 403.
    Unauthorized,
    /// The provider refuses requests until the account is paid.
    Billing,
    /// 404: the app does not exist.
    NoSuchApp,
    /// Any other failure.
    Failed,
}

/// The queue and the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueView {
    /// What waits for the workers of each class, also of classes that only other fleets take. What is due becomes pending
    /// when a worker or the janitor next reads the queue, which does not happen while no worker runs.
    pub waiting: BTreeMap<WorkerClass, ClassView>,
    /// Time until the next delayed job is due or the next lease expires.
    pub next_due: Option<Duration>,
    /// All registered workers, and all holders of a lease, even if they are no longer registered.
    pub workers: Vec<WorkerView>,
    /// When a worker last registered on each machine, even if that worker has left since.
    pub heard: BTreeMap<MachineId, Moment>,
    /// The other fleets that take from the queue.
    pub others: OtherFleets,
}

/// A worker, registered or holding a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its id.
    pub worker: WorkerId,
    /// The machine it reported.
    pub machine: MachineId,
    /// The classes of the jobs that it takes, as it registered; only the default one if it named none.
    pub classes: WorkerClasses,
    /// Whether its heartbeat is fresh.
    pub fresh: bool,
    /// Whether it holds a lease that has not expired.
    pub busy: bool,
    /// Whether it was retired: its claims are refused.
    pub retired: bool,
}
