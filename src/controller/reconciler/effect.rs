//! What the [driver](super::driver) asks of its host, and what the host reports. Values only.

use std::time::Duration;

use crate::controller::fleet::{Machine, MachineId, Operation, ProviderError};
use crate::job::WorkerId;
use crate::queue::{FencingToken, FleetStatus, FleetView, LockOutcome, Permit, RequestClass, RetireOutcome};

/// What the host has to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read the queue and the workers.
    Observe,
    /// Acquire the fleet lock, or renew it.
    AcquireLock {
        /// This process has just started: fence off what an earlier one of its name was about to do.
        fresh: bool,
        /// Take over from a holder whose lock has expired.
        insist: bool,
    },
    /// Make the status known.
    Publish(FleetStatus),
    /// Acquire a permit for a request of this class.
    AcquirePermit(RequestClass),
    /// Tell a machine's workers to leave, unless one holds a lease.
    Retire {
        /// The machine.
        machine: MachineId,
        /// Its workers as they were seen.
        workers: Vec<WorkerId>,
    },
    /// Renew the lock, and see whether it is still the same: the last look before a request that writes.
    CheckLock,
    /// Let workers that come up on this machine take jobs again: it is about to be started.
    Readmit(MachineId),
    /// Ask the provider for its machines.
    List,
    /// Ask the provider to do this.
    Call(Operation),
    /// Tell all processes that the provider throttles requests, and for how long it asked them to wait.
    ReportThrottled(Option<Duration>),
    /// Reap expired leases: one may be what keeps a machine busy.
    Sweep,
    /// Wait until something happens in the queue, at most this long. A round has ended.
    Wait {
        /// Nothing: until something happens.
        at_most: Option<Duration>,
        /// Nothing is left to do that this reconciler may do.
        settled: bool,
    },
}

/// What came of an [`Effect`].
#[derive(Debug)]
pub enum EffectResult {
    /// The queue and the workers.
    Observed(FleetView),
    /// A view, the lock and a permit in one. Also taken where only a permit was asked for.
    Session {
        /// The queue and the workers.
        view: FleetView,
        /// The lock, which this reconciler holds.
        fence: FencingToken,
        /// Whether a request may be made now.
        permit: Permit,
        /// The machine whose workers were readmitted.
        readmitted: Option<MachineId>,
    },
    /// Who holds the lock.
    Lock(LockOutcome),
    /// Whether the status was published: the lock was still held.
    Published(bool),
    /// Whether a request may be made now.
    Permit(Permit),
    /// Whether the workers were told to leave.
    Retired(RetireOutcome),
    /// The provider's machines.
    Listed(Result<Vec<Machine>, ProviderError>),
    /// What the provider did; of a create, the machine.
    Called(Result<Option<Machine>, ProviderError>),
    /// It is done, and there is nothing to say.
    Done,
    /// Redis could not be used, so the effect may or may not have happened.
    QueueUnavailable,
}

/// An operation that has ended, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its kind.
    pub operation: &'static str,
    /// How it ended.
    pub outcome: &'static str,
}
