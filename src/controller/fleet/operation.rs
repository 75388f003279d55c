//! A step, and how it ended.

use std::time::Duration;

use super::machine::MachineId;
use super::size::MachineSize;
use super::slot::Slot;
use crate::job::WorkerId;

/// An operation with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedOperation {
    /// The operation.
    pub act: Operation,
    /// The reason, as a sentence.
    pub reason: String,
}

/// An operation on a machine.
///
/// Before a stop or a destroy, the caller retires the machine's workers in one atomic step that also checks
/// their leases. If one of them holds a lease, the operation is dropped ([`Outcome::Refused`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Start a stopped machine.
    Start {
        /// The machine's id.
        machine: MachineId,
    },
    /// Create a machine and start it.
    Create {
        /// The slot it fills.
        slot: Slot,
        /// The name of the slot.
        name: String,
        /// The region, or [`super::ANY_REGION`].
        region: String,
        /// Its size.
        size: MachineSize,
    },
    /// Make the workers of a machine exit. Needs no request to the provider. It is refused while one of them
    /// holds a lease.
    Retire {
        /// The machine's id.
        machine: MachineId,
        /// Its workers.
        workers: Vec<WorkerId>,
    },
    /// Stop a machine.
    Stop {
        /// The machine's id.
        machine: MachineId,
    },
    /// Destroy a machine.
    Destroy {
        /// The machine's id.
        machine: MachineId,
        /// Destroy it even if it is running.
        force: bool,
    },
}

impl Operation {
    /// The machine that the operation is about; `None` for a create.
    #[must_use]
    pub const fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Start { machine }
            | Self::Retire { machine, .. }
            | Self::Stop { machine }
            | Self::Destroy { machine, .. } => Some(machine),
            Self::Create { .. } => None,
        }
    }

    /// Operations that bring machines up come first. A retire costs no request and delays nothing.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Start { .. } => 0,
            Self::Create { .. } => 1,
            Self::Retire { .. } => 2,
            Self::Stop { .. } => 3,
            Self::Destroy { .. } => 4,
        }
    }

    /// The name that logs and metrics use.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Create { .. } => "create",
            Self::Retire { .. } => "retire",
            Self::Stop { .. } => "stop",
            Self::Destroy { .. } => "destroy",
        }
    }
}

/// The outcome of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider carried it out (for a retire, Redis did). For a create, with the id of the machine.
    Done(Option<MachineId>),
    /// The answer was lost or unintelligible: it may or may not have been carried out. Server errors on
    /// writes belong here.
    Unknown,
    /// A machine with this name already exists; with its id if the provider reported it.
    NameTaken(Option<MachineId>),
    /// The host or the region has no capacity.
    NoCapacity,
    /// The quota of the account is exhausted.
    Quota,
    /// The machine is in a state that does not allow the operation.
    Precondition,
    /// 429: too many requests.
    RateLimited {
        /// The delay that the provider asked for.
        retry_after: Option<Duration>,
    },
    /// 401 or 403.
    Unauthorized,
    /// The provider refuses requests until the account is paid.
    Billing,
    /// 404: the machine, or for a create the app, does not exist.
    NotFound,
    /// Any other refusal: the provider rejected the request.
    Rejected,
    /// A worker of the machine holds a lease.
    Refused,
    /// Not sent: this reconciler no longer holds the fleet lock.
    Fenced,
}

impl Outcome {
    /// The word that logs and metrics use.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Unknown => "unknown",
            Self::NameTaken(_) => "name_taken",
            Self::NoCapacity => "no_capacity",
            Self::Quota => "quota",
            Self::Precondition => "precondition",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Billing => "billing",
            Self::NotFound => "not_found",
            Self::Rejected => "rejected",
            Self::Refused => "busy",
            Self::Fenced => "fenced",
        }
    }
}
