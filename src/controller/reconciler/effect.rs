//! The effects that the [driver](super::driver) requests from its host, and their outcomes. Values only.

use std::time::Duration;

use crate::controller::fleet::{Machine, MachineId, Operation, ProviderError};
use crate::job::WorkerId;
use crate::queue::{FencingToken, FleetStatus, FleetView, LockOutcome, Permit, RequestClass, RetireOutcome};

/// An effect that the host has to perform.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Read the queue and the workers.
    Observe,
    /// Acquire the fleet lock, or renew it.
    AcquireLock {
        /// This process has just started: fence off requests of an earlier process with the same name.
        fresh: bool,
        /// Take over from a holder whose lock has expired.
        insist: bool,
    },
    /// Publish the status.
    Publish(Box<FleetStatus>),
    /// Acquire a permit for a request of this class.
    AcquirePermit(RequestClass),
    /// Retire a machine's workers, unless one holds a lease.
    Retire {
        /// The machine.
        machine: MachineId,
        /// Its observed workers.
        workers: Vec<WorkerId>,
    },
    /// Renew the lock and check that its epoch is unchanged: the last check before a request that writes.
    CheckLock,
    /// Permit workers on this machine to claim jobs again, before the machine is started.
    Readmit(MachineId),
    /// List the provider's machines.
    List,
    /// Send this operation to the provider.
    Call(Operation),
    /// Record for all processes that the provider throttles requests, and how long they have to wait.
    ReportThrottled(Option<Duration>),
    /// Reap expired leases: one may be what keeps a machine busy.
    Sweep,
    /// Wait for an event of the queue. The round has ended.
    Wait {
        /// The longest wait; unlimited if absent.
        at_most: Option<Duration>,
        /// This reconciler has nothing left to do.
        settled: bool,
    },
}

/// The outcome of an [`Effect`].
#[derive(Debug)]
pub(crate) enum EffectResult {
    /// The queue and the workers.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the event loop only"))]
    Observed(FleetView),
    /// A view, the lock and a permit together. Also a valid answer to a request for a permit.
    Session {
        /// The queue and the workers.
        view: FleetView,
        /// The lock, which this reconciler holds.
        fence: FencingToken,
        /// Whether a request may be sent now.
        permit: Permit,
        /// The machine whose workers were readmitted.
        readmitted: Option<MachineId>,
    },
    /// Who holds the lock.
    Lock(LockOutcome),
    /// Whether the status was published: the lock was still held.
    Published(bool),
    /// Whether a request may be sent now.
    Permit(Permit),
    /// Whether the workers were retired.
    Retired(RetireOutcome),
    /// The provider's machines.
    Listed(Result<Vec<Machine>, ProviderError>),
    /// The outcome of an operation; after a create, with the machine.
    Called(Result<Option<Machine>, ProviderError>),
    /// The effect was performed and has no result.
    Done,
    /// Redis was unavailable; the effect may or may not have been performed.
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "it serves the event loop only"))]
    QueueUnavailable,
}

/// An operation that has ended, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its kind.
    pub operation: &'static str,
    /// How it ended.
    pub outcome: &'static str,
}
